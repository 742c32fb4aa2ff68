import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skpref._validation import (
    check_encodable,
    check_groups,
    check_labels,
    check_llm_scores,
    check_texts,
    is_missing,
)


@given(st.lists(st.sampled_from(["b", "a", "c"]), min_size=1))
def test_session_codes_count_by_first_appearance(ids):
    codes = check_groups(ids, len(ids))
    first = list(dict.fromkeys(ids))
    assert_array_equal(codes, [first.index(i) for i in ids])


@given(st.lists(st.sampled_from(["b", "a", 1, 2.5, ("a", 1)]), min_size=1))
def test_session_codes_of_objects_count_by_first_appearance(ids):
    values = np.empty(len(ids), dtype=object)
    values[:] = ids
    first = list(dict.fromkeys(ids))
    assert_array_equal(check_groups(values, len(ids)), [first.index(i) for i in ids])


@pytest.mark.parametrize(
    "ids",
    [
        [3, 1, 3],
        np.array([2.5, 1.0, 2.5]),
        pd.Series(["x", "y", "x"], index=[5, 6, 7]),
        pd.Categorical(["x", "y", "x"]),
        [("a", 1), ("a", 2), ("a", 1)],
        np.array(["2026-01-02", "2026-01-01", "2026-01-02"], dtype="datetime64[D]"),
        [1, "1", 1],
    ],
    ids=repr,
)
def test_session_ids_of_any_kind(ids):
    assert check_groups(ids, 3).tolist() == [0, 1, 0]


def test_groups_of_the_wrong_length_or_with_gaps():
    with pytest.raises(ValueError, match=re.escape("groups has 2 entries but there are 3 rows")):
        check_groups(["a", "b"], 3)
    for missing in (None, np.nan, pd.NA):
        with pytest.raises(ValueError, match=re.escape("no session id in 1 rows (first: row 1)")):
            check_groups(["a", missing, "b"], 3)
    with pytest.raises(ValueError, match=re.escape("no session id in 2 rows (first: row 0)")):
        check_groups([float("nan"), "a", float("nan")], 3)
    with pytest.raises(ValueError, match=re.escape("no session id in 2 rows (first: row 1)")):
        check_groups(np.array([1.0, np.nan, np.nan]), 3)


@pytest.mark.parametrize(
    ("y", "classes", "codes"),
    [
        ([1, -1, 0], [0, 1], [1, -1, 0]),
        (np.array([1.0, np.nan, -1.0]), [1.0], [0, -1, -1]),
        (["b", None, "a"], ["a", "b"], [1, -1, 0]),
        (["b", np.nan, "a"], ["a", "b"], [1, -1, 0]),
        (pd.Series(["b", None, "a"], dtype="string"), ["a", "b"], [1, -1, 0]),
        (pd.Series([1, None, 0], dtype="Int64"), [0, 1], [1, -1, 0]),
        (np.array([True, False]), [False, True], [1, 0]),
        ([None, None], [], [-1, -1]),
    ],
    ids=repr,
)
def test_partial_labels(y, classes, codes):
    found, encoded = check_labels(y, partial=True)
    assert found.tolist() == classes
    assert encoded.tolist() == codes


def test_complete_labels_take_minus_one_as_a_class():
    found, codes = check_labels([1, -1, 1], partial=False)
    assert found.tolist() == [-1, 1]
    assert codes.tolist() == [1, 0, 1]


def test_labels_of_given_classes_in_sorted_order():
    found, codes = check_labels(["a", "b", None], classes=["b", "a"], partial=True)
    assert found.tolist() == ["a", "b"]
    assert codes.tolist() == [0, 1, -1]
    with pytest.raises(ValueError, match=re.escape("y has labels that are not in classes: ['a']")):
        check_labels(["a", "b"], classes=["b", "c"], partial=True)
    with pytest.raises(ValueError, match="names a class twice"):
        check_labels(["b"], classes=["b", "b"], partial=True)


def test_values_that_are_no_labels():
    with pytest.raises(ValueError, match="Unknown label type"):
        check_labels([0.3, 1.7], partial=True)
    with pytest.raises(ValueError, match="infinity"):
        check_labels([np.inf, 1.0], partial=True)


@pytest.mark.parametrize("y", [["a", None, "b"], np.array([0.0, np.nan, 1.0])], ids=repr)
def test_complete_labels_may_not_be_missing(y):
    with pytest.raises(ValueError, match=re.escape("in 1 rows (first: 1). Only with llm_sc")):
        check_labels(y, partial=False)


def test_missing_values_of_any_dtype():
    assert is_missing(np.array([1, 2])).tolist() == [False, False]
    assert is_missing(np.array([1, np.nan])).tolist() == [False, True]
    assert is_missing(np.array(["a", None, np.nan, pd.NA], dtype=object)).tolist() == [
        False,
        True,
        True,
        True,
    ]


def test_scores_keep_their_precision():
    assert check_llm_scores(np.ones((2, 3), np.float32)).dtype == np.float32
    assert check_llm_scores([[1, 2], [3, 10]]).dtype == np.float64
    assert check_llm_scores(pd.DataFrame({"a": [1.0]}), 1).shape == (1, 1)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], "llm_scores has shape (2,)"),
        (np.ones((2, 0)), "llm_scores has shape (2, 0)"),
        (np.ones((2, 2, 2, 2)), "llm_scores has shape (2, 2, 2, 2)"),
        ([[np.inf], [1.0]], "llm_scores has infinite values"),
        ([[1j], [1.0]], "Complex data not supported"),
        (np.ones((3, 1)), "llm_scores has 3 rows but there are 2 utterances"),
    ],
    ids=repr,
)
def test_scores_of_another_form(scores, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_llm_scores(scores, 2)


@pytest.mark.parametrize(
    "X",
    [
        ["a", ""],
        ("a", ""),
        np.array(["a", ""]),
        np.array([["a"], [""]], dtype=object),
        np.array(["a", ""], dtype=np.dtypes.StringDType()),
        pd.Series(["a", ""], index=[7, 8]),
        pd.Series(["a", ""], dtype="category"),
        pd.Series(["a", ""], dtype="string"),
        pd.DataFrame({"text": ["a", ""]}),
        pl.Series(["a", ""]),
        pl.DataFrame({"text": ["a", ""]}),
    ],
    ids=lambda X: f"{type(X).__name__}-{getattr(X, 'dtype', '')}",
)
def test_texts_of_any_kind(X):
    texts = check_texts(X)
    assert texts.dtype == object
    assert texts.tolist() == ["a", ""]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("a", "X is a single string; pass a list"),
        (["a", None, np.nan, "b", pd.NA], "X has no text in 3 rows (first: 1, 2, 4)"),
        (pd.Series(["a", None]), "X has no text in 1 rows (first: 1)"),
        (pl.Series(["a", None]), "X has no text in 1 rows (first: 1)"),
        ([None] * 9, "X has no text in 9 rows (first: 0, 1, 2, 3, 4)"),
        (["a", 1], "X must be text, but row 1 holds 1 of type int"),
        (np.ones((2, 1)), "X must be text, but row 0 holds 1.0 of type float"),
        ([["a"], ["b", "c"]], "X must be text, but row 0 holds ['a'] of type list"),
        ([b"a"], "X must be text, but row 0 holds b'a' of type bytes"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), 'pick one column, for example X["text"]'),
        (np.ones((3, 2)), "X has 2 columns"),
        (None, "X must be text, one per row, but is a NoneType with 0 dimensions"),
        (np.ones((1, 1, 1)), "X must be text, one per row, but is a ndarray with 3 dimensions"),
        ([], "Found array with 0 sample(s)"),
        (pd.DataFrame({"a": []}), "Found array with 0 sample(s)"),
    ],
    ids=repr,
)
def test_what_is_not_text(X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_texts(X)


def test_half_a_character_is_refused_with_its_row_and_a_remedy():
    texts = check_texts(["fine", "broken \ud83d emoji", "whole \U0001f600 emoji"])
    with pytest.raises(
        ValueError, match=r"X holds half a character \('\\ud83d'\) in row 1"
    ) as error:
        check_encodable(texts)
    assert 'text.encode("utf-8", "replace").decode()' in str(error.value)
    texts[1] = texts[1].encode("utf-8", "replace").decode()
    assert check_encodable(texts).tolist() == ["fine", "broken ? emoji", "whole \U0001f600 emoji"]
