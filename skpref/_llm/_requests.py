"""From utterances to the requests of a run: context, examples, payloads."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from skpref._context import Columns, read_utterances, wrap_frame
from skpref._llm._answers import Answer, read_answer
from skpref._llm._prompts import Question, Turn, is_list, quote_turn, write_list, write_messages
from skpref._llm._runner import Ask
from skpref._typing import IntArray
from skpref._validation import check_texts

Example = tuple[Any, Turn]

_REASONING = 4000  # tokens that an answer may have before it begins


class Turns(NamedTuple):
    """Quoted utterances, with those before them and their sessions.

    `order`, `position` and `stops` give the window of each row: `order` sorts the rows by
    session, newest first, `position` is the place of a row in it, and `stops` its end.
    """

    lines: list[str]
    sessions: list[Any]
    order: IntArray
    position: IntArray
    stops: IntArray

    def turn(self, row: int, code: int = -1) -> Turn:
        """Return an utterance with the turns before it, oldest first.

        Parameters
        ----------
        row : int
            Row of the utterance.
        code : int, default=-1
            Number of its class, -1 if it has no label.

        Returns
        -------
        Turn
            The quoted utterance and its context.
        """
        i = self.position[row]
        before = self.order[i + 1 : self.stops[i]][::-1]
        context = "\n".join([self.lines[j] for j in before]) or "(nothing)"
        return Turn(self.lines[row], context, code)


def read_turns(X, columns: Columns, n_turns: int) -> tuple[Turns, Any]:
    """Read the utterances of `X`.

    Parameters
    ----------
    X : DataFrame, or array-like of str
        The utterances.
    columns : Columns
        Names of the columns of a frame.
    n_turns : int
        Number of turns of context.

    Returns
    -------
    turns : Turns
        The quoted utterances.
    used : DataFrame or None
        The columns of the frame that are read, None if `X` holds texts.
    """
    if not hasattr(X, "columns"):
        texts = check_texts(X)
        rows: IntArray = np.arange(len(texts))
        lines = [quote_turn(text) for text in texts]
        # Each text is a session; equal texts are the same one.
        return Turns(lines, texts.tolist(), rows, rows, rows + 1), None
    frame = wrap_frame(X)
    used = frame.select(columns.check(frame)).to_native()
    values = read_utterances(frame, columns, n_turns)
    speakers: list[Any] = values.speakers or [None] * len(values.texts)
    lines = [quote_turn(t, s) for t, s in zip(values.texts, speakers, strict=True)]
    position = np.argsort(values.order)
    return Turns(lines, values.sessions.tolist(), values.order, position, values.stops), used


def draw_examples(turns: Turns, codes: IntArray, n_classes: int, n: int, rng) -> list[list]:
    """Draw labelled utterances of each class, enough for `n` whichever session is left out.

    Parameters
    ----------
    turns : Turns
        The utterances.
    codes : ndarray of int, shape (n_samples,)
        Numbers of their classes, -1 if there is no label.
    n_classes : int
        Number of classes.
    n : int
        Number of examples of each class that a prompt shows.
    rng : RandomState
        Source of the draw.

    Returns
    -------
    list of list of (session, Turn)
        The examples of each class.
    """
    examples: list[list[Example]] = []
    for k in range(n_classes):
        drawn, of_session = [], Counter[Any]()
        for row in rng.permutation(np.flatnonzero(codes == k)).tolist():
            session = turns.sessions[row]
            if of_session[session] < n:
                of_session[session] += 1
                drawn.append((session, turns.turn(row, k)))
            if len(drawn) - max(of_session.values(), default=0) >= n:
                break
        examples.append(drawn)
    return examples


def pick_examples(examples: list[list[Example]], n: int, prompt: int, session) -> list[Turn]:
    """Take examples of all classes in turn, none of them from the session.

    Parameters
    ----------
    examples : list of list of (session, Turn)
        The examples of each class.
    n : int
        Number of examples of each class.
    prompt : int
        Number of the prompt, which decides the class that comes first.
    session : hashable
        The session of the utterance that is asked about.

    Returns
    -------
    list of Turn
        The examples.
    """
    of_class = [[turn for other, turn in drawn if other != session][:n] for drawn in examples]
    # No class is always the last before the question.
    of_class = of_class[prompt % len(of_class) :] + of_class[: prompt % len(of_class)]
    return [turns[i] for i in range(n) for turns in of_class if i < len(turns)]


class Form(NamedTuple):
    """The form of an answer about one utterance.

    Parameters
    ----------
    settings : dict
        The arguments of a chat completion that it needs.
    read : callable
        Reads a completion, given the text that stands for each class.
    expect : callable
        Returns an answer of the usual length, given the same.
    """

    settings: dict[str, Any]
    read: Callable[[dict, list[str]], Answer]
    expect: Callable[[list[str]], str]


def one_class(scoring: str, names: list[str], top_logprobs: int) -> Form:
    """Return the form of an answer that gives one class.

    Parameters
    ----------
    scoring : {"logprobs", "verbalized", "label"}
        How answers become scores.
    names : list of str
        Names of the classes.
    top_logprobs : int
        Number of the likeliest tokens that are asked for.

    Returns
    -------
    Form
        The form.
    """
    limit = 16 + 2 * sum(len(name) + 8 for name in names)
    settings: dict[str, Any] = {"max_tokens": limit, "choices": names}
    if scoring == "logprobs":
        settings = {"max_tokens": 1, "logprobs": True, "top_logprobs": top_logprobs}
    if scoring == "verbalized":
        schema = object_schema({name: {"type": "number"} for name in names})
        settings = {"max_tokens": limit, "response_format": response_format("confidences", schema)}

    def read(completion: dict, answers: list[str]) -> Answer:
        return read_answer(completion, scoring, names, answers)

    def expect(answers: list[str]) -> str:
        if scoring == "verbalized":
            return json.dumps(dict.fromkeys(names, 0.55), ensure_ascii=False)
        return max(answers, key=len)

    return Form(settings, read, expect)


def object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object that has all of its properties and no other.

    Parameters
    ----------
    properties : dict
        The schema of each property by its name.

    Returns
    -------
    dict
        The schema.
    """
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def response_format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the argument that holds an answer to a schema.

    Parameters
    ----------
    name : str
        Name of the schema.
    schema : dict
        The schema.

    Returns
    -------
    dict
        The argument.
    """
    json_schema = {"name": name, "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": json_schema}


def reason_first(settings: dict[str, Any], effort: str) -> dict[str, Any]:
    """Change the arguments of a chat completion to those of a model that reasons.

    Parameters
    ----------
    settings : dict
        The arguments for other models.
    effort : str
        How much it is to reason.

    Returns
    -------
    dict
        The arguments.
    """
    kept = {k: v for k, v in settings.items() if k not in ("temperature", "max_tokens")}
    limit = settings["max_tokens"] + _REASONING
    return kept | {"max_completion_tokens": limit, "reasoning_effort": effort}


def write_asks(
    turns: Turns,
    rows: Iterable[int],
    questions: list[dict[str, Question]],
    examples: list[list[Example]],
    settings: dict[str, Any],
    form: Form,
    n_samples: int,
) -> Iterator[Ask]:
    """Write the requests of a run one by one, prompt by prompt.

    Parameters
    ----------
    turns : Turns
        The utterances.
    rows : iterable of int
        The rows to ask about.
    questions : list of dict of str to Question
        The question of each prompt, for each order of the options.
    examples : list of list of (session, Turn)
        The examples of each class.
    settings : dict
        Arguments of each chat completion; None removes an argument.
    form : Form
        The form of the answers.
    n_samples : int
        Number of answers per utterance and prompt.

    Yields
    ------
    Ask
        A request.
    """
    in_orders = [
        (p, in_order[name]) for p, name in enumerate(questions[0]) for in_order in questions
    ]
    for p, question in in_orders:
        read = partial(_read_one, form.read, question.answers)
        expected = form.expect(question.answers)
        for row in rows:
            shown = pick_examples(examples, question.n_examples, p, turns.sessions[row])
            messages = write_messages(question, turns.turn(row), shown)
            for sample in range(n_samples):
                payload = write_payload(messages, settings, sample)
                yield Ask((row,), p, payload, read, sample, expected)


def _read_one(read: Callable, answers: list[str], completion: dict) -> list[Answer]:
    return [read(completion, answers)]


def write_probe(question: Question, settings: dict[str, Any], form: Form) -> Ask:
    """Write a harmless question, which any endpoint that works answers.

    Parameters
    ----------
    question : Question
        The question of a prompt.
    settings : dict
        Arguments of each chat completion.
    form : Form
        The form of the answer.

    Returns
    -------
    Ask
        A request that is of no row.
    """
    read = partial(_read_one, form.read, question.answers)
    hello = quote_turn("Hello.")
    if is_list(question.item):
        messages = write_list(question, [hello])
    else:
        messages = write_messages(question, Turn(hello, "(nothing)"), [])
    return Ask((-1,), -1, write_payload(messages, settings, 0), read)


def write_payload(messages: list, settings: dict[str, Any], sample: int) -> dict[str, Any]:
    """Return the arguments of a chat completion.

    Parameters
    ----------
    messages : list of dict
        The chat.
    settings : dict
        The other arguments; None removes one.
    sample : int
        Number of the sample.

    Returns
    -------
    dict
        The arguments.
    """
    payload = {"messages": messages, **settings}
    seed = settings.get("seed", 0)
    # Samples differ by their seeds, which count up from a seed that is given.
    if settings.get("temperature") and isinstance(seed, int):
        payload["seed"] = seed + sample
    return {k: v for k, v in payload.items() if v is not None}
