import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from skpref import IntraSessionPairSampler
from skpref._net import MLP, SessionBatches, SessionDataset, predict_scores, resolve_device


def make_dataset(lengths, convert=np.asarray):
    session = np.repeat(np.arange(len(lengths)), lengths)
    # The only feature is the number of the row.
    X = convert(np.arange(len(session), dtype=np.float32)[:, None])
    soft = np.random.RandomState(0).rand(len(session), 1)
    return SessionDataset(X, soft, np.ones(len(session)), session)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=15),
    batch_size=st.integers(1, 20),
    shuffle=st.booleans(),
)
def test_batches_hold_each_row_once_and_no_pair_crosses_a_session(lengths, batch_size, shuffle):
    dataset = make_dataset(lengths)
    rows = []
    for X, target in SessionBatches(dataset, batch_size, shuffle=shuffle):
        numbers = X[:, 0].long().numpy()
        rows += numbers.tolist()
        assert len(numbers) <= batch_size
        seen = []
        for block in target["layout"].numpy():
            inside = block[block >= 0]
            seen += inside.tolist()
            assert len(set(dataset.session[numbers[inside]])) == 1
        assert sorted(seen) == list(range(len(numbers)))
    assert sorted(rows) == list(range(len(dataset)))


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=2, max_size=10), batch_size=st.integers(1, 9))
def test_sampled_pairs_come_with_the_batch_of_their_session(lengths, batch_size):
    dataset = make_dataset(lengths)
    sampler = IntraSessionPairSampler("all")
    expected = sampler.sample(dataset.soft.numpy()[:, 0], dataset.session)
    found = []
    for X, target in SessionBatches(dataset, batch_size, shuffle=True, pair_sampler=sampler):
        rows = X[:, 0].long()
        winner, loser = rows[target["winner"]], rows[target["loser"]]
        gap = dataset.soft[winner, 0] - dataset.soft[loser, 0]
        assert torch.allclose(gap, target["margin"])
        found += zip(winner.tolist(), loser.tolist(), strict=True)
    pairs = zip(expected.winner.tolist(), expected.loser.tolist(), strict=True)
    assert sorted(found) == sorted(pairs)


def test_a_long_session_is_dealt_out_anew_in_each_epoch():
    batches = SessionBatches(make_dataset([10]), 4, shuffle=True)
    epochs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        epochs.append([frozenset(X[:, 0].tolist()) for X, _ in batches])
    assert [len(b) for b in epochs[0]] == [4, 3, 3]
    assert epochs[0] != epochs[1]


def test_sparse_rows_are_filled_by_batch():
    for (dense, _), (filled, _) in zip(
        SessionBatches(make_dataset([3, 4]), 4),
        SessionBatches(make_dataset([3, 4], csr_matrix), 4),
        strict=True,
    ):
        assert torch.equal(dense, filled)


def test_sessions_come_in_another_order_in_each_epoch():
    batches = SessionBatches(make_dataset([2] * 20), 2, shuffle=True)
    torch.manual_seed(0)
    first, second = ([X[0, 0].item() for X, _ in batches] for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second)


def test_device_auto_is_one_that_is_there():
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="device='cuda:x' is not known"):
        resolve_device("cuda:x")


def test_mlp_layers():
    module = MLP(5, 2, hidden_units=(4, 3))
    assert module(torch.zeros(7, 5)).shape == (7, 2)
    assert sum(p.numel() for p in module.parameters()) == 5 * 4 + 4 + 4 * 3 + 3 + 3 * 2 + 2


def test_prediction_in_parts_is_that_of_the_whole():
    from skpref._net import make_net

    criterion = {
        "loss": "hinge",
        "margin": "fixed",
        "margin_scale": 1.0,
        "pairwise_weight": 1.0,
        "pointwise_weight": 0.0,
        "min_margin": 0.0,
        "session_weight": "equal",
        "class_weight": torch.ones(2),
    }
    net = make_net(MLP(3, 1), criterion=criterion).initialize()
    X = np.random.RandomState(0).randn(11, 3).astype(np.float32)
    whole = predict_scores(net, X)
    np.testing.assert_allclose(predict_scores(net, X, batch_size=4), whole, atol=1e-6)
    assert predict_scores(net, X[:0]).shape == (0, 1)
