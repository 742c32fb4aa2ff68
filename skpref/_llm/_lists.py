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


def list_settings(scoring: str, names: list[str], top_logprobs: int, n_lines: int) -> dict:
    """Return the arguments of a chat completion that answers with a list.

    Parameters
    ----------
    scoring : {"logprobs", "verbalized", "label"}
        How answers become scores.
    names : list of str
        Names of the classes.
    top_logprobs : int
        Number of the likeliest tokens that are asked for.
    n_lines : int
        Number of lines.

    Returns
    -------
    dict
        The arguments.
    """
    if scoring == "logprobs":
        limit = 16 + 8 * n_lines
        return {"max_tokens": limit, "logprobs": True, "top_logprobs": top_logprobs}
    value: dict[str, Any] = {"type": "string", "enum": names}
    longest = max(map(len, names))
    if scoring == "verbalized":
        value = object_schema({name: {"type": "number"} for name in names})
        longest = sum(len(name) + 8 for name in names)
    field = _FIELD[scoring]
    line = object_schema({"line": {"type": "integer"}, field: value})
    schema = object_schema({"lines": {"type": "array", "items": line}})
    return {
        "max_tokens": 32 + n_lines * (24 + longest),
        "response_format": response_format("lines", schema),
    }


_FIELD = {"label": "label", "verbalized": "confidences"}


class ListAsker(NamedTuple):
    """Writes the requests about windows of sessions.

    Parameters
    ----------
    turns : Turns
        The utterances.
    settings : callable
        Returns the arguments of a chat completion for a number of lines; None removes one.
    scoring : {"logprobs", "verbalized", "label"}
        How answers become scores.
    names : list of str
        Names of the classes.
    """

    turns: Turns
    settings: Callable[[int], dict[str, Any]]
    scoring: str
    names: list[str]

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
            scoring=self.scoring,
            names=self.names,
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
        longest = max(question.answers, key=len)
        if self.scoring == "logprobs":
            return "\n".join(f"{number}: {longest}" for number in numbers)
        value = longest if self.scoring == "label" else dict.fromkeys(self.names, 0.55)
        lines = [{"line": number, _FIELD[self.scoring]: value} for number in numbers]
        return json.dumps({"lines": lines}, ensure_ascii=False)


def read_list(
    completion: dict, scoring: str, names: list[str], answers: list[str], numbers: list[int]
) -> list[Answer]:
    """Read an answer for each line.

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
    numbers : list of int
        The numbers of the lines that were asked about.

    Returns
    -------
    list of Answer
        For each number the distribution, or the reason why there is none.

    Raises
    ------
    NoLogprobs
        If scoring is "logprobs" and there are none.
    """
    choice = completion["choices"][0]
    if is_refused(choice):
        return [MissingLine(None, reason="refused")] * len(numbers)
    if scoring == "logprobs":
        found = _read_lines(choice, names, answers)
    else:
        found = _read_objects(answer_text(choice), scoring, names)
    if not found and len(numbers) == 1:  # the label without a number
        return [read_answer(completion, scoring, names, answers)]
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


def _read_objects(text: str, scoring: str, names: list[str]) -> list[tuple[int, Answer]]:
    """Read objects with the number of a line and its label or confidences."""
    items: list[Any] = []
    for value in find_objects(text):
        lines = value.get("lines")
        items += lines if isinstance(lines, list) else [value]
    found = []
    for item in items:
        number = item.get("line") if isinstance(item, dict) else None
        if isinstance(number, str) and number.strip().isdecimal():
            number = int(number)
        if isinstance(number, int) and not isinstance(number, bool):
            found.append((number, _read_item(item.get(_FIELD[scoring]), scoring, names)))
    return found


def _read_item(value: Any, scoring: str, names: list[str]) -> Answer:
    if scoring == "verbalized" and isinstance(value, dict):
        return read_confidences([value], str(value), names)
    k = match_option(value, names) if scoring == "label" and isinstance(value, str) else None
    if k is None:
        return Answer(None, reason=f"no {_FIELD[scoring]} in {value!r:.80}")
    return Answer(np.eye(len(names))[k])
