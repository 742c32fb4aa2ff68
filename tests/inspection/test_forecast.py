import re

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpref import PairwisePreferenceClassifier
from skpref.datasets import make_dialogues
from skpref.inspection import learning_forecast
from skpref.inspection._forecast import _draw_curves, _forecast, _Prior
from tests.helpers import raises


@pytest.fixture(scope="module")
def data():
    return make_dialogues(60, class_sep=2.0, labelled_fraction=0.4, random_state=0)


@pytest.fixture(scope="module")
def forecast(data):
    return learning_forecast(LogisticRegression(), data.X, data.y, data.groups, random_state=0)


class Recorder(ClassifierMixin, BaseEstimator):
    """Remember the sessions of each fit; the only feature is the number of the row."""

    fits = []

    def fit(self, X, y):
        self.fits.append(set(X[:, 0].astype(int).tolist()))
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[np.arange(len(X)) % len(self.classes_)]


def test_curve_is_recovered_from_exact_scores():
    size = np.array([0.2, 0.4, 0.8])
    truth = 0.8 - 0.05 * np.r_[size, 1.0, 2.0, 4.0] ** -0.5
    rng = np.random.RandomState(0)
    curves = _draw_curves(size, truth[:3], 1e-8 * np.eye(3), _Prior(0.05, 0.05, 0.001), rng)
    found = _forecast(curves, np.array([1.0, 2.0, 4.0]), 0.001, 0.95, rng)
    np.testing.assert_allclose(found.value, truth[3:], atol=0.004)
    np.testing.assert_allclose(found.gain, truth[3:] - truth[3], atol=0.004)
    assert found.gain[0] == found.gain_low[0] == 0


def test_scores_that_show_nothing_leave_the_prior():
    size = np.array([0.2, 0.4, 0.8])
    rng = np.random.RandomState(0)
    prior = _Prior(0.1, 0.001, 0.01)
    curves = _draw_curves(size, np.array([0.9, 0.2, 0.5]), 100 * np.eye(3), prior, rng)
    found = _forecast(curves, np.array([4.0]), prior.noise, 0.95, rng)
    expected = np.mean([0.1 * (1 - 4**-c) for c in (0.25, 0.5, 0.75)])
    assert found.gain[0] == pytest.approx(expected, abs=0.002)


def test_no_forecast_falls():
    size = np.array([0.2, 0.4, 0.8])
    falling, rng = np.array([0.8, 0.7, 0.6]), np.random.RandomState(0)
    curves = _draw_curves(size, falling, 1e-6 * np.eye(3), _Prior(0.05, 0.05, 0.001), rng)
    found = _forecast(curves, np.array([1.0, 2.0, 4.0]), 0.001, 0.95, rng)
    assert (np.diff(found.value) > -0.001).all()
    assert (found.gain < 0.02).all()


def test_subsets_are_nested_whole_sessions_of_the_training_folds():
    groups = np.repeat(np.arange(20), 6)
    y = np.where(groups < 15, np.arange(120) % 2, -1)
    Recorder.fits.clear()
    X = np.arange(120.0)[:, None]
    found = learning_forecast(Recorder(), X, y, groups, cv=3, random_state=0)
    fits = Recorder.fits
    assert len(fits) == 9
    for k in range(0, 9, 3):
        assert fits[k] < fits[k + 1] < fits[k + 2]
        assert [len(rows) // 6 for rows in fits[k : k + 3]] == [3, 5, 10]
    for rows in fits:
        assert len(set(groups[sorted(rows)])) * 6 == len(rows)  # whole sessions
        assert max(groups[sorted(rows)]) < 15  # labelled ones
    largest = fits[2::3]
    assert all(len(rows) == 60 for rows in largest)
    assert set().union(*largest) == set(range(90))
    assert found.table.n_labels.tolist() == [18, 30, 60, 90, 180, 360]
    assert found.table.n_sessions.tolist() == [3, 5, 10, 15, 30, 60]


def test_more_labels_give_about_what_was_forecast(forecast, data):
    test = make_dialogues(400, class_sep=2.0, labelled_fraction=1.0, random_state=0)
    # The same coefficients, since they are drawn first; other sessions.
    np.testing.assert_array_equal(test.coef.shape, data.coef.shape)
    n_labels = int(forecast.table.n_labels[-1])
    order = np.random.RandomState(0).permutation(len(test.y))
    train, rest = order[:n_labels], order[n_labels:]
    accuracy = (
        LogisticRegression().fit(test.X[train], test.y[train]).score(test.X[rest], test.y[rest])
    )
    assert forecast.table.accuracy_low[-1] < accuracy < forecast.table.accuracy_high[-1]


def test_forecast_is_reproducible_and_a_table(forecast, data):
    again = learning_forecast(LogisticRegression(), data.X, data.y, data.groups, random_state=0)
    assert again.message == forecast.message
    assert again.summary == forecast.summary
    table = pd.DataFrame(forecast.table)
    assert table["kind"].tolist() == ["measured"] * 3 + ["forecast"] * 3
    assert table["macro_f1_gain"].isna().tolist() == [True] * 3 + [False] * 3
    assert (table["accuracy_low"] < table["accuracy"]).all()
    assert (table["accuracy"] < table["accuracy_high"]).all()
    n_labels = np.sum(data.y >= 0)
    assert f"From {n_labels} human labels of 24 sessions:" in forecast.message
    assert f"4 times the labels (about {4 * n_labels:,} of 96 sessions)" in forecast.message


@pytest.mark.slow
def test_labels_are_hidden_from_subsets_but_scores_are_not():
    data = make_dialogues(20, session_length=6, labelled_fraction=0.6, n_features=6, random_state=0)
    seen = []

    class Watched(PairwisePreferenceClassifier):
        def fit(self, X, y, groups=None, llm_scores=None):
            seen.append((sum(label is not None for label in y), len(X), len(llm_scores)))
            return super().fit(X, y, groups=groups, llm_scores=llm_scores)

    options = {"solver": "lbfgs", "smoother": "passthrough", "stage2": "offsets", "max_iter": 5}
    clf = make_pipeline(StandardScaler(), Watched("linear", **options))
    given = (data.X, data.y, data.groups, data.llm_scores)
    found = learning_forecast(clf, *given, cv=2, factors=[3], random_state=0)
    n_labels, n_rows, n_scores = np.array(seen).T
    assert (np.diff(n_labels.reshape(2, 3), axis=1) > 0).all()
    assert (n_rows == n_scores).all()
    assert (n_rows.reshape(2, 3) == n_rows[::3, None]).all()
    assert found.table.n_labels[-1] == 3 * np.sum(data.y >= 0)
    again = learning_forecast(clf, *given, cv=2, factors=[3], random_state=0)
    assert again.summary == found.summary  # the seed reaches a classifier that has none


def test_subset_of_one_class_predicts_it():
    groups = np.repeat(np.arange(10), 4)
    y = (groups >= 5).astype(int)  # sessions of one class
    X = np.random.default_rng(0).normal(size=(40, 2)) + y[:, None]
    found = learning_forecast(LogisticRegression(), X, y, groups, cv=5, random_state=3)
    assert np.isfinite(found.table.accuracy).all()


def test_forecast_prints_its_progress(data, capsys):
    given = (data.X, data.y, data.groups)
    learning_forecast(LogisticRegression(), *given, cv=2, n_bootstrap=5, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"fold 1/2, \d+ labels: \d+\.\d s", lines[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": [None] * 12}, "y has labels in 0 sessions, but a forecast needs at least 5"),
        ({"groups": ["a"] * 12}, "y has labels in 1 sessions, but a forecast needs at least 5"),
        ({"groups": np.arange(12) // 3}, "y has labels in 4 sessions"),
        ({"groups": [1]}, "groups has 1 entries but there are 12 rows"),
        ({"y": [1] * 12}, "y has one class only"),
        ({"y": [0, 1]}, "y has 2 entries but X has 12 rows"),
        ({"factors": (0.5, 2)}, "factors=[0.5, 2.0] must be multiples of the labels there are"),
        ({"factors": ()}, "factors=[] must be multiples"),
        (
            {"cv": KFold(2, shuffle=True, random_state=0)},
            "puts utterances of one session into training and test",
        ),
        (
            {"llm_scores": np.zeros((12, 1))},
            "must be a PairwisePreferenceClassifier, or a Pipeline",
        ),
        (
            {"estimator": PairwisePreferenceClassifier(), "llm_scores": np.zeros((11, 1))},
            "y has 12 entries but llm_scores has 11 rows",
        ),
    ],
)
def test_forecast_names_what_is_wrong(changes, message):
    arguments = {
        "estimator": LogisticRegression(),
        "X": np.arange(24.0).reshape(12, 2),
        "y": [0, 1] * 6,
        "groups": np.arange(12) // 2,
    } | changes
    with raises(message):
        learning_forecast(**arguments)
