"""A part of the fuzz; `python -m tests.fuzz --cases 100000` is the whole."""

import pytest

from tests import fuzz


@pytest.mark.slow
def test_the_fuzz_finds_nothing(capsys):
    counts, failures = fuzz.run_cases(seed=0, numbers=range(2000))
    with capsys.disabled():
        print(f"\n{fuzz.table(counts)}")
    assert not [f"{r.target}, {r.mode}, --case {r.number}: {r.error!r}" for r in failures]
