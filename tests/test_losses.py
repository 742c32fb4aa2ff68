import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skpref import IntraSessionPairSampler
from skpref._losses import PreferenceLoss, pair_loss
from skpref._net import SessionBatches, SessionDataset

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
        "session_weight": "equal",
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


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from(sorted(PAIR)),
    margin=st.sampled_from(["adaptive", "fixed"]),
    min_margin=st.sampled_from([0.0, 0.25]),
    per_session=st.sampled_from(["equal", "pairs"]),
)
def test_dense_pairs_agree_with_brute_force(seed, loss, margin, min_margin, per_session):
    scores, soft, weight, session = make_rows(seed)
    dataset = SessionDataset(scores, soft, weight, session)
    [(X, target)] = SessionBatches(dataset, batch_size=100)
    criterion = make_loss(
        loss=loss, margin=margin, min_margin=min_margin, session_weight=per_session
    )
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
    assert criterion(X, target).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from(sorted(PAIR)),
    per_session=st.sampled_from(["equal", "pairs"]),
)
def test_all_sampled_pairs_agree_with_dense_pairs(seed, loss, per_session):
    scores, soft, _, session = make_rows(seed)
    dataset = SessionDataset(scores, soft, np.ones(len(soft)), session)
    sampler = IntraSessionPairSampler(session_weight=per_session)
    criterion = make_loss(loss=loss, session_weight=per_session)
    [(X, dense)] = SessionBatches(dataset, batch_size=100)
    [(_, sampled)] = SessionBatches(dataset, batch_size=100, pair_sampler=sampler)
    assert criterion(X, sampled).item() == pytest.approx(criterion(X, dense).item(), abs=1e-6)


def test_chunks_of_sessions_change_nothing(monkeypatch):
    scores, soft, weight, session = make_rows(0, n_rows=40, n_sessions=9)
    dataset = SessionDataset(scores, soft, weight, session)
    [(X, target)] = SessionBatches(dataset, batch_size=100)
    whole = make_loss()(X, target)
    monkeypatch.setattr("skpref._losses._MAX_BLOCK", 1)
    assert make_loss()(X, target).item() == pytest.approx(whole.item())


def test_no_pair_and_no_gradient_from_tied_sessions():
    scores = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    dataset = SessionDataset(
        np.zeros((6, 1)), np.full((6, 3), 1 / 3), np.ones(6), np.array([0, 0, 0, 1, 1, 2])
    )
    [(_, target)] = SessionBatches(dataset, batch_size=100)
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
    [(X, target)] = SessionBatches(dataset, batch_size=100)
    criterion = make_loss(
        pairwise_weight=0.0,
        pointwise_weight=1.0,
        class_weight=torch.from_numpy(classes),
        scale=1.5,
        offsets=np.full(n_scores, 0.2) * np.arange(n_scores),
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
    [(X, target)] = SessionBatches(dataset, batch_size=100)
    moved = X + torch.from_numpy(np.array([3.0, -1.0, 7.0, 2.0])[session][:, None])
    assert make_loss()(moved, target).item() == pytest.approx(make_loss()(X, target).item())


@pytest.mark.parametrize("loss", sorted(PAIR))
def test_pair_loss_by_name(loss):
    violation = torch.tensor([-1.5, 0.0, 2.0], dtype=torch.float64)
    expected = [PAIR[loss](v) for v in violation.tolist()]
    assert pair_loss(violation, loss).tolist() == pytest.approx(expected)
