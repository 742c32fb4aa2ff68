import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator

import skpref

ESTIMATORS = [
    v for v in vars(skpref).values() if isinstance(v, type) and issubclass(v, BaseEstimator)
]


def test_all_names_what_is_there():
    assert sorted(skpref.__all__) == sorted(set(skpref.__all__))
    assert all(hasattr(skpref, name) for name in skpref.__all__)
    assert {e.__name__ for e in ESTIMATORS} == {
        "DialogueContext",
        "DialogueFeatures",
        "IntraSessionPairSampler",
        "KNNLabelSmoother",
        "LLMCascadeClassifier",
        "LLMLabeler",
        "LLMScoreCalibrator",
        "PairwisePreferenceClassifier",
        "PairwisePreferenceTextClassifier",
        "SentenceEncoder",
    }


def test_version_is_that_of_the_package():
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert skpref.__version__ == project["version"]


def test_import_loads_no_torch_skorch_or_sentence_transformers():
    code = (
        "import sys, skpref; "
        "print(*{'torch', 'skorch', 'sentence_transformers', 'matplotlib', 'openai'} "
        "& set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_parameters_have_documented_names_and_html(estimator):
    required = {
        skpref.LLMLabeler: {"classes": ["a", "b"], "model": "m"},
        skpref.LLMCascadeClassifier: {"classifier": skpref.PairwisePreferenceClassifier()},
    }
    made = estimator(**required.get(estimator, {}))
    documented = re.findall(r"^    ([\w, ]+) :", estimator.__doc__, re.MULTILINE)
    names = {name.strip() for line in documented for name in line.split(",")}
    assert set(made.get_params(deep=False)) <= names
    assert estimator.__name__ in made._repr_html_()


def test_private_scikit_learn_names_come_through_one_file():
    package = Path(skpref.__file__).parent
    for path in package.rglob("*.py"):
        if path.name == "_sklearn.py":
            continue
        for line in path.read_text().splitlines():
            if line.startswith(("from sklearn", "import sklearn")):
                module, _, names = line.partition(" import ")
                assert "._" not in module, f"{path.name}: {line}"
                assert not any(n.strip().startswith("_") for n in names.split(",")), line
