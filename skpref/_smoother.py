"""Soft labels smoothed over the nearest neighbours in feature space."""

from collections.abc import Callable, Iterable
from hashlib import blake2b
from itertools import pairwise
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from scipy import sparse
from sklearn import get_config
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import VALID_METRICS
from sklearn.utils import check_array, gen_batches
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from skpref._sklearn import Interval, StrOptions, _check_feature_names_in, _fit_context
from skpref._typing import BoolArray, FloatArray, IntArray
from skpref._validation import _as_1d_objects, check_groups, check_labels

_SUM_TOLERANCE = 1e-6

# These need parameters of their own.
_METRICS = set(VALID_METRICS["brute"]) - {"precomputed", "seuclidean", "mahalanobis"}


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


def _row_keys(X) -> list[bytes]:
    """Digest the content of each row; dense and sparse rows with the same numbers agree."""
    keys = []
    for batch in gen_batches(X.shape[0], 1024):
        rows = sparse.csr_array(X[batch], dtype=np.float64, copy=True)
        rows.sum_duplicates()
        rows.eliminate_zeros()
        columns = rows.indices.astype(np.int64)
        keys += [
            blake2b(columns[a:b].tobytes() + rows.data[a:b].tobytes(), digest_size=16).digest()
            for a, b in pairwise(rows.indptr.tolist())
        ]
    return keys


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


def _find_neighbors(
    X, index, *, k: int, metric, correct: Callable[[FloatArray, slice], None]
) -> tuple[IntArray, FloatArray]:
    """Find the k nearest rows of the index for each row of X, in blocks of bounded memory.

    `correct` gets the distances of a slice of the rows of X, to change them in place. A row at
    an infinite distance is no neighbour, but may fill up the k.
    """

    def reduce_block(distances, start):
        np.minimum(distances, np.finfo(np.float32).max, out=distances)
        correct(distances, slice(start, start + len(distances)))
        distances[np.isnan(distances)] = np.inf
        # The last digits depend on the size of the block. Single precision makes ties of
        # distances that differ by rounding only, so that the block size decides nothing.
        return _nearest(distances.astype(np.float32), k)

    # Next to the distances, a block needs about three arrays of their size.
    blocks = pairwise_distances_chunked(
        X,
        index,
        metric=metric,
        reduce_func=reduce_block,
        working_memory=get_config()["working_memory"] / 4,
    )
    columns, distances = zip(*blocks, strict=True)
    return np.concatenate(columns), np.concatenate(distances).astype(np.float64)


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
    algorithm : {"auto", "exact"}, default="auto"
        How neighbours are found. Both are exact now; "auto" is free to choose an approximate
        index for large data once there is one.
    exclude_same_group : bool, default=False
        Whether neighbours come from other sessions only. Needs `groups` in `fit` and in
        `transform`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes in the order of the columns: the labels that occur in hard `y`, or 0 to
        `n_classes` - 1 for soft `y`.
    class_prior_ : ndarray of shape (n_classes,)
        Mean of the known labels. The label of a row that has neither a label nor a neighbour.
    label_distributions_ : ndarray of shape (n_samples, n_classes)
        Smoothed labels of the fitted rows, what `fit_transform` gives.
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

    Neighbours are found by comparing each row with each known row, in blocks whose size
    scikit-learn's `working_memory` setting bounds. Of neighbours at the same distance, the ones
    that come first in the fitted data are taken; distances are compared in single precision.

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
        "algorithm": [StrOptions({"auto", "exact"})],
        "exclude_same_group": ["boolean"],
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
    ):
        self.n_neighbors = n_neighbors
        self.alpha = alpha
        self.weights = weights
        self.metric = metric
        self.n_iter = n_iter
        self.algorithm = algorithm
        self.exclude_same_group = exclude_same_group

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, groups=None):
        """Smooth the labels of the rows and keep them for new rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances, such as embeddings.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Hard labels, -1 (numbers) or None/NaN (objects, strings) where unknown; or soft
            labels, rows that sum to 1 or are all NaN where unknown.
        groups : array-like of shape (n_samples,), default=None
            Session of each utterance. Required with `exclude_same_group`, else not used.

        Returns
        -------
        KNNLabelSmoother
            The fitted smoother.
        """
        X = self._check_features(X, y if y is None else "no_validation", reset=True)
        self.classes_, own = _label_distributions(y)
        check_consistent_length(X, own)
        known = ~np.isnan(own).all(axis=1)
        if not known.any():
            raise ValueError("y has no known label; label at least one row.")
        sessions = self._fit_sessions(groups, len(own))
        contents = self._fit_contents(X, sessions)
        self._index = X[known].astype(np.float64)
        self._index_contents, self._index_sessions = contents[known], sessions[known]
        self.class_prior_ = own[known].mean(axis=0)
        place = np.where(known, np.cumsum(known) - 1, -1)
        graph = self._vote_graph(X, contents, sessions, place)
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
        contents = _codes(_row_keys(X), self._contents)
        fitted_row = _codes(zip(contents.tolist(), sessions.tolist(), strict=True), self._rows)
        labels = self.label_distributions_[fitted_row].astype(X.dtype)
        if (new := fitted_row < 0).any():
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
        keys = _row_keys(X)
        self._contents = {key: code for code, key in enumerate(dict.fromkeys(keys))}
        contents = _codes(keys, self._contents)
        self._rows: dict = {}
        for row, key in enumerate(zip(contents.tolist(), sessions.tolist(), strict=True)):
            self._rows.setdefault(key, row)
        return contents

    def _vote_graph(self, X, contents: IntArray, sessions: IntArray, place=None):
        """Weigh the index rows that vote for each row of X, as a sparse matrix.

        `place` tells where in the index a fitted row stands, -1 where it does not.
        """

        def correct(distances, rows):
            # Rounding leaves equal rows at a distance that is not quite zero.
            distances[contents[rows, None] == self._index_contents] = 0.0
            if place is not None:
                indexed = np.flatnonzero(place[rows] >= 0)
                distances[indexed, place[rows][indexed]] = np.inf
            if self.exclude_same_group:
                distances[sessions[rows, None] == self._index_sessions] = np.inf

        k = min(self.n_neighbors, self._index.shape[0])
        columns, distances = _find_neighbors(
            X.astype(np.float64), self._index, k=k, metric=self.metric, correct=correct
        )
        votes = _vote_weights(distances, self.weights)
        bounds = np.arange(0, votes.size + 1, k)
        shape = (len(votes), self._index.shape[0])
        return sparse.csr_array((votes.ravel(), columns.ravel(), bounds), shape=shape)

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
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.target_tags.two_d_labels = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
