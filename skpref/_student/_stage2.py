"""Stage 2: fit scale and offsets, and move the network towards the human labels."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse import issparse
from scipy.special import log_softmax
from sklearn.model_selection import GroupKFold
from sklearn.utils.extmath import row_norms
from torch import nn

from skpref._sklearn import one_blas_thread
from skpref._student._output import (
    Output,
    class_logits,
    join_outputs,
    label_f1_shifts,
    macro_f1_offsets,
)
from skpref._student._stage1 import (
    Objective,
    PairSource,
    as_dataset,
    losses,
    net_for,
)
from skpref._student._training_set import Problem, TrainingSet
from skpref._torch._callbacks import WarmUp
from skpref._torch._scoring import predict_scores, score_by_last_layer
from skpref._torch._units import in_units
from skpref._typing import BoolArray, FloatArray, IntArray

# All soft labels together weigh as much as this many human labels. The labels of a few whole
# sessions are much alike, so they say less about offsets than their number promises.
_SOFT_LABEL_WEIGHT = 200.0
# How far the labels may move the last layer: variances of the prior of its change, 0 for none.
_VARIANCES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class Adapted(NamedTuple):
    """Results of stage 2 and of the decision rule.

    Parameters
    ----------
    output : Output
        Scale and offsets.
    decision : ndarray of shape (n_classes,)
        Shift of the log-probabilities that `predict` applies.
    variance : float or ndarray of shape (n_labels,)
        Variance of the prior of the last layer's change, 0 for none.
    layer_before : ndarray or None
        Weights of the last layer before stage 2; None if they have not changed.
    history : list of dict
        Losses of fine-tuning.
    """

    output: Output
    decision: FloatArray
    variance: float | FloatArray
    layer_before: FloatArray | None
    history: list[dict]


def adapt(
    network: nn.Module,
    scores: FloatArray,
    training: TrainingSet,
    held_out: BoolArray,
    class_weight: FloatArray,
    *,
    kind: str | None,
    decision: str,
    finetune: Callable | None = None,
) -> Adapted:
    """Run stage 2 on a trained network, and choose the decision.

    Parameters
    ----------
    network : nn.Module
        The network; changed in place by "head" and "finetune".
    scores : ndarray of shape (n_rows, n_scores)
        The network's scores of the rows.
    training : TrainingSet
        All rows.
    held_out : ndarray of bool, shape (n_rows,)
        Rows that stage 1 did not train on.
    class_weight : ndarray of shape (n_classes,) or (n_labels, 2)
        Weights of the classes.
    kind : {"offsets", "head", "finetune"} or None
        The steps: None leaves the scores as they are.
    decision : {"argmax", "macro_f1"}
        The parameter of that name.
    finetune : callable, default=None
        From a network, labelled rows and an output to losses; for "finetune".

    Returns
    -------
    Adapted
        The results.
    """
    problems = training.problems(class_weight)
    outputs = [Output(1.0, np.zeros_like(scores[0, p.columns], dtype=float)) for p in problems]
    if kind is not None:
        outputs = [
            fit_output(scores[:, p.columns], p.rows, held_out, p.class_weight) for p in problems
        ]
    output = join_outputs(outputs, training.multilabel)
    variance: float | FloatArray = np.zeros(np.shape(output.scale))[()]
    layer_before, history = None, []
    if kind == "head":
        output, variance, layer_before = refit_last_layer(
            network, training.labelled(), output, class_weight
        )
    if kind == "finetune" and finetune is not None:
        history = finetune(network, training.labelled(), output)
    shift: FloatArray = np.zeros(len(class_weight))
    if decision == "macro_f1" and training.multilabel:
        logits = output.logits(predict_scores(network, training.X).astype(np.float64))
        shift = label_f1_shifts(logits, class_weight, training.weight)
    elif decision == "macro_f1":
        rows = training.softly_labelled()
        shift = macro_f1_offsets(predict_scores(network, rows.X), output, rows.soft, rows.weight)
    return Adapted(output, shift, variance, layer_before, history)


def fit_output(
    scores: FloatArray,
    training: TrainingSet,
    held_out: BoolArray,
    class_weight: FloatArray,
) -> Output:
    """Fit the scale on held-out rows and the offsets on all.

    Both are fitted on the human labels and, as a prior, on the soft labels of LLM scores.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_scores)
        The network's scores.
    training : TrainingSet
        All rows.
    held_out : ndarray of bool, shape (n_rows,)
        Rows that stage 1 did not train on; the scale is fitted on all rows if there are none.
    class_weight : ndarray of shape (n_classes,)
        Weight of each class.

    Returns
    -------
    Output
        Scale and offsets.
    """
    scale = None
    if held_out.any():
        evidence = _evidence(scores[held_out], training.take(held_out), class_weight)
        scale, _ = fit_offsets(*evidence)
    return Output(*fit_offsets(*_evidence(scores, training, class_weight), scale=scale))


def _evidence(scores, training: TrainingSet, class_weight) -> tuple[FloatArray, ...]:
    """Return scores, targets and weights of the human labels, and of soft labels of LLM scores."""
    labelled = training.codes >= 0
    evidence = scores[labelled]
    target = np.eye(len(class_weight))[training.codes[labelled]]
    weight = training.weight[labelled]
    if training.has_scores:
        softly = ~np.isnan(training.soft).any(axis=1)
        share = training.weight[softly] / max(training.weight[softly].sum(), 1e-12)
        evidence = np.vstack([evidence, scores[softly]])
        target = np.vstack([target, training.soft[softly]])
        weight = np.r_[weight, _SOFT_LABEL_WEIGHT * share]
    return evidence, target, weight * (target @ class_weight)


def refit_last_layer(
    network: nn.Module, labelled: TrainingSet, output: Output, class_weight: FloatArray
) -> tuple[Output, float | FloatArray, FloatArray]:
    """Refit the last layer of a network on the human labels, with a ridge towards its weights.

    Parameters
    ----------
    network : nn.Module
        The network; its last layer is changed in place.
    labelled : TrainingSet
        Rows with a human label.
    output : Output
        Scale and offsets.
    class_weight : ndarray of shape (n_classes,) or (n_labels, 2)
        Weights of the classes; their square roots weigh the rows, since the offsets have moved
        towards rare classes already.

    Returns
    -------
    output : Output
        Scale and new offsets.
    variance : float or ndarray of shape (n_labels,)
        Variance of the prior of the change, 0 for none.
    layer_before : ndarray
        A copy of the layer's weights before the change.
    """
    scores, layer, inputs = score_by_last_layer(network, labelled.X)
    logits = output.logits(scores.astype(np.float64))
    changes = [
        _refit_scores(inputs, logits[:, problem.columns], problem)
        for problem in labelled.problems(class_weight)
    ]
    coef = np.vstack([change[0] for change in changes])
    intercept = np.concatenate([change[1] for change in changes])
    variances = np.array([change[2] for change in changes])
    layer_before = layer.weight.detach().cpu().numpy().copy()
    scale = output.scale[:, None] if labelled.multilabel else output.scale
    with torch.no_grad():
        layer.weight += torch.from_numpy(coef / scale).to(layer.weight)
    output = output._replace(offsets=output.offsets + intercept)
    return output, variances if labelled.multilabel else float(variances[0]), layer_before


def _refit_scores(inputs, logits: FloatArray, problem: Problem):
    """Fit the change of the last layer for the scores of a problem, on its labelled rows."""
    known = problem.rows.codes >= 0
    if not known.all():
        inputs, logits = inputs[known], logits[known]
    rows = problem.rows.take(known).labelled()
    if not len(rows.codes):
        return np.zeros((logits.shape[1], inputs.shape[1])), np.zeros(logits.shape[1]), 0.0
    factor = np.sqrt(problem.class_weight)[rows.codes]
    return fit_last_layer(
        inputs,
        logits,
        rows.soft,
        rows.weight * factor / np.average(factor, weights=rows.weight),
        rows.session,
        rows.weight,
    )


def finetune(
    network: nn.Module,
    labelled: TrainingSet,
    output: Output,
    *,
    objective: Objective,
    pairs: PairSource,
    warmup: float | None = None,
    **options,
) -> list[dict]:
    """Train the whole network on the human labels by cross-entropy.

    Parameters
    ----------
    network : nn.Module
        The network; trained in place.
    labelled : TrainingSet
        Rows with a human label.
    output : Output
        Scale and offsets.
    objective : Objective
        The loss of stage 1, whose class weights apply by their square root.
    pairs : PairSource
        The pairs of stage 1; none is compared.
    warmup : float, default=None
        Share of the training over which the learning rates rise; None keeps them constant.
    **options : dict
        Arguments of `net_for`.

    Returns
    -------
    list of dict
        Losses of each epoch.
    """
    like = next(network.parameters(), torch.empty(0))
    net = net_for(
        network,
        objective._replace(
            pairwise_weight=0.0,
            pointwise_weight=1.0,
            class_weight=np.sqrt(objective.class_weight),
        ),
        pairs,
        output=output._replace(
            scale=torch.as_tensor(output.scale).to(like) if output.multilabel else output.scale,
            offsets=torch.from_numpy(output.offsets).to(like),
        ),
        training_callbacks=[] if warmup is None else [WarmUp(warmup)],
        **options,
    )
    rows = as_dataset(labelled)
    with in_units(network, rows), net.training(rows) as n_epochs:
        net.fit_loop(rows, epochs=n_epochs)
    return losses(net.history)


def _softmax_loss(logits, target, weight) -> tuple[float, FloatArray]:
    """Return the weighted cross-entropy of the rows, and its gradient by the logits."""
    weight = weight[:, None]
    log_p = log_softmax(class_logits(logits), axis=1)
    residual = (weight * (np.exp(log_p) - target))[:, -logits.shape[1] :]
    return -(weight * target * log_p).sum(), residual


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
        The network's scores f; one column for a binary task.
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
        value, residual = _softmax_loss(params[0] * scores + params[1:], target, weight)
        gradient = np.r_[(residual * scores).sum(), residual.sum(axis=0)]
        shift = params - start
        return value + ridge / 2 * shift @ shift, gradient + ridge * shift

    start = np.r_[1.0 if scale is None else scale, np.zeros(n_scores)]
    bounds = [(1e-3, None) if scale is None else (scale, scale)] + [(None, None)] * n_scores
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return float(solution.x[0]), solution.x[1:]


def fit_last_layer(
    features: FloatArray,
    logits: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    groups: IntArray,
    count: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray, float]:
    r"""Fit a change of a linear layer on few labels, by ridge towards the layer as it is.

    Minimises :math:`-\sum_i w_i \sum_k q_{ik} \log p_{ik} + \frac{1}{2v}(|W|^2 + |b|^2)` with
    :math:`p_i = \mathrm{softmax}(l_i + W x_i + b)`, where x are the features, centred and of mean
    squared norm 1. The variance v has the least loss in cross-validation by groups.

    Parameters
    ----------
    features : {ndarray, sparse matrix} of shape (n_rows, n_features)
        Inputs of the layer.
    logits : ndarray of shape (n_rows, n_scores)
        Logits l without the change; one column for a binary task.
    target : ndarray of shape (n_rows, n_classes)
        Distribution q over the classes that each row should have.
    weight : ndarray of shape (n_rows,)
        Weight w of each row.
    groups : ndarray of shape (n_rows,)
        Session of each row.
    count : ndarray of shape (n_rows,), default=None
        How many rows each row represents when features are centred and scaled; None is one.

    Returns
    -------
    coef : ndarray of shape (n_scores, n_features)
        Addition to the layer's weights, in units of the given features.
    intercept : ndarray of shape (n_scores,)
        Addition to its intercepts.
    variance : float
        The variance v; 0 leaves the layer as it is, as labels of a single group do.
    """
    n_rows, n_features = features.shape
    count = np.ones(n_rows) if count is None else count
    n_scores = logits.shape[1]
    n_folds = min(5, len(np.unique(groups)))
    if n_folds < 2:
        return np.zeros((n_scores, n_features)), np.zeros(n_scores), 0.0
    X, center, spread = _standardized(features.astype(np.float64), count)
    # A dense array has been centred; of a sparse matrix the centre is taken off in the products.
    offset = center / spread if issparse(X) else np.zeros(n_features)

    def path(rows, variances):
        return _ridge_path(X[rows], offset, logits[rows], target[rows], weight[rows], variances)

    fold_loss = np.zeros(len(_VARIANCES))
    for fit, held_out in GroupKFold(n_folds).split(X, groups=groups):
        for i, theta in enumerate(path(fit, _VARIANCES)):
            moved = logits[held_out] + _affine(X[held_out], offset, theta)
            fold_loss[i] += _softmax_loss(moved, target[held_out], weight[held_out])[0]
    best = int(fold_loss.argmin())
    *_, theta = path(np.arange(n_rows), _VARIANCES[: best + 1])
    coef = theta[:, :-1] / spread
    return coef, theta[:, -1] - coef @ center, _VARIANCES[best]


def _standardized(X, count) -> tuple[FloatArray, FloatArray, float]:
    """Return features of mean squared distance 1 from their centre, the centre and the factor."""
    center = np.asarray(count @ X).ravel() / count.sum()
    if issparse(X):
        squares = row_norms(X, squared=True) - 2 * (X @ center) + center @ center
    else:
        X = X - center
        squares = row_norms(X, squared=True)
    spread = max(np.sqrt(max(count @ squares / count.sum(), 0.0)), 1e-12)
    return X / spread, center, spread


def _affine(X, offset, theta) -> FloatArray:
    """Return W (x - offset) + b of each row, for theta = (W, b)."""
    return X @ theta[:, :-1].T + (theta[:, -1] - theta[:, :-1] @ offset)


def _ridge_path(X, offset, logits, target, weight, variances) -> Iterator[FloatArray]:
    """Yield parameters (W, b) under each variance, each fit starting from the one before."""
    n_scores = logits.shape[1]

    def objective(theta, variance):
        theta = theta.reshape(n_scores, -1)
        value, residual = _softmax_loss(logits + _affine(X, offset, theta), target, weight)
        total = residual.sum(axis=0)
        gradient = np.column_stack([(X.T @ residual).T - np.outer(total, offset), total])
        value += (theta**2).sum() / (2 * variance)
        return value, (gradient + theta / variance).ravel()

    theta = np.zeros(n_scores * (X.shape[1] + 1))
    for variance in variances:
        if variance > 0:
            with one_blas_thread():
                theta = minimize(
                    objective,
                    theta,
                    (variance,),
                    jac=True,
                    method="L-BFGS-B",
                    options={"maxiter": 200},
                ).x
        yield theta.reshape(n_scores, -1)
