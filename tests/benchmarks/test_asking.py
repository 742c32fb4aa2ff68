"""Ways to ask an LLM, with a server on loopback in place of one."""

import json
import re

import numpy as np
import pytest

from benchmarks import asking
from skpref import PromptBank
from tests.llm.stub import StubLLM, by_option, by_places

pytest.importorskip("openai")


def answer(request):
    """Name a class for each line of a list, by its number; a letter for one utterance."""
    numbers = re.findall(r'^(\d+)\. "', request["messages"][-1]["content"], re.M)
    if not numbers:
        return by_option(request)
    tokens = []
    for number in numbers:
        name = asking.CLASSES[int(number) % 3]
        tokens += [(f"{number}:", {}), (f" {name}", {f" {name}": -0.3}), ("\n", {})]
    return by_places(tokens) | {"usage": {"prompt_tokens": 10, "completion_tokens": 1}}


@pytest.fixture
def server():
    stub = StubLLM(answer)
    yield stub
    stub.stop()


def test_gain_is_that_of_the_rows_and_its_interval_that_of_the_sessions():
    sessions = np.repeat(np.arange(20), 5)
    right = sessions % 2 == 0  # all rows of a session alike
    value, low, high = asking.gain(right, np.zeros(100), sessions)
    assert value == 0.5
    _, low_by_rows, high_by_rows = asking.gain(right, np.zeros(100), np.arange(100))
    assert low < low_by_rows < 0.5 < high_by_rows < high


def test_labelled_sessions_are_whole_and_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "N_LABELS", 7)
    frame = asking.load_support_chats().frame.rename(columns={"label": "sentiment"})
    frame.assign(split="test", label="joy").to_parquet(tmp_path / "meld.parquet")
    asked = asking.meld(
        asking.parse(["--base-url", "u", "--model", "m", "--data-dir", str(tmp_path)])
    )
    known = asked.known
    first = asked.frame["session_id"][known].unique()
    assert known.sum() >= 7
    assert (asked.frame["session_id"].isin(first) == known).all()
    assert set(asked.y[known]) <= set(asking.CLASSES)


@pytest.mark.slow
def test_each_way_is_asked_judged_and_resumed(server, tmp_path):
    folders = ["--cache", str(tmp_path), "--out", str(tmp_path), "--data-dir", str(tmp_path)]
    options = ["--base-url", server.url, "--model", "stub", "--sessions", "24"]
    asking.main([*options, "--data", "support chats", *folders])
    first, n_asked = (tmp_path / "asking.json").read_text(), len(server.requests)
    lines = {line["way"]: line for line in json.loads(first)["lines"]}
    assert list(lines) == [asking.BANK, *PromptBank(), "whole sessions"]
    bank, lists = (lines[way] for way in asking.WAYS)
    assert bank["calls"] == 3
    assert bank["read"] == pytest.approx(30)  # the server counts ten tokens for any request
    assert (bank["calls"] + lists["calls"]) * 360 == pytest.approx(n_asked)
    for cost in ("calls", "read", "written"):
        parts = [lines[name][cost] for name in PromptBank()]
        assert sum(parts) == pytest.approx(bank[cost])
    asking.main([*options, "--data", "support chats", *folders])
    assert len(server.requests) == n_asked
    assert (tmp_path / "asking.json").read_text() == first
    assert "| three prompts | 3.00 | 30 |" in (tmp_path / "asking.md").read_text()
