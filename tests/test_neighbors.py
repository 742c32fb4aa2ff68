import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.metrics import pairwise_distances

from skpref._neighbors import NeighborSearch, row_keys

HAS_FAISS = importlib.util.find_spec("faiss") is not None


def brute_force(X_new, session_new, X, session, k, metric):
    """Find the voters row by row, ordered by distance in single precision, then by position."""
    distances = pairwise_distances(X_new, X, metric=metric).astype(np.float32)
    nearest = []
    for row, excluded in zip(distances, session_new, strict=True):
        order = np.lexsort((np.arange(len(X)), row))
        nearest.append(order[session[order] != excluded][:k].tolist())
    return nearest


def voters(search, X, session):
    voter, distance = search.find(X, row_keys(X), session, "cpu")
    assert (np.diff(distance[:, np.isfinite(distance).all(axis=0)], axis=1) >= 0).all()
    return [row[np.isfinite(d)].tolist() for row, d in zip(voter, distance, strict=True)]


@settings(deadline=None, max_examples=60)
@given(
    X=hnp.arrays(float, st.tuples(st.integers(1, 50), st.just(2)), elements=st.integers(-2, 2)),
    n_sessions=st.integers(1, 5),
    k=st.integers(1, 5),
    metric=st.sampled_from(["euclidean", "manhattan"]),
    container=st.sampled_from([np.asarray, sparse.csr_array]),
)
def test_the_nearest_voters_of_other_sessions_are_found(X, n_sessions, k, metric, container):
    session = np.arange(len(X)) % n_sessions
    X_new, session_new = np.concatenate([X, X + 0.5]), np.concatenate([session, session - 1])
    rows = container(X)
    search = NeighborSearch(rows, row_keys(rows), session, k, metric)
    expected = brute_force(X_new, session_new, X, session, k, metric)
    assert voters(search, container(X_new), session_new) == expected


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_dense_and_sparse_rows_find_the_same_voters(metric):
    rng = np.random.default_rng(0)
    X, session = rng.normal(size=(80, 5)), rng.integers(9, size=80)
    X[5] = 0.0
    X_new, session_new = np.concatenate([X[6:15], X[6:15] + 1]), np.arange(18) - 1
    expected = brute_force(X_new, session_new, X, session, 4, metric)
    for fitted in (X, sparse.csr_array(X)):
        search = NeighborSearch(fitted, row_keys(fitted), session, 4, metric)
        for new in (X_new, sparse.csr_array(X_new)):
            assert voters(search, new, session_new) == expected


def test_copies_of_a_row_of_zeros_are_its_nearest_voters():
    X = np.concatenate([np.eye(50), np.zeros((3, 50))])
    search = NeighborSearch(X, row_keys(X), np.arange(53), 2, "cosine")
    assert voters(search, X[-3:], np.arange(50, 53)) == [[51, 52], [50, 52], [50, 51]]


@pytest.mark.skipif(not HAS_FAISS, reason="needs faiss, the extra 'approximate'")
def test_rows_for_which_the_index_finds_too_few_voters_are_searched_exactly():
    rng = np.random.default_rng(0)
    X, session = rng.normal(size=(600, 4)), np.repeat([0, 1], 300)
    X[:300] += 100.0  # all near rows belong to the same session
    search = NeighborSearch(X, row_keys(X), session, 5, "euclidean")
    recall = search.build_index(X[::9], row_keys(X[::9]), session[::9], "cpu", seed=0)
    assert recall == 1.0
    expected = brute_force(X[:50], session[:50], X, session, 5, "euclidean")
    assert voters(search, X[:50], session[:50]) == expected


def test_row_keys_are_equal_exactly_for_equal_rows():
    values = np.stack(np.meshgrid(*[np.arange(-8.0, 8.0)] * 4), axis=-1).reshape(-1, 4)
    keys = row_keys(values)
    assert len(np.unique(keys)) == len(values)
    np.testing.assert_array_equal(row_keys(values.astype(np.float32)), keys)
    split = sparse.csr_array(([1.0, 2.0, 0.0], ([0, 0, 0], [1, 1, 2])), shape=(1, 4))
    assert row_keys(split) == row_keys(np.array([[0.0, 3.0, -0.0, 0.0]]))
