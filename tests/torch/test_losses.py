import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skpref import IntraSessionPairSampler
from skpref._student._output import Output
from skpref._torch._batches import SessionBatches, SessionDataset
from skpref._torch._dominance import pair_loss, pair_sums
from skpref._torch._losses import PreferenceLoss, sampled_sums

PAIR = {
    "hinge": lambda v: max(0.0, v),
    "squared_hinge": lambda v: max(0.0, v) ** 2,
    "logistic": lambda v: np.logaddexp(0, v),
}


def brute_force(scores, soft, weight, session, *, loss, margin, scale, min_margin, per_session):
    """The pairwise term, pair by pair."""
    totals = {}
    for i in range(len(soft)):
        for j in range(len(soft)):
            for k in range(soft.shape[1]):
                gap = soft[i, k] - soft[j, k]
                if session[i] != session[j] or gap <= 0 or gap < min_margin:
                    continue
                required = scale * (gap if margin == "adaptive" else 1)
                value = PAIR[loss](required - (scores[i, k] - scores[j, k]))
                w = weight[i] * weight[j]
                total = totals.setdefault(session[i], [0.0, 0.0])
                total[0] += w * value
                total[1] += w
    if not totals:
        return 0.0
    sums = np.array(list(totals.values()))
    if per_session == "equal":
        return (sums[:, 0] / sums[:, 1]).mean()
    return sums[:, 0].sum() / sums[:, 1].sum()


def make_loss(**changes):
    settings = {
        "loss": "squared_hinge",
        "margin": "adaptive",
        "margin_scale": 2.0,
        "pairwise_weight": 1.0,
        "pointwise_weight": 0.0,
        "min_margin": 0.0,
        "class_weight": torch.ones(3),
    }
    return PreferenceLoss(**settings | changes)


def make_rows(seed, n_rows=14, n_scores=3, n_sessions=4):
    rng = np.random.RandomState(seed)
    session = np.sort(rng.randint(n_sessions, size=n_rows))
    session = np.unique(session, return_inverse=True)[1]
    # Rounded, so that ties occur.
    soft = rng.rand(n_rows, n_scores).round(1)
    return rng.randn(n_rows, n_scores), soft, rng.rand(n_rows) + 0.1, session


def one_batch(dataset, **pairs):
    [(X, target)] = SessionBatches(dataset, batch_size=10**6, **pairs)
    return X, target


def loss_and_gradient(criterion, scores, target):
    scores = scores.clone().requires_grad_()
    loss = criterion(scores, target)
    (gradient,) = torch.autograd.grad(loss, scores)
    return loss.detach(), gradient


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from(sorted(PAIR)),
    margin=st.sampled_from(["adaptive", "fixed"]),
    min_margin=st.sampled_from([0.0, 0.25]),
    per_session=st.sampled_from(["equal", "pairs"]),
    max_dense=st.sampled_from([1, 3, 256]),
    few=st.sampled_from([0, 10**6]),
)
def test_all_pairs_agree_with_brute_force(
    seed, loss, margin, min_margin, per_session, max_dense, few
):
    scores, soft, weight, session = make_rows(seed)
    if loss == "logistic":
        max_dense = 256  # else it is an estimate
    dataset = SessionDataset(scores, soft, weight, session)
    X, target = one_batch(dataset, min_margin=min_margin, session_weight=per_session, few_pairs=few)
    limits = {"max_dense": max_dense, "leaf": 2, "min_margin": min_margin}
    criterion = make_loss(loss=loss, margin=margin, pairwise_weight=0.5, **limits)
    value = criterion(X, target).item()
    expected = brute_force(
        scores,
        soft,
        weight,
        session,
        loss=loss,
        margin=margin,
        scale=2.0,
        min_margin=min_margin,
        per_session=per_session,
    )
    assert value == pytest.approx(0.5 * expected, rel=1e-9, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("loss", sorted(PAIR))
@pytest.mark.parametrize("margin", ["adaptive", "fixed"])
@pytest.mark.parametrize("max_dense", [2, 256])
def test_gradient_agrees_with_finite_differences(loss, margin, max_dense):
    if loss == "logistic" and max_dense == 2:
        pytest.skip("the logistic loss of long sessions is an estimate")
    scores, soft, weight, session = make_rows(5, n_rows=25)
    X, target = one_batch(SessionDataset(scores, soft, weight, session))
    limits = {"max_dense": max_dense, "leaf": 3}
    criterion = make_loss(loss=loss, margin=margin, pointwise_weight=0.3, **limits)
    assert torch.autograd.gradcheck(lambda s: criterion(s, target), X.requires_grad_())


@pytest.mark.parametrize("loss", sorted(PAIR))
def test_gradient_agrees_with_autograd_through_all_pairs(loss):
    scores, soft, weight, session = make_rows(6, n_rows=60)
    X, target = one_batch(SessionDataset(scores, soft, weight, session), session_weight="pairs")
    value, gradient = loss_and_gradient(make_loss(loss=loss), X, target)

    same = torch.from_numpy(session[:, None] == session[None, :])
    t, w, f = torch.from_numpy(soft), torch.from_numpy(weight), X.clone().requires_grad_()
    gap = t[:, None] - t[None, :]
    pair_weight = w[:, None, None] * w[None, :, None] * (same[:, :, None] & (gap > 0))
    losses, _ = pair_loss(2.0 * gap - (f[:, None] - f[None, :]), loss)
    expected = (pair_weight * losses).sum() / pair_weight.sum()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, f)[0])


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_long_sessions_are_summed_as_short_ones(loss):
    rng = np.random.RandomState(0)
    session = np.repeat([0, 1, 2, 3], [400, 3, 90, 1])
    soft, scores = rng.rand(len(session), 2).round(2), rng.randn(len(session), 2)
    dataset = SessionDataset(scores, soft, rng.rand(len(session)), session)
    X, target = one_batch(dataset)
    summed = loss_and_gradient(make_loss(loss=loss), X, target)
    dense = loss_and_gradient(make_loss(loss=loss, max_dense=1000), X, target)
    torch.testing.assert_close(summed[0], dense[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(summed[1], dense[1], rtol=1e-10, atol=1e-14)


def test_single_precision_scores_lose_nothing_in_a_long_session():
    rng = np.random.RandomState(0)
    soft = rng.rand(20_000, 1)
    scores = rng.randn(20_000, 1).astype(np.float32) + 100
    session = np.zeros(len(soft), dtype=int)
    values = []
    for dtype in (np.float32, np.float64):
        dataset = SessionDataset(scores.astype(dtype), soft, np.ones(len(soft)), session)
        values.append(make_loss()(*one_batch(dataset)).item())
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_sampled_logistic_loss_of_a_long_session_is_unbiased():
    rng = np.random.RandomState(0)
    session = np.repeat([0, 1], [40, 25])
    soft, scores = rng.rand(65, 2).round(1), rng.randn(65, 2)
    dataset = SessionDataset(scores, soft, rng.rand(65), session)
    X, target = one_batch(dataset)
    criterion = make_loss(loss="logistic")
    value, gradient = loss_and_gradient(criterion, X, target)
    criterion = make_loss(loss="logistic", max_dense=2, n_draws=4)
    torch.manual_seed(0)
    draws = [loss_and_gradient(criterion, X, target) for _ in range(400)]
    for samples, expected in (
        (torch.stack([d[0] for d in draws]), value),
        (torch.stack([d[1] for d in draws]), gradient),
    ):
        error = samples.std(dim=0) / len(draws) ** 0.5
        assert (error > 0).any()
        assert ((samples.mean(dim=0) - expected).abs() <= 5 * error + 1e-12).all()


def test_draws_in_steps_are_unbiased():
    rng = np.random.RandomState(0)
    high, low, weight = (torch.from_numpy(rng.rand(2, 30)) for _ in range(3))
    n_losers = torch.arange(30).expand(2, 30)
    value, slope = pair_sums(high, low, weight, n_losers, "logistic")
    torch.manual_seed(0)
    draws = [sampled_sums(high, low, weight, n_losers, n_draws=4, step=7) for _ in range(400)]
    values = torch.stack([d[0] for d in draws])
    assert (values.mean() - value).abs() <= 5 * values.std() / 20
    slopes = torch.stack([d[1] for d in draws])
    assert ((slopes.mean(dim=0) - slope).abs() <= 5 * slopes.std(dim=0) / 20 + 1e-12).all()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from(sorted(PAIR)),
    per_session=st.sampled_from(["equal", "pairs"]),
)
def test_all_sampled_pairs_agree_with_all_pairs(seed, loss, per_session):
    scores, soft, _, session = make_rows(seed)
    dataset = SessionDataset(scores, soft, np.ones(len(soft)), session)
    sampler = IntraSessionPairSampler(session_weight=per_session)
    criterion = make_loss(loss=loss)
    X, every = one_batch(dataset, session_weight=per_session)
    _, sampled = one_batch(dataset, pairs=sampler)
    assert criterion(X, sampled).item() == pytest.approx(criterion(X, every).item(), abs=1e-6)


def test_no_pair_and_no_gradient_from_tied_sessions():
    scores = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    dataset = SessionDataset(
        np.zeros((6, 1)), np.full((6, 3), 1 / 3), np.ones(6), np.array([0, 0, 0, 1, 1, 2])
    )
    _, target = one_batch(dataset)
    loss = make_loss()(scores, target)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(scores.grad, torch.zeros_like(scores))


@pytest.mark.parametrize("n_scores", [1, 3])
def test_pointwise_term_is_weighted_cross_entropy(n_scores):
    scores, soft, weight, session = make_rows(1, n_scores=n_scores)
    classes = np.array([0.5, 2.0]) if n_scores == 1 else np.array([0.5, 2.0, 1.0])
    if n_scores > 1:
        soft /= soft.sum(axis=1, keepdims=True)
    dataset = SessionDataset(scores, soft, weight, session)
    X, target = one_batch(dataset)
    criterion = make_loss(
        pairwise_weight=0.0,
        pointwise_weight=1.0,
        class_weight=torch.from_numpy(classes),
        output=Output(1.5, torch.from_numpy(0.2 * np.arange(n_scores))),
    )
    logits = 1.5 * scores + 0.2 * np.arange(n_scores)
    if n_scores == 1:
        logits, soft = np.c_[np.zeros(len(logits)), logits], np.c_[1 - soft, soft]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(weight[:, None] * classes * soft * log_p).sum() / weight.sum()
    assert criterion(X, target).item() == pytest.approx(expected)


def test_adding_to_a_session_changes_no_pair_loss():
    scores, soft, weight, session = make_rows(2)
    dataset = SessionDataset(scores, soft, weight, session)
    X, target = one_batch(dataset)
    moved = X + torch.from_numpy(np.array([3.0, -1.0, 7.0, 2.0])[session][:, None])
    assert make_loss()(moved, target).item() == pytest.approx(make_loss()(X, target).item())


@pytest.mark.parametrize("loss", sorted(PAIR))
def test_pair_loss_by_name(loss):
    violation = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64)
    expected = [PAIR[loss](v) for v in violation.tolist()]
    assert pair_loss(violation, loss)[0].tolist() == pytest.approx(expected)
