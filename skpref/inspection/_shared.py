"""The share of the scores' error that the utterances of a session share."""

from typing import NamedTuple

import numpy as np
from sklearn.utils import Bunch

from skpref._typing import FloatArray, IntArray
from skpref.inspection._bootstrap import MIN_SESSIONS, percentile_interval, session_weights


class _Sums(NamedTuple):
    """Number of rows, sum and sum of squares of their scores, by session, label and score."""

    n_rows: FloatArray
    score: FloatArray
    square: FloatArray


def _sum_up(score: FloatArray, label: IntArray, session: IntArray, n_sessions: int) -> _Sums:
    shape = (n_sessions, label.max(initial=0) + 1)
    cell = session * shape[1] + label
    score = score - score.sum(axis=0) / max(len(score), 1)  # squares of large ones lose digits

    def add(weights):
        return np.bincount(cell, weights, shape[0] * shape[1]).reshape(shape)

    of_scores = [np.stack([add(column**p) for column in score.T], axis=2) for p in (1, 2)]
    return _Sums(add(np.ones(len(cell))), *of_scores)


def _components(sums: _Sums, weight: FloatArray) -> tuple[float, float] | None:
    """Return the variance of the error that sessions share, and all, None if neither is defined.

    Each session is counted `weight` times.
    """
    n_of_label = np.maximum(weight @ sums.n_rows, 1)
    mean = np.tensordot(weight, sums.score, axes=1) / n_of_label[:, None]
    n = sums.n_rows.sum(axis=1)
    error = sums.score.sum(axis=1) - sums.n_rows @ mean
    square = (sums.square - 2 * mean * sums.score + sums.n_rows[:, :, None] * mean**2).sum(axis=1)
    explained = error**2 / np.maximum(n, 1)[:, None]
    n_rows, n_sessions = weight @ n, weight @ (n > 0)
    if n_sessions < 2 or n_rows <= n_sessions:
        return None
    between = (weight @ explained).sum() / (n_sessions - 1)
    within = (weight @ np.maximum(square - explained, 0)).sum() / (n_rows - n_sessions)
    # The size of a session that counts if they differ.
    size = (n_rows - weight @ n**2 / n_rows) / (n_sessions - 1)
    # Mean squares: that between sessions holds `size` times the shared variance.
    return float((between - within) / size), float((between + (size - 1) * within) / size)


def _correlate_within(parts: list[_Sums], weight: FloatArray) -> float:
    """Return the intraclass correlation of the error, each session counted `weight` times."""
    found = [c for c in (_components(sums, weight) for sums in parts) if c is not None]
    shared, total = np.sum(found, axis=0) if found else (0.0, 0.0)
    return float(shared / total) if total > 1e-12 else float("nan")


def share_of_session(
    score: FloatArray,
    label: IntArray,
    session: IntArray,
    n_bootstrap: int,
    level: float,
    rng: np.random.RandomState,
) -> Bunch:
    """Estimate the share of the variance of the error that is constant within a session.

    The error is the score minus the mean score at that label. The estimate is the intraclass
    correlation of one-way random effects, with the components of variance summed over scores.

    Parameters
    ----------
    score : ndarray of shape (n_samples, n_scores)
        The scores.
    label : ndarray of int, shape (n_samples,) or (n_samples, n_scores)
        Number of the human label; in two dimensions that of each score, -1 where unknown.
    session : ndarray of int, shape (n_samples,)
        Number of the session, each of which has rows.
    n_bootstrap : int
        Number of bootstrap samples of the sessions.
    level : float
        Share of the samples that the interval covers.
    rng : RandomState
        Source of the samples.

    Returns
    -------
    Bunch
        The share, low and high.
    """
    n_sessions = session.max() + 1
    if label.ndim == 1:
        parts = [_sum_up(score, label, session, n_sessions)]
    else:
        parts = [
            _sum_up(score[known, k : k + 1], label[known, k], session[known], n_sessions)
            for k, known in enumerate(label.T >= 0)
        ]
    weights = session_weights(n_sessions, n_bootstrap, rng)
    samples = np.array([_correlate_within(parts, weight) for weight in weights])
    low, high = percentile_interval(samples, level, n_sessions >= MIN_SESSIONS)
    share = _correlate_within(parts, np.ones(n_sessions))
    return Bunch(share=share, low=float(low), high=float(high))
