"""The cascade: the classifier answers what it is sure of, the LLM is asked about the rest."""

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skpref._columns import read_rows
from skpref._indicator import is_multilabel, read_indicator
from skpref._pipelines import last_step
from skpref._sklearn import (
    DocLinkMixin,
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
)
from skpref._state import keeps_state_on_failure
from skpref._student._cross_fit import Rows, cross_fit, probabilities, with_classes
from skpref._student._deferral import (
    Opinion,
    Rule,
    cheapest_rule,
    expected_gain,
    learn_gain,
    learn_voices,
    make_rules,
    was_asked,
)
from skpref._student._output import labelled_accuracy
from skpref._student._training_set import calibrate, make_calibrator
from skpref._typing import ArrayLike, BoolArray, FloatArray, IntArray, SessionIds
from skpref._validation import (
    ScoreOrder,
    check_groups,
    check_labels,
    check_llm_scores,
    check_same_length,
    read_numbers,
    score_order,
    sort_scores,
)

_DEFAULT_SHARE = 0.3
# Shares tried for `max_error`, one after the other, as a sequence of tests has to be.
_SHARES = np.linspace(1, 0, 21)


class LLMCascadeClassifier(DocLinkMixin, MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Classifier that asks the LLM about the utterances for which that pays, and pools both.

    The classifier answers alone where it is sure, in milliseconds. About the other utterances the
    LLM is asked as well, and its calibrated scores are pooled with the classifier's probabilities.
    How many they are is set by a budget, or by the largest error that is acceptable.

    Parameters
    ----------
    classifier : classifier or Pipeline
        Classifier of this library, a pipeline that ends with one, or any classifier with
        `predict_proba`. One that takes no `llm_scores` in `fit` is fitted on the labelled rows.
        Inside `sklearn.frozen.FrozenEstimator` it is used as it is; the sessions given to `fit`
        must be others than those that it was fitted on.
    calibrator : LLMScoreCalibrator, "passthrough" or None, default=None
        Calibrator of the LLM's own scores. None is ``LLMScoreCalibrator()``.
    llm_share : float, default=None
        Largest share of the utterances to ask the LLM about, from 0 to 1. None is 0.3, or with
        `max_error` as many as it takes.
    max_error : float, default=None
        Largest share of wrong answers, with `confidence`. The LLM is asked about as few utterances
        as the labelled sessions allow.
    confidence : float, default=0.95
        Probability with which the bounds on the error hold.
    decision : {"argmax", "macro_f1"}, default="argmax"
        How a class is chosen: the most probable one, or the one that raises the macro-F1 expected
        on the training rows.
    classes : array-like of shape (n_classes,), default=None
        Class labels in the order of the last axis of `llm_scores`. None takes those of the
        classifier or, if it has none, the sorted labels in `y`.
    labeler : LLMLabeler, default=None
        Asks the LLM. With it, `X` is a frame of dialogues or texts, as the labeler and the
        classifier take it, and scores that are not given are asked for.
    cv : int, default=5
        Largest number of folds of sessions for the predictions that pool and bound are learnt from.
    n_jobs : int, default=None
        Number of fits at the same time. None is 1.
    verbose : "auto", bool or int, default="auto"
        Whether to print a line after each fit. "auto" shows a progress bar instead, after three
        seconds, and only in a terminal or a notebook.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, sorted; with several labels per utterance, their names in the order of the
        columns.
    multilabel_ : bool
        Whether several labels may apply to an utterance.
    classifier_ : classifier or Pipeline
        The classifier, fitted on all rows.
    calibrator_ : LLMScoreCalibrator
        The calibrator of the LLM's scores, fitted on all rows.
    pool_ : LLMScoreCalibrator
        The pool of both; its ``prompt_weights_`` are those of the classifier and the LLM.
    labeler_ : LLMLabeler
        The fitted labeler. Only available with `labeler`.
    threshold_ : float
        The LLM is asked about rows whose expected gain is above it.
    llm_share_ : float
        Share of the training rows about which it would be asked.
    error_bound_ : float
        Upper confidence bound on the share of wrong answers. With several labels per utterance each
        of them is an answer.
    deferred_ : ndarray of bool, shape (n_samples,)
        Rows of the last call of `predict` or `predict_proba` that the LLM should be asked about,
        but that had no score: the classifier alone has answered them.

    See Also
    --------
    CascadeCurveDisplay : Draws the quality by the share of utterances asked about.
    sklearn.frozen.FrozenEstimator : Keeps a fitted classifier as it is.

    Notes
    -----
    The pool is ``∝ exp(w_1 log p_1 + w_2 log p_2 + b)`` of the classifier's and the LLM's
    probabilities, fitted as by :class:`LLMScoreCalibrator` on labelled rows that neither has seen,
    and drawn to equal weights. The gain to be expected from asking is learnt from all rows with
    scores: how much more probable, for the pool, its choice is than that of the classifier alone,
    given the classifier's probabilities. So the LLM is not asked where it would be as unsure.

    The bound on the error is that of Korn and Graubard [1]_ with sessions as clusters, and one
    imaginary session, half of it wrong, for what few sessions cannot show. For `max_error`, shares
    are tested from the largest on, up to the first whose bound is above it, which keeps the
    confidence [2]_. The bound is for utterances of new sessions like the labelled ones, and for
    classifiers trained on as many labels as in a fold. It does not hold after a drift or for
    another population, and it says nothing about a single session.

    References
    ----------
    .. [1] Korn, E. and Graubard, B. (1998). Confidence intervals for proportions with small
       expected number of positive counts estimated from survey data. Survey Methodology 24.
    .. [2] Angelopoulos, A. et al. (2021). Learn then test: calibrating predictive algorithms to
       achieve risk control. arXiv 2110.01052.

    Examples
    --------
    >>> import numpy as np
    >>> from skpref import LLMCascadeClassifier, PairwisePreferenceClassifier
    >>> from skpref.datasets import make_dialogues
    >>> data = make_dialogues(n_sessions=60, labelled_fraction=0.4, random_state=0)
    >>> train = np.isin(data.groups, np.unique(data.groups)[:40])
    >>> cascade = LLMCascadeClassifier(
    ...     PairwisePreferenceClassifier(random_state=0), llm_share=0.2
    ... )
    >>> cascade = cascade.fit(
    ...     data.X[train], data.y[train], groups=data.groups[train],
    ...     llm_scores=data.llm_scores[train],
    ... )
    >>> X, truth = data.X[~train], data.y_true[~train]
    >>> ask = cascade.defer(X)
    >>> answers = np.where(ask[:, None, None], data.llm_scores[~train], np.nan)  # of an LLM
    >>> alone, pooled = cascade.score(X, truth), cascade.score(X, truth, llm_scores=answers)
    >>> print(f"asked about {ask.mean():.0%}, accuracy {alone:.2f} -> {pooled:.2f}")
    asked about 16%, accuracy 0.93 -> 0.95
    """

    __metadata_request__fit: ClassVar[dict] = {"groups": True, "llm_scores": True}
    __metadata_request__predict: ClassVar[dict] = {"llm_scores": True}
    __metadata_request__predict_proba: ClassVar[dict] = {"llm_scores": True}
    __metadata_request__score: ClassVar[dict] = {"llm_scores": True}

    _parameter_constraints: ClassVar[dict] = {
        "classifier": [HasMethods(["fit", "predict_proba"])],
        "calibrator": [None, StrOptions({"passthrough"}), HasMethods(["fit_transform"])],
        "llm_share": [None, Interval(Real, 0, 1, closed="both")],
        "max_error": [None, Interval(Real, 0, 1, closed="neither")],
        "confidence": [Interval(Real, 0, 1, closed="neither")],
        "decision": [StrOptions({"argmax", "macro_f1"})],
        "classes": [None, "array-like"],
        "labeler": [None, HasMethods(["fit", "transform"])],
        "cv": [Interval(Integral, 2, None, closed="left")],
        "n_jobs": [None, Integral],
        "verbose": [StrOptions({"auto"}), "verbose"],
    }

    def __init__(
        self,
        classifier: Any,
        calibrator: Any = None,
        *,
        llm_share: float | None = None,
        max_error: float | None = None,
        confidence: float = 0.95,
        decision: str = "argmax",
        classes: ArrayLike | None = None,
        labeler: Any = None,
        cv: int = 5,
        n_jobs: int | None = None,
        verbose: Any = "auto",
    ) -> None:
        self.classifier = classifier
        self.calibrator = calibrator
        self.llm_share = llm_share
        self.max_error = max_error
        self.confidence = confidence
        self.decision = decision
        self.classes = classes
        self.labeler = labeler
        self.cv = cv
        self.n_jobs = n_jobs
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    @keeps_state_on_failure
    def fit(
        self,
        X: Any,
        y: ArrayLike,
        groups: SessionIds | None = None,
        llm_scores: ArrayLike | None = None,
    ) -> "LLMCascadeClassifier":
        """Fit the classifier, the pool, and the rule of whom to ask.

        Parameters
        ----------
        X : {array-like, sparse matrix, frame} of shape (n_samples, n_features) or list of str
            Input of the classifier, one row per utterance.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Human labels; -1 (numbers), None or NaN marks an unlabelled row. At least two sessions
            must have labels. Two dimensions hold several labels per utterance, as in
            :class:`PairwisePreferenceClassifier`.
        groups : array-like of shape (n_samples,)
            Session id of each row.
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or \
                (n_samples, n_prompts), default=None
            Raw LLM scores, NaN if missing. None asks the labeler about all rows. With several
            labels, the probability that each applies.

        Returns
        -------
        LLMCascadeClassifier
            The fitted cascade.

        Raises
        ------
        ValueError
            If scores or session ids are missing, fewer than two sessions or classes are labelled,
            shapes or classes do not match, or the labelled sessions do not support `max_error`.
        """
        rows = self._read(X, y, groups, llm_scores)
        classifier = with_classes(self.classifier, rows.classes)
        network, self.classifier_ = cross_fit(
            classifier, rows, self.cv, n_jobs=self.n_jobs, verbose=self.verbose
        )
        calibrator = make_calibrator(self.calibrator)
        llm, self.calibrator_ = calibrate(
            calibrator, rows.scores, rows.codes, rows.session, rows.classes
        )
        self._voices, alone, pooled = learn_voices(
            network, llm, rows.codes, rows.session, rows.classes, self.decision
        )
        asked = was_asked(llm)
        self._gain = learn_gain(alone, pooled, asked)
        rule = self._choose_rule(alone, pooled, asked, rows)
        self.classes_, self.pool_ = rows.classes, self._voices.pooled.pool
        self.multilabel_ = rows.multilabel
        self.threshold_, self.llm_share_ = rule.threshold, rule.share
        self.error_bound_ = rule.error.upper(self.confidence)
        self._last_call = {"deferred": np.zeros(0, dtype=bool)}
        self._shape_of_scores = rows.scores.shape[1:]
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.classifier_, name):
                setattr(self, name, getattr(self.classifier_, name))
        return self

    def _read(self, X, y, groups, llm_scores) -> Rows:
        """Read the arguments of `fit`, and ask the labeler for scores if there are none."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        if llm_scores is None and self.labeler is None:
            raise ValueError(
                "llm_scores is missing: the cascade learns from the LLM's scores of the training "
                "rows when asking pays; pass llm_scores=, or a labeler that asks for them."
            )
        if groups is None:
            raise ValueError(
                "groups (the session ids) is missing, so the classifier would be judged on "
                "sessions that it has seen; pass groups=."
            )
        X, n_rows = read_rows(X)
        if self.labeler is not None:
            self.labeler_ = clone(self.labeler).fit(X, y)
            if llm_scores is None:
                llm_scores = self.labeler_.transform(X)
        scores = check_llm_scores(llm_scores, n_rows)
        classes = self.classes
        if classes is None:
            classes = getattr(last_step(self.classifier)[1], "classes", None)
        codes, order, scores = _read_labels(y, classes, scores, n_rows)
        self._columns = order.columns
        rows = Rows(X, codes, check_groups(groups, n_rows), scores, order.classes)
        _check_enough_labels(rows)
        return rows

    def _choose_rule(self, alone: Opinion, pooled: Opinion, asked: BoolArray, rows: Rows) -> Rule:
        """Return the rule that keeps to the budget or the target."""
        most = self.llm_share
        if most is None:
            most = _DEFAULT_SHARE if self.max_error is None else 1.0
        shares = [most]
        if self.max_error is not None:
            shares += [share for share in _SHARES if share < most]
        gain = expected_gain(self._gain, alone)
        rules = make_rules(alone, pooled, gain, asked, rows.codes, rows.session, shares)
        if self.max_error is None:
            return rules[0]
        return cheapest_rule(rules, self.max_error, self.confidence)

    def expected_gain(self, X: Any) -> FloatArray:
        """Return the gain to be expected from asking the LLM about each row.

        Parameters
        ----------
        X : {array-like, sparse matrix, frame} of shape (n_samples, n_features) or list of str
            Input of the classifier.

        Returns
        -------
        ndarray of shape (n_samples,)
            The gain, in probability of a right answer.
        """
        return self._expect_gain(self._answer_alone(X)[0])

    def defer(self, X: Any) -> BoolArray:
        """Return whether to ask the LLM about each row.

        It depends on the row alone, so live and batch use agree.

        Parameters
        ----------
        X : {array-like, sparse matrix, frame} of shape (n_samples, n_features) or list of str
            Input of the classifier.

        Returns
        -------
        ndarray of bool, shape (n_samples,)
            True for the rows to ask about; their scores are then given to `predict`.
        """
        return self.expected_gain(X) > self.threshold_

    def predict_proba(self, X: Any, llm_scores: ArrayLike | None = None) -> FloatArray:
        """Return the probability of each class.

        Parameters
        ----------
        X : {array-like, sparse matrix, frame} of shape (n_samples, n_features) or list of str
            Input of the classifier.
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or \
                (n_samples, n_prompts), default=None
            Raw LLM scores of the rows that were asked about, NaN elsewhere. They are pooled
            wherever they are given. None asks the labeler, if there is one.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Pooled probabilities of rows with scores; the classifier's own, calibrated, of others.
            With several labels, the probability that each applies.
        """
        return self._answer(X, llm_scores)[0]

    def predict(self, X: Any, llm_scores: ArrayLike | None = None) -> np.ndarray:
        """Return the class of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix, frame} of shape (n_samples, n_features) or list of str
            Input of the classifier.
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or \
                (n_samples, n_prompts), default=None
            Raw LLM scores, as in `predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
            Class labels; with several labels per row, 1 where a label applies and 0 where not.
        """
        codes = self._answer(X, llm_scores)[1]
        return codes if self.multilabel_ else self.classes_[codes]

    def score(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        llm_scores: ArrayLike | None = None,
    ) -> float:
        """Return the accuracy on the labelled rows.

        Parameters
        ----------
        X : {array-like, sparse matrix, frame} of shape (n_samples, n_features) or list of str
            Input of the classifier.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Human labels; rows without one do not count. A row of several labels is right if all its
            known ones are.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or \
                (n_samples, n_prompts), default=None
            Raw LLM scores, as in `predict_proba`.

        Returns
        -------
        float
            Accuracy.
        """
        predicted = self._answer(X, llm_scores)[1]
        return labelled_accuracy(predicted, y, self.classes_, sample_weight)

    @property
    def deferred_(self) -> BoolArray:
        """Rows of the last call that the classifier answered alone although asking pays."""
        return self._last_call["deferred"]

    def __sklearn_is_fitted__(self) -> bool:
        return "_last_call" in vars(self)

    def _answer_alone(self, X: Any) -> tuple[Opinion, FloatArray]:
        """Return the opinion of the classifier alone, and its own probabilities."""
        check_is_fitted(self)
        with sklearn.config_context(transform_output="default"):
            network = probabilities(self.classifier_, X, self.classes_, self.multilabel_)
        return self._voices.alone.opinion(network), network

    def _answer_llm(self, llm_scores: ArrayLike, n_rows: int) -> Opinion:
        """Return the opinion of the LLM alone, NaN in rows without scores."""
        scores = check_llm_scores(llm_scores, n_rows)
        if self.multilabel_ and scores.ndim == 2:
            scores = scores[:, None]
        scores = sort_scores(scores, self._columns)
        if scores.shape[1:] != self._shape_of_scores:
            raise ValueError(
                f"llm_scores has shape {scores.shape}, but the cascade was fitted on rows of shape "
                f"{self._shape_of_scores}; pass scores of the same prompts and classes, NaN where "
                "a prompt was not asked."
            )
        llm = read_numbers(self.calibrator_.transform(scores), "the output of calibrator")
        return Opinion(llm, self._voices.llm_offsets, self.multilabel_)

    def _expect_gain(self, alone: Opinion) -> FloatArray:
        return expected_gain(self._gain, alone)

    def _answer_pooled(
        self, alone: Opinion, network: FloatArray, llm: FloatArray
    ) -> tuple[FloatArray, IntArray]:
        """Return probabilities and class positions, pooled in rows that the LLM has scored."""
        prob, codes = alone.prob.copy(), alone.choose()
        asked = was_asked(llm)
        if asked.any():
            pooled = self._voices.pooled.opinion(network[asked], llm[asked])
            prob[asked], codes[asked] = pooled.prob, pooled.choose()
        return prob, codes

    def _answer(self, X: Any, llm_scores: ArrayLike | None) -> tuple[FloatArray, IntArray]:
        """Return probabilities and class positions, and note which rows lack scores."""
        alone, network = self._answer_alone(X)
        ask = self._expect_gain(alone) > self.threshold_
        if llm_scores is None and self.labeler is not None and ask.any():
            llm_scores = self.labeler_.transform(X, rows=ask)
        llm = np.full_like(network, np.nan)
        if llm_scores is not None:
            llm = self._answer_llm(llm_scores, len(network)).prob
        self._last_call["deferred"] = ask & ~was_asked(llm)
        return self._answer_pooled(alone, network, llm)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.classifier)
        tags.input_tags = inner.input_tags
        tags.classifier_tags = inner.classifier_tags
        return tags


def _read_labels(
    y: ArrayLike, classes: ArrayLike | None, scores: FloatArray, n_rows: int
) -> tuple[IntArray, ScoreOrder, FloatArray]:
    """Return labels as codes, the classes, and the scores in the order of the classes."""
    if is_multilabel(y, classes, scores):
        labels, codes = read_indicator(y, classes)
        check_same_length(len(codes), "y", n_rows, "X")
        scores = scores[:, None] if scores.ndim == 2 else scores
        return codes, ScoreOrder(labels, np.arange(len(labels))), scores
    labels, codes = check_labels(y, classes=classes, partial=True)
    check_same_length(len(codes), "y", n_rows, "X")
    order = score_order(labels, classes, scores.shape[2] if scores.ndim == 3 else 2)
    return codes, order, sort_scores(scores, order.columns)


def _check_enough_labels(rows: Rows) -> None:
    """Raise unless pool and bound can be learnt."""
    known = rows.codes >= 0
    n_sessions = len(np.unique(rows.session[rows.labelled()]))
    n_classes = len(np.unique(rows.codes[known]))
    if n_classes == 1 and rows.multilabel:
        raise ValueError(
            f"y is {rows.codes[known][0]} for all known labels; the cascade needs a label that "
            "applies to some rows and not to others."
        )
    if n_classes == 1:
        raise ValueError(
            f"y has one class only ({rows.classes[rows.codes[known][0]]!r}) on its labelled rows; "
            "the cascade needs labels of at least 2 classes."
        )
    if n_sessions < 2:
        raise ValueError(
            f"y has labels in {n_sessions} sessions, but the cascade needs at least 2: one to "
            "learn from while another judges; label more sessions."
        )
