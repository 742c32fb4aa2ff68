"""Stage 2: what preferences leave open about scores, and a last layer nearer to the labels."""

from itertools import product

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import issparse
from scipy.special import log_softmax, softmax
from sklearn.model_selection import GroupKFold
from sklearn.utils.extmath import row_norms

from skpref._typing import FloatArray, IntArray

# How far the labels may move the head: variances of the prior of its change, 0 for no change.
_VARIANCES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


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


def fit_head(
    features: FloatArray,
    logits: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    groups: IntArray,
) -> tuple[FloatArray, FloatArray, float]:
    r"""Fit a change of a linear head on few labels, by ridge towards the head as it is.

    Minimises :math:`-\sum_i w_i \sum_k q_{ik} \log p_{ik} + \frac{1}{2v}(|W|^2 + |b|^2)` with
    :math:`p_i = \mathrm{softmax}(l_i + W x_i + b)`, where x are the features, centred (unless they
    are sparse) and of mean squared norm 1. The variance v has the least loss in cross-validation
    by groups.

    Parameters
    ----------
    features : {ndarray, sparse matrix} of shape (n_rows, n_features)
        Inputs of the head.
    logits : ndarray of shape (n_rows, n_scores)
        Logits l without the change; one column for a binary task.
    target : ndarray of shape (n_rows, n_classes)
        Distribution q over the classes that each row should have.
    weight : ndarray of shape (n_rows,)
        Weight w of each row.
    groups : ndarray of shape (n_rows,)
        Session of each row.

    Returns
    -------
    coef : ndarray of shape (n_scores, n_features)
        What to add to the head's weights, in units of the given features.
    intercept : ndarray of shape (n_scores,)
        What to add to its intercepts.
    variance : float
        The variance v; 0 leaves the head as it is, as labels of a single group do.
    """
    n_rows, n_features = features.shape
    n_scores = logits.shape[1]
    n_folds = min(5, len(np.unique(groups)))
    coef, intercept = np.zeros((n_scores, n_features)), np.zeros(n_scores)
    if n_folds < 2:
        return coef, intercept, 0.0
    X, center = features.astype(np.float64), np.zeros(n_features)
    if not issparse(X):
        center = X.mean(axis=0)
        X = X - center
    spread = max(np.sqrt(row_norms(X, squared=True).mean()), 1e-12)
    X = X / spread

    def path(rows, variances):
        """Parameters (W, b) under each variance, each from where the last one was."""
        some, base, goal, w = X[rows], logits[rows], target[rows], weight[rows, None]

        def objective(theta, variance):
            theta = theta.reshape(n_scores, -1)
            log_p = log_softmax(class_logits(base + some @ theta[:, :-1].T + theta[:, -1]), axis=1)
            residual = (w * (np.exp(log_p) - goal))[:, -n_scores:]
            gradient = np.column_stack([(some.T @ residual).T, residual.sum(axis=0)])
            value = -(w * goal * log_p).sum() + (theta**2).sum() / (2 * variance)
            return value, (gradient + theta / variance).ravel()

        theta = np.zeros(n_scores * (n_features + 1))
        for variance in variances:
            if variance > 0:
                theta = minimize(
                    objective,
                    theta,
                    (variance,),
                    jac=True,
                    method="L-BFGS-B",
                    options={"maxiter": 200},
                ).x
            yield theta.reshape(n_scores, -1)

    losses = np.zeros(len(_VARIANCES))
    for fit, held_out in GroupKFold(n_folds).split(X, groups=groups):
        for i, theta in enumerate(path(fit, _VARIANCES)):
            moved = logits[held_out] + X[held_out] @ theta[:, :-1].T + theta[:, -1]
            log_p = log_softmax(class_logits(moved), axis=1)
            losses[i] -= (weight[held_out, None] * target[held_out] * log_p).sum()
    best = int(losses.argmin())
    *_, theta = path(np.arange(n_rows), _VARIANCES[: best + 1])
    coef = theta[:, :-1] / spread
    return coef, theta[:, -1] - coef @ center, _VARIANCES[best]


def ascend(value, n_classes: int, *, steps, n_rounds: int) -> FloatArray:
    """Maximise a value over offsets of the classes, one class and step at a time, from zeros.

    Parameters
    ----------
    value : callable
        From offsets, shape (n_classes,), to what is maximised.
    n_classes : int
        Number of classes.
    steps : sequence of float
        Changes of an offset that are tried.
    n_rounds : int
        How often all are tried.

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
    """Offsets of the log-probabilities that raise the macro-F1 expected under soft labels.

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
        found = (log_p + trial).argmax(axis=1)
        n_found = np.bincount(found, weight, minlength=n_classes)
        hits = np.bincount(found, soft[np.arange(n_rows), found], minlength=n_classes)
        return (2 * hits / np.maximum(of_class + n_found, 1e-12)).mean()

    return ascend(value, n_classes, steps=(-1, -0.5, -0.25, 0.25, 0.5, 1), n_rounds=3)


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
