"""The questions to an LLM: templates, the options that they show, and examples."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, MutableMapping
from itertools import pairwise
from math import gcd
from string import Formatter, ascii_uppercase, digits
from typing import NamedTuple

import numpy as np

from skpref._llm._preview import Preview
from skpref._typing import IntArray

_TEMPLATES = {
    "examples": "Sort each line by {task}.\n\n{options}\n\n{answer}\n\n{examples}{utterance}",
    "definitions": (
        "You annotate conversations. Each utterance gets one label for {task}, by these "
        "guidelines:\n\n{definitions}\n\n{answer}\n\nUtterance:\n{utterance}"
    ),
    "guidelines": (
        "Label the last turn of an excerpt from a dialogue with respect to {task}. The turns "
        "before it are there for context and get no label.\n\nLabels:\n{definitions}\n\n{answer}"
        "\n\n{examples}Turns before it:\n{context}\n\nTurn to label:\n{utterance}"
    ),
}

_LIST = {
    "session": (
        "A conversation is shown, one numbered utterance per line. Label each line for {task}.\n\n"
        "{definitions}\n\n{answer}\n\n{lines}"
    ),
}

_MULTILABEL = {
    "each": (
        "Read the message and judge {task}. Any number of these labels may apply to it, or none."
        "\n\n{options}\n\n{answer}\n\nMessage:\n{utterance}"
    ),
    "codebook": (
        "You annotate conversations. An utterance gets every label for {task} that applies to it, "
        "by these guidelines, and often none:\n\n{definitions}\n\n{answer}\n\nUtterance:\n"
        "{utterance}"
    ),
    "turn": (
        "A conversation is shown up to some point, and then what is said next. Judge {task} in "
        "what is said next; use the lines before it only to understand it. One label, several or "
        "none may apply.\n\n{definitions}\n\n{answer}\n\nUp to now:\n{context}\n\nSaid next:\n"
        "{utterance}"
    ),
}

# The sets that a bank knows by name.
_SETS = {
    "varied": _TEMPLATES,
    "short": {"examples": _TEMPLATES["examples"]},
    "session": _LIST,
    "multilabel": _MULTILABEL,
}

_FIELDS = {
    "utterance": "the utterance to label",
    "lines": "in place of one utterance, those of a session, numbered",
    "answer": "the form of the answer, which depends on scoring",
    "options": "the classes",
    "definitions": "the classes with their definitions",
    "context": "the turns before the utterance",
    "examples": "labelled utterances, each in the form of the text after this field",
    "task": "the subject of the question",
}

ANSWERS = {
    "logprobs": "Answer with the {label} of one option and nothing else.",
    "names": "Answer with one of the options, word for word, and nothing else.",
    "label": "Answer with one of the options, word for word, and nothing else.",
    "verbalized": (
        "Answer with a JSON object that gives each option your confidence between 0 and 1 that "
        "it is right, and nothing else: {json}"
    ),
}

# In JSON the braces of an object are doubled here, since these are formats.
LIST_ANSWERS = {
    "logprobs": (
        "Answer with one line for each number, in order: the number, a colon, and the {label} of "
        "one option. Write nothing else."
    ),
    "names": (
        "Answer with one line for each number, in order: the number, a colon, and one of the "
        "options word for word. Write nothing else."
    ),
    "label": (
        "Answer with a JSON object that has, for each number in order, one of the options word "
        'for word, and nothing else: {{"lines": [{{"line": 1, "label": "..."}}, ...]}}'
    ),
    "verbalized": (
        "Answer with a JSON object that has, for each number in order, your confidence between 0 "
        'and 1 in each option, and nothing else: {{"lines": [{{"line": 1, "confidences": {json}}}, '
        "...]}}"
    ),
}

MULTILABEL_ANSWERS = {
    "logprobs": (
        "Answer with one line for each of the labels, in order: its number, its name, a colon, and "
        "yes if it applies or no if it does not. Write nothing else."
    ),
    "label": (
        'Answer with a JSON object that gives each label "yes" if it applies or "no" if it does '
        "not, and nothing else: {json}"
    ),
    "verbalized": (
        "Answer with a JSON object that gives each label the probability between 0 and 1 that it "
        "applies, and nothing else: {json}"
    ),
}

# Lists of several labels are objects: a line of text has no place for the probability of a label.
MULTILABEL_LIST_ANSWERS = {
    "label": (
        "Any number of these labels may apply to a line, or none. Answer with a JSON object that "
        "has, for each number in order, the labels that apply, word for word, and nothing else: "
        '{{"lines": [{{"line": 1, "labels": ["...", "..."]}}, {{"line": 2, "labels": []}}, ...]}}'
    ),
    "verbalized": (
        "Any number of these labels may apply to a line, or none. Answer with a JSON object that "
        "has, for each number in order, the probability between 0 and 1 that each label applies, "
        'and nothing else: {{"lines": [{{"line": 1, "probabilities": {json}}}, ...]}}'
    ),
}

# What JSON leaves as it is: line ends, and halves of characters, which no request can hold.
_ESCAPES = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029, *range(0xD800, 0xE000))}


# What a notebook shows in the prompts of a bank.
_EXAMPLE = (("How can I help?", "agent"), ("My order is late again.", "customer"))


class Turn(NamedTuple):
    """An utterance to label, as lines of text, and the number of its class, or -1."""

    text: str
    context: str
    code: int = -1


class Question(NamedTuple):
    """The question of one prompt in one call of transform."""

    system: str  # the system message, empty if there is none
    head: str  # said once
    item: str  # the template of each utterance
    values: dict[str, str]  # the fields that are the same for all
    answers: list[str]  # what stands for each class in an answer
    n_examples: int


def quote_turn(text: str, speaker: str | None = None) -> str:
    """Write a turn on one line, so that nothing in it can be taken for a part of the prompt.

    Parameters
    ----------
    text : str
        The utterance.
    speaker : str, default=None
        The name of the speaker.

    Returns
    -------
    str
        The text as a JSON string, after the speaker as another one, if there is one.
    """
    quoted = _quote(text)
    return quoted if speaker is None else f"{_quote(' '.join(speaker.split()))}: {quoted}"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_ESCAPES)


def class_names(classes) -> list[str]:
    """Name classes on one line each, as prompts show them and answers are compared.

    Parameters
    ----------
    classes : iterable
        The classes.

    Returns
    -------
    list of str
        The names.
    """
    return [unicodedata.normalize("NFC", " ".join(str(c).split())) for c in classes]


def option_labels(names: list[str]) -> list[str]:
    """Choose letters for options, or digits if a letter would be the name of a class.

    Parameters
    ----------
    names : list of str
        Names of the classes.

    Returns
    -------
    list of str
        A label for each option, in the order in which they are shown.

    Raises
    ------
    ValueError
        If there are more classes than labels of one character.
    """
    taken = {name.casefold() for name in names}
    # Without "I", with which many answers begin, unless all letters are needed.
    for symbols in (ascii_uppercase.replace("I", ""), ascii_uppercase, digits[1:]):
        labels = list(symbols[: len(names)])
        if len(labels) == len(names) and not taken & {label.casefold() for label in labels}:
            return labels
    raise ValueError(
        f"scoring='logprobs' shows each class as a letter or digit, which {len(names)} classes "
        "with these names leave no room for; pass scoring='label' or 'verbalized'."
    )


class PromptBank(MutableMapping):
    """Templates of the questions to an LLM about an utterance, by name.

    A new bank holds three that differ in what they show: `"examples"` are labelled utterances,
    `"definitions"` the meaning of the classes, and `"guidelines"` both and the turns before. It is
    a mapping: set a name to add a template or to change one, and delete those that are not wanted.

    Parameters
    ----------
    templates : mapping of str to str or {"varied", "short", "session", "multilabel"}, \
            default="varied"
        Templates by name, or a set of them.

        - "varied": the three, to be averaged.
        - "short": the first of them, which shows labelled utterances and little else.
        - "session": one that lists a session, for ``LLMLabeler(unit="session")``.
        - "multilabel": three that ask which of the labels apply, for
          ``LLMLabeler(multilabel=True)``.
    task : str, default="what the utterance expresses"
        The subject of the question, in words that follow "describe".
    definitions : mapping of class to str, default=None
        The meaning of each class. Classes without a definition are shown by name.
    n_examples : int, default=2
        Number of labelled utterances of each class that the field ``{examples}`` shows.
    system : str, default=""
        Template of a system message, which is sent before each prompt if it is not empty. It may
        have the fields that are the same for all utterances: ``{task}``, ``{options}``,
        ``{definitions}`` and ``{answer}``, which templates may then leave out.

    See Also
    --------
    LLMLabeler : Asks an LLM with the prompts of a bank.

    Notes
    -----
    A template is a :meth:`str.format` string. It must have the fields ``{utterance}``,
    ``{answer}`` (the form of the answer), and ``{options}`` (the classes) or ``{definitions}``
    (the classes with what they mean). It may have ``{task}``, ``{context}`` (the turns before)
    and ``{examples}``. What follows ``{examples}`` is repeated for each labelled utterance, as a
    chat in which the assistant has given the right answer; the text before it is said once. Put
    the unchanging text first, or in `system`: servers cache common prefixes.

    A template with ``{lines}`` in place of ``{utterance}`` asks about the utterances of a session
    at once. It has no ``{context}``, since a session is its own, and no ``{examples}``: lists with
    examples made a small model repeat one label.

    Utterances and speakers are written as JSON strings, one utterance per line, so that nothing
    in them can be taken for a part of the prompt.

    Examples
    --------
    >>> from skpref import PromptBank
    >>> bank = PromptBank(task="the mood of the customer", definitions={"bad": "angry or sad"})
    >>> del bank["guidelines"]
    >>> bank["short"] = "{options} {answer} {utterance}"
    >>> list(bank)
    ['examples', 'definitions', 'short']
    >>> bank["short"] = "Which mood? {options} {utterances}"
    Traceback (most recent call last):
        ...
    ValueError: The template 'short' has the unknown field {utterances}; ...
    """

    def __init__(
        self,
        templates: Mapping[str, str] | str = "varied",
        *,
        task: str = "what the utterance expresses",
        definitions: Mapping | None = None,
        n_examples: int = 2,
        system: str = "",
    ):
        if not (isinstance(n_examples, int) and n_examples >= 0):
            raise ValueError(f"n_examples={n_examples!r} must be an int of 0 or more.")
        self.task = str(task)
        self.definitions = dict(definitions or {})
        self.n_examples = n_examples
        _refuse_bad_system(system)
        self.system = system
        self._templates: dict[str, str] = {}
        self.update(_read_set(templates))

    def __getitem__(self, name: str) -> str:
        return self._templates[name]

    def __setitem__(self, name: str, template: str) -> None:
        _refuse_bad_template(name, template, self.system)
        self._templates[name] = template

    def __delitem__(self, name: str) -> None:
        del self._templates[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._templates)

    def __len__(self) -> int:
        return len(self._templates)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)}, task={self.task!r})"

    def _repr_html_(self) -> str:
        """Show each prompt for one utterance of a support chat, as log-probabilities ask for it."""
        classes = list(self.definitions) or ["one class", "another class"]
        before, said = (quote_turn(*turn) for turn in _EXAMPLE)
        messages = {
            name: write_list(question, [before, said])
            if is_list(self[name])
            else write_messages(question, Turn(said, before), [])
            for name, question in self.questions(classes, "logprobs").items()
        }
        return Preview(messages)._repr_html_()

    def questions(
        self,
        classes,
        scoring: str,
        *,
        order: int = 0,
        n_orders: int = 1,
        multilabel: bool = False,
    ) -> dict[str, Question]:
        r"""Fill in everything that is the same for every utterance.

        The options of the first prompt are in the order of the classes, those of the second begin
        with the second class, and so on. A preference of the model for the first option cancels
        in the mean over prompts if the number of prompts times `n_orders` is a multiple of the
        number of classes.

        Parameters
        ----------
        classes : array-like of shape (n_classes,)
            The classes.
        scoring : {"logprobs", "verbalized", "label"}
            How answers are read.
        order : int, default=0
            Number of the order of the options, from 0 to `n_orders` - 1.
        n_orders : int, default=1
            Number of orders in which each prompt is asked.
        multilabel : bool, default=False
            Whether the answer says of each class if it applies.

        Returns
        -------
        dict of str to Question
            The question of each prompt.

        Raises
        ------
        ValueError
            If the bank is empty or defines something that is no class.

        Examples
        --------
        >>> from skpref import PromptBank
        >>> bank = PromptBank({"a": "{options} {answer} {utterance}"})
        >>> print(bank.questions(["bad", "good"], "logprobs")["a"].values["options"])
        - bad
        - good
        """
        if not self._templates:
            raise ValueError("prompts is empty; pass at least one template, or None.")
        _refuse_bad_system(self.system)
        if unknown := [c for c in self.definitions if c not in list(classes)]:
            raise ValueError(
                f"definitions has {unknown!r}, which are not in classes={list(classes)!r}."
            )
        names = class_names(classes)
        meanings = [str(self.definitions.get(c, "")) for c in classes]
        questions = {}
        for i, (name, template) in enumerate(self._templates.items()):
            shown = np.roll(np.arange(len(names)), -(i * n_orders + order))
            questions[name] = self._fill(template, names, meanings, shown, scoring, multilabel)
        return questions

    def _fill(
        self,
        template: str,
        names: list[str],
        meanings: list[str],
        order: IntArray,
        scoring: str,
        multilabel: bool,
    ) -> Question:
        labels = ["-"] * len(names)
        by_name = scoring == "logprobs" and not multilabel and _begin_apart(names)
        if scoring == "logprobs" and not by_name:
            numbers = [str(i) for i in range(1, len(names) + 1)]
            labels = numbers if multilabel else option_labels(names)
        answers, options, definitions = list(names), [], []
        for label, k in zip(labels, order.tolist(), strict=True):
            option = f"{label} {names[k]}" if label == "-" else f"{label}. {names[k]}"
            options.append(option)
            definitions.append(f"{option}: {meanings[k]}" if meanings[k] else option)
            if label != "-":
                answers[k] = label
        usual = "yes or no" if multilabel and scoring == "label" else 0.0
        shown = json.dumps({names[k]: usual for k in order.tolist()}, ensure_ascii=False)
        kind = "letter" if labels[0].isalpha() else "number"
        forms = MULTILABEL_ANSWERS if multilabel else ANSWERS
        if is_list(template):
            forms = MULTILABEL_LIST_ANSWERS if multilabel else LIST_ANSWERS
        values = {
            "task": self.task,
            "options": "\n".join(options),
            "definitions": "\n".join(definitions),
            "answer": forms["names" if by_name else scoring].format(label=kind, json=shown),
        }
        system = self.system.format(**values)
        head, marker, item = template.partition("{examples}")
        if not marker:
            return Question(system, "", head, values, answers, 0)
        # Examples of confidences would be 0 and 1, which teaches to be too sure.
        n_examples = 0 if scoring == "verbalized" else self.n_examples
        return Question(system, head.format(**values), item, values, answers, n_examples)


def _begin_apart(names: list[str]) -> bool:
    """Return whether the first letters of an answer tell which class it names.

    A small model loses track of what letters stand for (`benchmarks.asking`). The first token of
    a name is all that is read of it. Of Latin letters it has three or more.
    """
    begun = sorted(name.casefold()[:3] for name in names)
    latin = all(part.isascii() and part.isalpha() for part in begun)
    # In this order, one that begins another is right before one that it begins.
    return latin and not any(after.startswith(part) for part, after in pairwise(begun))


def _read_set(templates: Mapping[str, str] | str | None) -> Mapping[str, str]:
    """Return templates, which may be named as a set."""
    if templates is None:
        templates = "varied"
    if not isinstance(templates, str):
        return templates
    if templates not in _SETS:
        raise ValueError(
            f"templates={templates!r} is no set of templates; pass one of {list(_SETS)}, or a "
            "mapping of names to templates."
        )
    return _SETS[templates]


def is_list(template: str) -> bool:
    """Return whether a template asks about several utterances at once.

    Parameters
    ----------
    template : str
        A template of a bank.

    Returns
    -------
    bool
        True if it has the field ``{lines}``.
    """
    return "lines" in _find_fields(template)


def shows_examples(template: str) -> bool:
    """Return whether a template shows labelled utterances.

    Parameters
    ----------
    template : str
        A template of a bank.

    Returns
    -------
    bool
        True if it has the field ``{examples}``.
    """
    return "examples" in _find_fields(template)


def _find_fields(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def _refuse_bad_system(system: str) -> None:
    """Refuse a system message that cannot be filled in."""
    allowed = ("task", "options", "definitions", "answer")
    try:
        system.format(**dict.fromkeys(allowed, ""))
    except (ValueError, LookupError, AttributeError):
        raise ValueError(
            f"system={system!r:.60} is not a format; it may have the fields "
            f"{', '.join(f'{{{name}}}' for name in allowed)}, and {{{{ and }}}} for braces."
        ) from None


def _refuse_bad_template(name: str, template: str, system: str) -> None:
    """Refuse a template that cannot be filled in or that asks nothing."""
    if not (isinstance(name, str) and isinstance(template, str)):
        raise TypeError(
            f"The template {name!r} is {template!r:.60}; pass names and templates as str."
        )
    try:
        parsed = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(
            f"The template {name!r} is not a format ({error}); write {{{{ and }}}} for braces."
        ) from None
    fields = [field for field, *_ in parsed]
    allowed = "; ".join(f"{{{field}}}: {meaning}" for field, meaning in _FIELDS.items())
    in_both = {*fields, *_find_fields(system)}
    problem = None
    if unknown := [field for field in fields if field not in _FIELDS]:
        problem = f"has the unknown field {{{unknown[0]}}}"
    elif any(spec or conversion for _, spec, conversion in parsed):
        problem = "has a field with a format or conversion; write the name alone"
    elif not {"utterance", "lines"} & set(fields):
        problem = "lacks the field {utterance}"
    elif "answer" not in in_both:
        problem = "lacks the field {answer}"
    elif "lines" in fields and {"utterance", "context", "examples"} & set(fields):
        problem = "has {lines}, with which there is no {utterance}, {context} or {examples}"
    elif not {"options", "definitions"} & in_both:
        problem = "lacks the field {options} or {definitions}"
    elif "{{examples}}" in template or fields.count("examples") > 1:
        problem = "has {examples} more than once, or in double braces"
    elif {"utterance", "context"} & _find_fields(template.partition("{examples}")[0]) and (
        "examples" in fields
    ):
        problem = (
            "has {utterance} or {context} before {examples}, after which all is repeated for each "
            "example"
        )
    if problem:
        raise ValueError(f"The template {name!r} {problem}; the fields are {allowed}.")


def write_messages(question: Question, turn: Turn, examples: list[Turn]) -> list[dict[str, str]]:
    """Write the chat that asks a question about a turn.

    Parameters
    ----------
    question : Question
        The question.
    turn : Turn
        The utterance.
    examples : list of Turn
        Labelled utterances to show before it.

    Returns
    -------
    list of dict
        Messages as chat completions take them.
    """
    messages: list[dict[str, str]] = []
    for shown in (*examples, turn):
        fields = {"utterance": shown.text, "context": shown.context}
        content = question.item.format(**question.values, **fields)
        messages.append({"role": "user", "content": content})
        if shown is not turn:
            messages.append({"role": "assistant", "content": question.answers[shown.code]})
    messages[0]["content"] = question.head + messages[0]["content"]
    return _after_system(question, messages)


def _after_system(question: Question, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    if not question.system:
        return messages
    return [{"role": "system", "content": question.system}, *messages]


def write_list(question: Question, lines: list[str], only: int | None = None) -> list[dict]:
    """Write the chat that asks a question about several turns.

    Parameters
    ----------
    question : Question
        The question, of a template with ``{lines}``.
    lines : list of str
        The turns, in order.
    only : int, default=None
        Number of the one line to label, counted from 1. None labels all.

    Returns
    -------
    list of dict
        Messages as chat completions take them.
    """
    numbered = "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))
    content = question.item.format(**question.values, lines=numbered)
    if only is not None:
        # At the end, so that the beginning is that of the whole list, which servers cache.
        content += f"\n\nNow label line {only} and no other."
    return _after_system(question, [{"role": "user", "content": content}])


def write_questions(
    bank: PromptBank, classes: list, scoring: str, n_orders: int | str, multilabel: bool
) -> list[dict[str, Question]]:
    """Write the question of each prompt, for each order of the options.

    Parameters
    ----------
    bank : PromptBank
        The prompts.
    classes : list
        The classes.
    scoring : {"logprobs", "verbalized", "label"}
        How answers are read.
    n_orders : int or "balanced"
        Number of orders. "balanced" is the smallest number with which each class has each
        position equally often.
    multilabel : bool
        Whether an answer says of each class if it applies.

    Returns
    -------
    list of dict of str to Question
        The questions of each order.
    """
    if n_orders == "balanced":
        n_orders = len(classes) // gcd(len(classes), len(bank))
    return [
        bank.questions(classes, scoring, order=order, n_orders=int(n_orders), multilabel=multilabel)
        for order in range(int(n_orders))
    ]
