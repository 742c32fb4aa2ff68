"""Who answers a chat completion: an endpoint or a callable."""

import asyncio
import json
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from inspect import isawaitable, iscoroutinefunction
from typing import Any, NamedTuple

from skpref._optional import import_optional

NEED = ("Asking an LLM", "llm")

# Statuses after which every other request would fail, too: a refused key, an unknown model.
_FATAL = {401: PermissionError, 403: PermissionError, 404: LookupError}


class Reply(NamedTuple):
    """A response as it came, and the number of retries that it took."""

    body: bytes
    retries: int


class Secret:
    """Text that is never printed, copied to disk or pickled.

    Parameters
    ----------
    value : str
        The text.
    """

    def __init__(self, value: str):
        self._value = value

    def reveal(self) -> str:
        """Return the text.

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


class RequestFailed(Exception):
    """A request that brought no answer, after all retries.

    Parameters
    ----------
    reason : str
        The cause.
    fatal : type of Exception, default=None
        What to raise if every other request would fail, too.
    transient : bool, default=True
        Whether the cause may pass.
    retries : int, default=0
        Number of retries that were made.
    """

    def __init__(self, reason: str, *, fatal=None, transient=True, retries=0):
        super().__init__(reason)
        self.fatal: type[Exception] | None = fatal
        self.transient: bool = transient
        self.retries: int = retries


class Endpoint:
    """An OpenAI-compatible server, asked through the openai package, which retries.

    Parameters
    ----------
    base_url : str or None
        Address. None is that in OPENAI_BASE_URL, else OpenAI's.
    api_key : Secret or None
        None takes OPENAI_API_KEY.
    timeout : float
        Seconds before a request times out.
    max_retries : int
        Number of retries after a transient error.
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
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self.identity = base_url.rstrip("/")

    async def __aenter__(self):
        self._client = self._openai.AsyncOpenAI(api_key=self._key, **self._settings)
        return self

    async def __aexit__(self, *error):
        await self._client.close()

    async def complete(self, payload: dict[str, Any]) -> Reply:
        """Ask, and retry if the connection or the server failed.

        Parameters
        ----------
        payload : dict
            Arguments of a chat completion.

        Returns
        -------
        Reply
            The response.

        Raises
        ------
        RequestFailed
            If there is no response.
        """
        openai = self._openai
        if not self._structured:
            payload = {k: v for k, v in payload.items() if k != "response_format"}
        failed = None
        try:
            # Raw: building the response objects takes longer than reading the JSON.
            create = self._client.chat.completions.with_raw_response.create
            response = await create(**payload)
        except openai.APIStatusError as error:
            status = error.status_code
            if status in (400, 422) and "response_format" in payload and _names_format(error):
                self._structured = False  # the server has no structured output
                return await self.complete(payload)
            transient = status in (408, 409, 429) or status >= 500
            reason = self._clean(f"HTTP {status}: {_short(error)}")
            retries = self._settings["max_retries"] if transient else 0
            failed = RequestFailed(
                reason, fatal=_FATAL.get(status), transient=transient, retries=retries
            )
        except openai.APIConnectionError as error:
            reason = self._clean(f"{type(error).__name__}: {_short(error)}")
            failed = RequestFailed(reason, retries=self._settings["max_retries"])
        if failed is None:
            return Reply(response.http_response.content, response.retries_taken)
        raise failed  # here, so that its context holds no request with headers

    def _clean(self, reason: str) -> str:
        """Remove the key from the words of a server."""
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
        Number of retries after an exception.
    max_concurrency : int
        Number of threads.
    """

    identity = "callable"

    def __init__(self, function, max_retries, max_concurrency):
        self._function = function
        self._max_retries = max_retries
        self._max_concurrency = max_concurrency

    async def __aenter__(self):
        self._threads = ThreadPoolExecutor(self._max_concurrency)
        return self

    async def __aexit__(self, *error):
        self._threads.shutdown(cancel_futures=True)

    async def complete(self, payload: dict[str, Any]) -> Reply:
        """Call the function, and retry after an exception.

        Parameters
        ----------
        payload : dict
            Arguments of a chat completion.

        Returns
        -------
        Reply
            A chat completion as JSON.

        Raises
        ------
        RequestFailed
            If the last call raised an exception, too.
        """
        for attempt in range(self._max_retries + 1):
            try:
                completion = _as_completion(await self._call(payload))
                return Reply(json.dumps(completion, default=str).encode(), attempt)
            except Exception as error:
                # openai's and LiteLLM's exceptions know the status.
                status = getattr(error, "status_code", None)
                fatal = _FATAL.get(status) if isinstance(status, int) else None
                reason = f"{type(error).__name__}: {_short(error)}"
                failed = RequestFailed(reason, fatal=fatal, retries=attempt)
            if failed.fatal or attempt == self._max_retries:
                break
            await back_off(attempt)
        raise failed

    async def _call(self, payload):
        if iscoroutinefunction(self._function):
            return await self._function(**payload)
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._threads, lambda: self._function(**payload))
        return await answer if isawaitable(answer) else answer


def _as_completion(answer) -> dict:
    """Convert the return value of a callable to a chat completion."""
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


async def back_off(attempt: int) -> None:
    """Pause before a retry, longer each time.

    Parameters
    ----------
    attempt : int
        Number of retries before this one.
    """
    # Jitter needs no seed: it changes no result.
    await asyncio.sleep(min(0.5 * 2**attempt, 8) * random.uniform(0.75, 1))
