import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer

from skpref import DialogueContext, DialogueFeatures, TurnWindow

LIBRARIES = ["pandas", "polars"]


def dialogue(library="pandas", **changed):
    """Two sessions, their rows mixed and out of order; the value of a row is its text."""
    columns = {
        "session_id": ["b", "a", "a", "b", "a"],
        "turn": [7, 3, 1, 9, 2],
        "text": ["7", "3", "1", "9", "2"],
    }
    return pytest.importorskip(library).DataFrame({**columns, **changed})


def value_and_square(X):
    values = np.array(list(X["text"])).astype(float)
    return np.column_stack([values, values**2])


VALUES = FunctionTransformer(value_and_square)


@pytest.mark.parametrize("library", LIBRARIES)
def test_windows_hold_the_turns_before_newest_first_and_zeros(library):
    out = TurnWindow(VALUES, n_turns=2).fit_transform(dialogue(library))
    expected = [
        [7, 49, 0, 0, 0, 0],
        [3, 9, 2, 4, 1, 1],
        [1, 1, 0, 0, 0, 0],
        [9, 81, 7, 49, 0, 0],
        [2, 4, 1, 1, 0, 0],
    ]
    assert_array_equal(out, expected)
    assert_array_equal(TurnWindow(VALUES, 0).fit_transform(dialogue(library)), out[:, :2])
    of_order = TurnWindow(VALUES, 1, turn=None).fit_transform(dialogue(library))
    assert of_order[:, 2].tolist() == [0, 0, 3, 7, 1]


def test_sparse_features_give_the_same_windows():
    words = make_pipeline(DialogueContext(n_turns=0), CountVectorizer(analyzer="char"))
    out = TurnWindow(words, n_turns=1).fit_transform(dialogue())
    assert sparse.issparse(out)
    dense = make_pipeline(words, FunctionTransformer(lambda X: X.toarray()))
    assert_array_equal(out.toarray(), TurnWindow(dense, n_turns=1).fit_transform(dialogue()))


def test_windows_of_a_live_session_are_those_of_the_whole():
    X = dialogue().sort_values(["session_id", "turn"])
    window = TurnWindow(VALUES).fit(X)
    live = [window.transform(X[:n])[-1] for n in (1, 2, 3)]
    assert_array_equal(live, window.transform(X)[:3])


def test_names_are_those_of_the_features_of_each_turn():
    X = dialogue(speaker=["x", "x", "y", "y", "x"])
    both = make_union(DialogueFeatures(), DialogueFeatures(speaker=None))
    window = TurnWindow(both, n_turns=1).set_output(transform="pandas")
    out = window.fit_transform(X)
    assert out.columns[0] == "turn0_dialoguefeatures-1__speaker_x"
    assert out.columns[-1] == "turn1_dialoguefeatures-2__length"
    assert_array_equal(out.index, X.index)


def test_a_transformer_that_drops_rows_is_refused():
    window = TurnWindow(FunctionTransformer(lambda X: value_and_square(X)[1:]))
    message = re.escape("the output of transformer")
    with pytest.raises(ValueError, match=message):
        window.fit_transform(dialogue())


@pytest.mark.parametrize("parameter", ["session", "turn"])
def test_absent_column_is_refused(parameter):
    with pytest.raises(ValueError, match=f"{parameter}='other' is not a column of X"):
        TurnWindow(VALUES, **{parameter: "other"}).fit(dialogue())
    with pytest.raises(TypeError, match="X is a ndarray; pass a pandas or polars DataFrame"):
        TurnWindow(VALUES).fit(np.eye(2))


def test_no_rows_give_no_windows():
    window = TurnWindow(VALUES).fit(dialogue())
    assert window.transform(dialogue()[:0]).shape == (0, 6)


def test_an_index_with_repeats_changes_nothing():
    X = dialogue().set_index(pd.Index([4, 4, 0, 9, 4]))
    assert_array_equal(
        TurnWindow(VALUES).fit_transform(X), TurnWindow(VALUES).fit_transform(dialogue())
    )
