"""Tokens of a run, their price, and a limit on it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_UNBOUNDED = 4096  # tokens that an answer is taken to have if the request sets no limit


@dataclass
class Usage:
    """Counts of one run."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    retries: int = 0
    cache_hits: int = 0

    def add_tokens(self, completion) -> int:
        """Add the tokens that a response took, whether it was of use or not.

        Parameters
        ----------
        completion : object
            A response, decoded; servers may leave the counts out.

        Returns
        -------
        int
            Their number.
        """
        read, written, cached = count_tokens(completion)
        self.prompt_tokens += read
        self.completion_tokens += written
        self.cached_tokens += cached
        return read + written


def count_tokens(completion) -> tuple[int, int, int]:
    """Return the tokens that a response says it took.

    Parameters
    ----------
    completion : object
        A response, decoded.

    Returns
    -------
    read, written, cached : int
        Tokens of the prompt and of the answer, and how many of the prompt's the server had in its
        prefix cache. 0 if it does not say.
    """
    counts = _as_dict(completion).get("usage")
    counts = _as_dict(counts)
    read, written = counts.get("prompt_tokens"), counts.get("completion_tokens")
    # OpenAI and vLLM, then DeepSeek.
    cached = _as_dict(counts.get("prompt_tokens_details")).get("cached_tokens")
    cached = counts.get("prompt_cache_hit_tokens") if cached is None else cached
    read, written, cached = (n if isinstance(n, int) else 0 for n in (read, written, cached))
    return read, written, min(cached, read)


def _as_dict(value) -> dict:
    return value if isinstance(value, dict) else {}


def cost_of(prices, read: float, written: float, cached: float = 0) -> float:
    """Return the price of tokens.

    Parameters
    ----------
    prices : sequence of float
        Prices of a million tokens read and written and, if it has three, of those read from the
        prefix cache of the server.
    read, written, cached : float
        Numbers of tokens; the cached ones are among those read.

    Returns
    -------
    float
        The price.
    """
    price_read, price_written, *rest = (float(price) for price in prices)
    price_cached = rest[0] if rest else price_read
    full = (read - cached) * price_read
    return (full + cached * price_cached + written * price_written) / 1e6


def most_tokens(payload: dict[str, Any]) -> tuple[int, int]:
    """Return a number of tokens that a request does not exceed.

    Parameters
    ----------
    payload : dict
        Arguments of a chat completion.

    Returns
    -------
    read, written : int
        A token is at least a byte, so the bytes of the messages are as many as the tokens read.
        Without a limit in the request, an answer is taken to have at most 4,096.
    """
    messages = payload["messages"]
    # A chat template adds marks to each message, and may add a system message.
    texts = (message["content"].encode("utf-8", "replace") for message in messages)
    read = 32 + sum(len(text) + 8 for text in texts)
    return read, most_written(payload)


def most_written(payload: dict[str, Any]) -> int:
    """Return the number of tokens that an answer is limited to.

    Parameters
    ----------
    payload : dict
        Arguments of a chat completion.

    Returns
    -------
    int
        The limit, 4,096 if there is none.
    """
    limits = (payload.get(name) for name in ("max_tokens", "max_completion_tokens"))
    return next((limit for limit in limits if isinstance(limit, int)), _UNBOUNDED)


class Budget:
    """Counts what a run takes, and keeps its cost below a limit.

    Parameters
    ----------
    prices : sequence of float or None
        Prices of a million tokens.
    max_cost : float or None
        The highest cost of the run.
    n_left : callable
        Returns the number of questions that have no answer yet.

    Attributes
    ----------
    usage : Usage
        Counts so far.
    """

    def __init__(self, prices, max_cost: float | None, n_left: Callable[[], int]):
        self._prices = prices
        self._max_cost = np.inf if max_cost is None else max_cost
        self._n_left = n_left
        self._reserved = 0.0  # for requests that have been sent
        self._n_sent = 0
        self._uncounted = 0.0  # of responses that do not say what they took
        self.usage = Usage()

    def most(self, payload: dict[str, Any]) -> float:
        """Return the highest cost that a request may have.

        Parameters
        ----------
        payload : dict
            Arguments of a chat completion.

        Returns
        -------
        float
            The cost, 0 if there is no limit.
        """
        return 0.0 if np.isinf(self._max_cost) else cost_of(self._prices, *most_tokens(payload))

    def spent(self) -> float:
        """Return the cost so far.

        Returns
        -------
        float
            The cost of all responses, useful or not.
        """
        usage = self.usage
        tokens = usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens
        return 0.0 if self._prices is None else cost_of(self._prices, *tokens) + self._uncounted

    def enter(self, most: float) -> bool:
        """Reserve the cost of a request, if the limit allows it.

        Parameters
        ----------
        most : float
            The highest cost of the request.

        Returns
        -------
        bool
            Whether the request may be sent.
        """
        if self.spent() + self._reserved + most > self._max_cost:
            return False
        self._reserved += most
        self._n_sent += 1
        return True

    def leave(self, most: float, counted: bool = True) -> None:
        """Free what was reserved for a request.

        Parameters
        ----------
        most : float
            The highest cost of the request.
        counted : bool, default=True
            Whether the usage has its tokens. If not, it is taken to have cost the most.
        """
        self._n_sent -= 1
        self._reserved = self._reserved - most if self._n_sent else 0.0
        self._uncounted += 0.0 if counted else most

    def is_empty(self) -> bool:
        """Return whether no request is under way that may turn out to be cheaper.

        Returns
        -------
        bool
            True if nothing is reserved.
        """
        return self._n_sent == 0

    def error(self) -> RuntimeError:
        """Return what ends a run that reached its limit.

        Returns
        -------
        RuntimeError
            Says what was spent and what remains.
        """
        return RuntimeError(
            f"max_cost={self._max_cost:g} would be exceeded by the next request: "
            f"{self.spent():.4g} is spent, and {self._n_left():,} answers remain. All answers "
            "are kept: the same call asks only for the rest, with the same limit again."
        )

    def counts(self) -> dict[str, Any]:
        """Return the counts of the run.

        Returns
        -------
        dict
            The usage, and the cost if there are prices.
        """
        cost = {} if self._prices is None else {"cost": self.spent()}
        return vars(self.usage) | cost
