"""Compare the prompts of an LLM: which add information, and which repeat the others."""

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LinearRegression
from sklearn.utils import Bunch, check_random_state

from skpref._calibrator import LLMScoreCalibrator
from skpref._columns import read_numbers
from skpref._sklearn import HasMethods, Interval, StrOptions, validate_params
from skpref._typing import ArrayLike, BoolArray, FloatArray, IntArray, SessionIds
from skpref._validation import check_groups
from skpref.inspection._bootstrap import (
    MIN_SESSIONS,
    percentile_interval,
    ratio,
    session_weights,
)
from skpref.inspection._report import (
    Report,
    caution_if_few,
    format_interval,
    join_names,
    percent,
)
from skpref.inspection._scores import (
    check_prompt_names,
    fit_calibrator,
    log_losses,
    order_by_content,
    prompt_probabilities,
    read_scores,
)
from skpref.metrics import within_session_concordance

# From this share on, the other prompts predict a prompt's scores well enough to call it redundant.
_REDUNDANT = 0.8
# Added to the probability of a class and to that of its complement before log-odds are taken: two
# outcomes, so their sum is 1 + 2 * _SMOOTHING. The calibrator smooths K classes at once.
_SMOOTHING = 1e-3
# A set of prompts whose pool is at most this much less accurate than that of all is good enough.
_GOOD_ENOUGH = 0.01


def _correlate(first: FloatArray, second: FloatArray) -> float:
    """Return the mean over the columns of Pearson's correlation; NaN if no column varies."""
    if len(first) < 2:
        return float("nan")
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    varies = scale > 1e-12
    if not varies.any():
        return float("nan")
    return float(((first * second).sum(axis=0)[varies] / scale[varies]).mean())


def _kappa(first: IntArray, second: IntArray, n_classes: int) -> float:
    """Return Cohen's kappa; NaN if both prompts choose the same class in every row."""
    if not len(first):
        return float("nan")
    shares = np.bincount(first * n_classes + second, minlength=n_classes**2) / len(first)
    shares = shares.reshape(n_classes, n_classes)
    chance = float(shares.sum(axis=0) @ shares.sum(axis=1))
    return float((np.trace(shares) - chance) / (1 - chance)) if chance < 1 else float("nan")


def _for_each_pair(is_scored: BoolArray, compare: Any) -> FloatArray:
    """Return the symmetric matrix of `compare(p, q, rows)` over the rows that p and q scored."""
    n_prompts = is_scored.shape[1]
    matrix = np.full((n_prompts, n_prompts), np.nan)
    for p in range(n_prompts):
        for q in range(p, n_prompts):
            matrix[p, q] = matrix[q, p] = compare(p, q, is_scored[:, p] & is_scored[:, q])
    return matrix


def _redundancy(log_odds: FloatArray, is_scored: BoolArray) -> FloatArray:
    """Return the adjusted R² of each prompt's log-odds, predicted from the other prompts'."""
    n_prompts = is_scored.shape[1]
    redundancy = np.full(n_prompts, np.nan)
    for p in range(n_prompts):
        rows = is_scored[:, p]
        others = [q for q in range(n_prompts) if q != p and is_scored[rows, q].any()]
        target = log_odds[rows, p]
        target = target[:, np.ptp(target, axis=0) > 0] if len(target) else target[:, :0]
        features = log_odds[rows][:, others].reshape(len(target), len(others) * log_odds.shape[2])
        n_left = len(target) - features.shape[1] - 1
        if not others or not target.shape[1] or n_left < 1:
            continue
        mean = np.nanmean(features, axis=0)
        features = np.where(np.isnan(features), mean, features)
        r2 = LinearRegression().fit(features, target).score(features, target)
        redundancy[p] = max(1 - (1 - r2) * (len(target) - 1) / n_left, 0.0)
    return redundancy


def _row_losses(prob: FloatArray, codes: IntArray) -> FloatArray:
    """Return log loss and error of each row (n, 2).

    A row without probabilities is predicted by the shares of the classes.
    """
    share = np.bincount(codes, minlength=prob.shape[1]) / len(codes)
    prob = np.where(np.isnan(prob), share, prob)
    return np.column_stack([log_losses(prob, codes), prob.argmax(axis=1) != codes])


def _measure_drops(
    calibrator, scores, codes, classes, session, used, n_bootstrap, level, rng
) -> Bunch:
    """Return the loss of the cross-fitted pool without each prompt minus that with it."""

    def losses(part):
        prob, _ = fit_calibrator(calibrator, part, codes, classes, session)
        return _row_losses(prob[used], codes[used])

    n_prompts = scores.shape[1]
    whole = losses(scores)
    gain = np.full((n_prompts, *whole.shape), np.nan)
    for p in range(n_prompts):
        rest = np.delete(scores, p, axis=1)
        if rest.size and not np.isnan(rest).all():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # given for the whole pool already
                gain[p] = losses(rest) - whole
    _, unit = np.unique(session[used], return_inverse=True)
    n_units = unit.max() + 1
    n_rows = np.bincount(unit)
    sums = np.zeros((n_units, n_prompts, 2))
    np.add.at(sums, unit, gain.transpose(1, 0, 2))
    samples = np.array(
        [
            np.tensordot(weight, sums, axes=1) / (weight @ n_rows)
            for weight in session_weights(n_units, n_bootstrap, rng)
        ]
    )
    mean = sums.sum(axis=0) / len(unit)
    enough = n_units >= MIN_SESSIONS
    low, high = percentile_interval(samples, level, enough)
    # Of many prompts, one would seem to help or hurt by chance: Bonferroni's correction.
    strict = 1 - (1 - level) / n_prompts
    strict_low, strict_high = percentile_interval(samples[:, :, 0], strict, enough)
    return Bunch(
        n_sessions=n_units,
        effect=np.select([strict_low > 0, strict_high < 0], ["helps", "hurts"], "unclear"),
        log_loss=Bunch(mean=mean[:, 0], low=low[:, 0], high=high[:, 0]),
        accuracy=Bunch(mean=mean[:, 1], low=low[:, 1], high=high[:, 1]),
    )


def _find_smallest(calibrator, scores, codes, classes, session, used, tokens) -> Bunch:
    """Add the prompt that helps most, one at a time, until the pool is as good as that of all."""

    def accuracy(prompts):
        part = scores[:, prompts]
        if np.isnan(part).all():
            return -1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # given for the whole pool already
            prob, _ = fit_calibrator(calibrator, part, codes, classes, session)
        return 1 - float(_row_losses(prob[used], codes[used])[:, 1].mean())

    n_prompts = scores.shape[1]
    everything = list(range(n_prompts))
    target = accuracy(everything)
    chosen: list[int] = []
    while len(chosen) < n_prompts:
        found = {p: accuracy(sorted([*chosen, p])) for p in everything if p not in chosen}
        enough = [p for p, value in found.items() if value >= target - _GOOD_ENOUGH]
        # Of those that are good enough the cheapest, else the best; of equal ones the first.
        price = {p: -found[p] if tokens is None else (tokens[p], -found[p]) for p in found}
        best = min(enough, key=price.__getitem__) if enough else max(found, key=found.__getitem__)
        chosen.append(best)
        if enough:
            break
    return Bunch(prompts=np.sort(chosen), accuracy=found[best], accuracy_of_all=target)


def _describe_smallest(smallest: Bunch, names: np.ndarray, tokens: FloatArray | None) -> str:
    chosen = names[smallest.prompts]
    if len(chosen) == len(names):
        return "No smaller set of prompts is within one point of the accuracy of all."
    price = ""
    if tokens is not None:
        price = f", for {tokens[smallest.prompts].sum():,.0f} of {tokens.sum():,.0f} tokens"
    return (
        f"The smallest set found within one point of the accuracy of all ("
        f"{smallest.accuracy_of_all:.3f}) is {join_names(chosen)} ({smallest.accuracy:.3f}){price}."
    )


def _check_tokens(tokens: ArrayLike | None, n_prompts: int) -> FloatArray | None:
    if tokens is None:
        return None
    tokens = read_numbers(tokens, "tokens")
    if tokens.shape != (n_prompts,) or not (tokens >= 0).all():
        raise ValueError(
            f"tokens={tokens.tolist()} must be {n_prompts} numbers of 0 or more, the tokens that "
            "each prompt takes per utterance."
        )
    return tokens


def _measure_quality(prob, best, is_scored, codes, session) -> dict[str, FloatArray]:
    """Return the quality of each prompt on the labelled rows that it scored."""
    wrong = (best != codes[:, None]).astype(np.float64)
    concordance = np.full(is_scored.shape[1], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        for p, rows in enumerate(is_scored.T):
            if rows.any():
                concordance[p] = within_session_concordance(
                    codes[rows],
                    prob[rows, p],
                    groups=session[rows],
                    labels=np.arange(prob.shape[2]),
                )
    return {
        "accuracy": 1 - ratio((wrong * is_scored).sum(axis=0), is_scored.sum(axis=0)),
        "concordance": concordance,
        "error_correlation": _for_each_pair(
            is_scored, lambda p, q, rows: _correlate(wrong[rows][:, [p]], wrong[rows][:, [q]])
        ),
    }


def _describe_effects(drop: Bunch, names: np.ndarray) -> list[str]:
    helps, hurts, unclear = (names[drop.effect == e] for e in ("helps", "hurts", "unclear"))
    parts = []
    if len(helps):
        parts.append(f"The calibrated pool is worse without {join_names(helps)}: keep.")
    if len(hurts):
        parts.append(f"It is better without {join_names(hurts)}: leave out.")
    if len(unclear):
        parts.append(f"The labels do not show whether the pool needs {join_names(unclear)}.")
    return [*parts, *caution_if_few(drop.n_sessions)]


def _describe_redundancy(redundancy: FloatArray, is_needed: BoolArray, names) -> list[str]:
    redundant = (redundancy >= _REDUNDANT) & ~is_needed
    if redundant.any():
        shares = zip(names[redundant], redundancy[redundant], strict=True)
        listed = join_names([f"{name} ({percent(r2)} of the variance)" for name, r2 in shares])
        return [
            f"The other prompts already predict most of the scores of {listed}: leave out such "
            "prompts first, one at a time."
        ]
    if np.isnan(redundancy).all():
        return []
    top = int(np.nanargmax(redundancy))
    return [
        f"No prompt is redundant: the other prompts predict at most {percent(redundancy[top])} of "
        f"the variance of a prompt's scores ({names[top]})."
    ]


def _write_message(agreement: Bunch) -> str:
    names = np.asarray(agreement.prompt_names, dtype=object)
    if len(names) == 1:
        return "There is one prompt only, so there is nothing to compare it with."
    parts = []
    is_needed = np.zeros(len(names), dtype=bool)
    if "drop" in agreement:
        parts += _describe_effects(agreement.drop, names)
        parts.append(_describe_smallest(agreement.smallest, names, agreement.get("tokens")))
        is_needed = agreement.drop.effect == "helps"
    silent = names[agreement.coverage == 0]
    if len(silent):
        parts.append(f"There is no score by {join_names(silent)}.")
    parts += _describe_redundancy(agreement.redundancy, is_needed, names)
    return " ".join(parts)


def _make_table(agreement: Bunch) -> tuple[list[str], list[list[str]]]:
    """Return header and lines, one per prompt."""
    header = ["prompt", "coverage", "redundancy"]
    columns = [agreement.coverage, agreement.redundancy]
    digits = [".3f", ".3f"]
    if "tokens" in agreement:
        header.append("tokens")
        columns.append(agreement.tokens)
        digits.append(",.0f")
    if "accuracy" in agreement:
        header += ["accuracy", "concordance"]
        columns += [agreement.accuracy, agreement.concordance]
        digits += [".3f", ".3f"]
    lines = [
        [name, *(f"{column[p]:{form}}" for column, form in zip(columns, digits, strict=True))]
        for p, name in enumerate(agreement.prompt_names)
    ]
    if "drop" in agreement:
        header.append("log loss without it")
        drop = agreement.drop.log_loss
        for p, line in enumerate(lines):
            line.append(format_interval(drop.mean[p], drop.low[p], drop.high[p], "+.4f"))
    return header, lines


@validate_params(
    {
        "llm_scores": ["array-like"],
        "y": ["array-like", None],
        "groups": ["array-like", None],
        "prompt_names": ["array-like", None],
        "classes": ["array-like", None],
        "tokens": ["array-like", None],
        "method": [StrOptions({"spearman", "pearson"})],
        "calibrator": [None, HasMethods(["fit_transform"])],
        "n_bootstrap": [Interval(Integral, 1, None, closed="left")],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def prompt_agreement(
    llm_scores: ArrayLike,
    y: ArrayLike | None = None,
    groups: SessionIds | None = None,
    *,
    prompt_names: ArrayLike | None = None,
    classes: ArrayLike | None = None,
    tokens: ArrayLike | None = None,
    method: str = "spearman",
    calibrator: Any = None,
    n_bootstrap: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> Report:
    """Find out which prompts of an LLM add information, and which repeat the others.

    Parameters
    ----------
    llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
        Raw LLM scores, NaN if missing; 2-D holds the positive class of a binary task.
        Unlabelled rows count in all results that need no labels.
    y : array-like of shape (n_samples,), default=None
        Human labels; -1 (numbers), None or NaN marks an unlabelled row.
    groups : array-like of shape (n_samples,), default=None
        Session id of each row. None treats each row as a session, except for `concordance`, which
        is then computed over all rows.
    prompt_names : array-like of str, shape (n_prompts,), default=None
        Names of the prompts; None numbers them.
    classes : array-like of shape (n_classes,), default=None
        Class labels in the order of the last axis of the scores. None takes the sorted labels of
        `y`, or 0, 1, ... if there are none.
    tokens : array-like of shape (n_prompts,), default=None
        Tokens that each prompt takes per utterance, such as ``labeler.plan(X).tokens`` before
        anything is asked, for a column of the table and to choose among sets of prompts.
    method : {"spearman", "pearson"}, default="spearman"
        Correlation of the ranks, or of the log-odds themselves.
    calibrator : transformer, default=None
        Pools the prompts for `drop`. None means ``LLMScoreCalibrator()``.
    n_bootstrap : int, default=1000
        Number of bootstrap samples of the sessions, from which intervals are computed.
    confidence_level : float, default=0.95
        Share of the bootstrap samples that an interval covers.
    random_state : int, RandomState instance or None, default=None
        Seed of the bootstrap. With an int, neither the order of the rows nor the names of the
        sessions change the result.

    Returns
    -------
    Report
        Its fields can be read as attributes; `print` and notebooks show message and table. What
        cannot be computed is NaN.

        - prompt_names : list of str.
        - correlation : ndarray of shape (n_prompts, n_prompts), of the log-odds of each class
          over the rows that both prompts scored, mean over classes.
        - kappa : ndarray of shape (n_prompts, n_prompts), agreement of the most probable classes
          beyond chance.
        - redundancy : ndarray of shape (n_prompts,), share of the variance of a prompt's log-odds
          that a linear regression on the other prompts explains (adjusted R²).
        - coverage : ndarray of shape (n_prompts,), share of the rows that a prompt scored.
        - message : str, which prompts help and which are redundant.
        - summary : str, a table with a line per prompt.

        With labels:

        - accuracy : ndarray of shape (n_prompts,), of the most probable class.
        - concordance : ndarray of shape (n_prompts,), within sessions.
        - error_correlation : ndarray of shape (n_prompts, n_prompts), of being wrong. Prompts
          whose errors correlate little make a good ensemble.
        - drop : Bunch of log_loss and accuracy, each a Bunch of mean, low and high of shape
          (n_prompts,): what the calibrated pool loses if a prompt is left out; above 0 the
          prompt helps. Its effect is an array of "helps", "hurts" and "unclear": whether a wider
          interval of the log loss, corrected for the number of prompts, excludes 0. Its n_sessions
          is the number of sessions that the intervals are from.
        - smallest : Bunch of prompts (their numbers), accuracy and accuracy_of_all: the smallest
          set of prompts found whose calibrated pool is within one point of the accuracy of all.

    Raises
    ------
    ValueError
        If the scores do not match the classes, `prompt_names` does not match the prompts, or
        lengths differ.

    See Also
    --------
    skpref.LLMScoreCalibrator : Pools the prompts.
    skpref.ScoreReliabilityDisplay : Draws how well each prompt is calibrated.

    Notes
    -----
    For `drop`, the pool is fitted with and without the prompt and cross-fitted by session
    (`LLMScoreCalibrator.fit_transform`): each label is predicted without the labels of its own
    session. For `smallest`, the prompt that helps most is added, one at a time; of several that
    are good enough the one of fewest `tokens`. The labels that choose it also measure it, so its
    accuracy is a little too high. If two prompts give the same scores, leaving out either loses
    nothing, since the other one stays: leave out one prompt at a time, and check again.

    Examples
    --------
    >>> import numpy as np
    >>> from skpref.datasets import make_dialogues
    >>> from skpref.inspection import prompt_agreement
    >>> data = make_dialogues(400, labelled_fraction=0.5, random_state=0)
    >>> noise = np.random.default_rng(0).uniform(size=(len(data.X), 1))
    >>> scores = np.hstack([data.llm_scores[:, :, 1], noise])
    >>> agreement = prompt_agreement(scores, data.y, data.groups, random_state=0)
    >>> agreement.accuracy.round(1)
    array([0.8, 0.8, 0.9, 0.5])
    >>> (agreement.drop.log_loss.low > 0).tolist()
    [True, True, True, False]
    >>> agreement.smallest.prompts
    array([2])
    """
    scores, classes, codes = read_scores(llm_scores, y, classes)
    n_rows = len(scores)
    session = np.arange(n_rows) if groups is None else check_groups(groups, n_rows)
    if scores.ndim == 2 and len(classes) > 2:
        n_prompts = scores.shape[1] // len(classes)
    else:
        n_prompts = scores.shape[1]
    names = check_prompt_names(prompt_names, n_prompts)
    tokens = _check_tokens(tokens, n_prompts)
    content = np.column_stack([codes, scores.reshape(n_rows, -1)])
    order, rank = order_by_content(content, session, np.bincount(session))
    scores, codes, session = scores[order], codes[order], rank[session][order]

    prob = prompt_probabilities(scores, classes)
    is_scored = ~np.isnan(prob[:, :, 0])
    smooth = (prob + _SMOOTHING) / (1 + 2 * _SMOOTHING)
    log_odds = np.log(smooth / (1 - smooth))[:, :, -1 if len(classes) == 2 else slice(None)]
    log_odds = log_odds.reshape(n_rows, n_prompts, -1)
    best = np.where(is_scored, np.where(np.isnan(prob), -1, prob).argmax(axis=2), 0)

    def correlation(p, q, rows):
        first, second = log_odds[rows, p], log_odds[rows, q]
        if method == "spearman" and len(first):
            first, second = rankdata(first, axis=0), rankdata(second, axis=0)
        return _correlate(first, second)

    agreement = Bunch(
        prompt_names=names,
        correlation=_for_each_pair(is_scored, correlation),
        kappa=_for_each_pair(
            is_scored, lambda p, q, rows: _kappa(best[rows, p], best[rows, q], len(classes))
        ),
        redundancy=_redundancy(log_odds, is_scored),
        coverage=is_scored.mean(axis=0),
    )
    if tokens is not None:
        agreement.tokens = tokens
    labelled = (codes >= 0) & is_scored.any(axis=1)
    if labelled.any():
        compared_in = np.zeros(n_rows, dtype=np.int64) if groups is None else session
        agreement.update(
            _measure_quality(prob, best, is_scored & labelled[:, None], codes, compared_in)
        )
        pool = (
            LLMScoreCalibrator(classes=classes) if calibrator is None else calibrator,
            scores.reshape(n_rows, n_prompts, -1) if len(classes) > 2 else scores,
            codes,
            classes,
            session,
            labelled,
        )
        agreement.smallest = _find_smallest(*pool, tokens)
        agreement.drop = _measure_drops(
            *pool,
            n_bootstrap,
            confidence_level,
            check_random_state(random_state),
        )
    return Report(*_make_table(agreement), **agreement, message=_write_message(agreement))
