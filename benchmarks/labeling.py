"""Cost of LLMLabeler beyond that of the client, at an endpoint that answers at once.

    python -m benchmarks.labeling

has LLMLabeler and the bare client of openai make the same calls, in turns, to a server on loopback
in a process of its own, prints calls a second and peak memory, and writes results/labeling.json and
results/labeling.md. Takes about five minutes on two cores.
"""

import argparse
import asyncio
import json
import multiprocessing
import re
import time
import tracemalloc
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.finetune import make_texts
from benchmarks.speed import RESULTS, environment, table

CLASSES = ["negative", "neutral", "positive"]
N_PROMPTS = 6  # of the default bank
AT_ONCE = 64
DELAY = 0.5  # seconds of an answer, where requests at once are counted
NOTE = f"""
LLMLabeler: `transform` with an empty cache folder, six default prompts and logprobs. bare openai:
the same requests, made before, by `AsyncOpenAI` and `create`; answers are not read or kept. all in
the cache: the same `transform` again. Rivals take turns; medians, slowest and fastest round. The
server answers at once; "server busy" is the part of the time in which it used a core.

"beyond" is what tracemalloc sees (not SQLite's memory) at the peak of a `transform` that is not
timed, without scores and option_mass_. "most at once" is what the server saw at {DELAY} s a call.
"""


def make_response() -> bytes:
    """Write the one HTTP response, with 20 likely tokens."""
    tokens = [mark + letter for mark in ("", " ", "*", "(", "\n") for letter in "ABC"]
    top = [
        {"token": token, "logprob": -0.105 - 1.25 * i, "bytes": list(token.encode())}
        for i, token in enumerate([*tokens, "The", "I", "Answer", "Option", "neutral"])
    ]
    choice = {"message": {"role": "assistant", "content": "A"}, "finish_reason": "length"}
    choice |= {"index": 0, "logprobs": {"content": [top[0] | {"top_logprobs": top}]}}
    usage = {"prompt_tokens": 180, "completion_tokens": 1, "total_tokens": 181}
    answer = {"id": "chatcmpl-0", "object": "chat.completion", "created": 1_750_000_000}
    body = json.dumps(answer | {"model": "stub", "choices": [choice], "usage": usage}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


class Chat(asyncio.Protocol):
    """A connection on which one request after another gets the same answer."""

    response = make_response()
    delay = 0.0
    answered = now = most = 0  # of all connections; now and most are requests under way

    def connection_made(self, transport):
        """Begin."""
        self.transport, self.data = transport, b""

    def data_received(self, data):
        """Take in a part of a request, and answer when it is whole."""
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end or len(body) < int(re.search(rb"(?i)\ncontent-length: *(\d+)", head)[1]):
            return
        self.data, Chat.now = b"", Chat.now + 1
        Chat.most = max(Chat.most, Chat.now)
        asyncio.get_running_loop().call_later(self.delay, self.answer)

    def answer(self):
        """Send the answer."""
        Chat.now, Chat.answered = Chat.now - 1, Chat.answered + 1
        self.transport.write(self.response)


def serve(pipe) -> None:
    """Serve until the other end of the pipe is closed, or its process died."""

    async def main():
        async with await asyncio.get_running_loop().create_server(Chat, "127.0.0.1", 0) as server:
            pipe.send(server.sockets[0].getsockname()[1])
            with suppress(EOFError):
                while True:
                    Chat.delay = await asyncio.to_thread(pipe.recv)
                    pipe.send((Chat.answered, Chat.most, time.process_time()))
                    Chat.answered = Chat.most = 0

    asyncio.run(main())


@contextmanager
def stub_server():
    """Run the server; gives its address, and what sets its delay and asks for its counts."""
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe()
    process = context.Process(target=serve, args=(end,), daemon=True)
    process.start()
    end.close()

    def counts(delay=0.0):
        pipe.send(delay)
        return pipe.recv()

    try:
        yield f"http://127.0.0.1:{pipe.recv()}/v1", counts
    finally:
        pipe.close()
        process.join()


@contextmanager
def labeler_and_data(url, n_calls):
    """Give a labeler with an empty cache, and as many utterances, all different, as it asks for."""
    import pandas as pd

    from skpref import LLMLabeler

    row = np.arange(n_calls // N_PROMPTS)
    X = pd.DataFrame({"session_id": row // 20, "turn": row % 20})
    X["text"] = [f"{text} {i}" for i, text in enumerate(make_texts(len(row)))]
    y = [CLASSES[i // 10 % 3] if i % 10 == 0 else None for i in row]  # for examples
    with TemporaryDirectory(prefix="skpref-") as cache:
        settings = {"max_concurrency": AT_ONCE, "cache": cache, "progress": False}
        labeler = LLMLabeler(CLASSES, model="stub", base_url=url, api_key="none", **settings)
        yield labeler.fit(X, y), X


async def ask_bare(url, payloads) -> None:
    """Make the requests by openai alone."""
    from openai import AsyncOpenAI

    async def work(client, left):
        for payload in left:
            await client.chat.completions.create(**payload)

    async with AsyncOpenAI(base_url=url, api_key="none", timeout=60, max_retries=5) as client:
        left = iter(payloads)
        await asyncio.gather(*(work(client, left) for _ in range(AT_ONCE)))


def timed(counts, n_calls, run, *arguments) -> dict:
    """Run, and give calls a second and what the server did meanwhile."""
    before, start = counts()[2], time.perf_counter()
    run(*arguments)
    seconds = time.perf_counter() - start
    requests, _, after = counts()
    busy = (after - before) / seconds
    return {"calls/s": n_calls / seconds, "requests": requests, "server busy": busy}


def race(url, counts, n_calls, rounds) -> dict:
    """Let the rivals make the same calls in turns."""
    runs: dict[str, list] = {"LLMLabeler": [], "bare openai": [], "all in the cache": []}
    for _ in range(rounds):
        with labeler_and_data(url, n_calls) as (labeler, X):
            asks = labeler._asks(labeler._read(X), labeler._questions())
            bare = asyncio.run, ask_bare(url, [ask.payload for ask in asks])
            ours = labeler.transform, X
            for name, rival in zip(runs, (ours, bare, ours), strict=True):
                runs[name].append(timed(counts, n_calls, *rival))
    rows = []
    for name, of_name in runs.items():
        row = {key: float(np.median([run[key] for run in of_name])) for key in of_name[0]}
        rates = [run["calls/s"] for run in of_name]
        rows.append({"rival": name} | row | {"slowest": min(rates), "fastest": max(rates)})
    return {"throughput": rows, "ours / bare": rows[0]["calls/s"] / rows[1]["calls/s"]}


def peak_memory(url, n_calls) -> dict:
    """MB at the peak of transform beyond the arrays that stay."""
    with labeler_and_data(url, n_calls) as (labeler, X):
        tracemalloc.start()
        arrays = labeler.transform(X).nbytes + labeler.option_mass_.nbytes
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        calls = labeler.usage_["requests"]
    return {"calls": calls, "arrays MB": arrays / 2**20, "beyond MB": (peak - arrays) / 2**20}


def main(argv=None) -> dict:
    """Measure all, and print and write it."""
    parser = argparse.ArgumentParser(description="Cost of LLMLabeler beyond that of the client.")
    parser.add_argument("--calls", type=int, default=10_000, help="rounded up to a multiple of 6")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    calls = -(-args.calls // N_PROMPTS) * N_PROMPTS
    work = {"openai": metadata.version("openai"), "rounds": args.rounds, "max_concurrency": AT_ONCE}
    result = {"environment": {k: environment()[k] for k in ("python", "CPU", "skpref")} | work}
    with stub_server() as (url, counts):
        race(url, counts, 3 * AT_ONCE, 1)  # loads what is loaded once
        result |= race(url, counts, calls, args.rounds)
        result["memory"] = [peak_memory(url, n) for n in (-(-calls // 60) * 6, calls)]
        counts(DELAY)
        with labeler_and_data(url, 3 * AT_ONCE) as (labeler, X):
            labeler.transform(X)
        result["most at once"] = counts()[1]
    lines = [*table(result["throughput"]), "", f"ours / bare: {result['ours / bare']:.2f}", ""]
    lines += [*table(result["memory"]), "", f"most at once: {result['most at once']}"]
    print("\n".join(lines))
    where = ", ".join(f"{k} {v}" for k, v in result["environment"].items())
    head = ["# Labeling", "", "`python -m benchmarks.labeling`", "", f"{where}.", NOTE]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "labeling.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "labeling.md").write_text("\n".join([*head, *lines, ""]))
    return result


if __name__ == "__main__":
    main()
