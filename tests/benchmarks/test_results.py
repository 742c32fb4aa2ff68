"""The committed pages are what the commands write from the committed figures."""

import json
from importlib import import_module

import pandas as pd
import pytest

from benchmarks import _study_report, study
from benchmarks._common import RESULTS, write_lines

# Those whose page is made from their JSON alone.
COMMANDS = [
    "asking",
    "coverage",
    "dialogue_state",
    "encoders",
    "finetune",
    "forecast",
    "labeling",
    "multilabel",
    "next_sessions",
    "ordinal",
    "shared_error",
    "speed",
    "suspects",
]


@pytest.mark.parametrize("name", COMMANDS)
def test_page_is_made_from_the_json(name, tmp_path):
    command = import_module(f"benchmarks.{name}")
    result = json.loads((RESULTS / f"{name}.json").read_text())
    write_lines(tmp_path / "page.md", command.page(result))
    assert (tmp_path / "page.md").read_text() == (RESULTS / f"{name}.md").read_text()


def test_means_of_the_study_are_made_from_its_runs():
    runs = pd.read_parquet(RESULTS / "study.parquet")
    rows = [row for row in study.ROWS if row in set(runs["row"])]
    budgets, tasks = sorted(runs["n_labels"].unique()), list(study.TASKS)
    text = (RESULTS / "study.md").read_text()
    lines = _study_report.sections_of_means(runs, rows, budgets)
    assert "\n".join(lines) in text
    for task in tasks:
        lines = _study_report.table_of_means(runs[runs["task"] == task], rows, budgets)
        assert "\n".join([f"## {task}", "", *lines]) in text


def test_differences_of_the_study_are_those_of_its_runs():
    runs = pd.read_parquet(RESULTS / "study.parquet")
    wide = runs.pivot(index=["task", "n_labels", "seed"], columns="row", values="macro_f1")
    change = (wide["skpref, default"] - wide["distillation, balanced"]).dropna()
    means = change.groupby(["n_labels", "task"]).mean().groupby("n_labels").mean()
    section = (RESULTS / "study.md").read_text().split("## skpref, default, minus each rival")[1]
    for n_labels, mean in means.items():
        assert f"| distillation, balanced | {n_labels} | {100 * mean:+.1f} [" in section


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.md")), ids=lambda path: path.stem)
def test_page_names_its_command(path):
    command = path.stem if not path.stem.startswith("ablation-") else "ablations"
    command = {"levers": "study"}.get(command, command)
    assert f"`python -m benchmarks.{command}" in path.read_text()
