"""A few made-up dialogues and random embeddings in place of real data."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import _tasks
from skpref.datasets import make_dialogues

NAMES = np.array(["non_probing_deliberation", "none", "probing"])
RATERS = ["gpt4omini", "qwen32b", "gemini20flash"]


def make_frame():
    """Dialogues in the form of delidata; some votes and some human labels are missing."""
    made = make_dialogues(n_sessions=40, session_length=(4, 8), n_classes=3, random_state=0)
    session = pd.factorize(made.groups)[0]
    votes = {
        f"llm_{rater}_type": NAMES[made.llm_scores[:, p].argmax(axis=1)]
        for p, rater in enumerate(RATERS)
    }
    frame = pd.DataFrame(
        {
            "session_id": made.groups,
            "turn": np.arange(len(made.y)),
            "speaker": np.where(np.arange(len(made.y)) % 2, "agent", "customer"),
            "text": [f"utterance {i}" for i in range(len(made.y))],
            "label": NAMES[made.y_true],
            "split": np.array(["train", "train", "dev", "test"])[session % 4],
            **votes,
        }
    )
    frame.loc[::5, "llm_qwen32b_type"] = None
    frame.loc[frame["split"].eq("train") & (session % 3 == 0), "label"] = None
    return frame


def fake_embed(texts):
    return np.stack([np.random.RandomState(int(t.split()[-1])).randn(8) for t in texts])


@pytest.fixture(autouse=True)
def no_data_of_the_user(monkeypatch):
    monkeypatch.delenv("SKPREF_DATA", raising=False)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """Folder of delidata.parquet, whose texts have random embeddings of eight dimensions."""
    make_frame().to_parquet(tmp_path / "delidata.parquet")
    monkeypatch.setattr(_tasks, "embed_texts", fake_embed)
    monkeypatch.setattr(_tasks, "N_COMPONENTS", 6)
    _tasks.load_components.cache_clear()
    return tmp_path


@pytest.fixture
def folders(data_dir):
    """Options of a command for folders of data, cache and results, and for one process."""
    options = {"--data-dir": data_dir, "--cache": data_dir / "c", "--out": data_dir / "out"}
    return [str(v) for pair in (options | {"--jobs": 1}).items() for v in pair]


@pytest.fixture
def data(data_dir):
    """Made-up delidata as the study reads it."""
    return _tasks.load_components("delidata", str(data_dir), str(data_dir / "c"))
