import re

import pytest

from skpref import SentenceEncoder, _sentence_models
from skpref._sentence_models import load_sentence_transformer, model_identity


def test_unreachable_hub_gets_a_single_request(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    requested = []

    def model_info(name, timeout):
        requested.append(name)
        raise ConnectionError("no route to the hub\nmore")

    monkeypatch.setattr(hub, "model_info", model_info)
    with pytest.raises(OSError, match=re.escape("(no route to the hub). Check the name.")):
        load_sentence_transformer("someone/no-such-model")
    assert requested == ["someone/no-such-model"]


def test_a_model_on_disk_is_loaded_silently(tiny_model, capfd):
    from transformers.utils import logging

    logging.enable_progress_bar()
    load_sentence_transformer(tiny_model)
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


def test_hub_model_is_downloaded_before_it_is_identified(tiny_model, monkeypatch):
    commits = []
    monkeypatch.setattr(
        _sentence_models, "_downloaded_commit", lambda *_: commits[-1] if commits else None
    )

    def download(model_name, **options):
        commits.append("abc")
        return load_sentence_transformer(tiny_model, device="cpu")

    monkeypatch.setattr(_sentence_models, "load_sentence_transformer", download)
    assert model_identity("someone/tiny", None) == "someone/tiny@abc"
    assert SentenceEncoder("someone/tiny")._identity() == "someone/tiny@abc"
