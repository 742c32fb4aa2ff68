"""Classes that are ruled out for a row: a person says that it is not this one."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GroupKFold, cross_val_score

from skpref.datasets import make_dialogues
from tests.helpers import fast, given, raises


@cache
def make_data():
    """Dialogues of three classes, and a wrong class ruled out in half of the rows."""
    data = make_dialogues(n_sessions=30, n_classes=3, random_state=0)
    rng = np.random.default_rng(0)
    n = len(data.y)
    exclude = np.zeros((n, 3), dtype=bool)
    exclude[np.arange(n), (data.y_true + rng.integers(1, 3, n)) % 3] = rng.uniform(size=n) < 0.5
    return data, exclude


def fit(exclude, **params):
    data, _ = make_data()
    return fast(**params).fit(data.X, data.y, **given(data), exclude=exclude)


def test_ruled_out_classes_have_no_soft_label_and_help():
    data, exclude = make_data()
    clf = fit(exclude)
    assert (clf.soft_labels_[exclude] == 0).all()
    assert_allclose(clf.soft_labels_.sum(axis=1), 1)
    assert clf.score(data.X, data.y_true) > fit(None).score(data.X, data.y_true)


def test_no_exclusion_changes_nothing():
    data, exclude = make_data()
    prob = fit(None).predict_proba(data.X)
    assert_array_equal(fit(np.zeros_like(exclude)).predict_proba(data.X), prob)


def test_columns_are_those_of_the_scores():
    data, exclude = make_data()
    names = np.array(["c", "a", "b"])  # of the classes 0, 1, 2
    y = [None if code < 0 else names[code] for code in data.y]
    clf = fast(classes=names)
    clf.fit(data.X, y, **given(data), exclude=pd.DataFrame(exclude, columns=names))
    assert clf.classes_.tolist() == ["a", "b", "c"]
    assert (clf.soft_labels_[exclude[:, [1, 2, 0]]] == 0).all()


def test_a_row_without_scores_shares_what_is_left():
    data, exclude = make_data()
    scores = data.llm_scores.copy()
    scores[0] = np.nan
    exclude = np.zeros_like(exclude)
    exclude[0] = [True, True, False]
    y = data.y.copy()
    y[0] = -1
    clf = fast().fit(data.X, y, groups=data.groups, llm_scores=scores, exclude=exclude)
    assert_array_equal(clf.soft_labels_[0], [0, 0, 1])


@pytest.mark.slow
def test_exclusions_are_cut_with_the_rows_and_reach_partial_fit(routing):
    data, exclude = make_data()
    params = given(data) | {"exclude": exclude}
    clf = fast(classes=[0, 1, 2], max_epochs=2)
    score = cross_val_score(clf, data.X, data.y_true, cv=GroupKFold(2), params=params)
    assert (score > 0.5).all()
    clf.partial_fit(data.X, data.y, **params)
    assert (clf.soft_labels_[exclude] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, _: e[:, :2], "exclude has shape"),
        (lambda e, _: e + 0.5, "exclude has shape"),
        (lambda e, _: e | True, "exclude rules out all classes in"),
        (lambda _, y: np.eye(3, dtype=bool)[y], "exclude rules out the label that y gives"),
    ],
)
def test_impossible_exclusions_are_refused(change, message):
    data, exclude = make_data()
    with raises(message):
        fit(change(exclude, data.y))


def test_exclusions_need_scores_of_exclusive_classes():
    data, exclude = make_data()
    with raises("exclude rules out classes of rows with llm_scores"):
        fast().fit(data.X, data.y_true, groups=data.groups, exclude=exclude)
    with raises("If several labels may apply, mark in y by 0 what does not"):
        y = np.eye(3, dtype=int)[data.y_true]
        fast().fit(data.X, y, **given(data), exclude=exclude)
