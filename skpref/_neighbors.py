"""Search for the labelled rows that vote on the soft label of a row."""

import hashlib
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from scipy import sparse
from sklearn import get_config
from sklearn.metrics import pairwise_distances
from sklearn.utils import gen_batches

from skpref._device import resolve_device
from skpref._optional import import_optional
from skpref._typing import FloatArray, IntArray

# Metrics that order rows as the Euclidean distance does (for cosine after scaling to unit length).
FAST_METRICS = ("cosine", "euclidean", "l2", "sqeuclidean")

# Number of candidates, beyond the k nearest in single precision, whose distance is also computed in
# double precision.
_SPARE = 16

# The index searches this many lists at first, and twice as many until it finds this share of the
# neighbours.
_N_PROBES, _MIN_RECALL = 8, 0.98

_SINGLE = np.finfo(np.float32)

# Rows that are so much larger than the voters are cut: to let their squares be finite, and to let
# them be finite in single precision.
_LARGEST, _FARTHEST = 1e150, 1e30
# Powers of 2 up to this exponent are factors, which is far quicker than `ldexp`.
_ORDINARY = 1000

# Powers of the scale of the features by which distances grow; 0 if they do not depend on it.
_DEGREES = {
    **dict.fromkeys(("euclidean", "l2", "manhattan", "l1", "cityblock"), 1),
    **dict.fromkeys(("chebyshev", "minkowski", "nan_euclidean"), 1),
    **dict.fromkeys(("correlation", "canberra", "braycurtis"), 0),
    "sqeuclidean": 2,
}


def row_keys(X) -> np.ndarray:
    """Hash the numbers in each row; dense and sparse rows with the same numbers get the same hash.

    Parameters
    ----------
    X : {ndarray, CSR array} of shape (n_samples, n_features)
        Features.

    Returns
    -------
    ndarray of void, shape (n_samples,)
        Hashes of 128 bits.
    """
    digests = []
    for batch in gen_batches(X.shape[0], 1024):
        rows = sparse.csr_array(X[batch], dtype=np.float64)
        rows.sum_duplicates()
        rows.eliminate_zeros()
        columns = rows.indices.astype(np.int64)
        for start, stop in pairwise(rows.indptr):
            digest = hashlib.blake2b(columns[start:stop], digest_size=16)
            digest.update(rows.data[start:stop])
            digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), dtype="V16")


def _find_sorted(values: np.ndarray, table: np.ndarray) -> IntArray:
    """Return the position of each value in a sorted table of distinct values, -1 if missing."""
    place = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return np.where(table[place] == values, place, -1)


def _block_rows(row_bytes: int) -> int:
    """Return the number of rows that fit into a quarter of scikit-learn's `working_memory`."""
    return int(np.clip(get_config()["working_memory"] * 2**20 / 4 // row_bytes, 1, 1024))


def _rank(codes: IntArray) -> IntArray:
    """Count, for each entry, the earlier entries with the same code."""
    order = np.argsort(codes, kind="stable")
    ranks = np.empty(len(codes), dtype=np.int64)
    ranks[order] = np.arange(len(codes)) - np.searchsorted(codes[order], codes[order])
    return ranks


def _members(content: IntArray, session: IntArray, k: int) -> IntArray:
    """List the first rows of each content in an array (n_contents, n) padded with -1.

    At most k rows per session and 2 k per content are listed. Since at most k of them belong to
    the session of a given row, k others remain if there are as many.
    """
    row = np.flatnonzero(_rank(content * (session.max() + 1) + session) < k)
    rank = _rank(content[row])
    row, rank = row[rank < 2 * k], rank[rank < 2 * k]
    members = np.full((content.max() + 1, rank.max() + 1), -1)
    members[content[row], rank] = row
    return members


def _nearest(distance: FloatArray, voter: IntArray, k: int) -> tuple[IntArray, FloatArray]:
    """Choose the first k entries of each row, ordered by distance, then by voter."""
    # Non-negative floats have the same order as their bits read as integers.
    keys = distance.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= voter.astype(np.uint32)
    keys = np.sort(np.partition(keys, k - 1, axis=1)[:, :k], axis=1)
    distance = (keys >> np.uint64(32)).astype(np.uint32).view(np.float32).astype(np.float64)
    voter = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return np.where(np.isinf(distance), 0, voter), distance


class NeighborSearch:
    """Find the k voters nearest to each row; of equally near voters, the first ones.

    A content is a distinct row of features. Voters with the same content form a single candidate,
    so that many copies of a common utterance do not crowd out other candidates. The contents are
    sorted by their hashes, so that the candidates do not depend on the order of the rows.

    Parameters
    ----------
    X : {ndarray, CSR array} of shape (n_voters, n_features)
        Features of the voters.
    keys : ndarray of void, shape (n_voters,)
        Hashes of the rows of `X` by `row_keys`.
    session : ndarray of int, shape (n_voters,)
        Session of each voter, from 0. Voters do not vote on rows of their own session.
    k : int
        Largest number of votes per row.
    metric : str or callable
        Distance.
    """

    def __init__(self, X, keys, session, k, metric):
        self.keys, first, self.content = np.unique(keys, return_index=True, return_inverse=True)
        self.rows, self.session, self.metric = X[first], session, metric
        self.k = min(k, len(session))
        self.members = _members(self.content, session, self.k)
        self.largest_session = int(np.unique(session, return_counts=True)[1].max())
        # The session of each content that occurs in a single session, -2 for the others.
        sessions = session[self.members]
        same = (sessions == sessions[:, :1]) | (self.members < 0)
        self.only_session = np.where(same.all(axis=1), sessions[:, 0], -2)
        self.index = None
        dense = not sparse.issparse(X)
        self.fast = dense and isinstance(metric, str) and metric in FAST_METRICS
        self.degree = _DEGREES.get(metric) if isinstance(metric, str) else None
        self.exponent = 0 if self.degree is None else int(_exponents(self.rows).max())
        if self.fast:
            # Without centring and scaling, rows far from the origin would lose digits in single
            # precision.
            sums = [self._rescale(self.rows[b]).sum(axis=0) for b in self._batches()]
            self.center = np.sum(sums, axis=0) / len(self.rows)
            ends = np.stack([self.rows.max(axis=0), self.rows.min(axis=0)])
            self.scale = np.ptp(self._rescale(ends), axis=0).max() or 1.0

    def find(self, X, keys, session, device) -> tuple[IntArray, FloatArray]:
        """Find the voters of each row.

        Parameters
        ----------
        X : {ndarray, CSR array} of shape (n_samples, n_features)
            Features.
        keys : ndarray of void, shape (n_samples,)
            Hashes of the rows of `X` by `row_keys`.
        session : ndarray of int, shape (n_samples,)
            Session of each row, negative for a session without voters.
        device : str
            Device on which rows are compared, as in the estimators.

        Returns
        -------
        voter : ndarray of int, shape (n_samples, k)
            The voters, nearest first.
        distance : ndarray of shape (n_samples, k)
            Their distances, infinite if a row has fewer than k voters.
        """
        voter, distance = self._find(X, keys, session, device)
        if self.exponent:
            there = np.isfinite(distance) & (distance > 0)
            with np.errstate(over="ignore"):
                scaled = np.ldexp(distance[there], self.degree * self.exponent)
            # Neither zero, which is the distance of an equal row, nor infinite, which is no voter.
            distance[there] = scaled.clip(1e-300, 1e308)
        return voter, distance

    def _find(self, X, keys, session, device) -> tuple[IntArray, FloatArray]:
        """Find the voters of each row, and their distances after `_rescale`."""
        same = _find_sorted(keys, self.keys)
        if not self.fast or sparse.issparse(X):
            return self._compare_all(X, same, session)
        if self.index is None:
            return self._elect(X, same, session, self._exact_candidates(X, session, device))
        voter, distance = self._elect(X, same, session, self._index_candidates(X))
        short = np.flatnonzero(np.isinf(distance[:, -1]))
        if len(short):
            X, same, session = X[short], same[short], session[short]
            candidates = self._exact_candidates(X, session, device)
            voter[short], distance[short] = self._elect(X, same, session, candidates)
        return voter, distance

    def build_index(self, X, keys, session, device, seed) -> float:
        """Build an index for `find` that reaches the required recall on a sample of rows.

        Parameters
        ----------
        X, keys, session, device
            Sample of rows, as in `find`.
        seed : int
            Seed of the clustering.

        Returns
        -------
        float
            Recall: the share of the exact neighbours of the sample that the index finds.

        Raises
        ------
        ImportError
            If faiss is not installed.
        """
        purpose = "algorithm='approximate' (unlike 'exact')"
        faiss = import_optional("faiss", purpose, "approximate")
        truth = self.find(X, keys, session, device)
        placed = self._placed_rows()
        n_rows, n_features = placed.shape
        n_lists = max(1, min(int(4 * np.sqrt(n_rows)), n_rows // 8))
        self.index = faiss.IndexIVFFlat(faiss.IndexFlatL2(n_features), n_features, n_lists)
        # A few steps on a few rows suffice: the lists need to be short, not well clustered.
        clustering = self.index.cp
        clustering.seed, clustering.niter = seed, 5
        clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, 16
        self.index.train(placed)
        self.index.add(placed)
        self.index.nprobe = min(_N_PROBES, n_lists)
        while True:
            recall = _recall(self.find(X, keys, session, device), truth)
            if recall >= _MIN_RECALL or self.index.nprobe == n_lists:
                return recall
            self.index.nprobe = min(2 * self.index.nprobe, n_lists)

    def _place(self, X) -> FloatArray:
        """Transform dense rows to the space in which they are compared, in single precision."""
        X = self._rescale(X)
        if self.metric == "cosine":
            return (X / _length(X)[:, None]).astype(np.float32)
        return ((X - self.center) / self.scale).clip(-_FARTHEST, _FARTHEST).astype(np.float32)

    def _rescale(self, X):
        """Divide by a power of 2, which changes no digit: no square overflows or vanishes.

        It is that of each row under the cosine metric, else that of the voters; rows that are far
        larger than the voters are cut.
        """
        if self.metric == "cosine":
            return _divide(X.astype(np.float64), _exponents(X))
        if self.degree is None:
            return X.astype(np.float64)
        return _divide(X.astype(np.float64), np.full(X.shape[:-1], self.exponent))

    def _placed_rows(self) -> FloatArray:
        return np.concatenate([self._place(self.rows[batch]) for batch in self._batches()])

    def _batches(self) -> Iterable[slice]:
        return gen_batches(len(self.rows), 4096)

    def _exact_candidates(self, X, session: IntArray, device: str) -> IntArray:
        """Find the contents nearest to each row by matrix products; pad with -1."""
        import torch

        device = resolve_device(device)
        rows = torch.from_numpy(self._placed_rows()).to(device)
        only_session = torch.from_numpy(self.only_session).to(device)
        offset = -rows.square().sum(dim=1) / 2 * (self.metric != "cosine")
        n = min(self.k + _SPARE, len(rows))
        candidates = np.empty((len(X), n), dtype=np.int64)
        block = min(_block_rows(4 * len(rows)), len(X))
        # The product is faster if each row of the output starts at a multiple of 64 bytes.
        output = torch.empty((block, -(-len(rows) // 16) * 16), device=device)[:, : len(rows)]
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            for batch in gen_batches(len(X), block):
                placed = torch.from_numpy(self._place(X[batch])).to(device)
                scores = torch.addmm(offset, placed, rows.T, out=output[: len(placed)])
                if self.largest_session > 1:  # otherwise at most one candidate is excluded
                    excluded = torch.from_numpy(session[batch]).to(device)
                    scores.masked_fill_(only_session == excluded[:, None], -torch.inf)
                best, content = scores.topk(n, dim=1)
                candidates[batch] = content.masked_fill_(best == -torch.inf, -1).cpu().numpy()
        finally:
            torch.set_float32_matmul_precision(precision)
        return candidates

    def _index_candidates(self, X) -> IntArray:
        """Find contents near each row in the index; pad with -1."""
        # Ask for more than k, because voters of the row's own session are excluded later.
        n = min(self.k + 1 + min(32, self.largest_session), len(self.rows))
        batches = gen_batches(len(X), 16384)
        return np.concatenate([self.index.search(self._place(X[b]), n)[1] for b in batches])

    def _elect(self, X, same, session, candidates) -> tuple[IntArray, FloatArray]:
        """Choose the nearest voters among those with the content of the row or of a candidate.

        `same` is the content that equals the row, -1 if no voter has it.
        """
        # Put the equal content first: the search may have missed it because of rounding, or
        # because the row is all zeros.
        others = np.where(candidates == same[:, None], -1, candidates)
        candidates = np.column_stack([same, others])
        voter = np.empty((len(X), self.k), dtype=np.int64)
        distance = np.empty((len(X), self.k))
        n_members = self.members.shape[1]
        # The candidates of about 32 rows fit into the cache of a core.
        for batch in gen_batches(len(X), 32):
            content = candidates[batch]
            members = self.members[content].reshape(len(content), -1)
            distances = self._measure(X[batch], content)
            distances[:, 0] = 0.0
            distances = distances.repeat(n_members, axis=1)
            excluded = self.session[members] == session[batch, None]
            distances[excluded | (members < 0) | (content < 0).repeat(n_members, axis=1)] = np.inf
            voter[batch], distance[batch] = _nearest(distances, members, self.k)
        return voter, distance

    def _measure(self, X, content: IntArray) -> FloatArray:
        """Compute the distance of each dense row to each of its candidate contents."""
        X, rows = self._rescale(X), self._rescale(self.rows[content])
        if self.metric == "cosine":
            lengths = _length(X)[:, None] * _length(rows)
            return self._round(1 - np.einsum("ik,ijk->ij", X, rows) / lengths)
        rows -= X[:, None]
        squares = np.einsum("ijk,ijk->ij", rows, rows)
        return self._round(squares if self.metric == "sqeuclidean" else np.sqrt(squares))

    def _compare_all(self, X, same, session) -> tuple[IntArray, FloatArray]:
        """Choose the nearest voters by scikit-learn's distances to all voters."""
        rows, voters = self._rescale(self.rows), np.arange(len(self.content))
        voter = np.empty((X.shape[0], self.k), dtype=np.int64)
        distance = np.empty((X.shape[0], self.k))
        # Besides the distances, a block needs about three arrays of the same size.
        for batch in gen_batches(X.shape[0], _block_rows(32 * len(voters))):
            distances = pairwise_distances(self._rescale(X[batch]), rows, metric=self.metric)
            has_same = np.flatnonzero(same[batch] >= 0)
            distances[has_same, same[batch][has_same]] = 0.0
            distances = self._round(distances)[:, self.content]
            distances[self.session == session[batch, None]] = np.inf
            voter[batch], distance[batch] = _nearest(distances, voters, self.k)
        return voter, distance

    def _round(self, distance: FloatArray) -> FloatArray:
        """Round to single precision, so that distances that differ only by rounding are ties."""
        if self.metric == "cosine":
            distance[distance < _SINGLE.eps**2] = 0.0
        # Adding 0.0 makes -0.0 positive. NaN becomes the largest distance.
        return (np.fmin(np.maximum(distance, 0.0), _SINGLE.max) + 0.0).astype(np.float32)


def _exponents(X) -> IntArray:
    """Return the exponent to base 2 of the largest number in each row, 0 for rows of zeros."""
    if sparse.issparse(X):
        largest = abs(X).max(axis=1).toarray().ravel()
    else:
        largest = np.maximum(X.max(axis=-1), -X.min(axis=-1))
    return np.frexp(largest.astype(np.float64))[1]


def _divide(X, exponents: IntArray):
    """Divide the rows of a float64 array or matrix, which may be changed, by powers of 2."""
    if sparse.issparse(X):
        X.data = _divide(X.data[:, None], np.repeat(exponents, np.diff(X.indptr)))[:, 0]
        return X
    with np.errstate(over="ignore"):
        if np.abs(exponents).max(initial=0) < _ORDINARY:
            X *= np.ldexp(1.0, -exponents)[..., None]
        else:
            X = np.ldexp(X, -exponents[..., None])
    return np.clip(X, -_LARGEST, _LARGEST, out=X)


def _length(X: FloatArray) -> FloatArray:
    """Return the Euclidean length of each row, 1 for rows of zeros."""
    length = np.sqrt(np.einsum("...k,...k->...", X, X))
    return np.where(length == 0, 1.0, length)


def _recall(result: tuple[IntArray, FloatArray], truth: tuple[IntArray, FloatArray]) -> float:
    """Return the share of the true voters that a search found, 1 if there are no true voters."""
    voter = np.where(np.isinf(result[1]), -1, result[0])
    hits = (truth[0][:, :, None] == voter[:, None]).any(axis=2)
    relevant = np.isfinite(truth[1])
    return float(hits[relevant].mean()) if relevant.any() else 1.0
