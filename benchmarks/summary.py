"""One table over all tasks from the JSON files of quality.py: `python benchmarks/summary.py`."""

import json
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
ROWS = [
    "llm, calibrated",
    "human labels, logistic regression",
    "distillation",
    "distillation, balanced",
    "skpref",
]
METRICS = {"macro_f1": "macro-F1", "accuracy": "accuracy", "concordance": "concordance"}


def mean(result: dict, row: str, n_labels: int, metric: str) -> float:
    """Mean of a metric over the seeds."""
    runs = [r[metric] for r in result["runs"] if (r["row"], r["n_labels"]) == (row, n_labels)]
    return float(np.mean(runs))


def difference(result: dict, row: str, n_labels: int, metric: str) -> str:
    """Paired difference of skpref to a row: mean ± standard error over the seeds."""
    by_seed: dict = {}
    for r in result["runs"]:
        if r["n_labels"] == n_labels and r["row"] in (row, "skpref"):
            by_seed.setdefault(r["seed"], {})[r["row"]] = r[metric]
    values = np.array([pair["skpref"] - pair[row] for pair in by_seed.values()])
    return f"{values.mean():+.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def summarise(results: list[dict]) -> str:
    """Markdown of means, and of skpref's differences to distillation."""
    lines = [
        "Mean over seeds of macro-F1 / accuracy / within-session concordance on test sessions.",
        "",
        "| task | labels | " + " | ".join(ROWS) + " |",
        "| --- " * (len(ROWS) + 2) + "|",
    ]
    for result in results:
        for n in (result["labels"][0], result["labels"][-1]):
            cells = [" / ".join(f"{mean(result, r, n, m):.3f}" for m in METRICS) for r in ROWS]
            lines.append(f"| {result['task']} | {n} | " + " | ".join(cells) + " |")
    for row in ("distillation", "distillation, balanced", "skpref, pairs across sessions"):
        title = " | ".join(METRICS.values())
        lines += ["", f"skpref less “{row}”, same seeds, mean ± standard error.", ""]
        lines += [f"| task | labels | {title} |", "| --- " * 5 + "|"]
        for result in results:
            for n in result["labels"]:
                cells = [difference(result, row, n, m) for m in METRICS]
                lines.append(f"| {result['task']} | {n} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    # Other benchmarks and fine-tuned students have tables of their own.
    text = summarise([result for result in found if set(ROWS) <= set(result.get("rows", []))])
    (RESULTS / "summary.md").write_text(text)
    print(text)
