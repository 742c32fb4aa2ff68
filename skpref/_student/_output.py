"""From scores of a network to logits, probabilities and a decision."""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit, softmax

from skpref._indicator import read_indicator
from skpref._typing import FloatArray, IntArray
from skpref._validation import check_same_length, check_weights, read_truth


class Output(NamedTuple):
    """Scale and offsets that make logits of scores.

    Parameters
    ----------
    scale : float or ndarray of shape (n_scores,)
        Factor on the scores.
    offsets : ndarray or Tensor of shape (n_scores,)
        Added to the scaled scores.
    multilabel : bool
        Whether each score is of a label that may apply beside others.
    """

    scale: Any
    offsets: Any
    multilabel: bool = False

    def logits(self, scores):
        """Return the logits of scores, arrays or tensors of shape (n_rows, n_scores)."""
        return self.scale * scores + self.offsets

    def probabilities(self, scores) -> FloatArray:
        """Return the probabilities of the classes, shape (n_rows, n_classes)."""
        return probabilities(self.logits(scores), self.multilabel)


def join_outputs(outputs: list[Output], multilabel: bool) -> Output:
    """Return the output of all problems of a training set.

    Parameters
    ----------
    outputs : list of Output
        One for each problem.
    multilabel : bool
        Whether each problem is a label that may apply beside others.

    Returns
    -------
    Output
        A scale for each label; one scale for classes that exclude each other.
    """
    if not multilabel:
        return outputs[0]
    scale = np.array([output.scale for output in outputs])
    return Output(scale, np.concatenate([output.offsets for output in outputs]), True)


def n_scores_for(n_classes: int, multilabel: bool) -> int:
    """Return the number of scores per row: one for a binary task, else one per class.

    Parameters
    ----------
    n_classes : int
        Number of classes.
    multilabel : bool
        Whether the classes are labels, any number of which may apply to a row.

    Returns
    -------
    int
        Number of scores.
    """
    return 1 if n_classes == 2 and not multilabel else n_classes


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


def probabilities(logits: FloatArray, multilabel: bool = False) -> FloatArray:
    """Return the softmax over the classes, or the probability that each label applies.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_classes) or (n_rows, 1)
        Logits; a single column is that of the positive class.
    multilabel : bool, default=False
        Whether the classes are labels, any number of which may apply to a row.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        Rows that sum to 1 unless several labels may apply.
    """
    return expit(logits) if multilabel else softmax(class_logits(logits), axis=1)


def decide(logits: FloatArray, shift: FloatArray, multilabel: bool) -> IntArray:
    """Return the predictions, given the shift of the decision.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_scores)
        Logits.
    shift : ndarray of shape (n_classes,)
        Shift of the log-probabilities of the classes, or of the logits of the labels.
    multilabel : bool
        Whether the classes are labels, any number of which may apply to a row.

    Returns
    -------
    ndarray of int, shape (n_rows,) or (n_rows, n_labels)
        Class positions, or 1 where a label applies and 0 where it does not.
    """
    if multilabel:
        return (logits + shift > 0).astype(np.int64)
    return (probabilities(logits) * np.exp(shift)).argmax(axis=1)


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


def label_f1_shifts(logits: FloatArray, class_weight: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the shift of each label's logit that maximises the expected F1 of the label.

    The expectation is that of hits and counts, not of their ratio, by the probabilities without the
    effect of the class weights. The network is too sure of the labels that it was trained on.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_labels)
        Logits.
    class_weight : ndarray of shape (n_labels, 2)
        Weight of each label in training, where it is absent and where it applies.
    weight : ndarray of shape (n_rows,)
        Weight of each row.

    Returns
    -------
    ndarray of shape (n_labels,)
        The shifts.
    """
    absent, present = np.log(np.maximum(class_weight, 1e-12)).T
    expected = expit(logits - present + absent)
    return np.array([f1_shift(*pair, weight) for pair in zip(logits.T, expected.T, strict=True)])


def f1_shift(logit: FloatArray, expected: FloatArray, weight: FloatArray) -> float:
    """Return the shift of a logit whose sign decides that maximises F1; 0 if none is better.

    Parameters
    ----------
    logit : ndarray of shape (n_rows,)
        Logits of a label.
    expected : ndarray of shape (n_rows,)
        Probability that the label applies.
    weight : ndarray of shape (n_rows,)
        Weight of each row.

    Returns
    -------
    float
        The shift.
    """
    order = np.argsort(-logit, kind="stable")
    logit, expected, weight = logit[order], expected[order], weight[order]
    hits, n_chosen = np.cumsum(weight * expected), np.cumsum(weight)
    f1 = 2 * hits / (hits[-1] + n_chosen)
    # Rows of the same logit are decided alike.
    gap = np.append(logit[:-1] - logit[1:], 1.0)
    f1[gap <= 0] = 0.0
    last = int(f1.argmax())
    n_unshifted = np.searchsorted(-logit, 0.0)
    if n_unshifted and f1[n_unshifted - 1] >= f1[last]:
        return 0.0
    return float(gap[last] / 2 - logit[last])


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

    With several labels per row, a row is right if all its known labels are.

    Parameters
    ----------
    predicted : ndarray of int, shape (n_rows,) or (n_rows, n_labels)
        Predictions as `decide` returns them.
    y : array-like of shape (n_rows,) or (n_rows, n_labels)
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
    multilabel = predicted.ndim == 2
    codes = read_indicator(y, classes)[1] if multilabel else read_truth(y, classes)
    check_same_length(len(codes), "y", len(predicted), "X")
    weight = check_weights(sample_weight, len(codes))
    labelled = (codes >= 0).any(axis=1) if multilabel else codes >= 0
    if not labelled.any():
        raise ValueError("y has no labelled row to score.")
    hit = codes[labelled] == predicted[labelled]
    if multilabel:
        hit = (hit | (codes[labelled] < 0)).all(axis=1)
    return float(np.average(hit, weights=weight[labelled]))
