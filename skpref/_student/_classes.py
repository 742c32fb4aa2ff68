"""The classes of a training set: their weights, and which of them a row may have."""

import numpy as np

from skpref._columns import read_numbers
from skpref._typing import ArrayLike, BoolArray, FloatArray, IntArray
from skpref._validation import read_classes


def class_weights(kind, classes: np.ndarray, soft: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the weight of each class, of classes that exclude each other.

    Parameters
    ----------
    kind : None, "balanced" or dict of {label: weight}
        The parameter `class_weight`.
    classes : ndarray of shape (n_classes,)
        Class labels.
    soft : ndarray of shape (n_rows, n_classes)
        Soft labels; a NaN row is unknown.
    weight : ndarray of shape (n_rows,)
        Row weights.

    Returns
    -------
    ndarray of shape (n_classes,)
        The weights.

    Raises
    ------
    ValueError
        If a dict names a label that is not a class.
    """
    n_classes = len(classes)
    if kind is None:
        return np.ones(n_classes)
    if isinstance(kind, dict):
        unknown = [c for c in kind if c not in classes]
        if unknown:
            raise ValueError(
                f"class_weight names classes that are not there: {unknown!r}; the classes are "
                f"{classes.tolist()!r}."
            )
        return np.array([kind.get(c, 1.0) for c in classes.tolist()])
    share = np.nansum(weight[:, None] * soft, axis=0)
    share /= share.sum() or 1.0  # a label may be known in no row
    return 1 / (n_classes * np.maximum(share, 1e-3))


def label_weights(kind, labels: np.ndarray, soft: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the weights of each of several labels per row: where it is absent, where it applies.

    Parameters
    ----------
    kind : None, "balanced" or dict of {label: weight}
        The parameter `class_weight`. A dict weighs the rows to which a label applies; "balanced"
        divides by the frequency within each label.
    labels : ndarray of shape (n_labels,)
        Names of the labels.
    soft : ndarray of shape (n_rows, n_labels)
        Soft labels, NaN where unknown.
    weight : ndarray of shape (n_rows,)
        Row weights.

    Returns
    -------
    ndarray of shape (n_labels, 2)
        The weights.

    Raises
    ------
    ValueError
        If a dict names a label that is not there.
    """
    if kind == "balanced":
        return np.stack(
            [
                class_weights(kind, np.arange(2), np.column_stack([1 - column, column]), weight)
                for column in soft.T
            ]
        )
    present = class_weights(kind, labels, soft, weight)
    return np.column_stack([np.ones_like(present), present])


def check_same_classes(
    classes: np.ndarray, before: np.ndarray, multilabel: bool, multilabel_before: bool
) -> None:
    """Raise if training is to continue with other classes.

    Parameters
    ----------
    classes, before : ndarray of shape (n_classes,)
        Class labels of this fit and of the last one.
    multilabel, multilabel_before : bool
        Whether this fit and the last one are of several labels per row.

    Raises
    ------
    ValueError
        If they differ.
    """
    if multilabel != multilabel_before:
        was, now = ("several labels", "one class")[:: 1 if multilabel_before else -1]
        raise ValueError(
            f"training continues, but y has {now} per row and the last fit had {was}; fit a new "
            "classifier."
        )
    if not np.array_equal(classes, before):
        raise ValueError(
            f"training continues with the classes of the last fit, {before.tolist()!r}, but y and "
            f"llm_scores have {classes.tolist()!r}; fit a new classifier for other classes."
        )


def classes_to_continue(before, classes) -> np.ndarray:
    """Return the classes of a call of `partial_fit`, in the order of the scores.

    Parameters
    ----------
    before : array-like of shape (n_classes,) or None
        Classes of the parameter or of the first call.
    classes : array-like of shape (n_classes,) or None
        Classes that this call names.

    Returns
    -------
    ndarray of shape (n_classes,)
        The classes.

    Raises
    ------
    ValueError
        If there are none, or both are given and differ.
    """
    if before is None and classes is None:
        raise ValueError("classes must be given on the first call of partial_fit.")
    known = read_classes(classes if before is None else before)
    if classes is not None and set(read_classes(classes).tolist()) != set(known.tolist()):
        raise ValueError(
            f"classes={read_classes(classes).tolist()!r} is not the same as on the first call "
            f"of partial_fit: {known.tolist()!r}."
        )
    return known


def label_scores(llm_scores: FloatArray, labels: np.ndarray) -> FloatArray:
    """Return the scores of several labels per row in three dimensions.

    Parameters
    ----------
    llm_scores : ndarray of shape (n_rows, n_prompts, n_labels) or, for one label, \
            (n_rows, n_prompts)
        Scores of each label.
    labels : ndarray of shape (n_labels,)
        Names of the labels.

    Returns
    -------
    ndarray of shape (n_rows, n_prompts, n_labels)
        The scores.

    Raises
    ------
    ValueError
        If the numbers of labels differ.
    """
    if llm_scores.ndim == 2 and len(labels) == 1:
        return llm_scores[:, :, None]
    if llm_scores.ndim == 3 and llm_scores.shape[2] == len(labels):
        return llm_scores
    raise ValueError(
        f"llm_scores has shape {llm_scores.shape} but y has {len(labels)} labels per row "
        f"({labels.tolist()!r}); pass (n_utterances, n_prompts, {len(labels)}): the probability "
        "that each label applies, NaN where the LLM was not asked."
    )


def read_exclusions(exclude: ArrayLike, columns: IntArray, codes: IntArray) -> BoolArray:
    """Read which classes are ruled out for each row.

    Parameters
    ----------
    exclude : array-like of bool, shape (n_rows, n_classes)
        The argument, in the order of the last axis of the scores.
    columns : ndarray of int, shape (n_classes,)
        Position of each sorted class on that axis.
    codes : ndarray of int, shape (n_rows,)
        Human labels as class positions, -1 where unlabelled.

    Returns
    -------
    ndarray of bool, shape (n_rows, n_classes)
        The mask, in the order of the sorted classes.

    Raises
    ------
    ValueError
        If the shape or a value is another one, or a row has all classes or its own label ruled
        out.
    """
    values = read_numbers(exclude, "exclude")
    shape = (len(codes), len(columns))
    if values.shape != shape or not np.isin(values, (0, 1)).all():
        raise ValueError(
            f"exclude has shape {values.shape}; pass True or False for each row and class, "
            f"{shape}, in the order of the last axis of llm_scores."
        )
    mask: BoolArray = values[:, columns] == 1
    if (bad := mask.all(axis=1)).any():
        raise ValueError(
            f"exclude rules out all classes in {bad.sum()} rows (first: row {bad.argmax()}); leave "
            "at least one."
        )
    if (bad := (codes >= 0) & mask[np.arange(len(codes)), codes]).any():
        raise ValueError(
            f"exclude rules out the label that y gives in {bad.sum()} rows (first: row "
            f"{bad.argmax()}); correct the label or the exclusion."
        )
    return mask


def rule_out(soft: FloatArray, mask: BoolArray) -> FloatArray:
    """Return soft labels without the probability of classes that are ruled out.

    Parameters
    ----------
    soft : ndarray of shape (n_rows, n_classes)
        Soft labels; a NaN row is unknown.
    mask : ndarray of bool, shape (n_rows, n_classes)
        Classes that are ruled out.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        Rows that sum to 1; equal probabilities of the other classes if these had none.
    """
    kept = np.where(mask, 0.0, soft)
    kept = np.where(kept.sum(axis=1, keepdims=True) > 0, kept, ~mask)
    kept = kept / kept.sum(axis=1, keepdims=True)
    touched = mask.any(axis=1, keepdims=True) & ~np.isnan(soft).any(axis=1, keepdims=True)
    return np.where(touched, kept, soft).astype(soft.dtype)
