"""The answer of an LLM, read as a distribution over classes."""

import json
import re
import unicodedata
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from skpref._llm._completion import Token, answer_text, answer_tokens, is_cut_off, is_refused
from skpref._typing import FloatArray

# First words of an answer that talks before it answers. They are no beginnings of class names.
_CHATTY = """
actually after all also although and answer answering answers any apologies are as assistant
based because both but can category certainly choice choose choosing class classification
considering content context conversation correct could customer definitely did does either
especially every final first for from given good great have hello her here his hmm how
however its just label let letter like look looking maybe message more most must neither none
not now number obviously okay one only option options our output please possibly probably
response result right says sentence she should since some sorry speaker statement still sure
text thank thanks that the their then there these they thinking this though thus turn
unfortunately user utterance very was well were what when which while who with would yes yet
you your
"""
_CHATTY_WORDS = frozenset(_CHATTY.split())
# Words that deny what follows them, in the languages that labels are often asked in.
NEGATION = re.compile(
    r"\b(?:not|no|non|never|neither|nor|none|nothing|without|cannot|hardly|barely|scarcely"
    r"|anything but|rather than|instead of|far from|opposite of|lack(?:s|ing)?|unable|refus\w*"
    r"|declin\w*|exclud\w*|rul(?:e|es|ed|ing) out|except|unlikely|doubt\w*"
    r"|nicht|kein\w*|weder|niemals|pas|jamais|aucun\w*|nunca|n\u00e3o|nem|sin|ni|niet|geen|nie"
    r"|ikke|inte|\u043d\u0435|\u043d\u0435\u0442|\u043d\u0438)\b"
    r"|n['\u2019]t\b|[\u4e0d\u6ca1\u7121\u975e]",
    re.I,
)
# Words that deny what stands before them.
_DENIED_AFTER = re.compile(
    r"\W*(?:"
    r"(?:(?:label|answer|option)\W+)?(?:is|was|are|were|would|seems|does|do|did)"
    r"(?:\s+not\b|n['\u2019]t\b)"
    r"|(?:(?:is|was|are|were|would|be|seems|label|answer|option)\W+){0,3}"
    r"(?:wrong|incorrect|false|out|unlikely)\b"
    r"|(?:no|not)\b(?:\s+(?:at all|really|quite|exactly))?\s*(?:[.!?;\n]|$)"
    r"|0(?:\.0+)?\s*(?:%|$))",
    re.I,
)
_NEAR = 300  # characters around a name in which it may be denied
_HYPHENS = "-\u2010\u2011"


class Answer(NamedTuple):
    """A distribution over the classes, or the reason why there is none.

    If several labels may apply, the scores are the probability of each, NaN if it is not answered.
    `mass` is the probability that all options together had before they were made to sum to 1.
    """

    scores: FloatArray | None
    mass: float = np.nan
    reason: str = ""


class NoLogprobs(Exception):
    """A response without the log-probabilities that were asked for."""


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
        The text that stands for each class in an answer.

    Returns
    -------
    Answer
        The distribution, or the reason why there is none.

    Raises
    ------
    NoLogprobs
        If scoring is "logprobs" and there are none.
    """
    choice = completion["choices"][0]
    if is_refused(choice):
        return Answer(None, reason="refused")
    if scoring == "logprobs":
        return read_tokens(answer_tokens(choice), names, answers)
    text = answer_text(choice)
    if is_cut_off(choice):
        finish = choice["finish_reason"]
        shown = f" after {text!r:.60}" if text.strip() else ", before any answer"
        return Answer(
            None,
            reason=f"cut off (finish_reason={finish!r}){shown}; allow more tokens by "
            "request_params={'max_tokens': ...}",
        )
    message = choice["message"]
    said = [message.get(name) or "" for name in ("content", "reasoning_content", "reasoning")]
    if not text.strip() and "".join(map(str, said)).strip():
        return Answer(None, reason="only reasoning, no answer")
    if scoring == "verbalized":
        return read_confidences(find_objects(text), text, names)
    return _read_label(text, names)


def read_tokens(tokens: list[Token], names: list[str], answers: list[str]) -> Answer:
    """Read the likeliest tokens in one place as a distribution.

    Parameters
    ----------
    tokens : list of Token
        The tokens.
    names : list of str
        Names of the classes.
    answers : list of str
        The letter or digit that stands for each class.

    Returns
    -------
    Answer
        The distribution, or the reason why there is none.

    Raises
    ------
    NoLogprobs
        If there are no tokens.
    """
    if not tokens:
        raise NoLogprobs
    highest = max(token.logprob for token in tokens)
    if 1e-3 < highest <= 1 and all(token.logprob >= 0 for token in tokens):
        reason = f"log-probabilities above 0, the highest {highest:.2g}: are they probabilities?"
        return Answer(None, reason=reason)
    likely = [(token.text, float(np.exp(min(token.logprob, 0.0)))) for token in tokens]
    scores, listed = np.zeros(len(names)), np.zeros(len(names), dtype=bool)
    folded = [_fold(name) for name in names]
    labels = {_fold(answer): k for k, answer in enumerate(answers)}
    for token, probability in likely:
        k = _match_name(token, names, folded)
        if k is None:
            k = _match_token(token, folded, labels)
        if k is not None:
            scores[k] += probability
            listed[k] = True
    mass = min(scores.sum(), 1.0)
    if not mass > 0:
        likeliest = max(likely, key=lambda pair: pair[1])[0]
        return Answer(None, 0.0, f"no option among the likeliest tokens, the first {likeliest!r}")
    # Options that are not listed share what is left, and each is at most as likely as the last
    # token that is listed.
    probabilities = [probability for _, probability in likely]
    left = max(1 - sum(probabilities), 0) / max((~listed).sum(), 1)
    scores[~listed] = min(*probabilities, left)
    return Answer(scores / scores.sum(), mass)


def _fold(text: str) -> str:
    """Remove case, and what a tokenizer or a model puts around an answer."""
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    # Some servers give the marks of a tokenizer for a leading space.
    return text.lstrip("Ġ▁").strip(" .,:;\"'`*_()[]").casefold()


def _match_name(token: str, names: list[str], folded: list[str]) -> int | None:
    """Find the class that a token names to the letter, if another differs from it by case alone."""
    name = token.lstrip("Ġ▁").strip()
    return names.index(name) if name in names and folded.count(_fold(name)) > 1 else None


def _match_token(token: str, folded: list[str], labels: dict[str, int]) -> int | None:
    """Find the class that a token begins to answer with."""
    word = _fold(token)
    if word in labels:
        return labels[word]
    if word in folded:
        return folded.index(word)
    if len(word) < 3:
        return None
    begun = [k for k, name in enumerate(folded) if name.startswith(word)]
    if len(begun) != 1:
        return None
    # "Answer" is how a model begins to talk, not how it begins to say "answered".
    name = folded[begun[0]]
    return None if word in _CHATTY_WORDS and name[len(word) : len(word) + 1].isalnum() else begun[0]


def read_confidences(objects: list[dict], text: str, names: list[str]) -> Answer:
    """Read confidences from the last object that has all of them.

    Parameters
    ----------
    objects : list of dict
        JSON objects.
    text : str
        The answer, for the reason.
    names : list of str
        Names of the classes.

    Returns
    -------
    Answer
        The distribution, or the reason why there is none.
    """
    if not objects:
        return Answer(None, reason=f"no JSON object in {text!r:.80}")
    # What stands before the last whole object is a draft.
    whole = [o for o in objects if not np.isnan(_confidences(o, names)).any()]
    scores = _confidences((whole or objects)[-1], names)
    # Bounded, so that no sum overflows; NaN is refused, too.
    if bad := [n for n, s in zip(names, scores, strict=True) if not 0 <= s <= 1e6]:
        return Answer(None, reason=f"no confidence of 0 or more for {bad} in {text!r:.80}")
    if scores.sum() == 0:
        return Answer(None, reason=f"confidences do not add up in {text!r:.80}")
    return Answer(scores / scores.sum())


def _confidences(read: dict, names: list[str]) -> FloatArray:
    folded = {_fold(key): value for key, value in read.items()}
    given = [read.get(name, folded.get(_fold(name))) for name in names]
    return np.array([read_number(value) for value in given])


def find_objects(text: str, of_pairs: Callable[[list], Any] = dict) -> list:
    """Find the JSON objects in a text, which may have words or a code fence around them.

    Parameters
    ----------
    text : str
        The answer.
    of_pairs : callable, default=dict
        Makes an object of its pairs of a key and a value.

    Returns
    -------
    list
        The outermost objects that are whole.
    """
    decoder = json.JSONDecoder(object_pairs_hook=of_pairs)
    objects, end = [], 0
    # Each failed attempt takes time that grows with the text, so there is a limit.
    for match in islice(re.finditer("{", text), 500):
        if match.start() < end:
            continue
        try:
            value, end = decoder.raw_decode(text, match.start())
            objects.append(value)
        except ValueError:
            continue
        except RecursionError:
            break
    return objects


def read_number(value: Any) -> float:
    """Read a number or a percentage.

    Parameters
    ----------
    value : object
        A value in JSON.

    Returns
    -------
    float
        The number, NaN for anything else.
    """
    if isinstance(value, bool):
        return np.nan
    try:
        if isinstance(value, str) and value.strip().endswith("%"):
            return float(value.strip()[:-1]) / 100
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def match_option(text: str, names: list[str]) -> int | None:
    """Find the class that a text names and nothing else.

    Parameters
    ----------
    text : str
        The text.
    names : list of str
        Names of the classes.

    Returns
    -------
    int or None
        Number of the class; None if it names none, or several that differ in case alone.
    """
    whole = unicodedata.normalize("NFC", text.strip())
    forms = [
        lambda name: unicodedata.normalize("NFC", name.strip()),
        lambda name: unicodedata.normalize("NFC", name.strip()).casefold(),
        _fold,
    ]
    for said, form in zip((whole, whole.casefold(), _fold(text)), forms, strict=True):
        equal = [k for k, name in enumerate(names) if form(name) == said]
        if said and len(equal) == 1:
            return equal[0]
    return None


def _read_label(text: str, names: list[str]) -> Answer:
    k = match_option(_unwrap_label(text), names)
    if k is not None:
        return Answer(np.eye(len(names))[k])
    plain = unicodedata.normalize("NFC", re.sub(r"\*+|`+", "", text))
    mentioned = [k for k, name in enumerate(names) if _mentions(plain, name)]
    # "very angry" mentions "angry", too, but means the longer one.
    longest = [
        k for k in mentioned if not any(k != j and _mentions(names[j], names[k]) for j in mentioned)
    ]
    if len(longest) != 1:
        what = "several options" if longest else "no option"
        return Answer(None, reason=f"{what} in {text!r:.80}")
    if not all(_is_stated(plain, match) for match in _mentions(plain, names[longest[0]])[:50]):
        return Answer(None, reason=f"an option that is not plainly stated in {text!r:.80}")
    return Answer(np.eye(len(names))[longest[0]])


def _unwrap_label(text: str) -> str:
    """Return the label of an answer that is a JSON object with nothing else, as enums give it."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    label = value.get("label") if isinstance(value, dict) and len(value) == 1 else None
    return label if isinstance(label, str) else text


def _mentions(text: str, name: str) -> list[re.Match]:
    """Find a name in a text as separate words or a separate number."""
    name = r"\s+".join(map(re.escape, unicodedata.normalize("NFC", name).split()))
    # "-1", "1.5", "0.1", "1/2" and "1%" do not mention "1".
    before = r"(?<![-+\u2212$\u20ac\u00a3])(?<!\d[.,/:])" if name[:1].isdigit() else ""
    after = r"(?![.,/:]\d)(?!\s*[%\u2030])" if name[-1:].isdigit() else ""
    return list(re.finditer(rf"(?<!\w){before}{name}{after}(?!\w)", text, re.IGNORECASE))


def _is_stated(text: str, match: re.Match) -> bool:
    """Return whether a name stands for itself: not denied, and no part of a longer word."""
    before = text[max(match.start() - _NEAR, 0) : match.start()]
    after = text[match.end() : match.end() + _NEAR]
    if re.search(rf"\w[{_HYPHENS}]$", before) or re.match(rf"[{_HYPHENS}]\w", after):
        return False
    sentence = re.split(r"[.!?;\n]", before)[-1]
    return not (NEGATION.search(sentence) or _DENIED_AFTER.match(after))
