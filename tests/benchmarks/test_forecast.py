"""The machinery of the forecasts, on a few made-up dialogues and random embeddings."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import forecast
from benchmarks._common import RESULTS, read_json
from benchmarks._runs import draw_labels
from skpref.inspection._forecast import _PRIORS


@pytest.fixture(autouse=True)
def few_labels(monkeypatch):
    monkeypatch.setattr(forecast, "NOW", 40)
    monkeypatch.setattr(forecast, "LATER", 70)
    monkeypatch.setattr(forecast, "MAX_SESSIONS", 15)


def test_classifiers_train_on_few_sessions_that_hold_all_labels(data):
    labelled = draw_labels(data, 40, seed=0) >= 0
    rows = forecast.choose_rows(data, labelled, seed=0)
    assert len(np.unique(data.groups[rows])) == 15
    assert rows[labelled].all()
    assert (data.split[rows] == "train").all()


def test_prior_is_what_the_gains_of_the_results_say():
    lines = read_json(RESULTS / "forecast.json", [])
    gains = forecast.seen_gains(pd.DataFrame([line for line in lines if "error" not in line]))
    per_gain = 1 - 2.5**-0.5  # what 500 labels in place of 200 gain if b is 1
    found = gains / 100 / np.array([per_gain, per_gain, 1])
    # The deviation of accuracy is doubled, since other tasks will differ more than four.
    found.loc["accuracy", "over tasks"] *= 2
    for metric, prior in _PRIORS.items():
        np.testing.assert_allclose(prior, found.loc[metric], atol=1e-3)


@pytest.mark.slow
def test_benchmark_writes_its_page_and_resumes(folders, data_dir, monkeypatch):
    given = ["--tasks", "delidata", "--classifiers", "human labels", "--seeds", "2", *folders]
    forecast.main(given)
    lines = json.loads((data_dir / "out" / "forecast.json").read_text())
    assert [(line["seed"], line["metric"]) for line in lines] == [
        (seed, metric) for seed in (0, 1) for metric in ("macro_f1", "accuracy")
    ]
    assert all(line["low"] < line["value"] < line["high"] for line in lines)
    text = (data_dir / "out" / "forecast.md").read_text()
    gains = [line["later"] - line["now"] for line in lines if line["metric"] == "accuracy"]
    section = text.split("## human labels, accuracy")[1]
    assert f"| delidata | 2 | {100 * np.mean(gains):+.1f} |" in section

    def fail(*args):
        raise AssertionError("a unit that was done is done again")

    monkeypatch.setattr(forecast, "run_unit", fail)
    forecast.main(given)


def test_task_without_enough_sessions_is_named(folders, data_dir, monkeypatch):
    monkeypatch.setattr(forecast, "NOW", 8)
    given = ["--tasks", "delidata", "--classifiers", "human labels", "--seeds", "1", *folders]
    forecast.main(given)
    text = (data_dir / "out" / "forecast.md").read_text()
    assert "## Without a forecast" in text
    assert "sessions, but a forecast needs at least 5" in text
