"""Pairs of utterances of one session, drawn by the difference of their scores."""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

from skpref._sessions import Ladder, build_ladder, concatenate_ranges, longest_prefix, run_starts
from skpref._sklearn import DocLinkMixin, Interval, StrOptions, _fit_context
from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds
from skpref._validation import check_groups


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
        Class (column of the soft labels) that the scores are for.
    margin : ndarray of float, shape (n_pairs,)
        Winner's score less the loser's, in the unit of the scores; always positive.
    weight : ndarray of float, shape (n_pairs,)
        How much the pair counts in a loss; 1 on average.

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
    """Find the interval of each point; both ascend, and `ends` are the intervals' excluded ends.

    As `searchsorted(ends, points, side="right")`, which is slower where points outnumber ends.
    """
    counts = np.diff(np.searchsorted(points, ends), prepend=0)
    return np.repeat(np.arange(len(ends)), counts)


def _decode(ladder: Ladder, number: IntArray) -> tuple[IntArray, IntArray]:
    """Turn ascending numbers of valid pairs into positions of winner and loser in the ladder."""
    ends = np.cumsum(ladder.n_losers)
    winner = _spread(ends, number)
    return winner, number + (ladder.start + ladder.n_losers - ends)[winner]


def _choose_distinct(sizes: IntArray, cap: int, rng: np.random.RandomState) -> IntArray:
    """Choose all items of each session, or `cap` random ones of a session with more.

    The items are numbered session by session. Gives the numbers chosen, ascending, in memory of
    O(sessions + numbers chosen).
    """
    # Of a short session the items to leave are drawn, so that at most half are drawn of any.
    leave = sizes < 2 * cap
    wanted = np.where(leave, np.maximum(sizes - cap, 0), cap)
    ends = np.cumsum(sizes)
    drawn = np.empty(0, dtype=np.int64)
    missing = wanted
    # Hence less than half of a round's draws, on average, repeat one, and few rounds are needed.
    # How many are drawn never depends on which, so each subset is equally likely.
    while missing.any():
        session = np.repeat(np.arange(len(sizes)), missing)
        new = rng.randint(sizes[session], dtype=np.int64) + (ends - sizes)[session]
        # A stable sort merges what is sorted already.
        drawn = np.sort(np.concatenate([drawn, new]), kind="stable")
        drawn = drawn[np.diff(drawn, prepend=-1) > 0]
        missing = wanted - np.diff(np.searchsorted(drawn, ends), prepend=0)
    listed = concatenate_ranges((ends - sizes)[leave], sizes[leave])
    return np.setxor1d(drawn, listed, assume_unique=True)


def _every_pair(
    ladder: Ladder, cap: int | None, rng: np.random.RandomState
) -> tuple[IntArray, IntArray]:
    """List every valid pair, or `cap` random ones of each session with more."""
    if cap is None:
        winner = np.repeat(np.arange(len(ladder.n_losers)), ladder.n_losers)
        return winner, concatenate_ranges(ladder.start, ladder.n_losers)
    sizes = np.zeros(ladder.session.max(initial=-1) + 1, dtype=np.int64)
    np.add.at(sizes, ladder.session, ladder.n_losers)
    return _decode(ladder, _choose_distinct(sizes, cap, rng))


def _uniform_pairs(
    ladder: Ladder, n_pairs: int, rng: np.random.RandomState
) -> tuple[IntArray, IntArray]:
    """Draw valid pairs with replacement, each as likely as any other."""
    able = np.flatnonzero(ladder.n_losers)
    n_losers = ladder.n_losers[able]
    if not len(able):
        return able, able
    # How often each winner is drawn, then which of its losers: nothing has to be sorted.
    drawn = rng.multinomial(n_pairs, n_losers / n_losers.sum())
    winner = np.repeat(able, drawn)
    offset = (rng.random_sample(n_pairs) * np.repeat(n_losers, drawn)).astype(np.int64)
    return winner, ladder.start[winner] + offset


def _margin_pairs(
    ladder: Ladder, n_pairs: int, rng: np.random.RandomState
) -> tuple[IntArray, IntArray]:
    """Draw valid pairs with replacement, as likely as their margin is large.

    The winner is drawn by the sum of its margins, then the loser by the inverse of
    `m -> m t_winner - (t_1 + ... + t_m)`, the sum of the margins over the `m` lowest losers.
    """
    start, n_losers = ladder.start, ladder.n_losers
    # Margins are differences; heights above the lowest score of the session cancel less.
    height = ladder.score - ladder.score[start]
    below = np.concatenate([[0.0], np.cumsum(height)])

    def margin_sum(entry, m):
        return m * height[entry] - (below[start[entry] + m] - below[start[entry]])

    mass = np.maximum(margin_sum(np.arange(len(height)), n_losers), 0.0)
    ends = np.cumsum(mass)
    size = n_pairs if n_losers.any() else 0
    total = float(ends[-1]) if size else 0.0
    # A product with a number below 1 may still round up to the total, past the last winner.
    target = np.minimum(rng.uniform(size=size) * total, np.nextafter(total, 0.0))
    target.sort()
    winner = _spread(ends, target)
    target = rng.uniform(size=size) * mass[winner]
    offset = longest_prefix(n_losers[winner] - 1, lambda m: margin_sum(winner, m) <= target)
    return winner, start[winner] + offset


def _adjacent_pairs(ladder: Ladder) -> tuple[IntArray, IntArray]:
    """Pair each entry with its highest valid loser; tied winners share tied losers in turn."""
    tie = run_starts(ladder.session, ladder.class_index, ladder.score)
    winner = np.flatnonzero(ladder.n_losers)
    highest = ladder.start[winner] + ladder.n_losers[winner] - 1
    n_tied = highest + 1 - tie[highest]
    return winner, tie[highest] + (winner - tie[winner]) % n_tied


def _check_scores(y: ArrayLike) -> FloatArray:
    """Check the scores and make them float64 of shape (n_samples, n_classes)."""
    values = np.asarray(y)
    if values.dtype.kind in "USO" and any(isinstance(v, str | bytes) for v in values.flat):
        raise ValueError(
            "y holds strings, which have no order; pass numeric y: real scores, soft labels, or "
            "class labels encoded as numbers, higher meaning preferred."
        )
    scores = check_array(
        y,
        dtype=np.float64,
        ensure_2d=False,
        ensure_all_finite="allow-nan",
        ensure_min_samples=0,
        input_name="y",
    )
    return scores.reshape(-1, 1) if scores.ndim == 1 else scores


class IntraSessionPairSampler(DocLinkMixin, BaseEstimator):
    """Draw preference pairs between utterances of the same session.

    Two rows make a pair where they are of one session and their scores differ: the winner's
    score is higher than the loser's, by at least `min_margin`. With soft labels of several
    classes, each class gives pairs of its own. A row whose score is NaN is in no pair.

    Parameters
    ----------
    strategy : {"all", "uniform", "margin", "adjacent"}, default="all"
        Which of the valid pairs to give.

        - "all": every valid pair.
        - "uniform": `n_pairs` drawn with replacement, each valid pair of any session equally
          likely.
        - "margin": `n_pairs` drawn with replacement, each valid pair with a probability
          proportional to its margin.
        - "adjacent": each row as winner against the highest-scored row of its session that is
          a valid loser, so at most one pair per row and class. Where winners tie in score
          and losers tie in score, the winners take the losers in turn, in row order.
    n_pairs : int, default=None
        Number of pairs to draw with "uniform" and "margin". None draws as many as there are
        rows. Ignored by the other strategies.
    min_margin : float, default=0.0
        Least difference of scores, in the unit of the scores. With 0, any difference above zero.
    max_pairs_per_session : int, default=None
        Keep at most this many pairs of a session, over all classes together: a uniform random
        subset, without replacement, of the pairs that the strategy gives. None keeps all.
    session_weight : {"equal", "pairs"}, default="equal"
        "equal" weighs pairs so that each session that has a pair has the same total weight and
        long sessions don't drown short ones; the weights are 1 on average. "pairs" gives each
        pair weight 1.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws and of the signs of `fit_resample`. With an int, each call gives the
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
    KNNLabelSmoother : Makes soft labels less noisy before they are compared.

    Notes
    -----
    Memory is O(rows + pairs drawn): "uniform", "margin" and `max_pairs_per_session` number the
    valid pairs instead of listing them, and draw numbers. The draws are exact, and none is spent
    on a pair that is not valid. Pairs come session by session, the winners of each class by
    ascending score.

    Differences of scores are compared as floating point gives them: 0.7 - 0.4 is just below 0.3,
    so it is not valid under ``min_margin=0.3``.

    References
    ----------
    .. [1] Herbrich, R., Graepel, T. & Obermayer, K. (2000). "Large margin rank boundaries for
       ordinal regression". Advances in Large Margin Classifiers, 115-132. (The pair differences
       that `fit_resample` gives.)

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

    # imbalanced-learn's Pipeline routes to `fit`, too, whatever it is that it calls.
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
    def fit(self, X, y, groups=None):
        """Check the parameters and the input; there is nothing to learn.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Scores or soft labels.
        groups : array-like of shape (n_samples,), default=None
            Session of each utterance.

        Returns
        -------
        IntraSessionPairSampler
            The sampler itself.
        """
        self._check_inputs(X, y)
        if groups is not None:
            check_groups(groups, len(y))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def sample(self, y: ArrayLike, groups: SessionIds | None = None) -> Pairs:
        """Draw pairs.

        Parameters
        ----------
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Scores, or soft labels whose columns are compared each for itself. NaN is unknown.
        groups : array-like of shape (n_samples,)
            Session of each row: any hashable values, rows in any order. Required.

        Returns
        -------
        Pairs
            Row indices of winners and losers, with class, margin and weight. Empty if no pair
            is valid.
        """
        return self._draw(_check_scores(y), groups, check_random_state(self.random_state))

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_resample(self, X, y, groups=None):
        """Turn rows into differences of pairs, as imbalanced-learn's pipeline calls it.

        A linear classifier without intercept that tells the sign of these differences ranks
        utterances within sessions (RankSVM). Half of the differences, at random, are loser
        less winner.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Features of the utterances.
        y : array-like of shape (n_samples,)
            Scores, or class labels as numbers, of which a higher one is preferred. NaN is
            unknown.
        groups : array-like of shape (n_samples,)
            Session of each utterance. Required. ``imblearn.pipeline.Pipeline`` hands it on only
            under ``sklearn.set_config(enable_metadata_routing=True)``.

        Returns
        -------
        X_resampled : {ndarray, sparse matrix, DataFrame} of shape (n_pairs, n_features)
            ``X[winner] - X[loser]`` or the opposite; a pandas frame for a pandas frame.
        y_resampled : ndarray of int, shape (n_pairs,)
            1 where the winner comes first, else -1.

        Notes
        -----
        The protocol has no room for weights: `session_weight` has no effect here. Use
        `max_pairs_per_session` to keep long sessions from drowning short ones.
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
        # Alternate signs in random order: two pairs are enough for both labels to occur.
        sign = rng.permutation(np.arange(len(pairs)) % 2 * 2 - 1)
        first = np.where(sign > 0, pairs.winner, pairs.loser)
        second = np.where(sign > 0, pairs.loser, pairs.winner)
        difference = values[first] - values[second]
        if hasattr(X, "iloc"):
            # The next step must meet in `fit` the column names that it meets in `predict`.
            difference = type(X)(difference, columns=X.columns)
        return difference, sign

    def _check_inputs(self, X, y):
        """Check X and y; gives the features and the scores, one column per class."""
        X = validate_data(
            self,
            X,
            y if y is None else "no_validation",
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
        )
        scores = _check_scores(y)
        check_consistent_length(X, scores)
        return X, scores

    def _draw(self, scores: FloatArray, groups, rng: np.random.RandomState) -> Pairs:
        """Draw pairs from checked scores."""
        if groups is None:
            raise ValueError(
                f"{type(self).__name__} needs groups, the session of each row; without them pairs "
                "would cross sessions. Pass groups=session_ids. An imblearn Pipeline hands it on "
                "only under sklearn.set_config(enable_metadata_routing=True)."
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
        """Weigh pairs given by their winners, which ascend as the sessions do."""
        if self.session_weight == "pairs" or not len(winner):
            return np.ones(len(winner))
        # Each session has the same total and the mean is 1.
        last = np.flatnonzero(np.diff(session, append=-1))
        counts = np.diff(np.searchsorted(winner, last, side="right"), prepend=0)
        share = len(winner) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return np.repeat(share, counts)

    def _choose(self, ladder: Ladder, n_pairs: int, rng: np.random.RandomState):
        """Choose pairs by the strategy; gives positions of winners and losers in the ladder."""
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
        # The winners ascend, and with them the sessions.
        kept = _choose_distinct(np.bincount(ladder.session[winner]), cap, rng)
        return winner[kept], loser[kept]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.target_tags.two_d_labels = True
        return tags
