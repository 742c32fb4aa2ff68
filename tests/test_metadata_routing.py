"""Session ids and LLM scores reach fit, row by row, in every fold of scikit-learn's tools."""

import numpy as np
import pytest
from joblib import Parallel, delayed
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skpref import (
    IntraSessionPairSampler,
    KNNLabelSmoother,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
)
from skpref.datasets import make_dialogues
from skpref.metrics import within_session_concordance_scorer
from tests.helpers import raises

GRID = {
    "clf__calibrator__method": ["mean", "log_pool"],
    "clf__smoother__n_neighbors": [3, 5],
    "clf__pair_sampler__min_margin": [0.0, 0.05],
    "clf__margin_scale": [2.0, 5.0],
}


@pytest.fixture(scope="module")
def data():
    """Dialogues whose rows are shuffled and whose session ids are strings out of order."""
    made = make_dialogues(
        n_sessions=24, session_length=(3, 8), labelled_fraction=0.5, random_state=0
    )
    order = np.random.RandomState(0).permutation(len(made.y))
    names = np.array(["zeta", "alpha", "mid"])
    groups = np.array([f"{names[int(g[-1]) % 3]}-{g}" for g in made.groups])
    # The first feature tells which row it is.
    X = np.c_[np.arange(len(order)), made.X]
    return {
        "X": X[order],
        "y": made.y[order],
        "groups": groups[order],
        "llm_scores": made.llm_scores[order],
    }


def make_pipeline(**params):
    clf = PairwisePreferenceClassifier(
        calibrator=LLMScoreCalibrator(),
        smoother=KNNLabelSmoother(),
        pair_sampler=IntraSessionPairSampler(),
        classes=[0, 1],
        max_epochs=2,
        random_state=0,
        **params,
    )
    return Pipeline([("scale", StandardScaler()), ("clf", clf)])


@pytest.mark.slow
def test_grid_search_over_every_part_with_group_folds(data, routing):
    search = GridSearchCV(
        make_pipeline(),
        GRID,
        cv=GroupKFold(3),
        scoring=within_session_concordance_scorer,
        n_jobs=2,
        error_score="raise",
    )
    search.fit(data["X"], data["y"], groups=data["groups"], llm_scores=data["llm_scores"])
    assert len(search.cv_results_["params"]) == 16
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert set(search.best_params_) == set(GRID)
    # Each part had a say: no parameter was lost on the way.
    best = search.best_estimator_["clf"]
    assert best.calibrator_.method == search.best_params_["clf__calibrator__method"]


@pytest.mark.slow
def test_nested_cross_validation(data, routing):
    search = GridSearchCV(
        make_pipeline(), {"clf__margin_scale": [2.0, 5.0]}, cv=GroupKFold(2), error_score="raise"
    )
    result = cross_validate(
        search,
        data["X"],
        data["y"],
        cv=GroupKFold(3),
        params={"groups": data["groups"], "llm_scores": data["llm_scores"]},
        return_estimator=True,
        error_score="raise",
    )
    assert np.isfinite(result["test_score"]).all()


class RecordingClassifier(PairwisePreferenceClassifier):
    """The classifier itself, which also keeps what reached its fit."""

    def fit(self, X, y, groups=None, llm_scores=None, sample_weight=None):
        super().fit(X, y, groups=groups, llm_scores=llm_scores, sample_weight=sample_weight)
        self.rows_ = np.asarray(X)[:, 0].round().astype(int)
        self.groups_, self.llm_scores_ = groups, llm_scores
        return self


def check_folds(estimators, data):
    """Each fit saw the ids and scores of exactly its own rows, and folds shared no session."""
    place = np.argsort(data["X"][:, 0])
    for fitted in estimators:
        rows = place[fitted.rows_]
        assert_array_equal(fitted.groups_, data["groups"][rows])
        assert_array_equal(fitted.llm_scores_, data["llm_scores"][rows])
        left_out = np.setdiff1d(np.arange(len(place)), rows)
        assert len(left_out)
        assert not set(data["groups"][rows]) & set(data["groups"][left_out])


def test_each_fold_gets_the_ids_and_scores_of_its_own_rows(data, routing):
    clf = RecordingClassifier(classes=[0, 1], max_epochs=1, random_state=0)
    result = cross_validate(
        Pipeline([("clf", clf)]),
        data["X"],
        data["y"],
        cv=GroupKFold(3),
        params={"groups": data["groups"], "llm_scores": data["llm_scores"]},
        return_estimator=True,
        error_score="raise",
    )
    check_folds([pipe["clf"] for pipe in result["estimator"]], data)


class KeepFitted:
    """A scorer that hands out the estimators a search fits and then throws away."""

    def __init__(self):
        self.fitted = []

    def __call__(self, estimator, X, y):
        self.fitted.append(estimator["clf"])
        return 0.0


def test_routing_off_the_prefixed_form_is_sliced_per_fold(data):
    clf = RecordingClassifier(classes=[0, 1], max_epochs=1, random_state=0)
    scorer = KeepFitted()
    search = GridSearchCV(
        Pipeline([("clf", clf)]),
        {"clf__margin_scale": [2.0, 5.0]},
        cv=GroupKFold(3),
        scoring=scorer,
        error_score="raise",
    )
    search.fit(
        data["X"],
        data["y"],
        groups=data["groups"],
        clf__groups=data["groups"],
        clf__llm_scores=data["llm_scores"],
    )
    assert len(scorer.fitted) == 6
    check_folds(scorer.fitted, data)


def test_routing_off_scores_without_ids_raise_and_say_how(data):
    search = GridSearchCV(
        make_pipeline(), {"clf__margin_scale": [2.0]}, cv=GroupKFold(3), error_score="raise"
    )
    with raises("clf__groups=g, clf__llm_scores=s"):
        search.fit(data["X"], data["y"], groups=data["groups"], clf__llm_scores=data["llm_scores"])


def test_partial_fit_asks_for_the_same(routing):
    request = PairwisePreferenceClassifier().get_metadata_routing()
    for method in ("fit", "partial_fit"):
        assert getattr(request, method).requests["groups"] is True
        assert getattr(request, method).requests["llm_scores"] is True


def test_parts_ask_for_groups(routing):
    assert LLMScoreCalibrator().get_metadata_routing().fit.requests["groups"] is True
    smoother = KNNLabelSmoother().get_metadata_routing()
    assert smoother.fit.requests["groups"] is smoother.transform.requests["groups"] is True
    sampler = IntraSessionPairSampler().get_metadata_routing()
    assert sampler.fit.requests["groups"] is True


@pytest.mark.slow
def test_fits_alike_in_other_processes(data):
    def fit():
        clf = PairwisePreferenceClassifier(classes=[0, 1], max_epochs=2, random_state=0)
        clf.fit(data["X"], data["y"], groups=data["groups"], llm_scores=data["llm_scores"])
        return clf.predict_proba(data["X"])

    here = fit()
    for there in Parallel(n_jobs=2)(delayed(fit)() for _ in range(2)):
        np.testing.assert_allclose(there, here, atol=1e-5)
