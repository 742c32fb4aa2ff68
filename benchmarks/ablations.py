"""Ablations: what calibration, the choice of pairs and the margin are worth, and what length costs.

    python benchmarks/ablations.py calibration --data-dir DATA
    python benchmarks/ablations.py pairs --data-dir DATA
    python benchmarks/ablations.py margins --data-dir DATA
    python benchmarks/ablations.py long --data-dir DATA

Each writes a table and a plot, `results/ablation-NAME.md` and `.png`, and goes on from its parquet
file in the cache. Features, soft labels and labelled sessions are those of `study.py`.
"""

import argparse
import os
import time
import warnings
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from _rivals import AcrossSessionsStudent
from _tasks import load_components
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Bunch
from sklearn.utils.parallel import Parallel, delayed
from speed import memory
from study import (
    HEAVY_PAIRS,
    TASK_NAMES,
    count,
    draw_labels,
    embed,
    limit_threads,
    prepare,
    run_row,
    score,
)
from tqdm import tqdm

from skpref import KNNLabelSmoother, LLMScoreCalibrator, PairwisePreferenceClassifier
from skpref._validation import check_groups
from skpref.metrics import (
    expected_calibration_error,
    within_session_concordance,
)

METHODS = ["mean", "batch", "temperature", "sigmoid", "isotonic", "beta", "log_pool"]
SCALES = [0.5, 1.0, 2.0, 5.0, 10.0]
METRICS = ["macro_f1", "accuracy", "concordance"]


def test_scores(data, y, soft, seed, **setting) -> dict:
    """Train a student with one setting and score it on the test sessions."""
    made = run_row("skpref", setting, data, y, soft, seed, "test")
    return {k: score(data, "test", **made)["argmax"][k] for k in METRICS}


def calibration(task, n_labels, seed, paths) -> list[dict]:
    """Order and calibration of the soft labels by each method, and the student's quality."""
    data = load_components(task, *paths)
    train = data.split == "train"
    y = draw_labels(data, n_labels, seed)
    hidden = train & (y < 0) & (data.y >= 0)
    classes = np.arange(len(data.classes))
    lines = []
    for method in METHODS:
        calibrator = LLMScoreCalibrator(method, classes=classes)
        groups = data.groups[train]
        raw = calibrator.fit_transform(data.llm_scores[train], y[train], groups=groups)
        smoother = KNNLabelSmoother(random_state=seed)
        soft = Bunch(raw=raw, smooth=smoother.fit_transform(data.X[train], raw, groups=groups))
        shown, given = raw[hidden[train]], {"labels": classes}
        lines.append(
            {
                "variant": method,
                "order of soft labels": within_session_concordance(
                    data.y[hidden], shown, groups=data.groups[hidden], **given
                ),
                "ECE of soft labels": expected_calibration_error(data.y[hidden], shown, **given),
                **test_scores(data, y, soft, seed),
            }
        )
    return lines


def pairs(task, n_labels, seed, paths) -> list[dict]:
    """Students of pairs within and across sessions, by the test sessions' length and variety."""
    data = load_components(task, *paths)
    y = draw_labels(data, n_labels, seed)
    soft = prepare(data, y, seed)
    lines = []
    kinds = {"within sessions": {}, "across sessions": {"kind": AcrossSessionsStudent}}
    for name, kind in kinds.items():
        made = run_row("skpref", HEAVY_PAIRS | kind, data, y, soft, seed, "test")
        log_p = made["log_p"].astype(float)
        scores = score(data, "test", log_p, made["offsets"])["argmax"]
        lines.append({"variant": name, "part": "all", **{k: scores[k] for k in METRICS}})
        lines += [{"variant": name, **part} for part in by_session(data, log_p)]
    return lines + [{"variant": "soft labels", **part} for part in noise(data, soft.raw)]


def noise(data, soft) -> list[dict]:
    """Order of the calibrated scores within and across sessions, on the labelled train rows."""
    train = data.split == "train"
    shown = (data.y[train] >= 0) & ~np.isnan(soft).any(axis=1)
    truth, groups, soft = data.y[train][shown], data.groups[train][shown], soft[shown]
    labels = np.arange(len(data.classes))
    order = partial(within_session_concordance, truth, soft, labels=labels)
    within, every = order(groups=groups), order(groups=np.zeros(len(groups)))
    return [{"part": "within", "concordance": within}, {"part": "all pairs", "concordance": every}]


def by_session(data, log_p) -> list[dict]:
    """Concordance of the test sessions, a third of them at a time, by length and by variety."""
    confusion, won, compared, _ = count(data, log_p)
    sizes = {
        "length": confusion.sum(axis=(1, 2)),
        "classes": (confusion.sum(axis=2) > 0).sum(axis=1),
    }
    lines = []
    for name, size in sizes.items():
        edges = np.unique(np.quantile(size, [1 / 3, 2 / 3]))
        for third in range(len(edges) + 1):
            at = np.searchsorted(edges, size, side="left") == third
            if compared[at].sum():
                value = won[at].sum() / compared[at].sum()
                lines.append({"part": f"{name}, third {third + 1}", "concordance": value})
    return lines


def margins(task, n_labels, seed, paths) -> list[dict]:
    """Students with fixed and adaptive margins of several sizes."""
    data = load_components(task, *paths)
    y = draw_labels(data, n_labels, seed)
    soft = prepare(data, y, seed)
    return [
        {"variant": kind, "margin_scale": scale}
        | test_scores(data, y, soft, seed, margin=kind, margin_scale=scale, **HEAVY_PAIRS)
        for kind, scale in product(("adaptive", "fixed"), SCALES)
    ]


LONG = {"talkmoves": "label", "swda": "label", "mrda": "label"}
N_TOP_CLASSES = 6


def read_long(name, data_dir) -> Bunch:
    """Dialogues of hundreds of turns, with scores simulated by three weak models that disagree.

    No LLM labels exist for these. Each model is logistic regression on the words of 60 to 240
    utterances, drawn from all sessions.
    """
    frame = pd.read_parquet(Path(data_dir) / f"{name}.parquet")
    frame = frame[frame[LONG[name]].notna()].reset_index(drop=True)
    top = frame[LONG[name]].value_counts().index[: N_TOP_CLASSES - 1]
    y = frame[LONG[name]].where(frame[LONG[name]].isin(top), "other")
    y = pd.Categorical(y).codes.astype(int)
    words = TfidfVectorizer(sublinear_tf=True, min_df=3).fit_transform(frame["text"])
    X = TruncatedSVD(128, random_state=0).fit_transform(words).astype(np.float32)
    scores = np.full((len(y), 3, y.max() + 1), 1e-3)
    for p, size in enumerate((60, 120, 240)):
        seen = np.random.RandomState(p).choice(len(y), size, replace=False)
        model = LogisticRegression(max_iter=500).fit(words[seen], y[seen])
        scores[:, p, model.classes_] = model.predict_proba(words)
    split = frame["split"].to_numpy(str)
    return Bunch(X=X, y=y, llm_scores=scores, groups=frame["session_id"].to_numpy(), split=split)


def measure_long(pipe, name, setting, data_dir):
    """Fit one student in a process of its own: time, memory, and quality on the test sessions."""
    data = read_long(name, data_dir)
    train, test = data.split == "train", data.split == "test"
    y = np.where(np.isin(data.groups, np.unique(data.groups[train])[:2]) & train, data.y, -1)
    classes = np.arange(data.llm_scores.shape[2])
    model = PairwisePreferenceClassifier(
        classes=classes,
        smoother="passthrough",  # what is compared is training
        max_epochs=3,
        random_state=0,
        **setting,
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    given = {"groups": data.groups[train], "llm_scores": data.llm_scores[train]}
    started = time.perf_counter()
    model.fit(data.X[train], y[train], **given)
    seconds = time.perf_counter() - started
    peak = memory("VmHWM")
    p = model.predict_proba(data.X[test])
    length = np.bincount(check_groups(data.groups[train], train.sum()))
    pipe.send(
        {
            "rows": int(train.sum()),
            "median turns": float(np.median(length)),
            "longest": int(length.max()),
            "pairs of rows, millions": float((length * (length - 1) / 2).sum() / 1e6),
            "fit s": seconds,
            "memory, MB above the data": peak - before,
            "accuracy": float((p.argmax(axis=1) == data.y[test]).mean()),
            "concordance": within_session_concordance(
                data.y[test], p, groups=data.groups[test], labels=classes
            ),
        }
    )


def long_dialogues(data_dir) -> pd.DataFrame:
    """Cost of all pairs in long dialogues, against no pairs and against drawn ones."""
    from skpref import IntraSessionPairSampler

    drawn = IntraSessionPairSampler("uniform", max_pairs_per_session=1000)
    settings = {
        "no pairs": {"pairwise_weight": 0.0},
        "all pairs": HEAVY_PAIRS,
        "1,000 drawn pairs a session": {"pair_sampler": drawn, **HEAVY_PAIRS},
    }
    context, lines = get_context("spawn"), []
    for name, (variant, setting) in tqdm(list(product(LONG, settings.items()))):
        pipe, end = context.Pipe(duplex=False)
        process = context.Process(target=measure_long, args=(end, name, setting, data_dir))
        process.start()
        lines.append({"task": name, "variant": variant} | pipe.recv())
        process.join()
    return pd.DataFrame(lines)


PARTS = {"calibration": calibration, "pairs": pairs, "margins": margins}
TITLES = {
    "calibration": "Calibration: order of the soft labels, and what the student makes of them",
    "pairs": "Pairs within sessions against pairs across sessions",
    "margins": "Adaptive against fixed margins",
    "long": "Long dialogues: what all pairs cost",
}


def unit(part, task, n_labels, seed, paths) -> list[dict]:
    """Run one part on one task, budget and seed."""
    limit_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lines = PARTS[part](task, n_labels, seed, paths)
    return [{"task": task, "n_labels": n_labels, "seed": seed} | line for line in lines]


def run(args) -> pd.DataFrame:
    """Run what the cache does not hold yet."""
    folder = args.cache / "ablations" / args.part
    folder.mkdir(parents=True, exist_ok=True)
    paths = (str(args.data_dir), str(args.cache))
    units = list(product(range(args.seeds), args.tasks, args.budgets))
    files = {u: folder / f"{u[1]}-{u[2]}-{u[0]}.parquet" for u in units}
    missing = [u for u in units if not files[u].is_file()]
    if missing:
        embed(args)
    jobs = [delayed(unit)(args.part, task, n, seed, paths) for seed, task, n in missing]
    found = Parallel(args.jobs, return_as="generator")(jobs)
    for u, lines in tqdm(zip(missing, found, strict=True), total=len(missing), desc=args.part):
        pd.DataFrame(lines).to_parquet(files[u])
    return pd.concat([pd.read_parquet(path) for path in files.values()])


def summarise(found: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean over tasks of the mean over seeds, and the spread of that mean over seeds."""
    values = [c for c in found if c not in {"task", "seed", *by}]
    by_seed = found.groupby([*by, "seed"], sort=False)[values].mean()
    means = by_seed.groupby(level=by, sort=False).mean()
    spread = by_seed.groupby(level=by, sort=False).std()
    text = means.map("{:.3f}".format) + " ± " + spread.map("{:.3f}".format)
    return text.where(means.notna(), "")


def markdown(frame: pd.DataFrame) -> str:
    """Write a table."""
    frame = frame.reset_index()
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "| --- " * frame.shape[1] + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.to_numpy()]
    return "\n".join(lines)


def plot(part, found, path):
    """Draw a part."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    if part == "long":
        for axis, column in zip(
            axes, ("fit s", "memory, MB above the data", "concordance"), strict=True
        ):
            found.pivot(index="task", columns="variant", values=column).plot.bar(
                ax=axis, rot=0, ylabel=column, xlabel="", legend=False
            )
    for axis, metric in zip(axes, METRICS if part != "long" else [], strict=False):
        key = {"margins": "margin_scale"}.get(part, "n_labels")
        whole = found[found["part"] == "all"] if part == "pairs" else found
        for i, (name, lines) in enumerate(whole.groupby("variant", sort=False)):
            values = lines.groupby([key, "seed"])[metric].mean().groupby(key)
            x = np.arange(len(values)) + 0.06 * (i - 1)
            axis.errorbar(x, values.mean(), values.std(), marker="o", capsize=2, label=name)
            axis.set_xticks(np.arange(len(values)), list(values.groups))
        axis.set(xlabel=key.replace("_", " ").replace("n labels", "human labels"))
        axis.set_ylabel({"macro_f1": "macro-F1"}.get(metric, metric) + ", mean over tasks")
        axis.grid(alpha=0.3)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(part, found, out):
    """Write table and plot."""
    lines = [f"# {TITLES[part]}", "", f"`python benchmarks/ablations.py {part}`", ""]
    if part == "long":
        lines += [
            "Scores are simulated: three logistic regressions on the words of 60, 120 and 240 "
            "utterances. Three epochs on TF-IDF in 128 dimensions, one process each.",
            "",
            markdown(found.round(3).set_index("task")),
        ]
    else:
        weight = "" if part == "calibration" else " Pairs weigh as much as the cross-entropy."
        lines += [
            f"Mean over tasks and seeds ± standard deviation over seeds, test sessions.{weight}",
            "",
        ]
    if part in ("calibration", "margins"):
        key = ["variant", "margin_scale"] if part == "margins" else ["variant"]
        lines += [markdown(summarise(found, ["n_labels", *key])), ""]
        for task, group in found.groupby("task", sort=False):
            lines += [f"## {task}", "", markdown(summarise(group, ["n_labels", *key])), ""]
    if part == "pairs":
        whole = found[found["part"] == "all"].drop(columns="part")
        lines += [markdown(summarise(whole, ["n_labels", "variant"])), "", "By task:", ""]
        lines += [markdown(summarise(whole, ["task", "n_labels", "variant"])), ""]
        lines += ["Concordance by thirds of the test sessions:", ""]
        parts = found[~found["part"].isin(["all", "within", "all pairs"])]
        parts = parts[["n_labels", "part", "variant", "seed", "task", "concordance"]]
        lines += [markdown(summarise(parts, ["n_labels", "part", "variant"])), ""]
        lines += ["Order of the calibrated scores, pairs within sessions and all pairs:", ""]
        teacher = found[found["variant"] == "soft labels"]
        teacher = teacher[["task", "n_labels", "part", "seed", "concordance"]]
        lines += [markdown(summarise(teacher, ["task", "n_labels", "part"])), ""]
    out.mkdir(parents=True, exist_ok=True)
    (out / f"ablation-{part}.md").write_text("\n".join(lines))
    plot(part, found, out / f"ablation-{part}.png")


def parse_args(argv=None):
    """Read the command line."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=list(TITLES))
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=TASK_NAMES)
    parser.add_argument(
        "--budgets", type=lambda text: [int(n) for n in text.split(",")], default=[50, 200]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("SKPREF_DATA"))
    parser.add_argument("--cache", type=Path, default=here / ".cache")
    parser.add_argument("--out", type=Path, default=here / "results")
    args = parser.parse_args(argv)
    if args.data_dir is None:
        parser.error("no data directory; give --data-dir or set SKPREF_DATA")
    return args


if __name__ == "__main__":
    arguments = parse_args()
    is_long = arguments.part == "long"
    runs = long_dialogues(arguments.data_dir) if is_long else run(arguments)
    report(arguments.part, runs, arguments.out)
