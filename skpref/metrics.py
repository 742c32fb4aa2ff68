"""Metrics of utterance classifiers: order within sessions, and calibration."""

import warnings
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import get_scorer
from sklearn.utils import check_array
from sklearn.utils.metadata_routing import MetadataRequest, get_routing_for_object

from skpref._sessions import won_and_compared
from skpref._sklearn import Interval, StrOptions, _safe_indexing, validate_params
from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds
from skpref._validation import (
    check_groups,
    check_labels,
    check_same_length,
    read_classes,
    read_numbers,
)

__all__ = [
    "expected_calibration_error",
    "make_labelled_scorer",
    "within_session_concordance",
    "within_session_concordance_scorer",
]

# A softmax in single precision may be off by this much.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)


def _check_predictions(values: ArrayLike, name: str) -> FloatArray:
    """Return predictions as a float array of one or two dimensions."""
    numbers = read_numbers(values, name)
    if 0 in numbers.shape:
        raise ValueError(
            f"{name} has shape {numbers.shape}, which is empty; pass one row per label."
        )
    out = check_array(
        numbers,
        dtype=np.float64,
        ensure_2d=False,
        allow_nd=True,
        input_name=name,
    )
    if out.ndim not in (1, 2):
        raise ValueError(
            f"{name} has shape {out.shape}; pass (n_samples,) or (n_samples, n_classes)."
        )
    return out


def _encode_labels(y_true: ArrayLike, labels: ArrayLike | None) -> tuple[np.ndarray, IntArray]:
    """Return the classes and the position of each label in them, -1 for an unlabelled row."""
    if labels is None:
        return check_labels(y_true, partial=True, name="y_true")
    wanted = read_classes(labels, name="labels")
    # If `labels` names -1, it is a class, not the mark of an unlabelled row.
    partial = -1 not in wanted.tolist()
    present, present_codes = check_labels(
        y_true, partial=True, minus_one_is_class=not partial, name="y_true"
    )
    position = {label: i for i, label in enumerate(wanted.tolist())}
    unknown = [label for label in present.tolist() if label not in position]
    if unknown:
        raise ValueError(
            f"y_true has labels {unknown!r} that are not in labels={wanted.tolist()!r}."
        )
    # Code -1 takes the last entry.
    recode = np.array([*(position[label] for label in present.tolist()), -1], dtype=np.int64)
    return wanted, recode[present_codes]


def _check_columns(values: FloatArray, classes: np.ndarray, name: str) -> None:
    """Raise if the columns of predictions do not match the classes."""
    if len(classes) == 0:  # no row is labelled
        return
    if values.ndim == 1:
        if len(classes) > 2:
            raise ValueError(
                f"{name} has one dimension but there are {len(classes)} classes "
                f"{classes.tolist()!r}; pass one column per class."
            )
    elif values.shape[1] != len(classes) or len(classes) < 2:
        raise ValueError(
            f"{name} has {values.shape[1]} columns but there are {len(classes)} classes "
            f"{classes.tolist()!r}; pass labels with the class of each column."
        )


def _undefined(message: str) -> float:
    """Return NaN, with the warning that scikit-learn gives for a metric without a value."""
    # The caller is above this helper, the metric and the wrapper that checks its parameters.
    warnings.warn(message, UndefinedMetricWarning, stacklevel=4)
    return float("nan")


@validate_params(
    {
        "y_true": ["array-like"],
        "y_score": ["array-like"],
        "groups": ["array-like"],
        "average": [StrOptions({"micro", "macro"})],
        "labels": ["array-like", None],
    },
    prefer_skip_nested_validation=True,
)
def within_session_concordance(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    groups: SessionIds,
    average: str = "micro",
    labels: ArrayLike | None = None,
) -> float:
    """Compute the share of pairs of utterances of the same session that scores order rightly.

    A pair is one row of a class and one row of another class, both of the same session. It is
    in the right order if the row of the class has the higher score for that class; a tie counts
    one half. For two classes this is the area under the ROC curve restricted to pairs within
    sessions, so shifting the scores of a session changes nothing. With more classes, each class is
    compared with the rest.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Human labels. Unlabelled rows are left out: -1 (numbers, unless `labels` names -1 as a
        class), None or NaN.
    y_score : array-like of shape (n_samples,) or (n_samples, n_classes)
        Scores, of any scale. One dimension, for two classes, is the score of the positive class,
        the second of `labels`; if there are two columns, the second is used.
    groups : array-like of shape (n_samples,)
        Session id of each row: any hashable values, in any order.
    average : {"micro", "macro"}, default="micro"
        "micro" pools the pairs of all sessions and classes, so that long sessions weigh more;
        "macro" is the mean over the sessions that have a pair, each weighing the same.
    labels : array-like of shape (n_classes,), default=None
        Class of each column of `y_score`. None takes the sorted labels that occur in `y_true`.

    Returns
    -------
    float
        Concordance between 0 and 1; 0.5 is chance. NaN, with an `UndefinedMetricWarning`, if no
        session has two rows of different classes.

    Raises
    ------
    ValueError
        If the columns of `y_score` do not match the classes, a label is not in `labels`, a score
        is not finite, or lengths differ.

    See Also
    --------
    within_session_concordance_scorer : This metric as a scorer for cross-validation.
    sklearn.metrics.roc_auc_score : Compares the rows of all sessions.

    Notes
    -----
    The pairs are counted by ranks, as the U statistic of Mann and Whitney [1]_ in each session,
    in O(n log n) time and O(n) memory for each class.

    References
    ----------
    .. [1] Mann, H. B. and Whitney, D. R. (1947). On a test of whether one of two random
       variables is stochastically larger than the other. Annals of Mathematical Statistics 18.

    Examples
    --------
    >>> from skpref.metrics import within_session_concordance
    >>> y_true = [0, 1, 0, 1, 1]
    >>> y_score = [0.1, 0.4, 0.6, 0.9, 0.2]
    >>> groups = ["a", "a", "b", "b", "b"]
    >>> round(within_session_concordance(y_true, y_score, groups=groups), 3)
    0.667
    >>> within_session_concordance(y_true, y_score, groups=groups, average="macro")
    0.75
    """
    scores = _check_predictions(y_score, "y_score")
    classes, codes = _encode_labels(y_true, labels)
    check_same_length(len(codes), "y_true", len(scores), "y_score")
    session = check_groups(groups, len(codes))
    labelled = codes >= 0
    _check_columns(scores, classes, "y_score")
    codes, scores, session = codes[labelled], scores[labelled], session[labelled]
    n_sessions = session.max(initial=-1) + 1

    won, compared = np.zeros(n_sessions), np.zeros(n_sessions)
    for k in [1] if len(classes) == 2 else range(len(classes)):
        score = scores if scores.ndim == 1 else scores[:, k]
        class_won, class_compared = won_and_compared(session, codes == k, score, n_sessions)
        won += class_won
        compared += class_compared

    if not compared.any():
        return _undefined("No session has two labelled rows of different classes to compare.")
    if average == "micro":
        return float(won.sum() / compared.sum())
    has_pair = compared > 0
    return float(np.mean(won[has_pair] / compared[has_pair]))


@dataclass(frozen=True)
class _WithinSessionConcordanceScorer:
    """Scorer of `within_session_concordance` for `scoring=`; it requests `groups`.

    It takes the order of the classes from the estimator's ``classes_`` and prefers
    ``decision_function`` to ``predict_proba``. Metadata routing must be enabled, since otherwise
    scikit-learn passes groups to no scorer: every score of a search is then NaN, with warnings
    that state the reason, or an error with ``error_score="raise"``.

    Parameters
    ----------
    groups : bool, str or None, default=True
        Metadata request of `groups`, as in `set_score_request`.

    Examples
    --------
    >>> import sklearn
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV, GroupKFold
    >>> from skpref.datasets import make_dialogues
    >>> from skpref.metrics import within_session_concordance_scorer
    >>> data = make_dialogues(n_sessions=20, random_state=0)
    >>> search = GridSearchCV(
    ...     LogisticRegression(),
    ...     {"C": [0.01, 1.0]},
    ...     scoring=within_session_concordance_scorer,
    ...     cv=GroupKFold(3),
    ... )
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     search = search.fit(data.X, data.y_true, groups=data.groups)
    >>> bool(search.best_score_ > 0.8)
    True
    """

    # Not made by make_scorer, whose metadata request can only be set while routing is enabled
    # and which cannot pass on the order of the classes.
    groups: bool | str | None = True

    def __call__(
        self, estimator: Any, X: Any, y_true: ArrayLike, *, groups: SessionIds | None = None
    ) -> float:
        """Score a fitted classifier; higher is better.

        Parameters
        ----------
        estimator : object
            Fitted classifier or pipeline with `classes_`, and `decision_function` or
            `predict_proba`.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to score.
        y_true : array-like of shape (n_samples,)
            Human labels; rows may be unlabelled.
        groups : array-like of shape (n_samples,)
            Session id of each row.

        Returns
        -------
        float
            Concordance pooled over sessions and classes.

        Raises
        ------
        ValueError
            If `groups` is not given.
        """
        if groups is None:
            raise ValueError(
                "within_session_concordance_scorer got no groups. Search or cross-validate "
                "inside `with sklearn.config_context(enable_metadata_routing=True):` and pass "
                "them there: GridSearchCV(...).fit(X, y, groups=groups), or "
                'cross_validate(..., params={"groups": groups}).'
            )
        if hasattr(estimator, "decision_function"):
            y_score = estimator.decision_function(X)
        else:
            y_score = estimator.predict_proba(X)
        return within_session_concordance(y_true, y_score, groups=groups, labels=estimator.classes_)

    def __repr__(self) -> str:
        return "within_session_concordance_scorer"

    def set_score_request(self, *, groups: bool | str | None) -> "_WithinSessionConcordanceScorer":
        """Return a scorer that takes its session ids from another metadata name.

        Parameters
        ----------
        groups : bool, str or None
            True requests `groups`, a name requests that metadata instead, False and None request
            nothing.

        Returns
        -------
        scorer
            A new scorer. This one is shared by all who import it, and stays unchanged.
        """
        return replace(self, groups=groups)

    def get_metadata_routing(self) -> MetadataRequest:
        """Return which metadata the scorer requests.

        Returns
        -------
        MetadataRequest
            The request of `groups`.
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="groups", alias=self.groups)
        return request

    def _accept_sample_weight(self) -> bool:
        # GridSearchCV calls this on each of several scorers if it gets sample weights.
        return False


within_session_concordance_scorer = _WithinSessionConcordanceScorer()


@dataclass(frozen=True)
class _LabelledScorer:
    """Scorer of the labelled rows, as `make_labelled_scorer` makes it.

    Parameters
    ----------
    scorer : callable
        Scorer of scikit-learn's protocol.
    if_undefined : float
        Score of rows on which it has none.
    """

    scorer: Any
    if_undefined: float = 0.0

    def __call__(self, estimator: Any, X: Any, y_true: ArrayLike, **params: Any) -> float:
        """Score a fitted classifier on the labelled rows; higher is better.

        Parameters
        ----------
        estimator : object
            Fitted classifier or pipeline with `classes_`.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to score.
        y_true : array-like of shape (n_samples,)
            Human labels; rows may be unlabelled.
        **params : dict
            Metadata of the rows, such as `sample_weight` or `groups`.

        Returns
        -------
        float
            The score, or `if_undefined`.
        """
        is_class = -1 in np.asarray(estimator.classes_).tolist()
        labels, codes = check_labels(
            y_true, partial=True, minus_one_is_class=is_class, name="y_true"
        )
        rows = np.flatnonzero(codes >= 0)
        params = {
            name: value if value is None else _safe_indexing(_as_array(value), rows)
            for name, value in params.items()
        }
        score = self._score(estimator, _safe_indexing(X, rows), labels[codes[rows]], params)
        if np.isnan(score):
            _undefined(
                f"The score of {len(rows)} labelled rows is undefined, so it is "
                f"{self.if_undefined}; use LabelledGroupKFold or fewer folds."
            )
            return self.if_undefined
        return float(score)

    def _score(self, estimator, X, truth, params) -> float:
        """Return the score, NaN if it needs a class that these rows lack."""
        if not len(truth):
            return float("nan")
        has_all = set(truth.tolist()) >= set(np.asarray(estimator.classes_).tolist())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UndefinedMetricWarning)
                return self.scorer(estimator, X, truth, **params)
        except ValueError:
            if has_all:
                raise
            return float("nan")

    def get_metadata_routing(self) -> MetadataRequest:
        """Return which metadata the scorer requests.

        Returns
        -------
        MetadataRequest
            The request of the scorer of the labelled rows.
        """
        return get_routing_for_object(self.scorer)

    def _accept_sample_weight(self) -> bool:
        # GridSearchCV calls this on each of several scorers if it gets sample weights.
        return self.scorer._accept_sample_weight()


def _as_array(values: Any) -> Any:
    return np.asarray(values, dtype=object) if isinstance(values, list | tuple) else values


@validate_params(
    {"scoring": [str, callable], "if_undefined": [Real]},
    prefer_skip_nested_validation=True,
)
def make_labelled_scorer(scoring: Any, *, if_undefined: float = 0.0) -> _LabelledScorer:
    """Make a scorer that leaves out unlabelled rows and is never NaN.

    The scorers of scikit-learn take the mark of an unlabelled row for a class, or raise. On a test
    fold without a labelled row a score is undefined, and a search with one NaN among the scores of
    a candidate cannot rank it. This scorer counts the labelled rows only, and gives every candidate
    the same number if there is none, which leaves their order unchanged.

    Parameters
    ----------
    scoring : str or callable
        Name of a scorer, such as "neg_log_loss", or a scorer.
    if_undefined : float, default=0.0
        Score of a fold in which no row is labelled, or a class that the metric needs is missing.
        It is part of the mean over the folds, so ``best_score_`` is comparable between candidates
        only.

    Returns
    -------
    scorer : callable
        Scorer for ``scoring=``.

    Warns
    -----
    UndefinedMetricWarning
        If a score is undefined.

    See Also
    --------
    skpref.model_selection.LabelledGroupKFold : Splits such that all folds have labels.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpref.metrics import make_labelled_scorer
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
    >>> model = LogisticRegression().fit(X, y)
    >>> make_labelled_scorer("accuracy")(model, X, [0, None, 1, None])
    1.0
    """
    return _LabelledScorer(get_scorer(scoring), float(if_undefined))


def _bin_confidence(confidence: FloatArray, n_bins: int, strategy: str) -> IntArray:
    """Return the bin of each confidence; a bin holds its upper edge."""
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        edges = np.quantile(confidence, edges)
    return np.searchsorted(edges[1:-1], confidence, side="left")


@validate_params(
    {
        "y_true": ["array-like"],
        "y_prob": ["array-like"],
        "labels": ["array-like", None],
        "n_bins": [Interval(Integral, 1, None, closed="left")],
        "strategy": [StrOptions({"uniform", "quantile"})],
    },
    prefer_skip_nested_validation=True,
)
def expected_calibration_error(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    n_bins: int = 15,
    strategy: str = "uniform",
) -> float:
    """Compute the mean distance between the confidence of predictions and their accuracy.

    The confidence of a row is its highest probability, and its prediction the class that has it
    (in a tie, the first). Rows are binned by confidence; the error is the mean over rows
    of the distance between a bin's accuracy and its mean confidence (Guo et al. 2017 [1]_,
    equation 3).

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Human labels. Unlabelled rows are left out: -1 (numbers, unless `labels` names -1 as a
        class), None or NaN.
    y_prob : array-like of shape (n_samples,) or (n_samples, n_classes)
        Probabilities. One dimension, for two classes, is the probability p of the positive
        class, the second of `labels`, and stands for the two columns 1 - p and p: the confidence
        is max(p, 1 - p), never below one half.
    labels : array-like of shape (n_classes,), default=None
        Class of each column of `y_prob`. None takes the sorted labels that occur in `y_true`.
    n_bins : int, default=15
        Number of bins.
    strategy : {"uniform", "quantile"}, default="uniform"
        "uniform" divides the range from 0 to 1 into bins of equal width, "quantile" at the
        quantiles of the confidences, so that bins hold about equal numbers of rows; rows of equal
        confidence share a bin.

    Returns
    -------
    float
        Error between 0 (calibrated) and 1. NaN, with an `UndefinedMetricWarning`, if no row is
        labelled.

    Raises
    ------
    ValueError
        If a probability is not between 0 and 1, the columns of `y_prob` do not match the
        classes, a label is not in `labels`, or lengths differ.

    See Also
    --------
    sklearn.calibration.calibration_curve : The bins of a binary task, for a plot.

    References
    ----------
    .. [1] Guo, C., Pleiss, G., Sun, Y. and Weinberger, K. Q. (2017). On calibration of modern
       neural networks. ICML. arXiv:1706.04599.

    Examples
    --------
    >>> from skpref.metrics import expected_calibration_error
    >>> y_true = ["no", "yes", "yes", "no"]
    >>> y_prob = [0.25, 0.75, 0.75, 0.75]
    >>> round(expected_calibration_error(y_true, y_prob), 3)
    0.0
    >>> round(expected_calibration_error(y_true, [0.0, 1.0, 1.0, 1.0]), 3)
    0.25
    """
    probabilities = _check_predictions(y_prob, "y_prob")
    low, high = float(probabilities.min()), float(probabilities.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"y_prob must be probabilities between 0 and 1; got values from {low!r} to {high!r}."
        )
    probabilities = probabilities.clip(0, 1)
    classes, codes = _encode_labels(y_true, labels)
    check_same_length(len(codes), "y_true", len(probabilities), "y_prob")
    _check_columns(probabilities, classes, "y_prob")
    labelled = codes >= 0
    if not labelled.any():
        return _undefined("No row is labelled, so there is no calibration error.")
    if probabilities.ndim == 1:
        if len(classes) < 2:
            raise ValueError(
                f"y_true has only the label {classes.tolist()[0]!r}, so it is unclear which class "
                "y_prob is the probability of; pass labels=[negative, positive]."
            )
        probabilities = np.column_stack([1 - probabilities, probabilities])

    codes, probabilities = codes[labelled], probabilities[labelled]
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == codes) - confidence
    gap_of_bin = np.bincount(_bin_confidence(confidence, n_bins, strategy), weights=gap)
    return float(np.abs(gap_of_bin).sum() / len(codes))
