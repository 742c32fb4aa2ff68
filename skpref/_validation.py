"""Readers of the arguments that several estimators share: session ids, labels, scores, texts."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import count
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from skpref._columns import (
    compares_by_identity,
    is_missing,
    is_table,
    read_column,
    read_numbers,
)
from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds

__all__ = [
    "ScoreOrder",
    "check_encodable",
    "check_groups",
    "check_labels",
    "check_llm_scores",
    "check_same_length",
    "check_texts",
    "check_weights",
    "factorize",
    "is_missing",
    "labels_of_codes",
    "plain_output",
    "read_classes",
    "read_numbers",
    "read_session_ids",
    "read_truth",
    "refuse_masked",
    "score_order",
    "sort_scores",
]


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
        If the length differs from `n_samples`, or an id is missing or not a value.
    """
    return read_session_ids(groups, n_samples)[1]


def read_session_ids(groups: SessionIds, n_samples: int) -> tuple[np.ndarray, IntArray]:
    """Return the distinct session ids in order of first appearance, and the code of each row.

    Parameters
    ----------
    groups : array-like of shape (n_samples,)
        Session id of each row: any hashable values, in any order.
    n_samples : int
        Number of rows that the ids must match.

    Returns
    -------
    ids : ndarray of shape (n_sessions,)
        Distinct ids.
    codes : ndarray of int, shape (n_samples,)
        Position in them of each row's id.

    Raises
    ------
    ValueError
        As `check_groups`.
    """
    values = read_column(groups, "groups", entry="session id")
    if len(values) != n_samples:
        raise ValueError(
            f"groups has {len(values)} entries but there are {n_samples} rows; "
            "pass one session id per row."
        )
    try:
        ids, codes = factorize(values)
    except TypeError as error:
        raise ValueError(
            f"groups has session ids that are not hashable ({error}); pass strings, numbers or "
            "tuples."
        ) from error
    if (gap := is_missing(ids)).any():
        missing = gap[codes]
        raise ValueError(
            f"groups has no session id in {missing.sum()} rows (first: row {missing.argmax()}); "
            "give every row the id of its session."
        )
    if ids.dtype.kind == "O":
        for value in ids.tolist():
            if compares_by_identity(value):
                raise ValueError(
                    f"groups has session ids of type {type(value).__name__}, which equal only "
                    "themselves, so each row would be a session; pass strings, numbers or tuples."
                )
    return ids, codes


def factorize(values: np.ndarray) -> tuple[np.ndarray, IntArray]:
    """Return the distinct values in order of first appearance, and the position of each value.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Values of one dtype, or hashable objects.

    Returns
    -------
    found : ndarray of shape (n_distinct,)
        Distinct values.
    codes : ndarray of int, shape (n,)
        Position in `found` of each value.
    """
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


def check_labels(
    y: ArrayLike,
    *,
    classes: ArrayLike | None = None,
    partial: bool,
    minus_one_is_class: bool = False,
    name: str = "y",
) -> tuple[np.ndarray, IntArray]:
    """Encode human labels as positions in the sorted class list.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Human labels. With `partial`, -1 (numbers) or None/NaN (objects, strings) marks a row
        without a label.
    classes : array-like of shape (n_classes,), default=None
        The class labels, in any order. None takes the labels that occur in `y`.
    partial : bool
        Whether `y` may hold unlabelled rows. Without it -1 is an ordinary class.
    minus_one_is_class : bool, default=False
        Whether only None and NaN mark unlabelled rows.
    name : str, default="y"
        The argument, for errors.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The class labels, sorted. Empty when no row is labelled and `classes` is None.
    codes : ndarray of int, shape (n_samples,)
        Position of each label in `classes`, -1 where unlabelled.

    Raises
    ------
    ValueError
        If a label is not in `classes`, or `y` is not a classification target.
    """
    marked = partial and not minus_one_is_class
    labels, known = _read_labels(y, partial=partial, marked=marked, name=name)
    codes = np.full(len(known), -1, dtype=np.int64)
    if classes is None:
        found, codes[known] = np.unique(labels, return_inverse=True)
        return found, codes
    found = np.unique(read_classes(classes))
    position = {c: i for i, c in enumerate(found.tolist())}
    unknown = sorted({v for v in labels.tolist() if v not in position}, key=repr)
    if unknown:
        remedy = (
            "or mark those rows unlabelled."
            if partial
            else "or leave those rows out; only with llm_scores may -1, None or NaN mark rows "
            "without a label."
        )
        raise ValueError(
            f"{name} has labels that are not in classes: {unknown!r}; "
            f"classes={found.tolist()!r}. Add them to classes {remedy}"
            f"{_hint_at_numbering(labels, found)}"
        )
    codes[known] = [position[v] for v in labels.tolist()]
    return found, codes


def _hint_at_numbering(labels: np.ndarray, classes: np.ndarray) -> str:
    """Return a sentence for labels that look as if a tool had numbered them."""
    numbers = np.arange(len(classes) + 1)  # the mark of unlabelled rows gets a number as well
    if labels.dtype.kind not in "iuf" or not np.isin(labels, numbers).all():
        return ""
    return (
        " Does a tool such as cross_val_predict, VotingClassifier or StackingClassifier number "
        "the labels? Then give it the labelled rows alone, with classes=None or as numbers from "
        "0; see 'Marks of no label' in the user guide."
    )


def read_truth(y: ArrayLike, classes: np.ndarray, name: str = "y") -> IntArray:
    """Encode the labels that predictions are compared with.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Human labels; -1 (numbers, unless it is a class), None or NaN marks an unlabelled row.
    classes : array-like of shape (n_classes,)
        Class labels of the predictions, in any order.
    name : str, default="y"
        The argument, for errors.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        Position of each label in `classes`; -1 where unlabelled, and `n_classes`, which no
        prediction equals, if a label is not among them.

    Raises
    ------
    ValueError
        If `y` holds no class labels, or strings where the classes are numbers, or the reverse.
    """
    classes = read_classes(classes)
    marked = -1 not in classes.tolist()
    labels, known = _read_labels(y, partial=True, marked=marked, name=name)
    if len(labels) and (labels.dtype.kind in "OU") != (classes.dtype.kind in "OU"):
        raise ValueError(
            f"{name} has labels such as {labels.tolist()[0]!r} but the classes are "
            f"{classes.tolist()!r}; pass labels of the same type."
        )
    position = {c: i for i, c in enumerate(classes.tolist())}
    codes = np.full(len(known), -1, dtype=np.int64)
    codes[known] = [position.get(v, len(classes)) for v in labels.tolist()]
    return codes


def _read_labels(
    y: ArrayLike, *, partial: bool, marked: bool, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of the labelled rows, as an array of one type, and which rows these are.

    `partial` allows unlabelled rows; with `marked`, -1 marks one like None and NaN.
    """
    try:
        values = read_column(y, name, entry="label")
    except ValueError as error:
        if not is_table(y):
            raise
        raise ValueError(
            f"{error} If {name} holds several labels per row, which are not supported here, pass "
            f"one label at a time, as {name}[:, k]."
        ) from error
    if getattr(y, "ndim", 1) == 2:
        column_or_1d(np.empty((len(values), 1)), warn=True)
    known = ~is_missing(values)
    if not partial and not known.all():
        raise ValueError(
            f"Input {name} contains NaN or None in {(~known).sum()} rows (first: "
            f"{known.argmin()}). Only with llm_scores may rows be unlabelled: pass them, or leave "
            "those rows out."
        )
    labels = values[known]
    if marked:
        is_object = values.dtype.kind == "O"
        is_label = [not _is_mark(v) for v in labels] if is_object else labels != -1
        known[known] = is_label
        labels = values[known]
    if labels.dtype.kind == "O":
        # Objects of one type sort and compare as their own dtype: [0, 1, None] is 0 and 1.
        labels = _as_one_type(labels.tolist(), name)
    if len(labels):
        assert_all_finite(labels, input_name=name)
        try:
            check_classification_targets(labels)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} does not hold class labels. {error}") from error
    return labels, known


def _is_mark(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and bool(value == -1)


def _as_one_type(labels: list, name: str) -> np.ndarray:
    """Return an array of labels, which must be strings only or numbers only."""
    kinds = sorted({type(v).__name__ for v in labels})
    if len({_family(v) for v in labels}) > 1:
        raise ValueError(
            f"{name} mixes labels of the types {', '.join(kinds)}; pass labels of one type."
        )
    out = np.asarray(labels)
    if out.ndim != 1:
        raise ValueError(f"{name} has labels of the type {kinds[0]}; pass strings or integers.")
    return out


def _family(label: Any) -> type:
    for kind in (str, Number, np.bool_):
        if isinstance(label, kind):
            return Number if kind is np.bool_ else kind
    return type(label)


def read_classes(classes: ArrayLike, name: str = "classes") -> np.ndarray:
    """Read the parameter `classes`, or `labels`.

    Parameters
    ----------
    classes : array-like of shape (n_classes,)
        Class labels, in any order.
    name : str, default="classes"
        The argument, for errors.

    Returns
    -------
    ndarray of shape (n_classes,)
        The labels, in the given order.

    Raises
    ------
    ValueError
        If a label is missing, occurs twice, or is of another type than the rest.
    """
    labels = read_column(classes, name, entry="label")
    if is_missing(labels).any():
        raise ValueError(f"{name}={labels.tolist()!r} has None or NaN; name each class.")
    if labels.dtype.kind == "O":
        labels = _as_one_type(labels.tolist(), name)
    if len(set(labels.tolist())) < len(labels):
        raise ValueError(f"{name}={labels.tolist()!r} names a class twice.")
    return labels


class ScoreOrder(NamedTuple):
    """Class labels, sorted, and where the scores of each one are.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The sorted labels, as in `classes_`.
    columns : ndarray of int, shape (n_classes,)
        Position of each class on the last axis of the scores, which is in the order of the
        parameter `classes`.
    """

    classes: np.ndarray
    columns: IntArray

    @property
    def as_given(self) -> np.ndarray:
        """Class labels in the order of the scores."""
        return self.classes[np.argsort(self.columns)]


def score_order(found: np.ndarray, classes: ArrayLike | None, n_scores: int) -> ScoreOrder:
    """Return the sorted class labels, and the position of each on the last axis of the scores.

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
    ScoreOrder
        Class labels and positions.

    Raises
    ------
    ValueError
        If the numbers of classes and scores differ.
    """
    if classes is not None:
        given = read_classes(classes)
        if len(given) != n_scores:
            raise ValueError(
                f"llm_scores has scores of {n_scores} classes but there are {len(given)} classes "
                f"({given.tolist()!r}); pass one score per class, in that order."
            )
        columns = np.argsort(given)
        return ScoreOrder(given[columns], columns)
    if len(found) in (0, n_scores):
        return ScoreOrder(found if len(found) else np.arange(n_scores), np.arange(n_scores))
    raise ValueError(
        f"llm_scores has scores of {n_scores} classes but y has {len(found)} ({found.tolist()!r}); "
        "pass classes=[...] with every label, in the order of the last axis of llm_scores."
        f"{_hint_at_numbering(found, np.arange(n_scores)) if len(found) > n_scores else ''}"
    )


def sort_scores(scores: FloatArray, columns: IntArray) -> FloatArray:
    """Bring scores to the order of the sorted classes.

    Parameters
    ----------
    scores : ndarray of shape (n_samples, n_prompts, n_classes), (n_samples, n_prompts) or \
            (n_samples, n_prompts * n_classes)
        Scores in the order of the parameter `classes`.
    columns : ndarray of int, shape (n_classes,)
        As in `ScoreOrder`.

    Returns
    -------
    ndarray, same shape
        The scores. Of a binary task in two dimensions, whose scores are of the second class given,
        they become those of the other class: probabilities 1 - s, any other scores -s.
    """
    n_classes = len(columns)
    if (columns == np.arange(n_classes)).all():
        return scores
    if scores.ndim == 2 and n_classes == 2:
        is_probability = not ((scores < 0) | (scores > 1)).any()
        return 1 - scores if is_probability else -scores
    by_class = scores.reshape(len(scores), -1, n_classes)[:, :, columns]
    return by_class.reshape(scores.shape)


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
    scores = read_numbers(llm_scores, "llm_scores")
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
        X = np.fromiter(X, dtype=object, count=len(X))
    shape: tuple = getattr(X, "shape", (0,) if isinstance(X, Iterable) else ())
    if len(shape) == 2 and shape[1] != 1:
        raise ValueError(
            f"X has {shape[1]} columns, but one text per row is needed; pick one column, "
            'for example X["text"], or put DialogueContext before.'
        )
    if len(shape) not in (1, 2):
        raise ValueError(
            f"X must be text, one per row, but is a {type(X).__name__} with {len(shape)} "
            "dimensions; pass a list of str, or a column of a frame."
        )
    texts = read_column(X, "X", entry="text").astype(object)
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


def check_encodable(texts: np.ndarray) -> np.ndarray:
    """Refuse texts that no tokenizer can read: those that hold half a character.

    Parameters
    ----------
    texts : ndarray of str, shape (n_samples,)
        Texts, as `check_texts` returns them.

    Returns
    -------
    ndarray of str, shape (n_samples,)
        The same texts.

    Raises
    ------
    ValueError
        If a text has a lone surrogate, as emoji leave that were cut in two.
    """
    for row, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"X holds half a character ({text[error.start]!r}) in row {row}, so it cannot be "
                'encoded; pass text.encode("utf-8", "replace").decode() in its place.'
            ) from None
    return texts


def check_same_length(n_entries: int, name: str, n_rows: int, of: str) -> None:
    """Raise unless there is one entry per row.

    Parameters
    ----------
    n_entries : int
        Number of entries.
    name : str
        The argument that holds them.
    n_rows : int
        Number of rows.
    of : str
        The argument that holds the rows.

    Raises
    ------
    ValueError
        If the numbers differ.
    """
    if n_entries != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {name} has {n_entries} "
            f"entries but {of} has {n_rows} rows; pass one entry per row."
        )


def refuse_masked(X: Any) -> None:
    """Raise if features are behind a mask, which means that they are missing.

    Parameters
    ----------
    X : object
        Features.

    Raises
    ------
    ValueError
        If an entry is masked.
    """
    if np.ma.is_masked(X):
        raise ValueError(
            "X has masked entries, and features may not be missing; fill them first, for example "
            "by sklearn.impute.SimpleImputer on X.filled(np.nan)."
        )


def check_weights(sample_weight: ArrayLike | None, n_samples: int) -> FloatArray:
    """Read row weights.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,), float or None
        Weights; a number is that of every row, and None is 1.
    n_samples : int
        Number of rows that the weights must match.

    Returns
    -------
    ndarray of float64, shape (n_samples,)
        The weights.

    Raises
    ------
    ValueError
        If the length differs, or a weight is missing, negative, infinite or not a number.
    """
    if sample_weight is None or isinstance(sample_weight, Number):
        weight = np.full(n_samples, 1.0 if sample_weight is None else sample_weight, np.float64)
    else:
        column = read_column(sample_weight, "sample_weight", entry="weight")
        weight = read_numbers(column, "sample_weight").astype(np.float64)
    if len(weight) != n_samples:
        raise ValueError(
            f"sample_weight has {len(weight)} entries but there are {n_samples} rows; pass one "
            "weight per row."
        )
    if (bad := ~np.isfinite(weight)).any():
        raise ValueError(
            f"sample_weight is NaN or infinite in {bad.sum()} rows (first: row {bad.argmax()}); "
            "pass 0 to leave a row out."
        )
    if (bad := weight < 0).any():
        raise ValueError(
            f"sample_weight is negative in {bad.sum()} rows (first: row {bad.argmax()}); "
            "pass weights of 0 or more."
        )
    return weight


def plain_output(estimator: Any) -> Any:
    """Return a clone of a transformer that gives arrays, whatever `set_output` asks for.

    Parameters
    ----------
    estimator : transformer
        Estimator that is called inside another one. Its own setting, and the user's global
        ``set_config(transform_output=...)``, are about what the user gets, not about this call.
        What it gives is still to be read by `read_numbers`, since not all transformers have
        `set_output`.

    Returns
    -------
    transformer
        The clone, unfitted.
    """
    estimator = clone(estimator)
    try:
        estimator.set_output(transform="default")
    except (AttributeError, ValueError):  # the estimator, or a step of it, has no set_output
        return estimator
    return estimator
