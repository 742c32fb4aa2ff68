"""Draws of sessions for the bound on the error, on made-up dialogues."""

import numpy as np
import pytest

from benchmarks import coverage


@pytest.fixture
def made_up(monkeypatch, data_dir):
    """The task delidata in place of the real ones, with all of its sessions drawn but ten."""
    monkeypatch.setattr(coverage, "DATA", {"delidata": coverage.TASKS["delidata"]})
    monkeypatch.setattr(coverage, "TARGETS", {"delidata": 0.99})
    monkeypatch.setattr(coverage, "N_SESSIONS", 10)
    coverage.load.cache_clear()
    yield str(data_dir)
    coverage.load.cache_clear()


def test_a_draw_bounds_the_error_of_sessions_that_it_has_not_seen(made_up):
    found = coverage.draw("delidata", 0, made_up)
    assert found == coverage.draw("delidata", 0, made_up)
    for kind in ("sessions", "rows"):
        bound, error = found[kind]
        assert 0 < error <= 1
        assert 0 < bound <= 1
    share, error = found["target"]
    assert 0 <= share <= 1
    assert error < 0.99
    assert found["sessions"][0] >= found["rows"][0] - 0.05


def test_a_target_out_of_reach_is_no_promise(made_up, monkeypatch):
    monkeypatch.setattr(coverage, "TARGETS", {"delidata": 0.01})
    assert coverage.draw("delidata", 0, made_up)["target"] is None


def test_page_counts_violations_and_broken_promises(monkeypatch):
    monkeypatch.setattr(coverage, "TARGETS", {"made up": 0.3})
    draws = [
        {"sessions": [0.5, error], "rows": [0.4, error], "target": target}
        for error, target in [(0.3, [0.2, 0.25]), (0.45, [0.4, 0.35]), (0.6, None), (0.2, None)]
    ]
    text = "\n".join(coverage.page({"made up": draws}))
    mean = np.mean([0.3, 0.45, 0.6, 0.2])
    assert f"| made up | 4 | {mean:.3f} | 0.500 | 25.0% | 0.400 | 50.0% |" in text
    assert "| made up | 4 | 0.3 | 50% | 30% | 0.300 | 25.0% |" in text
