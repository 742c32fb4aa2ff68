"""How much of the LLM's error a session shares, and what comparing within sessions gains by it.

    python -m benchmarks.shared_error --data-dir DATA

Writes `results/shared_error.md`, `shared_error.json` and `shared_error.png`.
"""

import argparse

import numpy as np

from benchmarks._common import (
    add_data_options,
    markdown_table,
    names,
    parse_with_data,
    quiet,
    save_figure,
    subplots,
    write_json,
    write_lines,
)
from benchmarks._tasks import CHATS, TASKS, load_task
from skpref import LLMScoreCalibrator
from skpref.datasets import load_support_chats
from skpref.inspection import preference_noise

INTRODUCTION = (
    "`python -m benchmarks.shared_error`: the scores are calibrated by the human labels of other "
    "sessions (`LLMScoreCalibrator().fit_transform`). *Shared* is the share of the variance of "
    "their error, given the human label, that is constant within a session "
    "(`preference_noise(...).shared`, an intraclass correlation). *Gain* is how many points fewer "
    "of the pairs are in the wrong order within sessions than across. 95% intervals by session."
)


def load(task: str, args) -> tuple:
    """Return scores, class codes and session ids of the rows with a human label and a score."""
    if task == CHATS:
        chats = load_support_chats()
        y = np.searchsorted(chats.classes, chats.frame["label"].to_numpy(str))
        return chats.llm_scores, y, np.asarray(chats.groups)
    data = load_task(task, args.data_dir, args.cache)
    used = (data.y >= 0) & ~np.isnan(data.llm_scores).all(axis=(1, 2))
    return data.llm_scores[used], data.y[used], data.groups[used]


def measure(task: str, args) -> dict:
    """Return the shared error and the gain of a task, each with its interval."""
    scores, y, groups = load(task, args)
    with quiet():
        soft = LLMScoreCalibrator().fit_transform(scores, y, groups=groups)
        noise = preference_noise(soft, y, groups, random_state=0)
    shared = [float(noise.shared[name]) for name in ("share", "low", "high")]
    gain = [-100 * float(noise.difference[name]) for name in ("error", "high", "low")]
    return {"sessions": len(np.unique(groups)), "rows": len(y), "shared": shared, "gain": gain}


def plot(found: dict, path) -> None:
    """Plot the gain against what is shared."""
    figure, axis = subplots(1, (7, 4.5))
    for task, values in found.items():
        (x, *x_limits), (y, *y_limits) = values["shared"], values["gain"]
        errors = {"xerr": np.abs(np.c_[x_limits] - x), "yerr": np.abs(np.c_[y_limits] - y)}
        axis.errorbar(x, y, **errors, fmt="o", capsize=2, linewidth=1, label=task)
    axis.axhline(0, color="grey", linewidth=1)
    axis.set(
        xlabel="share of the error that a session has in common",
        ylabel="gain within sessions (points)",
    )
    save_figure(figure, axis, path, n_columns=3)


def page(found: dict) -> list[str]:
    """Return the lines of the page."""
    rows = [
        [
            task,
            values["sessions"],
            f"{values['rows']:,}",
            "{:.2f} ({:.2f} to {:.2f})".format(*values["shared"]),
            "{:+.1f} ({:+.1f} to {:+.1f})".format(*values["gain"]),
        ]
        for task, values in found.items()
    ]
    table = markdown_table(["task", "sessions", "utterances", "shared", "gain"], rows)
    return ["# Shared error", "", INTRODUCTION, "", *table]


def main(argv=None) -> None:
    """Measure, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=names(), default=[CHATS, *TASKS])
    add_data_options(parser)
    args = parse_with_data(parser, argv, tasks=[CHATS, *TASKS])
    found = {task: measure(task, args) for task in args.tasks}
    found = dict(sorted(found.items(), key=lambda item: item[1]["shared"][0]))
    write_json(args.out / "shared_error.json", found)
    write_lines(args.out / "shared_error.md", page(found))
    plot(found, args.out / "shared_error.png")


if __name__ == "__main__":
    main()
