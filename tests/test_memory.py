"""A small version of `python -m tests.memory`."""

import pytest

from tests.memory import fits, predictions

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("run", "n"), [(fits, 80), (predictions, 5000)])
def test_memory_does_not_grow(run, n):
    found = run(n)
    assert found[-1] - found[4] < 8  # MB
