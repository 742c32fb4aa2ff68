import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from skpref import IntraSessionPairSampler
from skpref._torch._batches import SessionBatches, SessionDataset


def make_dataset(lengths, convert=np.asarray, n_scores=1):
    session = np.repeat(np.arange(len(lengths)), lengths)
    # The only feature is the number of the row.
    X = convert(np.arange(len(session), dtype=np.float32)[:, None])
    soft = np.random.RandomState(0).rand(len(session), n_scores)
    return SessionDataset(X, soft, np.ones(len(session)), session)


@pytest.mark.slow
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
    batches = list(SessionBatches(dataset, batch_size, shuffle=shuffle, few_pairs=few))
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
    expected = sampler.sample(dataset.soft[:, 0], dataset.session)
    found = []
    for X, target in SessionBatches(dataset, batch_size, shuffle=True, pairs=sampler):
        rows = X[:, 0].long()
        winner, loser = rows[target["winner"]], rows[target["loser"]]
        gap = dataset.soft[winner, 0] - dataset.soft[loser, 0]
        np.testing.assert_allclose(gap, target["margin"], rtol=1e-6)
        found += zip(winner.tolist(), loser.tolist(), strict=True)
    pairs = zip(expected.winner.tolist(), expected.loser.tolist(), strict=True)
    assert sorted(found) == sorted(pairs)


def test_only_a_session_of_more_than_a_tenth_of_the_rows_is_divided_again_in_each_epoch():
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


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    batch_size=st.integers(1, 12),
    budget=st.integers(1, 60),
    seed=st.integers(0, 10),
)
@settings(max_examples=50, deadline=None)
def test_batches_keep_to_both_budgets_and_sessions_whole(lengths, batch_size, budget, seed):
    rng = np.random.RandomState(seed)
    session = np.repeat(np.arange(len(lengths)), lengths)
    tokens = np.empty(len(session), dtype=object)
    tokens[:] = [np.full(rng.randint(1, 20), i, dtype=np.int32) for i in range(len(session))]
    data = SessionDataset(tokens, rng.rand(len(session), 1), np.ones(len(session)), session)
    # Long sessions are dealt out otherwise, which is tested with features.
    batches = SessionBatches(data, max(batch_size, 6), token_budget=budget)
    seen = []
    for X, _ in batches:
        rows = X[:, 0].numpy()
        seen.extend(rows)
        assert (np.bincount(session[rows]) == np.bincount(session)[: session[rows].max() + 1])[
            np.unique(session[rows])
        ].all()
        n_sessions = len(np.unique(session[rows]))
        assert n_sessions == 1 or (len(rows) <= max(batch_size, 6) and (X >= 0).sum() <= budget)
    assert sorted(seen) == list(range(len(session)))


def test_processes_share_out_the_batches():
    n = 50
    data = SessionDataset(
        np.arange(n, dtype=np.float32)[:, None], np.zeros((n, 1)), np.ones(n), np.arange(n) // 5
    )

    def rows(shard):
        torch.manual_seed(0)
        batches = SessionBatches(data, 10, shuffle=True, pairs=None, shard=shard)
        torch.rand(shard[0] + 1)  # what processes draw by themselves does not part them
        return [[X[:, 0].tolist() for X, _ in batches] for _ in range(2)]

    parts = [rows((rank, 2)) for rank in range(2)]
    for first, second in zip(*parts, strict=True):
        assert len(first) == len(second) == 3  # five batches, one of them twice
        assert {r for batch in first + second for r in batch} == set(range(n))
