import asyncio
import itertools
import time

import pytest

from skpref._llm._limits import Limiter


def run(limiter, n, tokens=0, estimate=1.0):
    """Start n requests that end at once; return the seconds at which they started."""

    async def main():
        start = time.monotonic()
        starts = []
        for _ in range(n):
            taken = await limiter.enter(estimate, lambda: False)
            starts.append(time.monotonic() - start)
            limiter.leave(taken, tokens)
            limiter.answered()
        return starts

    return asyncio.run(main())


def test_requests_are_spaced_by_their_rate():
    starts = run(Limiter(600, None, 8), 6)
    assert all(b - a >= 0.099 for a, b in itertools.pairwise(starts))


def test_tokens_are_spaced_by_their_rate_and_the_mean_is_learned():
    starts = run(Limiter(None, 6000, 8), 5, tokens=20, estimate=1.0)
    # 20 tokens at 100 a second, whatever was guessed first.
    assert all(b - a >= 0.19 for a, b in itertools.pairwise(starts))


def test_without_rates_nothing_waits():
    assert run(Limiter(None, None, 8), 50)[-1] < 1


def test_a_refusal_pauses_all_and_lowers_their_number_then_answers_raise_it():
    limiter = Limiter(None, None, 8)
    limiter.refused(0.3)
    assert limiter._width == 4
    limiter.refused(0.3)  # of the same moment
    assert limiter._width == 4
    assert run(limiter, 1)[0] >= 0.25
    run(limiter, 100)
    assert limiter._width == 8


def test_pauses_grow_without_advice_of_the_server(monkeypatch):
    monkeypatch.setattr(Limiter, "FIRST_PAUSE", 0.05)
    limiter = Limiter(None, None, 2)
    waits = []
    for _ in range(3):
        before = time.monotonic()
        limiter.refused(None)
        waits.append(limiter._paused_until - before)
        time.sleep(waits[-1] + 0.01)
    assert waits == pytest.approx([0.05, 0.1, 0.2], abs=0.01)


def test_waiting_ends_with_the_run():
    limiter = Limiter(None, None, 1)
    limiter.refused(100)
    start = time.monotonic()
    assert asyncio.run(limiter.enter(1, lambda: time.monotonic() - start > 0.1)) is None
    assert time.monotonic() - start < 2
