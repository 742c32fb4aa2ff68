"""Smooth soft labels over the nearest neighbours in feature space."""

import importlib.util
import sys
from numbers import Integral, Real
from typing import ClassVar, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.neighbors import VALID_METRICS, VALID_METRICS_SPARSE
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skpref._columns import is_table, read_numbers
from skpref._device import resolve_device
from skpref._neighbors import FAST_METRICS, NeighborSearch, _find_sorted, row_keys
from skpref._sklearn import (
    DocLinkMixin,
    Interval,
    StrOptions,
    _check_feature_names_in,
    _fit_context,
)
from skpref._state import keeps_state_on_failure
from skpref._typing import BoolArray, FloatArray, IntArray
from skpref._validation import check_labels, check_same_length, read_session_ids, refuse_masked

_SUM_TOLERANCE = 1e-6

# The metrics left out need further parameters.
_METRICS = set(VALID_METRICS["brute"]) - {"precomputed", "seuclidean", "mahalanobis"}
_SPARSE_METRICS = set(VALID_METRICS_SPARSE["brute"]) & _METRICS

# "auto" uses the exact search up to this many distinct labelled rows.
_MAX_AUTO_EXACT = 30_000

# Number of rows on which the recall of an approximate search is measured.
_N_SAMPLED = 1000


class _Columns(NamedTuple):
    """Columns of the labels that are known in the same rows, with the rows that vote on them."""

    place: IntArray
    search: NeighborSearch
    votes: FloatArray  # the soft labels that voted in the last round


def _known_together(given: FloatArray) -> list[IntArray]:
    """Return which columns are known in the same rows, leaving out those known in none."""
    columns: dict[bytes, list[int]] = {}
    for k, known in enumerate(~np.isnan(given).T):
        if known.any():
            columns.setdefault(known.tobytes(), []).append(k)
    return [np.array(alike) for alike in columns.values()]


def _check_label_probabilities(y) -> FloatArray:
    """Check that each cell is a probability, or NaN if it is unknown; -1 is unknown, too."""
    y = read_numbers(y, "y")
    if y.ndim == 1:
        raise ValueError(
            "y has one dimension; with multilabel=True pass (n_samples, n_labels), a column for "
            "each label, or leave multilabel out if each row has one class."
        )
    y = check_array(y, dtype=np.float64, ensure_all_finite="allow-nan", input_name="y")
    y = np.where(y == -1, np.nan, y)
    if (bad := ((y < -_SUM_TOLERANCE) | (y > 1 + _SUM_TOLERANCE)).any(axis=1)).any():
        raise ValueError(
            f"y has values outside [0, 1] in {bad.sum()} rows (first: row {bad.argmax()}); with "
            "multilabel=True pass the probability that each label applies, NaN or -1 if unknown."
        )
    return np.clip(y, 0.0, 1.0)


def _check_soft_labels(y) -> FloatArray:
    """Check that each row is a distribution, or all NaN if its soft label is unknown."""
    y = check_array(
        read_numbers(y, "y"), dtype=np.float64, ensure_all_finite="allow-nan", input_name="y"
    )
    missing = np.isnan(y)
    unknown = missing.all(axis=1)
    if (partly := missing.any(axis=1) & ~unknown).any():
        raise ValueError(
            f"y has NaN for only some classes in {partly.sum()} rows (first: row "
            f"{partly.argmax()}); pass soft labels that are known for all classes or NaN for all."
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
            f"{total[first]:.6g}); divide each row by its sum, or pass multilabel=True if several "
            "labels may apply to a row."
        )
    return np.maximum(y, 0.0)


def _label_distributions(y, multilabel: bool) -> tuple[np.ndarray, FloatArray]:
    """Read hard or soft labels; return the classes and one distribution per row, NaN if unknown."""
    if multilabel:
        if sparse.issparse(y):
            y = y.toarray()
        y = _check_label_probabilities(y)
        return np.arange(y.shape[1]), y
    if is_table(y):
        y = _check_soft_labels(y)
        return np.arange(y.shape[1]), y
    classes, codes = check_labels(y, partial=True)
    distributions = np.full((len(codes), len(classes)), np.nan)
    labelled = codes >= 0
    distributions[labelled] = np.eye(len(classes))[codes[labelled]]
    return classes, distributions


def _row_ids(keys: np.ndarray, sessions: IntArray) -> np.ndarray:
    """Combine the hash of each row's content and its session into one void scalar."""
    return np.rec.fromarrays([keys, sessions]).view("V24")


def _vote_weights(distances: FloatArray, weights) -> FloatArray:
    """Return the weights of each row's neighbours, which sum to 1, or to 0 without neighbours."""
    admissible = np.isfinite(distances)
    if callable(weights):
        votes = np.asarray(weights(distances), dtype=np.float64)
    elif weights == "uniform":
        votes = np.ones_like(distances)
    else:
        at_zero = distances == 0
        any_at_zero = at_zero.any(axis=1, keepdims=True)
        votes = np.where(any_at_zero, at_zero, 1 / np.where(at_zero, 1.0, distances))
    votes = np.where(admissible, votes, 0.0)
    if votes.shape != distances.shape or not (np.isfinite(votes) & (votes >= 0)).all():
        raise ValueError(
            f"weights={weights!r} must return a finite non-negative weight for each distance."
        )
    total = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, total, out=np.zeros_like(votes), where=total > 0)


class KNNLabelSmoother(DocLinkMixin, TransformerMixin, BaseEstimator):
    """Smooth labels over the nearest neighbours in feature space.

    The soft label of each fitted row becomes ``(1 - alpha) * own + alpha * neighbors``, where
    `own` is the label given for the row and `neighbors` is the weighted mean over the nearest
    labelled rows, excluding the row itself. Unlabelled rows and new rows get `neighbors` alone.

    Parameters
    ----------
    n_neighbors : int, default=10
        Number of neighbours. If fewer are available, all of them are used.
    alpha : float, default=0.25
        Share of the neighbours in the soft label of a labelled row, from 0 (labels are unchanged)
        to 1.
    weights : {"uniform", "distance"} or callable, default="uniform"
        Weights of the neighbours: equal, or the inverse of their distance. With "distance",
        neighbours at distance zero, if any, share all the weight. A callable takes an array of
        distances (infinite where a row has fewer neighbours) and returns an array of non-negative
        weights of the same shape.
    metric : str or callable, default="cosine"
        Any metric that :func:`sklearn.metrics.pairwise_distances` accepts without further
        parameters. With "cosine", a row of zeros is at distance 1 from every other row.
    n_iter : int, default=1
        Number of rounds. In each round the neighbours vote with the soft labels of the previous
        round, while `own` remains the label given. Only rows whose label was given vote.
    algorithm : {"auto", "exact", "approximate"}, default="auto"
        How to find neighbours. "exact" compares each row with each labelled row. "approximate"
        searches an inverted-file index of faiss (``pip install "skpref[approximate]"``), which
        accepts dense rows and the metrics "cosine", "euclidean", "l2" and "sqeuclidean". "auto"
        is "approximate" above 30,000 distinct labelled rows, and "exact" up to that number, on
        CUDA, on macOS, and whenever the index cannot be used.
    exclude_same_group : bool, default=False
        Whether to take neighbours from other sessions only. Requires `groups` in `fit` and in
        `transform`.
    multilabel : bool, default=False
        Whether several labels may apply to a row. Then each column of `y` is smoothed separately,
        over the rows where it is known, and rows need not sum to 1.
    device : str, default="auto"
        Device of the exact search: "cpu", "cuda", "cuda:N", or "auto" for CUDA if available.
        Sparse rows, and metrics other than the four above, are always compared on the CPU by
        scikit-learn; an approximate index is always searched on the CPU.
    random_state : int, RandomState instance or None, default=None
        Seed of the approximate index and of the draw of the rows on which `recall_` is measured.
        Not used by an exact search.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Classes in the order of the columns: the labels that occur in `y` if it holds hard labels,
        or 0 to `n_classes` - 1 if it holds soft labels.
    class_prior_ : ndarray of shape (n_classes,)
        Mean of the labels given, which is the soft label of a row that has neither a label nor a
        neighbour.
    label_distributions_ : ndarray of shape (n_samples, n_classes)
        Smoothed soft labels of the fitted rows, as returned by `fit_transform`.
    algorithm_ : {"exact", "approximate"}
        The search used.
    recall_ : float
        Share of the exact neighbours that the approximate search found, measured on up to 1,000
        randomly drawn fitted rows; 1.0 for an exact search. The least one if labels that are known
        in other rows have searches of their own.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`. Defined only when `X` has feature names that are
        all strings.

    See Also
    --------
    LLMScoreCalibrator : Turns raw LLM scores into soft labels.
    IntraSessionPairSampler : Compares the smoothed soft labels within sessions.
    sklearn.semi_supervised.LabelSpreading : Smooths hard labels over a graph until convergence.

    Notes
    -----
    ``transform`` on the training rows returns the same soft labels as ``fit_transform``: a row
    with the same numbers as a fitted row is treated as that row and does not vote for itself. If
    several fitted rows have the same numbers, it is treated as the first of them. With
    `exclude_same_group` the session must match, too.

    Of neighbours at the same distance, those that come first in the fitted data are chosen.
    Distances are compared in single precision; rows with the same numbers are at distance zero.

    The exact search multiplies rows in single precision, in blocks whose size is bounded by
    scikit-learn's `working_memory` setting, and keeps 16 more candidates than neighbours. Of
    these it chooses the nearest by distances computed in double precision and rounded to single.
    If more distinct rows than that are equally near within float32 precision, which of them are
    kept is unspecified. Examples are rows that differ by less than about a thousandth of their
    length, rows of zeros and ones in a few columns, and, under the cosine metric, all rows as
    neighbours of an all-zero row. Sparse rows and other metrics are compared in double precision
    throughout.

    With `multilabel`, a label that is known in no row stays NaN. Labels that are known in the same
    rows share one search for neighbours.

    The approximate search compares a row with the contents of the nearest clusters. The number
    of clusters is increased until 98% of the exact neighbours are found for the sample on which
    `recall_` is measured. Rows for which it finds too few neighbours from other sessions are
    searched exactly.

    Examples
    --------
    >>> from skpref import KNNLabelSmoother
    >>> X = [[1.0, 0.0], [0.9, 0.1], [0.8, 0.1], [0.0, 1.0]]
    >>> y = [1, 0, 1, -1]  # the last row is unlabelled
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
        "multilabel": ["boolean"],
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
        multilabel=False,
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
        self.multilabel = multilabel
        self.device = device
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    @keeps_state_on_failure
    def fit(self, X, y, groups=None):
        """Smooth the labels of the rows and store them for `transform`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances, such as embeddings. Must be dense for an approximate
            search.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Hard labels, with -1 (numbers) or None/NaN (objects, strings) for unlabelled rows; or
            soft labels, whose rows sum to 1 or are all NaN if unknown. With `multilabel`, for each
            label 1, 0 or the probability that it applies, NaN or -1 where that is unknown.
        groups : array-like of shape (n_samples,), default=None
            Session of each utterance. Required with `exclude_same_group`, otherwise not used.

        Returns
        -------
        KNNLabelSmoother
            The fitted smoother.

        Raises
        ------
        ValueError
            If no row has a label, `exclude_same_group` is set without `groups`, the approximate
            search does not support the metric or sparse `X`, or `device` is not available.
        ImportError
            If `algorithm` is "approximate" and faiss is not installed.
        """
        X = self._check_features(X, y if y is None else "no_validation", reset=True)
        self._check_metric(X)
        self.classes_, given = _label_distributions(y, self.multilabel)
        check_same_length(len(given), "y", X.shape[0], "X")
        parts = _known_together(given)
        if not parts:
            raise ValueError("y has no known label; label at least one row.")
        ids, sessions = self._check_sessions(groups, len(given))
        self._sessions = {session: code for code, session in enumerate(ids.tolist())}
        keys = row_keys(X)
        self._ids, self._first_rows = np.unique(_row_ids(keys, sessions), return_index=True)
        if not self.exclude_same_group:
            # The search excludes votes from a row's own session. One session per row excludes only
            # the row itself.
            sessions = np.arange(len(given))
        self.algorithm_, self.recall_ = "exact", 1.0
        self.class_prior_ = np.full(given.shape[1], np.nan)
        smoothed, self._columns = np.full_like(given, np.nan), []
        for place in parts:
            labels = given[:, place]
            labelled = ~np.isnan(labels[:, 0])
            self.class_prior_[place] = prior = labels[labelled].mean(axis=0)
            search = self._fit_search(X, keys, sessions, labelled)
            graph = self._vote_graph(search, X, keys, sessions)
            smoothed[:, place], votes = self._smooth(labels, labelled, prior, graph)
            self._columns.append(_Columns(place, search, votes))
        self.label_distributions_ = smoothed.astype(X.dtype, copy=False)
        return self

    def fit_transform(self, X, y, groups=None):
        """Smooth the labels of the rows and return them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances, such as embeddings.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels, as in `fit`.
        groups : array-like of shape (n_samples,), default=None
            Session of each utterance. Required with `exclude_same_group`, otherwise not used.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Smoothed soft labels, each row a distribution unless `multilabel`.
        """
        return self.fit(X, y, groups).label_distributions_.copy()

    def transform(self, X, groups=None):
        """Return the mean soft label of the neighbours of new rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances. A row with the same numbers as a fitted row gets the
            result of `fit_transform` for that row.
        groups : array-like of shape (n_samples,), default=None
            Session of each utterance: ids seen in `fit`, or new ones. Required with
            `exclude_same_group`, otherwise not used.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Soft labels.
        """
        check_is_fitted(self)
        X = self._check_features(X, reset=False)
        ids, sessions = self._check_sessions(groups, X.shape[0])
        if self.exclude_same_group:
            sessions = np.array([self._sessions.get(session, -1) for session in ids.tolist()])[
                sessions
            ]
        keys = row_keys(X)
        place = _find_sorted(_row_ids(keys, sessions), self._ids)
        labels = self.label_distributions_[self._first_rows[place]].astype(X.dtype)
        if (new := place < 0).any():
            if not self.exclude_same_group:
                sessions = np.full_like(sessions, -1)
            for place, search, votes in self._columns:
                graph = self._vote_graph(search, X[new], keys[new], sessions[new])
                means = graph @ votes
                means[graph.sum(axis=1) == 0] = self.class_prior_[place]
                labels[np.ix_(new, place)] = means
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
            The class name of the estimator in lower case, an underscore and the class label.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        prefix = type(self).__name__.lower()
        return np.asarray([f"{prefix}_{label}" for label in self.classes_], dtype=object)

    def __sklearn_is_fitted__(self):
        return "label_distributions_" in vars(self)

    def _check_features(self, X, y="no_validation", *, reset):
        """Check X; return it as float32 or float64, dense or CSR."""
        refuse_masked(X)
        X = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset
        )
        if sparse.issparse(X) and max(X.nnz, X.shape[1]) <= np.iinfo(np.int32).max:
            # Some metrics do not accept 64-bit indices.
            indices, indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
            return sparse.csr_array((X.data, indices, indptr), shape=X.shape)
        return X

    def _check_metric(self, X) -> None:
        """Raise if the metric does not suit the features."""
        if self.metric == "haversine" and X.shape[1] != 2:
            raise ValueError(
                f"metric='haversine' needs X of 2 columns, latitude and longitude, but X has "
                f"{X.shape[1]}; pass another metric."
            )
        is_name = isinstance(self.metric, str)
        if sparse.issparse(X) and is_name and self.metric not in _SPARSE_METRICS:
            raise ValueError(
                f"metric={self.metric!r} cannot compare rows of a sparse X; pass X.toarray(), or "
                f"one of {sorted(_SPARSE_METRICS)}."
            )

    def _check_sessions(self, groups, n_samples: int) -> tuple[np.ndarray, IntArray]:
        """Return the session ids and codes; no id and zeros if sessions do not matter."""
        found = None if groups is None else read_session_ids(groups, n_samples)
        if not self.exclude_same_group:
            return np.empty(0), np.zeros(n_samples, dtype=np.int64)
        if found is None:
            raise ValueError(
                "exclude_same_group=True needs groups, the session of each row, in fit and in "
                "transform. Pass groups=session_ids; a Pipeline passes them on only under "
                "sklearn.set_config(enable_metadata_routing=True)."
            )
        return found

    def _fit_search(self, X, keys, sessions: IntArray, labelled: BoolArray) -> NeighborSearch:
        """Choose the search algorithm and measure its recall."""
        search = NeighborSearch(
            X[labelled], keys[labelled], sessions[labelled], self.n_neighbors, self.metric
        )
        if self._choose_algorithm(search, X) == "approximate":
            self.algorithm_ = "approximate"
            rng = check_random_state(self.random_state)
            seed = rng.randint(2**31 - 1)
            sample = rng.choice(len(sessions), min(_N_SAMPLED, len(sessions)), replace=False)
            found = search.build_index(X[sample], keys[sample], sessions[sample], self.device, seed)
            self.recall_ = min(self.recall_, found)
        return search

    def _choose_algorithm(self, search: NeighborSearch, X) -> str:
        """Return the algorithm to use; raise if the one asked for cannot be used."""
        if self.algorithm == "approximate" and not search.fast:
            kind = "sparse" if sparse.issparse(X) else "dense"
            raise ValueError(
                f"algorithm='approximate' cannot search {kind} X with metric={self.metric!r}; "
                f"pass dense X and one of {list(FAST_METRICS)}, or algorithm='exact'."
            )
        if self.algorithm != "auto":
            return self.algorithm
        # On macOS, the OpenMP runtimes of torch and faiss crash in one process.
        has_faiss = sys.platform != "darwin" and importlib.util.find_spec("faiss")
        if not search.fast or len(search.keys) <= _MAX_AUTO_EXACT or not has_faiss:
            return "exact"

        return "approximate" if resolve_device(self.device) == "cpu" else "exact"

    def _vote_graph(self, search: NeighborSearch, X, keys: np.ndarray, sessions: IntArray):
        """Return a sparse matrix of the weights of the labelled rows that vote on each row of X."""
        voter, distance = search.find(X, keys, sessions, self.device)
        weights = _vote_weights(distance, self.weights)
        bounds = np.arange(0, weights.size + 1, weights.shape[1])
        shape = (len(weights), len(search.session))
        return sparse.csr_array((weights.ravel(), voter.ravel(), bounds), shape=shape)

    def _smooth(
        self, given: FloatArray, labelled: BoolArray, prior: FloatArray, graph
    ) -> tuple[FloatArray, FloatArray]:
        """Run the rounds of smoothing; return the soft labels and those that voted last."""
        alone = graph.sum(axis=1) == 0
        mixed = labelled & ~alone
        smoothed = np.where(labelled[:, None], given, prior)
        for _ in range(self.n_iter):
            votes = smoothed[labelled]
            means = graph @ votes
            smoothed[~alone] = means[~alone]
            smoothed[mixed] = (1 - self.alpha) * given[mixed] + self.alpha * means[mixed]
        return smoothed, votes

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.algorithm != "approximate"
        tags.target_tags.required = True
        tags.target_tags.two_d_labels = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
