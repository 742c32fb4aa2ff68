"""Training in other units: which features get them, and that scores stay what they were."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from torch import nn

from skpref import PairwisePreferenceClassifier
from skpref._torch import _units
from skpref._torch._batches import SessionDataset
from skpref._torch._modules import MLP, Linear
from skpref._torch._units import Units, express, in_units
from skpref.datasets import make_dialogues

DIALOGUES = make_dialogues(n_sessions=90, random_state=0)
X, TRAIN = DIALOGUES.X, np.isin(DIALOGUES.groups, np.unique(DIALOGUES.groups)[:40])


def choose_units(rows):
    return _units.choose_units(rows, np.ones(rows.shape[0]))


def unit_rows(n_features, seed=0):
    rows = np.random.default_rng(seed).standard_normal((300, n_features))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "rows",
    [
        unit_rows(384),
        unit_rows(768).astype(np.float32),
        np.random.default_rng(0).standard_normal((300, 100)),
        # Embeddings with a speaker, a flag and a dead dimension beside them.
        np.c_[unit_rows(768), 0.3 * np.eye(2)[np.arange(300) % 2], 1e-7 * unit_rows(1)],
        np.zeros((4, 3)),
        np.full((4, 3), 7.0),
        np.ones((1, 3)),
    ],
)
def test_features_that_are_fine_are_taken_as_they_are(rows):
    assert choose_units(rows) is None


def test_a_rare_word_is_as_large_as_a_common_one_in_either_form():
    rng = np.random.default_rng(0)
    words = 0.3 * (rng.random((400, 50)) < np.geomspace(0.5, 0.005, 50))
    assert choose_units(words) is None
    assert choose_units(csr_matrix(words)) is None
    dense, sparse = choose_units(1000 * words), choose_units(csr_matrix(1000 * words))
    assert_array_equal(dense.scale, sparse.scale)
    assert not sparse.center.any()
    assert_array_equal(sparse.apply(csr_matrix(words)).toarray(), dense.apply(words))


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 100.0, 1e30])
def test_rows_get_a_norm_of_about_2_by_a_power_of_2(factor):
    rows = unit_rows(20)
    units = choose_units(factor * rows)
    assert len(set(units.scale)) == 1
    assert np.log2(units.scale[0]) == np.round(np.log2(units.scale[0]))
    assert 1.4 < np.linalg.norm(units.apply(factor * rows), axis=1).mean() < 2.9


def test_single_features_in_units_of_their_own_get_the_size_of_the_others():
    rows = np.random.default_rng(0).standard_normal((300, 10))
    factor = np.ones(10)
    factor[:3] = 100, 0.02, 7
    units = choose_units(factor * rows)
    assert_array_equal(units.scale * factor == factor, [False, False] + [True] * 8)
    assert_allclose(np.log2(units.scale * factor)[:2], 0, atol=0.6)


def test_a_mean_far_from_zero_is_taken_off():
    rows = np.random.default_rng(0).standard_normal((300, 4))
    rows += 0, 1, 10, -1000
    units = choose_units(rows)
    assert_allclose(units.center, [0, 0, *rows.mean(axis=0)[2:]])
    assert (units.scale == 1).all()


@pytest.mark.parametrize("network", [MLP(4, 3, (5, 2)), Linear(4, 3)], ids=["mlp", "linear"])
def test_a_network_in_other_units_scores_rows_as_they_come(network):
    network = copy.deepcopy(network).double()
    rows = 50 + torch.randn(6, 4, dtype=torch.float64)
    units = Units(np.full(4, 50.0), np.array([0.5, 1, 2, 1 / 64]))
    expected = network(torch.from_numpy(units.apply(rows.numpy())))
    moved = copy.deepcopy(network)
    express(moved, units)
    assert_allclose(moved(rows).detach(), expected.detach())
    express(moved, units, back=True)
    assert_allclose(moved(rows).detach(), network(rows).detach())


def test_sparse_and_dense_features_get_the_same_units():
    rows = np.random.default_rng(0).standard_normal((300, 4)) * [1, 200, 1, 1] + [0, 0, 10, 10]
    rows[rows < -0.5] = rows[:9, 2] = 0
    dense, sparse = choose_units(rows), choose_units(csr_matrix(rows))
    assert dense.center[2:].all()
    for a, b in zip(dense, sparse, strict=True):
        assert_array_equal(a, b)
    assert_array_equal(dense.apply(rows), sparse.apply(csr_matrix(rows)).toarray())


def test_a_network_of_the_users_own_and_texts_are_left_alone():
    rows = SessionDataset(1000 * unit_rows(4), np.zeros((300, 1)), np.ones(300), np.zeros(300, int))
    before = rows.X.copy()
    with in_units(nn.Linear(4, 1), rows):
        assert_array_equal(rows.X, before)


def fit(features, labels, **params):
    clf = PairwisePreferenceClassifier(random_state=0, **params)
    return clf.fit(features[TRAIN], labels[TRAIN], groups=DIALOGUES.groups[TRAIN])


@pytest.mark.parametrize("module", ["mlp", "linear"])
@pytest.mark.parametrize(
    "change",
    [
        lambda X: 1e-3 * X,
        lambda X: 100 * X,
        lambda X: X + 100,
        lambda X: csr_matrix(100 * X),
        lambda X: X * np.where(np.arange(X.shape[1]) % 2, 50, 0.02),
    ],
    ids=["small", "large", "far", "sparse", "mixed"],
)
def test_accuracy_does_not_depend_on_the_units(module, change):
    truth = DIALOGUES.y_true
    expected = fit(X, truth, module=module).score(X[~TRAIN], truth[~TRAIN])
    changed = change(X)
    accuracy = fit(changed, truth, module=module).score(changed[~TRAIN], truth[~TRAIN])
    assert expected > 0.85
    assert accuracy > expected - 0.04


def test_training_continues_in_these_units(tmp_path):
    far, truth = 100 * X + 1000, DIALOGUES.y_true
    clf = PairwisePreferenceClassifier("mlp", random_state=0)
    for _ in range(25):
        clf.partial_fit(far[TRAIN], truth[TRAIN], classes=[0, 1])
    assert clf.score(far[~TRAIN], truth[~TRAIN]) > 0.8
    clf.save_pretrained(tmp_path / "clf")
    again = PairwisePreferenceClassifier.from_pretrained(tmp_path / "clf")
    assert_array_equal(again.predict_proba(far), clf.predict_proba(far))
    again.partial_fit(far[TRAIN], truth[TRAIN])
    assert again.score(far[~TRAIN], truth[~TRAIN]) > 0.8


def test_early_stopping_watches_rows_in_the_same_units():
    clf = fit(100 * X + 1000, DIALOGUES.y_true, module="mlp", early_stopping=True)
    assert clf.score(100 * X[~TRAIN] + 1000, DIALOGUES.y_true[~TRAIN]) > 0.8
    assert clf.history_[-1]["valid_loss"] < 1.2 * clf.history_[-1]["train_loss"] + 0.2
