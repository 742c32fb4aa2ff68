"""Soft labels smoothed over the nearest neighbours in feature space."""

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy import sparse
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import VALID_METRICS
from sklearn.utils import check_array, check_random_state, gen_batches
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from skpref._sklearn import Interval, StrOptions, _check_feature_names_in, _fit_context
from skpref._typing import BoolArray, FloatArray, IntArray
from skpref._validation import _as_1d_objects, check_groups, check_labels

_SUM_TOLERANCE = 1e-6

# These need parameters of their own.
_METRICS = set(VALID_METRICS["brute"]) - {"precomputed", "seuclidean", "mahalanobis"}

# Metrics whose order is that of Euclidean distance, after scaling to unit length for cosine.
_FAST_METRICS = ("cosine", "euclidean", "l2", "sqeuclidean")

# "auto" is exact up to this many distinct rows with a label.
_MAX_AUTO_EXACT = 30_000

# Candidates beyond the neighbours asked for, so that rounding cannot hide a neighbour.
_SPARE = 5

# Columns of a block of scores.
_N_COLUMNS = 16384

# An approximate search looks at more and more lists until it finds this share of the
# neighbours of a sample of rows.
_N_PROBES, _MIN_RECALL, _N_SAMPLED = 8, 0.98, 1000

_SINGLE = np.finfo(np.float32)


def _check_soft_labels(y) -> FloatArray:
    """Check that known rows are distributions; a row that is all NaN is unknown."""
    y = check_array(y, dtype=np.float64, ensure_all_finite="allow-nan", input_name="y")
    missing = np.isnan(y)
    unknown = missing.all(axis=1)
    if (partly := missing.any(axis=1) & ~unknown).any():
        raise ValueError(
            f"y has NaN in part of {partly.sum()} rows (first: row {partly.argmax()}); soft labels "
            "are either known for each class or NaN for each class."
        )
    if (negative := (y < -_SUM_TOLERANCE).any(axis=1)).any():
        raise ValueError(
            f"y has negative soft labels in {negative.sum()} rows (first: row "
            f"{negative.argmax()}); pass rows that are non-negative and sum to 1."
        )
    total = y.sum(axis=1)
    if (off := ~unknown & (np.abs(total - 1) > _SUM_TOLERANCE)).any():
        first = off.argmax()
        raise ValueError(
            f"y has {off.sum()} rows of soft labels that do not sum to 1 (first: row {first}, sum "
            f"{total[first]:.6g}); divide each row by its sum."
        )
    return np.maximum(y, 0.0)


def _label_distributions(y) -> tuple[np.ndarray, FloatArray]:
    """Read hard or soft labels; gives the classes and a distribution or NaN for each row."""
    shape = np.asarray(y).shape
    if len(shape) == 2 and shape[1] > 1:
        return np.arange(shape[1]), _check_soft_labels(y)
    classes, codes = check_labels(y, partial=True)
    distributions = np.full((len(codes), len(classes)), np.nan)
    known = codes >= 0
    distributions[known] = np.eye(len(classes))[codes[known]]
    return classes, distributions


def _codes(keys: Iterable, table: dict) -> IntArray:
    """Look up each key, -1 where the table lacks it."""
    return np.fromiter((table.get(key, -1) for key in keys), dtype=np.int64)


def _find_sorted(values: np.ndarray, table: np.ndarray) -> IntArray:
    """Give the place of each value in a sorted table of distinct ones, -1 where it is not."""
    place = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return np.where(table[place] == values, place, -1)


def _row_keys(X) -> np.ndarray:
    """Hash the content of each row to 128 bits, one void scalar a row.

    Zeros add nothing to the sums, so that dense and sparse rows with the same numbers agree.
    """
    factors = np.random.default_rng(0).integers(2**63, size=(2, X.shape[1])).astype(np.uint64)
    factors = 2 * factors + 1
    keys = np.empty((X.shape[0], 2), dtype=np.uint64)
    for batch in gen_batches(X.shape[0], 1024):
        rows = X[batch].astype(np.float64)  # a copy
        if sparse.issparse(rows):
            rows.sum_duplicates()
        numbers = rows.data if sparse.issparse(rows) else rows
        numbers += 0.0  # -0.0 becomes 0.0
        bits = numbers.view(np.uint64)
        # Short numbers differ in their high bits only, and a product carries to higher bits only.
        bits *= np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(32)
        if sparse.issparse(rows):
            rows = sparse.csr_array((bits, rows.indices, rows.indptr), shape=rows.shape)
            keys[batch] = np.column_stack([rows @ f for f in factors])
        else:
            keys[batch] = np.column_stack([np.einsum("ij,j->i", bits, f) for f in factors])
    return keys.view("V16").ravel()


def _ragged(starts: IntArray, counts: IntArray) -> tuple[IntArray, IntArray]:
    """Enumerate ranges one after another; gives the number of the range and the position."""
    owner = np.repeat(np.arange(len(counts)), counts)
    skipped = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) + np.repeat(starts - skipped, counts)


def _rank_in_runs(*keys: np.ndarray) -> IntArray:
    """Count each entry's place among entries equal to it in all keys, which are sorted."""
    new = np.zeros(len(keys[0]), dtype=bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    place = np.arange(len(new))
    return place - np.maximum.accumulate(np.where(new, place, 0))


def _nearest(distances: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """Find the k least distances of each row, the first columns where several tie."""
    kth = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
    chosen = distances <= kth
    crowded = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)
    nearer, tied = distances[crowded] < kth[crowded], distances[crowded] == kth[crowded]
    room = k - np.count_nonzero(nearer, axis=1, keepdims=True)
    chosen[crowded] = nearer | (tied & (np.cumsum(tied, axis=1, dtype=np.int32) <= room))
    columns = np.nonzero(chosen)[1].reshape(-1, k)
    return columns, np.take_along_axis(distances, columns, axis=1)


class _Voters:
    """The rows that may vote, kept by distinct content.

    Parameters
    ----------
    X : {ndarray, CSR array} of shape (n_samples, n_features)
        Features.
    voter : ndarray of int, shape (n_voters,)
        Rows of X with a known label.
    content : ndarray of int, shape (n_voters,)
        Code of each row's content, any numbers.
    session : ndarray of int, shape (n_voters,)
        A row gets no vote of its own session. Where sessions do not matter each row is its own.
    k : int
        Votes that a row gets at most.
    grouped : bool
        Whether rows share sessions.
    """

    def __init__(self, X, voter: IntArray, content: IntArray, session: IntArray, k, *, grouped):
        self.grouped = grouped
        self.codes, first, content = np.unique(content, return_index=True, return_inverse=True)
        self.rows = X[voter[first]]
        self.content, self.session = content, session
        self.k = min(k, len(content))
        self._session_sizes = np.unique(session, return_counts=True)
        # k rows of each session and 2 k of each content are enough: at most k are of one session.
        row = np.lexsort((session, content))
        row = np.sort(row[_rank_in_runs(content[row], session[row]) < self.k])
        row = row[np.argsort(content[row], kind="stable")]
        self.row = row[_rank_in_runs(content[row]) < 2 * self.k]
        self.start = np.searchsorted(content[self.row], np.arange(len(self.codes) + 1))
        of_row, begin = session[self.row], self.start[:-1]
        lowest, highest = (f.reduceat(of_row, begin) for f in (np.minimum, np.maximum))
        # Contents that all voters of one session share, by session.
        only = np.flatnonzero(lowest == highest)
        self._barred = only[np.argsort(lowest[only], kind="stable")]
        self._barred_session = lowest[self._barred]

    def barred(self, session: IntArray, columns: slice) -> tuple[IntArray, IntArray]:
        """List the contents that may not vote; gives the place in `session` and in `columns`."""
        if not self.grouped:
            session = session[:0]
        low, high = (
            np.searchsorted(self._barred_session, session, side=s) for s in ("left", "right")
        )
        owner, place = _ragged(low, high - low)
        column = self._barred[place] - columns.start
        inside = (column >= 0) & (column < columns.stop - columns.start)
        return owner[inside], column[inside]

    def n_admissible(self, session: IntArray) -> IntArray:
        """Count the rows that may vote for a row of each session."""
        sessions, sizes = self._session_sizes
        place = _find_sorted(session, sessions)
        return len(self.content) - np.where(place < 0, 0, sizes[place])

    def largest_session(self) -> int:
        """Give the number of rows of the largest session."""
        return int(self._session_sizes[1].max())


class _Queries(NamedTuple):
    """Rows whose neighbours are looked for.

    `row` are rows of X, `own` the place of their content among the voters' contents, `session`
    what they get no vote of; -1 is none.
    """

    X: Any
    row: IntArray
    own: IntArray
    session: IntArray

    def take(self, which) -> "_Queries":
        """Take some of the queries."""
        return _Queries(self.X, self.row[which], self.own[which], self.session[which])

    def features(self) -> Any:
        """Copy the features of the queries."""
        return self.X[self.row]


class _Candidates(NamedTuple):
    """Contents that may be near each query, shape (n_queries, n), -1 for none.

    Any other content that may vote is farther than `complete`, shape (n_queries,).
    """

    content: IntArray
    complete: FloatArray


class _Geometry:
    """Distances between dense rows for a metric that orders them as Euclidean distance does.

    Single precision finds candidates. Double precision, pair by pair, tells how far they are,
    so that neither the size of a block nor the order of the rows decides anything.

    Parameters
    ----------
    rows : ndarray of shape (n_contents, n_features)
        The rows that are searched.
    metric : {"cosine", "euclidean", "l2", "sqeuclidean"}
        Distance.
    """

    def __init__(self, rows: FloatArray, metric: str):
        self.rows, self.metric = rows, metric
        self.center, self.scale, self.radius = np.zeros(rows.shape[1]), 1.0, 1.0
        if metric != "cosine":
            self.center = rows.mean(axis=0, dtype=np.float64)
            far = np.maximum(rows.max(axis=0) - self.center, self.center - rows.min(axis=0))
            self.scale = far.max() or 1.0
        batches = list(gen_batches(len(rows), 4096))
        self.length = np.concatenate([self._lengths(rows[b]) for b in batches])
        self.is_zero = np.asarray(rows.any(axis=1)) == 0
        if metric != "cosine":
            self.radius = max(np.linalg.norm(self.place(rows[b]), axis=1).max() for b in batches)

    def _lengths(self, X: FloatArray) -> FloatArray:
        """Give what rows are divided by before they are compared: by cosine, their lengths."""
        if self.metric != "cosine":
            return np.ones(len(X))
        # Divided by the largest number first: the squares of extreme ones leave the range.
        largest = np.abs(X).max(axis=1).astype(np.float64)
        largest[largest == 0] = 1.0
        scaled = X / largest[:, None]
        length = largest * np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
        return np.where(length == 0, 1.0, length)

    def place(self, X: FloatArray) -> FloatArray:
        """Move rows to where the squared distance is 2 - 2 cosine, or to about the unit cube."""
        if self.metric == "cosine":
            return X / self._lengths(X)[:, None]
        return (X - self.center) / self.scale

    def placed_rows(self, batch: slice = slice(None)) -> FloatArray:
        """Place searched rows, in single precision."""
        batch = slice(*batch.indices(len(self.rows)))
        placed = np.empty((batch.stop - batch.start, self.rows.shape[1]), dtype=np.float32)
        for part in gen_batches(len(placed), 4096):
            there = slice(batch.start + part.start, batch.start + part.stop)
            placed[part] = self.place(self.rows[there])
        return placed

    def _finish(self, half: FloatArray) -> FloatArray:
        """Turn half the squared distances between rows into what the metric gives, rounded.

        Rounding to single precision makes ties of what differs by rounding only, and unit rows
        that differ by less than single precision tells are at distance zero.
        """
        if self.metric == "cosine":
            half = np.where(half < _SINGLE.eps**2, 0.0, half)
        else:
            half = 2 * half if self.metric == "sqeuclidean" else np.sqrt(2 * half)
        return np.minimum(half, _SINGLE.max).astype(np.float32)

    def at_least(self, X: FloatArray, scores: FloatArray) -> FloatArray:
        """Bound the distance of what scores no more than a product in single precision."""
        placed = np.linalg.norm(self.place(X), axis=1)
        slack = (X.shape[1] + 8) * _SINGLE.eps * self.radius * (placed + self.radius)
        if self.metric == "cosine":
            return self._finish(np.maximum(1 - scores - slack, 0))
        half = np.maximum(placed**2 / 2 - scores - slack, 0)
        return self._finish(half * self.scale**2)

    def between(self, queries: _Queries, content: IntArray) -> FloatArray:
        """Measure pairs; gives the shape of `content`, infinite where that is -1."""
        distance = np.empty(content.shape, dtype=np.float32)
        # As many as fit the cache of a core.
        n_batch = max(1, 2**18 // (self.rows.shape[1] * content.shape[1]))
        for batch in gen_batches(len(content), n_batch):
            part = queries.take(batch)
            distance[batch] = self._between(part.features(), content[batch])
        distance[content < 0] = np.inf
        distance[(content == queries.own[:, None]) & (content >= 0)] = 0.0
        return distance

    def _between(self, X: FloatArray, content: IntArray) -> FloatArray:
        gap = self.rows[content] / self.length[content][:, :, None]
        gap -= (X / self._lengths(X)[:, None])[:, None]
        half = np.einsum("ijk,ijk->ij", gap, gap) / 2
        if self.metric == "cosine":
            # A row of zeros has no direction: it is at distance 1, not 1/2, from unit rows.
            half += (self.is_zero[content] == X.any(axis=1, keepdims=True)) / 2
        return self._finish(half)

    def to_all(self, X: FloatArray) -> FloatArray:
        """Measure the distance of rows to all searched ones, shape (n_rows, n_contents)."""
        half = np.empty((len(X), len(self.rows)))
        placed = self.place(X)
        square = np.einsum("ij,ij->i", placed, placed)[:, None]
        for batch in gen_batches(len(self.rows), 4096):
            rows = self.place(self.rows[batch])
            half[:, batch] = -placed @ rows.T
            if self.metric == "cosine":
                half[:, batch] += 1
            else:
                half[:, batch] += (square + np.einsum("ij,ij->i", rows, rows)) / 2
        scale = 1.0 if self.metric == "cosine" else self.scale**2
        return self._finish(np.maximum(half, 0) * scale)


def _with_own(content: IntArray, own: IntArray) -> IntArray:
    """Put a query's own content first, which rounding or an index may have missed."""
    others = np.where(content == own[:, None], -1, content)
    return np.column_stack([own, others])


class _Exact:
    """Candidates by comparing each query with each content, in blocks of bounded size."""

    def __init__(self, voters: _Voters, geometry: _Geometry, device: str):
        self.voters, self.geometry, self.device = voters, geometry, device
        self.n_candidates = min(voters.k + 1 + _SPARE, len(voters.codes))

    def __call__(self, queries: _Queries) -> _Candidates:
        """Find the candidates of each query."""
        import torch

        n, n_contents = self.n_candidates, len(self.voters.codes)
        best = torch.full((len(queries.row), n), -torch.inf, device=self.device)
        content = torch.full((len(queries.row), n), -1, device=self.device)
        with _full_precision():
            for columns in gen_batches(n_contents, _N_COLUMNS):
                self._merge(queries, columns, best, content)
        found = content.cpu().numpy()
        found[np.isneginf(scores := best.cpu().numpy())] = -1
        complete = np.full(len(found), np.inf)
        if n < n_contents:
            for batch in gen_batches(len(found), 1024):
                X = queries.take(batch).features()
                complete[batch] = self.geometry.at_least(X, scores[batch, -1].astype(np.float64))
        return _Candidates(_with_own(found, queries.own), complete)

    def _merge(self, queries: _Queries, columns: slice, best, content) -> None:
        """Take the best of some columns among the best of the columns before, in place."""
        import torch

        rows = self._to_device(self.geometry.placed_rows(columns))
        offset = -rows.square().sum(dim=1) / 2 * (self.geometry.metric != "cosine")
        block = _block_rows(4 * len(rows))
        room = torch.empty((min(block, len(best)), len(rows)), device=self.device)
        for batch in gen_batches(len(best), block):
            part = queries.take(batch)
            placed = self._to_device(self.geometry.place(part.features()).astype(np.float32))
            scores = torch.addmm(offset, placed, rows.T, out=room[: len(placed)])
            owner, barred = self.voters.barred(part.session, columns)
            scores[self._to_device(owner), self._to_device(barred)] = -torch.inf
            top, place = scores.topk(min(best.shape[1], len(rows)), dim=1)
            top = torch.cat([best[batch], top], dim=1)
            place = torch.cat([content[batch], place + columns.start], dim=1)
            best[batch], order = top.topk(best.shape[1], dim=1)
            content[batch] = place.gather(1, order)

    def _to_device(self, array: np.ndarray):
        import torch

        return torch.from_numpy(array).to(self.device)


class _Approximate:
    """Candidates from an inverted-file index of faiss.

    Contents come in the order of their hashes, so that the order of the rows decides nothing.

    Parameters
    ----------
    geometry : _Geometry
        What is searched.
    seed : int
        Seeds the clustering.
    """

    def __init__(self, geometry: _Geometry, seed: int):
        faiss = _import_faiss()
        self.geometry = geometry
        placed = geometry.placed_rows()
        n_rows, n_features = placed.shape
        n_lists = max(1, min(int(4 * np.sqrt(n_rows)), n_rows // 8))
        self.index = faiss.IndexIVFFlat(faiss.IndexFlatL2(n_features), n_features, n_lists)
        self.index.nprobe = min(_N_PROBES, n_lists)
        # Few steps on few rows: the lists need not be good, only short.
        clustering = self.index.cp
        clustering.seed, clustering.niter = seed, 5
        clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, 16
        self.index.train(placed)
        self.index.add(placed)

    def widen(self) -> bool:
        """Look at twice as many lists of the index from now on; False if it were all already."""
        before = self.index.nprobe
        self.index.nprobe = min(2 * before, self.index.nlist)
        return self.index.nprobe > before

    def __call__(self, queries: _Queries, n: int) -> _Candidates:
        """Find n candidates of each query, its own content first."""
        n_queries, n = len(queries.row), min(n, len(self.geometry.rows))
        content = np.empty((n_queries, n), dtype=np.int64)
        for batch in gen_batches(n_queries, 16384):
            placed = self.geometry.place(queries.take(batch).features()).astype(np.float32)
            content[batch] = self.index.search(placed, n)[1]
        return _Candidates(_with_own(content, queries.own), np.full(n_queries, np.inf))


def _is_fast(X, metric) -> bool:
    """Tell whether single precision may look for candidates."""
    return not sparse.issparse(X) and isinstance(metric, str) and metric in _FAST_METRICS


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep torch from multiplying in less than single precision, as a user may have allowed."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _import_faiss():
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "algorithm='approximate' needs faiss; install it with "
            "`pip install \"skpref[approximate]\"`, or pass algorithm='exact'."
        ) from error
    return faiss


def _block_rows(row_bytes: int) -> int:
    """Give the number of rows that a quarter of scikit-learn's `working_memory` holds."""
    return int(np.clip(get_config()["working_memory"] * 2**20 / 4 // row_bytes, 1, 1024))


class _Votes(NamedTuple):
    """The k voters of each row, shape (n_rows, k), and their distances, infinite for none."""

    voter: IntArray
    distance: FloatArray

    @classmethod
    def none(cls, n_rows: int, k: int) -> "_Votes":
        """Make room for the voters of some rows."""
        return cls(np.zeros((n_rows, k), dtype=np.int64), np.full((n_rows, k), np.inf))

    def put(self, which, votes: "_Votes") -> None:
        """Fill in the voters of some rows."""
        self.voter[which], self.distance[which] = votes


def _elect(voters: _Voters, content: IntArray, distance: FloatArray, session: IntArray) -> _Votes:
    """Choose the k nearest voters of each row among those with the contents found."""
    c = np.where(np.isfinite(distance), content, -1).ravel()
    counts = np.where(c < 0, 0, voters.start[c + 1] - voters.start[c])
    entry, place = _ragged(voters.start[c], counts)
    voter, row = voters.row[place], entry // content.shape[1]
    may = voters.session[voter] != session[row]
    voter, row, d = voter[may], row[may], distance.ravel()[entry[may]]
    order = np.lexsort((voter, d, row))
    voter, row, d = voter[order], row[order], d[order]
    rank = _rank_in_runs(row)
    first = rank < voters.k
    votes = _Votes.none(len(content), voters.k)
    votes.put((row[first], rank[first]), _Votes(voter[first], d[first]))
    return votes


def _elect_from_all(voters: _Voters, distances, rows: _Queries) -> _Votes:
    """Choose the k nearest voters of each row among all, by double-precision distances."""
    votes = _Votes.none(len(rows.row), voters.k)
    # Next to the distances, a block needs about three arrays of their size.
    for batch in gen_batches(len(rows.row), _block_rows(32 * len(voters.content))):
        part = rows.take(batch)
        to_content = distances(part.features())
        has_own = np.flatnonzero(part.own >= 0)
        to_content[has_own, part.own[has_own]] = 0.0
        to_content[np.isnan(to_content)] = np.inf
        np.minimum(to_content, _SINGLE.max, out=to_content)
        to_voter = to_content.astype(np.float32)[:, voters.content]
        to_voter[voters.session == part.session[:, None]] = np.inf
        votes.put(batch, _Votes(*_nearest(to_voter, voters.k)))
    return votes


class _Search:
    """Finds voters: among candidates where that leaves no doubt, else among all.

    Parameters
    ----------
    voters : _Voters
        Who may vote.
    metric : str or callable
        Distance.
    """

    def __init__(self, voters: _Voters, metric):
        self.voters, self.metric = voters, metric
        self.geometry: Any = None
        if _is_fast(voters.rows, metric):
            self.geometry = _Geometry(voters.rows, metric)
        self.index: _Approximate | None = None

    def finders(self, device: str) -> list:
        """List the ways to find candidates, the quickest first."""
        if self.geometry is None:
            return []
        from skpref._net import resolve_device

        ways: list = [_Exact(self.voters, self.geometry, resolve_device(device))]
        if self.index is not None:
            # Those of the row's own session do not count, so that more are needed.
            n = self.voters.k + 1 + min(32, self.voters.largest_session())
            ways[:0] = [partial(self.index, n=n)]
            if self.voters.grouped:
                ways[1:1] = [partial(self.index, n=4 * n)]
        return ways

    def votes(self, rows: _Queries, same: IntArray, finders: list) -> _Votes:
        """Find the voters of each row; rows with the same number are looked for once."""
        votes = _Votes.none(len(same), self.voters.k)
        open_rows = np.arange(len(same))
        for find in finders:
            if not len(open_rows):
                break
            _, first, query = np.unique(same[open_rows], return_index=True, return_inverse=True)
            queries = rows.take(open_rows[first])
            candidates = find(queries)
            distance = self.geometry.between(queries, candidates.content)
            settled = np.empty(len(open_rows), dtype=bool)
            # Each of a row's candidates may stand for 2 k voters.
            n_batch = max(1, 2**22 // (candidates.content.shape[1] * 2 * self.voters.k))
            for batch in gen_batches(len(open_rows), min(16384, n_batch)):
                which, q = open_rows[batch], query[batch]
                part = _elect(self.voters, candidates.content[q], distance[q], rows.session[which])
                votes.put(which, part)
                settled[batch] = self._is_settled(
                    part.distance, rows.session[which], candidates.complete[q]
                )
            open_rows = open_rows[~settled]
        if len(open_rows):
            votes.put(open_rows, self._among_all(rows.take(open_rows)))
        return votes

    def _is_settled(self, distance: FloatArray, session: IntArray, complete: FloatArray):
        """Tell which rows have all the voters that they can have, and no one is nearer."""
        n_found = np.isfinite(distance).sum(axis=1)
        enough = n_found >= np.minimum(self.voters.k, self.voters.n_admissible(session))
        return enough & ((n_found < self.voters.k) | (distance[:, -1] < complete))

    def _among_all(self, rows: _Queries) -> _Votes:
        geometry = self.geometry
        if geometry is None:
            index = self.voters.rows.astype(np.float64)

            def distances(X):
                found = pairwise_distances(X.astype(np.float64), index, metric=self.metric)
                if self.metric == "cosine":
                    found[found < _SINGLE.eps**2] = 0.0
                return found

            return _elect_from_all(self.voters, distances, rows)
        votes = _elect_from_all(self.voters, geometry.to_all, rows)
        content = np.where(np.isfinite(votes.distance), self.voters.content[votes.voter], -1)
        return _Votes(votes.voter, geometry.between(rows, content))


def _recall(found: _Votes, truth: _Votes) -> float:
    """Give the share of the true voters that were found, 1 where there is none to find."""
    wanted = np.isfinite(truth.distance)
    voter = np.where(np.isfinite(found.distance), found.voter, -1)
    hits = (voter[:, :, None] == truth.voter[:, None]).any(axis=1)
    return float(hits[wanted].mean()) if wanted.any() else 1.0


def _vote_weights(distances: FloatArray, weights) -> FloatArray:
    """Weigh the neighbours of each row to a sum of 1, or 0 where there is none."""
    admissible = np.isfinite(distances)
    if callable(weights):
        votes = np.asarray(weights(distances), dtype=np.float64)
    elif weights == "uniform":
        votes = np.ones_like(distances)
    else:
        at_zero = distances == 0
        some_zero = at_zero.any(axis=1, keepdims=True)
        votes = np.where(some_zero, at_zero, 1 / np.where(at_zero, 1.0, distances))
    votes = np.where(admissible, votes, 0.0)
    if votes.shape != distances.shape or not (np.isfinite(votes) & (votes >= 0)).all():
        raise ValueError(
            f"weights={weights!r} must give a finite non-negative weight for each distance."
        )
    total = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, total, out=np.zeros_like(votes), where=total > 0)


class KNNLabelSmoother(TransformerMixin, BaseEstimator):
    """Smooth labels over the nearest neighbours in feature space.

    The label distribution of each fitted row becomes
    ``(1 - alpha) * own + alpha * neighbors``, where `neighbors` is the weighted mean over the
    nearest rows with a known label, the row itself left out. A row without a label, and a new
    row, takes `neighbors` alone.

    Parameters
    ----------
    n_neighbors : int, default=10
        Number of neighbours. Where fewer are available, all of them.
    alpha : float, default=0.25
        Share of the neighbours in the label of a row whose own label is known, from 0 (labels
        stay as they are) to 1.
    weights : {"uniform", "distance"} or callable, default="uniform"
        How neighbours are weighed: equally, or by the inverse of their distance, in which case
        neighbours at distance zero, where there are any, share all the weight. A callable takes
        an array of distances (infinite for places left empty) and gives an array of
        non-negative weights of the same shape.
    metric : str or callable, default="cosine"
        Distance, any that :func:`sklearn.metrics.pairwise_distances` takes without further
        parameters. By cosine a row of zeros is at distance 1 from every other row.
    n_iter : int, default=1
        Number of rounds. In each round the neighbours vote with their labels as smoothed by the
        round before, while `own` stays the label given. Only rows whose label was given vote.
    algorithm : {"auto", "exact", "approximate"}, default="auto"
        How neighbours are found: by comparing each row with each known one, or in an
        inverted-file index of faiss (``pip install "skpref[approximate]"``), which takes dense
        rows and the metrics "cosine", "euclidean", "l2" and "sqeuclidean". "auto" is exact up to
        30,000 different rows with a label, on CUDA, on macOS, and wherever the index cannot be
        used, and approximate from there on.
    exclude_same_group : bool, default=False
        Whether neighbours come from other sessions only. Needs `groups` in `fit` and in
        `transform`.
    device : str, default="auto"
        Where rows are compared in the exact search: "cpu", "cuda", "cuda:N", or "auto" for CUDA
        where there is one. Sparse rows and metrics other than the four above are compared on the
        CPU by scikit-learn whatever the device, and so is an approximate index searched.
    random_state : int, RandomState instance or None, default=None
        Seeds the approximate index and draws the rows that `recall_` is measured on. An exact
        search uses none of it.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes in the order of the columns: the labels that occur in hard `y`, or 0 to
        `n_classes` - 1 for soft `y`.
    class_prior_ : ndarray of shape (n_classes,)
        Mean of the known labels. The label of a row that has neither a label nor a neighbour.
    label_distributions_ : ndarray of shape (n_samples, n_classes)
        Smoothed labels of the fitted rows, what `fit_transform` gives.
    algorithm_ : {"exact", "approximate"}
        How neighbours were found.
    recall_ : float
        Share of their exact neighbours that the approximate search found for up to 1,000 fitted
        rows drawn at random; 1.0 for an exact search.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`. Defined only when `X` has feature names that are
        all strings.

    See Also
    --------
    LLMScoreCalibrator : Makes soft labels of raw LLM scores.
    IntraSessionPairSampler : Compares the smoothed labels within sessions.
    sklearn.semi_supervised.LabelSpreading : Smooths hard labels over a graph until it converges.

    Notes
    -----
    ``transform`` on the training rows gives what ``fit_transform`` gave: a row that holds the
    same numbers as a fitted row is taken to be that row, and does not vote for itself. Where
    several fitted rows hold the same numbers it is taken to be the first. With
    `exclude_same_group` the session must be the same, too.

    Of neighbours at the same distance, the ones that come first in the fitted data are taken.
    Distances are compared in single precision; rows that hold the same numbers are at distance
    zero.

    The exact search multiplies rows in single precision, in blocks whose size scikit-learn's
    `working_memory` setting bounds, and keeps a few more candidates than neighbours. Their
    distances are computed again in double precision. Where rounding could hide a neighbour from
    the candidates, the row is compared with all others in double precision. So the labels do not
    depend on the size of a block, the order of the rows, the device or how many rows are passed.

    The approximate search compares a row with the contents of the clusters that are nearest to
    it, in more and more clusters until it finds 98% of the exact neighbours of the sample that
    `recall_` is measured on. A row for which it finds too few neighbours of other sessions is
    searched exactly.

    Examples
    --------
    >>> from skpref import KNNLabelSmoother
    >>> X = [[1.0, 0.0], [0.9, 0.1], [0.8, 0.1], [0.0, 1.0]]
    >>> y = [1, 0, 1, -1]  # the last one is unknown
    >>> smoother = KNNLabelSmoother(n_neighbors=2, alpha=0.5)
    >>> smoother.fit_transform(X, y)
    array([[0.25, 0.75],
           [0.5 , 0.5 ],
           [0.25, 0.75],
           [0.5 , 0.5 ]])
    >>> smoother.transform([[1.0, 0.1]])
    array([[0.5, 0.5]])
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, 1, closed="both")],
        "weights": [StrOptions({"uniform", "distance"}), callable],
        "metric": [StrOptions(_METRICS), callable],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "algorithm": [StrOptions({"auto", "exact", "approximate"})],
        "exclude_same_group": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
    }

    __metadata_request__fit: ClassVar[dict] = {"groups": True}
    __metadata_request__transform: ClassVar[dict] = {"groups": True}

    def __init__(
        self,
        n_neighbors=10,
        *,
        alpha=0.25,
        weights="uniform",
        metric="cosine",
        n_iter=1,
        algorithm="auto",
        exclude_same_group=False,
        device="auto",
        random_state=None,
    ):
        self.n_neighbors = n_neighbors
        self.alpha = alpha
        self.weights = weights
        self.metric = metric
        self.n_iter = n_iter
        self.algorithm = algorithm
        self.exclude_same_group = exclude_same_group
        self.device = device
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None):
        """Smooth the labels of the rows and keep them for new rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances, such as embeddings. Dense for an approximate search.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Hard labels, -1 (numbers) or None/NaN (objects, strings) where unknown; or soft
            labels, rows that sum to 1 or are all NaN where unknown.
        groups : array-like of shape (n_samples,), default=None
            Session of each utterance. Required with `exclude_same_group`, else not used.

        Returns
        -------
        KNNLabelSmoother
            The fitted smoother.

        Raises
        ------
        ValueError
            If no row has a label, `exclude_same_group` lacks `groups`, the approximate search
            does not take the metric or sparse `X`, or the machine has no such `device`.
        ImportError
            If `algorithm` is "approximate" and faiss is not installed.
        """
        X = self._check_features(X, y if y is None else "no_validation", reset=True)
        self.classes_, own = _label_distributions(y)
        check_consistent_length(X, own)
        known = ~np.isnan(own).all(axis=1)
        if not known.any():
            raise ValueError("y has no known label; label at least one row.")
        sessions = self._fit_sessions(groups, len(own))
        contents = self._fit_contents(X, sessions)
        self.class_prior_ = own[known].mean(axis=0)
        if not self.exclude_same_group:
            # A row gets no vote of its own session: of itself only.
            sessions = np.where(known, np.cumsum(known) - 1, -1)
        self._fit_search(X, contents, sessions, known)
        graph = self._vote_graph(X, contents, sessions)
        self.label_distributions_ = self._smooth(own, known, graph).astype(X.dtype, copy=False)
        return self

    def fit_transform(self, X, y, groups=None):
        """Smooth the labels of the rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances, such as embeddings.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels as in `fit`.
        groups : array-like of shape (n_samples,), default=None
            Session of each utterance. Required with `exclude_same_group`, else not used.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Smoothed labels, each row a distribution.
        """
        return self.fit(X, y, groups).label_distributions_.copy()

    def transform(self, X, groups=None):
        """Give the mean label distribution of the neighbours of new rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances. A row that holds the same numbers as a fitted row gets
            what `fit_transform` gave to that.
        groups : array-like of shape (n_samples,), default=None
            Session of each utterance, as the ids that `fit` saw or new ones. Required with
            `exclude_same_group`, else not used.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Label distributions.
        """
        check_is_fitted(self)
        X = self._check_features(X, reset=False)
        sessions = self._find_sessions(groups, X.shape[0])
        contents = self._find_contents(X)
        fitted_row = self._find_rows(contents, sessions)
        labels = self.label_distributions_[fitted_row].astype(X.dtype)
        if (new := fitted_row < 0).any():
            if not self.exclude_same_group:
                sessions = np.full_like(sessions, -1)
            graph = self._vote_graph(X[new], contents[new], sessions[new])
            means = graph @ self._votes
            means[graph.sum(axis=1) == 0] = self.class_prior_
            labels[new] = means
        return labels

    def get_feature_names_out(self, input_features=None):
        """Name the columns of the output, as in "knnlabelsmoother_positive".

        Parameters
        ----------
        input_features : array-like of str, default=None
            Only checked against the features seen in `fit`.

        Returns
        -------
        ndarray of str, shape (n_classes,)
            The class name of the estimator in lower case and the class label.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        prefix = type(self).__name__.lower()
        return np.asarray([f"{prefix}_{label}" for label in self.classes_], dtype=object)

    def _check_features(self, X, y="no_validation", *, reset):
        """Check X; gives float32 or float64, dense or CSR."""
        X = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset
        )
        if sparse.issparse(X) and max(X.nnz, X.shape[1]) <= np.iinfo(np.int32).max:
            # Some metrics refuse 64-bit indices.
            indices, indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
            return sparse.csr_array((X.data, indices, indptr), shape=X.shape)
        return X

    def _fit_sessions(self, groups, n_samples: int) -> IntArray:
        """Remember the session ids by value; gives the code of each row's session."""
        self._sessions: dict = {}
        codes = self._check_sessions(groups, n_samples)
        if self.exclude_same_group:
            self._sessions = dict(zip(_as_1d_objects(groups).tolist(), codes.tolist(), strict=True))
        return codes

    def _find_sessions(self, groups, n_samples: int) -> IntArray:
        """Give the codes of fitted sessions, and -1 to new ones."""
        codes = self._check_sessions(groups, n_samples)
        if self.exclude_same_group:
            return _codes(_as_1d_objects(groups).tolist(), self._sessions)
        return codes

    def _check_sessions(self, groups, n_samples: int) -> IntArray:
        """Check session ids; one session, 0, where sessions do not matter."""
        codes = None if groups is None else check_groups(groups, n_samples)
        if not self.exclude_same_group:
            return np.zeros(n_samples, dtype=np.int64)
        if codes is None:
            raise ValueError(
                "exclude_same_group=True needs groups, the session of each row, in fit and in "
                "transform. Pass groups=session_ids; a Pipeline hands it on only under "
                "sklearn.set_config(enable_metadata_routing=True)."
            )
        return codes

    def _fit_contents(self, X, sessions: IntArray) -> IntArray:
        """Remember the rows by content and session; gives the code of each row's content."""
        self._contents, contents = np.unique(_row_keys(X), return_inverse=True)
        self._n_sessions = sessions.max() + 1
        self._rows, self._first_rows = np.unique(
            contents * self._n_sessions + sessions, return_index=True
        )
        return contents

    def _find_contents(self, X) -> IntArray:
        """Give the code of each row's content, codes of their own to contents not fitted."""
        keys, inverse = np.unique(_row_keys(X), return_inverse=True)
        contents = _find_sorted(keys, self._contents)
        new = contents < 0
        contents[new] = len(self._contents) + np.arange(new.sum())
        return contents[inverse]

    def _find_rows(self, contents: IntArray, sessions: IntArray) -> IntArray:
        """Give the first fitted row with the same content and session, -1 for none."""
        pairs = np.where(sessions < 0, -1, contents * self._n_sessions + sessions)
        place = _find_sorted(pairs, self._rows)
        return np.where(place < 0, -1, self._first_rows[place])

    @np.errstate(over="ignore", invalid="ignore")
    def _fit_search(self, X, contents: IntArray, sessions: IntArray, known: BoolArray) -> None:
        """Choose how to search, and measure how many neighbours that finds."""
        voters = _Voters(
            X,
            np.flatnonzero(known),
            contents[known],
            sessions[known],
            self.n_neighbors,
            grouped=self.exclude_same_group,
        )
        self._search = _Search(voters, self.metric)
        self.algorithm_, self.recall_ = self._choose_algorithm(X, len(voters.codes)), 1.0
        if self.algorithm_ == "exact":
            return
        rng = check_random_state(self.random_state)
        self._search.index = _Approximate(self._search.geometry, rng.randint(2**31 - 1))
        some = rng.choice(len(sessions), min(_N_SAMPLED, len(sessions)), replace=False)
        rows = self._queries(X[some], contents[some], sessions[some])
        *quick, exact = self._search.finders(self.device)
        truth = self._search.votes(*rows, [exact])
        self.recall_ = _recall(self._search.votes(*rows, [*quick, exact]), truth)
        while self.recall_ < _MIN_RECALL and self._search.index.widen():
            self.recall_ = _recall(self._search.votes(*rows, [*quick, exact]), truth)

    def _choose_algorithm(self, X, n_contents: int) -> str:
        """Say which algorithm is used, after checking that it can be."""
        can = _is_fast(X, self.metric)
        if self.algorithm == "approximate":
            if not can:
                kind = "sparse" if sparse.issparse(X) else "dense"
                raise ValueError(
                    f"algorithm='approximate' cannot search {kind} X by metric={self.metric!r}; "
                    f"pass dense X and one of {list(_FAST_METRICS)}, or algorithm='exact'."
                )
            _import_faiss()
            return "approximate"
        if self.algorithm == "exact" or not can or n_contents <= _MAX_AUTO_EXACT:
            return "exact"
        # Two OpenMP runtimes in one process, torch's and faiss's, crash on macOS.
        if sys.platform == "darwin" or not importlib.util.find_spec("faiss"):
            return "exact"
        from skpref._net import resolve_device

        return "approximate" if resolve_device(self.device) == "cpu" else "exact"

    def _queries(self, X, contents: IntArray, sessions: IntArray) -> tuple[_Queries, IntArray]:
        """Make queries of rows; gives them and equal numbers to those that are one query."""
        own = _find_sorted(contents, self._search.voters.codes)
        rows = _Queries(X, np.arange(X.shape[0]), own, sessions)
        if not self.exclude_same_group:
            return rows, contents
        return rows, contents * (self._n_sessions + 1) + sessions + 1

    @np.errstate(over="ignore", invalid="ignore")
    def _vote_graph(self, X, contents: IntArray, sessions: IntArray):
        """Weigh the known rows that vote for each row of X, as a sparse matrix."""
        rows = self._queries(X, contents, sessions)
        votes = self._search.votes(*rows, self._search.finders(self.device))
        # In the order of the rows, so that sums of votes do not depend on how they were found.
        order = np.argsort(votes.voter, axis=1, kind="stable")
        voter = np.take_along_axis(votes.voter, order, axis=1)
        distance = np.take_along_axis(votes.distance, order, axis=1)
        weights = _vote_weights(distance, self.weights)
        bounds = np.arange(0, weights.size + 1, weights.shape[1])
        shape = (len(weights), len(self._search.voters.content))
        return sparse.csr_array((weights.ravel(), voter.ravel(), bounds), shape=shape)

    def _smooth(self, own: FloatArray, known: BoolArray, graph) -> FloatArray:
        """Run the rounds; keeps the labels that voted in the last one."""
        alone = graph.sum(axis=1) == 0
        mixed = known & ~alone
        smoothed = np.where(known[:, None], own, self.class_prior_)
        for _ in range(self.n_iter):
            self._votes = smoothed[known]
            means = graph @ self._votes
            smoothed[~alone] = means[~alone]
            smoothed[mixed] = (1 - self.alpha) * own[mixed] + self.alpha * means[mixed]
        return smoothed

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.algorithm != "approximate"
        tags.target_tags.required = True
        tags.target_tags.two_d_labels = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
