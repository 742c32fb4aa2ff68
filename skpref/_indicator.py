"""Read several labels per utterance: a table with a column for each label."""

from typing import Any

import numpy as np
from scipy import sparse

from skpref._columns import is_table, read_numbers
from skpref._typing import ArrayLike, FloatArray, IntArray
from skpref._validation import read_classes


def is_multilabel(y: Any, classes: ArrayLike | None = None, llm_scores: Any = None) -> bool:
    """Return whether labels are a table with a column for each label.

    A table of one column is a column of classes, as everywhere in scikit-learn, unless `classes`
    or the last axis of the scores says that there is one label.

    Parameters
    ----------
    y : array-like
        Human labels, or None.
    classes : array-like of shape (n_labels,), default=None
        The parameter of that name.
    llm_scores : array-like, default=None
        LLM scores.

    Returns
    -------
    bool
        False for one class per row.
    """
    if y is None or isinstance(y, str):
        return False
    if sparse.issparse(y) or is_table(y):
        return True
    is_column = tuple(getattr(y, "shape", ())[1:]) == (1,)
    if isinstance(y, list | tuple):
        is_column = len(y) > 0 and np.ndim(y[0]) == 1
    one_label = classes is not None and len(read_classes(classes)) == 1
    return is_column and (one_label or tuple(np.shape(llm_scores)[2:]) == (1,))


def read_indicator(
    y: Any, classes: ArrayLike | None = None, *, name: str = "y"
) -> tuple[np.ndarray, IntArray]:
    """Read several labels per utterance.

    Parameters
    ----------
    y : {array-like, sparse matrix} of shape (n_samples, n_labels)
        1 where a label applies and 0 where it does not; -1, None or NaN where that is not known.
    classes : array-like of shape (n_labels,), default=None
        Names of the labels, in the order of the columns. None takes the column names of a frame
        if they are strings, otherwise 0, 1, ...
    name : str, default="y"
        The argument, for errors.

    Returns
    -------
    labels : ndarray of shape (n_labels,)
        Names of the labels.
    codes : ndarray of int, shape (n_samples, n_labels)
        1, 0, or -1 where unknown.

    Raises
    ------
    ValueError
        If there is another value, or `classes` does not match the columns.
    """
    codes = _read_codes(y, name)
    n_labels = codes.shape[1]
    named = _column_names(y)
    if classes is None:
        return (np.arange(n_labels) if named is None else named), codes
    labels = read_classes(classes)
    if len(labels) != n_labels:
        raise ValueError(
            f"{name} has {n_labels} columns, one for each label, but classes names {len(labels)} "
            f"({labels.tolist()!r}); pass one name per column, in their order."
        )
    columns = [] if named is None else named.tolist()
    if set(columns) == set(labels.tolist()) and columns != labels.tolist():
        raise ValueError(
            f"{name} has the columns {columns!r}, which classes={labels.tolist()!r} lists "
            f"in another order; pass {name}[classes], or classes=None."
        )
    return labels, codes


def _read_codes(y: Any, name: str) -> IntArray:
    """Return the cells of a table of labels as 1, 0 or -1."""
    values = y.toarray() if sparse.issparse(y) else read_numbers(y, name)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(
            f"{name} has shape {values.shape}; pass one class per row, or a column for each label."
        )
    unknown = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    values = np.where(unknown, -1, values)
    if (bad := ~np.isin(values, (-1, 0, 1))).any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"Unknown label type: {name} has shape {values.shape}, a column for each label, but "
            f"holds {values[row, column]:.6g} (first: row {row}, column {column}); pass 1 where a "
            "label applies, 0 where it does not, and -1 or NaN where that is not known, or one "
            "class per row."
        )
    return values.astype(np.int64)


def _column_names(y: Any) -> np.ndarray | None:
    """Return the names of the columns of a frame if they are distinct strings."""
    names = list(getattr(y, "columns", ()))
    if not all(isinstance(column, str) for column in names):
        names = list(getattr(y, "column_names", ()))  # of pyarrow
    is_named = all(isinstance(column, str) for column in names) and len(set(names)) == len(names)
    return np.array(names) if names and is_named else None


def join_label_tables(given: Any, name: str) -> Any:
    """Return the probabilities of several labels as one table.

    Parameters
    ----------
    given : array-like of shape (n_samples, n_labels), or list of arrays of shape (n_samples, 2)
        Output of a `predict_proba`. A list, as forests give it, has a table of 0 and 1 for each
        label.
    name : str
        The argument that the classifier is, for errors.

    Returns
    -------
    array-like of shape (n_samples, n_labels)
        Probability that each label applies.

    Raises
    ------
    ValueError
        If a table has one column, since the label was the same in all rows.
    """
    if not (isinstance(given, list) and given and np.ndim(given[0]) == 2):
        return given
    if any(np.shape(table)[1] != 2 for table in given):
        raise ValueError(
            f"{name} has seen a label that applies to all rows or to none, and gives no "
            "probability for it; pass one that does, such as OneVsRestClassifier."
        )
    return np.column_stack([np.asarray(table)[:, 1] for table in given])


def soft_of_indicator(codes: IntArray) -> FloatArray:
    """Return labels as probabilities.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples, n_labels)
        1, 0, or -1 where unknown.

    Returns
    -------
    ndarray of shape (n_samples, n_labels)
        1.0, 0.0, or NaN where unknown.
    """
    return np.where(codes < 0, np.nan, codes)
