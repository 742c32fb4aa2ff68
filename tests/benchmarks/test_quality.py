"""The benchmark's machinery, on a few made-up dialogues and random embeddings."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skpref.datasets import make_dialogues

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = ["llm", "llm, calibrated", "human labels, logistic regression", "distillation", "skpref"]


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _tasks
    import quality

    def embed(texts):
        return np.stack([np.random.RandomState(int(t.split()[-1])).randn(8) for t in texts])

    monkeypatch.setattr(_tasks, "_embed", embed)
    yield quality
    for name in ("quality", "_tasks"):
        sys.modules.pop(name)


@pytest.fixture
def folder(tmp_path):
    made = make_dialogues(n_sessions=30, session_length=(4, 8), n_classes=3, random_state=0)
    names = np.array(["non_probing_deliberation", "none", "probing"])
    session = pd.factorize(made.groups)[0]
    votes = {
        f"llm_{rater}_type": names[made.llm_scores[:, p].argmax(axis=1)]
        for p, rater in enumerate(["gpt4omini", "qwen32b", "gemini20flash"])
    }
    frame = pd.DataFrame(
        {
            "session_id": made.groups,
            "turn": np.arange(len(made.y)),
            "text": [f"utterance {i}" for i in range(len(made.y))],
            "label": names[made.y_true],
            "split": np.array(["train", "train", "dev", "test"])[session % 4],
            **votes,
        }
    )
    frame.loc[::5, "llm_qwen32b_type"] = None
    frame.to_parquet(tmp_path / "delidata.parquet")
    return tmp_path


def arguments(quality, folder, *more):
    fixed = {"--labels": "20,40", "--seeds": 2, "--tuning-seeds": 1, "--tuning-labels": 30}
    paths = {"--data-dir": folder, "--cache": folder / "cache", "--out": folder / "out"}
    options = fixed | paths | {"--rows": ";".join(ROWS)}
    return quality.parse_args(["delidata", *(str(v) for o in options.items() for v in o), *more])


def test_writes_table_json_and_picture_and_goes_on_where_it_stopped(quality, folder, monkeypatch):
    result = quality.run(arguments(quality, folder))
    out = folder / "out"
    assert (out / "delidata.png").stat().st_size > 10_000
    stored = json.loads((out / "delidata.json").read_text())
    assert len(stored["runs"]) == len(ROWS) * 2 * 2
    values = [r[m] for r in stored["runs"] for m in ("macro_f1", "accuracy", "concordance", "ece")]
    assert np.isfinite(values).all()
    text = (out / "delidata.md").read_text()
    ours = [r for r in result["runs"] if (r["row"], r["n_labels"]) == ("skpref", 40)]
    assert f"{np.mean([r['accuracy'] for r in ours]):.3f} ± " in text
    assert stored["command"] in text

    def fail(*args):
        raise AssertionError("a run that was done is done again")

    monkeypatch.setattr(quality, "fit_predict", fail)
    assert quality.run(arguments(quality, folder))["runs"] == result["runs"]


def test_labels_come_from_whole_sessions(quality, folder):
    data = quality.load_task("delidata", folder, folder / "cache")
    y = quality.draw_labels(data, 25, seed=0)
    labelled = set(data.groups[y >= 0])
    assert (y >= 0).sum() >= 25
    assert (y[np.isin(data.groups, list(labelled))] >= 0).all()
    assert set(data.split[y >= 0]) == {"train"}
    assert (y[y >= 0] == data.y[y >= 0]).all()


def test_context_does_not_cross_sessions(quality, folder):
    data = quality.load_task("delidata", folder, folder / "cache")
    first = np.r_[True, data.groups[1:] != data.groups[:-1]]
    assert (data.X[first, 8:] == 0).all()
    second = np.flatnonzero(~first)
    np.testing.assert_array_equal(data.X[second, 8:16], data.X[second - 1, :8])


def test_absent_data_is_named(quality, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"uss\.parquet is not there.*SKPREF_DATA"):
        quality.load_task("uss", tmp_path, tmp_path)
    monkeypatch.delenv("SKPREF_DATA", raising=False)
    with pytest.raises(SystemExit):
        quality.parse_args(["uss"])


def test_finetuned_students_learn_from_texts_with_context(quality, folder, tiny_model, monkeypatch):
    tiny = {"module__model_name": tiny_model, "max_epochs": 1}
    rows = {row: ("student", [tiny, {}]) for row in ("distillation", "skpref")}
    monkeypatch.setattr(quality, "FINETUNED_ROWS", rows)
    options = ["--student", "finetuned", "--trials", "1", "--rows", "distillation;skpref"]
    result = quality.run(arguments(quality, folder, *options))
    assert result["settings"]["skpref"] == tiny
    assert len(result["runs"]) == 8
    assert "--student finetuned --trials 1" in result["command"]
    assert "Tuning: none" in (folder / "out" / "delidata-finetuned.md").read_text()
    data = quality.load_task("delidata", folder, folder / "cache", "finetuned")
    first = np.r_[True, data.groups[1:] != data.groups[:-1]]
    assert {text.count("\n") for text in data.X[first]} == {0}
    assert max(text.count("\n") for text in data.X) == 2
