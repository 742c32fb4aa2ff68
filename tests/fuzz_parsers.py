"""The fuzz of what reads text: answers of LLMs, templates of prompts."""

import copy
import json
import pickle

import numpy as np

from skpref import PromptBank
from skpref._llm._answers import NoLogprobs, read_answer
from skpref._llm._completion import Malformed, read_completion
from skpref._llm._labels import read_labels
from skpref._llm._lists import make_item, read_list
from tests.fuzz_inputs import choose
from tests.fuzz_subjects import Broken, ensure
from tests.llm.stub import by_places, completion

_NAMES = [
    ["bad", "good"],
    ["angry", "very angry", "calm"],
    ["0", "1", "2"],
    ["-1", "1.5"],
    ["yes", "no"],
    ["answered", "ask", "none"],
    ["A", "B", "C"],
    ["a.b*c", "(x)", "[y]", "\\d"],
    ["très bien", "mal", "ß", "SS"],
    ["No", "no"],
    ["false", "true"],
]
_PIECES = [
    "I think ",
    "not ",
    "The answer is ",
    "**",
    "`",
    "\n",
    ".",
    " or ",
    "```json\n",
    "```",
    "<think>",
    "</think>",
    "<|channel|>final<|message|>",
    "<|channel|>analysis<|message|>",
    "<|end|>",
    "{",
    "}",
    '{"a": ',
    "é",
    "\ud800",
    "\x00",
    "😀",
    "  ",
    "1%",
    "-",
    "isn't ",
    " is wrong",
    "{" * 30,
    "[" * 3000,
    "9" * 500,
]


def _draw_text(rng, names):
    pieces = [str(choose(rng, _PIECES + 8 * names)) for _ in range(rng.integers(0, 5))]
    return "".join(pieces)


def _draw_confidences(rng, names):
    odd = [
        *[0.3, 1, 0] * 4,
        "70%",
        "0.5",
        None,
        True,
        -1,
        1e9,
        1e400,
        float("nan"),
        [],
        {},
        "x",
        10**400,
    ]
    values = {n: choose(rng, [0.2, 0.7, *odd]) for n in names if rng.random() < 0.95}
    try:
        return json.dumps(values)
    except ValueError:
        return str(values)


def _draw_logprobs(rng, names):
    tokens = [*names, *names, *"ABCABC", " A", "ĠB", "The", "", "▁C", "<think>"]
    odd = [-0.1, -3.0, -1e4, 0.0, 0.5, 2.0, float("nan"), float("-inf"), None, "x"]
    places = []
    for _ in range(rng.integers(0, 4)):
        top = [
            {"token": choose(rng, tokens), "logprob": choose(rng, [*[-0.2, -1.5, -2.5] * 6, *odd])}
            for _ in range(rng.integers(0, 6))
        ]
        place = {"token": choose(rng, tokens), "logprob": -0.1, "top_logprobs": top}
        places.append(place)
    return choose(rng, [*[{"content": places}] * 12, None, {}, {"content": None}, 5])


def _draw_completion(rng, names, scoring):
    draw = {"verbalized": _draw_confidences, "label": _draw_text}.get(scoring, _draw_text)
    if rng.random() < 0.2:
        draw = choose(rng, [_draw_text, _draw_confidences])
    text = draw(rng, names)
    if rng.random() < 0.2:
        text = choose(rng, [choose(rng, names), f"<think>{text}</think>{choose(rng, names)}"])
    content = choose(
        rng,
        [text] * 9 + [None, [{"type": "text", "text": text}], [{"type": "thinking"}], [], 7],
    )
    message = {"role": "assistant", "content": content}
    if rng.random() < 0.05:
        message[choose(rng, ["refusal", "reasoning_content", "reasoning"])] = "because"
    choice = {
        "message": message,
        "finish_reason": choose(rng, ["stop"] * 9 + ["length", "content_filter", None, "error", 5]),
    }
    if rng.random() < 0.9:
        choice["logprobs"] = _draw_logprobs(rng, names)
    whole = {"choices": [choice]}
    return choose(
        rng, [whole] * 60 + [{}, {"choices": []}, {"error": {"code": 429}}, "no JSON", []]
    )


def try_answer(rng, notes):
    """An answer is a distribution, or there is a reason; the order of the names is the columns'."""
    names = choose(rng, _NAMES)
    answers = choose(rng, [list(names), list("ABCDEF")[: len(names)]])
    scoring = choose(rng, ["logprobs", "verbalized", "label"])
    body = _draw_completion(rng, names, scoring)
    notes += [f"{scoring}, {names}, {answers}", repr(body)[:2000]]
    try:
        completion = read_completion(body)
        found = read_answer(completion, scoring, names, answers)
    except (Malformed, NoLogprobs):
        return "refused"
    order = rng.permutation(len(names))
    moved = read_answer(completion, scoring, [names[i] for i in order], [answers[i] for i in order])
    if found.scores is None:
        ensure(isinstance(found.reason, str) and found.reason, "a reason")
        ensure(moved.scores is None, "no scores in another order either")
        return "refused"
    _check_scores(found, len(names))
    ensure(moved.scores is not None, "scores in another order, too")
    ensure(np.allclose(found.scores[order], moved.scores), "scores in the order of the names")
    return "works"


def try_labels(rng, notes):
    """Each label has a probability or NaN, whatever the order of the names."""
    names = choose(rng, _NAMES)
    numbers = [str(i) for i in range(1, len(names) + 1)]
    scoring = choose(rng, ["logprobs", "verbalized", "label"])
    body = _draw_completion(rng, names, scoring)
    notes += [f"{scoring}, {names}, several labels", repr(body)[:2000]]
    order = rng.permutation(len(names))
    try:
        completion = read_completion(body)
        found = read_labels(completion, scoring, names, numbers)
        moved = read_labels(
            completion, scoring, [names[i] for i in order], [numbers[i] for i in order]
        )
    except (Malformed, NoLogprobs):
        return "refused"
    ensure((found.scores is None) == (moved.scores is None), "the same in another order")
    if found.scores is None:
        ensure(isinstance(found.reason, str) and found.reason, "a reason")
        return "refused"
    _check_label_scores(found, len(names))
    ensure(np.allclose(found.scores[order], moved.scores, equal_nan=True), "scores by name")
    return "works"


def try_list(rng, notes):
    """Each line asked about has its scores or a reason, and lines not asked about none."""
    names = choose(rng, _NAMES)
    scoring = choose(rng, ["logprobs", "verbalized", "label"])
    multilabel = scoring != "logprobs" and rng.random() < 0.5
    numbers = list(range(1, int(rng.integers(2, 5))))
    item = None if scoring == "logprobs" else make_item(scoring, names, multilabel)
    body = _draw_list(rng, names, item, numbers)
    notes += [f"{scoring}, {multilabel}, {names}, lines {numbers}", repr(body)[:2000]]
    answers = list("ABC"[: len(names)]) if scoring == "logprobs" else names
    try:
        found = read_list(read_completion(body), names, item, answers, numbers)
    except (Malformed, NoLogprobs):
        return "refused"
    ensure(len(found) == len(numbers), "an answer for each line")
    for answer in found:
        if answer.scores is None:
            ensure(isinstance(answer.reason, str) and answer.reason, "a reason")
        elif multilabel:
            _check_label_scores(answer, len(names))
        else:
            _check_scores(answer, len(names))
    return "works" if any(answer.scores is not None for answer in found) else "refused"


def _draw_list(rng, names, item, numbers):
    """A completion with lines, some of them missing, doubled, in another form or cut off."""
    kept = [n for n in numbers if rng.random() < 0.9]
    kept += [int(choose(rng, [1, 2, 7, 0]))] * (rng.random() < 0.2)
    if item is None:
        tokens = []
        for n in kept:
            letter = str(choose(rng, "ABCX"))
            likeliest = {f" {letter}": -0.2, " B": -1.8, " A": float(choose(rng, [-2.0, np.nan]))}
            tokens += [(str(n), {}), (":", {}), (f" {letter}", likeliest), ("\n", {})]
        body = by_places(tokens)
    else:
        values = [*names, dict.fromkeys(names, 1), dict.fromkeys(names, 0.5), None, 5, [], "maybe"]
        values += [names, [names[0]], [names[0], "maybe"], {names[0]: 0.2, "maybe": 3}]
        lines = [
            {choose(rng, ["line", "line", "Line"]): choose(rng, [n, str(n)]), item.field: value}
            for n in kept
            for value in [choose(rng, values)]
        ]
        text = json.dumps(choose(rng, [{"lines": lines}, {"lines": lines}, lines, {"lines": 5}]))
        if rng.random() < 0.2:
            text = text[: rng.integers(len(text) + 1)]
        body = completion(text)
    finish = choose(rng, ["stop", "stop", "stop", "length", "content_filter"])
    body["choices"][0]["finish_reason"] = finish
    return body


def _check_scores(found, k):
    ensure(found.scores.shape == (k,), "a score of each class")
    ensure(np.isfinite(found.scores).all() and (found.scores >= 0).all(), "scores of 0 or more")
    ensure(np.isclose(found.scores.sum(), 1), "scores that sum to 1")
    ensure(np.isnan(found.mass) or 0 <= found.mass <= 1, "a mass from 0 to 1")


def _check_label_scores(found, k):
    known = found.scores[~np.isnan(found.scores)]
    ensure(found.scores.shape == (k,) and len(known), "a score of a label")
    ensure(((known >= 0) & (known <= 1)).all(), "scores from 0 to 1")


_GOOD = ["{options}", "{definitions}"]
_MAY = ["{task}", "{context}", "{examples}", "x", "{{}}", "\n", "é"]
_BAD = [
    "{",
    "}",
    "{unknown}",
    "{0}",
    "{}",
    "{utterance.x}",
    "{utterance[0]}",
    "{task:>9q}",
    "{a b}",
]


def try_bank(rng, notes):
    """A good template is filled in with every class; a bad one is refused by its name."""
    parts = ["{utterance}", "{answer}", choose(rng, _GOOD)]
    parts += [choose(rng, _MAY) for _ in range(rng.integers(0, 3))]
    if parts.count("{examples}") > 1:
        parts = [p for p in parts if p != "{examples}"]
    parts = [parts[i] for i in rng.permutation(len(parts))]
    bad = rng.random() < 0.4
    if bad:
        parts.insert(int(rng.integers(len(parts))), choose(rng, _BAD))
    template = " ".join(parts)
    notes.append(repr(template))
    try:
        bank = PromptBank({"mine": template, "other": "{options} {answer} {utterance}"})
    except (ValueError, TypeError) as error:
        ensure("mine" in str(error), f"the name of the template: {error}")
        if not bad and "{examples}" in template:
            return "refused"  # what must stand before and after the examples
        ensure(bad, f"a good template, refused: {error}")
        return "refused"
    ensure(not bad, "a refusal of a bad template")
    _check_bank(rng, bank)
    return "works"


def _check_bank(rng, bank):
    classes = choose(rng, [["bad", "good"], [0, 1, 2], ["a{b}", "c}"], [False, True], ["x y", "z"]])
    scoring = choose(rng, ["logprobs", "verbalized", "label"])
    questions = bank.questions(classes, scoring, order=0, n_orders=1)
    for question in questions.values():
        ensure(len(question.answers) == len(classes), "an answer for each class")
        shown = question.values["options"] + question.values["definitions"]
        ensure(all(str(c) in shown for c in classes), "every class shown")
    for again in (copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))):
        ensure(dict(again) == dict(bank), "the same templates in a copy")
        ensure(again.questions(classes, scoring) == questions, "the same questions from a copy")
    for name, value in (("a", 5), (5, "{utterance}"), ("a", None)):
        try:
            bank[name] = value
        except (TypeError, ValueError):
            continue
        raise Broken(f"a refusal of {name!r}: {value!r}")


PARSERS = {
    "read_answer": (try_answer, 4),
    "read_labels": (try_labels, 2),
    "read_list": (try_list, 2),
    "PromptBank": (try_bank, 2),
}
