"""Forecast what more labelled sessions would gain."""

import time
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import sklearn
from sklearn.base import clone
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.parallel import Parallel, delayed

from skpref._columns import read_column, read_numbers, read_rows
from skpref._progress import auto_bar, wants_lines
from skpref._sklearn import HasMethods, Interval, StrOptions, validate_params
from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds
from skpref._validation import check_groups, check_labels, check_same_length
from skpref.inspection._bootstrap import MIN_SESSIONS, percentile_interval, session_weights
from skpref.inspection._comparison import make_folds
from skpref.inspection._contenders import ComparisonData
from skpref.inspection._counts import CLASS_METRICS, count_by_session
from skpref.inspection._pipeline import find_classifier
from skpref.inspection._report import Report, caution_if_few, format_interval, points
from skpref.inspection._scores import read_scores

# Shares of the training labels in the nested subsets.
_SHARES = (0.25, 0.5, 1.0)
# The curve is a - b * (n / N) ** -c for n labels, if there are N now. Few labels hardly show b and
# c, so they have priors: c is one of these, and b is normal.
_EXPONENTS = (0.25, 0.5, 0.75)


class _Prior(NamedTuple):
    """Mean and standard deviation of b, and that of a score of one training.

    500 labels instead of 200, which gain 0.37 * b at c = 0.5, gained 3.5 points of macro-F1 and 2.1
    of accuracy on the mean of four tasks of `benchmarks/results/forecast.md`, with a standard
    deviation over tasks of 2.7 and 0.8, which is doubled for accuracy since other tasks will differ
    more than four, and over draws of the labels of 2.4 and 1.6.
    """

    mean: float
    deviation: float
    noise: float


_PRIORS = {"macro_f1": _Prior(0.096, 0.072, 0.024), "accuracy": _Prior(0.058, 0.042, 0.016)}
_DRAWS = 2000  # of the curve, for each exponent


class _Fit(NamedTuple):
    """A classifier to train: on the training rows of a fold, with the labels of some of them."""

    fold: int
    size: int
    labelled: IntArray
    train: IntArray
    test: IntArray


def _read_data(X, y, groups, llm_scores, classes) -> ComparisonData:
    """Check the input; without scores the classes are those of the labels."""
    X, n_rows = read_rows(X)
    if llm_scores is None:
        scores: FloatArray = np.empty((n_rows, 0))
        classes, codes = check_labels(y, classes=classes, partial=True)
        check_same_length(len(codes), "y", n_rows, "X")
    else:
        scores, classes, codes = read_scores(llm_scores, y, classes)
        check_same_length(len(scores), "llm_scores", n_rows, "X")
    session = check_groups(groups, n_rows)
    n_sessions = len(np.unique(session[codes >= 0]))
    if n_sessions < MIN_SESSIONS:
        raise ValueError(
            f"y has labels in {n_sessions} sessions, but a forecast needs at least {MIN_SESSIONS} "
            "labelled sessions; label more sessions."
        )
    if len(np.unique(codes[codes >= 0])) < 2:
        raise ValueError("y has one class only; label rows of at least two classes.")
    return ComparisonData(X, codes, session, scores, classes)


def _check_factors(factors: ArrayLike) -> FloatArray:
    """Return the factors, ascending, with 1 before them."""
    values = read_numbers(read_column(factors, "factors", entry="factor"), "factors")
    if not len(values) or not (np.isfinite(values) & (values > 1)).all():
        raise ValueError(
            f"factors={values.tolist()!r} must be multiples of the labels there are, above 1; pass "
            "for example (2, 4)."
        )
    return np.r_[1.0, np.unique(values)]


def _prepare_estimator(estimator: Any, data: ComparisonData, with_scores: bool, seed: int) -> Any:
    """Return a clone that knows all classes, whichever a subset has labels of."""
    estimator = clone(estimator)
    if with_scores:
        prefix, classifier = find_classifier(estimator)
        estimator.set_params(**{f"{prefix}classes": data.classes})
        if classifier.random_state is None:  # the sizes are to differ by their labels alone
            estimator.set_params(**{f"{prefix}random_state": seed})
    return estimator


def _plan_fits(folds, data: ComparisonData, rng: np.random.RandomState) -> list[_Fit]:
    """Choose nested subsets of the labelled training sessions of each fold."""
    plan = []
    for k, (train, test) in enumerate(folds):
        labelled = train[data.codes[train] >= 0]
        sessions, place = np.unique(data.session[labelled], return_inverse=True)
        order = rng.permutation(len(sessions))
        n_labels = np.bincount(place)[order]
        before = np.empty(len(sessions))  # labels of the sessions before each one
        before[order] = np.cumsum(n_labels) - n_labels
        for i, share in enumerate(_SHARES):
            inside = labelled[(before < share * len(labelled))[place]]
            plan.append(_Fit(k, i, inside, train, test))
    return plan


def _mean_by_size(plan: list[_Fit], count: Callable[[_Fit], int]) -> FloatArray:
    """Return the mean count over the folds, for each size of the subsets."""
    return np.array([np.mean([count(f) for f in plan if f.size == i]) for i in range(len(_SHARES))])


def _fit_and_predict(
    estimator: Any, data: ComparisonData, fit: _Fit, with_scores: bool
) -> tuple[IntArray, float]:
    """Return the predicted class positions of the test rows, and the seconds that it took."""
    start = time.perf_counter()
    present = np.unique(data.codes[fit.labelled])
    if len(present) == 1 and not with_scores:
        return np.full(len(fit.test), present[0]), 0.0
    with sklearn.config_context(enable_metadata_routing=True), warnings.catch_warnings():
        # Subsets may have too few labels for a calibrator or a solver; all of them need not.
        warnings.simplefilter("ignore", UserWarning)
        estimator = clone(estimator)
        if with_scores:
            codes = np.full_like(data.codes, -1)
            codes[fit.labelled] = data.codes[fit.labelled]
            rows, y = fit.train, data._replace(codes=codes).labels(fit.train)
            params = {"groups": data.session[rows], "llm_scores": data.llm_scores[rows]}
        else:
            rows, y = fit.labelled, data.classes[data.codes[fit.labelled]]
            wanted = get_routing_for_object(estimator).consumes("fit", ["groups"])
            params = {"groups": data.session[rows]} if wanted else {}
        estimator.fit(data.features(rows), y, **params)
        found = estimator.predict(data.features(fit.test))
    return np.searchsorted(data.classes, found), time.perf_counter() - start


def _predict_by_size(estimator, data, plan: list[_Fit], with_scores, n_jobs, verbose) -> IntArray:
    """Return the predicted class positions for each size (n_sizes, n_rows), -1 if not tested."""
    results = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(_fit_and_predict)(estimator, data, fit, with_scores) for fit in plan
    )
    predicted = np.full((len(_SHARES), len(data.codes)), -1)
    with auto_bar(len(plan), "Forecast, fits", verbose) as bar:
        for fit, (found, seconds) in zip(plan, results, strict=True):
            predicted[fit.size, fit.test] = found
            bar.update()
            if wants_lines(verbose):
                place = f"fold {fit.fold + 1}/{plan[-1].fold + 1}, {len(fit.labelled)} labels"
                print(f"{place}: {seconds:.1f} s")
    return predicted


def _measure(predicted: IntArray, codes: IntArray, session: IntArray, n_bootstrap, rng):
    """Return the metrics of each size, and of bootstrap samples of the sessions.

    `predicted` is (n_sizes, n_rows); the results are (n_sizes, n_metrics) and
    (n_bootstrap, n_sizes, n_metrics).
    """
    n_sessions, n_classes = session.max() + 1, max(codes.max(), predicted.max()) + 1
    counts = [
        count_by_session(np.eye(n_classes)[chosen], codes, session, n_sessions)
        for chosen in predicted
    ]

    def metrics(weight):
        return [c.metrics(weight)[: len(CLASS_METRICS)] for c in counts]

    samples = [metrics(weight) for weight in session_weights(n_sessions, n_bootstrap, rng)]
    return np.array(metrics(np.ones(n_sessions))), np.array(samples)


def _draw_curves(
    size: FloatArray, value: FloatArray, covariance: FloatArray, prior: _Prior, rng
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Draw curves from their posterior.

    Parameters
    ----------
    size : ndarray of shape (n_sizes,)
        Numbers of labels, as shares of those there are.
    value : ndarray of shape (n_sizes,)
        Metric at each size.
    covariance : ndarray of shape (n_sizes, n_sizes)
        Covariance of these values.
    prior : _Prior
        What is known without these values.
    rng : RandomState
        Source of the draws.

    Returns
    -------
    a, b, c : ndarray of shape (n_draws,)
        Parameters of the curves; b is at least 0, so that no curve falls.
    """
    # A value is the mean of several trainings, which share most of their labels.
    noise = covariance + (prior.noise / 2) ** 2 * np.eye(len(size))
    precision = prior.deviation**-2
    found = []
    for c in _EXPONENTS:
        design = np.column_stack([np.ones(len(size)), -(size**-c)])
        weighted = np.linalg.solve(noise, design)
        posterior = np.linalg.inv(design.T @ weighted + np.diag([0, precision]))
        centre = posterior @ (weighted.T @ value + np.array([0, prior.mean * precision]))
        a_and_b = rng.multivariate_normal(centre, posterior, size=_DRAWS)
        found.append(np.column_stack([a_and_b, np.full(_DRAWS, c)]))
    a, b, c = np.vstack(found).T
    return a, np.maximum(b, 0), c


def _forecast(curves, factors: FloatArray, training_noise: float, level: float, rng) -> Bunch:
    """Return mean and interval of value and gain at each factor (n_factors,)."""
    a, b, c = (part[:, None] for part in curves)
    noise = training_noise * rng.standard_normal((len(a), len(factors)))
    gain = b * (1 - factors**-c) + np.where(factors > 1, noise, 0)
    value = np.clip(a - b + gain, 0, 1)
    low, high = percentile_interval(value, level)
    gain_low, gain_high = percentile_interval(gain, level)
    return Bunch(
        value=value.mean(axis=0),
        low=low,
        high=high,
        gain=gain.mean(axis=0),
        gain_low=gain_low,
        gain_high=gain_high,
    )


def _measured(values: FloatArray, samples: FloatArray, level: float) -> Bunch:
    """Return the measured values in the form of a forecast, without gains."""
    low, high = percentile_interval(samples, level)
    none = np.full(len(values), np.nan)
    return Bunch(value=values, low=low, high=high, gain=none, gain_low=none, gain_high=none)


def _continue_curves(values, samples, size, factors, level, rng) -> dict[str, Any]:
    """Return, for each metric, what was measured at some sizes and is forecast at some factors."""
    of_metrics = {}
    for k, metric in enumerate(CLASS_METRICS):
        value, of_samples, prior = values[:, k], samples[:, :, k], _PRIORS[metric]
        curves = _draw_curves(size, value, np.cov(of_samples, rowvar=False), prior, rng)
        forecast = _forecast(curves, factors, prior.noise, level, rng)
        of_metrics[metric] = (_measured(value, of_samples, level), forecast)
    return of_metrics


def _make_table(n_labels: FloatArray, n_sessions: FloatArray, of_metrics) -> Bunch:
    """Return the columns of the table: the sizes that were measured, then the forecasts."""
    kinds = ["measured", "forecast"]
    table = Bunch(
        kind=np.repeat(kinds, [len(_SHARES), len(n_labels) - len(_SHARES)]),
        n_labels=n_labels,
        n_sessions=n_sessions,
    )
    for metric, (measured, forecast) in of_metrics.items():
        for name in measured:
            suffix = "" if name == "value" else f"_{name}"
            table[f"{metric}{suffix}"] = np.r_[measured[name], forecast[name]]
    return table


def _write_lines(table: Bunch) -> list[list[str]]:
    lines = []
    for k, kind in enumerate(table.kind):
        line = [kind, f"{table.n_labels[k]:,.0f}", f"{table.n_sessions[k]:,.0f}"]
        for metric in CLASS_METRICS:
            value, low, high = (table[f"{metric}{end}"][k] for end in ("", "_low", "_high"))
            line.append(format_interval(value, low, high, ".3f"))
        lines.append(line)
    return lines


def _describe_gain(table: Bunch, k: int, factor: float) -> str:
    """Return the forecast of one factor as a sentence."""
    phrases = []
    for metric, name in CLASS_METRICS.items():
        gain, low, high = (points(table[f"{metric}_gain{end}"][k]) for end in ("", "_low", "_high"))
        value = 100 * table[metric][k]
        phrases.append(f"{name} {value:.1f}% (a gain of {gain} points, {low} to {high})")
    return (
        f"{factor:g} times the labels (about {table.n_labels[k]:,.0f} of "
        f"{table.n_sessions[k]:,.0f} sessions) would give {' and '.join(phrases)}."
    )


def _describe_chance(table: Bunch) -> str:
    """Return whether the largest forecast is a clear gain."""
    clear = [name for metric, name in CLASS_METRICS.items() if table[f"{metric}_gain_low"][-1] > 0]
    if not clear:
        return "The labels do not show that more of them would help."
    return f"So more labels would raise {' and '.join(clear)}."


@validate_params(
    {
        "estimator": [HasMethods(["fit", "predict"])],
        "X": "no_validation",
        "y": ["array-like"],
        "groups": ["array-like"],
        "llm_scores": ["array-like", None],
        "factors": ["array-like"],
        "cv": ["cv_object"],
        "n_bootstrap": [Interval(Integral, 2, None, closed="left")],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "verbose": [StrOptions({"auto"}), "verbose"],
    },
    prefer_skip_nested_validation=True,
)
def learning_forecast(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    groups: SessionIds,
    llm_scores: ArrayLike | None = None,
    *,
    factors: Sequence[float] = (2, 4),
    cv: Any = None,
    n_bootstrap: int = 500,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
    n_jobs: int | None = None,
    verbose: Any = "auto",
) -> Report:
    """Forecast how good a classifier would be with twice and four times the labelled sessions.

    The classifier is trained on nested subsets of the labelled sessions, a quarter, a half and all
    of them, and tested on other labelled sessions. A curve through the scores is continued.

    Parameters
    ----------
    estimator : classifier, or Pipeline
        With `llm_scores`, an estimator as for `compare_with_distillation`, which is fitted on all
        training rows. Without, any classifier, which is fitted on the labelled rows only. It is
        cloned, so it may be fitted or not.
    X : {array-like, sparse matrix, frame} or list of str
        What the estimator takes, one row per utterance.
    y : array-like of shape (n_samples,)
        Human labels; -1 (numbers), None or NaN marks an unlabelled row.
    groups : array-like of shape (n_samples,)
        Session id of each row.
    llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts), \
            default=None
        Raw LLM scores, NaN if missing. No subset hides them.
    factors : sequence of float, default=(2, 4)
        Numbers of labels to forecast, as multiples of those there are; above 1.
    cv : int, splitter or None, default=None
        Folds of the labelled sessions, as in `compare_with_distillation`. None means five.
    n_bootstrap : int, default=500
        Number of bootstrap samples of the sessions.
    confidence_level : float, default=0.95
        Share of the draws that an interval covers.
    random_state : int, RandomState instance or None, default=None
        Seed of the subsets, the draws, and of a classifier of this library that has none.
    n_jobs : int, default=None
        Number of fits at the same time, as in scikit-learn.
    verbose : "auto", bool or int, default="auto"
        Whether to print a line after each fit. "auto" shows a progress bar instead, after three
        seconds, and only in a terminal or a notebook.

    Returns
    -------
    Report
        Its fields can be read as attributes; `print` and notebooks show message and table.

        - table : Bunch of arrays, one entry per number of labels: kind ("measured", "forecast"),
          n_labels, n_sessions, and for macro_f1 and accuracy the value (macro_f1), the ends of its
          interval (macro_f1_low, macro_f1_high), and for forecasts the gain over the labels there
          are (macro_f1_gain, macro_f1_gain_low, macro_f1_gain_high). The first forecast is for the
          labels there are, since a fold trains on fewer. ``pandas.DataFrame(result.table)`` is a
          frame.
        - message : str, the same in words.
        - summary : str, the values as a table.

    Raises
    ------
    ValueError
        If fewer than five sessions are labelled, the labels are of one class, a factor is not above
        1, the scores do not match the classes, or lengths differ.

    See Also
    --------
    performance_report : How good the classifier is now.
    sklearn.model_selection.learning_curve : Scores of subsets, without sessions or a forecast.

    Notes
    -----
    The curve is ``a - b * share ** -c`` with b of at least 0, so it never falls. Scores on the same
    few sessions hardly show its shape, so b has a prior, from what labels gained on four tasks of
    ``benchmarks/results/forecast.md``, and c is one of 0.25, 0.5 and 0.75 with equal probability.
    The scores count by their covariance over bootstrap samples of the sessions. Intervals hold the
    uncertainty of the curve and the randomness of training.

    A forecast is for more sessions of the same kind. A gain is more certain than a value, since
    which sessions happen to be labelled shifts the values of all sizes alike. ``python -m
    benchmarks.forecast`` measures how right the forecasts are.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpref.datasets import make_dialogues
    >>> from skpref.inspection import learning_forecast
    >>> data = make_dialogues(60, class_sep=1.5, labelled_fraction=0.3, random_state=0)
    >>> forecast = learning_forecast(
    ...     LogisticRegression(), data.X, data.y, data.groups, random_state=0
    ... )
    >>> print(forecast.summary)
              labels  sessions                macro-F1                accuracy
    measured      83         4  0.733 (0.681 to 0.781)  0.739 (0.686 to 0.787)
    measured     145         7  0.787 (0.734 to 0.847)  0.792 (0.741 to 0.852)
    measured     258        14  0.822 (0.773 to 0.873)  0.826 (0.777 to 0.878)
    forecast     322        18  0.829 (0.769 to 0.888)  0.827 (0.770 to 0.885)
    forecast     644        36  0.856 (0.775 to 0.940)  0.848 (0.778 to 0.919)
    forecast   1,288        72  0.876 (0.790 to 0.963)  0.864 (0.788 to 0.940)
    """
    multiples = _check_factors(factors)
    with_scores = llm_scores is not None
    classes = find_classifier(estimator)[1].classes if with_scores else None
    data = _read_data(X, y, groups, llm_scores, classes)
    rng = check_random_state(random_state)
    estimator = _prepare_estimator(estimator, data, with_scores, int(rng.randint(2**31 - 1)))
    plan = _plan_fits(make_folds(cv, data.codes, data.classes, data.session), data, rng)
    predicted = _predict_by_size(estimator, data, plan, with_scores, n_jobs, verbose)

    labelled = data.codes >= 0
    n_labels, n_sessions = labelled.sum(), len(np.unique(data.session[labelled]))
    measured_labels = _mean_by_size(plan, lambda fit: len(fit.labelled))
    measured_sessions = _mean_by_size(plan, lambda fit: len(np.unique(data.session[fit.labelled])))
    tested = labelled & (predicted[0] >= 0)
    _, session = np.unique(data.session[tested], return_inverse=True)
    values, samples = _measure(predicted[:, tested], data.codes[tested], session, n_bootstrap, rng)
    table = _make_table(
        np.r_[measured_labels, multiples * n_labels],
        np.r_[measured_sessions, multiples * n_sessions],
        _continue_curves(
            values,
            samples,
            measured_labels / n_labels,
            multiples,
            confidence_level,
            rng,
        ),
    )
    gains = [_describe_gain(table, k - len(multiples), f) for k, f in enumerate(multiples) if k]
    message = [f"From {n_labels:,} human labels of {n_sessions} sessions:", *gains]
    message += [_describe_chance(table), *caution_if_few(n_sessions)]
    return Report(
        ["", "labels", "sessions", *CLASS_METRICS.values()],
        _write_lines(table),
        table=table,
        message=" ".join(message),
    )
