"""Whole sessions in one call: windows, the answer of each line, and lines that are missing."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from skpref import LLMLabeler, PromptBank
from skpref._llm._lists import MissingLine, count_windows, cut_windows, make_item, read_list
from skpref._llm._requests import Turns
from tests.llm.stub import StubLLM, by_option, by_places, completion

CLASSES = ["bad", "good", "neutral"]


def make_frame(lengths=(25, 4, 1, 10)):
    """Sessions whose utterances name their class."""
    session = np.repeat(np.arange(len(lengths)), lengths)
    turn = np.concatenate([np.arange(n) for n in lengths])
    said = [CLASSES[(3 * s + 5 * t) % 3] for s, t in zip(session, turn, strict=True)]
    text = [f"{word} {s}.{t}" for word, s, t in zip(said, session, turn, strict=True)]
    return pd.DataFrame({"session_id": session, "turn": turn, "text": text, "said": said})


FRAME = make_frame()
TRUTH = np.eye(3)[[CLASSES.index(word) for word in FRAME.said]]


@pytest.fixture
def stub():
    server = StubLLM(answer_list)
    yield server
    server.stop()


def lines_of(request):
    """The numbers and words of the lines that are to be labelled."""
    content = request["messages"][-1]["content"]
    lines = re.findall(r'^(\d+)\. (?:"[^"]*": )?"(\w+)', content, re.M)
    only = re.search(r"label line (\d+) and", content)
    return [(n, word) for n, word in lines if only is None or n == only[1]]


def written(tokens, usage=(100, 20), **choice):
    """A completion whose tokens are given, each with its likeliest ones."""
    body = by_places(tokens)
    body["choices"][0] |= choice
    body["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))
    return body


def answers(pairs, sure=0.8, options=CLASSES):
    """The tokens of lines "number: name", or letter."""
    tokens = []
    for number, name in pairs:
        others = {f" {other}": np.log((1 - sure) / 2) for other in options if other != name}
        likeliest = {f" {name}": np.log(sure)} | (others if name in options else {})
        tokens += [(number, {number: -0.01}), (":", {":": 0.0})]
        tokens += [(f" {name}", likeliest), ("\n", {"\n": 0.0})]
    return tokens


def answer_list(request):
    return written(answers(lines_of(request)))


def make(stub, **params):
    params = {"model": "m", "verbose": False, "unit": "session", "max_retries": 2} | params
    return LLMLabeler(CLASSES, base_url=stub.url, **params)


def test_one_call_lists_a_window_and_each_line_gets_its_probabilities(stub):
    labeler = make(stub, n_utterances_per_call=10, n_context_turns=3)
    scores = labeler.fit_transform(FRAME)
    np.testing.assert_allclose(scores[:, 0], 0.1 + 0.7 * TRUTH)
    np.testing.assert_allclose(labeler.option_mass_, 1)
    # 25 turns are the windows 0-9, 7-16, 14-23 and 21-24.
    sizes = sorted(len(lines_of(request)) for request in stub.requests)
    assert sizes == [1, 4, 4, 10, 10, 10, 10]
    assert labeler.usage_["requests"] == 7
    assert labeler.window_agreement_ == 1
    assert all(r["max_tokens"] == 16 + 8 * len(lines_of(r)) for r in stub.requests)


def test_lines_are_in_the_order_of_turns_and_the_order_of_rows_does_not_matter(stub, tmp_path):
    expected = make(stub, cache=tmp_path).fit_transform(FRAME)
    # Several requests are under way at once, so they arrive in any order.
    contents = [request["messages"][-1]["content"] for request in stub.requests]
    first = [str(t) for t in range(10)]
    assert [re.findall(r" 0\.(\d+)", content) for content in contents].count(first) == 1
    stub.requests.clear()
    shuffled = FRAME.sample(frac=1, random_state=0)
    renamed = shuffled.assign(session_id=(-7 * shuffled.session_id).astype(str))
    scores = make(stub, cache=tmp_path).fit_transform(renamed)
    np.testing.assert_array_equal(scores, expected[shuffled.index])
    assert stub.requests == []


def test_windows_cover_each_session_and_share_turns():
    n = 23
    order = np.r_[np.arange(20)[::-1], [22, 21, 20]]
    stops = np.r_[np.full(20, 20), np.full(3, 23)]
    turns = Turns([""] * n, [0] * 20 + [1] * 3, order, np.argsort(order), stops)
    windows = cut_windows(turns, 8, 2)
    assert windows[:3] == [tuple(range(8)), tuple(range(6, 14)), tuple(range(12, 20))]
    assert windows[3] == (20, 21, 22)
    counts = count_windows(windows, n)
    assert counts[[6, 7, 12, 13]].tolist() == [2] * 4
    assert counts.sum() == n + 4


def test_a_shared_turn_gets_the_mean_of_its_windows_and_disagreement_shows(stub):
    def by_place(request):
        pairs = [(n, "bad" if i == 0 else "good") for i, (n, _) in enumerate(lines_of(request))]
        return written(answers(pairs, sure=0.9))

    stub.answer = by_place
    labeler = make(stub, n_utterances_per_call=5, n_context_turns=1)
    scores = labeler.fit_transform(make_frame((9,)))
    assert scores[4, 0].round(3).tolist() == [0.475, 0.475, 0.05]
    assert labeler.window_agreement_ == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda pairs: [p for p in pairs if p[0] != "2"], "no line"),
        (lambda pairs: [*pairs, ("2", "bad")], "several lines"),
        (lambda pairs: [(n, "other" if n == "2" else name) for n, name in pairs], "no option"),
    ],
    ids=["missing", "doubled", "no option"],
)
def test_a_line_that_is_missing_or_doubled_is_asked_again_alone(stub, change, reason, tmp_path):
    def answer(request):
        pairs = lines_of(request)
        return written(answers(change(pairs) if len(pairs) > 1 else pairs, sure=0.8))

    stub.answer = answer
    frame = make_frame((6,))
    labeler = make(stub, cache=tmp_path)
    scores = labeler.fit_transform(frame)
    assert [len(lines_of(request)) for request in stub.requests] == [6, 1]
    assert stub.requests[1]["messages"][-1]["content"].startswith(
        stub.requests[0]["messages"][-1]["content"]
    )
    np.testing.assert_array_equal(scores[:, 0].argmax(axis=1), TRUTH[:6].argmax(axis=1))
    assert labeler.failures_ == []
    labeler.transform(frame)
    assert len(stub.requests) == 2
    stub.answer = lambda r: written(answers(change([(n, "good") for n, _ in lines_of(r)])))
    with pytest.warns(UserWarning, match=r"1 of 6 answers are missing"):
        scores = make(stub, model="other").fit_transform(frame)
    assert np.isnan(scores[:, 0, 0]).tolist() == [False, True, False, False, False, False]


def test_the_lines_before_an_answer_was_cut_off_are_kept(stub):
    def answer(request):
        pairs = lines_of(request)
        if len(pairs) == 1:
            return written(answers(pairs))
        return written(answers(pairs)[: 4 * 3 + 2], finish_reason="length")

    stub.answer = answer
    scores = make(stub).fit_transform(make_frame((5,)))
    assert np.isfinite(scores).all()
    assert [len(lines_of(r)) for r in stub.requests] == [5, 1, 1]


def test_a_window_that_is_refused_is_asked_line_by_line(stub):
    def answer(request):
        if len(lines_of(request)) > 1 or '3. "' not in request["messages"][-1]["content"]:
            return completion("", refusal="I cannot say.")
        return answer_list(request)

    stub.answer = answer
    scores = make(stub).fit_transform(make_frame((3,)))
    assert np.isfinite(scores).all()
    assert len(stub.requests) == 4


def test_a_request_that_fails_leaves_its_window_missing(stub):
    stub.answer = lambda r: 400 if len(lines_of(r)) == 4 else answer_list(r)
    labeler = make(stub)
    with pytest.warns(UserWarning, match=re.escape("4 of 48 answers are missing: HTTP 400")):
        scores = labeler.fit_transform(make_frame((20, 4, 15)))
    assert np.flatnonzero(np.isnan(scores[:, 0, 0])).tolist() == [20, 21, 22, 23]
    assert labeler.usage_["failures"] == 4


@pytest.mark.parametrize("scoring", ["label", "verbalized"])
def test_without_log_probabilities_lines_are_objects_of_a_schema(stub, scoring):
    def answer(request):
        items = []
        for n, word in lines_of(request):
            value = {"label": word}
            if scoring == "verbalized":
                value = {"confidences": {c: 8 if c == word else 1 for c in CLASSES}}
            items.append({"line": int(n), **value})
        return completion(json.dumps({"lines": items}), finish_reason="stop")

    stub.answer = answer
    scores = make(stub, scoring=scoring).fit_transform(FRAME)
    expected = TRUTH if scoring == "label" else 0.1 + 0.7 * TRUTH
    np.testing.assert_allclose(scores[:, 0], expected)
    schema = stub.requests[0]["response_format"]["json_schema"]["schema"]
    item = schema["properties"]["lines"]["items"]
    assert item["required"] == ["line", {"label": "label", "verbalized": "confidences"}[scoring]]


def read(text, scoring="label", numbers=(1, 2, 3), multilabel=False):
    body = completion(text, finish_reason="stop")
    item = make_item(scoring, CLASSES, multilabel)
    return read_list(body, CLASSES, item, CLASSES, list(numbers))


@pytest.mark.parametrize(
    "text",
    [
        '[{"line": 1, "label": "bad"}, {"line": 3, "label": "Good."}]',
        '```json\n{"lines": [{"line": "1", "label": "bad"}, {"line": 3, "label": "good"}]}\n```',
        '{"line": 1, "label": "bad"}\n{"line": 3, "label": "good"}\n{"line": 9, "label": "good"}',
        '{"lines": [{"line": 1, "label": "bad"}, {"line": 3, "label": "good"}, {"line": 2, "la',
        '{"lines": [{"line": 1, "label": "bad"}, {"line": 2, "label": "worse"}, '
        '{"line": 3, "label": "good"}, {"line": true, "label": "good"}, 7, null]}',
        '{"lines": [{"line": 1, "label": "bad"}, {"line": 2, "label": "bad"}, '
        '{"line": 2, "label": "bad"}, {"line": 3, "label": "good"}]}',
        '<think>{"line": 2, "label": "bad"}</think>{"lines": [{"line": 1, "label": "bad"}, '
        '{"line": 3, "label": "good"}]}',
    ],
)
def test_objects_are_validated_line_by_line(text):
    first, second, third = read(text)
    assert first.scores.tolist() == [1, 0, 0]
    assert third.scores.tolist() == [0, 1, 0]
    assert second.scores is None
    assert isinstance(second, MissingLine)


@pytest.mark.parametrize("text", ["", "I cannot.", "{}", '{"lines": 3}', "[" * 5000])
def test_what_is_no_list_leaves_every_line_missing(text):
    assert [answer.scores for answer in read(text)] == [None] * 3


@pytest.mark.parametrize(
    ("scoring", "text", "expected"),
    [
        ("label", '{"lines": [{"line": 1, "labels": ["bad", "Good."]}]}', [1, 1, 0]),
        ("label", '{"lines": [{"line": 1, "labels": []}]}', [0, 0, 0]),
        ("label", '{"labels": ["good", "good"]}', [0, 1, 0]),
        ("label", '{"bad": "yes", "good": "no"}', [1, 0, np.nan]),
        ("verbalized", '{"line": 1, "probabilities": {"bad": 0.2, "good": 1}}', [0.2, 1, np.nan]),
        ("verbalized", '{"bad": 0, "good": 0, "neutral": 0.5}', [0, 0, 0.5]),
    ],
)
def test_any_number_of_labels_is_read_of_a_line(scoring, text, expected):
    (answer,) = read(text, scoring, numbers=[1], multilabel=True)
    np.testing.assert_array_equal(answer.scores, expected)


@pytest.mark.parametrize(
    ("scoring", "value"),
    [
        ("label", '["bad", "worse"]'),
        ("label", '"bad"'),
        ("label", "[1]"),
        ("label", "null"),
        ("label", '{"bad": true}'),
        ("verbalized", '["bad"]'),
        ("verbalized", '{"bad": 2}'),
        ("verbalized", '{"worse": 0.5}'),
        ("verbalized", "0.5"),
    ],
)
def test_what_does_not_say_which_labels_apply_leaves_the_line_missing(scoring, value):
    field = {"label": "labels", "verbalized": "probabilities"}[scoring]
    text = f'{{"lines": [{{"line": 1, "{field}": {value}}}, {{"line": 2, "{field}": []}}]}}'
    first = read(text, scoring, multilabel=True)[0]
    assert isinstance(first, MissingLine)
    assert first.reason.startswith("no ")


@pytest.mark.parametrize(
    "tokens",
    [
        [("1", 0), (":", 0), (" A", 1), ("\n", 0), ("2", 0), (":", 0), (" B", 1)],
        [("1", 0), (". ", 0), ("A", 1), ("\n\n", 0), ("2", 0), (")", 0), (" ", 0), ("B", 1)],
        [("**", 0), ("1", 0), ("**:", 0), (" A", 1), ("\n**", 0), ("2", 0), ("**: B", 1)],
        [("Line", 0), (" 1", 0), (":", 0), ("A", 1), ("\n", 0), ("Line 2:", 0), ("B", 1)],
        [("<think>1: C\n2: C</think>", 0), ("1", 0), (": A", 1), ("\n2:", 0), (" B", 1)],
        [("12: C\n", 0), ("1: ", 0), ("A", 1), ("\n2", 0), (": ", 0), ("B", 1)],
    ],
)
def test_the_letter_of_each_line_is_found_however_tokens_are_cut(tokens):
    likely = {"A": np.log(0.5), "B": np.log(0.4), "C": np.log(0.1)}
    body = written([(token, likely if it_counts else {token: 0.0}) for token, it_counts in tokens])
    for answer in read_list(body, CLASSES, None, list("ABC"), [1, 2]):
        assert answer.scores == pytest.approx([0.5, 0.4, 0.1])


def test_a_run_is_resumed_from_the_cache_and_planned(stub, tmp_path):
    calls = []

    def stop_after_three(request):
        calls.append(request)
        return answer_list(request) if len(calls) <= 3 else 401

    stub.answer = stop_after_three
    labeler = make(stub, cache=tmp_path, max_concurrency=1)
    with pytest.raises(PermissionError):
        labeler.fit_transform(FRAME)
    stub.answer = answer_list
    stub.requests.clear()
    plan = labeler.plan(FRAME)
    assert (plan.n_requests, plan.n_cached) == (4, 3)
    scores = labeler.transform(FRAME)
    assert len(stub.requests) == 4
    np.testing.assert_allclose(scores[:, 0], 0.1 + 0.7 * TRUTH)


def test_orders_and_prompts_are_averaged(stub):
    def first_option(request):
        first = re.search(r"^- (\w+)", request["messages"][-1]["content"], re.M)[1]
        return written(answers([(n, first) for n, _ in lines_of(request)]))

    stub.answer = first_option
    scores = make(stub, option_orders="balanced").fit_transform(FRAME)
    np.testing.assert_allclose(scores, 1 / 3)


@pytest.mark.parametrize("names", [["disliked", "distrusted"], ["плохо", "хорошо"]])
def test_names_that_one_token_may_not_tell_apart_are_shown_as_letters(stub, names):
    stub.answer = lambda r: written(answers([(n, "B") for n, _ in lines_of(r)], 0.9, "AB"))
    labeler = LLMLabeler(names, base_url=stub.url, model="m", unit="session", verbose=False)
    scores = labeler.fit_transform(FRAME.head(4))
    assert (scores[:, 0, 1] > 0.9).all()
    asked = stub.requests[0]["messages"][-1]["content"]
    assert f"A. {names[0]}\nB. {names[1]}" in asked
    assert "the letter of one option" in asked
    assert "- bad\n- good" in str(make(stub).fit(FRAME).preview(FRAME, 0))


def test_a_preview_shows_the_first_window_of_the_utterance(stub):
    labeler = make(stub).fit(FRAME)
    assert '10. "' in str(labeler.preview(FRAME, 9))
    assert '1. "bad 1.0"' in str(labeler.preview(FRAME, 25))
    assert stub.requests == []


@pytest.mark.parametrize(
    ("params", "X", "message"),
    [
        ({"prompts": PromptBank()}, FRAME, "pass PromptBank('session', task=...)"),
        ({"unit": "utterance", "prompts": "session"}, FRAME, "pass unit='session'"),
        ({"n_utterances_per_call": 3}, FRAME, "must be above n_context_turns=3"),
        ({}, ["a", "b"], "needs sessions: pass X as a frame"),
        ({"prompts": {"p": "{lines}{answer}{options}{context}"}}, FRAME, "has {lines}, with which"),
        ({"prompts": "best"}, FRAME, "'prompts' parameter"),
        ({"session": []}, FRAME, "session=[] must be the name of a column"),
    ],
)
def test_what_does_not_fit_sessions_is_refused(stub, params, X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(stub, **params).fit(X)


def test_several_columns_identify_a_session(stub, tmp_path):
    parts = {"channel": FRAME.session_id % 2, "chat_id": FRAME.session_id // 2}
    frame = FRAME.drop(columns="session_id").assign(**parts)
    session = ["channel", "chat_id"]
    expected = make(stub, cache=tmp_path).fit_transform(FRAME)
    stub.requests.clear()
    labeler = make(stub, cache=tmp_path, session=session)
    np.testing.assert_array_equal(labeler.fit_transform(frame), expected)
    assert stub.requests == []
    table = labeler.to_frame(expected, frame)
    assert table.columns[:3].tolist() == ["channel", "chat_id", "turn"]


def test_examples_are_of_other_sessions_by_all_their_columns(stub):
    stub.answer = by_option
    frame = pd.DataFrame(
        {"a": [0, 0, 1, 1], "b": [0, 1, 0, 1], "turn": 0, "text": ["w", "x", "y", "z"]}
    )
    labeler = make(stub, unit="utterance", prompts="short", session=["a", "b"])
    labeler.fit(frame, ["bad", "bad", "good", "neutral"]).transform(frame)
    assert {len(request["messages"]) for request in stub.requests} == {7}
    for request in stub.requests:
        *shown, asked = [m["content"][-3:] for m in request["messages"] if m["role"] == "user"]
        assert sorted([*shown, asked]) == ['"w"', '"x"', '"y"', '"z"']
