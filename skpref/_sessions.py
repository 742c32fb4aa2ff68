"""Find runs of rows and valid pairs within sessions.

Used by the sampler, the batches, the metrics and the inspection.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skpref._typing import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Ladder:
    """Scores that are not NaN, sorted within each class of each session, with their valid losers.

    The losers of entry `i` are the entries `start[i]` to `start[i] + n_losers[i] - 1`. This
    numbers the valid pairs, and the pairs of a session have consecutive numbers.
    """

    row: IntArray
    class_index: IntArray
    session: IntArray
    score: FloatArray
    start: IntArray
    n_losers: IntArray


def longest_prefix(length: IntArray, holds: Callable[[IntArray], BoolArray]) -> IntArray:
    """Find, by bisection for all entries at once, the largest count that satisfies `holds`.

    Counts go up to `length`. `holds` must be true up to some count and false above it; its value
    at 0 does not matter.
    """
    count = np.zeros_like(length)
    step = 1 << int(length.max(initial=0)).bit_length()
    while step := step // 2:
        trial = np.minimum(count + step, length)
        count = np.where(holds(trial), trial, count)
    return count


def _in_few_bits(codes: IntArray) -> IntArray:
    """Convert codes to the smallest integer type; up to 16 bits use the much faster radix sort."""
    return codes.astype(np.min_scalar_type(int(codes.max(initial=0))))


def build_ladder(scores: FloatArray, sessions: IntArray, min_margin: float) -> Ladder:
    """Sort the scores that are not NaN and find the valid losers of each."""
    row, class_index = np.nonzero(~np.isnan(scores))
    score = scores[row, class_index]
    order = np.lexsort((score, _in_few_bits(class_index), _in_few_bits(sessions[row])))
    row, class_index, score = row[order], class_index[order], score[order]
    session = sessions[row]
    start = run_starts(session, class_index)
    # All entries before the run of equal scores are lower and lose to each entry of the run.
    n_losers: IntArray = run_starts(session, class_index, score) - start
    if min_margin > 0:
        # Compare the rounded difference itself. Comparing with score - min_margin would add another
        # rounding, and a pair could be valid although its margin is too small.
        n_losers = longest_prefix(n_losers, lambda m: score - score[start + m - 1] >= min_margin)
    return Ladder(row, class_index, session, score, start, n_losers)


def run_starts(*columns: np.ndarray) -> IntArray:
    """Return, for each entry, the position at which its run of equal values begins."""
    changed = np.zeros(len(columns[0]), dtype=bool)
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return np.maximum.accumulate(np.where(changed, np.arange(len(changed)), 0))


def concatenate_ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """Concatenate ranges given by their starts and lengths."""
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)


def run_lengths(session: np.ndarray) -> np.ndarray:
    """Return the lengths of the runs of equal values."""
    return np.diff(np.flatnonzero(np.diff(session, prepend=-1, append=-1)))


def renumber(codes: IntArray) -> IntArray:
    """Return codes 0, 1, 2, ... in order of first appearance."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def won_and_compared(
    session: IntArray, positive: BoolArray, score: FloatArray, n_sessions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Mann-Whitney U of the positive rows and the number of pairs of each session."""
    order = np.lexsort((score, session))
    session, positive, score = session[order], positive[order], score[order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (session[1:] != session[:-1]) | (score[1:] != score[:-1])
    tie = np.cumsum(starts) - 1  # rows of the same session with the same score
    tied_positives = np.bincount(tie, weights=positive)
    tied_negatives = np.bincount(tie, weights=~positive)

    n_positives = np.bincount(session, weights=positive, minlength=n_sessions)
    n_negatives = np.bincount(session, weights=~positive, minlength=n_sessions)
    in_earlier_sessions = np.cumsum(n_negatives) - n_negatives
    tie_session = session[starts]
    lower_negatives = np.cumsum(tied_negatives) - tied_negatives - in_earlier_sessions[tie_session]
    won = tied_positives * (lower_negatives + tied_negatives / 2)
    return (
        np.bincount(tie_session, weights=won, minlength=n_sessions),
        n_positives * n_negatives,
    )
