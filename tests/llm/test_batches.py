"""Batches: each state of the protocol, and a process that ends between any two steps."""

import subprocess
import sys

import numpy as np
import pytest

from skpref import LLMLabeler
from skpref._llm import _batches
from skpref._llm._batches import BatchApi, BatchRun
from skpref._llm._store import Store
from tests.llm.batch_stub import BatchStub
from tests.llm.stub import by_option

CLASSES = ["bad", "good"]
PROMPTS = {
    "plain": "{options} {answer} {utterance}",
    "other": "{answer} {options} {utterance}",
}
TEXTS = [f"text {i}" for i in range(10)]


@pytest.fixture
def stub():
    server = BatchStub()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(_batches, "_PAUSES", (0.01, 0.01))
    monkeypatch.setattr(_batches, "back_off", lambda retries: 0.01)


def make(stub, **params):
    params = {"model": "m", "verbose": False, "max_retries": 2, "batch": True} | params
    return LLMLabeler(CLASSES, PROMPTS, base_url=stub.url, **params)


def expected(stub):
    scores = make(stub, batch=False).fit_transform(TEXTS)
    stub.direct.clear()
    return scores


def test_a_batch_gives_the_scores_of_direct_calls(stub, tmp_path):
    scores = expected(stub)
    labeler = make(stub, cache=tmp_path, prices=(1, 1))
    np.testing.assert_array_equal(labeler.fit_transform(TEXTS), scores)
    assert stub.direct == []
    assert len(stub.batches) == 1
    (line, *_) = stub.lines("batch_0")
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert set(line["body"]) >= {"model", "messages", "logprobs", "max_tokens"}
    usage = labeler.usage_
    assert (usage["requests"], usage["cache_hits"], usage["failures"]) == (20, 0, 0)
    assert usage["cost"] == pytest.approx(20 * 11 / 1e6)
    np.testing.assert_array_equal(labeler.transform(TEXTS), scores)
    np.testing.assert_array_equal(
        make(stub, cache=tmp_path, batch=False).fit_transform(TEXTS), scores
    )
    assert (len(stub.batches), stub.direct) == (1, [])


def test_only_what_the_cache_lacks_is_submitted(stub, tmp_path):
    make(stub, cache=tmp_path, batch=False).fit_transform(TEXTS[:4])
    labeler = make(stub, cache=tmp_path)
    labeler.fit_transform([*TEXTS, *TEXTS])
    assert len(stub.lines("batch_0")) == 12
    assert labeler.usage_["cache_hits"] == 28


def test_a_batch_can_be_left_and_taken_up_by_another_labeler(stub, tmp_path):
    stub.states = ["validating", "in_progress"]
    with pytest.raises(TimeoutError, match="1 batches with 20 answers are pending"):
        make(stub, cache=tmp_path, batch=0).fit_transform(TEXTS)
    with pytest.raises(TimeoutError, match="20 answers are pending"):
        make(stub, cache=tmp_path, batch=0).fit_transform(TEXTS)
    stub.batches["batch_0"]["states"] = ["completed"]
    scores = make(stub, cache=tmp_path, batch=0).fit_transform(TEXTS)
    assert len(stub.batches) == 1
    np.testing.assert_array_equal(scores, expected(stub))


@pytest.mark.parametrize("state", ["expired"])
def test_what_had_expired_is_asked_again_and_the_rest_is_kept(stub, tmp_path, state):
    stub.states, stub.unanswered = ["in_progress", state], lambda i: i % 4 == 0
    original = stub.make

    def then_complete(request):
        batch = original(request)
        stub.states = ["completed"]
        return batch

    stub.make = then_complete
    scores = make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert [len(stub.lines(name)) for name in stub.batches] == [20, 5]
    np.testing.assert_array_equal(scores, expected(stub))


def test_what_expires_again_and_again_is_missing_and_says_why(stub, tmp_path):
    stub.states, stub.unanswered = ["expired"], lambda i: i == 0
    with pytest.warns(UserWarning, match=r"1 of 20 answers are missing: it expired"):
        scores = make(stub, cache=tmp_path, max_retries=2).fit_transform(TEXTS)
    assert [len(stub.lines(name)) for name in stub.batches] == [20, 1, 1]
    assert np.isnan(scores[:, :, 0]).sum() == 1
    assert stub.direct == []


def test_a_cancelled_batch_keeps_its_answers_and_ends_the_call(stub, tmp_path):
    stub.states, stub.unanswered = ["cancelling", "cancelled"], lambda i: i >= 8
    with pytest.raises(RuntimeError, match="The batch batch_0 is cancelled"):
        make(stub, cache=tmp_path).fit_transform(TEXTS)
    stub.states = ["completed"]
    scores = make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert len(stub.lines("batch_1")) == 12
    np.testing.assert_array_equal(scores, expected(stub))


def test_a_batch_that_fails_names_the_reason_and_is_submitted_again_by_the_next_call(
    stub, tmp_path
):
    stub.states = ["validating", "failed"]
    with pytest.raises(RuntimeError, match="is failed: quota of tokens"):
        make(stub, cache=tmp_path).fit_transform(TEXTS)
    stub.states = ["completed"]
    make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert len(stub.batches) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("status", "n_batches"), [(400, 1), (500, 3)])
def test_lines_that_fail_are_missing_and_only_transient_ones_are_repeated(
    stub, tmp_path, status, n_batches
):
    stub.answer = lambda r: status if '"text 3"' in str(r) else by_option(r)
    with pytest.warns(UserWarning, match=f"2 of 20 answers are missing: HTTP {status}: no"):
        scores = make(stub, cache=tmp_path, max_retries=2).fit_transform(TEXTS)
    assert np.isnan(scores[3]).all()
    assert np.isnan(scores).sum() == 4
    assert len(stub.batches) == n_batches
    stub.answer = by_option
    np.testing.assert_array_equal(make(stub, cache=tmp_path).fit_transform(TEXTS), expected(stub))
    assert len(stub.lines(f"batch_{n_batches}")) == 2


def test_a_result_file_that_was_cut_is_downloaded_again(stub, tmp_path):
    stub.cut = 2
    scores = make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert len(stub.batches) == 1
    np.testing.assert_array_equal(scores, expected(stub))


def test_a_result_file_that_stays_cut_ends_the_call_and_is_not_paid_again(stub, tmp_path):
    stub.cut = 50
    with pytest.raises(ConnectionError, match="a file with results is not whole"):
        make(stub, cache=tmp_path).fit_transform(TEXTS)
    stub.cut = 0
    scores = make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert len(stub.batches) == 1
    np.testing.assert_array_equal(scores, expected(stub))


def test_a_response_that_is_lost_makes_no_second_batch(stub, tmp_path):
    stub.lose = 2
    make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert len(stub.batches) == 1


def test_an_answer_that_is_no_completion_is_asked_again(stub, tmp_path):
    calls = []

    def answer(request):
        calls.append(request)
        return {"choices": []} if len(calls) == 1 else by_option(request)

    stub.answer = answer
    scores = make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert [len(stub.lines(name)) for name in stub.batches] == [20, 1]
    assert np.isfinite(scores).all()


def test_large_runs_are_split_into_files(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(_batches, "MAX_LINES", 7)
    scores = make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert [len(stub.lines(name)) for name in stub.batches] == [7, 7, 6]
    np.testing.assert_array_equal(scores, expected(stub))


def test_max_cost_holds_for_batches(stub, tmp_path):
    params = {"cache": tmp_path, "prices": (20, 100), "max_cost": 0.005}
    labeler = make(stub, **params)
    with pytest.raises(RuntimeError, match="max_cost"):
        labeler.fit_transform(TEXTS)
    assert 0.002 < labeler.usage_["cost"] <= 0.005
    assert len(stub.batches) > 1  # once it is known what the first has cost, more is affordable
    n = sum(len(stub.lines(name)) for name in stub.batches)
    make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert sum(len(stub.lines(name)) for name in stub.batches) == 20 > n


def test_session_lists_go_through_batches_and_missing_lines_are_asked_directly(stub, tmp_path):
    from tests.llm import test_sessions

    def lacking(request):
        pairs = test_sessions.lines_of(request)
        return test_sessions.written(test_sessions.answers(pairs[1:] if len(pairs) > 1 else pairs))

    stub.answer = lacking
    labeler = LLMLabeler(
        test_sessions.CLASSES,
        model="m",
        base_url=stub.url,
        unit="session",
        batch=True,
        cache=tmp_path,
        verbose=False,
    )
    frame = test_sessions.make_frame((6, 4))
    scores = labeler.fit_transform(frame)
    assert len(stub.lines("batch_0")) == 2
    assert len(stub.direct) == 2
    assert np.isfinite(scores).all()


def test_a_batch_needs_an_endpoint_that_has_them(tmp_path):
    with pytest.raises(ValueError, match="batch needs an endpoint"):
        LLMLabeler(CLASSES, model="m", client=print, batch=True).fit(TEXTS)


# --- a process that ends between any two steps


class Killed(BaseException):
    pass


STEPS = {
    "the file was uploaded": (BatchApi, "upload"),
    "the file was noted": (Store, "add_batch"),
    "the batch was made": (BatchApi, "submit"),
    "the batch was noted": (Store, "note_batch"),
    "a look at the batch": (BatchApi, "look"),
    "the download": (BatchApi, "download"),
    "the first answer was kept": (Store, "put"),
    "all was collected": (Store, "remove_batch"),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_ends_after_any_step_loses_and_repeats_nothing(
    stub, tmp_path, monkeypatch, step
):
    owner, name = STEPS[step]
    original = getattr(owner, name)

    def then_end(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, then_end)
        # As after kill -9: nothing is put in order.
        patch.setattr(Store, "release", lambda *args: None)
        patch.setattr(Store, "close", lambda *args: None)
        with pytest.raises(Killed):
            make(stub, cache=tmp_path).fit_transform(TEXTS)
    monkeypatch.setattr("skpref._llm._store._is_alive", lambda owner, until: False)
    scores = make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert len(stub.batches) == 1
    assert stub.direct == []
    np.testing.assert_array_equal(scores, expected(stub))


SCRIPT = """
import os, sys
from skpref import LLMLabeler
from skpref._llm import _batches, _store
url, cache, owner, name = sys.argv[1:]
_batches._PAUSES = 0.01, 0.01
owner = getattr(_batches, owner, None) or getattr(_store, owner)
original = getattr(owner, name)
def then_end(self, *args, **kwargs):
    original(self, *args, **kwargs)
    os.kill(os.getpid(), 9)
setattr(owner, name, then_end)
prompts = {"plain": "{options} {answer} {utterance}", "other": "{answer} {options} {utterance}"}
labeler = LLMLabeler(
    ["bad", "good"], prompts, model="m", base_url=url, cache=cache, verbose=False, batch=True
)
labeler.fit_transform([f"text {i}" for i in range(10)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_process_loses_and_repeats_nothing(stub, tmp_path, step):
    owner, name = STEPS[step]
    command = [sys.executable, "-c", SCRIPT, stub.url, str(tmp_path), owner.__name__, name]
    assert subprocess.run(command, check=False, timeout=120).returncode == -9
    scores = make(stub, cache=tmp_path).fit_transform(TEXTS)
    assert len(stub.batches) == 1
    np.testing.assert_array_equal(scores, expected(stub))


def test_two_processes_submit_each_question_once(stub, tmp_path, monkeypatch):
    # The second one looks before the first has noted its batch, and submits after.
    first = make(stub, cache=tmp_path)
    original, inner = BatchRun._submit, []

    def submit(self, asks, left):
        if not inner:
            inner.append(True)
            make(stub, cache=tmp_path).fit_transform(TEXTS)
        original(self, asks, left)

    monkeypatch.setattr(BatchRun, "_submit", submit)
    first.fit_transform(TEXTS)
    assert len(stub.batches) == 1
