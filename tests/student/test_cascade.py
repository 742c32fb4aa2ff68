"""The cascade: classifier first, LLM where it pays, both pooled."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from skpref import LLMCascadeClassifier, LLMScoreCalibrator, PairwisePreferenceClassifier
from skpref.datasets import make_dialogues


def draw(n_sessions=60, *, llm=2.0, network=1.0, seed=0, size=12):
    """Return rows whose classes show in features and, independently, in the LLM's scores."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n_sessions * size, p=[0.2, 0.6, 0.2])
    centre = np.eye(3)[truth]
    log_scores = llm * (centre[:, None] + rng.normal(0, 0.6, (len(truth), 2, 3)))
    scores = np.exp(log_scores) / np.exp(log_scores).sum(axis=2, keepdims=True)
    groups = np.repeat([f"call {i}" for i in range(n_sessions)], size)
    X = network * centre + rng.normal(0, 0.6, (len(truth), 3))
    return Bunch(X=X, y=truth, groups=groups, llm_scores=scores)


@pytest.fixture(scope="module")
def data():
    return draw()


@pytest.fixture(scope="module")
def test_data():
    return draw(100, seed=1)


def fit(data, y=None, **params):
    cascade = LLMCascadeClassifier(LogisticRegression(), **params)
    return cascade.fit(
        data.X, data.y if y is None else y, groups=data.groups, llm_scores=data.llm_scores
    )


def only(scores, rows):
    return np.where(rows[:, None, None], scores, np.nan)


@pytest.fixture(scope="module")
def cascade(data):
    return fit(data, llm_share=0.3)


# --- quality ------------------------------------------------------------------------------------


def test_asking_a_third_is_worth_most_of_asking_about_all(cascade, test_data):
    ask = cascade.defer(test_data.X)

    def accuracy(scores):
        return cascade.score(test_data.X, test_data.y, llm_scores=scores)

    alone = cascade.score(test_data.X, test_data.y)
    some, all_ = accuracy(only(test_data.llm_scores, ask)), accuracy(test_data.llm_scores)
    rest = accuracy(only(test_data.llm_scores, ~ask))
    assert some - alone > 0.6 * (all_ - alone) > 0.03
    assert some > rest


def test_share_of_new_rows_is_about_the_budget(data, test_data):
    for share in (0.0, 0.2, 0.5, 1.0):
        cascade = fit(data, llm_share=share)
        assert cascade.defer(test_data.X).mean() == pytest.approx(share, abs=0.06)
        assert cascade.llm_share_ == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("llm", "network"), [(0.0, 1.0), (2.0, 0.0)])
def test_pool_is_hardly_worse_than_the_better_voice_if_the_other_is_useless(llm, network):
    cascade = fit(draw(llm=llm, network=network))
    new = draw(150, llm=llm, network=network, seed=1)
    alone = cascade.score(new.X, new.y)
    calibrated = cascade.calibrator_.transform(new.llm_scores).argmax(axis=1)
    pooled = cascade.score(new.X, new.y, llm_scores=new.llm_scores)
    assert pooled > max(alone, accuracy_score(new.y, calibrated)) - 0.01


def test_rows_are_not_asked_about_where_the_llm_is_as_unsure():
    rng = np.random.default_rng(0)
    data, new = draw(150), draw(50, seed=1)
    for part in (data, new):  # where the second feature is large, both know nothing
        blind = rng.random(len(part.y)) < 0.5
        part.X = np.column_stack([part.X, 5.0 * blind])
        part.X[blind, :3] = 0.2
        part.llm_scores[blind] = 1 / 3
        part.blind = blind
    ask = fit(data, llm_share=0.3).defer(new.X)
    assert ask[new.blind].mean() < 0.1 < ask[~new.blind].mean()


def test_decision_for_macro_f1_has_the_better_macro_f1():
    data, test_data, found = draw(llm=1.0, network=0.5), draw(100, llm=1.0, network=0.5), {}
    for decision in ("argmax", "macro_f1"):
        cascade = fit(data, decision=decision, llm_share=0.2)
        codes = cascade.predict(test_data.X)
        found[decision] = f1_score(test_data.y, codes, average="macro")
    assert found["macro_f1"] > found["argmax"] + 0.005


# --- the bound ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_looser_target_asks_less_and_every_target_is_met(test_data):
    data, shares = draw(120), []
    for target in (0.07, 0.1, 0.16):
        cascade = fit(data, max_error=target)
        ask = cascade.defer(test_data.X)
        error = 1 - cascade.score(
            test_data.X, test_data.y, llm_scores=only(test_data.llm_scores, ask)
        )
        assert error <= target
        assert cascade.error_bound_ <= target
        shares.append(ask.mean())
    assert shares[0] > shares[1] > shares[2] > 0


def test_a_target_out_of_reach_says_how_many_sessions_are_needed(data):
    few = np.where(np.isin(data.groups, np.unique(data.groups)[:15]), data.y, -1)
    with pytest.raises(ValueError, match=r"max_error=0\.1 cannot be.*, \d+ more labelled sess"):
        fit(data, few, max_error=0.1)
    with pytest.raises(ValueError, match="More labels would not change that"):
        fit(data, few, max_error=0.01)


def test_a_target_within_a_budget(data):
    with pytest.raises(ValueError, match="asking the LLM about 0% of the utterances"):
        fit(data, max_error=0.1, llm_share=0.0)
    assert fit(data, max_error=0.15, llm_share=0.5).llm_share_ <= 0.5


def test_bound_of_a_budget_is_above_the_error(cascade, test_data):
    given = only(test_data.llm_scores, cascade.defer(test_data.X))
    assert 1 - cascade.score(test_data.X, test_data.y, llm_scores=given) < cascade.error_bound_


# --- use ----------------------------------------------------------------------------------------


def test_rows_without_scores_are_marked_and_answered_by_the_classifier(cascade, test_data):
    ask = cascade.defer(test_data.X)
    prob = cascade.predict_proba(test_data.X)
    np.testing.assert_array_equal(cascade.deferred_, ask)
    pooled = cascade.predict_proba(test_data.X, llm_scores=only(test_data.llm_scores, ask))
    assert not cascade.deferred_.any()
    np.testing.assert_allclose(pooled.sum(axis=1), 1)
    np.testing.assert_array_equal(pooled[~ask], prob[~ask])
    assert np.abs(pooled[ask] - prob[ask]).max() > 0.1


def test_one_row_at_a_time_answers_as_a_batch(cascade, test_data):
    rows, scores = test_data.X[:5], test_data.llm_scores[:5]
    batch = cascade.predict_proba(rows, llm_scores=scores)
    for i in range(5):
        one = slice(i, i + 1)
        assert cascade.defer(rows[one])[0] == cascade.defer(rows)[i]
        found = cascade.predict_proba(rows[one], llm_scores=scores[one])
        np.testing.assert_allclose(found[0], batch[i], atol=1e-12)


def test_order_of_rows_and_names_of_sessions_change_nothing(cascade, data, test_data):
    order = np.random.default_rng(0).permutation(len(data.y))
    shuffled = Bunch(
        X=data.X[order],
        y=data.y[order],
        groups=[hash(str(name)) % 10**9 for name in data.groups[order]],
        llm_scores=data.llm_scores[order],
    )
    other = fit(shuffled, llm_share=0.3)
    agree = cascade.defer(test_data.X) == other.defer(test_data.X)
    assert agree.mean() > 0.99
    np.testing.assert_allclose(
        cascade.predict_proba(test_data.X, llm_scores=test_data.llm_scores),
        other.predict_proba(test_data.X, llm_scores=test_data.llm_scores),
        atol=0.02,
    )


def test_classes_name_the_order_of_the_scores(data, test_data):
    names = np.array(["angry", "calm", "glad"])
    expected = fit(data, names[data.y]).predict(test_data.X, test_data.llm_scores)
    turned = Bunch(X=data.X, groups=data.groups, llm_scores=data.llm_scores[:, :, [2, 0, 1]])
    cascade = fit(turned, names[data.y], classes=["glad", "angry", "calm"])
    found = cascade.predict(test_data.X, test_data.llm_scores[:, :, [2, 0, 1]])
    np.testing.assert_array_equal(found, expected)
    assert cascade.classes_.tolist() == names.tolist()


def test_classifier_of_this_library_gets_scores_and_unlabelled_rows():
    data = make_dialogues(n_sessions=20, labelled_fraction=0.5, random_state=0)
    classifier = PairwisePreferenceClassifier("linear", max_iter=30, random_state=0)
    steps = make_pipeline(StandardScaler(), classifier)
    cascade = LLMCascadeClassifier(steps, cv=2).fit(
        data.X, data.y, groups=data.groups, llm_scores=data.llm_scores
    )
    fitted = cascade.classifier_[-1]
    assert len(fitted.soft_labels_) == len(data.y)
    assert cascade.score(data.X, data.y_true) > 0.7
    assert not hasattr(classifier, "classes_")


def test_a_frozen_classifier_is_used_as_it_is(data, test_data):
    fitted = LogisticRegression().fit(test_data.X, test_data.y)
    cascade = LLMCascadeClassifier(FrozenEstimator(fitted)).fit(
        data.X, data.y, groups=data.groups, llm_scores=data.llm_scores
    )
    assert cascade.classifier_.estimator is fitted


class Labeler(sklearn.base.BaseEstimator):
    """Knows all answers, and counts those that it gives."""

    def __init__(self, answers=None):
        self.answers = answers

    def fit(self, X, y=None):
        self.n_asked_ = 0
        return self

    def transform(self, X, rows=None):
        rows = np.ones(len(X), dtype=bool) if rows is None else rows
        self.n_asked_ += rows.sum()
        return only(np.array([self.answers[i] for i in X.index]), rows)


def test_a_labeler_is_asked_about_the_deferred_rows_alone(cascade, data, test_data):
    X = pd.DataFrame(np.vstack([data.X, test_data.X]), columns=list("abc"))
    answers = dict(enumerate(np.vstack([data.llm_scores, test_data.llm_scores])))
    n = len(data.y)
    asking = LLMCascadeClassifier(LogisticRegression(), llm_share=0.3, labeler=Labeler(answers))
    asking.fit(X[:n], data.y, groups=data.groups)
    assert asking.labeler_.n_asked_ == n
    found = asking.predict(X[n:])
    ask = cascade.defer(test_data.X)
    assert asking.labeler_.n_asked_ == n + ask.sum()
    expected = cascade.predict(test_data.X, llm_scores=only(test_data.llm_scores, ask))
    np.testing.assert_array_equal(found, expected)
    assert not asking.deferred_.any()


@pytest.mark.slow
def test_search_by_session_under_routing(data):
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            LLMCascadeClassifier(LogisticRegression()),
            {"classifier__C": [0.01, 1.0]},
            cv=GroupKFold(3),
        )
        search.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
    assert search.best_score_ > 0.6


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_frames_set_globally_do_not_reach_the_parts(cascade, data, test_data, container):
    expected = cascade.predict_proba(test_data.X, llm_scores=test_data.llm_scores)
    with sklearn.config_context(transform_output=container):
        found = fit(data, llm_share=0.3).predict_proba(test_data.X, llm_scores=test_data.llm_scores)
    np.testing.assert_array_equal(found, expected)


def test_pickle_and_clone(cascade, test_data):
    copy = pickle.loads(pickle.dumps(cascade))
    np.testing.assert_array_equal(copy.predict(test_data.X), cascade.predict(test_data.X))
    assert not hasattr(clone(cascade), "classes_")


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llm_scores": None}, "llm_scores is missing"),
        ({"groups": None}, "groups (the session ids) is missing"),
        ({"y": None}, "requires y to be passed"),
        ({"y": np.full(720, -1)}, "y has labels in 0 sessions"),
        ({"y": np.r_[np.arange(12) % 3, np.full(708, -1)]}, "y has labels in 1 sessions"),
        ({"y": np.r_[np.zeros(24, int), np.full(696, -1)], "classes": [0, 1, 2]}, "one class only"),
        ({"y": np.r_[np.zeros(10, int)]}, "y has 10 entries but X has 720 rows"),
        ({"llm_scores": np.ones((10, 2, 3))}, "llm_scores has 10 rows"),
        ({"groups": np.arange(10)}, "groups has 10 entries"),
    ],
)
def test_bad_arguments_of_fit_are_named(data, change, message):
    given = {"y": data.y, "groups": data.groups, "llm_scores": data.llm_scores} | change
    cascade = LLMCascadeClassifier(LogisticRegression(), classes=given.pop("classes", None))
    with pytest.raises(ValueError, match=re.escape(message)):
        cascade.fit(data.X, **given)
    assert not hasattr(cascade, "classes_")


def test_scores_for_too_few_rows_are_refused(cascade, test_data):
    with pytest.raises(ValueError, match="llm_scores has 3 rows but there are 1200 utterances"):
        cascade.predict(test_data.X, llm_scores=test_data.llm_scores[:3])


def test_unknown_classes_of_a_frozen_classifier_are_named(data):
    other = LogisticRegression().fit(data.X, data.y + 5)
    with pytest.raises(ValueError, match="classifier knows classes that y and llm_scores lack"):
        LLMCascadeClassifier(FrozenEstimator(other)).fit(
            data.X, data.y, groups=data.groups, llm_scores=data.llm_scores
        )


# --- scikit-learn's checks ----------------------------------------------------------------------


class WithScores(LLMCascadeClassifier):
    """Makes scores of the labels and takes each row as a session, since the checks have neither."""

    def fit(self, X, y):
        if y is None:
            return super().fit(X, y)
        check_classification_targets(y)
        classes, codes = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        n_classes = max(len(classes), 2)  # one class is for the cascade to refuse
        scores = 0.8 * np.eye(n_classes)[codes] + 0.2 / n_classes
        other = "other" if classes.dtype.kind in "OU" else classes.max(initial=0) + 1
        self.classes = [classes[0], other] if len(classes) == 1 else None
        return super().fit(X, y, groups=np.arange(len(codes)), llm_scores=scores[:, None])


# Why a check cannot hold, by its name.
REASONS = {
    "check_classifiers_classes": "it has a class -1, the mark of no label beside LLM scores",
    "check_supervised_y_no_nan": "NaN is such a mark, too",
}


@pytest.mark.slow
def test_checks_of_scikit_learn_hold_but_for_a_reason():
    cascade = WithScores(LogisticRegression(), LLMScoreCalibrator("mean"), cv=2)
    results = check_estimator(cascade, on_fail=None, on_skip=None)
    failed = {result["check_name"] for result in results if result["status"] == "failed"}
    assert failed == set(REASONS)
    assert sum(result["status"] == "passed" for result in results) > 50
