"""Kill a labelling run and a training again and again, and see what is left.

Another process does the work. It is killed (SIGKILL, which nothing can catch) at random points and
started again, until it has been killed as often as asked; then it may finish. A labelling run must
lose no answer that was kept, pay at most for those in flight twice, and end with the scores of an
unbroken run. A training with `checkpoint_dir` must repeat at most one epoch for each kill, and end
with the losses and the probabilities of an unbroken one.

    python -m tests.kill                     # 50 kills of 2,000 calls, 1,000 lists and 100 epochs
    python -m tests.kill label --kills 5 --size 200
    python -m tests.kill train --kills 5 --size 10
"""

import argparse
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.llm.stub import StubLLM, by_option, by_places
from tests.tiny_model import write_tiny_model

CONCURRENCY = 8


class Worker:
    """A process that forks one for each attempt, so that only the first has to import."""

    def __init__(self, work, *arguments):
        folder = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kill", "worker", work, *map(str, arguments)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def start(self, folder):
        """Start an attempt that keeps its state in a folder."""
        print(folder, file=self.process.stdin, flush=True)
        self.pid = int(self.read_line())

    def read_line(self):
        """Return the next line of the attempt."""
        return self.process.stdout.readline().strip()

    def kill(self):
        """Kill the attempt, which must not have ended; return the lines that were not read."""
        os.kill(self.pid, signal.SIGKILL)
        return self.finish(-signal.SIGKILL)

    def finish(self, expected=0):
        """Wait for the end of the attempt; return the lines that were not read."""
        *lines, status = iter(self.read_line, "end")
        assert int(status) == expected, f"the process ended with {status}"
        return lines


def serve(work, *arguments):
    """Do the work in a new process for each line of the input, and write how that ended."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                work(line.strip(), *arguments)
                status = 0
            finally:
                os._exit(status)
        # A process that has ended remains until it is waited for, so it can still be killed.
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "end", sep="\n", flush=True)


# --- a labelling run ---


LINES = 5  # utterances of a list


def label(folder, url, n, unit):
    """Ask for the scores of some texts, or of sessions of them, and write them beside the cache."""
    import pandas as pd

    from skpref import LLMLabeler

    labeler = LLMLabeler(
        ["negative", "positive"],
        "session" if unit == "session" else {"p": "{options}\n{answer}\n{utterance}"},
        base_url=url,
        model="stub",
        scoring="logprobs",
        unit=unit,
        cache=folder,
        max_concurrency=CONCURRENCY,
        verbose=False,
    )
    row = np.arange(int(n) * (LINES if unit == "session" else 1))
    rows = pd.DataFrame({"session_id": row // LINES, "turn": row % LINES})
    rows["text"] = [f"text {i}" for i in row]
    np.save(f"{folder}.npy", labeler.fit(rows).transform(rows))


def answer(request):
    """Answer a question about one text, or a list by name, of which every seventh lacks a line."""
    asked = request["messages"][-1]["content"]
    lines = re.findall(r'^(\d+)\. "text (\d+)"', asked, re.M)
    only = re.search(r"label line (\d+) and", asked)
    if not lines:
        return by_option(request)
    tokens = []
    for number, text in lines:
        lacks = int(text) % (7 * LINES) == 2
        if number == only[1] if only else not lacks:
            first, second = ("negative", "positive")[:: 1 if int(text) % 3 else -1]
            likeliest = {f" {first}": -0.2 - int(text) % 5 / 10, f" {second}": -1.7}
            tokens += [(f"{number}:", {}), (f" {first}", likeliest), ("\n", {})]
    return by_places(tokens)


def kept_answers(folder):
    """Return the answers of a cache, from a copy, so that only the labeler mends the files."""
    if not (Path(folder) / "cache.db").exists():
        return {}
    with TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        database = sqlite3.connect(Path(copy) / "cache.db")
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
        found = dict(database.execute("SELECT key, value FROM Cache")) if "Cache" in tables else {}
        database.close()
    return found


def kill_labelling(n_kills, size, folder, seed=0, unit="utterance"):
    """Kill a labelling run; return the counts, having checked them."""
    rng = np.random.default_rng(seed)
    broken, unbroken = Path(folder) / "broken", Path(folder) / "unbroken"
    stub = StubLLM(answer)
    try:
        with Worker("label", stub.url, size, unit) as worker:
            worker.start(unbroken)
            worker.finish()
            n_calls = len(stub.requests)
            stub.requests.clear()
            stub.delay = 0.002
            kept, twice = {}, 0
            for point in np.sort(rng.integers(n_calls, size=n_kills)):
                before = len(stub.requests)
                worker.start(broken)
                while len(stub.requests) < max(point, before + 1):
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.01))
                worker.kill()
                now = kept_answers(broken)
                assert kept.items() <= now.items(), "an answer was lost"
                assert len(stub.requests) - len(now) - twice <= CONCURRENCY, "more than in flight"
                kept, twice = now, len(stub.requests) - len(now)
            worker.start(broken)
            worker.finish()
    finally:
        stub.stop()
    asked = Counter(request["messages"][-1]["content"] for request in stub.requests)
    assert len(asked) == n_calls
    assert len(stub.requests) - n_calls == twice, "an answer that was kept was asked again"
    np.testing.assert_array_equal(np.load(f"{broken}.npy"), np.load(f"{unbroken}.npy"))
    return {"kills": n_kills, "calls": len(stub.requests), "paid twice": twice}


# --- a training ---


def train(folder, model, n_epochs):
    """Fit a classifier of texts that keeps its state, and write what it learned."""
    from skorch.callbacks import Callback

    from skpref import PairwisePreferenceTextClassifier
    from tests.tiny_model import WORDS

    class Tell(Callback):
        def on_epoch_begin(self, net, **_):
            print("begins", flush=True)

    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS.split(), 6)) for _ in range(60)]
    clf = PairwisePreferenceTextClassifier(
        model,
        checkpoint_dir=None if folder.endswith("unbroken") else folder,
        max_epochs=int(n_epochs),
        batch_size=24,
        callbacks=[Tell()],
        stage2="offsets",
        random_state=0,
    )
    y = np.array(["order" in text or "good" in text or "love" in text for text in texts])
    clf.fit(texts, y, groups=np.arange(60) // 6, llm_scores=rng.random((60, 2, 2)))
    losses = [epoch["train_loss"] for epoch in clf.history_]
    np.savez(f"{folder}.npz", losses=losses, proba=clf.predict_proba(texts))


def kill_training(n_kills, n_epochs, folder, seed=0):
    """Kill a training; return the counts, having checked them."""
    rng = np.random.default_rng(seed)
    broken, unbroken = Path(folder) / "broken", Path(folder) / "unbroken"
    broken.mkdir()
    model = write_tiny_model(folder)
    with Worker("train", model, n_epochs) as worker:
        worker.start(unbroken)
        begun = [(worker.read_line(), time.perf_counter()) for _ in range(n_epochs)]
        pace = (begun[-1][1] - begun[0][1]) / (n_epochs - 1)
        assert not worker.finish(), "stage 2 trains epochs as well"
        trained = 0
        for _ in range(n_kills):
            worker.start(broken)
            worker.read_line()  # an epoch begins
            time.sleep(rng.uniform(0, 2 * pace))
            trained += 1 + len(worker.kill())
        worker.start(broken)
        trained += len(worker.finish())
    assert n_epochs <= trained <= n_epochs + n_kills, f"{trained} epochs were trained"
    assert not list(broken.iterdir()), "a state was left"
    found, expected = np.load(f"{broken}.npz"), np.load(f"{unbroken}.npz")
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    return {"kills": n_kills, "epochs": n_epochs, "trained twice": trained - n_epochs}


def import_openai():
    import openai  # noqa: F401

    import skpref._llm._labeler  # noqa: F401


def import_transformers():
    import sentence_transformers  # noqa: F401
    import skorch  # noqa: F401

    from skpref._student._network_estimator import stages

    stages()


WORK = {"label": (label, import_openai), "train": (train, import_transformers)}
TRIALS = {
    "label": (kill_labelling, 2000),
    "lists": (partial(kill_labelling, unit="session"), 1000),
    "train": (kill_training, 100),
}


def main(arguments):
    if arguments[:1] == ["worker"]:  # the process that is killed
        work, imports = WORK[arguments[1]]
        imports()
        return serve(work, *arguments[2:])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trial", nargs="?", choices=TRIALS)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--size", type=int, help="number of calls, lists or epochs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in [options.trial] if options.trial else TRIALS:
        run, size = TRIALS[name]
        with TemporaryDirectory() as folder:
            started = time.perf_counter()
            counts = run(options.kills, options.size or size, folder, options.seed)
            print(f"{name}: {counts}, {time.perf_counter() - started:.0f} s", flush=True)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
