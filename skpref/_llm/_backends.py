"""The two that answer: an endpoint or a callable. Each asks once; the runner retries."""

import asyncio
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import mktime_tz, parsedate_tz
from inspect import isawaitable, iscoroutinefunction
from typing import Any, NamedTuple

from skpref._llm._completion import words_of
from skpref._llm._secrets import Secret, find_secrets, redact, reveal_secrets
from skpref._optional import import_optional

NEED = ("Asking an LLM", "llm")

# Statuses after which every other request would most likely fail, too: a refused key, no credit,
# no permission, an unknown model or address.
_FATAL = {401: PermissionError, 402: PermissionError, 403: PermissionError, 404: LookupError}
# 408 and 409 are timeouts and conflicts, 425 and 429 ask to come back later.
_TRANSIENT = {408, 409, 425, 429}
# Quotas that no pause within a run brings back.
_SPENT = re.compile(
    r"insufficient_quota|exceeded your current quota|per.?day\b|daily|per.?month|monthly"
    r"|(?:no|out of|insufficient) credit",
    re.I,
)
_FORMAT = re.compile(r"response_format|json_?schema|json_object|structured|guided|grammar", re.I)
_PAUSE = re.compile(
    r"(?:retry|try again|wait|resets?)\D{0,25}?((?:\d+(?:\.\d+)?\s*"
    r"(?:ms|milliseconds?|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)\b\s*)+|(?:\d+h)?(?:\d+m)?"
    r"\d+(?:\.\d+)?s)",
    re.I,
)
_UNITS = {"ms": 0.001, "mi": 60, "m": 60, "h": 3600, "s": 1}
# A callable that raises one of these is wrong, and will be at every call.
_MISTAKES = (TypeError, AttributeError, NameError, ImportError, NotImplementedError, AssertionError)


class Reply(NamedTuple):
    """A response as it came, and the number of calls that it took."""

    body: bytes
    calls: int


class RequestFailed(Exception):
    """A request that brought no answer.

    Parameters
    ----------
    reason : str
        The cause, without keys.
    status : int, default=None
        HTTP status of the response.
    fatal : type of Exception, default=None
        What to raise if other requests fail like this one.
    transient : bool, default=True
        Whether the cause may pass.
    pause : float, default=None
        Seconds until the server wants to be asked again.
    calls : int, default=1
        Number of calls that were made.
    """

    def __init__(self, reason, *, status=None, fatal=None, transient=True, pause=None, calls=1):
        super().__init__(reason)
        self.status: int | None = status
        self.fatal: type[Exception] | None = fatal
        self.transient: bool = transient
        self.pause: float | None = pause
        self.calls: int = calls


def failure_of_status(status: int, reason: str, pause: float | None = None) -> RequestFailed:
    """Judge a failed request by its status and the words of the server.

    Parameters
    ----------
    status : int
        HTTP status, also one that a gateway reports in a response.
    reason : str
        The words of the server.
    pause : float, default=None
        Seconds that its headers ask to wait.

    Returns
    -------
    RequestFailed
        What to raise.
    """
    transient = status in _TRANSIENT or status >= 500
    fatal = _FATAL.get(status)
    if pause is None:
        pause = _pause_in_words(reason)
    if status == 429 and pause is None and _SPENT.search(reason):
        fatal, transient = ConnectionError, False
    return RequestFailed(reason, status=status, fatal=fatal, transient=transient, pause=pause)


def _pause_in_words(text: str) -> float | None:
    match = _PAUSE.search(text)
    if match is None:
        return None
    pieces = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", match[1].casefold())
    return sum(float(n) * _UNITS.get(unit[:2], _UNITS.get(unit[:1], 1)) for n, unit in pieces)


def pause_in_headers(headers) -> float | None:
    """Return the seconds that the headers of a response ask to wait.

    Parameters
    ----------
    headers : mapping
        With "retry-after-ms", or "retry-after" in seconds or as a date.

    Returns
    -------
    float or None
        The seconds, None if there are none.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name)) * unit
        except (TypeError, ValueError):
            continue
        return seconds if 0 <= seconds < float("inf") else None
    date = parsedate_tz(headers.get("retry-after") or "")
    return None if date is None else max(mktime_tz(date) - time.time(), 0.0)


class Endpoint:
    """An OpenAI-compatible server, asked through the openai package.

    Parameters
    ----------
    base_url : str or None
        Address. None is that in OPENAI_BASE_URL, else OpenAI's.
    api_key : Secret or None
        None takes OPENAI_API_KEY.
    timeout : float
        Seconds before a request times out, however the time is spent.
    """

    def __init__(self, base_url, api_key, timeout):
        self._openai = import_optional("openai", *NEED)
        self._key = find_key(base_url, api_key)
        self._settings = {"base_url": base_url, "timeout": timeout, "max_retries": 0}
        self._timeout = timeout
        self._headers: dict[str, str] | None = None
        self.capabilities: dict[str, Any] = {}
        self.identity = identity_of(None, base_url)

    async def __aenter__(self):
        self._client = self._openai.AsyncOpenAI(api_key=self._key, **self._settings)
        self._looking = asyncio.Lock()
        return self

    async def __aexit__(self, *error):
        await self._client.close()

    async def complete(self, payload: dict[str, Any]) -> Reply:
        """Ask once; a second time without structured output if the server refuses that.

        Parameters
        ----------
        payload : dict
            Arguments of a chat completion. "choices" are the only texts that may be answered.

        Returns
        -------
        Reply
            The response.

        Raises
        ------
        RequestFailed
            If there is no response.
        """
        plain = {k: v for k, v in payload.items() if k not in ("response_format", "choices")}
        form, structured = await self._structure(payload, plain)
        if self.capabilities.get(form) is False or len(plain) == len(payload):
            return Reply(await self._create(plain), 1)
        try:
            body = await self._create(structured)
        except RequestFailed as failed:
            if failed.status not in (400, 422, 501) or not _FORMAT.search(str(failed)):
                raise
            failed.calls = 2
            refused = failed
        else:
            self.capabilities[form] = True
            return Reply(body, 1)
        try:
            body = await self._create(plain)
        except RequestFailed as failed:
            failed.calls = 2
            raise (refused if failed.status == refused.status else failed) from None
        # If others went through with it, this one says nothing about the server.
        if form not in self.capabilities:
            self.capabilities[form] = False
        return Reply(body, 2)

    async def _structure(self, payload: dict, plain: dict) -> tuple[str, dict]:
        """Return the form in which the server is told what to answer, and the arguments."""
        if "response_format" in payload:
            return "schema", plain | {"response_format": payload["response_format"]}
        if "choices" not in payload:
            return "plain", plain
        async with self._looking:
            if "server" not in self.capabilities:
                self.capabilities["server"] = await self._find_server()
        form = {"vllm": "choice", "llamacpp": "grammar"}.get(self.capabilities["server"], "schema")
        return form, _write_choices(form, plain, payload["choices"])

    async def _find_server(self) -> str:
        """Return who owns the models, by which vLLM and llama.cpp are known; "" if not said."""
        try:
            async with asyncio.timeout(min(self._timeout, 10)):
                response = await self._client.models.with_raw_response.list()
            models = json.loads(response.http_response.content)["data"]
            return str(models[0].get("owned_by") or "").casefold()
        except Exception:  # an endpoint need not list its models
            return ""

    async def _create(self, payload: dict[str, Any]) -> bytes:
        openai, secrets = self._openai, find_secrets(payload)
        if self._key != "none":
            secrets.append(self._key)
        limit = payload.get("timeout")
        limit = limit if isinstance(limit, int | float) else self._timeout
        arguments = reveal_secrets(payload)
        headers = arguments.pop("extra_headers", None)
        try:
            # Headers are those of the client, since openai logs the ones of a request.
            if headers and self._headers != headers:
                self._headers = headers
                self._client = self._client.with_options(default_headers=headers)
            # Raw: building the response objects takes longer than reading the JSON.
            create = self._client.chat.completions.with_raw_response.create
            async with asyncio.timeout(limit):
                response = await create(**arguments)
                return response.http_response.content
        except Exception as error:
            failed = failure_of_error(openai, error, secrets, self.identity, limit)
        raise failed  # here, so that its context holds no request with headers


def failure_of_error(openai, error: Exception, secrets, identity: str, limit) -> RequestFailed:
    """Judge an exception of the openai package.

    Parameters
    ----------
    openai : module
        The package.
    error : Exception
        What it raised.
    secrets : list of str
        What must not be shown.
    identity : str
        Address of the endpoint.
    limit : float
        The timeout in seconds.

    Returns
    -------
    RequestFailed
        What to raise.
    """
    if isinstance(error, openai.APIStatusError):
        reason = f"HTTP {error.status_code}: {_words_of_response(error)}"
        if error.status_code == 404 and not re.search(r"/v\d", identity):
            reason += f" (the address {identity} has no /v1 at its end; is it right?)"
        pause = pause_in_headers(error.response.headers)
        if pause is None:
            pause = _pause_in_words(_body_of(error))
        return failure_of_status(error.status_code, redact(reason, secrets), pause)
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return RequestFailed(f"no answer within the timeout of {limit:g} s")
    if isinstance(error, openai.APIConnectionError):
        return RequestFailed(redact(f"{_chain(error)} at {identity}", secrets))
    # A request that cannot even be written, such as one with half a character in it.
    return RequestFailed(redact(f"{type(error).__name__}: {error}", secrets), transient=False)


def identity_of(client, base_url: str | None) -> str:
    """Return who answers, as the cache knows it.

    Parameters
    ----------
    client : callable or None
        Answers instead of an endpoint.
    base_url : str or None
        Address of the endpoint.

    Returns
    -------
    str
        The address.
    """
    if client is not None:
        return Function.identity
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    return base_url.rstrip("/")


def _write_choices(form: str, plain: dict, choices: list[str]) -> dict:
    """Add to a request what makes a server answer with one of the choices."""
    if form == "schema":
        schema = {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": choices}},
            "required": ["label"],
            "additionalProperties": False,
        }
        json_schema = {"name": "label", "strict": True, "schema": schema}
        return plain | {"response_format": {"type": "json_schema", "json_schema": json_schema}}
    if form == "grammar":
        options = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
        extra: dict[str, Any] = {"grammar": f"root ::= {options}"}
    else:  # by the names of old and new versions of vLLM, which ignore the other one
        extra = {"guided_choice": choices, "structured_outputs": {"choice": choices}}
    return plain | {"extra_body": extra | dict(plain.get("extra_body") or {})}


def find_key(base_url: str | None, api_key: Secret | None) -> str:
    """Return the key of an endpoint, after a check that it can be sent.

    Parameters
    ----------
    base_url : str or None
        Address of the endpoint.
    api_key : Secret or None
        The parameter of that name.

    Returns
    -------
    str
        The key, "none" if the server needs none.
    """
    name = "OPENAI_API_KEY" if api_key is None else "api_key"
    key = os.environ.get("OPENAI_API_KEY") if api_key is None else api_key.reveal()
    if not key and base_url is None and "OPENAI_BASE_URL" not in os.environ:
        raise ValueError(
            "api_key is not given and OPENAI_API_KEY is not set; pass api_key=..., or "
            "base_url=... for a server that needs none."
        )
    if key and not re.fullmatch(r"[!-~]+", key):
        raise ValueError(
            f"{name} has blanks, line ends or characters that no key has, such as curly quotes; "
            "copy it again without them."
        )
    return key or "none"


def _words_of_response(error) -> str:
    """Return the words of a server that refused, whatever the form of the body."""
    text = _body_of(error)
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    return words_of(body) or " ".join(str(error).split())


def _body_of(error) -> str:
    try:
        return error.response.text
    except Exception:  # a body that was not read, or cannot be
        return ""


def _chain(error: BaseException) -> str:
    """Return an error with its causes, which say what was wrong with a connection."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < 4:
        words = " ".join(str(cause).split()) or type(cause).__name__
        if not any(words in part for part in parts):
            parts.append(words)
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: " + ": ".join(part.rstrip(".") for part in parts)


class Function:
    """A callable that takes the arguments of a chat completion.

    Parameters
    ----------
    function : callable
        Plain, which runs in threads, or a coroutine function.
    max_concurrency : int
        Number of threads.
    """

    identity = "callable"

    def __init__(self, function, max_concurrency):
        self.capabilities: dict[str, Any] = {}
        self._function = function
        self._max_concurrency = max_concurrency

    async def __aenter__(self):
        self._threads = ThreadPoolExecutor(self._max_concurrency)
        return self

    async def __aexit__(self, *error):
        self._threads.shutdown(cancel_futures=True)

    async def complete(self, payload: dict[str, Any]) -> Reply:
        """Call the function once.

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
            If the function raises an exception.
        """
        payload = {k: v for k, v in payload.items() if k != "choices"}
        try:
            completion = _as_completion(await self._call(reveal_secrets(payload)))
            return Reply(json.dumps(completion, default=str).encode(), 1)
        except Exception as error:
            failed = _failure_of_exception(error, find_secrets(payload))
        raise failed

    async def _call(self, payload):
        if iscoroutinefunction(self._function):
            return await self._function(**payload)
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._threads, lambda: self._function(**payload))
        return await answer if isawaitable(answer) else answer


def _failure_of_exception(error: Exception, secrets: list[str]) -> RequestFailed:
    reason = redact(f"{type(error).__name__}: {error}", secrets)
    status = getattr(error, "status_code", None)  # of openai's and LiteLLM's exceptions
    if isinstance(status, int):
        headers = getattr(getattr(error, "response", None), "headers", None)
        pause = None if headers is None else pause_in_headers(headers)
        return failure_of_status(status, reason, pause)
    return RequestFailed(reason, transient=not isinstance(error, (*_MISTAKES, UnusableAnswer)))


class UnusableAnswer(ValueError):
    """A return value that is not an answer."""


def _as_completion(answer) -> dict:
    """Convert the return value of a callable to a chat completion."""
    if hasattr(answer, "model_dump"):  # openai's and LiteLLM's responses
        answer = answer.model_dump()
    if isinstance(answer, str):
        return {"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]}
    if isinstance(answer, dict) and "choices" not in answer:
        tokens = [{"token": t, "logprob": float(p)} for t, p in answer.items()]
        if any(token["logprob"] > 1e-3 for token in tokens):
            raise UnusableAnswer(
                "client returned log-probabilities above 0; return the logarithms of the "
                "probabilities."
            )
        logprobs = {"content": [{"token": "", "logprob": 0.0, "top_logprobs": tokens}]}
        return {"choices": [{"message": {"content": ""}, "logprobs": logprobs}]}
    if not isinstance(answer, dict):
        raise TypeError(
            f"client returned a {type(answer).__name__}; return the text of the answer, the "
            "log-probabilities of its first token by token, or a chat completion."
        )
    return answer


def make_backend(client, base_url, api_key, timeout, max_concurrency) -> Endpoint | Function:
    """Choose who answers.

    Parameters
    ----------
    client : callable or None
        Answers instead of an endpoint.
    base_url : str or None
        Address of the endpoint.
    api_key : Secret or None
        Its key.
    timeout : float
        Seconds before a request to it times out.
    max_concurrency : int
        Number of requests at the same time.

    Returns
    -------
    Endpoint or Function
        The backend.
    """
    if client is None:
        return Endpoint(base_url, api_key, timeout)
    return Function(client, max_concurrency)
