"""Read scores and labels, order rows and bin values: shared by the functions and the displays."""

from typing import Any

import numpy as np

from skpref._calibrator import LLMScoreCalibrator
from skpref._indicator import join_label_tables, read_indicator
from skpref._student._training_set import calibrate
from skpref._typing import ArrayLike, FloatArray, IntArray
from skpref._validation import (
    check_labels,
    check_llm_scores,
    plain_output,
    read_numbers,
    score_order,
    sort_scores,
)

# A log loss counts smaller probabilities as this one; float32 has nothing finer next to 1.
_SMALLEST = 1e-7
# Probabilities that were stored as float16, or rounded to three digits, sum to 1 within this.
_SUM_TOLERANCE = 5e-3


def read_scores(
    llm_scores: ArrayLike,
    y: ArrayLike | None,
    classes: ArrayLike | None,
    *,
    per_class: bool = False,
) -> tuple[FloatArray, np.ndarray, IntArray]:
    """Check LLM scores and human labels against each other.

    Parameters
    ----------
    llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
        Raw scores, NaN if missing.
    y : array-like of shape (n_samples,) or None
        Human labels; None if no row has one.
    classes : array-like of shape (n_classes,) or None
        Class labels in the order of the scores.
    per_class : bool, default=False
        Whether two-dimensional scores have a column for each class, also of a binary task.

    Returns
    -------
    scores : ndarray of float64, shape of `llm_scores`
        The scores, in the order of the sorted classes.
    classes : ndarray of shape (n_classes,)
        Class labels, sorted.
    codes : ndarray of int, shape (n_samples,)
        Position of each label in the classes, -1 for none.

    Raises
    ------
    ValueError
        If scores, labels and classes do not match.
    """
    scores = check_llm_scores(llm_scores).astype(np.float64)
    if not len(scores):
        raise ValueError("llm_scores has no rows; pass the scores of at least one utterance.")
    labels = np.full(len(scores), -1) if y is None else y
    present, codes = check_labels(labels, classes=classes, partial=True)
    if len(codes) != len(scores):
        raise ValueError(
            f"y has {len(codes)} entries but llm_scores has {len(scores)} rows; pass one label "
            "per row, -1 or None for an unlabelled one."
        )
    if scores.ndim == 3:
        order = score_order(present, classes, scores.shape[2])
        return sort_scores(scores, order.columns), order.classes, codes
    if len(present) == 0:
        present = np.arange(2)
    if len(present) < 2:
        raise ValueError(
            f"y has one class only ({present.tolist()!r}); pass classes=[...] with every label, in "
            "the order of the scores."
        )
    order = score_order(present, classes, len(present))
    if per_class and scores.shape[1] == len(present):
        return scores[:, order.columns], order.classes, codes
    return sort_scores(scores, order.columns), order.classes, codes


def read_label_scores(
    llm_scores: ArrayLike, y: ArrayLike, labels: ArrayLike | None
) -> tuple[FloatArray, np.ndarray, IntArray]:
    """Check LLM scores and human labels against each other, several labels per utterance.

    Parameters
    ----------
    llm_scores : array-like of shape (n_samples, n_prompts, n_labels) or (n_samples, n_labels)
        Scores of each label, NaN if missing.
    y : array-like of shape (n_samples, n_labels)
        Human labels.
    labels : array-like of shape (n_labels,) or None
        Names of the labels.

    Returns
    -------
    scores : ndarray of float64, shape (n_samples, n_prompts, n_labels)
        The scores.
    labels : ndarray of shape (n_labels,)
        Names of the labels.
    codes : ndarray of int, shape (n_samples, n_labels)
        1, 0, or -1 where unknown.

    Raises
    ------
    ValueError
        If scores and labels do not match.
    """
    names, codes = read_indicator(y, labels)
    scores = check_llm_scores(llm_scores, len(codes)).astype(np.float64)
    scores = scores[:, None] if scores.ndim == 2 else scores
    if scores.shape[2] != len(names):
        raise ValueError(
            f"llm_scores has scores of {scores.shape[2]} labels but y has {len(names)} "
            f"({names.tolist()!r}); pass (n_utterances, n_prompts, {len(names)})."
        )
    return scores, names, codes


def _are_soft_labels(scores: FloatArray, n_classes: int) -> bool:
    """Return whether each complete row of a table is a distribution over the classes."""
    complete = scores[~np.isnan(scores).any(axis=1)]
    return (
        scores.shape[1] == n_classes
        and bool((complete >= 0).all())
        and np.allclose(complete.sum(axis=1), 1, atol=1e-3)
    )


def score_per_class(scores: FloatArray, classes: np.ndarray, layout: str) -> FloatArray:
    """Return one score per class (n, n_classes), NaN in rows that have none."""
    n_classes = len(classes)
    if layout == "classes" and scores.shape[1:] != (n_classes,):
        raise ValueError(
            f"llm_scores has shape {scores.shape} but layout='classes' needs one column for each "
            f"of the {n_classes} classes {classes.tolist()!r}; pass (n_utterances, {n_classes}), "
            "or layout='prompts'."
        )
    guessed = layout == "auto" and scores.ndim == 2 and _are_soft_labels(scores, n_classes)
    if layout == "classes" or guessed:
        return np.where(np.isnan(scores).any(axis=1, keepdims=True), np.nan, scores)
    return mean_probabilities(scores, classes)


def mean_probabilities(
    scores: FloatArray, classes: np.ndarray, score_type: str = "auto"
) -> FloatArray:
    """Return the mean of the prompts' probabilities (n, n_classes), NaN in rows without scores."""
    calibrator = LLMScoreCalibrator("mean", classes=classes, score_type=score_type)
    return plain_output(calibrator).fit_transform(scores)


def fit_calibrator(
    calibrator: Any, scores: FloatArray, codes: IntArray, classes: np.ndarray, session: IntArray
) -> tuple[FloatArray, Any]:
    """Fit a clone of a calibrator, and return the probabilities that it gives.

    Parameters
    ----------
    calibrator : transformer
        Calibrator of the user.
    scores : ndarray of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
        Raw scores in the order of `classes`.
    codes : ndarray of int, shape (n_samples,)
        Labels as class positions, -1 where unlabelled.
    classes : ndarray of shape (n_classes,)
        Sorted class labels.
    session : ndarray of int, shape (n_samples,)
        Session codes.

    Returns
    -------
    prob : ndarray of shape (n_samples, n_classes)
        Cross-fitted probabilities.
    calibrator : transformer
        The fitted clone, whose output is to be read by `read_numbers`.
    """
    return calibrate(plain_output(calibrator), scores, codes, session, classes)


def prompt_probabilities(scores: FloatArray, classes: np.ndarray) -> FloatArray:
    """Return the probabilities of each prompt (n, n_prompts, n_classes), NaN if missing."""
    score_type = LLMScoreCalibrator("mean", classes=classes).fit(scores).score_type_
    if scores.ndim == 2 and len(classes) > 2:
        scores = scores.reshape(len(scores), -1, len(classes))
    prob = np.full((len(scores), scores.shape[1], len(classes)), np.nan)
    for p in range(scores.shape[1]):
        of_prompt = scores[:, [p]]
        if (~np.isnan(of_prompt).reshape(len(of_prompt), -1).any(axis=1)).any():
            prob[:, p] = mean_probabilities(of_prompt, classes, score_type)
    return prob


def check_prompt_names(prompt_names: ArrayLike | None, n_prompts: int) -> list[str]:
    """Return one name per prompt; numbers them if no names are given."""
    if prompt_names is None:
        return [f"prompt {p}" for p in range(n_prompts)]
    names = [str(name) for name in np.asarray(prompt_names, dtype=object).tolist()]
    if len(names) != n_prompts:
        raise ValueError(
            f"prompt_names={names!r} has {len(names)} names but llm_scores has {n_prompts} "
            "prompts; pass one name per prompt."
        )
    return names


def check_probabilities(prob: ArrayLike, classes: np.ndarray, name: str) -> FloatArray:
    """Read probabilities, one column per class; a row may be NaN as a whole.

    Parameters
    ----------
    prob : array-like of shape (n_samples, n_classes)
        Probabilities.
    classes : ndarray of shape (n_classes,)
        Class of each column.
    name : str
        The argument, for errors.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        The probabilities.

    Raises
    ------
    ValueError
        If the columns do not match the classes, or a row is no distribution.
    """
    values = read_numbers(prob, name).astype(np.float64)
    if values.ndim != 2 or values.shape[1] != len(classes) or len(classes) < 2:
        raise ValueError(
            f"{name} has shape {values.shape} but there are {len(classes)} classes "
            f"{classes.tolist()!r}; pass (n_utterances, n_classes), and classes=[...] with the "
            "class of each column."
        )
    known = ~np.isnan(values).all(axis=1)
    # A comparison with NaN is false, so a row that is NaN in part is bad, too.
    is_distribution = (values >= -_SUM_TOLERANCE).all(axis=1) & (
        np.abs(values.sum(axis=1) - 1) <= _SUM_TOLERANCE
    )
    if (bad := known & ~is_distribution).any():
        row = int(bad.argmax())
        raise ValueError(
            f"{name} has {bad.sum()} rows that are no probabilities (first: row {row}, "
            f"{values[row].tolist()}); pass rows of 0 or more that sum to 1, NaN as a whole for a "
            "row without a prediction."
        )
    return values


def read_label_table(values: ArrayLike, labels: np.ndarray, name: str) -> FloatArray:
    """Read a table with a column for each of several labels.

    Parameters
    ----------
    values : array-like of shape (n_samples, n_labels)
        Numbers.
    labels : ndarray of shape (n_labels,)
        Name of each column.
    name : str
        The argument, for errors.

    Returns
    -------
    ndarray of shape (n_samples, n_labels)
        The numbers.

    Raises
    ------
    ValueError
        If the columns do not match the labels.
    """
    table = read_numbers(values, name).astype(np.float64)
    if table.ndim != 2 or table.shape[1] != len(labels):
        raise ValueError(
            f"{name} has shape {table.shape} but y has {len(labels)} labels "
            f"({labels.tolist()!r}); pass a column for each label."
        )
    return table


def check_label_probabilities(prob: ArrayLike, labels: np.ndarray, name: str) -> FloatArray:
    """Read probabilities of several labels; single ones may be NaN.

    Parameters
    ----------
    prob : array-like of shape (n_samples, n_labels), or list of arrays of shape (n_samples, 2)
        Probability that each label applies; a list as forests give it.
    labels : ndarray of shape (n_labels,)
        Name of each column.
    name : str
        The argument, for errors.

    Returns
    -------
    ndarray of shape (n_samples, n_labels)
        The probabilities.

    Raises
    ------
    ValueError
        If the columns do not match the labels, or something is no probability.
    """
    values = read_label_table(join_label_tables(prob, name), labels, name)
    if (bad := (values < 0) | (values > 1)).any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"{name} holds {values[row, column]:.6g} (first: row {row}, column {column}), which is "
            "no probability; pass numbers from 0 to 1, or NaN if there is none."
        )
    return values


def log_losses(prob: FloatArray, codes: IntArray) -> FloatArray:
    """Return the log loss of each row."""
    return -np.log(np.maximum(prob[np.arange(len(codes)), codes], _SMALLEST))


def order_by_content(
    content: FloatArray, session: IntArray, length: IntArray
) -> tuple[IntArray, IntArray]:
    """Order rows by what they hold, so that their order and session names change no result.

    Sessions that hold the same rows may change places: all that is computed from them is equal.

    Parameters
    ----------
    content : ndarray of shape (n_rows, n_columns)
        What distinguishes the rows.
    session : ndarray of int, shape (n_rows,)
        Session code of each row.
    length : ndarray of int, shape (n_sessions,)
        Number of rows of each session, those that are not in `content` included.

    Returns
    -------
    order : ndarray of int, shape (n_rows,)
        Order of the rows; those of a session are neighbours.
    rank : ndarray of int, shape (n_sessions,)
        New code of each session, ascending in that order.
    """
    content = np.where(np.isnan(content), -np.inf, content)
    by_content = np.lexsort(content.T)
    ascending = content[by_content]
    changed = np.r_[False, (ascending[1:] != ascending[:-1]).any(axis=1)]
    kind = np.empty(len(content), dtype=np.int64)
    kind[by_content] = np.cumsum(changed)
    # A sum of integers that wraps around is the same in any order, so it identifies a bag of rows.
    top = np.iinfo(np.uint64).max
    mark = np.random.RandomState(0).randint(0, top, size=kind.max(initial=0) + 1, dtype=np.uint64)
    signature = np.zeros(len(length), dtype=np.uint64)
    np.add.at(signature, session, mark[kind])
    rank = np.empty(len(length), dtype=np.int64)
    rank[np.lexsort((signature, length))] = np.arange(len(length))
    return np.lexsort((kind, rank[session])), rank


# Values that differ by rounding alone, as means of votes do, fall into one bin.
_DECIMALS = 9


def quantile_edges(values: FloatArray, n_bins: int) -> FloatArray:
    """Return the inner edges of bins of about equal size; a bin holds its lower edge."""
    if not len(values):
        return np.empty(0)
    values = np.sort(np.round(values, _DECIMALS))
    inner = values[np.arange(1, n_bins) * len(values) // n_bins]
    return np.unique(inner[inner > values[0]])


def assign_bins(values: FloatArray, inner: FloatArray) -> IntArray:
    """Return the bin of each value, given the inner edges."""
    return np.searchsorted(inner, np.round(values, _DECIMALS), side="right")
