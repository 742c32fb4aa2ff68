"""Measure what a GPU gains: time and memory by device, and fine-tuned against frozen encoders.

    bash benchmarks/gpu.sh

The script runs the tests marked ``cuda`` first. Without a GPU only the rows of the CPU are
measured. Writes `results/gpu.md` after each part; if a folder of data is given, the last part
compares a fine-tuned encoder with a frozen one on real dialogues.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from benchmarks._common import CACHE, add_out_option, quiet, table, write_lines
from benchmarks._runs import draw_labels
from benchmarks._speed_loss import exact_loss
from benchmarks._speed_stages import clustered_rows
from benchmarks._speed_training import prepare_epochs
from benchmarks._tasks import first_turns, load_task
from benchmarks._timing import alternate, devices, environment, to_the_end
from benchmarks.finetune import BUDGETS, Setting, matmul_ceiling, session_net, throughput
from skpref import (
    KNNLabelSmoother,
    PairwisePreferenceClassifier,
    PairwisePreferenceTextClassifier,
)
from skpref.datasets import make_dialogues

MODEL = "all-MiniLM-L6-v2"
TASKS = ("delidata", "meld-sentiment")
BUDGETS_OF_LABELS = (0, 200)


def with_peak(run: Callable, device: str, repeats: int) -> dict:
    """Return the median seconds of a run and, on CUDA, the most MB that it allocated."""
    import torch

    row = {"device": device}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    row["s"] = alternate({"run": to_the_end(run, device)}, repeats)["run"]
    if device == "cuda":
        row["peak MB"] = torch.cuda.max_memory_allocated() / 2**20
    return row


# --- parts --------------------------------------------------------------------------------------


def loss(sizes) -> Iterator[dict]:
    """Loss and gradient over all pairs of one session."""
    for n in sizes:
        for device in devices():
            yield {"rows": n} | with_peak(exact_loss([n], device), device, 3)


def smoothing(sizes) -> Iterator[dict]:
    """Exact smoothing over neighbours, 384 features."""
    for n in sizes:
        X, y = clustered_rows(n)
        for device in devices():
            smoother = KNNLabelSmoother(algorithm="exact", device=device)
            yield {"rows": n} | with_peak(partial(smoother.fit_transform, X, y), device, 1)


def training(sizes) -> Iterator[dict]:
    """Five epochs of an MLP with all pairs, sessions of 20."""
    for n in sizes:
        for device in devices():
            epochs = prepare_epochs(3, 128, 4096, True, device, n)
            yield {"rows": n, "batch": 4096} | with_peak(epochs, device, 1)


def texts(sizes) -> Iterator[dict]:
    """One epoch of training an encoder with pairs."""
    for n in sizes:
        for device in devices():
            net, data = session_net(Setting(device, 20, n, 1, MODEL))
            yield {"utterances": n} | with_peak(partial(net.partial_fit, data), device, 1)


def tokens(sizes) -> Iterator[dict]:
    """Throughput of that training in bfloat16, against a large matrix product (CUDA only)."""
    ceiling = matmul_ceiling()
    for budget in BUDGETS:
        yield throughput(Setting("cuda", 20, sizes[-1], 1, MODEL), budget, ceiling, 1)


def moved(sizes) -> Iterator[dict]:
    """Largest difference in probabilities of a classifier trained on CUDA and loaded on the CPU."""
    data = make_dialogues(n_sessions=sizes[0] // 20, random_state=0)
    clf = PairwisePreferenceClassifier("mlp", device="cuda", random_state=0)
    clf.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
    with TemporaryDirectory() as folder:
        clf.save_pretrained(Path(folder) / "model")
        loaded = PairwisePreferenceClassifier.from_pretrained(Path(folder) / "model", device="cpu")
    change = np.abs(loaded.predict_proba(data.X) - clf.predict_proba(data.X)).max()
    yield {"rows": len(data.X), "largest difference": float(change)}


def frozen_or_not(data_dir, cache) -> Iterator[dict]:
    """Frozen embeddings in an MLP against a fine-tuned encoder, on dev sessions."""
    for task in TASKS:
        data = load_task(task, data_dir, cache)
        train, dev = data.split == "train", (data.split == "dev") & (data.y >= 0)
        words, classes = data.frame["text"].to_numpy(str)[data.used], np.arange(len(data.classes))
        alone = first_turns(data.X, 0)
        options = {"classes": classes, "decision": "macro_f1", "random_state": 0}
        for n_labels in BUDGETS_OF_LABELS:
            y = draw_labels(data, n_labels, 1000)[train]
            given = {"groups": data.groups[train], "llm_scores": data.llm_scores[train]}
            rivals = {
                "frozen": (PairwisePreferenceClassifier(**options), alone),
                "fine-tuned": (PairwisePreferenceTextClassifier(**options), words),
                "fine-tuned, no pairs": (
                    PairwisePreferenceTextClassifier(pairwise_weight=0.0, **options),
                    words,
                ),
            }
            for name, (model, X) in rivals.items():
                with quiet():
                    model.fit(X[train], y, **given)
                    found = model.predict(X[dev])
                f1 = f1_score(data.y[dev], found, average="macro", zero_division=0)
                accuracy = accuracy_score(data.y[dev], found)
                key = {"task": task, "labels": n_labels, "encoder": name}
                yield key | {"macro-F1": f1, "accuracy": accuracy}


def choose_parts(has_gpu: bool, args) -> dict[str, tuple[Callable, tuple]]:
    """Return the parts to run, with their arguments."""
    parts = {
        "loss": (loss, ([20_000, 200_000] if has_gpu else [2_000],)),
        "smoothing": (smoothing, ([20_000, 100_000] if has_gpu else [500],)),
        "training": (training, ([20_000, 200_000] if has_gpu else [500],)),
        "texts": (texts, ([2_000] if has_gpu else [16],)),
    }
    if has_gpu:
        parts |= {"tokens": (tokens, ([20_000],)), "moved": (moved, ([2_000],))}
        if args.data_dir:
            parts["frozen or not"] = (frozen_or_not, (args.data_dir, args.cache))
    return parts


def main(argv=None) -> None:
    """Run the parts, and write the page after each row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("SKPREF_DATA"))
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder kept between runs")
    add_out_option(parser)
    args = parser.parse_args(argv)
    has_gpu = "cuda" in devices()
    if not has_gpu:
        print("There is no CUDA device: only the rows of the CPU are measured, in small.")
    machine = ", ".join(f"{name} {value}" for name, value in environment().items())
    lines = [
        "# GPU",
        "",
        "`bash benchmarks/gpu.sh` (`python -m benchmarks.gpu`)",
        "",
        machine + ".",
    ]
    for name, (function, arguments) in choose_parts(has_gpu, args).items():
        rows = []
        for row in function(*arguments):
            rows.append(row)
            print(name, row, flush=True)
            section = ["", f"## {function.__doc__}", "", *table(rows)]
            write_lines(args.out / "gpu.md", [*lines, *section])
        lines += section


if __name__ == "__main__":
    for variable in ("HF_HUB_OFFLINE", "TQDM_DISABLE"):  # the model comes as a package
        os.environ.setdefault(variable, "1")
    main()
