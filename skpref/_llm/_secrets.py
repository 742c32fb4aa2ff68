"""Keys that are never shown: wrapped in parameters, removed from messages."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Headers that hold no key; the values of all others are wrapped.
_OPEN_HEADERS = {
    *("accept", "accept-language", "anthropic-version", "content-type", "http-referer"),
    *("openai-beta", "openai-organization", "openai-project", "user-agent", "x-title"),
}
_SECRET_NAME = re.compile(
    r"api[-_ ]?key|authori[sz]ation|secret|password|credential|cookie|signature|subscription"
    r"|(?:^|[-_])(?:key|token|sig|pwd|auth|code)$",
    re.I,
)
_SHOWN = 300  # characters of a message
_SHORTEST = 8  # a key, or the part of one, that is worth hiding


class Secret:
    """Text that is never printed, copied to disk or pickled.

    Parameters
    ----------
    value : str
        The text.
    """

    def __init__(self, value: str):
        self._value = value

    def reveal(self) -> str:
        """Return the text.

        Returns
        -------
        str
            The text.
        """
        return self._value

    def __repr__(self) -> str:
        return "'***'"

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return type(None), ()  # a pickle holds None instead


def wrap_secrets(values: Mapping) -> Mapping:
    """Wrap the keys among request parameters, such as those in headers.

    Parameters
    ----------
    values : mapping
        Arguments of chat completions.

    Returns
    -------
    mapping
        The same object if there is nothing to wrap, else a copy.
    """
    return _wrap(values, in_headers=False)


def _wrap(value: Any, *, in_headers: bool):
    if not isinstance(value, Mapping):
        return value
    wrapped = {}
    for name, part in value.items():
        hidden = str(name).casefold() not in _OPEN_HEADERS if in_headers else _hides(name)
        if isinstance(part, str) and hidden:
            wrapped[name] = Secret(part)
        else:
            wrapped[name] = _wrap(part, in_headers=str(name) == "extra_headers")
    same = all(wrapped[name] is part for name, part in value.items())
    return value if same else wrapped


def _hides(name) -> bool:
    return _SECRET_NAME.search(str(name)) is not None


def reveal_secrets(value: Any) -> Any:
    """Unwrap the secrets in request parameters.

    Parameters
    ----------
    value : object
        Arguments of a chat completion, or a part of them.

    Returns
    -------
    object
        The same with plain text in place of each secret.
    """
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return {name: reveal_secrets(part) for name, part in value.items()}
    return value


def find_secrets(value: Any) -> list[str]:
    """List the secrets in request parameters.

    Parameters
    ----------
    value : object
        Arguments of a chat completion, or a part of them.

    Returns
    -------
    list of str
        The plain texts.
    """
    if isinstance(value, Secret):
        return [value.reveal()]
    if isinstance(value, Mapping):
        return [secret for part in value.values() for secret in find_secrets(part)]
    return []


def redact(text: str, secrets: Iterable[str]) -> str:
    """Remove keys, also parts of them, from a message, and shorten it to one line.

    Parameters
    ----------
    text : str
        A message.
    secrets : iterable of str
        The keys.

    Returns
    -------
    str
        The message.
    """
    for secret in secrets:
        # "Bearer sk-..." is a header; servers quote the key in it. The key goes first, since the
        # rest of the header without it is a part that would take a blank along.
        for part in sorted({secret, *secret.split()}, key=len):
            if len(part) >= 4:
                text = _remove(text, part)
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN].rstrip() + "..."


def _remove(text: str, secret: str) -> str:
    """Replace each piece of a secret that has at least eight of its characters."""
    n = min(_SHORTEST, len(secret))
    pieces = {secret[i : i + n] for i in range(len(secret) - n + 1)}
    hidden = bytearray(len(text))
    for i in range(len(text) - n + 1):
        if text[i : i + n] in pieces:
            hidden[i : i + n] = b"\x01" * n
    shown, i = [], 0
    while i < len(text):
        if not hidden[i]:
            shown.append(text[i])
        elif i == 0 or not hidden[i - 1]:
            shown.append("***")
        i += 1
    return "".join(shown)
