"""Subjects of the fuzz that judge or combine classifiers, and those of several labels."""

from numbers import Integral

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.utils._param_validation import Interval

from skpref import LLMCascadeClassifier, LLMScoreCalibrator, PairwisePreferenceClassifier
from skpref.inspection import learning_forecast, performance_report, suspects
from skpref.model_selection import LabelledGroupKFold
from tests.fuzz_inputs import choose
from tests.fuzz_subjects import (
    Classifier,
    Estimator,
    Function,
    Setting,
    Subject,
    check_distributions,
    ensure,
)

# Folds of few sessions may lack a class, and the labels may all be of one session.
_FEW = [(True, "session"), (True, "class")]


def _quick_classifier(data):
    return PairwisePreferenceClassifier(
        "linear", max_iter=15, random_state=0, classes=data.classes, verbose=0
    )


class Cascade(Estimator):
    weight = 0.4
    several_labels = True
    estimator = LLMCascadeClassifier
    arguments = ("X", "y", "groups", "llm_scores")
    by_row = ("proba", "predict", "asked")
    properties = (
        "row order",
        "session names",
        "prompt order",
        "clone",
        "pickle",
        "threads",
        "output",
        "refit",
        "state",
    )
    extremes = ("llm_scores",)
    uses = ("X", "llm_scores")
    tolerance = 0.02  # of a classifier that has not converged

    def own(self, rng, data):
        return {
            "classifier": lambda rng: _quick_classifier(data),
            "calibrator": lambda rng: choose(rng, [None, LLMScoreCalibrator("isotonic")]),
            "classes": lambda rng: list(data.classes),
            "labeler": lambda rng: None,
            "n_jobs": lambda rng: None,
            "cv": lambda rng: choose(rng, [2, 3]),
            "verbose": lambda rng: 0,
            # What so few sessions support is decided by single utterances.
            "max_error": lambda rng: None,
        }

    def draw(self, rng, data):
        drawn = super().draw(rng, data)
        needed = {"classifier": _quick_classifier(data)}
        return drawn._replace(params={"cv": 2, "verbose": 0} | drawn.params | needed)

    def refusals(self, setting, data):
        return _FEW

    def fit(self, model, data, setting):
        model.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)

    def use(self, model, data, setting):
        proba = model.predict_proba(data.X, llm_scores=data.llm_scores)
        return {
            "proba": proba,
            "predict": model.predict(data.X, llm_scores=data.llm_scores),
            "asked": model.expected_gain(data.X),
        }

    def check(self, model, data, setting, out):
        n, k = len(data.truth), len(data.classes)
        check_distributions(out["proba"], n, k)
        ensure(np.isin(out["predict"], model.classes_).all(), "predict gives classes")
        ensure(not model.deferred_[_scored(data)].any(), "no scored row is deferred")
        alone = model.predict_proba(data.X)
        check_distributions(alone, n, k)
        ensure((model.deferred_ == model.defer(data.X)).all(), "deferred_ without scores is defer")
        ensure(0 <= model.error_bound_ <= 1 and 0 <= model.llm_share_ <= 1, "shares from 0 to 1")
        one = model.predict_proba(data.X[:1])
        ensure(np.allclose(one, alone[:1], atol=1e-5), "one row as in a batch")


def _scored(data):
    """The rows with a complete answer to some prompt."""
    scores = data.llm_scores if data.llm_scores.ndim == 3 else data.llm_scores[:, :, None]
    return (~np.isnan(scores).any(axis=2)).any(axis=1)


class Quality(Function):
    """performance_report."""

    weight = 2
    function = staticmethod(performance_report)
    several_labels = True
    arguments = ("soft", "y", "groups")
    names = {"soft": ("predictions",)}
    properties = ("row order", "session names", "containers", "threads")

    def own(self, rng, data):
        return {"classes": lambda rng: list(data.classes), "X": lambda rng: None}

    def takes_anyway(self, argument, data):
        # One dimension is the positive class of a binary task or predicted labels.
        own = ("flat", "strings", "None") if argument == "soft" else ()
        return (*super().takes_anyway(argument, data), *own)

    def draw(self, rng, data):
        drawn = super().draw(rng, data)
        return drawn._replace(params={"n_bootstrap": 8, "random_state": 0} | drawn.params)

    def refusals(self, setting, data):
        return _FEW

    def use(self, model, data, setting):
        found = model(data.soft, data.y, data.groups)
        self.found = found
        return {"value": found.table.value.astype(float), "confusion": found.confusion}

    def check(self, model, data, setting, out):
        value, table = out["value"], self.found.table
        ensure(((value >= 0) & (value <= 1) | np.isnan(value)).all(), "figures from 0 to 1")
        interval = ~np.isnan(table.low.astype(float))
        ensure((table.low[interval] <= table.high[interval]).all(), "low below high")
        known = [label in data.classes for label in data.y.tolist()]
        ensure(out["confusion"].sum() == np.count_nonzero(known), "every label is counted")
        ensure(self.found.message and self.found.summary, "words and a table")


class Suspects(Function):
    weight = 2
    several_labels = True
    function = staticmethod(suspects)
    arguments = ("y", "soft", "llm_scores", "groups")
    names = {"soft": ("probabilities",)}
    properties = ("session names", "containers", "threads")

    def own(self, rng, data):
        return {
            "classes": lambda rng: list(data.classes),
            "X": lambda rng: None,
            "text": lambda rng: "text",
            "calibrator": lambda rng: choose(rng, [None, LLMScoreCalibrator("batch")]),
        }

    def takes_anyway(self, argument, data):
        own = ("flat", "None") if argument == "soft" else ()
        return (*super().takes_anyway(argument, data), *own)

    def use(self, model, data, setting):
        found = model(data.y, data.soft, data.llm_scores, data.groups)
        self.found = found
        return {"row": found.table.row, "score": found.table.score.astype(float)}

    def check(self, model, data, setting, out):
        kind, score = self.found.table.kind, out["score"]
        ensure(((score >= 0) & (score <= 1)).all(), "scores from 0 to 1")
        for name in ("label", "conflict"):
            ensure((np.diff(score[kind == name]) <= 1e-12).all(), "the worst first")
        known = np.array([label in data.classes for label in data.y.tolist()])
        ensure(known[out["row"][kind == "label"]].all(), "suspect labels are labels")


class Forecast(Function):
    weight = 0.1
    function = staticmethod(learning_forecast)
    arguments = ("X", "y", "groups", "llm_scores")

    def draw(self, rng, data):
        with_scores = rng.random() < 0.5
        clf = _quick_classifier(data) if with_scores else LogisticRegression()
        params = {"estimator": clf, "n_bootstrap": 8, "random_state": 0, "cv": 2, "verbose": 0}
        return Setting(params, {"scores": with_scores})

    def adapt(self, data, setting):
        return data if setting.options["scores"] else data._replace(llm_scores=None)

    def used(self, setting):
        return self.arguments if setting.options["scores"] else self.arguments[:3]

    def refusals(self, setting, data):
        return _FEW

    def use(self, model, data, setting):
        found = model(X=data.X, y=data.y, groups=data.groups, llm_scores=data.llm_scores)
        ensure(isinstance(found.message, str), "a message")
        return {"n": np.array(len(found.table.kind))}


class Folds(Subject):
    """LabelledGroupKFold."""

    weight = 1
    several_labels = True
    constraints = {"n_splits": [Interval(Integral, 2, None, closed="left")], "shuffle": ["boolean"]}
    arguments = ("y", "groups")
    by_row = ("fold",)
    properties = ("containers",)

    def own(self, rng, data):
        return {"n_splits": lambda rng: int(rng.integers(2, 4))}

    def draw(self, rng, data):
        drawn = super().draw(rng, data)
        return drawn._replace(params={"n_splits": 2} | drawn.params)

    def build(self, setting):
        shuffle = setting.params.get("shuffle") is True
        return LabelledGroupKFold(**setting.params, random_state=0 if shuffle else None)

    def refusals(self, setting, data):
        return [(True, "sessions have a label")]

    def use(self, model, data, setting):
        fold = np.full(len(data.truth), -1)
        for k, (train, test) in enumerate(model.split(data.X, data.y, data.groups)):
            ensure((fold[test] == -1).all(), "a test set for each row")
            ensure(len(train) + len(test) == len(fold), "all rows in each split")
            fold[test] = k
        return {"fold": fold}

    def check(self, model, data, setting, out):
        names = np.array([repr(g) for g in data.groups])
        splits = list(model.split(data.X, data.y, data.groups))
        for train, test in splits:
            ensure(not np.isin(names[train], names[test]).any(), "whole sessions")
            known = [label in data.classes for label in data.y[test].tolist()]
            ensure(any(known), "a label in each fold")


def _with_several_labels(data, gaps: int):
    """The data with a column of `y` per label, some unknown, and scores of two prompts."""
    truth = (data.soft > 1 / (2 * len(data.classes))).astype(int)
    place = np.add.outer(np.arange(len(truth)), np.arange(truth.shape[1]))
    scored = _scored(data)
    scores = np.where(scored[:, None], 1 / (1 + np.exp(-4 * data.soft + 1)), np.nan)
    scores = np.where(place[:, None] % 7 == 0, np.nan, np.stack([scores, scores**2], axis=1))
    y = np.where(place % 5 >= gaps, truth, -1)
    return data._replace(truth=truth, y=y, llm_scores=scores)


class SeveralLabels(Classifier):
    """The classifier with a column of `y` per label."""

    weight = 2
    properties = (
        "row order",
        "session names",
        "prompt order",
        "sparse",
        "clone",
        "pickle",
        "threads",
        "output",
        "refit",
        "state",
    )
    extremes = ("X",)

    def own(self, rng, data):
        plain = {name: (lambda rng: None) for name in ("calibrator", "smoother", "classes")}
        return (
            super().own(rng, data)
            | plain
            | {"class_weight": lambda rng: choose(rng, [None, "balanced"])}
        )

    def options(self, rng, data):
        drawn = super().options(rng, data)
        return drawn | {"partial_fit": False, "gaps": int(rng.integers(1, 5))}

    def adapt(self, data, setting):
        if data.truth.ndim == 2:
            return data
        data = _with_several_labels(data, setting.options["gaps"])
        if not setting.options["scores"]:
            data = data._replace(y=data.truth)
        return super().adapt(data, setting)

    def refusals(self, setting, data):
        quiet = data._replace(score_kind="probability")
        return [*super().refusals(setting, quiet), (True, "same soft label")]

    def use(self, model, data, setting):
        return {"proba": model.predict_proba(data.X), "predict": model.predict(data.X)}

    def check(self, model, data, setting, out):
        ensure(out["proba"].shape == data.truth.shape, "a probability of each label")
        ensure(((out["proba"] >= 0) & (out["proba"] <= 1)).all(), "probabilities from 0 to 1")
        ensure(np.isin(out["predict"], [0, 1]).all(), "an indicator")
        if model.decision == "argmax":
            likely = np.abs(out["proba"] - 0.5) > 1e-6
            same = (out["proba"] > 0.5) == out["predict"]
            ensure(same[likely].all(), "labels that are more probable than not")
        ensure(0 <= model.score(data.X, data.truth) <= 1, "a score")

    def spoil(self, rng, data, setting):
        y = data.y.astype(float)
        first = np.arange(y.size).reshape(y.shape) == 0
        kinds = {
            "of two": np.where(first, 2, y),
            "of a half": np.where(first, 0.5, y),
            "of words": np.where(y == 1, "yes", "no"),
            "too short": y[:-1],
            "infinite": np.where(first, np.inf, y),
            "three dimensions": np.stack([y, y], axis=2),
        }
        if setting.options["scores"]:
            kinds["of one label too many"] = np.c_[y, y[:, :1]]
        kind = choose(rng, kinds)
        return data._replace(y=kinds[kind]), f"y {kind}", ("y", "llm_scores")


class CascadeOfLabels(Cascade):
    """The cascade with a column of `y` per label."""

    extremes = ()

    def own(self, rng, data):
        quick = PairwisePreferenceClassifier("linear", max_iter=15, random_state=0, verbose=0)
        return super().own(rng, data) | {
            "classifier": lambda rng: quick,
            "calibrator": lambda rng: None,
            "classes": lambda rng: None,
        }

    def draw(self, rng, data):
        drawn = super().draw(rng, data)
        return drawn._replace(
            params=drawn.params | {"classifier": self.own(rng, data)["classifier"](rng)}
        )

    def adapt(self, data, setting):
        if data.truth.ndim == 2:
            return data
        return super().adapt(_with_several_labels(data, 1), setting)

    def refusals(self, setting, data):
        return [*super().refusals(setting, data), (True, "known labels")]

    def check(self, model, data, setting, out):
        ensure(out["proba"].shape == data.truth.shape, "a probability of each label")
        ensure(((out["proba"] >= 0) & (out["proba"] <= 1)).all(), "probabilities from 0 to 1")
        ensure(np.isin(out["predict"], [0, 1]).all(), "an indicator")
        model.predict(data.X)
        ensure((model.deferred_ == model.defer(data.X)).all(), "deferred_ without scores is defer")
        ensure(0 <= model.score(data.X, data.truth) <= 1, "a score")


class SuspectsOfLabels(Suspects):
    """Suspects among several labels."""

    weight = 1

    def own(self, rng, data):
        plain = {name: (lambda rng: None) for name in ("classes", "calibrator")}
        return super().own(rng, data) | plain

    def adapt(self, data, setting):
        return data if data.truth.ndim == 2 else _with_several_labels(data, 1)

    def takes_anyway(self, argument, data):
        # Of several labels, each may have a probability or none.
        own = ("nan",) if argument == "soft" else ()
        return (*super().takes_anyway(argument, data), *own)

    def check(self, model, data, setting, out):
        table, score = self.found.table, out["score"]
        ensure(((score >= 0) & (score <= 1)).all(), "scores from 0 to 1")
        is_label = table.kind == "label"
        row, column = table.row[is_label], table.column[is_label].astype(int)
        ensure((data.y[row, column] == table.label[is_label]).all(), "suspect labels are labels")
        ensure(np.isin(table.label[is_label], [0, 1]).all(), "known labels")


JUDGES = [
    Cascade(),
    Quality(),
    Suspects(),
    Forecast(),
    Folds(),
    SeveralLabels(),
    CascadeOfLabels(),
    SuspectsOfLabels(),
]
