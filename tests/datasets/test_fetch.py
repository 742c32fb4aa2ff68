import csv
import hashlib
import json
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO

import pytest

from skpref.datasets import _fetch, _sgd
from skpref.datasets._fetch import (
    fetch_casino,
    fetch_delidata,
    fetch_diplomacy,
    fetch_meld,
    fetch_weights_task,
)
from skpref.datasets._sgd import fetch_sgd

pytest.importorskip("pandas")
pytest.importorskip("pooch")

SHARED = ["session_id", "turn", "speaker", "text", "label", "split"]


def as_csv(rows):
    out = StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def meld_row(dialogue, utterance, text, emotion="joy"):
    return {
        "Sr No.": 1,
        "Utterance": text,
        "Speaker": "Ross",
        "Emotion": emotion,
        "Sentiment": "positive",
        "Dialogue_ID": dialogue,
        "Utterance_ID": utterance,
        "Season": 8,
        "Episode": 21,
        "StartTime": "0:10:44,769",
        "EndTime": "0:10:46,146",
    }


MELD = {
    "train_sent_emo.csv": as_csv(
        [
            meld_row(0, 0, "My duties?  All\u00a0right."),
            meld_row(0, 2, 'A "quote",\nsaid\u2019s he \x85'),
        ]
    ),
    "dev_sent_emo.csv": as_csv([meld_row(0, 0, "What?", "surprise")]),
    "test_sent_emo.csv": as_csv([meld_row(7, 0, "NA", "neutral")]),
}


def deli_rows(n, kind, target):
    groups = ["a0", "a0", "a2", "a8", "cut"]  # hashed to train, dev and test
    return json.dumps(
        [
            {
                "idx": i,
                "group_id": groups[i],
                "participant": "Cat",
                "utterance": f"utterance  {i}",
                "gt_type": (-1, 0, 1, 1, 1)[i],
                "gt_target": (0, 3, 1, 2, 4)[i],
                "pred_type": kind,
                "pred_target": target,
            }
            for i in range(n)
        ]
    )


DELIDATA = {
    "deli_gpt-4o-mini.json": deli_rows(5, 1, 5),
    "deli_qwen-32b.json": deli_rows(3, 0, 3),
    "deli_gemini-2.0-flash.json": deli_rows(2, -1, 0),
}


def casino_dialogue(number, annotations):
    said = [("mturk_agent_1", "Hello"), ("mturk_agent_2", "Hi  there"), ("mturk_agent_1", "Deal?")]
    log = [{"id": speaker, "text": text, "task_data": {}} for speaker, text in said]
    log.append({"id": "mturk_agent_2", "text": "Submit-Deal", "task_data": {"issue2youget": {}}})
    people = {
        f"mturk_agent_{i}": {"outcomes": {"satisfaction": satisfaction}}
        for i, satisfaction in ((1, "Slightly satisfied"), (2, "Undecided"))
    }
    return {
        "dialogue_id": number,
        "chat_logs": log,
        "participant_info": people,
        "annotations": annotations,
    }


WHOLE = [["Hello", "small-talk"], ["Hi  there", "self-need,small-talk"], ["Deal?", "other-need"]]
CASINO = {
    "casino_train.json": json.dumps([casino_dialogue(4, []), casino_dialogue(2, WHOLE)]),
    "casino_valid.json": json.dumps([casino_dialogue(3, WHOLE[::2])]),
    "casino_test.json": json.dumps([casino_dialogue(1, WHOLE)]),
}


def diplomacy_line(game, messages):
    n = len(messages)
    dialogue = {
        "messages": messages,
        "sender_labels": [True, False][:n],
        "receiver_labels": [False, "NOANNOTATION"][:n],
        "speakers": ["italy", "russia"][:n],
        "absolute_message_index": [74, 80][:n],
        "seasons": ["Spring", "Fall"][:n],
        "years": ["1901", "1902"][:n],
        "game_score_delta": ["0", "-1"][:n],
        "players": ["italy", "russia"],
        "game_id": game,
    }
    return json.dumps(dialogue, ensure_ascii=False) + "\n"


DIPLOMACY = {
    "train.jsonl": diplomacy_line(1, []) + diplomacy_line(2, ["Hi\n\nRussia", "Hi\u2028Italy"]),
    "validation.jsonl": diplomacy_line(3, ["Hi"]),
    "test.jsonl": diplomacy_line(4, ["Hi"]),
}


def weights_row(group, **codes):
    names = ("CPS_CONST_a", "CPS_CONST_b", "CPS_NEG_a", "CPS_MAINTAIN_a", "CPS_MAINTAIN_b")
    return {
        "Group_x": group,
        "Start_x": 1,
        **dict.fromkeys(names, 0),
        **codes,
        "Participant": 4,
        "Transcript": "Alright  so",
    }


WEIGHTS_TASK = {
    "data/GoldenData/WTD/OOCPS_aied.csv": as_csv(
        [
            weights_row("Group_01", CPS_MAINTAIN_a=" "),
            weights_row("Group_08", CPS_CONST_b=1, CPS_MAINTAIN_b=1),
            weights_row("Group_09", CPS_NEG_a=1),
        ]
    ),
    "results/CPS/cps_gemini-2.0-flash.json": json.dumps([{"predicted": [1, 0, 0]}] * 3),
    "results/CPS/cps_llama-8b.json": json.dumps([{"predicted": [0, 0, 1]}] * 3),
}


def sgd_turn(speaker, text, frames):
    return {"speaker": speaker, "utterance": text, "frames": frames}


def sgd_frame(service, acts, intent=None, **slots):
    frame = {"service": service, "slots": [], "actions": [{"act": act} for act in acts]}
    state = {"active_intent": intent, "slot_values": slots, "requested_slots": []}
    return frame if intent is None else frame | {"state": state}


def sgd_file(*dialogues):
    return json.dumps(
        [{"dialogue_id": f"1_{i}", "turns": turns} for i, turns in enumerate(dialogues)]
    )


SGD = {
    "dev/dialogues_001.json": sgd_file(
        [
            sgd_turn("USER", "Any  bus?", [sgd_frame("Buses_1", ["INFORM_INTENT"], "FindBus")]),
            sgd_turn("SYSTEM", "Where to?", [sgd_frame("Buses_1", ["REQUEST"])]),
            sgd_turn(
                "USER",
                "To Rome. And a hotel.",
                [
                    sgd_frame("Buses_1", ["INFORM"], "FindBus", to=["Rome"]),
                    sgd_frame("Hotels_1", ["INFORM_INTENT", "INFORM"], "NONE", to=["Rome"]),
                ],
            ),
        ]
    ),
    "test/dialogues_001.json": sgd_file(
        [sgd_turn("USER", "Bye.", [sgd_frame("Buses_1", ["GOODBYE"], "NONE")])]
    ),
}

FETCHERS = {
    fetch_meld: ("_MELD", MELD),
    fetch_delidata: ("_DELIDATA", DELIDATA),
    fetch_casino: ("_CASINO", CASINO),
    fetch_diplomacy: ("_DIPLOMACY", DIPLOMACY),
    fetch_weights_task: ("_WEIGHTS_TASK", WEIGHTS_TASK),
}


class Server:
    """Local server with a copy of the repositories, which can be stopped."""

    def __init__(self):
        self.files, self.requested = {}, []
        files, requested = self.files, self.requested

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                requested.append(self.path)
                body = files.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self):
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
            self._http.server_close()


@pytest.fixture
def server(monkeypatch):
    """Serve made-up files in place of the published ones."""
    server = Server()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("SKPREF_DATA", raising=False)
    monkeypatch.setattr(_fetch, "_BASE_URL", server.url)
    for name, texts in FETCHERS.values():
        bodies = {path: text.encode() for path, text in texts.items()}
        hashes = {path: hashlib.sha256(body).hexdigest() for path, body in bodies.items()}
        source = replace(getattr(_fetch, name), files=hashes)
        monkeypatch.setattr(_fetch, name, source)
        server.files |= {f"/{source.root}/{path}": body for path, body in bodies.items()}
    yield server
    server.stop()


def test_the_made_up_files_have_the_published_names():
    for name, texts in FETCHERS.values():
        published = list(getattr(_fetch, name).files)
        assert [path for path in published if path in texts] == list(texts)


def test_urls_pin_commits_and_files_pin_checksums():
    for name, _ in FETCHERS.values():
        source = getattr(_fetch, name)
        commit = source.root.split("/")[2]
        assert len(commit) == 40
        assert int(commit, 16)
        assert all(len(sha256) == 64 and int(sha256, 16) for sha256 in source.files.values())
        assert len(set(source.files.values())) == len(source.files)


@pytest.mark.parametrize("fetch", FETCHERS)
def test_all_frames_share_their_first_columns(fetch, server, tmp_path):
    data = fetch(data_home=tmp_path)
    frame = data.frame
    assert frame.columns[:6].tolist() == SHARED
    assert frame.index.tolist() == list(range(len(frame)))
    assert frame["split"].drop_duplicates().tolist() == ["train", "dev", "test"]
    assert (frame.groupby("session_id")["split"].nunique() == 1).all()
    assert frame["text"].map(lambda text: text == " ".join(text.split()) != "").all()
    for _, session in frame.groupby("session_id"):
        assert session["turn"].tolist() == list(range(len(session)))
        assert session.index.tolist() == list(range(session.index[0], session.index[-1] + 1))


@pytest.mark.parametrize("fetch", FETCHERS)
def test_terms_and_origin_come_with_the_frame(fetch, server, tmp_path):
    data = fetch(data_home=tmp_path)
    source = getattr(_fetch, FETCHERS[fetch][0])
    assert data.urls == [server.url + path for path in server.requested]
    assert data.licence == source.licence
    assert data.citation == source.citation
    for part in (data.licence, data.citation, *data.urls):
        assert part in data.DESCR
    for part in (data.licence, "/".join(source.root.split("/")[:2])):
        assert part in fetch.__doc__


def test_meld_rows(server, tmp_path):
    frame = fetch_meld(data_home=tmp_path).frame
    assert frame.columns[6:].tolist() == [
        "emotion",
        "sentiment",
        "utterance_id",
        "season",
        "episode",
    ]
    assert frame["session_id"].tolist() == ["train_0", "train_0", "dev_0", "test_7"]
    assert frame["text"].tolist() == [
        "My duties? All right.",
        'A "quote", said\u2019s he',
        "What?",
        "NA",  # not read as a missing value
    ]
    assert (
        frame["label"].tolist()
        == frame["emotion"].tolist()
        == ["joy", "joy", "surprise", "neutral"]
    )
    assert frame["utterance_id"].tolist() == [0, 2, 0, 0]
    assert frame.loc[0, ["speaker", "season", "episode"]].tolist() == ["Ross", 8, 21]


def test_delidata_rows(server, tmp_path):
    frame = fetch_delidata(data_home=tmp_path).frame
    assert frame["session_id"].tolist() == [
        "a0",
        "a0",
        "a2",
        "a8",
    ]  # the incomplete group is left out
    assert frame["label"].tolist() == ["none", "probing"] + ["non_probing_deliberation"] * 2
    assert frame["target"].tolist() == ["none", "moderation", "solution", "reasoning"]
    assert frame["llm_gpt4omini_type"].tolist() == ["non_probing_deliberation"] * 4
    assert frame["llm_gpt4omini_target"].tolist() == ["disagree"] * 4
    assert frame["llm_qwen32b_type"].tolist()[:3] == ["probing"] * 3
    assert frame["llm_qwen32b_target"].isna().tolist() == [False] * 3 + [True]
    assert frame["llm_gemini20flash_type"].isna().tolist() == [False] * 2 + [True] * 2
    assert frame["llm_gemini20flash_target"].tolist()[:2] == ["none"] * 2


@pytest.mark.parametrize(
    ("session_id", "split"),
    [
        ("00639b9b-3a45-4c59-90f6-a4738de92fd4", "train"),
        ("04edccd6-25d7-47dc-b73f-5bce9d77025b", "test"),
    ],
)
def test_sessions_are_assigned_to_splits_by_hash(session_id, split):
    assert _fetch._split_by_hash(session_id) == split


def test_splits_have_the_documented_shares():
    splits = [_fetch._split_by_hash(str(i)) for i in range(10_000)]
    for split, share in (("train", 0.7), ("dev", 0.1), ("test", 0.2)):
        assert splits.count(split) / len(splits) == pytest.approx(share, abs=0.02)


def test_casino_rows(server, tmp_path):
    frame = fetch_casino(data_home=tmp_path).frame
    assert frame["session_id"].tolist() == ["d2"] * 3 + ["d3"] * 3 + ["d1"] * 3
    assert frame["text"].tolist()[:3] == ["Hello", "Hi there", "Deal?"]
    assert frame["label"].tolist()[:3] == ["small-talk", "self-need", "other-need"]
    assert frame["strategies"].tolist()[1] == "self-need,small-talk"
    assert frame["speaker_final_satisfaction"].tolist()[:2] == ["Slightly satisfied", "Undecided"]


def test_a_casino_utterance_without_annotation_does_not_shift_the_others(server, tmp_path):
    frame = fetch_casino(data_home=tmp_path).frame
    dev = frame[frame["split"] == "dev"]
    assert dev["label"].isna().tolist() == dev["strategies"].isna().tolist() == [False, True, False]
    assert dev["label"].tolist()[::2] == ["small-talk", "other-need"]


def test_diplomacy_rows(server, tmp_path):
    frame = fetch_diplomacy(data_home=tmp_path).frame
    assert frame["session_id"].tolist() == [
        "train_1_g2_italy-russia",
        "train_1_g2_italy-russia",
        "dev_0_g3_italy-russia",
        "test_0_g4_italy-russia",
    ]
    assert frame["text"].tolist() == ["Hi Russia", "Hi Italy", "Hi", "Hi"]
    assert frame["label"].tolist() == ["truth", "lie", "truth", "truth"]
    assert frame["receiver_label"].isna().tolist() == [False, True, False, False]
    assert frame["receiver_label"][0] == "lie"
    assert frame.loc[1].tolist()[7:] == [2, "1902", "Fall", 80, -1]


def test_weights_task_rows(server, tmp_path):
    frame = fetch_weights_task(data_home=tmp_path).frame
    assert frame["speaker"].tolist() == ["P4"] * 3
    assert frame["split"].tolist() == ["train", "dev", "test"]
    assert frame["label"].tolist() == ["none", "CSK+MTF", "NC"]
    assert frame[["CSK", "NC", "MTF"]].to_numpy().tolist() == [[0, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert frame.columns[9:].tolist() == [
        f"{facet}_llm_{model}"
        for model in ("gemini20flash", "llama8b")
        for facet in ("CSK", "NC", "MTF")
    ]
    assert frame.loc[0].tolist()[9:] == [1, 0, 0, 0, 0, 1]


def git_hash(text):
    content = text.encode()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def sgd_server(server, tmp_path, monkeypatch):
    """Serve two made-up files of Schema-Guided Dialogue, too."""
    listed = tmp_path / "files.txt"
    listed.write_text("".join(f"{git_hash(text)} {path}\n" for path, text in SGD.items()))
    monkeypatch.setattr(_sgd, "_FILES", listed)
    server.files |= {f"/{_sgd._SGD.root}/{path}": text.encode() for path, text in SGD.items()}
    return server


def test_sgd_states_are_indicators_with_a_row_for_each_turn(sgd_server, tmp_path):
    sgd = fetch_sgd(data_home=tmp_path)
    assert sgd.frame.columns.tolist() == [*SHARED, "acts"]
    assert sgd.frame["session_id"].tolist() == ["dev_1_0"] * 3 + ["test_1_0"]
    assert sgd.frame["text"].tolist()[0] == "Any bus?"
    assert sgd.frame["label"].tolist() == ["INFORM_INTENT", "REQUEST", "INFORM", "GOODBYE"]
    assert sgd.frame["acts"].tolist()[2] == "INFORM,INFORM_INTENT"
    assert sgd.services.to_dict("list") == {"Buses_1": [1, -1, 1, 1], "Hotels_1": [0, -1, 1, 0]}
    assert sgd.intents.to_dict("list") == {"Buses_1:FindBus": [1, -1, 1, 0]}
    assert sgd.slots.to_dict("list") == {"Buses_1:to": [0, -1, 1, 0], "Hotels_1:to": [0, -1, 1, 0]}
    assert sgd.licence in fetch_sgd.__doc__


def test_sgd_is_downloaded_by_split_and_checked_by_the_hashes_of_git(sgd_server, tmp_path):
    assert len(fetch_sgd(subset="test", data_home=tmp_path).frame) == 1
    fetch_sgd(subset="test", data_home=tmp_path, download_if_missing=False)
    assert len(sgd_server.requested) == 1
    path = next(path for path in sgd_server.files if path.endswith("dev/dialogues_001.json"))
    sgd_server.files[path] = b"[]"
    with pytest.raises(ValueError, match=git_hash("[]")):
        fetch_sgd(subset="dev", data_home=tmp_path)
    assert not list(tmp_path.rglob("dev/*"))
    with pytest.raises(OSError, match="download_if_missing=False"):
        fetch_sgd(data_home=tmp_path, download_if_missing=False)


def test_sgd_files_are_those_of_the_commit():
    files = _sgd._hashes()
    splits = Counter(name.partition("/")[0] for name in files)
    assert splits == {"train": 127, "dev": 20, "test": 34}
    assert all(len(known) == 40 and int(known, 16) for known in files.values())


def test_a_second_call_needs_no_server(server, tmp_path):
    first = fetch_meld(data_home=tmp_path)
    server.stop()
    for download_if_missing in (True, False):
        second = fetch_meld(data_home=str(tmp_path), download_if_missing=download_if_missing)
        assert second.frame.equals(first.frame)
    assert len(server.requested) == 3


def test_only_missing_files_are_downloaded(server, tmp_path):
    fetch_meld(data_home=tmp_path)
    next(tmp_path.rglob("dev_sent_emo.csv")).unlink()
    fetch_meld(data_home=tmp_path)
    assert [path.split("/")[-1] for path in server.requested[3:]] == ["dev_sent_emo.csv"]


@pytest.mark.parametrize("by_hand", [True, False])
def test_the_folder_comes_from_the_parameter_or_the_environment(
    by_hand, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("SKPREF_DATA", str(tmp_path / "environment"))
    fetch_meld(data_home=tmp_path / "parameter" if by_hand else None)
    assert [path.name for path in tmp_path.iterdir()] == ["parameter" if by_hand else "environment"]


def test_the_folder_is_the_users_cache_by_default(server, tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    fetch_meld()
    assert [path.name for path in tmp_path.iterdir()] == ["skpref"]


def test_a_home_folder_is_expanded(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    fetch_meld(data_home="~/data")
    assert (tmp_path / "data").is_dir()


@pytest.mark.parametrize("changed", [True, False])
def test_nothing_is_downloaded_if_the_user_forbids_it(changed, server, tmp_path):
    if changed:
        fetch_meld(data_home=tmp_path)
        server.requested.clear()
        next(tmp_path.rglob("train_sent_emo.csv")).write_text("other")
    with pytest.raises(
        OSError, match=r"train_sent_emo\.csv .*download_if_missing=False; pass download_if"
    ):
        fetch_meld(data_home=tmp_path, download_if_missing=False)
    assert server.requested == []
    assert changed or list(tmp_path.iterdir()) == []


def test_a_changed_file_is_downloaded_again(server, tmp_path):
    frame = fetch_meld(data_home=tmp_path).frame
    next(tmp_path.rglob("train_sent_emo.csv")).write_text("other")
    assert fetch_meld(data_home=tmp_path).frame.equals(frame)


def test_a_file_that_is_not_the_published_one_is_refused(server, tmp_path):
    url = f"/{_fetch._MELD.root}/test_sent_emo.csv"
    server.files[url] = b"other"
    with pytest.raises(ValueError, match=r"hash of downloaded file \(test_sent_emo\.csv\)"):
        fetch_meld(data_home=tmp_path)
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(names) == ["dev_sent_emo.csv", "train_sent_emo.csv"]


@pytest.mark.parametrize("stopped", [True, False])
def test_a_failed_download_names_the_url_and_the_remedy(stopped, server, tmp_path):
    url = f"/{_fetch._MELD.root}/train_sent_emo.csv"
    del server.files[url]
    if stopped:
        server.stop()
    with pytest.raises(OSError, match="Cannot download") as caught:
        fetch_meld(data_home=tmp_path)
    message = str(caught.value)
    assert server.url + url in message
    assert f"copy the file to {tmp_path}{url} by other means" in message.replace("\\", "/")
    assert ("404 " in message) is not stopped
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("package", ["pooch", "pandas"])
def test_a_missing_package_is_named(package, server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"Downloading data sets needs {package}.*\[datasets\]"):
        fetch_meld(data_home=tmp_path)
    assert server.requested == []


def test_downloads_work_without_tqdm(server, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(_fetch, "find_spec", lambda name: None)
    assert len(fetch_meld(data_home=tmp_path).frame) == 4
    assert "100%" not in capfd.readouterr().err


@pytest.mark.parametrize("parameters", [{"data_home": 3}, {"download_if_missing": "no"}])
def test_parameters_are_checked(parameters, server):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        fetch_meld(**parameters)
    assert server.requested == []


@pytest.mark.slow
def test_importing_needs_none_of_the_packages():
    code = (
        "import sys, skpref.datasets._fetch; "
        "assert not {'pooch', 'requests', 'tqdm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
