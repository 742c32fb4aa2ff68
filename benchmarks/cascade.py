"""The cascade: quality by the share of utterances that the LLM is asked about, on ten tasks.

    python -m benchmarks.cascade --data-dir DATA --jobs 2

Network, LLM and pool are fitted within the train sessions, with 200 labels of random sessions (16
labelled chats of the support chats, in four folds). Accuracy is that of ``decision="argmax"``, the
macro-F1 that of ``decision="macro_f1"``, for each row alike. Writes `results/cascade.md`,
`cascade.json` and `cascade.png`. A run that was stopped resumes.
"""

import argparse
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Memory
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

from benchmarks._common import (
    add_data_options,
    limit_threads,
    markdown_table,
    names,
    parse_with_data,
    quiet,
    read_json,
    run_parallel,
    save_figure,
    subplots,
    write_json,
    write_lines,
)
from benchmarks._runs import draw_labels
from benchmarks._tasks import CHATS, TASKS, load_components
from skpref import (
    DialogueContext,
    LLMCascadeClassifier,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    SentenceEncoder,
)
from skpref.datasets import load_support_chats

N_LABELS = 200
SHARES = [0.0, 0.1, 0.2, 0.3, 0.5, 1.0]
DECISIONS = {"accuracy": "argmax", "macro_f1": "macro_f1"}
LLM = "LLM alone"


def _fit(classifier, X, y, groups, llm_scores):
    return clone(classifier).fit(X, y, groups=groups, llm_scores=llm_scores)


class Remembered(ClassifierMixin, BaseEstimator):
    """A classifier whose fits are kept on disk, so that both decisions share them."""

    __metadata_request__fit = {"groups": True, "llm_scores": True}

    def __init__(self, classifier: Any, folder: str, classes: Any = None) -> None:
        self.classifier = classifier
        self.folder = folder
        self.classes = classes

    def fit(self, X, y, groups=None, llm_scores=None) -> "Remembered":
        """Fit the classifier, or take the fit of the same arguments."""
        fit = Memory(self.folder, verbose=0).cache(_fit)
        classifier = clone(self.classifier).set_params(classes=self.classes)
        self.classifier_ = fit(classifier, X, y, groups, llm_scores)
        self.classes_ = self.classifier_.classes_
        return self

    def predict_proba(self, X):
        """Return the classifier's probabilities."""
        return self.classifier_.predict_proba(X)


def load_chats_fold(seed: int, fold: int, cache: str):
    """Return features, labels to learn from, truth, sessions, scores and the train rows."""
    chats = load_support_chats()
    encoder = SentenceEncoder(cache=str(Path(cache) / "chats"))
    encode = make_pipeline(DialogueContext(n_turns=0, speaker="speaker"), encoder)
    X = np.asarray(encode.fit_transform(chats.frame), dtype=np.float32)
    truth = np.searchsorted(chats.classes, chats.frame["label"].to_numpy(str))
    groups = np.asarray(chats.groups)
    labelled = np.isin(groups, groups[[label is not None for label in chats.y]])
    rest = np.flatnonzero(~labelled)
    folds = GroupKFold(4, shuffle=True, random_state=seed).split(rest, groups=groups[rest])
    test = np.isin(np.arange(len(truth)), rest[list(folds)[fold][1]])
    return X, np.where(labelled, truth, -1), truth, groups, chats.llm_scores, ~test, test


def load_study_task(task: str, seed: int, data_dir: str, cache: str):
    """Return the same for a task of the study."""
    data = load_components(task, data_dir, cache, 0)
    # The LLM can only be compared where it was asked.
    asked = ~np.isnan(data.llm_scores).all(axis=(1, 2))
    test = (data.split == "test") & (data.y >= 0) & asked
    y = draw_labels(data, N_LABELS, seed)
    if len(np.unique(data.groups[y >= 0])) < 2:  # where sessions are long
        half, other = (draw_labels(data, N_LABELS // 2, s) for s in (seed, seed + 1))
        y = np.where(half >= 0, half, other)
    X = data.X.astype(np.float32)
    return X, y, data.y, data.groups, data.llm_scores, data.split == "train", test


def score(metric: str, truth, codes) -> float:
    """Return accuracy or macro-F1, in points."""
    if metric == "accuracy":
        return 100 * accuracy_score(truth, codes)
    present = np.unique(truth)
    return 100 * f1_score(truth, codes, labels=present, average="macro", zero_division=0)


def ask_first(by_gain, scores, share: float):
    """Return the scores of the first share of the rows in an order, NaN elsewhere."""
    asked = by_gain[: round(share * len(by_gain))]
    given = np.full(scores.shape, np.nan)
    given[asked] = scores[asked]
    return given


def run_unit(task: str, seed: int, data_dir: str, cache: str) -> dict:
    """Fit the cascade for both decisions, and score each share."""
    limit_threads()
    if task == CHATS:
        loaded = load_chats_fold(*divmod(seed, 4), cache)
    else:
        loaded = load_study_task(task, seed, data_dir, cache)
    X, y, truth, groups, scores, train, test = loaded
    classes = np.arange(scores.shape[2])
    folder = str(Path(cache) / "cascade" / "fits")
    found = {}
    for metric, decision in DECISIONS.items():
        classifier = PairwisePreferenceClassifier(random_state=seed)
        cascade = LLMCascadeClassifier(
            Remembered(classifier, folder),
            LLMScoreCalibrator("auto"),
            decision=decision,
            classes=classes,
        )
        with quiet():
            cascade.fit(X[train], y[train], groups=groups[train], llm_scores=scores[train])
            by_gain = np.argsort(-cascade.expected_gain(X[test]), kind="stable")
            for share in SHARES:
                given = ask_first(by_gain, scores[test], share)
                codes = cascade.predict(X[test], llm_scores=given)
                found[f"{share:.0%}|{metric}"] = score(metric, truth[test], codes)
            llm = cascade._answer_llm(scores[test], test.sum())
        uniform = np.where(np.isnan(llm.prob), 1 / len(classes), llm.prob)
        codes = llm._replace(prob=uniform).choose()
        found[f"{LLM}|{metric}"] = score(metric, truth[test], codes)
        found["calibrator"] = cascade.calibrator_.method_
    return found


def unit_path(args, task: str, seed: int) -> Path:
    """Return the file that keeps the result of a unit."""
    return args.cache / "cascade" / f"{task}-{seed}.json"


def run_and_save(task: str, seed: int, args) -> None:
    """Run a unit unless it was run before."""
    path = unit_path(args, task, seed)
    if not path.is_file():
        write_json(path, run_unit(task, seed, str(args.data_dir), str(args.cache)))


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=names(), default=[CHATS, *TASKS])
    parser.add_argument("--seeds", type=int, default=5, help="seeds; the chats have 4 folds each")
    add_data_options(parser)
    return parse_with_data(parser, argv, tasks=[CHATS, *TASKS])


def units(args) -> list[tuple[str, int]]:
    """Return task and seed of each unit, seed by seed; a seed of the chats has four folds."""
    return [
        (task, unit)
        for seed, task in product(range(args.seeds), args.tasks)
        for unit in (range(4 * seed, 4 * seed + 4) if task == CHATS else [seed])
    ]


# --- the report ---------------------------------------------------------------------------------


def read_results(args) -> dict[str, list[dict]]:
    """Return the results of each task, of the units that were run."""
    found = {task: [] for task in args.tasks}
    for task, seed in units(args):
        if result := read_json(unit_path(args, task, seed), None):
            found[task].append(result)
    return {task: results for task, results in found.items() if results}


def mean_of(results: list[dict], row: str, metric: str) -> float:
    """Return the mean of a row over the units."""
    return float(np.mean([result[f"{row}|{metric}"] for result in results]))


def spread_of(results: list[dict], row: str, metric: str) -> float:
    """Return the standard deviation of a row over the units."""
    return float(np.std([result[f"{row}|{metric}"] for result in results], ddof=len(results) > 1))


def cell(results: list[dict], row: str) -> str:
    """Return accuracy and macro-F1, each with its standard deviation."""
    parts = [
        f"{mean_of(results, row, metric):.1f} ± {spread_of(results, row, metric):.1f}"
        for metric in DECISIONS
    ]
    return " / ".join(parts)


def count_bars(found: dict[str, list[dict]]) -> list[str]:
    """Return in how many tasks each claim holds, and where it fails."""

    def tasks_where(holds):
        kept = [task for task, results in found.items() if holds(partial(mean_of, results))]
        failed = [task for task in found if task not in kept]
        return f"{len(kept)} of {len(found)}" + (f" (not {', '.join(failed)})" if failed else "")

    def ahead(row, metric, slack=0.0):
        return lambda mean: mean(row, metric) >= mean(LLM, metric) - slack

    def best(metric, slack):
        return lambda mean: (
            mean("100%", metric) >= max(mean("0%", metric), mean(LLM, metric)) - slack
        )

    claims = {
        "30% asked, accuracy at least the LLM's": ahead("30%", "accuracy"),
        "30% asked, macro-F1 at most .5 points behind the LLM's": ahead("30%", "macro_f1", 0.5),
        "50% asked, ahead of the LLM in accuracy": ahead("50%", "accuracy"),
        "50% asked, ahead of the LLM in macro-F1": ahead("50%", "macro_f1"),
        "all asked, accuracy at least that of the better of both": best("accuracy", 0.0),
        "all asked, at most .5 points of accuracy behind the better": best("accuracy", 0.5),
        "all asked, macro-F1 at least that of the better of both": best("macro_f1", 0.0),
        "all asked, at most .5 points of macro-F1 behind the better": best("macro_f1", 0.5),
    }
    return [f"- {claim}: {tasks_where(holds)}" for claim, holds in claims.items()]


INTRODUCTION = (
    "`python -m benchmarks.cascade`: accuracy / macro-F1 on unseen sessions, in points, mean and "
    "standard deviation over seeds (support chats: seeds and folds), with 200 human labels (those "
    "of 16 chats). Accuracy is that of `decision='argmax'`, macro-F1 that of "
    "`decision='macro_f1'`, for each row alike; all rows have the same calibrator, "
    "`LLMScoreCalibrator('auto')`. The classifier is the default on embeddings of the utterance "
    "alone by all-MiniLM-L6-v2."
)


def report(args) -> None:
    """Write the table and the figure."""
    found = read_results(args)
    rows = [f"{share:.0%}" for share in SHARES]
    header = ["task", "units", *(f"{row} asked" for row in rows), LLM]
    table = [
        [task, len(results), *(cell(results, row) for row in [*rows, LLM])]
        for task, results in found.items()
    ]
    lines = [
        "# Cascade",
        "",
        INTRODUCTION,
        "",
        *markdown_table(header, table),
        "",
        *count_bars(found),
    ]
    write_lines(args.out / "cascade.md", lines)
    write_json(args.out / "cascade.json", found)
    draw(found, rows, args.out / "cascade.png")


def draw(found, rows, path: Path) -> None:
    """Draw, for each task, quality by share, minus that of the LLM alone."""
    figure, axes = subplots(2, (11, 4.6))
    for axis, metric, title in zip(axes, DECISIONS, ("accuracy", "macro-F1"), strict=True):
        for task, results in found.items():
            llm = mean_of(results, LLM, metric)
            axis.plot(
                [100 * share for share in SHARES],
                [mean_of(results, row, metric) - llm for row in rows],
                marker="o",
                markersize=3,
                label=task,
            )
        axis.axhline(0, color="0.3", linewidth=1)
        axis.set(xlabel="utterances asked about (%)", ylabel=f"{title} minus the LLM's, points")
    save_figure(figure, axes[0], path, 5)


def main(argv=None) -> None:
    """Run the units that were not run before, and write the report."""
    args = parse_args(argv)
    todo = [(task, seed, args) for task, seed in units(args)]
    for _ in run_parallel(run_and_save, todo, args.jobs, "cascade", ordered=False):
        pass
    report(args)


if __name__ == "__main__":
    main()
