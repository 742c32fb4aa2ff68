"""Whether the cascade's bound on the error holds: sessions of four data sets, drawn 500 times.

    python -m benchmarks.coverage --data-dir DATA --jobs 2

The classifier is a logistic regression on texts of two fifths of the sessions. Of the others, 30
labelled ones are drawn, from which the cascade learns pool and bound; the error on those that were
not drawn is the truth. First a share of the utterances is given, then a largest error. Writes
`results/coverage.md` and `coverage.json`.
"""

import argparse
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch

from benchmarks._common import (
    add_data_options,
    limit_threads,
    markdown_table,
    names,
    parse_with_data,
    quiet,
    run_parallel,
    write_json,
    write_lines,
)
from benchmarks._tasks import TASKS
from skpref import LLMCascadeClassifier

N_SESSIONS = 30
SHARE = 0.3
# The largest error to promise: near the mean bound, so that about half of the draws support it.
TARGETS = {"uss": 0.51, "dbdc3": 0.55, "dailydialog": 0.36, "swda": 0.34}
# Utterances of a session and sessions beyond these are left out, so that 500 fits take minutes.
MOST_ROWS = 60
MOST_SESSIONS = 500
N_CLASSES = 8


class GivenProbabilities(ClassifierMixin, BaseEstimator):
    """A classifier whose input is its output."""

    def __init__(self, classes) -> None:
        self.classes = classes

    def fit(self, X=None, y=None) -> "GivenProbabilities":  # noqa: ARG002
        """Keep the classes."""
        self.classes_ = np.asarray(self.classes)
        return self

    def predict_proba(self, X):
        """Return the input."""
        return X


def _swda(frame: pd.DataFrame):
    """Return rows of the Switchboard dialogue acts, rare acts as one; they have no LLM scores."""
    common = frame["label"].value_counts().index[: N_CLASSES - 1]
    label = frame["label"].where(frame["label"].isin(common) | frame["label"].isna(), "other")
    return frame, label, None, sorted(label.dropna().unique())


DATA = {
    "uss": TASKS["uss-one-rater"],
    "dbdc3": TASKS["dbdc3"],
    "dailydialog": TASKS["dailydialog"],
    "swda": lambda read: _swda(read("swda")),
}


@cache
def load(name: str, data_dir: str) -> Bunch:
    """Read a data set: the classifier's probabilities, truth, sessions and LLM scores."""
    frame, label, scores, classes = DATA[name](
        lambda file: pd.read_parquet(Path(data_dir) / f"{file}.parquet")
    )
    position = frame.groupby("session_id").cumcount().to_numpy()
    sessions = np.random.RandomState(0).permutation(frame["session_id"].unique())
    inside = frame["session_id"].isin(sessions[:MOST_SESSIONS]) & (position < MOST_ROWS)
    used = np.flatnonzero(label.notna() & inside)
    truth = label.iloc[used].map({c: k for k, c in enumerate(classes)}).to_numpy(int)
    text, groups = frame["text"].to_numpy(str)[used], frame["session_id"].to_numpy(str)[used]
    part = np.array([zlib.crc32(group.encode()) % 5 for group in groups])
    train = part < 2
    model = make_pipeline(TfidfVectorizer(min_df=2), LogisticRegression(max_iter=300))
    prob = model.fit(text[train], truth[train]).predict_proba(text)
    if scores is None:  # another classifier stands for the LLM
        other = make_pipeline(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3)), MultinomialNB()
        )
        scores = other.fit(text[train], truth[train]).predict_proba(text)[:, None]
    else:
        scores = scores[used]
    parts = {"X": prob, "y": truth, "groups": groups, "llm_scores": scores}
    return Bunch(n_classes=len(classes), **{name: part[~train] for name, part in parts.items()})


def true_error(cascade, X, y, scores) -> float:
    """Return the error on rows of which the cascade asks about those that it defers."""
    answers = np.where(cascade.defer(X)[:, None, None], scores, np.nan)
    return 1 - cascade.score(X, y, llm_scores=answers)


def draw(name: str, seed: int, data_dir: str) -> dict:
    """Fit the cascade on some sessions, by sessions and as if rows were independent.

    Return the bound and the true error for a share, by both, and the share and the true error for
    a target that the sessions support.
    """
    limit_threads()
    data = load(name, data_dir)
    classes = np.arange(data.n_classes)
    frozen = FrozenEstimator(GivenProbabilities(classes).fit())
    sessions = np.unique(data.groups)
    drawn = np.random.RandomState(seed).permutation(sessions)[:N_SESSIONS]
    train = np.isin(data.groups, drawn)
    X, y, scores = (part[train] for part in (data.X, data.y, data.llm_scores))
    others = [part[~train] for part in (data.X, data.y, data.llm_scores)]
    found = {}
    for kind, groups in {"sessions": data.groups, "rows": np.arange(len(data.y))}.items():
        cascade = LLMCascadeClassifier(frozen, llm_share=SHARE, classes=classes)
        with quiet():
            cascade.fit(X, y, groups=groups[train], llm_scores=scores)
        found[kind] = [cascade.error_bound_, true_error(cascade, *others)]
    cascade = LLMCascadeClassifier(frozen, max_error=TARGETS[name], classes=classes)
    try:
        with quiet():
            cascade.fit(X, y, groups=data.groups[train], llm_scores=scores)
        found["target"] = [cascade.llm_share_, true_error(cascade, *others)]
    except ValueError as error:
        if "cannot be promised" not in str(error):
            raise
        found["target"] = None
    return found


def page(results: dict[str, list[dict]]) -> list[str]:
    """Return the lines of the page."""
    header = [
        "data",
        "draws",
        "error",
        "bound by sessions",
        "violated",
        "bound by rows",
        "violated",
    ]
    lines = []
    for name, draws in results.items():
        found = {kind: np.array([draw[kind] for draw in draws]) for kind in ("sessions", "rows")}
        cells = [name, len(draws), f"{found['sessions'][:, 1].mean():.3f}"]
        for bound_and_error in found.values():
            bound, error = bound_and_error.T
            cells += [f"{bound.mean():.3f}", f"{np.mean(error > bound):.1%}"]
        lines.append(cells)
    promised = []
    for name, draws in results.items():
        share, error = np.array([d["target"] for d in draws if d["target"]]).reshape(-1, 2).T
        violated = np.sum(error > TARGETS[name]) / len(draws)
        cells = [name, len(draws), TARGETS[name], f"{len(share) / len(draws):.0%}"]
        promised.append([*cells, f"{share.mean():.0%}", f"{error.mean():.3f}", f"{violated:.1%}"])
    introduction = (
        f"`python -m benchmarks.coverage`: the cascade asks about {SHARE:.0%} of the utterances, "
        f"and learns its bound from {N_SESSIONS} labelled sessions. Mean error on sessions that "
        "were not drawn, mean upper 95% bound, and how often the error is above it; by sessions, "
        "and as if all utterances were independent."
    )
    of_targets = (
        "With `max_error` in place of a share: how many draws support the promise, the share that "
        "is asked about and the mean error where they do, and in how many of all draws the promise "
        "is broken."
    )
    header_of_targets = ["data", "draws", "max_error", "promised", "asked", "error", "broken"]
    text = ["# Coverage of the bound", "", introduction, "", *markdown_table(header, lines)]
    return [*text, "", of_targets, "", *markdown_table(header_of_targets, promised)]


def main(argv=None) -> None:
    """Draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=names(), default=list(DATA))
    parser.add_argument("--draws", type=int, default=500)
    add_data_options(parser)
    args = parse_with_data(parser, argv, data=DATA)
    results = {}
    for name in args.data:
        units = [(name, seed, str(args.data_dir)) for seed in range(args.draws)]
        results[name] = list(run_parallel(draw, units, args.jobs, name))
        write_json(args.out / "coverage.json", results)
    write_lines(args.out / "coverage.md", page(results))


if __name__ == "__main__":
    # Other processes find the functions by the name of the module, not as parts of __main__.
    from benchmarks.coverage import main

    main()
