"""The answers of a run: the score of each row and prompt, and what is missing."""

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from skpref._llm._answers import Answer
from skpref._llm._lists import MissingLine, Window
from skpref._llm._runner import Ask
from skpref._typing import FloatArray, IntArray


class Failure(NamedTuple):
    """A missing answer, with the reason."""

    row: int
    prompt: str
    reason: str


class Record:
    """The mean over the answers for each row and prompt, in any order, and those missing.

    Parameters
    ----------
    n_answers : ndarray of int, shape (n_samples,)
        Number of answers for each row and prompt.
    prompts : list of str
        Names of the prompts.
    n_classes : int
        Number of classes.
    on_error : {"nan", "raise"}
        Whether a missing answer ends the run.
    multilabel : bool
        Whether any number of the classes may apply.

    Attributes
    ----------
    scores : ndarray of shape (n_samples, n_prompts, n_classes)
        The scores, NaN if there is no answer.
    mass : ndarray of shape (n_samples, n_prompts)
        The probability of all options together.
    failures : list of Failure
        The answers that are missing.
    again : list of callable
        Return the requests for lines that a list of answers lacks.
    agreement : list of bool
        For each row that two windows share, whether they say the same.
    n_left : int
        Number of answers that have not come.
    """

    def __init__(
        self,
        n_answers: IntArray,
        prompts: list[str],
        n_classes: int,
        on_error: str,
        multilabel: bool,
    ):
        self.scores: FloatArray = np.full((len(n_answers), len(prompts), n_classes), np.nan)
        self.mass: FloatArray = np.full((len(n_answers), len(prompts)), np.nan)
        self.failures: list[Failure] = []
        self.again: list[Callable[[], Ask]] = []
        self.n_left = int(n_answers.sum()) * len(prompts)
        self._n_answers = n_answers
        self._prompts = prompts
        self._on_error = on_error
        self._multilabel = multilabel
        self.agreement: list[bool] = []
        self._open: dict[tuple[int, int], list[tuple[Window, Answer]]] = {}

    def add(self, ask: Ask, answers: list[Answer]) -> int:
        """Add answers; the last one of a row and prompt sets its score.

        Parameters
        ----------
        ask : Ask
            The question.
        answers : list of Answer
            The answer for each row of the question.

        Returns
        -------
        int
            Number of rows that need no further question.
        """
        n_done = 0
        for i, (row, answer) in enumerate(zip(ask.rows, answers, strict=True)):
            if ask.alone is not None and isinstance(answer, MissingLine):
                self.again.append(partial(ask.alone, i))
                continue
            n_done += 1
            self.n_left -= 1
            self._add_one((row, ask.prompt), ask.rows, answer)
        return n_done

    def _add_one(self, place: tuple[int, int], window: Window, answer: Answer) -> None:
        answers = self._open.setdefault(place, [])
        answers.append((window, answer))
        if len(answers) == self._n_answers[place[0]]:
            self._set_score(place, self._open.pop(place))
        if answer.scores is None:
            row, prompt = place[0], self._prompts[place[1]]
            self.failures.append(Failure(row, prompt, answer.reason))
            if self._on_error == "raise":
                raise RuntimeError(
                    f"Row {row} got no score from the prompt {prompt!r}: {answer.reason}. "
                    "Earlier answers are kept."
                )

    def mean_agreement(self) -> float:
        """Return how often two windows that share a row agree about it.

        Returns
        -------
        float
            The share of the shared rows and prompts with the same likeliest class, or the same
            labels above one half; NaN if none.
        """
        return float(np.mean(self.agreement)) if self.agreement else float("nan")

    def _set_score(self, place: tuple[int, int], answers: list[tuple[Window, Answer]]) -> None:
        useful = [(*a.scores, a.mass) for _, a in answers if a.scores is not None]
        if useful:
            *self.scores[place], self.mass[place] = _mean_of_known(np.array(useful))
        of_window: dict[Window, list[FloatArray]] = {}
        for window, answer in answers:
            if answer.scores is not None:
                of_window.setdefault(window, []).append(answer.scores)
        if len(of_window) > 1:
            said = [_mean_of_known(np.array(scores)) for scores in of_window.values()]
            self.agreement.append(len({self._decide(mean) for mean in said}) == 1)

    def _decide(self, scores: FloatArray) -> bytes:
        return (scores > 0.5 if self._multilabel else scores.argmax()).tobytes()


def _mean_of_known(values: FloatArray) -> FloatArray:
    """Return the mean of each column without NaN, which is NaN if there is nothing else."""
    # Sorted, so that the sum is the same in each run.
    known = np.isfinite(values).sum(axis=0)
    sums = np.nansum(np.sort(values, axis=0), axis=0)
    return np.divide(sums, known, out=np.full(len(sums), np.nan), where=known > 0)


def warn_of_failures(failures: list[Failure], n_answers: int) -> None:
    """Warn if answers are missing, with the reasons.

    Parameters
    ----------
    failures : list of Failure
        The answers that are missing.
    n_answers : int
        Number of all answers.
    """
    if failures:
        reasons = Counter(failure.reason for failure in failures).most_common(3)
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons)
        warnings.warn(
            f"{len(failures)} of {n_answers} answers are missing: {listed}. See failures_.",
            stacklevel=4,
        )


def warn_of_low_mass(prompts: list[str], option_mass: FloatArray) -> None:
    """Warn of prompts whose answers are mostly no options.

    Parameters
    ----------
    prompts : list of str
        Names of the prompts.
    option_mass : ndarray of shape (n_samples, n_prompts)
        The probability of all options together.
    """
    for name, mass in zip(prompts, option_mass.T, strict=True):
        measured = mass[np.isfinite(mass)]
        if len(measured) and measured.mean() < 0.5:
            warnings.warn(
                f"With the prompt {name!r} only {measured.mean():.0%} of the probability is on "
                "the options, the rest on other tokens: the model may not follow the "
                "instructions. See option_mass_, and try another prompt or scoring.",
                stacklevel=4,
            )
