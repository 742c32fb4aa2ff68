"""Scale and offsets: what preferences within sessions leave open about a student's scores."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from skpref._typing import FloatArray


def class_logits(scores: FloatArray) -> FloatArray:
    """Logits of every class; one column of scores is that of the positive class.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_classes) or (n_rows, 1)
        Scores in logits.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        Logits, (n_rows, 2) for a single column.
    """
    return np.hstack([np.zeros_like(scores), scores]) if scores.shape[1] == 1 else scores


def fit_offsets(
    scores: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    *,
    scale: float | None = None,
    ridge: float = 0.1,
) -> tuple[float, FloatArray]:
    r"""Fit one scale and an offset per score by penalised maximum likelihood.

    Minimises :math:`-\sum_i w_i \sum_k q_{ik} \log p_{ik} + \frac{r}{2}((a - 1)^2 + |b|^2)`
    with :math:`p_i = \mathrm{softmax}(a f_i + b)`: temperature scaling (Guo et al. 2017,
    arXiv 1706.04599) with a bias per class. The penalty keeps the given scores where rows are few.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_scores)
        The student's scores f; one column for a binary task.
    target : ndarray of shape (n_rows, n_classes)
        Distribution q over the classes that each row should have; one-hot for a human label.
    weight : ndarray of shape (n_rows,)
        Weight w of each row, in units of one human label.
    scale : float, default=None
        A scale to keep, so that only offsets are fitted.
    ridge : float, default=0.1
        Strength r of the penalty.

    Returns
    -------
    scale : float
        The scale a, at least 0.001.
    offsets : ndarray of shape (n_scores,)
        The offsets b.
    """
    scores = scores.astype(np.float64)
    n_scores = scores.shape[1]

    def objective(params):
        a, b = params[0], params[1:]
        log_p = log_softmax(class_logits(a * scores + b), axis=1)
        residual = (weight[:, None] * (np.exp(log_p) - target))[:, -n_scores:]
        value = -(weight[:, None] * target * log_p).sum()
        gradient = np.r_[(residual * scores).sum(), residual.sum(axis=0)]
        shift = params - start
        return value + ridge / 2 * shift @ shift, gradient + ridge * shift

    start = np.r_[1.0 if scale is None else scale, np.zeros(n_scores)]
    bounds = [(1e-3, None) if scale is None else (scale, scale)] + [(None, None)] * n_scores
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return float(solution.x[0]), solution.x[1:]


def probabilities(logits: FloatArray) -> FloatArray:
    """Softmax over the classes.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_classes) or (n_rows, 1)
        Logits; one column is that of the positive class.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        Rows that sum to 1.
    """
    return softmax(class_logits(logits), axis=1)
