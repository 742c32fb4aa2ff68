import pickle
import re
import warnings
from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpref.datasets import make_dialogues
from skpref.metrics import (
    expected_calibration_error,
    within_session_concordance,
    within_session_concordance_scorer,
)


def slow_concordance(codes, columns, groups, average):
    """Loop over pairs; `columns` maps each class that is compared to its scores."""
    won, compared = {}, {}
    for i, j in permutations(range(len(codes)), 2):
        if groups[i] != groups[j] or min(codes[i], codes[j]) < 0:
            continue
        for k, score in columns.items():
            if codes[i] == k != codes[j]:
                win = 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
                won[groups[i]] = won.get(groups[i], 0) + win
                compared[groups[i]] = compared.get(groups[i], 0) + 1
    if not compared:
        return np.nan
    if average == "micro":
        return sum(won.values()) / sum(compared.values())
    return np.mean([won[s] / compared[s] for s in compared])


def slow_calibration_error(codes, proba, n_bins):
    rows = [(max(p), float(np.argmax(p) == c)) for p, c in zip(proba, codes, strict=True) if c >= 0]
    edges = np.linspace(0, 1, n_bins + 1)
    error = 0.0
    for low, high in pairwise(edges):
        inside = [r for r in rows if low < r[0] <= high]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            error += len(inside) / len(rows) * abs(accuracy - confidence)
    return error


@st.composite
def scored_sessions(draw):
    n_classes = draw(st.integers(2, 4))
    n = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(-1, n_classes, n)
    score = rng.integers(0, draw(st.integers(1, 30)) + 1, (n, n_classes)) / 7
    groups = np.array(["z", "a", "m", "k"])[rng.integers(0, draw(st.integers(1, 4)), n)]
    return codes, score, groups


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(scored_sessions(), st.sampled_from(["micro", "macro"]))
def test_concordance_agrees_with_a_loop_over_pairs(case, average):
    codes, score, groups = case
    n_classes = score.shape[1]
    columns = {1: score[:, 1]} if n_classes == 2 else {k: score[:, k] for k in range(n_classes)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        found = within_session_concordance(
            codes, score, groups=groups, average=average, labels=range(n_classes)
        )
    np.testing.assert_allclose(found, slow_concordance(codes, columns, groups, average), rtol=1e-12)


@pytest.mark.slow
@settings(deadline=None)
@given(scored_sessions(), st.randoms(use_true_random=False))
def test_concordance_does_not_change_with_row_order_session_names_or_session_shifts(case, random):
    codes, score, groups = case
    kwargs = {"labels": range(score.shape[1])}
    order = random.sample(range(len(codes)), len(codes))
    renamed = [{"z": (0, 1), "a": (2,), "m": "x", "k": 9}[g] for g in groups]
    shift = np.array([{"z": 0, "a": 64, "m": -8, "k": 2}[g] for g in groups])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        expected = within_session_concordance(codes, score, groups=groups, **kwargs)
        found = [
            within_session_concordance(codes[order], score[order], groups=groups[order], **kwargs),
            within_session_concordance(codes, score, groups=renamed, **kwargs),
            # Sevenths, so that a shift rounds ties alike.
            within_session_concordance(
                codes, np.rint(score * 7) + shift[:, None], groups=groups, **kwargs
            ),
        ]
    np.testing.assert_array_equal(found, [expected] * 3)


def test_concordance_of_one_session_is_the_area_under_the_roc_curve():
    rng = np.random.default_rng(0)
    y, score = rng.integers(0, 2, 200), rng.integers(0, 20, 200)
    found = within_session_concordance(y, score, groups=np.zeros(200))
    assert found == pytest.approx(roc_auc_score(y, score), abs=1e-12)


def test_binary_concordance_takes_one_column_or_the_second_of_two():
    y, score, groups = [0, 1, 1, 0], np.array([0.1, 0.7, 0.3, 0.5]), list("aaaa")
    expected = within_session_concordance(y, score, groups=groups)
    assert expected == 0.75
    two = np.column_stack([np.full(4, 9.0), score])
    assert within_session_concordance(y, two, groups=groups) == expected


def test_equal_scores_give_one_half():
    found = within_session_concordance([0, 1, 2, 0], np.zeros((4, 3)), groups=list("aabb"))
    assert found == 0.5


def test_long_sessions_weigh_more_in_micro_than_in_macro():
    y, score = [0, 1, 0, 0, 1, 1], [1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    groups = ["short", "short", "long", "long", "long", "long"]
    assert within_session_concordance(y, score, groups=groups) == 4 / 5
    assert within_session_concordance(y, score, groups=groups, average="macro") == 1 / 2


def test_macro_leaves_out_sessions_without_a_pair():
    y, score, groups = [0, 1, 1, 1], [0.0, 1.0, 5.0, 6.0], list("aabb")
    assert within_session_concordance(y, score, groups=groups, average="macro") == 1.0


@pytest.mark.parametrize(
    "y",
    [
        [0, 1, -1, 0, -1],
        ["no", "yes", None, "no", np.nan],
        np.array([0.0, 1.0, np.nan, 0.0, -1.0]),
        pd.Series([0, 1, None, 0, None], dtype="Int64"),
        pd.Series(["no", "yes", None, "no", None]),
    ],
    ids=["int", "object", "float", "Int64", "str"],
)
def test_unlabelled_rows_are_left_out(y):
    score, groups = [0.0, 0.5, 0.1, 0.9, 0.2], ["a", "a", "a", "a", "b"]
    assert within_session_concordance(y, score, groups=groups) == 0.5
    error = expected_calibration_error(y, [0.0, 1.0, 0.3, 0.0, 0.3])
    assert error == 0.0


def test_minus_one_is_a_class_where_labels_name_it():
    y, score, groups = [-1, 1, -1, 1], [0.0, 1.0, 2.0, 3.0], list("aaaa")
    assert within_session_concordance(y, score, groups=groups, labels=[-1, 1]) == 0.75
    assert expected_calibration_error(y, [0, 1, 1, 1], labels=[-1, 1]) == 0.25


def test_labels_give_the_order_of_the_columns():
    rng = np.random.default_rng(0)
    y, score = rng.choice(["a", "b", "c"], 40), rng.random((40, 3))
    groups = rng.integers(0, 4, 40)
    expected = within_session_concordance(y, score, groups=groups)
    found = within_session_concordance(
        y, score[:, [2, 0, 1]], groups=groups, labels=["c", "a", "b"]
    )
    assert found == expected
    binary = rng.choice(["a", "b"], 40)
    found = within_session_concordance(binary, -score[:, 0], groups=groups, labels=["b", "a"])
    assert found == within_session_concordance(binary, score[:, 0], groups=groups)


def test_concordance_takes_a_million_rows():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 1_000_000)
    found = within_session_concordance(y, rng.random(len(y)), groups=y * 0)
    assert found == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("y", "groups"),
    [([0, 1], ["a", "b"]), ([1, 1], ["a", "a"]), ([-1, -1], ["a", "a"]), ([0, -1], ["a", "a"])],
    ids=["no common session", "one class", "no label", "one label"],
)
@pytest.mark.parametrize("average", ["micro", "macro"])
def test_concordance_without_a_pair_is_nan_with_a_warning(y, groups, average):
    message = "No session has two labelled rows of different classes to compare."
    with pytest.warns(UndefinedMetricWarning, match=re.escape(message)) as record:
        found = within_session_concordance(y, [0.1, 0.2], groups=groups, average=average)
    assert np.isnan(found)
    assert record[0].filename == __file__


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"average": "mean"},
            "The 'average' parameter of within_session_concordance must be a str among ",
        ),
        (
            {"y_score": np.zeros((4, 2))},
            "y_score has 2 columns but there are 3 classes ['a', 'b', 'c']; "
            "pass labels with the class of each column.",
        ),
        (
            {"y_score": np.zeros(4)},
            "y_score has one dimension but there are 3 classes ['a', 'b', 'c']; "
            "pass one column per class.",
        ),
        (
            {"y_score": np.zeros((4, 3, 1))},
            "y_score has shape (4, 3, 1); pass (n_samples,) or (n_samples, n_classes).",
        ),
        ({"y_score": np.full((4, 3), np.nan)}, "Input y_score contains NaN."),
        ({"y_score": np.zeros((3, 3))}, "y_true has 4 entries but y_score has 3 rows"),
        ({"labels": ["a", "b"]}, "y_true has labels ['c'] that are not in labels=['a', 'b']."),
        ({"labels": ["a", "b", "a"]}, "labels=['a', 'b', 'a'] names a class twice."),
        ({"groups": [1, 2]}, "groups has 2 entries but there are 4 rows"),
        ({"groups": None}, "The 'groups' parameter of within_session_concordance must be"),
        ({"y_true": [0.1, 0.5, 0.3, 0.2]}, "Unknown label type: continuous"),
    ],
)
def test_concordance_names_what_is_wrong(changes, message):
    arguments = {
        "y_true": ["a", "b", "c", "a"],
        "y_score": np.zeros((4, 3)),
        "groups": list("ssst"),
    } | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        within_session_concordance(**arguments)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(scored_sessions(), st.integers(1, 20))
def test_calibration_error_agrees_with_a_loop_over_bins(case, n_bins):
    codes, score, _ = case
    proba = (score + 0.01) / (score + 0.01).sum(axis=1, keepdims=True)
    if not (codes >= 0).any():
        codes[0] = 0
    found = expected_calibration_error(codes, proba, labels=range(proba.shape[1]), n_bins=n_bins)
    assert found == pytest.approx(slow_calibration_error(codes, proba, n_bins), abs=1e-12)


def test_calibration_error_by_hand():
    # One bin holds 0.9 and 0.95, of which one is right; the other 0.6, which is right.
    proba = [[0.9, 0.1], [0.05, 0.95], [0.4, 0.6]]
    expected = (abs(0.5 - 0.925) * 2 + abs(1 - 0.6)) / 3
    assert expected_calibration_error([0, 0, 1], proba, n_bins=5) == pytest.approx(expected)


def test_quantile_bins_hold_equal_numbers_of_rows():
    confidence = np.array([0.90, 0.91, 0.92, 0.93])
    y = [1, 1, 0, 0]
    expected = (abs(2 - 0.90 - 0.91) + abs(0 - 0.92 - 0.93)) / 4
    found = expected_calibration_error(y, confidence, n_bins=2, strategy="quantile")
    assert found == pytest.approx(expected)
    together = expected_calibration_error(y, confidence, n_bins=2)
    assert together == pytest.approx(0.915 - 0.5)


def test_binary_probabilities_stand_for_two_columns():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 50), rng.random(50)
    expected = expected_calibration_error(y, np.column_stack([1 - p, p]))
    assert expected_calibration_error(y, p) == expected


def test_rounding_of_a_float32_softmax_counts_as_0_or_1():
    beyond = np.array([[-1e-7, 1 + 1e-7], [1 + 2e-7, 0.0]], dtype=np.float32)
    assert (beyond != beyond.clip(0, 1)).sum() == 3
    assert expected_calibration_error([1, 0], beyond) == 0.0
    message = f"got values from 0.0 to {np.float32(1.00001).item()!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        expected_calibration_error([0, 1], np.float32([0, 1.00001]))


def test_true_probabilities_are_calibrated_and_sharpened_ones_are_not():
    data = make_dialogues(n_sessions=2000, n_classes=3, class_sep=1.0, random_state=0)
    assert expected_calibration_error(data.y_true, data.true_proba) < 0.01
    sharp = data.true_proba**4
    sharp /= sharp.sum(axis=1, keepdims=True)
    assert expected_calibration_error(data.y_true, sharp) > 0.1


@pytest.mark.parametrize("proba", [[0.1, 0.9], [[0.1, 0.9], [0.5, 0.5]]])
def test_calibration_error_without_labels_is_nan_with_a_warning(proba):
    with pytest.warns(UndefinedMetricWarning, match="No row is labelled") as record:
        assert np.isnan(expected_calibration_error([-1, -1], proba))
    assert record[0].filename == __file__


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"y_prob": [0.5, 1.2, -0.25]},
            "y_prob must be probabilities between 0 and 1; got values from -0.25 to 1.2.",
        ),
        ({"y_prob": [0.5, np.nan, 0.1]}, "Input y_prob contains NaN."),
        ({"y_prob": np.zeros((3, 3))}, "y_prob has 3 columns but there are 2 classes [0, 1]"),
        ({"y_true": [1, 1, 1]}, "y_true has only the label 1, so it is unclear which class y_prob"),
        ({"labels": [0, 2]}, "y_true has labels [1] that are not in labels=[0, 2]."),
        ({"n_bins": 0}, "The 'n_bins' parameter of expected_calibration_error must be an int"),
        ({"strategy": "kmeans"}, "The 'strategy' parameter of expected_calibration_error must be"),
    ],
)
def test_calibration_error_names_what_is_wrong(changes, message):
    arguments = {"y_true": [0, 1, 1], "y_prob": [0.2, 0.4, 0.6]} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        expected_calibration_error(**arguments)


@pytest.fixture(params=[2, 3], ids=["binary", "multiclass"])
def dialogues(request):
    data = make_dialogues(30, n_classes=request.param, class_sep=1.0, random_state=0)
    # Names whose column order is not the order of appearance.
    data.y_true = np.array(["m", "c", "x"])[data.y_true]
    order = np.random.default_rng(0).permutation(len(data.X))
    data.X, data.y_true, data.groups = data.X[order], data.y_true[order], data.groups[order]
    return data


def make_search(**kwargs):
    return GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression()),
        {"logisticregression__C": [0.001, 1.0]},
        scoring=within_session_concordance_scorer,
        cv=GroupKFold(3),
        **kwargs,
    )


def test_scorer_in_a_search_agrees_with_scores_by_hand(dialogues):
    X, y, groups = dialogues.X, dialogues.y_true, dialogues.groups
    with sklearn.config_context(enable_metadata_routing=True):
        search = make_search().fit(X, y, groups=groups)
        final = search.score(X, y, groups=groups)
    for k, (train, test) in enumerate(GroupKFold(3).split(X, y, groups)):
        for c, params in enumerate(search.cv_results_["params"]):
            model = make_pipeline(StandardScaler(), LogisticRegression()).set_params(**params)
            score = model.fit(X[train], y[train]).decision_function(X[test])
            expected = within_session_concordance(y[test], score, groups=groups[test])
            assert search.cv_results_[f"split{k}_test_score"][c] == expected
    expected = within_session_concordance(y, search.decision_function(X), groups=groups)
    assert final == expected


def test_scorer_goes_with_other_scorers_in_cross_validate(dialogues):
    X, y, groups = dialogues.X, dialogues.y_true, dialogues.groups
    scoring = {"concordance": within_session_concordance_scorer, "accuracy": "accuracy"}
    with sklearn.config_context(enable_metadata_routing=True):
        scores = cross_validate(
            GaussianNB(), X, y, scoring=scoring, cv=GroupKFold(3), params={"groups": groups}
        )
    for k, (train, test) in enumerate(GroupKFold(3).split(X, y, groups)):
        proba = GaussianNB().fit(X[train], y[train]).predict_proba(X[test])
        expected = within_session_concordance(y[test], proba, groups=groups[test])
        assert scores["test_concordance"][k] == expected
    assert (scores["test_accuracy"] > 0.3).all()


def test_scorer_agrees_with_one_made_by_make_scorer(dialogues):
    X, y, groups = dialogues.X, dialogues.y_true, dialogues.groups
    model = LogisticRegression().fit(X, y)
    with sklearn.config_context(enable_metadata_routing=True):
        made = make_scorer(
            within_session_concordance, response_method="decision_function"
        ).set_score_request(groups=True)
        expected = made(model, X, y, groups=groups)
    assert within_session_concordance_scorer(model, X, y, groups=groups) == expected


def test_scorer_takes_the_class_order_from_the_estimator():
    X = np.arange(6.0)[:, None]
    model = LogisticRegression().fit(X, [0, 0, 1, 1, 2, 2])
    # No row of class 1, so that the labels alone do not tell the columns.
    y, groups = [0, 0, -1, -1, 2, 2], np.zeros(6)
    assert within_session_concordance_scorer(model, X, y, groups=groups) == 1.0


def test_scorer_can_ask_for_its_sessions_under_another_name(dialogues):
    X, y, session = dialogues.X, dialogues.y_true, dialogues.groups
    customer = np.array([s[-1] for s in session])
    scorer = within_session_concordance_scorer.set_score_request(groups="session")
    assert within_session_concordance_scorer.groups is True
    with sklearn.config_context(enable_metadata_routing=True):
        scores = cross_validate(
            LogisticRegression(),
            X,
            y,
            scoring=scorer,
            cv=GroupKFold(3),
            params={"groups": customer, "session": session},
        )
    for k, (train, test) in enumerate(GroupKFold(3).split(X, y, customer)):
        score = LogisticRegression().fit(X[train], y[train]).decision_function(X[test])
        expected = within_session_concordance(y[test], score, groups=session[test])
        assert scores["test_score"][k] == expected


def test_scorer_pickles():
    scorer = pickle.loads(pickle.dumps(within_session_concordance_scorer))
    assert scorer == within_session_concordance_scorer
    assert repr(scorer) == "within_session_concordance_scorer"
    data = make_dialogues(9, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        search = make_search().fit(data.X, data.y_true, groups=data.groups)
        again = pickle.loads(pickle.dumps(search))
        expected = search.score(data.X, data.y_true, groups=data.groups)
        assert again.score(data.X, data.y_true, groups=data.groups) == expected


HOW_TO = (
    "within_session_concordance_scorer got no groups. Search or cross-validate inside "
    "`with sklearn.config_context(enable_metadata_routing=True):` and pass them there: "
    'GridSearchCV(...).fit(X, y, groups=groups), or cross_validate(..., params={"groups": groups}).'
)


def test_scorer_without_routing_says_how_to_do_it(dialogues):
    X, y, groups = dialogues.X, dialogues.y_true, dialogues.groups
    with pytest.raises(ValueError, match=re.escape(HOW_TO)):
        make_search(error_score="raise").fit(X, y, groups=groups)


def test_scorer_without_routing_warns_where_the_search_keeps_going(dialogues):
    X, y, groups = dialogues.X, dialogues.y_true, dialogues.groups
    expected = f"{re.escape(HOW_TO)}|test scores are non-finite"
    with pytest.warns(UserWarning, match=expected) as record:
        search = make_search().fit(X, y, groups=groups)
    assert sum(HOW_TO in str(warning.message) for warning in record) == 2 * 3
    assert np.isnan(search.best_score_)


def test_search_with_sample_weight_and_several_scorers(dialogues):
    X, y, groups = dialogues.X, dialogues.y_true, dialogues.groups
    scoring = {"concordance": within_session_concordance_scorer, "accuracy": "accuracy"}
    search = GridSearchCV(
        LogisticRegression(), {"C": [1.0]}, scoring=scoring, refit=False, cv=GroupKFold(3)
    )
    expected = "concordance_scorer does not support sample_weight|got no groups|non-finite"
    with pytest.warns(UserWarning, match=expected):
        search.fit(X, y, groups=groups, sample_weight=np.ones(len(y)))
    assert np.isfinite(search.cv_results_["mean_test_accuracy"]).all()
