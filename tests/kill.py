"""Kill a labelling run and a training again and again, and see what is left.

Another process does the work. It is killed (SIGKILL, which nothing can catch) at random points and
started again, until it has been killed as often as asked; then it may finish. A labelling run must
lose no answer that was kept, pay at most for those in flight twice, and end with the scores of an
unbroken run. A training with `checkpoint_dir` must repeat at most one epoch for each kill, and end
with the losses and the probabilities of an unbroken one.

    python -m tests.kill                     # 50 kills of 2,000 calls, and of 100 epochs
    python -m tests.kill label --kills 5 --size 200
    python -m tests.kill train --kills 5 --size 10
"""

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.llm.stub import StubLLM
from tests.tiny_model import write_tiny_model

CONCURRENCY = 8


def start(*arguments):
    """Start this file as another process that does the work."""
    folder = str(Path(__file__).parents[1])
    command = [sys.executable, "-u", "-m", "tests.kill", "worker", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": folder}, stdout=subprocess.PIPE
    )


def finish(worker):
    """Wait for a process that is to end well; return what it wrote."""
    out, _ = worker.communicate()
    assert worker.returncode == 0, f"the process ended with {worker.returncode}"
    return out


def kill(worker):
    """Kill a process, unless it has ended; return whether it had not, and what it wrote."""
    worker.kill()
    out, _ = worker.communicate()
    return worker.returncode == -9, out


# --- a labelling run ---


def label(url, folder, n):
    """Ask for the scores of some texts, and write them beside the cache."""
    from skpref import LLMLabeler

    labeler = LLMLabeler(
        ["negative", "positive"],
        {"p": "{options}\n{answer}\n{utterance}"},
        base_url=url,
        model="stub",
        scoring="logprobs",
        cache=folder,
        max_concurrency=CONCURRENCY,
        progress=False,
    )
    rows = [f"text {i}" for i in range(int(n))]
    np.save(f"{folder}.npy", labeler.fit(rows).transform(rows))


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


def kill_labelling(n_kills, n_calls, folder, seed=0):
    """Kill a labelling run; return the counts, having checked them."""
    rng = np.random.default_rng(seed)
    broken, unbroken = Path(folder) / "broken", Path(folder) / "unbroken"
    stub = StubLLM()
    try:
        finish(start("label", stub.url, unbroken, n_calls))
        stub.requests.clear()
        stub.delay = 0.002
        kept, twice = {}, 0
        for point in np.sort(rng.integers(n_calls, size=n_kills)):
            before = len(stub.requests)
            worker = start("label", stub.url, broken, n_calls)
            while len(stub.requests) < max(point, before + 1) and worker.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.01))
            assert kill(worker)[0], "the run ended before it was killed"
            now = kept_answers(broken)
            assert all(now.get(key) == value for key, value in kept.items()), "an answer was lost"
            assert len(stub.requests) - len(now) - twice <= CONCURRENCY, "more lost than in flight"
            kept, twice = now, len(stub.requests) - len(now)
        finish(start("label", stub.url, broken, n_calls))
    finally:
        stub.stop()
    asked = Counter(request["messages"][-1]["content"] for request in stub.requests)
    assert len(asked) == n_calls
    assert len(stub.requests) - n_calls == twice, "an answer that was kept was asked again"
    np.testing.assert_array_equal(np.load(f"{broken}.npy"), np.load(f"{unbroken}.npy"))
    return {"kills": n_kills, "calls": len(stub.requests), "paid twice": twice}


# --- a training ---


def train(model, folder, n_epochs):
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
    worker = start("train", model, unbroken, n_epochs)
    begun = [(worker.stdout.readline(), time.perf_counter()) for _ in range(n_epochs)]
    pace = (begun[-1][1] - begun[0][1]) / (n_epochs - 1)
    assert not finish(worker), "stage 2 trains epochs as well"
    trained = 0
    for _ in range(n_kills):
        worker = start("train", model, broken, n_epochs)
        worker.stdout.readline()  # an epoch begins
        time.sleep(rng.uniform(0, 2 * pace))
        was_killed, out = kill(worker)
        assert was_killed, "the training ended before it was killed; ask for more epochs"
        trained += out.count(b"begins") + 1
    trained += finish(start("train", model, broken, n_epochs)).count(b"begins")
    assert n_epochs <= trained <= n_epochs + n_kills, f"{trained} epochs were trained"
    assert not list(broken.iterdir()), "a state was left"
    found, expected = np.load(f"{broken}.npz"), np.load(f"{unbroken}.npz")
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    return {"kills": n_kills, "epochs": n_epochs, "trained twice": trained - n_epochs}


WORK = {"label": label, "train": train}
TRIALS = {"label": (kill_labelling, 2000), "train": (kill_training, 100)}


def main(arguments):
    if arguments[:1] == ["worker"]:  # the process that is killed
        return WORK[arguments[1]](*arguments[2:])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trial", nargs="?", choices=TRIALS)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--size", type=int, help="number of calls, or of epochs")
    options = parser.parse_args(arguments)
    for name in [options.trial] if options.trial else TRIALS:
        run, size = TRIALS[name]
        with TemporaryDirectory() as folder:
            started = time.perf_counter()
            counts = run(options.kills, options.size or size, folder)
            print(f"{name}: {counts}, {time.perf_counter() - started:.0f} s", flush=True)
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
