"""Ablations: what calibration, the choice of pairs and the margin gain, and what length costs.

    python -m benchmarks.ablations calibration --data-dir DATA
    python -m benchmarks.ablations pairs --data-dir DATA
    python -m benchmarks.ablations margins --data-dir DATA
    python -m benchmarks.ablations long --data-dir DATA

Each writes a table and a plot, `results/ablation-NAME.md` and `.png`; all but `long` resume from
the parquet files in the cache. Features, soft labels and labelled sessions are those of the study.
"""

import argparse
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Bunch
from tqdm import tqdm

from benchmarks._common import (
    add_data_options,
    limit_threads,
    markdown_table,
    names,
    numbers,
    parse_with_data,
    quiet,
    run_parallel,
    save_figure,
    subplots,
    write_lines,
    write_whole,
)
from benchmarks._pair_variants import AcrossSessionsClassifier
from benchmarks._rows import HEAVY_PAIRS
from benchmarks._runs import (
    METRICS,
    count_by_session,
    draw_labels,
    make_soft_labels,
    run_row,
    score,
)
from benchmarks._tasks import TASKS, load_components, load_task
from benchmarks._timing import call_in_a_process, measure
from skpref import IntraSessionPairSampler, PairwisePreferenceClassifier
from skpref._validation import check_groups
from skpref.metrics import expected_calibration_error, within_session_concordance

METHODS = ["mean", "batch", "temperature", "sigmoid", "isotonic", "beta", "log_pool"]
SCALES = [0.5, 1.0, 2.0, 5.0, 10.0]
LONG = {"talkmoves": "label", "swda": "label", "mrda": "label"}
N_TOP_CLASSES = 6


def scores_on_test(data, y, soft, seed, **setting) -> dict:
    """Train a classifier with one setting and score it on the test sessions."""
    made = run_row("classifier", setting, data, y, soft, seed, "test")
    scores = score(data, "test", **made)["argmax"]
    return {metric: scores[metric] for metric in METRICS}


# --- calibration --------------------------------------------------------------------------------


def calibration(task, n_labels, seed, paths) -> list[dict]:
    """Score the soft labels of each method by order and calibration, and the classifier trained.

    The soft labels are scored on the train rows whose human labels no method has seen.
    """
    data = load_components(task, *paths)
    train = data.split == "train"
    y = draw_labels(data, n_labels, seed)
    hidden = train & (y < 0) & (data.y >= 0)
    truth, groups, labels = data.y[hidden], data.groups[hidden], np.arange(len(data.classes))
    lines = []
    for method in METHODS:
        soft = make_soft_labels(data, y, seed, method)
        shown = soft.raw[hidden[train]]
        order = within_session_concordance(truth, shown, groups=groups, labels=labels)
        error = expected_calibration_error(truth, shown, labels=labels)
        line = {"variant": method, "order of soft labels": order, "ECE of soft labels": error}
        lines.append(line | scores_on_test(data, y, soft, seed))
    return lines


# --- pairs within sessions and across -----------------------------------------------------------


def pairs(task, n_labels, seed, paths) -> list[dict]:
    """Score training on pairs within and across sessions, by length and variety of the sessions."""
    data = load_components(task, *paths)
    y = draw_labels(data, n_labels, seed)
    soft = make_soft_labels(data, y, seed)
    lines = []
    kinds = {"within sessions": {}, "across sessions": {"kind": AcrossSessionsClassifier}}
    for name, kind in kinds.items():
        made = run_row("classifier", HEAVY_PAIRS | kind, data, y, soft, seed, "test")
        log_p = made["log_p"].astype(float)
        scores = score(data, "test", log_p, made["offsets"])["argmax"]
        lines.append({"variant": name, "part": "all", **{k: scores[k] for k in METRICS}})
        lines += [{"variant": name, **part} for part in by_thirds(data, log_p)]
    return lines + [{"variant": "soft labels", **part} for part in order_of_scores(data, soft.raw)]


def order_of_scores(data, soft) -> list[dict]:
    """Score the order of the calibrated scores within sessions and across, on labelled rows."""
    train = data.split == "train"
    shown = (data.y[train] >= 0) & ~np.isnan(soft).any(axis=1)
    truth, groups, soft = data.y[train][shown], data.groups[train][shown], soft[shown]
    labels = np.arange(len(data.classes))
    order = partial(within_session_concordance, truth, soft, labels=labels)
    within, every = order(groups=groups), order(groups=np.zeros(len(groups)))
    return [{"part": "within", "concordance": within}, {"part": "all pairs", "concordance": every}]


def by_thirds(data, log_p) -> list[dict]:
    """Score the concordance of each third of the test sessions, by length and by variety."""
    counts = count_by_session(data, log_p)
    sizes = {
        "length": counts.confusion.sum(axis=(1, 2)),
        "classes": (counts.confusion.sum(axis=2) > 0).sum(axis=1),
    }
    lines = []
    for name, size in sizes.items():
        edges = np.unique(np.quantile(size, [1 / 3, 2 / 3]))
        for third in range(len(edges) + 1):
            at = np.searchsorted(edges, size, side="left") == third
            if counts.compared[at].sum():
                value = counts.won[at].sum() / counts.compared[at].sum()
                lines.append({"part": f"{name}, third {third + 1}", "concordance": value})
    return lines


# --- margins ------------------------------------------------------------------------------------


def margins(task, n_labels, seed, paths) -> list[dict]:
    """Score fixed and adaptive margins of several sizes."""
    data = load_components(task, *paths)
    y = draw_labels(data, n_labels, seed)
    soft = make_soft_labels(data, y, seed)
    return [
        {"variant": kind, "margin_scale": scale}
        | scores_on_test(data, y, soft, seed, margin=kind, margin_scale=scale, **HEAVY_PAIRS)
        for kind, scale in product(("adaptive", "fixed"), SCALES)
    ]


# --- long sessions ------------------------------------------------------------------------------


def read_long(name, data_dir) -> Bunch:
    """Read sessions of hundreds of utterances, with simulated scores of three weak models.

    There are no LLM labels of these sessions. Each model is logistic regression on the words of 60
    to 240 utterances, drawn from all sessions.
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


def measure_long(name, setting, data_dir) -> dict:
    """Fit once; return time, memory, and quality on the test sessions."""
    data = read_long(name, data_dir)
    train, test = data.split == "train", data.split == "test"
    y = np.where(np.isin(data.groups, np.unique(data.groups[train])[:2]) & train, data.y, -1)
    classes = np.arange(data.llm_scores.shape[2])
    model = PairwisePreferenceClassifier(
        "mlp",
        classes=classes,
        smoother="passthrough",  # only training is compared
        max_epochs=3,
        random_state=0,
        **setting,
    )
    given = {"groups": data.groups[train], "llm_scores": data.llm_scores[train]}
    seconds, peak = measure(lambda: model.fit(data.X[train], y[train], **given))
    p = model.predict_proba(data.X[test])
    order = within_session_concordance(data.y[test], p, groups=data.groups[test], labels=classes)
    length = np.bincount(check_groups(data.groups[train], train.sum()))
    return {
        "rows": int(train.sum()),
        "median turns": float(np.median(length)),
        "longest": int(length.max()),
        "pairs of rows, millions": float((length * (length - 1) / 2).sum() / 1e6),
        "fit s": seconds,
        "memory, MB above the data": peak,
        "accuracy": float((p.argmax(axis=1) == data.y[test]).mean()),
        "concordance": order,
    }


def long_sessions(data_dir) -> pd.DataFrame:
    """Measure all pairs of long sessions, no pairs and drawn pairs, each in a fresh process."""
    drawn = IntraSessionPairSampler("uniform", max_pairs_per_session=1000)
    settings = {
        "no pairs": {"pairwise_weight": 0.0},
        "all pairs": HEAVY_PAIRS,
        "1,000 drawn pairs a session": {"pair_sampler": drawn, **HEAVY_PAIRS},
    }
    lines = []
    for name, (variant, setting) in tqdm(list(product(LONG, settings.items()))):
        found = call_in_a_process(measure_long, name, setting, data_dir)
        lines.append({"task": name, "variant": variant} | found)
    return pd.DataFrame(lines)


# --- running ------------------------------------------------------------------------------------


PARTS = {"calibration": calibration, "pairs": pairs, "margins": margins}
TITLES = {
    "calibration": "Calibration: order of the soft labels, and what the classifier makes of them",
    "pairs": "Pairs within sessions against pairs across sessions",
    "margins": "Adaptive against fixed margins",
    "long": "Long dialogues: what all pairs cost",
}


def run_unit(part, task, n_labels, seed, paths) -> list[dict]:
    """Run one part on one task, budget and seed."""
    limit_threads()
    with quiet():
        lines = PARTS[part](task, n_labels, seed, paths)
    return [{"task": task, "n_labels": n_labels, "seed": seed} | line for line in lines]


def run(args) -> pd.DataFrame:
    """Run the units that are missing in the cache."""
    folder = args.cache / "ablations" / args.part
    paths = (str(args.data_dir), str(args.cache))
    files = {
        (task, n_labels, seed): folder / f"{task}-{n_labels}-{seed}.parquet"
        for seed, task, n_labels in product(range(args.seeds), args.tasks, args.budgets)
    }
    missing = [unit for unit, path in files.items() if not path.is_file()]
    for task in dict.fromkeys(task for task, *_ in missing):  # embeddings, before several ask
        load_task(task, args.data_dir, args.cache)
    arguments = [(args.part, *unit, paths) for unit in missing]
    found = run_parallel(run_unit, arguments, args.jobs, args.part)
    for unit, lines in zip(missing, found, strict=True):
        write_whole(files[unit], pd.DataFrame(lines).to_parquet)
    return pd.concat([pd.read_parquet(path) for path in files.values()])


# --- report -------------------------------------------------------------------------------------


def summarise(found: pd.DataFrame, by: list[str]) -> list[str]:
    """Return a table of the mean over tasks of the mean over seeds, and its spread over seeds."""
    values = [c for c in found if c not in {"task", "seed", *by}]
    by_seed = found.groupby([*by, "seed"], sort=False)[values].mean()
    means = by_seed.groupby(level=by, sort=False).mean()
    spread = by_seed.groupby(level=by, sort=False).std()
    text = means.map("{:.3f}".format) + " ± " + spread.map("{:.3f}".format)
    text = text.where(means.notna(), "").reset_index()
    return [*markdown_table(text.columns, text.to_numpy()), ""]


def sections(part, found) -> list[str]:
    """Return the tables of a part."""
    if part == "long":
        introduction = (
            "Scores are simulated: three logistic regressions on the words of 60, 120 and 240 "
            "utterances. Three epochs on TF-IDF in 128 dimensions, one process each."
        )
        rounded = found.round(3)
        return [introduction, "", *markdown_table(rounded.columns, rounded.to_numpy())]
    weight = "" if part == "calibration" else " Pairs weigh as much as the cross-entropy."
    lines = [f"Mean over tasks and seeds ± standard deviation over seeds, test sessions.{weight}"]
    lines += [""]
    if part == "pairs":
        return lines + sections_of_pairs(found)
    by = ["n_labels", "variant", *(["margin_scale"] if part == "margins" else [])]
    lines += summarise(found, by)
    for task, group in found.groupby("task", sort=False):
        lines += [f"## {task}", "", *summarise(group, by)]
    return lines


def sections_of_pairs(found) -> list[str]:
    """Return the tables of pairs within and across sessions."""
    whole = found[found["part"] == "all"].drop(columns="part")
    lines = [*summarise(whole, ["n_labels", "variant"]), "By task:", ""]
    lines += summarise(whole, ["task", "n_labels", "variant"])
    parts = found[~found["part"].isin(["all", "within", "all pairs"])]
    parts = parts[["n_labels", "part", "variant", "seed", "task", "concordance"]]
    lines += ["Concordance by thirds of the test sessions:", ""]
    lines += summarise(parts, ["n_labels", "part", "variant"])
    of_scores = found[found["variant"] == "soft labels"]
    of_scores = of_scores[["task", "n_labels", "part", "seed", "concordance"]]
    lines += ["Order of the calibrated scores, pairs within sessions and all pairs:", ""]
    return lines + summarise(of_scores, ["task", "n_labels", "part"])


def plot_long(axes, found) -> None:
    """Plot cost and quality of long sessions."""
    columns = ("fit s", "memory, MB above the data", "concordance")
    for axis, column in zip(axes, columns, strict=True):
        wide = found.pivot(index="task", columns="variant", values=column)
        wide.plot.bar(ax=axis, rot=0, ylabel=column, xlabel="", legend=False)


def plot_metrics(axes, found, key, label) -> None:
    """Plot each metric of each variant by the values of a column."""
    for axis, (metric, name) in zip(axes, METRICS.items(), strict=True):
        for i, (variant, lines) in enumerate(found.groupby("variant", sort=False)):
            values = lines.groupby([key, "seed"])[metric].mean().groupby(key)
            x = np.arange(len(values)) + 0.06 * (i - 1)
            axis.errorbar(x, values.mean(), values.std(), marker="o", capsize=2, label=variant)
            axis.set_xticks(np.arange(len(values)), list(values.groups))
        axis.set(xlabel=label, ylabel=f"{name}, mean over tasks")
        axis.grid(alpha=0.3)


def report(part, found, out) -> None:
    """Write table and plot."""
    head = [f"# {TITLES[part]}", "", f"`python -m benchmarks.ablations {part}`", ""]
    write_lines(out / f"ablation-{part}.md", [*head, *sections(part, found)])
    figure, axes = subplots(3, (13, 4))
    if part == "long":
        plot_long(axes, found)
    elif part == "margins":
        plot_metrics(axes, found, "margin_scale", "margin scale")
    else:
        whole = found[found["part"] == "all"] if part == "pairs" else found
        plot_metrics(axes, whole, "n_labels", "human labels")
    save_figure(figure, axes[0], out / f"ablation-{part}.png", n_columns=4)


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="What parts of skpref gain and cost.")
    parser.add_argument("part", choices=list(TITLES))
    parser.add_argument("--tasks", type=names(), default=list(TASKS))
    parser.add_argument("--budgets", type=numbers, default=[50, 200])
    parser.add_argument("--seeds", type=int, default=3)
    add_data_options(parser)
    return parse_with_data(parser, argv, tasks=TASKS)


def main(argv=None) -> None:
    """Run a part and write its report."""
    args = parse_args(argv)
    found = long_sessions(args.data_dir) if args.part == "long" else run(args)
    report(args.part, found, args.out)


if __name__ == "__main__":
    main()
