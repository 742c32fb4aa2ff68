"""Dialogue state, on made-up dialogues and a server on loopback in place of an LLM."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.utils import Bunch

from benchmarks import dialogue_state as command
from tests.llm.stub import StubLLM, by_places

SAID = {label: f"the {name}" for name, (label, _) in command.SLOTS.items() if label}


def make_files(*_, **__):
    """30 dialogues in which the user fills a slot at a time; one is about hotels, too."""
    rng = np.random.default_rng(0)
    rows, state = [], []
    for session in range(30):
        filled = []
        for turn in range(6):
            is_user = turn % 2 == 0
            filled += [rng.choice(list(SAID))] if is_user else []
            text = SAID[filled[-1]] if is_user else "And now?"
            speaker = "user" if is_user else "system"
            rows.append(
                {"session_id": f"s{session}", "turn": turn, "speaker": speaker} | {"text": text}
            )
            active = dict.fromkeys(command.STATE, 0) | dict.fromkeys(filled, 1)
            active["FindRestaurants"], active["ReserveRestaurant"] = int(turn < 3), int(turn > 3)
            state.append(active if is_user else dict.fromkeys(command.STATE, -1))
    frame, state = pd.DataFrame(rows), pd.DataFrame(state).add_prefix(f"{command.SERVICE}:")
    user = (frame["speaker"] == "user").to_numpy()
    hotels = user & (frame["session_id"] == "s3")
    services = pd.DataFrame({command.SERVICE: np.where(user, 1, -1), "Hotels_1": hotels - 1 + user})
    intents = [column for column in state if column.endswith("Restaurant") or "Find" in column]
    return Bunch(
        frame=frame, services=services, intents=state[intents], slots=state.drop(columns=intents)
    )


def answer(request):
    """Say of each line what it names, an intent or a slot."""
    content = request["messages"][-1]["content"]
    options = re.findall(r"^- (\w+):", content, re.M)
    tokens = []
    for number, line in re.findall(r"^(\d+)\. (.*)$", content, re.M):
        named = [name for name in options if f"the {name}" in line or name in ("nothing", "bye")]
        name = min(named, key=lambda name: name in ("nothing", "bye"))
        tokens += [(f"{number}:", {}), (f" {name}", {f" {name}": -1e-3}), ("\n", {})]
    return by_places(tokens) | {"usage": {"prompt_tokens": 10, "completion_tokens": 1}}


@pytest.fixture
def files(monkeypatch):
    monkeypatch.setattr(command, "load_files", make_files)
    monkeypatch.setattr(command, "N_SCORED", 12)


def test_dialogues_of_one_service_are_taken_whole(files):
    data = command.load(None)
    assert len(data.frame) == len(data.y) == 29 * 6
    assert "s3" not in set(data.frame["session_id"])
    assert (np.diff(data.dialogue) >= 0).all()
    assert ((data.y >= 0).all(axis=1) == (data.frame["speaker"] == "user")).all()


def test_a_slot_stays_filled_and_an_intent_is_that_of_the_line():
    dialogue = np.repeat([0, 1, command.N_SCORED], 3)
    said = {kind: np.zeros((6, len(options))) for kind, (options, _) in command.ASKED.items()}
    said["slots"][1, sorted(command.SLOTS).index("city")] = 0.75
    said["intents"][1, sorted(command.INTENTS).index("find")] = 0.5
    scores = command.state_scores(Bunch(dialogue=dialogue), said)[:, 0]
    assert scores[:6, command.STATE.index("city")].tolist() == [0, 0.75, 0.75, 0, 0, 0]
    assert scores[:6, command.STATE.index("FindRestaurants")].tolist() == [0, 0.5, 0, 0, 0, 0]
    assert np.isnan(scores[6:]).all()
    assert not np.isnan(scores[:6]).any()


def test_labels_are_whole_dialogues_of_train_those_with_scores_first():
    dialogue = np.repeat(np.arange(200), 5)
    train = dialogue >= 50
    few, many = (command.label_some(dialogue, train, n, seed=0) for n in (30, 400))
    assert few.sum() == 30
    assert many.sum() == 400
    assert not (few | many)[~train].any()
    assert dialogue[few].max() < command.N_SCORED
    assert many[train & (dialogue < command.N_SCORED)].all()


@pytest.mark.slow
def test_an_llm_is_asked_and_the_ways_are_compared(files, monkeypatch, tmp_path):
    pytest.importorskip("openai")
    monkeypatch.setattr(command, "BUDGETS", (200,))
    stub = StubLLM(answer)
    folders = ["--cache", str(tmp_path), "--out", str(tmp_path), "--seeds", "1", "--jobs", "1"]
    try:
        command.main([*folders, "--base-url", stub.url, "--model", "m"])
    finally:
        stub.stop()
    (found,) = json.loads((tmp_path / "dialogue_state.json").read_text())["200"]
    assert set(found) == set(command.contenders(0))
    # The LLM of this test is right about every slot.
    slots = [found["the LLM alone"]["each"][command.STATE.index(label)] for label in SAID]
    assert min(slots) == 100
    assert found["skpref"]["f1"] > 50
    before = (tmp_path / "dialogue_state.md").read_text()
    command.main(folders)
    assert (tmp_path / "dialogue_state.md").read_text() == before
