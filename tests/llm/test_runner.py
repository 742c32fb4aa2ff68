"""Whole runs: what ends them, what is kept, what is counted, what users read."""

import itertools
import logging
import os
import pickle
import re
import signal
import sqlite3
import threading
import time
import warnings

import numpy as np
import pytest

from skpref import LLMLabeler
from skpref._cache import open_cache
from skpref._llm._store import CacheError, Store
from tests.llm.stub import StubLLM, by_option, completion

KEY = "sk-very-secret-0123456789"
CLASSES = ["negative", "positive"]
PROMPT = {"p": "{options}\n{answer}\n{utterance}"}
TEXTS = [f"text {i}" for i in range(40)]


@pytest.fixture
def stub():
    server = StubLLM(lambda request: said("positive"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr("skpref._llm._runner.back_off", lambda retries: 0.01)
    monkeypatch.setattr("skpref._llm._limits.Limiter.FIRST_PAUSE", 0.01)


def said(text, finish="stop", **message):
    return completion(text, finish_reason=finish, **message)


def asked(request):
    return request["messages"][-1]["content"]


def make(stub=None, classes=CLASSES, prompts=PROMPT, **params):
    params = {"model": "m", "scoring": "label", "verbose": False, "max_retries": 2} | params
    if stub is not None:
        params = {"base_url": stub.url, "api_key": KEY} | params
    return LLMLabeler(classes, prompts, **params)


def transform(labeler, X=TEXTS):
    """Scores, without the warning of missing answers, and the rows that have none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*answers are missing", UserWarning)
        warnings.filterwarnings("ignore", "With the prompt", UserWarning)
        scores = labeler.fit(X).transform(X)
    return scores, np.flatnonzero(np.isnan(scores[:, 0, 0])).tolist()


def refuse(rows, reply):
    """Answer all but the given rows, which get another reply."""
    marks = [f'"text {i}"' for i in rows]
    return lambda r: reply if any(m in asked(r) for m in marks) else said("positive")


# --- a run gets past rows that fail for good, and can be repeated


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "max_concurrency"),
    [
        *((status, 1) for status in (400, 401, 402, 403, 404, 413, 422, 500)),
        (400, 8),
        (401, 8),
        (500, 8),
    ],
)
def test_one_row_that_always_fails_is_missing_in_each_run(stub, tmp_path, status, max_concurrency):
    stub.answer = refuse([17], status)
    for _ in range(3):
        labeler = make(stub, cache=tmp_path, max_concurrency=max_concurrency, max_retries=1)
        scores, missing = transform(labeler)
        assert missing == [17]
        assert (scores[:17, 0, 1] == 1).all()
        assert f"HTTP {status}" in labeler.failures_[0].reason
        assert labeler.usage_["failures"] == len(labeler.failures_) == 1
    assert labeler.usage_["cache_hits"] == 39


@pytest.mark.slow
@pytest.mark.parametrize("rows", [range(12), range(20, 40), range(3, 40, 3)])
@pytest.mark.parametrize("status", [400, 403])
def test_many_refused_rows_do_not_end_a_run(stub, tmp_path, rows, status):
    stub.answer = refuse(rows, (status, "content management policy"))
    for _ in range(2):
        assert transform(make(stub, cache=tmp_path))[1] == list(rows)


@pytest.mark.slow
@pytest.mark.parametrize("row", [0, 17])
def test_one_answer_without_log_probabilities_is_missing_and_not_paid_again(stub, tmp_path, row):
    mark = f'"text {row}"'
    stub.answer = lambda r: said("A") if mark in asked(r) else by_option(r)
    labeler = make(stub, cache=tmp_path, scoring="logprobs", max_concurrency=4)
    assert transform(labeler)[1] == [row]
    stub.requests.clear()
    assert transform(labeler)[1] == [row]
    assert stub.requests == []
    assert "no log-probabilities" in labeler.failures_[0].reason


def test_a_server_without_log_probabilities_ends_the_run_and_keeps_nothing(stub, tmp_path):
    stub.answer = lambda r: said("A")
    labeler = make(stub, cache=tmp_path, scoring="logprobs")
    with pytest.raises(ValueError, match="come without log-probabilities"):
        transform(labeler)
    assert len(stub.requests) <= 9
    stub.answer = by_option
    assert transform(labeler)[1] == []


def test_half_a_character_is_written_as_an_escape(stub):
    X = ["fine", "broken \ud83d emoji", "thanks"]
    assert transform(make(stub), X)[1] == []
    assert any('"broken \\ud83d emoji"' in asked(r) for r in stub.requests)


def test_a_request_that_cannot_be_written_fails_alone(stub):
    prompts = {"bad": "\ud83d {options} {answer} {utterance}", "p": PROMPT["p"]}
    scores, _ = transform(make(stub, prompts=prompts), ["a", "b"])
    assert np.isnan(scores[:, 0]).all()
    assert (scores[:, 1, 1] == 1).all()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (401, PermissionError),
        ((402, "no credit"), PermissionError),
        (403, PermissionError),
        (404, LookupError),
        (400, ConnectionError),
        (500, ConnectionError),
        ((429, "you exceeded your current quota"), ConnectionError),
    ],
)
def test_a_server_that_refuses_everything_ends_the_run_soon(stub, reply, kind):
    stub.answer = lambda r: reply
    with pytest.raises(kind, match="Earlier answers are kept"):
        transform(make(stub, max_concurrency=4, max_retries=0))
    assert len(stub.requests) <= 4 + 4 + 1


# --- what is in flight is kept


def test_requests_in_flight_are_kept_when_a_row_raises(stub, tmp_path):
    stub.answer = refuse([3], (400, "nope"))
    stub.delay = 0.2
    labeler = make(stub, cache=tmp_path, on_error="raise")
    with pytest.raises(RuntimeError, match="Row 3 got no score"):
        transform(labeler)
    n = len(stub.requests)
    stub.answer = lambda r: said("positive")
    stub.requests.clear()
    transform(labeler)
    assert len(stub.requests) == 40 - (n - 1)


def test_requests_in_flight_are_kept_after_ctrl_c(stub, tmp_path):
    stub.delay = 0.3
    labeler = make(stub, cache=tmp_path, max_concurrency=4).fit(TEXTS)

    def interrupt():
        while len(stub.requests) < 6:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        labeler.transform(TEXTS)
    thread.join()
    n = len(stub.requests)
    stub.requests.clear()
    stub.delay = 0
    labeler.transform(TEXTS)
    assert len(stub.requests) == 40 - n


# --- samples


@pytest.mark.parametrize("seed", [{}, {"seed": None}, {"seed": 7}])
def test_each_sample_is_an_answer_of_its_own(stub, seed):
    turn = itertools.count()
    stub.answer = lambda r: said(CLASSES[next(turn) % 2])
    labeler = make(stub, n_samples=8, temperature=1.0, max_concurrency=1, request_params=seed)
    scores, _ = transform(labeler, ["a", "b"])
    np.testing.assert_allclose(scores, 0.5)
    assert len(stub.requests) == 16
    seeds = sorted({r.get("seed", -1) for r in stub.requests})
    first = seed.get("seed", 0)
    assert seeds == ([-1] if first is None else list(range(first, first + 8)))


# --- counts


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [said(None, "length"), said("", "stop"), said("<think>negative", "length"), said("neither")],
)
def test_useless_answers_are_paid_once_counted_and_kept(stub, tmp_path, answer):
    stub.answer = lambda r: answer
    labeler = make(stub, cache=tmp_path, prices=(1, 10), max_retries=5)
    assert transform(labeler, ["a", "b"])[1] == [0, 1]
    assert len(stub.requests) == 2
    usage = {"requests": 2, "retries": 0, "failures": 2, "prompt_tokens": 20}
    assert labeler.usage_.items() >= usage.items()
    assert labeler.usage_["cost"] == pytest.approx((20 + 2 * 10) / 1e6)
    transform(labeler, ["a", "b"])
    assert len(stub.requests) == 2
    assert labeler.usage_.items() >= {"requests": 0, "failures": 2, "cache_hits": 2}.items()


def test_tokens_of_answers_that_are_asked_again_are_counted(stub):
    stub.faults = [said("positive", "error"), said("positive", "error")]
    labeler = make(stub)
    assert transform(labeler, ["a"])[1] == []
    assert labeler.usage_.items() >= {"prompt_tokens": 30, "requests": 1, "retries": 2}.items()


def test_retries_are_those_that_were_made(stub):
    stub.answer = lambda r: 503
    stub.faults = [(503, {"Retry-After": "150"})]
    labeler = make(stub, max_retries=4)
    transform(labeler, ["a"])
    assert (len(stub.requests), labeler.usage_["retries"]) == (1, 0)


# --- words of servers


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]}, "seed: Extra inputs"),
        ({"error": "model 'm' not found, pull it first"}, "pull it first"),
        ([{"error": {"code": 400, "message": "API key not valid"}}], "API key not valid"),
    ],
)
def test_the_words_of_the_server_are_in_the_reason(stub, body, words):
    stub.answer = lambda r: (400, body)
    labeler = make(stub)
    transform(labeler, ["a"])
    assert words in labeler.failures_[0].reason


def test_the_words_of_a_gateway_in_a_good_response_are_in_the_error(stub):
    error = {"message": "Rate limit exceeded: free-models-per-day", "code": 429}
    stub.answer = lambda r: {"error": error}
    with pytest.raises(ConnectionError, match="free-models-per-day"):
        transform(make(stub))


@pytest.mark.parametrize("body", [{"detail": "response_format json_schema is not supported"}])
def test_structured_output_is_given_up_for_any_words(stub, body):
    whole = said('{"negative": 0.1, "positive": 0.9}')
    stub.answer = lambda r: (400, body) if "response_format" in r else whole
    labeler = make(stub, scoring="verbalized", max_concurrency=1)
    assert transform(labeler)[1] == []
    assert sum("response_format" in r for r in stub.requests) == 1


def test_structured_output_is_kept_if_one_row_fails_with_such_words(stub):
    whole = said('{"negative": 0.1, "positive": 0.9}')
    refused = 400, "the grammar of the JSON body could not be parsed"
    stub.answer = lambda r: refused if '"text 3"' in asked(r) else whole
    labeler = make(stub, scoring="verbalized", max_concurrency=1)
    assert transform(labeler)[1] == [3]
    assert sum("response_format" in r for r in stub.requests) == 40


def test_connection_errors_name_cause_and_address():
    labeler = make(base_url="http://127.0.0.1:9/v1", max_retries=0)
    transform(labeler, ["a"])
    assert re.search(r"refused|failed.*127\.0\.0\.1:9", labeler.failures_[0].reason, re.I)
    assert "127.0.0.1:9" in labeler.failures_[0].reason


def test_an_address_without_version_is_doubted_after_404(stub):
    stub.answer = lambda r: 404
    with pytest.raises(LookupError, match="has no /v1 at its end"):
        transform(make(stub, base_url=stub.url.removesuffix("/v1")), ["a"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"api_key": "sk-1234567890\n"}, "api_key has blanks"),
        ({"api_key": "\u201csk-1234567890\u201d"}, "api_key has blanks, line ends or characters"),
        ({"base_url": "127.0.0.1:8000/v1"}, "must begin with http:// or https://"),
        ({"base_url": "http://x/v1?key=abc"}, "base_url has a query in it"),
        ({"request_params": {"stream": True}}, "request_params has stream=True"),
        ({"request_params": {"n": 3}}, "pass n_samples instead"),
        ({"classes": [None, "refund"]}, "has None or NaN"),
        ({"classes": np.array([1, "a"], dtype=object)}, "mixes the types int, str"),
        ({"classes": [" a", "a"]}, "differ only in blanks"),
        ({"classes": ["", "a"]}, "names that are empty"),
        ({"classes": ["wu\u0308tend", "w\u00fctend"]}, "in the form of accents"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_paid(stub, params, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        make(stub, **params).fit(["a"])
    assert "1234567890" not in str(raised.value)
    assert stub.requests == []


@pytest.mark.parametrize(
    ("classes", "text", "k"),
    [
        (["Angry", "angry"], "angry", 1),
        ([" billing", "refund"], "billing", 0),
        (["new\nline", "x"], "New line.", 0),
        (["w\u00fctend", "x"], "wu\u0308tend", 0),
    ],
)
def test_names_are_matched_whatever_blanks_and_accents(classes, text, k):
    scores, _ = transform(make(classes=classes, client=lambda **r: text), ["a"])
    assert scores[0, 0, k] == 1


# --- secrets


def test_keys_in_headers_are_sent_and_show_nowhere(stub, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    headers = {"X-Private": KEY, "X-Title": "study"}
    stub.answer = lambda r: (
        (400, f"no, not with {KEY}") if '"text 1"' in asked(r) else said("positive")
    )
    labeler = make(
        stub, cache=tmp_path, api_key="other-key", request_params={"extra_headers": headers}
    )
    _, missing = transform(labeler)
    assert missing == [1]
    shown = [repr(labeler), str(labeler.get_params()), str(labeler.failures_), caplog.text]
    shown += [pickle.dumps(labeler).decode("latin-1"), str(vars(labeler))]
    shown += [path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()]
    assert not [text for text in shown if KEY in text]
    assert "study" in repr(labeler)
    assert stub.headers[0]["x-private"] == KEY
    with pytest.raises(ValueError, match=re.escape("no value for the headers ['X-Private']")):
        pickle.loads(pickle.dumps(labeler)).fit(TEXTS)


def test_a_key_at_the_end_of_a_long_message_is_not_shown(stub):
    stub.answer = lambda r: (401, "x" * 280 + f" {KEY} is not valid")
    with pytest.raises(PermissionError) as raised:
        transform(make(stub), ["a"])
    assert KEY[:8] not in str(raised.value)


# --- paid once


@pytest.mark.slow
def test_transport_does_not_change_the_key_of_an_answer(stub, tmp_path):
    for params in (
        {"request_params": {"extra_headers": {"api-key": "old"}}},
        {"request_params": {"extra_headers": {"api-key": "new"}}},
        {"request_params": {"timeout": 30}},
        {"temperature": 0},
        {"temperature": 0.0},
        {"temperature": np.float64(0)},
        {"requests_per_minute": 1e6, "max_concurrency": 2},
    ):
        transform(make(stub, cache=tmp_path, **params))
        assert len(stub.requests) == 40
    transform(make(stub, cache=tmp_path, temperature=0.5))
    assert len(stub.requests) == 80


def test_labelers_that_share_a_cache_ask_each_question_once(stub, tmp_path):
    stub.delay = 0.02
    labelers = [make(stub, cache=tmp_path).fit(TEXTS) for _ in range(3)]
    scores = {}

    def work(i):
        scores[i] = labelers[i].transform(TEXTS)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(scores) == 3
    assert len(stub.requests) == 40
    assert sum(labeler.usage_["cache_hits"] for labeler in labelers) == 80


def test_equal_questions_that_fail_are_asked_once(stub):
    stub.answer = lambda r: 400
    labeler = make(stub)
    assert transform(labeler, ["same"] * 20)[1] == list(range(20))
    assert len(stub.requests) <= 2
    assert labeler.usage_["failures"] == 20


# --- time


def test_timeout_bounds_the_whole_request(stub):
    stub.drip = 0.15
    labeler = make(stub, timeout=0.5, max_retries=0)
    start = time.monotonic()
    assert transform(labeler, ["a"])[1] == [0]
    assert time.monotonic() - start < 3
    assert "no answer within the timeout of 0.5 s" in labeler.failures_[0].reason


def test_a_quota_slows_a_run_and_never_ends_it(stub):
    window, used = 0.5, {}
    lock = threading.Lock()

    def quota(request):
        with lock:
            i = int(time.monotonic() / window)
            used[i] = used.get(i, 0) + 1
            return said("positive") if used[i] <= 8 else (429, "requests per minute exceeded")

    stub.answer = quota
    labeler = make(stub, max_retries=0)
    assert transform(labeler)[1] == []
    assert labeler.usage_["retries"] == len(stub.requests) - 40 > 0


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Retry-After": "1"}, "no"),
        ({"retry-after-ms": "1000"}, "no"),
        ({}, "Rate limit reached. Please try again in 1s."),
        ({}, "retry in 1000ms"),
        (
            {},
            {
                "error": {
                    "message": "exceeded your current quota",
                    "details": [{"retryDelay": "1s"}],
                }
            },
        ),
    ],
)
def test_a_pause_that_the_server_asks_for_is_kept_by_all(stub, headers, words):
    stub.faults = [(429, headers)]
    if not headers:
        replies = iter([(429, words)])
        stub.faults = []
        stub.answer = lambda r: next(replies, said("positive"))
    start = time.monotonic()
    assert transform(make(stub, max_retries=0, max_concurrency=1), TEXTS[:3])[1] == []
    assert 1 <= time.monotonic() - start < 6


def test_requests_per_minute_are_kept(stub):
    start = time.monotonic()
    transform(make(stub, requests_per_minute=300), TEXTS[:6])
    assert time.monotonic() - start >= 1


def test_a_mistake_in_a_callable_is_not_retried():
    calls = []

    def client(messages):
        calls.append(messages)

    labeler = make(client=client, max_retries=5)
    transform(labeler, ["a"])
    assert calls == []
    assert labeler.usage_["retries"] == 0
    assert "unexpected keyword argument" in labeler.failures_[0].reason


def test_probabilities_of_a_callable_are_refused():
    labeler = make(client=lambda **r: {"A": 0.9, "B": 0.1}, scoring="logprobs")
    assert transform(labeler, ["a"])[1] == [0]
    assert "return the logarithms" in labeler.failures_[0].reason


# --- position


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("n_prompts", [1, 3, 6])
def test_a_preference_for_the_first_option_cancels_in_balanced_orders(k, n_prompts):
    classes = [f"c{i}" for i in range(k)]
    prompts = {str(i): f"{i} {PROMPT['p']}" for i in range(n_prompts)}
    calls = []

    def client(**request):
        calls.append(request)
        return {"A": np.log(0.7), **{letter: np.log(0.05) for letter in "BCDEFG"[: k - 1]}}

    labeler = make(
        classes=classes,
        prompts=prompts,
        client=client,
        scoring="logprobs",
        option_orders="balanced",
    )
    scores, _ = transform(labeler, ["x"])
    np.testing.assert_allclose(scores[0].mean(axis=0), 1 / k)
    assert len(calls) == np.lcm(k, n_prompts)


def test_one_order_is_the_default_and_a_number_of_orders_is_kept():
    calls = []

    def client(**request):
        calls.append(request["messages"][0]["content"].split("\n")[0])
        return {"negative": -0.1}

    transform(make(client=client, scoring="logprobs"), ["x"])
    assert calls == ["- negative"]
    transform(make(client=client, scoring="logprobs", option_orders=2), ["x"])
    assert sorted(calls[1:]) == ["- negative", "- positive"]


# --- caches that cannot be used


def test_a_damaged_cache_is_named(stub, tmp_path):
    (tmp_path / "cache.db").write_bytes(b"no database " * 900)
    with pytest.raises(CacheError, match="is damaged"):
        transform(make(stub, cache=tmp_path))
    assert stub.requests == []


def test_a_cache_that_is_full_ends_the_run_and_no_paid_answer_is_lost(stub, tmp_path, monkeypatch):
    original = Store._write
    full = []

    def write(self, key, value):
        if full:
            raise CacheError(f"cache={self.folder!r} cannot be used (full)")
        original(self, key, value)

    monkeypatch.setattr(Store, "_write", write)
    labeler = make(stub, cache=tmp_path)
    transform(labeler, TEXTS[:10])
    full.append(True)
    with pytest.raises(CacheError, match="full"):
        transform(labeler)
    n = len(stub.requests)
    assert n <= 10 + 8
    full.clear()
    assert transform(labeler)[1] == []
    assert len(stub.requests) == 40


def test_a_locked_cache_is_waited_for_and_then_named(stub, tmp_path, monkeypatch):
    transform(make(stub, cache=tmp_path), TEXTS[:1])
    other = sqlite3.connect(tmp_path / "cache.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.5, other.execute, ["ROLLBACK"])
    timer.start()
    assert transform(make(stub, cache=tmp_path), TEXTS[:3])[1] == []
    timer.join()
    monkeypatch.setattr("skpref._llm._runner._LOCK_PATIENCE", 0.3)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CacheError, match=f"cache='{tmp_path}' has been locked by another process"):
        transform(make(stub, cache=tmp_path))
    other.execute("ROLLBACK")
    other.close()


def test_answers_that_diskcache_kept_are_read_and_added_to(stub, tmp_path):
    pytest.importorskip("diskcache")
    expected, _ = transform(make(stub, cache=tmp_path / "new"))
    store = Store(tmp_path / "new", {})
    store.open()
    kept = store._run("SELECT key, value FROM Cache")
    store.close()
    with open_cache(tmp_path / "old", "test", "text") as old:
        for key, value in kept:
            old.set(key, value)
    stub.requests.clear()
    labeler = make(stub, cache=tmp_path / "old")
    scores, _ = transform(labeler, [*TEXTS, "another text"])
    np.testing.assert_array_equal(scores[:-1], expected)
    assert [asked(r).splitlines()[-1] for r in stub.requests] == ['"another text"']
    transform(labeler, [*TEXTS, "another text"])
    assert len(stub.requests) == 1
    with open_cache(tmp_path / "old", "test", "text") as old:
        assert len(old) == len(TEXTS) + 2  # one is what the server can do
