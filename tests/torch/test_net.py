from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from skorch.callbacks import Callback

from skpref import IntraSessionPairSampler
from skpref._device import resolve_device
from skpref._torch._batches import SessionBatches, SessionDataset
from skpref._torch._net import (
    MLP,
    Linear,
    _accumulate_gradients,
    make_net,
    predict_scores,
)

CRITERION = {
    "loss": "squared_hinge",
    "margin": "adaptive",
    "margin_scale": 1.0,
    "pairwise_weight": 1.0,
    "pointwise_weight": 1.0,
    "min_margin": 0.0,
    "class_weight": torch.ones(2),
}


def make_dataset(lengths, convert=np.asarray, n_scores=1):
    session = np.repeat(np.arange(len(lengths)), lengths)
    # The only feature is the number of the row.
    X = convert(np.arange(len(session), dtype=np.float32)[:, None])
    soft = np.random.RandomState(0).rand(len(session), n_scores)
    return SessionDataset(X, soft, np.ones(len(session)), session)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=15),
    batch_size=st.integers(1, 20),
    shuffle=st.booleans(),
    n_scores=st.integers(1, 3),
    few=st.sampled_from([0, 300, 10**6]),
)
def test_batches_hold_each_row_once_and_no_pair_crosses_a_session(
    lengths, batch_size, shuffle, n_scores, few
):
    dataset = make_dataset(lengths, n_scores=n_scores)
    rows, entries = [], []
    with mock.patch("skpref._torch._batches._FEW_PAIRS", few):
        batches = list(SessionBatches(dataset, batch_size, shuffle=shuffle))
    for X, target in batches:
        numbers = X[:, 0].long().numpy()
        rows += numbers.tolist()
        own, counts = np.unique(dataset.session[numbers], return_counts=True)
        assert len(numbers) <= batch_size or len(own) == 1
        # A session is whole unless it holds more than a tenth of all rows.
        dealt = np.array(lengths)[own] > max(batch_size, len(dataset) // 10)
        assert (counts == np.array(lengths)[own])[~dealt].all()
        for block in target["blocks"]:
            for entry, weight in zip(block["entry"], block["weight"], strict=True):
                inside = entry[weight > 0].numpy() - 1
                assert (entry[weight == 0] == 0).all()
                own = numbers[inside // n_scores]
                assert len(set(dataset.session[own])) == 1
                assert len(set(inside % n_scores)) == 1
                entries += (own * n_scores + inside % n_scores).tolist()
    assert sorted(rows) == list(range(len(dataset)))
    assert len(entries) == len(set(entries))
    # A session of one row, or a part of one, has no pair.
    pairs_everywhere = batch_size > 1 and min(lengths) > 1 and max(lengths) <= batch_size
    assert len(entries) == len(dataset) * n_scores or not pairs_everywhere


def test_padding_is_less_than_half_of_a_block():
    dataset = make_dataset([2, 300, 5, 5, 40, 33, 300, 2, 2, 2, 170])
    [(_, target)] = SessionBatches(dataset, 10**4)
    shares = [(block["weight"] > 0).double().mean().item() for block in target["blocks"]]
    assert len(shares) > 3
    assert min(shares) > 0.5


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=2, max_size=10), batch_size=st.integers(1, 9))
def test_sampled_pairs_come_with_the_batch_of_their_session(lengths, batch_size):
    dataset = make_dataset(lengths)
    sampler = IntraSessionPairSampler("all")
    # No session is longer than a batch, so that none is dealt out.
    batch_size += max(lengths)
    expected = sampler.sample(dataset.teacher[:, 0], dataset.session)
    found = []
    for X, target in SessionBatches(dataset, batch_size, shuffle=True, pairs=sampler):
        rows = X[:, 0].long()
        winner, loser = rows[target["winner"]], rows[target["loser"]]
        gap = dataset.teacher[winner, 0] - dataset.teacher[loser, 0]
        np.testing.assert_allclose(gap, target["margin"], rtol=1e-6)
        found += zip(winner.tolist(), loser.tolist(), strict=True)
    pairs = zip(expected.winner.tolist(), expected.loser.tolist(), strict=True)
    assert sorted(found) == sorted(pairs)


def test_only_a_session_of_more_than_a_tenth_of_the_rows_is_dealt_out_anew_in_each_epoch():
    batches = SessionBatches(make_dataset([30, 9] + [1] * 61), 4, shuffle=True)
    epochs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        rows = [frozenset(X[:, 0].long().tolist()) for X, _ in batches]
        epochs.append({b for b in rows if min(b) < 30})
        assert frozenset(range(30, 39)) in rows
    assert [len(b) for b in epochs[0]] == [10, 10, 10]
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


@pytest.mark.parametrize("convert", [np.asarray, csr_matrix])
def test_prediction_in_parts_is_that_of_the_whole(convert, monkeypatch):
    torch.manual_seed(0)
    module = MLP(3, 1, dropout=0.5)
    X = convert(np.random.RandomState(0).randn(11, 3))
    whole = predict_scores(module, X)
    assert not module.training
    assert whole.dtype == np.float32
    monkeypatch.setattr("skpref._torch._net._ROWS", 4)
    np.testing.assert_allclose(predict_scores(module, X), whole, atol=1e-6)
    assert predict_scores(module, X[:0]).shape == (0, 1)


@pytest.mark.parametrize("module", [MLP, Linear])
@pytest.mark.parametrize("convert", [np.asarray, csr_matrix])
def test_gradients_of_all_rows_do_not_depend_on_the_blocks(module, convert, monkeypatch):
    rng = np.random.RandomState(0)
    X, soft, session = rng.randn(40, 6), rng.rand(40, 1), np.repeat(np.arange(8), 5)
    torch.manual_seed(0)
    module = module(6, 1).double()
    criterion = make_net(module, criterion=CRITERION).criterion_

    def gradients(X):
        dataset = SessionDataset(X, soft, np.ones(40), session)
        [target] = SessionBatches(dataset, 100).targets()
        module.zero_grad()
        value = _accumulate_gradients(module, dataset, criterion, target, "cpu")
        return value, [p.grad.clone() for p in module.parameters()]

    whole_value, whole = gradients(X)
    monkeypatch.setattr("skpref._torch._net._ROWS", 7)
    value, parts = gradients(convert(X))
    assert value == pytest.approx(whole_value)
    for part, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, expected)


def test_an_interrupt_by_the_user_is_raised_and_one_by_a_callback_stops():
    class Interrupted(MLP):
        def forward(self, X):
            if self.training and at == "module":
                raise KeyboardInterrupt
            return super().forward(X)

    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if at == "callback":
                raise KeyboardInterrupt

    X, soft = np.eye(6, dtype=np.float32), np.linspace(0, 1, 6)[:, None]
    data = SessionDataset(X, soft, np.ones(6), np.zeros(6, dtype=int))
    net = make_net(Interrupted(6, 1), criterion=CRITERION, callbacks=[Stop()], verbose=0)
    at = "callback"
    assert len(net.partial_fit(data).history) == 1
    at = "module"
    with pytest.raises(KeyboardInterrupt):
        net.partial_fit(data)
