"""Draw pairs of utterances of the same session whose scores differ."""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import narwhals as nw
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import column_or_1d, validate_data

from skpref._columns import is_missing, is_table, read_column, read_numbers
from skpref._sessions import Ladder, build_ladder, concatenate_ranges, longest_prefix, run_starts
from skpref._sklearn import DocLinkMixin, Interval, StrOptions, _fit_context
from skpref._state import keeps_state_on_failure
from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds
from skpref._validation import check_groups, check_same_length


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows of one session, the winner's score above the loser's.

    Its length is the number of pairs.

    Parameters
    ----------
    winner : ndarray of int, shape (n_pairs,)
        Row of the utterance with the higher score.
    loser : ndarray of int, shape (n_pairs,)
        Row of the utterance with the lower score.
    class_index : ndarray of int, shape (n_pairs,)
        Class (column of the soft labels) to which the scores belong.
    margin : ndarray of float, shape (n_pairs,)
        Winner's score minus the loser's, in the unit of the scores; always positive.
    weight : ndarray of float, shape (n_pairs,)
        Weight of the pair in a loss; 1 on average.

    See Also
    --------
    IntraSessionPairSampler : Draws the pairs.
    """

    winner: IntArray
    loser: IntArray
    class_index: IntArray
    margin: FloatArray
    weight: FloatArray

    def __len__(self) -> int:
        return len(self.winner)


def _spread(ends: np.ndarray, points: np.ndarray) -> IntArray:
    """Find the interval of each point, given the excluded ends of the intervals; both ascend.

    Equivalent to `searchsorted(ends, points, side="right")`, which is slower if there are more
    points than ends.
    """
    counts = np.diff(np.searchsorted(points, ends), prepend=0)
    return np.repeat(np.arange(len(ends)), counts)


def _decode(ladder: Ladder, number: IntArray) -> tuple[IntArray, IntArray]:
    """Turn ascending numbers of valid pairs into positions of winners and losers in the ladder."""
    ends = np.cumsum(ladder.n_losers)
    winner = _spread(ends, number)
    return winner, number + (ladder.start + ladder.n_losers - ends)[winner]


def _choose_distinct(sizes: IntArray, cap: int, rng: np.random.RandomState) -> IntArray:
    """Choose all items of each session, or `cap` random items if the session has more.

    The items are numbered session by session. Return the chosen numbers in ascending order, using
    memory of O(sessions + chosen numbers).
    """
    # In a session with fewer than 2 * cap items, draw the items to leave out instead of those to
    # keep, so that at most half of the items of any session are drawn.
    leave_out = sizes < 2 * cap
    n_draws = np.where(leave_out, np.maximum(sizes - cap, 0), cap)
    ends = np.cumsum(sizes)
    drawn = np.empty(0, dtype=np.int64)
    missing = n_draws
    # Then, on average, less than half of the draws of a round are repetitions, and few rounds are
    # needed. The number of draws never depends on the items drawn, so each subset is equally
    # likely.
    while missing.any():
        session = np.repeat(np.arange(len(sizes)), missing)
        new = rng.randint(sizes[session], dtype=np.int64) + (ends - sizes)[session]
        # A stable sort merges the part that is already sorted.
        drawn = np.sort(np.concatenate([drawn, new]), kind="stable")
        drawn = drawn[np.diff(drawn, prepend=-1) > 0]
        missing = n_draws - np.diff(np.searchsorted(drawn, ends), prepend=0)
    listed = concatenate_ranges((ends - sizes)[leave_out], sizes[leave_out])
    return np.setxor1d(drawn, listed, assume_unique=True)


def _every_pair(
    ladder: Ladder, cap: int | None, rng: np.random.RandomState
) -> tuple[IntArray, IntArray]:
    """List every valid pair, or `cap` random pairs of each session that has more."""
    if cap is None:
        winner = np.repeat(np.arange(len(ladder.n_losers)), ladder.n_losers)
        return winner, concatenate_ranges(ladder.start, ladder.n_losers)
    sizes = np.zeros(ladder.session.max(initial=-1) + 1, dtype=np.int64)
    np.add.at(sizes, ladder.session, ladder.n_losers)
    return _decode(ladder, _choose_distinct(sizes, cap, rng))


def _uniform_pairs(
    ladder: Ladder, n_pairs: int, rng: np.random.RandomState
) -> tuple[IntArray, IntArray]:
    """Draw valid pairs with replacement, all equally likely."""
    winners = np.flatnonzero(ladder.n_losers)
    n_losers = ladder.n_losers[winners]
    if not len(winners):
        return winners, winners
    # Drawing the count of each winner first, then its losers, avoids sorting.
    drawn = rng.multinomial(n_pairs, n_losers / n_losers.sum())
    winner = np.repeat(winners, drawn)
    offset = (rng.random_sample(n_pairs) * np.repeat(n_losers, drawn)).astype(np.int64)
    return winner, ladder.start[winner] + offset


def _margin_pairs(
    ladder: Ladder, n_pairs: int, rng: np.random.RandomState
) -> tuple[IntArray, IntArray]:
    """Draw valid pairs with replacement, with probability proportional to their margin.

    The winner is drawn with probability proportional to the sum of its margins, then the loser by
    the inverse of `m -> m t_winner - (t_1 + ... + t_m)`, the sum of the margins to the `m` lowest
    losers.
    """
    start, n_losers = ladder.start, ladder.n_losers
    # Margins are differences. Measured from the lowest score of the session, the scores are smaller
    # and lose fewer digits to cancellation.
    height = ladder.score - ladder.score[start]
    # Powers of 2 change no digit, and sums of what remains neither overflow nor vanish.
    height = np.ldexp(height, -np.frexp(height.max(initial=0.0))[1])
    below = np.concatenate([[0.0], np.cumsum(height)])

    def margin_sum(entry, m):
        return m * height[entry] - (below[start[entry] + m] - below[start[entry]])

    mass = np.maximum(margin_sum(np.arange(len(height)), n_losers), 0.0)
    ends = np.cumsum(mass)
    size = n_pairs if n_losers.any() else 0
    total = float(ends[-1]) if size else 0.0
    # The product with a number below 1 may still round up to the total, beyond the last winner.
    target = np.minimum(rng.uniform(size=size) * total, np.nextafter(total, 0.0))
    target.sort()
    winner = _spread(ends, target)
    target = rng.uniform(size=size) * mass[winner]
    offset = longest_prefix(n_losers[winner] - 1, lambda m: margin_sum(winner, m) <= target)
    return winner, start[winner] + offset


def _adjacent_pairs(ladder: Ladder) -> tuple[IntArray, IntArray]:
    """Pair each entry with its highest valid loser; tied winners take tied losers in turn."""
    tie = run_starts(ladder.session, ladder.class_index, ladder.score)
    winner = np.flatnonzero(ladder.n_losers)
    highest = ladder.start[winner] + ladder.n_losers[winner] - 1
    n_tied = highest + 1 - tie[highest]
    return winner, tie[highest] + (winner - tie[winner]) % n_tied


def _check_scores(y: ArrayLike) -> FloatArray:
    """Read the scores, and return them as float64 of shape (n_samples, n_classes).

    Of class labels, which are integers, -1 marks a row without one as elsewhere.
    """
    values = read_numbers(y, "y") if is_table(y) else _read_scores(y)
    if values.ndim > 2:
        raise ValueError(
            f"y has {values.ndim} dimensions; pass scores of shape (n_samples,), or soft labels of "
            "shape (n_samples, n_classes)."
        )
    scores = check_array(
        values,
        dtype=np.float64,
        ensure_2d=False,
        ensure_all_finite="allow-nan",
        ensure_min_samples=0,
        input_name="y",
    )
    with np.errstate(over="ignore"):
        spread = np.fmax.reduce(scores, None, initial=0.0) - np.fmin.reduce(scores, None, initial=0)
    if np.isinf(spread):
        raise ValueError(
            "y holds scores whose difference is beyond the largest float; pass y in a larger unit."
        )
    return scores.reshape(-1, 1) if scores.ndim == 1 else scores


def _read_scores(y: ArrayLike) -> FloatArray:
    """Return one score or label per row as floats, NaN if unknown."""
    column = read_column(y, "y", entry="score or label")
    known = ~is_missing(column)
    values = column[known]
    if values.dtype.kind == "O":
        values = np.asarray(values.tolist())
    if values.dtype.kind in "USO" and any(isinstance(v, str | bytes) for v in values.flat):
        raise ValueError(
            "y holds strings, which have no order; pass numeric y: real scores, soft labels, or "
            "class labels encoded as numbers, of which the higher is preferred."
        )
    scores = np.full(len(column), np.nan)
    scores[known] = read_numbers(values, "y")
    if values.dtype.kind in "iu":
        if (scores < -1).any() and (scores == -1).any():
            raise ValueError(
                "y holds integers below -1, so it is unclear whether -1 is a score or marks a row "
                "without a label; pass scores as floats, with NaN if unknown."
            )
        scores[scores == -1] = np.nan
    return scores


def _like(X: Any, rows: Any) -> Any:
    """Return rows as a frame if X is one: the next step must see the column names of `predict`."""
    if hasattr(X, "iloc"):
        return type(X)(rows, columns=X.columns)
    frame = nw.from_native(X, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        return rows
    return nw.from_numpy(rows, schema=frame.columns, backend=frame.implementation).to_native()


class IntraSessionPairSampler(DocLinkMixin, BaseEstimator):
    """Draw preference pairs between utterances of the same session.

    Two rows of the same session form a valid pair if the winner's score exceeds the loser's by
    at least `min_margin`. With soft labels of several classes, each class has its own pairs. A row
    whose score is NaN is in no pair.

    Parameters
    ----------
    strategy : {"all", "uniform", "margin", "adjacent"}, default="all"
        Which of the valid pairs to return.

        - "all": every valid pair.
        - "uniform": `n_pairs` drawn with replacement, each valid pair of any session equally
          likely.
        - "margin": `n_pairs` drawn with replacement, each valid pair with a probability
          proportional to its margin.
        - "adjacent": each row as the winner against the highest-scored valid loser of its
          session, so at most one pair per row and class. If several winners have the same score
          and several losers have the same score, the winners take the losers in turn, in row
          order.
    n_pairs : int, default=None
        Number of pairs to draw with "uniform" and "margin". None draws as many as there are
        rows. Ignored by the other strategies.
    min_margin : float, default=0.0
        Smallest difference of scores in a valid pair, in the unit of the scores. With 0, any
        difference above zero is valid.
    max_pairs_per_session : int, default=None
        Largest number of pairs per session, over all classes together. If the strategy returns
        more, a uniform random subset is kept, drawn without replacement. None keeps all.
    session_weight : {"equal", "pairs"}, default="equal"
        "equal" gives the same total weight to each session that has a pair, so that long sessions
        do not outweigh short ones; the weights are 1 on average. "pairs" gives each pair weight 1.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws and of the signs in `fit_resample`. With an int, each call returns the
        same result.

    Attributes
    ----------
    n_features_in_ : int
        Number of features seen during `fit` or `fit_resample`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit` or `fit_resample`. Defined only when `X` has feature
        names that are all strings.

    See Also
    --------
    PairwisePreferenceClassifier : Classifier that learns from such pairs.
    KNNLabelSmoother : Reduces the noise of soft labels before they are compared.

    Notes
    -----
    Memory is O(rows + pairs drawn): "uniform", "margin" and `max_pairs_per_session` number the
    valid pairs instead of listing them, and draw numbers. The draws are exact, and no draw is
    wasted on an invalid pair. Pairs are ordered by session, then class, then ascending score of
    the winner.

    Differences of scores are subject to floating-point rounding: 0.7 - 0.4 is just below 0.3, so
    this pair is not valid with ``min_margin=0.3``.

    References
    ----------
    .. [1] Herbrich, R., Graepel, T. & Obermayer, K. (2000). "Large margin rank boundaries for
       ordinal regression". Advances in Large Margin Classifiers, 115-132. (The pair differences
       of `fit_resample`.)

    Examples
    --------
    >>> from skpref import IntraSessionPairSampler
    >>> scores = [0.9, 0.1, 0.4, 0.5, 0.5]
    >>> sessions = ["a", "a", "a", "b", "b"]
    >>> pairs = IntraSessionPairSampler().sample(scores, sessions)
    >>> pairs.winner
    array([2, 0, 0])
    >>> pairs.loser
    array([1, 1, 2])
    >>> pairs.margin.round(2)
    array([0.3, 0.8, 0.5])
    """

    _parameter_constraints: ClassVar[dict] = {
        "strategy": [StrOptions({"all", "uniform", "margin", "adjacent"})],
        "n_pairs": [Interval(Integral, 1, None, closed="left"), None],
        "min_margin": [Interval(Real, 0, None, closed="left")],
        "max_pairs_per_session": [Interval(Integral, 1, None, closed="left"), None],
        "session_weight": [StrOptions({"equal", "pairs"})],
        "random_state": ["random_state"],
    }

    # imbalanced-learn's Pipeline also routes to `fit`, although it calls `fit_resample`.
    __metadata_request__fit: ClassVar[dict] = {"groups": True}
    __metadata_request__fit_resample: ClassVar[dict] = {"groups": True}

    def __init__(
        self,
        strategy="all",
        *,
        n_pairs=None,
        min_margin=0.0,
        max_pairs_per_session=None,
        session_weight="equal",
        random_state=None,
    ):
        self.strategy = strategy
        self.n_pairs = n_pairs
        self.min_margin = min_margin
        self.max_pairs_per_session = max_pairs_per_session
        self.session_weight = session_weight
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    @keeps_state_on_failure
    def fit(self, X, y, groups=None):
        """Check the parameters and the input; nothing is learned.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Scores, soft labels or class labels, as in `sample`.
        groups : array-like of shape (n_samples,), default=None
            Session of each utterance.

        Returns
        -------
        IntraSessionPairSampler
            The sampler itself.
        """
        _, scores = self._check_inputs(X, y)
        if groups is not None:
            check_groups(groups, len(scores))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def sample(self, y: ArrayLike, groups: SessionIds | None = None) -> Pairs:
        """Draw pairs.

        Parameters
        ----------
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Scores, or soft labels whose columns are compared independently; NaN is unknown. In
            one dimension also class labels, as integers of which the higher is preferred; then -1
            is unknown, as None and NaN are. Pass scores as floats, of which -1.0 is the score -1.
        groups : array-like of shape (n_samples,)
            Session of each row: any hashable values. Rows may be in any order. Required.

        Returns
        -------
        Pairs
            Row indices of the winners and losers, with class, margin and weight. Empty if no pair
            is valid.
        """
        return self._draw(_check_scores(y), groups, check_random_state(self.random_state))

    @_fit_context(prefer_skip_nested_validation=True)
    @keeps_state_on_failure
    def fit_resample(self, X, y, groups=None):
        """Turn rows into differences of pairs, for use in imbalanced-learn's pipeline.

        A linear classifier without intercept that predicts the sign of these differences ranks
        utterances within sessions (RankSVM). A random half of the differences are loser minus
        winner.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances.
        y : array-like of shape (n_samples,)
            Scores, or class labels as integers, of which the higher is preferred, as in `sample`.
        groups : array-like of shape (n_samples,)
            Session of each utterance. Required. ``imblearn.pipeline.Pipeline`` passes it on only
            under ``sklearn.set_config(enable_metadata_routing=True)``.

        Returns
        -------
        X_resampled : {ndarray, sparse matrix, DataFrame} of shape (n_pairs, n_features)
            ``X[winner] - X[loser]`` or its negative; a frame of the same library
            if `X` is one.
        y_resampled : ndarray of int, shape (n_pairs,)
            1 for winner minus loser, -1 for loser minus winner.

        Notes
        -----
        The protocol does not support weights, so `session_weight` has no effect here. Use
        `max_pairs_per_session` to prevent long sessions from outweighing short ones.
        """
        values, scores = self._check_inputs(X, y)
        column_or_1d(scores)
        rng = check_random_state(self.random_state)
        pairs = self._draw(scores, groups, rng)
        if not len(pairs):
            raise ValueError(
                "No valid pair: no two rows of one session have scores that differ by "
                f"min_margin={self.min_margin!r} or more. Lower min_margin, or check that y varies "
                "within sessions."
            )
        # Alternating signs in random order ensure that both labels occur from two pairs on.
        sign = rng.permutation(np.arange(len(pairs)) % 2 * 2 - 1)
        first = np.where(sign > 0, pairs.winner, pairs.loser)
        second = np.where(sign > 0, pairs.loser, pairs.winner)
        difference = values[first] - values[second]
        return _like(X, difference), sign

    def _check_inputs(self, X, y):
        """Check X and y; return the features and the scores, one column per class."""
        X = validate_data(
            self,
            X,
            y if y is None else "no_validation",
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
        )
        scores = _check_scores(y)
        check_same_length(len(scores), "y", X.shape[0], "X")
        return X, scores

    def _draw(self, scores: FloatArray, groups, rng: np.random.RandomState) -> Pairs:
        """Draw pairs from checked scores."""
        if groups is None:
            raise ValueError(
                f"{type(self).__name__} needs groups, the session of each row; without them pairs "
                "would cross sessions. Pass groups=session_ids. An imblearn Pipeline passes them "
                "on only under sklearn.set_config(enable_metadata_routing=True)."
            )
        ladder = build_ladder(scores, check_groups(groups, len(scores)), self.min_margin)
        winner, loser = self._choose(ladder, self.n_pairs or len(scores), rng)
        margin = ladder.score[winner]
        margin -= ladder.score[loser]
        return Pairs(
            winner=ladder.row[winner],
            loser=ladder.row[loser],
            class_index=ladder.class_index[winner],
            margin=margin,
            weight=self._weigh(ladder.session, winner),
        )

    def _weigh(self, session: IntArray, winner: IntArray) -> FloatArray:
        """Compute the weights of pairs from their winners, which are sorted by session."""
        if self.session_weight == "pairs" or not len(winner):
            return np.ones(len(winner))
        # Each session gets the same total weight, and the mean weight is 1.
        last = np.flatnonzero(np.diff(session, append=-1))
        counts = np.diff(np.searchsorted(winner, last, side="right"), prepend=0)
        share = len(winner) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return np.repeat(share, counts)

    def _choose(self, ladder: Ladder, n_pairs: int, rng: np.random.RandomState):
        """Choose pairs by the strategy; return positions of winners and losers in the ladder."""
        cap = self.max_pairs_per_session
        if self.strategy == "all":
            return _every_pair(ladder, cap, rng)
        if self.strategy == "adjacent":
            winner, loser = _adjacent_pairs(ladder)
        else:
            draw = _uniform_pairs if self.strategy == "uniform" else _margin_pairs
            winner, loser = draw(ladder, n_pairs, rng)
        if cap is None:
            return winner, loser
        # The winners ascend, so the pairs are sorted by session.
        chosen = _choose_distinct(np.bincount(ladder.session[winner]), cap, rng)
        return winner[chosen], loser[chosen]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.target_tags.two_d_labels = True
        return tags
