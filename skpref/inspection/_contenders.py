"""The ways to learn that are compared, each as an estimator and a function that uses it."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils.metadata_routing import get_routing_for_object

from skpref._student._training_set import labels_in_place
from skpref._typing import FloatArray, IntArray
from skpref._validation import labels_of_codes, read_numbers
from skpref.inspection._pipeline import (
    find_classifier,
    new_calibrator,
    replace_classifier,
    steps_before,
    takes_texts,
)
from skpref.inspection._scores import fit_calibrator


class ComparisonData(NamedTuple):
    """Utterances, labels, sessions and scores that the contenders are compared on."""

    X: Any
    codes: IntArray  # -1 without a human label; two dimensions of several labels
    session: IntArray
    llm_scores: FloatArray
    classes: np.ndarray

    def features(self, rows: IntArray) -> Any:
        """Return rows of X: of an array, sparse matrix, frame or list."""
        return _take_rows(self.X, rows)

    def labels(self, rows: IntArray) -> np.ndarray:
        """Return the labels of rows, None for no label whatever their type; of several, codes."""
        codes = self.codes[rows]
        return codes if codes.ndim == 2 else labels_of_codes(codes, self.classes)


def _take_rows(X: Any, rows: IntArray) -> Any:
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    return [X[i] for i in rows] if isinstance(X, list | tuple) else X[rows]


class Distillation(ClassifierMixin, BaseEstimator):
    """Plain distillation: a classifier fitted with human labels in place of soft ones.

    Parameters
    ----------
    classifier : PairwisePreferenceClassifier or PairwisePreferenceTextClassifier
        The classifier to fit. It is cloned.

    Attributes
    ----------
    classifier_ : PairwisePreferenceClassifier or PairwisePreferenceTextClassifier
        The fitted classifier.
    """

    __metadata_request__fit = {"groups": True, "llm_scores": True}

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier

    def fit(self, X: Any, y: Any, groups: Any = None, llm_scores: Any = None) -> "Distillation":
        """Fit the classifier.

        Parameters
        ----------
        X : {array-like, sparse matrix, frame} or list of str
            What the classifier takes.
        y : array-like of shape (n_samples,)
            Human labels; -1 (numbers), None or NaN for an unlabelled row.
        groups : array-like of shape (n_samples,)
            Session id of each row.
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes)
            Raw LLM scores.

        Returns
        -------
        Distillation
            The fitted estimator.
        """
        clf = clone(self.classifier)
        prepared = clf._prepare(X, y, groups, llm_scores, None, classes=clf.classes)
        training = prepared.training.with_labels_as_soft()
        self.classifier_ = clf._fit_prepared(prepared._replace(training=training))
        self.classes_ = self.classifier_.classes_
        return self

    def predict_proba(self, X: Any) -> FloatArray:
        """Return the fitted classifier's probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix, frame} or list of str
            What the classifier takes.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities.
        """
        return self.classifier_.predict_proba(X)


class Contender(NamedTuple):
    """A way to learn: an unfitted estimator, and how it predicts rows that it has not seen."""

    estimator: Any
    # Of the estimator, the data, the training and the test rows; returns probabilities.
    predict: Callable[[Any, ComparisonData, IntArray, IntArray], FloatArray]


def make_contenders(estimator: Any, classes: np.ndarray, seed: int) -> dict[str, Contender]:
    """Return the ways to learn by their names in the table.

    Parameters
    ----------
    estimator : classifier of this library or Pipeline
        What "skpref" is; the others are made from it.
    classes : ndarray of shape (n_classes,)
        Class labels in the order of the scores.
    seed : int
        Seed of all classifiers if the estimator has none: with the same draws they differ by the
        loss alone.

    Returns
    -------
    dict of {str: Contender}
        The contenders.
    """
    prefix, classifier = find_classifier(estimator)
    common: dict[str, Any] = {"classes": classes}
    if classifier.random_state is None:
        common["random_state"] = seed

    def variant(**changes):
        return clone(classifier).set_params(**common, **changes)

    def contender(step, predict=_fit_on_scores):
        return Contender(replace_classifier(estimator, prefix, step), predict)

    class_weight = classifier.class_weight if isinstance(classifier.class_weight, dict) else None
    no_pairs = {"pairwise_weight": 0, "pointwise_weight": classifier.pointwise_weight or 1.0}
    # A classifier without stage 2 is distilled without it.
    distil = no_pairs | {"stage2": None if classifier.stage2 is None else "offsets"}
    plain = Distillation(variant(**distil, class_weight=class_weight))
    balanced = Distillation(variant(**distil, class_weight="balanced"))
    on_labels = variant(**no_pairs, calibrator="passthrough", smoother="passthrough")
    calibrator = new_calibrator(classifier)
    return {
        "skpref": contender(variant()),
        "skpref, no pairs": contender(variant(**no_pairs)),
        "distillation": contender(plain),
        "distillation, balanced": contender(balanced),
        "LLM scores, calibrated": Contender(calibrator, _calibrate_scores),
        "human labels": contender(on_labels, _fit_on_labels),
    }


def fit_and_predict(
    contender: Contender, data: ComparisonData, train: IntArray, test: IntArray
) -> tuple[FloatArray, float]:
    """Return the probabilities of the test rows, and the seconds that fit and prediction took."""
    start = time.perf_counter()
    prob = contender.predict(clone(contender.estimator), data, train, test)
    return prob, time.perf_counter() - start


def _fit_on_scores(estimator: Any, data: ComparisonData, train, test) -> FloatArray:
    """Fit on LLM scores and human labels."""
    with sklearn.config_context(enable_metadata_routing=True):
        estimator.fit(
            data.features(train),
            data.labels(train),
            groups=data.session[train],
            llm_scores=data.llm_scores[train],
        )
        return estimator.predict_proba(data.features(test))


def _calibrate_scores(calibrator: Any, data: ComparisonData, train, test) -> FloatArray:
    """Calibrate the LLM's own scores; it is asked about the test rows, too."""
    _, calibrator = fit_calibrator(
        calibrator, data.llm_scores[train], data.codes[train], data.classes, data.session[train]
    )
    return read_numbers(calibrator.transform(data.llm_scores[test]), "the output of calibrator")


def _fit_on_labels(estimator: Any, data: ComparisonData, train, test) -> FloatArray:
    """Fit on human labels alone: a logistic regression, or the network itself on texts."""
    if not takes_texts(find_classifier(estimator)[1]):
        return _fit_logistic_regression(estimator, data, train, test)
    with sklearn.config_context(enable_metadata_routing=True):
        _fit_texts_on_labels(estimator, data, train)
        return estimator.predict_proba(data.features(test))


def _fit_logistic_regression(estimator: Any, data: ComparisonData, train, test) -> FloatArray:
    """Fit a logistic regression on the features that the classifier gets."""
    X_train, X_test = data.features(train), data.features(test)
    steps = steps_before(estimator)
    if steps is not None:  # fitted on all rows: a step may look at the neighbours in a session
        with sklearn.config_context(enable_metadata_routing=True):
            wanted = get_routing_for_object(steps).consumes("fit_transform", ["groups"])
            params = {"groups": data.session[train]} if wanted else {}
            X_train = steps.fit_transform(X_train, data.labels(train), **params)
            X_test = steps.transform(X_test)
    codes = data.codes[train]
    if codes.ndim == 2:
        tables = [_learn_classes(X_train, of_label, X_test, len(test), 2) for of_label in codes.T]
        return np.column_stack([table[:, 1] for table in tables])
    return _learn_classes(X_train, codes, X_test, len(test), len(data.classes))


def _learn_classes(X_train: Any, codes: IntArray, X_test: Any, n_test: int, n_classes: int):
    """Fit a logistic regression; return the probabilities of the test rows."""
    present = np.unique(codes[codes >= 0])
    prob = np.zeros((n_test, n_classes))
    prob[:, present] = 1.0
    if len(present) > 1:
        model = LogisticRegression(max_iter=1000)
        model.fit(_take_rows(X_train, np.flatnonzero(codes >= 0)), codes[codes >= 0])
        prob[:, present] = model.predict_proba(X_test)
    return prob


def _fit_texts_on_labels(estimator: Any, data: ComparisonData, train: IntArray) -> None:
    """Fit a classifier of texts on labels as its scores, in as many steps as on all scores."""
    session, scores = data.session[train], data.llm_scores[train]
    n_scored = np.count_nonzero(~np.isnan(scores.reshape(len(scores), -1)).all(axis=1))
    # An unlabelled row of a labelled session trains nothing, but steps before the classifier may
    # look at it as a neighbour.
    codes = data.codes if data.codes.ndim == 1 else data.codes.max(axis=1)
    train = train[np.isin(session, session[codes[train] >= 0])]
    times = round(n_scored / np.count_nonzero(codes[train] >= 0))
    prefix, classifier = find_classifier(estimator)
    unknown = np.full((len(train), len(data.classes)), np.nan)
    estimator.set_params(**{f"{prefix}max_epochs": classifier.max_epochs * max(times, 1)})
    estimator.fit(
        data.features(train),
        data.labels(train),
        groups=data.session[train],
        llm_scores=labels_in_place(unknown, data.codes[train])[:, None],
    )
