"""Reading the tasks, on a few made-up dialogues and random embeddings."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import _tasks


def test_context_does_not_cross_sessions(data_dir):
    data = _tasks.load_task("delidata", data_dir, data_dir / "c")
    first = np.r_[True, data.groups[1:] != data.groups[:-1]]
    assert (data.X[first, 8:] == 0).all()
    second = np.flatnonzero(~first)
    np.testing.assert_array_equal(data.X[second, 8:16], data.X[second - 1, :8])
    third = np.flatnonzero(~first & np.r_[False, ~first[:-1]])
    np.testing.assert_array_equal(data.X[third, 16:], data.X[third - 2, :8])


def test_rows_have_a_score_in_train_and_a_human_label_elsewhere(data_dir):
    frame = pd.read_parquet(data_dir / "delidata.parquet")
    unscored = frame.index[frame["split"] == "train"][:3]
    frame.loc[unscored, [c for c in frame if c.startswith("llm_")]] = None
    unlabelled = frame.index[frame["split"] == "test"][:2]
    frame.loc[unlabelled, "label"] = None
    frame.to_parquet(data_dir / "delidata.parquet")
    data = _tasks.load_task("delidata", data_dir, data_dir / "c")
    assert len(data.y) == len(frame) - 5
    assert not np.isnan(data.llm_scores[data.split == "train"]).all(axis=(1, 2)).any()
    assert (data.y[data.split != "train"] >= 0).all()
    names = np.array(data.classes)
    kept = frame.drop(index=[*unscored, *unlabelled])
    labelled = data.y >= 0
    np.testing.assert_array_equal(labelled, kept["label"].notna())
    np.testing.assert_array_equal(names[data.y[labelled]], kept["label"].dropna())


def test_votes_are_one_hot_and_missing_ones_nan():
    frame = pd.DataFrame({"a": ["x", None], "b": ["y", "other"]})
    scores = _tasks.votes(frame, ["x", "y"])
    np.testing.assert_array_equal(scores[0], [[1, 0], [0, 1]])
    assert np.isnan(scores[1]).all()


def test_absent_data_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"no .*uss\.parquet.*SKPREF_DATA"):
        _tasks.load_task("uss-one-rater", tmp_path, tmp_path)
