"""Intervals, tables and plot of the study."""

from itertools import product

import numpy as np
import pandas as pd

METRICS = {"macro_f1": "macro-F1", "accuracy": "accuracy", "concordance": "concordance"}
N_BOOTSTRAP = 500


def resampled(counts, weight) -> np.ndarray:
    """Metrics under each weighting of the sessions, shape (n_weightings, 3)."""
    total = np.tensordot(weight, counts.confusion, axes=1)  # true class, predicted class
    hits = np.diagonal(total, axis1=1, axis2=2)
    size = total.sum(axis=1) + total.sum(axis=2)
    present = counts.confusion.sum(axis=(0, 2)) > 0
    f1 = (2 * hits / np.maximum(size, 1))[:, present].mean(axis=1)
    accuracy = hits.sum(axis=1) / total.sum(axis=(1, 2))
    concordance = weight @ counts.won / np.maximum(weight @ counts.compared, 1)
    return np.column_stack([f1, accuracy, concordance])


def differences(counts, ours, rival_of, tasks, budgets, seeds) -> pd.DataFrame:
    """Paired differences, ours less the rival of each task, with 95% intervals.

    Test sessions and seeds are drawn with replacement, the same ones for both.
    """
    rng = np.random.RandomState(0)
    lines, replicates = [], {}
    for task, n_labels in product(tasks, budgets):
        pairs = [
            (counts[task, n_labels, s, ours], counts[task, n_labels, s, rival_of[task]])
            for s in range(seeds)
            if {(task, n_labels, s, ours), (task, n_labels, s, rival_of[task])} <= counts.keys()
        ]
        if not pairs:
            continue
        n_sessions = len(pairs[0][0].won)
        weight = np.vstack(
            [
                np.ones(n_sessions),
                rng.multinomial(n_sessions, np.full(n_sessions, 1 / n_sessions), N_BOOTSTRAP),
            ]
        )
        drawn = np.vstack(
            [
                np.ones(len(pairs)),
                rng.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), N_BOOTSTRAP),
            ]
        ) / len(pairs)
        change = np.stack([resampled(a, weight) - resampled(b, weight) for a, b in pairs])
        values = np.einsum("bs,sbm->bm", drawn, change)
        replicates[task, n_labels] = values
        lines.append(line(task, n_labels, len(pairs), values))
    for n_labels in budgets:
        found = [values for (_, n), values in replicates.items() if n == n_labels]
        if found:
            lines.append(line("mean of tasks", n_labels, 0, np.mean(found, axis=0)))
    return pd.DataFrame(lines)


def line(task, n_labels, n_seeds, values) -> dict:
    """Differences of one task and budget: the first replicate is the sample itself."""
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    out = {"task": task, "n_labels": n_labels, "n_seeds": n_seeds}
    for m, metric in enumerate(METRICS):
        out |= {metric: values[0, m], f"{metric}_low": low[m], f"{metric}_high": high[m]}
    return out


def table_of_means(runs, rows, budgets, metrics=tuple(METRICS)) -> list[str]:
    """Markdown of means, a row per rival and a column per budget."""
    means = runs.groupby(["row", "n_labels", "task"])[list(metrics)].mean()
    means = means.groupby(["row", "n_labels"]).mean()
    lines = [
        "| row | " + " | ".join(f"{n} labels" for n in budgets) + " |",
        "| --- " * (len(budgets) + 1) + "|",
    ]
    for row in rows:
        cells = [
            " / ".join(f"{v:.3f}" for v in means.loc[(row, n)]) if (row, n) in means.index else ""
            for n in budgets
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def cell(d, metric) -> str:
    """Write a difference in points, with its interval."""
    low, high = 100 * d[f"{metric}_low"], 100 * d[f"{metric}_high"]
    return f"{100 * d[metric]:+.1f} [{low:+.1f}, {high:+.1f}]"


def summary_line(name, n_labels, found) -> str:
    """One line of the comparison with a rival."""
    at = found[found["n_labels"] == n_labels]
    mean, single = at[at["task"] == "mean of tasks"].iloc[0], at[at["task"] != "mean of tasks"]
    won, lost = (single["macro_f1_low"] > 0).sum(), (single["macro_f1_high"] < 0).sum()
    cells = " | ".join(cell(mean, m) for m in METRICS)
    return f"| {name} | {n_labels} | {cells} | {won} / {len(single) - won - lost} / {lost} |"


def plot(runs, plotted, rows, path):
    """Mean over tasks by budget, and the differences to the best-tuned distillation by task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 5), layout="constrained")
    position = {n: i for i, n in enumerate(sorted(runs["n_labels"].unique()))}
    means = runs.groupby(["row", "n_labels", "task"])[list(METRICS)].mean()
    means = means.groupby(["row", "n_labels"]).mean()
    colours = plt.get_cmap("tab20").colors
    for axis, metric in zip(axes, ("macro_f1", "accuracy"), strict=False):
        for i, row in enumerate(rows):
            values = means.loc[row][metric]
            style = (
                {"linewidth": 2.5, "color": "black"}
                if row == "skpref, default"
                else {"linewidth": 1}
            )
            dash = "-" if row.startswith("skpref") else "--"
            axis.plot(
                [position[n] for n in values.index],
                values,
                dash,
                marker="o",
                markersize=3,
                label=row,
                **({"color": colours[i % len(colours)]} | style),
            )
        axis.set(xlabel="human labels", ylabel=f"{METRICS[metric]}, mean over tasks")
        axis.set_xticks(list(position.values()), [str(n) for n in position])
    detail = plotted.get("skpref, default", pd.DataFrame())
    axis = axes[2]
    for i, (task, group) in enumerate(detail.groupby("task", sort=False) if len(detail) else []):
        is_mean = task == "mean of tasks"
        x = [position[n] + (i - 5) * 0.06 for n in group["n_labels"]]
        error = 100 * np.abs(
            group[["macro_f1_low", "macro_f1_high"]].to_numpy().T - group["macro_f1"].to_numpy()
        )
        axis.errorbar(
            x,
            100 * group["macro_f1"],
            error,
            fmt="o",
            markersize=6 if is_mean else 3,
            linewidth=1,
            label=task,
            color="black" if is_mean else f"C{i % 10}",
        )
    axis.axhline(0, color="grey", linewidth=1)
    axis.set(xlabel="human labels", ylabel="macro-F1 less the best-tuned distillation, points")
    axis.set_xticks(list(position.values()), [str(n) for n in position])
    if len(detail):
        axis.legend(fontsize=6, loc="lower right")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
