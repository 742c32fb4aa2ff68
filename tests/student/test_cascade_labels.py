"""The cascade with several labels per utterance."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils import Bunch

from skpref import LLMCascadeClassifier, PairwisePreferenceClassifier

LABELS = ["asks", "complains", "thanks"]


def draw(n_sessions=60, seed=0, size=12):
    """Return rows whose labels show in features and, independently, in the LLM's scores."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n_sessions * size, 3)) < [0.5, 0.2, 0.3]).astype(int)
    log_odds = 3 * (truth[:, None] - 0.5) + rng.normal(0, 2, (len(truth), 2, 3))
    groups = np.repeat([f"call {i}" for i in range(n_sessions)], size)
    X = truth + rng.normal(0, 0.7, truth.shape)
    return Bunch(X=X, y=truth, groups=groups, llm_scores=1 / (1 + np.exp(-log_odds)))


@pytest.fixture(scope="module")
def data():
    return draw()


@pytest.fixture(scope="module")
def test_data():
    return draw(100, seed=1)


def fit(data, y=None, classifier=None, **params):
    classifier = OneVsRestClassifier(LogisticRegression()) if classifier is None else classifier
    y = pd.DataFrame(data.y, columns=LABELS) if y is None else y
    cascade = LLMCascadeClassifier(classifier, **params)
    return cascade.fit(data.X, y, groups=data.groups, llm_scores=data.llm_scores)


def only(scores, rows):
    return np.where(rows[:, None, None], scores, np.nan)


def hamming(cascade, data, scores=None):
    return np.mean(cascade.predict(data.X, llm_scores=scores) != data.y)


@pytest.fixture(scope="module")
def cascade(data):
    return fit(data, llm_share=0.3)


def test_asking_a_third_is_worth_most_of_asking_about_all(cascade, test_data):
    ask = cascade.defer(test_data.X)
    assert ask.mean() == pytest.approx(0.3, abs=0.06)
    alone = hamming(cascade, test_data)
    some = hamming(cascade, test_data, only(test_data.llm_scores, ask))
    rest = hamming(cascade, test_data, only(test_data.llm_scores, ~ask))
    all_ = hamming(cascade, test_data, test_data.llm_scores)
    assert alone - some > 0.45 * (alone - all_) > 0.02
    at_random = alone - 0.3 * (alone - all_)
    assert some < at_random
    assert rest > all_


def test_output_is_that_of_several_labels(cascade, test_data):
    assert cascade.classes_.tolist() == LABELS
    assert cascade.multilabel_
    prob = cascade.predict_proba(test_data.X, llm_scores=test_data.llm_scores)
    predicted = cascade.predict(test_data.X, llm_scores=test_data.llm_scores)
    assert prob.shape == predicted.shape == test_data.y.shape
    assert ((prob > 0.5) == predicted).all()
    assert cascade.expected_gain(test_data.X).shape == (len(prob),)
    right = (predicted == test_data.y).all(axis=1).mean()
    score = cascade.score(test_data.X, test_data.y, llm_scores=test_data.llm_scores)
    assert score == pytest.approx(right)
    copy = pickle.loads(pickle.dumps(cascade))
    assert (copy.predict_proba(test_data.X) == cascade.predict_proba(test_data.X)).all()


def test_single_labels_that_the_llm_did_not_answer_are_the_classifiers(cascade, test_data):
    scores = test_data.llm_scores.copy()
    scores[:, :, 1] = np.nan
    found = cascade.predict_proba(test_data.X, llm_scores=scores)
    whole = cascade.predict_proba(test_data.X, llm_scores=test_data.llm_scores)
    assert found[:, [0, 2]] == pytest.approx(whole[:, [0, 2]])
    assert not np.isnan(found).any()
    assert not cascade.deferred_.any()


@pytest.mark.parametrize("decision", ["argmax", "macro_f1"])
def test_a_label_that_the_llm_never_answers_is_the_classifiers(data, test_data, decision):
    scores = data.llm_scores.copy()
    scores[:, :, 2] = np.nan
    cascade = fit(Bunch(**(data | {"llm_scores": scores})), decision=decision)
    answers = np.where(np.arange(3) == 2, np.nan, test_data.llm_scores)
    found = cascade.predict_proba(test_data.X, llm_scores=answers)
    assert found[:, 2] == pytest.approx(cascade.predict_proba(test_data.X)[:, 2], abs=0.2)
    assert not np.isnan(found).any()


def test_order_of_rows_and_names_of_sessions_change_nothing(data, test_data):
    order = np.random.default_rng(0).permutation(len(data.y))
    names = np.unique(data.groups, return_inverse=True)[1]
    other = Bunch(
        X=data.X[order],
        y=data.y[order],
        groups=(1000 - names)[order],
        llm_scores=data.llm_scores[order],
    )
    expected = fit(data, data.y).predict_proba(test_data.X, llm_scores=test_data.llm_scores)
    found = fit(other, other.y).predict_proba(test_data.X, llm_scores=test_data.llm_scores)
    assert found == pytest.approx(expected, abs=1e-6)


def test_unknown_labels_and_unlabelled_sessions(data, test_data):
    rng = np.random.default_rng(0)
    y = data.y.astype(float)
    y[rng.random(y.shape) < 0.2] = np.nan
    y[np.isin(data.groups, data.groups[::24])] = np.nan
    cascade = fit(data, y, PairwisePreferenceClassifier(random_state=0), llm_share=0.3)
    marked = fit(data, np.nan_to_num(y, nan=-1), PairwisePreferenceClassifier(random_state=0))
    assert cascade.error_bound_ == marked.set_params(llm_share=0.3).error_bound_
    assert hamming(cascade, test_data, test_data.llm_scores) < hamming(cascade, test_data)
    known = y.copy()
    known[:5, 0] = np.nan
    assert cascade.score(data.X, known) > 0.4


def test_bound_holds_for_the_share_of_wrong_labels(data, test_data):
    cascade = fit(data, max_error=0.15)
    ask = cascade.defer(test_data.X)
    error = hamming(cascade, test_data, only(test_data.llm_scores, ask))
    assert error < cascade.error_bound_ <= 0.15
    with pytest.raises(ValueError, match=r"max_error=0.01 cannot be promised"):
        fit(data, max_error=0.01)


def test_macro_f1_decision_finds_more_rare_labels(data, test_data):
    usual, for_f1 = fit(data), fit(data, decision="macro_f1")
    f1 = [f1_score(test_data.y, c.predict(test_data.X), average="macro") for c in (usual, for_f1)]
    assert f1[1] > f1[0]


@pytest.mark.parametrize(
    "classifier",
    [RandomForestClassifier(20, random_state=0), PairwisePreferenceClassifier(random_state=0)],
    ids=lambda c: type(c).__name__,
)
def test_classifiers_of_several_labels(data, test_data, classifier):
    cascade = fit(data, data.y, clone(classifier))
    assert cascade.classes_.tolist() == [0, 1, 2]
    assert hamming(cascade, test_data) < 0.3


def test_labels_of_a_frozen_classifier_are_found_by_name(data, test_data):
    y = pd.DataFrame(data.y, columns=LABELS)
    fitted = PairwisePreferenceClassifier(random_state=0)
    fitted.fit(data.X, y[LABELS[::-1]], groups=data.groups, llm_scores=data.llm_scores[:, :, ::-1])
    cascade = fit(test_data, pd.DataFrame(test_data.y, columns=LABELS), FrozenEstimator(fitted))
    assert cascade.classes_.tolist() == LABELS
    assert hamming(cascade, data) < 0.3


def test_bad_input_is_refused_by_name(data):
    with pytest.raises(ValueError, match="y is 0 for all known labels"):
        fit(data, np.zeros_like(data.y))
    with pytest.raises(ValueError, match="llm_scores"):
        fit(Bunch(**(data | {"llm_scores": data.llm_scores[:, :, :2]})))
    with pytest.raises(ValueError, match="y has 3 columns"):
        fit(data, data.y, classes=["a", "b"])
    gaps = np.where(np.arange(3) == np.arange(len(data.y))[:, None] % 3, -1, data.y)
    with pytest.raises(ValueError, match="y has no row in some fold all of whose labels"):
        fit(data, gaps)
    one_session = np.where(data.groups[:, None] == "call 0", data.y, -1)
    with pytest.raises(ValueError, match="y has labels in 1 sessions"):
        fit(data, one_session)
    cascade = fit(data)
    with pytest.raises(ValueError, match="llm_scores has shape"):
        cascade.predict(data.X, llm_scores=data.llm_scores[:, :1])
    with pytest.raises(ValueError, match="y has"):
        cascade.score(data.X, data.y[:10])
