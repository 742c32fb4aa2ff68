"""How many of the labels that `suspects` lists first are really wrong.

    python -m benchmarks.suspects

Labels are made wrong on purpose, at random, in made-up dialogues and in the packaged support chats.
Writes `results/suspects.json` and `suspects.md`.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks._common import (
    CACHE,
    add_out_option,
    limit_threads,
    markdown_table,
    quiet,
    run_parallel,
    write_json,
    write_lines,
)
from benchmarks._tasks import load_chats
from skpref import LLMScoreCalibrator, PairwisePreferenceClassifier
from skpref.datasets import make_dialogues
from skpref.inspection import suspects
from skpref.model_selection import LabelledGroupKFold

N_FIRST = 50
LABELLED_CHATS = 16  # as many sessions as `load_support_chats` has labels of
# Data set -> share of wrong labels.
DATA_SETS = {
    "made-up dialogues": 0.05,
    "made-up dialogues, 10% wrong": 0.10,
    f"support chats, {LABELLED_CHATS} labelled": 0.05,
    "support chats, all labelled": 0.05,
}
INTRODUCTION = f"""`python -m benchmarks.suspects`: 5% of the human labels, or 10%, are replaced by
another class at random, and `suspects` lists the labels that are probably wrong. *Precision at
{N_FIRST}* is the share of wrong labels among the first {N_FIRST}, and *at most* what a perfect list
would have. *Found at n* is the share of the n wrong labels that are among the first n. *Chance* is
the share of wrong labels. Means over seeds, with their standard deviation.

*network and LLM* is `suspects` with `llm_scores`, *network* without. *LLM* passes the calibrated
LLM's probabilities in place of the network's. *network, not out of fold* has been trained on the
wrong labels that it judges; a network that can learn them by heart would find none. The network is
`PairwisePreferenceClassifier(pairwise_weight=0)`, cross-validated by session; on the support chats
on embeddings by all-MiniLM-L6-v2. Of the labels of the chats that nobody made wrong, some may be
wrong as well: two readers agree on 96%."""


def make_data(name: str, seed: int, cache: str):
    """Return features, labels of the labelled sessions, session ids and LLM scores."""
    if name.startswith("made-up"):
        made = make_dialogues(
            150, n_classes=3, class_sep=8.0, sharpness=0.4, labelled_fraction=0.5, random_state=seed
        )
        return made.X, made.y, made.groups, made.llm_scores
    chats = load_chats(cache)
    y = chats.y.copy()
    if "all" not in name:
        sessions = np.random.RandomState(seed).permutation(np.unique(chats.groups))
        y[~np.isin(chats.groups, sessions[:LABELLED_CHATS])] = -1
    return chats.X, y, chats.groups, chats.llm_scores


def plant_errors(y, share: float, rng: np.random.RandomState) -> np.ndarray:
    """Return labels some of which are replaced by another class at random."""
    labelled = np.flatnonzero(y >= 0)
    rows = rng.choice(labelled, round(share * len(labelled)), replace=False)
    wrong = y.copy()
    wrong[rows] = (y[rows] + rng.randint(1, y.max() + 1, size=len(rows))) % (y.max() + 1)
    return wrong


def fit(X, y, groups, llm_scores, seed):
    """Train a classifier."""
    classes = np.arange(llm_scores.shape[2])
    clf = PairwisePreferenceClassifier(pairwise_weight=0, classes=classes, random_state=seed)
    return clf.fit(X, y, groups=groups, llm_scores=llm_scores)


def predict_out_of_fold(X, y, groups, llm_scores, seed) -> np.ndarray:
    """Predict each session by a classifier that was trained without it."""
    prob = np.empty((len(y), llm_scores.shape[2]))
    for train, test in LabelledGroupKFold(5).split(X, y, groups):
        clf = fit(X[train], y[train], groups[train], llm_scores[train], seed)
        prob[test] = clf.predict_proba(X[test])
    return prob


def run_unit(name: str, seed: int, cache: str) -> list[dict]:
    """Plant wrong labels, and look for them in several ways."""
    limit_threads()
    X, truth, groups, scores = make_data(name, seed, cache)
    y = plant_errors(truth, DATA_SETS[name], np.random.RandomState(seed))
    with quiet():
        network = predict_out_of_fold(X, y, groups, scores, seed)
        seen = fit(X, y, groups, scores, seed).predict_proba(X)
        llm = LLMScoreCalibrator().fit_transform(scores, y, groups=groups)
        lists = {
            "network and LLM": suspects(y, network, scores, groups, max_rows=len(y)),
            "network": suspects(y, network, max_rows=len(y)),
            "LLM": suspects(y, llm, max_rows=len(y)),
            "network, not out of fold": suspects(y, seen, max_rows=len(y)),
        }
    is_wrong = y != truth
    n_wrong, n_labels = int(is_wrong.sum()), int(np.sum(y >= 0))
    lines = []
    for way, found in lists.items():
        hits = is_wrong[found.table.row[found.table.kind == "label"]]
        lines.append(
            {
                "data": name,
                "seed": seed,
                "way": way,
                "labels": n_labels,
                "wrong": n_wrong,
                "precision": hits[:N_FIRST].sum() / N_FIRST,
                "at_most": min(n_wrong, N_FIRST) / N_FIRST,
                "found": hits[:n_wrong].sum() / n_wrong,
            }
        )
    return lines


def page(lines: list[dict]) -> list[str]:
    """Return the lines of the page."""

    def cell(values):
        return f"{values.mean():.2f} ± {values.std():.2f}"

    rows = []
    for (data, way), some in pd.DataFrame(lines).groupby(["data", "way"], sort=False):
        counts = [f"{some['labels'].mean():.0f}", f"{some['wrong'].mean():.0f}"]
        rates = [cell(some["precision"]), f"{some['at_most'].mean():.2f}", cell(some["found"])]
        chance = f"{some['wrong'].sum() / some['labels'].sum():.2f}"
        rows.append([data, way, len(some), *counts, *rates, chance])
    header = ["data", "way", "seeds", "labels", "wrong"]
    header += [f"precision at {N_FIRST}", "at most", "found at n", "chance"]
    return ["# Suspects", "", INTRODUCTION, "", *markdown_table(header, rows)]


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Wrong labels, planted and looked for.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder kept between runs")
    parser.add_argument("--jobs", type=int, default=2, help="number of processes")
    add_out_option(parser)
    return parser.parse_args(argv)


def main(argv=None) -> None:
    """Run and write the results."""
    args = parse_args(argv)
    load_chats(str(args.cache))  # embeds before several processes ask
    units = [(name, seed, str(args.cache)) for seed, name in product(range(args.seeds), DATA_SETS)]
    found = run_parallel(run_unit, units, args.jobs, "suspects")
    lines = [line for unit in found for line in unit]
    write_json(args.out / "suspects.json", lines)
    write_lines(args.out / "suspects.md", page(lines))


if __name__ == "__main__":
    main()
