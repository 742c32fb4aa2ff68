"""Quality on real dialogues: skpref, its parts left out one by one, and its rivals.

    python benchmarks/quality.py delidata --labels 50,100,200,500 --seeds 5 --data-dir DATA

trains on the train sessions with their LLM scores and N human labels from whole sessions, and
scores on the test sessions against human labels. Every trained row is first tuned over six settings
of its own on the dev sessions. Writes NAME.md, NAME.json and NAME.png; a run that was stopped goes
on from NAME.json. With `--student finetuned` the students are all-MiniLM-L6-v2, fine-tuned on the
texts, and the files are called NAME-finetuned; that wants a GPU, or few `--trials`.
"""

import argparse
import json
import os
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np
from _rivals import AcrossSessionsStudent
from _tasks import TASKS, load_task
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import ParameterGrid
from sklearn.neural_network import MLPClassifier
from sklearn.utils import Bunch
from tqdm import tqdm

from skpref import LLMScoreCalibrator, PairwisePreferenceClassifier
from skpref.metrics import expected_calibration_error, within_session_concordance

METRICS = {
    "macro_f1": "macro-F1",
    "accuracy": "accuracy",
    "concordance": "concordance",
    "ece": "ECE",
    "fit_seconds": "fit s",
}


TRIALS = 6


def grid(**values) -> list[dict]:
    """All combinations of the values."""
    return list(ParameterGrid(values))


# Distillation tries six optimisers; with pairs three of them, each with two weights of the pairs.
POINTWISE = grid(
    pairwise_weight=[0.0], class_weight=[None], lr=[3e-4, 1e-3, 3e-3], weight_decay=[1e-4, 1e-3]
)
OPTIMISERS = [
    {"class_weight": None, "lr": 1e-3, "weight_decay": 1e-4},
    {"class_weight": None, "lr": 1e-3, "weight_decay": 1e-3},
    {"class_weight": None, "lr": 3e-4, "weight_decay": 1e-3},
]
PAIRWISE = [o | {"pairwise_weight": weight} for o in OPTIMISERS for weight in (0.3, 1.0)]
FIXED = [o | {"margin": "fixed", "margin_scale": m} for o in OPTIMISERS for m in (0.5, 2.0)]

# Row of the table -> (how it is made, settings tried on dev).
ROWS = {
    "llm": ("llm", [{"method": "mean"}]),
    "llm, calibrated": ("llm", [{}]),
    "human labels, logistic regression": (
        "human-lr",
        grid(C=[0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
    ),
    "human labels, MLP": (
        "human-mlp",
        grid(alpha=[0.1, 1.0, 10.0], learning_rate_init=[1e-3, 3e-3]),
    ),
    "distillation": ("student", POINTWISE),
    "distillation, balanced": ("student", [s | {"class_weight": "balanced"} for s in POINTWISE]),
    "skpref": ("student", PAIRWISE),
    "skpref, no calibration": ("student", [s | {"calibrator": "passthrough"} for s in PAIRWISE]),
    "skpref, no smoothing": ("student", [s | {"smoother": "passthrough"} for s in PAIRWISE]),
    "skpref, fixed margin": ("student", FIXED),
    "skpref, pairs across sessions": ("across", PAIRWISE),
    "skpref, no stage 2": ("student", [s | {"stage2": None} for s in PAIRWISE]),
    "skpref, offsets only": ("student", []),
    "skpref, always fine-tuned": ("student", []),
}
# A fine-tuned student tries three rates for the encoder, each with two numbers of epochs, or two
# weights of the pairs. What comes first is the default.
RATES = [5e-5, 2e-5, 1e-4]
DISTILLED = [
    {"pairwise_weight": 0.0, "class_weight": None, "max_epochs": n, "encoder_lr": rate}
    for n in (5, 3)
    for rate in RATES
]
FINETUNED_ROWS = {
    "distillation": ("student", DISTILLED),
    "distillation, balanced": ("student", [s | {"class_weight": "balanced"} for s in DISTILLED]),
    "skpref": (
        "student",
        [
            {"pairwise_weight": w, "class_weight": None, "encoder_lr": rate}
            for w in (1.0, 0.3)
            for rate in RATES
        ],
    ),
}
# Rows that take the settings of skpref and change one.
AS_SKPREF = {
    "skpref, offsets only": {"stage2": "offsets"},
    "skpref, always fine-tuned": {"stage2": "finetune"},
}


def draw_labels(data: Bunch, n_labels: int, seed: int) -> np.ndarray:
    """Keep the labels of random whole train sessions until there are `n_labels`; -1 elsewhere."""
    rng = np.random.RandomState(seed)
    train = data.split == "train"
    y = np.full(len(data.y), -1)
    for session in rng.permutation(np.unique(data.groups[train])):
        chosen = train & (data.groups == session)
        y[chosen] = data.y[chosen]
        if (y >= 0).sum() >= n_labels and len(np.unique(y[y >= 0])) > 1:
            break
    return y


def fit_predict(kind: str, setting: dict, data: Bunch, y, seed: int, where) -> tuple:
    """Train one row; return the class probabilities of the rows `where` and the seconds of fit."""
    train = data.split == "train"
    scores, groups = data.llm_scores[train], data.groups[train]
    classes = np.arange(len(data.classes))
    started = time.perf_counter()
    if kind == "llm":
        model = LLMScoreCalibrator(classes=classes, **setting).fit(scores, y[train])
        seconds = time.perf_counter() - started
        return model.transform(data.llm_scores[where]), seconds
    if kind in ("human-lr", "human-mlp"):
        if kind == "human-lr":
            model = LogisticRegression(max_iter=1000, **setting)
        else:
            model = MLPClassifier(128, max_iter=200, random_state=seed, **setting)
        model.fit(data.X[y >= 0], y[y >= 0])
        seconds = time.perf_counter() - started
        probabilities = np.zeros((where.sum(), len(classes)))
        probabilities[:, model.classes_] = model.predict_proba(data.X[where])
        return probabilities, seconds
    module = "mlp" if data.X.ndim == 2 else "transformer"
    make = AcrossSessionsStudent if kind == "across" else PairwisePreferenceClassifier
    model = make(module, classes=classes, random_state=seed, **setting)
    model.fit(data.X[train], y[train], groups=groups, llm_scores=scores)
    seconds = time.perf_counter() - started
    return model.predict_proba(data.X[where]), seconds


def rows_of(student: str) -> dict:
    """Rows of the table: how each is made and the settings to try."""
    return ROWS if student == "frozen" else FINETUNED_ROWS


def evaluate(row: str, setting: dict, data: Bunch, n_labels: int, seed: int, split: str) -> dict:
    """Train one row with one setting and seed, and score it on a split."""
    kind = ROWS[row][0]
    where = data.split == split
    if kind == "llm":  # it can only be scored where the LLM was asked
        where &= ~np.isnan(data.llm_scores).all(axis=(1, 2))
    y = draw_labels(data, n_labels, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probabilities, seconds = fit_predict(kind, setting, data, y, seed, where)
    truth, predicted = data.y[where], probabilities.argmax(axis=1)
    classes = np.arange(len(data.classes))
    return {
        "macro_f1": f1_score(truth, predicted, labels=classes, average="macro", zero_division=0),
        "accuracy": accuracy_score(truth, predicted),
        "concordance": within_session_concordance(
            truth, probabilities, groups=data.groups[where], labels=classes
        ),
        "ece": expected_calibration_error(truth, probabilities, labels=classes),
        "fit_seconds": seconds,
    }


def tune(row: str, settings: list[dict], data: Bunch, n_labels: int, seeds) -> dict:
    """Find the setting of the best mean macro-F1 on the dev sessions."""
    if len(settings) == 1:
        return settings[0]
    means = [
        np.mean([evaluate(row, s, data, n_labels, seed, "dev")["macro_f1"] for seed in seeds])
        for s in settings
    ]
    return settings[int(np.argmax(means))]


def table(result: dict) -> str:
    """Markdown: mean and spread over seeds, then differences to skpref on the same seeds."""
    lines = [
        f"# {result['task']}",
        "",
        f"`{result['command']}`",
        "",
        "Mean ± standard deviation over seeds; a seed draws the labelled sessions and the network. "
        "In brackets: difference to skpref on the same seeds, mean ± its standard error. Tuning: "
        + (
            f"up to {result['trials']} settings per trained row, macro-F1 on dev sessions, "
            f"{result['tuning']}."
            if result["trials"] > 1
            else "none, all at their defaults."
        ),
        "",
    ]
    for n_labels in result["labels"]:
        runs = [r for r in result["runs"] if r["n_labels"] == n_labels]
        ours = {r["seed"]: r for r in runs if r["row"] == "skpref"}
        lines += [
            f"## {n_labels} human labels",
            "",
            "| row | " + " | ".join(METRICS.values()) + " |",
            "| --- " * (len(METRICS) + 1) + "|",
        ]
        for row in result["rows"]:
            own = [r for r in runs if r["row"] == row]
            cells = [summary(own, ours, metric, row != "skpref") for metric in METRICS]
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["Settings chosen: " + json.dumps(result["settings"]), ""]
    return "\n".join(lines)


def summary(own: list[dict], ours: dict, metric: str, compare: bool) -> str:
    """One cell of the table."""
    values = np.array([r[metric] for r in own])
    if metric == "fit_seconds":
        return f"{np.median(values):.2f}"
    cell = f"{values.mean():.3f} ± {values.std(ddof=min(1, len(values) - 1)):.3f}"
    shared = [r[metric] - ours[r["seed"]][metric] for r in own if r["seed"] in ours]
    if not compare or not shared:
        return cell
    error = np.std(shared, ddof=min(1, len(shared) - 1)) / np.sqrt(len(shared))
    return f"{cell} ({np.mean(shared):+.3f} ± {error:.3f})"


def plot(result: dict, path: Path):
    """Metric against the number of human labels, one line per row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = list(METRICS)[:4]
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for axis, metric in zip(axes.flat, shown, strict=True):
        for number, row in enumerate(result["rows"]):
            values = np.array(
                [
                    [r[metric] for r in result["runs"] if (r["row"], r["n_labels"]) == (row, n)]
                    for n in result["labels"]
                ]
            )
            style = "-" if row == "skpref" else ":" if row.startswith("skpref") else "--"
            axis.errorbar(
                result["labels"],
                values.mean(axis=1),
                values.std(axis=1),
                linestyle=style,
                linewidth=2.5 if row == "skpref" else 1,
                color="black" if row == "skpref" else f"C{number % 10}",
                capsize=2,
                label=row,
            )
        axis.set(xscale="log", xlabel="human labels", ylabel=METRICS[metric])
        axis.set_xticks(result["labels"], [str(n) for n in result["labels"]])
        axis.minorticks_off()
    figure.suptitle(result["task"])
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(args) -> dict:
    """Run what is not in the JSON yet, and write table, JSON and plot."""
    data = load_task(args.task, args.data_dir, args.cache, args.student)
    args.out.mkdir(parents=True, exist_ok=True)
    is_frozen = args.student == "frozen"
    name = args.task if is_frozen else f"{args.task}-{args.student}"
    path = args.out / f"{name}.json"
    tuning = f"{args.tuning_labels} labels, {args.tuning_seeds} seeds of their own"
    result = {
        "task": name,
        "command": f"python benchmarks/quality.py {args.task} --labels "
        f"{','.join(map(str, args.labels))} --seeds {args.seeds} --tuning-seeds "
        f"{args.tuning_seeds} --tuning-labels {args.tuning_labels}"
        + ("" if is_frozen else f" --student {args.student}")
        + ("" if args.trials == TRIALS else f" --trials {args.trials}"),
        "tuning": tuning,
        "trials": args.trials,
        "labels": args.labels,
        "rows": args.rows,
        "settings": {},
        "runs": [],
    }
    if path.is_file() and not args.fresh:
        earlier = json.loads(path.read_text())
        if (earlier["tuning"], earlier.get("trials", TRIALS)) == (tuning, args.trials):
            result |= {"settings": earlier["settings"], "runs": earlier["runs"]}
    done = {(r["row"], r["n_labels"], r["seed"]) for r in result["runs"]}
    with tqdm(total=len(args.rows) * len(args.labels) * args.seeds, desc=args.task) as bar:
        for row in args.rows:
            bar.set_postfix_str(row)
            if row in AS_SKPREF:
                result["settings"][row] = result["settings"]["skpref"] | AS_SKPREF[row]
            elif row not in result["settings"]:
                # Seeds that no reported run uses.
                seeds = range(1000, 1000 + args.tuning_seeds)
                settings = rows_of(args.student)[row][1][: args.trials]
                result["settings"][row] = tune(row, settings, data, args.tuning_labels, seeds)
            for n_labels, seed in product(args.labels, range(args.seeds)):
                if (row, n_labels, seed) not in done:
                    scores = evaluate(row, result["settings"][row], data, n_labels, seed, "test")
                    run_key = {"row": row, "n_labels": n_labels, "seed": seed}
                    result["runs"].append(run_key | scores)
                    # A fine-tuned student takes minutes, which a kill must not cost.
                    path.write_text(json.dumps(result, indent=1))
                bar.update()
            path.write_text(json.dumps(result, indent=1))
    (args.out / f"{name}.md").write_text(table(result))
    plot(result, args.out / f"{name}.png")
    return result


def parse_args(argv=None):
    """Read the command line."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Quality on real dialogues.")
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument(
        "--labels",
        type=lambda text: [int(n) for n in text.split(",")],
        default=[50, 100, 200, 500],
        help="numbers of human labels, separated by commas",
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning-seeds", type=int, default=2)
    parser.add_argument("--tuning-labels", type=int, default=200)
    parser.add_argument(
        "--rows",
        type=lambda text: text.split(";"),
        help="rows of the table, separated by semicolons (default: all)",
    )
    parser.add_argument("--student", choices=["frozen", "finetuned"], default="frozen")
    parser.add_argument(
        "--trials", type=int, default=TRIALS, help="settings tried on dev per row; 1 for defaults"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("SKPREF_DATA"),
        help="folder of the parquet files (default: environment variable SKPREF_DATA)",
    )
    parser.add_argument("--cache", type=Path, default=here / ".cache", help="embeddings")
    parser.add_argument("--out", type=Path, default=here / "results")
    parser.add_argument("--fresh", action="store_true", help="forget runs of an earlier table")
    args = parser.parse_args(argv)
    if args.data_dir is None:
        parser.error(
            "no data directory; give --data-dir or set SKPREF_DATA to the folder of the parquets"
        )
    rows = rows_of(args.student)
    args.rows = args.rows or list(rows)
    unknown = set(args.rows) - set(rows)
    if AS_SKPREF.keys() & set(args.rows) and "skpref" not in args.rows:
        parser.error(f"--rows: {list(AS_SKPREF)} take the settings of skpref; name it before them")
    if unknown:
        parser.error(f"--rows: unknown {sorted(unknown)}; choose from {list(rows)}")
    args.data_dir = Path(args.data_dir)
    return args


if __name__ == "__main__":
    print(table(run(parse_args())))
