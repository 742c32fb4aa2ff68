"""The machinery of the study, on a few made-up dialogues and random embeddings."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from benchmarks import _rivals, _runs, _study_report, study
from benchmarks._pair_variants import AcrossSessionsClassifier
from skpref import PairwisePreferenceClassifier
from skpref.datasets import make_dialogues

TINY = {"max_epochs": 1}
SHOWN = ["llm", "llm, calibrated", "human labels", "distillation", "distillation, balanced"]
SHOWN += ["generalised cross-entropy", "skpref, default", "skpref"]


@pytest.fixture
def arguments(folders, monkeypatch):
    rows = {
        name: (kind, [s | TINY for s in settings[:2]] if kind == "classifier" else settings[:2])
        for name, (kind, settings) in study.ROWS.items()
    }
    monkeypatch.setattr(study, "ROWS", rows)
    given = ["--tasks", "delidata", "--budgets", "0,25", "--seeds", "2", "--rows", ";".join(SHOWN)]
    return lambda *more: study.parse_args([*given, *folders, *more])


@pytest.mark.slow
def test_study_writes_its_tables_and_resumes(arguments, monkeypatch):
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


def test_labels_are_as_many_as_asked_for(data):
    y = _runs.draw_labels(data, 13, seed=0)
    assert (y >= 0).sum() == 13
    assert set(data.split[y >= 0]) == {"train"}
    assert (y[y >= 0] == data.y[y >= 0]).all()
    labelled = [np.flatnonzero(data.groups == s) for s in np.unique(data.groups[y >= 0])]
    assert sum((y[rows] >= 0).all() for rows in labelled) >= len(labelled) - 1
    more = _runs.draw_labels(data, 30, seed=0)
    assert (more[y >= 0] == y[y >= 0]).all()
    assert (data.y[data.split == "train"] < 0).any()


def test_offsets_raise_macro_f1_on_the_rows_they_are_fitted_on():
    rng = np.random.RandomState(0)
    y = rng.choice(3, 200, p=[0.8, 0.1, 0.1])
    log_p = rng.randn(200, 3) + 1.5 * np.eye(3)[y] + np.array([3.0, 0.0, 0.0])

    def value(offsets):
        return f1_score(y, (log_p + offsets).argmax(axis=1), average="macro", zero_division=0)

    assert value(_runs.best_offsets(log_p, y)) > value(np.zeros(3)) + 0.1


def test_bootstrap_of_the_sample_itself_is_the_metric(data):
    test = data.split == "test"
    rng = np.random.RandomState(0)
    log_p = rng.randn(test.sum(), 3) + np.eye(3)[data.y[test]]
    scores = _runs.score(data, "test", log_p, np.zeros((4, 3)))["argmax"]
    counts = _runs.count_by_session(data, log_p)
    found = _study_report.resampled(counts, np.ones((1, len(counts.won))))[0]
    for value, metric in zip(found, ("macro_f1", "accuracy", "concordance"), strict=True):
        assert value == pytest.approx(scores[metric])
    worse = _runs.count_by_session(data, rng.randn(test.sum(), 3))
    keys = {("delidata", 25, s, r): c for s in range(3) for r, c in (("a", counts), ("b", worse))}
    lines = _study_report.differences(keys, "a", {"delidata": "b"}, ["delidata"], [25], 3)
    assert list(lines["task"]) == ["delidata", "mean of tasks"]
    first = lines.iloc[0]
    assert first["accuracy_low"] < first["accuracy"] < first["accuracy_high"]
    same = _study_report.differences(keys, "a", {"delidata": "a"}, ["delidata"], [25], 3)
    assert (same.select_dtypes(float) == 0).to_numpy().all()


@pytest.mark.slow
def test_levers_differ_from_the_default_by_what_they_say(arguments, monkeypatch):
    levers = {"as it is": TINY, "pairs alone": TINY}
    name = "margins in log-odds"
    monkeypatch.setattr(study, "LEVERS", levers | {name: study.LEVERS[name] | TINY})
    monkeypatch.setattr(study, "LEVER_BUDGETS", (25,))
    args = arguments()
    study.run_levers(args)
    text = (args.out / "levers.md").read_text()
    assert "| pairs alone | 25 | +0.0 (+0.0, +0.0) |" in text
    assert "| margins in log-odds | 25 | " in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pandas warns crowd-kit
def test_dawid_skene_gives_distributions():
    pytest.importorskip("crowdkit", reason="crowd-kit is part of the extra bench")
    rng = np.random.RandomState(0)
    y = rng.randint(3, size=300)
    votes = np.where(rng.rand(300, 4) < 0.8, y[:, None], rng.randint(3, size=(300, 4)))
    scores = np.eye(3)[votes]
    scores[:5] = np.nan
    soft = _rivals.dawid_skene(scores)
    assert np.isnan(soft[:5]).all()
    np.testing.assert_allclose(soft[5:].sum(axis=1), 1)
    assert (soft[5:].argmax(axis=1) == y[5:]).mean() > 0.85


@pytest.mark.parametrize("row", ["CleanLearning", "XGBoost rank:pairwise"])
def test_rivals_of_other_libraries_give_probabilities(arguments, row):
    pytest.importorskip(
        "cleanlab" if row == "CleanLearning" else "xgboost", reason="part of the extra bench"
    )
    args = arguments()
    found = study.tune_unit("delidata", 1000, [row], study.folders(args))
    assert all(0 < v["argmax"] <= 1 for v in found.values())


def test_unknown_rows_are_named(arguments, capsys):
    with pytest.raises(SystemExit):
        arguments("--rows", "skpref;magic")
    assert "['magic']" in capsys.readouterr().err


@pytest.mark.slow
def test_settings_are_stored_with_the_predictions(arguments):
    args = arguments("--seeds", "1", "--rows", "distillation;distillation, balanced;skpref")
    study.run(args)
    tuned = json.loads((args.cache / "study" / "delidata" / "tuned.json").read_text())
    kept = np.load(args.cache / "study" / "delidata" / "25-0.npz")
    assert json.loads(str(kept["skpref|setting"])) == tuned["skpref"]["setting"]
    assert kept["skpref|log_p"].shape[1] == 3


@pytest.mark.slow
def test_pairs_across_sessions_change_the_pairs_alone():
    data = make_dialogues(n_sessions=30, session_bias=2.0, labelled_fraction=0.5, random_state=0)
    for weight, differs in ((0.0, False), (1.0, True)):
        found = []
        for kind in (PairwisePreferenceClassifier, AcrossSessionsClassifier):
            clf = kind("linear", solver="lbfgs", pairwise_weight=weight, validation_fraction=0.0)
            clf.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
            found.append(clf.predict_proba(data.X))
        assert (np.abs(found[0] - found[1]).max() > 0.01) == differs
