import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from skpref._student._output import class_logits, expected_f1_offsets, probabilities
from skpref._student._stage2 import fit_last_layer, fit_offsets


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


def head_data(n_rows=400, n_groups=40, seed=0):
    rng = np.random.RandomState(seed)
    X = rng.standard_normal((n_rows, 5)) + 3.0
    coef = np.array([[0.0, 0.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0, 0.0]])
    p = softmax(X @ coef.T - [[0.0, 6.0]], axis=1)
    codes = (rng.uniform(size=n_rows) < p[:, 1]).astype(int)
    return X, codes, np.arange(n_rows) % n_groups


@pytest.mark.parametrize("convert", [np.asarray, csr_matrix])
@pytest.mark.parametrize("n_scores", [1, 2])
def test_head_learns_what_the_logits_lack(convert, n_scores):
    X, codes, groups = head_data()
    base, goal = np.zeros((len(X), n_scores)), np.eye(2)[codes]
    coef, intercept, variance = fit_last_layer(convert(X), base, goal, np.ones(len(X)), groups)
    assert variance > 0
    assert coef.shape == (n_scores, 5)
    before = probabilities(base)[np.arange(len(X)), codes]
    after = probabilities(base + X @ coef.T + intercept)[np.arange(len(X)), codes]
    assert np.log(after).mean() > np.log(before).mean() + 0.1
    toward = coef[-1] - (coef[0] if n_scores == 2 else 0)
    assert np.abs(toward).argmax() == 0
    assert toward[0] > 0


def test_head_stays_where_the_logits_are_right_or_labels_are_of_one_session():
    rng = np.random.RandomState(0)
    X, _, groups = head_data()
    logits = 2 * rng.standard_normal((len(X), 2))
    codes = (rng.uniform(size=len(X)) < probabilities(logits)[:, 1]).astype(int)
    goal, weight = np.eye(2)[codes], np.ones(len(X))
    coef, intercept, _ = fit_last_layer(X, logits, goal, weight, groups)
    assert np.abs(X @ coef.T + intercept).mean() < 0.2
    X, codes, _ = head_data()
    coef, intercept, variance = fit_last_layer(X, 0 * logits, np.eye(2)[codes], weight, 0 * groups)
    assert variance == 0
    assert not coef.any()
    assert not intercept.any()


def test_head_is_the_minimum_of_the_stated_objective():
    X, codes, groups = head_data(n_rows=120)
    base, goal = np.zeros((len(X), 1)), np.eye(2)[codes]
    weight = np.random.RandomState(1).uniform(0.5, 2, len(X))
    coef, intercept, variance = fit_last_layer(X, base, goal, weight, groups)
    center = X.mean(axis=0)
    spread = np.sqrt(((X - center) ** 2).sum(axis=1).mean())

    def objective(theta):
        log_p = log_softmax(class_logits((X - center) / spread @ theta[:-1, None] + theta[-1]), 1)
        return -(weight[:, None] * goal * log_p).sum() + theta @ theta / (2 * variance)

    found = np.r_[coef[0] * spread, intercept + coef[0] @ center]
    assert_allclose(minimize(objective, np.zeros(6)).x, found, atol=2e-3)


def test_offsets_raise_macro_f1_where_the_soft_labels_are_right():
    rng = np.random.RandomState(0)
    log_p = rng.standard_normal((500, 3))
    soft = softmax(log_p + np.array([0.0, 0.0, -2.0]), axis=1)
    offsets = expected_f1_offsets(log_p, soft, np.ones(500))
    y = np.array([rng.choice(3, p=p) for p in soft])
    before, after = log_p.argmax(axis=1), (log_p + offsets).argmax(axis=1)
    assert f1_score(y, after, average="macro") > f1_score(y, before, average="macro") + 0.02
    # Rows of no weight do not count, and rows of weight two count twice.
    weight = rng.randint(0, 3, 500)
    some = np.repeat(np.arange(500), weight)
    assert_allclose(
        expected_f1_offsets(log_p, soft, weight),
        expected_f1_offsets(log_p[some], soft[some], np.ones(len(some))),
    )
