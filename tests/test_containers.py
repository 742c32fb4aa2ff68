"""Every reader takes every container, and says which argument it cannot read."""

import uuid
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import DataConversionWarning

from skpref._columns import read_rows
from skpref._validation import (
    check_groups,
    check_labels,
    check_llm_scores,
    check_texts,
    check_weights,
    read_classes,
    read_truth,
    score_order,
    sort_scores,
)
from tests.containers import BOOLEANS, DATES, FLOATS, INTEGERS, STRINGS, cases, hold
from tests.helpers import raises

IDS = {
    "strings": ["b", "a", "b"],
    "integers": [3, 1, 3],
    "booleans": [True, False, True],
    "dates": ["2026-01-02", "2026-01-01", "2026-01-02"],
}
ALL = {"strings": STRINGS, "integers": INTEGERS, "booleans": BOOLEANS, "dates": DATES}


def labels_of(y, **options):
    """Codes and classes; a column vector is read with scikit-learn's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        return check_labels(y, **options)


@pytest.mark.parametrize(("kind", "make"), cases(**ALL))
def test_session_ids(kind, make):
    assert check_groups(make(IDS[kind]), 3).tolist() == [0, 1, 0]


@pytest.mark.parametrize(("kind", "make"), cases(**ALL))
def test_a_missing_session_id_is_refused(kind, make):
    ids = hold(make, [*IDS[kind], None])
    if ids is not None:
        with raises("groups has no session id in 1 rows (first: row 3)"):
            check_groups(ids, 4)


LABELS = {
    "strings": (["b", "a", "b", None], ["a", "b"], [1, 0, 1, -1]),
    "integers": ([3, -1, 1, None], [1, 3], [1, -1, 0, -1]),
    "booleans": ([True, False, True, None], [False, True], [1, 0, 1, -1]),
}
LABEL_KINDS = {kind: ALL[kind] for kind in LABELS}


@pytest.mark.parametrize("n", [3, 4], ids=["complete", "missing"])
@pytest.mark.parametrize(("kind", "make"), cases(**LABEL_KINDS))
def test_labels(kind, make, n):
    values, classes, codes = LABELS[kind]
    if hold(make, values[:n]) is None:
        return
    found, encoded = labels_of(make(values[:n]), partial=True)
    assert found.tolist() == classes
    assert encoded.tolist() == codes[:n]
    _, encoded = labels_of(make(values[:n]), classes=classes[::-1], partial=True)
    assert encoded.tolist() == codes[:n]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        assert read_truth(make(values[:n]), classes).tolist() == codes[:n]


@pytest.mark.parametrize(("kind", "make"), cases(**LABEL_KINDS))
def test_without_scores_a_missing_label_is_refused(kind, make):
    y = hold(make, LABELS[kind][0])
    if y is not None:
        with raises("Input y contains NaN or None in 1 rows (first: 3)"):
            labels_of(y, partial=False)


@pytest.mark.parametrize(("kind", "make"), cases(strings=STRINGS))
def test_texts(kind, make):
    assert check_texts(make(["b", "", "ä"])).tolist() == ["b", "", "ä"]
    texts = hold(make, ["b", None, "ä"])
    if texts is not None:
        with raises("X has no text in 1 rows (first: 1)"):
            check_texts(texts)


@pytest.mark.parametrize(("kind", "make"), cases(floats=FLOATS))
def test_weights(kind, make):
    assert check_weights(make([0.5, 2.0]), 2).tolist() == [0.5, 2.0]
    weights = hold(make, [0.5, None])
    if weights is not None:
        with raises("sample_weight is NaN or infinite in 1 rows (first: row 1)"):
            check_weights(weights, 2)


def test_weights_of_another_form():
    assert check_weights(None, 2).tolist() == [1.0, 1.0]
    assert check_weights(3, 2).tolist() == [3.0, 3.0]
    for weights, message in [
        ([1.0], "sample_weight has 1 entries but there are 2 rows"),
        ([1.0, -1.0], "sample_weight is negative in 1 rows (first: row 1)"),
        ([1.0, np.inf], "sample_weight is NaN or infinite in 1 rows"),
        (["a", "b"], "sample_weight cannot be read as numbers"),
        (np.ones((2, 2)), "sample_weight has shape (2, 2)"),
    ]:
        with raises(message):
            check_weights(weights, 2)


TABLE = [[0.5, None], [0.25, 1.0], [None, 0.0]]
COLUMNS = {"a": [0.5, 0.25, None], "b": [None, 1.0, 0.0]}
GAPS = np.array([[False, True], [False, False], [True, False]])
TABLES = {
    "list": lambda: TABLE,
    "tuple": lambda: tuple(map(tuple, TABLE)),
    "list of arrays": lambda: [np.array(row, dtype=float) for row in TABLE],
    "list of tensors": lambda: [torch.tensor(np.array(row, dtype=float)) for row in TABLE],
    "list of masked arrays": lambda: list(TABLES["masked"]()),
    "generator": lambda: (row for row in TABLE),
    "float64": lambda: np.array(TABLE, dtype=float),
    "float32": lambda: np.array(TABLE, dtype=np.float32),
    "float16": lambda: np.array(TABLE, dtype=np.float16),
    "object": lambda: np.array(TABLE, dtype=object),
    "masked": lambda: np.ma.masked_array(np.where(GAPS, 999.0, np.array(TABLE, dtype=float)), GAPS),
    "tensor": lambda: torch.tensor(np.array(TABLE, dtype=float), requires_grad=True),
    "bfloat16": lambda: torch.tensor(np.array(TABLE, dtype=float)).bfloat16(),
    "DataFrame": lambda: pd.DataFrame(COLUMNS),
    "names that are numbers": lambda: pd.DataFrame(COLUMNS).set_axis([1, 0], axis=1),
    "repeated names": lambda: pd.DataFrame(COLUMNS).set_axis(["a", "a"], axis=1),
    "DataFrame of objects": lambda: pd.DataFrame(COLUMNS, dtype=object),
    "Float64": lambda: pd.DataFrame(COLUMNS).astype("Float64"),
    "Float32": lambda: pd.DataFrame(COLUMNS).astype("Float32"),
    "double[pyarrow]": lambda: pd.DataFrame(COLUMNS).astype("double[pyarrow]"),
    "objects with NA": lambda: pd.DataFrame(COLUMNS).astype("Float64").astype(object),
    "polars": lambda: pl.DataFrame(COLUMNS),
    "polars objects": lambda: pl.DataFrame(COLUMNS).to_pandas().astype(object),
    "arrow Table": lambda: pa.table(COLUMNS),
    "read-only": lambda: np.broadcast_to(np.array(TABLE, dtype=float), (3, 2)),
}


@pytest.mark.parametrize("name", TABLES)
def test_scores(name):
    scores = check_llm_scores(TABLES[name](), 3)
    assert scores.dtype == (
        np.float32 if name in ("float32", "bfloat16", "Float32") else np.float64
    )
    np.testing.assert_array_equal(scores, np.array(TABLE, dtype=float))


def test_integer_scores_with_gaps():
    masked = np.ma.masked_array([[1, 999], [3, 4]], mask=[[False, True], [False, False]])
    frame = pd.DataFrame({"a": [1, 3], "b": pd.array([None, 4], dtype="Int64")})
    for scores in (masked, frame, pl.DataFrame({"a": [1, 3], "b": [None, 4]})):
        np.testing.assert_array_equal(check_llm_scores(scores), [[1.0, np.nan], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([["yes", "no"]], "llm_scores cannot be read as numbers (could not convert string"),
        ([[0.1], [0.2, 0.3]], "llm_scores cannot be read as numbers (its rows differ in length)"),
        ([np.ones(1), np.ones(2)], "llm_scores cannot be read as numbers"),
        (np.array([["yes"]]), "llm_scores cannot be read as numbers"),
        (pd.DataFrame({"a": ["yes", 1]}), "llm_scores cannot be read as numbers"),
        (np.array([["2026-01-01"]], dtype="datetime64[s]"), "llm_scores has the dtype datetime"),
        ([[{}]], "llm_scores cannot be read as numbers"),
        (sparse.csr_array(np.eye(2)), "llm_scores is sparse"),
        (pl.LazyFrame({"a": [1.0]}), "llm_scores cannot be read as numbers (a lazy frame"),
        (5, "llm_scores cannot be read as numbers"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_scores(scores, message):
    with raises(message):
        check_llm_scores(scores)


class Session:
    """Equals only itself."""


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (5, "groups is 5 of type int; pass a list or an array with one session id per row"),
        ("ab", "groups is 'ab' of type str"),
        ({"a", "b"}, "of type set"),
        ({"a": 1, "b": 2}, "of type dict"),
        (np.ones((2, 2)), "groups has shape (2, 2); pass one session id per row"),
        (pd.DataFrame({"a": [1, 2], "b": [1, 2]}), "groups has shape (2, 2)"),
        ([[1, 2], [3, 4]], "groups has shape (2, 2)"),
        ([[1], [2, 3]], "groups cannot be read (its rows differ in length)"),
        ([{}, {}], "groups has session ids that are not hashable"),
        ([np.ones(2), np.ones(2)], "groups has session ids that are not hashable"),
        ([torch.ones(2), torch.ones(2)], "groups has session ids of type Tensor"),
        ([Session(), Session()], "groups has session ids of type Session, which equal only"),
        ([("a", Session()), ("b", 1)], "groups has session ids of type tuple"),
        ([("a", np.nan), ("a", 1)], "groups has no session id in 1 rows (first: row 0)"),
        (sparse.csr_array(np.eye(2)), "groups is sparse"),
        (pl.LazyFrame({"a": [1, 2]}), "of type LazyFrame; pass a list or an array"),
        (torch.tensor(1), "groups has shape ()"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_session_ids(groups, message):
    with raises(message):
        check_groups(groups, 2)


@pytest.mark.parametrize(
    "groups",
    [
        [("a", 1), ("a", 2), ("a", 1)],
        [uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=1)],
        pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("a", 1)]),
        np.array([("a", 1), ("a", 2), ("a", 1)], dtype=[("file", "U1"), ("leg", int)]),
        [2**63, -1, 2**63],
        [1, "1", 1],
        range(0, 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_session_ids_of_other_kinds(groups):
    assert check_groups(groups, 3).tolist() == ([0, 1, 2] if type(groups) is range else [0, 1, 0])


def test_large_ids_are_not_rounded():
    ids = [2**53, 2**53 + 1, -1, 2**63]
    for groups in (ids, pd.Series(ids, dtype=object), pl.Series(ids[:2])):
        n = len(groups)
        assert check_groups(groups, n).tolist() == list(range(n))
    for y in (pl.Series([*ids[:2], None]), pd.Series([*ids[:2], None], dtype="Int64")):
        assert check_labels(y, partial=True)[0].tolist() == ids[:2]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (5, "y is 5 of type int; pass a list or an array with one label per row"),
        (np.ones((2, 2)), "y has shape (2, 2); pass one label per row"),
        ([0, "one"], "y mixes labels of the types int, str"),
        ([("a", "b"), ("c", "d")], "y has labels of the type tuple"),
        ([b"a", b"b"], "y does not hold class labels"),
        ([0.5, 0.7], "y does not hold class labels. Unknown label type"),
        ([{}, {}], "y does not hold class labels"),
        ({0, 1}, "of type set"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_labels(y, message):
    with raises(message):
        check_labels(y, partial=True)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({0, 1}, "classes is {0, 1} of type set"),
        ([0, "one"], "classes mixes labels of the types int, str"),
        ([0, None], "has None or NaN"),
        ([0, 0], "names a class twice"),
        ("ab", "classes is 'ab' of type str"),
        (2, "classes is 2 of type int"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_classes(classes, message):
    with raises(message):
        read_classes(classes)


def test_truth_is_compared_with_any_classes():
    assert read_truth([1, 5, None, -1], [1, 0]).tolist() == [0, 2, -1, -1]
    assert read_truth([1, -1], [-1, 1]).tolist() == [1, 0]
    with raises("y has labels such as '1' but the classes are [0, 1]"):
        read_truth(["1", "0"], [0, 1])


def test_labels_that_a_tool_numbered_are_pointed_out():
    hint = "Does a tool such as cross_val_predict, VotingClassifier or StackingClassifier number"
    for y, classes in (([0, 1, 1], ["no", "yes"]), ([0, 1, 2], [0, 1])):
        with raises(hint):
            check_labels(y, classes=classes, partial=True)
    with raises(hint):
        score_order(np.arange(3), None, 2)
    for y, classes in ((["a", "b"], ["b", "c"]), ([5, 7], [5, 6])):
        with pytest.raises(ValueError, match="y has labels that are not in classes") as error:
            check_labels(y, classes=classes, partial=True)
        assert hint not in str(error.value)


@pytest.mark.parametrize("classes", [["b", "a", "c"], [2, 0, 1], [True, False]])
def test_scores_are_brought_to_the_order_of_the_sorted_classes(classes):
    n = len(classes)
    order = score_order(np.array([]), classes, n)
    assert order.classes.tolist() == sorted(classes)
    assert order.as_given.tolist() == classes
    scores = np.random.default_rng(0).random((4, 3, n))
    by_class = dict(zip(classes, np.moveaxis(scores, 2, 0), strict=True))
    expected = np.stack([by_class[c] for c in sorted(classes)], axis=2)
    np.testing.assert_array_equal(sort_scores(scores, order.columns), expected)
    if n > 2:
        table = sort_scores(scores.reshape(4, -1), order.columns)
        np.testing.assert_array_equal(table, expected.reshape(4, -1))


def test_two_dimensional_scores_of_the_second_class_given():
    columns = score_order(np.array([]), ["yes", "no"], 2).columns
    np.testing.assert_array_equal(
        sort_scores(np.array([[0.25, np.nan]]), columns), [[0.75, np.nan]]
    )
    np.testing.assert_array_equal(sort_scores(np.array([[3.0, -1.0]]), columns), [[-3.0, 1.0]])


@pytest.mark.parametrize("X", [None, 5, np.array(5.0), "abc", b"abc", object()])
def test_what_has_no_rows_is_no_X(X):
    with pytest.raises(TypeError, match="X must hold a row per utterance, but it is"):
        read_rows(X)


@pytest.mark.parametrize(
    "X", [[["a"], ["b"]], (1, 2), np.zeros((2, 3)), sparse.coo_matrix(np.eye(2)), pl.Series([1, 2])]
)
def test_rows_can_be_taken_of_what_has_them(X):
    rows, n_rows = read_rows(X)
    assert n_rows == 2
    assert rows[1] is not None
