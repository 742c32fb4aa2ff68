"""The bound on the error rate of rows that come in sessions."""

import numpy as np
import pytest

from skpref._student._error_bound import clustered_rate, sessions_needed


def draw_sessions(rng, n_sessions, *, rate=0.2, spread=0.0, size=10):
    """Return errors and sessions; with `spread`, the error rate differs by session."""
    rates = np.full(n_sessions, rate)
    if spread:
        rates = rng.beta(rate / spread, (1 - rate) / spread, n_sessions)
    session = np.repeat(np.arange(n_sessions), size)
    return rng.random(len(session)) < rates[session], session


@pytest.mark.slow
@pytest.mark.parametrize("n_sessions", [10, 40])
def test_bound_is_violated_in_at_most_five_per_cent_of_samples(n_sessions):
    rng = np.random.default_rng(0)
    uppers = [
        clustered_rate(*draw_sessions(rng, n_sessions, spread=0.3)).upper(0.95) for _ in range(600)
    ]
    assert np.mean(np.array(uppers) < 0.2) <= 0.05
    assert np.median(uppers) < {10: 0.4, 40: 0.3}[n_sessions]


def test_bound_for_independent_rows_is_violated_often_by_sessions_that_differ():
    rng = np.random.default_rng(0)
    uppers = []
    for _ in range(300):
        wrong, session = draw_sessions(rng, 40, spread=0.3)
        uppers.append(clustered_rate(wrong, np.arange(len(session))).upper(0.95))
    assert np.mean(np.array(uppers) < 0.2) > 0.1


def test_bound_comes_close_to_that_of_independent_rows_if_sessions_are_alike():
    wrong, session = draw_sessions(np.random.default_rng(0), 400)
    alike = clustered_rate(wrong, session).upper(0.95)
    assert alike == pytest.approx(
        clustered_rate(wrong, np.arange(len(wrong))).upper(0.95), abs=0.01
    )


def test_no_error_still_leaves_a_bound_above_zero():
    assert 0.05 < clustered_rate(np.zeros(50, dtype=bool), np.arange(50) // 10).upper(0.95) < 0.5


def test_sessions_needed_are_enough_and_no_more_than_enough():
    wrong, session = draw_sessions(np.random.default_rng(0), 20, spread=0.1)
    rate = clustered_rate(wrong, session)
    target = (rate.rate + rate.upper(0.95)) / 2
    needed = sessions_needed(rate, target, 0.95)
    assert rate.upper(0.95) > target >= rate.times((needed + 1) / rate.n_sessions).upper(0.95)
    assert rate.times((needed - 1) / rate.n_sessions).upper(0.95) > target


def test_no_number_of_sessions_reaches_less_than_the_rate_itself():
    rate = clustered_rate(*draw_sessions(np.random.default_rng(0), 20))
    assert sessions_needed(rate, 0.9 * rate.rate, 0.95) is None
    assert sessions_needed(rate, 1.1 * rate.upper(0.95), 0.95) == 20
