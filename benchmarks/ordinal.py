"""Ratings on an ordinal scale: which way to learn them orders the turns of a session best.

    python -m benchmarks.ordinal --data-dir DATA

Task `uss-one-rater` of the study: one rater in place of the LLM, and the mean of the others as the
truth, on a scale of three levels. Writes `results/ordinal.json` and `ordinal.md`.
"""

import argparse
from itertools import product

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, mean_absolute_error
from tqdm import tqdm

from benchmarks._common import (
    add_data_options,
    limit_threads,
    markdown_table,
    numbers,
    parse_with_data,
    write_json,
    write_lines,
)
from benchmarks._runs import draw_labels
from benchmarks._tasks import load_components
from benchmarks.forecast import choose_rows
from skpref import PairwisePreferenceClassifier
from skpref.metrics import within_session_concordance

TASK = "uss-one-rater"
INTRODUCTION = f"""`python -m benchmarks.ordinal`: satisfaction with each turn on three levels, task
`{TASK}` of the study. The rating of one rater stands for the LLM; the truth is the mean rating of
the others, on the test sessions. Every way gets the same labels and the same 100 train sessions, or
as many as the labels are of. Features are those of the study. Means over seeds, with their
standard deviation.

- *the rater alone*: its rating of the test turns.
- *labels, classes* and *labels, ridge*: logistic regression on the levels as classes, and ridge
  regression on the levels as numbers, from the human labels alone.
- *classes, votes*: one classifier of three classes, with the ratings as votes, one-hot scores.
- *classes, distances*: the same, but the raw score of a class is minus its distance to the rating.
- *classes, rating repeated*: the same, but each class has the rating itself as its raw score. Equal
  scores do not say which class is meant, so that only the labels teach.
- *thresholds*: a binary classifier for each step of the scale ("at least 2", "at least 3"), with
  the ratings as raw scores (Frank and Hall 2001).

A way orders turns by its expected level, the mean of the levels weighted by their probability.
*Concordance* is that within sessions of the turns at or above a step with those below, the mean of
the two steps; *error* is the mean absolute error of the expected level, and *macro-F1* that of the
most probable level, or of the nearest one for ridge."""
STEPS = (1, 2)


def classifier(classes, seed: int) -> PairwisePreferenceClassifier:
    """Return the linear classifier by L-BFGS, which is fast to fit, on given classes."""
    return PairwisePreferenceClassifier(classes=list(classes), random_state=seed)


def from_labels(data, y, rows, seed: int, kind: str):  # noqa: ARG001
    """Return the expected and the predicted level of each row, from human labels alone."""
    rows = rows & (y >= 0)
    if kind == "ridge":
        level = np.clip(Ridge(alpha=10.0).fit(data.X[rows], y[rows]).predict(data.X), 0, 2)
        return level, np.rint(level)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(data.X[rows], y[rows])
    return model.predict_proba(data.X) @ model.classes_, model.predict(data.X)


def by_classes(data, y, rows, seed: int, kind: str):
    """Return the levels by one classifier of three classes."""
    rated = rating(data)[rows, None, None]
    scores = {
        "votes": data.llm_scores[rows],
        "distances": -np.abs(rated - np.arange(3)),
        "rating repeated": np.repeat(rated, 3, axis=2),
    }[kind]
    model = classifier(range(3), seed)
    model.fit(data.X[rows], y[rows], groups=data.groups[rows], llm_scores=scores)
    return model.predict_proba(data.X) @ model.classes_, model.predict(data.X)


def by_thresholds(data, y, rows, seed: int, kind: str):  # noqa: ARG001
    """Return the levels by a classifier for each step of the scale."""
    reached = []
    for step in STEPS:
        binary = np.where(y < 0, -1, y >= step)[rows]
        model = classifier([0, 1], seed)
        scores = rating(data)[rows, None]
        model.fit(data.X[rows], binary, groups=data.groups[rows], llm_scores=scores)
        reached.append(model.predict_proba(data.X)[:, 1])
    first, second = reached
    second = np.minimum(first, second)
    levels = np.column_stack([1 - first, first - second, second])
    return levels @ np.arange(3), levels.argmax(axis=1)


def rating(data) -> np.ndarray:
    """Return the rater's level of each row, NaN if there is none."""
    return data.llm_scores[:, 0] @ np.arange(3.0)


def rater_alone(data, y, rows, seed: int, kind: str):  # noqa: ARG001
    """Return the rating itself, the middle of the scale if there is none."""
    level = np.nan_to_num(rating(data), nan=1.0)
    return level, level


WAYS = {
    "the rater alone": (rater_alone, ""),
    "labels, classes": (from_labels, "classes"),
    "labels, ridge": (from_labels, "ridge"),
    "classes, votes": (by_classes, "votes"),
    "classes, distances": (by_classes, "distances"),
    "classes, rating repeated": (by_classes, "rating repeated"),
    "thresholds": (by_thresholds, ""),
}


def measure(data, expected, predicted) -> dict[str, float]:
    """Return the metrics on the labelled test rows."""
    test = (data.split == "test") & (data.y >= 0)
    truth, expected = data.y[test], expected[test]
    in_order = [
        within_session_concordance(truth >= step, expected, groups=data.groups[test])
        for step in STEPS
    ]
    return {
        "concordance": float(np.mean(in_order)),
        "error": mean_absolute_error(truth, expected),
        "macro-F1": f1_score(truth, predicted[test], average="macro", zero_division=0),
    }


def run(args) -> list[dict]:
    """Return a line for each way, number of labels and seed."""
    limit_threads()
    data = load_components(TASK, str(args.data_dir), str(args.cache))
    lines = []
    for n_labels, seed in tqdm(list(product(args.budgets, range(args.seeds)))):
        y = draw_labels(data, n_labels, seed)
        rows = choose_rows(data, y >= 0, seed)
        for way, (fit, kind) in WAYS.items():
            found = measure(data, *fit(data, y, rows, seed, kind))
            lines.append({"labels": n_labels, "seed": seed, "way": way, **found})
    return lines


def page(lines: list[dict]) -> list[str]:
    """Return the lines of the page."""
    text = ["# Ordinal scales", "", INTRODUCTION]
    metrics = ["concordance", "error", "macro-F1"]
    for n_labels, some in pd.DataFrame(lines).groupby("labels"):
        rows = []
        for way, of_way in some.groupby("way", sort=False):
            cells = [f"{of_way[m].mean():.3f} ({of_way[m].std(ddof=0):.3f})" for m in metrics]
            rows.append([way, *cells])
        text += ["", f"## {n_labels} labels, {some['seed'].nunique()} seeds", ""]
        text += markdown_table(["way", *metrics], rows)
    return text


def main(argv=None) -> None:
    """Run and write the results."""
    parser = argparse.ArgumentParser(description="Ways to learn ratings, compared.")
    parser.add_argument("--budgets", type=numbers, default=[50, 200, 1000])
    parser.add_argument("--seeds", type=int, default=5)
    add_data_options(parser)
    args = parse_with_data(parser, argv)
    lines = run(args)
    write_json(args.out / "ordinal.json", lines)
    write_lines(args.out / "ordinal.md", page(lines))


if __name__ == "__main__":
    main()
