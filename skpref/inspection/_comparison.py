"""Compare a classifier with plain distillation by cross-validation over sessions."""

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, check_cv
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed

from skpref._columns import read_rows
from skpref._indicator import is_multilabel
from skpref._progress import auto_bar, wants_lines
from skpref._sklearn import HasMethods, Interval, StrOptions, validate_params
from skpref._typing import ArrayLike, IntArray, SessionIds
from skpref._validation import check_groups
from skpref.inspection._bootstrap import (
    FEW_SESSIONS,
    MIN_SESSIONS,
    percentile_interval,
    session_weights,
)
from skpref.inspection._contenders import ComparisonData, fit_and_predict, make_contenders
from skpref.inspection._counts import METRICS, count_by_session
from skpref.inspection._pipeline import find_classifier
from skpref.inspection._report import (
    Report,
    caution_if_few,
    format_interval,
    join_names,
    points,
)
from skpref.inspection._scores import read_label_scores, read_scores


def make_folds(
    cv: Any, codes: IntArray, classes: np.ndarray, session: IntArray
) -> list[tuple[IntArray, IntArray]]:
    """Split labelled sessions; sessions without a label are always in training.

    Parameters
    ----------
    cv : int, splitter or None
        Number of folds or splitter; None means at most five folds.
    codes : ndarray of int, shape (n_samples,)
        Labels as class positions, -1 where unlabelled.
    classes : ndarray of shape (n_classes,)
        Class labels.
    session : ndarray of int, shape (n_samples,)
        Session codes.

    Returns
    -------
    list of (train, test)
        Training and test rows of each fold.

    Raises
    ------
    ValueError
        If fewer than two sessions are labelled, or the splitter splits a session or tests a row
        twice.
    """
    labelled = np.flatnonzero(codes >= 0)
    sessions = session[labelled]
    n_sessions = len(np.unique(sessions))
    if n_sessions < 2:
        raise ValueError(
            f"y has labels in {n_sessions} sessions, but at least 2 labelled sessions are needed: "
            "one to test on while another trains; label more sessions."
        )
    if cv is None:
        cv = GroupKFold(min(5, n_sessions))
    elif isinstance(cv, Integral):
        cv = GroupKFold(int(cv))
    else:
        cv = check_cv(cv)
    folds: list[tuple[IntArray, IntArray]] = []
    n_tests = np.zeros(len(labelled), dtype=np.int64)
    with warnings.catch_warnings():
        # A splitter that ignores groups warns; the check below finds what it does to sessions.
        warnings.simplefilter("ignore", UserWarning)
        splits = list(cv.split(labelled, classes[codes[labelled]], groups=sessions))
    for train, test in splits:
        if np.isin(sessions[test], sessions[train]).any():
            raise ValueError(
                f"cv={cv!r} puts utterances of one session into training and test; pass a splitter "
                "by groups, such as GroupKFold."
            )
        n_tests[test] += 1
        is_test = np.isin(session, sessions[test])
        folds.append((np.flatnonzero(~is_test), np.flatnonzero(is_test)))
    if n_tests.max() > 1:
        raise ValueError(
            f"cv={cv!r} tests a row more than once; pass a splitter that tests each row at most "
            "once, such as GroupKFold."
        )
    return folds


def _evaluate(predictions, data: ComparisonData, tested: IntArray, n_bootstrap, level, rng):
    """Return the metrics of each contender, and the differences of skpref to each other one."""
    codes = data.codes[tested]
    _, session = np.unique(data.session[tested], return_inverse=True)
    n_sessions = session.max() + 1
    weights = [np.ones(n_sessions), *session_weights(n_sessions, n_bootstrap, rng)]

    def metrics(prob, rows, codes):
        counts = count_by_session(prob[tested][rows], codes[rows], session[rows], n_sessions)
        return np.array([counts.metrics(weight) for weight in weights])

    scores, differences = {}, {}
    for name, prob in predictions.items():
        unknown = np.isnan(prob[tested])
        rows = ~unknown.all(axis=1)
        if not rows.any():
            continue
        # Of several labels the LLM may have answered some.
        known = np.where(unknown, -1, codes) if codes.ndim == 2 else codes
        values = metrics(prob, rows, known)
        scores[name] = dict(zip(METRICS, values[0].tolist(), strict=True))
        if name != "skpref":
            gain = metrics(predictions["skpref"], rows, known) - values
            low, high = percentile_interval(gain[1:], level, n_sessions >= MIN_SESSIONS)
            triples = zip(gain[0].tolist(), low.tolist(), high.tolist(), strict=True)
            differences[name] = dict(zip(METRICS, triples, strict=True))
    return scores, differences, n_sessions


def _verdicts(differences: dict[str, tuple[float, float, float]]) -> dict[str, list[str]]:
    """Sort the metrics by whether skpref is better, worse, or the interval holds 0."""
    verdicts: dict[str, list[str]] = {"better": [], "worse": [], "unclear": []}
    for metric, (mean, low, high) in differences.items():
        if np.isnan(mean):
            continue
        name = METRICS[metric]
        if not (low > 0 or high < 0):
            verdicts["unclear"].append(name)
            continue
        sign = -1 if metric == "log_loss" else 1
        size = f"{mean:+.3f}" if metric == "log_loss" else f"{points(mean)} points"
        verdicts["better" if sign * mean > 0 else "worse"].append(f"{name} ({size})")
    return verdicts


def _describe(verdicts: dict[str, list[str]]) -> str:
    phrases = []
    if verdicts["better"]:
        phrases.append(f"skpref is better in {join_names(verdicts['better'])}")
    if verdicts["worse"]:
        phrases.append(f"skpref is worse in {join_names(verdicts['worse'])}")
    if verdicts["unclear"]:
        phrases.append(f"no clear difference in {join_names(verdicts['unclear'])}")
    return "; ".join(phrases or ["no metric can be computed"])


def _judge_pairs(verdicts: dict[str, list[str]], n_sessions: int) -> str:
    """Return the sentence on whether pairs pay, from the difference without them."""
    if n_sessions < FEW_SESSIONS:
        return f"{n_sessions} sessions are too few to show whether pairs pay here: label more."
    if verdicts["better"] and verdicts["worse"]:
        return "So whether pairs pay here depends on which metric matters to you."
    if verdicts["better"]:
        return f"So pairs pay here, in {join_names(verdicts['better'])}."
    if verdicts["worse"]:
        return "So pairs do harm here: pass pairwise_weight=0."
    return "So these labels do not show whether pairs pay here; label more sessions to find out."


def _write_message(differences, n_labels: int, n_sessions: int) -> str:
    start = (
        f"On {n_labels} human labels of {n_sessions} sessions, each predicted by models that were "
        "trained without its session:"
    )
    against = [
        f"Against {name!r}: {_describe(_verdicts(of_name))}."
        for name, of_name in differences.items()
    ]
    end = _judge_pairs(_verdicts(differences["skpref, no pairs"]), n_sessions)
    return " ".join([start, *against, *caution_if_few(n_sessions), end])


def _make_table(scores, differences) -> tuple[list[str], list[list[str]]]:
    """Return header and lines: scores, then differences."""
    header = ["", *METRICS.values()]
    lines = [
        [name, *(f"{value:.3f}" for value in of_name.values())] for name, of_name in scores.items()
    ]
    lines.append(["", *[""] * len(METRICS)])
    lines.append(["skpref minus", *[""] * len(METRICS)])
    for name, of_name in differences.items():
        cells = [format_interval(mean, low, high, "+.3f") for mean, low, high in of_name.values()]
        lines.append([f"  {name}", *cells])
    return header, lines


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
        "verbose": [StrOptions({"auto"}), "verbose"],
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
    verbose: Any = "auto",
) -> Report:
    """Compare a classifier by cross-validation with plain distillation of the same soft labels.

    Every way to learn is trained on the same folds, and predicts each human label without having
    seen its session. The ways are:

    - "skpref", the estimator as given;
    - "skpref, no pairs", the same with ``pairwise_weight=0``, and with a cross-entropy if it has
      none;
    - "distillation", the usual way without skpref: the same network, calibrator and smoother,
      trained by cross-entropy alone on human labels and, for unlabelled rows, soft labels, followed
      by a scale and offsets only;
    - "distillation, balanced", the same with ``class_weight="balanced"``;
    - "LLM scores, calibrated", the LLM itself, which has to be asked about each new utterance;
    - "human labels", a logistic regression on the labelled rows and the classifier's features
      alone; for a classifier of texts, the same network trained on
      these rows.

    Parameters
    ----------
    estimator : PairwisePreferenceClassifier or Pipeline
        Classifier, or pipeline with one as its last step. It is cloned, not fitted itself.
    X : {array-like, sparse matrix, frame} of shape (n_samples, n_features), or list of str
        Input of the estimator, one row per utterance.
    y : array-like of shape (n_samples,) or (n_samples, n_labels)
        Human labels; -1 (numbers), None or NaN marks an unlabelled row. Two dimensions hold several
        labels per utterance, each of which is then judged where it is known: macro-F1 is the mean
        over labels, accuracy the share of right labels.
    groups : array-like of shape (n_samples,)
        Session id of each row: any hashable values, in any order.
    llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
        Raw LLM scores, NaN if missing.
    cv : int, cross-validation splitter or None, default=None
        How the labelled rows are split. An int is the number of folds of a `GroupKFold`; None is
        5, or the number of labelled sessions if that is smaller. A splitter must keep sessions
        whole and test no row twice.
    n_bootstrap : int, default=1000
        Number of bootstrap samples of the labelled sessions, from which intervals are computed.
    confidence_level : float, default=0.95
        Share of the bootstrap samples that an interval covers.
    random_state : int, RandomState instance or None, default=None
        Seed of the bootstrap, and of the classifiers if the estimator has none.
    n_jobs : int, default=None
        Number of fits that run at the same time. None is 1.
    verbose : "auto", bool or int, default="auto"
        Whether to print a line after each fit. "auto" shows a progress bar instead, after three
        seconds, and only in a terminal or a notebook.

    Returns
    -------
    Report
        Its fields can be read as attributes; `print` and notebooks show message and table. A name
        is one of the ways to learn above.

        - scores : dict of {name: {metric: float}}, with macro_f1, accuracy, concordance (within
          sessions) and log_loss of the pooled predictions.
        - differences : dict of {name: {metric: (mean, low, high)}}, skpref minus the other, with
          the interval over sessions, NaN for fewer than five. For log_loss, below 0 is better.
        - predictions : dict of {name: ndarray of shape (n_samples, n_classes)}, probabilities; NaN
          in rows that were not tested, or have no LLM score if the LLM itself predicts.
        - fold : ndarray of int, shape (n_samples,), the fold in which a row was tested, -1 for
          none.
        - classes : ndarray of shape (n_classes,), the order of the columns.
        - message : str, in words whether skpref wins, loses, or the labels do not show it.
        - summary : str, scores and differences as a table.

    Raises
    ------
    ValueError
        If the last step of the estimator is something else, fewer than two sessions are labelled,
        the folds split a session or test a row twice, the scores do not match the classes, or
        lengths differ.

    See Also
    --------
    sklearn.model_selection.cross_validate : Scores of one estimator.
    skpref.inspection.preference_noise : Whether pairs within sessions are less noisy.

    Notes
    -----
    The labelled sessions are distributed evenly over the folds. Sessions without a label are in
    the training set of every fold. A session of a test fold is not trained on at all: neither its
    labels nor its scores. So each model sees only a part of the labels, four fifths by default, and
    gains from labels are slightly understated. Intervals reflect which sessions happened to be
    labelled, not the randomness of training; check whether another `random_state` of the estimator
    gives the same result. With many metrics and ways to learn, one in twenty intervals at level
    0.95 misses.

    "skpref, no pairs" differs by the pairs alone, and the end of `message` is about it. Class
    weights given as a dict are used by "distillation", too.

    Metadata routing is switched on inside. Steps of a pipeline are fitted again for each way to
    learn and each fold; give a `SentenceEncoder` a `cache`, or pass embeddings. If some utterances
    have no LLM score, "LLM scores, calibrated" is compared on the others.

    Examples
    --------
    >>> from skpref import PairwisePreferenceClassifier
    >>> from skpref.datasets import make_dialogues
    >>> from skpref.inspection import compare_with_distillation
    >>> data = make_dialogues(60, labelled_fraction=0.5, random_state=0)
    >>> clf = PairwisePreferenceClassifier(random_state=0)
    >>> comparison = compare_with_distillation(
    ...     clf, data.X, data.y, data.groups, data.llm_scores, cv=3, random_state=0
    ... )
    >>> list(comparison.scores)[:3]
    ['skpref', 'skpref, no pairs', 'distillation']
    >>> mean, low, high = comparison.differences["distillation"]["accuracy"]
    >>> bool(low <= mean <= high)
    True
    """
    _, classifier = find_classifier(estimator)
    several = is_multilabel(y, classifier.classes, llm_scores)
    read = read_label_scores if several else read_scores
    scores, classes, codes = read(llm_scores, y, classifier.classes)
    labelled = codes.max(axis=1) >= 0 if several else codes >= 0
    X, n_rows = read_rows(X)
    if n_rows != len(scores):
        raise ValueError(
            f"llm_scores has {len(scores)} rows but X has {n_rows}; pass one row of scores per "
            "utterance, NaN where the LLM gave none."
        )
    data = ComparisonData(X, codes, check_groups(groups, n_rows), scores, classes)
    rng = check_random_state(random_state)
    contenders = make_contenders(estimator, classes, int(rng.randint(2**31 - 1)))
    if several:  # to a splitter, all labelled rows are alike
        folds = make_folds(cv, np.where(labelled, 0, -1), np.zeros(1), data.session)
    else:
        folds = make_folds(cv, codes, classes, data.session)

    plan = [(k, name) for k in range(len(folds)) for name in contenders]
    results = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(fit_and_predict)(contenders[name], data, *folds[k]) for k, name in plan
    )
    predictions = {name: np.full((n_rows, len(classes)), np.nan) for name in contenders}
    fold = np.full(n_rows, -1)
    with auto_bar(len(plan), "Comparing, fits", verbose) as bar:
        for (k, name), (prob, seconds) in zip(plan, results, strict=True):
            predictions[name][folds[k][1]] = prob
            fold[folds[k][1]] = k
            bar.update()
            if wants_lines(verbose):
                print(f"fold {k + 1}/{len(folds)}, {name}: {seconds:.1f} s")

    tested = np.flatnonzero((fold >= 0) & labelled)
    metrics, differences, n_sessions = _evaluate(
        predictions, data, tested, n_bootstrap, confidence_level, rng
    )
    return Report(
        *_make_table(metrics, differences),
        scores=metrics,
        differences=differences,
        predictions=predictions,
        fold=fold,
        classes=classes,
        message=_write_message(differences, len(tested), n_sessions),
    )
