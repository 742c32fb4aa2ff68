"""Dialogue state on Schema-Guided Dialogue: which intents and slots are active at each turn.

    python -m benchmarks.dialogue_state                                 # compares
    export URL=http://127.0.0.1:18124/v1
    python -m benchmarks.dialogue_state --base-url $URL --model NAME    # asks an LLM before

Three published files of dialogues are downloaded to `--data-home` (CC BY-SA 4.0). What the LLM
said of the first dialogues is in `results/dialogue_state_scores.npz`; with `--base-url` it is asked
again. Writes `results/dialogue_state.md` and `dialogue_state.json`. A run that was stopped resumes.
"""

import argparse
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils import Bunch

from benchmarks._common import (
    CACHE,
    add_out_option,
    limit_threads,
    markdown_table,
    quiet,
    read_json,
    run_parallel,
    write_json,
    write_lines,
)
from skpref import (
    DialogueContext,
    LLMCascadeClassifier,
    LLMLabeler,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    PromptBank,
)
from skpref.datasets._sgd import load_files
from skpref.inspection._contenders import Distillation

FILES = [f"train/dialogues_{number:03}.json" for number in (1, 2, 3)]
SERVICE = "Restaurants_1"
# What an LLM may say of a line: the intent or slot, and what it means.
INTENTS = {
    "find": ("FindRestaurants", "the user is looking for a restaurant"),
    "reserve": ("ReserveRestaurant", "the user is booking a table at a restaurant"),
    "bye": (None, "the user ends the conversation"),
}
SLOTS = {
    "city": ("city", "the city or area where to eat"),
    "cuisine": ("cuisine", "the kind of food"),
    "price": ("price_range", "how cheap or expensive it should be"),
    "restaurant": ("restaurant_name", "a restaurant by name"),
    "date": ("date", "the day of the booking"),
    "time": ("time", "the time of day of the booking"),
    "people": ("party_size", "for how many people"),
    "alcohol": ("serves_alcohol", "whether alcohol is served"),
    "music": ("has_live_music", "whether there is live music"),
    "nothing": (None, "none of these: thanks, a yes or no, another question"),
}
ASKED = {
    "intents": (INTENTS, "what the user wants at that point of the conversation"),
    "slots": (SLOTS, "what it says about the restaurant or the booking"),
}
STATE = [name for kind in (INTENTS, SLOTS) for name, _ in kind.values() if name is not None]
N_SCORED = 100  # dialogues that the LLM was asked about
BUDGETS = (50, 200, 1000)  # labelled turns
METRICS = {"joint": "Joint accuracy", "f1": "Macro-F1"}


# --- data and LLM -------------------------------------------------------------------------------


def load(data_home: str | None) -> Bunch:
    """Return the dialogues about restaurants alone, in random order, with the states."""
    sgd = load_files(FILES, data_home, download_if_missing=True)
    state = pd.concat([sgd.intents, sgd.slots], axis=1)[[f"{SERVICE}:{name}" for name in STATE]]
    alone = (sgd.services[SERVICE] == 1) & (sgd.services.sum(axis=1) == 1)
    is_user = (sgd.frame["speaker"] == "user").to_numpy()
    sessions = sgd.frame["session_id"]
    kept = ~sessions.isin(sessions[is_user & ~alone])
    names = np.random.RandomState(0).permutation(sessions[kept].unique())
    rank = sessions.map({name: i for i, name in enumerate(names)})
    order = np.flatnonzero(kept)[np.argsort(rank[kept].to_numpy(), kind="stable")]
    return Bunch(
        frame=sgd.frame.iloc[order].reset_index(drop=True),
        y=state.to_numpy()[order],
        dialogue=rank.to_numpy()[order].astype(int),
    )


def make_labeler(kind: str, args) -> LLMLabeler:
    """Return a labeler that lists dialogues and asks of each line what it is about."""
    options, task = ASKED[kind]
    meanings = {name: meaning for name, (_, meaning) in options.items()}
    return LLMLabeler(
        sorted(options),
        PromptBank("session", task=task, definitions=meanings),
        model=args.model,
        base_url=args.base_url,
        api_key="none",
        unit="session",
        n_utterances_per_call=20,
        n_context_turns=2,
        speaker="speaker",
        cache=args.cache / "dialogue_state",
        max_concurrency=4,
        timeout=900,
        verbose=1,
    )


def ask(data: Bunch, args, path: Path) -> None:
    """Ask about the first dialogues, and write what the LLM said of each line."""
    frame = data.frame[data.dialogue < N_SCORED]
    said = {}
    for kind in ASKED:
        labeler = make_labeler(kind, args).fit(frame)
        said[kind] = labeler.transform(frame)[:, 0].astype(np.float16)
        print(kind, labeler.usage_, flush=True)
    np.savez_compressed(path, **said)


def of_state(said: np.ndarray, options: dict) -> np.ndarray:
    """Return the columns of the labels, in the order of the options."""
    in_order = sorted(options)
    return said[:, [in_order.index(name) for name, (label, _) in options.items() if label]]


def state_scores(data: Bunch, said) -> np.ndarray:
    """Return the score of each label at each turn, NaN in dialogues that were not asked about.

    An intent is what the line says. A slot is filled if this line or one before it fills it.
    """
    asked = data.dialogue < N_SCORED
    intents = of_state(said["intents"].astype(float), INTENTS)
    empty = pd.DataFrame(1 - of_state(said["slots"].astype(float), SLOTS))
    slots = 1 - empty.groupby(data.dialogue[asked]).cumprod().to_numpy()
    scores = np.full((len(asked), 1, len(STATE)), np.nan)
    scores[asked, 0] = np.hstack([intents, slots])
    return scores


def features(frame: pd.DataFrame) -> sparse.csr_matrix:
    """Return the words of the utterance beside those of the dialogue so far."""
    so_far = DialogueContext(n_turns=len(frame), speaker="speaker").fit_transform(frame)
    words = TfidfVectorizer(sublinear_tf=True, min_df=2)
    parts = [words.fit_transform(np.ravel(so_far)), words.fit_transform(frame["text"])]
    return sparse.hstack(parts).tocsr()


def load_turns(args) -> Bunch:
    """Return features, state, scores and dialogue of the turns of the user."""
    data = load(args.data_home)
    scores = state_scores(data, np.load(args.scores))
    user = (data.frame["speaker"] == "user").to_numpy()
    return Bunch(
        X=features(data.frame)[user],
        y=data.y[user].astype(int),
        scores=scores[user],
        dialogue=data.dialogue[user],
    )


# --- the comparison -----------------------------------------------------------------------------


def label_some(dialogue: np.ndarray, train: np.ndarray, n_labels: int, seed: int) -> np.ndarray:
    """Return which turns are labelled: whole dialogues, those that the LLM has seen first."""
    names = np.random.RandomState(seed).permutation(np.unique(dialogue[train]))
    names = np.r_[names[names < N_SCORED], names[names >= N_SCORED]]
    size = np.array([np.sum(dialogue == name) for name in names])
    return np.isin(dialogue, names[np.cumsum(size) - size < n_labels])


def classifier(seed: int, **settings) -> PairwisePreferenceClassifier:
    """Return skpref's classifier for the labels of the state."""
    return PairwisePreferenceClassifier(classes=STATE, random_state=seed, **settings)


def learn(model, data: Bunch, y: np.ndarray, train, test, llm_scores=None) -> np.ndarray:
    """Fit one of skpref's classifiers; return the state of the test turns."""
    given = {} if llm_scores is None else {"llm_scores": llm_scores[train]}
    model.fit(data.X[train], y[train], groups=data.dialogue[train], **given)
    return getattr(model, "classifier_", model).predict(data.X[test])


def ask_alone(method: str, data: Bunch, y: np.ndarray, train, test) -> np.ndarray:
    """Return the state by the LLM alone."""
    calibrator = LLMScoreCalibrator(method, classes=STATE)
    calibrator.fit(data.scores[train], y[train], groups=data.dialogue[train])
    return (calibrator.transform(data.scores[test]) > 0.5).astype(int)


def ask_some(share: float, seed: int, data: Bunch, y: np.ndarray, train, test) -> np.ndarray:
    """Return the state by the cascade, which asks the LLM about a share of the turns."""
    cascade = LLMCascadeClassifier(classifier(seed), llm_share=share)
    given = {"groups": data.dialogue[train], "llm_scores": data.scores[train]}
    cascade.fit(data.X[train], y[train], **given)
    wanted = cascade.defer(data.X[test])[:, None, None]
    return cascade.predict(data.X[test], llm_scores=np.where(wanted, data.scores[test], np.nan))


def label_alone(C: float, class_weight, data: Bunch, y: np.ndarray, train, test) -> np.ndarray:
    """Return the state by a logistic regression for each label, from human labels alone."""
    known = train & (y[:, 0] >= 0)
    model = LogisticRegression(C=C, class_weight=class_weight, max_iter=1000)
    return OneVsRestClassifier(model).fit(data.X[known], y[known]).predict(data.X[test])


def contenders(seed: int) -> dict:
    """Return a function of data, labels, train and test for each row of the table."""

    def taught(model):
        return lambda data, *rest: learn(model, data, *rest, llm_scores=data.scores)

    plain = {"pairwise_weight": 0, "stage2": "offsets", "class_weight": None}
    found = {
        "skpref": taught(classifier(seed)),
        "skpref, decision='macro_f1'": taught(classifier(seed, decision="macro_f1")),
        "skpref, class_weight=None": taught(classifier(seed, class_weight=None)),
        "plain distillation": taught(Distillation(classifier(seed, **plain))),
        "cascade, 30% asked": partial(ask_some, 0.3, seed),
        "the LLM alone": partial(ask_alone, "mean"),
        "the LLM alone, calibrated": partial(ask_alone, "auto"),
        "human labels alone, skpref": partial(learn, classifier(seed)),
    }
    for C, weight in product((1, 10), (None, "balanced")):
        name = f"human labels alone, logistic regression, C={C}, class_weight={weight}"
        found[name] = partial(label_alone, C, weight)
    return found


def quality(truth: np.ndarray, found: np.ndarray) -> dict:
    """Return the metrics in points; F1 of each label, too."""
    each = 100 * f1_score(truth, found, average=None, zero_division=0)
    joint = 100 * accuracy_score(truth, found)
    return {"joint": joint, "f1": float(each.mean()), "each": each.tolist()}


def run_unit(n_labels: int, seed: int, args) -> dict:
    """Fit all contenders, each half of the dialogues with LLM scores being the test once."""
    limit_threads()
    data = load_turns(args)
    half = np.random.RandomState(seed).permutation(N_SCORED) < N_SCORED // 2
    scored = data.dialogue < N_SCORED
    of_half = np.zeros(len(scored), dtype=bool)
    of_half[scored] = half[data.dialogue[scored]]
    found = {name: np.zeros_like(data.y[scored]) for name in contenders(seed)}
    for test in (scored & of_half, scored & ~of_half):
        known = label_some(data.dialogue, ~test, n_labels, seed)
        y = np.where(known[:, None], data.y, -1)
        for name, run in contenders(seed).items():
            with quiet():
                found[name][test[scored]] = run(data, y, ~test, test)
    return {name: quality(data.y[scored], state) for name, state in found.items()}


def unit_path(args, n_labels: int, seed: int) -> Path:
    """Return the file that keeps the result of a unit."""
    return args.cache / "dialogue_state" / f"{n_labels}-{seed}.json"


def run_and_save(n_labels: int, seed: int, args) -> None:
    """Run a unit unless it was run before."""
    path = unit_path(args, n_labels, seed)
    if not path.is_file():
        write_json(path, run_unit(n_labels, seed, args))


# --- the report ---------------------------------------------------------------------------------

INTRODUCTION = f"""`python -m benchmarks.dialogue_state`: dialogues about restaurants of
Schema-Guided Dialogue, whose state (two intents and nine slots) the simulator knows. Features are
the words of the utterance and of the dialogue so far (TF-IDF). An LLM of 1.5 billion parameters
(Qwen2.5-Coder-1.5B-Instruct, Q4_K_M) was asked about whole dialogues, once for the intent of each
line and once for the slot that it is about; a slot is filled from that line on. It has seen
{N_SCORED} dialogues, each half of which is the test once, while the other half and all dialogues
without scores train. Labels are whole dialogues, those that the LLM has seen first.

*Joint accuracy* is the share of the turns of the user with the whole state right, *macro-F1* the
mean over the labels of their F1; in points, mean and standard deviation over seeds, which choose
halves and labels."""


def cell(values: np.ndarray) -> str:
    """Write mean and standard deviation."""
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


def page(found: dict[str, list[dict]]) -> list[str]:
    """Return the lines of the page; `found` has the units of each number of labels."""
    budgets, rows = list(found), list(next(iter(found.values()))[0])
    lines = ["# Dialogue state", "", INTRODUCTION]
    for metric, title in METRICS.items():
        cells = [
            [row, *(cell(np.array([u[row][metric] for u in found[n]])) for n in budgets)]
            for row in rows
        ]
        lines += ["", f"## {title}", ""]
        lines += markdown_table(
            [f"{len(found[budgets[0]])} seeds", *(f"{n} labels" for n in budgets)], cells
        )
    shown = ["skpref", "plain distillation", "the LLM alone, calibrated"]
    shown.append(best_of_labels(found["200"]))
    each = {row: np.mean([u[row]["each"] for u in found["200"]], axis=0) for row in shown}
    lines += ["", "## F1 of each label, 200 labels", ""]
    lines += markdown_table(
        ["", *shown],
        [[name, *(f"{each[row][k]:.1f}" for row in shown)] for k, name in enumerate(STATE)],
    )
    return lines


def best_of_labels(units: list[dict]) -> str:
    """Return the best of the logistic regressions by macro-F1."""
    rows = [row for row in units[0] if row.startswith("human labels alone, logistic")]
    return max(rows, key=lambda row: np.mean([unit[row]["f1"] for unit in units]))


def parse(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url")
    parser.add_argument("--model")
    parser.add_argument("--data-home", help="folder of the files (default: that of fetch_sgd)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder kept between runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="number of processes")
    add_out_option(parser)
    args = parser.parse_args(argv)
    args.scores = args.out / "dialogue_state_scores.npz"
    return args


def main(argv=None) -> None:
    """Ask if told to, run the units that were not run before, and write the report."""
    args = parse(argv)
    units = list(product(BUDGETS, range(args.seeds)))
    if args.base_url is not None:
        ask(load(args.data_home), args, args.scores)
        for unit in units:  # results of the scores before
            unit_path(args, *unit).unlink(missing_ok=True)
    todo = [(*unit, args) for unit in units]
    for _ in run_parallel(run_and_save, todo, args.jobs, "dialogue state", ordered=False):
        pass
    found = {
        str(n): [read_json(unit_path(args, n, seed), None) for seed in range(args.seeds)]
        for n in BUDGETS
    }
    write_json(args.out / "dialogue_state.json", found)
    write_lines(args.out / "dialogue_state.md", page(found))


if __name__ == "__main__":
    main()
