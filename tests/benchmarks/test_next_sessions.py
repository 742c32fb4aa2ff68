"""The choice of sessions to label, on a few made-up dialogues and random embeddings."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import next_sessions
from benchmarks.next_sessions import RULES, choose, labels_needed, session_means, utterance_worth

CENTRES = np.array([[1.0, 0], [0.8, 0.6], [0, 1]])


def test_sessions_are_chosen_until_there_are_enough_labels():
    worth, size = np.array([1.0, 3, 2]), np.array([10, 10, 10])
    assert choose(worth, None, size, [], 11).tolist() == [1, 2]
    assert choose(worth, None, size, [1], 10).tolist() == [1]
    assert choose(worth, None, size, [1], 100).tolist() == [1, 2, 0]
    assert choose(worth, None, np.array([10, 0, 10]), [], 100).tolist() == [2, 0]


def test_session_unlike_the_chosen_ones_is_preferred():
    worth, size = np.array([1.0, 1.2, 1.1]), np.array([10, 10, 10])
    assert choose(worth, None, size, [0], 15).tolist() == [0, 1]
    assert choose(worth, CENTRES, size, [0], 15).tolist() == [0, 2]


@pytest.mark.parametrize("rule", [r for r in RULES if r != "unlike"])
def test_doubtful_utterance_counts_more(rule):
    network = np.array([[0.95, 0.05], [0.5, 0.5], [0.9, 0.1]])
    llm = np.array([[0.9, 0.1], [0.4, 0.6], [np.nan, np.nan]])
    worth = utterance_worth(rule, network, llm)
    assert worth.argmax() == 1
    assert np.isfinite(worth).all()


def test_sessions_are_averaged():
    means = session_means(np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([0, 0, 1]))
    assert means.tolist() == [[2, 3], [5, 6]]


def test_labels_needed_are_interpolated_on_a_logarithmic_scale():
    curve = pd.Series([0.5, 0.6, 0.7], index=[50, 100, 200])
    assert labels_needed(curve, 0.65) == pytest.approx(np.sqrt(100 * 200))
    assert labels_needed(curve, 0.4) == pytest.approx(50)
    assert labels_needed(curve, 0.71) == np.inf


def test_page_counts_the_tasks_on_which_a_rule_pays():
    random = {50: 0.4, 100: 0.5, 200: 0.6, 400: 0.7}
    curves = {"random": random} | {rule: random | {100: 0.5} for rule in RULES}
    curves["disagree"] = {100: 0.6, 200: 0.7, 400: 0.8}
    lines = [
        {"task": "t", "seed": s, "rule": r, "budget": b, "macro_f1": f, "accuracy": f}
        for s in (0, 1)
        for r, curve in curves.items()
        for b, f in curve.items()
        if r == "random" or b > 50
    ]
    text = "\n".join(next_sessions.page(lines))
    assert "| disagree | 1 of 1 | 1 of 1 | 1 of 1 |" in text
    assert "| uncertain | 0 of 1 | 0 of 1 | 0 of 1 |" in text
    assert "| disagree | 0.71 | 0.50 | 0.50 | +10.0 ± 0.0 |" in text


@pytest.mark.slow
def test_benchmark_writes_its_page_and_resumes(folders, data_dir, monkeypatch):
    monkeypatch.setattr(next_sessions, "BUDGETS", [30, 40, 50, 60])
    given = ["--tasks", "delidata", "--seeds", "2", *folders]
    next_sessions.main(given)
    lines = json.loads((data_dir / "out" / "next_sessions.json").read_text())
    for line in lines:
        assert line["n_labels"] >= line["budget"] or line["n_labels"] > 50
    assert {line["rule"] for line in lines} == {"random", *RULES}
    assert "2 seeds. Random sessions" in (data_dir / "out" / "next_sessions.md").read_text()

    def fail(*args):
        raise AssertionError("a unit that was done is done again")

    monkeypatch.setattr(next_sessions, "run_unit", fail)
    next_sessions.main(given)
