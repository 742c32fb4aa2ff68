"""Small versions of `python -m tests.kill`."""

import sys

import pytest

from tests.kill import kill_labelling, kill_training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
]


def test_a_killed_labelling_run_keeps_its_answers(tmp_path):
    counts = kill_labelling(n_kills=3, n_calls=120, folder=tmp_path)
    assert 120 <= counts["calls"] <= 120 + 3 * 8


def test_a_killed_training_repeats_an_epoch_at_most(tmp_path):
    counts = kill_training(n_kills=2, n_epochs=12, folder=tmp_path)
    assert counts["trained twice"] <= 2
