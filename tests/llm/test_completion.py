import math

import pytest

from skpref._llm._completion import (
    Malformed,
    answer_text,
    answer_tokens,
    read_completion,
    strip_reasoning,
    words_of,
)
from tests.llm.stub import completion


@pytest.mark.parametrize(
    "thought",
    [
        "<think>negative?</think>",
        "<think>\nnegative <think>twice</think>\n</think>\n\n",
        "the template opened it: negative</think>",
        "<thinking>negative</thinking> ",
        "<Reasoning>negative</Reasoning>",
        "[THINK]negative[/THINK]",
        "◁think▷negative◁/think▷",
        "<|START_THINKING|>negative<|END_THINKING|>",
        "<seed:think>negative</seed:think>",
        "<|channel|>analysis<|message|>negative<|end|><|start|>assistant"
        "<|channel|>final<|message|>",
        "<|channel|>commentary<|message|>x<|end|><|channel|>final <|constrain|>json<|message|>",
        "analysisIt is negative.assistantfinal",
    ],
)
@pytest.mark.parametrize("end", ["", "<|return|>", "<|im_end|>", "</s>"])
def test_reasoning_before_an_answer_is_removed(thought, end):
    assert strip_reasoning(f"{thought}positive{end}").strip() == "positive"


@pytest.mark.parametrize(
    "text",
    [
        "<think>negative, let me",
        "<think>",
        "[THINK]negative",
        "<|channel|>analysis<|message|>It is negative",
        "<|channel|>analysis<|message|>negative<|end|><|start|>assistant",
        "analysisWe weigh negative",
    ],
)
def test_reasoning_that_is_not_finished_leaves_nothing(text):
    assert strip_reasoning(text).strip() == ""


@pytest.mark.parametrize(
    "text", ["positive", "I think positive", "analysis", "a < b > c", "finally"]
)
def test_text_without_reasoning_is_kept(text):
    assert strip_reasoning(text) == text


def test_text_parts_are_joined_and_thinking_parts_left_out():
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "negative"}]},
        {"type": "text", "text": "posi"},
        {"type": "text", "text": "tive"},
    ]
    choice = read_completion(completion(parts))["choices"][0]
    assert answer_text(choice) == "positive"


def test_reasoning_fields_are_no_answer():
    body = completion(
        None, finish_reason="stop", reasoning_content="negative", reasoning="negative"
    )
    assert answer_text(read_completion(body)["choices"][0]) == ""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no", "type": "x"}}, "no"),
        ({"error": {"message": "no", "code": "content_filter"}}, "no (content_filter)"),
        ({"error": "model not found"}, "model not found"),
        ({"message": "no"}, "no"),
        ({"detail": "no"}, "no"),
        (
            {"detail": [{"loc": ["body", "seed"], "msg": "extra"}]},
            "body.seed: extra",
        ),
        ([{"error": {"code": 400, "message": "API key not valid"}}], "API key not valid"),
        (
            {"error": {"message": "Provider error", "metadata": {"raw": "too\n long"}}},
            "Provider error too long",
        ),
        ("<html><head><title>502</title></head><body>Bad gateway</body></html>", "502 Bad gateway"),
        ("context too long", "context too long"),
        ({"code": 7, "why": "x"}, '{"code": 7, "why": "x"}'),
        (None, ""),
    ],
)
def test_the_words_of_any_server_are_found(body, words):
    assert words_of(body) == words


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"error": {"message": "Rate limit", "code": 429}}, 429, "error 429: Rate limit"),
        ({"error": {"message": "busy", "code": "503"}}, 503, "error 503: busy"),
        ({"error": {"message": "busy"}}, None, "error: busy"),
        ({"error": "busy"}, None, "busy"),
    ],
)
def test_an_error_in_place_of_an_answer_keeps_its_words_and_status(body, status, words):
    with pytest.raises(Malformed, match=words) as raised:
        read_completion(body)
    assert raised.value.status == status


@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource"])
def test_half_an_answer_is_malformed(finish):
    with pytest.raises(Malformed, match=f"broke off.*{finish}"):
        read_completion(completion("positive", finish_reason=finish))
    body = completion("positive", finish_reason="stop")
    body["choices"][0]["error"] = {"message": "provider timed out"}
    with pytest.raises(Malformed, match="provider timed out"):
        read_completion(body)


@pytest.mark.parametrize("finish", ["length", "stop"])
def test_an_empty_answer_that_says_how_it_ended_is_an_answer(finish):
    assert read_completion(completion(None, finish_reason=finish))


def test_tokens_are_those_after_the_reasoning():
    written = ["<think>", "B", "</think>", "\n\n", "A", "."]
    places = [
        {"token": t, "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": -0.1}]}
        for t in written
    ]
    choice = completion("".join(written), logprobs={"content": places})["choices"][0]
    assert [token.text for token in answer_tokens(choice)] == ["A"]
    choice = completion("A.", logprobs={"content": places[4:]})["choices"][0]
    assert [token.text for token in answer_tokens(choice)] == ["A"]
    assert math.isclose(answer_tokens(choice)[0].logprob, -0.1)
