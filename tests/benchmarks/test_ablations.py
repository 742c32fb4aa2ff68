"""The machinery of the ablations, on a few made-up dialogues and random embeddings."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import ablations

COLUMNS = {
    "calibration": ["variant", "order of soft labels", "ECE of soft labels"],
    "pairs": ["variant"],
    "margins": ["variant", "margin_scale"],
}


@pytest.fixture
def args(folders, monkeypatch):
    monkeypatch.setattr(ablations, "METHODS", ["mean", "sigmoid"])
    monkeypatch.setattr(ablations, "SCALES", [1.0])
    monkeypatch.setattr(ablations, "HEAVY_PAIRS", {"pairwise_weight": 1.0, "max_epochs": 1})
    given = ["--tasks", "delidata", "--budgets", "25", "--seeds", "2"]
    return lambda part: ablations.parse_args([part, *given, *folders])


@pytest.mark.slow
@pytest.mark.parametrize("part", COLUMNS)
def test_part_writes_its_tables_and_resumes(part, args, monkeypatch):
    found = ablations.run(args(part))
    out = args(part).out
    ablations.report(part, found, out)
    assert (out / f"ablation-{part}.png").stat().st_size > 10_000
    text = (out / f"ablation-{part}.md").read_text()
    assert f"`python -m benchmarks.ablations {part}`" in text
    assert f"| {' | '.join(['n_labels', *COLUMNS[part], 'macro_f1'])} |" in text
    name = {"calibration": "sigmoid", "pairs": "across sessions", "margins": "fixed"}[part]
    accuracy = found.loc[found["variant"] == name, "accuracy"].dropna()
    assert len(accuracy) == 2  # one task, one budget, two seeds
    assert f"| {accuracy.mean():.3f} ± {accuracy.std():.3f} |" in text

    def fail(*args):
        raise AssertionError("a unit that was done is done again")

    monkeypatch.setitem(ablations.PARTS, part, fail)
    pd.testing.assert_frame_equal(ablations.run(args(part)), found)


def test_order_across_sessions_suffers_from_a_shift_of_each_session(data):
    train = data.split == "train"
    truth = np.eye(3)[data.y[train]]
    for shift, lowest, highest in ((0.0, 1.0, 1.0), (2.0, 0.5, 0.9)):
        soft = truth + shift * (pd.factorize(data.groups[train])[0] % 2)[:, None]
        soft[0] = np.nan
        found = {p["part"]: p["concordance"] for p in ablations.order_of_scores(data, soft)}
        assert found["within"] == 1
        assert lowest <= found["all pairs"] <= highest


def test_unknown_tasks_are_named(capsys):
    with pytest.raises(SystemExit):
        ablations.parse_args(["pairs", "--data-dir", "x", "--tasks", "delidata,magic"])
    assert "['magic']" in capsys.readouterr().err
