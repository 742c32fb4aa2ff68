"""The study's machinery, on a few made-up dialogues and random embeddings."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from skpref import PairwisePreferenceClassifier
from skpref.datasets import make_dialogues

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ["non_probing_deliberation", "none", "probing"]
RATERS = ["gpt4omini", "qwen32b", "gemini20flash"]
TINY = {"max_epochs": 1}


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _tasks
    import study

    def embed(texts):
        return np.stack([np.random.RandomState(int(t.split()[-1])).randn(8) for t in texts])

    monkeypatch.setattr(_tasks, "_embed", embed)
    monkeypatch.setattr(_tasks, "N_COMPONENTS", 6)
    rows = {
        name: (kind, [s | TINY for s in settings[:2]] if kind == "student" else settings[:2])
        for name, (kind, settings) in study.ROWS.items()
    }
    monkeypatch.setattr(study, "ROWS", rows)
    study.load_components.cache_clear()
    yield study
    for name in ("study", "_tasks", "_rivals", "_study_report"):
        sys.modules.pop(name)


@pytest.fixture
def arguments(study, tmp_path):
    made = make_dialogues(n_sessions=40, session_length=(4, 8), n_classes=3, random_state=0)
    names = np.array(NAMES)
    session = pd.factorize(made.groups)[0]
    votes = {
        f"llm_{rater}_type": names[made.llm_scores[:, p].argmax(axis=1)]
        for p, rater in enumerate(RATERS)
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
    frame.loc[frame["split"].eq("train") & (session % 3 == 0), "label"] = None
    frame.to_parquet(tmp_path / "delidata.parquet")

    def parse(*more):
        given = {"--tasks": "delidata", "--budgets": "0,25", "--seeds": 2, "--jobs": 1}
        given |= {"--data-dir": tmp_path, "--cache": tmp_path / "c", "--out": tmp_path / "out"}
        rows = "llm;llm, calibrated;human labels;distillation;distillation, balanced;"
        rows += "generalised cross-entropy;skpref, default;skpref"
        given |= {"--rows": rows}
        return study.parse_args([*(str(v) for pair in given.items() for v in pair), *more])

    return parse


def test_study_writes_its_tables_and_goes_on_where_it_stopped(study, arguments, monkeypatch):
    args = arguments()
    study.run(args)
    study.report(args)
    runs = pd.read_parquet(args.out / "study.parquet")
    # Nothing can be learned from no human label by the row that has these alone.
    assert len(runs) == 2 * (7 + 8)
    assert np.isfinite(runs.select_dtypes(float)).to_numpy().all()
    assert (args.out / "study.png").stat().st_size > 10_000
    text = (args.out / "study.md").read_text()
    mean = runs.query("row == 'skpref' and n_labels == 25")["accuracy"].mean()
    assert f" / {mean:.3f} / " in text
    assert "| best-tuned distillation | 25 | " in text

    def fail(*args):
        raise AssertionError("a run that was done is done again")

    monkeypatch.setattr(study, "run_row", fail)
    study.run(arguments())
    with pytest.raises(AssertionError, match="done again"):
        study.run(arguments("--seeds", "3"))


def test_labels_are_as_many_as_asked_for(study, arguments):
    args = arguments()
    data = study.load_components("delidata", str(args.data_dir), str(args.cache))
    y = study.draw_labels(data, 13, seed=0)
    assert (y >= 0).sum() == 13
    assert set(data.split[y >= 0]) == {"train"}
    assert (y[y >= 0] == data.y[y >= 0]).all()
    labelled = [np.flatnonzero(data.groups == s) for s in np.unique(data.groups[y >= 0])]
    assert sum((y[rows] >= 0).all() for rows in labelled) >= len(labelled) - 1
    more = study.draw_labels(data, 30, seed=0)
    assert (more[y >= 0] == y[y >= 0]).all()
    assert (data.y[data.split == "train"] < 0).any()


def test_offsets_raise_macro_f1_on_the_rows_they_are_fitted_on(study):
    rng = np.random.RandomState(0)
    y = rng.choice(3, 200, p=[0.8, 0.1, 0.1])
    log_p = rng.randn(200, 3) + 1.5 * np.eye(3)[y] + np.array([3.0, 0.0, 0.0])

    def value(offsets):
        return f1_score(y, (log_p + offsets).argmax(axis=1), average="macro", zero_division=0)

    assert value(study.best_offsets(log_p, y)) > value(np.zeros(3)) + 0.1


def test_bootstrap_of_the_sample_itself_is_the_metric(study, arguments):
    from _study_report import differences, resampled

    args = arguments()
    data = study.load_components("delidata", str(args.data_dir), str(args.cache))
    test = data.split == "test"
    rng = np.random.RandomState(0)
    log_p = rng.randn(test.sum(), 3) + np.eye(3)[data.y[test]]
    scores = study.score(data, "test", log_p, np.zeros((4, 3)))["argmax"]
    counts = study.count(data, log_p)
    found = resampled(counts, np.ones((1, len(counts.won))))[0]
    for value, metric in zip(found, ("macro_f1", "accuracy", "concordance"), strict=True):
        assert value == pytest.approx(scores[metric])
    worse = study.count(data, rng.randn(test.sum(), 3))
    keys = {("delidata", 25, s, r): c for s in range(3) for r, c in (("a", counts), ("b", worse))}
    lines = differences(keys, "a", {"delidata": "b"}, ["delidata"], [25], 3)
    assert list(lines["task"]) == ["delidata", "mean of tasks"]
    first = lines.iloc[0]
    assert first["accuracy_low"] < first["accuracy"] < first["accuracy_high"]
    same = differences(keys, "a", {"delidata": "a"}, ["delidata"], [25], 3)
    assert (same.select_dtypes(float) == 0).to_numpy().all()


def test_levers_differ_from_the_default_by_what_they_say(study, arguments, monkeypatch):
    monkeypatch.setattr(study, "LEVERS", {"as it is": TINY, "pairs alone": TINY})
    monkeypatch.setattr(study, "LEVER_BUDGETS", (25,))
    args = arguments()
    args.out.mkdir()
    study.run_levers(args)
    text = (args.out / "levers.md").read_text()
    assert "| pairs alone | 25 | +0.0 (+0.0, +0.0) |" in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pandas warns crowd-kit
def test_dawid_skene_gives_distributions(study):
    pytest.importorskip("crowdkit", reason="crowd-kit is part of the extra bench")
    from _rivals import dawid_skene

    rng = np.random.RandomState(0)
    y = rng.randint(3, size=300)
    votes = np.where(rng.rand(300, 4) < 0.8, y[:, None], rng.randint(3, size=(300, 4)))
    scores = np.eye(3)[votes]
    scores[:5] = np.nan
    soft = dawid_skene(scores)
    assert np.isnan(soft[:5]).all()
    np.testing.assert_allclose(soft[5:].sum(axis=1), 1)
    assert (soft[5:].argmax(axis=1) == y[5:]).mean() > 0.85


@pytest.mark.parametrize("row", ["CleanLearning", "XGBoost rank:pairwise"])
def test_rivals_of_other_libraries_give_probabilities(study, arguments, row):
    pytest.importorskip(
        "cleanlab" if row == "CleanLearning" else "xgboost", reason="part of the extra bench"
    )
    args = arguments()
    found = study.tune_unit("delidata", 1000, [row], (str(args.data_dir), str(args.cache)))
    assert all(0 < v["argmax"] <= 1 for v in found.values())


def test_unknown_rows_are_named(study, arguments, capsys):
    with pytest.raises(SystemExit):
        arguments("--rows", "skpref;magic")
    assert "['magic']" in capsys.readouterr().err


def test_settings_are_stored_with_the_predictions(study, arguments):
    args = arguments("--seeds", "1", "--rows", "distillation;distillation, balanced;skpref")
    study.run(args)
    tuned = json.loads((args.cache / "study" / "delidata" / "tuned.json").read_text())
    kept = np.load(args.cache / "study" / "delidata" / "25-0.npz")
    assert json.loads(str(kept["skpref|setting"])) == tuned["skpref"]["setting"]
    assert kept["skpref|log_p"].shape[1] == 3


def test_rows_dealt_anew_change_the_pairs_alone(study):
    from _rivals import AcrossSessionsStudent

    data = make_dialogues(n_sessions=30, session_bias=2.0, labelled_fraction=0.5, random_state=0)
    for weight, differs in ((0.0, False), (1.0, True)):
        found = []
        for kind in (PairwisePreferenceClassifier, AcrossSessionsStudent):
            clf = kind("linear", solver="lbfgs", pairwise_weight=weight, validation_fraction=0.0)
            clf.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
            found.append(clf.predict_proba(data.X))
        assert (np.abs(found[0] - found[1]).max() > 0.01) == differs
