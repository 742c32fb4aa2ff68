"""Small versions of `python -m tests.kill`."""

import sys

import numpy as np
import pytest

from tests.kill import kill_labelling, kill_training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
]


# Of 120 lists, 18 lack a line, which is asked for again.
@pytest.mark.parametrize(("unit", "n_calls"), [("utterance", 120), ("session", 138)])
def test_a_killed_labelling_run_keeps_its_answers(tmp_path, unit, n_calls):
    counts = kill_labelling(n_kills=3, size=120, folder=tmp_path, unit=unit)
    assert n_calls <= counts["calls"] <= n_calls + 3 * 8
    assert not np.isnan(np.load(tmp_path / "broken.npy")).any()


def test_a_killed_training_repeats_an_epoch_at_most(tmp_path):
    counts = kill_training(n_kills=2, n_epochs=12, folder=tmp_path)
    assert counts["trained twice"] <= 2
