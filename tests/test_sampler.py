import pickle
import re
import tracemalloc
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.pipeline import make_pipeline
from numpy.testing import assert_array_equal
from scipy import sparse
from scipy.stats import chi2, chisquare
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.validation import check_is_fitted

from skpref import IntraSessionPairSampler, Pairs
from skpref._columns import read_column
from skpref._sampler import _choose_distinct
from tests.containers import INTEGERS, cases, hold
from tests.helpers import raises

STRATEGIES = ["all", "uniform", "margin", "adjacent"]


def brute_force(y, groups, min_margin=0.0):
    """Compute the margin of every valid (winner, loser, class)."""
    scores = np.asarray(y, dtype=float)
    scores = scores.reshape(len(scores), -1)
    pairs = {}
    for k in range(scores.shape[1]):
        for i in range(len(scores)):
            for j in range(len(scores)):
                margin = scores[i, k] - scores[j, k]
                valid = margin >= min_margin if min_margin > 0 else margin > 0
                if groups[i] == groups[j] and valid:
                    pairs[i, j, k] = margin
    return pairs


def keys(pairs):
    return list(
        zip(pairs.winner.tolist(), pairs.loser.tolist(), pairs.class_index.tolist(), strict=True)
    )


def random_scores(seed, n=40, n_sessions=5, n_classes=None, levels=8):
    """Draw scores on a coarse grid, with ties and NaN, and string session ids in mixed order."""
    rng = np.random.default_rng(seed)
    y = rng.integers(levels, size=(n, n_classes or 1)) / levels
    y[rng.random(n) < 0.1] = np.nan
    groups = np.array([f"call-{g}" for g in rng.integers(n_sessions, size=n)])
    return (y if n_classes else y[:, 0]), groups


@st.composite
def sessions(draw, soft=True):
    """Draw integer-valued scores, which stay exact under integer shifts, with session ids."""
    n = draw(st.integers(1, 25))
    n_classes = draw(st.integers(1, 3)) if soft else 1
    value = st.one_of(st.integers(-5, 5).map(float), st.just(float("nan")))
    rows = st.lists(value, min_size=n_classes, max_size=n_classes)
    y = np.array(draw(st.lists(rows, min_size=n, max_size=n)))
    groups = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    return y, np.array(groups)


@pytest.mark.parametrize("min_margin", [0.0, 0.25, 0.3, 5.0])
@pytest.mark.parametrize("n_classes", [None, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_all_gives_every_valid_pair_once(seed, n_classes, min_margin):
    y, groups = random_scores(seed, n_classes=n_classes)
    pairs = IntraSessionPairSampler(min_margin=min_margin).sample(y, groups)
    expected = brute_force(y, groups, min_margin)
    assert sorted(keys(pairs)) == sorted(expected)
    np.testing.assert_array_equal(pairs.margin, [expected[key] for key in keys(pairs)])


def test_pairs_have_a_length_and_the_documented_types():
    pairs = IntraSessionPairSampler().sample([1.0, 0.0, 0.5], ["a", "a", "a"])
    assert isinstance(pairs, Pairs)
    assert len(pairs) == 3
    for name in ("winner", "loser", "class_index"):
        assert getattr(pairs, name).dtype.kind == "i"
    for name in ("margin", "weight"):
        assert getattr(pairs, name).dtype == np.float64


@pytest.mark.parametrize("strategy", ["uniform", "margin"])
@pytest.mark.parametrize("min_margin", [0.0, 0.3])
def test_draws_follow_their_distribution(strategy, min_margin):
    y, groups = random_scores(3, n=25, n_sessions=3, n_classes=2)
    expected = brute_force(y, groups, min_margin)
    sampler = IntraSessionPairSampler(
        strategy, n_pairs=100_000, min_margin=min_margin, random_state=0
    )
    counts = Counter(keys(sampler.sample(y, groups)))
    assert counts.keys() <= expected.keys()
    margins = np.array(list(expected.values()))
    p = np.full(len(margins), 1 / len(margins)) if strategy == "uniform" else margins
    observed = [counts[key] for key in expected]
    assert chisquare(observed, 100_000 * p / p.sum()).pvalue > 0.01


@pytest.mark.parametrize("min_margin", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_adjacent_gives_each_row_its_highest_valid_loser(seed, min_margin):
    y, groups = random_scores(seed)
    least = {}
    for (i, _, _), margin in brute_force(y, groups, min_margin).items():
        least[i] = min(margin, least.get(i, np.inf))
    pairs = IntraSessionPairSampler("adjacent", min_margin=min_margin).sample(y, groups)
    assert sorted(pairs.winner) == sorted(least)
    np.testing.assert_array_equal(pairs.margin, [least[i] for i in pairs.winner.tolist()])


def test_adjacent_spreads_tied_winners_over_tied_losers():
    y = [1, 0, 1, 0, 1, 0, 1]
    pairs = IntraSessionPairSampler("adjacent").sample(y, [7] * 7)
    assert keys(pairs) == [(0, 1, 0), (2, 3, 0), (4, 5, 0), (6, 1, 0)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cap", [1, 7, 60, 10_000])
def test_max_pairs_per_session_caps_each_session(strategy, cap):
    y, groups = random_scores(0, n=60, n_classes=2)
    free = IntraSessionPairSampler(strategy, n_pairs=300, random_state=0)
    capped = clone(free).set_params(max_pairs_per_session=cap)
    before = Counter(groups[free.sample(y, groups).winner].tolist())
    pairs = capped.sample(y, groups)
    after = Counter(groups[pairs.winner].tolist())
    assert after == {session: min(count, cap) for session, count in before.items()}
    assert set(keys(pairs)) <= brute_force(y, groups).keys()
    if strategy in ("all", "adjacent"):
        assert len(set(keys(pairs))) == len(pairs)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["all", "adjacent"])
@pytest.mark.parametrize("cap", [2, 5])
def test_capped_pairs_are_a_uniform_subset(strategy, cap):
    y = np.array([[0.0, 3.0], [1.0, 2.0], [2.0, 2.0], [3.0, 0.0]])
    groups = [0] * 4
    free = IntraSessionPairSampler(strategy, random_state=np.random.RandomState(0))
    uncapped = keys(free.sample(y, groups))
    capped = clone(free).set_params(max_pairs_per_session=cap)
    repeats = 3000
    rng = np.random.RandomState(0)
    capped.set_params(random_state=rng)
    counts = Counter(key for _ in range(repeats) for key in keys(capped.sample(y, groups)))
    size = min(cap, len(uncapped))
    observed = np.array([counts[key] for key in uncapped])
    assert observed.sum() == repeats * size
    # Counts of draws without replacement are not multinomial: bound each count separately.
    share = size / len(uncapped)
    spread = np.sqrt(repeats * share * (1 - share))
    assert np.abs(observed - repeats * share).max() <= 3.5 * spread


def unequal_sessions(seed=0):
    """Draw sessions of 1, 2, 3, 7 and 30 rows, in mixed order, with ties in the longer ones."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(5), [1, 2, 3, 7, 30]))
    y = rng.permutation(len(groups)) / len(groups)
    tied = rng.random(len(y)) < 0.5 * (groups > 2)
    y[tied] = np.round(y[tied], 1)
    return y, groups


@pytest.mark.parametrize("min_margin", [0.0, 0.25])
def test_uniform_draws_are_uniform_over_sessions_of_very_unequal_length(min_margin):
    y, groups = unequal_sessions()
    expected = brute_force(y, groups, min_margin)
    sampler = IntraSessionPairSampler(
        "uniform", n_pairs=200_000, min_margin=min_margin, random_state=1
    )
    counts = Counter(keys(sampler.sample(y, groups)))
    assert counts.keys() <= expected.keys()
    assert chisquare([counts[key] for key in expected]).pvalue > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("min_margin", [0.0, 0.25])
@pytest.mark.parametrize("cap", [2, 15, 100])
@pytest.mark.parametrize("strategy", ["all", "uniform"])
def test_a_cap_is_uniform_over_the_valid_pairs_of_each_session(strategy, cap, min_margin):
    y, groups = unequal_sessions()
    expected = brute_force(y, groups, min_margin)
    repeats = 1000
    sampler = IntraSessionPairSampler(
        strategy,
        n_pairs=500,
        min_margin=min_margin,
        max_pairs_per_session=cap,
        random_state=np.random.RandomState(0),
    )
    counts = Counter(key for _ in range(repeats) for key in keys(sampler.sample(y, groups)))
    assert counts.keys() <= expected.keys()
    statistic = degrees = 0
    for session in np.unique(groups):
        observed = np.array([counts[key] for key in expected if groups[key[0]] == session])
        n_pairs = len(observed)
        if n_pairs < 2 or (strategy == "all" and n_pairs <= cap):
            continue
        # Drawing without replacement reduces the multinomial variance by this factor.
        factor = (n_pairs - cap) / (n_pairs - 1) if strategy == "all" else 1
        mean = observed.mean()
        statistic += ((observed - mean) ** 2).sum() / (mean * factor)
        degrees += n_pairs - 1
    assert degrees > 0
    assert 0.005 < chi2.sf(statistic, degrees) < 0.995


@settings(deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 5, 6, 40, 10**12]), max_size=8),
    cap=st.integers(1, 9),
)
def test_distinct_numbers_are_chosen_from_each_session(sizes, cap):
    sizes = np.array(sizes, dtype=np.int64)
    numbers = _choose_distinct(sizes, cap, np.random.RandomState(0))
    assert (np.diff(numbers, prepend=-1) > 0).all()
    session = np.searchsorted(np.cumsum(sizes), numbers, side="right")
    np.testing.assert_array_equal(
        np.bincount(session, minlength=len(sizes)), np.minimum(sizes, cap)
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_session_weight_gives_each_session_the_same_total(strategy):
    y, groups = random_scores(1, n=80)
    pairs = IntraSessionPairSampler(strategy, random_state=0).sample(y, groups)
    totals = pd.Series(pairs.weight).groupby(groups[pairs.winner]).sum()
    assert len(totals) > 1
    np.testing.assert_allclose(totals, len(pairs) / len(totals))
    assert pairs.weight.mean() == pytest.approx(1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_session_weight_pairs_weighs_each_pair_1(strategy):
    y, groups = random_scores(1, n=80)
    sampler = IntraSessionPairSampler(strategy, session_weight="pairs", random_state=0)
    pairs = sampler.sample(y, groups)
    assert len(pairs) > 0
    assert (pairs.weight == 1).all()


@pytest.mark.parametrize("strategy", ["uniform", "margin"])
def test_n_pairs_is_the_number_of_draws_and_by_default_the_number_of_rows(strategy):
    y, groups = random_scores(2, n=50)
    assert len(IntraSessionPairSampler(strategy, n_pairs=13).sample(y, groups)) == 13
    assert len(IntraSessionPairSampler(strategy).sample(y, groups)) == 50


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cap", [None, 3])
@pytest.mark.parametrize(
    ("y", "groups"),
    [
        ([], []),
        ([1.0], ["a"]),
        ([1.0, 2.0, 3.0], ["a", "b", "c"]),
        ([1.0, 1.0, 1.0], ["a", "a", "a"]),
        ([np.nan, 2.0, np.nan], ["a", "a", "a"]),
        ([np.nan, np.nan], ["a", "a"]),
    ],
)
def test_no_valid_pair_gives_no_pairs_and_no_warning(strategy, cap, y, groups):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = IntraSessionPairSampler(strategy, max_pairs_per_session=cap, random_state=0)
        pairs = sampler.sample(y, groups)
    assert len(pairs) == 0
    assert all(len(column) == 0 for column in vars(pairs).values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_sessions_without_pairs_do_not_disturb_the_others(strategy):
    y = [0.5, 0.5, 1.0, 0.0, 0.3, np.nan]
    groups = ["tied", "tied", "good", "good", "single", "good"]
    pairs = IntraSessionPairSampler(strategy, random_state=0).sample(y, groups)
    assert set(keys(pairs)) == {(2, 3, 0)}
    np.testing.assert_array_equal(pairs.weight, 1.0)


def test_min_margin_compares_the_margin_itself():
    y = [0.7, 0.4, 0.1]
    for min_margin in (0.7 - 0.4, 0.4 - 0.1, 0.7 - 0.1):
        pairs = IntraSessionPairSampler(min_margin=min_margin).sample(y, [0, 0, 0])
        assert set(keys(pairs)) == set(brute_force(y, [0, 0, 0], min_margin))
        assert (pairs.margin >= min_margin).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_int_seed_gives_the_same_pairs_at_each_call(strategy):
    y, groups = random_scores(4)
    sampler = IntraSessionPairSampler(strategy, max_pairs_per_session=4, random_state=1)
    first, second = sampler.sample(y, groups), sampler.sample(y, groups)
    assert keys(first) == keys(second)
    X = np.random.default_rng(0).normal(size=(len(y), 3))
    for a, b in zip(
        sampler.fit_resample(X, y, groups), sampler.fit_resample(X, y, groups), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=60)
@given(
    data=sessions(),
    strategy=st.sampled_from(STRATEGIES),
    min_margin=st.sampled_from([0.0, 1.0, 2.5]),
    cap=st.sampled_from([None, 1, 4]),
)
def test_no_pair_crosses_a_session_or_falls_short_of_the_margin(data, strategy, min_margin, cap):
    y, groups = data
    pairs = IntraSessionPairSampler(
        strategy, min_margin=min_margin, max_pairs_per_session=cap, random_state=0
    ).sample(y, groups)
    won, lost = y[pairs.winner, pairs.class_index], y[pairs.loser, pairs.class_index]
    assert (groups[pairs.winner] == groups[pairs.loser]).all()
    np.testing.assert_array_equal(pairs.margin, won - lost)
    assert (pairs.margin > 0).all()
    assert (pairs.margin >= min_margin).all()
    assert (pairs.weight > 0).all()


@settings(deadline=None, max_examples=60)
@given(data=sessions(), strategy=st.sampled_from(STRATEGIES), shift=st.integers(-100, 100))
def test_adding_a_constant_to_one_session_changes_no_pair(data, strategy, shift):
    y, groups = data
    moved = y + shift * (groups == groups[0])[:, None]
    sampler = IntraSessionPairSampler(strategy, max_pairs_per_session=6, random_state=0)
    before, after = sampler.sample(y, groups), sampler.sample(moved, groups)
    assert keys(before) == keys(after)
    np.testing.assert_array_equal(before.margin, after.margin)


@settings(deadline=None, max_examples=60)
@given(data=sessions(), strategy=st.sampled_from(STRATEGIES), names=st.permutations("vwxyz"))
def test_renaming_sessions_changes_nothing(data, strategy, names):
    y, groups = data
    sampler = IntraSessionPairSampler(strategy, max_pairs_per_session=6, random_state=0)
    before = sampler.sample(y, groups)
    after = sampler.sample(y, [names[g] for g in groups])
    for a, b in zip(vars(before).values(), vars(after).values(), strict=True):
        np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=60)
@given(data=sessions(), rng=st.randoms(use_true_random=False))
def test_row_order_does_not_change_the_set_of_pairs(data, rng):
    y, groups = data
    order = list(range(len(y)))
    rng.shuffle(order)
    before = IntraSessionPairSampler().sample(y, groups)
    after = IntraSessionPairSampler().sample(y[order], groups[order])
    renumbered = {(order[i], order[j], k) for i, j, k in keys(after)}
    assert renumbered == set(keys(before))


@pytest.mark.parametrize("strategy", ["uniform", "margin", "adjacent", "all"])
def test_the_pairs_of_a_session_of_200_000_rows_are_not_listed(strategy):
    n = 200_000  # 2e10 pairs
    y = np.random.default_rng(0).normal(size=n)
    sampler = IntraSessionPairSampler(strategy, max_pairs_per_session=1000, random_state=0)
    tracemalloc.start()
    pairs = sampler.sample(y, np.zeros(n, dtype=int))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pairs) == 1000
    assert (y[pairs.winner] > y[pairs.loser]).all()
    assert peak < 100e6


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cap", [None, 10])
def test_100_000_tied_rows_give_no_pair_immediately(strategy, cap):
    n = 100_000
    sampler = IntraSessionPairSampler(
        strategy, n_pairs=10**9, max_pairs_per_session=cap, random_state=0
    )
    # 10**9 draws would need 8 GB, but nothing is drawn if no pair is valid.
    assert len(sampler.sample(np.ones(n), np.arange(n) // 20)) == 0


@pytest.mark.parametrize(
    ("strategy", "cap", "bytes_per_pair"),
    [("all", None, 60), ("all", 10, 60), ("uniform", None, 60), ("margin", None, 85)],
)
def test_memory_is_linear_in_rows_and_pairs(strategy, cap, bytes_per_pair):
    # A pair takes five numbers of 8 bytes, plus the positions of its winner and loser while the
    # rows are looked up; the bisection of "margin" takes a few more. A row takes about ten numbers.
    n = 100_000
    rng = np.random.default_rng(0)
    y, groups = rng.random(n), rng.integers(n // 20, size=n)
    sampler = IntraSessionPairSampler(
        strategy, n_pairs=10 * n, max_pairs_per_session=cap, random_state=0
    )
    tracemalloc.start()
    pairs = sampler.sample(y, groups)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 120 * n + bytes_per_pair * len(pairs)


def test_margin_draws_are_valid_for_scores_of_different_scales():
    rng = np.random.default_rng(0)
    y = np.concatenate([1e12 + rng.normal(size=50), 1e-9 * rng.normal(size=50)])
    groups = np.repeat([0, 1], 50)
    pairs = IntraSessionPairSampler("margin", n_pairs=5000, random_state=0).sample(y, groups)
    assert (pairs.margin > 0).all()
    assert len(pairs) == 5000


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("power", [-1020, 1020])
def test_the_unit_of_the_scores_changes_no_draw(strategy, power):
    y, groups = random_scores(3)
    expected = IntraSessionPairSampler(strategy, random_state=0).sample(y, groups)
    pairs = IntraSessionPairSampler(strategy, random_state=0).sample(np.ldexp(y, power), groups)
    assert_array_equal(pairs.winner, expected.winner)
    assert_array_equal(pairs.loser, expected.loser)
    assert_array_equal(pairs.margin, np.ldexp(expected.margin, power))


def test_scores_whose_difference_is_no_float_are_refused():
    with raises("y holds scores whose difference is beyond the largest float"):
        IntraSessionPairSampler().sample([1.7e308, -1.7e308, 0.0], [0, 0, 0])


def test_fit_resample_returns_signed_differences_of_the_pairs():
    y, groups = random_scores(5)
    X = np.random.default_rng(0).normal(size=(len(y), 3))
    sampler = IntraSessionPairSampler("uniform", n_pairs=51, random_state=0)
    pairs = sampler.sample(y, groups)
    difference, sign = sampler.fit_resample(X, y, groups)
    assert sign.dtype.kind == "i"
    assert set(sign.tolist()) == {-1, 1}
    assert abs(sign.sum()) <= 1
    np.testing.assert_allclose(difference, (X[pairs.winner] - X[pairs.loser]) * sign[:, None])
    assert sampler.n_features_in_ == 3


@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csr_array, sparse.coo_array])
def test_fit_resample_accepts_sparse_features(container):
    y, groups = random_scores(6)
    X = np.random.default_rng(0).binomial(1, 0.3, size=(len(y), 4)).astype(np.float32)
    sampler = IntraSessionPairSampler(random_state=0)
    dense, sign = sampler.fit_resample(X, y, groups)
    difference, sparse_sign = sampler.fit_resample(container(X), y, groups)
    assert sparse.issparse(difference)
    assert difference.dtype == dense.dtype == np.float32
    np.testing.assert_array_equal(difference.toarray(), dense)
    np.testing.assert_array_equal(sign, sparse_sign)


def test_fit_resample_keeps_a_frame_and_its_column_names():
    y, groups = random_scores(7)
    X = pd.DataFrame(
        np.random.default_rng(0).normal(size=(len(y), 2)), columns=["a", "b"], index=range(9, 49)
    )
    sampler = IntraSessionPairSampler(random_state=0)
    difference, _ = sampler.fit_resample(X, pd.Series(y, index=X.index), pd.Series(groups))
    assert difference.columns.tolist() == ["a", "b"]
    assert sampler.feature_names_in_.tolist() == ["a", "b"]
    expected, _ = sampler.fit_resample(X.to_numpy(), y, groups)
    np.testing.assert_array_equal(difference, expected)


def ranking_data(seed=0, n=400, n_sessions=40):
    """Make scores that follow a direction within sessions, plus much larger session offsets."""
    rng = np.random.default_rng(seed)
    direction = np.array([2.0, -1.0, 0.5])
    groups = rng.integers(n_sessions, size=n)
    X = rng.normal(size=(n, 3))
    offset = 100 * rng.normal(size=n_sessions)
    y = X @ direction + offset[groups] + 0.1 * rng.normal(size=n)
    return X, y, groups, direction


def cosine(u, v):
    return u @ v / np.linalg.norm(u) / np.linalg.norm(v)


@pytest.mark.parametrize("frame", [False, True])
def test_pipeline_with_a_linear_classifier_recovers_the_direction_under_routing(frame):
    X, y, groups, direction = ranking_data()
    if frame:
        X = pd.DataFrame(X, columns=["a", "b", "c"])
    ranker = make_pipeline(
        IntraSessionPairSampler("uniform", n_pairs=4000, random_state=0),
        LogisticRegression(fit_intercept=False),
    )
    with config_context(enable_metadata_routing=True):
        ranker.fit(X, y, groups=groups)
        scores = ranker.decision_function(X)
    assert cosine(ranker[-1].coef_[0], direction) > 0.99
    assert scores.shape == (len(y),)


def test_pipeline_accepts_hard_labels():
    X, _, groups, direction = ranking_data()
    hard = (X @ direction > 0).astype(int)
    ranker = make_pipeline(
        IntraSessionPairSampler(random_state=0), LogisticRegression(fit_intercept=False)
    )
    with config_context(enable_metadata_routing=True):
        ranker.fit(X, hard, groups=groups)
    assert cosine(ranker[-1].coef_[0], direction) > 0.9


def test_pipeline_without_routing_says_how_to_pass_groups():
    X, y, _, _ = ranking_data()
    ranker = make_pipeline(IntraSessionPairSampler(), LogisticRegression())
    match = re.escape("only under sklearn.set_config(enable_metadata_routing=True)")
    with pytest.raises(ValueError, match=match):
        ranker.fit(X, y)


def test_missing_groups_are_an_error_that_names_them():
    match = re.escape("IntraSessionPairSampler needs groups, the session of each row")
    with pytest.raises(ValueError, match=match):
        IntraSessionPairSampler().sample([1.0, 2.0])
    with pytest.raises(ValueError, match=match):
        IntraSessionPairSampler().fit_resample([[1.0], [2.0]], [1.0, 2.0])


def test_fit_resample_without_a_valid_pair_names_min_margin():
    sampler = IntraSessionPairSampler(min_margin=3)
    with pytest.raises(ValueError, match=re.escape("No valid pair: ")) as error:
        sampler.fit_resample([[1.0], [2.0]], [1.0, 2.0], ["a", "a"])
    assert "min_margin=3" in str(error.value)


@pytest.mark.parametrize(
    "y", [["low", "high"], np.array(["1", "2"]), np.array(["a", None], dtype=object)]
)
def test_string_labels_are_an_error_that_asks_for_numbers(y):
    with pytest.raises(ValueError, match=re.escape("y holds strings, which have no order")):
        IntraSessionPairSampler().fit_resample([[1.0], [2.0]], y, ["a", "a"])


def test_infinite_scores_are_an_error_that_names_y():
    with pytest.raises(ValueError, match=re.escape("Input y contains infinity")):
        IntraSessionPairSampler().sample([1.0, np.inf], ["a", "a"])


def test_fit_resample_refuses_soft_labels_of_several_classes():
    with pytest.raises(ValueError, match=re.escape("y should be a 1d array")):
        IntraSessionPairSampler().fit_resample([[1.0], [2.0]], [[0, 1], [1, 0]], ["a", "a"])


def test_scores_of_three_dimensions_are_refused():
    with pytest.raises(ValueError, match=re.escape("y has 3 dimensions; pass scores of shape")):
        IntraSessionPairSampler().sample(np.zeros((2, 1, 2)), ["a", "a"])


def test_different_lengths_are_an_error():
    with pytest.raises(ValueError, match=re.escape("groups has 1 entries but there are 2 rows")):
        IntraSessionPairSampler().sample([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: y has . entries but X"):
        IntraSessionPairSampler().fit([[1.0], [2.0]], [1.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strategy", "best"),
        ("n_pairs", 0),
        ("min_margin", -0.1),
        ("max_pairs_per_session", 0),
        ("session_weight", "rows"),
    ],
)
def test_a_wrong_parameter_is_named(name, value):
    sampler = IntraSessionPairSampler(**{name: value})
    match = re.escape(f"The {name!r} parameter of IntraSessionPairSampler must be")
    with pytest.raises(ValueError, match=match):
        sampler.sample([1.0, 2.0], ["a", "a"])


def test_scores_may_be_frames_series_or_objects():
    groups = pd.Series(["a", "a", "b", "b"], index=[9, 8, 7, 6])
    expected = keys(IntraSessionPairSampler().sample([1.0, np.nan, 3.0, 2.0], groups))
    for y in (
        pd.Series([1.0, None, 3.0, 2.0]),
        pd.Series([1, None, 3, 2], dtype="Int64"),
        pd.DataFrame({"t": [1.0, np.nan, 3.0, 2.0]}),
        [1, None, 3, 2],
        np.array([1, np.nan, 3, 2], dtype=np.float32),
    ):
        assert keys(IntraSessionPairSampler().sample(y, groups)) == expected == [(2, 3, 0)]
    assert len(IntraSessionPairSampler().sample([True, False], [1, 1])) == 1


def test_sampler_pickles_and_clones():
    y, groups = random_scores(8)
    sampler = IntraSessionPairSampler("margin", n_pairs=20, random_state=0)
    X = np.zeros((len(y), 2))
    with pytest.raises(NotFittedError):
        check_is_fitted(sampler)
    copy = pickle.loads(pickle.dumps(sampler.fit(X, y, groups)))
    check_is_fitted(copy)
    assert keys(copy.sample(y, groups)) == keys(clone(sampler).sample(y, groups))


# --- marks and containers -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 4], ids=["complete", "missing"])
@pytest.mark.parametrize(("kind", "make"), cases(integers=INTEGERS))
def test_labels_of_every_container_with_marks(kind, make, n):
    values = [3, -1, 1, None][:n]
    y = hold(make, values)
    if y is not None:
        are_floats = read_column(make(values), "y").dtype.kind == "f"
        pairs = IntraSessionPairSampler().sample(y, ["s"] * n)
        found = list(zip(pairs.winner.tolist(), pairs.loser.tolist(), strict=True))
        labels = [(0, 2)]
        scores = [(2, 1), (0, 1), (0, 2)]  # of floats -1 is a score
        assert found == (scores if are_floats else labels)


def test_marks_of_no_label_give_the_same_pairs():
    marked = IntraSessionPairSampler().sample([1, 0, -1, -1], ["s"] * 4)
    for y in ([1, 0, None, None], np.array([1.0, 0.0, np.nan, np.nan]), [True, False, None, None]):
        pairs = IntraSessionPairSampler().sample(y, ["s"] * 4)
        assert_array_equal(pairs.winner, marked.winner)
        assert_array_equal(pairs.loser, marked.loser)
    assert marked.winner.tolist() == [0]
    assert marked.loser.tolist() == [1]


def test_minus_one_among_lower_integers_is_refused():
    for y in ([-2, -1, 0], pd.Series([-2, -1, None], dtype="Int64")):
        with raises("y holds integers below -1, so it is unclear whether -1 is a score"):
            IntraSessionPairSampler().sample(y, ["s"] * 3)
    assert len(IntraSessionPairSampler().sample([-2.0, -1.0, 0.0], ["s"] * 3)) == 3
    assert len(IntraSessionPairSampler().sample([-2, -3, 0], ["s"] * 3)) == 3


def test_soft_labels_of_every_kind_of_table():
    soft = np.array([[0.2, 0.8], [np.nan, np.nan], [0.6, 0.4]])
    gaps = np.isnan(soft)
    expected = IntraSessionPairSampler().sample(soft, ["s"] * 3)
    for y in (
        soft.tolist(),
        np.ma.masked_array(np.where(gaps, 9.0, soft), mask=gaps),
        pd.DataFrame(soft).astype("Float64"),
        pl.DataFrame(soft),
        torch.tensor(soft),
        list(soft),
    ):
        pairs = IntraSessionPairSampler().sample(y, ["s"] * 3)
        assert_array_equal(pairs.margin, expected.margin)
        assert_array_equal(pairs.winner, expected.winner)


def test_resampled_frames_keep_their_names():
    X = np.random.default_rng(0).normal(size=(6, 2))
    for frame in (pd.DataFrame(X, columns=["a", "b"]), pl.DataFrame(X, schema=["a", "b"])):
        difference, _ = IntraSessionPairSampler().fit_resample(frame, [0, 1, 1, 0, 1, 1], [0] * 6)
        assert type(difference) is type(frame)
        assert list(difference.columns) == ["a", "b"]
        assert difference.shape == (8, 2)


def test_a_failed_fit_leaves_the_sampler_as_it_was():
    X = np.eye(4)
    sampler = IntraSessionPairSampler()
    for call in (sampler.fit, sampler.fit_resample):
        with pytest.raises(ValueError, match="groups has 3 entries"):
            call(X, [0, 1, 0, 1], ["s"] * 3)
    assert not hasattr(sampler, "n_features_in_")
