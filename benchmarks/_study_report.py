"""The study's report: scores of the kept predictions, intervals, tables and plot."""

import json
from itertools import product

import numpy as np
import pandas as pd

from benchmarks._common import markdown_table, read_json, save_figure, subplots, write_lines
from benchmarks._rows import DISTILLED, OURS
from benchmarks._runs import METRICS, RULES, count_by_session, decide, score
from benchmarks._tasks import load_task

N_BOOTSTRAP = 500
MEAN = "mean of tasks"
BEST_DISTILLED = "best-tuned distillation"
INTRODUCTION = (
    "The train sessions have labels by LLMs (or single raters) and N human labels; all scores are "
    "of unseen sessions. Features are the embedding of the utterance by all-MiniLM-L6-v2 and "
    "`DialogueFeatures`. Each trained row tries six settings and four decision rules on the dev "
    "sessions (macro-F1 at 200 labels, two seeds that no table uses); “default” tries the rules "
    "only. “Best-tuned distillation” is the one of its four kinds that is best on dev, task by "
    "task."
)
ONE_RULE = (
    "The same with one rule for all rows and tasks, macro-F1 / accuracy: which rule is best on dev "
    "is itself a matter of chance."
)
DIFFERENCES = (
    "Mean over tasks of the paired difference, in points, with its 95% interval; then tasks won / "
    "tied / lost in macro-F1 (the interval excludes 0)."
)


# --- the kept runs ------------------------------------------------------------------------------


def tuned_path(args, task):
    """Return the path of the settings and rules chosen for a task."""
    return args.cache / "study" / task / "tuned.json"


def run_path(args, task, n_labels, seed):
    """Return the path of the predictions of a task, budget and seed."""
    return args.cache / "study" / task / f"{n_labels}-{seed}.npz"


def read_runs(args) -> tuple[pd.DataFrame, dict, dict]:
    """Score the kept predictions, one line per run, and count by session what intervals need.

    The first counts are those of the rule chosen on dev, the second those of the last rule.
    """
    lines, counts, counts_of_last = [], {}, {}
    for task in args.tasks:
        if (tuned := read_json(tuned_path(args, task), None)) is None:
            continue
        data = load_task(task, args.data_dir, args.cache)
        for n_labels, seed in product(args.budgets, range(args.seeds)):
            path = run_path(args, task, n_labels, seed)
            kept = dict(np.load(path)) if path.is_file() else {}
            for row in [r for r in args.rows if f"{r}|log_p" in kept]:
                log_p, offsets = kept[f"{row}|log_p"], kept[f"{row}|offsets"]
                rule = tuned[row]["rule"]
                line = {"task": task, "n_labels": n_labels, "seed": seed, "row": row}
                line |= {"rule": rule, "setting": str(kept[f"{row}|setting"])}
                lines.append(line | score_run(data, log_p, offsets, rule))
                key = (task, n_labels, seed, row)
                counts_of_last[key] = count_by_session(data, log_p.astype(float) + offsets[-1])
                counts[key] = counts_of_last[key]
                if rule != RULES[-1]:
                    offset = offsets[RULES.index(rule)]
                    counts[key] = count_by_session(data, log_p.astype(float) + offset)
    return pd.DataFrame(lines), counts, counts_of_last


def score_run(data, log_p, offsets, rule) -> dict:
    """Score the test sessions by the rule chosen on dev, then briefly by every rule."""
    scores = score(data, "test", log_p, offsets, [rule])[rule]
    for name, offset in zip(RULES, offsets, strict=True):
        found = decide(data, "test", log_p, offset)
        scores |= {f"{metric}, {name}": value for metric, value in found.items()}
    return scores


# --- differences and their intervals ------------------------------------------------------------


def resampled(counts, weight) -> np.ndarray:
    """Return the metrics under each weighting of the sessions, shape (n_weightings, 3)."""
    total = np.tensordot(weight, counts.confusion, axes=1)  # true class, predicted class
    hits = np.diagonal(total, axis1=1, axis2=2)
    size = total.sum(axis=1) + total.sum(axis=2)
    present = counts.confusion.sum(axis=(0, 2)) > 0
    f1 = (2 * hits / np.maximum(size, 1))[:, present].mean(axis=1)
    accuracy = hits.sum(axis=1) / total.sum(axis=(1, 2))
    concordance = weight @ counts.won / np.maximum(weight @ counts.compared, 1)
    return np.column_stack([f1, accuracy, concordance])


def draw_weights(rng, n: int) -> np.ndarray:
    """Return how often each of n units is in the sample itself and in each bootstrap sample."""
    return np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), N_BOOTSTRAP)])


def differences(counts, ours, rival_of, tasks, budgets, seeds) -> pd.DataFrame:
    """Return the paired differences, ours minus the rival of each task, with 95% intervals.

    Test sessions and seeds are drawn with replacement, the same ones for both.
    """
    rng = np.random.RandomState(0)
    lines, replicates = [], {}
    for task, n_labels in product(tasks, budgets):
        keys = [[(task, n_labels, s, row) for row in (ours, rival_of[task])] for s in range(seeds)]
        pairs = [(counts[a], counts[b]) for a, b in keys if {a, b} <= counts.keys()]
        if not pairs:
            continue
        weight = draw_weights(rng, len(pairs[0][0].won))
        drawn = draw_weights(rng, len(pairs)) / len(pairs)
        change = np.stack([resampled(a, weight) - resampled(b, weight) for a, b in pairs])
        values = np.einsum("bs,sbm->bm", drawn, change)
        replicates[task, n_labels] = values
        lines.append(difference_line(task, n_labels, len(pairs), values))
    for n_labels in budgets:
        found = [values for (_, n), values in replicates.items() if n == n_labels]
        if found:
            lines.append(difference_line(MEAN, n_labels, 0, np.mean(found, axis=0)))
    return pd.DataFrame(lines)


def difference_line(task, n_labels, n_seeds, values) -> dict:
    """Return the differences of one task and budget; the first replicate is the sample itself."""
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    line = {"task": task, "n_labels": n_labels, "n_seeds": n_seeds}
    for m, metric in enumerate(METRICS):
        line |= {metric: values[0, m], f"{metric}_low": low[m], f"{metric}_high": high[m]}
    return line


def rivals(args) -> dict:
    """Return the rows to compare with, each as the row that it is in every task."""
    best = {}
    for task in args.tasks:
        tuned = read_json(tuned_path(args, task), {})
        best[task] = max(
            (r for r in DISTILLED if r in args.rows and r in tuned),
            key=lambda r: tuned[r]["dev_macro_f1"],
            default=None,
        )
    return {BEST_DISTILLED: best} | {r: dict.fromkeys(args.tasks, r) for r in args.rows}


# --- tables -------------------------------------------------------------------------------------


def mean_over_tasks(runs, metrics) -> pd.DataFrame:
    """Return the means over seeds, then over tasks, by row and budget."""
    means = runs.groupby(["row", "n_labels", "task"])[list(metrics)].mean()
    return means.groupby(["row", "n_labels"]).mean()


def table_of_means(runs, rows, budgets, metrics=tuple(METRICS)) -> list[str]:
    """Return a Markdown table of means, a row per rival and a column per budget."""
    means = mean_over_tasks(runs, metrics)

    def cell(row, n):
        found = means.loc[(row, n)] if (row, n) in means.index else []
        return " / ".join(f"{v:.3f}" for v in found)

    header = ["row", *(f"{n} labels" for n in budgets)]
    return [*markdown_table(header, [[r, *(cell(r, n) for n in budgets)] for r in rows]), ""]


def difference_cells(d) -> list[str]:
    """Return the differences in points, with their intervals."""
    triples = [[100 * d[m + end] for end in ("", "_low", "_high")] for m in METRICS]
    return [f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" for mean, low, high in triples]


def summary_row(name, n_labels, found) -> list:
    """Return a row of the comparison with a rival."""
    at = found[found["n_labels"] == n_labels]
    mean, single = at[at["task"] == MEAN].iloc[0], at[at["task"] != MEAN]
    won, lost = (single["macro_f1_low"] > 0).sum(), (single["macro_f1_high"] < 0).sum()
    ending = f"{won} / {len(single) - won - lost} / {lost}"
    return [name, n_labels, *difference_cells(mean), ending]


def compare(counts, ours, rows, args) -> tuple[list[str], dict]:
    """Return the table of a row against each rival, and the differences by rival."""
    found, summary = {}, []
    for name, rival_of in rivals(args).items():
        if name == ours or not set(rival_of.values()) <= set(rows):
            continue
        found[name] = differences(counts, ours, rival_of, args.tasks, args.budgets, args.seeds)
        known = set(found[name]["n_labels"])
        summary += [summary_row(name, n, found[name]) for n in args.budgets if n in known]
    header = ["rival", "labels", *METRICS.values(), "won / tied / lost"]
    return markdown_table(header, summary), found


def table_by_task(detail, args) -> list[str]:
    """Return the differences to the best-tuned distillation, a line per task and budget."""
    best = rivals(args)[BEST_DISTILLED]
    lines = [
        [d["task"], best[d["task"]], d["n_labels"], *difference_cells(d)]
        for _, d in detail[detail["task"] != MEAN].iterrows()
    ]
    return markdown_table(["task", "rival", "labels", *METRICS.values()], lines)


def sections_of_means(runs, rows, budgets) -> list[str]:
    """Return the tables of means over tasks, by the rules chosen on dev and by each rule."""
    lines = ["## Mean over tasks", ""]
    lines += ["Macro-F1 / accuracy / concordance, mean over tasks and seeds.", ""]
    lines += [*table_of_means(runs, rows, budgets), ONE_RULE, ""]
    for rule in RULES:
        columns = [f"{metric}, {rule}" for metric in ("macro_f1", "accuracy")]
        lines += [f"### {rule}", "", *table_of_means(runs, rows, budgets, columns)]
    return lines


def sections_of_differences(ours, counts, counts_of_last, rows, args) -> tuple[list[str], dict]:
    """Return the tables of one of our rows against its rivals, and the differences by rival."""
    table, found = compare(counts, ours, rows, args)
    by_one_rule, found_by_one_rule = compare(counts_of_last, ours, rows, args)
    one_rule = ["", f"All rows by one rule, {RULES[-1]}:", ""]
    lines = [f"## {ours}, minus each rival", "", DIFFERENCES, "", *table, *one_rule, *by_one_rule]
    if BEST_DISTILLED in found:
        lines += ["", f"### {ours}, minus the {BEST_DISTILLED}, by task", ""]
        lines += [*table_by_task(found[BEST_DISTILLED], args), *one_rule]
        lines += [*table_by_task(found_by_one_rule[BEST_DISTILLED], args), ""]
    return lines, found


def list_of_settings(rows, args) -> list[str]:
    """Return the settings and rules chosen on dev, a line per task."""
    lines = ["Settings and rules chosen on dev:", ""]
    for task in args.tasks:
        tuned = read_json(tuned_path(args, task), {})
        chosen = {r: [tuned[r]["setting"], tuned[r]["rule"]] for r in rows if r in tuned}
        lines += [f"- {task}: `{json.dumps(chosen)}`"]
    return lines


def report(args) -> None:
    """Write the tables, the plot and a line per run."""
    runs, counts, counts_of_last = read_runs(args)
    args.tasks = [t for t in args.tasks if t in set(runs["task"])]
    args.budgets = [n for n in args.budgets if n in set(runs["n_labels"])]
    args.out.mkdir(parents=True, exist_ok=True)
    runs.to_parquet(args.out / "study.parquet", compression="zstd")
    rows = [r for r in args.rows if r in set(runs["row"])]
    seeds = runs.groupby("row", sort=False)["seed"].nunique()
    lines = ["# Study", "", "`python -m benchmarks.study`", "", INTRODUCTION, ""]
    lines += ["Seeds per row: " + ", ".join(f"{r} {seeds[r]}" for r in rows) + ".", ""]
    lines += sections_of_means(runs, rows, args.budgets)
    plotted = pd.DataFrame()
    for ours in [r for r in OURS if r in rows]:
        section, found = sections_of_differences(ours, counts, counts_of_last, rows, args)
        lines += section
        if ours == "skpref, default":
            plotted = found.get(BEST_DISTILLED, plotted)
    for task in args.tasks:
        lines += [f"## {task}", ""]
        lines += table_of_means(runs[runs["task"] == task], rows, args.budgets)
    write_lines(args.out / "study.md", [*lines, *list_of_settings(rows, args)])
    plot(runs, plotted, rows, args.out / "study.png")


# --- plot ---------------------------------------------------------------------------------------


def plot(runs, detail, rows, path) -> None:
    """Plot the means by budget, and the differences to the best-tuned distillation by task."""
    figure, axes = subplots(3, (14, 5))
    position = {n: i for i, n in enumerate(sorted(runs["n_labels"].unique()))}
    means = mean_over_tasks(runs, METRICS)
    for axis, metric in zip(axes, ("macro_f1", "accuracy"), strict=False):
        plot_means(axis, means[metric], rows, position)
        axis.set(xlabel="human labels", ylabel=f"{METRICS[metric]}, mean over tasks")
    plot_differences(axes[2], detail, position)
    for axis in axes:
        axis.set_xticks(list(position.values()), [str(n) for n in position])
    save_figure(figure, axes[0], path, n_columns=5)


def plot_means(axis, means, rows, position) -> None:
    """Plot a line per row."""
    from matplotlib import colormaps

    colours = colormaps["tab20"].colors
    for i, row in enumerate(rows):
        is_default = row == "skpref, default"
        axis.plot(
            [position[n] for n in means.loc[row].index],
            means.loc[row],
            "-" if row.startswith("skpref") else "--",
            marker="o",
            markersize=3,
            label=row,
            linewidth=2.5 if is_default else 1,
            color="black" if is_default else colours[i % len(colours)],
        )


def plot_differences(axis, detail, position) -> None:
    """Plot the differences in macro-F1 with their intervals, task by task."""
    for i, (task, group) in enumerate(detail.groupby("task", sort=False) if len(detail) else []):
        bounds = group[["macro_f1_low", "macro_f1_high"]].to_numpy().T
        axis.errorbar(
            [position[n] + (i - 5) * 0.06 for n in group["n_labels"]],
            100 * group["macro_f1"],
            100 * np.abs(bounds - group["macro_f1"].to_numpy()),
            fmt="o",
            markersize=6 if task == MEAN else 3,
            linewidth=1,
            label=task,
            color="black" if task == MEAN else f"C{i % 10}",
        )
    axis.axhline(0, color="grey", linewidth=1)
    axis.set(xlabel="human labels", ylabel=f"macro-F1 minus the {BEST_DISTILLED}, points")
    if len(detail):
        axis.legend(fontsize=6, loc="lower right")
