"""The ways to learn that are compared."""

import time
from typing import Any, NamedTuple

import numpy as np
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import get_routing_for_object

from skpref._student._base import BasePreferenceClassifier
from skpref._student._text_classifier import PairwisePreferenceTextClassifier
from skpref._student._training_set import make_calibrator
from skpref._typing import FloatArray, IntArray
from skpref._validation import labels_of_codes


def _last_step(estimator: Any) -> tuple[str, BasePreferenceClassifier]:
    """Prefix of the classifier's parameters in an estimator, and the classifier."""
    prefix, step = "", estimator
    while isinstance(step, Pipeline):
        prefix += f"{step.steps[-1][0]}__"
        step = step.steps[-1][1]
    if not isinstance(step, BasePreferenceClassifier):
        raise ValueError(
            f"estimator={estimator!r:.200} must be a PairwisePreferenceClassifier, or a Pipeline "
            f"whose last step is one, but that is a {type(step).__name__}. Of a search, pass its "
            "best_estimator_."
        )
    return prefix, step


class _Distillation(ClassifierMixin, BaseEstimator):
    """Plain distillation: human labels replace the soft labels of their rows.

    Parameters
    ----------
    classifier : PairwisePreferenceClassifier or PairwisePreferenceTextClassifier
        Trained on those labels.
    """

    __metadata_request__fit = {"groups": True, "llm_scores": True}

    def __init__(self, classifier):
        self.classifier = classifier

    def fit(self, X, y, groups=None, llm_scores=None):
        """Fit a clone of the classifier."""
        clf = clone(self.classifier)
        prepared = clf._prepare(X, y, groups, llm_scores, None, classes=clf.classes)
        training = prepared.training.with_labels_as_soft()
        self.classifier_ = clf._fit_prepared(prepared._replace(training=training))
        self.classes_ = clf.classes_
        return self

    def predict_proba(self, X):
        """Return the probabilities of the classifier."""
        return self.classifier_.predict_proba(X)


def _variants(estimator: Any, prefix: str, last: Any, fixed: dict) -> dict[str, Any]:
    """Give each classifier that is compared, unfitted, in its pipeline."""

    def variant(wrap=None, **changes):
        step = clone(last).set_params(**fixed, **changes)
        step = step if wrap is None else wrap(step)
        return clone(estimator).set_params(**{prefix[:-2]: step}) if prefix else step

    plain = last.class_weight if isinstance(last.class_weight, dict) else None
    no_pairs = {"pairwise_weight": 0, "pointwise_weight": last.pointwise_weight or 1.0}
    # What has no stage 2 keeps none.
    distil = no_pairs | {"stage2": None if last.stage2 is None else "offsets"}
    return {
        "skpref": variant(),
        "skpref, no pairs": variant(**no_pairs),
        "distillation": variant(_Distillation, **distil, class_weight=plain),
        "distillation, balanced": variant(_Distillation, **distil, class_weight="balanced"),
        "human labels": variant(**no_pairs, calibrator="passthrough", smoother="passthrough"),
    }


def make_contenders(estimator, prefix, last, classes, seed) -> dict[str, Any]:
    """Unfitted estimator of each row of the table."""
    fixed = {"classes": classes}
    if last.random_state is None:  # the same draws for all, so that they differ by the loss alone
        fixed["random_state"] = seed
    made = _variants(estimator, prefix, last, fixed)
    calibrator = make_calibrator(last.calibrator)
    if "classes" in calibrator.get_params():
        calibrator.set_params(classes=classes)
    human = made.pop("human labels")
    return made | {"LLM scores, calibrated": calibrator, "human labels": human}


def _take(X: Any, rows: IntArray) -> Any:
    """Rows of an array, sparse matrix, frame or list."""
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    return [X[i] for i in rows] if isinstance(X, list | tuple) else X[rows]


class ComparisonData(NamedTuple):
    X: Any
    codes: IntArray
    session: IntArray
    llm_scores: FloatArray
    classes: np.ndarray

    def labels(self, rows: IntArray) -> np.ndarray:
        """Labels as the classifier takes them: None whatever their type where there is none."""
        return labels_of_codes(self.codes[rows], self.classes)


def _steps_before(estimator: Any) -> Pipeline | None:
    """Unfitted steps of a pipeline before the classifier."""
    steps: list[Any] = []
    while isinstance(estimator, Pipeline):
        steps += [step for _, step in estimator.steps[:-1]]
        estimator = estimator.steps[-1][1]
    if not steps:
        return None
    return clone(Pipeline([(f"step {i}", step) for i, step in enumerate(steps)]))


def _logistic_regression(estimator: Any, data: ComparisonData, train, test) -> FloatArray:
    """Learn from the human labels alone, on the features that the classifier gets."""
    X_train, X_test = _take(data.X, train), _take(data.X, test)
    steps = _steps_before(estimator)
    if steps is not None:  # fitted on all rows: some look at the neighbours in a session
        with sklearn.config_context(enable_metadata_routing=True):
            wanted = get_routing_for_object(steps).consumes("fit_transform", ["groups"])
            params = {"groups": data.session[train]} if wanted else {}
            X_train = steps.fit_transform(X_train, data.labels(train), **params)
            X_test = steps.transform(X_test)
    codes = data.codes[train]
    found = np.unique(codes[codes >= 0])
    prob = np.zeros((len(test), len(data.classes)))
    prob[:, found] = 1.0
    if len(found) > 1:
        model = LogisticRegression(max_iter=1000)
        model.fit(_take(X_train, np.flatnonzero(codes >= 0)), codes[codes >= 0])
        prob[:, found] = model.predict_proba(X_test)
    return prob


def _finetune_on_labels(estimator: Any, data: ComparisonData, train) -> Any:
    """Give a text classifier the labels as its scores, and as many steps as with all scores."""
    session, scores = data.session[train], data.llm_scores[train]
    n_scored = np.count_nonzero(~np.isnan(scores.reshape(len(scores), -1)).all(axis=1))
    # A row without a label is unknown and trains nothing, but stands in its session for steps that
    # look at its neighbours.
    train = train[np.isin(session, session[data.codes[train] >= 0])]
    times = round(n_scored / np.count_nonzero(data.codes[train] >= 0))
    prefix, clf = _last_step(estimator)
    epochs = clf.max_epochs * max(times, 1)
    estimator.set_params(**{f"{prefix}max_epochs": epochs})
    one_hot = np.vstack([np.eye(len(data.classes)), np.full(len(data.classes), np.nan)])
    scores = one_hot[data.codes[train]][:, None]
    X, labels = _take(data.X, train), data.labels(train)
    return estimator.fit(X, labels, groups=data.session[train], llm_scores=scores)


def _takes_text(estimator: Any) -> bool:
    """Return whether the classifier at the end of an estimator takes texts."""
    return isinstance(_last_step(estimator)[1], PairwisePreferenceTextClassifier)


def fit_and_predict(
    estimator, data: ComparisonData, train, test, row: str
) -> tuple[FloatArray, float]:
    """Probabilities of the test rows by one way to learn, and the seconds it took."""
    start = time.perf_counter()
    labels, session, scores = data.labels(train), data.session[train], data.llm_scores[train]
    if row == "LLM scores, calibrated":
        # The LLM is asked about the test rows, too, so it needs no student.
        fitted = estimator.fit(scores, labels, groups=session)
        return fitted.transform(data.llm_scores[test]), time.perf_counter() - start
    if row == "human labels" and not _takes_text(estimator):
        prob = _logistic_regression(estimator, data, train, test)
        return prob, time.perf_counter() - start
    with sklearn.config_context(enable_metadata_routing=True):
        if row == "human labels":
            _finetune_on_labels(estimator, data, train)
        else:
            estimator.fit(_take(data.X, train), labels, groups=session, llm_scores=scores)
        prob = estimator.predict_proba(_take(data.X, test))
    return prob, time.perf_counter() - start
