import importlib.util
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from skpref import KNNLabelSmoother, _neighbors, _smoother
from skpref._smoother import _SPARSE_METRICS
from tests.containers import INTEGERS, STRINGS, cases, hold
from tests.helpers import raises

HAS_FAISS = importlib.util.find_spec("faiss") is not None
needs_faiss = pytest.mark.skipif(not HAS_FAISS, reason="needs faiss, the extra 'approximate'")


def utterances(n=2000, n_features=32, seed=0, dtype=np.float32):
    """Make clustered rows of low intrinsic dimension, one in ten a copy, with labels, sessions."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(20, 6))[rng.integers(20, size=n)] + 0.5 * rng.normal(size=(n, 6))
    X = latent @ rng.normal(size=(6, n_features)) + 0.05 * rng.normal(size=(n, n_features))
    X[rng.choice(n, n // 10, replace=False)] = X[rng.integers(n, size=n // 10)]
    return X.astype(dtype), rng.dirichlet(np.ones(3), size=n), rng.integers(n // 25, size=n)


def soft_data(seed=0, n=60, n_features=4, n_classes=3, unknown=0.2):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features))
    y = rng.dirichlet(np.ones(n_classes), size=n)
    y[rng.random(n) < unknown] = np.nan
    groups = rng.integers(6, size=n)
    return X, y, groups


def brute_force(
    X, y, *, k=10, alpha=0.5, weights="uniform", metric="cosine", n_iter=1, groups=None
):
    """Smooth row by row; return the soft labels of the rows and a function that labels new rows."""
    known = ~np.isnan(y).any(axis=1)

    def means(rows, row_groups, votes, own_index):
        distances = pairwise_distances(rows, X, metric=metric)
        out = np.empty((len(rows), y.shape[1]))
        for i, d in enumerate(distances):
            admissible = [
                j
                for j in np.lexsort((np.arange(len(X)), d))
                if known[j]
                and not (own_index is not None and own_index[i] == j)
                and not (groups is not None and row_groups[i] == groups[j])
            ][:k]
            w = np.ones(len(admissible)) if weights == "uniform" else 1 / d[admissible]
            out[i] = np.average(votes[admissible], axis=0, weights=w) if admissible else np.nan
        return out

    current = y
    for _ in range(n_iter):
        votes = current
        mean = means(X, groups, votes, np.arange(len(X)))
        alone = np.isnan(mean).any(axis=1)
        current = np.where(known[:, None], (1 - alpha) * y + alpha * mean, mean)
        current[alone & known] = y[alone & known]
        current[alone & ~known] = y[known].mean(axis=0)
    return current, lambda rows, row_groups=None: means(rows, row_groups, votes, None)


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("n_iter", [1, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_smoothing_agrees_with_brute_force(metric, weights, n_iter, grouped):
    X, y, groups = soft_data()
    groups = groups if grouped else None
    smoother = KNNLabelSmoother(
        5, alpha=0.3, weights=weights, metric=metric, n_iter=n_iter, exclude_same_group=grouped
    )
    expected, label_new = brute_force(
        X, y, k=5, alpha=0.3, weights=weights, metric=metric, n_iter=n_iter, groups=groups
    )
    np.testing.assert_allclose(smoother.fit_transform(X, y, groups), expected, rtol=1e-6)
    X_new, _, groups_new = soft_data(seed=1, n=20)
    groups_new = groups_new + 3 if grouped else None  # some sessions are new
    np.testing.assert_allclose(
        smoother.transform(X_new, groups_new), label_new(X_new, groups_new), rtol=1e-6
    )


def test_new_rows_get_the_probabilities_of_scikit_learns_neighbors():
    rng = np.random.default_rng(0)
    X, y, X_new = rng.normal(size=(80, 3)), rng.integers(3, size=80), rng.normal(size=(30, 3))
    for metric in ("cosine", "euclidean"):
        for weights in ("uniform", "distance"):
            knn = KNeighborsClassifier(7, weights=weights, metric=metric).fit(X, y)
            smoother = KNNLabelSmoother(7, weights=weights, metric=metric).fit(X, y)
            np.testing.assert_allclose(
                smoother.transform(X_new), knn.predict_proba(X_new), rtol=1e-6
            )


def test_smoothing_denoises_labels():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=400)
    X = np.column_stack([2 * truth - 1, 1 - 2 * truth]) + rng.normal(size=(400, 2))
    noisy = np.where(rng.random(400) < 0.3, 1 - truth, truth)
    smoothed = KNNLabelSmoother(20, alpha=0.8, metric="euclidean").fit_transform(X, noisy)
    assert (smoothed.argmax(axis=1) == truth).mean() > (noisy == truth).mean() + 0.1


def test_transform_of_training_rows_equals_fit_transform():
    X, y, _ = soft_data()
    smoother = KNNLabelSmoother(5, weights="distance", n_iter=2)
    smoothed = smoother.fit_transform(X, y)
    np.testing.assert_array_equal(smoother.transform(X), smoothed)
    np.testing.assert_array_equal(smoother.transform(X[7:9]), smoothed[7:9])
    np.testing.assert_array_equal(smoother.transform(sparse.csr_array(X)), smoothed)
    # New rows among them change nothing.
    new = X[:5] + 0.01
    both = smoother.transform(np.vstack([X, new]))
    np.testing.assert_array_equal(both, np.vstack([smoothed, smoother.transform(new)]))


def test_masked_features_are_refused():
    X, y, _ = soft_data()
    masked = np.ma.masked_array(X, mask=np.arange(X.size).reshape(X.shape) == 3)
    with pytest.raises(ValueError, match="masked"):
        KNNLabelSmoother().fit(masked, y)
    assert get_tags(KNNLabelSmoother()).target_tags.two_d_labels


def test_duplicates_of_a_row_vote_for_it_but_the_row_itself_does_not():
    X = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [-2.0, 1.0]])
    y = ["a", "b", "b", "a"]
    smoother = KNNLabelSmoother(2, alpha=1.0)
    smoothed = smoother.fit_transform(X, y)
    np.testing.assert_array_equal(smoothed[:3], [[0, 1], [0.5, 0.5], [0.5, 0.5]])
    # In transform, all duplicates are treated as the first of them.
    np.testing.assert_array_equal(smoother.transform(X)[:3], [[0, 1]] * 3)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbors_at_distance_zero_take_all_the_weight(metric):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 30)) * 1e3
    X[3] = X[7] = X[0]
    y = np.arange(20) % 3
    smoother = KNNLabelSmoother(15, weights="distance", alpha=1.0, metric=metric)
    smoothed = smoother.fit_transform(X, y)
    np.testing.assert_array_equal(smoothed[0], (np.eye(3)[0] + np.eye(3)[1]) / 2)
    assert np.isfinite(smoothed).all()


def test_ties_go_to_the_first_rows_whatever_the_block_size():
    rng = np.random.default_rng(0)
    X = rng.integers(-1, 2, size=(300, 3)).astype(float)
    y = rng.dirichlet(np.ones(4), size=300)
    X_new = rng.integers(-2, 3, size=(200, 3)) + 0.0
    smoother = KNNLabelSmoother(7, n_iter=2)
    expected = smoother.fit_transform(X, y), smoother.transform(X_new)
    with config_context(working_memory=0.01):
        in_blocks = smoother.fit_transform(X, y), smoother.transform(X_new)
    np.testing.assert_array_equal(in_blocks[0], expected[0])
    np.testing.assert_array_equal(in_blocks[1], expected[1])
    X_tied, y_tied = np.ones((6, 2)), np.eye(6)
    smoothed = KNNLabelSmoother(2, alpha=1.0).fit_transform(X_tied, y_tied)
    np.testing.assert_array_equal(smoothed[0], (y_tied[1] + y_tied[2]) / 2)
    np.testing.assert_array_equal(smoothed[5], (y_tied[0] + y_tied[1]) / 2)


def test_alpha_0_leaves_labelled_rows_unchanged_and_fills_unlabelled_rows():
    X, y, _ = soft_data()
    known = ~np.isnan(y).any(axis=1)
    smoothed = KNNLabelSmoother(alpha=0, n_iter=3).fit_transform(X, y)
    np.testing.assert_array_equal(smoothed[known], y[known])
    assert np.isfinite(smoothed[~known]).all()


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(
    X=hnp.arrays(float, st.tuples(st.integers(1, 15), st.just(2)), elements=st.integers(-2, 2)),
    seed=st.integers(0, 100),
    alpha=st.sampled_from([0.0, 0.4, 1.0]),
    weights=st.sampled_from(["uniform", "distance"]),
    metric=st.sampled_from(["cosine", "euclidean"]),
    grouped=st.booleans(),
    n_iter=st.sampled_from([1, 2]),
    algorithm=st.sampled_from(["exact", "approximate"] if HAS_FAISS else ["exact"]),
)
def test_smoothed_rows_are_distributions(
    X, seed, alpha, weights, metric, grouped, n_iter, algorithm
):
    rng = np.random.default_rng(seed)
    y = rng.dirichlet(np.ones(3), size=len(X))
    y[1:][rng.random(len(X) - 1) < 0.4] = np.nan
    groups = rng.integers(3, size=len(X))
    smoother = KNNLabelSmoother(
        3,
        alpha=alpha,
        weights=weights,
        metric=metric,
        exclude_same_group=grouped,
        n_iter=n_iter,
        algorithm=algorithm,
        random_state=0,
    )
    X_new = rng.normal(size=(4, 2))
    for rows in (
        smoother.fit_transform(X, y, groups),
        smoother.transform(X, groups),
        smoother.transform(X_new, rng.integers(5, size=4)),
    ):
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(axis=1), 1)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(names=st.permutations("uvwxyz"))
def test_renaming_sessions_changes_nothing(names):
    X, y, groups = soft_data()
    smoother = KNNLabelSmoother(5, exclude_same_group=True)
    expected = smoother.fit_transform(X, y, groups), smoother.transform(X + 1, groups)
    renamed = [names[g] for g in groups]
    np.testing.assert_array_equal(smoother.fit_transform(X, y, renamed), expected[0])
    np.testing.assert_array_equal(smoother.transform(X + 1, renamed), expected[1])


def test_row_order_does_not_change_the_labels():
    X, y, groups = soft_data()
    order = np.random.default_rng(1).permutation(len(X))
    smoother = KNNLabelSmoother(5, exclude_same_group=True)
    smoothed = smoother.fit_transform(X, y, groups)
    shuffled = smoother.fit_transform(X[order], y[order], groups[order])
    np.testing.assert_allclose(shuffled, smoothed[order])


def test_exclude_same_group_takes_neighbors_of_other_sessions_only():
    X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
    y = ["a", "a", "b", "b"]
    smoother = KNNLabelSmoother(1, alpha=1.0, exclude_same_group=True)
    smoothed = smoother.fit_transform(X, y, groups=["s", "s", "t", "t"])
    np.testing.assert_array_equal(smoothed, [[0, 1], [0, 1], [1, 0], [1, 0]])
    new = smoother.transform([[1.0, 0.2]] * 3, groups=["t", "s", "new"])
    np.testing.assert_array_equal(new, [[1, 0], [0, 1], [1, 0]])
    # A row with the same numbers in another session is a different row.
    same = smoother.transform([[1.0, 0.0]] * 2, groups=["s", "new"])
    np.testing.assert_array_equal(same, [[0, 1], [1, 0]])


def test_session_ids_of_transform_are_compared_by_value():
    X, y, groups = soft_data()
    smoother = KNNLabelSmoother(3, exclude_same_group=True).fit(X, y, groups)
    expected = smoother.transform(X + 1, groups)
    np.testing.assert_array_equal(smoother.transform(X + 1, groups.tolist()), expected)
    np.testing.assert_array_equal(smoother.transform(X + 1, pd.Series(groups)), expected)
    # Another order of first appearance
    np.testing.assert_array_equal(smoother.transform(X[::-1] + 1, groups[::-1]), expected[::-1])


def test_rows_without_neighbors_keep_their_label_or_take_the_prior():
    X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]
    y = [[0.2, 0.8], [0.6, 0.4], [np.nan, np.nan]]
    smoother = KNNLabelSmoother(exclude_same_group=True)
    smoothed = smoother.fit_transform(X, y, groups=[0, 0, 0])
    np.testing.assert_allclose(smoothed, [[0.2, 0.8], [0.6, 0.4], [0.4, 0.6]])
    np.testing.assert_allclose(smoother.class_prior_, [0.4, 0.6])
    np.testing.assert_allclose(smoother.transform([[3.0, 3.0]], groups=[0]), [[0.4, 0.6]])
    np.testing.assert_array_equal(KNNLabelSmoother().fit_transform([[1.0]], [7]), [[1.0]])


def test_more_neighbors_than_rows_takes_all():
    X, y, _ = soft_data(n=8, unknown=0.0)
    smoothed = KNNLabelSmoother(100, alpha=1.0).fit_transform(X, y)
    np.testing.assert_allclose(smoothed, (y.sum(axis=0) - y) / 7)
    np.testing.assert_array_equal(KNNLabelSmoother(7, alpha=1.0).fit_transform(X, y), smoothed)


def test_unknown_rows_do_not_vote():
    X, y, _ = soft_data()
    known = ~np.isnan(y).any(axis=1)
    smoothed = KNNLabelSmoother(5, n_iter=3).fit_transform(X, y)
    known_only = KNNLabelSmoother(5, n_iter=3).fit_transform(X[known], y[known])
    np.testing.assert_array_equal(smoothed[known], known_only)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([0, 1, 2, -1], [0, 1, 2]),
        ([5.0, 3.0, np.nan, 3.0], [3.0, 5.0]),
        (["yes", None, "no", "no"], ["no", "yes"]),
        (np.array(["yes", np.nan, "no", "no"], dtype=object), ["no", "yes"]),
        ([True, False, False, True], [False, True]),
        (pd.Series(["b", "a", "a", "b"], dtype="category"), ["a", "b"]),
        ([[0.5, 0.5], [1, 0], [0, 1], [np.nan, np.nan]], [0, 1]),
    ],
)
def test_hard_and_soft_labels_give_classes(y, classes):
    smoother = KNNLabelSmoother(2).fit(np.arange(8.0).reshape(4, 2), y)
    assert smoother.classes_.tolist() == classes
    np.testing.assert_allclose(smoother.label_distributions_.sum(axis=1), 1)


def test_hard_labels_are_one_hot_soft_labels():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), rng.integers(3, size=40)
    hard = KNNLabelSmoother().fit_transform(X, y)
    np.testing.assert_array_equal(hard, KNNLabelSmoother().fit_transform(X, np.eye(3)[y]))


def test_a_callable_weighs_by_distance():
    X, y, _ = soft_data()

    def kernel(distances):
        return np.exp(-distances)

    smoother = KNNLabelSmoother(60, alpha=0.5, weights=kernel, metric="euclidean")
    expected = smoother.fit_transform(X, y)
    known = ~np.isnan(y).any(axis=1)
    w = kernel(pairwise_distances(X))
    np.fill_diagonal(w, 0)
    mean = w[:, known] @ y[known] / w[:, known].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(expected[known], (y + mean)[known] / 2, rtol=1e-6)
    np.testing.assert_allclose(expected[~known], mean[~known], rtol=1e-6)


@pytest.mark.parametrize("weights", [np.negative, lambda d: np.full_like(d, np.nan)])
def test_a_callable_that_returns_invalid_weights_is_an_error(weights):
    X, y, _ = soft_data()
    match = re.escape("must return a finite non-negative weight for each distance")
    with pytest.raises(ValueError, match=match):
        KNNLabelSmoother(weights=weights).fit(X, y)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_rows_of_zeros_have_a_cosine_distance_of_1(weights):
    X = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.5]])
    y = np.array([0, 1, 0, 1])
    smoothed = KNNLabelSmoother(1, alpha=1.0, weights=weights).fit_transform(X, y)
    np.testing.assert_array_equal(smoothed, [[1, 0], [0, 1], [1, 0], [0, 1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_of_floats_is_kept(dtype):
    X, y, _ = soft_data()
    smoother = KNNLabelSmoother(5)
    assert smoother.fit_transform(X.astype(dtype), y).dtype == dtype
    assert smoother.transform(X.astype(dtype)).dtype == dtype
    assert smoother.transform(X.astype(dtype) + 1).dtype == dtype


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csc_array])
def test_sparse_and_dense_features_give_the_same_result(container, metric):
    rng = np.random.default_rng(0)
    X = rng.binomial(3, 0.2, size=(50, 12)).astype(float)
    X_new = rng.binomial(3, 0.2, size=(20, 12)).astype(float)
    y = rng.integers(-1, 3, size=50)
    dense = KNNLabelSmoother(5, metric=metric).fit(X, y)
    smoother = KNNLabelSmoother(5, metric=metric).fit(container(X), y)
    np.testing.assert_allclose(smoother.label_distributions_, dense.label_distributions_)
    np.testing.assert_allclose(smoother.transform(container(X_new)), dense.transform(X_new))


def test_output_is_a_frame_with_the_class_names_on_request():
    X, _, _ = soft_data(n=6)
    y = ["sad", "glad", "sad", None, "glad", "sad"]
    X = pd.DataFrame(X, columns=list("abcd"), index=range(10, 16))
    smoother = KNNLabelSmoother(2).set_output(transform="pandas")
    for out in (smoother.fit_transform(X, y), smoother.transform(X + 1)):
        assert out.columns.tolist() == ["knnlabelsmoother_glad", "knnlabelsmoother_sad"]
        assert out.index.tolist() == X.index.tolist()
    assert smoother.feature_names_in_.tolist() == list("abcd")
    assert smoother.get_feature_names_out().dtype == object


def test_smoother_pickles_and_clones():
    X, y, groups = soft_data()
    smoother = KNNLabelSmoother(4, exclude_same_group=True).fit(X, y, groups)
    copy = pickle.loads(pickle.dumps(smoother))
    np.testing.assert_array_equal(copy.transform(X + 1, groups), smoother.transform(X + 1, groups))
    with pytest.raises(NotFittedError):
        clone(smoother).transform(X, groups)


def test_changing_a_returned_array_does_not_change_the_smoother():
    X, y, _ = soft_data()
    smoother = KNNLabelSmoother(4)
    smoothed = smoother.fit_transform(X, y)
    expected = smoothed.copy()
    smoothed[:] = 0
    smoother.transform(X)[:] = 0
    np.testing.assert_array_equal(smoother.transform(X), expected)


def test_pipeline_passes_groups_to_fit_and_transform_under_routing():
    X, y, groups = soft_data(unknown=0.0)
    y = y.argmax(axis=1)
    smoother = KNNLabelSmoother(4, exclude_same_group=True)
    pipeline = make_pipeline(smoother, LogisticRegression())
    with config_context(enable_metadata_routing=True):
        pipeline.fit(X, y, groups=groups)
        prob = pipeline.predict_proba(X + 1, groups=groups)
    expected = LogisticRegression().fit(smoother.fit_transform(X, y, groups), y)
    np.testing.assert_allclose(
        prob, expected.predict_proba(smoother.transform(X + 1, groups)), rtol=1e-6
    )


def test_missing_groups_are_an_error_that_names_the_option():
    X, y, groups = soft_data()
    smoother = KNNLabelSmoother(exclude_same_group=True)
    match = re.escape("exclude_same_group=True needs groups, the session of each row")
    with pytest.raises(ValueError, match=match):
        smoother.fit(X, y)
    smoother.fit(X, y, groups)
    with pytest.raises(ValueError, match=match):
        smoother.transform(X)
    with pytest.raises(ValueError, match=re.escape("groups has 1 entries")):
        KNNLabelSmoother().fit(X, y, [0])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[0.5, 0.6], [1, 0]], "y has 1 rows of soft labels that do not sum to 1 (first: row 0"),
        ([[1, 0], [1.5, -0.5]], "y has negative soft labels in 1 rows (first: row 1)"),
        ([[1, 0], [1, np.nan]], "y has NaN for only some classes in 1 rows (first: row 1)"),
        ([[1, 0], [np.inf, 0]], "Input y contains infinity"),
        ([0.5, 0.7], "Unknown label type"),
        ([-1, -1], "y has no known label; label at least one row."),
        ([None, None], "y has no known label; label at least one row."),
        ([[np.nan, np.nan]] * 2, "y has no known label; label at least one row."),
        ([0, 1, 1], "inconsistent numbers of samples"),
    ],
)
def test_wrong_labels_raise_an_error_that_names_the_problem(y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        KNNLabelSmoother().fit([[1.0, 2.0], [2.0, 1.0]], y)


def test_rounding_errors_in_soft_labels_are_accepted():
    y = np.array([[1 + 2e-7, -2e-7], [0.3, 0.7 + 5e-7]], dtype=np.float64)
    smoothed = KNNLabelSmoother().fit_transform([[1.0, 2.0], [2.0, 1.0]], y)
    assert (smoothed >= 0).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_neighbors", 0),
        ("alpha", 1.1),
        ("weights", "gauss"),
        ("metric", "precomputed"),
        ("n_iter", 0),
        ("algorithm", "hnsw"),
        ("device", 0),
        ("random_state", "seed"),
        ("exclude_same_group", "yes"),
    ],
)
def test_a_wrong_parameter_is_named(name, value):
    match = re.escape(f"The {name!r} parameter of KNNLabelSmoother must be")
    with pytest.raises(ValueError, match=match):
        KNNLabelSmoother(**{name: value}).fit([[1.0], [2.0]], [0, 1])


def test_large_distances_do_not_overflow():
    X = np.array([[1e30, 0.0], [2e30, 0.0], [0.0, 3e30]])
    smoothed = KNNLabelSmoother(1, metric="sqeuclidean", alpha=1.0).fit_transform(X, [0, 1, 1])
    np.testing.assert_allclose(smoothed.sum(axis=1), 1)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["cosine", "euclidean", "l2", "sqeuclidean"])
@pytest.mark.parametrize("grouped", [False, True])
def test_blocks_of_any_size_agree_with_scikit_learns_distances(metric, grouped):
    X, y, groups = utterances(300)
    y[::7] = np.nan
    X = X.astype(float)
    expected, label_new = brute_force(
        X, y, metric=metric, alpha=0.25, groups=groups if grouped else None
    )
    smoother = KNNLabelSmoother(metric=metric, exclude_same_group=grouped)
    # scikit-learn takes the square root of a difference of products, so that the distance of equal
    # rows is not exactly zero.
    np.testing.assert_allclose(smoother.fit_transform(X, y, groups), expected, atol=1e-12)
    labels = smoother.transform(X + 1, groups)
    np.testing.assert_allclose(labels, label_new(X + 1, groups), atol=1e-12)
    with config_context(working_memory=0.001):
        np.testing.assert_array_equal(smoother.transform(X + 1, groups), labels)
        np.testing.assert_array_equal(smoother.transform(X[:1] + 1, groups[:1]), labels[:1])


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    X=hnp.arrays(float, st.tuples(st.integers(2, 60), st.just(2)), elements=st.integers(-2, 2)),
    seed=st.integers(0, 100),
    k=st.integers(1, 4),
    metric=st.sampled_from(["euclidean", "sqeuclidean", "manhattan"]),
    grouped=st.booleans(),
)
def test_ties_and_duplicates_go_by_distance_then_fitted_row(X, seed, k, metric, grouped):
    # With small integers, distances tie exactly and many rows are equal.
    rng = np.random.default_rng(seed)
    y = rng.dirichlet(np.ones(3), size=len(X))
    y[1:][rng.random(len(X) - 1) < 0.3] = np.nan
    groups = rng.integers(4, size=len(X))
    expected, label_new = brute_force(X, y, k=k, metric=metric, groups=groups if grouped else None)
    smoother = KNNLabelSmoother(k, alpha=0.5, metric=metric, exclude_same_group=grouped)
    smoothed = smoother.fit_transform(X, y, groups)
    np.testing.assert_allclose(smoothed, expected, atol=1e-12)
    X_new, groups_new = X[:5] + 0.5, groups[:5]
    expected = label_new(X_new, groups_new)
    expected[np.isnan(expected).any(axis=1)] = smoother.class_prior_
    np.testing.assert_allclose(smoother.transform(X_new, groups_new), expected, atol=1e-12)


def test_hundreds_of_equal_rows_vote_by_fitted_order():
    X, y, groups = utterances(1500)
    X[np.random.default_rng(1).choice(1500, 600, replace=False)] = X[0]
    rows = np.flatnonzero((X[0] == X).all(axis=1))
    smoother = KNNLabelSmoother(5, alpha=1.0)
    smoothed = smoother.fit_transform(X, y)
    np.testing.assert_allclose(smoothed[rows[0]], y[rows[1:6]].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        smoothed[rows[6:]], [y[rows[:5]].mean(axis=0)] * (len(rows) - 6), rtol=1e-5
    )
    smoother.set_params(exclude_same_group=True).fit(X, y, groups)
    for row in rows[::50]:
        others = rows[groups[rows] != groups[row]][:5]
        np.testing.assert_allclose(
            smoother.label_distributions_[row], y[others].mean(axis=0), rtol=1e-5
        )


def test_negative_zeros_are_zeros():
    X, y, _ = soft_data()
    X[:, 1] = 0.0
    smoother = KNNLabelSmoother(5)
    smoothed = smoother.fit_transform(X, y)
    negative = X.copy()
    negative[:, 1] = -0.0
    np.testing.assert_array_equal(smoother.transform(negative), smoothed)
    np.testing.assert_array_equal(smoother.transform(sparse.csr_array(negative)), smoothed)


def test_only_the_scores_of_a_block_of_rows_are_in_memory(monkeypatch):
    import torch

    X, y, _ = utterances(3000, n_features=8)
    sizes = []

    def spy(*shape, **kwargs):
        sizes.append(np.prod(np.ravel(shape)))
        return torch_empty(*shape, **kwargs)

    torch_empty = torch.empty
    monkeypatch.setattr(torch, "empty", spy)
    with config_context(working_memory=1):
        KNNLabelSmoother(device="cpu").fit(X, y)
    assert sizes
    assert 4 * max(sizes) <= 2**20 / 4


def test_the_matmul_precision_set_by_the_user_is_restored():
    import torch

    X, y, _ = utterances(300)
    expected = KNNLabelSmoother().fit_transform(X, y)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        np.testing.assert_array_equal(KNNLabelSmoother().fit_transform(X, y), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.cuda
def test_cuda_and_cpu_give_the_same_result():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    X, y, groups = utterances()
    for metric in ("cosine", "euclidean"):
        smoothers = {
            device: KNNLabelSmoother(metric=metric, device=device, exclude_same_group=True)
            for device in ("cpu", "cuda")
        }
        smoothed = {d: s.fit_transform(X, y, groups) for d, s in smoothers.items()}
        np.testing.assert_array_equal(smoothed["cuda"], smoothed["cpu"])
        copy = pickle.loads(pickle.dumps(smoothers["cuda"]))
        np.testing.assert_array_equal(copy.transform(X, groups), smoothed["cpu"])


def test_an_unknown_device_is_an_error_that_names_it():
    X, y, _ = soft_data()
    with pytest.raises(ValueError, match=re.escape("device='tpu' is not known; choose 'auto'")):
        KNNLabelSmoother(device="tpu").fit(X, y)


@pytest.mark.slow
@needs_faiss
@pytest.mark.parametrize("metric", ["cosine", "euclidean", "sqeuclidean"])
@pytest.mark.parametrize("grouped", [False, True])
def test_approximate_search_finds_nearly_all_neighbors(metric, grouped):
    X, y, groups = utterances()
    params = {"metric": metric, "exclude_same_group": grouped, "random_state": 0}
    exact = KNNLabelSmoother(algorithm="exact", **params).fit(X, y, groups)
    approximate = KNNLabelSmoother(algorithm="approximate", **params).fit(X, y, groups)
    assert (exact.algorithm_, exact.recall_) == ("exact", 1.0)
    assert approximate.algorithm_ == "approximate"
    assert 0.98 <= approximate.recall_ <= 1
    same = np.isclose(approximate.label_distributions_, exact.label_distributions_).all(axis=1)
    assert same.mean() > 0.75
    np.testing.assert_array_equal(
        approximate.transform(X[:9], groups[:9]), approximate.transform(X, groups)[:9]
    )


@needs_faiss
def test_approximate_search_increases_the_number_of_lists_until_recall_is_reached(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2000, 40)), rng.integers(3, size=2000)
    params = {"algorithm": "approximate", "random_state": 0}
    hard = KNNLabelSmoother(**params).fit(X, y)
    assert hard.recall_ >= 0.98
    monkeypatch.setattr(_neighbors, "_MIN_RECALL", 0.0)
    assert KNNLabelSmoother(**params).fit(X, y).recall_ < 0.9


@needs_faiss
def test_approximate_search_finds_k_neighbors_even_if_the_nearest_are_in_the_same_session():
    X, y, _ = utterances(600)
    groups = np.repeat(np.arange(3), 200)
    X[:200] += 100.0  # all near rows belong to the same session
    smoother = KNNLabelSmoother(
        5, alpha=1.0, metric="euclidean", algorithm="approximate", exclude_same_group=True
    )
    expected, label_new = brute_force(X, y, k=5, alpha=1.0, metric="euclidean", groups=groups)
    smoothed = smoother.fit_transform(X, y, groups)
    np.testing.assert_allclose(smoothed[:200], expected[:200], rtol=1e-5)
    labels = smoother.transform(X[:9] + 1, groups[:9])
    np.testing.assert_allclose(labels, label_new(X[:9] + 1, groups[:9]), rtol=1e-5)


@needs_faiss
def test_approximate_search_is_the_same_for_one_random_state_and_any_row_order():
    X, y, groups = utterances()
    params = {"algorithm": "approximate", "random_state": 3, "exclude_same_group": True}
    first = KNNLabelSmoother(**params).fit(X, y, groups)
    second = KNNLabelSmoother(**params).fit(X, y, groups)
    np.testing.assert_array_equal(first.label_distributions_, second.label_distributions_)
    assert first.recall_ == second.recall_
    order = np.random.default_rng(1).permutation(len(X))
    shuffled = KNNLabelSmoother(**params).fit(X[order], y[order], groups[order])
    # The index is the same, but the sample that decides how many lists are searched is not.
    same = np.isclose(shuffled.label_distributions_, first.label_distributions_[order])
    assert same.all(axis=1).mean() > 0.9


@needs_faiss
def test_approximate_smoother_pickles_with_its_index():
    X, y, _ = utterances(500)
    smoother = KNNLabelSmoother(algorithm="approximate", random_state=0).fit(X, y)
    copy = pickle.loads(pickle.dumps(smoother))
    np.testing.assert_array_equal(copy.transform(X + 1), smoother.transform(X + 1))
    assert copy.recall_ == smoother.recall_


@needs_faiss
@pytest.mark.parametrize("n", [1, 2, 9])
def test_approximate_search_works_with_few_rows(n):
    X, y, _ = utterances(50)
    params = {"metric": "euclidean", "random_state": 0}
    smoothed = KNNLabelSmoother(algorithm="approximate", **params).fit_transform(X[:n], y[:n])
    np.testing.assert_allclose(smoothed, KNNLabelSmoother(**params).fit_transform(X[:n], y[:n]))


@needs_faiss
def test_auto_is_exact_up_to_a_size_and_if_the_index_cannot_be_used(monkeypatch):
    X, y, _ = utterances(200, dtype=float)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(_smoother, "_MAX_AUTO_EXACT", 100)
    auto = KNNLabelSmoother(device="cpu", random_state=0)
    assert auto.fit(X, y).algorithm_ == "approximate"
    assert (
        auto.fit(np.repeat(X[:90], 3, axis=0), np.repeat(y[:90], 3, axis=0)).algorithm_ == "exact"
    )
    assert auto.fit(sparse.csr_array(X), y).algorithm_ == "exact"
    assert clone(auto).set_params(metric="manhattan").fit(X, y).algorithm_ == "exact"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert auto.fit(X, y).algorithm_ == "exact"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert auto.fit(X, y).algorithm_ == "exact"


def test_impossible_approximate_search_is_an_error_that_names_the_choices():
    X, y, _ = soft_data()
    match = re.escape(
        "algorithm='approximate' cannot search dense X with metric='manhattan'; pass dense X and "
        "one of ['cosine', 'euclidean', 'l2', 'sqeuclidean'], or algorithm='exact'."
    )
    with pytest.raises(ValueError, match=match):
        KNNLabelSmoother(algorithm="approximate", metric="manhattan").fit(X, y)
    match = re.escape("cannot search sparse X with metric='cosine'")
    with pytest.raises(ValueError, match=match):
        KNNLabelSmoother(algorithm="approximate").fit(sparse.csr_array(X), y)


def test_a_missing_faiss_names_the_extra(monkeypatch):
    X, y, _ = soft_data()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=re.escape('pip install "skpref[approximate]"')):
        KNNLabelSmoother(algorithm="approximate").fit(X, y)


@pytest.mark.slow
@needs_faiss
@pytest.mark.skipif(sys.platform == "darwin", reason="two OpenMP runtimes crash on macOS")
@pytest.mark.parametrize("first", ["torch", "faiss"])
def test_faiss_and_torch_work_in_one_process_in_either_import_order(first):
    code = f"""
import {first}
import numpy as np
from skpref import KNNLabelSmoother
X = np.random.default_rng(0).normal(size=(3000, 16)).astype("float32")
y = np.arange(3000) % 3
for algorithm in ("approximate", "exact", "approximate"):
    KNNLabelSmoother(algorithm=algorithm, random_state=0, device="cpu").fit(X, y)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# --- inputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_sparse", [False, True])
@pytest.mark.parametrize(
    "metric", ["cosine", "euclidean", "sqeuclidean", "manhattan", "correlation"]
)
def test_features_of_any_size(metric, as_sparse):
    if as_sparse and metric not in _SPARSE_METRICS:
        pytest.skip("scikit-learn cannot compare sparse rows by it")
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    X, new = rng.normal(size=(60, 3)) + y[:, None], rng.normal(size=(20, 3))
    convert = sparse.csr_array if as_sparse else np.asarray
    for weights in ("uniform", "distance") if metric == "euclidean" else ("uniform",):
        smoother = KNNLabelSmoother(3, metric=metric, weights=weights)
        expected = smoother.fit(convert(X), y).transform(convert(new))
        for scale in (1e-200, 1e-50, 1e50, 1e150, 1e160, 1e300):
            found = smoother.fit(convert(X * scale), y).transform(convert(new * scale))
            assert_allclose(found, expected, atol=1e-6)


def test_a_new_row_of_another_size_gets_soft_labels():
    X, y = np.eye(3) * 1e-200, [0, 1, 1]
    for metric in ("cosine", "euclidean", "manhattan"):
        prob = KNNLabelSmoother(1, metric=metric).fit(X, y).transform([[0.0, 1e200, 0.0]])
        assert_allclose(prob.sum(), 1)


def test_metrics_that_do_not_suit_the_features_are_named():
    with raises("metric='haversine' needs X of 2 columns, latitude and longitude, but X has 3"):
        KNNLabelSmoother(metric="haversine").fit(np.eye(3), [0, 1, 1])
    with raises("metric='braycurtis' cannot compare rows of a sparse X; pass X.toarray()"):
        KNNLabelSmoother(metric="braycurtis").fit(sparse.csr_array(np.eye(3)), [0, 1, 1])
    for metric in _SPARSE_METRICS:
        KNNLabelSmoother(2, metric=metric).fit(sparse.csr_array(np.eye(3)), [0, 1, 1])


def test_a_failed_fit_leaves_the_smoother_as_it_was():
    X, y = np.eye(4), [0, 1, 0, 1]
    unfitted = KNNLabelSmoother()
    with raises("y has no known label"):
        unfitted.fit(X, np.full(4, -1))
    with pytest.raises(NotFittedError):
        unfitted.transform(X)
    fitted = KNNLabelSmoother().fit(X, y)
    before = fitted.transform(X)
    with raises("groups has 3 entries"):
        fitted.fit(np.eye(4)[:, :2], ["a", "b", "c", "a"], groups=[0, 0, 1])
    assert fitted.classes_.tolist() == [0, 1]
    assert_array_equal(fitted.transform(X), before)


@pytest.mark.parametrize(("kind", "make"), cases(strings=STRINGS, integers=INTEGERS))
def test_labels_and_sessions_of_every_container(kind, make):
    X = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
    values = {"strings": ["b", "a", "b", None], "integers": [1, 0, 1, -1]}[kind]
    y = hold(make, values)
    if y is None:
        return
    smoother = KNNLabelSmoother(2, exclude_same_group=True)
    expected = smoother.fit_transform(X, values, groups=[0, 0, 1, 1])
    ids = {"strings": ["x", "x", "y", "y"], "integers": [7, 7, 8, 8]}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        found = smoother.fit_transform(X, y, groups=make(ids))
    assert_array_equal(found, expected)
    assert_array_equal(smoother.transform(X, groups=make(ids)), expected)


def test_soft_labels_of_every_kind_of_table():
    X = np.eye(3)
    soft = np.array([[0.2, 0.8], [np.nan, np.nan], [0.6, 0.4]])
    gaps = np.isnan(soft)
    expected = KNNLabelSmoother().fit_transform(X, soft)
    for y in (
        soft.tolist(),
        np.ma.masked_array(np.where(gaps, 9.0, soft), mask=gaps),
        pd.DataFrame(soft).astype("Float64"),
        pl.DataFrame(soft, schema=["a", "b"]),
        torch.tensor(soft),
        list(soft),
    ):
        assert_array_equal(KNNLabelSmoother().fit_transform(X, y), expected)


# --- several labels per row ---------------------------------------------------------------------


def test_each_of_several_labels_is_smoothed_over_the_rows_where_it_is_known():
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(40, 3)), rng.normal(size=(5, 3))
    y = rng.uniform(size=(40, 3))
    y[rng.uniform(size=y.shape) < 0.4] = np.nan
    y[:, 2] = np.nan
    smoother = KNNLabelSmoother(3, multilabel=True, n_iter=2)
    smoothed = smoother.fit_transform(X, y)
    assert np.isnan(smoothed[:, 2]).all()
    for k in range(2):
        alone = KNNLabelSmoother(3, n_iter=2)
        both = np.column_stack([1 - y[:, k], y[:, k]])
        assert_allclose(smoothed[:, k], alone.fit_transform(X, both)[:, 1], atol=1e-12)
        assert_allclose(smoother.transform(new)[:, k], alone.transform(new)[:, 1], atol=1e-12)
    assert_array_equal(smoother.transform(X), smoothed)


def test_marks_of_unknown_labels_are_alike():
    X = np.arange(8.0).reshape(4, 2)
    y = np.array([[1, 0], [-1, 1], [0, 1], [1, -1]])
    smoother = KNNLabelSmoother(2, multilabel=True)
    expected = smoother.fit_transform(X, np.where(y < 0, np.nan, y))
    for same in (y, sparse.csr_array(y), y.tolist()):
        assert_array_equal(smoother.fit_transform(X, same), expected)


def test_rows_that_do_not_sum_to_1_need_multilabel():
    X, y = [[0.0], [1.0]], [[1.0, 1.0], [0.0, 1.0]]
    with raises("or pass multilabel=True if several labels may apply"):
        KNNLabelSmoother().fit(X, y)
    with raises("y has values outside [0, 1] in 1 rows (first: row 0)"):
        KNNLabelSmoother(multilabel=True).fit(X, [[2.0, 1.0], [0.0, 1.0]])


def test_several_labels_need_a_column_each():
    X, y = np.eye(4), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match=re.escape("y has one dimension; with multilabel=True")):
        KNNLabelSmoother(1, multilabel=True).fit(X, y)
    assert KNNLabelSmoother(1, multilabel=True).fit(X, y[:, None]).transform(X).shape == (4, 1)
