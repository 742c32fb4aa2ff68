"""The curve of a cascade."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from skpref import CascadeCurveDisplay, LLMCascadeClassifier, PairwisePreferenceClassifier
from skpref.datasets import make_dialogues

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def data():
    return make_dialogues(n_sessions=60, labelled_fraction=0.6, random_state=0)


@pytest.fixture(scope="module")
def cascade(data):
    X = data.X[:, 2:]
    return LLMCascadeClassifier(LogisticRegression(), llm_share=0.25).fit(
        X, data.y, groups=data.groups, llm_scores=data.llm_scores
    )


def draw(cascade, data, **params):
    given = data.X[:, 2:], data.y_true, data.groups, data.llm_scores
    return CascadeCurveDisplay.from_estimator(
        cascade, *given, n_bootstrap=30, random_state=0, **params
    )


@pytest.mark.parametrize("metric", ["macro_f1", "accuracy"])
def test_ends_of_the_curve_are_the_classifier_alone_and_all_asked(cascade, data, metric):
    display = draw(cascade, data, metric=metric)
    X = data.X[:, 2:]

    def quality(codes):
        if metric == "accuracy":
            return accuracy_score(data.y_true, codes)
        return f1_score(data.y_true, codes, average="macro")

    curve = display.curve
    assert curve.quality[0] == pytest.approx(quality(cascade.predict(X)))
    pooled = cascade.predict(X, llm_scores=data.llm_scores)
    assert curve.quality[-1] == pytest.approx(quality(pooled))
    llm = cascade.calibrator_.transform(data.llm_scores).argmax(axis=1)
    assert curve.llm == pytest.approx(quality(llm))
    assert (curve.low <= curve.quality).all()
    assert (curve.quality <= curve.high).all()


def test_share_in_between_is_that_of_the_rows_of_most_gain(cascade, data):
    X, share = data.X[:, 2:], 0.25
    order = np.argsort(-cascade.expected_gain(X), kind="stable")
    asked = np.isin(np.arange(len(X)), order[: round(share * len(X))])
    codes = cascade.predict(X, llm_scores=np.where(asked[:, None, None], data.llm_scores, np.nan))
    curve = draw(cascade, data, metric="accuracy").curve
    found = curve.quality[np.flatnonzero(np.isclose(curve.share, share))[0]]
    assert found == pytest.approx(accuracy_score(data.y_true, codes), abs=0.002)


def test_cost_is_on_a_second_axis(cascade, data):
    display = draw(cascade, data, price=0.002)
    display.figure_.canvas.draw()
    assert display.cost_ax_.get_xlim() == pytest.approx((0, 2.0))
    assert "cost" in display.cost_ax_.get_xlabel()
    assert draw(cascade, data).cost_ax_ is None


@pytest.mark.parametrize(
    ("params", "message"),
    [({"metric": "f1"}, "metric='f1' must be one of"), ({"price": -1}, "price=-1 must be above 0")],
)
def test_bad_options_are_named(cascade, data, params, message):
    with pytest.raises(ValueError, match=message):
        draw(cascade, data, **params)


def test_another_estimator_is_refused(data):
    with pytest.raises(ValueError, match="estimator must be an LLMCascadeClassifier"):
        draw(LogisticRegression(), data)


def test_curve_of_several_labels():
    rng = np.random.default_rng(0)
    truth = (rng.random((400, 2)) < [0.5, 0.2]).astype(int)
    groups = np.repeat(np.arange(40), 10)
    scores = np.clip(truth[:, None] + rng.normal(0, 0.4, (400, 2, 2)), 0, 1)
    X = truth + rng.normal(0, 0.8, truth.shape)
    cascade = LLMCascadeClassifier(PairwisePreferenceClassifier(random_state=0), llm_share=0.3)
    cascade.fit(X, truth, groups=groups, llm_scores=scores)
    for metric, score in {
        "macro_f1": lambda y, found: f1_score(y, found, average="macro"),
        "accuracy": lambda y, found: np.mean(y == found),
    }.items():
        curve = CascadeCurveDisplay.from_estimator(
            cascade, X, truth, groups, scores, metric=metric, n_bootstrap=5, random_state=0
        ).curve
        alone, pooled = cascade.predict(X), cascade.predict(X, llm_scores=scores)
        assert curve.quality[0] == pytest.approx(score(truth, alone))
        assert curve.quality[-1] == pytest.approx(score(truth, pooled))
        assert curve.low[5] <= curve.quality[5] <= curve.high[5]
