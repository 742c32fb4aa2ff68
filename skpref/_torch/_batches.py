"""Batches of whole sessions, with the targets of the loss."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from skpref._sessions import concatenate_ranges, run_lengths
from skpref._torch._pairs import FEW_PAIRS, AllPairs


def as_tensor(X) -> Tensor:
    """Return rows as a dense tensor; sparse or ragged rows are filled in here, batch by batch.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_features), or ndarray of object, shape (n_rows,)
        Features, or the token ids of each row.

    Returns
    -------
    Tensor of shape (n_rows, n_features)
        The rows; token ids are padded with -1.
    """
    if X.dtype == object:
        ids = [torch.from_numpy(row) for row in X]
        return pad_sequence(ids, batch_first=True, padding_value=-1).long()
    dense = X.toarray() if issparse(X) else X
    # A read-only array, such as a frame's, cannot be shared with torch.
    return torch.from_numpy(dense if dense.flags.writeable else dense.copy())


class SessionDataset(torch.utils.data.Dataset):
    """Rows with their soft labels, sorted so that each session stands together.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_features), or ndarray of object, shape (n_rows,)
        Features, whose dtype is the one the net computes in, or the token ids of each row.
    soft : ndarray of shape (n_rows, n_scores)
        Soft labels; only the positive class for a binary task.
    weight : ndarray of shape (n_rows,)
        Row weights.
    session : ndarray of int, shape (n_rows,)
        Session codes in ascending order.
    """

    def __init__(self, X, soft, weight, session):
        self.X = X
        self.session = session
        self.soft = soft
        is_text = X.dtype == object
        self.n_tokens = np.array([len(row) for row in X]) if is_text else None
        dtype = np.float32 if is_text else X.dtype
        self.soft_tensor = torch.from_numpy(soft.astype(dtype))
        self.weight = torch.from_numpy(weight.astype(dtype))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.session)

    def features(self, rows: np.ndarray) -> Tensor:
        """Return the features of `rows`."""
        return as_tensor(self.X[rows])


class SessionBatches:
    """Iterate over batches of whole sessions, packed to about `batch_size` rows.

    Parameters
    ----------
    dataset : SessionDataset
        The rows.
    batch_size : int
        Most rows of a batch, except for a longer session: see Notes.
    token_budget : int, default=None
        Most tokens of a batch of texts, except for a longer session; None sets no limit.
    shuffle : bool, default=False
        Whether the sessions come in a new random order each epoch.
    pairs : "all", IntraSessionPairSampler or None, default="all"
        "all" leaves all pairs of a session to the loss; a sampler draws pairs again in each epoch;
        None gives none.
    min_margin : float, default=0.0
        Least soft-label gap of a pair, for "all".
    session_weight : {"equal", "pairs"}, default="equal"
        Whether each session counts the same, or each pair, for "all".
    shard : (int, int), default=(0, 1)
        Number of this process, and how many processes train together. The batches are divided
        among them; each gets the same number.

    Notes
    -----
    A session that is longer than `batch_size` is a batch of its own. Only one that holds more than
    a tenth of all rows is divided at random, again in each epoch, into parts of about a tenth, so
    that an epoch has ten steps or more: every pair has the same chance to be compared.
    """

    def __init__(
        self,
        dataset,
        batch_size,
        shuffle=False,
        pairs="all",
        min_margin=0.0,
        session_weight="equal",
        token_budget=None,
        shard=(0, 1),
        few_pairs=FEW_PAIRS,
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.token_budget = token_budget
        self.shard = shard
        self.few_pairs = few_pairs
        self.shuffle = shuffle
        self.pairs = pairs
        self.pair_options = {"min_margin": min_margin, "session_weight": session_weight}
        self._kept: AllPairs | None = None
        # Other draws of the processes, such as dropout, must not make their orders differ.
        self._generator = None
        if shard[1] > 1:
            self._generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    def __iter__(self) -> Iterator[tuple[Tensor, dict]]:
        """Yield ``(features, target)`` of each batch."""
        for rows, target in self._batches():
            yield self.dataset.features(rows), target

    def targets(self) -> Iterator[dict]:
        """Yield the target of each batch alone."""
        return (target for _, target in self._batches())

    def _batches(self) -> Iterator[tuple[np.ndarray, dict]]:
        """Yield the rows of each batch, and its target."""
        data = self.dataset
        dealt, session = self._deal()
        lengths = run_lengths(session)
        order = np.arange(len(lengths))
        if self.shuffle:
            order = torch.randperm(len(order), generator=self._generator).numpy()
        rows = concatenate_ranges((np.cumsum(lengths) - lengths)[order], lengths[order])
        bounds = self._pack(lengths[order], dealt[rows])
        ends = np.r_[0, np.cumsum(lengths[order])][bounds]
        targets = self._pair_targets(dealt, session, order, bounds, rows, ends)
        batches = zip(pairwise(ends.tolist()), targets, strict=True)
        n_batches = len(bounds) - 1
        n_own = -(-n_batches // self.shard[1])
        share = self._share(batches, n_batches, n_own)
        for number, ((start, end), target) in enumerate(share):
            chosen = dealt[rows[start:end]]
            row = {"soft": data.soft_tensor[chosen], "weight": data.weight[chosen]}
            place = {"done": (number + 0.5) / n_own, "last": number == n_own - 1}
            yield chosen, target | row | place

    def _share(self, batches, n_batches, n_own) -> Iterable:
        """Return the batches of this process; the first ones fill up an incomplete last round."""
        rank, n_processes = self.shard
        if n_processes == 1:
            return batches
        batches = list(batches)
        return (batches[(rank + n_processes * i) % n_batches] for i in range(n_own))

    def _deal(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the rows and their sessions; a part of a long one counts as one."""
        session = self.dataset.session
        rows, lengths = np.arange(len(session)), run_lengths(session)
        most = max(self.batch_size, len(session) // 10)
        if lengths.max() <= most:
            return rows, session
        length = np.repeat(lengths, lengths)
        place = rows - np.repeat(np.cumsum(lengths) - lengths, lengths)
        part = place // -(-length // -(-length // most))
        if self.shuffle:
            draws = torch.rand(len(rows), generator=self._generator).numpy()
            key = np.where(length > most, draws, place)
            rows = np.lexsort((key, session))
        new = (np.diff(session, prepend=-1) != 0) | (np.diff(part, prepend=-1) != 0)
        return rows, np.cumsum(new) - 1

    def _pack(self, lengths: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Fill batches with sessions, in order; return where in the sessions each batch begins."""
        tokens, budget = np.zeros_like(lengths), self.token_budget
        if budget is not None:
            tokens = np.add.reduceat(self.dataset.n_tokens[rows], np.cumsum(lengths) - lengths)
        bounds, n_rows, n_tokens = [0], 0, 0
        sizes = zip(lengths.tolist(), tokens.tolist(), strict=True)
        for number, (more_rows, more_tokens) in enumerate(sizes):
            too_many = budget is not None and n_tokens + more_tokens > budget
            if n_rows and (too_many or n_rows + more_rows > self.batch_size):
                bounds.append(number)
                n_rows = n_tokens = 0
            n_rows += more_rows
            n_tokens += more_tokens
        return np.array([*bounds, len(lengths)])

    def _pair_targets(self, dealt, session, order, bounds, rows, ends) -> Iterable[dict]:
        """Return what the loss must know about the pairs of each batch."""
        if self.pairs is None:
            return ({} for _ in bounds[1:])
        n_rows, n_scores = np.diff(ends), self.dataset.soft.shape[1]
        place = np.empty_like(rows)  # of a row in its batch
        place[rows] = np.arange(len(rows)) - np.repeat(ends[:-1], n_rows)
        if self.pairs == "all":
            pairs = self._all_pairs(dealt, session)
            # The padding comes first, then the scores of the first row, and so on.
            position = 1 + place[:, None] * n_scores + np.arange(n_scores)
            position = np.append(position, 0)
            batches = (order[start:end] for start, end in pairwise(bounds.tolist()))
            blocks = (pairs.blocks(sessions, position, self.few_pairs) for sessions in batches)
            return ({"blocks": of_batch} for of_batch in blocks)
        batch_of_row = np.empty_like(rows)
        batch_of_row[rows] = np.repeat(np.arange(len(n_rows)), n_rows)
        soft = self.dataset.soft[dealt]
        pairs = self.pairs.sample(soft[:, 0] if n_scores == 1 else soft, session)
        return self._sampled_pairs(pairs, batch_of_row, place, len(n_rows))

    def _all_pairs(self, dealt, session) -> AllPairs:
        """Describe all pairs, once if no session is divided."""
        whole = session is self.dataset.session
        if whole and self._kept is not None:
            return self._kept
        soft, weight = self.dataset.soft[dealt], self.dataset.weight.numpy()[dealt]
        pairs = AllPairs(soft, weight, session, **self.pair_options)
        self._kept = pairs if whole else None
        return pairs

    def _sampled_pairs(self, pairs, batch_of_row, place, n_batches) -> list[dict[str, Tensor]]:
        """Assign each pair to the batch of its session."""
        weight = self.dataset.weight
        batch_of_pair = batch_of_row[pairs.winner]
        order = np.argsort(batch_of_pair, kind="stable")
        bounds = np.searchsorted(batch_of_pair[order], np.arange(1, n_batches))
        return [
            {
                "winner": torch.from_numpy(place[pairs.winner[chosen]]),
                "loser": torch.from_numpy(place[pairs.loser[chosen]]),
                "class_index": torch.from_numpy(pairs.class_index[chosen].astype(np.int64)),
                "margin": torch.from_numpy(pairs.margin[chosen]).to(weight),
                "pair_weight": torch.from_numpy(pairs.weight[chosen]).to(weight),
            }
            for chosen in np.split(order, bounds)
        ]
