import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from skpref._offsets import class_logits, fit_offsets, probabilities


def draw(n_rows, scale, offsets, seed=0):
    rng = np.random.RandomState(seed)
    scores = rng.randn(n_rows, len(offsets))
    p = softmax(class_logits(scale * scores + offsets), axis=1)
    codes = (rng.rand(n_rows, 1) > p.cumsum(axis=1)).sum(axis=1)
    return scores, np.eye(p.shape[1])[np.minimum(codes, p.shape[1] - 1)]


@pytest.mark.parametrize("offsets", [np.array([0.7]), np.array([1.0, -0.5, -0.5])])
def test_recovers_scale_and_offsets(offsets):
    scores, target = draw(40_000, 2.5, offsets)
    scale, found = fit_offsets(scores, target, np.ones(len(scores)))
    assert scale == pytest.approx(2.5, abs=0.1)
    shift = found - found.mean() if len(found) > 1 else found
    assert_allclose(shift, offsets, atol=0.1)


def test_binary_fit_is_a_logistic_regression_without_penalty():
    scores, target = draw(500, 0.8, np.array([0.3]))
    scale, offsets = fit_offsets(scores, target, np.ones(500), ridge=1e-9)
    peer = LogisticRegression(C=np.inf, tol=1e-8).fit(scores, target[:, 1])
    assert scale == pytest.approx(peer.coef_[0, 0], rel=1e-3)
    assert offsets[0] == pytest.approx(peer.intercept_[0], abs=1e-3)


def test_few_rows_keep_the_scores():
    scores, target = draw(2, 1.0, np.array([0.0, 0.0, 0.0]))
    scale, offsets = fit_offsets(scores, target, np.ones(2), ridge=100.0)
    assert scale == pytest.approx(1.0, abs=0.05)
    assert_allclose(offsets, 0, atol=0.05)


def test_a_given_scale_is_kept():
    scores, target = draw(2000, 2.5, np.array([0.7]))
    scale, offsets = fit_offsets(scores, target, np.ones(2000), scale=1.5)
    assert scale == 1.5
    assert offsets[0] > 0.2


def test_weights_count_like_repeated_rows():
    scores, target = draw(50, 1.5, np.array([0.5, 0.0, -0.5]))
    weight = np.random.RandomState(0).randint(0, 3, size=50)
    weighted = fit_offsets(scores, target, weight.astype(float))
    repeated = fit_offsets(
        np.repeat(scores, weight, axis=0),
        np.repeat(target, weight, axis=0),
        np.ones(weight.sum()),
    )
    assert_allclose(weighted[0], repeated[0], rtol=1e-4)
    assert_allclose(weighted[1], repeated[1], atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n_scores=st.sampled_from([1, 3]))
def test_probabilities_are_distributions(seed, n_scores):
    logits = 30 * np.random.RandomState(seed).randn(20, n_scores)
    p = probabilities(logits)
    assert (p >= 0).all()
    assert_allclose(p.sum(axis=1), 1)


def test_solution_is_the_minimum_of_the_stated_objective():
    scores, target = draw(30, 1.5, np.array([0.5, 0.0, -0.5]))

    def objective(params):
        log_p = log_softmax(params[0] * scores + params[1:], axis=1)
        return -(target * log_p).sum() + 0.5 * ((params[0] - 1) ** 2 + (params[1:] ** 2).sum())

    best = minimize(objective, np.r_[1.0, 0, 0, 0], tol=1e-10)
    scale, offsets = fit_offsets(scores, target, np.ones(30), ridge=1.0)
    assert_allclose(np.r_[scale, offsets], best.x, atol=1e-3)
