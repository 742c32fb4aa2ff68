import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skpref._torch import _dominance
from skpref._torch._dominance import dominance_sums, pair_sums

LOSS = {1: "hinge", 2: "squared_hinge"}
# Ties, near ties and extremes of size.
VALUES = [0.0, 1.0, 1.0, -1.0, 0.5, 1 / 3, 1e-12, -1e-12, 1e3, -1e6]


def brute_force(high, low, weight, n_losers, power):
    """Loss and slope, pair by pair."""
    value, slope = np.longdouble(0), np.zeros(high.shape, dtype=np.longdouble)
    for group in range(len(high)):
        for i in range(high.shape[1]):
            for j in range(n_losers[group, i]):
                excess = np.longdouble(high[group, i]) - np.longdouble(low[group, j])
                if excess <= 0:
                    continue
                both = weight[group, i] * weight[group, j]
                value += both * excess**power
                slope[group, i] += both * power * excess ** (power - 1)
                slope[group, j] -= both * power * excess ** (power - 1)
    return float(value), slope.astype(float)


def as_tensors(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]


def close(found, expected, scale):
    return np.allclose(found, expected, rtol=1e-9, atol=1e-13 * scale)


@st.composite
def groups(draw):
    """Padded groups: what they are worth to the teacher, to the student, and their weights."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 17)))
    rng = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    teacher = np.sort(rng.choice(draw(st.sampled_from([2, 3, 50])), size=shape) / 7, axis=1)
    kind = draw(st.sampled_from(["normal", "ties", "extreme", "equal"]))
    student = {
        "normal": rng.randn(*shape),
        "ties": rng.choice(3, size=shape) / 3,
        "extreme": rng.choice(VALUES, size=shape),
        "equal": np.zeros(shape),
    }[kind]
    weight = np.ones(shape) if draw(st.booleans()) else rng.rand(*shape)
    weight[rng.rand(*shape) < draw(st.sampled_from([0, 0.2]))] = 0.0
    return teacher, student, weight


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(case=groups(), power=st.sampled_from([1, 2]), leaf=st.sampled_from([1, 2, 3, 128]))
def test_adaptive_margin_agrees_with_brute_force(case, power, leaf):
    teacher, student, weight = case
    residual = 2.0 * teacher - student
    n_losers = (teacher[:, :, None] > teacher[:, None, :]).sum(axis=2)
    value, slope = brute_force(residual, residual, weight, n_losers, power)
    high, *rest = as_tensors(residual, weight, n_losers)
    scale = (1 + np.abs(residual).max()) ** power * residual.size
    found = dominance_sums(high, high, *rest, power, strict=True, leaf=leaf)
    general = dominance_sums(high, high, *rest, power, strict=False, leaf=leaf)
    dense = pair_sums(high, high, *rest, LOSS[power])
    for some_value, some_slope in (found, general, dense):
        assert close(some_value, value, scale)
        assert close(some_slope, slope, scale)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    case=groups(),
    power=st.sampled_from([1, 2]),
    leaf=st.sampled_from([1, 2, 3, 128]),
    min_margin=st.sampled_from([0.0, 0.2, 1.0]),
    margin=st.sampled_from(["adaptive", "fixed"]),
)
def test_any_margin_agrees_with_brute_force(case, power, leaf, min_margin, margin):
    teacher, student, weight = case
    low = -student if margin == "fixed" else 2.0 * teacher - student
    high = low + 1.5 if margin == "fixed" else low
    gap = teacher[:, :, None] - teacher[:, None, :]
    n_losers = ((gap > 0) & (gap >= min_margin)).sum(axis=2)
    value, slope = brute_force(high, low, weight, n_losers, power)
    sides = as_tensors(high, low, weight, n_losers)
    scale = (1 + max(np.abs(high).max(), np.abs(low).max())) ** power * high.size
    found = dominance_sums(*sides, power, strict=False, leaf=leaf)
    for some_value, some_slope in (found, pair_sums(*sides, LOSS[power])):
        assert close(some_value, value, scale)
        assert close(some_slope, slope, scale)


def test_steps_of_pairs_change_nothing(monkeypatch):
    rng = np.random.RandomState(0)
    teacher, student = np.sort(rng.rand(9, 12), axis=1), rng.randn(9, 12)
    n_losers = np.tile(np.arange(12), (9, 1))
    high, weight, n_losers = as_tensors(teacher - student, rng.rand(9, 12), n_losers)
    for loss in ("hinge", "squared_hinge", "logistic"):
        value, slope = pair_sums(high, high, weight, n_losers, loss)
        with monkeypatch.context() as patch:
            patch.setattr(_dominance, "_STEP", 300)
            stepped, stepped_slope = pair_sums(high, high, weight, n_losers, loss)
        torch.testing.assert_close(stepped, value)
        torch.testing.assert_close(stepped_slope, slope)


@pytest.mark.slow
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("strict", [True, False])
def test_a_million_rows_of_one_session_agree_with_the_closed_form(power, strict):
    # Residuals count 0 to m - 1 over and over. Of two rows of residuals x > y the later has x in
    # k (k + 1) / 2 of the k^2 cases.
    m, k = 1000, 1000
    residual = torch.arange(m, dtype=torch.float32).repeat(k).double().unsqueeze(0)
    n_losers = torch.arange(m * k).unsqueeze(0)
    value, slope = dominance_sums(
        residual, residual, torch.ones_like(residual), n_losers, power, strict=strict
    )
    distances = m * (m * m - 1) // 6 if power == 1 else m * m * (m * m - 1) // 12
    assert value.item() == pytest.approx(k * (k + 1) // 2 * distances, rel=1e-12)
    # Row u m + x exceeds the residuals below x in earlier rounds and this one, and is exceeded by
    # those above x in later rounds and this one.
    turn = np.repeat(np.arange(k), m)
    x = np.tile(np.arange(m), k)
    below, above = x * (turn + 1), (m - 1 - x) * (k - turn)
    if power == 2:
        below, above = below * (x + 1), above * (m - x)
    error = np.abs(slope[0].numpy() - (below - above))
    assert (error <= 1e-11 * (below + above)).all()


@pytest.mark.slow
def test_one_huge_session_and_thousands_of_tiny_ones():
    rng = np.random.RandomState(0)
    for n_groups, length in ((1, 3001), (5000, 3)):
        teacher = np.sort(rng.rand(n_groups, length).round(2), axis=1)
        residual = teacher - rng.randn(n_groups, length)
        n_losers = np.stack([np.searchsorted(t, t) for t in teacher])
        high, weight, n_losers = as_tensors(residual, rng.rand(n_groups, length), n_losers)
        for power in (1, 2):
            value, slope = pair_sums(high, high, weight, n_losers, LOSS[power])
            found = dominance_sums(high, high, weight, n_losers, power, strict=True)
            torch.testing.assert_close(found[0], value, rtol=1e-11, atol=0)
            torch.testing.assert_close(found[1], slope, rtol=1e-9, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(case=groups(), shift=st.sampled_from([-5.0, 1e3]), power=st.sampled_from([1, 2]))
def test_a_shift_of_a_session_changes_nothing(case, shift, power):
    teacher, student, weight = case
    # Whole eighths, so that the shift rounds nothing.
    residual = np.round(8 * (teacher - student.clip(-9, 9))) / 8
    n_losers = np.stack([np.searchsorted(t, t) for t in teacher])
    high, moved, weight, n_losers = as_tensors(residual, residual + shift, weight, n_losers)
    before = dominance_sums(high, high, weight, n_losers, power, strict=True)
    after = dominance_sums(moved, moved, weight, n_losers, power, strict=True)
    for found, expected in zip(after, before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("strict", [True, False])
def test_cuda_agrees_with_cpu(strict):
    rng = np.random.RandomState(0)
    teacher = np.sort(rng.rand(3, 2000).round(2), axis=1)
    n_losers = np.stack([np.searchsorted(t, t) for t in teacher])
    high, weight, n_losers = as_tensors(teacher - rng.randn(3, 2000), rng.rand(3, 2000), n_losers)
    sides = high, high, weight, n_losers
    for power in (1, 2):
        value, slope = dominance_sums(*sides, power, strict=strict)
        on_gpu = dominance_sums(*(s.cuda() for s in sides), power, strict=strict)
        torch.testing.assert_close(on_gpu[0].cpu(), value)
        torch.testing.assert_close(on_gpu[1].cpu(), slope)
