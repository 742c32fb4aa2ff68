"""What an LLM answered, read as a distribution over classes."""

import json
import math
import re
from typing import Any, NamedTuple

import numpy as np

from skpref._typing import FloatArray


class Answer(NamedTuple):
    """A distribution over the classes, or the reason why there is none.

    `mass` is the probability that all options together had before they were made to sum to 1.
    """

    scores: FloatArray | None
    mass: float = np.nan
    reason: str = ""


class Malformed(Exception):
    """A response that no model gave: the server or the connection broke it."""


class NoLogprobs(Exception):
    """A response without the log-probabilities that were asked for."""


def read_completion(body: str | bytes | dict) -> dict[str, Any]:
    """Check that a response has the form of a chat completion.

    Parameters
    ----------
    body : str, bytes or dict
        The response, as JSON or decoded.

    Returns
    -------
    dict
        The response.

    Raises
    ------
    Malformed
        If it is not JSON, has no choice, or the choice is empty.
    """
    try:
        completion = body if isinstance(body, dict) else json.loads(body)
        choice = completion["choices"][0]
        message = choice["message"]
    except (ValueError, LookupError, TypeError):
        raise Malformed("the response is no chat completion") from None
    refused = message.get("refusal") or choice.get("finish_reason") == "content_filter"
    if not (refused or message.get("content") or _top_tokens(choice)):
        raise Malformed("the answer is empty")
    return completion


def read_answer(completion: dict, scoring: str, names: list[str], answers: list[str]) -> Answer:
    """Read one answer.

    Parameters
    ----------
    completion : dict
        Chat completion in OpenAI's form.
    scoring : {"logprobs", "verbalized", "label"}
        How it is read.
    names : list of str
        Names of the classes.
    answers : list of str
        What the model was told to answer with for each class.

    Returns
    -------
    Answer
        The distribution, or why there is none.

    Raises
    ------
    NoLogprobs
        If scoring is "logprobs" and there are none.
    """
    choice = completion["choices"][0]
    message = choice["message"]
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        return Answer(None, reason="refused")
    if scoring == "logprobs":
        return _read_logprobs(_top_tokens(choice), names, answers)
    text = message.get("content") or ""
    if scoring == "verbalized":
        return _read_confidences(text, names)
    return _read_label(text, names)


def _top_tokens(choice: dict) -> dict[str, float]:
    """Probabilities of the likeliest first tokens."""
    try:
        first = choice["logprobs"]["content"][0]
        tokens = first.get("top_logprobs") or [first]
        return {t["token"]: math.exp(t["logprob"]) for t in tokens}
    except (LookupError, TypeError):
        return {}


def _read_logprobs(tokens: dict[str, float], names: list[str], answers: list[str]) -> Answer:
    if not tokens:
        raise NoLogprobs
    scores, seen = np.zeros(len(names)), np.zeros(len(names), dtype=bool)
    folded = [name.casefold() for name in names]
    labels = {answer.casefold(): k for k, answer in enumerate(answers)}
    for token, probability in tokens.items():
        k = _match_token(token, folded, labels)
        if k is not None:
            scores[k] += probability
            seen[k] = True
    mass = scores.sum()
    if not mass > 0:
        likeliest = max(tokens, key=lambda token: tokens[token])
        return Answer(None, 0.0, f"no option among the likeliest tokens, the first {likeliest!r}")
    # An option that is not listed is at most as likely as the last that is.
    scores[~seen] = min(tokens.values())
    return Answer(scores / scores.sum(), min(mass, 1.0))


def _match_token(token: str, folded: list[str], labels: dict[str, int]) -> int | None:
    """Find the class that a token begins to answer with."""
    # Some servers give the marks of a tokenizer for a leading space.
    word = re.sub(r"[\W_]+", "", token.lstrip("Ġ▁")).casefold()
    if word in labels:
        return labels[word]
    if word in folded:
        return folded.index(word)
    begun = [k for k, name in enumerate(folded) if len(word) >= 3 and name.startswith(word)]
    return begun[0] if len(begun) == 1 else None


def _read_confidences(text: str, names: list[str]) -> Answer:
    confidences = _find_object(text)
    if confidences is None:
        return Answer(None, reason=f"no JSON object in {text!r:.80}")
    given = {str(key).strip().casefold(): value for key, value in confidences.items()}
    scores = np.array([_read_number(given.get(name.casefold())) for name in names])
    if not (scores >= 0).all():  # NaN is not, either
        bad = [name for name, score in zip(names, scores, strict=True) if not score >= 0]
        return Answer(None, reason=f"no confidence of 0 or more for {bad} in {text!r:.80}")
    if not 0 < scores.sum() < np.inf:
        return Answer(None, reason=f"confidences do not add up in {text!r:.80}")
    return Answer(scores / scores.sum())


def _find_object(text: str) -> dict | None:
    """Find the first JSON object in a text, which may have words or a code fence around it."""
    decoder = json.JSONDecoder()
    for match in re.finditer("{", text):
        try:
            return decoder.raw_decode(text, match.start())[0]
        except ValueError:
            continue
    return None


def _read_number(value) -> float:
    """Read a number or a percentage; anything else is NaN."""
    if isinstance(value, bool):
        return np.nan
    try:
        if isinstance(value, str) and value.strip().endswith("%"):
            return float(value.strip()[:-1]) / 100
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def _read_label(text: str, names: list[str]) -> Answer:
    said = text.strip(" \t\r\n.\"'`*-").casefold()
    found = [k for k, name in enumerate(names) if name.casefold() == said]
    if not found:
        found = [k for k, name in enumerate(names) if _mentions(text, name)]
    if len(found) != 1:
        what = "several options" if found else "no option"
        return Answer(None, reason=f"{what} in {text!r:.80}")
    return Answer(np.eye(len(names))[found[0]])


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None
