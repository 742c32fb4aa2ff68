import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate

from skpref import PairwisePreferenceClassifier
from skpref.datasets import make_dialogues
from skpref.metrics import make_labelled_scorer, within_session_concordance_scorer
from skpref.model_selection import LabelledGroupKFold
from tests.containers import INTEGERS, STRINGS, cases, hold
from tests.helpers import raises


@st.composite
def sessions(draw):
    n_splits = draw(st.integers(2, 4))
    n = draw(st.integers(n_splits, 12))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    lengths = rng.integers(1, 6, size=n)
    groups = np.repeat(np.arange(n), lengths)
    labelled = rng.permutation(n) < draw(st.integers(n_splits, n))
    y = np.where(labelled[groups], rng.integers(0, 3, size=len(groups)), -1)
    return n_splits, y, groups, rng.permutation(len(groups))


@given(sessions())
@settings(max_examples=60, deadline=None)
def test_every_fold_has_a_labelled_session_and_no_session_is_split(drawn):
    n_splits, y, groups, order = drawn
    y, groups = y[order], groups[order]
    folds = list(LabelledGroupKFold(n_splits).split(y, y, groups))
    assert len(folds) == n_splits
    assert_array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(y)))
    for train, test in folds:
        assert_array_equal(np.sort(np.r_[train, test]), np.arange(len(y)))
        assert not set(groups[train]) & set(groups[test])
        assert (y[test] >= 0).any()


def test_classes_and_rows_are_spread():
    # One labelled row in each of 9 sessions of 3 classes, and 30 sessions without a label.
    groups = np.r_[np.arange(9), np.repeat(np.arange(9, 39), 4)]
    y = np.r_[np.repeat([0, 1, 2], 3), np.full(120, -1)]
    for _, test in LabelledGroupKFold(3).split(y, y, groups):
        assert sorted(y[test][y[test] >= 0].tolist()) == [0, 1, 2]
        assert len(test) == 43


def test_shuffle_draws_other_folds_and_a_seed_the_same():
    groups = np.arange(40)
    y = np.where(groups < 10, groups % 2, -1)

    def folds(**params):
        return [test.tolist() for _, test in LabelledGroupKFold(5, **params).split(y, y, groups)]

    assert folds() == folds()
    assert folds(shuffle=True, random_state=0) == folds(shuffle=True, random_state=0)
    assert folds(shuffle=True, random_state=0) != folds(shuffle=True, random_state=1)


@pytest.mark.parametrize(("kind", "make"), cases(strings=STRINGS, integers=INTEGERS))
def test_labels_and_sessions_of_every_container(kind, make):
    values = {"strings": ["b", "a", "b", None], "integers": [3, 1, 3, -1]}[kind]
    ids = {"strings": ["x", "y", "z", "z"], "integers": [7, 8, 9, 9]}[kind]
    y = hold(make, values)
    if y is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataConversionWarning)
            folds = list(LabelledGroupKFold(3).split(np.eye(4), y, make(ids)))
        assert sorted(test.tolist() for _, test in folds) == [[0], [1], [2, 3]]


def test_errors_of_the_splitter_name_what_is_wrong():
    X, y, groups = np.eye(4), [0, 1, -1, -1], [0, 1, 2, 3]
    for params, message in [
        ({"n_splits": 1}, "n_splits=1 must be an integer of 2 or more"),
        ({"n_splits": 2.0}, "n_splits=2.0 must be an integer of 2 or more"),
        ({"shuffle": 1}, "shuffle=1 must be True or False"),
        ({"random_state": 0}, "random_state=0 has no effect without shuffle"),
    ]:
        with raises(message):
            LabelledGroupKFold(**params)
    for arguments, message in [
        ((X, None, groups), "LabelledGroupKFold needs y, the human labels, to split"),
        ((X, y, None), "LabelledGroupKFold needs groups, the session of each row, to split"),
        ((X, y, [0, 1, 2]), "groups has 3 entries but there are 4 rows"),
        ((X, y[:3], groups), "y has 3 entries but X has 4 rows"),
        ((X, y, groups), "n_splits=5 but only 2 sessions have a label"),
    ]:
        with raises(message):
            next(LabelledGroupKFold().split(*arguments))


def test_splitter_conventions(routing):
    splitter = LabelledGroupKFold(3, shuffle=True, random_state=0)
    assert repr(splitter) == "LabelledGroupKFold(n_splits=3, random_state=0, shuffle=True)"
    assert splitter.get_n_splits() == 3
    assert clone(splitter, safe=False).n_splits == 3
    assert splitter.get_metadata_routing().split.requests == {"groups": True}


@pytest.fixture(scope="module")
def few():
    """Labels in 4 of 24 sessions: GroupKFold leaves folds without any."""
    return make_dialogues(n_sessions=24, labelled_fraction=1 / 6, random_state=3)


def marks(data, kind):
    names = np.array(["no", "yes", None], dtype=object)
    return {
        "-1": data.y,
        "None": np.where(data.y < 0, None, data.y.astype(object)),
        "NaN": np.where(data.y < 0, np.nan, data.y),
        "strings": names[data.y],
    }[kind]


@pytest.mark.parametrize("kind", ["-1", "None", "NaN", "strings"])
@pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc", "accuracy", "f1_macro"])
def test_scorers_count_the_labelled_rows_only(few, kind, scoring):
    y = marks(few, kind)
    known = few.y >= 0
    truth = np.array(y[known].tolist())
    model = LogisticRegression().fit(few.X[known], truth)
    expected = get_scorer(scoring)(model, few.X[known], truth)
    assert make_labelled_scorer(scoring)(model, few.X, y) == expected


def test_a_score_without_labels_is_a_number_with_a_warning(few):
    known = few.y >= 0
    model = LogisticRegression().fit(few.X[known], few.y[known])
    for rows, scoring in [
        (few.y < 0, "accuracy"),
        (few.y == 1, "neg_log_loss"),
        (few.y == 1, "roc_auc"),
    ]:
        scorer = make_labelled_scorer(scoring, if_undefined=-2)
        with pytest.warns(UndefinedMetricWarning, match="labelled rows is undefined, so it is -2"):
            assert scorer(model, few.X[rows], few.y[rows]) == -2
    with raises("a wrong sum"):
        make_labelled_scorer(_raise)(model, few.X, few.y)


def _raise(estimator, X, y):
    raise ValueError("a wrong sum")


def test_minus_one_may_be_a_class():
    X, y = np.array([[0.0], [1.0], [2.0]]), np.array([-1, 1, 1])
    model = LogisticRegression(C=100).fit(X, y)
    assert make_labelled_scorer("accuracy")(model, X, [-1, -1, 1]) == pytest.approx(2 / 3)


def test_weights_and_sessions_of_the_labelled_rows_are_passed_on(few, routing):
    known = few.y >= 0
    model = LogisticRegression().fit(few.X[known], few.y[known])
    weight = np.arange(len(few.y)) + 1.0
    scorer = make_labelled_scorer(get_scorer("accuracy").set_score_request(sample_weight=True))
    expected = model.score(few.X[known], few.y[known], sample_weight=weight[known])
    assert scorer(model, few.X, few.y, sample_weight=weight.tolist()) == pytest.approx(expected)
    concordance = make_labelled_scorer(within_session_concordance_scorer)
    expected = within_session_concordance_scorer(model, few.X, few.y, groups=few.groups)
    assert concordance(model, few.X, few.y, groups=few.groups) == expected
    result = cross_validate(
        LogisticRegression().set_fit_request(sample_weight=False),
        few.X,
        few.y_true,
        cv=LabelledGroupKFold(3),
        scoring={"accuracy": scorer, "concordance": concordance},
        params={"groups": few.groups, "sample_weight": weight},
    )
    assert np.isfinite(result["test_concordance"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["-1", "None", "NaN", "strings"])
def test_a_search_has_no_nan(few, routing, kind):
    clf = PairwisePreferenceClassifier("linear", solver="lbfgs", random_state=0)
    clf.set_params(classes=["no", "yes"] if kind == "strings" else [0, 1])
    given = {"groups": few.groups, "llm_scores": few.llm_scores}
    y = marks(few, kind)
    search = GridSearchCV(clf, {"margin_scale": [2.0]}, cv=LabelledGroupKFold(4))
    search.set_params(scoring=make_labelled_scorer("accuracy"), error_score="raise")
    assert np.isfinite(search.fit(few.X, y, **given).best_score_)
    search.set_params(cv=GroupKFold(4))
    with pytest.warns(UndefinedMetricWarning, match="use LabelledGroupKFold or fewer folds"):
        search.fit(few.X, y, **given)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_groups_reach_the_splitter_without_routing(few):
    with sklearn.config_context(enable_metadata_routing=False):
        search = GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=LabelledGroupKFold(4))
        search.fit(few.X, few.y_true, groups=few.groups)
    assert np.isfinite(search.best_score_)


def test_several_labels_are_spread_over_the_folds():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 5)
    y = (rng.random((150, 3)) < [0.5, 0.1, 0.02]).astype(int)
    y[groups % 3 == 0] = -1
    y[rng.random(y.shape) < 0.1] = -1
    y[groups == 1, 2] = 1  # a rare label in two sessions
    y[groups == 2, 2] = 1
    folds = list(LabelledGroupKFold(5).split(y, y, groups))
    assert sorted(row for _, test in folds for row in test) == list(range(150))
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        assert (y[test] >= 0).any()
    where = [k for k, (_, test) in enumerate(folds) for s in (1, 2) if s in groups[test]]
    assert len(set(where)) == 2
    frame = pd.DataFrame(y, columns=["a", "b", "c"]).astype(float).replace(-1, np.nan)
    again = list(LabelledGroupKFold(5).split(y, frame, groups))
    assert all((a[1] == b[1]).all() for a, b in zip(folds, again, strict=True))
    with pytest.raises(ValueError, match="n_splits=5 but only 1 sessions"):
        next(LabelledGroupKFold(5).split(y, np.where(groups[:, None] == 1, y, -1), groups))


def test_search_over_several_labels():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 5)
    X = rng.normal(size=(100, 3))
    y = (X[:, :2] > 0.3).astype(int)
    y[groups > 12] = -1
    scores = np.clip(y + rng.normal(0, 0.3, y.shape), 0, 1)[:, None]
    search = GridSearchCV(
        PairwisePreferenceClassifier(random_state=0),
        {"pairwise_weight": [0.0, 0.1]},
        cv=LabelledGroupKFold(3),
    )
    with sklearn.config_context(enable_metadata_routing=True):
        search.fit(X, y, groups=groups, llm_scores=scores)
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()
