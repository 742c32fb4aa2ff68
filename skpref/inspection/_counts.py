"""Sums over the rows of each session, from which metrics of any sample of sessions follow."""

from typing import NamedTuple

import numpy as np

from skpref._sessions import won_and_compared
from skpref._typing import FloatArray, IntArray
from skpref.inspection._bootstrap import ratio
from skpref.inspection._scores import log_losses

# Those that predicted classes suffice for come first.
CLASS_METRICS = {"macro_f1": "macro-F1", "accuracy": "accuracy"}
METRICS = CLASS_METRICS | {"concordance": "concordance", "log_loss": "log loss"}


class SessionCounts(NamedTuple):
    """Sums over the rows of each session; of several labels per row, over the known labels."""

    # (n_sessions, n_classes, n_classes) or (n_sessions, n_labels, 2, 2): label, prediction
    confusion: FloatArray
    right: FloatArray  # (n_sessions, n_classes), by class or by label that applies
    of_label: FloatArray  # the same, all that people labelled so
    of_prediction: FloatArray  # the same, all that are predicted so
    n_right: FloatArray  # (n_sessions,)
    n_rows: FloatArray  # (n_sessions,), or known labels
    won: FloatArray  # (n_sessions,), pairs in the right order
    compared: FloatArray  # (n_sessions,), pairs
    loss: FloatArray  # (n_sessions,)

    def metrics(self, weight: FloatArray) -> FloatArray:
        """Return the metrics in the order of `METRICS`, given a weight for each session."""
        n_rows = weight @ self.n_rows
        f1 = ratio(2 * (weight @ self.right), weight @ (self.of_label + self.of_prediction))
        macro_f1 = np.nan if np.isnan(f1).all() else np.nanmean(f1)
        accuracy = ratio(weight @ self.n_right, n_rows)
        concordance = ratio(weight @ self.won, weight @ self.compared)
        log_loss = ratio(weight @ self.loss, n_rows)
        return np.array([macro_f1, accuracy, concordance, log_loss], dtype=np.float64)


def count_by_session(
    prob: FloatArray,
    codes: IntArray,
    session: IntArray,
    n_sessions: int,
    predicted: IntArray | None = None,
) -> SessionCounts:
    """Sum up what the metrics need over the rows of each session.

    Parameters
    ----------
    prob : ndarray of shape (n_rows, n_classes) or (n_rows, n_labels)
        Predicted probabilities.
    codes : ndarray of int, shape (n_rows,) or (n_rows, n_labels)
        Human labels: class positions; or 1, 0 or -1 (unknown) for each of several labels.
    session : ndarray of int, shape (n_rows,)
        Session code of each row.
    n_sessions : int
        Number of sessions.
    predicted : ndarray of int, of the shape of `codes`, default=None
        Predicted class positions, or 1 or 0 for each label. None means the most probable classes,
        or the labels whose probability is above one half.

    Returns
    -------
    SessionCounts
        The sums.
    """
    if codes.ndim == 1:
        predicted = prob.argmax(axis=1) if predicted is None else predicted
        return _count_classes(prob, codes, session, n_sessions, predicted)
    predicted = (prob > 0.5).astype(np.int64) if predicted is None else predicted
    # Each label is a task of its own, with two classes.
    parts = []
    for p, code, found in zip(prob.T, codes.T, predicted.T, strict=True):
        rows = code >= 0
        of_two = np.column_stack([1 - p[rows], p[rows]])
        parts.append(_count_classes(of_two, code[rows], session[rows], n_sessions, found[rows]))
    fields = list(zip(*parts, strict=True))
    confusion, *by_class = (np.stack(field, axis=1) for field in fields[:4])
    sums = (np.sum(field, axis=0) for field in fields[4:])
    return SessionCounts(confusion, *(part[:, :, 1] for part in by_class), *sums)


def _count_classes(prob, codes, session, n_sessions, predicted) -> SessionCounts:
    n_classes = prob.shape[1]
    cell = (session * n_classes + codes) * n_classes + predicted
    shape = (n_sessions, n_classes, n_classes)
    confusion = np.bincount(cell, minlength=np.prod(shape)).reshape(shape).astype(np.float64)
    right = np.diagonal(confusion, axis1=1, axis2=2)
    of_label, of_prediction = confusion.sum(axis=2), confusion.sum(axis=1)
    # The pairs of two classes are the same for either.
    pairs = [
        won_and_compared(session, codes == k, prob[:, k], n_sessions)
        for k in ([1] if n_classes == 2 else range(n_classes))
    ]
    won, compared = np.stack(pairs).sum(axis=0)
    return SessionCounts(
        confusion,
        right,
        of_label,
        of_prediction,
        n_right=right.sum(axis=1),
        n_rows=of_label.sum(axis=1),
        won=won,
        compared=compared,
        loss=np.bincount(session, log_losses(prob, codes), n_sessions).astype(np.float64),
    )
