"""Utterances with the turns before them in their session."""

from numbers import Integral
from string import Formatter
from typing import ClassVar

import narwhals.stable.v2 as nw
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import validate_data

from skpref._sklearn import DocLinkMixin, Interval, StrOptions, _fit_context
from skpref._typing import BoolArray, IntArray
from skpref._validation import check_groups, is_missing

_REMEDIES = {
    "text": 'fill them with "" or leave those rows out',
    "session": "give every row the id of its session",
    "turn": "number every turn, or pass turn=None to take the order of the rows",
    "speaker": 'fill them with a name such as "unknown", or pass speaker=None',
}


def _refuse(bad: BoolArray, problem: str, remedy: str) -> None:
    """Raise if any row is bad; says how many are, and where the first ones are."""
    if bad.any():
        rows = np.flatnonzero(bad)
        raise ValueError(f"{problem} in {len(rows)} rows (first: {rows[:3].tolist()}); {remedy}.")


def _check_frame(X):
    """Wrap a frame of any library."""
    try:
        return nw.from_native(X, eager_only=True)
    except TypeError:
        raise TypeError(
            f"X is a {type(X).__name__}; pass a pandas or polars DataFrame that holds the turns "
            "(a lazy one collected), so that the columns can be found by name."
        ) from None


def _rank_turns(values: np.ndarray, name: str) -> IntArray:
    """Rank the turns over all sessions; equal ones get equal ranks."""
    try:
        return np.unique(values, return_inverse=True)[1]
    except TypeError:
        types = sorted({type(v).__name__ for v in values})
        raise ValueError(
            f"turn={name!r} has values that cannot be put in order, of type {', '.join(types)}; "
            "pass numbers, datetimes or strings of one type."
        ) from None


class DialogueContext(DocLinkMixin, TransformerMixin, BaseEstimator):
    r"""Give each utterance the turns before it in its session.

    The output for a row is its own turn, followed by up to `n_turns` turns before it, the newest
    first. The utterance comes first so that an encoder that cuts long input cuts the oldest
    turns. It never holds a later turn or one of another session.

    Parameters
    ----------
    n_turns : int, default=2
        Number of turns before the utterance. Where there are fewer, all of them.
    text : str, default="text"
        Column of the utterances, all of them str.
    session : str, default="session_id"
        Column of the session ids, any hashable values.
    turn : str or None, default="turn"
        Column that orders the turns of a session: numbers, datetimes or strings. Strings are
        compared as text, which suits ISO timestamps but puts "10" before "2". None takes the
        order of the rows.
    speaker : str, default=None
        Column of the speakers.
    template : str, default=None
        Format of one turn, with the fields ``{text}`` and, where there is a `speaker` column,
        ``{speaker}``. None is "{text}", or "{speaker}: {text}" with `speaker`.
    separator : str, default="\\n"
        Put between two turns.
    output : {"concat", "columns"}, default="concat"
        "concat" gives one string per row. "columns" gives a frame with the utterance's turn in
        the column "text" and the turns before it in "context", for encoders of their own.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns that are read.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns that are read; `X` may have others.

    See Also
    --------
    SentenceEncoder : Turns the strings to embeddings.
    PairwisePreferenceClassifier : Classifies utterances by their embeddings.

    Notes
    -----
    Nothing is learnt in `fit`, so `transform` also works without it. Only turns in `X` can be
    context: a split between training and test data must keep sessions whole, as
    :class:`sklearn.model_selection.GroupKFold` does, or the context is cut.

    In a live dialogue, ``context.transform(session)[-1:]`` is the newest turn given its history,
    where `session` is the frame of the turns so far.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpref import DialogueContext
    >>> turns = pd.DataFrame(
    ...     {
    ...         "session_id": ["a", "a", "b", "a"],
    ...         "turn": [1, 2, 1, 3],
    ...         "speaker": ["client", "agent", "client", "client"],
    ...         "text": ["It broke.", "Since when?", "Hello.", "Yesterday."],
    ...     }
    ... )
    >>> context = DialogueContext(speaker="speaker", separator=" | ")
    >>> for line in context.fit_transform(turns):
    ...     print(line)
    client: It broke.
    agent: Since when? | client: It broke.
    client: Hello.
    client: Yesterday. | agent: Since when? | client: It broke.
    >>> DialogueContext(1, output="columns").fit_transform(turns)
              text      context
    0    It broke.
    1  Since when?    It broke.
    2       Hello.
    3   Yesterday.  Since when?
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_turns": [Interval(Integral, 0, None, closed="left")],
        "text": [str],
        "session": [str],
        "turn": [str, None],
        "speaker": [str, None],
        "template": [str, None],
        "separator": [str],
        "output": [StrOptions({"concat", "columns"})],
    }

    def __init__(
        self,
        n_turns=2,
        *,
        text="text",
        session="session_id",
        turn="turn",
        speaker=None,
        template=None,
        separator="\n",
        output="concat",
    ):
        self.n_turns = n_turns
        self.text = text
        self.session = session
        self.turn = turn
        self.speaker = speaker
        self.template = template
        self.separator = separator
        self.output = output

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):  # noqa: ARG002
        """Check the parameters and that the columns are there.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns)
            One turn per row, in any order: a frame of pandas, polars or another library that
            narwhals reads.
        y : None
            Not used.

        Returns
        -------
        DialogueContext
            The transformer itself.

        Raises
        ------
        TypeError
            If `X` is not a frame.
        ValueError
            If `X` lacks a column, or `template` lacks ``{text}`` or has an unknown field.
        """
        self._check_template()
        frame = _check_frame(X)
        # A column that is not read, such as the label, may be absent from later frames.
        names = self._check_columns(frame)
        validate_data(self, frame.select(names).to_native(), skip_check_array=True)
        return self

    def transform(self, X):
        """Put the turns before each utterance behind it.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns)
            One turn per row, in any order.

        Returns
        -------
        ndarray of str objects, shape (n_samples,), or DataFrame of shape (n_samples, 2)
            One string per row, or the columns "text" and "context" in a frame of the library
            (and with the index) of `X`. Rows are in the order of `X`.

        Raises
        ------
        TypeError
            If `X` is not a frame.
        ValueError
            If `X` lacks a column, a value that is read is missing, an utterance is not a str,
            turns cannot be ordered, or two rows of a session have the same turn.
        """
        self._validate_params()
        template, frame = self._check_template(), _check_frame(X)
        self._check_columns(frame)
        order, stops = self._find_windows(frame)
        turns = self._format_turns(frame, template)
        lines, first = turns[order].tolist(), int(self.output == "columns")
        joined = np.empty_like(turns)
        joined[order] = [
            self.separator.join(lines[i:stop]) for i, stop in enumerate(stops.tolist(), first)
        ]
        if self.output == "concat":
            return joined
        series = [
            nw.new_series(name, values, nw.String, backend=frame.implementation)
            for name, values in [("text", turns), ("context", joined)]
        ]
        # By way of the given frame, whose index the new columns take.
        return frame.with_columns(*series).select("text", "context").to_native()

    def get_feature_names_out(self, input_features=None):  # noqa: ARG002
        """Name the columns of the output.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Not used.

        Returns
        -------
        ndarray of str, shape (1,) or (2,)
            "text", and "context" where that is a column of its own.
        """
        names = ["text"] if self.output == "concat" else ["text", "context"]
        return np.asarray(names, dtype=object)

    def _check_template(self) -> str:
        """Give the format of one turn after checking its fields."""
        known = ["text"] if self.speaker is None else ["text", "speaker"]
        if self.template is None:
            return ": ".join(f"{{{name}}}" for name in reversed(known))
        try:
            parsed = Formatter().parse(self.template)
            fields = {name for _, name, _, _ in parsed if name is not None}
            valid = "text" in fields and fields <= set(known)
            if valid:
                self.template.format(text="", speaker="")
        except (ValueError, LookupError):
            valid = False
        if not valid:
            expected = " and ".join(f"{{{name}}}" for name in known)
            raise ValueError(
                f"template={self.template!r} is not a format of {expected}; pass a string with "
                '{text} and, where speaker names a column, {speaker}, such as "{text}".'
            )
        return self.template

    def _check_columns(self, frame) -> list[str]:
        """Give the columns that the parameters name, after checking that they are there."""
        names = {p: getattr(self, p) for p in _REMEDIES if getattr(self, p) is not None}
        for parameter, name in names.items():
            if name not in frame.columns:
                raise ValueError(
                    f"{parameter}={name!r} is not a column of X; pass {parameter}= one of "
                    f"{list(frame.columns)}."
                )
        return list(dict.fromkeys(names.values()))

    def _read(self, frame, parameter: str) -> np.ndarray:
        """Read the column of a parameter, no value of which may be missing."""
        name = getattr(self, parameter)
        values = frame[name].to_numpy()
        # A NaN is not null in polars; a NaT is not seen by is_missing.
        missing = frame[name].is_null().to_numpy() | is_missing(values)
        problem = f"{parameter}={name!r} is missing (None or NaN)"
        _refuse(missing, problem, _REMEDIES[parameter])
        return values

    def _find_windows(self, frame) -> tuple[IntArray, IntArray]:
        """Sort by session, newest turn first; the window of the i-th goes from i to its stop."""
        n = len(frame)
        sessions = check_groups(self._read(frame, "session"), n)
        ranks: IntArray = np.arange(n)
        if self.turn is not None:
            ranks = _rank_turns(self._read(frame, "turn"), self.turn)
        order = np.lexsort((-ranks, sessions))
        sessions, ranks = sessions[order], ranks[order]
        same = (sessions[1:] == sessions[:-1]) & (ranks[1:] == ranks[:-1])
        repeated = np.zeros(n, dtype=bool)
        repeated[order[1:][same]] = repeated[order[:-1][same]] = True
        problem = f"turn={self.turn!r} is that of another row of the same session"
        remedy = "number the turns of a session apart, or pass turn=None to take the row order"
        _refuse(repeated, problem, remedy)
        ends = np.bincount(sessions).cumsum()[sessions]
        return order, np.minimum(np.arange(1, n + 1) + min(self.n_turns, n), ends)

    def _format_turns(self, frame, template: str) -> np.ndarray:
        """Format the turn of each row by itself."""
        texts = self._read(frame, "text").tolist()
        no_str = np.fromiter((not isinstance(t, str) for t in texts), dtype=bool, count=len(texts))
        remedy = "convert the column to str"
        _refuse(no_str, f"text={self.text!r} is not str", remedy)
        speakers = texts
        if self.speaker is not None:
            speakers = self._read(frame, "speaker").tolist()
        pairs = zip(texts, map(str, speakers), strict=True)
        turns = np.empty(len(texts), dtype=object)
        turns[:] = [template.format(text=text, speaker=speaker) for text, speaker in pairs]
        return turns

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        return tags
