"""All pairs of a data set, in the form that the loss takes."""

import numpy as np
import torch
from torch import Tensor

from skpref._sessions import build_ladder, run_lengths
from skpref._torch._losses import MAX_DENSE

# Up to this many pairs (padding included), padding all sessions to one length is cheaper than
# grouping them by length.
FEW_PAIRS = 2**15


class AllPairs:
    """All pairs of a data set: for each row and class, which rows of its session lose to it.

    The entries, one for each row and class, are sorted by session, class and soft label, so that
    the losers of an entry are the first ones of its session and class. Entries whose soft label is
    NaN have no weight; nor has the last one, which represents padding. The loss of a batch is the
    sum of the losses of its pairs, each times the `share` of its session, by the sum of `mass` over
    its sessions.
    """

    def __init__(self, soft, weight, session, min_margin: float, session_weight: str):
        known = ~np.isnan(soft)
        ladder = build_ladder(np.where(known, soft, 0), session, min_margin)
        weight = (weight[:, None] * known)[ladder.row, ladder.class_index]
        self.n_scores = soft.shape[1]
        self.length = run_lengths(session)
        self.start = (np.cumsum(self.length) - self.length) * self.n_scores
        ends = np.r_[0.0, np.cumsum(weight, dtype=np.float64)]
        won = weight * (ends[ladder.start + ladder.n_losers] - ends[ladder.start])
        self.mass = np.add.reduceat(won, self.start)
        self.share = np.ones(len(self.mass))
        if session_weight == "equal":
            self.share = 1 / np.where(self.mass > 0, self.mass, np.inf)
            self.mass = (self.mass > 0) * 1.0
        score = ladder.row * self.n_scores + ladder.class_index
        self.score = np.append(score, soft.size)
        self.soft = np.append(ladder.score, 0).astype(weight.dtype)
        self.weight = np.append(weight, 0).astype(weight.dtype)
        self.n_losers = np.append(ladder.n_losers, 0)

    def blocks(self, session, position, few_pairs=FEW_PAIRS) -> list[dict[str, Tensor]]:
        """Pad the entries of some sessions to blocks of about one length.

        `position` holds the place of each score in the batch, and last that of the padding.
        """
        mass = self.mass[session]
        session = session[mass > 0]
        # Both rows of a pair bring the square root of what a pair of the session counts.
        scale = np.sqrt(self.share[session] / mass.sum()).astype(self.weight.dtype)
        blocks = []
        for part in group_by_length(self.length[session], self.n_scores, few_pairs):
            length = self.length[session[part], None, None]
            place = np.arange(length.max())
            start = self.start[session[part], None, None]
            start = start + length * np.arange(self.n_scores)[:, None]
            entry = np.where(place < length, start + place, len(self.score) - 1)
            weight = self.weight[entry] * scale[part, None, None]
            columns = {
                "entry": position[self.score[entry]],
                "soft": self.soft[entry],
                "weight": weight,
                "n_losers": self.n_losers[entry],
            }
            block = {k: torch.from_numpy(v.reshape(-1, len(place))) for k, v in columns.items()}
            blocks.append(block)
        return blocks


def group_by_length(lengths: np.ndarray, n_scores: int, few_pairs: int) -> list:
    """Return which sessions to pad together: lengths from one power of 2 to the next.

    Then less than half of the result is padding. Sessions with few pairs are padded all together.
    """
    if not len(lengths):
        return []
    longest = lengths.max()
    if longest <= MAX_DENSE and len(lengths) * n_scores * longest**2 <= few_pairs:
        return [slice(None)]
    size = np.ceil(np.log2(lengths))
    return [size == s for s in np.unique(size)]
