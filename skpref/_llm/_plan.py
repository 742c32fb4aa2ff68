"""Estimate a run before anything is asked."""

import json
import math
import re
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.utils import Bunch

from skpref._llm._costs import cost_of, count_tokens, most_written
from skpref._llm._runner import Ask, key_of
from skpref._llm._store import Store
from skpref._results import Table
from skpref._typing import FloatArray

EXACT = 20_000  # requests up to which each one is written, to count them
_READ = 4.0  # characters of a token in a prompt
_PER_MESSAGE = 4  # tokens that a message takes beside its text
_ENOUGH = 20  # answers in the cache that show how long tokens are
_SAMPLE = 200


class Rates(NamedTuple):
    """How fast requests can be made; None is no limit."""

    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_concurrency: int
    latency: float  # seconds of one request

    def seconds(self, n_requests: float, n_tokens: float) -> float:
        """Return how long requests take at the slowest of the rates.

        Parameters
        ----------
        n_requests : float
            Number of requests.
        n_tokens : float
            Number of tokens, read and written.

        Returns
        -------
        float
            The seconds.
        """
        times = [n_requests * self.latency / self.max_concurrency]
        for count, rate in [
            (n_requests, self.requests_per_minute),
            (n_tokens, self.tokens_per_minute),
        ]:
            times += [] if rate is None else [60 * count / rate]
        return max(times)


class _Counts:
    """Sums over the requests of each prompt."""

    def __init__(self, n_prompts: int):
        self.requests, self.cached, self.chars, self.messages, self.expected, self.most = np.zeros(
            (6, n_prompts)
        )
        self.measured: list[tuple[int, int, int]] = []  # prompt, its characters, its tokens
        self.written: list[list[int]] = [[] for _ in range(n_prompts)]  # tokens of answers
        self.texts: list[str] = []  # of some prompts, for a tokenizer
        self.answers: list[str] = []  # that are expected

    def add(self, ask: Ask) -> None:
        """Add a request that would be made."""
        p, messages = ask.prompt, ask.payload["messages"]
        self.requests[p] += 1
        self.chars[p] += _length(ask)
        self.messages[p] += len(messages)
        self.expected[p] += _n_pieces(ask.expected)
        self.most[p] += most_written(ask.payload)
        if len(self.texts) < _SAMPLE:
            self.texts.append("\n".join(message["content"] for message in messages))
            self.answers.append(ask.expected)

    def add_cached(self, ask: Ask, stored: bytes | None) -> None:
        """Add a request that the cache answers; `stored` is the answer, None if not looked at."""
        self.cached[ask.prompt] += 1
        if stored is None:
            return
        with suppress(zlib.error, ValueError):
            read, written, _ = count_tokens(json.loads(zlib.decompress(stored)))
            if read:
                self.measured.append((ask.prompt, _length(ask), read))
                self.written[ask.prompt].append(written)


@lru_cache
def _n_pieces(text: str) -> int:
    """Count words, marks and line ends, which are the tokens of short answers."""
    return max(len(re.findall(r"\w+|[^\w\s]|\n", text)), 1)


def _length(ask: Ask) -> int:
    return sum(len(message["content"]) for message in ask.payload["messages"])


def count_requests(asks: Iterable[Ask], identity: str, store: Store | None, n_prompts: int):
    """Count the requests that a run would make, each question once.

    Parameters
    ----------
    asks : iterable of Ask
        The questions.
    identity : str
        Who would answer.
    store : Store or None
        The cache, opened; None if there is none yet.
    n_prompts : int
        Number of prompts.

    Returns
    -------
    _Counts
        The sums for each prompt.
    """
    known = set() if store is None else store.keys()
    seen: set[str] = set()
    counts = _Counts(n_prompts)
    for ask in asks:
        key = key_of(ask, identity)
        if key in seen:
            continue
        seen.add(key)
        if key not in known:
            counts.add(ask)
        else:
            assert store is not None
            look = len(counts.measured) < _SAMPLE
            counts.add_cached(ask, store.get(key) if look else None)
    return counts


def _count_tokens(
    counts: _Counts, tokenizer: Callable | None, reasons: bool
) -> tuple[FloatArray, FloatArray, str]:
    """Return the tokens read and written for each prompt, and in words how they were counted."""
    marks, answers = _PER_MESSAGE * counts.messages, counts.expected
    if len(counts.measured) >= _ENOUGH:
        _, chars, tokens = np.sum(counts.measured, axis=0)
        read = counts.chars * tokens / chars
        means = np.array([np.mean(n) if n else np.nan for n in counts.written])
        written = np.where(np.isnan(means), answers, counts.requests * means)
        return read, np.minimum(written, counts.most), "measured on answers in the cache"
    if tokenizer is not None and counts.texts:
        n_read, n_written = (
            sum(len(tokenizer(text)) for text in texts) for texts in (counts.texts, counts.answers)
        )
        read = counts.chars * n_read / sum(map(len, counts.texts)) + marks
        written = answers * n_written / sum(map(_n_pieces, counts.answers))
        how = "counted by the tokenizer"
    else:
        read, written = counts.chars / _READ + marks, answers
        how = "estimated at four characters a token"
    return read, counts.most if reasons else np.minimum(written, counts.most), how


def find_tokenizer(model: str) -> Callable[[str], list] | None:
    """Return the tokenizer of a model if it is on this machine, without any download.

    Parameters
    ----------
    model : str
        Name of the model at the endpoint, which vLLM and others take from its repository.

    Returns
    -------
    callable or None
        Splits a text into tokens.
    """
    if not (("/" in model or Path(model).is_dir()) and find_spec("transformers")):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, local_files_only=True).encode
    except Exception:  # whatever is wrong with it, there is an estimate
        return None


def write_plan(
    counts: _Counts,
    prompts: list[str],
    *,
    n_utterances: int,
    scale: float,
    tokenizer: Callable | None,
    prices,
    rates: Rates,
    reasons: bool,
    batch: bool,
) -> Table:
    """Turn counts into a plan.

    Parameters
    ----------
    counts : _Counts
        The sums for each prompt.
    prompts : list of str
        Names of the prompts.
    n_utterances : int
        Number of utterances.
    scale : float
        Number of requests for each one that was counted.
    tokenizer : callable or None
        Splits a text into tokens.
    prices : sequence of float or None
        Prices of a million tokens.
    rates : Rates
        How fast requests can be made.
    reasons : bool
        Whether answers begin with reasoning, which takes up to all of their tokens.
    batch : bool
        Whether requests are sent in batches, whose time is the endpoint's.

    Returns
    -------
    Table
        The plan.
    """
    read, written, how = _count_tokens(counts, tokenizer, reasons)
    read, written = read * scale, written * scale
    requests, cached = counts.requests * scale, counts.cached * scale
    n_tokens = float(read.sum() + written.sum())
    plan = {
        "n_requests": round(requests.sum()),
        "n_cached": round(cached.sum()),
        "prompt_tokens": round(read.sum()),
        "completion_tokens": round(written.sum()),
        "tokens": (read + written) / max(n_utterances, 1),
        "cost": None if prices is None else cost_of(prices, read.sum(), written.sum()),
        "seconds": math.nan if batch else rates.seconds(requests.sum(), n_tokens),
        "is_exact": scale == 1,
        "tokens_by": how,
    }
    header = ["prompt", "requests", "in the cache", "tokens read", "tokens written"]
    columns = [requests, cached, read, written]
    lines = [
        [name, *(f"{round(column[p]):,}" for column in columns)] for p, name in enumerate(prompts)
    ]
    lines.append(["all", *(f"{round(column.sum()):,}" for column in columns)])
    if prices is not None:
        header.append("cost")
        costs = [cost_of(prices, *pair) for pair in zip(read, written, strict=True)]
        for line, cost in zip(lines, [*costs, sum(costs)], strict=True):
            line.append(_money(cost))
    message = _write_message(Bunch(**plan), n_utterances, reasons)
    return Table(header, lines, **plan, message=message)


def _write_message(plan: Bunch, n_utterances: int, reasons: bool) -> str:
    about = "" if plan.is_exact else "About "
    parts = [
        f"{about}{plan.n_requests:,} requests for {n_utterances:,} utterances; the cache already "
        f"answers {about.lower()}{plan.n_cached:,}.",
        f"They read {plan.prompt_tokens:,} tokens and write {'at most ' if reasons else ''}"
        f"{plan.completion_tokens:,} ({plan.tokens_by}).",
    ]
    if plan.cost is not None:
        parts.append(f"That costs {_money(plan.cost)} at the given prices.")
    if math.isnan(plan.seconds):
        parts.append("A batch takes as long as its endpoint says, often up to 24 hours.")
    else:
        parts.append(f"It takes {_duration(plan.seconds)} at the given limits.")
    return " ".join(parts)


def _money(cost: float) -> str:
    return f"{cost:,.2f}" if cost >= 10 else f"{cost:.3g}"


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
