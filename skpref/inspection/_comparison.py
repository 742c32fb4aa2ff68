"""Compare a classifier with plain distillation by cross-validation."""

import warnings
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, check_cv
from sklearn.utils import Bunch, check_random_state, indexable
from sklearn.utils.parallel import Parallel, delayed

from skpref._sessions import won_and_compared
from skpref._sklearn import HasMethods, Interval, validate_params
from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds
from skpref._validation import check_groups
from skpref.inspection._bootstrap import (
    FEW_SESSIONS,
    MIN_SESSIONS,
    percentile_interval,
    ratio,
    session_weights,
)
from skpref.inspection._contenders import (
    ComparisonData,
    _last_step,
    fit_and_predict,
    make_contenders,
)
from skpref.inspection._report import (
    caution_if_few,
    format_interval,
    format_table,
    join_names,
    points,
)
from skpref.inspection._scores import SMALLEST, read_scores

_METRICS = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "concordance": "concordance",
    "log_loss": "log loss",
}


def _folds(cv, codes, classes, session) -> list[tuple[IntArray, IntArray]]:
    """Train and test rows. Sessions without a label are always in training."""
    labelled = np.flatnonzero(codes >= 0)
    sessions = session[labelled]
    n_sessions = len(np.unique(sessions))
    if n_sessions < 2:
        raise ValueError(
            f"y has labels in {n_sessions} sessions; the labels of at least 2 sessions are needed, "
            "so that some can be tested on while others are trained on."
        )
    if cv is None:
        cv = GroupKFold(min(5, n_sessions))
    elif isinstance(cv, Integral):
        cv = GroupKFold(int(cv))
    else:
        cv = check_cv(cv)
    folds: list[tuple[IntArray, IntArray]] = []
    times = np.zeros(len(labelled), dtype=np.int64)
    with warnings.catch_warnings():
        # A splitter that ignores groups says so; what it does to them is checked below.
        warnings.simplefilter("ignore", UserWarning)
        splits = list(cv.split(labelled, classes[codes[labelled]], groups=sessions))
    for train, test in splits:
        if np.isin(sessions[test], sessions[train]).any():
            raise ValueError(
                f"cv={cv!r} puts utterances of one session into training and test; pass a splitter "
                "by groups, such as GroupKFold."
            )
        times[test] += 1
        inside = np.isin(session, sessions[test])
        folds.append((np.flatnonzero(~inside), np.flatnonzero(inside)))
    if times.max() > 1:
        raise ValueError(
            f"cv={cv!r} tests a row more than once; pass a splitter that tests each row at most "
            "once, such as GroupKFold."
        )
    return folds


class SessionCounts(NamedTuple):
    """Sums of each session that all metrics are made of."""

    confusion: FloatArray  # (n_sessions, n_classes, n_classes): label, prediction
    won: FloatArray
    compared: FloatArray
    loss: FloatArray

    def metrics(self, weight: FloatArray) -> FloatArray:
        """Metrics in the order of `_METRICS`, for how often each session is in a sample."""
        confusion = np.tensordot(weight, self.confusion, axes=1)
        n_rows, hit = confusion.sum(), np.diag(confusion)
        true_or_predicted = confusion.sum(axis=0) + confusion.sum(axis=1)
        f1 = 2 * hit[true_or_predicted > 0] / true_or_predicted[true_or_predicted > 0]
        concordance = ratio(weight @ self.won, weight @ self.compared)
        macro_f1 = f1.mean() if len(f1) else np.nan
        rest = [
            ratio(hit.sum(), n_rows),
            concordance,
            ratio(weight @ self.loss, n_rows),
        ]
        return np.array([macro_f1, *rest], dtype=np.float64)


def count_by_session(
    prob: FloatArray, codes: IntArray, session: IntArray, n_sessions: int
) -> SessionCounts:
    n_classes = prob.shape[1]
    cell = (session * n_classes + codes) * n_classes + prob.argmax(axis=1)
    confusion = np.bincount(cell, minlength=n_sessions * n_classes**2)
    won, compared = np.zeros(n_sessions), np.zeros(n_sessions)
    for k in [1] if n_classes == 2 else range(n_classes):
        counts = won_and_compared(session, codes == k, prob[:, k], n_sessions)
        won, compared = won + counts[0], compared + counts[1]
    loss = -np.log(np.maximum(prob[np.arange(len(codes)), codes], SMALLEST))
    return SessionCounts(
        confusion.reshape(n_sessions, n_classes, n_classes).astype(np.float64),
        won,
        compared,
        np.bincount(session, weights=loss, minlength=n_sessions).astype(np.float64),
    )


def _compare(predictions, data: ComparisonData, tested: IntArray, n_bootstrap, level, rng):
    """Scores of each row, and differences of the first to each other one with intervals."""
    codes = data.codes[tested]
    _, session = np.unique(data.session[tested], return_inverse=True)
    n_sessions = session.max() + 1
    weights = [np.ones(n_sessions), *session_weights(n_sessions, n_bootstrap, rng)]

    def evaluate(prob, rows):
        counts = count_by_session(prob[tested][rows], codes[rows], session[rows], n_sessions)
        return np.array([counts.metrics(weight) for weight in weights])

    scores, differences = {}, {}
    for row, prob in predictions.items():
        rows = ~np.isnan(prob[tested, 0])
        if not rows.any():
            continue
        found = evaluate(prob, rows)
        scores[row] = dict(zip(_METRICS, found[0].tolist(), strict=True))
        if row != "skpref":
            gain = evaluate(predictions["skpref"], rows) - found
            low, high = percentile_interval(gain[1:], level, n_sessions >= MIN_SESSIONS)
            triples = zip(gain[0].tolist(), low.tolist(), high.tolist(), strict=True)
            differences[row] = dict(zip(_METRICS, triples, strict=True))
    return scores, differences, n_sessions


def _verdicts(differences: dict[str, tuple[float, float, float]]) -> dict[str, list[str]]:
    """Metrics by whether skpref is better, worse or not to be told apart."""
    out: dict[str, list[str]] = {"better": [], "worse": [], "unclear": []}
    for metric, (mean, low, high) in differences.items():
        sign = -1 if metric == "log_loss" else 1
        if np.isnan(mean):
            continue
        told = low > 0 or high < 0
        key = "unclear" if not told else "better" if sign * mean > 0 else "worse"
        name = _METRICS[metric]
        shown = f"{mean:+.3f}" if metric == "log_loss" else f"{points(mean)} points"
        out[key].append(name if key == "unclear" else f"{name} ({shown})")
    return out


def _comparison_message(differences, n_labels: int, n_sessions: int) -> str:
    parts = [
        f"On {n_labels} human labels of {n_sessions} sessions, each predicted by models that were "
        "trained without its session:"
    ]
    for row, of_row in differences.items():
        found = _verdicts(of_row)
        told = []
        if found["better"]:
            told.append(f"skpref is better in {join_names(found['better'])}")
        if found["worse"]:
            told.append(f"skpref is worse in {join_names(found['worse'])}")
        if found["unclear"]:
            told.append(f"{join_names(found['unclear'])} cannot be told apart")
        parts.append(f"Against {row!r}: {'; '.join(told)}.")
    verdict = _verdicts(differences["skpref, no pairs"])
    if n_sessions < FEW_SESSIONS:
        end = f"{n_sessions} sessions are too few to tell whether pairs pay here: label more."
    elif verdict["better"] and not verdict["worse"]:
        end = f"So pairs pay here, in {join_names(verdict['better'])}."
    elif verdict["worse"] and not verdict["better"]:
        end = "So pairs do harm here: pass pairwise_weight=0."
    elif verdict["worse"]:
        end = "So it depends on which metric matters to you."
    else:
        end = (
            "So whether pairs pay here cannot be told from these labels; more labelled sessions "
            "would tell."
        )
    return " ".join([*parts, *caution_if_few(n_sessions), end])


def _comparison_summary(scores, differences) -> str:
    header = ["", *_METRICS.values()]
    lines = [
        [row, *(f"{value:.3f}" for value in of_row.values())] for row, of_row in scores.items()
    ]
    lines.append(["", *[""] * len(_METRICS)])
    lines.append(["skpref less", *[""] * len(_METRICS)])
    for row, of_row in differences.items():
        cells = [format_interval(mean, low, high, "+.3f") for mean, low, high in of_row.values()]
        lines.append([f"  {row}", *cells])
    return format_table(header, lines)


@validate_params(
    {
        "estimator": [HasMethods(["fit", "predict_proba"])],
        "X": ["array-like", "sparse matrix"],
        "y": ["array-like"],
        "groups": ["array-like"],
        "llm_scores": ["array-like"],
        "cv": ["cv_object"],
        "n_bootstrap": [Interval(Integral, 1, None, closed="left")],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def compare_with_distillation(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    groups: SessionIds,
    llm_scores: ArrayLike,
    *,
    cv: Any = None,
    n_bootstrap: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> Bunch:
    """Compare a classifier by cross-validation with plain distillation of the same soft labels.

    Every way to learn gets the same folds, and predicts each human label without having seen its
    session. They are:

    - "skpref", the estimator as it is given;
    - "skpref, no pairs", the same with ``pairwise_weight=0``, and with the cross-entropy if it has
      none;
    - "distillation", what would be done without skpref: the same network, calibrator and smoother
      by cross-entropy alone, human labels in place of soft ones where there are any, nothing after
      that but scale and offsets;
    - "distillation, balanced", with ``class_weight="balanced"``;
    - "LLM scores, calibrated", the LLM itself, which has to be asked about each new utterance;
    - "human labels", a logistic regression on the labelled rows and the classifier's features
      alone, or the same network on them if it takes texts.

    Parameters
    ----------
    estimator : PairwisePreferenceClassifier or Pipeline
        Classifier, or pipeline with one as its last step. It is cloned, not fitted itself.
    X : {array-like, sparse matrix, frame} of shape (n_samples, n_features), or list of str
        What the estimator takes.
    y : array-like of shape (n_samples,)
        Human labels; -1 (numbers), None or NaN marks a row without one.
    groups : array-like of shape (n_samples,)
        Session id of each row: any hashable values, in any order.
    llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
        Raw LLM scores, NaN where there is none.
    cv : int, cross-validation splitter or None, default=None
        How the labelled rows are split. An int is the number of folds of a `GroupKFold`; None is
        5, or the number of labelled sessions if that is smaller. A splitter must keep sessions
        whole and test no row twice.
    n_bootstrap : int, default=1000
        Samples of the labelled sessions, drawn with replacement, that the intervals are taken
        from.
    confidence_level : float, default=0.95
        Share of those samples that an interval covers.
    random_state : int, RandomState instance or None, default=None
        Seed of the samples, and of the classifiers where the estimator has none.
    n_jobs : int, default=None
        Number of fits that run at the same time. None is 1.
    verbose : int, default=0
        Whether a line is printed after each fit.

    Returns
    -------
    Bunch
        Dictionary-like object.

        - scores : dict of {row: {metric: float}}, with macro_f1, accuracy, concordance (within
          sessions) and log_loss of the pooled predictions.
        - differences : dict of {row: {metric: (mean, low, high)}}, skpref less the other, with
          the interval over sessions, NaN for fewer than five. For log_loss, below 0 is better.
        - predictions : dict of {row: ndarray of shape (n_samples, n_classes)}, probabilities, NaN
          in rows that were not tested or have no LLM score.
        - fold : ndarray of int, shape (n_samples,), the fold a row was tested in, -1 for none.
        - classes : ndarray of shape (n_classes,), the order of the columns.
        - message : str, in words whether skpref wins, loses or cannot be told apart.
        - summary : str, scores and differences as a table.

    Raises
    ------
    ValueError
        If the estimator is something else, fewer than two sessions are labelled, the folds cut
        sessions or test a row twice, the scores do not match the classes, or lengths differ.

    See Also
    --------
    sklearn.model_selection.cross_validate : Scores of one estimator.
    skpref.inspection.preference_noise : Whether pairs within sessions are less noisy.

    Notes
    -----
    The labelled sessions are dealt evenly to the folds. Sessions without a label are in training
    in every fold, those of a test fold are not in it at all: neither labels nor scores. So each
    model has only a part of the labels, four fifths by default, and gains from labels are
    understated a little. Intervals hold the chance of which sessions were labelled, not that of
    the training; see whether another `random_state` of the estimator says the same. With many
    metrics and rows, one in twenty intervals at 0.95 misses.

    "skpref, no pairs" differs by the pairs alone, and the end of `message` is about it. Class
    weights given as a dict are those of "distillation", too.

    Metadata routing is switched on inside. Steps of a pipeline are fitted anew for each row and
    fold; give a `SentenceEncoder` a `cache`, or pass embeddings. Where utterances have no LLM
    score, "LLM scores, calibrated" is compared on the others.

    Examples
    --------
    >>> from skpref import PairwisePreferenceClassifier
    >>> from skpref.datasets import make_dialogues
    >>> from skpref.inspection import compare_with_distillation
    >>> data = make_dialogues(60, labelled_fraction=0.5, random_state=0)
    >>> clf = PairwisePreferenceClassifier("linear", solver="lbfgs", random_state=0)
    >>> found = compare_with_distillation(
    ...     clf, data.X, data.y, data.groups, data.llm_scores, cv=3, random_state=0
    ... )
    >>> list(found.scores)[:3]
    ['skpref', 'skpref, no pairs', 'distillation']
    >>> mean, low, high = found.differences["distillation"]["accuracy"]
    >>> bool(low <= mean <= high)
    True
    """
    prefix, last = _last_step(estimator)
    scores, classes, codes = read_scores(llm_scores, y, last.classes)
    (X,) = indexable(X)
    n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
    if n_rows != len(scores):
        raise ValueError(
            f"llm_scores has {len(scores)} rows but X has {n_rows}; pass one row of scores per "
            "utterance, NaN where the LLM gave none."
        )
    data = ComparisonData(X, codes, check_groups(groups, n_rows), scores, classes)
    rng = check_random_state(random_state)
    made = make_contenders(estimator, prefix, last, classes, int(rng.randint(2**31 - 1)))
    folds = _folds(cv, codes, classes, data.session)

    plan = [(k, row) for k in range(len(folds)) for row in made]
    results = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(fit_and_predict)(clone(made[row]), data, *folds[k], row) for k, row in plan
    )
    predictions = {row: np.full((n_rows, len(classes)), np.nan) for row in made}
    fold = np.full(n_rows, -1)
    for (k, row), (prob, seconds) in zip(plan, results, strict=True):
        predictions[row][folds[k][1]] = prob
        fold[folds[k][1]] = k
        if verbose:
            print(f"fold {k + 1}/{len(folds)}, {row}: {seconds:.1f} s")

    tested = np.flatnonzero((fold >= 0) & (codes >= 0))
    scored, differences, n_sessions = _compare(
        predictions, data, tested, n_bootstrap, confidence_level, rng
    )
    return Bunch(
        scores=scored,
        differences=differences,
        predictions=predictions,
        fold=fold,
        classes=classes,
        message=_comparison_message(differences, len(tested), n_sessions),
        summary=_comparison_summary(scored, differences),
    )
