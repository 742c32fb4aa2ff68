"""The benchmark of LLMLabeler, on few calls."""

import asyncio
import json
import multiprocessing

import pytest

from benchmarks import labeling

for package in ("diskcache", "openai", "tqdm"):
    pytest.importorskip(package)

COUNTS = {"LLMLabeler": 60, "bare openai": 60, "all in the cache": 0}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.slow
def test_small_run_writes_what_it_counts(tmp_path, capsys):
    result = labeling.main(["--calls", "59", "--rounds", "1", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "labeling.json").read_text()) == result
    assert set(result) == {"environment", "throughput", "ours / bare", "memory", "most at once"}
    assert {"openai", "CPU", "skpref"} < set(result["environment"])
    assert result["environment"]["rounds"] == 1

    rows = result["throughput"]
    assert {row["rival"]: row["requests"] for row in rows} == COUNTS
    for row in rows:
        assert 0 < row["slowest"] == row["calls/s"] == row["fastest"]
        assert row["server busy"] >= 0
    assert result["ours / bare"] == rows[0]["calls/s"] / rows[1]["calls/s"]
    assert [row["calls"] for row in result["memory"]] == [6, 60]
    for row in result["memory"]:
        # Three scores and the mass of the options.
        assert row["arrays MB"] == pytest.approx(row["calls"] * 4 * 8 / 2**20)
        assert row["beyond MB"] > 0
    assert 1 < result["most at once"] <= labeling.AT_ONCE

    text, printed = (tmp_path / "labeling.md").read_text(), capsys.readouterr().out
    assert printed.strip() in text
    assert "| rival | calls/s | requests |" in printed
    assert "`python -m benchmarks.labeling`" in text
    assert str(tmp_path) not in text


def test_rivals_send_the_same_requests_and_get_answers_of_use():
    pieces = []
    head, _, body = labeling.Chat.response.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    [token] = json.loads(body)["choices"][0]["logprobs"]["content"]
    assert len({top["token"] for top in token["top_logprobs"]}) == 20

    async def listen():
        class Kept(labeling.Chat):
            def data_received(self, data):
                pieces.append(data)
                super().data_received(data)

        server = await asyncio.get_running_loop().create_server(Kept, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            with labeling.labeler_and_data(24, **labeling.at(url)) as (labeler, X):
                scores = await asyncio.to_thread(labeler.transform, X)
            ours = read_bodies(pieces)
            requests = await asyncio.to_thread(labeling.write_requests, 24)
            await labeling.ask_bare(url, requests)
        return scores, ours, read_bodies(pieces)

    scores, ours, bare = asyncio.run(listen())
    assert scores.shape == (8, 3, 3)
    assert (scores > 0).all()
    assert len(set(ours)) == 24
    assert sorted(ours) == sorted(bare)


def read_bodies(pieces):
    """Take the JSON objects out of the pieces of the requests."""
    text, bodies, start = b"".join(pieces).decode(), [], 0
    pieces.clear()
    while (start := text.find('{"', start)) >= 0:
        body, start = json.JSONDecoder().raw_decode(text, start)
        bodies.append(json.dumps(body, sort_keys=True))
    return bodies


def test_server_counts_and_ends_with_the_pipe():
    others = {child.pid for child in multiprocessing.active_children()}  # of earlier tests
    with labeling.stub_server() as (url, counts):
        [pid] = {child.pid for child in multiprocessing.active_children()} - others
        payload = {"model": "stub", "messages": [{"role": "user", "content": "Hello"}]}
        asyncio.run(labeling.ask_bare(url, [payload] * 10))
        assert counts(0.2)[0] == 10
        assert counts()[:2] == (0, 0)
    assert pid not in [child.pid for child in multiprocessing.active_children()]
