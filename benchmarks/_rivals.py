"""The study's students: each way to learn from shared soft labels and a few human labels.

Every function takes the data, the human labels (-1 elsewhere), the soft labels, a setting and a
seed, and gives a function from features to class probabilities.
"""

from functools import partial

import numpy as np
import pandas as pd
from scipy.special import logit, softmax
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from skpref import KNNLabelSmoother, PairwisePreferenceClassifier
from skpref._student._stage2 import fit_offsets, probabilities
from skpref._torch._net import MLP
from skpref.inspection import _labels_in_place


def dawid_skene(scores: np.ndarray) -> np.ndarray:
    """Soft labels by crowd-kit's Dawid-Skene from each prompt's first choice."""
    from crowdkit.aggregation import DawidSkene

    row, prompt = np.nonzero(~np.isnan(scores).any(axis=2))
    answers = pd.DataFrame({"task": row, "worker": prompt})
    answers["label"] = scores[row, prompt].argmax(axis=1)
    found = DawidSkene(n_iter=50).fit_predict_proba(answers)
    soft = np.full((len(scores), scores.shape[2]), np.nan)
    soft[found.index] = 0.0
    soft[np.ix_(found.index, found.columns)] = found.to_numpy()
    return soft


class LogOddsStudent(PairwisePreferenceClassifier):
    """Margins of pairs in log-odds rather than probabilities."""

    def _dataset(self, rows):
        dataset = super()._dataset(rows)
        dataset.teacher = logit(np.clip(dataset.teacher, 0.02, 0.98))
        return dataset


class AcrossSessionsStudent(PairwisePreferenceClassifier):
    """Pairs of rows of any sessions: for stage 1 alone, rows are dealt to sessions anew."""

    def _train(self, rows, held_out, rng, module, checkpoint):
        order = rng.permutation(len(rows.codes))
        dealt = rows.take(order)._replace(session=rows.session)
        super()._train(dealt, held_out[order], rng, module, checkpoint)


def centre(target: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Take from each soft label its session's mean, and add the mean of all."""
    frame = pd.DataFrame(target)
    shifted = frame - frame.groupby(groups).transform("mean") + frame.mean()
    positive = shifted.clip(lower=1e-3)
    return positive.div(positive.sum(axis=1), axis=0).to_numpy()


def merge_by_topic(X: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Virtual sessions: four sessions on average, alike in their mean embedding."""
    means = pd.DataFrame(X).groupby(groups).mean()
    topic = KMeans(max(len(means) // 4, 1), random_state=seed).fit_predict(means.to_numpy())
    return topic[means.index.get_indexer(groups)]


def agreement(scores: np.ndarray) -> np.ndarray:
    """One less the mean distance in total variation between the prompts and their mean."""
    distance = np.abs(scores - np.nanmean(scores, axis=1, keepdims=True)).sum(axis=2) / 2
    return np.nan_to_num(1 - np.nanmean(distance, axis=1), nan=1.0)


def certainty(target: np.ndarray) -> np.ndarray:
    """One less the entropy of the soft label, as a share of the largest."""
    entropy = -(target * np.log(np.maximum(target, 1e-12))).sum(axis=1) / np.log(target.shape[1])
    return np.nan_to_num(1 - entropy, nan=1.0)


def row_weight(trust: np.ndarray, power: float, y: np.ndarray) -> np.ndarray:
    """Weigh a row by the trust in its soft label, and a labelled one by 1."""
    return np.where(y >= 0, 1.0, np.maximum(trust, 1e-3) ** power)


def choose_weight(make, X, y, groups, soft, *, weights=(0.0, 0.1, 0.3, 1.0)) -> float:
    """Weight of the pairs that predicts the labels of held-out sessions best."""
    labelled = np.flatnonzero(y >= 0)
    if len(np.unique(groups[labelled])) < 2:
        return weights[1]
    losses = np.zeros(len(weights))
    for _, held_out in GroupKFold(2).split(labelled, groups=groups[labelled]):
        rows = labelled[held_out]
        known = y.copy()
        known[rows] = -1
        for i, weight in enumerate(weights):
            model = make(pairwise_weight=weight).fit(X, known, groups=groups, llm_scores=soft)
            losses[i] -= np.log(model.predict_proba(X[rows])[np.arange(len(rows)), y[rows]]).sum()
    return weights[losses.argmin()]


def fit_student(data, y, soft, setting, seed):
    """Train a student on the shared soft labels, or on what a rival or a lever makes of them."""
    setting = dict(setting)
    train = data.split == "train"
    X, y, groups, scores = data.X[train], y[train], data.groups[train], data.llm_scores[train]
    target = soft.smooth if setting.pop("knn", True) else soft.raw
    if setting.pop("dawid_skene", False):
        target = KNNLabelSmoother(random_state=seed).fit_transform(
            X, dawid_skene(scores), groups=groups
        )
    if setting.pop("other_sessions", False):
        smoother = KNNLabelSmoother(exclude_same_group=True, random_state=seed)
        target = smoother.fit_transform(X, soft.raw, groups=groups)
    if setting.pop("centred", False):
        target = centre(target, groups)
    if setting.pop("labels_in_stage_1", False):
        target = _labels_in_place(target, y)
    if not (y >= 0).any():  # then "auto" fits the offsets, on the soft labels
        setting.pop("stage2", None)
    epsilon = setting.pop("label_smoothing", 0.0)
    target = (1 - epsilon) * target + epsilon / target.shape[1]
    weight = None
    if power := setting.pop("confidence", 0.0):
        weight = row_weight(certainty(target), power, y)
    if power := setting.pop("agreement", 0.0):
        weight = row_weight(agreement(scores), power, y)
    if setting.pop("virtual_sessions", False):
        groups = merge_by_topic(X, groups, seed)
    rounds = 1 + setting.pop("self_training", 0)
    kind = setting.pop("kind", PairwisePreferenceClassifier)
    make = partial(
        kind,
        calibrator="passthrough",
        smoother="passthrough",
        classes=np.arange(len(data.classes)),
        random_state=seed,
    )
    if setting.get("pairwise_weight") == "chosen":
        setting["pairwise_weight"] = choose_weight(make, X, y, groups, target[:, None])
    model = make(**setting)
    taught = target
    for _ in range(rounds):
        model.fit(X, y, groups=groups, llm_scores=taught[:, None], sample_weight=weight)
        taught = (target + model.predict_proba(X)) / 2
    return model.predict_proba


def fit_gce(data, y, soft, setting, seed):
    """Train the same network by generalised cross-entropy (Zhang and Sabuncu 2018)."""
    import torch
    from skorch import NeuralNet

    train = np.flatnonzero(data.split == "train")
    known = train[~np.isnan(soft.smooth).any(axis=1)]
    target = soft.smooth[~np.isnan(soft.smooth).any(axis=1)].astype(np.float32)
    target = _labels_in_place(target, y[known])

    class Loss(torch.nn.Module):
        def forward(self, logits, target):
            p = torch.softmax(logits, dim=1)
            return (target * (1 - p ** setting["q"]) / setting["q"]).sum(dim=1).mean()

    torch.manual_seed(seed)
    net = NeuralNet(
        MLP(data.X.shape[1], target.shape[1]),
        Loss,
        max_epochs=30,
        lr=setting["lr"],
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=setting["weight_decay"],
        batch_size=256,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    net.fit(data.X[known], target)
    return lambda X: softmax(net.predict(X), axis=1)


def fit_clean(data, y, soft, setting, seed):
    """Train logistic regression by cleanlab on the soft labels' first choices."""
    from cleanlab.classification import CleanLearning

    train = data.split == "train"
    known = ~np.isnan(soft.smooth).any(axis=1)
    hard = np.where(y[train] >= 0, y[train], np.nan_to_num(soft.smooth).argmax(axis=1))[known]
    found, codes = np.unique(hard, return_inverse=True)
    # Its own processes find nothing of their parent where that is a worker already.
    model = CleanLearning(
        LogisticRegression(max_iter=200, **setting),
        seed=seed,
        cv_n_folds=3,
        find_label_issues_kwargs={"n_jobs": 1},
    )
    model.fit(data.X[train][known], codes)
    return widen(model.predict_proba, found, len(data.classes))


def fit_human(data, y, _soft, setting, _seed):
    """Train logistic regression on the human labels alone."""
    model = LogisticRegression(max_iter=1000, **setting).fit(data.X[y >= 0], y[y >= 0])
    return widen(model.predict_proba, model.classes_, len(data.classes))


def widen(predict_proba, found, n_classes):
    """Give zeros to the classes that a model has not seen."""

    def predict(X):
        probabilities = np.zeros((len(X), n_classes))
        probabilities[:, found] = predict_proba(X)
        return probabilities

    return predict


def fit_trees(data, y, soft, setting, seed):
    """Train one XGBoost ranker per class within sessions; offsets by the human and soft labels."""
    from xgboost import XGBRanker

    train = np.flatnonzero(data.split == "train")
    known = ~np.isnan(soft.smooth).any(axis=1)
    rows, target = train[known], soft.smooth[known].copy()
    order = np.argsort(data.groups[rows], kind="stable")
    rows, target = rows[order], target[order]
    query = np.unique(data.groups[rows], return_inverse=True)[1]
    rankers = [
        XGBRanker(
            objective="rank:pairwise", tree_method="hist", n_jobs=1, random_state=seed, **setting
        ).fit(data.X[rows], target[:, k], qid=query)
        for k in range(target.shape[1])
    ]

    def score(X):
        return np.column_stack([ranker.predict(X) for ranker in rankers])

    labelled = y[rows] >= 0
    scores = score(data.X[rows])
    goal = np.vstack([np.eye(target.shape[1])[y[rows][labelled]], target])
    weight = np.r_[np.ones(labelled.sum()), np.full(len(rows), 200 / len(rows))]
    scale, offsets = fit_offsets(np.vstack([scores[labelled], scores]), goal, weight)
    return lambda X: probabilities(scale * score(X) + offsets)


FITTERS = {
    "student": fit_student,
    "gce": fit_gce,
    "clean": fit_clean,
    "human": fit_human,
    "trees": fit_trees,
}
