"""Count how often scores order two utterances wrongly."""

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import Bunch, check_random_state

from skpref._sessions import won_and_compared
from skpref._sklearn import Interval, StrOptions, validate_params
from skpref._typing import ArrayLike, BoolArray, FloatArray, IntArray, SessionIds
from skpref._validation import check_groups
from skpref.inspection._bootstrap import (
    MIN_SESSIONS,
    percentile_interval,
    ratio,
    session_weights,
)
from skpref.inspection._report import (
    caution_if_few,
    format_interval,
    format_table,
    percent,
    points,
)
from skpref.inspection._scores import (
    assign_bins,
    order_by_content,
    quantile_edges,
    read_scores,
    score_per_class,
)

_LENGTH_BINS = 4


class _LabelledRows(NamedTuple):
    """Labelled rows with scores, in canonical order; one column for each class compared."""

    score: FloatArray
    positive: BoolArray
    session: IntArray  # ascending
    length: IntArray  # rows of each session, labelled or not


class _DrawnPairs(NamedTuple):
    """Pairs of rows of different score, of which exactly one is of the class."""

    session: IntArray  # of the row that is of the class
    other: IntArray  # session of the row that is not
    gap: FloatArray
    wrong: FloatArray


def _labelled_rows(llm_scores, y, groups, classes, layout) -> _LabelledRows:
    scores, classes, codes = read_scores(llm_scores, y, classes)
    session = check_groups(groups, len(scores))
    score = score_per_class(scores, classes, layout)
    kept = (codes >= 0) & ~np.isnan(score[:, 0])
    if len(np.unique(codes[kept])) < 2:
        raise ValueError(
            f"y has {len(np.unique(codes[kept]))} classes on the {kept.sum()} labelled rows with "
            "scores, so no two rows can be compared; label rows of at least two classes."
        )
    length = np.bincount(session)
    used, session = np.unique(session[kept], return_inverse=True)
    score, codes, length = score[kept], codes[kept], length[used]
    order, rank = order_by_content(np.column_stack([codes, score]), session, length)
    score, codes = score[order], codes[order]
    # For two classes the pairs of one are those of the other.
    compared = [1] if len(classes) == 2 else list(range(len(classes)))
    positive = codes[:, None] == np.array(compared)
    return _LabelledRows(score[:, compared], positive, rank[session][order], np.sort(length))


def _within_counts(rows: _LabelledRows) -> tuple[FloatArray, FloatArray]:
    """Wrong pairs and all pairs of each session, summed over classes."""
    wrong, n_pairs = np.zeros(len(rows.length)), np.zeros(len(rows.length))
    for score, positive in zip(rows.score.T, rows.positive.T, strict=True):
        won, compared = won_and_compared(rows.session, positive, score, len(rows.length))
        wrong += compared - won
        n_pairs += compared
    return wrong, n_pairs


class _PairCounter:
    """Count the wrong pairs of all rows, weighted by session, in O(rows) each time."""

    def __init__(self, rows: _LabelledRows) -> None:
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
    rows: _LabelledRows, across: bool, max_pairs: int, rng: np.random.RandomState
) -> tuple[_DrawnPairs, int, float]:
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
    pairs = _DrawnPairs(
        rows.session[first], rows.session[second], np.abs(gap), (gap < 0).astype(np.float64)
    )
    return pairs, total, tied


class _GapBins:
    """Wrong pairs by their score gap, counted anew for weights of the sessions."""

    def __init__(
        self, within: _DrawnPairs, across: _DrawnPairs, n_bins: int, n_sessions: int
    ) -> None:
        inner = quantile_edges(within.gap if len(within.gap) else across.gap, n_bins)
        self.n_bins = len(inner) + 1
        largest = max(within.gap.max(initial=0.0), across.gap.max(initial=0.0))
        self.edges = np.r_[0.0, inner, largest]
        self.across, self.across_bin = across, assign_bins(across.gap, inner)
        self.within, self.within_bin = within, assign_bins(within.gap, inner)
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
        return ratio(weight @ self.wrong, weight @ self.n_pairs), ratio(wrong, n_across)

    def mean_gap(self) -> FloatArray:
        bins = np.r_[self.within_bin, self.across_bin]
        gap = np.r_[self.within.gap, self.across.gap]
        n_pairs = np.bincount(bins, minlength=self.n_bins)
        return ratio(np.bincount(bins, gap, minlength=self.n_bins), n_pairs)

    def smallest_gap(self, first_bin: int) -> float:
        """Smallest gap of a pair within a session from a bin on."""
        return float(self.within.gap[self.within_bin >= first_bin].min(initial=np.inf))


def _by_length(
    rows: _LabelledRows, wrong: FloatArray, n_pairs: FloatArray
) -> tuple[Bunch, IntArray]:
    """Errors of sessions by length, and the bin of each session, -1 without a pair."""
    paired = n_pairs > 0
    inner = quantile_edges(rows.length[paired].astype(np.float64), _LENGTH_BINS)
    bins = np.where(paired, assign_bins(rows.length.astype(np.float64), inner), -1)
    inside = [bins == b for b in range(len(inner) + 1 if paired.any() else 0)]
    table = Bunch(
        shortest=np.array([rows.length[i].min() for i in inside], dtype=np.int64),
        longest=np.array([rows.length[i].max() for i in inside], dtype=np.int64),
        error=np.array([wrong[i].sum() / n_pairs[i].sum() for i in inside]),
        n_pairs=np.array([n_pairs[i].sum() for i in inside], dtype=np.int64),
        n_sessions=np.array([i.sum() for i in inside], dtype=np.int64),
    )
    return table, bins


def _estimate(value: float, samples: FloatArray, level: float, told: bool, **more: Any) -> Bunch:
    low, high = percentile_interval(samples, level, told)
    return Bunch(error=float(value), low=float(low), high=float(high), **more)


def _suggest_min_margin(bins: _GapBins, high: FloatArray) -> float:
    """Drop the first bins whose interval reaches chance; one without an interval shows nothing."""
    maybe_chance = high >= 0.5
    if maybe_chance.all() or np.isnan(high).all():
        return float("nan")
    first = int((~maybe_chance).argmax())
    return bins.smallest_gap(first) if first else 0.0


def _noise_message(noise: Bunch, n_sessions: int) -> str:
    within, across, gap = noise.within, noise.across, noise.difference

    def described(part, where):
        if not part.n_pairs:
            return f"There is no pair {where}."
        interval = ""
        if not np.isnan(part.low):
            interval = f" ({percent(part.low)} to {percent(part.high)})"
        return (
            f"The scores order {percent(part.error)}{interval} of the {part.n_pairs:,} pairs "
            f"{where} wrongly."
        )

    told = f"{points(gap.error)} points ({points(gap.low)} to {points(gap.high)})"
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
    return " ".join([*shares, verdict, *caution_if_few(n_sessions), margin])


def _noise_summary(by_gap: Bunch) -> str:
    def cell(name, b):
        return format_interval(
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
    return format_table(header, lines)


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
    everything = _PairCounter(rows)
    within_pairs, n_within, tied_within = _draw_pairs(rows, False, max_pairs, rng)
    across_pairs, n_across, tied_across = _draw_pairs(rows, True, max_pairs, rng)
    bins = _GapBins(within_pairs, across_pairs, n_gap_bins, n_sessions)
    by_length, length_bin = _by_length(rows, wrong, n_pairs)
    paired = length_bin >= 0

    def errors(weight):
        all_wrong, total = everything.count(weight)
        within = ratio(weight @ wrong, weight @ n_pairs)
        # What is left of all pairs without those within a session, which are counted exactly.
        total -= weight**2 @ n_pairs
        across = ratio(max(all_wrong - weight**2 @ wrong, 0.0), total)
        of_length = [
            np.bincount(length_bin[paired], (weight * part)[paired], len(by_length.error))
            for part in (wrong, n_pairs)
        ]
        return (
            np.array([within, across, within - across]),
            *bins.errors(weight),
            ratio(*of_length),
        )

    whole, gap_within, gap_across, _ = errors(np.ones(n_sessions))
    samples = [errors(weight) for weight in session_weights(n_sessions, n_bootstrap, rng)]
    overall, by_gap_within, by_gap_across, of_length = map(np.array, zip(*samples, strict=True))
    enough, enough_pairs = n_sessions >= MIN_SESSIONS, paired.sum() >= MIN_SESSIONS
    told = (bins.n_pairs > 0).sum(axis=0) >= MIN_SESSIONS
    level = confidence_level

    noise = Bunch(
        within=_estimate(whole[0], overall[:, 0], level, enough_pairs, n_pairs=n_within),
        across=_estimate(whole[1], overall[:, 1], level, enough, n_pairs=n_across),
        difference=_estimate(whole[2], overall[:, 2], level, enough_pairs),
    )
    by_gap = Bunch(edges=bins.edges, gap=bins.mean_gap(), within=gap_within, across=gap_across)
    by_gap.within_low, by_gap.within_high = percentile_interval(by_gap_within, level, told)
    by_gap.across_low, by_gap.across_high = percentile_interval(by_gap_across, level, enough)
    by_gap.n_within = np.bincount(bins.within_bin, minlength=bins.n_bins)
    by_gap.n_across = np.bincount(bins.across_bin, minlength=bins.n_bins)
    by_gap.tied_within, by_gap.tied_across = tied_within, tied_across
    by_length.low, by_length.high = percentile_interval(
        of_length, level, by_length.n_sessions >= MIN_SESSIONS
    )
    noise.by_gap, noise.by_length = by_gap, by_length
    noise.min_margin = _suggest_min_margin(bins, by_gap.within_high)
    noise.intra_session_helps = (
        "yes" if noise.difference.high < 0 else "no" if noise.difference.low > 0 else "unclear"
    )
    noise.message = _noise_message(noise, n_sessions)
    noise.summary = _noise_summary(by_gap)
    return noise
