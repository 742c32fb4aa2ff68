import pickle
import re
from datetime import date, datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import SkipTestWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from skpref._context import DialogueContext

LIBRARIES = ["pandas", "polars"]


def as_frame(columns, library="pandas"):
    return pytest.importorskip(library).DataFrame(columns)


def dialogue(library="pandas", **changed):
    """Two sessions, their rows mixed and out of order."""
    columns = {
        "session_id": ["b", "a", "a", "b", "a"],
        "turn": [7, 3, 1, 9, 2],
        "speaker": ["client", "client", "client", "agent", "agent"],
        "text": ["B7", "A3", "A1", "B9", "A2"],
    }
    return as_frame({**columns, **changed}, library)


def naive(sessions, turns, texts, n_turns, separator="\n"):
    """Look for the turns before each row among all rows."""
    context = []
    for session, turn in zip(sessions, turns, strict=True):
        rows = [i for i, s in enumerate(sessions) if s == session and turns[i] < turn]
        rows = sorted(rows, key=lambda i: turns[i], reverse=True)[:n_turns]
        context.append(separator.join(texts[i] for i in rows))
    return context


@st.composite
def dialogues(draw):
    """Sessions, turns and texts, no turn twice in a session."""
    row = st.tuples(st.integers(0, 3), st.integers(-20, 20))
    rows = draw(st.lists(row, unique=True, max_size=25))
    texts = draw(st.lists(st.text(max_size=4), min_size=len(rows), max_size=len(rows)))
    sessions, turns = [s for s, _ in rows], [t for _, t in rows]
    return {"session_id": sessions, "turn": turns, "text": texts}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("n_turns", "expected"),
    [
        (0, ["B7", "A3", "A1", "B9", "A2"]),
        (1, ["B7", "A3|A2", "A1", "B9|B7", "A2|A1"]),
        (2, ["B7", "A3|A2|A1", "A1", "B9|B7", "A2|A1"]),
        (10**30, ["B7", "A3|A2|A1", "A1", "B9|B7", "A2|A1"]),
    ],
)
def test_output_is_the_utterance_then_the_turns_before_it(library, n_turns, expected):
    out = DialogueContext(n_turns, separator="|").fit_transform(dialogue(library))
    assert isinstance(out, np.ndarray)
    assert (out.dtype, out.shape) == (object, (5,))
    assert {type(line) for line in out} == {str}
    assert out.tolist() == expected


@pytest.mark.parametrize("library", LIBRARIES)
def test_columns_are_a_frame_of_the_same_library(library):
    X = dialogue(library)
    out = DialogueContext(1, speaker="speaker", output="columns").fit_transform(X)
    assert type(out) is type(X)
    assert list(out.columns) == ["text", "context"]
    own = ["client: B7", "client: A3", "client: A1", "agent: B9", "agent: A2"]
    assert list(out["text"]) == own
    assert list(out["context"]) == ["", "agent: A2", "", "client: B7", "client: A1"]


def test_columns_keep_a_pandas_index_even_with_repeats():
    X = dialogue().set_index(pd.Index([4, 4, 0, 9, 4], name="row"))
    context = DialogueContext(output="columns")
    pd.testing.assert_index_equal(context.fit_transform(X).index, X.index)
    shuffled = pd.concat([X["text"], context.transform(X)["text"]], axis=1)
    assert (shuffled.iloc[:, 0] == shuffled.iloc[:, 1]).all()


@pytest.mark.slow
@settings(deadline=None)
@given(dialogues(), st.integers(0, 4))
def test_output_is_that_of_a_loop_over_all_rows(columns, n_turns):
    expected = naive(columns["session_id"], columns["turn"], columns["text"], n_turns)
    X = pd.DataFrame(columns)
    out = DialogueContext(n_turns, output="columns").fit_transform(X)
    assert out["text"].tolist() == columns["text"]
    assert out["context"].tolist() == expected
    if n_turns:
        joined = DialogueContext(n_turns, separator="").fit_transform(X).tolist()
        expected = naive(columns["session_id"], columns["turn"], columns["text"], n_turns, "")
        assert joined == [t + c for t, c in zip(columns["text"], expected, strict=True)]


@pytest.mark.slow
@settings(deadline=None)
@given(dialogues(), st.integers(0, 4), st.randoms())
def test_shuffled_rows_give_shuffled_output(columns, n_turns, random):
    X = pd.DataFrame(columns)
    rows = list(range(len(X)))
    random.shuffle(rows)
    context = DialogueContext(n_turns)
    out = context.fit_transform(X)
    assert context.transform(X.iloc[rows]).tolist() == out[rows].tolist()


@pytest.mark.slow
@settings(deadline=None)
@given(dialogues().filter(lambda columns: columns["turn"]), st.integers(0, 4), st.data())
def test_output_depends_only_on_earlier_rows_of_the_session(columns, n_turns, data):
    X = pd.DataFrame(columns)
    row = data.draw(st.integers(0, len(X) - 1))
    context = DialogueContext(n_turns)
    out = context.fit_transform(X)[row]
    session, turn = X["session_id"][row], X["turn"][row]
    needed = (X["session_id"] == session) & (X["turn"] <= turn)
    changed = X.assign(text=X["text"].where(needed, "changed"))
    assert context.transform(changed)[row] == out
    alone = X[needed]
    assert context.transform(alone)[alone.index.get_loc(row)] == out


@pytest.mark.parametrize("library", LIBRARIES)
def test_turn_none_takes_the_order_of_the_rows(library):
    X = dialogue(library)[["text", "session_id"]]
    out = DialogueContext(turn=None, separator="|").fit_transform(X)
    assert out.tolist() == ["B7", "A3", "A1|A3", "B9|B7", "A2|A1|A3"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "turn",
    [
        [7.5, 3.0, -np.inf, 9.0, 2.0],
        [10**17 + 1, 10**17 + 3, 10**17 + 1, 10**17 + 2, 10**17 + 2],
        [f"2024-01-0{d} 10:00" for d in (7, 3, 1, 9, 2)],
        [datetime(2024, 1, d) for d in (7, 3, 1, 9, 2)],
        [date(2024, 1, d) for d in (7, 3, 1, 9, 2)],
    ],
)
def test_turns_are_any_values_with_an_order(library, turn):
    out = DialogueContext(separator="|").fit_transform(dialogue(library, turn=turn))
    assert out.tolist() == ["B7", "A3|A2|A1", "A1", "B9|B7", "A2|A1"]


def test_turns_in_a_time_zone_are_ordered_across_a_clock_change():
    utc = pd.to_datetime(["2024-10-27 00:10", "2024-10-27 01:05"], utc=True)
    turn = pd.Series(utc).dt.tz_convert("Europe/Kyiv")
    X = pd.DataFrame({"text": ["first", "second"], "session_id": 1, "turn": turn})
    assert DialogueContext(separator="|").fit_transform(X).tolist() == ["first", "second|first"]


@pytest.mark.parametrize("sessions", [[2, 1, 1, 2, 1], [("x", 2), 1, 1, ("x", 2), 1]])
def test_session_ids_are_any_hashable_values(sessions):
    X = dialogue(session_id=sessions)
    out = DialogueContext(1, separator="|").fit_transform(X)
    assert out.tolist() == ["B7", "A3|A2", "A1", "B9|B7", "A2|A1"]


@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_pandas_text_is_read_from_any_column_of_str(dtype):
    X = dialogue().astype({"text": dtype})
    assert DialogueContext(1, separator="|").fit_transform(X)[1] == "A3|A2"


def test_arrow_tables_are_read_too():
    pa = pytest.importorskip("pyarrow")
    X = pa.Table.from_pandas(dialogue())
    assert DialogueContext(1, separator="|").fit_transform(X)[1] == "A3|A2"
    out = DialogueContext(1, output="columns").fit_transform(X)
    assert out["context"].to_pylist() == ["", "A2", "", "B7", "A1"]


@pytest.mark.parametrize("output", ["concat", "columns"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_no_rows_give_no_rows(library, output):
    assert len(DialogueContext(output=output).fit_transform(dialogue(library)[:0])) == 0


def test_columns_of_any_name_are_read():
    names = {"text": "context", "session_id": "call", "turn": "text", "speaker": "who"}
    X = dialogue().rename(columns=names).assign(label=1).rename(columns={"label": 0})
    context = DialogueContext(
        1, text="context", session="call", turn="text", speaker="who", output="columns"
    )
    out = context.fit_transform(X)
    assert list(out.columns) == ["text", "context"]
    assert out["context"].tolist() == ["", "agent: A2", "", "client: B7", "client: A1"]


def test_template_formats_each_turn():
    context = DialogueContext(1, speaker="speaker", template="<{speaker:>6}> {text}", separator="")
    assert context.fit_transform(dialogue())[1] == "<client> A3< agent> A2"
    assert DialogueContext(0, template="{{{text}}}").fit_transform(dialogue())[1] == "{A3}"
    context.set_params(template="{text}")
    assert context.fit_transform(dialogue())[1] == "A3A2"


def test_braces_in_the_text_are_kept():
    X = dialogue(text=["{text}", "{", "}", "{0}", "{{speaker.x}}"], speaker=["{text}"] * 5)
    out = DialogueContext(0, speaker="speaker").fit_transform(X)
    assert out.tolist() == [f"{{text}}: {text}" for text in X["text"]]


@pytest.mark.parametrize("speakers", [[0, 1, 0, 1, 0], list("01010")])
def test_speakers_need_not_be_str(speakers):
    out = DialogueContext(0, speaker="speaker").fit_transform(dialogue(speaker=speakers))
    assert out.tolist() == ["0: B7", "1: A3", "0: A1", "1: B9", "0: A2"]


@pytest.mark.parametrize(
    "template",
    ["", "said", "{speaker}", "{text} {who}", "{}", "{0}", "{text", "{text.x}", "{text:d}"],
)
def test_template_without_text_or_with_other_fields_is_refused(template):
    context = DialogueContext(template=template)
    message = re.escape(f"template={template!r} is not a format of {{text}}; pass a string with")
    with pytest.raises(ValueError, match=message):
        context.fit(dialogue())
    with pytest.raises(ValueError, match=message):
        context.transform(dialogue())


def test_template_with_a_speaker_column_has_text_and_speaker_only():
    context = DialogueContext(speaker="speaker", template="{speaker}: {txt}")
    with pytest.raises(ValueError, match=r"is not a format of \{text\} and \{speaker\}; pass"):
        context.fit(dialogue())


@pytest.mark.parametrize("X", [[["a", 1]], np.zeros((2, 3)), pd.Series(["a"]), "text"])
def test_input_that_is_no_frame_is_refused(X):
    message = f"X is a {type(X).__name__}; pass a pandas or polars DataFrame"
    for method in (DialogueContext().fit, DialogueContext().transform):
        with pytest.raises(TypeError, match=message):
            method(X)


def test_lazy_frame_is_refused():
    with pytest.raises(TypeError, match=r"X is a LazyFrame; .*\(a lazy one collected\)"):
        DialogueContext().fit(dialogue("polars").lazy())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("parameter", ["text", "session", "turn", "speaker"])
def test_absent_column_is_refused(library, parameter):
    context = DialogueContext(**{parameter: "utterance"})
    message = re.escape(
        f"{parameter}='utterance' is not a column of X; pass {parameter}= one of "
        "['session_id', 'turn', 'speaker', 'text']."
    )
    for method in (context.fit, context.transform):
        with pytest.raises(ValueError, match=message):
            method(dialogue(library))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("parameter", "values", "remedy"),
    [
        ("text", ["B7", None, "A1", "B9", None], 'fill them with "" or leave'),
        ("session_id", ["b", None, "a", "b", None], "give every row the id"),
        ("session_id", [1, None, 2, 1, None], "give every row the id"),
        ("speaker", ["b", None, "a", "b", None], 'fill them with a name such as "unknown"'),
        ("turn", [7, None, 1, 9, None], "number every turn, or pass turn=None"),
        ("turn", [7.0, np.nan, 1.0, 9.0, np.nan], "number every turn, or pass turn=None"),
        ("turn", ["7", None, "1", "9", None], "number every turn, or pass turn=None"),
        ("turn", [date(2024, 1, 1), None] * 2 + [None], "number every turn, or"),
        ("turn", [datetime(2024, 1, 1), None] * 2 + [None], "number every turn, or"),
    ],
)
def test_missing_values_are_refused_with_their_rows(library, parameter, values, remedy):
    X = dialogue(library, **{parameter: values})
    rows = [i for i, v in enumerate(values) if v is None or v != v]
    problem = (
        f"{parameter.removesuffix('_id')}={parameter!r} is missing (None or NaN) in "
        f"{len(rows)} rows (first: {rows[:3]}); {remedy}"
    )
    with pytest.raises(ValueError, match=re.escape(problem)):
        DialogueContext(speaker="speaker").fit_transform(X)


@pytest.mark.parametrize("dtype", ["Int64", "Float64"])
def test_missing_turn_in_a_nullable_column_is_refused(dtype):
    X = dialogue(turn=pd.array([7, None, 1, 9, 2], dtype=dtype))
    with pytest.raises(ValueError, match=r"turn='turn' is missing .* in 1 rows \(first: \[1\]\)"):
        DialogueContext().fit_transform(X)


@pytest.mark.parametrize("library", LIBRARIES)
def test_text_that_is_not_str_is_refused(library):
    X = dialogue(library, text=[1, 2, 3, 4, 5])
    message = re.escape(
        "text='text' is not str in 5 rows (first: [0, 1, 2]); convert the column to str"
    )
    with pytest.raises(ValueError, match=message):
        DialogueContext().fit_transform(X)


@pytest.mark.parametrize("library", LIBRARIES)
def test_repeated_turns_of_a_session_are_refused(library):
    X = dialogue(library, turn=[1, 2, 1, 1, 2])
    message = re.escape(
        "turn='turn' is that of another row of the same session in 4 rows (first: [0, 1, 3]); "
        "number the turns of a session apart, or pass turn=None"
    )
    with pytest.raises(ValueError, match=message):
        DialogueContext().fit_transform(X)
    assert len(DialogueContext().fit_transform(dialogue(library, turn=[1, 1, 2, 2, 3]))) == 5


def test_turns_of_two_types_are_refused():
    X = dialogue(turn=[1, "2", 3, "4", 5])
    message = r"turn='turn' has values that cannot be put in order, of type int, str; pass numbers"
    with pytest.raises(ValueError, match=message):
        DialogueContext().fit_transform(X)


@pytest.mark.parametrize(
    "parameters",
    [{"n_turns": -1}, {"n_turns": 1.5}, {"text": None}, {"separator": None}, {"output": "list"}],
)
def test_invalid_parameters_are_refused_in_fit_and_in_transform(parameters):
    context = DialogueContext(**parameters)
    message = f"The '{next(iter(parameters))}' parameter of DialogueContext must be"
    for method in (context.fit, context.transform):
        with pytest.raises(ValueError, match=message):
            method(dialogue())


@pytest.mark.parametrize("library", LIBRARIES)
def test_fit_records_the_columns_that_are_read_and_asks_for_no_others(library):
    X = dialogue(library, label=[0, 1, 0, 1, 0])
    context = DialogueContext().fit(X)
    assert context.n_features_in_ == 3
    assert context.feature_names_in_.tolist() == ["text", "session_id", "turn"]
    live = X[["turn", "session_id", "text"]]
    assert context.transform(live).tolist() == context.transform(X).tolist()


def test_transform_works_without_fit():
    X = dialogue()
    assert DialogueContext().transform(X).tolist() == DialogueContext().fit_transform(X).tolist()


@pytest.mark.slow
def test_newest_turn_of_a_growing_session_is_that_of_the_whole():
    X = dialogue().sort_values(["session_id", "turn"])[:3]
    context = DialogueContext().fit(X)
    live = [context.transform(X[:n])[-1:] for n in (1, 2, 3)]
    assert np.concatenate(live).tolist() == context.transform(X).tolist()


def test_input_is_left_as_it_is():
    X = dialogue(context=1)
    before = X.copy()
    DialogueContext(output="columns").fit_transform(X)
    pd.testing.assert_frame_equal(X, before)


@pytest.mark.parametrize("container", LIBRARIES)
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("output", "names"), [("concat", ["text"]), ("columns", ["text", "context"])]
)
def test_set_output_gives_a_frame_with_the_feature_names(container, library, output, names):
    frame = pytest.importorskip(container).DataFrame
    X = dialogue(library)
    context = DialogueContext(1, output=output)
    assert context.get_feature_names_out().tolist() == names
    expected = context.fit_transform(X)
    context.set_output(transform=container)
    for out in (context.transform(X), context.fit_transform(X)):
        assert isinstance(out, frame)
        assert list(out.columns) == names
        first = expected if output == "concat" else expected["text"]
        assert list(out["text"]) == list(first)
    assert isinstance(clone(context).fit_transform(X), frame)
    context.set_output(transform="default")
    assert type(context.fit_transform(X)) is type(expected)


@pytest.mark.parametrize("container", LIBRARIES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_strings_are_no_table_under_the_global_setting(container, library):
    X = dialogue(library)
    pipeline = make_pipeline(DialogueContext(), CountVectorizer(analyzer="char"))
    expected = pipeline.fit_transform(X).toarray()
    with config_context(transform_output=container):
        assert isinstance(DialogueContext().fit_transform(X), np.ndarray)
        assert_array_equal(pipeline.fit_transform(X).toarray(), expected)


@pytest.mark.parametrize("names", [["early", "mid", "late"], [30, 20, 10]])
def test_ordered_categories_of_pandas_keep_their_order(names):
    frame = dialogue_of_three(pd.Categorical(names, names, ordered=True))
    assert read_context(pd.DataFrame(frame)) == ["1", "2<1", "3<2<1"]
    assert read_context(pd.DataFrame(frame)[::-1]) == ["3<2<1", "2<1", "1"]


def test_enums_of_polars_keep_their_order():
    names = ["early", "mid", "late"]
    frame = dialogue_of_three(pl.Series(names, dtype=pl.Enum(names)))
    assert read_context(pl.DataFrame(frame)) == ["1", "2<1", "3<2<1"]


def dialogue_of_three(turn):
    return {"session_id": ["a"] * 3, "turn": turn, "text": ["1", "2", "3"]}


def read_context(frame):
    return DialogueContext(separator="<").fit_transform(frame).tolist()


def test_pandas_output_keeps_the_index():
    X = dialogue().set_index(pd.Index(list("vwxyz")))
    for output in ("concat", "columns"):
        context = DialogueContext(output=output).set_output(transform="pandas")
        assert context.fit_transform(X).index.tolist() == list("vwxyz")


@pytest.mark.parametrize("library", LIBRARIES)
def test_columns_are_encoded_apart_by_a_column_transformer(library, arrays):
    encoder = CountVectorizer(analyzer="char", lowercase=False)
    encode = ColumnTransformer([("own", encoder, "text"), ("before", encoder, "context")])
    pipeline = make_pipeline(DialogueContext(output="columns"), encode)
    counts = pipeline.fit_transform(dialogue(library))
    names = pipeline.get_feature_names_out().tolist()
    letter = {i: name for i, name in enumerate(names) if name.startswith("before__A")}
    assert counts.toarray()[:, list(letter)].ravel().tolist() == [0, 2, 0, 0, 1]


def test_use_inside_a_column_transformer_names_the_output():
    X = dialogue(label=1)
    encode = ColumnTransformer([("context", DialogueContext(output="columns"), list(X.columns))])
    encode.set_output(transform="pandas")
    assert encode.fit_transform(X).columns.tolist() == ["context__text", "context__context"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_grid_search_over_whole_sessions_needs_no_label_column_later(library, arrays):
    rng = np.random.default_rng(0)
    sessions = np.repeat(np.arange(12), 5)
    y = rng.integers(2, size=60)
    # What a row is can be told from the turn before it only.
    previous = np.where(np.arange(60) % 5 == 0, 0, np.roll(y, 1))
    columns = {"session_id": sessions, "turn": np.arange(60), "label": y}
    X = as_frame({**columns, "text": [f"said{v}" for v in y]}, library)
    pipeline = make_pipeline(
        DialogueContext(separator=" before_", template="{text}"),
        CountVectorizer(),
        LogisticRegression(),
    )
    grid = {"dialoguecontext__n_turns": [0, 1]}
    search = GridSearchCV(pipeline, grid, cv=GroupKFold(3)).fit(X, previous, groups=sessions)
    assert search.best_params_ == {"dialoguecontext__n_turns": 1}
    live = X[["text", "turn", "session_id"]]
    assert search.predict(live).tolist() == search.predict(X).tolist()


@pytest.mark.parametrize("library", LIBRARIES)
def test_clone_pickle_and_repr_keep_the_parameters(library):
    context = DialogueContext(3, turn=None, speaker="speaker", output="columns")
    context.fit(dialogue(library))
    copy = pickle.loads(pickle.dumps(context))
    assert clone(copy).get_params() == context.get_params()
    assert copy.transform(dialogue(library))["text"][0] == "client: B7"
    expected = "DialogueContext(n_turns=3, output='columns', speaker='speaker', turn=None)"
    assert repr(context) == expected
    assert "DialogueContext" in context._repr_html_()


def test_estimator_checks_find_that_it_takes_frames():
    with pytest.warns(SkipTestWarning, match="Can't test estimator DialogueContext which requires"):
        results = check_estimator(DialogueContext())
    assert all(result["status"] == "passed" for result in results)


@pytest.mark.parametrize("library", LIBRARIES)
def test_several_columns_identify_a_session_together(library):
    columns = {
        "channel": ["mail", "mail", "chat", "chat", "mail"],
        "chat_id": [1, 2, 1, 1, 1],
        "turn": [1, 1, 2, 1, 2],
        "text": ["M1", "other", "C2", "C1", "M2"],
    }
    context = DialogueContext(session=["channel", "chat_id"], separator="|")
    joined = context.fit_transform(as_frame(columns, library)).tolist()
    assert joined == ["M1", "other", "C2|C1", "C1", "M2|M1"]
    assert context.feature_names_in_.tolist() == ["text", "channel", "chat_id", "turn"]
    together = [
        "|".join(map(str, parts)) for parts in zip(*list(columns.values())[:2], strict=True)
    ]
    one = as_frame({**columns, "session_id": together}, library)
    assert DialogueContext(separator="|").fit_transform(one).tolist() == joined


@pytest.mark.parametrize(
    ("session", "message"),
    [
        (["channel", "chat"], "session='chat' is not a column of X"),
        ([], "session=[] must be the name of a column, or a list of names"),
        ([1], "session=[1] must be the name of a column, or a list of names"),
    ],
)
def test_each_session_column_must_be_one(session, message):
    frame = as_frame({"channel": ["a"], "chat_id": [1], "turn": [1], "text": ["x"]})
    with pytest.raises(ValueError, match=re.escape(message)):
        DialogueContext(session=session).fit(frame)


def test_a_missing_part_of_a_session_is_named():
    frame = as_frame(
        {"channel": ["a", None], "chat_id": [1, 1], "turn": [1, 2], "text": ["x", "y"]}
    )
    with pytest.raises(ValueError, match="session='channel' is missing"):
        DialogueContext(session=["channel", "chat_id"]).fit_transform(frame)
