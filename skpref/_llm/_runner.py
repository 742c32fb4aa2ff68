"""Many requests at once: each answer is kept as it arrives."""

import asyncio
import hashlib
import json
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from skpref._llm._answers import Answer, NoLogprobs
from skpref._llm._backends import Endpoint, Function, RequestFailed, failure_of_status
from skpref._llm._completion import Malformed, read_completion
from skpref._llm._costs import Budget
from skpref._llm._limits import Limiter
from skpref._llm._secrets import Secret
from skpref._llm._store import CacheError, Store, StoreLocked

_KEPT = "Earlier answers are kept: the same call asks only for the rest."
_NO_LOGPROBS = "no log-probabilities in the answer"
# Arguments that change how a request travels or is billed, not what is answered.
TRANSPORT = {
    *("extra_headers", "timeout", "response_format", "user", "metadata", "store", "service_tier"),
    *("safety_identifier", "prompt_cache_key", "choices"),
}
_QUOTA_PATIENCE = 600.0  # seconds without any answer until too many requests count as a failure
_LONGEST_PAUSE = 3600.0  # seconds that a server may ask to wait
_LOCK_PATIENCE = 30.0  # seconds that another process may lock the cache
_GRACE = 10.0  # seconds that requests have to end after Ctrl-C


class Ask(NamedTuple):
    """The arguments of one completion, the places of its answers, and the function that reads them.

    `expected` is an answer of the usual length, and `alone` writes the request for one of several
    rows again, by its place in `rows`.
    """

    rows: tuple[int, ...]
    prompt: int
    payload: dict[str, Any]
    read: Callable[[dict], list[Answer]]
    sample: int = 0
    expected: str = ""
    alone: Callable[[int], "Ask"] | None = None

    def missing(self, reason: str) -> list[Answer]:
        """Return that none of the rows has an answer.

        Parameters
        ----------
        reason : str
            The cause.

        Returns
        -------
        list of Answer
            One for each row.
        """
        return [Answer(None, reason=reason)] * len(self.rows)


class _Stopped(Exception):
    """The run ends before the request was made."""


class Runner:
    """Makes requests, keeps the answers in a cache, and reports each one once.

    Parameters
    ----------
    backend : Endpoint or Function
        Who answers.
    store : Store
        The cache.
    limiter : Limiter
        Decides when a request may start.
    report : callable
        Called with each `Ask` and its answers.
    budget : Budget
        Ends the run before it costs too much.
    failed : dict
        Reasons by key, of questions that have failed in this run and are not asked again.
    probe : Ask
        A harmless question, which shows whether the server fails or only some questions.
    max_concurrency : int
        Number of requests at the same time.
    max_retries : int
        Number of retries after a transient failure.

    Attributes
    ----------
    usage : Usage
        Counts so far.
    store : Store
        The cache.
    budget : Budget
        The limit on the cost.
    failed : dict
        Reasons by key, of questions that have failed in this run.
    max_retries : int
        Number of retries after a transient failure.
    """

    def __init__(
        self,
        backend: Endpoint | Function,
        store: Store,
        limiter: Limiter,
        report: Callable[[Ask, list[Answer]], None],
        *,
        budget: Budget,
        failed: dict[str, str],
        probe: Ask,
        max_concurrency: int,
        max_retries: int,
    ):
        self._backend = backend
        self.store = store
        self._limiter = limiter
        self._report = report
        self.budget = budget
        self._probe = probe
        self._max_concurrency = max_concurrency
        self.max_retries = max_retries
        self.usage = budget.usage
        self._pending: dict[str, asyncio.Future] = {}  # by key, of requests that have been sent
        self.failed = failed
        self._stop_error: BaseException | None = None
        self._sending = 0  # requests that may still bring an answer
        self._n_answers = 0  # of the server in this run
        self._streak = 0  # of failures since the last of them
        self._leniency = 1  # grows with each probe that was answered
        self._last_answer = 0.0
        self._judging: asyncio.Lock | None = None

    def run(self, asks: Iterable[Ask]) -> None:
        """Make all requests in a separate thread, so that a running event loop does not matter.

        Parameters
        ----------
        asks : iterable of Ask
            The questions, taken one by one as requests end.
        """
        outcome: list[BaseException] = []
        started, ended = threading.Event(), threading.Event()
        stop: list[Any] = []

        async def main():
            stop.extend([asyncio.get_running_loop(), asyncio.current_task()])
            started.set()
            await self._run(iter(asks))

        def work():
            try:
                asyncio.run(main())
            except BaseException as error:
                outcome.append(error)
            finally:
                started.set()
                ended.set()

        threading.Thread(target=work, name="skpref-llm", daemon=True).start()
        try:
            while not ended.wait(0.2):  # not forever, which Ctrl-C cannot end on Windows
                pass
        except BaseException as error:
            started.wait()
            self._end(stop, ended, error)
            raise
        if outcome:
            raise outcome[0]

    def _end(self, stop: list, ended: threading.Event, error: BaseException) -> None:
        """Let requests that have been sent end, since they are paid; cancel them if they do not."""
        loop, task = stop
        with suppress(RuntimeError):  # it has just ended
            loop.call_soon_threadsafe(self._stop, error)
        try:
            deadline = time.monotonic() + _GRACE
            while not ended.wait(0.1) and time.monotonic() < deadline:
                pass
        finally:  # also after a second Ctrl-C
            if not ended.is_set():
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(task.cancel)
                ended.wait()

    def _stop(self, error: BaseException) -> None:
        """Make no further request; the first reason is the one that is raised."""
        if self._stop_error is None:
            self._stop_error = error

    async def _run(self, asks: Iterator[Ask]) -> None:
        self._judging = asyncio.Lock()
        self._last_answer = time.monotonic()
        await self._patiently(self.store.open)
        try:
            await self._recall_capabilities()
            async with self._backend:
                pulse = asyncio.create_task(self._renew_claims())
                try:
                    await asyncio.gather(*(self._work(asks) for _ in range(self._max_concurrency)))
                finally:
                    pulse.cancel()
            await self._keep_capabilities()
        finally:
            self.store.close()
        if self._stop_error is not None:
            raise self._stop_error

    async def _recall_capabilities(self) -> None:
        """Take what an earlier run found out about the server."""
        stored = await self._patiently(self.store.get, self._capabilities_key())
        found = _decode(stored) if stored is not None else None
        self._backend.capabilities.update(found if isinstance(found, dict) else {})
        self._recalled = dict(self._backend.capabilities)

    async def _keep_capabilities(self) -> None:
        if self._backend.capabilities != self._recalled and self.store.writable:
            content = json.dumps(self._backend.capabilities).encode()
            with suppress(CacheError, StoreLocked):
                self.store.put(self._capabilities_key(), content)

    def _capabilities_key(self) -> str:
        return f"capabilities of {self._backend.identity}"

    async def _renew_claims(self) -> None:
        while True:
            await asyncio.sleep(10)
            with suppress(CacheError, StoreLocked):
                self.store.renew()

    async def _patiently(self, action: Callable, *arguments):
        """Call a method of the store, again while another process locks it."""
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                return action(*arguments)
            except StoreLocked:
                if time.monotonic() > deadline:
                    raise CacheError(
                        f"cache={self.store.folder!r} has been locked by another process for "
                        f"{_LOCK_PATIENCE:g} s. End that process, or pass another folder."
                    ) from None
            await asyncio.sleep(random.uniform(0.01, 0.1))

    async def _work(self, asks: Iterator[Ask]) -> None:
        assert self._judging is not None
        while True:
            async with self._judging:  # no new request during a probe
                if self._stop_error is not None:
                    return
            try:
                ask = next(asks, None)
                if ask is None:
                    return
                self._report(ask, await self._answer(ask))
            except _Stopped:
                return
            except Exception as error:
                self._stop(error)

    async def _answer(self, ask: Ask) -> list[Answer]:
        key = key_of(ask, self._backend.identity)
        while key in self._pending:  # the same question has been sent
            await self._pending[key]
        if key in self.failed:
            return ask.missing(self.failed[key])
        self._pending[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._look_up_or_ask(key, ask)
        finally:
            self._pending.pop(key).set_result(None)

    async def _look_up_or_ask(self, key: str, ask: Ask) -> list[Answer]:
        wait = 0.02
        while True:
            stored = await self._patiently(self.store.get, key)
            if stored is not None:
                answers = _read_stored(stored, ask)
                if answers is not None:
                    self.usage.cache_hits += 1
                    await asyncio.sleep(0)  # lets Ctrl-C in if all answers are in the cache
                    return answers
                await self._patiently(self.store.discard, key)
            if self._stop_error is not None:
                raise _Stopped
            if await self._patiently(self.store.claim, key):
                break
            await asyncio.sleep(wait)  # another process is asking
            wait = min(2 * wait, 0.5)
        kept = False
        try:
            body, answers = await self._request(ask)
            kept = body is not None
            if body is not None:
                await self._patiently(self.store.put, key, zlib.compress(body, 1))
            else:
                self.failed[key] = answers[0].reason
            return answers
        finally:
            if not kept:
                await self._patiently(self.store.release, key)

    async def _request(self, ask: Ask) -> tuple[bytes | None, list[Answer]]:
        """Return a response to keep, and the answers in it; None if there is nothing to keep."""
        self._sending += 1
        body: bytes | None = None
        try:
            body, answers = await self._send(ask)
        except RequestFailed as failed:
            failure = failed
        except NoLogprobs as missing:
            body = missing.args[0]
            failure = RequestFailed(_NO_LOGPROBS, fatal=ValueError, transient=False)
        else:
            self._n_answers += 1
            self._streak = 0
            return body, answers
        finally:
            self._sending -= 1
        await self._judge(failure)
        # An answer that stopped the run says nothing about its question.
        kept = body if self._stop_error is None else None
        return kept, ask.missing(str(failure))

    async def _send(self, ask: Ask) -> tuple[bytes, list[Answer]]:
        """Send a request until the response is an answer, useful or not."""
        retries, calls = 0, 0
        while True:
            try:
                return await self._send_once(ask, calls)
            except RequestFailed as failure:
                failed = failure
            calls += 1
            if self._stop_error is not None:
                raise failed
            if failed.status == 429 and failed.fatal is None:
                if self._waits_for_quota(failed):
                    continue
            elif failed.pause is not None and failed.pause > 120:
                raise failed
            if not failed.transient or retries == self.max_retries:
                raise failed
            await self._sleep(back_off(retries) if failed.pause is None else failed.pause)
            retries += 1

    def _waits_for_quota(self, failed: RequestFailed) -> bool:
        """Pause all requests after a 429; a retry of it does not count for some minutes."""
        if failed.pause is not None and failed.pause > _LONGEST_PAUSE:
            failed.fatal, failed.transient = ConnectionError, False
            return False
        self._limiter.refused(failed.pause)
        patience = max(_QUOTA_PATIENCE, 1.5 * (failed.pause or 0))
        return time.monotonic() - self._last_answer < patience

    async def _send_once(self, ask: Ask, calls: int) -> tuple[bytes, list[Answer]]:
        most = await self._afford(ask)
        counted = True
        try:
            body, answers, tokens = await self._send_within_limits(ask, calls)
            counted = tokens > 0
            return body, answers
        finally:
            self.budget.leave(most, counted)

    async def _afford(self, ask: Ask) -> float:
        """Reserve the highest cost of a request; requests that have been sent may free some."""
        most = self.budget.most(ask.payload)
        while not self.budget.enter(most):
            if self.budget.is_empty():
                self._stop(self.budget.error())
            if self._stop_error is not None:
                raise _Stopped
            await asyncio.sleep(0.02)
        return most

    async def _send_within_limits(self, ask: Ask, calls: int) -> tuple[bytes, list[Answer], int]:
        guess = len(str(ask.payload["messages"])) / 3 + (ask.payload.get("max_tokens") or 100)
        taken = await self._limiter.enter(guess, lambda: self._stop_error is not None)
        if taken is None:
            if calls:
                raise RequestFailed("the run was stopped")
            raise _Stopped
        tokens = 0
        try:
            if calls:
                self.usage.retries += 1
            else:
                self.usage.requests += 1
            body = await self._complete(ask.payload)
            decoded = _decode(body)
            tokens = self.usage.add_tokens(decoded)
            try:
                completion = read_completion(decoded)
                answers = ask.read(completion)
            except Malformed as error:
                if error.status is None:
                    raise RequestFailed(str(error)) from None
                raise failure_of_status(error.status, str(error)) from None
            except NoLogprobs:
                raise NoLogprobs(body) from None
        finally:
            self._limiter.leave(taken, tokens)
        self._last_answer = time.monotonic()
        self._limiter.answered()
        return body, answers, tokens

    async def _complete(self, payload: dict[str, Any]) -> bytes:
        """Make a call, and count a second one that the backend had to make."""
        try:
            reply = await self._backend.complete(payload)
        except RequestFailed as failed:
            self.usage.retries += failed.calls - 1
            raise
        self.usage.retries += reply.calls - 1
        return reply.body

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not after the run was stopped."""
        end = time.monotonic() + seconds
        while self._stop_error is None and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.2))

    async def _judge(self, failed: RequestFailed) -> None:
        """Stop the run if everything else would fail, too; questions that fail are no reason."""
        if failed.fatal is not None:
            limit = 1
            # An answer to another request shows the same at no cost.
            n_answers = self._n_answers
            while self._sending and self._n_answers == n_answers and self._stop_error is None:
                await asyncio.sleep(0.01)
            if self._n_answers > n_answers:
                return
        elif failed.transient or not self._n_answers:
            limit = max(self._max_concurrency, 3)
        else:
            return
        self._streak += 1
        streak = self._streak
        if streak < limit * self._leniency or self._stop_error is not None:
            return
        assert self._judging is not None
        async with self._judging:
            if self._stop_error is not None or self._streak == 0:
                return
            if await self._is_probe_answered():
                self._streak = 0
                self._leniency *= 2
                return
            self._stop(_verdict(failed, streak))

    async def _is_probe_answered(self) -> bool:
        with suppress(RequestFailed, NoLogprobs, _Stopped):
            await self._send_once(self._probe, 0)
            self._n_answers += 1
            return True
        return False


def back_off(retries: int) -> float:
    """Return the seconds to pause before a retry.

    Parameters
    ----------
    retries : int
        Number of retries before this one.

    Returns
    -------
    float
        Seconds, longer each time. Jitter needs no seed: it changes no result.
    """
    return min(0.5 * 2**retries, 8) * random.uniform(0.75, 1)


def _verdict(failed: RequestFailed, streak: int) -> Exception:
    """Return what ends the run."""
    if failed.fatal is ValueError:
        return ValueError(
            "The answers come without log-probabilities; pass scoring='verbalized' or "
            "'label', which need none."
        )
    if failed.fatal is not None:
        return failed.fatal(f"The LLM refused a request ({failed}). {_KEPT}")
    return ConnectionError(f"{streak} requests in a row failed, the last with: {failed}. {_KEPT}")


def _decode(body: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None


def key_of(ask: Ask, identity: str) -> str:
    """Hash everything that an answer depends on.

    Parameters
    ----------
    ask : Ask
        The question.
    identity : str
        Who answers.

    Returns
    -------
    str
        The key of the answer in the cache.
    """
    content = {k: v for k, v in ask.payload.items() if k not in TRANSPORT}
    parts: list[Any] = [identity, _canonical(content)]
    if ask.sample and content.get("seed") != ask.sample:
        parts.append({"sample": ask.sample})
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_stored(stored: bytes, ask: Ask) -> list[Answer] | None:
    """Read an entry of the cache; None if it is damaged, which its checksum shows."""
    try:
        return ask.read(read_completion(zlib.decompress(stored)))
    except NoLogprobs:
        return ask.missing(_NO_LOGPROBS)
    except (zlib.error, Malformed, UnicodeDecodeError):
        return None


def _canonical(value: Any) -> Any:
    """Write equal numbers alike, and leave keys out."""
    if isinstance(value, dict):
        return {k: _canonical(v) for k, v in value.items() if not isinstance(v, Secret)}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
