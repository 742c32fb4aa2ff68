"""The levers, on a few made-up dialogues and random embeddings."""

import numpy as np
import pytest

from benchmarks import levers
from benchmarks._common import write_section
from benchmarks._tasks import load_task


def test_a_section_replaces_the_one_of_its_title(tmp_path):
    path = tmp_path / "levers.md"
    for title, line in (("One", "1"), ("Two", "2"), ("One", "new")):
        write_section(path, title, [line])
    assert path.read_text() == "# Levers\n\n## One\n\nnew\n\n## Two\n\n2\n"


def test_blocks_of_features_are_those_they_are_named_for(data_dir):
    data = load_task("delidata", data_dir, data_dir / "c")
    blocks = levers.feature_blocks(data, np.flatnonzero(data.split == "train"))
    n = data.X.shape[1]
    assert blocks[levers.ALONE].shape[1] == n
    assert [blocks[name].shape[1] - n for name in ("speaker", "position", "length")] == [2, 1, 1]
    spoken = data.frame["speaker"].to_numpy()[data.used] == "agent"
    assert ((blocks["speaker"][:, n] > 0) == spoken).all()


@pytest.mark.slow
def test_levers_write_their_section_and_resume(folders, monkeypatch):
    changes = {levers.ALONE: (0, {"max_epochs": 1})}
    changes |= {"the same": (0, {"max_epochs": 1}), "GRU": (2, {"module": levers.Recurrent})}
    monkeypatch.setitem(levers.PARTS, "turns", changes)
    argv = ["turns", "--tasks", "delidata", "--budgets", "0,25", "--seeds", "1", *folders]
    levers.main(argv)
    args = levers.parse_args(argv)
    text = (args.out / "levers.md").read_text()
    for n_labels in (0, 25):
        assert f"| the same | {n_labels} | +0.0 | +0.0 | +0.0 | +0.0 | +0.0 |" in text

    monkeypatch.setattr(levers, "run_unit", None)  # nothing is run again
    levers.main(argv)
    found = levers.run("turns", args)
    assert np.isfinite(found[levers.METRICS].to_numpy()).all()
