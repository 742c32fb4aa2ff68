"""Parts of a labeler that ask nothing: write requests, plan them, name and keep the scores."""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any
from zlib import crc32

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skpref._context import Columns
from skpref._llm._backends import NEED, identity_of
from skpref._llm._checks import (
    check_classes,
    check_endpoint,
    check_multilabel,
    check_numbers,
    check_reasoning,
    check_request_params,
    check_unit,
)
from skpref._llm._labels import each_label
from skpref._llm._lists import (
    Item,
    ListAsker,
    Window,
    count_windows,
    cut_windows,
    list_settings,
    make_item,
)
from skpref._llm._plan import EXACT, Rates, count_requests, find_tokenizer, write_plan
from skpref._llm._preview import Preview
from skpref._llm._prompts import PromptBank, Question, class_names, write_questions
from skpref._llm._requests import Form, Turns, one_class, read_turns, reason_first, write_asks
from skpref._llm._runner import Ask
from skpref._llm._store import find_store
from skpref._llm._tables import column_names, scores_from_frame, scores_to_frame
from skpref._optional import import_optional
from skpref._sklearn import DocLinkMixin
from skpref._typing import BoolArray, IntArray


class BaseLabeler(DocLinkMixin, TransformerMixin, BaseEstimator):
    """Base of `LLMLabeler`, whose parameters it reads."""

    _examples: list[list]

    def plan(self, X, *, tokenizer=None, latency=1.0):
        """Estimate what `transform` would take, without asking anything.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns), or array-like of str, shape (n_samples,)
            The utterances, as in `fit`.
        tokenizer : callable, default=None
            Splits a text into tokens, such as ``tiktoken.encoding_for_model("gpt-4o").encode``.
            None uses the tokenizer of `model` if transformers has it on this machine, or else
            counts four characters of a prompt as a token, which suits English. If the cache holds
            answers of the model, their counts are used instead.
        latency : float, default=1.0
            Seconds that one request takes, to estimate the time of `max_concurrency` at once.

        Returns
        -------
        Bunch
            Prints as a message and a table with a line per prompt, and has the fields

            - n_requests, n_cached : int, requests to make, and those that the cache answers. Equal
              questions are asked once.
            - prompt_tokens, completion_tokens : int, tokens that the requests would take.
            - tokens : ndarray of shape (n_prompts,), those of each prompt, read and written, per
              utterance, as :func:`~skpref.inspection.prompt_agreement` takes them.
            - cost : float, at the `prices` of the labeler; None if there are none.
            - seconds : float, at the limits of the labeler; NaN for batches.
            - is_exact : bool, whether each request was counted; of more than 20,000 a sample is.
            - tokens_by : str, how tokens were counted.
            - message, summary : str, the same in words, and the table.

        Raises
        ------
        ValueError
            If `X` is not as in `fit`.
        """
        check_is_fitted(self)
        self._check_settings()
        questions = self._questions()
        turns = self._turns(X)[0]
        units = self._units(turns)
        n_asks = len(units) * len(questions) * len(questions[0]) * self.n_samples
        step = ceil(n_asks / EXACT)
        if step > 1:  # by content, so that equal questions are all in the sample, or none
            units = [unit for unit in units if crc32(_content(turns, unit)) % step == 0]
        asks = self._asks(turns, questions, units)
        store = find_store(self.__dict__.get("_folder") if self.cache is None else self.cache)
        try:
            identity = identity_of(self.client, self.base_url)
            counts = count_requests(asks, identity, store, len(questions[0]))
        finally:
            if store is not None:
                store.close()
        return write_plan(
            counts,
            list(questions[0]),
            n_utterances=len(turns.lines),
            scale=float(step),
            tokenizer=find_tokenizer(self.model) if tokenizer is None else tokenizer,
            prices=self.prices,
            rates=Rates(
                self.requests_per_minute, self.tokens_per_minute, self.max_concurrency, latency
            ),
            reasons=self.reasoning_effort is not None,
            batch=self.batch is not False,
        )

    def preview(self, X, row=0):
        """Show each prompt as it would be sent for one utterance.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns), or array-like of str, shape (n_samples,)
            The utterances, as in `fit`.
        row : int, default=0
            Number of the row of the utterance.

        Returns
        -------
        dict of str to list of dict
            The messages of each prompt by its name. It prints as text, and a notebook shows it as
            HTML. With several orders of the options, the first.

        Raises
        ------
        ValueError
            If there is no such row, or `X` is not as in `fit`.
        """
        check_is_fitted(self)
        questions = self._questions()[:1]
        turns = self._turns(X)[0]
        if not 0 <= row < len(turns.lines):
            raise ValueError(f"row={row!r} must be from 0 to {len(turns.lines) - 1}, a row of X.")
        unit = next(unit for unit in self._units(turns) if row in np.atleast_1d(unit))
        asks = self._asks(turns, questions, [unit])
        names = list(questions[0])
        return Preview({names[ask.prompt]: ask.payload["messages"] for ask in asks})

    def get_feature_names_out(self, input_features=None):  # noqa: ARG002
        """Name the scores of each prompt and class.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Not used.

        Returns
        -------
        ndarray of str, shape (n_prompts * n_classes,) or (n_prompts,)
            "prompt__class", in the order of the scores; of two classes the second.
        """
        classes = np.asarray(self.classes).tolist()
        shown = classes[n_implied(classes, self.multilabel) :]
        names = column_names(list(self._bank()), shown)
        return np.asarray(names, dtype=object)

    def to_frame(self, scores, X=None):
        """Write scores into a frame, for example to save it as parquet.

        Parameters
        ----------
        scores : ndarray of shape (n_samples, n_prompts, n_classes)
            The output of `transform`.
        X : DataFrame of shape (n_samples, n_columns), default=None
            The utterances, to keep their session and turn.

        Returns
        -------
        DataFrame of shape (n_samples, n_keys + n_prompts * n_classes)
            The columns of the session and the turn, then a column "prompt__class" for each
            prompt and class. Of the library of `X`, else of pandas.

        Raises
        ------
        ValueError
            If the shape does not fit the prompts and classes, or `X`.
        """
        keys = Columns(self.text, self.session, self.turn, self.speaker).sessions()
        keys += [] if self.turn is None else [self.turn]
        classes = np.asarray(self.classes).tolist()
        return scores_to_frame(scores, list(self._bank()), classes, X, keys)

    def from_frame(self, frame):
        """Read scores from a frame that `to_frame` wrote.

        Parameters
        ----------
        frame : DataFrame of shape (n_samples, n_columns)
            Has a column "prompt__class" for each prompt and class.

        Returns
        -------
        ndarray of shape (n_samples, n_prompts, n_classes)
            The scores.

        Raises
        ------
        ValueError
            If a column is missing.
        """
        return scores_from_frame(frame, list(self._bank()), np.asarray(self.classes).tolist())

    def _bank(self) -> PromptBank:
        if isinstance(self.prompts, PromptBank):
            return self.prompts
        usual = "multilabel" if self.multilabel else "varied"
        usual = "session" if self.unit == "session" else usual
        return PromptBank(usual if self.prompts is None else self.prompts)

    def _questions(self) -> list[dict[str, Question]]:
        classes = check_classes(self.classes, self.multilabel).tolist()
        bank = self._bank()
        if self.multilabel:
            check_multilabel(self.unit, self.scoring, bank)
        check_unit(self.unit, bank, self.n_utterances_per_call, self.n_context_turns)
        return write_questions(bank, classes, self.scoring, self.option_orders, self.multilabel)

    def _check_settings(self) -> None:
        """Refuse parameters that contradict each other, before anything is asked."""
        check_endpoint(self.client, self.base_url, self.api_key)
        check_request_params(self.request_params or {})
        sampled = self.temperature > 0 or self.reasoning_effort is not None
        check_numbers(self.n_samples, sampled, self.prices, self.max_cost)
        check_reasoning(self.reasoning_effort, self.scoring)
        if self.batch is not False and self.client is not None:
            raise ValueError("batch needs an endpoint, and client answers instead; leave one out.")
        if self.client is None:
            import_optional("openai", *NEED)

    def _turns(self, X) -> tuple[Turns, Any]:
        columns = Columns(self.text, self.session, self.turn, self.speaker)
        if self.unit == "utterance":
            return read_turns(X, columns, self.n_context_turns)
        if not hasattr(X, "columns"):
            raise ValueError("unit='session' needs sessions: pass X as a frame that has them.")
        return read_turns(X, columns, len(X))

    def _units(self, turns: Turns, wanted: BoolArray | None = None) -> Sequence[int] | list[Window]:
        """Return what one request is about: the number of a row, or the rows of a window.

        With `wanted`, only what is about one of these rows at least.
        """
        wanted = np.ones(len(turns.lines), dtype=bool) if wanted is None else wanted
        if self.unit == "utterance":
            return np.flatnonzero(wanted).tolist()
        windows = cut_windows(turns, self.n_utterances_per_call, self.n_context_turns)
        return [window for window in windows if wanted[list(window)].any()]

    def _asks(self, turns: Turns, questions: list[dict[str, Question]], units) -> Iterator[Ask]:
        if self.unit == "session":
            names = class_names(self.classes_.tolist())
            asker = ListAsker(turns, self._settings, names, self._item())
            return asker.asks(units, questions, self.n_samples)
        return write_asks(
            turns,
            units,
            questions,
            self._examples,
            self._settings(),
            self._form(),
            n_samples=self.n_samples,
        )

    def _form(self) -> Form:
        names = class_names(np.asarray(self.classes).tolist())
        form = each_label if self.multilabel else one_class
        return form(self.scoring, names, self.top_logprobs)

    def _item(self) -> Item | None:
        """Return what lists of objects say of a line; None if answers are lines of text."""
        names = class_names(np.asarray(self.classes).tolist())
        return (
            None if self.scoring == "logprobs" else make_item(self.scoring, names, self.multilabel)
        )

    def _settings(self, n_lines: int = 1) -> dict[str, Any]:
        """Return the arguments of each chat completion."""
        settings = {"model": self.model, "temperature": self.temperature}
        if self.unit == "session":
            settings |= list_settings(self._item(), self.top_logprobs, n_lines)
        else:
            settings |= self._form().settings
        if self.reasoning_effort is not None:
            settings = reason_first(settings, self.reasoning_effort)
        params: Mapping = self.request_params or {}
        return settings | dict(params)


def _content(turns: Turns, unit: int | Window) -> bytes:
    rows = unit if isinstance(unit, tuple) else (unit,)
    return "\n".join(turns.lines[row] for row in rows).encode()


def count_answers(units: Sequence[int] | list[Window], n_rows: int) -> IntArray:
    """Return the number of questions about each row.

    Parameters
    ----------
    units : list of int, or list of tuple of int
        What the questions are about: rows, or windows of rows.
    n_rows : int
        Number of rows.

    Returns
    -------
    ndarray of int, shape (n_rows,)
        The numbers.
    """
    return count_windows([unit if isinstance(unit, tuple) else (unit,) for unit in units], n_rows)


def n_implied(classes, multilabel: bool) -> int:
    """Count the classes that a table leaves out because the others imply them.

    Parameters
    ----------
    classes : sequence
        The classes.
    multilabel : bool
        Whether any number of them may apply.

    Returns
    -------
    int
        1 for two classes, else 0.
    """
    return int(len(classes) == 2 and not multilabel)
