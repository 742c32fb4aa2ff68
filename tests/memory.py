"""Watch the memory of many fits and of many single predictions.

A leak shows as growth from batch to batch, after a first batch in which caches fill.

    python -m tests.memory                                  # 1,000 fits, 100,000 predictions
    python -m tests.memory --fits 100 --predictions 10000
"""

import argparse
import gc
import itertools
import resource
import sys
import time

import numpy as np

from skpref import PairwisePreferenceClassifier
from skpref.datasets import make_dialogues

N_BATCHES = 10


def resident():
    """Return the memory of this process in MB; except on Linux, the most that it ever held."""
    gc.collect()
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def watch(work, n):
    """Call a function n times; return the memory after each tenth of the calls, in MB."""
    found = []
    for _ in range(N_BATCHES):
        for _ in range(n // N_BATCHES):
            work()
        found.append(resident())
    return found


def fits(n):
    """Return the memory during fits of small classifiers: by both solvers, refitted and new."""
    data = make_dialogues(n_sessions=10, labelled_fraction=0.5, random_state=0)
    settings = [
        {"module": module, "max_epochs": 1, "warm_start": warm_start, "random_state": 0}
        for module in ("mlp", "linear")
        for warm_start in (False, True)
    ]
    again = [PairwisePreferenceClassifier(**params) for params in settings]
    models = itertools.cycle([*again, *settings])

    def fit():
        model = next(models)
        if isinstance(model, dict):
            model = PairwisePreferenceClassifier(**model)
        model.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)

    return watch(fit, n)


def predictions(n):
    """Return the memory during predictions of one row."""
    data = make_dialogues(n_sessions=10, labelled_fraction=0.5, random_state=0)
    model = PairwisePreferenceClassifier(max_epochs=1, random_state=0)
    model.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
    rows = itertools.cycle(np.split(data.X, len(data.X)))
    return watch(lambda: model.predict_proba(next(rows)), n)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fits", type=int, default=1000)
    parser.add_argument("--predictions", type=int, default=100_000)
    options = parser.parse_args()
    for run, n in ((fits, options.fits), (predictions, options.predictions)):
        started = time.perf_counter()
        found = run(n)
        print(f"{n:,} {run.__name__}, {time.perf_counter() - started:.0f} s. Memory in MB:")
        print("  ", *(f"{value:.1f}" for value in found), flush=True)


if __name__ == "__main__":
    main()
