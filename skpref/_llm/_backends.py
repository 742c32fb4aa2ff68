"""Many questions to a chat completion endpoint at once, each answer kept as it arrives."""

import asyncio
import hashlib
import json
import os
import random
import re
import threading
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from inspect import isawaitable, iscoroutinefunction
from typing import Any, NamedTuple

from skpref._cache import open_cache
from skpref._llm._answers import Answer, Malformed, NoLogprobs, read_completion
from skpref._optional import import_optional

NEED = ("Asking an LLM", "llm")

# What makes every other request fail, too.
_FATAL = {401: PermissionError, 403: PermissionError, 404: LookupError}


class Ask(NamedTuple):
    """The arguments of one completion, where its answer goes, and how it is read."""

    row: int
    prompt: int
    payload: dict[str, Any]
    read: Callable[[dict], Answer]


class Secret:
    """Text that nothing prints, copies to disk or pickles.

    Parameters
    ----------
    value : str
        The text.
    """

    def __init__(self, value: str):
        self._value = value

    def reveal(self) -> str:
        """Give the text.

        Returns
        -------
        str
            The text.
        """
        return self._value

    def __repr__(self) -> str:
        return "'***'"

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return type(None), ()  # a pickle holds None instead


class _Failed(Exception):
    """A request that brought no answer; `fatal` where no other one would, either."""

    def __init__(self, reason: str, *, fatal: type[Exception] | None = None, transient=True):
        super().__init__(reason)
        self.fatal = fatal
        self.transient = transient


class Endpoint:
    """An OpenAI-compatible server, by the openai package, which retries what may pass.

    Parameters
    ----------
    base_url : str or None
        Address; None is OpenAI's, or the one in OPENAI_BASE_URL.
    api_key : Secret or None
        None takes OPENAI_API_KEY.
    timeout : float
        Seconds until a request is given up and made anew.
    max_retries : int
        How often a request is made anew.
    """

    def __init__(self, base_url, api_key, timeout, max_retries):
        self._openai = import_optional("openai", *NEED)
        key = os.environ.get("OPENAI_API_KEY") if api_key is None else api_key.reveal()
        if not key and base_url is None and "OPENAI_BASE_URL" not in os.environ:
            raise ValueError(
                "api_key is not given and OPENAI_API_KEY is not set; pass api_key=..., or "
                "base_url=... for a server that needs none."
            )
        self._key = key or "none"
        self._settings = {"base_url": base_url, "timeout": timeout, "max_retries": max_retries}
        self._structured = True
        self.retries = 0
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self.identity = base_url.rstrip("/")

    async def __aenter__(self):
        self._client = self._openai.AsyncOpenAI(api_key=self._key, **self._settings)
        return self

    async def __aexit__(self, *error):
        await self._client.close()

    async def complete(self, payload: dict[str, Any]) -> bytes:
        """Ask once, and again where the connection or the server failed.

        Parameters
        ----------
        payload : dict
            Arguments of a chat completion.

        Returns
        -------
        bytes
            The response as it came.
        """
        openai = self._openai
        if not self._structured:
            payload = {k: v for k, v in payload.items() if k != "response_format"}
        failed = None
        try:
            # Raw, since building objects of a response takes longer than reading its JSON.
            create = self._client.chat.completions.with_raw_response.create
            response = await create(**payload)
        except openai.APIStatusError as error:
            status = error.status_code
            if status in (400, 422) and "response_format" in payload and _names_format(error):
                self._structured = False  # a server without structured output
                return await self.complete(payload)
            transient = status in (408, 409, 429) or status >= 500
            reason = self._clean(f"HTTP {status}: {_short(error)}")
            failed = _Failed(reason, fatal=_FATAL.get(status), transient=transient)
        except openai.APIConnectionError as error:
            failed = _Failed(self._clean(f"{type(error).__name__}: {_short(error)}"))
        if failed is None:
            self.retries += response.retries_taken
            return response.http_response.content
        if failed.transient:
            self.retries += self._settings["max_retries"]
        raise failed  # here, so that no request with its headers hangs on it

    def _clean(self, reason: str) -> str:
        """Take the key out of what a server said."""
        return reason.replace(self._key, "***") if self._key != "none" else reason


def _names_format(error) -> bool:
    return re.search(r"response_format|schema|json|guided|grammar", str(error), re.I) is not None


def _short(error) -> str:
    return " ".join(str(error).split())[:300]


class Function:
    """A callable that takes the arguments of a chat completion.

    Parameters
    ----------
    function : callable
        Plain, which runs in threads, or a coroutine function.
    max_retries : int
        How often it is called anew after an exception.
    max_concurrency : int
        Number of threads.
    """

    identity = "callable"

    def __init__(self, function, max_retries, max_concurrency):
        self._function = function
        self._max_retries = max_retries
        self._max_concurrency = max_concurrency
        self.retries = 0

    async def __aenter__(self):
        self._threads = ThreadPoolExecutor(self._max_concurrency)
        return self

    async def __aexit__(self, *error):
        self._threads.shutdown(cancel_futures=True)

    async def complete(self, payload: dict[str, Any]) -> bytes:
        """Call once, and again after an exception.

        Parameters
        ----------
        payload : dict
            Arguments of a chat completion.

        Returns
        -------
        bytes
            A chat completion as JSON.
        """
        for attempt in range(self._max_retries + 1):
            try:
                completion = _as_completion(await self._call(payload))
                return json.dumps(completion, default=str).encode()
            except Exception as error:
                # openai's and LiteLLM's exceptions know the status.
                status = getattr(error, "status_code", None)
                failed = _Failed(f"{type(error).__name__}: {_short(error)}")
                failed.fatal = _FATAL.get(status) if isinstance(status, int) else None
            if failed.fatal or attempt == self._max_retries:
                break
            self.retries += 1
            await _back_off(attempt)
        raise failed

    async def _call(self, payload):
        if iscoroutinefunction(self._function):
            return await self._function(**payload)
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._threads, lambda: self._function(**payload))
        return await answer if isawaitable(answer) else answer


def _as_completion(answer) -> dict:
    """Bring what a callable returned into the form of a chat completion."""
    if hasattr(answer, "model_dump"):  # openai's and LiteLLM's responses
        answer = answer.model_dump()
    if isinstance(answer, str):
        return {"choices": [{"message": {"content": answer}}]}
    if isinstance(answer, dict) and "choices" not in answer:
        tokens = [{"token": t, "logprob": float(p)} for t, p in answer.items()]
        logprobs = {"content": [{"token": "", "logprob": 0.0, "top_logprobs": tokens}]}
        return {"choices": [{"message": {"content": ""}, "logprobs": logprobs}]}
    if not isinstance(answer, dict):
        raise TypeError(
            f"client returned a {type(answer).__name__}; return the text of the answer, the "
            "log-probabilities of its first token by token, or a chat completion."
        )
    return answer


async def _back_off(attempt: int) -> None:
    # Jitter needs no seed: it changes no result.
    await asyncio.sleep(min(0.5 * 2**attempt, 8) * random.uniform(0.75, 1))


class Runner:
    """Asks, keeps what comes in a cache, and reports each answer once.

    Parameters
    ----------
    backend : Endpoint or Function
        Who answers.
    folder : str or path-like
        Folder of the cache.
    report : callable
        Called with each `Ask` and its `Answer`.
    max_concurrency : int
        How many requests are under way at once.
    max_retries : int
        How often is asked anew after a response that is no answer.
    usage : dict
        Counts are added to it.
    """

    def __init__(self, backend, folder, report, *, max_concurrency, max_retries, usage):
        self._backend = backend
        self._folder = folder
        self._report = report
        self._max_concurrency = max_concurrency
        self._max_retries = max_retries
        self._usage = usage
        self._pending = {}  # key to the future of the request under way
        self._streak = 0  # of failures since the last answer
        self._answered = False

    def run(self, asks: Iterable[Ask]) -> None:
        """Ask all in a thread of its own, so that a running event loop does not matter.

        Parameters
        ----------
        asks : iterable of Ask
            The questions; only so many are taken at once as are under way.
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
            with suppress(RuntimeError):  # it has just ended by itself
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
            finally:
                self._usage["retries"] += self._backend.retries
        if error is not None:
            raise error

    async def _work(self, asks) -> None:
        for ask in asks:
            await self._answer(ask)

    async def _answer(self, ask: Ask) -> None:
        key = self._key(ask.payload)
        while key in self._pending:  # the same question is under way
            await self._pending[key]
        answer = self._look_up(key, ask)
        if answer is not None:
            await asyncio.sleep(0)  # lets Ctrl-C in where all comes from the cache
        else:
            self._pending[key] = asyncio.get_running_loop().create_future()
            try:
                answer = await self._request(key, ask)
            finally:
                self._pending.pop(key).set_result(None)
        self._report(ask, answer)

    def _key(self, payload: dict[str, Any]) -> str:
        """Hash all that the answer depends on."""
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
        self._usage["cache_hits"] += 1
        return answer

    async def _request(self, key: str, ask: Ask) -> Answer:
        try:
            body, usage, answer = await self._ask(ask)
        except _Failed as failed:
            self._usage["failures"] += 1
            self._stop_if_hopeless(failed)
            return Answer(None, reason=str(failed))
        except NoLogprobs:
            raise ValueError(
                "The answers come without log-probabilities; pass scoring='verbalized' or "
                "'label', which need none."
            ) from None
        self._streak, self._answered = 0, True
        self._cache.set(key, zlib.compress(body, 1), retry=True)
        for name in ("prompt_tokens", "completion_tokens"):
            self._usage[name] += usage.get(name) or 0
        self._usage["failures"] += answer.scores is None
        return answer

    async def _ask(self, ask: Ask) -> tuple[bytes, dict, Answer]:
        """Ask until the response is an answer, of whatever use."""
        for attempt in range(self._max_retries + 1):
            self._usage["requests"] += 1
            body = await self._backend.complete(ask.payload)
            try:
                completion = read_completion(body)
                usage = completion.get("usage")
                return body, usage if isinstance(usage, dict) else {}, ask.read(completion)
            except Malformed as error:
                reason = str(error)
            if attempt < self._max_retries:
                self._usage["retries"] += 1
                await _back_off(attempt)
        raise _Failed(reason)

    def _stop_if_hopeless(self, failed: _Failed) -> None:
        """Raise where all further requests would fail, too."""
        kept = "What was answered is kept: the same call asks for the rest only."
        if failed.fatal is not None:
            raise failed.fatal(f"The LLM refused a request ({failed}). {kept}")
        # One request that is too long, say, is no reason to stop; many, with no answer ever, are.
        if failed.transient or not self._answered:
            self._streak += 1
        if self._streak >= max(self._max_concurrency, 3):
            raise ConnectionError(
                f"{self._streak} requests in a row failed, the last with: {failed}. {kept}"
            )
