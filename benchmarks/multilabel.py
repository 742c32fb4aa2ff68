"""Several labels per utterance: one fit of all labels against one fit for each.

    python -m benchmarks.multilabel --data-dir DATA --jobs 2

Folds are of whole sessions. The weights task has three facets of collaboration, scored by six LLMs,
and ABC-Eval nine behaviours of chatbots, scored by one; both with 200 labelled utterances. The
negotiation strategies of CaSiNo are human labels without LLM scores. Writes
`results/multilabel.md` and `multilabel.json`. A run that was stopped resumes.
"""

import argparse
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import GroupKFold, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.utils import Bunch

from benchmarks._common import (
    add_data_options,
    limit_threads,
    markdown_table,
    names,
    parse_with_data,
    quiet,
    read_json,
    run_parallel,
    write_json,
    write_lines,
)
from benchmarks._tasks import embed_with_context, first_turns
from skpref import LLMScoreCalibrator, PairwisePreferenceClassifier

N_LABELS = 200
N_FOLDS = 5
TUNED = "logistic regression per label, C=10, balanced, tuned threshold"
METRICS = {
    "f1": "macro-F1, argmax",
    "f1_decided": "macro-F1, macro_f1",
    "auc": "macro-AUC",
    "seconds": "seconds",
}


def load_weights_task(frame: pd.DataFrame):
    """Return names, labels and scores of the facets: each LLM says yes or no."""
    labels = ["CSK", "NC", "MTF"]
    raters = [[c for c in frame if c.startswith(f"{label}_llm_")] for label in labels]
    scores = np.stack([frame[columns].to_numpy(float) for columns in raters], axis=2)
    return labels, frame[labels].to_numpy(float), scores


def load_abceval(frame: pd.DataFrame):
    """Return names, labels and scores of the chatbot's behaviours: the first human and GPT-3.5."""
    labels = [column.removesuffix("_gpt35") for column in frame if column.endswith("_gpt35")]
    votes = {rater: frame[[f"{label}_{rater}" for label in labels]] for rater in ("h1", "gpt35")}
    return labels, votes["h1"].to_numpy(float), votes["gpt35"].to_numpy(float)[:, None]


def load_casino(frame: pd.DataFrame):
    """Return names and labels of the strategies; no LLM was asked."""
    table = frame["strategies"].str.get_dummies(",").drop(columns="", errors="ignore")
    y = np.where(table.any(axis=1).to_numpy()[:, None], table.to_numpy(float), np.nan)
    return list(table.columns), y, None


TASKS = {
    "weights_task_cps": load_weights_task,
    "abceval": load_abceval,
    "casino": load_casino,
}


def load_task(task: str, data_dir: str, cache_dir: str) -> Bunch:
    """Read a task, and embed its utterances unless that was done before."""
    frame = pd.read_parquet(Path(data_dir) / f"{task}.parquet")
    X = embed_with_context(frame, Path(cache_dir))
    labels, y, scores = TASKS[task](frame)
    known = ~np.isnan(y).any(axis=1)
    return Bunch(
        X=first_turns(X, 0)[known].astype(np.float32),
        y=y[known].astype(int),
        labels=labels,
        llm_scores=None if scores is None else scores[known],
        groups=frame["session_id"].to_numpy()[known],
    )


def quality(truth, score, chosen, seconds: float) -> dict[str, float]:
    """Return the metrics, in points, over the labels that occur; logits above 0 are "argmax"."""
    present = truth.any(axis=0) & ~truth.all(axis=0)
    truth, score, chosen = (part[:, present] for part in (truth, score, chosen))
    return {
        "f1": 100 * f1_score(truth, score > 0, average="macro", zero_division=0),
        "f1_decided": 100 * f1_score(truth, chosen, average="macro", zero_division=0),
        "auc": 100 * roc_auc_score(truth, score, average="macro"),
        "seconds": seconds,
    }


def fit_together(clf, X, y, X_test, **given):
    """Return logits and predictions of one fit of all labels."""
    clf = clone(clf).fit(X, y, **given)
    return clf.decision_function(X_test), clf.predict(X_test)


def fit_apart(clf, X, y, X_test, llm_scores=None, **given):
    """Return logits and predictions of one fit for each label."""
    scores, chosen = [], []
    for k, column in enumerate(y.T):
        of_label = {} if llm_scores is None else {"llm_scores": llm_scores[:, :, k]}
        one = clone(clf).fit(X, column, **of_label, **given)
        scores.append(one.decision_function(X_test))
        chosen.append(one.predict(X_test))
    return np.column_stack(scores), np.column_stack(chosen)


def tune_apart(C: float, X, y, X_test):
    """Return logits and predictions of a logistic regression per label, with a tuned threshold."""
    model = LogisticRegression(C=C, class_weight="balanced", max_iter=1000)
    tuned = MultiOutputClassifier(TunedThresholdClassifierCV(model, scoring="f1", random_state=0))
    tuned.fit(X, y)
    scores = [one.decision_function(X_test) for one in tuned.estimators_]
    return np.column_stack(scores), tuned.predict(X_test)


def ask_alone(method: str, y, llm_scores, scores_of_test):
    """Return logits and predictions of the LLMs, calibrated on the same labels or by majority."""
    prob = LLMScoreCalibrator(method).fit(llm_scores, y).transform(scores_of_test)
    return logit(np.clip(prob, 1e-6, 1 - 1e-6)), (prob > 0.5).astype(int)


def one_vs_rest(C: float, class_weight):
    """Return scikit-learn's way: a logistic regression for each label."""
    model = LogisticRegression(C=C, class_weight=class_weight, max_iter=1000)
    return OneVsRestClassifier(model)


def contenders(data: Bunch, train, test, seed: int):
    """Return a function for each row of the table."""
    X, groups = data.X[train], data.groups[train]
    y, X_test = data.y[train], data.X[test]
    found = {}
    if data.llm_scores is None:
        for C, class_weight in product((1, 10), (None, "balanced")):
            model = one_vs_rest(C, class_weight)
            name = f"one-vs-rest logistic regression, C={C}, class_weight={class_weight}"
            found[name] = lambda model=model: fit_together(model, X, y, X_test)
        found[TUNED] = lambda: tune_apart(10, X, y, X_test)
        given = {"groups": groups}
    else:
        known = np.zeros(len(y), dtype=bool)
        known[np.random.RandomState(seed).permutation(len(y))[:N_LABELS]] = True
        y = np.where(known[:, None], y, -1)
        given = {"groups": groups, "llm_scores": data.llm_scores[train]}
        for name, method in {"mean": "mean", "calibrated": "log_pool"}.items():
            found[f"the LLMs alone, {name}"] = lambda method=method: ask_alone(
                method, y, data.llm_scores[train], data.llm_scores[test]
            )
    for module in ("linear", "mlp"):
        clf = PairwisePreferenceClassifier(module, decision="macro_f1", random_state=seed)
        for name, fit in (("one fit", fit_together), ("a fit per label", fit_apart)):
            if fit is fit_apart and module == "mlp" and len(data.labels) > 3:
                continue  # takes minutes
            found[f"{name}, {module}"] = lambda fit=fit, clf=clf: fit(clf, X, y, X_test, **given)
    return found


def run_unit(task: str, seed: int, fold: int, data_dir: str, cache_dir: str) -> dict:
    """Fit all contenders on a fold."""
    limit_threads()
    # Imports that the first fit would pay for.
    PairwisePreferenceClassifier().fit(np.eye(4), [0, 1, 0, 1])
    data = load_task(task, data_dir, cache_dir)
    folds = GroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    train, test = list(folds.split(data.X, groups=data.groups))[fold]
    found = {}
    for name, run in contenders(data, train, test, seed).items():
        start = time.process_time()
        with quiet():
            decided = run()
        found[name] = quality(data.y[test], *decided, time.process_time() - start)
    return found


def unit_path(args, task: str, seed: int, fold: int) -> Path:
    """Return the file that keeps the result of a unit."""
    return args.cache / "multilabel" / f"{task}-{seed}-{fold}.json"


def run_and_save(task: str, seed: int, fold: int, args) -> None:
    """Run a unit unless it was run before."""
    path = unit_path(args, task, seed, fold)
    if not path.is_file():
        write_json(path, run_unit(task, seed, fold, str(args.data_dir), str(args.cache)))


def units(args) -> list[tuple[str, int, int]]:
    """Return task, seed and fold of each unit."""
    return list(product(args.tasks, range(args.seeds), range(N_FOLDS)))


# --- the report ---------------------------------------------------------------------------------


def over_seeds(results: list[list[dict]], row: str, metric: str) -> np.ndarray:
    """Return the mean over the folds of each seed."""
    return np.array([np.mean([r[row][metric] for r in folds]) for folds in results])


def table_of(results: list[list[dict]]) -> list[str]:
    """Return the lines of the table of a task."""
    rows = []
    for row in results[0][0]:
        values = {metric: over_seeds(results, row, metric) for metric in METRICS}
        spread = [f" ± {v.std(ddof=1):.1f}" if len(v) > 1 else "" for v in values.values()]
        means = [f"{v.mean():.1f}" for v in values.values()]
        rows.append([row, *map("".join, zip(means, spread, strict=True))])
    return markdown_table(["", *METRICS.values()], rows)


def differences(results: list[list[dict]]) -> list[str]:
    """Return each fit of all labels minus its rivals, over all seeds and folds."""
    folds = [fold for of_seed in results for fold in of_seed]
    compared = [
        (f"one fit, {module}", rival)
        for module in ("linear", "mlp")
        for rival in (f"a fit per label, {module}", TUNED)
        if rival in folds[0]
    ]
    lines = []
    for (row, rival), metric in product(compared, ("f1", "f1_decided", "auc")):
        gain = np.array([fold[row][metric] - fold[rival][metric] for fold in folds])
        times = sum(f[rival]["seconds"] for f in folds) / sum(f[row]["seconds"] for f in folds)
        lines.append(
            f"- {row} minus {rival}, {METRICS[metric]}: {gain.mean():+.1f} ± "
            f"{gain.std(ddof=1):.1f}, ahead in {(gain > 0).sum()} of {len(gain)} folds; it takes "
            f"{1 / times:.1f} times as long."
        )
    return lines


INTRODUCTION = (
    "`python -m benchmarks.multilabel`: five folds of whole sessions, embeddings of the utterance "
    "alone by all-MiniLM-L6-v2. Macro-F1 is the mean over the labels of the F1 of the utterances "
    "to which the label applies, in points, with `decision='argmax'` (probabilities above .5) and "
    "`decision='macro_f1'`; rivals without such a choice decide by .5 in both columns. Mean over "
    "folds, then mean and standard deviation over seeds, which shuffle the folds. Seconds are of "
    "one core, prediction included."
)
ABOUT = {
    "weights_task_cps": (
        "Three facets (CSK, NC, MTF), ten sessions, yes-or-no answers of six LLMs to each "
        f"utterance, {N_LABELS} labelled utterances. One fit against three."
    ),
    "abceval": (
        "Nine behaviours of chatbots, 108 sessions, yes-or-no answers of GPT-3.5, labels of one "
        f"human as the truth, {N_LABELS} labelled utterances. One fit against nine."
    ),
    "casino": (
        "Nine negotiation strategies and non-strategic, 396 sessions, human labels alone, all "
        "train utterances labelled. One fit against logistic regression for each."
    ),
}


def read_results(args) -> dict[str, list[list[dict]]]:
    """Return the results of the folds of each seed that was run, by task."""
    found = {}
    for task in args.tasks:
        seeds = [
            [read_json(unit_path(args, task, seed, fold), None) for fold in range(N_FOLDS)]
            for seed in range(args.seeds)
        ]
        found[task] = [folds for folds in seeds if all(folds)]
    return {task: results for task, results in found.items() if results}


def page(found: dict[str, list[list[dict]]]) -> list[str]:
    """Return the lines of the page of results."""
    lines = ["# Several labels per utterance", "", INTRODUCTION]
    for task, results in found.items():
        n_seeds = f"{len(results)} seed{'s' if len(results) > 1 else ''}"
        lines += ["", f"## {task}", "", f"{ABOUT[task]} {n_seeds}.", ""]
        lines += [*table_of(results), "", "Differences within a fold, and their spread:", ""]
        lines += differences(results)
    return lines


def main(argv=None) -> None:
    """Run the units that were not run before, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=names(), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    add_data_options(parser)
    args = parse_with_data(parser, argv, tasks=TASKS)
    todo = [(*unit, args) for unit in units(args)]
    for _ in run_parallel(run_and_save, todo, args.jobs, "multilabel", ordered=False):
        pass
    found = read_results(args)
    write_json(args.out / "multilabel.json", found)
    write_lines(args.out / "multilabel.md", page(found))


if __name__ == "__main__":
    main()
