"""Encoders that are compared: a static model in its two forms, and the page."""

import numpy as np
import pytest

from benchmarks import encoders

pytest.importorskip("safetensors")
tokenizers = pytest.importorskip("tokenizers")


def write_static(folder, **tensors):
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    words = {"[UNK]": 0, "it": 1, "broke": 2, "works": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return encoders.static(folder)


def test_a_static_model_gives_the_mean_of_the_words(tmp_path):
    vectors = np.array([[0, 0], [1, 0], [0, 1], [0, -1]], dtype=np.float32)
    found = write_static(tmp_path / "plain", embeddings=vectors).fit_transform(["it broke", ""])
    assert found == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, 0]]))
    shared = write_static(
        tmp_path / "shared",
        embeddings=vectors[1:3].astype(np.int8),
        mapping=np.array([0, 0, 1, 1]),
        weights=np.array([0, 1, 3, -3], dtype=np.float32),
    )
    found = shared.fit_transform(["it broke", "it works"])
    assert found == pytest.approx(np.array([[1, 3], [1, -3]]) / 10**0.5)


def test_encoders_are_found_by_name(tmp_path):
    assert encoders.choose_encoder("TF-IDF", {}, tmp_path).steps[0][0] == "tfidfvectorizer"
    (tmp_path / "modules.json").write_text("[]")
    found = encoders.choose_encoder("mpnet", {"mpnet": str(tmp_path)}, tmp_path / "cache")
    assert found.model_name == str(tmp_path)


def test_page_begins_with_the_fastest():
    line = {"dimensions": 8, "ms, in batches": 1.0, "macro-F1": 0.5, "accuracy": 0.6}
    found = {"slow": {"ms, one": 20.0, **line}, "fast": {"ms, one": 2.0, **line}}
    lines = encoders.page(found)[-2:]
    assert lines[0].startswith("| fast | 2.00 | 8 |")
    assert lines[1].startswith("| slow | 20.00 |")
