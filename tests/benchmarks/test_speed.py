"""The machinery of the speed benchmark, on sizes that take no time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import _speed_loss, _speed_stages, _timing, speed


@pytest.mark.parametrize("lengths", [[300], [7] * 20])
def test_the_rivals_of_the_loss_do_the_same_work(lengths):
    losses = _speed_loss.exact_loss, _speed_loss.dense_loss, _speed_loss.pair_list_loss
    gradients = [loss(lengths)() for loss in losses]
    directions = [g / g.norm() for g in gradients]  # ours is a mean, the others are sums
    for other in directions[1:]:
        torch.testing.assert_close(other, directions[0], rtol=1e-3, atol=1e-6)


def test_the_loop_lists_the_pairs_that_the_sampler_draws():
    scores, groups = _speed_stages.sampling_data(60, 6)
    winner, loser, margin = _speed_stages.itertools_pairs(scores.tolist(), groups.tolist())
    pairs = _speed_stages.prepare_sampling("all", 60, 6, None)()
    loop, ours = np.lexsort((loser, winner)), np.lexsort((pairs.loser, pairs.winner))
    np.testing.assert_array_equal(winner[loop], pairs.winner[ours])
    np.testing.assert_array_equal(loser[loop], pairs.loser[ours])
    np.testing.assert_allclose(margin[loop], pairs.margin[ours])


def test_medians_leave_the_first_round_out():
    calls = []
    medians = _timing.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert set(medians) == {"a", "b"}


def test_exponent_of_a_power():
    sizes = np.array([10, 100, 1000])
    assert _timing.exponent(sizes, 3.0 * sizes**1.5) == pytest.approx(1.5)


def test_a_part_in_the_json_is_not_run_again(monkeypatch, tmp_path, capsys):
    runs = []

    def part(quick):
        """Count."""
        runs.append(quick)
        return [{"rows": 1000, "ratio": 2.5}, {"rows": 2000, "other": "x"}]

    monkeypatch.setattr(speed, "PARTS", {"some_part": part})
    for arguments in (["--quick"], [], ["--fresh"]):
        speed.main(["--out", str(tmp_path), *arguments])
    assert runs == [True, False]
    assert "| 1,000 | 2.5 |  |" in (tmp_path / "speed.md").read_text()
    assert json.loads((tmp_path / "speed.json").read_text())["environment"]["torch"]
    assert "| 2,000 |  | x |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        speed.main(["nothing"])


def test_the_table_of_the_benchmarks_page_is_made_from_the_results():
    root = Path(__file__).parents[2]
    parts = json.loads((root / "benchmarks" / "results" / "speed.json").read_text())["parts"]
    assert speed.headline(parts) in (root / "docs" / "benchmarks" / "index.md").read_text()
