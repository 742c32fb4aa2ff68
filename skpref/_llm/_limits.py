"""The rate of requests: given by the user, or learned from refusals (429)."""

import asyncio
import time
from collections.abc import Callable


class Limiter:
    """Spreads the requests of a run so that they keep to the quotas of an endpoint.

    Given rates are kept by spacing requests evenly. Whatever the rates, a refusal for too many
    requests (429) pauses all requests together, twice as long each time in a row, and halves the
    number of requests at the same time, which then grows by one with each round of answers.

    Parameters
    ----------
    requests_per_minute : float or None
        The highest rate of requests.
    tokens_per_minute : float or None
        The highest rate of tokens, read and written together.
    max_concurrency : int
        Number of requests at the same time.
    """

    FIRST_PAUSE = 1.0
    LONGEST_PAUSE = 30.0

    def __init__(self, requests_per_minute, tokens_per_minute, max_concurrency):
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute
        self._most = max_concurrency
        self._width = float(max_concurrency)  # of requests at the same time
        self._running = 0
        self._next = 0.0  # when the next request may start
        self._paused_until = 0.0
        self._pause = self.FIRST_PAUSE
        self._mean_tokens = 0.0  # of a request

    async def enter(self, estimate: float, stopped: Callable[[], bool]) -> float | None:
        """Wait until a request may start.

        Parameters
        ----------
        estimate : float
            A guess of its tokens, used until there are answers.
        stopped : callable
            Returns whether to wait no longer.

        Returns
        -------
        float or None
            The tokens that were taken from the quota, for `leave`; None if stopped.
        """
        while True:
            now = time.monotonic()
            until = max(self._next, self._paused_until)
            if stopped():
                return None
            if now >= until and self._running < max(int(self._width), 1):
                break
            await asyncio.sleep(min(max(until - now, 0.01), 0.25))
        tokens = self._mean_tokens or estimate
        self._running += 1
        self._next = now + self._interval(tokens)
        return tokens

    def _interval(self, tokens: float) -> float:
        seconds = 0.0
        if self._requests_per_minute is not None:
            seconds = 60 / self._requests_per_minute
        if self._tokens_per_minute is not None:
            seconds = max(seconds, 60 * tokens / self._tokens_per_minute)
        return seconds

    def leave(self, taken: float, tokens: int) -> None:
        """Count a request as ended, however it ended.

        Parameters
        ----------
        taken : float
            What `enter` returned.
        tokens : int
            Tokens that the request took, 0 if the server does not say.
        """
        self._running -= 1
        if tokens:
            mean = self._mean_tokens
            self._mean_tokens = 0.9 * mean + 0.1 * tokens if mean else float(tokens)
            if self._tokens_per_minute is not None and tokens > taken:
                self._next += 60 * (tokens - taken) / self._tokens_per_minute

    def answered(self) -> None:
        """Allow more requests at the same time after an answer."""
        self._pause = self.FIRST_PAUSE
        self._width = min(self._width + 1 / self._width, self._most)

    def refused(self, seconds: float | None) -> None:
        """Pause all requests after a refusal for too many of them.

        Parameters
        ----------
        seconds : float or None
            The pause that the server asks for.
        """
        now = time.monotonic()
        if seconds is None:
            if now < self._paused_until:
                return  # one of several that were refused together
            seconds = self._pause
            self._pause = min(2 * self._pause, self.LONGEST_PAUSE)
        if now >= self._paused_until:
            self._width = max(self._width / 2, 1.0)
        self._paused_until = max(self._paused_until, now + seconds)
