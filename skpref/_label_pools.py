"""Calibration of exclusive classes, and of several labels per utterance that learn together.

A cell, one label of one utterance, is a row of a binary task. The pools of the labels are those of
`skpref._pools`; the labels share half of the variance of what they learn.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from skpref._pools import (
    LABEL_FREE,
    LabelledScores,
    Mean,
    Model,
    Pool,
    fit_isotonic,
    label_free_pool,
    learn,
    warn_of_few_labels,
)
from skpref._score_reader import ScoreReader
from skpref._typing import FloatArray, IntArray


class ExclusiveClasses:
    """How scores of classes that exclude each other are calibrated: by one model."""

    def as_rows(self, table: FloatArray) -> FloatArray:
        """Return the rows that are calibrated: those of the scores."""
        return table

    def mean_log(self, reader: ScoreReader, table: FloatArray) -> list[FloatArray]:
        """Return the mean log-scores of each model."""
        return [reader.mean_log(table)]

    def origin(self, offsets: list[FloatArray]) -> FloatArray:
        """Return the mean log-scores that learning subtracts."""
        return offsets[0]

    def learn(self, method: str, C: float, offsets, labelled: LabelledScores, train: IntArray):
        """Fit a method on the labelled rows at `train`; return the models and the method used."""
        model, used = learn(method, C, offsets[0], labelled, train)
        return [model], used

    def predict(self, models, reader: ScoreReader, table: FloatArray, rows=None) -> FloatArray:
        """Return the distributions of all or the given rows."""
        return reader.predict(models[0], table, rows)

    def as_output(self, prob: FloatArray) -> FloatArray:
        """Return what `transform` returns."""
        return prob

    def as_attribute(self, values: list):
        """Return what the models learned as the user sees it."""
        return values[0]


class SeveralLabels(NamedTuple):
    """How scores of several labels per utterance are calibrated: by a binary model for each."""

    n_labels: int

    def as_rows(self, table: FloatArray) -> FloatArray:
        """Return the cells (n_rows * n_labels, n_prompts) of (n_rows, n_prompts * n_labels)."""
        by_prompt = table.reshape(len(table), -1, self.n_labels)
        return by_prompt.transpose(0, 2, 1).reshape(-1, by_prompt.shape[1])

    def mean_log(self, reader: ScoreReader, table: FloatArray) -> list[FloatArray]:
        """Return the mean log-scores of each label."""
        first = range(self.n_labels)
        return [reader.mean_log(table, np.arange(k, len(table), self.n_labels)) for k in first]

    def origin(self, offsets: list[FloatArray]) -> FloatArray:
        """Return zeros, and NaN for the prompts that have no score of any label.

        Learning begins at the LLM's own frequency of each label, not at one half.
        """
        return np.where(np.isnan(offsets).all(axis=0), np.nan, 0.0)

    def learn(self, method: str, C: float, offsets, labelled: LabelledScores, train: IntArray):
        """Fit a method on the labelled cells at `train`; return the models and the method used."""
        pool = label_free_pool(self.origin(offsets), method)
        return learn_labels(method, C, offsets, pool, labelled, train)

    def predict(self, models, reader: ScoreReader, table: FloatArray, rows=None) -> FloatArray:
        """Return the distributions of all or the given cells."""
        rows = np.arange(len(table)) if rows is None else rows
        prob = np.empty((len(rows), 2), dtype=table.dtype)
        label = rows % self.n_labels
        for k, model in enumerate(models):
            prob[label == k] = reader.predict(model, table, rows[label == k])
        return prob

    def as_output(self, prob: FloatArray) -> FloatArray:
        """Return the probability of each label, (n_rows, n_labels)."""
        return prob[:, 1].reshape(-1, self.n_labels)

    def as_attribute(self, values: list):
        """Return what the models learned as the user sees it."""
        return np.array(values)


def learn_labels(
    method: str,
    C: float,
    offsets: list[FloatArray],
    pool: Pool,
    labelled: LabelledScores,
    train: IntArray,
) -> tuple[list[Model], str]:
    """Fit a method, or the label-free fallback, for each label; return the models and the method.

    `offsets` are the mean log-scores of each label, and `pool` is where learning begins. The label
    of a row of `labelled` is its number modulo the number of labels.
    """
    used = method
    if method not in LABEL_FREE and labelled.n_classes(train) < 2:
        # "batch" would make each label as likely as not.
        used = "mean"
        warn_of_few_labels(method, used)
    if used == "mean":
        return [Mean() for _ in offsets], used
    if used == "batch":
        return [_batch_pool(of_label) for of_label in offsets], used
    label = labelled.row[train] % len(offsets)
    if used == "isotonic":
        parts = [train[label == k] for k in range(len(offsets))]
        return [
            fit_isotonic(pool, labelled, part) if labelled.n_classes(part) > 1 else pool
            for part in parts
        ], used
    return _fit_pools(pool, labelled, train, label, len(offsets), used, C), used


def _batch_pool(offsets: FloatArray) -> Model:
    """Build the label-free pool of a label; one that was never asked about has no score."""
    return Mean() if np.isnan(offsets).all() else label_free_pool(offsets, "batch")


def _fit_pools(
    pool: Pool,
    labelled: LabelledScores,
    train: IntArray,
    label: IntArray,
    n_labels: int,
    method: str,
    C: float,
) -> list[Model]:
    """Learn the weights, scales or bias of the pool of each label."""
    features = labelled.features[train].astype(np.float64)
    # Log-odds; "beta" has a scale for each class.
    x = features[:, :, 0] * [-1, 1] if method == "beta" else features[:, 1] - features[:, 0]
    seen = pool.weights > 0
    start = pool.weights[seen] if method == "log_pool" else np.ones(x.shape[1])
    # As of one binary task, in `fit_pool`.
    strength = (len(start) if method == "log_pool" else 1) / C
    theta, bias = fit_together(
        x,
        labelled.codes[train],
        label,
        n_labels,
        start=start,
        strength=strength,
        bias_strength=np.inf if method == "temperature" else 1 / C,
    )
    pools: list[Model] = []
    for of_label, shift in zip(theta, bias, strict=True):
        learned = pool._replace(bias=np.array([-shift, shift]) / 2)
        if method == "log_pool":
            weights = np.zeros(len(seen))
            weights[seen] = of_label
            pools.append(learned._replace(weights=weights))
        else:
            pools.append(learned._replace(scales=of_label * np.ones(2)))
    return pools


def fit_together(
    x: FloatArray,
    y: IntArray,
    label: IntArray,
    n_labels: int,
    *,
    start: FloatArray,
    strength: float,
    bias_strength: float,
) -> tuple[FloatArray, FloatArray]:
    r"""Fit a logistic regression per label, whose coefficients the labels partly share.

    Maximises the likelihood of :math:`P(y = 1) = \sigma(w_k x + b_k)` for rows of label k, where
    :math:`w_k \ge 0` is normal around a mean that is normal around `start`, either with half of
    the variance ``1 / strength``. The biases are normal around a mean that is normal around 0. A
    label without rows gets the means. A single label is fitted as if by the whole variance.

    Parameters
    ----------
    x : ndarray of shape (n_rows, n_features)
        Features.
    y : ndarray of int, shape (n_rows,)
        Whether the label applies, 0 or 1.
    label : ndarray of int, shape (n_rows,)
        The label k of each row.
    n_labels : int
        Number of labels.
    start : ndarray of shape (n_features,)
        Coefficients without any row.
    strength : float
        Strength of the penalty on the coefficients.
    bias_strength : float
        Strength of the penalty on the bias of one of two classes; infinite for no bias.

    Returns
    -------
    w : ndarray of shape (n_labels, n_features)
        Coefficients.
    b : ndarray of shape (n_labels,)
        Biases.
    """
    has_bias = np.isfinite(bias_strength)
    # The last feature is the bias.
    x = np.column_stack([x, np.ones(len(x))])
    centre = np.append(start, 0.0)
    # Half of the variance each. The bias is a difference of two, so its variance is double.
    penalty = np.append(np.full(len(start), 2 * strength), bias_strength if has_bias else 0.0)
    shape = (n_labels + 1, len(centre))  # first the mean

    def objective(flat):
        params = flat.reshape(shape)
        mean, coef = params[0], params[1:]
        logit = np.einsum("nf,nf->n", x, coef[label])
        loss = np.logaddexp(0, logit).sum() - logit @ y
        shift, spread = mean - centre, coef - mean
        loss += (penalty * (shift**2 + (spread**2).sum(axis=0))).sum() / 2
        error = x * (expit(logit) - y)[:, None]
        slope = np.stack([np.bincount(label, e, minlength=n_labels) for e in error.T], axis=1)
        gradient = np.vstack([penalty * (shift - spread.sum(axis=0)), slope + penalty * spread])
        return loss, gradient.ravel()

    lowest = np.zeros(shape)
    lowest[:, -1] = -np.inf if has_bias else 0.0
    highest = np.full(shape, np.inf)
    highest[:, -1] = np.inf if has_bias else 0.0
    origin = np.tile(centre, n_labels + 1)
    bounds = np.column_stack([lowest.ravel(), highest.ravel()])
    options = {"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-6}
    solution = minimize(
        objective, origin, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    coef = solution.x.reshape(shape)[1:]
    return coef[:, :-1], coef[:, -1]
