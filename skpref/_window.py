"""The features of each utterance beside those of the turns before it."""

from numbers import Integral
from typing import ClassVar

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skpref._context import Columns, Windows, read_windows, wrap_frame
from skpref._sklearn import DocLinkMixin, HasMethods, Interval, _fit_context
from skpref._state import keeps_state_on_failure
from skpref._typing import IntArray
from skpref._validation import check_same_length, plain_output


def _rows_of_windows(windows: Windows, n_turns: int) -> IntArray:
    """Return the rows of each window, the newest first, -1 where there is no turn."""
    n_rows = len(windows.order)
    at = np.arange(n_rows)[:, None] + np.arange(n_turns + 1)
    inside = at < windows.stops[:, None]
    rows = np.full((n_rows, n_turns + 1), -1)
    rows[windows.order] = np.where(inside, windows.order[np.minimum(at, n_rows - 1)], -1)
    return rows


def _stack(features, rows: IntArray):
    """Put the features of the given rows side by side, zeros for row -1."""
    if sparse.issparse(features):
        nothing = sparse.csr_array((1, features.shape[1]), dtype=features.dtype)
        padded = sparse.vstack([features, nothing], format="csr")
        return sparse.hstack([padded[column] for column in rows.T], format="csr")
    padded = np.vstack([features, np.zeros((1, features.shape[1]), features.dtype)])
    return padded[rows].reshape(len(rows), rows.shape[1] * features.shape[1])


class TurnWindow(DocLinkMixin, TransformerMixin, BaseEstimator):
    """Stack the features of each utterance and of the turns before it in its session.

    The output for a row holds the features of its own turn, then those of up to `n_turns` turns
    before it, the newest first; zeros stand for turns before the first one. It never holds a later
    turn or one of another session. Each utterance is encoded once.

    Parameters
    ----------
    transformer : transformer
        From a frame of utterances to one row of features for each.
    n_turns : int, default=2
        Number of turns before the utterance.
    session : str or list of str, default="session_id"
        Column of the session ids, or columns that identify a session together.
    turn : str or None, default="turn"
        Column that orders the turns of a session, as for :class:`DialogueContext`.

    Attributes
    ----------
    transformer_ : transformer
        The fitted transformer.

    See Also
    --------
    DialogueContext : Joins the texts of the turns before the features are made.
    DialogueFeatures : Speaker and position of each utterance, as numbers.
    PairwisePreferenceClassifier : With ``module="turns"``, takes such windows.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skpref import DialogueContext, TurnWindow
    >>> turns = pd.DataFrame({"session_id": ["a", "a", "b"], "turn": [1, 2, 1]})
    >>> turns["text"] = ["no", "no no", "yes"]
    >>> words = make_pipeline(DialogueContext(n_turns=0), CountVectorizer())
    >>> TurnWindow(words, n_turns=1).fit_transform(turns).toarray()
    array([[1, 0, 0, 0],
           [2, 0, 1, 0],
           [0, 1, 0, 0]])
    """

    _parameter_constraints: ClassVar[dict] = {
        "transformer": [HasMethods(["fit", "transform"])],
        "n_turns": [Interval(Integral, 0, None, closed="left")],
        "session": [str, list, tuple],
        "turn": [str, None],
    }

    def __init__(self, transformer, n_turns=2, *, session="session_id", turn="turn"):
        self.transformer = transformer
        self.n_turns = n_turns
        self.session = session
        self.turn = turn

    @_fit_context(prefer_skip_nested_validation=False)
    @keeps_state_on_failure
    def fit(self, X, y=None):
        """Fit the transformer.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns)
            One turn per row, in any order: a frame of pandas, polars or another library that
            narwhals reads.
        y : array-like of shape (n_samples,), default=None
            Given to the transformer.

        Returns
        -------
        TurnWindow
            The transformer itself.

        Raises
        ------
        TypeError
            If `X` is not a frame.
        ValueError
            If `X` lacks a column.
        """
        self._columns().check(wrap_frame(X))
        self.transformer_ = plain_output(self.transformer).fit(X, y)
        return self

    def transform(self, X):
        """Stack the features of each utterance and of the turns before it.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns)
            One turn per row, in any order.

        Returns
        -------
        {ndarray, CSR array} of shape (n_samples, (n_turns + 1) * n_features)
            The windows, in the order of the rows of `X`.

        Raises
        ------
        TypeError
            If `X` is not a frame.
        ValueError
            If `X` lacks a column, a value that is read is missing, turns cannot be ordered, two
            rows of a session have the same turn, or the transformer does not give one row of
            features for each utterance.
        """
        check_is_fitted(self)
        frame, columns = wrap_frame(X), self._columns()
        columns.check(frame)
        rows = _rows_of_windows(read_windows(frame, columns, self.n_turns), self.n_turns)
        features = self.transformer_.transform(X)
        if not sparse.issparse(features):
            features = np.asarray(features)
        check_same_length(features.shape[0], "the output of transformer", len(rows), "X")
        return _stack(features, rows)

    def get_feature_names_out(self, input_features=None):
        """Name the features of each turn of the window.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Given to the transformer.

        Returns
        -------
        ndarray of str, shape ((n_turns + 1) * n_features,)
            "turn0_x" for the feature x of the utterance, "turn1_x" for that of the turn before.
        """
        names = self.transformer_.get_feature_names_out(input_features)
        return np.array([f"turn{k}_{n}" for k in range(self.n_turns + 1) for n in names], object)

    def _columns(self) -> Columns:
        return Columns(None, self.session, self.turn, None)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
