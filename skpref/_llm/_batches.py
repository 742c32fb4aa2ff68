"""Batches of requests, which an endpoint answers at its leisure.

Each step is written down in the cache before the next one, so that any process can take up where
another one ended: a file is uploaded, then noted; a batch is made of it, then noted; answers are
kept; then the note is removed. A batch whose making was not noted is found by its file.
"""

import json
import tempfile
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from skpref._llm._backends import RequestFailed, failure_of_error, failure_of_status, find_key
from skpref._llm._completion import Malformed, read_completion, words_of
from skpref._llm._costs import Budget
from skpref._llm._runner import TRANSPORT, Ask, Runner, back_off, key_of
from skpref._llm._secrets import find_secrets, reveal_secrets
from skpref._llm._store import Batch, CacheError, Store, StoreLocked

MAX_LINES = 50_000  # of one batch, by the protocol
MAX_BYTES = 50_000_000  # of one file; the protocol allows more, but an upload may break
_ENDED = {"completed", "failed", "expired", "cancelled"}
_PAUSES = 5.0, 60.0  # seconds between looks at a batch, the first and the longest
_CLAIM = 900.0  # seconds in which a file is uploaded
_PATIENCE = 30.0  # seconds that another process may lock the cache


class BatchApi:
    """The files and batches of an OpenAI-compatible endpoint.

    Parameters
    ----------
    openai : module
        The package.
    base_url : str or None
        Address of the endpoint.
    api_key : Secret or None
        Its key.
    identity : str
        The address as the cache knows it.
    params : dict
        Further arguments of requests, of which headers and query are used.
    timeout : float
        Seconds before a call times out; an upload or download has ten times as long.
    max_retries : int
        Number of retries after a transient failure.
    """

    def __init__(self, openai, base_url, api_key, identity, params, *, timeout, max_retries):
        key = find_key(base_url, api_key)
        self._openai = openai
        self._secrets = [*find_secrets(params), *([key] if key != "none" else [])]
        self._identity = identity
        self._timeout = timeout
        self._max_retries = max_retries
        self._client = openai.OpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=0,
            timeout=timeout,
            default_headers=reveal_secrets(params.get("extra_headers")),
            default_query=params.get("extra_query"),
        )
        self._slow = self._client.with_options(timeout=10 * timeout)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _once(self, call: Callable) -> Any:
        try:
            return call()
        except RequestFailed:
            raise
        except Exception as error:
            failed = failure_of_error(
                self._openai, error, self._secrets, self._identity, self._timeout
            )
        raise failed

    def _patiently(self, call: Callable) -> Any:
        for retries in range(self._max_retries + 1):
            try:
                return self._once(call)
            except RequestFailed as failure:
                failed = failure
            if not failed.transient or retries == self._max_retries:
                break
            time.sleep(min(failed.pause or back_off(retries), 600))
        kind = failed.fatal or ConnectionError
        raise kind(f"Batches cannot be used now ({failed}). What was done is kept.")

    def upload(self, path: Path) -> str:
        """Upload a file of requests.

        Parameters
        ----------
        path : Path
            The file.

        Returns
        -------
        str
            Its id.
        """

        def call():
            with path.open("rb") as file:
                return self._slow.files.create(file=file, purpose="batch").id

        return self._patiently(call)

    def submit(self, file: str, *, is_new: bool) -> str:
        """Make a batch of a file, unless there is one.

        Parameters
        ----------
        file : str
            Id of the file.
        is_new : bool
            Whether there can be none yet.

        Returns
        -------
        str
            Id of the batch.
        """
        tries = 0

        def find_or_make():
            # A batch may have been made although no response came.
            nonlocal tries
            tries += 1
            for batch in self._client.batches.list(limit=100) if tries > is_new else ():
                if batch.input_file_id == file:
                    return batch.id
            return self._client.batches.create(
                input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
            ).id

        return self._patiently(find_or_make)

    def look(self, batch: str) -> Any:
        """Return the state of a batch.

        Parameters
        ----------
        batch : str
            Its id.

        Returns
        -------
        object
            Has status, counts, and ids of the files with results.
        """
        return self._patiently(lambda: self._client.batches.retrieve(batch))

    def download(self, files: list[str | None], n_lines: int) -> list[dict]:
        """Return the lines of files with results, which must be whole.

        Parameters
        ----------
        files : list of (str or None)
            Ids of the files; None if there is none.
        n_lines : int
            Number of lines that they have at least.

        Returns
        -------
        list of dict
            The lines.
        """

        def call():
            contents = [self._slow.files.content(file).read() for file in files if file]
            lines = [line for content in contents for line in content.splitlines() if line.strip()]
            try:
                lines = [json.loads(line) for line in lines]
            except ValueError:
                lines = []
            if len(lines) < n_lines or (any(contents) and not lines):
                raise RequestFailed("a file with results is not whole")
            return lines

        return self._patiently(call)


class Progress(NamedTuple):
    """Shows how far batches are, and how long to wait for them."""

    show: Callable[[str], None]
    deadline: float  # by time.monotonic


class BatchRun:
    """Brings the answers of questions into the cache by batches.

    Parameters
    ----------
    api : BatchApi
        The endpoint.
    identity : str
        Who answers.
    store : Store
        The cache, opened.
    budget : Budget
        Counts what is taken.
    max_retries : int
        Number of further batches in which a question is asked that was not answered.

    Attributes
    ----------
    failed : dict
        Reasons by key, of the questions that got no answer.
    n_collected : int
        Number of answers that were collected.
    """

    def __init__(
        self, api: BatchApi, identity: str, store: Store, budget: Budget, max_retries: int
    ):
        self._api = api
        self._identity = identity
        self._store = store
        self._budget = budget
        self._max_retries = max_retries
        self._reserved: dict[str, float] = {}  # by key
        self._tries: Counter[str] = Counter()
        self._is_over = False  # whether the budget allows no further request
        self.failed: dict[str, str] = {}
        self.n_collected = 0

    def run(self, write_asks: Callable[[], Iterable[Ask]], progress: Progress) -> None:
        """Submit what is not known and not under way, and collect until all is known.

        Parameters
        ----------
        write_asks : callable
            Returns the questions, each time all of them.
        progress : Progress
            Shows how far batches are.
        """
        wanted = {key_of(ask, self._identity) for ask in write_asks()}
        pause = _PAUSES[0]
        while True:
            left = wanted - _patiently(self._store.keys) - set(self.failed)
            under_way = [b for b in self._batches() if not left.isdisjoint(b.keys)]
            if not left:
                return
            if left.difference(*(b.keys for b in under_way)) and not self._is_over:
                self._submit(write_asks(), left)
                continue
            if not under_way:
                raise self._budget.error()
            if any(self._collect(batch, progress) for batch in under_way):
                pause, self._is_over = _PAUSES[0], False
                continue
            if time.monotonic() + pause > progress.deadline:
                raise TimeoutError(
                    f"{len(under_way)} batches with {len(left):,} answers are pending. The same "
                    "call takes them up, now or on another day."
                )
            time.sleep(pause)
            pause = min(1.5 * pause, _PAUSES[1])

    def _batches(self) -> list[Batch]:
        return _patiently(self._store.batches, self._identity)

    def _submit(self, asks: Iterable[Ask], left: set[str]) -> None:
        """Send the questions that no batch has; only one process at a time does."""
        claim = f"batches of {self._identity}"
        while not _patiently(self._store.claim, claim, _CLAIM):
            time.sleep(0.5)
        try:
            known = _patiently(self._store.keys)
            known.update(*(batch.keys for batch in self._batches()))
            todo = ((key, ask) for ask in asks if (key := key_of(ask, self._identity)) in left)
            lines = self._write_lines((key, ask) for key, ask in todo if key not in known)
            while self._send_file(lines):
                _patiently(self._store.claim, claim, _CLAIM)
        finally:
            _patiently(self._store.release, claim)

    def _write_lines(self, asks: Iterable[tuple[str, Ask]]) -> Iterator[tuple[str, bytes]]:
        """Write requests as the protocol has them, as many as the budget allows."""
        seen: set[str] = set()
        for key, ask in asks:
            most = self._budget.most(ask.payload)
            if key in seen:
                continue
            if not self._budget.enter(most):
                self._is_over = True
                return
            seen.add(key)
            self._reserved[key] = most
            unsent = TRANSPORT - {"response_format"} | {"extra_body", "extra_query"}
            body = {k: v for k, v in ask.payload.items() if k not in unsent}
            body |= dict(ask.payload.get("extra_body") or {})
            line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            yield key, json.dumps(line, default=str).encode() + b"\n"

    def _send_file(self, lines: Iterator[tuple[str, bytes]]) -> bool:
        """Send the next lines as a batch; return whether there were any."""
        keys: list[str] = []
        size = 0
        with _temporary_file() as path:
            with path.open("wb") as file:
                for key, line in lines:
                    keys.append(key)
                    size += file.write(line)
                    if len(keys) == MAX_LINES or size >= MAX_BYTES:
                        break
            if not keys:
                return False
            file_id = self._api.upload(path)
        name = uuid.uuid4().hex
        batch = Batch(name, self._identity, file_id, None, frozenset(keys))
        _patiently(self._store.add_batch, batch)
        self._note(name, self._api.submit(file_id, is_new=True))
        return True

    def _note(self, name: str, batch: str) -> None:
        _patiently(self._store.note_batch, name, batch)

    def _collect(self, batch: Batch, progress: Progress) -> bool:
        """Keep the results of a batch if it has ended; return whether it has."""
        if batch.batch is None:  # a process ended before it noted it
            self._note(batch.name, self._api.submit(batch.file, is_new=False))
            return True
        state = self._api.look(batch.batch)
        counts = getattr(state, "request_counts", None)
        n_done = getattr(counts, "completed", None) or 0
        progress.show(f"{state.status}, {n_done:,} of {len(batch.keys):,}")
        if state.status not in _ENDED:
            return False
        unanswered = set(batch.keys)
        for line in self._api.download([state.output_file_id, state.error_file_id], n_done):
            if line.get("custom_id") in unanswered:
                unanswered.discard(self._keep(line))
        for key in unanswered - _patiently(self._store.keys):
            self._give_up(key, f"no result in a batch that is {state.status}", transient=True)
        _patiently(self._store.remove_batch, batch.name)
        for key in batch.keys:
            if key in self._reserved:
                self._budget.leave(self._reserved.pop(key))
        if state.status in ("failed", "cancelled"):
            errors = (state.model_dump().get("errors") or {}).get("data")
            reason = words_of(errors) or "no reason given"
            raise RuntimeError(
                f"The batch {batch.batch} is {state.status}: {reason}. Its answers are kept, and "
                "the same call asks for the rest again."
            )
        return True

    def _keep(self, line: dict) -> str:
        """Keep the answer in a line of results, or its reason; return its key."""
        key = str(line.get("custom_id"))
        response = line.get("response") or {}
        status, body = response.get("status_code"), response.get("body") or {}
        if status == 200:
            try:
                read_completion(body)
            except Malformed as error:
                self._give_up(key, str(error), transient=True)
                return key
            if _patiently(self._store.get, key) is None:
                content = zlib.compress(json.dumps(body).encode(), 1)
                _patiently(self._store.put, key, content)
                self._budget.usage.add_tokens(body)
                self._budget.usage.requests += 1
                self.n_collected += 1
            return key
        reason = words_of(line.get("error")) or words_of(body)
        if isinstance(status, int) and status:
            failure = failure_of_status(status, f"HTTP {status}: {reason}")
            self._give_up(key, str(failure), transient=failure.transient)
        else:  # such as batch_expired
            self._give_up(key, reason or "no result", transient=True)
        return key

    def _give_up(self, key: str, reason: str, *, transient: bool) -> None:
        """Let a question be asked again in a further batch, or note why it has no answer."""
        self._tries[key] += 1
        if not transient or self._tries[key] > self._max_retries:
            self.failed[key] = reason


def _patiently(action: Callable, *arguments: Any) -> Any:
    """Call a method of the store, again while another process locks it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return action(*arguments)
        except StoreLocked:
            if time.monotonic() > deadline:
                raise CacheError("The cache has been locked by another process too long.") from None
        time.sleep(0.05)


@contextmanager
def _temporary_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="skpref-") as folder:
        yield Path(folder) / "requests.jsonl"


def collect_batches(
    api: BatchApi,
    identity: str,
    runner: Runner,
    write_asks: Callable[[], Iterable[Ask]],
    wait: bool | float,
    show: Callable[[str], None],
) -> None:
    """Bring the answers of a run into its cache by batches.

    Parameters
    ----------
    api : BatchApi
        The endpoint, which is closed at the end.
    identity : str
        Who answers.
    runner : Runner
        The run, whose cache, budget and failures are used.
    write_asks : callable
        Returns the questions, each time all of them.
    wait : bool or float
        True waits until all batches have ended, a number so many seconds.
    show : callable
        Shows how far the batches are.
    """
    _patiently(runner.store.open)
    run = BatchRun(api, identity, runner.store, runner.budget, runner.max_retries)
    run.failed = runner.failed
    seconds = float("inf") if wait is True else float(wait)
    try:
        run.run(write_asks, Progress(show, time.monotonic() + seconds))
    finally:
        runner.store.close()
        api.close()
        # What was collected is then read from the cache, but it was asked for in this run.
        runner.usage.cache_hits -= run.n_collected
