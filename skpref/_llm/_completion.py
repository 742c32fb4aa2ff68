"""The parts of a chat completion: its text without reasoning, its tokens, how it ended."""

import json
import re
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

# Ways to say that an answer is not whole, as servers spell them.
_CUT_OFF = {"length", "max_tokens", "model_length", "max_output_tokens", "incomplete"}
_BROKEN = {"error", "abort", "aborted", "cancelled", "canceled", "timeout"}
_BROKEN |= {"insufficient_system_resource", "network_error", "malformed_response"}
_REFUSED = {"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii"}

# A model that reasons aloud puts its reasoning between such marks. The first one may be missing,
# since some templates write it into the prompt.
_TAGS = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "seed:think")
_THOUGHTS = [
    *(
        (re.compile(rf"<\s*{tag}\s*>", re.I), re.compile(rf"<\s*/\s*{tag}\s*>", re.I))
        for tag in _TAGS
    ),
    (re.compile(r"\[THINK\]", re.I), re.compile(r"\[/THINK\]", re.I)),
    (re.compile("◁think▷"), re.compile("◁/think▷")),
    (re.compile(r"<\|(?:begin|start)_of_thought\|>"), re.compile(r"<\|end_of_thought\|>")),
    (re.compile(r"<\|START_THINKING\|>"), re.compile(r"<\|END_THINKING\|>")),
]
# OpenAI's harmony format: the answer is in the channel "final". A server that leaves out special
# tokens writes the names of channels without a space.
_HARMONY_FINAL = re.compile(
    r"<\|channel\|>\s*final\b.{0,60}?<\|message\|>|^analysis.*assistantfinal", re.S
)
_HARMONY = re.compile(r"<\|(?:channel|message|start)\|>|^analysis(?=[A-Z])")
_SPECIAL = re.compile(r"<\|[\w:]{1,40}\|>|</?s>")
_REASONING_PARTS = {"thinking", "reasoning", "redacted_thinking", "reasoning_text", "summary_text"}


class Malformed(Exception):
    """A response that is not an answer of a model: the server or the connection failed.

    Parameters
    ----------
    reason : str
        The cause.
    status : int, default=None
        The HTTP status that a gateway reports in the response.
    """

    def __init__(self, reason: str, status: int | None = None):
        super().__init__(reason)
        self.status: int | None = status


class Token(NamedTuple):
    """A token with its log-probability."""

    text: str
    logprob: float


class Place(NamedTuple):
    """A token that was written, and the likeliest ones in its place."""

    text: str
    likeliest: list[Token]


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
        If it is not JSON, has no choice, the choice is empty, or an error is reported in it.
    """
    try:
        completion = body if isinstance(body, dict) else json.loads(body)
    except (ValueError, TypeError, RecursionError):
        raise Malformed("the response is no chat completion") from None
    _refuse_errors(completion)
    try:
        choice = completion["choices"][0]
        message = choice["message"]
        content = message.get("content")
        finish = str(choice.get("finish_reason") or "").casefold()
    except (LookupError, TypeError, AttributeError):
        raise Malformed("the response is no chat completion") from None
    _refuse_errors(choice)
    if finish in _BROKEN:
        raise Malformed(f"the answer broke off (finish_reason={finish!r})")
    if not (content is None or isinstance(content, str) or _is_parts(content)):
        raise Malformed("the content of the answer is no text")
    # An empty answer that does not say how it ended is taken for a fault of the server.
    if not (finish or message.get("refusal") or content or answer_tokens(choice)):
        raise Malformed("the answer is empty")
    return completion


def _refuse_errors(part) -> None:
    """Raise if a gateway reports an error in place of, or within, an answer."""
    error = part.get("error") if isinstance(part, dict) else None
    if not error:
        return
    code = str(error.get("code") if isinstance(error, dict) else None)
    status = int(code) if re.fullmatch("[45]\\d\\d", code) else None
    number = "" if status is None else f" {status}"
    raise Malformed(f"the server reports the error{number}: {words_of(error)}", status)


def words_of(body) -> str:
    """Return the message in the body of an error, whatever its form.

    Parameters
    ----------
    body : dict, list, str or None
        The body, decoded if it was JSON.

    Returns
    -------
    str
        The message on one line; the whole body if there is none by a known name.
    """
    words: list[str] = []
    _collect_words(body, words, depth=0)
    if not words and body not in (None, "", [], {}):
        words = [body if isinstance(body, str) else json.dumps(body, default=str)]
    text = " ".join(dict.fromkeys(words))
    if re.search(r"<(?:!doctype|html|body|head)\b", text, re.I):
        text = re.sub(r"(?s)<(style|script).*?</\1>|<[^>]*>", " ", text)
    return " ".join(text.split())


def _collect_words(part, words: list[str], depth: int) -> None:
    if depth > 6:
        return
    if isinstance(part, list):
        for item in part:
            _collect_words(item, words, depth + 1)
    if not isinstance(part, dict):
        return
    if isinstance(part.get("loc"), list) and "msg" in part:
        words.append(".".join(map(str, part["loc"])) + ":")
    for name in ("error", "errors", "message", "msg", "detail", "details", "title", "reason"):
        value = part.get(name)
        if isinstance(value, str) and value:
            words.append(value)
        else:
            _collect_words(value, words, depth + 1)
    metadata = part.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("raw"), str):
        words.append(metadata["raw"])
    if isinstance(part.get("code"), str) and words and part["code"] not in words:
        words.append(f"({part['code']})")


def is_refused(choice: dict) -> bool:
    """Return whether the model, or a filter, refused to answer.

    Parameters
    ----------
    choice : dict
        The first choice of a chat completion.

    Returns
    -------
    bool
        True for a refusal.
    """
    finish = str(choice.get("finish_reason") or "").casefold()
    return bool(choice["message"].get("refusal")) or finish in _REFUSED


def is_cut_off(choice: dict) -> bool:
    """Return whether the answer was cut off at the limit of its tokens.

    Parameters
    ----------
    choice : dict
        The first choice of a chat completion.

    Returns
    -------
    bool
        True if there would have been more.
    """
    return str(choice.get("finish_reason") or "").casefold() in _CUT_OFF


def _is_parts(content) -> bool:
    return isinstance(content, list) and all(isinstance(part, dict) for part in content)


def answer_text(choice: dict) -> str:
    """Return the text of an answer without any reasoning before it.

    Parameters
    ----------
    choice : dict
        The first choice of a chat completion.

    Returns
    -------
    str
        The text, empty if there is only reasoning.
    """
    content = choice["message"].get("content") or ""
    if isinstance(content, list):
        parts = [part for part in content if part.get("type") not in _REASONING_PARTS]
        content = "".join(str(part.get("text") or "") for part in parts)
    return strip_reasoning(content)


def strip_reasoning(text: str) -> str:
    """Remove the reasoning from a text.

    Parameters
    ----------
    text : str
        What the model wrote.

    Returns
    -------
    str
        What follows the reasoning, empty if that is not finished.
    """
    if not any(mark in text for mark in "<[\u25c1") and not text.startswith("analysis"):
        return text
    finals = list(_HARMONY_FINAL.finditer(text))
    if finals:
        text = text[finals[-1].end() :]
        text = re.split(r"<\|(?:end|return|call|start)\|>", text)[0]
    elif _HARMONY.search(text):
        return ""
    for opening, closing in _THOUGHTS:
        ends = list(closing.finditer(text))
        if ends:
            # What stands before the reasoning, if anything, is a draft, too.
            text = text[ends[-1].end() :]
        begun = opening.search(text)
        if begun:
            text = text[: begun.start()] if text[: begun.start()].strip() else ""
    return _SPECIAL.sub(" ", text)


def answer_tokens(choice: dict) -> list[Token]:
    """Return the likeliest first tokens of an answer, after any reasoning.

    Parameters
    ----------
    choice : dict
        The first choice of a chat completion.

    Returns
    -------
    list of Token
        The tokens; two of them may read alike. Empty if there are no log-probabilities.
    """
    try:
        places = list(choice["logprobs"]["content"])
        return _likeliest(places[_first_place(places)])
    except (LookupError, TypeError, ValueError, AttributeError):
        return []


def _likeliest(place: dict) -> list[Token]:
    tokens = place.get("top_logprobs") or [place]
    pairs = [Token(str(t["token"]), float(t["logprob"])) for t in tokens]
    return [token for token in pairs if not np.isnan(token.logprob)]


def answer_places(choice: dict) -> tuple[str, Callable[[int], list[Token]]]:
    """Return the text of an answer without reasoning, and its tokens by place.

    Parameters
    ----------
    choice : dict
        The first choice of a chat completion.

    Returns
    -------
    text : str
        The answer.
    likeliest : callable
        Returns the likeliest tokens in the place of a character of the text; none if there are no
        log-probabilities of it.
    """
    places = _read_places(choice)
    ends = list(accumulate(len(place.text) for place in places))
    text = "".join(place.text for place in places)
    start = _answer_start(text)

    def likeliest(position: int) -> list[Token]:
        i = bisect_right(ends, start + position)
        return places[i].likeliest if i < len(places) else []

    return text[start:], likeliest


def has_places(choice: dict) -> bool:
    """Return whether an answer has log-probabilities.

    Parameters
    ----------
    choice : dict
        The first choice of a chat completion.

    Returns
    -------
    bool
        True if any of its tokens has them.
    """
    return any(place.likeliest for place in _read_places(choice))


def _read_places(choice: dict) -> list[Place]:
    """Return each token of an answer, those of reasoning among them."""
    try:
        places = list(choice["logprobs"]["content"])
        return [Place(str(place["token"]), _likeliest(place)) for place in places]
    except (LookupError, TypeError, ValueError, AttributeError):
        return []


def _answer_start(text: str) -> int:
    """Return where the answer begins in a text, after any reasoning."""
    whole = strip_reasoning(text).strip()
    return max(text.rfind(whole), 0) if whole else len(text)


def _first_place(places: list) -> int:
    """Find the token with which the answer begins, among those that were written."""
    if len(places) == 1:
        return 0
    written = [str(place.get("token", "")) for place in places]
    if not strip_reasoning("".join(written)).strip():
        return 0
    # The shortest beginning that leaves the answer, once the reasoning is removed.
    whole = strip_reasoning("".join(written)).strip()
    for i in range(len(written) - 1, -1, -1):
        if "".join(written[i:]).strip().startswith(whole):
            return i
    return 0
