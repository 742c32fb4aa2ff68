"""Ways to learn ratings, on a few made-up dialogues and random embeddings."""

import json

import numpy as np
import pytest

from benchmarks import ordinal


@pytest.fixture
def task(data, monkeypatch):
    """The made-up task, whose first rater stands for the one of the scale."""
    monkeypatch.setattr(ordinal, "TASK", "delidata")
    return data


@pytest.mark.slow
def test_the_benchmark_measures_each_way(task, folders, data_dir):
    ordinal.main(["--budgets", "40", "--seeds", "1", *folders])
    lines = json.loads((data_dir / "out" / "ordinal.json").read_text())
    assert [line["way"] for line in lines] == list(ordinal.WAYS)
    text = (data_dir / "out" / "ordinal.md").read_text()
    assert f"| thresholds | {lines[-1]['concordance']:.3f} (0.000) |" in text


def test_a_rating_is_the_level_and_missing_ratings_are_in_the_middle(task):
    task.llm_scores[:2] = [[[0, 0, 1]], [[np.nan] * 3]]
    assert ordinal.rating(task)[0] == 2
    assert ordinal.rater_alone(task, None, None, 0, "")[0][1] == 1
