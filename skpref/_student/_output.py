"""From scores of a network to logits, probabilities and a decision."""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from skpref._typing import FloatArray, IntArray
from skpref._validation import check_same_length, check_weights, read_truth


class Output(NamedTuple):
    """Scale and offsets that make logits of scores.

    Parameters
    ----------
    scale : float
        Factor on the scores.
    offsets : ndarray or Tensor of shape (n_scores,)
        Added to the scaled scores.
    """

    scale: Any
    offsets: Any

    def logits(self, scores):
        """Return the logits of scores, arrays or tensors of shape (n_rows, n_scores)."""
        return self.scale * scores + self.offsets

    def probabilities(self, scores) -> FloatArray:
        """Return the probabilities of the classes, shape (n_rows, n_classes)."""
        return probabilities(self.logits(scores))


def n_scores_for(n_classes: int) -> int:
    """Return the number of scores per row: one for a binary task, else one per class.

    Parameters
    ----------
    n_classes : int
        Number of classes.

    Returns
    -------
    int
        Number of scores.
    """
    return 1 if n_classes == 2 else n_classes


def class_logits(logits: FloatArray) -> FloatArray:
    """Return the logits of every class; a single column is that of the positive class.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_classes) or (n_rows, 1)
        Logits.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        Logits, (n_rows, 2) for a single column.
    """
    return np.hstack([np.zeros_like(logits), logits]) if logits.shape[1] == 1 else logits


def probabilities(logits: FloatArray) -> FloatArray:
    """Return the softmax over the classes.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_classes) or (n_rows, 1)
        Logits; a single column is that of the positive class.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        Rows that sum to 1.
    """
    return softmax(class_logits(logits), axis=1)


def ascend(value, n_classes: int, *, steps, n_rounds: int) -> FloatArray:
    """Maximise a value over offsets of the classes, one class and step at a time, from zeros.

    Parameters
    ----------
    value : callable
        From offsets, shape (n_classes,), to the value to maximise.
    n_classes : int
        Number of classes.
    steps : sequence of float
        Changes of an offset to try.
    n_rounds : int
        How often to try all of them.

    Returns
    -------
    ndarray of shape (n_classes,)
        The offsets.
    """
    offsets = np.zeros(n_classes)
    best = value(offsets)
    for _, k, step in product(range(n_rounds), range(n_classes), steps):
        trial = offsets + step * (np.arange(n_classes) == k)
        if (new := value(trial)) > best:
            offsets, best = trial, new
    return offsets


def expected_f1_offsets(log_p: FloatArray, soft: FloatArray, weight: FloatArray) -> FloatArray:
    """Return offsets of the log-probabilities that raise the macro-F1 expected under soft labels.

    Found by coordinate ascent. The expectation is that of hits and counts, not of their ratio.

    Parameters
    ----------
    log_p : ndarray of shape (n_rows, n_classes)
        Log-probabilities.
    soft : ndarray of shape (n_rows, n_classes)
        Soft labels of the rows.
    weight : ndarray of shape (n_rows,)
        Weight of each row.

    Returns
    -------
    ndarray of shape (n_classes,)
        The offsets; the class with the largest sum is chosen.
    """
    n_rows, n_classes = log_p.shape
    soft = soft * weight[:, None]
    of_class = soft.sum(axis=0)

    def value(trial):
        chosen = (log_p + trial).argmax(axis=1)
        n_chosen = np.bincount(chosen, weight, minlength=n_classes)
        hits = np.bincount(chosen, soft[np.arange(n_rows), chosen], minlength=n_classes)
        return (2 * hits / np.maximum(of_class + n_chosen, 1e-12)).mean()

    return ascend(value, n_classes, steps=(-1, -0.5, -0.25, 0.25, 0.5, 1), n_rounds=3)


def macro_f1_offsets(
    scores: FloatArray, output: Output, soft: FloatArray, weight: FloatArray
) -> FloatArray:
    """Return the shift of the log-probabilities of ``decision="macro_f1"``.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_scores)
        Scores of rows with a soft label.
    output : Output
        Scale and offsets.
    soft : ndarray of shape (n_rows, n_classes)
        Soft labels.
    weight : ndarray of shape (n_rows,)
        Weight of each row.

    Returns
    -------
    ndarray of shape (n_classes,)
        The shift.
    """
    p = output.probabilities(scores.astype(np.float64))
    return expected_f1_offsets(np.log(np.maximum(p, 1e-12)), soft, weight)


def labelled_accuracy(predicted: IntArray, y, classes: np.ndarray, sample_weight) -> float:
    """Return the accuracy on the labelled rows.

    Parameters
    ----------
    predicted : ndarray of int, shape (n_rows,)
        Predicted class positions.
    y : array-like of shape (n_rows,)
        Human labels; rows without one do not count.
    classes : ndarray of shape (n_classes,)
        Class labels.
    sample_weight : array-like of shape (n_rows,) or None
        Row weights.

    Returns
    -------
    float
        Accuracy.

    Raises
    ------
    ValueError
        If no row is labelled, or lengths differ.
    """
    codes = read_truth(y, classes)
    check_same_length(len(codes), "y", len(predicted), "X")
    weight = check_weights(sample_weight, len(codes))
    labelled = codes >= 0
    if not labelled.any():
        raise ValueError("y has no labelled row to score.")
    hit = codes[labelled] == predicted[labelled]
    return float(np.average(hit, weights=weight[labelled]))
