"""Split sessions, few of which have human labels, into folds."""

from collections.abc import Iterator
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_random_state

from skpref._columns import read_rows
from skpref._indicator import is_multilabel, read_indicator
from skpref._typing import ArrayLike, BoolArray, FloatArray, IntArray, SessionIds
from skpref._validation import check_groups, check_labels

__all__ = ["LabelledGroupKFold"]


class LabelledGroupKFold(BaseCrossValidator):
    """K folds of whole sessions, with labelled rows of all classes in each as far as possible.

    `GroupKFold` may put all labelled sessions into some folds; the others cannot be scored. This
    splitter deals the labelled sessions first, each to the fold that has the fewest rows of its
    classes, and then the sessions without a label, each to the fold that has the fewest rows.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2 and at most the number of labelled sessions.
    shuffle : bool, default=False
        Whether to deal sessions of equal size in random order instead of order of appearance.
    random_state : int, RandomState instance or None, default=None
        Seed of the order, with `shuffle`.

    See Also
    --------
    sklearn.model_selection.GroupKFold : Balances the numbers of rows only.
    sklearn.model_selection.StratifiedGroupKFold : Needs a label in each row.
    skpref.metrics.make_labelled_scorer : Scores that are never NaN, for other splitters.

    Notes
    -----
    Each session is in the test set of exactly one fold. Rows without a label are split as well,
    since the classifier learns from their scores.

    Examples
    --------
    >>> from skpref.datasets import make_dialogues
    >>> from skpref.model_selection import LabelledGroupKFold
    >>> data = make_dialogues(n_sessions=20, labelled_fraction=0.2, random_state=0)
    >>> folds = LabelledGroupKFold(4).split(data.X, data.y, data.groups)
    >>> [len(set(data.groups[test][data.y[test] >= 0])) for _, test in folds]
    [1, 1, 1, 1]
    """

    __metadata_request__split: ClassVar[dict] = {"groups": True}

    n_splits: int
    shuffle: bool
    random_state: Any

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        if not isinstance(n_splits, Integral) or n_splits < 2:
            raise ValueError(f"n_splits={n_splits!r} must be an integer of 2 or more.")
        if not isinstance(shuffle, bool | np.bool_):
            raise ValueError(f"shuffle={shuffle!r} must be True or False.")
        if random_state is not None and not shuffle:
            raise ValueError(
                f"random_state={random_state!r} has no effect without shuffle; pass shuffle=True, "
                "or random_state=None."
            )
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state

    def get_n_splits(
        self, X: Any = None, y: ArrayLike | None = None, groups: SessionIds | None = None
    ) -> int:
        """Return the number of folds.

        Parameters
        ----------
        X : object, default=None
            Ignored.
        y : array-like of shape (n_samples,), default=None
            Ignored.
        groups : array-like of shape (n_samples,), default=None
            Ignored.

        Returns
        -------
        int
            Number of folds.
        """
        del X, y, groups
        return int(self.n_splits)

    def split(
        self, X: Any, y: ArrayLike | None = None, groups: SessionIds | None = None
    ) -> Iterator[tuple[IntArray, IntArray]]:
        """Return the rows of the training and the test set of each fold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Input; only its number of rows matters.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Human labels; -1 (numbers), None or NaN marks an unlabelled row or label.
        groups : array-like of shape (n_samples,)
            Session id of each row.

        Yields
        ------
        train : ndarray of int
            Rows of the training set, ascending.
        test : ndarray of int
            Rows of the test set, ascending.

        Raises
        ------
        ValueError
            If `y` or `groups` is missing, or fewer than `n_splits` sessions have a label.
        """
        X, n_rows = read_rows(X)
        if y is None or groups is None:
            missing = "y, the human labels," if y is None else "groups, the session of each row,"
            raise ValueError(
                f"LabelledGroupKFold needs {missing} to split; pass split(X, y, groups). A search "
                "passes groups on as search.fit(X, y, groups=groups)."
            )
        session = check_groups(groups, n_rows)
        kinds = _kinds_of_labels(y)
        if len(kinds) != n_rows:
            raise ValueError(f"y has {len(kinds)} entries but X has {n_rows} rows.")
        fold = self._assign(session, kinds)[session]
        for k in range(self.n_splits):
            yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)

    def _assign(self, session: IntArray, kinds: BoolArray) -> IntArray:
        """Return the fold of each session."""
        n_sessions = session.max(initial=-1) + 1
        labels = np.stack([np.bincount(session, kind, n_sessions) for kind in kinds.T], axis=1)
        n_labels, n_rows = labels.sum(axis=1), np.bincount(session, minlength=n_sessions)
        if (n_labelled := np.count_nonzero(n_labels)) < self.n_splits:
            raise ValueError(
                f"n_splits={self.n_splits} but only {n_labelled} sessions have a label; pass "
                "fewer folds, or label more sessions."
            )
        order = np.arange(n_sessions)
        if self.shuffle:
            order = check_random_state(self.random_state).permutation(n_sessions)
        by_size = order[np.lexsort((-n_rows[order], -n_labels[order]))]
        share = labels / np.maximum(labels.sum(axis=0), 1)
        fold = np.empty(n_sessions, dtype=np.int64)
        folds = _Folds(self.n_splits, labels.shape[1])
        for s in by_size:
            fold[s] = folds.put(share[s], n_labels[s], n_rows[s])
        return fold


def _kinds_of_labels(y: ArrayLike) -> BoolArray:
    """Return for each row which kinds of labels it has: of each class, none for an unlabelled row.

    Of several labels per row, each that applies is a kind, and that none applies is another.
    """
    if is_multilabel(y):
        codes = read_indicator(y)[1]
        return np.column_stack([codes == 1, codes.max(axis=1) == 0])
    classes, codes = check_labels(y, partial=True)
    return codes[:, None] == np.arange(max(len(classes), 1))


class _Folds:
    """Contents of each fold so far."""

    def __init__(self, n_splits: int, n_classes: int) -> None:
        self.share = np.zeros((n_splits, n_classes))
        self.n_labels = np.zeros(n_splits)
        self.n_rows = np.zeros(n_splits)

    def put(self, share: FloatArray, n_labels: float, n_rows: float) -> int:
        """Choose the fold of a session, given its share of the labels of each class."""
        # How much the sum of the squared shares of the folds grows, up to a constant: most where
        # the classes of the session are already.
        crowding = np.round(self.share @ share, 12) if n_labels else np.zeros(len(self.share))
        labels = self.n_labels if n_labels else np.zeros(len(self.share))
        k = int(np.lexsort((self.n_rows, labels, crowding))[0])
        self.share[k] += share
        self.n_labels[k] += n_labels
        self.n_rows[k] += n_rows
        return k
