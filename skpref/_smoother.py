"""Soft labels smoothed over the nearest neighbours in feature space."""

import importlib.util
import sys
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.neighbors import VALID_METRICS
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from skpref._device import resolve_device
from skpref._neighbors import FAST_METRICS, NeighborSearch, _find_sorted, row_keys
from skpref._sklearn import (
    DocLinkMixin,
    Interval,
    StrOptions,
    _check_feature_names_in,
    _fit_context,
)
from skpref._typing import BoolArray, FloatArray, IntArray
from skpref._validation import _as_1d_objects, check_groups, check_labels

_SUM_TOLERANCE = 1e-6

# These need parameters of their own.
_METRICS = set(VALID_METRICS["brute"]) - {"precomputed", "seuclidean", "mahalanobis"}

# "auto" is exact up to this many distinct rows with a label.
_MAX_AUTO_EXACT = 30_000

# Rows that the recall of an approximate search is measured on.
_N_SAMPLED = 1000


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


def _row_ids(keys: np.ndarray, sessions: IntArray) -> np.ndarray:
    """Join the hash of each row's content and its session to one void scalar."""
    return np.rec.fromarrays([keys, sessions]).view("V24")


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


class KNNLabelSmoother(DocLinkMixin, TransformerMixin, BaseEstimator):
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
    `working_memory` setting bounds, and keeps 16 more candidates than neighbours. Of these it
    takes the nearest by distances in double precision, rounded to single. Where more different
    rows than that are as near as the last neighbour within the rounding of single precision, it
    is left open which are candidates: rows that differ by less than about a thousandth of their
    length, rows of zeros and ones in a few columns, or all rows seen from a row of zeros by
    cosine. Sparse rows and other metrics are compared in double precision throughout.

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
        self._sessions: dict = {}
        sessions = self._check_sessions(groups, len(own))
        if self.exclude_same_group:
            self._sessions = dict(
                zip(_as_1d_objects(groups).tolist(), sessions.tolist(), strict=True)
            )
        keys = row_keys(X)
        self._ids, self._first_rows = np.unique(_row_ids(keys, sessions), return_index=True)
        self.class_prior_ = own[known].mean(axis=0)
        if not self.exclude_same_group:
            # A row gets no vote of its own session: of itself only.
            sessions = np.arange(len(own))
        self._fit_search(X, keys, sessions, known)
        graph = self._vote_graph(X, keys, sessions)
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
        sessions = self._check_sessions(groups, X.shape[0])
        if self.exclude_same_group:
            ids = _as_1d_objects(groups).tolist()
            sessions = np.array([self._sessions.get(session, -1) for session in ids])
        keys = row_keys(X)
        place = _find_sorted(_row_ids(keys, sessions), self._ids)
        labels = self.label_distributions_[self._first_rows[place]].astype(X.dtype)
        if (new := place < 0).any():
            if not self.exclude_same_group:
                sessions = np.full_like(sessions, -1)
            graph = self._vote_graph(X[new], keys[new], sessions[new])
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

    def _fit_search(self, X, keys: np.ndarray, sessions: IntArray, known: BoolArray) -> None:
        """Choose how to search, and measure how many neighbours that finds."""
        self._search = NeighborSearch(
            X[known], keys[known], sessions[known], self.n_neighbors, self.metric
        )
        self.algorithm_, self.recall_ = self._choose_algorithm(X), 1.0
        if self.algorithm_ == "approximate":
            rng = check_random_state(self.random_state)
            seed = rng.randint(2**31 - 1)
            some = rng.choice(len(sessions), min(_N_SAMPLED, len(sessions)), replace=False)
            self.recall_ = self._search.build_index(
                X[some], keys[some], sessions[some], self.device, seed
            )

    def _choose_algorithm(self, X) -> str:
        """Say which algorithm is used, after checking that it can be."""
        if self.algorithm == "approximate" and not self._search.fast:
            kind = "sparse" if sparse.issparse(X) else "dense"
            raise ValueError(
                f"algorithm='approximate' cannot search {kind} X by metric={self.metric!r}; "
                f"pass dense X and one of {list(FAST_METRICS)}, or algorithm='exact'."
            )
        if self.algorithm != "auto":
            return self.algorithm
        # Two OpenMP runtimes in one process, torch's and faiss's, crash on macOS.
        has_faiss = sys.platform != "darwin" and importlib.util.find_spec("faiss")
        if not self._search.fast or len(self._search.keys) <= _MAX_AUTO_EXACT or not has_faiss:
            return "exact"

        return "approximate" if resolve_device(self.device) == "cpu" else "exact"

    def _vote_graph(self, X, keys: np.ndarray, sessions: IntArray):
        """Weigh the known rows that vote for each row of X, as a sparse matrix."""
        voter, distance = self._search.find(X, keys, sessions, self.device)
        weights = _vote_weights(distance, self.weights)
        bounds = np.arange(0, weights.size + 1, weights.shape[1])
        shape = (len(weights), len(self._search.session))
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
