"""Readers of the arguments that several estimators share: session ids, labels, scores, texts."""

from collections import defaultdict
from itertools import count

import numpy as np
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from skpref._typing import ArrayLike, BoolArray, FloatArray, IntArray, SessionIds


def is_missing(values: np.ndarray) -> BoolArray:
    """Return which entries are None or NaN, whatever the dtype.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Numbers, strings or objects.

    Returns
    -------
    ndarray of bool, shape (n,)
        True where an entry is None, NaN or pandas' NA.
    """
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind != "O":
        return np.zeros(values.shape, dtype=bool)

    # An entry that does not equal itself is NaN; pandas' NA has no truth value at all.
    def missing(value):
        try:
            return value is None or bool(value != value)
        except TypeError:
            return True

    return np.fromiter((missing(v) for v in values), dtype=bool, count=len(values))


def check_groups(groups: SessionIds, n_samples: int) -> IntArray:
    """Turn session ids into integer codes 0, 1, 2, ... in order of first appearance.

    Codes by first appearance, not by sorted value, so that renaming the sessions changes nothing.

    Parameters
    ----------
    groups : array-like of shape (n_samples,)
        Session id of each row: any hashable values, in any order.
    n_samples : int
        Number of rows that the ids must match.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        Session code of each row.

    Raises
    ------
    ValueError
        If the length differs from `n_samples` or an id is missing.
    """
    values = _as_1d_objects(groups)
    if len(values) != n_samples:
        raise ValueError(
            f"groups has {len(values)} entries but there are {n_samples} rows; "
            "pass one session id per row."
        )
    found, codes = _factorize(values)
    if (gap := is_missing(found)).any():
        missing = gap[codes]
        raise ValueError(
            f"groups has no session id in {missing.sum()} rows (first: row {missing.argmax()}); "
            "give every row the id of its session."
        )
    return codes


def _factorize(values: np.ndarray) -> tuple[np.ndarray, IntArray]:
    """Distinct values in order of first appearance, and the position in them of each value."""
    if values.dtype.kind == "O":
        # Objects need not have an order, so they are hashed; a new one gets the next number.
        position: defaultdict = defaultdict(count().__next__)
        numbers = map(position.__getitem__, values.tolist())
        codes = np.fromiter(numbers, dtype=np.int64, count=len(values))
        return np.fromiter(position, dtype=object, count=len(position)), codes
    found, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(first), dtype=np.int64)
    rank[order] = np.arange(len(first))
    return found[order], rank[inverse]


def _as_1d_objects(values) -> np.ndarray:
    """Array of one id per row; tuples stay single ids instead of becoming columns."""
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, np.ndarray):
        return column_or_1d(values)
    values = list(values)
    kinds = {type(v) for v in values}
    if len(kinds) == 1 and kinds <= {int, str, float, bool}:
        return np.asarray(values)
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def check_labels(
    y: ArrayLike, *, classes: ArrayLike | None = None, partial: bool
) -> tuple[np.ndarray, IntArray]:
    """Encode human labels as positions in the class list.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Human labels. With `partial`, -1 (numbers) or None/NaN (objects, strings) marks a row
        without a label.
    classes : array-like of shape (n_classes,), default=None
        The class labels in the order of the last axis of `llm_scores`. None takes the sorted
        labels that occur in `y`.
    partial : bool
        Whether `y` may hold unlabelled rows. Without it -1 is an ordinary class.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The class labels. Empty when no row is labelled and `classes` is None.
    codes : ndarray of int, shape (n_samples,)
        Position of each label in `classes`, -1 where unlabelled.

    Raises
    ------
    ValueError
        If a label is not in `classes`, or `y` is not a classification target.
    """
    if hasattr(y, "to_numpy"):
        y = y.to_numpy()
    elif isinstance(y, list | tuple):
        y = np.asarray(y, dtype=object)  # without a dtype ["a", nan] becomes two strings
    values = column_or_1d(y, warn=True, dtype=None)
    known = np.ones(len(values), dtype=bool)
    if partial:
        known = ~is_missing(values)
        given = values[known]
        is_object = values.dtype.kind == "O"
        known[known] = [_is_label(v) for v in given] if is_object else given != -1
    elif (missing := is_missing(values)).any():
        raise ValueError(
            f"Input y contains NaN or None in {missing.sum()} rows (first: {missing.argmax()}). "
            "Only with llm_scores may rows be unlabelled: pass them, or leave those rows out."
        )
    labels = values[known]
    if labels.dtype.kind == "O" and len(labels):
        # Objects of one type sort and compare as their own dtype: [0, 1, None] is 0 and 1.
        labels = np.asarray(labels.tolist())
    if len(labels):
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
    codes = np.full(len(values), -1, dtype=np.int64)
    if classes is None:
        found, codes[known] = np.unique(labels, return_inverse=True)
        return found, codes
    found = np.asarray(classes)
    position = {c: i for i, c in enumerate(found.tolist())}
    if len(position) < len(found):
        raise ValueError(f"classes={found.tolist()!r} names a class twice.")
    unknown = sorted({v for v in labels.tolist() if v not in position}, key=repr)
    if unknown:
        raise ValueError(
            f"y has labels that are not in classes: {unknown!r}; "
            f"classes={found.tolist()!r}. Add them to classes or mark those rows unlabelled."
        )
    codes[known] = [position[v] for v in labels.tolist()]
    return found, codes


def _is_label(value) -> bool:
    return not (isinstance(value, int | float | np.number) and value == -1)


def resolve_classes(found: np.ndarray, classes: ArrayLike | None, n_scores: int) -> np.ndarray:
    """Return the class labels in the order of the last axis of `llm_scores`.

    Parameters
    ----------
    found : ndarray of shape (n_found,)
        Sorted labels that occur in `y`.
    classes : array-like of shape (n_classes,) or None
        The parameter of that name.
    n_scores : int
        Length of the last axis.

    Returns
    -------
    ndarray of shape (n_scores,)
        Class labels.

    Raises
    ------
    ValueError
        If the numbers of classes and scores differ.
    """
    if classes is not None:
        classes = np.asarray(classes)
        if len(classes) != n_scores:
            raise ValueError(
                f"llm_scores has scores of {n_scores} classes but there are {len(classes)} classes "
                f"({classes.tolist()!r}); pass one score per class, in that order."
            )
        return classes
    if len(found) == n_scores:
        return found
    if len(found) == 0:
        return np.arange(n_scores)
    raise ValueError(
        f"llm_scores has scores of {n_scores} classes but y has {len(found)} ({found.tolist()!r}); "
        "pass classes=[...] with every label, in the order of the last axis of llm_scores."
    )


def labels_of_codes(codes: IntArray, classes: np.ndarray) -> np.ndarray:
    """Return the labels that codes stand for, None for -1.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
        Positions in `classes`, -1 where unlabelled.
    classes : ndarray of shape (n_classes,)
        Class labels.

    Returns
    -------
    ndarray of object, shape (n_samples,)
        Labels; None marks an unlabelled row whatever the type of the labels.
    """
    return np.append(classes.astype(object), [None])[codes]


def check_llm_scores(llm_scores: ArrayLike, n_samples: int | None = None) -> FloatArray:
    """Check the rank, length and finiteness of raw LLM scores.

    Parameters
    ----------
    llm_scores : array-like of shape (n_samples, n_prompts) or (n_samples, n_prompts, n_classes)
        Raw scores, NaN where the LLM gave none.
    n_samples : int, default=None
        Number of rows that the scores must match.

    Returns
    -------
    ndarray of float, same shape
        The scores, float32 or float64 as given, else float64.

    Raises
    ------
    ValueError
        If the rank is not 2 or 3, the length differs, an axis is empty, or a score is infinite.
    """
    if hasattr(llm_scores, "to_numpy"):
        llm_scores = llm_scores.to_numpy()
    scores = np.asarray(llm_scores)
    if scores.dtype.kind == "c":
        raise ValueError("llm_scores: Complex data not supported; pass real scores.")
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    if scores.ndim not in (2, 3) or 0 in scores.shape[1:]:
        raise ValueError(
            f"llm_scores has shape {scores.shape}; pass (n_utterances, n_prompts, n_classes), "
            "or (n_utterances, n_prompts) with the positive class's scores of a binary task."
        )
    if n_samples is not None and len(scores) != n_samples:
        raise ValueError(
            f"llm_scores has {len(scores)} rows but there are {n_samples} utterances; "
            "pass one row of scores per utterance, NaN where the LLM gave none."
        )
    if np.isinf(scores).any():
        raise ValueError(
            "llm_scores has infinite values (inf); pass NaN where the LLM gave no score."
        )
    return scores


def check_texts(X) -> np.ndarray:
    """Read one text per row.

    Parameters
    ----------
    X : array-like of str, shape (n_samples,) or (n_samples, 1)
        Texts: a list, an array, a column of a frame, or a frame of one column.

    Returns
    -------
    ndarray of object, shape (n_samples,)
        The texts.

    Raises
    ------
    ValueError
        If `X` is a single string, has several columns or no rows, or a row is missing or not
        text.
    """
    if isinstance(X, str):
        raise ValueError("X is a single string; pass a list of texts, one per row.")
    if isinstance(X, list | tuple):
        texts = np.fromiter(X, dtype=object, count=len(X))
    else:
        texts = np.asarray(X.to_numpy() if hasattr(X, "to_numpy") else X).astype(object)
    if texts.ndim == 2 and texts.shape[1] != 1:
        raise ValueError(
            f"X has {texts.shape[1]} columns, but one text per row is needed; pick one column, "
            'for example X["text"], or put DialogueContext before.'
        )
    if texts.ndim not in (1, 2):
        raise ValueError(
            f"X must be text, one per row, but is a {type(X).__name__} with {texts.ndim} "
            "dimensions; pass a list of str, or a column of a frame."
        )
    texts = texts.ravel()
    if not len(texts):
        raise ValueError("Found array with 0 sample(s) in X while a minimum of 1 is required.")
    if (missing := is_missing(texts)).any():
        first = ", ".join(map(str, np.flatnonzero(missing)[:5]))
        raise ValueError(
            f"X has no text in {missing.sum()} rows (first: {first}); leave those rows out, or "
            'pass "" where nothing was said.'
        )
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"X must be text, but row {row} holds {text!r:.60} of type "
                f"{type(text).__name__}; pass str, one per row."
            )
    return texts
