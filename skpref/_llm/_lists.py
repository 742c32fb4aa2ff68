"""Whole sessions in one call: lists of utterances, and the answer for each line."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from skpref._llm._answers import (
    Answer,
    NoLogprobs,
    find_objects,
    match_option,
    read_answer,
    read_confidences,
    read_tokens,
)
from skpref._llm._completion import (
    answer_places,
    answer_text,
    has_places,
    is_cut_off,
    is_refused,
)
from skpref._llm._labels import read_labels, read_probabilities
from skpref._llm._prompts import Question, write_list
from skpref._llm._requests import Turns, object_schema, response_format, write_payload
from skpref._llm._runner import Ask
from skpref._typing import IntArray

# A line of an answer: its number, and what stands between that and the label.
_LINE = re.compile(r"^[^\w\n]*(?:line\s+)?(\d{1,6})[^\w\n]+(?=\w)", re.I | re.M)

Window = tuple[int, ...]


class MissingLine(Answer):
    """A line that a list of answers lacks, so that it is worth asking about alone."""


def cut_windows(turns: Turns, n_lines: int, n_shared: int) -> list[Window]:
    """Cut each session into windows of rows, in the order of its turns.

    Parameters
    ----------
    turns : Turns
        The utterances, the windows of which reach to the beginning of their session.
    n_lines : int
        Largest number of rows in a window.
    n_shared : int
        Number of rows that a window shares with the one before.

    Returns
    -------
    list of tuple of int
        The rows of each window.
    """
    windows, i = [], 0
    while i < len(turns.order):
        rows = turns.order[i : turns.stops[i]][::-1].tolist()
        i = turns.stops[i]
        start = 0
        while True:
            windows.append(tuple(rows[start : start + n_lines]))
            if start + n_lines >= len(rows):
                break
            start += n_lines - n_shared
    return windows


def count_windows(windows: list[Window], n_rows: int) -> IntArray:
    """Return the number of windows that each row is in.

    Parameters
    ----------
    windows : list of tuple of int
        The rows of each window.
    n_rows : int
        Number of rows.

    Returns
    -------
    ndarray of int, shape (n_rows,)
        The numbers.
    """
    rows = np.fromiter((row for window in windows for row in window), dtype=np.int64)
    return np.bincount(rows, minlength=n_rows)


class Item(NamedTuple):
    """The field of a JSON object that gives the answer for a line.

    Parameters
    ----------
    field : str
        Its name.
    schema : dict
        Its JSON schema.
    longest : int
        About the most characters that it takes.
    usual : object
        A value of the usual length.
    read : callable
        Reads a value.
    read_alone : callable
        Reads an answer about one utterance that does not number it.
    """

    field: str
    schema: dict[str, Any]
    longest: int
    usual: Any
    read: Callable[[Any], Answer]
    read_alone: Callable[..., Answer]


def make_item(scoring: str, names: list[str], multilabel: bool) -> Item:
    """Return what objects say of a line.

    Parameters
    ----------
    scoring : {"verbalized", "label"}
        How answers become scores.
    names : list of str
        Names of the classes.
    multilabel : bool
        Whether any number of them may apply.

    Returns
    -------
    Item
        The name, the form and the reading of it.
    """
    name, total = max(names, key=len), sum(len(name) + 8 for name in names)
    option = {"type": "string", "enum": names}
    several = {"type": "array", "items": option}
    numbers = object_schema({key: {"type": "number"} for key in names})
    likely = dict.fromkeys(names, 0.55)
    forms: dict[tuple[str, bool], tuple] = {
        ("label", False): ("label", option, len(name), name, _read_option),
        ("label", True): ("labels", several, total, [name], _read_several),
        ("verbalized", False): ("confidences", numbers, total, likely, _read_confidences),
        ("verbalized", True): ("probabilities", numbers, total, likely, _read_probabilities),
    }
    field, schema, longest, usual, read = forms[scoring, multilabel]
    read_alone = partial(read_labels if multilabel else read_answer, scoring=scoring)
    return Item(field, schema, longest, usual, partial(read, names=names), read_alone)


def _read_confidences(value: Any, names: list[str]) -> Answer:
    if isinstance(value, dict):
        return read_confidences([value], str(value), names)
    return Answer(None, reason=f"no confidences in {value!r:.80}")


def _read_probabilities(value: Any, names: list[str]) -> Answer:
    answer = read_probabilities(value, names) if isinstance(value, dict) else Answer(None)
    if answer.scores is None:
        return Answer(None, reason=f"no probabilities in {value!r:.80}")
    return answer


def _read_option(value: Any, names: list[str]) -> Answer:
    k = match_option(value, names) if isinstance(value, str) else None
    return Answer(None, reason=f"no label in {value!r:.80}") if k is None else _applies({k}, names)


def _read_several(value: Any, names: list[str]) -> Answer:
    """Read the labels that apply; a name that is none of them may stand for any."""
    said = value if isinstance(value, list) else [None]
    found = {match_option(name, names) if isinstance(name, str) else None for name in said}
    if None in found:
        return Answer(None, reason=f"no list of the labels in {value!r:.80}")
    return _applies(found, names)


def _applies(found: set, names: list[str]) -> Answer:
    return Answer(np.isin(np.arange(len(names)), list(found)).astype(np.float64))


def list_settings(item: Item | None, top_logprobs: int, n_lines: int) -> dict:
    """Return the arguments of a chat completion that answers with a list.

    Parameters
    ----------
    item : Item or None
        What objects say of a line; None reads the log-probabilities of lines of text.
    top_logprobs : int
        Number of the likeliest tokens that are asked for.
    n_lines : int
        Number of lines.

    Returns
    -------
    dict
        The arguments.
    """
    if item is None:
        limit = 16 + 8 * n_lines
        return {"max_tokens": limit, "logprobs": True, "top_logprobs": top_logprobs}
    line = object_schema({"line": {"type": "integer"}, item.field: item.schema})
    schema = object_schema({"lines": {"type": "array", "items": line}})
    return {
        "max_tokens": 32 + n_lines * (24 + item.longest),
        "response_format": response_format("lines", schema),
    }


class ListAsker(NamedTuple):
    """Writes the requests about windows of sessions.

    Parameters
    ----------
    turns : Turns
        The utterances.
    settings : callable
        Returns the arguments of a chat completion for a number of lines; None removes one.
    names : list of str
        Names of the classes.
    item : Item or None
        What objects say of a line; None reads the log-probabilities of lines of text.
    """

    turns: Turns
    settings: Callable[[int], dict[str, Any]]
    names: list[str]
    item: Item | None

    def asks(
        self, windows: list[Window], questions: list[dict[str, Question]], n_samples: int
    ) -> Iterator[Ask]:
        """Write the requests one by one, prompt by prompt.

        Parameters
        ----------
        windows : list of tuple of int
            The rows of each window.
        questions : list of dict of str to Question
            The question of each prompt, for each order of the options.
        n_samples : int
            Number of answers per window and prompt.

        Yields
        ------
        Ask
            A request.
        """
        for p, name in enumerate(questions[0]):
            for in_order in questions:
                for window in windows:
                    for sample in range(n_samples):
                        yield self._ask(window, p, in_order[name], sample)

    def _ask(self, window: Window, prompt: int, question: Question, sample: int, only=None) -> Ask:
        lines = [self.turns.lines[row] for row in window]
        numbers = list(range(1, len(window) + 1)) if only is None else [only]
        messages = write_list(question, lines, only)
        read = partial(
            read_list,
            names=self.names,
            item=self.item,
            answers=question.answers,
            numbers=numbers,
        )
        return Ask(
            rows=window if only is None else (window[only - 1],),
            prompt=prompt,
            payload=write_payload(messages, self.settings(len(numbers)), sample),
            read=read,
            sample=sample,
            expected=self._expect(question, numbers),
            alone=partial(self._alone, window, prompt, question, sample) if only is None else None,
        )

    def _alone(self, window: Window, prompt: int, question: Question, sample: int, i: int) -> Ask:
        return self._ask(window, prompt, question, sample, only=i + 1)

    def _expect(self, question: Question, numbers: list[int]) -> str:
        """Return an answer of the usual length."""
        if self.item is None:
            longest = max(question.answers, key=len)
            return "\n".join(f"{number}: {longest}" for number in numbers)
        lines = [{"line": number, self.item.field: self.item.usual} for number in numbers]
        return json.dumps({"lines": lines}, ensure_ascii=False)


def read_list(
    completion: dict,
    names: list[str],
    item: Item | None,
    answers: list[str],
    numbers: list[int],
) -> list[Answer]:
    """Read an answer for each line.

    Parameters
    ----------
    completion : dict
        Chat completion in OpenAI's form.
    names : list of str
        Names of the classes.
    item : Item or None
        What objects say of a line; None reads the log-probabilities of lines of text.
    answers : list of str
        The text that stands for each class in an answer.
    numbers : list of int
        The numbers of the lines that were asked about.

    Returns
    -------
    list of Answer
        For each number the distribution, or the reason why there is none.

    Raises
    ------
    NoLogprobs
        If log-probabilities are to be read and there are none.
    """
    choice = completion["choices"][0]
    if is_refused(choice):
        return [MissingLine(None, reason="refused")] * len(numbers)
    if item is None:
        found = _read_lines(choice, names, answers)
    else:
        found = _read_objects(answer_text(choice), item, numbers)
    if not found and len(numbers) == 1:  # the label without a number
        whole = partial(read_answer, scoring="logprobs") if item is None else item.read_alone
        return [whole(completion, names=names, answers=answers)]
    reason = "no line for the utterance in the answer"
    if is_cut_off(choice):
        reason += ", which was cut off; allow more tokens by request_params={'max_tokens': ...}"
    counts = Counter(number for number, _ in found)
    by_number = dict(found)
    read = []
    for number in numbers:
        answer = by_number.get(number, Answer(None, reason=reason))
        if counts[number] > 1:
            answer = Answer(None, reason="several lines for the utterance in the answer")
        read.append(answer if answer.scores is not None else MissingLine(*answer))
    return read


def _read_lines(choice: dict, names: list[str], answers: list[str]) -> list[tuple[int, Answer]]:
    """Read lines "number: letter" by the log-probabilities of the letters."""
    if not has_places(choice):
        raise NoLogprobs
    text, likeliest = answer_places(choice)
    return [
        (int(match[1]), read_tokens(tokens, names, answers))
        for match in _LINE.finditer(text)
        # A line that the end of the text cuts off has no letter.
        if (tokens := likeliest(match.end()))
    ]


def _read_objects(text: str, item: Item, numbers: list[int]) -> list[tuple[int, Answer]]:
    """Read objects with the number of a line and what they say of it.

    An object that says something without a number is of the only line that was asked about.
    """
    lines: list[Any] = []
    for value in find_objects(text):
        listed = value.get("lines")
        lines += listed if isinstance(listed, list) else [value]
    found = []
    for line in lines:
        number = line.get("line") if isinstance(line, dict) else None
        if isinstance(line, dict) and "line" not in line and item.field in line:
            number = numbers[0] if len(numbers) == 1 else None
        if isinstance(number, str) and number.strip().isdecimal():
            number = int(number)
        if isinstance(number, int) and not isinstance(number, bool):
            found.append((number, item.read(line.get(item.field))))
    return found
