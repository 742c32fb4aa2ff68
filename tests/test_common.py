"""scikit-learn's estimator checks, with no expected failure."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skpref import (
    IntraSessionPairSampler,
    KNNLabelSmoother,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
)

METHODS = ["mean", "batch", "temperature", "sigmoid", "isotonic", "beta"]
STRATEGIES = ["uniform", "margin", "adjacent"]
ESTIMATORS = [
    LLMScoreCalibrator("log_pool"),
    KNNLabelSmoother(),
    IntraSessionPairSampler("all", random_state=0),
    PairwisePreferenceClassifier("linear", solver="lbfgs", random_state=0),
]
# One setting for each other way through fit: the checks are about its conventions, not about what
# is learned. So networks train for a few epochs, and options that do not meet share a setting.
SLOW_ESTIMATORS = [
    *[LLMScoreCalibrator(method) for method in METHODS],
    LLMScoreCalibrator(score_type="raw"),
    KNNLabelSmoother(3, alpha=0.2, weights="distance", metric="euclidean"),
    KNNLabelSmoother(5, n_iter=3, algorithm="exact"),
    KNNLabelSmoother(algorithm="approximate", random_state=0),
    KNNLabelSmoother(metric="euclidean", algorithm="approximate", random_state=0),
    *[IntraSessionPairSampler(strategy, random_state=0) for strategy in STRATEGIES],
    IntraSessionPairSampler(max_pairs_per_session=5, session_weight="pairs", random_state=0),
    *[
        PairwisePreferenceClassifier(**params, max_epochs=8, lr=0.03, random_state=0)
        for params in (
            {},
            {"module": "linear", "solver": "adam", "loss": "hinge"},
            {"loss": "logistic", "margin": "fixed", "class_weight": "balanced"},
            {"stage2": "finetune", "pointwise_weight": 0},
            {"stage2": None, "pairwise_weight": 0},
        )
    ],
]


@pytest.mark.filterwarnings("default::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(ESTIMATORS)
def test_estimator_follows_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(SLOW_ESTIMATORS)
def test_estimator_of_other_options_follows_scikit_learn(estimator, check):
    check(estimator)
