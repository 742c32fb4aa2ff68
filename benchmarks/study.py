"""The study: skpref and its rivals on nine tasks, six label budgets and ten seeds.

    python -m benchmarks.study --data-dir DATA --jobs 2

Every row of a run has the same features, soft labels, labelled sessions and decision rules. Trained
rows try six settings each on the dev sessions; then all runs are scored on unseen sessions. A study
that was stopped resumes. Writes `results/study.parquet`, `study.md` and `study.png`.
"""

import argparse
import json
from copy import copy
from itertools import product

import numpy as np
import pandas as pd

from benchmarks._common import (
    add_data_options,
    limit_threads,
    markdown_table,
    names,
    numbers,
    parse_with_data,
    quiet,
    read_json,
    run_parallel,
    write_json,
    write_section,
    write_whole,
)
from benchmarks._rows import HEAVY_PAIRS, LEVERS, ROWS
from benchmarks._runs import METRICS, RULES, draw_labels, make_soft_labels, run_row, score
from benchmarks._study_report import report, run_path, tuned_path
from benchmarks._tasks import TASKS, load_components, load_features, load_task

BUDGETS = [0, 50, 100, 200, 500, 1000]
TUNING_LABELS = 200
TUNING_SEEDS = (1000, 1001)
LEVER_BUDGETS = (100, 500)
LEVERS_INTRODUCTION = (
    "`python -m benchmarks.study --levers`: one change each to skpref with a hidden layer and "
    "`pairwise_weight=1` on the embeddings of three turns, on the dev sessions of nine tasks; "
    "difference to that in points, mean over tasks and seeds (each seed in brackets), decided by "
    "argmax. The last column counts the tasks that gain or lose more "
    "than half a point of macro-F1."
)


def folders(args) -> tuple[str, str]:
    """Return the folders of data and cache, as the tasks are read from them."""
    return str(args.data_dir), str(args.cache)


def embed(args) -> None:
    """Put each task's embeddings into the cache before several processes ask for them."""
    for task in args.tasks:
        load_task(task, args.data_dir, args.cache)


# --- settings and rules, chosen on dev ----------------------------------------------------------


def tune_unit(task, seed, rows, paths) -> dict:
    """Score every setting of some rows on dev with one seed."""
    limit_threads()
    data = load_features(task, *paths)
    y = draw_labels(data, TUNING_LABELS, seed)
    found = {}
    with quiet():
        soft = make_soft_labels(data, y, seed)
        for row in rows:
            kind, settings = ROWS[row]
            for i, setting in enumerate(settings):
                made = run_row(kind, setting, data, y, soft, seed, "dev")
                scores = score(data, "dev", **made)
                found[f"{row}|{i}"] = {rule: scores[rule]["macro_f1"] for rule in RULES}
    return found


def tune(task, rows, args) -> dict:
    """Find setting and rule of the best mean macro-F1 on dev, for each row."""
    known = read_json(tuned_path(args, task), {})
    missing = [r for r in rows if known.get(r, {}).get("tried") != ROWS[r][1]]
    if not missing:
        return known
    units = [(task, seed, [row], folders(args)) for row in missing for seed in TUNING_SEEDS]
    found = list(run_parallel(tune_unit, units, args.jobs, f"{task}: tuning"))
    for row in missing:
        settings = ROWS[row][1]
        tried = [scores for scores in found if f"{row}|0" in scores]
        means = np.array(
            [
                [np.mean([scores[f"{row}|{i}"][rule] for scores in tried]) for rule in RULES]
                for i in range(len(settings))
            ]
        )
        i, rule = np.unravel_index(means.argmax(), means.shape)
        known[row] = {"tried": settings, "setting": settings[i], "rule": RULES[rule]}
        known[row]["dev_macro_f1"] = means.max()
    write_json(tuned_path(args, task), known)
    return known


# --- runs ---------------------------------------------------------------------------------------


def is_usable(row, n_labels) -> bool:
    """Return whether a row can be trained with this number of human labels."""
    return n_labels > 0 or ROWS[row][0] != "human"


def run_unit(task, n_labels, seed, chosen, paths) -> dict:
    """Train rows with the settings chosen for them, and predict the test sessions."""
    limit_threads()
    data = load_features(task, *paths)
    y = draw_labels(data, n_labels, seed)
    predictions = {}
    with quiet():
        soft = make_soft_labels(data, y, seed)
        for row, setting in chosen.items():
            made = run_row(ROWS[row][0], setting, data, y, soft, seed, "test")
            predictions |= {f"{row}|{name}": value for name, value in made.items()}
    return predictions


def run_and_save(task, n_labels, seed, chosen, args) -> None:
    """Run the rows that a unit still lacks, and keep their predictions."""
    path = run_path(args, task, n_labels, seed)
    kept = dict(np.load(path)) if path.is_file() else {}
    wanted = {
        row: setting
        for row, setting in chosen.items()
        if is_usable(row, n_labels) and str(kept.get(f"{row}|setting")) != json.dumps(setting)
    }
    if wanted:
        kept |= run_unit(task, n_labels, seed, wanted, folders(args))
        kept |= {f"{row}|setting": np.array(json.dumps(s)) for row, s in wanted.items()}
        write_whole(path, lambda part: np.savez_compressed(part, **kept))


def run(args) -> None:
    """Tune, then run seed by seed, so that a study cut short has all tasks."""
    tuned = {task: tune(task, args.rows, args) for task in args.tasks}
    chosen = {task: {r: tuned[task][r]["setting"] for r in args.rows} for task in args.tasks}
    units = [
        (task, n_labels, seed, chosen[task], args)
        for seed, task, n_labels in product(range(args.seeds), args.tasks, args.budgets)
    ]
    for _ in run_parallel(run_and_save, units, args.jobs, "runs", ordered=False):
        pass


# --- levers -------------------------------------------------------------------------------------


def lever_unit(task, n_labels, seed, paths) -> list[dict]:
    """Score every lever on the dev sessions of a task."""
    limit_threads()
    data = copy(load_components(task, *paths, 2))
    y = draw_labels(data, n_labels, seed)
    lines = []
    with quiet():
        soft = make_soft_labels(data, y, seed)
        for name, change in LEVERS.items():
            setting = HEAVY_PAIRS | change
            data.X = load_components(task, *paths, setting.pop("n_turns", 2)).X
            made = run_row("classifier", setting, data, y, soft, seed, "dev")
            scores = score(data, "dev", **made)
            key = {"task": task, "n_labels": n_labels, "seed": seed, "lever": name}
            lines.append(key | scores["argmax"])
    return lines


def lever_row(wide, name, n_labels) -> list:
    """Return the row of the table for one lever and budget."""
    changes = {
        metric: (wide[metric][name] - wide[metric]["as it is"]).xs(n_labels, level="n_labels")
        for metric in METRICS
    }
    cells = []
    for change in changes.values():
        seeds = ", ".join(f"{100 * v:+.1f}" for v in change.groupby("seed").mean())
        cells.append(f"{100 * change.mean():+.1f} ({seeds})")
    by_task = changes["macro_f1"].groupby("task").mean()
    gained = f"{(by_task > 0.005).sum()} / {(by_task < -0.005).sum()}"
    return [name, n_labels, *cells, gained]


def run_levers(args) -> None:
    """Compare the levers with skpref as it is on dev, and write `levers.md`."""
    units = [
        (task, n_labels, seed, folders(args))
        for seed, task, n_labels in product(TUNING_SEEDS, args.tasks, LEVER_BUDGETS)
    ]
    found = run_parallel(lever_unit, units, args.jobs, "levers", ordered=False)
    lines = pd.DataFrame([line for unit in found for line in unit])
    path = args.cache / "study" / "levers" / "levers.parquet"
    write_whole(path, lines.to_parquet)
    wide = lines.set_index(["task", "n_labels", "seed", "lever"])[list(METRICS)].unstack("lever")
    header = ["lever", "labels", *METRICS.values(), "tasks gained / lost, macro-F1"]
    rows = [lever_row(wide, name, n) for name, n in product(LEVERS, LEVER_BUDGETS)]
    table = markdown_table(header, rows)
    write_section(args.out / "levers.md", "Pairs and training", [LEVERS_INTRODUCTION, "", *table])


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="skpref and its rivals on real dialogues.")
    parser.add_argument("--tasks", type=names(), default=list(TASKS))
    parser.add_argument("--rows", type=names(";"), default=list(ROWS))
    parser.add_argument("--budgets", type=numbers, default=BUDGETS)
    parser.add_argument("--seeds", type=int, default=10)
    add_data_options(parser)
    parser.add_argument("--levers", action="store_true", help="compare variants on dev instead")
    parser.add_argument("--report-only", action="store_true", help="only write the tables again")
    return parse_with_data(parser, argv, tasks=TASKS, rows=ROWS)


def main(argv=None) -> None:
    """Run the study or the levers, and write the report."""
    args = parse_args(argv)
    if not args.report_only:
        embed(args)
    if args.levers:
        run_levers(args)
        return
    if not args.report_only:
        run(args)
    report(args)


if __name__ == "__main__":
    main()
