"""Each utterance with the turns before it in its session."""

from collections.abc import Sequence
from numbers import Integral
from string import Formatter
from typing import ClassVar, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import validate_data

from skpref._sklearn import DocLinkMixin, Interval, StrOptions, _fit_context
from skpref._turn_order import rank_strings
from skpref._typing import BoolArray, IntArray
from skpref._validation import check_groups, is_missing

_REMEDIES = {
    "text": 'fill them with "" or leave those rows out',
    "session": "give every row the id of its session",
    "turn": "number every turn, or pass turn=None to take the order of the rows",
    "speaker": 'fill them with a name such as "unknown", or pass speaker=None',
}


class Columns(NamedTuple):
    """The names of the columns that are read; None is a column that is not used."""

    text: str
    session: str | Sequence[str]
    turn: str | None
    speaker: str | None

    def sessions(self) -> list[str]:
        """Return the columns that identify a session.

        Returns
        -------
        list of str
            The names.
        """
        names = [self.session] if isinstance(self.session, str) else list(self.session)
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"session={self.session!r} must be the name of a column, or a list of names."
            )
        return names

    def check(self, frame) -> list[str]:
        """Check that a frame has the columns.

        Parameters
        ----------
        frame : narwhals.DataFrame
            A frame of any library.

        Returns
        -------
        list of str
            The names, each once.
        """
        names = [("text", self.text), *(("session", name) for name in self.sessions())]
        others = [("turn", self.turn), ("speaker", self.speaker)]
        names += [(parameter, name) for parameter, name in others if name is not None]
        for parameter, name in names:
            if name not in frame.columns:
                raise ValueError(
                    f"{parameter}={name!r} is not a column of X; pass {parameter}= one of "
                    f"{list(frame.columns)}."
                )
        return list(dict.fromkeys(name for _, name in names))


class Utterances(NamedTuple):
    """The columns of a frame, read, and the window of each utterance in its session.

    `order` sorts the rows by session, newest utterance first. The window of the i-th row in that
    order goes from i to `stops[i]`: the utterance, then those before it.
    """

    texts: list[str]
    speakers: list[str] | None
    sessions: np.ndarray
    order: IntArray
    stops: IntArray


def wrap_frame(X):
    """Wrap a frame of any library.

    Parameters
    ----------
    X : DataFrame
        Of pandas, polars or another library that narwhals reads.

    Returns
    -------
    narwhals.DataFrame
        The same frame.
    """
    try:
        return nw.from_native(X, eager_only=True)
    except TypeError:
        raise TypeError(
            f"X is a {type(X).__name__}; pass a pandas or polars DataFrame that holds the turns "
            "(a lazy one collected), so that the columns can be found by name."
        ) from None


def read_utterances(frame, columns: Columns, n_turns: int) -> Utterances:
    """Read the utterances of a frame and find the window of each one.

    Parameters
    ----------
    frame : narwhals.DataFrame
        One utterance per row, in any order.
    columns : Columns
        The names of its columns.
    n_turns : int
        Number of utterances before each one.

    Returns
    -------
    Utterances
        The values.
    """
    sessions = _read_sessions(frame, columns.sessions())
    ranks: IntArray = np.arange(len(frame))
    codes = check_groups(sessions, len(frame))
    if columns.turn is not None:
        values = _read_column(frame, "turn", columns.turn)
        ranks = _rank_turns(_in_order(values, frame[columns.turn].dtype), columns.turn)
    order, stops = _find_windows(codes, ranks, columns.turn, n_turns)
    texts = _read_column(frame, "text", columns.text).tolist()
    no_str = np.fromiter((not isinstance(t, str) for t in texts), dtype=bool, count=len(texts))
    _refuse_rows(no_str, f"text={columns.text!r} is not str", "convert the column to str")
    speakers = None
    if columns.speaker is not None:
        speakers = list(map(str, _read_column(frame, "speaker", columns.speaker).tolist()))
    return Utterances(texts, speakers, sessions, order, stops)


def _refuse_rows(bad: BoolArray, problem: str, remedy: str) -> None:
    """Raise if any row is bad, with the number of bad rows and the first ones."""
    if bad.any():
        rows = np.flatnonzero(bad)
        raise ValueError(f"{problem} in {len(rows)} rows (first: {rows[:3].tolist()}); {remedy}.")


def _read_column(frame, parameter: str, name: str) -> np.ndarray:
    """Return the values of a column, none of which may be missing."""
    values = frame[name].to_numpy()
    # A NaN is not null in polars.
    missing = frame[name].is_null().to_numpy() | is_missing(values)
    _refuse_rows(missing, f"{parameter}={name!r} is missing (None or NaN)", _REMEDIES[parameter])
    return values


def _read_sessions(frame, names: list[str]) -> np.ndarray:
    """Return the session of each row, a tuple if several columns identify it."""
    values = [_read_column(frame, "session", name) for name in names]
    if len(values) == 1:
        return values[0]
    parts = zip(*(column.tolist() for column in values), strict=True)
    return np.fromiter(parts, dtype=object, count=len(frame))


def _in_order(values: np.ndarray, dtype) -> np.ndarray:
    """Return the positions of ordered categories, which have an order of their own."""
    if not isinstance(dtype, nw.Enum):
        return values
    position = {category: i for i, category in enumerate(dtype.categories)}
    return np.array([position[value] for value in values.tolist()])


def _rank_turns(values: np.ndarray, name: str) -> IntArray:
    """Rank the turns over all sessions; equal ones get equal ranks."""
    if values.dtype.kind in "OUT" and all(isinstance(value, str) for value in values):
        return rank_strings(values.tolist(), name)
    try:
        return np.unique(values, return_inverse=True)[1]
    except TypeError:
        types = sorted({type(v).__name__ for v in values})
        raise ValueError(
            f"turn={name!r} has values that cannot be put in order, of type {', '.join(types)}; "
            "pass numbers, datetimes or strings of one type."
        ) from None


def _find_windows(
    sessions: IntArray, ranks: IntArray, turn: str | None, n_turns: int
) -> tuple[IntArray, IntArray]:
    """Sort by session, newest utterance first; the i-th window goes from i to its stop."""
    n = len(sessions)
    order = np.lexsort((-ranks, sessions))
    sessions, ranks = sessions[order], ranks[order]
    same = (sessions[1:] == sessions[:-1]) & (ranks[1:] == ranks[:-1])
    repeated = np.zeros(n, dtype=bool)
    repeated[order[1:][same]] = repeated[order[:-1][same]] = True
    problem = f"turn={turn!r} is that of another row of the same session"
    remedy = "number the turns of a session apart, or pass turn=None to take the row order"
    _refuse_rows(repeated, problem, remedy)
    ends = np.bincount(sessions).cumsum()[sessions]
    return order, np.minimum(np.arange(1, n + 1) + min(n_turns, n), ends)


class DialogueContext(DocLinkMixin, TransformerMixin, BaseEstimator):
    r"""Join each utterance with the turns before it in its session.

    The output for a row is its own turn, followed by up to `n_turns` turns before it, the newest
    first. The utterance comes first so that an encoder that cuts long input cuts the oldest
    turns. It never holds a later turn or one of another session.

    Parameters
    ----------
    n_turns : int, default=2
        Number of turns before the utterance. If there are fewer, all of them.
    text : str, default="text"
        Column of the utterances, all of them str.
    session : str or list of str, default="session_id"
        Column of the session ids, any hashable values. Several columns identify a session
        together: ``["channel", "chat_id"]``.
    turn : str or None, default="turn"
        Column that orders the turns of a session: numbers, datetimes, ordered categories or
        strings. Strings that are numbers, times or dates are ordered as such, or refused if it is
        not clear which day or time they mean; others are compared as text. None takes the order
        of the rows.
    speaker : str, default=None
        Column of the speakers.
    template : str, default=None
        Format of one turn, with the fields ``{text}`` and, if there is a `speaker` column,
        ``{speaker}``. None is "{text}", or "{speaker}: {text}" with `speaker`.
    separator : str, default="\\n"
        String between two turns.
    output : {"concat", "columns"}, default="concat"
        "concat" gives one string per row, and a frame only if `set_output` asks for one: a
        vectorizer would read the name of its column as the only text. "columns" gives a frame with
        the utterance's turn in the column "text" and the turns before it in "context", to encode
        them separately.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns that are read.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns that are read; `X` may have others.

    See Also
    --------
    SentenceEncoder : Turns the strings into embeddings.
    PairwisePreferenceClassifier : Classifies utterances by their embeddings.

    Notes
    -----
    `fit` learns nothing, so `transform` also works without it. Only turns in `X` can be
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
        "session": [str, list, tuple],
        "turn": [str, None],
        "speaker": [str, None],
        "template": [str, None],
        "separator": [str],
        "output": [StrOptions({"concat", "columns"})],
    }

    # The global setting `transform_output` does not apply: see `output`.
    _sklearn_output_config: ClassVar[dict] = {"transform": "default"}

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
        """Check the parameters and that the columns exist.

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
        self._resolve_template()
        frame = wrap_frame(X)
        # A column that is not read, such as the label, may be absent from later frames.
        names = self._columns().check(frame)
        validate_data(self, frame.select(names).to_native(), skip_check_array=True)
        return self

    def transform(self, X):
        """Append to each utterance the turns before it.

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
        template, frame, columns = self._resolve_template(), wrap_frame(X), self._columns()
        columns.check(frame)
        utterances = read_utterances(frame, columns, self.n_turns)
        order = utterances.order
        turns = _format_turns(utterances, template)
        lines, first = turns[order].tolist(), int(self.output == "columns")
        stops = utterances.stops.tolist()
        joined = np.empty_like(turns)
        joined[order] = [self.separator.join(lines[i:stop]) for i, stop in enumerate(stops, first)]
        if self.output == "concat":
            return joined
        series = [
            nw.new_series(name, values, nw.String, backend=frame.implementation)
            for name, values in [("text", turns), ("context", joined)]
        ]
        # Through the given frame, so that the new columns take its index.
        return frame.with_columns(*series).select("text", "context").to_native()

    def set_output(self, *, transform=None):
        """Set the container of the output.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, default=None
            The container; "default" is that of `transform`, and None leaves the setting as it is.

        Returns
        -------
        DialogueContext
            The transformer itself.
        """
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self

    def get_feature_names_out(self, input_features=None):  # noqa: ARG002
        """Name the columns of the output.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Not used.

        Returns
        -------
        ndarray of str, shape (1,) or (2,)
            "text", and "context" with ``output="columns"``.
        """
        names = ["text"] if self.output == "concat" else ["text", "context"]
        return np.asarray(names, dtype=object)

    def _columns(self) -> Columns:
        return Columns(self.text, self.session, self.turn, self.speaker)

    def _resolve_template(self) -> str:
        """Return the format of one turn, after checking its fields."""
        allowed = ["text"] if self.speaker is None else ["text", "speaker"]
        if self.template is None:
            return ": ".join(f"{{{name}}}" for name in reversed(allowed))
        try:
            parsed = Formatter().parse(self.template)
            fields = {name for _, name, _, _ in parsed if name is not None}
            valid = "text" in fields and fields <= set(allowed)
            if valid:
                self.template.format(text="", speaker="")
        except (ValueError, LookupError):
            valid = False
        if not valid:
            expected = " and ".join(f"{{{name}}}" for name in allowed)
            raise ValueError(
                f"template={self.template!r} is not a format of {expected}; pass a string with "
                '{text} and, if speaker names a column, {speaker}, such as "{text}".'
            )
        return self.template

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        return tags


def _format_turns(utterances: Utterances, template: str) -> np.ndarray:
    """Format each utterance separately."""
    texts = utterances.texts
    speakers = utterances.speakers or texts
    lines = np.empty(len(texts), dtype=object)
    lines[:] = [
        template.format(text=text, speaker=speaker)
        for text, speaker in zip(texts, speakers, strict=True)
    ]
    return lines
