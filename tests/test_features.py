import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import make_pipeline, make_union

from skpref import DialogueContext, DialogueFeatures

LIBRARIES = ["pandas", "polars"]


def dialogue(library="pandas", **changed):
    """Two sessions, their rows mixed and out of order."""
    columns = {
        "session_id": ["b", "a", "a", "b", "a"],
        "turn": [7, 3, 1, 9, 2],
        "speaker": ["client", "client", "client", "agent", "agent"],
        "text": ["B7", "A3!!", "A1", "B9", "A2?"],
    }
    return pytest.importorskip(library).DataFrame({**columns, **changed})


@pytest.mark.parametrize("library", LIBRARIES)
def test_features_are_speaker_position_and_length(library):
    features = DialogueFeatures(scale=2.0)
    out = features.fit_transform(dialogue(library))
    assert (out.dtype, out.shape) == (np.float32, (5, 4))
    assert features.speakers_.tolist() == ["agent", "client"]
    assert out[:, :2].tolist() == [[0, 2], [0, 2], [0, 2], [2, 0], [2, 0]]
    for column, values in ((2, [0, 2, 0, 1, 1]), (3, [2, 4, 2, 2, 3])):
        logs = np.log1p(values)
        assert_allclose(out[:, column], 2 * (logs - logs.mean()) / logs.std(), rtol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_missing_and_unknown_speakers_are_zero(library):
    features = DialogueFeatures().fit(dialogue(library))
    names = ["client", None, "robot", "agent", "client"]
    out = features.transform(dialogue(library, speaker=names))[:, :2]
    assert (out > 0).tolist() == [[0, 1], [0, 0], [0, 0], [1, 0], [0, 1]]
    learned = DialogueFeatures().fit(dialogue(library, speaker=names)).speakers_
    assert learned.tolist() == ["agent", "client", "robot"]


def test_speakers_of_fewer_than_half_of_the_sessions_are_no_features():
    X = pd.DataFrame({"session_id": list("aabbccc"), "speaker": list("xyxyxyz")})
    X = X.assign(turn=range(7), text="t")
    assert DialogueFeatures().fit(X).speakers_.tolist() == ["x", "y"]
    everyone = X.assign(session_id="a")
    assert DialogueFeatures().fit(everyone).speakers_.tolist() == ["x", "y", "z"]
    anonymous = X[["session_id", "turn", "text"]]
    assert DialogueFeatures(speaker=None).fit_transform(anonymous).shape == (7, 2)


def test_features_of_a_live_session_are_those_of_the_whole():
    X = dialogue().sort_values(["session_id", "turn"])
    features = DialogueFeatures().fit(X)
    live = [features.transform(X[:n])[-1] for n in (1, 2, 3)]
    assert_array_equal(live, features.transform(X)[:3])


def test_rows_in_another_order_give_the_same_features():
    X = dialogue()
    rows = [3, 0, 4, 2, 1]
    out = DialogueFeatures().fit_transform(X)
    assert_allclose(DialogueFeatures().fit_transform(X.iloc[rows]), out[rows], rtol=1e-6)


def test_several_columns_identify_a_session():
    X = dialogue(channel=["x", "x", "y", "x", "y"])
    features = DialogueFeatures(session=["channel", "session_id"], speaker=None)
    position = features.fit_transform(X)[:, 0]
    assert (position > 0).tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("container", LIBRARIES)
def test_output_has_names_and_goes_beside_other_features(container):
    X = dialogue()
    features = DialogueFeatures()
    words = make_pipeline(DialogueContext(0), CountVectorizer(analyzer="char"))
    both = make_union(words, features).fit_transform(X).toarray()
    alone = features.fit_transform(X)
    assert_allclose(both[:, -4:], alone)
    columns = ["text", "session_id", "turn", "speaker"]
    chosen = ColumnTransformer([("turns", clone(features), columns)]).fit_transform(X)
    assert_array_equal(chosen, alone)
    out = features.set_output(transform=container).fit_transform(X)
    assert list(out.columns) == ["speaker_agent", "speaker_client", "position", "length"]
    assert isinstance(out, pytest.importorskip(container).DataFrame)


@pytest.mark.parametrize("parameter", ["text", "session", "turn", "speaker"])
def test_absent_column_is_refused(parameter):
    message = re.escape(f"{parameter}='other' is not a column of X; pass {parameter}= one of ")
    for method in ("fit", "fit_transform"):
        with pytest.raises(ValueError, match=message):
            getattr(DialogueFeatures(**{parameter: "other"}), method)(dialogue())


def test_one_row_has_no_spread():
    assert_allclose(DialogueFeatures().fit_transform(dialogue()[:1]), [[0.3, 0, 0]], atol=1e-6)
