"""Pools of the prompts' scores: how they combine scores, and how they learn from labels."""

from collections.abc import Callable, Iterable
from typing import NamedTuple
from warnings import warn

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.isotonic import IsotonicRegression

from skpref._sessions import renumber
from skpref._sklearn import one_blas_thread
from skpref._typing import BoolArray, FloatArray, IntArray

# Methods that learn nothing from labels.
LABEL_FREE = ("mean", "batch")
LEARNING = ("temperature", "sigmoid", "isotonic", "beta", "log_pool")
# Method and C that "auto" chooses from; the first unless another one is clearly better.
CANDIDATES = [
    *((method, C) for C in (0.1, 1.0, 10.0) for method in ("log_pool", "beta")),
    ("isotonic", 0.1),
]
# Added to every probability before its logarithm is taken, so that a vote (0 or 1) counts as strong
# but finite evidence.
_SMOOTHING = 1e-3
# Number of scores to process at a time, so that intermediate arrays fit into the cache and memory
# does not grow with the number of rows.
_CHUNK_SIZE = 1 << 16
# Scores that differ by less are the same: those of two classes may be given for either.
_DECIMALS = 9
# Log-odds of any size give finite log-probabilities.
_LEAST_LOG = -1e30


class PromptScores(NamedTuple):
    """The prompts' scores as distributions (n, n_prompts, n_classes), NaN if missing."""

    prob: FloatArray
    log: FloatArray

    def sort_classes(self, columns: IntArray) -> "PromptScores":
        """Return the classes in the order in which `columns` lists their positions."""
        if (columns == np.arange(len(columns))).all():
            return self
        return PromptScores(self.prob[:, :, columns], self.log[:, :, columns])

    def take(self, rows: IntArray | BoolArray) -> "PromptScores":
        return PromptScores(self.prob[rows], self.log[rows])

    def has_score(self) -> BoolArray:
        """Return which rows have the scores of at least one prompt."""
        return np.asarray((~np.isnan(self.log[:, :, 0])).any(axis=1))


def chunks(n_rows: int, n_columns: int) -> list[slice]:
    """Split rows into chunks of about `_CHUNK_SIZE` scores."""
    step = max(_CHUNK_SIZE // n_columns, 1)
    return [slice(start, start + step) for start in range(0, n_rows, step)]


def _mean_over_prompts(values: FloatArray) -> FloatArray:
    """Compute the mean over the prompts, ignoring NaN; NaN if no prompt has a value."""
    present = ~np.isnan(values)
    count = present.sum(axis=1)
    return np.where(present, values, 0).sum(axis=1) / np.where(count, count, np.nan)


def mean_over_rows(chunks: Iterable[FloatArray]) -> FloatArray:
    """Compute the mean over the rows of all chunks, ignoring NaN; NaN if no row has a value."""
    total = count = np.zeros(1)
    for values in chunks:
        present = ~np.isnan(values)
        total = total + np.where(present, values, 0).sum(axis=0)
        count = count + present.sum(axis=0)
    return total / np.where(count, count, np.nan)


def from_probabilities(scores: FloatArray) -> PromptScores:
    if scores.shape[2] == 1:
        scores = np.concatenate([1 - scores, scores], axis=2)
    total = scores.sum(axis=2, keepdims=True)
    # Zero for every class carries no information, so it is treated as a missing score.
    prob = scores / np.where(total > 0, total, np.nan)
    return PromptScores(prob, np.log((prob + _SMOOTHING) / (1 + _SMOOTHING * prob.shape[2])))


def from_log_odds(scores: FloatArray) -> PromptScores:
    if scores.shape[2] == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=2)
    with np.errstate(over="ignore"):
        log = np.maximum(log_softmax(scores, axis=2), _LEAST_LOG)
    return PromptScores(np.exp(log), log)


class Mean:
    """Arithmetic mean of the prompts' distributions."""

    def predict(self, scores: PromptScores) -> FloatArray:
        return _mean_over_prompts(scores.prob)


class Pool(NamedTuple):
    """Logarithmic opinion pool `softmax(scales * log_softmax(sum_p w_p (log s_p - o_p)) + b)`."""

    offsets: FloatArray
    weights: FloatArray
    scales: FloatArray
    bias: FloatArray

    def corrected(self, scores: PromptScores) -> FloatArray:
        """Subtract the offsets from the log-scores; fill missing prompts with the row's mean.

        The mean lets the other prompts of the row share the weight of a missing one.
        """
        log = scores.log - self.offsets
        return np.where(np.isnan(log), _mean_over_prompts(log)[:, None], log)

    def ensemble(self, scores: PromptScores) -> FloatArray:
        return log_softmax(np.einsum("npk,p->nk", self.corrected(scores), self.weights), axis=1)

    def predict(self, scores: PromptScores) -> FloatArray:
        return softmax(self.scales * self.ensemble(scores) + self.bias, axis=1)


class Isotonic(NamedTuple):
    """One increasing step function per class of the label-free pool's probability."""

    pool: Pool
    steps: list[IsotonicRegression]

    def predict(self, scores: PromptScores) -> FloatArray:
        prob = self.pool.predict(scores)
        prob = np.column_stack([s.predict(p) for s, p in zip(self.steps, prob.T, strict=True)])
        return prob / prob.sum(axis=1, keepdims=True)


Model = Mean | Pool | Isotonic


class LabelledScores(NamedTuple):
    """The rows that have a label and a score, their classes, and the features of the method.

    `features` has shape (n_rows, n_classes, n_features) and the float type of the scores, because
    with "log_pool" and labels on all rows it is as large as the scores.
    """

    row: IntArray
    codes: IntArray
    features: FloatArray

    def n_classes(self, train: IntArray) -> int:
        """Count the classes that occur at the positions `train`."""
        return len(np.unique(self.codes[train]))


def label_free_pool(offsets: FloatArray, method: str) -> Pool:
    """Build a pool with equal weights; most methods subtract each prompt's mean log-score."""
    seen = ~np.isnan(offsets[:, 0])
    # Subtracting the offsets pulls the bias towards equal classes, which takes more labels to
    # overcome than a bias pulled towards the LLM's class shares.
    if method in ("temperature", "log_pool"):
        offsets = 0 * offsets
    n_classes = offsets.shape[1]
    return Pool(offsets, seen / seen.sum(), np.ones(n_classes), np.zeros(n_classes))


def pool_features(pool: Pool, method: str, scores: PromptScores) -> FloatArray:
    """Return the features from which `method` learns, (n, n_classes, n_features)."""
    if method == "log_pool":
        return pool.corrected(scores)[:, pool.weights > 0].transpose(0, 2, 1)
    reduced = pool.predict(scores) if method == "isotonic" else pool.ensemble(scores)
    return reduced[:, :, None]


def _fit_softmax(
    labelled: LabelledScores,
    train: IntArray,
    start: FloatArray,
    penalty: FloatArray,
    with_bias: bool,
) -> tuple[FloatArray, FloatArray]:
    """Fit `softmax(sum_f theta_kf features_kf + b_k)`, theta >= 0, by penalised likelihood.

    `start` is (n_classes, n_features), or (1, n_features) if all classes share theta. The penalty
    is `sum(penalty / 2 * (params - start)**2)`, where `params` is theta followed by b, which
    starts at 0.
    """
    n_classes, n_features = labelled.features.shape[1:]
    origin = np.append(start, np.zeros(n_classes))
    parts = chunks(len(train), n_classes * n_features)

    def objective(params):
        theta, bias = params[: start.size].reshape(start.shape), params[start.size :]
        shift = params - origin
        loss, gradient = 0.5 * penalty @ shift**2, penalty * shift
        for part in parts:
            features = labelled.features[train[part]].astype(np.float64)
            codes = labelled.codes[train[part]]
            rows = np.arange(len(codes))
            log_odds = np.einsum("nkf,kf->nk", features, np.broadcast_to(theta, features.shape[1:]))
            log_prob = log_softmax(log_odds + bias, axis=1)
            loss -= log_prob[rows, codes].sum()
            error = np.exp(log_prob)
            error[rows, codes] -= 1
            slope = np.einsum("nkf,nk->kf", features, error)
            slope = slope if len(start) > 1 else slope.sum(axis=0)
            gradient += np.append(slope, error.sum(axis=0))
        return loss, gradient

    bias_bounds = (None, None) if with_bias else (0, 0)
    bounds = [(0, None)] * start.size + [bias_bounds] * n_classes
    with one_blas_thread():
        params = minimize(objective, origin, jac=True, method="L-BFGS-B", bounds=bounds).x
    return params[: start.size], params[start.size :]


def fit_pool(pool: Pool, labelled: LabelledScores, train: IntArray, method: str, C: float) -> Pool:
    """Learn the weights, scales or bias of a pool from the labelled rows at `train`."""
    n_classes, seen = len(pool.bias), pool.weights > 0
    start: FloatArray = np.ones((n_classes if method == "beta" else 1, 1))
    if method == "log_pool":
        start = pool.weights[None, seen]
    # Duplicating every prompt halves the weights; this factor keeps their penalty unchanged.
    strength = start.shape[1] / C
    theta, bias = _fit_softmax(
        labelled,
        train,
        start,
        penalty=np.repeat([strength, 1 / C], [start.size, n_classes]),
        with_bias=method != "temperature",
    )
    if method == "log_pool":
        weights = np.zeros(len(seen))
        weights[seen] = theta
        return pool._replace(weights=weights, bias=bias)
    return pool._replace(scales=theta * np.ones(n_classes), bias=bias)


def fit_isotonic(pool: Pool, labelled: LabelledScores, train: IntArray) -> Isotonic:
    codes = labelled.codes[train]
    # Platt's smoothed targets as limits. No class gets probability zero, so no row sums to zero.
    low = 1 / (len(codes) + 2)
    steps = [
        IsotonicRegression(y_min=low, y_max=1 - low, out_of_bounds="clip").fit(
            labelled.features[train, k, 0], codes == k
        )
        for k in range(len(pool.bias))
    ]
    return Isotonic(pool, steps)


def take_labelled(
    to_distributions: Callable[[FloatArray], PromptScores],
    table: FloatArray,
    codes: IntArray,
    offsets: FloatArray,
    method: str,
) -> LabelledScores:
    """Collect the labelled rows from which `method` learns; none for label-free methods."""
    pool = label_free_pool(offsets, method)
    row = np.flatnonzero(codes >= 0) if method not in LABEL_FREE else np.arange(0)
    n_features = np.count_nonzero(pool.weights) if method == "log_pool" else 1
    features = np.empty((len(row), len(pool.bias), n_features), dtype=table.dtype)
    has_score = np.zeros(len(row), dtype=bool)
    done = 0
    for part in chunks(len(row), table.shape[1]):
        values = pool_features(pool, method, to_distributions(table[row[part]]))
        has_score[part] = ~np.isnan(values[:, 0, 0])
        values = values[has_score[part]]
        features[done : done + len(values)] = values
        done += len(values)
    return LabelledScores(row[has_score], codes[row[has_score]], features[:done])


def best_candidate(
    brier: dict[tuple[str, float], FloatArray], session: IntArray
) -> tuple[str, float]:
    """Return the candidate of the least Brier score, the first unless another is clearly better."""
    default, *others = brier
    if not len(session):  # no labelled row has a score
        return default
    best = min(others, key=lambda candidate: brier[candidate].sum())
    gain = brier[default] - brier[best]
    # Of few sessions, the best is often so by chance.
    by_session = np.bincount(renumber(session), weights=gain - gain.mean())
    return best if gain.sum() > 2 * np.sqrt(by_session @ by_session) else default


def predict_rows(model: Model, scores: PromptScores) -> FloatArray:
    """Compute the distributions; rows without any score are NaN."""
    has_score = scores.has_score()
    prob = np.full((len(has_score), scores.log.shape[2]), np.nan)
    if has_score.any():
        prob[has_score] = model.predict(scores.take(has_score))
    return prob


def pieces(table: FloatArray, rows: IntArray | None = None) -> Iterable[FloatArray]:
    """Yield a table, or only the given rows of it, in chunks of bounded size."""
    n_rows = len(table) if rows is None else len(rows)
    for part in chunks(n_rows, table.shape[1]):
        yield table[part if rows is None else rows[part]]


def number_by_content(
    scores: Callable[[slice], FloatArray], parts: list[slice], codes: IntArray, session: IntArray
) -> IntArray:
    """Return session codes that no order of rows or prompts and no name of a session changes.

    They depend on the scores that the sessions hold and, if these are the same, on the labels, so
    that the labels of a session do not decide which sessions calibrate it. Sessions that hold the
    same rows may change places. `scores` returns the scores (n, n_prompts, n_columns) of a part of
    the rows, whose labels are `codes`.
    """
    # Sums of integers that wrap around are the same in any order. A row is first described by the
    # scores of no prompt in particular, a prompt by its scores in such rows, and this distinguishes
    # the prompts in the final description of a row.
    prompt: np.ndarray = np.zeros(1, dtype=np.uint64)
    for part in parts:
        marks = _mark(scores(part))
        row = _scramble(marks.sum(axis=1))
        prompt = prompt + _scramble(marks + row[:, None]).sum(axis=0)
    row = np.zeros(len(codes), dtype=np.uint64)
    for part in parts:
        row[part] = _scramble(_scramble(_mark(scores(part)) + prompt).sum(axis=1))
    signature = np.zeros((2, session.max(initial=-1) + 1), dtype=np.uint64)
    np.add.at(signature[1], session, row)
    np.add.at(signature[0], session, _scramble(row + _scramble(codes.astype(np.uint64))))
    number: IntArray = np.empty(signature.shape[1], dtype=np.int64)
    number[np.lexsort(signature)] = np.arange(len(number))
    return number[session]


def _mark(scores: FloatArray) -> np.ndarray:
    """Return an integer for each prompt in each row, the same for the same scores."""
    with np.errstate(over="ignore"):
        rounded = np.round(scores, _DECIMALS)
    # Of scores so large that they overflow, no decimal counts.
    scores = np.where(np.isinf(rounded), scores, rounded) + 0.0  # no -0.0
    bits = np.where(np.isnan(scores), np.nan, scores).view(np.uint64)
    mark = np.zeros(bits.shape[:2], dtype=np.uint64)
    for column in range(bits.shape[2]):
        mark = _scramble(mark + bits[:, :, column])
    return mark


def _scramble(values: np.ndarray) -> np.ndarray:
    """Map 64-bit integers one to one to seemingly random ones (splitmix64, Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def resolve_score_type(score_type: str, table: FloatArray) -> str:
    """Return the type of the scores, by their range for "auto"."""
    if score_type != "auto":
        return score_type
    low, high = np.fmin.reduce(table, axis=None), np.fmax.reduce(table, axis=None)
    return "raw" if low < 0 or high > 1 else "probability"


def warn_of_few_labels(method: str, used: str) -> None:
    """Warn the caller of `fit` that a label-free method takes the place of the one asked for."""
    warn(
        f"method={method!r} needs human labels of at least two classes on rows with "
        "scores, from more than one session if it is cross-fitted; the label-free method "
        f"{used!r} is used instead. Label more sessions, or pass method={used!r}.",
        UserWarning,
        stacklevel=8,
    )


def learn(
    method: str, C: float, offsets: FloatArray, labelled: LabelledScores, train: IntArray
) -> tuple[Model, str]:
    """Fit a method, or the label-free fallback, on the labelled rows at `train`."""
    used = method
    if method not in LABEL_FREE and labelled.n_classes(train) < 2:
        used = "batch"
        warn_of_few_labels(method, used)
    if used == "mean":
        return Mean(), used
    pool = label_free_pool(offsets, used)
    if used == "batch":
        return pool, used
    if used == "isotonic":
        return fit_isotonic(pool, labelled, train), used
    return fit_pool(pool, labelled, train, used, C), used


def learned_values(models: list[Model], method: str) -> dict[str, list]:
    """Return what the models learned, by the name of the attribute; one value of each model."""
    pools = [model.pool if isinstance(model, Isotonic) else model for model in models]
    if any(isinstance(pool, Mean) for pool in pools):
        return {}
    learned = {"prompt_weights_": "weights", "prompt_offsets_": "offsets"}
    if method != "isotonic":
        learned |= {"class_scales_": "scales", "class_bias_": "bias"}
    found = {name: [getattr(pool, part) for pool in pools] for name, part in learned.items()}
    if method == "temperature":
        scales = [scales[0] for scales in found["class_scales_"]]
        found["temperature_"] = [float(1 / scale) if scale else np.inf for scale in scales]
    return found
