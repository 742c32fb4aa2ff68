"""Cost of LLMLabeler beyond that of the client, at an endpoint that answers at once.

    python -m benchmarks.labeling

LLMLabeler and the bare client of openai make the same calls, in turns, to a server on loopback in a
separate process. Prints calls a second and peak memory, and writes results/labeling.json and
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
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks._common import add_out_option, table, write_json, write_lines
from benchmarks._timing import environment
from benchmarks.finetune import make_texts
from skpref import LLMLabeler, PromptBank

CLASSES = ["negative", "neutral", "positive"]
N_PROMPTS = len(PromptBank())
AT_ONCE = 64
DELAY = 0.5  # seconds until an answer, when requests at once are counted
NOTE = f"""
LLMLabeler: `transform` with an empty cache folder, the default prompts and logprobs. bare openai:
the same requests, written before, by `AsyncOpenAI` and `create`; answers are not read or kept. all
in the cache: the same `transform` again. Rivals take turns; medians, slowest and fastest round. The
server answers at once; "server busy" is the share of the time in which it used a core.

"beyond" is the memory that tracemalloc sees (not SQLite's) at the peak of a separate `transform`,
without scores and option_mass_. "most at once" is what the server saw at {DELAY} s a call.
"""


def make_response() -> bytes:
    """Return the HTTP response to every request, with 20 likely tokens."""
    tokens = [mark + name for mark in ("", " ", "*", "(", "\n") for name in CLASSES]
    top = [
        {"token": token, "logprob": -0.105 - 1.25 * i, "bytes": list(token.encode())}
        for i, token in enumerate([*tokens, "The", "I", "Answer", "Option", "Neu"])
    ]
    choice = {"message": {"role": "assistant", "content": CLASSES[0]}, "finish_reason": "length"}
    choice |= {"index": 0, "logprobs": {"content": [top[0] | {"top_logprobs": top}]}}
    usage = {"prompt_tokens": 180, "completion_tokens": 1, "total_tokens": 181}
    answer = {"id": "chatcmpl-0", "object": "chat.completion", "created": 1_750_000_000}
    body = json.dumps(answer | {"model": "stub", "choices": [choice], "usage": usage}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


class Chat(asyncio.Protocol):
    """Connection on which one request after another gets the same answer."""

    response = make_response()
    delay = 0.0
    answered = now = most = 0  # of all connections; now and most count unanswered requests

    def connection_made(self, transport):
        """Keep the transport, and wait for a request."""
        self.transport, self.data = transport, b""

    def data_received(self, data):
        """Add a part of a request, and answer once it is whole."""
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
    """Serve until the other end of the pipe is closed or its process has died."""

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
    """Run the server; yields its address, and a function that sets the delay and reads counts."""
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
def labeler_and_data(n_calls, **endpoint):
    """Yield a labeler with an empty cache, and different utterances for a number of calls."""
    import pandas as pd

    row = np.arange(n_calls // N_PROMPTS)
    X = pd.DataFrame({"session_id": row // 20, "turn": row % 20})
    X["text"] = [f"{text} {i}" for i, text in enumerate(make_texts(len(row)))]
    y = [CLASSES[i // 10 % 3] if i % 10 == 0 else None for i in row]  # for examples
    with TemporaryDirectory(prefix="skpref-") as cache:
        settings = {"max_concurrency": AT_ONCE, "cache": cache, "verbose": False}
        yield LLMLabeler(CLASSES, model="stub", **endpoint, **settings).fit(X, y), X


def at(url) -> dict:
    """Return the settings of an endpoint."""
    return {"base_url": url, "api_key": "none"}


def write_requests(n_calls) -> list[dict]:
    """Return the requests that LLMLabeler makes, from a client that records them."""
    requests = []

    def record(**request):
        requests.append(request)
        return {CLASSES[0]: 0.0}

    with labeler_and_data(n_calls, client=record) as (labeler, X):
        labeler.transform(X)
    return requests


async def ask_bare(url, requests) -> None:
    """Make requests by openai alone."""
    from openai import AsyncOpenAI

    async def work(client, left):
        for request in left:
            await client.chat.completions.create(**request)

    async with AsyncOpenAI(**at(url), timeout=60, max_retries=5) as client:
        left = iter(requests)
        await asyncio.gather(*(work(client, left) for _ in range(AT_ONCE)))


def timed(counts, n_calls, run, *arguments) -> dict:
    """Run; return the calls a second and the counts of the server."""
    before, start = counts()[2], time.perf_counter()
    run(*arguments)
    seconds = time.perf_counter() - start
    requests, _, after = counts()
    busy = (after - before) / seconds
    return {"calls/s": n_calls / seconds, "requests": requests, "server busy": busy}


def race(url, counts, n_calls, rounds) -> dict:
    """Let the rivals make the same calls in turns."""
    runs: dict[str, list] = {"LLMLabeler": [], "bare openai": [], "all in the cache": []}
    requests = write_requests(n_calls)
    for _ in range(rounds):
        with labeler_and_data(n_calls, **at(url)) as (labeler, X):
            bare = asyncio.run, ask_bare(url, requests)
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
    """Return the MB at the peak of `transform` beyond the arrays that it returns."""
    with labeler_and_data(n_calls, **at(url)) as (labeler, X):
        tracemalloc.start()
        arrays = labeler.transform(X).nbytes + labeler.option_mass_.nbytes
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        calls = labeler.usage_["requests"]
    return {"calls": calls, "arrays MB": arrays / 2**20, "beyond MB": (peak - arrays) / 2**20}


def measure(calls, rounds) -> dict:
    """Measure throughput, memory and requests at once."""
    work = {"openai": metadata.version("openai"), "rounds": rounds, "max_concurrency": AT_ONCE}
    result = {"environment": {k: environment()[k] for k in ("python", "CPU", "skpref")} | work}
    with stub_server() as (url, counts):
        race(url, counts, 3 * AT_ONCE, 1)  # does the loading that happens once
        result |= race(url, counts, calls, rounds)
        few = -(-calls // (10 * N_PROMPTS)) * N_PROMPTS
        result["memory"] = [peak_memory(url, n) for n in (few, calls)]
        counts(DELAY)
        with labeler_and_data(3 * AT_ONCE, **at(url)) as (labeler, X):
            labeler.transform(X)
        result["most at once"] = counts()[1]
    return result


def tables(result) -> list[str]:
    """Return the results as lines of Markdown."""
    lines = [*table(result["throughput"]), "", f"ours / bare: {result['ours / bare']:.2f}", ""]
    return [*lines, *table(result["memory"]), "", f"most at once: {result['most at once']}"]


def page(result) -> list[str]:
    """Return the results as the lines of a Markdown page."""
    where = ", ".join(f"{k} {v}" for k, v in result["environment"].items())
    head = ["# Labeling", "", "`python -m benchmarks.labeling`", "", f"{where}.", NOTE]
    return [*head, *tables(result)]


def main(argv=None) -> dict:
    """Measure, print the results and write them."""
    parser = argparse.ArgumentParser(description="Cost of LLMLabeler beyond that of the client.")
    parser.add_argument("--calls", type=int, default=10_000, help="rounded up to a multiple of 6")
    parser.add_argument("--rounds", type=int, default=3)
    add_out_option(parser)
    args = parser.parse_args(argv)
    result = measure(-(-args.calls // N_PROMPTS) * N_PROMPTS, args.rounds)
    print("\n".join(tables(result)))
    write_json(args.out / "labeling.json", result)
    write_lines(args.out / "labeling.md", page(result))
    return result


if __name__ == "__main__":
    main()
