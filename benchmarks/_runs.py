"""One run: draw the human labels, make the soft labels, train, decide, score."""

import numpy as np
from scipy.special import softmax
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.utils import Bunch

from benchmarks._common import quiet
from benchmarks._rivals import FITTERS
from skpref import KNNLabelSmoother, LLMScoreCalibrator
from skpref._sessions import won_and_compared
from skpref._student._output import ascend, expected_f1_offsets
from skpref._validation import check_groups
from skpref.metrics import expected_calibration_error, within_session_concordance

METRICS = {"macro_f1": "macro-F1", "accuracy": "accuracy", "concordance": "concordance"}
RULES = ["argmax", "balanced", "macro-F1", "expected macro-F1"]


def draw_labels(data: Bunch, n_labels: int, seed: int) -> np.ndarray:
    """Keep `n_labels` labels of random train sessions, the last one cut short; -1 elsewhere."""
    rng = np.random.RandomState(seed)
    free = np.flatnonzero((data.split == "train") & (data.y >= 0))
    order = {session: i for i, session in enumerate(rng.permutation(np.unique(data.groups[free])))}
    place = np.array([order[session] for session in data.groups[free]], dtype=int)
    chosen = free[np.argsort(place, kind="stable")][:n_labels]
    y = np.full(len(data.y), -1)
    y[chosen] = data.y[chosen]
    return y


def make_soft_labels(data: Bunch, y: np.ndarray, seed: int, method: str | None = None) -> Bunch:
    """Return the soft labels of the train rows, calibrated and smoothed, for all rows of a run."""
    train = data.split == "train"
    settings = {} if method is None else {"method": method}
    calibrator = LLMScoreCalibrator(classes=np.arange(len(data.classes)), **settings)
    raw = calibrator.fit_transform(data.llm_scores[train], y[train], groups=data.groups[train])
    smoother = KNNLabelSmoother(random_state=seed)
    smooth = smoother.fit_transform(data.X[train], raw, groups=data.groups[train])
    return Bunch(raw=raw, smooth=smooth, calibrator=calibrator)


def best_offsets(log_p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fit offsets of the classes that raise macro-F1 on some rows, by coordinate ascent."""

    def value(trial):
        found = (log_p + trial).argmax(axis=1)
        return f1_score(y, found, average="macro", zero_division=0) - 0.005 * np.abs(trial).sum()

    return ascend(value, log_p.shape[1], steps=(-1.0, -0.5, 0.5, 1.0), n_rounds=2)


def llm_probabilities(data, soft, setting) -> np.ndarray:
    """Return the LLM's own probabilities of all rows, uniform for a row without a score."""
    calibrator = soft.calibrator
    if setting:
        calibrator = LLMScoreCalibrator(classes=np.arange(len(data.classes)), **setting)
        calibrator.fit(data.llm_scores[data.split == "train"])
    found = calibrator.transform(data.llm_scores)
    return np.where(np.isnan(found), 1 / len(data.classes), found)


def offsets_of_rules(p_train, y_train, soft) -> np.ndarray:
    """Fit the offsets of each decision rule on the train rows."""
    log_p = np.log(np.maximum(p_train, 1e-6))
    labelled, known = y_train >= 0, ~np.isnan(soft.smooth).any(axis=1)
    offsets = np.zeros((len(RULES), log_p.shape[1]))
    offsets[1] = -np.log(np.maximum(p_train.mean(axis=0), 1e-3))
    if labelled.any():
        offsets[2] = best_offsets(log_p[labelled], y_train[labelled])
    offsets[3] = expected_f1_offsets(log_p[known], soft.smooth[known], np.ones(known.sum()))
    return offsets


def run_row(kind, setting, data, y, soft, seed, split) -> dict:
    """Train one row; return log-probabilities of a split and the offsets of each decision rule."""
    train, where = data.split == "train", data.split == split
    if kind == "llm":
        found = llm_probabilities(data, soft, setting)
        p_train, p_split = found[train], found[where]
    else:
        predict = FITTERS[kind](data, y, soft, setting, seed)
        p_train, p_split = predict(data.X[train]), predict(data.X[where])
    log_p = np.log(np.maximum(p_split, 1e-6)).astype(np.float16)
    return {"log_p": log_p, "offsets": offsets_of_rules(p_train, y[train], soft)}


def decide(data, split, log_p, offset) -> dict:
    """Score the classes that a decision rule's offsets choose."""
    where = (data.split == split) & (data.y >= 0)
    truth = data.y[where]
    found = (log_p[where[data.split == split]].astype(float) + offset).argmax(axis=1)
    present = np.unique(truth)
    return {
        "macro_f1": f1_score(truth, found, labels=present, average="macro", zero_division=0),
        "accuracy": accuracy_score(truth, found),
    }


def score(data, split, log_p, offsets, rules=RULES) -> dict:
    """Score the probabilities of a split under some decision rules."""
    where = data.split == split
    human = data.y[where] >= 0
    truth, groups = data.y[where][human], data.groups[where][human]
    labels = np.arange(len(data.classes))
    scores = {}
    for rule in rules:
        offset = offsets[RULES.index(rule)]
        p = softmax(log_p[human].astype(float) + offset, axis=1)
        with quiet(UndefinedMetricWarning):
            concordance = within_session_concordance(truth, p, groups=groups, labels=labels)
        scores[rule] = decide(data, split, log_p, offset) | {
            "concordance": concordance,
            "log_loss": log_loss(truth, p, labels=labels),
            "ece": expected_calibration_error(truth, p, labels=labels),
        }
    return scores


def count_by_session(data, log_p) -> Bunch:
    """Count, for each test session, what the metrics are sums of.

    Returns `confusion` (n_sessions, n_classes, n_classes) of true and predicted classes, and the
    pairs `won` and `compared`, each (n_sessions,).
    """
    where = data.split == "test"
    session = check_groups(data.groups[where], where.sum())
    truth, p = data.y[where], softmax(log_p, axis=1)
    n_sessions, n_classes = session.max() + 1, p.shape[1]
    confusion = np.zeros((n_sessions, n_classes, n_classes))
    np.add.at(confusion, (session, truth, p.argmax(axis=1)), 1)
    scored = [1] if n_classes == 2 else range(n_classes)
    pairs = [won_and_compared(session, truth == k, p[:, k], n_sessions) for k in scored]
    won, compared = np.sum(pairs, axis=0)
    return Bunch(confusion=confusion, won=won, compared=compared)
