"""What an LLM answered, read as a distribution over classes."""

import json
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
        content = message.get("content")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Malformed("the response is no chat completion") from None
    if not (content is None or isinstance(content, str)):
        raise Malformed("the content of the answer is no text")
    refused = message.get("refusal") or choice.get("finish_reason") == "content_filter"
    if not (refused or (content or "").strip() or _top_tokens(choice)):
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


def _top_tokens(choice: dict) -> list[tuple[str, float]]:
    """Find the likeliest first tokens with their probabilities; two may read alike."""
    try:
        first = choice["logprobs"]["content"][0]
        tokens = first.get("top_logprobs") or [first]
        pairs = [(str(t["token"]), float(np.exp(min(t["logprob"], 0.0)))) for t in tokens]
    except (LookupError, TypeError, ValueError, AttributeError):
        return []
    return [(token, p) for token, p in pairs if p >= 0]  # no NaN


def _read_logprobs(tokens: list[tuple[str, float]], names: list[str], answers: list[str]) -> Answer:
    if not tokens:
        raise NoLogprobs
    scores, seen = np.zeros(len(names)), np.zeros(len(names), dtype=bool)
    folded = [_fold(name) for name in names]
    labels = {_fold(answer): k for k, answer in enumerate(answers)}
    for token, probability in tokens:
        k = _match_token(token, folded, labels)
        if k is not None:
            scores[k] += probability
            seen[k] = True
    mass = min(scores.sum(), 1.0)
    if not mass > 0:
        likeliest = max(tokens, key=lambda token: token[1])[0]
        return Answer(None, 0.0, f"no option among the likeliest tokens, the first {likeliest!r}")
    # An option that is not listed is at most as likely as the last that is, and as what is left.
    listed = [probability for _, probability in tokens]
    scores[~seen] = max(min(*listed, 1 - sum(listed)), 0)
    return Answer(scores / scores.sum(), mass)


def _fold(text: str) -> str:
    """Take off case, and what a tokenizer or a model puts around an answer."""
    # Some servers give the marks of a tokenizer for a leading space.
    return text.lstrip("Ġ▁").strip(" \t\r\n.,:;\"'`*_()[]").casefold()


def _match_token(token: str, folded: list[str], labels: dict[str, int]) -> int | None:
    """Find the class that a token begins to answer with."""
    word = _fold(token)
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
    folded = {_fold(key): value for key, value in confidences.items()}
    given = [confidences.get(name, folded.get(_fold(name))) for name in names]
    scores = np.array([_read_number(value) for value in given])
    # Bounded, so that no sum overflows; NaN is refused, too.
    if bad := [n for n, s in zip(names, scores, strict=True) if not 0 <= s <= 1e6]:
        return Answer(None, reason=f"no confidence of 0 or more for {bad} in {text!r:.80}")
    if scores.sum() == 0:
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
        except RecursionError:
            return None
    return None


def _read_number(value) -> float:
    """Read a number or a percentage; anything else is NaN."""
    if isinstance(value, bool):
        return np.nan
    try:
        if isinstance(value, str) and value.strip().endswith("%"):
            return float(value.strip()[:-1]) / 100
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _read_label(text: str, names: list[str]) -> Answer:
    for said in (text.strip().casefold(), _fold(text)):
        found = [k for k, name in enumerate(names) if name.casefold() == said]
        if len(found) == 1:
            return Answer(np.eye(len(names))[found[0]])
    mentioned = [k for k, name in enumerate(names) if _mentions(text, name)]
    # "very angry" mentions "angry", too, but means the longer one.
    found = [
        k for k in mentioned if not any(k != j and _mentions(names[j], names[k]) for j in mentioned)
    ]
    if len(found) != 1:
        what = "several options" if found else "no option"
        return Answer(None, reason=f"{what} in {text!r:.80}")
    return Answer(np.eye(len(names))[found[0]])


def _mentions(text: str, name: str) -> bool:
    sign = r"(?<![-+])" if name[:1].isdigit() else ""  # "-1" does not mention "1"
    return re.search(rf"(?<!\w){sign}{re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None
