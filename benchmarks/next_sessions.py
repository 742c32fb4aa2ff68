"""Sessions chosen for labelling against sessions drawn at random, on the tasks of the study.

    python -m benchmarks.next_sessions --data-dir DATA --jobs 2

A run that was stopped resumes from the lines in `results/next_sessions.json`. Writes that file and
`next_sessions.md`.
"""

import argparse
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import entropy
from sklearn.preprocessing import normalize
from sklearn.utils import Bunch

from benchmarks._common import (
    add_data_options,
    limit_threads,
    markdown_table,
    names,
    parse_with_data,
    quiet,
    read_json,
    run_and_keep,
    write_lines,
)
from benchmarks._tasks import CHATS, TASKS, load_any
from benchmarks.forecast import make_classifier, score

BUDGETS = [50, 100, 200, 400]
N_SESSIONS = 150
RULES = ["uncertain", "disagree", "uncertain, unlike", "rare, unlike", "unlike"]
BAR = 0.8
CHOICES = [*(task for task in TASKS if task != "weights-task"), CHATS]
INTRODUCTION = f"""`python -m benchmarks.next_sessions`: does it pay to choose the sessions that
people label next? Each run takes {N_SESSIONS} train sessions of a task (all, if it has fewer), and
labels some at random until {BUDGETS[0]} labels are there. Then, up to {BUDGETS[1]}, {BUDGETS[2]}
and {BUDGETS[3]} labels, the classifier is fitted again and more whole sessions are added: at
random, or the first ones by a rule. The tasks are those of the study but the weights task, which
has ten sessions, and the support chats.

- *uncertain*: entropy of the mean of the classifier's and the LLM's probabilities.
- *disagree*: the probability that classes drawn from the classifier and from the LLM differ.
- *unlike*: cosine distance between the mean features of the session and those of the nearest
  session that is labelled or chosen; *uncertain, unlike* is the product.
- *rare, unlike*: the same with p (1 - p) / mean p, summed over classes, in place of the entropy.

All are means over the utterances of a session, so that a long session is not chosen for its length.
The classifier is *skpref* of the [forecasts](forecast.md); it is scored on the test sessions.

*Labels needed* is how many labels a rule needs for the macro-F1 that random sessions give with
{BUDGETS[1]}, {BUDGETS[2]} and {BUDGETS[3]}, as a share of these, from the means over the seeds,
interpolated on a logarithmic scale; *never* if {BUDGETS[3]} chosen ones do not reach it. A task
counts for a rule if that share is at most {BAR}. The differences are those to random sessions in
points, with their standard errors over the seeds."""
WITH = [f"{metric} with {b}" for metric in ("macro-F1", "accuracy") for b in BUDGETS[1:]]


def utterance_worth(rule: str, network: np.ndarray, llm: np.ndarray) -> np.ndarray:
    """Say what each utterance counts, by the probabilities of the classifier and of the LLM."""
    llm = np.where(np.isnan(llm), network, llm)
    pool = (network + llm) / 2
    if rule == "unlike":
        return np.ones(len(pool))
    if rule == "disagree":
        return 1 - (network * llm).sum(axis=1)
    if rule.startswith("rare"):
        return (pool * (1 - pool) / pool.mean(axis=0)).sum(axis=1)
    return entropy(pool, axis=1)


def session_means(values: np.ndarray, session: np.ndarray) -> np.ndarray:
    """Average rows by session."""
    return pd.DataFrame(values).groupby(session).mean().to_numpy()


def choose(worth, centres, size, chosen, n_labels) -> np.ndarray:
    """Add sessions, the most worth first, until they have enough labels.

    `centres` are unit vectors of the sessions, or None if it does not matter how alike they are.
    """
    chosen, left = list(chosen), size > 0
    left[chosen] = False
    while size[chosen].sum() < n_labels and left.any():
        distance = 1 if centres is None else 1 - (centres @ centres[chosen].T).max(axis=1)
        chosen.append(int(np.argmax(np.where(left, worth * distance, -np.inf))))
        left[chosen[-1]] = False
    return np.array(chosen)


def draw(data: Bunch, seed: int) -> Bunch:
    """Draw the sessions of a run, and the order in which random ones are labelled."""
    rng = np.random.RandomState(seed)
    train = data.split == "train"
    kept = rng.permutation(np.unique(data.groups[train]))[:N_SESSIONS]
    rows = train & np.isin(data.groups, kept)
    session = np.unique(data.groups[rows], return_inverse=True)[1]
    size = np.bincount(session, data.y[rows] >= 0)
    return Bunch(rows=rows, session=session, size=size, order=rng.permutation(np.flatnonzero(size)))


def first_sessions(drawn: Bunch, n_labels: int) -> np.ndarray:
    """Return the first random sessions that have enough labels together."""
    n_before = np.cumsum(drawn.size[drawn.order]) - drawn.size[drawn.order]
    return drawn.order[n_before < n_labels]


def run_unit(task: str, seed: int, paths) -> list[dict]:
    """Label more and more sessions by each rule; return a line per rule and budget."""
    limit_threads()
    data = load_any(task, *paths)
    drawn = draw(data, seed)
    X, scores = data.X[drawn.rows], data.llm_scores[drawn.rows]
    centres = normalize(session_means(X, drawn.session))

    def fit(chosen):
        y = np.full(len(data.y), -1)
        y[drawn.rows] = np.where(np.isin(drawn.session, chosen), data.y[drawn.rows], -1)
        classifier = make_classifier("skpref", data, seed)
        return classifier, score(classifier, data, y, drawn.rows)

    def line(rule, budget, chosen, scored):
        n_labels = int(drawn.size[chosen].sum())
        key = {"task": task, "seed": seed, "rule": rule, "budget": budget}
        return key | {"n_labels": n_labels, "n_sessions": len(chosen)} | scored

    start = first_sessions(drawn, BUDGETS[0])
    with quiet():
        first, scored = fit(start)
        lines = [line("random", BUDGETS[0], start, scored)]
        for budget in BUDGETS[1:]:
            chosen = first_sessions(drawn, budget)
            lines.append(line("random", budget, chosen, fit(chosen)[1]))
        for rule in RULES:
            classifier, chosen = first, start
            for budget in BUDGETS[1:]:
                llm = classifier.calibrator_.transform(scores)
                worth = utterance_worth(rule, classifier.predict_proba(X), llm)
                worth = session_means(worth, drawn.session)[:, 0]
                near = centres if "unlike" in rule else None
                chosen = choose(worth, near, drawn.size, chosen, budget)
                classifier, scored = fit(chosen)
                lines.append(line(rule, budget, chosen, scored))
    return lines


def run(args) -> list[dict]:
    """Run the units that are not in the file yet, seed by seed, and return all lines."""
    path = args.out / "next_sessions.json"
    lines = read_json(path, [])
    known = {(line["task"], line["seed"]) for line in lines}
    paths = str(args.data_dir), str(args.cache)
    units = [
        (task, seed, paths)
        for seed, task in product(range(args.seeds), args.tasks)
        if (task, seed) not in known
    ]
    for task in dict.fromkeys(unit[0] for unit in units):  # embed before several processes ask
        load_any(task, *paths)
    return run_and_keep(run_unit, units, lines, path, args.jobs, "choosing sessions")


def labels_needed(curve: pd.Series, value: float) -> float:
    """Interpolate at how many labels a curve, by number of labels, first reaches a value."""
    best = np.maximum.accumulate(curve.to_numpy())
    if value > best[-1]:
        return np.inf
    return float(np.exp(np.interp(value, best, np.log(curve.index.to_numpy(float)))))


def shares_needed(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the labels needed by rule (rows) and budget, as a share of those of random ones."""
    curves = runs.groupby(["rule", "budget"])["macro_f1"].mean().unstack("budget")
    random = curves.loc["random"]
    curves = curves.fillna({BUDGETS[0]: random[BUDGETS[0]]})
    return pd.DataFrame(
        {b: [labels_needed(curves.loc[r], random[b]) / b for r in RULES] for b in BUDGETS[1:]},
        index=RULES,
    )


def differences(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return differences to random sessions in points as text, by rule (rows) and budget."""
    wide = 100 * runs.pivot(index=["budget", "seed"], columns="rule", values=metric)
    change = wide[RULES].sub(wide["random"], axis=0).loc[BUDGETS[1:]].groupby("budget")
    mean, error = change.mean().T, change.sem().T
    return mean.map("{:+.1f}".format) + " ± " + error.map("{:.1f}".format)


def rows_of_differences(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Return the cells of each rule: macro-F1 at each budget, then accuracy."""
    both = [differences(runs, metric) for metric in ("macro_f1", "accuracy")]
    return {rule: [*both[0].loc[rule], *both[1].loc[rule]] for rule in RULES}


def page(lines: list[dict]) -> list[str]:
    """Return the lines of the page."""
    runs = pd.DataFrame(lines)
    by_task = dict(iter(runs.groupby("task", sort=False)))
    shares = {task: shares_needed(some) for task, some in by_task.items()}
    counts = sum((table <= BAR).astype(int) for table in shares.values())
    rows = [[rule, *(f"{n} of {len(by_task)}" for n in counts.loc[rule])] for rule in RULES]
    header = ["rule", *(f"labels needed for {b} random ones" for b in BUDGETS[1:])]
    title = f"## Tasks on which at most {BAR:.0%} of the labels do"
    text = ["# Which sessions to label next", "", INTRODUCTION, "", title, ""]
    text += markdown_table(header, rows)
    mean = runs.groupby(["seed", "rule", "budget"])[["macro_f1", "accuracy"]].mean().reset_index()
    rows = [[rule, *cells] for rule, cells in rows_of_differences(mean).items()]
    text += ["", "## Mean over the tasks", "", *markdown_table(["rule", *WITH], rows)]
    for task, some in by_task.items():
        random = some[some["rule"] == "random"].groupby("budget")["macro_f1"].mean()
        curve = ", ".join(f"{100 * value:.1f} with {b}" for b, value in random.items())
        table = shares[task].map("{:.2f}".format).replace("inf", "never")
        rows = [[r, *table.loc[r], *cells] for r, cells in rows_of_differences(some).items()]
        header = ["rule", *(f"labels needed for {b}" for b in BUDGETS[1:]), *WITH]
        n_seeds = some["seed"].nunique()
        text += ["", f"## {task}", "", f"{n_seeds} seeds. Random sessions, macro-F1: {curve}.", ""]
        text += markdown_table(header, rows)
    return text


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Sessions chosen for labelling, and random ones.")
    parser.add_argument("--tasks", type=names(), default=CHOICES)
    parser.add_argument("--seeds", type=int, default=10)
    add_data_options(parser)
    return parse_with_data(parser, argv, tasks=CHOICES)


def main(argv=None) -> None:
    """Run and write the results."""
    args = parse_args(argv)
    write_lines(args.out / "next_sessions.md", page(run(args)))


if __name__ == "__main__":
    main()
