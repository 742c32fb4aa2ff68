"""Cost of fine-tuning a small encoder with pairs, and what encoding every pair would cost.

    python -m benchmarks.finetune

Trains all-MiniLM-L6-v2 end to end on texts in sessions of one length, on each device that torch
has, and writes results/finetune.json and results/finetune.md. A run that was stopped resumes from
the JSON if machine, texts, model and rivals are the same. Texts are made up unless there is a
folder with uss.parquet.
"""

import argparse
import gc
import inspect
import itertools
import os
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir
from typing import NamedTuple

import numpy as np

from benchmarks._common import add_out_option, read_json, table, write_json, write_lines
from benchmarks._timing import alternate, devices, environment, measure_in_a_process, to_the_end

LENGTHS = [10, 20, 50, 200]
N_CLASSES = 3
BATCH = 256  # utterances of a step; half as many pairs if both texts of each are encoded
SIZES = {"cpu": (800, 256), "cuda": (20_000, 8192), "quick": (40, 16)}  # utterances, timed pairs
BUDGETS = [2**12, 2**14, 2**16]
WORDS = """
the a i you we it is was my your to and not of in on for can do have will this that what how when
where please thanks hello yes no order late lost found money back want need help call number name
card pay bill price good bad happy sad angry love music day week time again now never broken works
"""
NOTE = """
pairs: skpref; each utterance is encoded once a step, and all pairs of its session are in the loss.
pointwise: the same without pairs. explicit pairs: the same encoder, optimiser, length-sorted passes
and loss of a pair, but both utterances of each pair are encoded, as in training of reward models.
sentence-transformers: its own trainer with its defaults, CoSENTLoss on pairs of texts with a score.

An epoch is one pass over all pairs of utterances that differ in the soft label of any class. The
last two rivals are timed on a random part of the pairs, and the time is scaled up. Medians of runs
in one process, in which the rivals take turns, without the first round. MB are the peak of training
beyond model and data: resident set of a fresh process on the CPU, allocated tensors on CUDA. Ratios
are of the time of an epoch; those to the time of pairs are in our favour above 1.
"""
CRITERION = {"loss": "squared_hinge", "margin": "adaptive", "margin_scale": 2.0, "min_margin": 0.0}


class Setting(NamedTuple):
    """The device, the data and the model of one measurement."""

    device: str
    length: int  # of each session
    n: int  # utterances
    n_timed: int  # pairs, of the rivals that encode pairs
    model: str
    data_dir: str | None = None


# --- texts, sessions, pairs -------------------------------------------------------------------


def make_texts(n, data_dir=None) -> list[str]:
    """Draw users' utterances of uss, or random words: 13 tokens on average and at most 80."""
    rng = np.random.RandomState(0)
    if data_dir is None:
        lengths = rng.lognormal(2.2, 0.75, n).astype(int).clip(1, 78)
        return [" ".join(rng.choice(WORDS.split(), k)) for k in lengths]
    import pandas as pd

    path = Path(data_dir) / "uss.parquet"
    if not path.is_file():
        raise SystemExit(
            f"There is no {path}; without --data-dir and SKPREF_DATA, texts are made up."
        )
    frame = pd.read_parquet(path, columns=["speaker", "text"])
    return rng.choice(frame["text"][frame["speaker"] == "user"].to_numpy(str), n).tolist()


def make_labels(n) -> np.ndarray:
    """Draw soft labels."""
    return np.random.RandomState(1).dirichlet(np.ones(N_CLASSES), n)


def all_pairs(soft, length) -> np.ndarray:
    """List the pairs (n_pairs, 2) in sessions of one length whose soft labels are not the same."""
    starts = np.arange(0, len(soft), length)[:, None]
    first, second = ((starts + side).ravel() for side in np.triu_indices(length, 1))
    return np.stack([first, second], axis=1)[(soft[first] != soft[second]).any(axis=1)]


def timed_pairs(setting) -> np.ndarray:
    """Draw the pairs on which the rivals that encode pairs are timed."""
    pairs = all_pairs(make_labels(setting.n), setting.length)
    return np.random.RandomState(2).permutation(pairs)[: setting.n_timed]


def scorer_and_data(setting, **options):
    """Return a new encoder with its head, and the sessions."""
    import torch

    from skpref._torch._batches import SessionDataset
    from skpref._torch._transformer import TransformerScorer

    torch.manual_seed(0)
    scorer = TransformerScorer(N_CLASSES, setting.model, **options)
    tokens = scorer.tokenize(make_texts(setting.n, setting.data_dir))
    session = np.arange(setting.n) // setting.length
    return scorer, SessionDataset(tokens, make_labels(setting.n), np.ones(setting.n), session)


# --- rivals: each returns a function that trains for an epoch, or on the timed pairs ------------


def session_net(setting, pairs=True, batch_size=BATCH, **options):
    """Return the net that the classifier would train, and the sessions."""
    import torch

    from skpref._student._stage1 import encoder_optimizer, gradient_clipping
    from skpref._torch._net import make_net

    scorer, data = scorer_and_data(setting, **options)
    weights = {"pairwise_weight": float(pairs), "pointwise_weight": 1.0}
    weights["class_weight"] = torch.ones(N_CLASSES)
    net = make_net(
        scorer,
        criterion=CRITERION | weights,
        batches={"token_budget": scorer.token_budget},
        pairs="all" if pairs else None,
        callbacks=gradient_clipping(1.0),
        batch_size=batch_size,
        lr=1e-3,
        optimizer__weight_decay=1e-3,
        max_epochs=1,
        device=setting.device,
        verbose=0,
        **encoder_optimizer(5e-5),
    )
    return net, data


def ours(setting, pairs=True):
    """Train on all pairs; each utterance is encoded once."""
    net, data = session_net(setting, pairs)
    return to_the_end(lambda: net.partial_fit(data), setting.device)


def difference_loss(scores, gap):
    """Return the squared hinge of pairs from scores of all first, then all second texts."""
    first, second = scores.chunk(2)
    short = 2.0 * gap.abs() - gap.sign() * (first - second)
    return short.clamp(min=0).square().sum() / (gap != 0).sum()


def explicit_pairs(setting):
    """Train on pairs; each utterance is encoded once for each pair that it is in."""
    import torch

    scorer, data = scorer_and_data(setting)
    scorer.to(setting.device).train()
    slow = {"params": scorer.encoder.parameters(), "lr": 5e-5}
    groups = [slow, {"params": scorer.head.parameters()}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=1e-3)

    def step(pairs):
        optimizer.zero_grad()
        gap = data.soft_tensor[pairs[:, 0]] - data.soft_tensor[pairs[:, 1]]
        scores = scorer(data.features(pairs.T.ravel()).to(setting.device))
        loss = difference_loss(scores, gap.to(setting.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimizer.step()
        return loss.item()  # kept, as ours does

    pairs, half = timed_pairs(setting), BATCH // 2
    batches = [pairs[start : start + half] for start in range(0, len(pairs), half)]
    return to_the_end(lambda: [step(batch) for batch in batches], setting.device)


def sentence_transformers(setting):
    """Train by the trainer and a pair loss of sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer as Trainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss
    from transformers import PrinterCallback

    model = scorer_and_data(setting)[0].encoder
    texts, soft = make_texts(setting.n, setting.data_dir), make_labels(setting.n)
    first, second = timed_pairs(setting).T.tolist()
    alike = 1 - np.abs(soft[first] - soft[second]).sum(axis=1) / 2
    columns = {"text1": [texts[i] for i in first], "text2": [texts[i] for i in second]}
    data = Dataset.from_dict(columns | {"score": alike.tolist()})
    on_gpu = setting.device == "cuda"
    device = {"use_cpu": not on_gpu, "bf16": on_gpu, "dataloader_pin_memory": on_gpu}
    silent = {"save_strategy": "no", "logging_strategy": "no", "report_to": "none"}
    arguments = Arguments(
        gettempdir(),  # nothing is saved there
        num_train_epochs=1,
        per_device_train_batch_size=BATCH // 2,
        disable_tqdm=True,
        **(device | silent),
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, loss=CoSENTLoss(model))
    trainer.remove_callback(PrinterCallback)
    return to_the_end(trainer.train, setting.device)


ENCODES_PAIRS = {"explicit pairs": explicit_pairs, "sentence-transformers": sentence_transformers}
RIVALS = {"pairs": ours, "pointwise": partial(ours, pairs=False)} | ENCODES_PAIRS


def left_out() -> dict[str, str]:
    """Return the rivals that cannot run here, and why."""
    missing = [name for name in ("datasets", "accelerate") if not find_spec(name)]
    return {"sentence-transformers": f"{missing[0]} is not installed"} if missing else {}


# --- measuring ----------------------------------------------------------------------------------


def peak_memory(rival, setting) -> float:
    """Return the MB at the peak of training beyond those before it."""
    if setting.device == "cpu":
        return measure_in_a_process(rival, setting)[1]
    import torch

    run = rival(setting)
    gc.collect()  # so that no memory of other rivals is freed meanwhile
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure(setting, repeats) -> dict:
    """Measure the time of an epoch and the peak memory of each rival."""
    rivals = {name: rival for name, rival in RIVALS.items() if name not in left_out()}
    seconds = alternate({name: rival(setting) for name, rival in rivals.items()}, repeats)
    n_pairs = len(all_pairs(make_labels(setting.n), setting.length))
    n_timed = min(setting.n_timed, n_pairs)
    row = {"device": setting.device, "session length": setting.length, "utterances": setting.n}
    row |= {"all pairs": n_pairs, "pairs timed": n_timed}
    for name in rivals:
        if name in ENCODES_PAIRS:
            row[f"{name}, s per pair"] = seconds[name] / n_timed
            seconds[name] *= n_pairs / n_timed
        row[f"{name}, s per epoch"] = seconds[name]
        row[f"{name}, utterances/s"] = setting.n / seconds[name]
    row["pairs / pointwise"] = seconds["pairs"] / seconds["pointwise"]
    row |= {f"{k} / pairs": seconds[k] / seconds["pairs"] for k in rivals if k in ENCODES_PAIRS}
    return row | {f"{name}, MB": peak_memory(rival, setting) for name, rival in rivals.items()}


def matmul_ceiling(size=8192, n=50) -> float:
    """Return the TFLOP/s of large bf16 products on the GPU, the most that training could reach."""
    import torch

    a, b = torch.randn(2, size, size, device="cuda", dtype=torch.bfloat16)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for number in range(10 + n):
        if number == 10:
            start.record()
        torch.matmul(a, b)
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * n / (start.elapsed_time(end) / 1000) / 1e12


def throughput(setting, budget, ceiling, repeats) -> dict:
    """Compute the TFLOP/s of training with pairs, in batches of a number of tokens.

    A step is taken to need 6 operations for each token, without padding, and each parameter of the
    encoder, without embeddings and the unused pooler. The products of tokens with tokens in
    attention are not counted.
    """
    net, data = session_net(setting, batch_size=setting.n, token_budget=budget)
    epoch = to_the_end(lambda: net.partial_fit(data), setting.device)
    seconds = alternate({"epoch": epoch}, repeats)["epoch"]
    parameters = net.module_.encoder[0].model.named_parameters()
    skipped = ("embeddings.", "pooler.")
    n_parameters = sum(p.numel() for name, p in parameters if not name.startswith(skipped))
    rate = float(data.n_tokens.sum()) / seconds
    row = {"device": setting.device, "session length": setting.length, "tokens a batch": budget}
    row |= {"utterances/s": setting.n / seconds, "tokens/s": rate}
    done = 6 * n_parameters * rate / 1e12
    return row | {"TFLOP/s": done, "bf16 matmul TFLOP/s": ceiling, "share": done / ceiling}


# --- the page -----------------------------------------------------------------------------------


def versions() -> dict:
    """Return the machine and the versions of the libraries."""
    found = {k: environment()[k] for k in ("python", "CPU", "GPU", "skpref", "torch", "skorch")}
    names = ["sentence-transformers", "transformers", "datasets"]
    return found | {k: metadata.version(k) for k in names if find_spec(k.replace("-", "_"))}


def page(result) -> list[str]:
    """Return the results as the lines of a Markdown page."""
    rows = sorted(result["settings"].values(), key=lambda r: (r["device"], r["session length"]))

    def section(title, *ends):
        kept = ("device", "session length", *ends)
        return [f"## {title}", "", *table([{k: r[k] for k in r if k.endswith(kept)} for r in rows])]

    lines = ["# Fine-tuning with pairs", "", "`python -m benchmarks.finetune`", ""]
    lines += [", ".join(f"{k} {v}" for k, v in result["environment"].items()) + ".", ""]
    lines += [", ".join(f"{k}: {v}" for k, v in result["work"].items()) + ".", NOTE]
    lines += [f"{name} is left out: {why}.\n" for name, why in result["left out"].items()]
    lines += section("utterances a second, and ratios", "utterances/s", " / pointwise", " / pairs")
    lines += [
        "",
        *section("seconds", "utterances", "all pairs", "timed", "s per epoch", "per pair"),
    ]
    lines += ["", *section("peak memory", "MB"), ""]
    if result["throughput"]:
        about = inspect.getdoc(throughput) or ""
        lines += ["## throughput on CUDA", "", about, "", *table(result["throughput"].values()), ""]
    return lines


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Cost of fine-tuning an encoder with pairs.")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="its name, or a folder")
    of_data = "folder of uss.parquet (default: SKPREF_DATA; without one, texts are made up)"
    parser.add_argument("--data-dir", default=os.environ.get("SKPREF_DATA"), help=of_data)
    parser.add_argument("--quick", action="store_true", help="smallest sizes only, to try it out")
    parser.add_argument("--fresh", action="store_true", help="run again what is in the JSON")
    add_out_option(parser)
    return parser.parse_args(argv)


def results_so_far(args, path) -> dict:
    """Return the results so far of the same work on the same machine."""
    texts = "user turns of uss" if args.data_dir else "made up, lengths as of utterances"
    work = {"model": Path(args.model).name, "texts": texts, "quick": args.quick}
    work["repeats"] = 1 if args.quick else 3
    result = {"environment": versions(), "work": work, "left out": left_out()}
    result |= {"settings": {}, "throughput": {}}
    stored = read_json(path, None)
    if args.fresh or stored is None:
        return result
    same = all(stored["environment"][k] == result["environment"][k] for k in ("CPU", "GPU"))
    same = same and all(stored[k] == result[k] for k in ("work", "left out"))
    return stored if same else result


def main(argv=None) -> dict:
    """Run each setting, and write the page after each one."""
    args = parse_args(argv)
    path = args.out / "finetune.json"
    result = results_so_far(args, path)
    repeats = result["work"]["repeats"]

    def run(kind, key, function, *arguments):
        if key not in result[kind]:
            result[kind][key] = function(*arguments, repeats)
            write_json(path, result)
        write_lines(args.out / "finetune.md", page(result))
        print("\n".join([*table([result[kind][key]]), ""]), flush=True)

    last = 1 if args.quick else None
    for device, length in itertools.product(devices(), LENGTHS[:last]):
        sizes = SIZES["quick" if args.quick else device]
        setting = Setting(device, length, *sizes, args.model, args.data_dir)
        run("settings", f"{device}, {length}", measure, setting)
    if "cuda" in devices():
        ceiling, setting = matmul_ceiling(), Setting("cuda", 20, *sizes, args.model, args.data_dir)
        for budget in BUDGETS[:last]:
            run("throughput", str(budget), throughput, setting, budget, ceiling)
    return result


if __name__ == "__main__":
    for variable in ("HF_HUB_OFFLINE", "TQDM_DISABLE"):  # the model comes as a package
        os.environ.setdefault(variable, "1")
    main()
