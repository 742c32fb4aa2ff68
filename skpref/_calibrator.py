"""Calibrate LLM scores: turn the raw scores of several prompts into one distribution per row."""

import math
from numbers import Integral, Real
from typing import ClassVar, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.model_selection import GroupKFold
from sklearn.utils import ClassifierTags, Tags, check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from skpref._indicator import is_multilabel, read_indicator
from skpref._label_pools import ExclusiveClasses, SeveralLabels
from skpref._pools import (
    CANDIDATES,
    LABEL_FREE,
    LEARNING,
    LabelledScores,
    best_candidate,
    chunks,
    learned_values,
    number_by_content,
    resolve_score_type,
    take_labelled,
)
from skpref._score_reader import ScoreReader
from skpref._sklearn import (
    DocLinkMixin,
    Interval,
    StrOptions,
    _check_feature_names_in,
    _fit_context,
)
from skpref._state import keeps_state_on_failure
from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds
from skpref._validation import (
    ScoreOrder,
    check_groups,
    check_labels,
    check_llm_scores,
    check_same_length,
    read_numbers,
    score_order,
)

_LEARNED = ["prompt_weights_", "prompt_offsets_", "class_scales_", "class_bias_", "temperature_"]


class _Data(NamedTuple):
    """Data that a method learns from."""

    table: FloatArray
    offsets: list[FloatArray]  # mean log-scores (n_prompts, n_classes), of each label if several
    session: IntArray  # each row is one if there are no groups


class LLMScoreCalibrator(DocLinkMixin, TransformerMixin, BaseEstimator):
    """Ensemble and calibrate an LLM's raw scores.

    Combine the scores that several prompts gave each utterance into one class distribution, using
    the human labels that are available. The default is designed for few labels.

    Parameters
    ----------
    method : {"mean", "batch", "temperature", "sigmoid", "isotonic", "beta", "log_pool", \
            "auto"}, default="log_pool"
        How to calibrate. ``s_pk`` is prompt p's probability of class k, ``o_pk`` the mean of
        ``log s_pk`` over all rows of `fit`, labelled or not.

        - "mean": mean of the prompts' probabilities. Uses no labels.
        - "batch": ``g_k ∝ exp(mean_p (log s_pk - o_pk))``, which removes each prompt's
          preference for certain classes [1]_. Uses no labels, but needs many rows in `fit`.
        - "temperature": ``∝ exp(mean_p log s_pk / T)`` [2]_.
        - "sigmoid": ``∝ exp(a log g_k + b_k)`` with a >= 0; for two classes, Platt scaling [3]_.
        - "beta": ``∝ exp(a_k log g_k + b_k)`` with all a_k >= 0; for two classes, beta
          calibration [4]_.
        - "isotonic": an increasing step function of ``g_k`` for each class, then normalised [5]_.
          Needs several hundred labels.
        - "log_pool": ``∝ exp(sum_p w_p log s_pk + b_k)`` with all w_p >= 0, a logarithmic
          opinion pool [6]_ that learns which prompts to trust.
        - "auto": "log_pool", or "beta", "isotonic" or another `C` if its Brier score on labelled
          rows, each calibrated without the labels of its session, is smaller by two standard
          errors over sessions. Needs some 200 labels.
    score_type : {"auto", "probability", "log_odds", "raw"}, default="auto"
        Type of the scores. "probability": within [0, 1], including votes; normalised over the
        classes. "log_odds": logits (2-D) or unnormalised log-probabilities (3-D). "raw": any
        rating; standardised per prompt, then treated as log-odds. "auto" is "probability" if all
        scores in `fit` are within [0, 1], otherwise "raw".
    classes : array-like of shape (n_classes,), default=None
        Class labels in the order of the last axis of the scores. None uses the sorted labels in
        `y`, or 0, 1, ... if there are no labels. Required if a class has no label. The columns of
        the output are in sorted order, whatever the order given here. With several labels per
        utterance, the names of the columns of `y`, whose order stays.
    C : float, default=0.1
        Inverse strength of the L2 penalty that pulls weights, scales and bias towards the
        label-free pool ("batch", or the uncalibrated mean of log-scores for "temperature" and
        "log_pool"). With a smaller value, fewer labels suffice, but they can change less. Not used
        by "mean", "batch" and "isotonic".
    cv : int, default=5
        Largest number of folds for cross-fitting in `fit_transform`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels in sorted order, which is that of the columns of the output.
    multilabel_ : bool
        Whether several labels may apply to an utterance. Then the learned attributes below have
        one more axis in front, for the labels.
    method_ : str
        The method used: `method`, the choice of "auto", or "batch" if there were too few labels.
    score_type_ : str
        The score type used.
    n_prompts_ : int
        Number of prompts.
    prompt_weights_ : ndarray of shape (n_prompts,)
        Weight of each prompt in the pool. Not available with "mean".
    prompt_offsets_ : ndarray of shape (n_prompts, n_classes)
        Offsets subtracted from each prompt's log-scores, NaN for a prompt without any score. Not
        available with "mean".
    class_scales_ : ndarray of shape (n_classes,)
        Scale of the ensemble's log-probabilities. Not available with "mean" and "isotonic".
    class_bias_ : ndarray of shape (n_classes,)
        Bias of each class. Not available with "mean" and "isotonic".
    temperature_ : float
        The temperature T. Available only with "temperature".
    n_features_in_ : int
        Number of columns of the scores as a table.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of those columns. Available only if the scores are a frame with string column names.

    See Also
    --------
    sklearn.calibration.CalibratedClassifierCV : Calibrates a classifier instead of given scores.

    Notes
    -----
    If the scores of a prompt for a row contain NaN for any class or zero probability for all
    classes, the prompt is missing in that row, and the others share its weight evenly. A prompt
    without any score in `fit` is ignored. A row without any score gets NaN.

    Probabilities are smoothed to ``(s + 0.001) / (1 + 0.001 n_classes)`` before their logarithm is
    taken, so a vote counts like a probability of .999.

    If `y` has two dimensions, several labels may apply to an utterance. Each label is calibrated as
    a binary task, with a class for "applies" and one for "does not", in which the scores are the
    probabilities that it applies (or ratings of that), and the output holds the probability of
    each label. The labels learn together: half of the variance `C` of weights, scales and bias is
    shared by all of them, so a rare label borrows from the others what the prompts are worth and
    how far they say yes too often. ``g`` is not corrected for the offsets, except by "batch", which
    would make each label as likely as not; "isotonic" calibrates the labels separately. If there
    are no labels, the fallback is "mean".

    ``fit_transform(scores, y, groups)`` differs from ``fit(scores, y).transform(scores)``: each
    labelled row is calibrated by a model that has not seen the labels of its session, as in
    :class:`~sklearn.preprocessing.TargetEncoder`. Without `groups` the two are the same.

    References
    ----------
    .. [1] Zhou, H. et al. (2024). Batch calibration: rethinking calibration for in-context
       learning and prompt engineering. ICLR.
    .. [2] Guo, C. et al. (2017). On calibration of modern neural networks. ICML.
    .. [3] Platt, J. (1999). Probabilistic outputs for support vector machines and comparisons to
       regularized likelihood methods. Advances in Large Margin Classifiers.
    .. [4] Kull, M., Silva Filho, T. and Flach, P. (2017). Beta calibration: a well-founded and
       easily implemented improvement on logistic calibration for binary classifiers. AISTATS.
    .. [5] Zadrozny, B. and Elkan, C. (2002). Transforming classifier scores into accurate
       multiclass probability estimates. KDD.
    .. [6] Genest, C. and Zidek, J. (1986). Combining probability distributions: a critique and an
       annotated bibliography. Statistical Science 1(1).

    Examples
    --------
    >>> import numpy as np
    >>> from skpref import LLMScoreCalibrator
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=300)
    >>> good, useless = rng.normal(3 * y, 1), rng.normal(size=300)
    >>> ratings = np.column_stack([good, useless])
    >>> human = np.where(np.arange(300) < 100, y, -1)
    >>> calibrator = LLMScoreCalibrator().fit(ratings, human)
    >>> calibrator.score_type_, calibrator.prompt_weights_.round(1)
    ('raw', array([1.2, 0.4]))
    >>> calibrator.transform([[3.0, 0.0], [np.nan, 0.0], [np.nan, np.nan]]).round(1)
    array([[0.2, 0.8],
           [0.4, 0.6],
           [nan, nan]])
    """

    _parameter_constraints: ClassVar[dict] = {
        "method": [StrOptions({*LABEL_FREE, *LEARNING, "auto"})],
        "score_type": [StrOptions({"auto", "probability", "log_odds", "raw"})],
        "classes": ["array-like", None],
        "C": [Interval(Real, 0, None, closed="neither")],
        "cv": [Interval(Integral, 2, None, closed="left")],
    }

    # Lets a Pipeline under metadata routing pass groups to fit_transform without a request.
    __metadata_request__fit: ClassVar[dict] = {"groups": True}

    def __init__(
        self,
        method: str = "log_pool",
        *,
        score_type: str = "auto",
        classes: ArrayLike | None = None,
        C: float = 0.1,
        cv: int = 5,
    ) -> None:
        self.method = method
        self.score_type = score_type
        self.classes = classes
        self.C = C
        self.cv = cv

    @_fit_context(prefer_skip_nested_validation=True)
    @keeps_state_on_failure
    def fit(
        self, X: ArrayLike, y: ArrayLike | None = None, groups: SessionIds | None = None
    ) -> "LLMScoreCalibrator":
        """Learn the calibration.

        Parameters
        ----------
        X : array-like of shape (n, n_prompts, n_classes), (n, n_prompts) or \
                (n, n_prompts * n_classes)
            Raw LLM scores, NaN if missing; with several labels per utterance, those of each label.
            Two-dimensional scores are those of the positive class of a binary task or, if `classes`
            or `y` name more than two classes, the scores of all classes by the first prompt, then
            by the second, and so on.
        y : array-like of shape (n,) or (n, n_labels), default=None
            Human labels; -1 (numbers) or None/NaN (objects) marks an unlabelled row. Two dimensions
            hold several labels per utterance: 1 where a label applies, 0 where it does not, and -1,
            None or NaN where that is unknown.
        groups : array-like of shape (n,), default=None
            Session ids. `fit_transform` and ``method="auto"`` use them.

        Returns
        -------
        LLMScoreCalibrator
            The fitted calibrator.

        Raises
        ------
        ValueError
            If the shape of `X` does not fit the classes, no row has a score, a score is infinite
            or does not match `score_type`, or a label is not in `classes`.

        Warns
        -----
        UserWarning
            If `method` needs labels of at least two classes and they are not available. "batch" is
            used instead, or "mean" with several labels per utterance.
        """
        self._fit(X, y, groups)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    @keeps_state_on_failure
    def fit_transform(
        self, X: ArrayLike, y: ArrayLike | None = None, groups: SessionIds | None = None
    ) -> FloatArray:
        """Learn the calibration and apply it, cross-fitted by session.

        Each labelled row is calibrated without the labels of the fold that contains its session.
        All other rows are calibrated with all labels. If only one session has labels, its labelled
        rows are calibrated by the label-free "batch".

        Parameters
        ----------
        X : array-like of shape (n, n_prompts, n_classes), (n, n_prompts) or \
                (n, n_prompts * n_classes)
            Raw LLM scores, as in `fit`.
        y : array-like of shape (n,) or (n, n_labels), default=None
            Human labels, as in `fit`.
        groups : array-like of shape (n,), default=None
            Session ids. None disables cross-fitting, as in ``fit(X, y).transform(X)``.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Class probabilities, NaN in rows without any score.
        """
        data, labelled, C = self._fit(X, y, groups)
        prob = self._task.predict(self._models, self._reader, data.table)
        if groups is not None and self.method_ not in LABEL_FREE:
            self._cross_fit(data, labelled, self.method_, C, out=prob)
        return self._task.as_output(prob)

    def transform(self, X: ArrayLike) -> FloatArray:
        """Calibrate scores.

        Parameters
        ----------
        X : array-like of shape (n, n_prompts, n_classes), (n, n_prompts) or \
                (n, n_prompts * n_classes)
            Raw LLM scores, in the same form as in `fit`.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Class probabilities, NaN in rows without any score.
        """
        check_is_fitted(self)
        table, _ = self._as_table(X, reset=False)
        table = self._task.as_rows(table)
        return self._task.as_output(self._task.predict(self._models, self._reader, table))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> np.ndarray:
        """Name the columns of the output after the classes.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Only checked against the names seen in `fit`.

        Returns
        -------
        ndarray of str objects
            ``llmscorecalibrator_`` followed by each class label.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features)
        prefix = type(self).__name__.lower()
        return np.asarray([f"{prefix}_{c}" for c in self.classes_], dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        # A plain table holds the scores of a binary task. More classes need `classes`, 3-D scores
        # or a number of columns that happens to fit.
        multi_class = self.classes is not None and np.size(self.classes) > 2
        tags.classifier_tags = ClassifierTags(multi_class=multi_class)
        return tags

    def _classes_as_given(self) -> np.ndarray:
        """Return the class labels in the order of the scores."""
        if self.multilabel_:
            return self.classes_
        return ScoreOrder(self.classes_, self._score_of_class).as_given

    def __sklearn_is_fitted__(self) -> bool:
        return "_models" in vars(self)

    def _fit(self, X, y, groups) -> tuple[_Data, LabelledScores, float]:
        """Fit; return what cross-fitting needs."""
        table, shape = self._as_table(X, reset=True)
        session = np.arange(len(table)) if groups is None else check_groups(groups, len(table))
        self.multilabel_ = is_multilabel(y, self.classes, X)
        set_layout = self._set_labels if self.multilabel_ else self._set_layout
        codes = set_layout(table, shape, y)
        self._task = SeveralLabels(len(self.classes_)) if self.multilabel_ else ExclusiveClasses()
        table = self._task.as_rows(table)
        session = np.repeat(session, len(table) // len(session))
        self.score_type_ = resolve_score_type(self.score_type, table)
        self._reader = ScoreReader(
            self.n_prompts_, self._score_of_class, self._n_columns, self.score_type_, table
        )
        data = _Data(table, self._task.mean_log(self._reader, table), session)
        auto = self.method == "auto"
        method, C = self._choose_method(data, codes) if auto else (self.method, self.C)
        labelled = self._take_labelled(data, codes, method)
        rows = np.arange(len(labelled.row))
        self._models, self.method_ = self._task.learn(method, C, data.offsets, labelled, rows)
        self._set_attributes()
        return data, labelled, C

    def _choose_method(self, data: _Data, codes: IntArray) -> tuple[str, float]:
        """Return method and C, by the Brier score on labelled rows of unseen sessions."""
        known = codes >= 0
        if min(len(np.unique(part[known])) for part in (codes, data.session)) < 2:
            return CANDIDATES[0]
        scores = {}
        n_classes = len(self._score_of_class)
        prob = np.empty((len(codes), n_classes))
        for method, C in CANDIDATES:
            labelled = self._take_labelled(data, codes, method)
            self._cross_fit(data, labelled, method, C, out=prob)
            truth = np.eye(n_classes)[labelled.codes]
            scores[method, C] = ((prob[labelled.row] - truth) ** 2).sum(axis=1)
        return best_candidate(scores, data.session[labelled.row])

    def _cross_fit(
        self, data: _Data, labelled: LabelledScores, method: str, C: float, *, out: FloatArray
    ) -> None:
        """Write the probabilities of labelled rows by models of other sessions to rows of `out`."""
        # GroupKFold deals sessions of the same size by their codes.
        sessions = number_by_content(
            lambda part: self._reader.read(data.table[labelled.row[part]]).prob,
            chunks(len(labelled.row), data.table.shape[1]),
            labelled.codes,
            data.session[labelled.row],
        )
        n_folds = min(self.cv, len(np.unique(sessions)))
        folds = [(np.arange(0), np.arange(len(sessions)))]
        if n_folds > 1:
            folds = GroupKFold(n_folds).split(sessions, groups=sessions)
        for train, test in folds:
            models, _ = self._task.learn(method, C, data.offsets, labelled, train)
            rows = labelled.row[test]
            out[rows] = self._task.predict(models, self._reader, data.table, rows)

    def _as_table(self, X, *, reset: bool) -> tuple[FloatArray, tuple[int, int] | None]:
        """Check the scores; return them as a table, and (n_prompts, n_classes) if X is 3-D."""
        scores, shape = read_numbers(X, "llm_scores"), None
        if scores.ndim not in (2, 3):
            raise ValueError(
                f"llm_scores has {scores.ndim} dimensions, not 2 or 3. Reshape your data: pass "
                "shape (n_utterances, n_prompts, n_classes), or (n_utterances, n_prompts) with the "
                "positive class's scores of a binary task."
            )
        if scores.ndim == 3:
            scores = check_llm_scores(scores)
            shape = scores.shape[1:]
            if not reset and shape != self._shape:
                raise ValueError(
                    f"llm_scores has {shape} prompts and columns per prompt but fit saw "
                    f"{self._shape}; pass scores in the same form as in fit."
                )
            scores = scores.reshape(len(scores), math.prod(scores.shape[1:]))
        table = check_array(
            scores,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
            input_name="llm_scores",
            estimator=self,
        )
        # Only a frame has names of columns.
        named = X if shape is None and hasattr(X, "columns") else table
        validate_data(self, named, reset=reset, skip_check_array=True)
        return table, shape

    def _set_layout(self, table: FloatArray, shape: tuple[int, int] | None, y) -> IntArray:
        """Determine the classes and the columns per prompt; return the codes of the labels."""
        labels = np.full(len(table), -1) if y is None else y
        classes, codes = check_labels(labels, classes=self.classes, partial=True)
        if len(codes) != len(table):
            raise ValueError(f"y has {len(codes)} entries but llm_scores has {len(table)} rows.")
        n_classes = max(len(classes), 2) if shape is None else shape[1]
        if n_classes < 2:
            raise ValueError(
                "llm_scores has shape (n_utterances, n_prompts, 1), a single class; pass "
                "(n_utterances, n_prompts) with the positive class's scores of a binary task."
            )
        if len(classes) not in (0, n_classes):
            source = "y" if self.classes is None else "classes"
            raise ValueError(
                f"llm_scores has {n_classes} classes but {source} names {len(classes)} "
                f"class{'es' if len(classes) > 1 else ''}: {classes.tolist()!r}. Pass classes with "
                "one label per class of the scores, in their order."
            )
        self.classes_, self._score_of_class = score_order(classes, self.classes, n_classes)
        self._n_columns = 1 if shape is None and n_classes == 2 else n_classes
        if table.shape[1] % self._n_columns:
            raise ValueError(
                f"llm_scores has {table.shape[1]} columns, not a multiple of the {n_classes} "
                f"classes {self.classes_.tolist()!r}; pass (n_utterances, n_prompts, n_classes), "
                "or n_prompts * n_classes columns."
            )
        self.n_prompts_ = table.shape[1] // self._n_columns
        self._shape = (self.n_prompts_, self._n_columns)
        return codes

    def _set_labels(self, table: FloatArray, shape: tuple[int, int] | None, y) -> IntArray:
        """Determine the labels of which several may apply; return the codes of the cells."""
        self.classes_, codes = read_indicator(y, self.classes)
        check_same_length(len(codes), "y", len(table), "llm_scores")
        n_labels = len(self.classes_)
        if table.shape[1] % n_labels or (shape is not None and shape[1] != n_labels):
            given = (len(table), *(shape or table.shape[1:]))
            raise ValueError(
                f"llm_scores has shape {given} but y has {n_labels} labels per row; pass "
                f"(n_utterances, n_prompts, {n_labels}): the probability that each label applies."
            )
        self._score_of_class, self._n_columns = np.arange(2), 1
        self.n_prompts_ = table.shape[1] // n_labels
        self._shape = (self.n_prompts_, n_labels)
        return codes.ravel()

    def _take_labelled(self, data: _Data, codes: IntArray, method: str) -> LabelledScores:
        origin = self._task.origin(data.offsets)
        return take_labelled(self._reader.read, data.table, codes, origin, method)

    def _set_attributes(self) -> None:
        for name in _LEARNED:
            self.__dict__.pop(name, None)
        for name, values in learned_values(self._models, self.method_).items():
            setattr(self, name, self._task.as_attribute(values))
