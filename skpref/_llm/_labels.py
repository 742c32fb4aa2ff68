"""Several labels of an utterance in one answer: its form, and the probability of each label."""

import json
import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from skpref._llm._answers import (
    NEGATION,
    Answer,
    NoLogprobs,
    find_objects,
    match_option,
    read_number,
    read_tokens,
)
from skpref._llm._completion import (
    answer_places,
    answer_text,
    has_places,
    is_cut_off,
    is_refused,
)
from skpref._llm._requests import Form, object_schema, response_format

_WORDS = ["yes", "no"]
_CLAIMS = {"no": 0.0, "false": 0.0, "yes": 1.0, "true": 1.0}


class _Claim(NamedTuple):
    """The answer about one label: the probability that it applies, and that of yes and no."""

    label: int
    score: float
    mass: float = np.nan


def each_label(scoring: str, names: list[str], top_logprobs: int) -> Form:
    """Return the form of an answer that says of each label whether it applies.

    Parameters
    ----------
    scoring : {"logprobs", "verbalized", "label"}
        How answers become scores.
    names : list of str
        Names of the labels.
    top_logprobs : int
        Number of the likeliest tokens that are asked for.

    Returns
    -------
    Form
        The form.
    """
    limit = 16 + sum(len(name) + 12 for name in names)
    value = {"type": "number"} if scoring == "verbalized" else {"type": "string", "enum": _WORDS}
    schema = object_schema(dict.fromkeys(names, value))
    settings: dict[str, Any] = {
        "max_tokens": limit,
        "response_format": response_format("labels", schema),
    }
    if scoring == "logprobs":
        settings = {"max_tokens": limit, "logprobs": True, "top_logprobs": top_logprobs}

    def read(completion: dict, answers: list[str]) -> Answer:
        return read_labels(completion, scoring, names, answers)

    def expect(answers: list[str]) -> str:
        if scoring == "logprobs":
            lines = zip(answers, names, strict=True)
            return "\n".join(f"{number}. {name}: no" for number, name in lines)
        usual = 0.55 if scoring == "verbalized" else "no"
        return json.dumps(dict.fromkeys(names, usual), ensure_ascii=False)

    return Form(settings, read, expect)


def read_labels(completion: dict, scoring: str, names: list[str], answers: list[str]) -> Answer:
    """Read the probability that each label applies.

    Parameters
    ----------
    completion : dict
        Chat completion in OpenAI's form.
    scoring : {"logprobs", "verbalized", "label"}
        How it is read.
    names : list of str
        Names of the labels.
    answers : list of str
        The number of each label in the question.

    Returns
    -------
    Answer
        The probabilities, NaN for labels that are not answered, or are answered more than once;
        or the reason why there is none.

    Raises
    ------
    NoLogprobs
        If scoring is "logprobs" and there are none.
    """
    choice = completion["choices"][0]
    if is_refused(choice):
        return Answer(None, reason="refused")
    if scoring != "logprobs":
        text = answer_text(choice)
        claims = _read_objects(text, names)
    elif not has_places(choice):
        raise NoLogprobs
    else:
        text, likeliest = answer_places(choice)
        claims = _read_lines(text, likeliest, names, answers)
    answer = _collect(claims, len(names))
    if answer.scores is not None:
        return answer
    reason = f"no label that is plainly answered in {text!r:.80}"
    if is_cut_off(choice):
        reason += ", which was cut off; allow more tokens by request_params={'max_tokens': ...}"
    return Answer(None, reason=reason)


def read_probabilities(value: dict[str, Any], names: list[str]) -> Answer:
    """Read an object that gives labels their probabilities.

    Parameters
    ----------
    value : dict
        The object.
    names : list of str
        Names of the labels.

    Returns
    -------
    Answer
        The probabilities, NaN for labels that have none; without scores if no label has one.
    """
    return _collect(_read_pairs(list(value.items()), names), len(names))


def _collect(claims: list[_Claim], n_labels: int) -> Answer:
    """Keep the labels that are answered once."""
    counts = Counter(claim.label for claim in claims)
    valid = [c for c in claims if counts[c.label] == 1 and not np.isnan(c.score)]
    if not valid:
        return Answer(None)
    scores = np.full(n_labels, np.nan)
    scores[[claim.label for claim in valid]] = [claim.score for claim in valid]
    return Answer(scores, float(np.mean([claim.mass for claim in valid])))


def _read_objects(text: str, names: list[str]) -> list[_Claim]:
    """Read the last object that has all labels, else the last that has any."""
    # As pairs, since a dict would hide that a label is answered twice.
    found = [_read_pairs(pairs, names) for pairs in find_objects(text, list)]
    partial = [claims for claims in found if _count_labels(claims)]
    whole = [claims for claims in partial if _count_labels(claims) == len(names)]
    return (whole or partial or [[]])[-1]


def _count_labels(claims: list[_Claim]) -> int:
    return len({claim.label for claim in claims if not np.isnan(claim.score)})


def _read_pairs(pairs: list[tuple[str, Any]], names: list[str]) -> list[_Claim]:
    matched = [(match_option(key, names), value) for key, value in pairs]
    return [_Claim(k, _read_claim(value)) for k, value in matched if k is not None]


def _read_claim(value: Any) -> float:
    """Read yes, no or a probability; anything else is NaN, a negation such as "not" too."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and (word := value.strip(" .").casefold()) in _CLAIMS:
        return _CLAIMS[word]
    number = read_number(value)
    return number if 0 <= number <= 1 else np.nan


def _read_lines(text: str, likeliest, names: list[str], answers: list[str]) -> list[_Claim]:
    """Read lines "number. label: yes", of which the number or the label may be missing."""
    claims = []
    for match in _line_pattern(names).finditer(text):
        label = _find_label(match, names, answers)
        tokens = likeliest(match.start("claim"))
        if label is None or not tokens:
            continue
        read = read_tokens(tokens, ["no", "yes"], ["no", "yes"])
        score = np.nan if read.scores is None or _is_taken_back(match) else read.scores[1]
        claims.append(_Claim(label, float(score), read.mass))
    return claims


def _line_pattern(names: list[str]) -> re.Pattern:
    longest_first = sorted(names, key=len, reverse=True)
    spelled = "|".join(r"\s+".join(map(re.escape, name.split())) for name in longest_first)
    # After the word comes a mark or the end of the line: "no idea" and "not" are no answers.
    return re.compile(
        r"^[^\w\n]*(?:(?P<number>\d{1,6})[^\w\n]+)?"
        rf"(?:(?P<name>{spelled})[^\w\n]+)?"
        r"(?P<claim>yes|no)\b(?P<rest>[^\S\n]*(?:[^\w\s][^\n]*)?)$",
        re.I | re.M,
    )


def _find_label(match: re.Match, names: list[str], answers: list[str]) -> int | None:
    """Return the label of a line; None if its number and its name contradict each other."""
    named: set[int | None] = set()
    if match["number"] is not None:
        number = match["number"]
        named.add(answers.index(number) if number in answers else None)
    if match["name"] is not None:
        named.add(match_option(match["name"], names))
    if not named and len(names) == 1:
        return 0
    return named.pop() if len(named) == 1 else None


def _is_taken_back(match: re.Match) -> bool:
    """Return whether the rest of a line denies its yes or no."""
    if match["claim"].casefold() == "no":
        return re.search(r"\byes\b", match["rest"], re.I) is not None
    return NEGATION.search(match["rest"]) is not None
