"""Several labels of an utterance in one answer: what is asked, and how each label is read."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from skpref import LLMLabeler, PromptBank
from skpref._llm._labels import read_labels
from tests.llm.stub import StubLLM, by_places, completion

LABELS = ["refund", "complaint", "late delivery"]
PROMPT = {"p": "{options} {answer} {utterance}"}
TEXTS = ["refund, and a complaint", "my late delivery", "nothing of the kind"]
TRUTH = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]])


def tokens_of(lines, sure=0.9):
    """Tokens of an answer; each yes or no has its probability, the rest are certain."""
    tokens = []
    for line in lines:
        for piece in re.findall(r" ?\w+|[^\w]", line):
            word = piece.strip().lower()
            other = {"yes": " no", "no": " yes"}.get(word)
            likeliest = {piece: np.log(sure), other: np.log(1 - sure)} if other else {piece: 0.0}
            tokens.append((piece, likeliest))
        tokens.append(("\n", {"\n": 0.0}))
    return tokens


def by_tokens(lines, **choice):
    """A completion with log-probabilities at each token."""
    return by_places(tokens_of(lines), **choice)


def asked(request):
    """The numbers and labels of a question, and its utterance."""
    content = request["messages"][-1]["content"]
    options = re.findall(r"(?:^|\n)(\d+|-)\.? ([a-z ]+?)(?=\n| Answer)", content)
    return options, re.findall(r'"([^"]*)"', content)[-1]


def answer(request):
    """Say yes to the labels that an utterance names."""
    options, text = asked(request)
    said = {name: "yes" if name in text else "no" for _, name in options}
    if request.get("logprobs"):
        return by_tokens([f"{number}. {name}: {said[name]}" for number, name in options])
    return completion(json.dumps(said), finish_reason="stop")


@pytest.fixture
def stub():
    server = StubLLM(answer)
    yield server
    server.stop()


def make(stub, prompts=PROMPT, **params):
    params = {"model": "m", "verbose": False, "multilabel": True, "max_retries": 0} | params
    return LLMLabeler(LABELS, prompts, base_url=stub.url, **params)


def read(answered, scoring="verbalized", names=LABELS, **choice):
    numbers = [str(i) for i in range(1, len(names) + 1)]
    if scoring == "logprobs":
        body = by_tokens(answered)
    else:
        body = completion(answered, finish_reason="stop")
    body["choices"][0] |= choice
    return read_labels(body, scoring, names, numbers)


@pytest.mark.parametrize(("scoring", "sure"), [("logprobs", 0.9), ("label", 1), ("verbalized", 1)])
def test_each_label_gets_the_probability_that_it_applies(stub, scoring, sure):
    labeler = make(stub, scoring=scoring)
    scores = labeler.fit(TEXTS, TRUTH).transform(TEXTS)
    np.testing.assert_allclose(scores[:, 0], np.where(TRUTH, sure, 1 - sure))
    assert len(stub.requests) == 3
    assert labeler.failures_ == []
    if scoring == "logprobs":
        np.testing.assert_allclose(labeler.option_mass_, 1)
    else:
        schema = stub.requests[0]["response_format"]["json_schema"]["schema"]
        assert schema["required"] == LABELS


def test_the_numbers_follow_the_order_in_which_labels_are_shown(stub):
    labeler = make(stub, option_orders="balanced")
    np.testing.assert_allclose(labeler.fit_transform(TEXTS)[:, 0], np.where(TRUTH, 0.9, 0.1))
    orders = {tuple(name for _, name in asked(request)[0]) for request in stub.requests}
    assert {order[0] for order in orders} == set(LABELS)


def test_the_default_prompts_show_context_and_definitions(stub):
    frame = pd.DataFrame({"session_id": "a", "turn": range(3), "text": TEXTS})
    bank = PromptBank("multilabel", task="the request", definitions={"refund": "money back"})
    preview = str(make(stub, bank).fit(frame).preview(frame, row=1))
    assert TEXTS[0] in preview
    assert "refund: money back" in preview
    assert make(stub, None).fit(frame).prompt_names_ == list(bank)


def test_labels_that_are_not_answered_are_nan_and_others_stay(stub):
    stub.answer = lambda request: completion(
        '{"Refund": 0.8, "other": 1, "complaint": "maybe"}', finish_reason="stop"
    )
    labeler = make(stub, scoring="verbalized")
    np.testing.assert_equal(labeler.fit_transform(TEXTS)[0, 0], [0.8, np.nan, np.nan])
    assert labeler.failures_ == []
    stub.answer = lambda request: completion("I cannot say.", finish_reason="stop")
    with pytest.warns(UserWarning, match="no label that is plainly answered"):
        scores = labeler.transform(["other text"])
    assert np.isnan(scores).all()
    assert len(labeler.failures_) == 1


def test_samples_are_averaged_label_by_label(stub):
    said = iter(['{"refund": "yes"}', '{"refund": "no", "complaint": "yes"}'])
    stub.answer = lambda request: completion(next(said), finish_reason="stop")
    labeler = make(stub, scoring="label", n_samples=2, temperature=1)
    np.testing.assert_equal(labeler.fit_transform(TEXTS[:1])[0, 0], [0.5, 1, np.nan])


@pytest.mark.parametrize(
    ("value", "score"),
    [
        *[(0.3, 0.3), (1, 1), ("30%", 0.3), (True, 1), (False, 0), ("Yes.", 1), ("NO", 0)],
        *[(bad, np.nan) for bad in ("not", "not yes", "no idea", "yes or no", 1.5, -1, None, [1])],
    ],
)
def test_a_value_is_yes_no_or_a_probability(value, score):
    answered = json.dumps({"refund": value, "complaint": 1})
    np.testing.assert_equal(read(answered).scores[:2], [score, 1])


@pytest.mark.parametrize(
    "answered",
    [
        '{"refund": 1, "complaint": 1, "refund": 0}',
        '{"refund": 1, "Refund ": 1, "complaint": 1}',
        'A draft: {"refund": 1, "complaint": 0} {"complaint": 1}',
        '```json\n{"refund": "yes or no", "complaint": "yes", "late delivery": "?"}\n```',
    ],
)
def test_a_label_that_is_answered_twice_is_nan(answered):
    np.testing.assert_equal(read(answered).scores, [np.nan, 1, np.nan])


@pytest.mark.parametrize(
    ("lines", "scores"),
    [
        (["1. refund: yes", "2. complaint: no", "3. late delivery: no"], [0.9, 0.1, 0.1]),
        (["1: yes", "2: No", "3: no"], [0.9, 0.1, 0.1]),
        (["refund: yes", "- Late delivery - no"], [0.9, np.nan, 0.1]),
        (["Here you are:", "**3.** late delivery: **yes**"], [np.nan, np.nan, 0.9]),
        (["1. refund: yes", "1. refund: yes", "2: no"], [np.nan, 0.1, np.nan]),
        (["1. complaint: yes", "2: no"], [np.nan, 0.1, np.nan]),
        (["1. refund: not yes", "2: no idea", "3: no"], [np.nan, np.nan, 0.1]),
        (["1: yes, but not really", "2: no, yes", "3: yes (asked)"], [np.nan, np.nan, 0.9]),
        (["4: yes", "7. other: yes", "2: yes"], [np.nan, 0.9, np.nan]),
        (["1: yes", "2"], [0.9, np.nan, np.nan]),
    ],
)
def test_lines_are_read_by_number_or_name(lines, scores):
    np.testing.assert_allclose(read(lines, "logprobs").scores, scores)


def test_one_label_may_be_answered_by_yes_alone():
    assert read(["Yes."], "logprobs", ["refund"]).scores == pytest.approx([0.9])
    assert read(["Yes."], "logprobs").scores is None


def test_a_refusal_gives_no_score_and_an_answer_that_was_cut_off_says_so():
    assert read('{"refund": 1}', finish_reason="content_filter").reason == "refused"
    assert "allow more tokens" in read('{"refund": 1, "comp', finish_reason="length").reason
    scores = read(["1: yes", "2: no"], "logprobs", finish_reason="length").scores
    np.testing.assert_allclose(scores, [0.9, 0.1, np.nan])


def test_a_plan_a_cache_and_a_cost_work_as_for_one_label(stub, tmp_path):
    stub.answer = lambda request: (
        answer(request) | {"usage": {"prompt_tokens": 1000, "completion_tokens": 20}}
    )
    params = {"cache": tmp_path, "prices": (1e6, 1e6), "max_concurrency": 1}
    labeler = make(stub, **params).fit(TEXTS)
    plan = labeler.plan(TEXTS)
    assert plan.n_requests == 3
    # "1. refund: no" and the like: the names of all labels are written.
    assert plan.completion_tokens > 3 * 4 * len(LABELS)
    with pytest.raises(RuntimeError, match="max_cost"):
        labeler.set_params(max_cost=1500).transform(TEXTS)
    assert len(stub.requests) < 3
    labeler.set_params(max_cost=None).transform(TEXTS)
    assert len(stub.requests) == 3
    assert labeler.plan(TEXTS).n_cached == 3


def test_columns_are_named_by_prompt_and_label(stub):
    labeler = LLMLabeler(
        ["b", "a"], PROMPT, model="m", base_url=stub.url, multilabel=True, verbose=False
    )
    names = ["p__b", "p__a"]
    assert labeler.get_feature_names_out().tolist() == names
    scores = np.array([[[0.2, np.nan]], [[0.4, 1.0]]])
    frame = labeler.to_frame(scores)
    assert list(frame) == names
    np.testing.assert_array_equal(labeler.from_frame(frame), scores)
    stub.answer = lambda request: by_tokens(["1: yes", "2: no"])
    out = labeler.set_output(transform="pandas").fit_transform(TEXTS)
    assert list(out) == names
    assert out.shape == (3, 2)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"unit": "session", "prompts": None}, "scoring='logprobs' reads one label for each line"),
        ({"prompts": "varied"}, "The prompts ['examples', 'guidelines'] have"),
        ({"classes": ["a", "b", "a"]}, "names a label twice"),
        ({"classes": []}, "must name at least one label"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_paid(stub, params, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(stub).set_params(**params).fit(TEXTS)


def answer_list(request):
    """Name the labels of each line, or give their probabilities."""
    content = request["messages"][-1]["content"]
    lines = re.findall(r'^(\d+)\. "(.*)"$', content, re.M)
    only = re.search(r"label line (\d+) and", content)
    items = []
    for number, text in lines:
        if only is None or number == only[1]:
            value = {"labels": [name for name in LABELS if name in text]}
            if "probabilities" in content:
                value = {"probabilities": {name: 0.8 * (name in text) for name in LABELS}}
            items.append({"line": int(number), **value})
    return completion(json.dumps({"lines": items}), finish_reason="stop")


@pytest.mark.parametrize(("scoring", "sure"), [("label", 1), ("verbalized", 0.8)])
def test_the_lines_of_a_session_get_any_number_of_labels(stub, scoring, sure):
    stub.answer = answer_list
    frame = pd.DataFrame({"session_id": [0, 0, 0, 0], "turn": range(4), "text": [*TEXTS, TEXTS[0]]})
    labeler = make(
        stub, None, scoring=scoring, unit="session", n_utterances_per_call=3, n_context_turns=1
    )
    scores = labeler.fit_transform(frame)
    np.testing.assert_allclose(scores[:, 0], sure * np.vstack([TRUTH, TRUTH[:1]]))
    assert labeler.usage_["requests"] == 2
    assert labeler.window_agreement_ == 1
    assert labeler.plan(frame).n_requests == 0
    shown = str(labeler.preview(frame, 0))
    assert "Any number of these labels may apply to a line, or none" in shown
    schema = stub.requests[0]["response_format"]["json_schema"]["schema"]
    field = {"label": "labels", "verbalized": "probabilities"}[scoring]
    assert schema["properties"]["lines"]["items"]["required"] == ["line", field]


def test_windows_agree_if_they_say_the_same_of_all_labels(stub):
    def by_window(request):
        n_lines = len(re.findall(r"^\d+\. ", request["messages"][-1]["content"], re.M))
        labels = LABELS[:1] if n_lines == 3 else LABELS[:2]
        lines = [{"line": i, "labels": labels} for i in range(1, n_lines + 1)]
        return completion(json.dumps({"lines": lines}), finish_reason="stop")

    stub.answer = by_window
    frame = pd.DataFrame({"session_id": [0] * 4, "turn": range(4), "text": TEXTS[:1] * 4})
    labeler = make(
        stub, None, scoring="label", unit="session", n_utterances_per_call=3, n_context_turns=1
    )
    scores = labeler.fit_transform(frame)
    assert labeler.window_agreement_ == 0
    np.testing.assert_array_equal(scores[2, 0], [1, 0.5, 0])


def test_a_line_without_a_plain_list_of_labels_is_asked_about_alone(stub):
    def broken_at_first(request):
        if "label line" in request["messages"][-1]["content"]:
            return answer_list(request)
        lines = [{"line": 1, "labels": ["refund", "unheard of"]}, {"line": 2, "labels": []}]
        return completion(json.dumps({"lines": lines}), finish_reason="stop")

    stub.answer = broken_at_first
    frame = pd.DataFrame({"session_id": [0] * 3, "turn": range(3), "text": TEXTS})
    labeler = make(stub, None, scoring="label", unit="session")
    scores = labeler.fit_transform(frame)
    np.testing.assert_array_equal(scores[:, 0], [TRUTH[0], [0, 0, 0], TRUTH[2]])
    assert labeler.usage_["requests"] == 3
