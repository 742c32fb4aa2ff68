"""The study: skpref and its rivals on nine tasks, six label budgets and ten seeds.

    python benchmarks/study.py --data-dir DATA --jobs 2

Every row of a run has the same features, soft labels, labelled sessions and decision rules. Trained
rows try six settings each on the dev sessions, then all runs are scored on unseen sessions. A
stopped study goes on where it was. Writes `results/study.parquet`, `study.md` and `study.png`.
"""

import argparse
import json
import os
import warnings
from copy import copy
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from _rivals import FITTERS, LogOddsStudent
from _study_report import METRICS, cell, differences, plot, summary_line, table_of_means
from _tasks import TASKS, load_components, load_task
from scipy.special import softmax
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import ParameterGrid
from sklearn.utils import Bunch
from sklearn.utils.parallel import Parallel, delayed
from tqdm import tqdm

from skpref import KNNLabelSmoother, LLMScoreCalibrator
from skpref._student._stage2 import ascend, expected_f1_offsets
from skpref._validation import check_groups
from skpref.inspection import _count
from skpref.metrics import expected_calibration_error, within_session_concordance

TASK_NAMES = [
    "dailydialog",
    "dbdc3",
    "delidata",
    "delidata-target",
    "meld-emotion",
    "meld-sentiment",
    "persuasion4good",
    "uss-one-rater",
    "weights-task",
]
BUDGETS = [0, 50, 100, 200, 500, 1000]
# The network of each rival of skpref is trained by these optimisers, six or three of them.
OPTIMISERS = [
    {"lr": 1e-3, "weight_decay": 1e-4},
    {"lr": 1e-3, "weight_decay": 1e-3},
    {"lr": 3e-4, "weight_decay": 1e-3},
    {"lr": 3e-4, "weight_decay": 1e-4},
    {"lr": 3e-3, "weight_decay": 1e-4},
    {"lr": 3e-3, "weight_decay": 1e-3},
]
TUNING_LABELS = 200
TUNING_SEEDS = (1000, 1001)
RULES = ["argmax", "balanced", "macro-F1", "expected macro-F1"]
OURS = ["skpref, default", "skpref, no pairs", "skpref"]
LEVERS_INTRODUCTION = (
    "`python benchmarks/study.py --levers`: one change each of skpref with `pairwise_weight=1`, on "
    "the dev sessions of nine tasks; difference to that in points, mean over tasks and seeds (each "
    "seed in brackets), decided by argmax. The last column counts the tasks that gain or lose more "
    "than half a point of macro-F1."
)
INTRODUCTION = (
    "Dialogues with LLM (or single raters') labels on all train sessions and N human labels, "
    "scored on unseen sessions. Each trained row tries six settings and four decision rules on "
    "the dev sessions (macro-F1 at 200 labels, two seeds that no table uses); “default” tries the "
    "rules only. “Best-tuned distillation” is the one of its four kinds that is best on dev, task "
    "by task."
)


def grid(optimisers=OPTIMISERS[:3], **values) -> list[dict]:
    """Each optimiser with each combination of the values."""
    return [o | v for v in ParameterGrid(values) for o in optimisers]


# Distillation as it is without skpref: human labels in place of soft ones, and offsets refitted.
DISTILL = {
    "pairwise_weight": [0.0],
    "class_weight": [None],
    "labels_in_stage_1": [True],
    "stage2": ["offsets"],
}
REWARD = DISTILL | {"loss": ["logistic"], "pointwise_weight": [0.0], "pairwise_weight": [1.0]}
POINTWISE = grid(OPTIMISERS, **DISTILL)
TREES = {"learning_rate": 0.3, "n_estimators": 30, "colsample_bytree": 0.5}
# Row -> (how it is made, settings tried on dev).
ROWS = {
    "llm": ("llm", [{"method": "mean"}]),
    "llm, calibrated": ("llm", [{}]),
    "human labels": ("human", [{"C": c} for c in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)]),
    "distillation": ("student", POINTWISE),
    "distillation, balanced": ("student", [s | {"class_weight": "balanced"} for s in POINTWISE]),
    "distillation, label smoothing": (
        "student",
        grid(**DISTILL, label_smoothing=[0.1, 0.3]),
    ),
    "distillation, confidence-weighted": (
        "student",
        grid(**DISTILL, confidence=[1.0, 2.0]),
    ),
    "generalised cross-entropy": ("gce", grid(q=[0.3, 0.7])),
    "Dawid-Skene, distilled": ("student", [s | {"dawid_skene": True} for s in POINTWISE]),
    "CleanLearning": ("clean", [{"C": c} for c in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)]),
    "XGBoost rank:pairwise": (
        "trees",
        [TREES | {"max_depth": d, "reg_lambda": r} for d in (3, 6) for r in (1.0, 10.0, 100.0)],
    ),
    "reward model": ("student", grid(OPTIMISERS, **REWARD | {"margin_scale": [1e-6]})),
    "reward model, margin": ("student", grid(**REWARD | {"margin_scale": [1.0, 4.0]})),
    "skpref, default": ("student", [{}]),
    "skpref, no pairs": ("student", [{"pairwise_weight": 0.0}]),
    "skpref": ("student", grid(pairwise_weight=[0.3, 1.0])),
}
# Ten times the default, so that what is asked of the pairs shows.
HEAVY_PAIRS = {"pairwise_weight": 1.0}
# One change each of skpref with pairs that weigh as much as the cross-entropy, tried on dev.
LEVERS = {
    "as it is": {},
    "no pairs": {"pairwise_weight": 0.0},
    "no pairs, no class weights": {"pairwise_weight": 0.0, "class_weight": None},
    "no class weights": {"class_weight": None},
    "no pairs, labels in stage 1": {"pairwise_weight": 0.0, "labels_in_stage_1": True},
    "labels in stage 1": {"labels_in_stage_1": True},
    "pairs alone": {"pointwise_weight": 0.0},
    "pairwise_weight 0.1 (the default)": {"pairwise_weight": 0.1},
    "pairwise_weight 0.3": {"pairwise_weight": 0.3},
    "pairwise_weight 3": {"pairwise_weight": 3.0},
    "pairwise_weight chosen on labelled sessions": {"pairwise_weight": "chosen"},
    "features of the utterance alone": {"n_turns": 0},
    "features of one turn before": {"n_turns": 1},
    "hinge": {"loss": "hinge"},
    "logistic": {"loss": "logistic"},
    "margin_scale 1": {"margin_scale": 1.0},
    "margin_scale 5": {"margin_scale": 5.0},
    "pairwise_weight 0.3, margin_scale 5": {"pairwise_weight": 0.3, "margin_scale": 5.0},
    "fixed margin": {"margin": "fixed", "margin_scale": 1.0},
    "margins in log-odds": {"kind": LogOddsStudent, "margin_scale": 0.5},
    "pairs weighted by certainty": {"confidence": 1.0},
    "pairs weighted by the prompts' agreement": {"agreement": 2.0},
    "session-centred soft labels": {"centred": True},
    "virtual sessions by topic": {"virtual_sessions": True},
    "no smoothing": {"knn": False},
    "smoothing by other sessions only": {"other_sessions": True},
    "self-training, one more round": {"self_training": 1},
    "dropout 0.3, 512 units": {"module__dropout": 0.3, "module__hidden_units": 512},
    "15 epochs": {"max_epochs": 15},
    "offsets only": {"stage2": "offsets"},
    "fine-tuned": {"stage2": "finetune"},
}
LEVER_BUDGETS = (100, 500)
# The best of these on dev is "the best-tuned pointwise distillation" of a task.
DISTILLED = [name for name in ROWS if name.startswith("distillation")]


def draw_labels(data: Bunch, n_labels: int, seed: int) -> np.ndarray:
    """Keep `n_labels` labels of random train sessions, the last one cut short; -1 elsewhere."""
    rng = np.random.RandomState(seed)
    free = np.flatnonzero((data.split == "train") & (data.y >= 0))
    order = {session: i for i, session in enumerate(rng.permutation(np.unique(data.groups[free])))}
    place = np.array([order[session] for session in data.groups[free]], dtype=int)
    chosen = free[np.argsort(place, kind="stable")][:n_labels]
    y = np.full(len(data.y), -1)
    y[chosen] = data.y[chosen]
    return y


def prepare(data: Bunch, y: np.ndarray, seed: int) -> Bunch:
    """Soft labels of the train rows, which all rows of a run share."""
    train = data.split == "train"
    classes = np.arange(len(data.classes))
    calibrator = LLMScoreCalibrator(classes=classes)
    raw = calibrator.fit_transform(data.llm_scores[train], y[train], groups=data.groups[train])
    smoother = KNNLabelSmoother(random_state=seed)
    smooth = smoother.fit_transform(data.X[train], raw, groups=data.groups[train])
    return Bunch(raw=raw, smooth=smooth, calibrator=calibrator, smoother=smoother)


def best_offsets(log_p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Offsets of the classes that raise macro-F1 on some rows, by coordinate ascent."""

    def value(trial):
        found = (log_p + trial).argmax(axis=1)
        return f1_score(y, found, average="macro", zero_division=0) - 0.005 * np.abs(trial).sum()

    return ascend(value, log_p.shape[1], steps=(-1.0, -0.5, 0.5, 1.0), n_rounds=2)


def run_row(row, setting, data, y, soft, seed, split) -> dict:
    """Train one row; give probabilities of a split and the offsets of each decision rule."""
    kind = ROWS[row][0]
    train, where = data.split == "train", data.split == split
    if kind == "llm":
        calibrator = soft.calibrator
        if setting:
            calibrator = LLMScoreCalibrator(classes=np.arange(len(data.classes)), **setting)
            calibrator.fit(data.llm_scores[train])
        fitted = calibrator.transform(data.llm_scores)
        uniform = np.full(len(data.classes), 1 / len(data.classes))
        fitted = np.where(np.isnan(fitted), uniform, fitted)
        p_train, p_test = fitted[train], fitted[where]
    else:
        predict = FITTERS[kind](data, y, soft, setting, seed)
        p_train, p_test = predict(data.X[train]), predict(data.X[where])
    log_p = np.log(np.maximum(p_train, 1e-6))
    labelled = y[train] >= 0
    offsets = np.zeros((len(RULES), log_p.shape[1]))
    offsets[1] = -np.log(np.maximum(p_train.mean(axis=0), 1e-3))
    known = ~np.isnan(soft.smooth).any(axis=1)
    offsets[3] = expected_f1_offsets(log_p[known], soft.smooth[known], np.ones(known.sum()))
    if labelled.any():
        offsets[2] = best_offsets(log_p[labelled], y[train][labelled])
    return {"log_p": np.log(np.maximum(p_test, 1e-6)).astype(np.float16), "offsets": offsets}


def decide(data, split, log_p, offset) -> dict:
    """Score the classes that a decision rule's offsets choose."""
    where = (data.split == split) & (data.y >= 0)
    truth = data.y[where]
    found = (log_p[where[data.split == split]].astype(float) + offset).argmax(axis=1)
    present = np.unique(truth)
    return {
        "macro_f1": f1_score(truth, found, labels=present, average="macro", zero_division=0),
        "accuracy": accuracy_score(truth, found),
    }


def score(data, split, log_p, offsets, rules=RULES) -> dict:
    """Score the probabilities of a split under some decision rules."""
    where = data.split == split
    truth, groups = data.y[where], data.groups[where]
    human = truth >= 0
    truth, groups = truth[human], groups[human]
    labels = np.arange(len(data.classes))
    out = {}
    for rule in rules:
        offset = offsets[RULES.index(rule)]
        p = softmax(log_p[human].astype(float) + offset, axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            concordance = within_session_concordance(truth, p, groups=groups, labels=labels)
        out[rule] = decide(data, split, log_p, offset) | {
            "concordance": concordance,
            "log_loss": log_loss(truth, p, labels=labels),
            "ece": expected_calibration_error(truth, p, labels=labels),
        }
    return out


def usable(row, n_labels) -> bool:
    """Tell whether a row can be made from so many labels."""
    return n_labels > 0 or ROWS[row][0] != "human"


def tune_unit(task, seed, rows, paths) -> dict:
    """Score every setting of some rows on dev with one seed."""
    limit_threads()
    data = load_components(task, *paths)
    y = draw_labels(data, TUNING_LABELS, seed)
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        soft = prepare(data, y, seed)
        for row in rows:
            for i, setting in enumerate(ROWS[row][1]):
                made = run_row(row, setting, data, y, soft, seed, "dev")
                scores = score(data, "dev", **made)
                found[f"{row}|{i}"] = {rule: scores[rule]["macro_f1"] for rule in RULES}
    return found


def lever_unit(task, n_labels, seed, paths) -> list[dict]:
    """Score every lever on the dev sessions of a task."""
    limit_threads()
    data = copy(load_components(task, *paths, 2))
    y = draw_labels(data, n_labels, seed)
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        soft = prepare(data, y, seed)
        for name, change in LEVERS.items():
            setting = HEAVY_PAIRS | change
            data.X = load_components(task, *paths, setting.pop("n_turns", 2)).X
            made = run_row("skpref", setting, data, y, soft, seed, "dev")
            scores = score(data, "dev", **made)
            key = {"task": task, "n_labels": n_labels, "seed": seed, "lever": name}
            lines.append(key | scores["argmax"])
    return lines


def run_levers(args):
    """Compare the levers with the default on dev, and write `levers.md`."""
    folder = args.cache / "study" / "levers"
    folder.mkdir(parents=True, exist_ok=True)
    units = list(product(TUNING_SEEDS, args.tasks, LEVER_BUDGETS))
    paths = (str(args.data_dir), str(args.cache))
    jobs = [delayed(lever_unit)(task, n, seed, paths) for seed, task, n in units]
    parallel = Parallel(args.jobs, return_as="generator_unordered")
    lines = [line for found in tqdm(parallel(jobs), total=len(jobs)) for line in found]
    found = pd.DataFrame(lines)
    found.to_parquet(folder / "levers.parquet")
    wide = found.set_index(["task", "n_labels", "seed", "lever"])[list(METRICS)].unstack("lever")
    out = [
        "| lever | labels | macro-F1 | accuracy | concordance | tasks gained / lost, macro-F1 |",
        "| --- " * 6 + "|",
    ]
    for name, n in product(LEVERS, LEVER_BUDGETS):
        cells, by_task = [], None
        for metric in METRICS:
            change = (wide[metric][name] - wide[metric]["as it is"]).xs(n, level="n_labels")
            by_seed = change.groupby("seed").mean()
            cells.append(
                f"{100 * change.mean():+.1f} ({', '.join(f'{100 * v:+.1f}' for v in by_seed)})"
            )
            if metric == "macro_f1":
                by_task = change.groupby("task").mean()
        gained = f"{(by_task > 0.005).sum()} / {(by_task < -0.005).sum()}"
        out.append(f"| {name} | {n} | {' | '.join(cells)} | {gained} |")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "levers.md").write_text(
        "\n".join(["# Levers", "", LEVERS_INTRODUCTION, "", *out, ""])
    )


def run_unit(task, n_labels, seed, chosen, paths) -> dict:
    """Train rows with the settings chosen for them, and predict the test sessions."""
    limit_threads()
    data = load_components(task, *paths)
    y = draw_labels(data, n_labels, seed)
    out = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        soft = prepare(data, y, seed)
        for row, setting in chosen.items():
            made = run_row(row, setting, data, y, soft, seed, "test")
            out |= {f"{row}|{name}": value for name, value in made.items()}
    return out


def limit_threads():
    """Leave the other cores to the other processes."""
    import torch

    torch.set_num_threads(1)


def save(path, **values):
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **values)
    part.replace(path)


def tune(task, rows, args) -> dict:
    """Find setting and rule of the best mean macro-F1 on dev, for each row."""
    path = args.cache / "study" / task / "tuned.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    missing = [r for r in rows if known.get(r, {}).get("tried") != ROWS[r][1]]
    if not missing:
        return known
    paths = (str(args.data_dir), str(args.cache))
    jobs = [delayed(tune_unit)(task, s, [r], paths) for r in missing for s in TUNING_SEEDS]
    bar = tqdm(total=len(jobs), desc=f"{task}: tuning", mininterval=10)
    tried = []
    for found in Parallel(args.jobs, return_as="generator")(jobs):
        tried.append(found)
        bar.update()
    for row in missing:
        means = np.array(
            [
                [
                    np.mean([f[f"{row}|{i}"][rule] for f in tried if f"{row}|{i}" in f])
                    for rule in RULES
                ]
                for i in range(len(ROWS[row][1]))
            ]
        )
        i, rule = np.unravel_index(means.argmax(), means.shape)
        known[row] = {
            "tried": ROWS[row][1],
            "setting": ROWS[row][1][i],
            "rule": RULES[rule],
            "dev_macro_f1": means.max(),
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1))
    return known


def run_and_save(task, n_labels, seed, chosen, args):
    """Run what a unit still lacks, and keep its predictions."""
    path = args.cache / "study" / task / f"{n_labels}-{seed}.npz"
    kept = dict(np.load(path)) if path.is_file() else {}
    wanted = {
        row: setting
        for row, setting in chosen.items()
        if usable(row, n_labels) and str(kept.get(f"{row}|setting")) != json.dumps(setting)
    }
    if wanted:
        kept |= run_unit(task, n_labels, seed, wanted, (str(args.data_dir), str(args.cache)))
        kept |= {f"{row}|setting": np.array(json.dumps(s)) for row, s in wanted.items()}
        save(path, **kept)


def embed(args):
    """Have each task's embeddings in the cache before the workers ask for them."""
    for task in args.tasks:
        load_task(task, args.data_dir, args.cache)


def run(args):
    """Tune, then run seed by seed, so that a study cut short has all tasks."""
    tuned = {task: tune(task, args.rows, args) for task in args.tasks}
    units = list(product(range(args.seeds), args.tasks, args.budgets))
    jobs = [
        delayed(run_and_save)(
            task, n, seed, {r: tuned[task][r]["setting"] for r in args.rows}, args
        )
        for seed, task, n in units
    ]
    parallel = Parallel(args.jobs, return_as="generator_unordered")
    for _ in tqdm(parallel(jobs), total=len(jobs), desc="runs", mininterval=10):
        pass


def read_runs(args) -> tuple[pd.DataFrame, dict, dict]:
    """Score the kept predictions, one line per run; give the counts of their sessions, too.

    The first counts are those of the rule chosen on dev, the second those of the last rule.
    """
    lines, counts, counts_of_last = [], {}, {}
    for task in args.tasks:
        path = args.cache / "study" / task / "tuned.json"
        if not path.is_file():
            continue
        tuned = json.loads(path.read_text())
        data = load_task(task, args.data_dir, args.cache)
        for n_labels, seed in product(args.budgets, range(args.seeds)):
            path = args.cache / "study" / task / f"{n_labels}-{seed}.npz"
            kept = dict(np.load(path)) if path.is_file() else {}
            for row in [r for r in args.rows if f"{r}|log_p" in kept]:
                log_p, offsets = kept[f"{row}|log_p"], kept[f"{row}|offsets"]
                rule = tuned[row]["rule"]
                key = {"task": task, "n_labels": n_labels, "seed": seed, "row": row}
                chosen = {"rule": rule, "setting": str(kept[f"{row}|setting"])}
                chosen |= score(data, "test", log_p, offsets, [rule])[rule]
                for name, offset in zip(RULES, offsets, strict=True):
                    found = decide(data, "test", log_p, offset)
                    chosen |= {f"{metric}, {name}": value for metric, value in found.items()}
                lines.append(key | chosen)
                key = (task, n_labels, seed, row)
                counts_of_last[key] = count(data, log_p.astype(float) + offsets[-1])
                counts[key] = counts_of_last[key]
                if rule != RULES[-1]:
                    offset = offsets[RULES.index(rule)]
                    counts[key] = count(data, log_p.astype(float) + offset)
    return pd.DataFrame(lines), counts, counts_of_last


def count(data, log_p):
    """Count what the metrics of each test session add up from."""
    where = data.split == "test"
    session = check_groups(data.groups[where], where.sum())
    return _count(softmax(log_p, axis=1), data.y[where], session, session.max() + 1)


def rivals(args) -> dict:
    """Rows to compare with, each with the row that it is in every task."""
    tuned = {
        task: json.loads((args.cache / "study" / task / "tuned.json").read_text())
        for task in args.tasks
    }
    best = {
        task: max(
            (r for r in DISTILLED if r in args.rows and r in rows),
            key=lambda r: rows[r]["dev_macro_f1"],
            default=None,
        )
        for task, rows in tuned.items()
    }
    fixed = {r: dict.fromkeys(args.tasks, r) for r in args.rows}
    return {"best-tuned distillation": best} | fixed


def compare(counts, ours, rows, args, lines) -> dict:
    """Add the table of a row against each rival to the lines; give the differences."""
    lines += ["| rival | labels | macro-F1 | accuracy | concordance | won / tied / lost |"]
    lines += ["| --- " * 6 + "|"]
    found = {}
    for name, rival_of in rivals(args).items():
        if name == ours or not set(rival_of.values()) <= set(rows):
            continue
        found[name] = differences(counts, ours, rival_of, args.tasks, args.budgets, args.seeds)
        known = set(found[name]["n_labels"])
        lines += [summary_line(name, n, found[name]) for n in args.budgets if n in known]
    return found


def table_by_task(detail, args) -> list[str]:
    """Table of the differences to the best-tuned distillation, a line per task and budget."""
    lines = ["| task | rival | labels | macro-F1 | accuracy | concordance |"]
    lines += ["| --- " * 6 + "|"]
    best = rivals(args)["best-tuned distillation"]
    for _, d in detail[detail["task"] != "mean of tasks"].iterrows():
        cells = " | ".join(cell(d, m) for m in METRICS)
        lines.append(f"| {d['task']} | {best[d['task']]} | {d['n_labels']} | {cells} |")
    return lines


def report(args):
    """Write the tables, the plot and a line per run."""
    runs, counts, counts_of_last = read_runs(args)
    args.tasks = [t for t in args.tasks if t in set(runs["task"])]
    args.out.mkdir(parents=True, exist_ok=True)
    runs.to_parquet(args.out / "study.parquet", compression="zstd")
    rows = [r for r in args.rows if r in set(runs["row"])]
    lines = ["# Study", "", "`python benchmarks/study.py`", "", INTRODUCTION, ""]
    seeds = runs.groupby("row", sort=False)["seed"].nunique()
    lines += ["Seeds per row: " + ", ".join(f"{r} {seeds[r]}" for r in rows) + ".", ""]
    lines += [
        "## Mean over tasks",
        "",
        "Macro-F1 / accuracy / concordance, mean over tasks and seeds.",
        "",
    ]
    lines += table_of_means(runs, rows, args.budgets)
    lines += [
        "The same with one rule for all rows and tasks, macro-F1 / accuracy: which rule is best on "
        "dev is itself a matter of chance.",
        "",
    ]
    for rule in RULES:
        lines += [f"### {rule}", ""]
        columns = [f"{metric}, {rule}" for metric in ("macro_f1", "accuracy")]
        lines += table_of_means(runs, rows, args.budgets, columns)
    plotted = {}
    for ours in [r for r in OURS if r in rows]:
        lines += [f"## {ours}, less each rival", ""]
        lines += [
            "Mean over tasks of the paired difference, in points, with its 95% interval; then "
            "tasks won / tied / lost in macro-F1 (the interval excludes 0).",
            "",
        ]
        found = compare(counts, ours, rows, args, lines)
        lines += ["", f"All rows by one rule, {RULES[-1]}:", ""]
        by_one_rule = compare(counts_of_last, ours, rows, args, lines)
        if "best-tuned distillation" not in found:
            continue
        detail = found["best-tuned distillation"]
        plotted[ours] = detail
        lines += ["", f"### {ours}, less the best-tuned distillation, by task", ""]
        lines += table_by_task(detail, args)
        lines += ["", f"All rows by one rule, {RULES[-1]}:", ""]
        lines += [*table_by_task(by_one_rule["best-tuned distillation"], args), ""]
    for task in args.tasks:
        lines += [f"## {task}", ""]
        lines += table_of_means(runs[runs["task"] == task], rows, args.budgets)
    lines += ["Settings and rules chosen on dev:", ""]
    for task in args.tasks:
        tuned = json.loads((args.cache / "study" / task / "tuned.json").read_text())
        chosen = {r: [tuned[r]["setting"], tuned[r]["rule"]] for r in rows if r in tuned}
        lines += [f"- {task}: `{json.dumps(chosen)}`"]
    (args.out / "study.md").write_text("\n".join([*lines, ""]))
    plot(runs, plotted, rows, args.out / "study.png")


def parse_args(argv=None):
    """Read the command line."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="skpref and its rivals on real dialogues.")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=TASK_NAMES)
    parser.add_argument("--rows", type=lambda text: text.split(";"), default=list(ROWS))
    parser.add_argument(
        "--budgets", type=lambda text: [int(n) for n in text.split(",")], default=BUDGETS
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("SKPREF_DATA"),
        help="folder of the parquet files (default: environment variable SKPREF_DATA)",
    )
    parser.add_argument("--cache", type=Path, default=here / ".cache")
    parser.add_argument("--out", type=Path, default=here / "results")
    parser.add_argument("--levers", action="store_true", help="compare variants on dev instead")
    parser.add_argument("--report-only", action="store_true", help="make the tables anew")
    args = parser.parse_args(argv)
    if args.data_dir is None:
        parser.error(
            "no data directory; give --data-dir or set SKPREF_DATA to the folder of the parquets"
        )
    for name, known in (("tasks", TASKS), ("rows", ROWS)):
        if unknown := set(getattr(args, name)) - set(known):
            parser.error(f"--{name}: unknown {sorted(unknown)}; choose from {list(known)}")
    return args


if __name__ == "__main__":
    arguments = parse_args()
    if not arguments.report_only:
        embed(arguments)
    if arguments.levers:
        run_levers(arguments)
        raise SystemExit
    if not arguments.report_only:
        run(arguments)
    report(arguments)
