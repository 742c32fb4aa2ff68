"""Looks into one's own data: how noisy the scores are, which prompts help, what skpref gains."""

import time
import warnings
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import sklearn
from scipy.stats import rankdata
from sklearn.base import clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GroupKFold, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_random_state, indexable
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.parallel import Parallel, delayed

from skpref._calibrator import LLMScoreCalibrator
from skpref._sessions import won_and_compared
from skpref._sklearn import HasMethods, Interval, StrOptions, validate_params
from skpref._student._classifier import PairwisePreferenceClassifier
from skpref._typing import ArrayLike, BoolArray, FloatArray, IntArray, SessionIds
from skpref._validation import (
    check_groups,
    check_labels,
    check_llm_scores,
    labels_of_codes,
    resolve_classes,
)
from skpref.metrics import within_session_concordance

__all__ = ["compare_with_distillation", "preference_noise", "prompt_agreement"]

# Resampling fewer sessions than this gives intervals that are far too narrow, so none is given.
_MIN_SESSIONS = 5
# From fewer than this many they are too narrow still, which messages say.
_FEW_SESSIONS = 20
_LENGTH_BINS = 4
# From this share on, the other prompts tell a prompt's scores well enough to call it redundant.
_REDUNDANT = 0.8
_SMOOTHING = 1e-3
_SMALLEST = 1e-7  # probability that a log loss is cut off at; float32 has nothing finer next to 1


def _read(
    llm_scores: ArrayLike, y: ArrayLike | None, classes: ArrayLike | None
) -> tuple[FloatArray, np.ndarray, IntArray]:
    """Scores in double precision, the class labels, and labels as positions in them."""
    scores = check_llm_scores(llm_scores).astype(np.float64)
    labels = np.full(len(scores), -1) if y is None else y
    found, codes = check_labels(labels, classes=classes, partial=True)
    if len(codes) != len(scores):
        raise ValueError(
            f"y has {len(codes)} entries but llm_scores has {len(scores)} rows; pass one label "
            "per row, -1 or None where there is none."
        )
    if scores.ndim == 3:
        return scores, resolve_classes(found, classes, scores.shape[2]), codes
    if len(found) == 0:
        found = np.arange(2)
    if len(found) < 2:
        raise ValueError(
            f"y has one class only ({found.tolist()!r}); pass classes=[...] with every label, in "
            "the order of the scores."
        )
    return scores, found, codes


def _are_soft_labels(scores: FloatArray, n_classes: int) -> bool:
    """Tell whether each row of a table is a distribution over the classes."""
    known = scores[~np.isnan(scores).any(axis=1)]
    return (
        scores.shape[1] == n_classes
        and bool((known >= 0).all())
        and np.allclose(known.sum(axis=1), 1, atol=1e-3)
    )


def _score_per_class(scores: FloatArray, classes: np.ndarray, layout: str) -> FloatArray:
    """One score per class (n, n_classes), NaN in rows without any."""
    n_classes = len(classes)
    if layout == "classes" and scores.shape[1:] != (n_classes,):
        raise ValueError(
            f"llm_scores has shape {scores.shape} but layout='classes' needs one column for each "
            f"of the {n_classes} classes {classes.tolist()!r}; pass (n_utterances, {n_classes}), "
            "or layout='prompts'."
        )
    guessed = layout == "auto" and scores.ndim == 2 and _are_soft_labels(scores, n_classes)
    if layout == "classes" or guessed:
        return np.where(np.isnan(scores).any(axis=1, keepdims=True), np.nan, scores)
    return LLMScoreCalibrator("mean", classes=classes).fit_transform(scores)


def _canonical_order(
    content: FloatArray, session: IntArray, length: IntArray
) -> tuple[IntArray, IntArray]:
    """Order of the rows by content, sessions together; and the new code of each session.

    Sessions that hold the same rows are alike in all that is computed here, so neither the order
    of the rows nor the names of the sessions change a result.
    """
    content = np.where(np.isnan(content), -np.inf, content)
    by_content = np.lexsort(content.T)
    ascending = content[by_content]
    changed = np.r_[False, (ascending[1:] != ascending[:-1]).any(axis=1)]
    kind = np.empty(len(content), dtype=np.int64)
    kind[by_content] = np.cumsum(changed)
    # A sum of integers that wraps around is the same in any order, so it names a bag of rows.
    top = np.iinfo(np.uint64).max
    mark = np.random.RandomState(0).randint(0, top, size=kind.max(initial=0) + 1, dtype=np.uint64)
    signature = np.zeros(len(length), dtype=np.uint64)
    np.add.at(signature, session, mark[kind])
    rank = np.empty(len(length), dtype=np.int64)
    rank[np.lexsort((signature, length))] = np.arange(len(length))
    return np.lexsort((kind, rank[session])), rank


def _resampled(
    n_sessions: int, n_bootstrap: int, rng: np.random.RandomState
) -> Iterator[FloatArray]:
    """How often each session is in a sample, for one sample after the other."""
    share = np.full(n_sessions, 1 / n_sessions)
    for _ in range(n_bootstrap):
        yield rng.multinomial(n_sessions, share).astype(np.float64)


def _ratio(part: Any, whole: Any) -> Any:
    """`part / whole`, NaN where the whole is 0."""
    return part / np.where(np.asarray(whole) > 0, whole, np.nan)


def _interval(
    samples: FloatArray, level: float, told: ArrayLike = True
) -> tuple[FloatArray, FloatArray]:
    """Percentile interval over the first axis; NaN where not `told` or mostly undefined."""
    flat = samples.reshape(len(samples), -1)
    told = np.broadcast_to(told, samples.shape[1:]).ravel()
    ends = np.full((2, flat.shape[1]), np.nan)
    for k, column in enumerate(flat.T):
        values = column[~np.isnan(column)]
        if told[k] and len(values) > len(column) / 2:
            ends[:, k] = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return ends[0].reshape(samples.shape[1:]), ends[1].reshape(samples.shape[1:])


def _estimate(value: float, samples: FloatArray, level: float, told: bool, **more: Any) -> Bunch:
    low, high = _interval(samples, level, told)
    return Bunch(error=float(value), low=float(low), high=float(high), **more)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _table(header: list[str], lines: list[list[str]]) -> str:
    """Plain table: the first column to the left, the others to the right."""
    cells = [header, *lines]
    widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _listed(names: Sequence[str] | np.ndarray) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


class _Rows(NamedTuple):
    """Labelled rows with scores, in canonical order; one column for each class compared."""

    score: FloatArray
    positive: BoolArray
    session: IntArray  # ascending
    length: IntArray  # rows of each session, labelled or not


class _Pairs(NamedTuple):
    """Pairs of rows of different score, of which exactly one is of the class."""

    session: IntArray  # of the row that is of the class
    other: IntArray  # session of the row that is not
    gap: FloatArray
    wrong: FloatArray


def _labelled_rows(llm_scores, y, groups, classes, layout) -> _Rows:
    scores, classes, codes = _read(llm_scores, y, classes)
    session = check_groups(groups, len(scores))
    score = _score_per_class(scores, classes, layout)
    kept = (codes >= 0) & ~np.isnan(score[:, 0])
    if len(np.unique(codes[kept])) < 2:
        raise ValueError(
            f"y has {len(np.unique(codes[kept]))} classes on the {kept.sum()} labelled rows with "
            "scores, so no two rows can be compared; label rows of at least two classes."
        )
    length = np.bincount(session)
    used, session = np.unique(session[kept], return_inverse=True)
    score, codes, length = score[kept], codes[kept], length[used]
    order, rank = _canonical_order(np.column_stack([codes, score]), session, length)
    score, codes = score[order], codes[order]
    # For two classes the pairs of one are those of the other.
    compared = [1] if len(classes) == 2 else list(range(len(classes)))
    positive = codes[:, None] == np.array(compared)
    return _Rows(score[:, compared], positive, rank[session][order], np.sort(length))


def _within_counts(rows: _Rows) -> tuple[FloatArray, FloatArray]:
    """Wrong pairs and all pairs of each session, summed over classes."""
    wrong, n_pairs = np.zeros(len(rows.length)), np.zeros(len(rows.length))
    for score, positive in zip(rows.score.T, rows.positive.T, strict=True):
        won, compared = won_and_compared(rows.session, positive, score, len(rows.length))
        wrong += compared - won
        n_pairs += compared
    return wrong, n_pairs


class _AllPairs:
    """Count the wrong pairs of all rows, weighted by session, in O(rows) each time."""

    def __init__(self, rows: _Rows) -> None:
        self.columns = []
        for score, positive in zip(rows.score.T, rows.positive.T, strict=True):
            order = np.argsort(score, kind="stable")
            tie = np.cumsum(np.diff(score[order], prepend=score[order[0]]) > 0)
            self.columns.append((rows.session[order], positive[order], tie))

    def count(self, weight: FloatArray) -> tuple[float, float]:
        """Weight of the wrong pairs, and of all; a pair weighs the product of its sessions."""
        wrong = total = 0.0
        for session, positive, tie in self.columns:
            row_weight = weight[session]
            for_class = np.bincount(tie, weights=row_weight * positive)
            against = np.bincount(tie, weights=row_weight * ~positive)
            higher = against.sum() - np.cumsum(against)
            wrong += float(for_class @ (higher + against / 2))
            total += float(for_class.sum() * against.sum())
        return wrong, total


def _draw_pairs(
    rows: _Rows, across: bool, max_pairs: int, rng: np.random.RandomState
) -> tuple[_Pairs, int, float]:
    """List all pairs within or across sessions, or draw `max_pairs`; number of all, share tied."""
    n_sessions = len(rows.length)
    for_class = [np.flatnonzero(p) for p in rows.positive.T]
    against = [np.flatnonzero(~p) for p in rows.positive.T]
    sizes = [np.bincount(rows.session[a], minlength=n_sessions) for a in against]
    # Partners of a row stand together: those of its own session, or all others around them.
    block = [s[rows.session[f]] for s, f in zip(sizes, for_class, strict=True)]
    start = [(np.cumsum(s) - s)[rows.session[f]] for s, f in zip(sizes, for_class, strict=True)]
    own, first_own = np.concatenate(block), np.concatenate(start)
    n_rows = [len(f) for f in for_class]
    n_against = np.array([len(a) for a in against])
    n_partners = np.repeat(n_against, n_rows) - own if across else own
    base = np.repeat(np.cumsum(n_against) - n_against, n_rows)
    column = np.repeat(np.arange(len(for_class)), n_rows)

    ends = np.cumsum(n_partners)
    total = int(ends[-1]) if len(ends) else 0
    if total > max_pairs:
        number = np.sort(rng.randint(total, size=max_pairs, dtype=np.int64))
    else:
        number = np.arange(total)
    entry = np.searchsorted(ends, number, side="right")
    offset = number - (ends - n_partners)[entry]
    if across:
        offset += np.where(offset >= first_own[entry], own[entry], 0)
    else:
        offset += first_own[entry]
    first = np.concatenate(for_class)[entry]
    second = np.concatenate(against)[base[entry] + offset]
    gap = rows.score[first, column[entry]] - rows.score[second, column[entry]]
    told = gap != 0
    tied = float(1 - told.mean()) if len(gap) else np.nan
    first, second, gap = first[told], second[told], gap[told]
    pairs = _Pairs(
        rows.session[first], rows.session[second], np.abs(gap), (gap < 0).astype(np.float64)
    )
    return pairs, total, tied


def _quantile_edges(values: FloatArray, n_bins: int) -> FloatArray:
    """Inner edges that cut values into bins of about one size; a bin holds its lower edge."""
    if not len(values):
        return np.empty(0)
    # Values that differ by rounding alone, as means of votes do, belong together.
    values = np.sort(np.round(values, 9))
    inner = values[np.arange(1, n_bins) * len(values) // n_bins]
    return np.unique(inner[inner > values[0]])


def _bin(values: FloatArray, inner: FloatArray) -> IntArray:
    return np.searchsorted(inner, np.round(values, 9), side="right")


class _GapBins:
    """Wrong pairs by their score gap, counted anew for weights of the sessions."""

    def __init__(self, within: _Pairs, across: _Pairs, n_bins: int, n_sessions: int) -> None:
        inner = _quantile_edges(within.gap if len(within.gap) else across.gap, n_bins)
        self.n_bins = len(inner) + 1
        largest = max(within.gap.max(initial=0.0), across.gap.max(initial=0.0))
        self.edges = np.r_[0.0, inner, largest]
        self.across, self.across_bin = across, _bin(across.gap, inner)
        self.within, self.within_bin = within, _bin(within.gap, inner)
        cell = within.session * self.n_bins + self.within_bin
        shape = (n_sessions, self.n_bins)
        size = n_sessions * self.n_bins
        self.n_pairs = np.bincount(cell, minlength=size).reshape(shape)
        self.wrong = np.bincount(cell, within.wrong, minlength=size).reshape(shape)

    def errors(self, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Share of wrong pairs in each bin, within and across sessions."""
        pair = weight[self.across.session] * weight[self.across.other]
        n_across = np.bincount(self.across_bin, pair, minlength=self.n_bins)
        wrong = np.bincount(self.across_bin, pair * self.across.wrong, minlength=self.n_bins)
        return _ratio(weight @ self.wrong, weight @ self.n_pairs), _ratio(wrong, n_across)

    def mean_gap(self) -> FloatArray:
        bins = np.r_[self.within_bin, self.across_bin]
        gap = np.r_[self.within.gap, self.across.gap]
        n_pairs = np.bincount(bins, minlength=self.n_bins)
        return _ratio(np.bincount(bins, gap, minlength=self.n_bins), n_pairs)

    def smallest_gap(self, first_bin: int) -> float:
        """Smallest gap of a pair within a session from a bin on."""
        return float(self.within.gap[self.within_bin >= first_bin].min(initial=np.inf))


def _suggest_min_margin(bins: _GapBins, high: FloatArray) -> float:
    """Drop the first bins whose interval reaches chance; one without an interval shows nothing."""
    maybe_chance = high >= 0.5
    if maybe_chance.all() or np.isnan(high).all():
        return float("nan")
    first = int((~maybe_chance).argmax())
    return bins.smallest_gap(first) if first else 0.0


def _with_interval(value: float, low: float, high: float, digits: str) -> str:
    shown = f"{value:{digits}}"
    return shown if np.isnan(low) else f"{shown} ({low:{digits}} to {high:{digits}})"


def _caution(n_sessions: int) -> list[str]:
    if not _MIN_SESSIONS <= n_sessions < _FEW_SESSIONS:
        return []
    return [f"From {n_sessions} sessions intervals come out too narrow: take them with caution."]


def _noise_message(noise: Bunch, n_sessions: int) -> str:
    within, across, gap = noise.within, noise.across, noise.difference

    def described(part, where):
        if not part.n_pairs:
            return f"There is no pair {where}."
        interval = ""
        if not np.isnan(part.low):
            interval = f" ({_percent(part.low)} to {_percent(part.high)})"
        return (
            f"The scores order {_percent(part.error)}{interval} of the {part.n_pairs:,} pairs "
            f"{where} wrongly."
        )

    told = f"{_points(gap.error)} points ({_points(gap.low)} to {_points(gap.high)})"
    verdict = {
        "yes": f"Pairs within a session are less noisy, by {told}: comparing within sessions, as "
        "the classifier does, suits these scores.",
        "no": f"Pairs within a session are noisier than those across, by {told}: do not expect "
        "that comparing within sessions by itself takes noise out of these scores.",
        "unclear": f"Whether pairs within a session are less noisy cannot be told from "
        f"{n_sessions} labelled sessions",
    }[noise.intra_session_helps]
    if noise.intra_session_helps == "unclear":
        verdict += ": label some more" if np.isnan(gap.low) else f": the difference is {told}"
        verdict += "."
    margin = "No score gap could be shown to order pairs better than chance."
    if noise.min_margin == 0:
        margin = (
            "Even the smallest score gaps order pairs better than chance: min_margin=0 will do."
        )
    elif noise.min_margin > 0:
        margin = (
            f"Gaps below {noise.min_margin:.3g} may be no better than chance: try "
            f"min_margin={noise.min_margin:.3g} in IntraSessionPairSampler."
        )
    shares = [described(within, "within sessions"), described(across, "across sessions")]
    return " ".join([*shares, verdict, *_caution(n_sessions), margin])


def _by_length(rows: _Rows, wrong: FloatArray, n_pairs: FloatArray) -> tuple[Bunch, IntArray]:
    """Errors of sessions by length, and the bin of each session, -1 without a pair."""
    paired = n_pairs > 0
    inner = _quantile_edges(rows.length[paired].astype(np.float64), _LENGTH_BINS)
    bins = np.where(paired, _bin(rows.length.astype(np.float64), inner), -1)
    inside = [bins == b for b in range(len(inner) + 1 if paired.any() else 0)]
    table = Bunch(
        shortest=np.array([rows.length[i].min() for i in inside], dtype=np.int64),
        longest=np.array([rows.length[i].max() for i in inside], dtype=np.int64),
        error=np.array([wrong[i].sum() / n_pairs[i].sum() for i in inside]),
        n_pairs=np.array([n_pairs[i].sum() for i in inside], dtype=np.int64),
        n_sessions=np.array([i.sum() for i in inside], dtype=np.int64),
    )
    return table, bins


@validate_params(
    {
        "llm_scores": ["array-like"],
        "y": ["array-like"],
        "groups": ["array-like"],
        "classes": ["array-like", None],
        "layout": [StrOptions({"auto", "prompts", "classes"})],
        "n_gap_bins": [Interval(Integral, 1, None, closed="left")],
        "max_pairs": [Interval(Integral, 1, None, closed="left")],
        "n_bootstrap": [Interval(Integral, 1, None, closed="left")],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def preference_noise(
    llm_scores: ArrayLike,
    y: ArrayLike,
    groups: SessionIds,
    *,
    classes: ArrayLike | None = None,
    layout: str = "auto",
    n_gap_bins: int = 10,
    max_pairs: int = 200_000,
    n_bootstrap: int = 200,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Tell how often scores order two utterances wrongly, within and across sessions.

    For a class, a pair is two labelled rows of which exactly one is of the class. It is wrong if
    the other row has the higher score for the class; a tie counts one half. Pairs within sessions
    are what `PairwisePreferenceClassifier` trains on: if they are wrong less often than pairs
    across sessions, comparing within sessions takes out noise that all utterances of a session
    share.

    Parameters
    ----------
    llm_scores : array-like of shape (n_samples, n_prompts, n_classes), (n_samples, n_prompts) or \
            (n_samples, n_classes)
        Raw LLM scores, which are averaged over the prompts, or one score per class: soft labels,
        or the probabilities of a classifier. Rows with no score at all, NaN, are left out.
    y : array-like of shape (n_samples,)
        Human labels; -1 (numbers), None or NaN marks a row without one.
    groups : array-like of shape (n_samples,)
        Session id of each row: any hashable values, in any order.
    classes : array-like of shape (n_classes,), default=None
        Class labels in the order of the last axis of the scores. None takes the sorted labels of
        `y`.
    layout : {"auto", "prompts", "classes"}, default="auto"
        What the columns of two-dimensional scores are. "prompts" is what the other parts of the
        library take: the positive class's score by each prompt. "classes" takes one score per
        class, as it is. "auto" is "classes" where there are as many columns as classes and each
        row sums to 1, else "prompts".
    n_gap_bins : int, default=10
        Largest number of bins of the score gap, of about equally many pairs within sessions each.
    max_pairs : int, default=200_000
        Largest number of pairs, within sessions and across each, that errors by gap are computed
        from. If there are more, so many are drawn at random. All other errors count all pairs.
    n_bootstrap : int, default=200
        Samples of sessions, drawn with replacement, that the intervals are taken from.
    confidence_level : float, default=0.95
        Share of those samples that an interval covers.
    random_state : int, RandomState instance or None, default=None
        Seed of the samples. With an int, neither the order of the rows nor the names of the
        sessions change the result.

    Returns
    -------
    Bunch
        Dictionary-like object. Errors are shares between 0 and 1, where 0.5 is chance. NaN stands
        where there is no pair, and for intervals from fewer than five sessions.

        - within, across : Bunch of error, low, high and n_pairs, all classes pooled.
        - difference : Bunch of error, low and high: the error within less that across.
        - by_gap : Bunch of arrays over the bins: gap (mean score gap), within, within_low,
          within_high, n_within, across, across_low, across_high and n_across (pairs looked at);
          edges of shape (n_bins + 1,), a bin holding its lower edge; and tied_within and
          tied_across, the shares of the pairs that tie and so are in no bin.
        - by_length : Bunch of arrays over bins of sessions by their number of rows: shortest,
          longest, error, low, high, n_pairs and n_sessions, within sessions.
        - min_margin : float, the smallest gap left when the first bins are dropped whose error
          within sessions may be chance: those whose interval reaches 0.5. 0.0 if none is, NaN if
          all are or there is no interval. In the unit of the scores: pass a classifier's
          ``soft_labels_`` as scores for the `min_margin` of its pair sampler.
        - intra_session_helps : {"yes", "no", "unclear"}, whether the difference is below 0, above
          0, or its interval holds 0.
        - message : str, the same in words.
        - summary : str, the errors by gap as a table.

    Raises
    ------
    ValueError
        If the scores do not match the classes, fewer than two classes are labelled on rows with
        scores, or lengths differ.

    See Also
    --------
    skpref.PreferenceNoiseDisplay : Draws the errors by gap.
    skpref.IntraSessionPairSampler : Pairs with a least gap.
    skpref.metrics.within_session_concordance : One less the error within sessions.

    Notes
    -----
    Pairs are counted by ranks, in O(n log n) time and O(n + max_pairs) memory. In a bootstrap
    sample a pair weighs as much as its session is in it, or the product of its two sessions. The
    same labels that suggest `min_margin` do not show what it gains: compare classifiers by
    cross-validation.

    Examples
    --------
    >>> from skpref.datasets import make_dialogues
    >>> from skpref.inspection import preference_noise
    >>> data = make_dialogues(200, session_bias=3.0, labelled_fraction=0.5, random_state=0)
    >>> noise = preference_noise(data.llm_scores, data.y, data.groups, random_state=0)
    >>> noise.intra_session_helps
    'yes'
    >>> bool(noise.within.error < noise.across.error)
    True
    """
    rows = _labelled_rows(llm_scores, y, groups, classes, layout)
    rng = check_random_state(random_state)
    n_sessions = len(rows.length)
    wrong, n_pairs = _within_counts(rows)
    everything = _AllPairs(rows)
    within_pairs, n_within, tied_within = _draw_pairs(rows, False, max_pairs, rng)
    across_pairs, n_across, tied_across = _draw_pairs(rows, True, max_pairs, rng)
    bins = _GapBins(within_pairs, across_pairs, n_gap_bins, n_sessions)
    by_length, length_bin = _by_length(rows, wrong, n_pairs)
    paired = length_bin >= 0

    def errors(weight):
        all_wrong, total = everything.count(weight)
        within = _ratio(weight @ wrong, weight @ n_pairs)
        # What is left of all pairs without those within a session, which are counted exactly.
        total -= weight**2 @ n_pairs
        across = _ratio(max(all_wrong - weight**2 @ wrong, 0.0), total)
        of_length = [
            np.bincount(length_bin[paired], (weight * part)[paired], len(by_length.error))
            for part in (wrong, n_pairs)
        ]
        return np.array([within, across, within - across]), *bins.errors(weight), _ratio(*of_length)

    whole, gap_within, gap_across, _ = errors(np.ones(n_sessions))
    samples = [errors(weight) for weight in _resampled(n_sessions, n_bootstrap, rng)]
    overall, by_gap_within, by_gap_across, of_length = map(np.array, zip(*samples, strict=True))
    enough, enough_pairs = n_sessions >= _MIN_SESSIONS, paired.sum() >= _MIN_SESSIONS
    told = (bins.n_pairs > 0).sum(axis=0) >= _MIN_SESSIONS
    level = confidence_level

    noise = Bunch(
        within=_estimate(whole[0], overall[:, 0], level, enough_pairs, n_pairs=n_within),
        across=_estimate(whole[1], overall[:, 1], level, enough, n_pairs=n_across),
        difference=_estimate(whole[2], overall[:, 2], level, enough_pairs),
    )
    by_gap = Bunch(edges=bins.edges, gap=bins.mean_gap(), within=gap_within, across=gap_across)
    by_gap.within_low, by_gap.within_high = _interval(by_gap_within, level, told)
    by_gap.across_low, by_gap.across_high = _interval(by_gap_across, level, enough)
    by_gap.n_within = np.bincount(bins.within_bin, minlength=bins.n_bins)
    by_gap.n_across = np.bincount(bins.across_bin, minlength=bins.n_bins)
    by_gap.tied_within, by_gap.tied_across = tied_within, tied_across
    by_length.low, by_length.high = _interval(
        of_length, level, by_length.n_sessions >= _MIN_SESSIONS
    )
    noise.by_gap, noise.by_length = by_gap, by_length
    noise.min_margin = _suggest_min_margin(bins, by_gap.within_high)
    noise.intra_session_helps = (
        "yes" if noise.difference.high < 0 else "no" if noise.difference.low > 0 else "unclear"
    )
    noise.message = _noise_message(noise, n_sessions)
    noise.summary = _noise_summary(by_gap)
    return noise


def _noise_summary(by_gap: Bunch) -> str:
    def cell(name, b):
        return _with_interval(
            by_gap[name][b], by_gap[f"{name}_low"][b], by_gap[f"{name}_high"][b], ".3f"
        )

    def gap(low, high):
        low, high = f"{low:.3g}", f"{high:.3g}"
        return low if low == high else f"{low} to {high}"

    lines = [
        [
            gap(*by_gap.edges[b : b + 2]),
            cell("within", b),
            cell("across", b),
            f"{by_gap.n_within[b]:,}",
            f"{by_gap.n_across[b]:,}",
        ]
        for b in range(len(by_gap.gap))
    ]
    header = ["score gap", "wrong within", "wrong across", "pairs within", "pairs across"]
    return _table(header, lines)


def _prompt_probabilities(scores: FloatArray, classes: np.ndarray) -> FloatArray:
    """Read what each prompt says by itself (n, n_prompts, n_classes); NaN where it is missing."""
    score_type = LLMScoreCalibrator("mean", classes=classes).fit(scores).score_type_
    if scores.ndim == 2 and len(classes) > 2:
        scores = scores.reshape(len(scores), -1, len(classes))
    out = np.full((len(scores), scores.shape[1], len(classes)), np.nan)
    reader = LLMScoreCalibrator("mean", classes=classes, score_type=score_type)
    for p in range(scores.shape[1]):
        one = scores[:, [p]]
        if (~np.isnan(one).reshape(len(one), -1).any(axis=1)).any():
            out[:, p] = reader.fit_transform(one)
    return out


def _correlation(first: FloatArray, second: FloatArray) -> float:
    """Mean over the columns of Pearson's correlation; NaN where nothing varies."""
    if len(first) < 2:
        return float("nan")
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    varies = scale > 1e-12
    if not varies.any():
        return float("nan")
    return float(((first * second).sum(axis=0)[varies] / scale[varies]).mean())


def _kappa(first: IntArray, second: IntArray, n_classes: int) -> float:
    """Cohen's kappa; NaN where both always give one and the same class."""
    if not len(first):
        return float("nan")
    shares = np.bincount(first * n_classes + second, minlength=n_classes**2) / len(first)
    shares = shares.reshape(n_classes, n_classes)
    chance = float(shares.sum(axis=0) @ shares.sum(axis=1))
    return float((np.trace(shares) - chance) / (1 - chance)) if chance < 1 else float("nan")


def _for_each_pair(known: BoolArray, compare: Any) -> FloatArray:
    """Symmetric matrix of `compare(p, q, rows)` over the rows that both prompts scored."""
    n_prompts = known.shape[1]
    out = np.full((n_prompts, n_prompts), np.nan)
    for p in range(n_prompts):
        for q in range(p, n_prompts):
            out[p, q] = out[q, p] = compare(p, q, known[:, p] & known[:, q])
    return out


def _redundancy(log_odds: FloatArray, known: BoolArray) -> FloatArray:
    """Compute the adjusted R² of each prompt's log-odds, predicted from the other prompts'."""
    n_prompts = known.shape[1]
    out = np.full(n_prompts, np.nan)
    for p in range(n_prompts):
        others = [q for q in range(n_prompts) if q != p and known[known[:, p], q].any()]
        target = log_odds[known[:, p], p]
        target = target[:, np.ptp(target, axis=0) > 0] if len(target) else target[:, :0]
        features = log_odds[known[:, p]][:, others].reshape(
            len(target), len(others) * log_odds.shape[2]
        )
        n_left = len(target) - features.shape[1] - 1
        if not others or not target.shape[1] or n_left < 1:
            continue
        mean = np.nanmean(features, axis=0)
        features = np.where(np.isnan(features), mean, features)
        r2 = LinearRegression().fit(features, target).score(features, target)
        out[p] = max(1 - (1 - r2) * (len(target) - 1) / n_left, 0.0)
    return out


def _row_losses(prob: FloatArray, codes: IntArray) -> FloatArray:
    """Log loss and error of each row (n, 2); rows without probabilities get the class shares."""
    share = np.bincount(codes, minlength=prob.shape[1]) / len(codes)
    prob = np.where(np.isnan(prob), share, prob)
    loss = -np.log(np.maximum(prob[np.arange(len(codes)), codes], _SMALLEST))
    return np.column_stack([loss, prob.argmax(axis=1) != codes])


def _drops(calibrator, scores, codes, classes, session, used, n_bootstrap, level, rng) -> Bunch:
    """Loss of the cross-fitted pool without each prompt less that of the whole pool."""
    labels = labels_of_codes(codes, classes)

    def losses(part):
        prob = clone(calibrator).fit_transform(part, labels, groups=session)
        return _row_losses(prob[used], codes[used])

    n_prompts = scores.shape[1]
    whole = losses(scores)
    gain = np.full((n_prompts, *whole.shape), np.nan)
    for p in range(n_prompts):
        rest = np.delete(scores, p, axis=1)
        if rest.size and not np.isnan(rest).all():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the whole pool has said it
                gain[p] = losses(rest) - whole
    _, unit = np.unique(session[used], return_inverse=True)
    n_units = unit.max() + 1
    n_rows = np.bincount(unit)
    sums = np.zeros((n_units, n_prompts, 2))
    np.add.at(sums, unit, gain.transpose(1, 0, 2))
    samples = np.array(
        [
            np.tensordot(weight, sums, axes=1) / (weight @ n_rows)
            for weight in _resampled(n_units, n_bootstrap, rng)
        ]
    )
    mean = sums.sum(axis=0) / len(unit)
    told = n_units >= _MIN_SESSIONS
    low, high = _interval(samples, level, told)
    # Among many prompts one would look helpful, or harmful, by chance: Bonferroni's correction.
    strict_low, strict_high = _interval(samples[:, :, 0], 1 - (1 - level) / n_prompts, told)
    return Bunch(
        n_sessions=n_units,
        effect=np.select([strict_low > 0, strict_high < 0], ["helps", "hurts"], "unclear"),
        log_loss=Bunch(mean=mean[:, 0], low=low[:, 0], high=high[:, 0]),
        accuracy=Bunch(mean=mean[:, 1], low=low[:, 1], high=high[:, 1]),
    )


def _prompt_message(found: Bunch) -> str:
    names = np.asarray(found.prompt_names, dtype=object)
    if len(names) == 1:
        return "There is one prompt only, so nothing to compare it with."
    parts = []
    if "drop" in found:
        effect = found.drop.effect
        if (effect == "helps").any():
            parts.append(
                f"The calibrated pool is worse without {_listed(names[effect == 'helps'])}: keep."
            )
        if (effect == "hurts").any():
            parts.append(f"It is better without {_listed(names[effect == 'hurts'])}: leave out.")
        if (effect == "unclear").any():
            unclear = _listed(names[effect == "unclear"])
            parts.append(f"Whether the pool needs {unclear} cannot be told from the labels.")
        parts += _caution(found.drop.n_sessions)
    silent = names[found.coverage == 0]
    if len(silent):
        parts.append(f"There is no score at all by {_listed(silent)}.")
    redundant = found.redundancy >= _REDUNDANT
    if "drop" in found:
        redundant &= found.drop.effect != "helps"
    if redundant.any():
        shares = zip(names[redundant], found.redundancy[redundant], strict=True)
        told = _listed([f"{name} ({_percent(r2)} of the variance)" for name, r2 in shares])
        parts.append(
            f"The other prompts already tell most of what {told} says: the first to leave out, "
            "one at a time."
        )
    elif not np.isnan(found.redundancy).all():
        top = int(np.nanargmax(found.redundancy))
        parts.append(
            f"No prompt is redundant: the others tell at most {_percent(found.redundancy[top])} "
            f"of the variance of one's scores ({names[top]})."
        )
    return " ".join(parts)


def _prompt_summary(found: Bunch) -> str:
    header = ["prompt", "coverage", "redundancy"]
    columns = [found.coverage, found.redundancy]
    if "accuracy" in found:
        header += ["accuracy", "concordance"]
        columns += [found.accuracy, found.concordance]
    lines = [
        [name, *(f"{column[p]:.3f}" for column in columns)]
        for p, name in enumerate(found.prompt_names)
    ]
    if "drop" in found:
        header.append("log loss without it")
        drop = found.drop.log_loss
        for p, line in enumerate(lines):
            line.append(_with_interval(drop.mean[p], drop.low[p], drop.high[p], "+.4f"))
    return _table(header, lines)


def _check_prompt_names(prompt_names: ArrayLike | None, n_prompts: int) -> list[str]:
    if prompt_names is None:
        return [f"prompt {p}" for p in range(n_prompts)]
    names = [str(name) for name in np.asarray(prompt_names, dtype=object).tolist()]
    if len(names) != n_prompts:
        raise ValueError(
            f"prompt_names={names!r} has {len(names)} names but llm_scores has {n_prompts} "
            "prompts; pass one name per prompt."
        )
    return names


@validate_params(
    {
        "llm_scores": ["array-like"],
        "y": ["array-like", None],
        "groups": ["array-like", None],
        "prompt_names": ["array-like", None],
        "classes": ["array-like", None],
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
    method: str = "spearman",
    calibrator: Any = None,
    n_bootstrap: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Tell which prompts of an LLM add information, and which repeat the others.

    Parameters
    ----------
    llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
        Raw LLM scores, NaN where there is none; 2-D holds the positive class of a binary task.
        Rows without a label count for what needs none.
    y : array-like of shape (n_samples,), default=None
        Human labels; -1 (numbers), None or NaN marks a row without one.
    groups : array-like of shape (n_samples,), default=None
        Session id of each row. None takes each row for a session, save for `concordance`, which
        is then that of all rows.
    prompt_names : array-like of str, shape (n_prompts,), default=None
        Names of the prompts; None numbers them.
    classes : array-like of shape (n_classes,), default=None
        Class labels in the order of the last axis of the scores. None takes the sorted labels of
        `y`, or 0, 1, ... where there are none.
    method : {"spearman", "pearson"}, default="spearman"
        Correlation of ranks, or of the log-odds themselves.
    calibrator : transformer, default=None
        Pools the prompts for `drop`. None means ``LLMScoreCalibrator()``.
    n_bootstrap : int, default=1000
        Samples of sessions, drawn with replacement, that the intervals are taken from.
    confidence_level : float, default=0.95
        Share of those samples that an interval covers.
    random_state : int, RandomState instance or None, default=None
        Seed of the samples. With an int, neither the order of the rows nor the names of the
        sessions change the result.

    Returns
    -------
    Bunch
        Dictionary-like object. NaN stands where something cannot be computed.

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
          (n_prompts,): what the calibrated pool loses when a prompt is left out; above 0 the
          prompt helps. Its effect is an array of "helps", "hurts" and "unclear": whether a wider
          interval of the log loss, corrected for the number of prompts, excludes 0. The intervals
          are from its n_sessions.

    Raises
    ------
    ValueError
        If the scores do not match the classes, `prompt_names` does not match the prompts, or
        lengths differ.

    See Also
    --------
    skpref.LLMScoreCalibrator : Pools the prompts.
    skpref.ScoreReliabilityDisplay : Draws how far each prompt's scores can be trusted.

    Notes
    -----
    For `drop`, the pool is fitted with and without the prompt and cross-fitted by session
    (`LLMScoreCalibrator.fit_transform`), so that each label is predicted without those of its own
    session. Two prompts that say the same both lose nothing when they are left out, since the
    other one stays: leave out one prompt at a time, and look again.

    Examples
    --------
    >>> import numpy as np
    >>> from skpref.datasets import make_dialogues
    >>> from skpref.inspection import prompt_agreement
    >>> data = make_dialogues(400, labelled_fraction=0.5, random_state=0)
    >>> noise = np.random.default_rng(0).uniform(size=(len(data.X), 1))
    >>> scores = np.hstack([data.llm_scores[:, :, 1], noise])
    >>> found = prompt_agreement(scores, data.y, data.groups, random_state=0)
    >>> found.accuracy.round(1)
    array([0.8, 0.8, 0.9, 0.5])
    >>> (found.drop.log_loss.low > 0).tolist()
    [True, True, True, False]
    """
    scores, classes, codes = _read(llm_scores, y, classes)
    n_rows = len(scores)
    session = np.arange(n_rows) if groups is None else check_groups(groups, n_rows)
    if scores.ndim == 2 and len(classes) > 2:
        n_prompts = scores.shape[1] // len(classes)
    else:
        n_prompts = scores.shape[1]
    names = _check_prompt_names(prompt_names, n_prompts)
    content = np.column_stack([codes, scores.reshape(n_rows, -1)])
    order, rank = _canonical_order(content, session, np.bincount(session))
    scores, codes, session = scores[order], codes[order], rank[session][order]

    prob = _prompt_probabilities(scores, classes)
    known = ~np.isnan(prob[:, :, 0])
    safe = (prob + _SMOOTHING) / (1 + 2 * _SMOOTHING)
    log_odds = np.log(safe / (1 - safe))[:, :, -1 if len(classes) == 2 else slice(None)]
    log_odds = log_odds.reshape(n_rows, n_prompts, -1)
    best = np.where(known, np.where(np.isnan(prob), -1, prob).argmax(axis=2), 0)

    def correlation(p, q, rows):
        first, second = log_odds[rows, p], log_odds[rows, q]
        if method == "spearman" and len(first):
            first, second = rankdata(first, axis=0), rankdata(second, axis=0)
        return _correlation(first, second)

    found = Bunch(
        prompt_names=names,
        correlation=_for_each_pair(known, correlation),
        kappa=_for_each_pair(
            known, lambda p, q, rows: _kappa(best[rows, p], best[rows, q], len(classes))
        ),
        redundancy=_redundancy(log_odds, known),
        coverage=known.mean(axis=0),
    )
    labelled = (codes >= 0) & known.any(axis=1)
    if labelled.any():
        one_session = np.zeros(n_rows, dtype=np.int64) if groups is None else session
        found.update(_with_labels(prob, best, known & labelled[:, None], codes, one_session))
        found.drop = _drops(
            LLMScoreCalibrator(classes=classes) if calibrator is None else calibrator,
            scores.reshape(n_rows, n_prompts, -1) if len(classes) > 2 else scores,
            codes,
            classes,
            session,
            labelled,
            n_bootstrap,
            confidence_level,
            check_random_state(random_state),
        )
    found.message = _prompt_message(found)
    found.summary = _prompt_summary(found)
    return found


def _with_labels(prob, best, known, codes, session) -> dict[str, FloatArray]:
    """Quality of each prompt on the labelled rows that it scored."""
    wrong = (best != codes[:, None]).astype(np.float64)
    concordance = np.full(known.shape[1], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        for p, rows in enumerate(known.T):
            if rows.any():
                concordance[p] = within_session_concordance(
                    codes[rows],
                    prob[rows, p],
                    groups=session[rows],
                    labels=np.arange(prob.shape[2]),
                )
    return {
        "accuracy": 1 - _ratio((wrong * known).sum(axis=0), known.sum(axis=0)),
        "concordance": concordance,
        "error_correlation": _for_each_pair(
            known, lambda p, q, rows: _correlation(wrong[rows][:, [p]], wrong[rows][:, [q]])
        ),
    }


_METRICS = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "concordance": "concordance",
    "log_loss": "log loss",
}


def _last_step(estimator: Any) -> tuple[str, PairwisePreferenceClassifier]:
    """Prefix of the classifier's parameters in an estimator, and the classifier."""
    prefix, step = "", estimator
    while isinstance(step, Pipeline):
        prefix += f"{step.steps[-1][0]}__"
        step = step.steps[-1][1]
    if not isinstance(step, PairwisePreferenceClassifier):
        raise ValueError(
            f"estimator={estimator!r:.200} must be a PairwisePreferenceClassifier, or a Pipeline "
            f"whose last step is one, but that is a {type(step).__name__}. Of a search, pass its "
            "best_estimator_."
        )
    return prefix, step


def _labels_in_place(soft: FloatArray, codes: IntArray) -> FloatArray:
    """Soft labels with the human label, code -1 for none, in place of that of its row."""
    one_hot = np.eye(soft.shape[1], dtype=soft.dtype)[codes]
    return np.where((codes >= 0)[:, None], one_hot, soft)


class _Distillation(PairwisePreferenceClassifier):
    """Plain distillation, from human labels in place of soft ones."""

    def _soft_labels(self, X, codes, session, llm_scores, *, refit):
        soft = super()._soft_labels(X, codes, session, llm_scores, refit=refit)
        return _labels_in_place(soft, codes)


def _variants(estimator: Any, prefix: str, last: Any, fixed: dict) -> dict[str, Any]:
    """Give each classifier that is compared, unfitted, in its pipeline."""

    def variant(make=None, **changes):
        step = clone(last)
        if make is not None:
            step = make(**step.get_params(deep=False))
        step.set_params(**fixed, **changes)
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


def _take(X: Any, rows: IntArray) -> Any:
    """Rows of an array, sparse matrix, frame or list."""
    if hasattr(X, "iloc"):
        return X.iloc[rows]
    return [X[i] for i in rows] if isinstance(X, list | tuple) else X[rows]


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


class _Data(NamedTuple):
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


def _logistic_regression(estimator: Any, data: _Data, train, test) -> FloatArray:
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


def _finetune_on_labels(estimator: Any, data: _Data, train) -> Any:
    """Give a text classifier the labels as its scores, and as many steps as with all scores."""
    session, scores = data.session[train], data.llm_scores[train]
    n_scored = np.count_nonzero(~np.isnan(scores.reshape(len(scores), -1)).all(axis=1))
    # A row without a label is unknown and trains nothing, but stands in its session for steps that
    # look at its neighbours.
    train = train[np.isin(session, session[data.codes[train] >= 0])]
    times = round(n_scored / np.count_nonzero(data.codes[train] >= 0))
    prefix, clf = _last_step(estimator)
    epochs = clf._by_input("max_epochs", 5, 30) * max(times, 1)
    estimator.set_params(**{f"{prefix}max_epochs": epochs})
    one_hot = np.vstack([np.eye(len(data.classes)), np.full(len(data.classes), np.nan)])
    scores = one_hot[data.codes[train]][:, None]
    X, labels = _take(data.X, train), data.labels(train)
    return estimator.fit(X, labels, groups=data.session[train], llm_scores=scores)


def _fit_and_predict(estimator, data: _Data, train, test, row: str) -> tuple[FloatArray, float]:
    """Probabilities of the test rows by one way to learn, and the seconds it took."""
    start = time.perf_counter()
    labels, session, scores = data.labels(train), data.session[train], data.llm_scores[train]
    if row == "LLM scores, calibrated":
        # The LLM is asked about the test rows, too, so it needs no student.
        fitted = estimator.fit(scores, labels, groups=session)
        return fitted.transform(data.llm_scores[test]), time.perf_counter() - start
    if row == "human labels" and not _last_step(estimator)[1]._takes_text():
        prob = _logistic_regression(estimator, data, train, test)
        return prob, time.perf_counter() - start
    with sklearn.config_context(enable_metadata_routing=True):
        if row == "human labels":
            _finetune_on_labels(estimator, data, train)
        else:
            estimator.fit(_take(data.X, train), labels, groups=session, llm_scores=scores)
        prob = estimator.predict_proba(_take(data.X, test))
    return prob, time.perf_counter() - start


class _SessionCounts(NamedTuple):
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
        concordance = _ratio(weight @ self.won, weight @ self.compared)
        macro_f1 = f1.mean() if len(f1) else np.nan
        rest = [_ratio(hit.sum(), n_rows), concordance, _ratio(weight @ self.loss, n_rows)]
        return np.array([macro_f1, *rest], dtype=np.float64)


def _count(prob: FloatArray, codes: IntArray, session: IntArray, n_sessions: int) -> _SessionCounts:
    n_classes = prob.shape[1]
    cell = (session * n_classes + codes) * n_classes + prob.argmax(axis=1)
    confusion = np.bincount(cell, minlength=n_sessions * n_classes**2)
    won, compared = np.zeros(n_sessions), np.zeros(n_sessions)
    for k in [1] if n_classes == 2 else range(n_classes):
        counts = won_and_compared(session, codes == k, prob[:, k], n_sessions)
        won, compared = won + counts[0], compared + counts[1]
    loss = -np.log(np.maximum(prob[np.arange(len(codes)), codes], _SMALLEST))
    return _SessionCounts(
        confusion.reshape(n_sessions, n_classes, n_classes).astype(np.float64),
        won,
        compared,
        np.bincount(session, weights=loss, minlength=n_sessions).astype(np.float64),
    )


def _compare(predictions, data: _Data, tested: IntArray, n_bootstrap, level, rng):
    """Scores of each row, and differences of the first to each other one with intervals."""
    codes = data.codes[tested]
    _, session = np.unique(data.session[tested], return_inverse=True)
    n_sessions = session.max() + 1
    weights = [np.ones(n_sessions), *_resampled(n_sessions, n_bootstrap, rng)]

    def evaluate(prob, rows):
        counts = _count(prob[tested][rows], codes[rows], session[rows], n_sessions)
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
            low, high = _interval(gain[1:], level, n_sessions >= _MIN_SESSIONS)
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
        shown = f"{mean:+.3f}" if metric == "log_loss" else f"{_points(mean)} points"
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
            told.append(f"skpref is better in {_listed(found['better'])}")
        if found["worse"]:
            told.append(f"skpref is worse in {_listed(found['worse'])}")
        if found["unclear"]:
            told.append(f"{_listed(found['unclear'])} cannot be told apart")
        parts.append(f"Against {row!r}: {'; '.join(told)}.")
    verdict = _verdicts(differences["skpref, no pairs"])
    if n_sessions < _FEW_SESSIONS:
        end = f"{n_sessions} sessions are too few to tell whether pairs pay here: label more."
    elif verdict["better"] and not verdict["worse"]:
        end = f"So pairs pay here, in {_listed(verdict['better'])}."
    elif verdict["worse"] and not verdict["better"]:
        end = "So pairs do harm here: pass pairwise_weight=0."
    elif verdict["worse"]:
        end = "So it depends on which metric matters to you."
    else:
        end = (
            "So whether pairs pay here cannot be told from these labels; more labelled sessions "
            "would tell."
        )
    return " ".join([*parts, *_caution(n_sessions), end])


def _comparison_summary(scores, differences) -> str:
    header = ["", *_METRICS.values()]
    lines = [
        [row, *(f"{value:.3f}" for value in of_row.values())] for row, of_row in scores.items()
    ]
    lines.append(["", *[""] * len(_METRICS)])
    lines.append(["skpref less", *[""] * len(_METRICS)])
    for row, of_row in differences.items():
        cells = [_with_interval(mean, low, high, "+.3f") for mean, low, high in of_row.values()]
        lines.append([f"  {row}", *cells])
    return _table(header, lines)


def _tasks(estimator, prefix, last, classes, seed) -> dict[str, Any]:
    """Unfitted estimator of each row of the table."""
    fixed = {"classes": classes}
    if last.random_state is None:  # the same draws for all, so that they differ by the loss alone
        fixed["random_state"] = seed
    made = _variants(estimator, prefix, last, fixed)
    calibrator = last._part("calibrator")
    if "classes" in calibrator.get_params():
        calibrator.set_params(classes=classes)
    human = made.pop("human labels")
    return made | {"LLM scores, calibrated": calibrator, "human labels": human}


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
      alone, or the same network on them where it takes texts (``module="transformer"``).

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
    scores, classes, codes = _read(llm_scores, y, last.classes)
    (X,) = indexable(X)
    n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
    if n_rows != len(scores):
        raise ValueError(
            f"llm_scores has {len(scores)} rows but X has {n_rows}; pass one row of scores per "
            "utterance, NaN where the LLM gave none."
        )
    data = _Data(X, codes, check_groups(groups, n_rows), scores, classes)
    rng = check_random_state(random_state)
    made = _tasks(estimator, prefix, last, classes, int(rng.randint(2**31 - 1)))
    folds = _folds(cv, codes, classes, data.session)

    plan = [(k, row) for k in range(len(folds)) for row in made]
    results = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(_fit_and_predict)(clone(made[row]), data, *folds[k], row) for k, row in plan
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
