"""Many requests at once: each answer is kept as it arrives."""

import asyncio
import hashlib
import json
import threading
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from skpref._cache import open_cache
from skpref._llm._answers import Answer, Malformed, NoLogprobs, read_completion
from skpref._llm._backends import NEED, Reply, RequestFailed, back_off


class Ask(NamedTuple):
    """The arguments of one completion, the place of its answer, and the function that reads it."""

    row: int
    prompt: int
    payload: dict[str, Any]
    read: Callable[[dict], Answer]


@dataclass
class Usage:
    """Counts of one run."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0
    failures: int = 0
    cache_hits: int = 0

    def add_tokens(self, completion: dict) -> None:
        """Add the tokens that a completion took.

        Parameters
        ----------
        completion : dict
            Chat completion; servers may leave the counts out.
        """
        counts = completion.get("usage")
        counts = counts if isinstance(counts, dict) else {}
        self.prompt_tokens += counts.get("prompt_tokens") or 0
        self.completion_tokens += counts.get("completion_tokens") or 0


class Runner:
    """Makes requests, keeps the answers in a cache, and reports each one once.

    Parameters
    ----------
    backend : Endpoint or Function
        Who answers.
    folder : str or path-like
        Folder of the cache.
    report : callable
        Called with each `Ask` and its `Answer`.
    max_concurrency : int
        Number of requests at the same time.
    max_retries : int
        Number of retries after a response that is not an answer.

    Attributes
    ----------
    usage : Usage
        Counts so far.
    """

    def __init__(self, backend, folder, report, *, max_concurrency, max_retries):
        self._backend = backend
        self._folder = folder
        self._report = report
        self._max_concurrency = max_concurrency
        self._max_retries = max_retries
        self.usage = Usage()
        self._pending = {}  # key to the future of the request that has been sent
        self._streak = 0  # of failures since the last answer
        self._answered = False

    def run(self, asks: Iterable[Ask]) -> None:
        """Make all requests in a separate thread, so that a running event loop does not matter.

        Parameters
        ----------
        asks : iterable of Ask
            The questions, taken one by one as requests end.
        """
        outcome: list[BaseException] = []
        started, ended = threading.Event(), threading.Event()

        async def main():
            self._stop = asyncio.get_running_loop(), asyncio.current_task()
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
        except BaseException:
            started.wait()
            loop, task = self._stop
            with suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)
            ended.wait()
            raise
        if outcome:
            raise outcome[0]

    async def _run(self, asks) -> None:
        error = None
        with open_cache(self._folder, *NEED) as self._cache:
            try:
                async with self._backend, asyncio.TaskGroup() as group:
                    for _ in range(self._max_concurrency):
                        group.create_task(self._work(asks))
            except* Exception as several:
                error = several.exceptions[0]
        if error is not None:
            raise error

    async def _work(self, asks) -> None:
        for ask in asks:
            await self._answer(ask)

    async def _answer(self, ask: Ask) -> None:
        key = self._key(ask.payload)
        while key in self._pending:  # the same question has been sent
            await self._pending[key]
        answer = self._look_up(key, ask)
        if answer is not None:
            await asyncio.sleep(0)  # lets Ctrl-C in if all answers are in the cache
        else:
            self._pending[key] = asyncio.get_running_loop().create_future()
            try:
                answer = await self._request(key, ask)
            finally:
                self._pending.pop(key).set_result(None)
        self._report(ask, answer)

    def _key(self, payload: dict[str, Any]) -> str:
        """Hash everything that the answer depends on."""
        content = {k: v for k, v in payload.items() if k != "response_format"}
        text = json.dumps([self._backend.identity, content], sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()

    def _look_up(self, key: str, ask: Ask) -> Answer | None:
        stored = self._cache.get(key)
        try:
            # Ends with a checksum, so that a damaged entry is an error and asked again.
            answer = ask.read(read_completion(zlib.decompress(stored)))
        except (TypeError, zlib.error, Malformed, UnicodeDecodeError):
            return None
        self.usage.cache_hits += 1
        return answer

    async def _request(self, key: str, ask: Ask) -> Answer:
        try:
            body, completion, answer = await self._send(ask)
        except RequestFailed as failed:
            self.usage.failures += 1
            self._stop_if_hopeless(failed)
            return Answer(None, reason=str(failed))
        except NoLogprobs:
            raise ValueError(
                "The answers come without log-probabilities; pass scoring='verbalized' or "
                "'label', which need none."
            ) from None
        self._streak, self._answered = 0, True
        self._cache.set(key, zlib.compress(body, 1), retry=True)
        self.usage.add_tokens(completion)
        self.usage.failures += answer.scores is None
        return answer

    async def _send(self, ask: Ask) -> tuple[bytes, dict, Answer]:
        """Send a request until the response is an answer, useful or not."""
        for attempt in range(self._max_retries + 1):
            self.usage.requests += 1
            body = await self._complete(ask.payload)
            try:
                completion = read_completion(body)
                return body, completion, ask.read(completion)
            except Malformed as error:
                reason = str(error)
            if attempt < self._max_retries:
                self.usage.retries += 1
                await back_off(attempt)
        raise RequestFailed(reason)

    async def _complete(self, payload: dict[str, Any]) -> bytes:
        """Send a request once, and count the retries of the backend."""
        try:
            reply: Reply = await self._backend.complete(payload)
        except RequestFailed as failed:
            self.usage.retries += failed.retries
            raise
        self.usage.retries += reply.retries
        return reply.body

    def _stop_if_hopeless(self, failed: RequestFailed) -> None:
        """Raise if all further requests would fail, too."""
        kept = "Earlier answers are kept: the same call asks only for the rest."
        if failed.fatal is not None:
            raise failed.fatal(f"The LLM refused a request ({failed}). {kept}")
        # A single request may be too long, for example; many without any answer are a reason.
        if failed.transient or not self._answered:
            self._streak += 1
        if self._streak >= max(self._max_concurrency, 3):
            raise ConnectionError(
                f"{self._streak} requests in a row failed, the last with: {failed}. {kept}"
            )
