"""Forecasts of what more labels gain, against what they really gained, on the tasks of the study.

    python -m benchmarks.forecast --data-dir DATA --jobs 2

`learning_forecast` sees 200 labels of a task and forecasts 500. The same classifier is then trained
on the 200 and on the 500 labels, the 200 among them, and scored on the test sessions. A run that
was stopped resumes from the lines in `results/forecast.json`. Writes that file and `forecast.md`.
"""

import argparse
import time
from itertools import product

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from benchmarks._common import (
    add_data_options,
    limit_threads,
    markdown_table,
    names,
    parse_with_data,
    quiet,
    read_json,
    run_and_keep,
    write_lines,
)
from benchmarks._runs import draw_labels
from benchmarks._tasks import CHATS, TASKS, load_any
from skpref import PairwisePreferenceClassifier
from skpref.inspection import learning_forecast
from skpref.inspection._report import join_names

NOW, LATER = 200, 500
MAX_SESSIONS = 100
METRICS = {"macro_f1": "macro-F1", "accuracy": "accuracy"}
CLASSIFIERS = ["human labels", "skpref"]
SEEN = ["dailydialog", "delidata", "meld-sentiment", "persuasion4good"]
INTRODUCTION = f"""`python -m benchmarks.forecast`: `learning_forecast` from {NOW} human labels of
each task, for {LATER}. The truth is the score on the test sessions of the same classifier, trained
on {LATER} labels, {NOW} of them the same. *human labels* is a logistic regression on the labels;
*skpref* is the linear classifier by L-BFGS, without pairs and smoother, with the LLM scores of
{MAX_SESSIONS} train sessions or as many as the labels are of; these settings are fast to fit, and
each forecast takes 15 fits.

All numbers are in points. The *gain* is that over what the same classifier gave with {NOW} labels
on the test sessions; the *value* is the score itself. Errors are forecast minus truth, with their
standard deviation over the runs. *Error if 0* is the mean size of the gain, by which a forecast of
no gain is off. *Inside* is the share of the truths that the 95% intervals hold. Of the support
chats, 60% of the sessions are for training."""


def make_classifier(kind: str, data, seed: int):
    """Return a classifier, unfitted."""
    if kind == "human labels":
        return LogisticRegression(C=10, max_iter=1000)
    return PairwisePreferenceClassifier(
        pairwise_weight=0,
        smoother="passthrough",
        classes=np.arange(len(data.classes)),
        random_state=seed,
    )


def choose_rows(data, labelled, seed: int) -> np.ndarray:
    """Return which rows to train on: train sessions drawn at random, all labelled ones included."""
    train = data.split == "train"
    sessions = np.random.RandomState(seed).permutation(np.unique(data.groups[train]))
    has_label = np.isin(sessions, data.groups[labelled])
    first = np.argsort(~has_label, kind="stable")[: max(MAX_SESSIONS, has_label.sum())]
    return train & np.isin(data.groups, sessions[first])


def score(classifier, data, y, rows) -> dict:
    """Train on some rows, and score on the test sessions."""
    test = (data.split == "test") & (data.y >= 0)
    if isinstance(classifier, LogisticRegression):
        rows = rows & (y >= 0)
        classifier.fit(data.X[rows], y[rows])
    else:
        given = {"groups": data.groups[rows], "llm_scores": data.llm_scores[rows]}
        classifier.fit(data.X[rows], y[rows], **given)
    truth, found = data.y[test], classifier.predict(data.X[test])
    return {
        "macro_f1": f1_score(truth, found, average="macro", zero_division=0),
        "accuracy": accuracy_score(truth, found),
    }


def run_unit(task: str, kind: str, seed: int, paths) -> list[dict]:
    """Forecast, and measure the truth; return a line per metric, or one with the error."""
    limit_threads()
    data = load_any(task, *paths)
    few, many = (draw_labels(data, n, seed) for n in (NOW, LATER))
    train = choose_rows(data, many >= 0, seed)
    key = {"task": task, "classifier": kind, "seed": seed}
    scores = None if kind == "human labels" else data.llm_scores[train]
    start = time.perf_counter()
    with quiet():
        try:
            forecast = learning_forecast(
                make_classifier(kind, data, seed),
                data.X[train],
                few[train],
                data.groups[train],
                scores,
                factors=[np.sum(many >= 0) / np.sum(few >= 0)],
                random_state=seed,
            ).table
        except ValueError as error:
            return [key | {"error": str(error)}]
        seconds = time.perf_counter() - start
        now, later = (score(make_classifier(kind, data, seed), data, y, train) for y in (few, many))
    sizes = {
        "n_labels": int(np.sum(few >= 0)),
        "n_sessions": len(np.unique(data.groups[few >= 0])),
        "seconds": seconds,
    }
    return [
        key
        | sizes
        | {"metric": metric, "now": now[metric], "later": later[metric]}
        | {
            name: float(forecast[f"{metric}{suffix}"][-1])
            for name, suffix in (
                ("value", ""),
                ("low", "_low"),
                ("high", "_high"),
                ("gain", "_gain"),
                ("gain_low", "_gain_low"),
                ("gain_high", "_gain_high"),
            )
        }
        | {"forecast_now": float(forecast[metric][-2])}
        for metric in METRICS
    ]


def run(args) -> list[dict]:
    """Run the units that are not in the file yet, seed by seed, and return all lines."""
    path = args.out / "forecast.json"
    lines = read_json(path, [])
    known = {(line["task"], line["classifier"], line["seed"]) for line in lines}
    units = [
        (task, kind, seed, (str(args.data_dir), str(args.cache)))
        for seed, kind, task in product(range(args.seeds), args.classifiers, args.tasks)
        if (task, kind, seed) not in known
    ]
    for task in dict.fromkeys(unit[0] for unit in units):  # embed before several processes ask
        load_any(task, str(args.data_dir), str(args.cache))
    return run_and_keep(run_unit, units, lines, path, args.jobs, "forecasts")


def summarise(runs: pd.DataFrame) -> list[str]:
    """Return the cells of some runs of one metric."""
    true_gain = 100 * (runs["later"] - runs["now"])
    gain_error = 100 * runs["gain"] - true_gain
    value_error = 100 * (runs["value"] - runs["later"])
    inside = runs["later"].between(runs["low"], runs["high"]).mean()
    gain_inside = (true_gain / 100).between(runs["gain_low"], runs["gain_high"]).mean()
    return [
        f"{len(runs)}",
        f"{true_gain.mean():+.1f}",
        f"{100 * runs['gain'].mean():+.1f}",
        f"{gain_error.mean():+.1f} ({gain_error.std(ddof=0):.1f})",
        f"{gain_error.abs().mean():.1f}",
        f"{true_gain.abs().mean():.1f}",
        f"{100 * gain_inside:.0f}%",
        f"{value_error.mean():+.1f} ({value_error.std(ddof=0):.1f})",
        f"{value_error.abs().mean():.1f}",
        f"{100 * inside:.0f}%",
    ]


def seen_gains(runs: pd.DataFrame) -> pd.DataFrame:
    """Return, for each metric, the gains that set the prior of the forecast, in points.

    Their mean, and their standard deviation over tasks and classifiers, and over seeds of each.
    """
    runs = runs[runs["task"].isin(SEEN)]
    runs = runs.assign(gain=100 * (runs["later"] - runs["now"]))
    of_task = runs.groupby(["metric", "task", "classifier"])["gain"].agg(["mean", "var"])
    of_metric = of_task.groupby("metric")
    return pd.DataFrame(
        {
            "mean": of_metric["mean"].mean(),
            "over tasks": of_metric["mean"].std(),
            "over seeds": np.sqrt(of_metric["var"].mean()),
        }
    )


def describe_prior(runs: pd.DataFrame) -> list[str]:
    """Return lines that say what set the prior of the forecast."""
    gains = [
        f"of {METRICS[metric]} {gain['mean']:.1f} on the mean, with a standard deviation of "
        f"{gain['over tasks']:.1f} over tasks and classifiers, {gain['over seeds']:.1f} over seeds"
        for metric, gain in seen_gains(runs).iterrows()
    ]
    return [
        "",
        "The prior of the forecast, three numbers for each metric, was set by the true gains on "
        f"{join_names(SEEN)}: {'; '.join(gains)}. The last row of each table has the runs of the "
        "other tasks.",
    ]


HEADER = [
    "runs",
    "true gain",
    "forecast gain",
    "error of the gain",
    "its mean size",
    "error if 0",
    "inside",
    "error of the value",
    "its mean size",
    "inside",
]


def group(runs: pd.DataFrame, columns: list[str]):
    """Return the groups of runs, in order of first appearance; none of no runs."""
    return runs.groupby(columns, sort=False) if len(runs) else []


def page(lines: list[dict]) -> list[str]:
    """Return the lines of the page."""
    failed = pd.DataFrame([line for line in lines if "error" in line])
    runs = pd.DataFrame([line for line in lines if "error" not in line])
    text = ["# Forecasts", "", INTRODUCTION, *(describe_prior(runs) if len(runs) else [])]
    for (kind, metric), some in group(runs, ["classifier", "metric"]):
        rows = [[task, *summarise(of_task)] for task, of_task in some.groupby("task")]
        others = some[~some["task"].isin(SEEN)]
        rows += [
            [name, *summarise(part)]
            for name, part in (("all", some), ("others", others))
            if len(part)
        ]
        title = f"## {kind}, {METRICS[metric]}"
        text += ["", title, "", *markdown_table(["task", *HEADER], rows)]
    if len(failed):
        rows = [
            [task, kind, len(some), some["error"].iloc[0]]
            for (task, kind), some in group(failed, ["task", "classifier"])
        ]
        header = ["task", "classifier", "runs", "first error"]
        text += ["", "## Without a forecast", "", *markdown_table(header, rows)]
    return text


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Forecasts of learning curves, checked.")
    parser.add_argument("--tasks", type=names(), default=[*TASKS, CHATS])
    parser.add_argument("--classifiers", type=names(";"), default=CLASSIFIERS)
    parser.add_argument("--seeds", type=int, default=5)
    add_data_options(parser)
    return parse_with_data(parser, argv, tasks=[*TASKS, CHATS], classifiers=CLASSIFIERS)


def main(argv=None) -> None:
    """Run and write the results."""
    args = parse_args(argv)
    write_lines(args.out / "forecast.md", page(run(args)))


if __name__ == "__main__":
    main()
