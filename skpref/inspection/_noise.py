"""Estimate how often scores order two utterances wrongly, within and across sessions."""

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import Bunch, check_random_state

from skpref._calibrator import LLMScoreCalibrator
from skpref._indicator import is_multilabel
from skpref._sessions import won_and_compared
from skpref._sklearn import Interval, StrOptions, validate_params
from skpref._typing import ArrayLike, BoolArray, FloatArray, IntArray, SessionIds
from skpref._validation import check_groups, plain_output
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
    percent,
    points,
)
from skpref.inspection._scores import (
    assign_bins,
    order_by_content,
    quantile_edges,
    read_label_scores,
    read_scores,
    score_per_class,
)
from skpref.inspection._shared import share_of_session

_LENGTH_BINS = 4


class _LabelledRows(NamedTuple):
    """Labelled rows with scores, ordered by content; one column for each class compared."""

    score: FloatArray
    label: IntArray  # (n_rows,), or (n_rows, n_labels) and -1 where unknown
    positive: BoolArray
    negative: BoolArray  # neither where a label is unknown
    session: IntArray  # ascending
    length: IntArray  # rows of each session, labelled or not

    def columns(self):
        """Yield score, positive and negative of each class."""
        return zip(self.score.T, self.positive.T, self.negative.T, strict=True)


class _DrawnPairs(NamedTuple):
    """Pairs of rows of different score, exactly one of which is of the class."""

    session: IntArray  # of the row of the class
    other: IntArray  # session of the other row
    gap: FloatArray
    wrong: FloatArray


def _label_rows(llm_scores, y, groups, classes, layout) -> _LabelledRows:
    """Check the input and return the rows that pairs are made of."""
    if is_multilabel(y, classes, llm_scores):
        score, codes = _read_several_labels(llm_scores, y, classes)
        return _order_rows(score, codes, codes == 1, codes == 0, check_groups(groups, len(score)))
    per_class = layout == "classes"
    scores, classes, codes = read_scores(llm_scores, y, classes, per_class=per_class)
    session = check_groups(groups, len(scores))
    score = score_per_class(scores, classes, layout)
    usable = (codes >= 0) & ~np.isnan(score[:, 0])
    n_present = len(np.unique(codes[usable]))
    if n_present < 2:
        raise ValueError(
            f"y has {n_present} classes on the {usable.sum()} labelled rows with scores, so no two "
            "rows can be compared; label rows of at least two classes."
        )
    # Of two classes both have the same pairs.
    compared = [1] if len(classes) == 2 else list(range(len(classes)))
    positive = usable[:, None] & (codes[:, None] == np.array(compared))
    negative = usable[:, None] & ~positive
    return _order_rows(score[:, compared], codes, positive, negative, session)


def _read_several_labels(llm_scores, y, classes) -> tuple[FloatArray, IntArray]:
    """Return score and code of each label, -1 where the label is unknown or has no score."""
    scores, labels, codes = read_label_scores(llm_scores, y, classes)
    calibrator = plain_output(LLMScoreCalibrator("mean", classes=labels))
    score = calibrator.fit(scores, codes).transform(scores)
    codes = np.where(np.isnan(score), -1, codes)
    if not ((codes == 1).any(axis=0) & (codes == 0).any(axis=0)).any():
        raise ValueError(
            "y has no label that applies to one row with scores and not to another, so no two rows "
            "can be compared; label more rows."
        )
    return score, codes


def _order_rows(
    score: FloatArray,
    label: IntArray,
    positive: BoolArray,
    negative: BoolArray,
    session: IntArray,
) -> _LabelledRows:
    """Return the rows that are of use, ordered by content."""
    known = positive | negative
    rows = np.flatnonzero(known.any(axis=1))
    length = np.bincount(session)
    used, session = np.unique(session[rows], return_inverse=True)
    score = np.where(known, score, 0.0)  # that of an unknown label is in no pair
    content = np.column_stack([label, score])[rows]
    order, rank = order_by_content(content, session, length[used])
    rows = rows[order]
    return _LabelledRows(
        score[rows],
        label[rows],
        positive[rows],
        negative[rows],
        rank[session][order],
        np.sort(length[used]),
    )


def _count_within(rows: _LabelledRows) -> tuple[FloatArray, FloatArray]:
    """Return the wrong pairs and all pairs of each session, summed over classes."""
    wrong, n_pairs = np.zeros(len(rows.length)), np.zeros(len(rows.length))
    for score, positive, negative in rows.columns():
        known = positive | negative
        won, compared = won_and_compared(
            rows.session[known], positive[known], score[known], len(rows.length)
        )
        wrong += compared - won
        n_pairs += compared
    return wrong, n_pairs


class _PairCounter:
    """Count the wrong pairs of all rows, weighted by session, in O(rows) each time."""

    def __init__(self, rows: _LabelledRows) -> None:
        self.columns = []
        for score, positive, negative in rows.columns():
            order = np.argsort(score, kind="stable")
            tie = np.cumsum(np.diff(score[order], prepend=score[order[0]]) > 0)
            self.columns.append((rows.session[order], positive[order], negative[order], tie))

    def count(self, weight: FloatArray) -> tuple[float, float]:
        """Return the weight of the wrong pairs, and of all pairs.

        The weight of a pair is the product of the weights of its two sessions.
        """
        wrong = total = 0.0
        for session, positive, negative, tie in self.columns:
            row_weight = weight[session]
            for_class = np.bincount(tie, weights=row_weight * positive)
            against = np.bincount(tie, weights=row_weight * negative)
            higher = against.sum() - np.cumsum(against)
            wrong += float(for_class @ (higher + against / 2))
            total += float(for_class.sum() * against.sum())
        return wrong, total


def _draw_pairs(
    rows: _LabelledRows, across: bool, max_pairs: int, rng: np.random.RandomState
) -> tuple[_DrawnPairs, int, float]:
    """List all pairs within or across sessions, or draw `max_pairs` of them.

    Returns the pairs that do not tie, the number of all pairs, and the share of ties among those
    listed or drawn.
    """
    n_sessions = len(rows.length)
    for_class = [np.flatnonzero(p) for p in rows.positive.T]
    against = [np.flatnonzero(n) for n in rows.negative.T]
    sizes = [np.bincount(rows.session[a], minlength=n_sessions) for a in against]
    # The partners of a row are numbered: the block of its session, or all rows around that block.
    block = [s[rows.session[f]] for s, f in zip(sizes, for_class, strict=True)]
    start = [(np.cumsum(s) - s)[rows.session[f]] for s, f in zip(sizes, for_class, strict=True)]
    block_size, block_start = np.concatenate(block), np.concatenate(start)
    n_rows = [len(f) for f in for_class]
    n_against = np.array([len(a) for a in against])
    n_partners = np.repeat(n_against, n_rows) - block_size if across else block_size
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
        offset += np.where(offset >= block_start[entry], block_size[entry], 0)
    else:
        offset += block_start[entry]
    first = np.concatenate(for_class)[entry]
    second = np.concatenate(against)[base[entry] + offset]
    gap = rows.score[first, column[entry]] - rows.score[second, column[entry]]
    differs = gap != 0
    tied = float(1 - differs.mean()) if len(gap) else np.nan
    first, second, gap = first[differs], second[differs], gap[differs]
    pairs = _DrawnPairs(
        rows.session[first], rows.session[second], np.abs(gap), (gap < 0).astype(np.float64)
    )
    return pairs, total, tied


class _GapBins:
    """Count wrong pairs by their score gap, for any weights of the sessions."""

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
        """Return the share of wrong pairs in each bin, within and across sessions."""
        pair = weight[self.across.session] * weight[self.across.other]
        n_across = np.bincount(self.across_bin, pair, minlength=self.n_bins)
        wrong = np.bincount(self.across_bin, pair * self.across.wrong, minlength=self.n_bins)
        return ratio(weight @ self.wrong, weight @ self.n_pairs), ratio(wrong, n_across)

    def mean_gap(self) -> FloatArray:
        """Return the mean gap in each bin, of all pairs."""
        bins = np.r_[self.within_bin, self.across_bin]
        gap = np.r_[self.within.gap, self.across.gap]
        n_pairs = np.bincount(bins, minlength=self.n_bins)
        return ratio(np.bincount(bins, gap, minlength=self.n_bins), n_pairs)

    def smallest_gap(self, first_bin: int) -> float:
        """Return the smallest gap within a session, from a bin on."""
        return float(self.within.gap[self.within_bin >= first_bin].min(initial=np.inf))


def _bin_by_length(
    rows: _LabelledRows, wrong: FloatArray, n_pairs: FloatArray
) -> tuple[Bunch, IntArray]:
    """Return the errors of sessions by length, and the bin of each session, -1 without a pair."""
    paired = n_pairs > 0
    inner = quantile_edges(rows.length[paired].astype(np.float64), _LENGTH_BINS)
    bins = np.where(paired, assign_bins(rows.length.astype(np.float64), inner), -1)
    members = [bins == b for b in range(len(inner) + 1 if paired.any() else 0)]
    table = Bunch(
        shortest=np.array([rows.length[m].min() for m in members], dtype=np.int64),
        longest=np.array([rows.length[m].max() for m in members], dtype=np.int64),
        error=np.array([wrong[m].sum() / n_pairs[m].sum() for m in members]),
        n_pairs=np.array([n_pairs[m].sum() for m in members], dtype=np.int64),
        n_sessions=np.array([m.sum() for m in members], dtype=np.int64),
    )
    return table, bins


def _estimate(
    value: float, samples: FloatArray, level: float, enough: bool, **counts: Any
) -> Bunch:
    low, high = percentile_interval(samples, level, enough)
    return Bunch(error=float(value), low=float(low), high=float(high), **counts)


def _suggest_min_margin(bins: _GapBins, high: FloatArray) -> float:
    """Return the smallest gap beyond the first bins whose interval reaches chance.

    A bin without an interval proves nothing, so it is not dropped.
    """
    maybe_chance = high >= 0.5
    if maybe_chance.all() or np.isnan(high).all():
        return float("nan")
    first = int((~maybe_chance).argmax())
    return bins.smallest_gap(first) if first else 0.0


def _describe_error(part: Bunch, where: str) -> str:
    if not part.n_pairs:
        return f"There is no pair {where}."
    bounds = "" if np.isnan(part.low) else f" ({percent(part.low)} to {percent(part.high)})"
    return (
        f"The scores order {percent(part.error)}{bounds} of the {part.n_pairs:,} pairs {where} "
        "wrongly."
    )


def _describe_difference(noise: Bunch, n_sessions: int) -> str:
    gap = noise.difference
    size = f"{points(gap.error)} points ({points(gap.low)} to {points(gap.high)})"
    if noise.intra_session_helps == "yes":
        return (
            f"Pairs within a session are less noisy, by {size}: comparing within sessions, as the "
            "classifier does, suits these scores."
        )
    if noise.intra_session_helps == "no":
        return (
            f"Pairs within a session are noisier than those across, by {size}: do not expect that "
            "comparing within sessions alone removes noise from these scores."
        )
    reason = "label more sessions" if np.isnan(gap.low) else f"the difference is {size}"
    return (
        f"{n_sessions} labelled sessions do not show whether pairs within a session are less "
        f"noisy: {reason}."
    )


def _describe_margin(min_margin: float) -> str:
    if np.isnan(min_margin):
        return "No score gap was shown to order pairs better than chance."
    if min_margin == 0:
        return "Even the smallest score gaps order pairs better than chance: min_margin=0 suffices."
    return (
        f"Gaps below {min_margin:.3g} may be no better than chance: try "
        f"min_margin={min_margin:.3g} in IntraSessionPairSampler."
    )


def _describe_shared(shared: Bunch) -> list[str]:
    if np.isnan(shared.share):
        return []
    bounds = "" if np.isnan(shared.low) else f" ({percent(shared.low)} to {percent(shared.high)})"
    return [
        f"The utterances of a session share {percent(max(shared.share, 0.0))}{bounds} of the "
        "variance of the scores' error given the label; comparing within sessions can remove no "
        "more than that."
    ]


def _write_message(noise: Bunch, n_sessions: int) -> str:
    parts = [
        _describe_error(noise.within, "within sessions"),
        _describe_error(noise.across, "across sessions"),
        _describe_difference(noise, n_sessions),
        *_describe_shared(noise.shared),
        *caution_if_few(n_sessions),
        _describe_margin(noise.min_margin),
    ]
    return " ".join(parts)


def _make_table(by_gap: Bunch, shared: Bunch) -> tuple[list[str], list[list[str]]]:
    """Return header and lines, one per bin, and the shared error."""

    def cell(name, b):
        low, high = by_gap[f"{name}_low"][b], by_gap[f"{name}_high"][b]
        return format_interval(by_gap[name][b], low, high, ".3f")

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
    share = format_interval(shared.share, shared.low, shared.high, ".3f")
    lines.append(["error shared by a session", share, "", "", ""])
    header = ["score gap", "wrong within", "wrong across", "pairs within", "pairs across"]
    return header, lines


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
) -> Report:
    """Estimate how often scores order two utterances wrongly, within and across sessions.

    For a class, a pair is two labelled rows, exactly one of which is of the class. It is wrong if
    the other row has the higher score for the class; a tie counts one half. Pairs within sessions
    are what `PairwisePreferenceClassifier` trains on: if they are wrong less often than pairs
    across sessions, comparing within sessions removes noise that all utterances of a session
    share.

    Parameters
    ----------
    llm_scores : array-like of shape (n_samples, n_prompts, n_classes), (n_samples, n_prompts) or \
            (n_samples, n_classes)
        Raw LLM scores, which are averaged over the prompts, or one score per class: soft labels,
        or the probabilities of a classifier. Rows without any score (NaN) are left out.
    y : array-like of shape (n_samples,) or (n_samples, n_labels)
        Human labels; -1 (numbers), None or NaN marks an unlabelled row. Two dimensions hold several
        labels per utterance, as `PairwisePreferenceClassifier` takes them; a pair is then two rows
        to one of which a label applies.
    groups : array-like of shape (n_samples,)
        Session id of each row: any hashable values, in any order.
    classes : array-like of shape (n_classes,), default=None
        Class labels in the order of the last axis of the scores. None takes the sorted labels of
        `y`.
    layout : {"auto", "prompts", "classes"}, default="auto"
        Meaning of the columns of two-dimensional scores. "prompts", as elsewhere in the library:
        the positive class's score by each prompt. "classes": one score per class, used as it is.
        "auto" means "classes" if there are as many columns as classes and each row sums to 1, else
        "prompts".
    n_gap_bins : int, default=10
        Maximum number of bins of the score gap, with about equal numbers of pairs within sessions.
    max_pairs : int, default=200_000
        Maximum number of pairs within sessions, and of pairs across, from which the errors by gap
        are computed. If there are more, this many are drawn at random. All other errors count all
        pairs.
    n_bootstrap : int, default=200
        Number of bootstrap samples of the sessions, from which intervals are computed.
    confidence_level : float, default=0.95
        Share of the bootstrap samples that an interval covers.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws. With an int, neither the order of the rows nor the names of the
        sessions change the result.

    Returns
    -------
    Report
        Its fields can be read as attributes; `print` and notebooks show message and table. Errors
        are shares between 0 and 1; 0.5 is chance. An error without any pair is NaN, and so are
        intervals from fewer than five sessions.

        - within, across : Bunch of error, low, high and n_pairs, all classes pooled.
        - difference : Bunch of error, low and high: the error within sessions minus that across.
        - by_gap : Bunch of arrays over the bins: gap (mean score gap), within, within_low,
          within_high, n_within, across, across_low, across_high and n_across (pairs looked at);
          edges of shape (n_bins + 1,), a bin holding its lower edge; and tied_within and
          tied_across, the shares of the pairs that tie and so are in no bin.
        - by_length : Bunch of arrays over bins of sessions by their number of rows: shortest,
          longest, error, low, high, n_pairs and n_sessions, within sessions.
        - min_margin : float, the smallest gap that remains after dropping the first bins whose
          error within sessions may be chance, that is, whose interval reaches 0.5. 0.0 if no bin
          is dropped, NaN if all are or there is no interval. It has the unit of the scores: pass
          a classifier's ``soft_labels_`` as scores to get the `min_margin` of its pair sampler.
        - shared : Bunch of share, low and high: how much of the variance of the scores' error,
          given the human label, is constant within a session (the intraclass correlation of
          one-way random effects). Comparing within sessions removes this part and no other. NaN
          if no session has two rows.
        - intra_session_helps : {"yes", "no", "unclear"}, whether the interval of the difference is
          below 0, above 0, or holds 0.
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
    skpref.IntraSessionPairSampler : Draws pairs with a minimum gap.
    skpref.metrics.within_session_concordance : One minus the error within sessions.

    Notes
    -----
    Pairs are counted by ranks, in O(n log n) time and O(n + max_pairs) memory. In a bootstrap
    sample, the weight of a pair is the number of times its session is drawn, or the product for its
    two sessions. The labels that suggest `min_margin` cannot also show what it gains: compare
    classifiers by cross-validation.

    For `shared`, the error is the score minus the mean score at that human label, and variances
    are summed over classes. An estimate below 0 means that there is nothing shared. The interval is
    somewhat too narrow, as bootstrap intervals of variances are. A pair of one session has the
    shared part in both scores, so it cancels, but so does what the labels of a session have in
    common: with a small share, pairs within sessions have nothing to gain.

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
    >>> print(f"{noise.shared.share:.2f}")
    0.47
    """
    rows = _label_rows(llm_scores, y, groups, classes, layout)
    rng = check_random_state(random_state)
    n_sessions = len(rows.length)
    wrong, n_pairs = _count_within(rows)
    all_pairs = _PairCounter(rows)
    within_pairs, n_within, tied_within = _draw_pairs(rows, False, max_pairs, rng)
    across_pairs, n_across, tied_across = _draw_pairs(rows, True, max_pairs, rng)
    bins = _GapBins(within_pairs, across_pairs, n_gap_bins, n_sessions)
    by_length, length_bin = _bin_by_length(rows, wrong, n_pairs)
    paired = length_bin >= 0

    def errors(weight):
        all_wrong, total = all_pairs.count(weight)
        within = ratio(weight @ wrong, weight @ n_pairs)
        # All pairs minus those within a session, both counted exactly.
        total -= weight**2 @ n_pairs
        across = ratio(max(all_wrong - weight**2 @ wrong, 0.0), total)
        of_length = [
            np.bincount(length_bin[paired], (weight * part)[paired], len(by_length.error))
            for part in (wrong, n_pairs)
        ]
        overall = np.array([within, across, within - across])
        return overall, *bins.errors(weight), ratio(*of_length)

    whole, gap_within, gap_across, _ = errors(np.ones(n_sessions))
    samples = [errors(weight) for weight in session_weights(n_sessions, n_bootstrap, rng)]
    overall, by_gap_within, by_gap_across, of_length = map(np.array, zip(*samples, strict=True))
    enough, enough_paired = n_sessions >= MIN_SESSIONS, paired.sum() >= MIN_SESSIONS
    enough_in_bin = (bins.n_pairs > 0).sum(axis=0) >= MIN_SESSIONS
    level = confidence_level

    noise = Bunch(
        within=_estimate(whole[0], overall[:, 0], level, enough_paired, n_pairs=n_within),
        across=_estimate(whole[1], overall[:, 1], level, enough, n_pairs=n_across),
        difference=_estimate(whole[2], overall[:, 2], level, enough_paired),
    )
    by_gap = Bunch(edges=bins.edges, gap=bins.mean_gap(), within=gap_within, across=gap_across)
    by_gap.within_low, by_gap.within_high = percentile_interval(by_gap_within, level, enough_in_bin)
    by_gap.across_low, by_gap.across_high = percentile_interval(by_gap_across, level, enough)
    by_gap.n_within = np.bincount(bins.within_bin, minlength=bins.n_bins)
    by_gap.n_across = np.bincount(bins.across_bin, minlength=bins.n_bins)
    by_gap.tied_within, by_gap.tied_across = tied_within, tied_across
    enough_of_length = by_length.n_sessions >= MIN_SESSIONS
    by_length.low, by_length.high = percentile_interval(of_length, level, enough_of_length)
    noise.by_gap, noise.by_length = by_gap, by_length
    noise.min_margin = _suggest_min_margin(bins, by_gap.within_high)
    noise.intra_session_helps = (
        "yes" if noise.difference.high < 0 else "no" if noise.difference.low > 0 else "unclear"
    )
    noise.shared = share_of_session(rows.score, rows.label, rows.session, n_bootstrap, level, rng)
    message = _write_message(noise, n_sessions)
    return Report(*_make_table(by_gap, noise.shared), **noise, message=message)
