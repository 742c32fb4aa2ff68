"""Plans, previews and limits on the cost: what is known before anything is paid, and kept after."""

import re

import numpy as np
import pandas as pd
import pytest

from skpref import LLMLabeler, PromptBank
from skpref._llm import _base
from skpref._llm._costs import cost_of, count_tokens
from skpref.inspection import prompt_agreement
from tests.llm.stub import StubLLM, by_option, completion

CLASSES = ["bad", "good"]
PROMPTS = {
    "plain": "{options} {answer} {utterance}",
    "context": "{options} {answer} {context} ## {utterance}",
}
FRAME = pd.DataFrame(
    {
        "session_id": np.repeat(np.arange(10), 6),
        "turn": np.tile(np.arange(6), 10),
        "text": [f"utterance number {i}" for i in range(60)],
    }
)


@pytest.fixture
def stub():
    server = StubLLM()
    yield server
    server.stop()


def make(stub, **params):
    params = {"prompts": PROMPTS, "model": "m", "verbose": False, "base_url": stub.url} | params
    return LLMLabeler(CLASSES, **params).fit(FRAME)


def by_length(request):
    """Count tokens as a tokenizer of three characters a token would."""
    n = sum(len(message["content"]) for message in request["messages"]) // 3
    return by_option(request) | {"usage": {"prompt_tokens": n, "completion_tokens": 1}}


@pytest.mark.slow
def test_a_plan_asks_nothing_and_counts_what_the_run_then_asks(stub, tmp_path):
    labeler = make(stub, cache=tmp_path)
    plan = labeler.plan(FRAME)
    assert stub.requests == []
    assert not list(tmp_path.iterdir())
    assert (plan.n_requests, plan.n_cached, plan.is_exact) == (120, 0, True)
    labeler.transform(FRAME[:24])
    assert labeler.plan(FRAME).n_cached == 48
    asked = labeler.plan(FRAME).n_requests
    labeler.transform(FRAME)
    assert labeler.usage_["requests"] == asked == 72


def test_equal_questions_are_planned_once(stub):
    frame = FRAME.assign(text="same")
    labeler = make(stub, prompts={"plain": PROMPTS["plain"]})
    assert labeler.plan(frame).n_requests == 1


@pytest.mark.slow
def test_answers_in_the_cache_show_how_long_tokens_are(stub, tmp_path):
    stub.answer = by_length
    labeler = make(stub, cache=tmp_path)
    labeler.transform(FRAME[:24])
    plan = labeler.plan(FRAME)
    labeler.transform(FRAME)
    assert plan.tokens_by == "measured on answers in the cache"
    assert plan.prompt_tokens == pytest.approx(labeler.usage_["prompt_tokens"], rel=0.02)
    assert plan.completion_tokens == labeler.usage_["completion_tokens"]


def test_a_tokenizer_counts_and_without_one_the_estimate_is_stated(stub):
    labeler = make(stub)
    estimated = labeler.plan(FRAME)
    assert "estimated at four characters a token" in estimated.message
    counted = labeler.plan(FRAME, tokenizer=list)
    assert counted.tokens_by == "counted by the tokenizer"
    assert counted.prompt_tokens == pytest.approx(4 * estimated.prompt_tokens, rel=0.15)


def test_tokens_of_each_prompt_are_those_of_an_utterance(stub):
    plan = make(stub).plan(FRAME)
    each = [make(stub, prompts={name: PROMPTS[name]}).plan(FRAME) for name in PROMPTS]
    expected = [(p.prompt_tokens + p.completion_tokens) / len(FRAME) for p in each]
    np.testing.assert_allclose(plan.tokens, expected, rtol=0.05)
    agreement = prompt_agreement(np.full((4, 2, 3), 1 / 3), tokens=plan.tokens)
    np.testing.assert_array_equal(agreement.tokens, plan.tokens)


@pytest.mark.slow
def test_the_cost_is_that_of_the_run(stub):
    stub.answer = by_length
    labeler = make(stub, prices=(2, 10))
    plan = labeler.plan(FRAME, tokenizer=lambda text: range(len(text) // 3))
    labeler.transform(FRAME)
    assert plan.cost == pytest.approx(labeler.usage_["cost"], rel=0.1)
    assert f"costs {plan.cost:.3g}" in plan.message
    assert make(stub).plan(FRAME).cost is None


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({"max_concurrency": 4}, 120 * 2 / 4),
        ({"requests_per_minute": 30}, 240),
        ({"tokens_per_minute": 100}, None),
    ],
)
def test_the_time_is_that_of_the_slowest_limit(stub, limits, seconds):
    plan = make(stub, **limits).plan(FRAME, latency=2)
    tokens = plan.prompt_tokens + plan.completion_tokens
    expected = 60 * tokens / 100 if seconds is None else seconds
    assert plan.seconds == pytest.approx(expected, rel=0.01)


def test_a_large_plan_is_a_sample_that_knows_repeated_questions(stub, monkeypatch):
    monkeypatch.setattr(_base, "EXACT", 800)
    rng = np.random.default_rng(0)
    texts = [f"text {i}" for i in range(3000)] + ["ok"] * 1000
    frame = pd.DataFrame({"session_id": range(4000), "turn": 0, "text": rng.permutation(texts)})
    plan = make(stub, prompts={"plain": PROMPTS["plain"]}).plan(frame)
    assert not plan.is_exact
    assert plan.n_requests == pytest.approx(3001, rel=0.15)
    assert plan.message.startswith("About ")


def test_a_plan_prints_as_a_table_and_shows_as_html(stub):
    plan = make(stub, prompts={"<b>": PROMPTS["plain"]}, prices=(1, 1)).plan(FRAME)
    assert plan.summary.splitlines()[0].split()[:2] == ["prompt", "requests"]
    assert str(plan) == repr(plan) == f"{plan.message}\n\n{plan.summary}"
    assert "<td>&lt;b&gt;</td>" in plan._repr_html_()
    assert "<b>" not in plan._repr_html_()


def test_a_plan_needs_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    labeler = LLMLabeler(CLASSES, PROMPTS, model="m").fit(FRAME)
    assert labeler.plan(FRAME).n_requests == 120


@pytest.mark.slow
def test_a_hundred_thousand_utterances_are_planned_in_seconds(stub):
    import time

    n = 100_000
    frame = pd.DataFrame({"session_id": np.arange(n) // 20, "turn": np.arange(n) % 20})
    frame["text"] = [f"the parcel {i} has not arrived and nobody answers" for i in range(n)]
    labeler = make(stub, prompts=None)
    start = time.process_time()  # of this process, since other tests may run beside it
    plan = labeler.plan(frame)
    assert time.process_time() - start < 10
    assert plan.n_requests == pytest.approx(3 * n, rel=0.05)


def test_a_preview_is_what_is_sent(stub):
    labeler = make(stub)
    preview = labeler.preview(FRAME, 8)
    labeler.transform(FRAME[6:12])
    sent = [request["messages"] for request in stub.requests]
    assert list(preview) == ["plain", "context"]
    assert all(messages in sent for messages in preview.values())
    assert "=== context ===" in str(preview)
    assert '"utterance number 7" ## "utterance number 8"' in str(preview)
    with pytest.raises(ValueError, match="row=60 must be from 0 to 59"):
        labeler.preview(FRAME, 60)


def test_a_preview_escapes_html(stub):
    labeler = make(stub, prompts={"p": "<script>{options}{answer}{utterance}"})
    shown = labeler.preview(FRAME)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


@pytest.mark.slow
def test_max_cost_ends_a_run_before_it_is_exceeded_and_a_further_call_asks_the_rest(stub, tmp_path):
    price = (10 * 100 + 1 * 100) / 1e6  # of the stub's answer
    params = {"cache": tmp_path, "prices": (100, 100)}
    labeler = make(stub, max_cost=50 * price, **params)
    with pytest.raises(RuntimeError, match=r"max_cost=0\.055 would be exceeded") as raised:
        labeler.transform(FRAME)
    spent = labeler.usage_["cost"]
    assert 0 < spent <= 50 * price
    n = len(stub.requests)
    assert spent == pytest.approx(n * price)
    assert f"{120 - n} answers remain" in str(raised.value)
    make(stub, **params).transform(FRAME)
    assert len(stub.requests) == 120


def test_max_cost_counts_requests_that_are_under_way(stub):
    stub.delay = 0.05
    stub.answer = lambda r: by_option(r) | {"usage": {"prompt_tokens": 99, "completion_tokens": 1}}
    labeler = make(stub, prices=(100, 100), max_cost=0.05, max_concurrency=8)
    with pytest.raises(RuntimeError, match="max_cost"):
        labeler.transform(FRAME)
    assert labeler.usage_["cost"] <= 0.05
    assert len(stub.requests) <= 4


def test_an_answer_without_counts_is_taken_to_cost_the_most():
    labeler = LLMLabeler(
        CLASSES,
        PROMPTS,
        model="m",
        client=lambda **request: {"A": -0.1},
        verbose=False,
        prices=(100, 100),
        max_cost=0.05,
    ).fit(FRAME)
    with pytest.raises(RuntimeError, match="is spent") as raised:
        labeler.transform(FRAME)
    assert 0.03 < float(re.search(r"request: (\S+) is spent", str(raised.value))[1]) <= 0.05


def test_max_cost_needs_prices(stub):
    with pytest.raises(ValueError, match="max_cost=1 needs prices"):
        make(stub, max_cost=1)


@pytest.mark.slow
def test_a_run_within_its_limit_is_not_disturbed(stub):
    scores = make(stub, prices=(1, 1), max_cost=100).transform(FRAME)
    np.testing.assert_array_equal(scores, make(stub).transform(FRAME))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 5}, (100, 5, 0)),
        ({"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 64}}, (100, 0, 64)),
        ({"prompt_tokens": 100, "prompt_tokens_details": None}, (100, 0, 0)),
        ({"prompt_tokens": 100, "prompt_cache_hit_tokens": 90}, (100, 0, 90)),
        ({"prompt_tokens": "many"}, (0, 0, 0)),
        (None, (0, 0, 0)),
    ],
)
def test_tokens_are_read_as_servers_count_them(usage, expected):
    assert count_tokens(completion("A") | {"usage": usage}) == expected


@pytest.mark.slow
def test_tokens_from_the_cache_of_the_endpoint_have_their_own_price(stub):
    details = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 60}}
    stub.answer = lambda r: by_option(r) | {"usage": details | {"completion_tokens": 1}}
    labeler = make(stub, prices=(2, 10, 1))
    labeler.transform(FRAME)
    assert labeler.usage_["cached_tokens"] == 120 * 60
    assert labeler.usage_["cost"] == pytest.approx(120 * (40 * 2 + 60 * 1 + 10) / 1e6)
    assert cost_of((2, 10), 100, 1, 60) == pytest.approx((200 + 10) / 1e6)


def test_a_system_message_is_its_own_and_comes_first(stub):
    bank = PromptBank({"p": "Now: {utterance}"}, system="Label {task}. {options} {answer}")
    make(stub, prompts=bank).transform(FRAME[:3])
    roles = [[m["role"] for m in request["messages"]] for request in stub.requests]
    assert roles == [["system", "user"]] * 3
    system = {request["messages"][0]["content"] for request in stub.requests}
    assert len(system) == 1
    assert "- bad" in system.pop()
    with pytest.raises(ValueError, match=re.escape("system='{utterance}' is not a format")):
        PromptBank(system="{utterance}")
    with pytest.raises(ValueError, match=re.escape("lacks the field {answer}")):
        PromptBank({"p": "Now: {utterance}"}, system="{options}")


@pytest.mark.slow
def test_a_notebook_shows_the_usage_as_a_table(stub):
    labeler = make(stub, prices=(2, 10))
    labeler.transform(FRAME)
    page = labeler.usage_._repr_html_()
    assert page.count("<th>") == page.count("<td>") == len(labeler.usage_)
    assert "<th>prompt tokens</th>" in page
    assert f"<td>{labeler.usage_['requests']}</td>" in page
