"""Levers: what one change each to the features or the classifier gains, on dev sessions.

    python -m benchmarks.levers features --data-dir DATA
    python -m benchmarks.levers turns --data-dir DATA
    python -m benchmarks.levers defaults --data-dir DATA

"features" trains ridge regression on all human labels. The others train the classifier on LLM
scores and few labels; a run that was stopped resumes. Each writes its section of
`results/levers.md`; ``python -m benchmarks.study --levers`` writes the one about pairs.
"""

import argparse
from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from benchmarks._common import (
    add_data_options,
    limit_threads,
    markdown_table,
    names,
    numbers,
    parse_with_data,
    quiet,
    read_json,
    run_parallel,
    write_json,
    write_section,
)
from benchmarks._runs import draw_labels
from benchmarks._tasks import (
    CHATS,
    TASKS,
    dialogue_features,
    embed_with_context,
    first_turns,
    load_task,
)
from benchmarks._windows import Attention, Beside, GatedSum, Recurrent
from skpref import LLMScoreCalibrator, PairwisePreferenceClassifier
from skpref.datasets import load_support_chats
from skpref.metrics import within_session_concordance

METRICS = ["macro-F1", "accuracy", "concordance", "log loss", "macro-F1, argmax"]
ALONE = "the utterance alone"
TURN_TASKS = ["delidata", "meld-sentiment", "meld-emotion", "dailydialog", "dbdc3"]
# Number of turns before the utterance, and changes to the classifier.
TURNS = {
    ALONE: (0, {}),
    "three turns stacked": (2, {}),
    "three turns, gated sum": (2, {"module": GatedSum}),
    "three turns, GRU": (2, {"module": Recurrent}),
    "three turns, attention": (2, {"module": Attention}),
    'module="mlp"': (0, {"module": "mlp"}),
    'module="mlp", three turns stacked': (2, {"module": "mlp"}),
}
DEFAULTS = {
    ALONE: (0, {}),
    "class_weight=None": (0, {"class_weight": None}),
    "weight_decay=0.0003": (0, {"weight_decay": 3e-4}),
    "weight_decay=0.003": (0, {"weight_decay": 3e-3}),
    "pairwise_weight=0.1": (0, {"pairwise_weight": 0.1}),
    "pairwise_weight=1": (0, {"pairwise_weight": 1.0}),
    "a hidden layer beside it": (0, {"module": Beside, "norm": 4.0}),
    'module="mlp"': (0, {"module": "mlp"}),
    'module="mlp", dropout 0.3': (0, {"module": "mlp", "module__dropout": 0.3}),
    'module="mlp", class_weight=None': (0, {"module": "mlp", "class_weight": None}),
    'module="mlp", standardised inputs': (0, {"module": "mlp", "standardised": True}),
    'module="mlp", embeddings of norm 4': (0, {"module": "mlp", "norm": 4.0}),
    'module="mlp", three networks': (0, {"module": "mlp", "n_networks": 3}),
}
PARTS = {"turns": TURNS, "defaults": DEFAULTS}


# --- one fit ------------------------------------------------------------------------------------


def fit(X, y, groups, soft, change: dict, seed: int, classes) -> PairwisePreferenceClassifier:
    """Fit the classifier, without pairs, with a change."""
    if isinstance(change.get("module"), type) and (y >= 0).any():
        change = change | {"stage2": "head"}
    model = PairwisePreferenceClassifier(
        calibrator="passthrough",
        pairwise_weight=0.0,
        decision="macro_f1",
        classes=classes,
        random_state=seed,
    )
    return model.set_params(**change).fit(X, y, groups=groups, llm_scores=soft)


def run_unit(task, n_labels, seed, variants, paths) -> Iterator[tuple[str, dict]]:
    """Train some variants; yield the name of each and its scores on the dev sessions."""
    limit_threads()
    data = load_task(task, *paths)
    y, train = draw_labels(data, n_labels, seed), data.split == "train"
    dev, classes = (data.split == "dev") & (data.y >= 0), np.arange(len(data.classes))
    calibrator = LLMScoreCalibrator(classes=classes)
    with quiet():
        soft = calibrator.fit_transform(data.llm_scores[train], y[train], data.groups[train])
        for name, (n_turns, change) in variants.items():
            X = first_turns(data.X, n_turns)
            X = X * np.float32((change := dict(change)).pop("norm", 1.0))
            if change.pop("standardised", False):
                X = StandardScaler().fit(X[train]).transform(X).astype(np.float32)
            seeds = [seed + 100 * k for k in range(change.pop("n_networks", 1))]
            given = X[train], y[train], data.groups[train], soft[:, None], change
            models = [fit(*given, s, classes) for s in seeds]
            prob = np.mean([model.predict_proba(X[dev]) for model in models], axis=0)
            shift = np.mean([model.decision_offsets_ for model in models], axis=0)
            yield name, score(data.y[dev], prob, shift, data.groups[dev], classes)


def score(truth, prob, shift, groups, classes) -> dict:
    """Score macro-F1 by the decision for it and by argmax, the others by the probabilities."""
    chosen = (np.log(np.maximum(prob, 1e-12)) + shift).argmax(axis=1)
    macro = {"labels": np.unique(truth), "average": "macro", "zero_division": 0}
    return {
        "macro-F1": f1_score(truth, chosen, **macro),
        "accuracy": accuracy_score(truth, prob.argmax(axis=1)),
        "concordance": within_session_concordance(truth, prob, groups=groups, labels=classes),
        "log loss": log_loss(truth, prob, labels=classes),
        "macro-F1, argmax": f1_score(truth, prob.argmax(axis=1), **macro),
    }


def run_and_save(part, task, n_labels, seed, args) -> dict:
    """Run the variants that a unit still lacks."""
    path = args.cache / "levers" / f"{task}-{n_labels}-{seed}.json"
    kept, wanted = read_json(path, {}), PARTS[part]
    if missing := {name: change for name, change in wanted.items() if name not in kept}:
        unit = run_unit(task, n_labels, seed, missing, (args.data_dir, args.cache))
        for name, scores in unit:
            kept[name] = scores
            write_json(path, kept)
    return {name: kept[name] for name in wanted}


def run(part, args) -> pd.DataFrame:
    """Run the units that are missing in the cache; return a line per variant and unit."""
    units = list(product(range(1000, 1000 + args.seeds), args.tasks, args.budgets))
    arguments = [(part, task, n_labels, seed, args) for seed, task, n_labels in units]
    found = run_parallel(run_and_save, arguments, args.jobs, part)
    return pd.DataFrame(
        {"seed": seed, "task": task, "labels": n_labels, "lever": name} | scores
        for (seed, task, n_labels), unit in zip(units, found, strict=True)
        for name, scores in unit.items()
    )


# --- speaker, position and length, with all human labels ----------------------------------------


def feature_blocks(data: Bunch, train: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features of each variant: embeddings, and columns of `DialogueFeatures`."""
    seen = data.frame["session_id"].isin(data.groups[train]).to_numpy()
    extra, n_speakers = dialogue_features(data, train)
    chosen = {
        ALONE: [],
        "speaker": [extra[:, :n_speakers]],
        "position": [extra[:, [-2]]],
        "length": [extra[:, [-1]]],
        "all three (`DialogueFeatures`)": [extra],
        "all speakers": [all_speakers(data.frame, seen)[data.used]],
    }
    return {name: np.hstack([data.X, *blocks]) for name, blocks in chosen.items()}


def all_speakers(frame: pd.DataFrame, seen: np.ndarray) -> np.ndarray:
    """Return a column for each speaker of several sessions, whether a role or a person."""
    n_sessions = frame[seen].groupby("speaker")["session_id"].nunique()
    names = n_sessions.index[n_sessions > 1].to_numpy()
    return 0.3 * (frame["speaker"].to_numpy()[:, None] == names)


def load_embedded(task, args) -> tuple[Bunch, list]:
    """Return embeddings of the utterance alone, and the splits into train and dev rows."""
    if task == CHATS:
        chats = load_support_chats()
        X = embed_with_context(chats.frame, args.cache)
        y = np.searchsorted(chats.classes, chats.frame["label"].to_numpy(str))
        data = Bunch(X=X, y=y, groups=chats.groups, classes=chats.classes)
        data |= {"frame": chats.frame, "used": np.ones(len(y), dtype=bool)}
        folds = GroupKFold(5, shuffle=True, random_state=0).split(y, groups=chats.groups)
    else:
        data = load_task(task, args.data_dir, args.cache)
        has_label = data.y >= 0
        folds = [[np.flatnonzero((data.split == s) & has_label) for s in ("train", "dev")]]
    data.X = first_turns(data.X, 0)
    return data, list(folds)


def score_ridge(X, y, train, dev, groups, classes) -> dict:
    """Train ridge regression on the human labels, and score it on the dev rows."""
    model = RidgeClassifier(class_weight="balanced").fit(X[train], y[train])
    value = model.decision_function(X[dev])
    value = np.column_stack([-value, value]) if value.ndim == 1 else value
    prob = np.zeros((len(dev), len(classes)))
    prob[:, model.classes_] = softmax(3 * value.astype(float), axis=1)
    return score(y[dev], prob, 0.0, groups[dev], classes)


def run_features(args) -> pd.DataFrame:
    """Return a line per task, split and variant."""
    lines = []
    for task in [CHATS, *args.tasks]:
        data, splits = load_embedded(task, args)
        for seed, (train, dev) in enumerate(splits):
            for name, X in feature_blocks(data, train).items():
                given = (X, data.y, train, dev, data.groups, np.arange(len(data.classes)))
                key = {"seed": seed, "task": task, "labels": "all", "lever": name}
                lines.append(key | score_ridge(*given))
    return pd.DataFrame(lines)


# --- report -------------------------------------------------------------------------------------

TITLES = {
    "features": "Speaker, position and length beside the embedding",
    "turns": "The turns before the utterance",
    "defaults": "Defaults",
}
NOTES = {
    "features": (
        "Ridge regression on all human labels of the train sessions, decided by argmax; support "
        "chats in five folds."
    ),
    "turns": (
        "The classifier without pairs, on the soft labels and the given number of labels. Macro-F1 "
        "is that of `decision='macro_f1'` but in the last column of the means."
    ),
    "defaults": (
        "The classifier without pairs, on the soft labels and the given number of labels; macro-F1 "
        "as above. A hidden layer beside it is one of 128 units with dropout 0.3, on embeddings of "
        "norm 4, whose output is added to the linear scores."
    ),
}


def report(part, found: pd.DataFrame, out) -> None:
    """Write the section of a part: the mean over tasks, then macro-F1 by task."""
    keys = ["lever", "labels", "task"]
    metrics = METRICS[:3] if part == "features" else METRICS
    means = found.groupby(keys, sort=False)[metrics].mean()
    alone = means.xs(ALONE)
    change = 100 * pd.concat({name: means.loc[name] - alone for name in found["lever"].unique()})
    order = list(product(found["lever"].unique()[1:], found["labels"].unique()))
    by_task = change["macro-F1"].unstack()[list(found["task"].unique())]
    header = ["lever", "labels", *metrics, *by_task.columns]
    rows = [
        [*key, *(f"{v:+.1f}" for v in [*change.loc[key].mean(), *by_task.loc[key]])]
        for key in order
    ]
    base = ["as it is", "", *(f"{v:.3f}" for v in alone.mean()), *([""] * by_task.shape[1])]
    text = (
        f"`python -m benchmarks.levers {part}`: change against {ALONE} in points, mean over tasks "
        f"and {found['seed'].nunique()} splits or seeds, on dev sessions; then macro-F1 by task. "
        f"{NOTES[part]}"
    )
    write_section(
        out / "levers.md", TITLES[part], [text, "", *markdown_table(header, [base, *rows])]
    )


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=list(TITLES))
    parser.add_argument("--tasks", type=names(), help="all nine; five for turns")
    parser.add_argument("--budgets", type=numbers, default=[0, 200])
    parser.add_argument("--seeds", type=int, default=2)
    add_data_options(parser)
    part = parser.parse_known_args(argv)[0].part
    parser.set_defaults(tasks=TURN_TASKS if part == "turns" else list(TASKS))
    return parse_with_data(parser, argv, tasks=TASKS)


def main(argv=None) -> None:
    """Run a part and write its section."""
    args = parse_args(argv)
    found = run_features(args) if args.part == "features" else run(args.part, args)
    report(args.part, found, args.out)


if __name__ == "__main__":
    main()
