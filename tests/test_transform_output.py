"""The user's global output setting never reaches estimators that are held inside.

The whole suite passes under it as well: ``SKPREF_TRANSFORM_OUTPUT=pandas pytest``, or polars.
"""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpref import (
    KNNLabelSmoother,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    ScoreReliabilityDisplay,
    SessionTrajectoryDisplay,
)
from skpref._validation import plain_output, read_numbers
from skpref.datasets import make_dialogues
from skpref.inspection import compare_with_distillation, preference_noise, prompt_agreement


@pytest.fixture(scope="module")
def data():
    return make_dialogues(n_sessions=16, labelled_fraction=0.5, random_state=0)


def same(call, output):
    """Call under the default setting and under another; compare."""
    with sklearn.config_context(transform_output="default"):
        expected = call()
    with sklearn.config_context(transform_output=output):
        found = call()
    for one, two in zip(expected, found, strict=True):
        # A frame has another order in memory, so sums may be rounded otherwise.
        assert_allclose(np.asarray(one), np.asarray(two), rtol=1e-9)


OUTPUTS = pytest.mark.parametrize("output", ["pandas", "polars"])


@OUTPUTS
def test_calibrator_and_smoother(data, output):
    given = (data.llm_scores, data.y, data.groups)
    same(lambda: [LLMScoreCalibrator().fit_transform(*given)], output)
    same(lambda: [LLMScoreCalibrator("isotonic").fit_transform(*given)], output)
    same(lambda: [KNNLabelSmoother().fit_transform(data.X, data.y)], output)


@pytest.mark.slow
@OUTPUTS
def test_inspection(data, output):
    given = (data.llm_scores, data.y, data.groups)
    options = {"n_bootstrap": 3, "random_state": 0}

    def agree():
        found = prompt_agreement(*given, **options)
        return found.accuracy, found.drop.log_loss.mean

    def noise():
        found = preference_noise(*given, **options)
        return found.within.error, found.across.error

    same(agree, output)
    same(noise, output)


@OUTPUTS
def test_displays(data, output):
    pytest.importorskip("matplotlib").use("agg")
    calibrator = LLMScoreCalibrator().fit(data.llm_scores, data.y)
    clf = PairwisePreferenceClassifier("linear", solver="lbfgs", random_state=0)
    with sklearn.config_context(transform_output="default"):
        clf.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)

    def draw():
        one = ScoreReliabilityDisplay.from_estimator(calibrator, data.llm_scores, data.y)
        two = SessionTrajectoryDisplay.from_estimator(
            clf, data.X[:5], llm_scores=data.llm_scores[:5]
        )
        return one.calibrated.prob_true, one.ensemble.prob_true, two.scores["LLM"]

    same(draw, output)


@pytest.mark.slow
@OUTPUTS
def test_comparison_of_a_pipeline(data, output):
    clf = PairwisePreferenceClassifier("linear", solver="lbfgs", random_state=0)
    given = (data.X, data.y, data.groups, data.llm_scores)

    def compare():
        pipe = make_pipeline(StandardScaler(), clf)
        found = compare_with_distillation(pipe, *given, cv=2, n_bootstrap=3, random_state=0)
        return list(found.predictions.values())

    same(compare, output)


def test_a_clone_with_a_setting_of_its_own_gives_arrays(data):
    smoother = KNNLabelSmoother().set_output(transform="pandas")
    assert isinstance(plain_output(smoother).fit_transform(data.X, data.y), np.ndarray)
    assert not isinstance(smoother.fit_transform(data.X, data.y), np.ndarray)
    pipe = make_pipeline(StandardScaler(), KNNLabelSmoother()).set_output(transform="polars")
    assert isinstance(plain_output(pipe).fit_transform(data.X, data.y), np.ndarray)


class NoSetOutput(sklearn.base.BaseEstimator):
    """A transformer of a user, which returns a frame."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        import pandas as pd

        return pd.DataFrame(X)


def test_a_transformer_without_set_output_is_read():
    plain = plain_output(NoSetOutput())
    assert_array_equal(read_numbers(plain.fit(None).transform(np.eye(2)), "output"), np.eye(2))
    plain_output(make_pipeline(NoSetOutput(), StandardScaler()))
