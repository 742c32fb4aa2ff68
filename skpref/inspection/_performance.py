"""Report how well a classifier does, with intervals by session."""

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from sklearn.utils import Bunch, check_random_state

from skpref._columns import is_table, read_column
from skpref._indicator import is_multilabel, read_indicator
from skpref._sklearn import HasMethods, Interval, validate_params
from skpref._typing import ArrayLike, BoolArray, FloatArray, IntArray, SessionIds
from skpref._validation import (
    check_groups,
    check_labels,
    check_same_length,
    read_numbers,
)
from skpref.inspection._bootstrap import (
    MIN_SESSIONS,
    percentile_interval,
    ratio,
    session_weights,
)
from skpref.inspection._counts import SessionCounts, count_by_session
from skpref.inspection._report import Report, caution_if_few, format_interval, join_names, percent
from skpref.inspection._scores import (
    check_label_probabilities,
    check_probabilities,
    read_label_table,
)
from skpref.metrics import _bin_confidence

_N_BINS = 15  # of the calibration error, as in `expected_calibration_error`
_OVERALL = ["accuracy", "macro-F1", "concordance", "ECE"]
_ECE = 3
_NEEDS_X = "predictions is an estimator, so X is needed as well; pass X=..., the rows of y."
_HAS_X = "X is given, but predictions is no estimator; leave X out."


class _Predictions(NamedTuple):
    """Predictions of all rows; of several labels per row, `predicted` is 1, 0 or -1."""

    classes: np.ndarray
    predicted: IntArray  # class position, -1 without a prediction
    prob: FloatArray | None  # None if labels were predicted

    def of_rows(self, rows: BoolArray) -> "_Predictions":
        """Return the predictions of some rows."""
        prob = None if self.prob is None else self.prob[rows]
        return self._replace(predicted=self.predicted[rows], prob=prob)


def _ask_estimator(estimator: Any, X: Any) -> _Predictions:
    """Let a fitted classifier predict."""
    if X is None:
        raise ValueError(_NEEDS_X)
    classes, found = np.asarray(estimator.classes_), estimator.predict(X)
    if not hasattr(estimator, "predict_proba"):
        return _read_labels(found, classes)
    prob = check_probabilities(estimator.predict_proba(X), classes, "the output of predict_proba")
    return _Predictions(classes, np.searchsorted(classes, found), prob)


def _read_labels(predictions: Any, classes: np.ndarray) -> _Predictions:
    """Read predicted labels."""
    _, codes = check_labels(predictions, classes=classes, partial=True, name="predictions")
    return _Predictions(classes, codes, None)


def _read_probabilities(prob: FloatArray, classes: np.ndarray) -> _Predictions:
    """Read probabilities, one column per class or that of the second of two."""
    if prob.ndim == 1:
        prob = np.column_stack([1 - prob, prob])
    prob = check_probabilities(prob, classes, "predictions")
    return _Predictions(classes, _most_probable(prob), prob)


def _most_probable(prob: FloatArray) -> IntArray:
    """Return the position of the most probable class, -1 in a row without probabilities."""
    return np.where(np.isnan(prob[:, 0]), -1, prob.argmax(axis=1))


def _read_predictions(predictions: Any, present: np.ndarray, X: Any, classes: Any) -> _Predictions:
    """Return what a fitted classifier, labels or probabilities predict.

    `present` holds the classes given or, if none are, those of the human labels.
    """
    if hasattr(predictions, "predict"):
        if classes is not None:
            raise ValueError("classes is given, but an estimator knows its classes; leave it out.")
        return _ask_estimator(predictions, X)
    if X is not None:
        raise ValueError(_HAS_X)
    if is_table(predictions):
        return _read_probabilities(read_numbers(predictions, "predictions"), present)
    column = read_column(predictions, "predictions", entry="prediction")
    if column.dtype.kind == "f" and ((column > 0) & (column < 1)).any():
        return _read_probabilities(column, present)
    if classes is None:
        chosen, _ = check_labels(column, partial=True, name="predictions")
        _refuse_other_type(chosen, present)
        present = np.union1d(present, chosen)
    return _read_labels(column, present)


def _refuse_other_type(chosen: np.ndarray, present: np.ndarray) -> None:
    """Raise if predictions are strings where the labels are numbers, or the reverse."""
    if len(chosen) and (chosen.dtype.kind in "OU") != (present.dtype.kind in "OU"):
        raise ValueError(
            f"predictions has labels such as {chosen.tolist()[0]!r} but y has "
            f"{present.tolist()!r}; pass labels of the same type."
        )


def _read_several_labels(predictions: Any, X: Any, labels: np.ndarray) -> _Predictions:
    """Return what a fitted classifier, labels or probabilities predict of several labels."""
    prob = None
    if hasattr(predictions, "predict"):
        if X is None:
            raise ValueError(_NEEDS_X)
        predicted = read_label_table(predictions.predict(X), labels, "predictions")
        if hasattr(predictions, "predict_proba"):
            prob = check_label_probabilities(predictions.predict_proba(X), labels, "predictions")
    else:
        if X is not None:
            raise ValueError(_HAS_X)
        predicted = read_label_table(predictions, labels, "predictions")
        if not np.isin(predicted[~np.isnan(predicted)], (-1, 0, 1)).all():
            prob = check_label_probabilities(predicted, labels, "predictions")
            predicted = np.where(np.isnan(prob), np.nan, prob > 0.5)
    codes = np.where(np.isnan(predicted), -1, predicted).astype(np.int64)
    return _Predictions(labels, codes, prob)


class _Counts(NamedTuple):
    """Sums over the rows of each session, from which all figures are computed."""

    sums: SessionCounts
    gap: FloatArray  # (n_sessions, n_bins), accuracy minus confidence

    def figures(self, weight: FloatArray) -> FloatArray:
        """Return the overall figures, and recall and precision of each class."""
        sums = self.sums
        macro_f1, accuracy, concordance, _ = sums.metrics(weight)
        ece = ratio(np.abs(weight @ self.gap).sum(), weight @ sums.n_rows)
        right = weight @ sums.right
        recall, precision = (
            ratio(right, weight @ rows) for rows in (sums.of_label, sums.of_prediction)
        )
        return np.r_[accuracy, macro_f1, concordance, ece, recall, precision]

    def noise_of_calibration(self, weight: FloatArray) -> float:
        """Return the calibration error of a sample of sessions that are calibrated on the mean."""
        noise = (weight - 1) @ self.gap
        return float(np.abs(noise).sum() / self.sums.n_rows.sum())

    def rows_by_session(self) -> FloatArray:
        """Return the number of rows behind each figure (n_figures, n_sessions)."""
        overall = self.sums.n_rows
        compared = np.where(self.sums.compared > 0, overall, 0)
        by_class = self.sums.of_label.T, self.sums.of_prediction.T
        return np.vstack([overall, overall, compared, overall, *by_class])


def _count(found: _Predictions, codes: IntArray, session: IntArray) -> _Counts:
    """Sum up labelled rows; without probabilities the predictions are certain."""
    n_sessions, several = session.max() + 1, codes.ndim == 2
    prob = found.prob
    if prob is None:
        certain = found.predicted if several else np.eye(len(found.classes))[found.predicted]
        prob = certain.astype(np.float64)
    sums = count_by_session(prob, codes, session, n_sessions, found.predicted)
    if several:
        row, label = np.nonzero(codes >= 0)
        p, truth, session = prob[row, label], codes[row, label], session[row]
        confidence, right = np.maximum(p, 1 - p), (p > 0.5) == truth
    else:
        confidence, right = prob.max(axis=1), prob.argmax(axis=1) == codes
    return _Counts(sums, _sum_gaps(confidence, right, session, n_sessions))


def _sum_gaps(
    confidence: FloatArray, right: BoolArray, session: IntArray, n_sessions: int
) -> FloatArray:
    """Return the sums of accuracy minus confidence (n_sessions, n_bins)."""
    cell = session * _N_BINS + _bin_confidence(confidence, _N_BINS, "uniform")
    sums = np.bincount(cell, right - confidence, n_sessions * _N_BINS)
    return sums.reshape(n_sessions, _N_BINS).astype(float)


def _widening(n_sessions: IntArray, level: float) -> FloatArray:
    """Return the width of an interval by Student's t, in that of a bootstrap's percentiles.

    A bootstrap divides the variance by the number of sessions where one less would be right, and
    takes it to be known.
    """
    n, tail = np.maximum(n_sessions, 2), (1 + level) / 2
    return np.sqrt(n / (n - 1)) * stats.t.ppf(tail, n - 1) / stats.norm.ppf(tail)


def _estimate(counts: _Counts, n_bootstrap: int, level: float, rng: Any) -> Bunch:
    """Return value, interval, rows and sessions of each figure."""
    rows = counts.rows_by_session()
    value = counts.figures(np.ones(rows.shape[1]))
    weights = list(session_weights(rows.shape[1], n_bootstrap, rng))
    samples = np.array([counts.figures(weight) for weight in weights])
    n_sessions = (rows > 0).sum(axis=1)
    bounds = percentile_interval(samples, level, n_sessions >= MIN_SESSIONS)
    # A sample of sessions has a lower macro-F1 and a higher calibration error than they have on the
    # mean, and they differ from all sessions by as much again.
    mean = ratio(np.nansum(samples, axis=0), (~np.isnan(samples)).sum(axis=0))
    centre = value - np.nan_to_num(mean - value)
    wider = _widening(n_sessions, level)
    low, high = (np.clip(centre + wider * (bound - mean), 0, 1) for bound in bounds)
    low, high = np.minimum(low, value), np.maximum(high, value)
    by_chance = [counts.noise_of_calibration(weight) for weight in weights]
    if value[_ECE] <= np.quantile(by_chance, level):
        low[_ECE] = np.minimum(low[_ECE], 0)
    return Bunch(
        value=value,
        low=low,
        high=high,
        n_rows=rows.sum(axis=1).astype(np.int64),
        n_sessions=n_sessions,
        largest_share=ratio(rows.max(axis=1), rows.sum(axis=1)),
    )


def _make_table(found: Bunch, classes: np.ndarray, with_prob: bool) -> Bunch:
    """Name the figures, and leave out those that need probabilities if there are none."""
    n_classes = len(classes)
    metric = np.array(_OVERALL + ["recall"] * n_classes + ["precision"] * n_classes, dtype=object)
    label = np.array([None] * len(_OVERALL) + 2 * classes.tolist(), dtype=object)
    kept = np.full(len(metric), True)
    if not with_prob:
        kept = ~np.isin(metric.astype(str), ["concordance", "ECE"])
    columns = {"metric": metric, "label": label} | found
    return Bunch(**{name: column[kept] for name, column in columns.items()})


def _is_worthless(table: Bunch) -> BoolArray:
    """Return which figures rest on the rows of too few sessions, or mostly on one of them."""
    return (table.n_sessions < MIN_SESSIONS) | (table.largest_share > 0.5)


def _describe_worthless(table: Bunch) -> list[str]:
    """Return a warning that names the classes whose recall is worthless."""
    rows = (table.metric == "recall") & _is_worthless(table)
    if not rows.any():
        return []
    kinds = zip(table.label[rows], table.n_rows[rows], table.n_sessions[rows], strict=True)
    named = join_names([f"{label!s} ({n} labels in {s} sessions)" for label, n, s in kinds])
    return [
        "Warning: the labels of these classes are from too few sessions, or more than half of them "
        f"from one, so do not rely on their figures: {named}."
    ]


def _describe_scores(table: Bunch) -> str:
    def with_bounds(k):
        if np.isnan(table.low[k]):
            return percent(table.value[k])
        bounds = f"{percent(table.low[k])} to {percent(table.high[k])}"
        return f"{percent(table.value[k])} ({bounds})"

    return f"accuracy is {with_bounds(0)} and macro-F1 {with_bounds(1)}."


def _describe_need(n_sessions: int) -> str:
    """Return how many sessions would halve the intervals, whose width falls by their root."""
    if n_sessions < MIN_SESSIONS:
        return f"{n_sessions} sessions are too few for intervals: label at least {MIN_SESSIONS}."
    return (
        f"To halve the intervals, about {4 * n_sessions} labelled sessions are needed, "
        f"{3 * n_sessions} more."
    )


def _describe_left_out(n_unlabelled: int, n_unpredicted: int) -> list[str]:
    parts = [f"{n_unlabelled:,} unlabelled"] * bool(n_unlabelled)
    parts += [f"{n_unpredicted:,} labelled but not predicted"] * bool(n_unpredicted)
    return [f"Rows left out: {join_names(parts)}."] if parts else []


def _write_message(table: Bunch, n_sessions: int, n_unlabelled: int, n_labelled: int) -> str:
    n_used = int(table.n_rows[0])
    parts = [
        f"On {n_used:,} human labels of {n_sessions} sessions, {_describe_scores(table)}",
        *_describe_left_out(n_unlabelled, n_labelled - n_used),
        _describe_need(n_sessions),
        *caution_if_few(n_sessions),
        *_describe_worthless(table),
    ]
    return " ".join(parts)


def _write_lines(table: Bunch) -> list[list[str]]:
    lines = []
    for k, (metric, label) in enumerate(zip(table.metric, table.label, strict=True)):
        name = metric if label is None else f"{metric} of {label!s}"
        figure = format_interval(table.value[k], table.low[k], table.high[k], ".3f")
        counts = [f"{table.n_rows[k]:,}", f"{table.n_sessions[k]:,}"]
        lines.append([name, "-" if not table.n_rows[k] else figure, *counts])
    return [
        [*line, "too few sessions" if worthless else ""]
        for line, worthless in zip(lines, _is_worthless(table), strict=True)
    ]


def _read(predictions: Any, y: Any, X: Any, classes: Any) -> tuple[IntArray, _Predictions]:
    """Return labels and predictions."""
    several = is_multilabel(y, classes)
    if several:
        fitted = getattr(predictions, "classes_", None)
        if classes is None and isinstance(fitted, np.ndarray):  # forests have those of each label
            classes = fitted
        labels, codes = read_indicator(y, classes)
    else:
        labels, codes = check_labels(y, classes=classes, partial=True)
    if not (codes >= 0).any():
        raise ValueError("y has no label; pass the human labels of at least two sessions.")
    if several:
        found = _read_several_labels(predictions, X, labels)
    else:
        found = _read_predictions(predictions, labels, X, classes)
        _, codes = check_labels(y, classes=found.classes, partial=True)
    check_same_length(len(found.predicted), "predictions", len(codes), "y")
    return codes, found


@validate_params(
    {
        "predictions": ["array-like", HasMethods(["predict"])],
        "y": ["array-like"],
        "groups": ["array-like"],
        "X": "no_validation",
        "classes": ["array-like", None],
        "n_bootstrap": [Interval(Integral, 1, None, closed="left")],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def performance_report(
    predictions: Any,
    y: ArrayLike,
    groups: SessionIds,
    *,
    X: Any = None,
    classes: ArrayLike | None = None,
    n_bootstrap: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> Report:
    """Report how well a classifier does on labelled sessions, with intervals by session.

    Utterances of a session resemble each other, so 200 labels of 10 sessions show much less than
    200 independent ones. The intervals are those of whole sessions drawn again and again.

    Parameters
    ----------
    predictions : estimator, or array-like of shape (n_samples,) or (n_samples, n_classes)
        Fitted classifier or pipeline, which predicts `X`; or predicted labels, None in a row
        without one; or probabilities, NaN in a row without them. Their columns are in the order of
        the sorted classes, as `predict_proba` gives them; one dimension is the probability of the
        second of two classes.
    y : array-like of shape (n_samples,) or (n_samples, n_labels)
        Human labels that the classifier was not trained on. Unlabelled rows are left out: -1
        (numbers), None, NaN or NA. Two dimensions hold several labels per utterance, 1 or 0 each;
        predictions then have a column for each label. Accuracy is the share of right labels,
        macro-F1 the mean over labels, and recall and precision are those of a label that applies.
    groups : array-like of shape (n_samples,)
        Session id of each row: any hashable values, in any order.
    X : {array-like, sparse matrix, frame}, default=None
        What the estimator takes, one row per entry of `y`, unlabelled ones included. Only for an
        estimator.
    classes : array-like of shape (n_classes,), default=None
        Class labels, in any order. None takes the labels of `y`, and of the predictions if these
        are labels. An estimator knows its classes.
    n_bootstrap : int, default=1000
        Number of bootstrap samples of the sessions.
    confidence_level : float, default=0.95
        Share of the bootstrap samples that an interval covers.
    random_state : int, RandomState instance or None, default=None
        Seed of the bootstrap.

    Returns
    -------
    Report
        Its fields can be read as attributes; `print` and notebooks show message and table.

        - table : Bunch of arrays, one entry per figure: metric ("accuracy", "macro-F1",
          "concordance", "ECE", then "recall" and "precision" of each class), label (the class,
          or None), value, low, high, n_rows and n_sessions (that the figure is computed from) and
          largest_share (of these rows in one session). ``pandas.DataFrame(report.table)`` is a
          frame. Predicted labels have no "concordance" and "ECE". Intervals from fewer than five
          sessions, and figures without a row, are NaN.
        - worthless : list of classes whose labels are in fewer than five sessions, or more than
          half of them in one.
        - n_sessions_to_halve : int, number of labelled sessions that would halve the intervals.
        - classes : ndarray of shape (n_classes,), sorted.
        - confusion : ndarray of int, shape (n_classes, n_classes): label, prediction; of several
          labels (n_labels, 2, 2).
        - message : str, the same in words.
        - summary : str, the figures as a table.

    Raises
    ------
    ValueError
        If fewer than two sessions have a label and a prediction, probabilities do not match the
        classes or do not sum to 1, labels are not among the classes, or lengths differ.

    See Also
    --------
    compare_with_distillation : Cross-validated predictions of several ways to learn.
    learning_forecast : How much better more labels would make it.
    sklearn.metrics.classification_report : The figures without intervals.

    Notes
    -----
    An interval is the percentiles of the figures of bootstrap samples of the sessions, widened by
    Student's t for few sessions, minus twice the bias that the samples show: noise lowers macro-F1
    and raises the calibration error. The latter's interval begins at 0 if a calibrated classifier
    could show such an error by chance. The width of an interval falls with the square root of the
    number of sessions, so four times as many halve it. The intervals reflect which sessions were
    labelled, not the randomness of training.

    Labels of the training set give no honest figure. If no session can be spared for a test,
    predict by cross-validation: the `predictions` of `compare_with_distillation` can be passed as
    they are.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpref.datasets import make_dialogues
    >>> from skpref.inspection import performance_report
    >>> data = make_dialogues(60, labelled_fraction=0.5, random_state=0)
    >>> test = data.y >= 0
    >>> clf = LogisticRegression().fit(data.X[~test], data.y_true[~test])
    >>> report = performance_report(clf, data.y, data.groups, X=data.X, random_state=0)
    >>> print(report.summary)
                      value (95% interval)  rows  sessions  warning
    accuracy        0.925 (0.900 to 0.949)   494        30
    macro-F1        0.925 (0.900 to 0.949)   494        30
    concordance     0.975 (0.960 to 0.988)   494        30
    ECE             0.020 (0.000 to 0.027)   494        30
    recall of 0     0.933 (0.895 to 0.964)   267        30
    recall of 1     0.916 (0.880 to 0.950)   227        30
    precision of 0  0.929 (0.894 to 0.961)   268        30
    precision of 1  0.920 (0.884 to 0.954)   226        30
    """
    codes, found = _read(predictions, y, X, classes)
    session = check_groups(groups, len(codes))
    n_unlabelled = int(np.sum(codes < 0))
    n_labelled = codes.size - n_unlabelled
    if codes.ndim == 2:
        codes = np.where(found.predicted < 0, -1, codes)
        used = codes.max(axis=1) >= 0
    else:
        used = (codes >= 0) & (found.predicted >= 0)
    _, session = np.unique(session[used], return_inverse=True)
    n_sessions = session.max(initial=-1) + 1
    if n_sessions < 2:
        raise ValueError(
            f"y has labels of predicted rows in {n_sessions} sessions, but at least 2 labelled "
            "sessions are needed; label more sessions."
        )
    counts = _count(found.of_rows(used), codes[used], session)
    rng = check_random_state(random_state)
    estimates = _estimate(counts, n_bootstrap, confidence_level, rng)
    table = _make_table(estimates, found.classes, found.prob is not None)
    worthless = (table.metric == "recall") & _is_worthless(table)
    return Report(
        ["", f"value ({100 * confidence_level:g}% interval)", "rows", "sessions", "warning"],
        _write_lines(table),
        table=table,
        worthless=table.label[worthless].tolist(),
        n_sessions_to_halve=4 * n_sessions,
        classes=found.classes,
        confusion=counts.sums.confusion.sum(axis=0).astype(np.int64),
        message=_write_message(table, n_sessions, n_unlabelled, n_labelled),
    )
