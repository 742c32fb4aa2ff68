"""Who speaks, how far into the session and how much, as numbers."""

from numbers import Real
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from skpref._columns import is_missing
from skpref._context import Columns, read_utterances, wrap_frame
from skpref._sklearn import DocLinkMixin, Interval, _fit_context
from skpref._state import keeps_state_on_failure
from skpref._typing import FloatArray
from skpref._validation import check_groups


def _read_speakers(frame, name: str) -> np.ndarray:
    """Return the speaker of each row as a str, None where it is missing."""
    values = frame[name].to_numpy()
    missing = frame[name].is_null().to_numpy() | is_missing(values)
    speakers = np.array(list(map(str, values.tolist())), dtype=object)
    speakers[missing] = None
    return speakers


def _find_roles(speakers: np.ndarray, sessions: np.ndarray) -> np.ndarray:
    """Return the speakers who speak in at least half of the sessions."""
    session = check_groups(sessions, len(sessions)).tolist()
    spoke = set(zip(speakers.tolist(), session, strict=True))
    names, n_sessions = np.unique([who for who, _ in spoke if who is not None], return_counts=True)
    return names[2 * n_sessions >= len(set(session))].astype(object)


class DialogueFeatures(DocLinkMixin, TransformerMixin, BaseEstimator):
    """Turn speaker, position and length of each utterance into features beside its embedding.

    An embedding of the text does not show who speaks, how far the session is, or how long the
    utterance is. Put these features beside it by `make_union` or `ColumnTransformer`.

    Parameters
    ----------
    speaker : str or None, default="speaker"
        Column of the speakers. Those who speak in at least half of the sessions, such as
        "customer" and "agent", are a feature each; a speaker who is missing, unknown or rarer is
        zero in all of them. None leaves them out.
    scale : float, default=0.3
        Size of the features: that of the feature of a speaker, and the standard deviation of
        position and length. An embedding has the norm 1.
    text : str, default="text"
        Column of the utterances, all of them str.
    session : str or list of str, default="session_id"
        Column of the session ids, any hashable values. Several columns identify a session
        together.
    turn : str or None, default="turn"
        Column that orders the turns of a session, as for :class:`DialogueContext`.

    Attributes
    ----------
    speakers_ : ndarray of str, shape (n_speakers,)
        The speakers that are features.
    mean_, std_ : ndarray of shape (2,)
        Mean and standard deviation of the logarithms of position and length.
    n_features_in_ : int
        Number of columns that are read.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns that are read; `X` may have others.

    See Also
    --------
    DialogueContext : Joins each utterance with the turns before it.
    SentenceEncoder : Embeds the text.

    Notes
    -----
    All features are known while the session is live: the position is the number of turns before
    the utterance, not relative to the end of the session.

    Rare speakers are left out, since features of persons lost up to 1.3 points of macro-F1 on real
    dialogues (benchmarks/results/levers.md). If no speaker is a feature, make a column of roles.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpref import DialogueFeatures
    >>> turns = pd.DataFrame(
    ...     {
    ...         "session_id": ["a", "a", "b", "b"],
    ...         "turn": [1, 2, 1, 2],
    ...         "speaker": ["client", "agent", "client", "agent"],
    ...         "text": ["It broke.", "Since when?", "Hello.", "Good morning!"],
    ...     }
    ... )
    >>> features = DialogueFeatures().set_output(transform="pandas")
    >>> features.fit_transform(turns).round(1)
       speaker_agent  speaker_client  position  length
    0            0.0             0.3      -0.3    -0.0
    1            0.3             0.0       0.3     0.2
    2            0.0             0.3      -0.3    -0.5
    3            0.3             0.0       0.3     0.3
    """

    _parameter_constraints: ClassVar[dict] = {
        "speaker": [str, None],
        "scale": [Interval(Real, 0, None, closed="neither")],
        "text": [str],
        "session": [str, list, tuple],
        "turn": [str, None],
    }

    def __init__(
        self, *, speaker="speaker", scale=0.3, text="text", session="session_id", turn="turn"
    ):
        self.speaker = speaker
        self.scale = scale
        self.text = text
        self.session = session
        self.turn = turn

    @_fit_context(prefer_skip_nested_validation=True)
    @keeps_state_on_failure
    def fit(self, X, y=None):  # noqa: ARG002
        """Learn the speakers, and the mean and spread of position and length.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns)
            One turn per row, in any order: a frame of pandas, polars or another library that
            narwhals reads.
        y : None
            Not used.

        Returns
        -------
        DialogueFeatures
            The transformer itself.

        Raises
        ------
        TypeError
            If `X` is not a frame.
        ValueError
            If `X` lacks a column, a value other than a speaker is missing, an utterance is not a
            str, or turns cannot be ordered.
        """
        frame = wrap_frame(X)
        # A column that is not read, such as the label, may be absent from later frames.
        names = self._columns().check(frame)
        validate_data(self, frame.select(names).to_native(), skip_check_array=True)
        speakers, sessions, numbers = self._read(frame)
        self.speakers_ = _find_roles(speakers, sessions)
        self.mean_ = numbers.mean(axis=0)
        self.std_ = np.where(numbers.std(axis=0) > 0, numbers.std(axis=0), 1.0)
        return self

    def transform(self, X):
        """Return the features of each utterance.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns)
            One turn per row, in any order.

        Returns
        -------
        ndarray of float32, shape (n_samples, n_speakers + 2)
            Speakers, position and length.

        Raises
        ------
        TypeError
            If `X` is not a frame.
        ValueError
            As for `fit`.
        """
        check_is_fitted(self)
        frame = wrap_frame(X)
        self._columns().check(frame)
        speakers, _, numbers = self._read(frame)
        is_speaker = speakers[:, None] == self.speakers_
        numbers = (numbers - self.mean_) / self.std_
        return (self.scale * np.hstack([is_speaker, numbers])).astype(np.float32)

    def get_feature_names_out(self, input_features=None):  # noqa: ARG002
        """Name the features.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Not used.

        Returns
        -------
        ndarray of str, shape (n_speakers + 2,)
            "speaker_agent" for the speaker "agent", "position" and "length".
        """
        check_is_fitted(self)
        speakers = [f"speaker_{name}" for name in self.speakers_]
        return np.array([*speakers, "position", "length"], dtype=object)

    def _columns(self) -> Columns:
        return Columns(self.text, self.session, self.turn, self.speaker)

    def _read(self, frame) -> tuple[np.ndarray, np.ndarray, FloatArray]:
        """Return speakers, sessions, and the logarithms of position and length."""
        columns = self._columns()._replace(speaker=None)
        values = read_utterances(frame, columns, len(frame))
        n_before = np.empty(len(frame))
        n_before[values.order] = values.stops - np.arange(len(frame)) - 1
        numbers = np.log1p(np.column_stack([n_before, list(map(len, values.texts))]))
        if self.speaker is None:
            return np.full(len(frame), None), values.sessions, numbers
        return _read_speakers(frame, self.speaker), values.sessions, numbers

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
