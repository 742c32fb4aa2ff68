"""Check that a change of the code left every number as it was, to the bit.

Not a test that pytest runs, but a tool for moves and rewrites that must not change behaviour. It
fits many small models through the public API alone, so that the same script runs on the code before
and after the move, and records what they predict and what they learned::

    python -m tests.guard record /tmp/guard.npz   # on the commit before the change
    python -m tests.guard check /tmp/guard.npz    # on the commit after it

`check` prints a line per case, says which values differ, and ends with status 1 if any does. Both
runs must be on the same machine, with the same versions of the libraries: other processors and
other releases add up the same numbers in another order. The script runs on one thread.

Run as above it takes the code of the folder that it is started in. Run as a file, it takes the code
that PYTHONPATH names, so that the newest script can record the numbers of an older commit, checked
out in another folder::

    PYTHONPATH=/path/to/older python tests/guard.py record /tmp/guard.npz

The first line of the output names the code in use. `--only WORD` runs the cases whose name holds
the word. A case that is not in the reference counts as a difference: record again, with the old
code, when cases are added. Texts for people (`message`, `summary`) are not compared.
"""

import argparse
import contextlib
import os
import platform
import runpy
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import sklearn
import torch
from scipy.sparse import csr_array
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback
from threadpoolctl import threadpool_limits
from torch import nn

import skpref
from skpref import (
    DialogueContext,
    IntraSessionPairSampler,
    KNNLabelSmoother,
    LLMLabeler,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    SentenceEncoder,
)
from skpref.datasets import make_dialogues
from skpref.inspection import compare_with_distillation, preference_noise, prompt_agreement
from skpref.metrics import (
    expected_calibration_error,
    within_session_concordance,
    within_session_concordance_scorer,
)

LIBRARIES = ["numpy", "scipy", "scikit-learn", "torch", "transformers", "onnxruntime", "faiss-cpu"]
FITTED = [
    "classes_",
    "scale_",
    "offsets_",
    "decision_offsets_",
    "head_variance_",
    "class_weight_",
    "soft_labels_",
    "n_iter_",
    "n_features_in_",
    "feature_names_in_",
]
CALIBRATED = [
    "classes_",
    "method_",
    "score_type_",
    "n_prompts_",
    "prompt_weights_",
    "prompt_offsets_",
    "class_scales_",
    "class_bias_",
    "temperature_",
]
SMOOTHED = ["classes_", "class_prior_", "label_distributions_", "algorithm_", "recall_"]
FOR_PEOPLE = {"message", "summary"}
CASES = {}


def case(name):
    def register(function):
        assert name not in CASES, name
        CASES[name] = function
        return function

    return register


# --- data -----------------------------------------------------------------------------------


class Data:
    """Rows of some dialogues, and as many of others to predict."""

    def __init__(self, X, y, y_true, groups, llm_scores, new):
        self.X, self.y, self.y_true, self.groups = X, y, y_true, groups
        self.llm_scores, self.new = llm_scores, new

    def fit_params(self):
        return {"groups": self.groups, "llm_scores": self.llm_scores}


def dialogues(n_classes, labels=None, **params):
    """Dialogues in random order of the rows, some prompts of some rows without a score."""
    params = {"n_sessions": 30, "session_length": (3, 12), "labelled_fraction": 0.5} | params
    made = make_dialogues(n_features=8, n_classes=n_classes, random_state=0, **params)
    rng = np.random.RandomState(1)
    order = rng.permutation(len(made.y))
    scores = made.llm_scores.copy()
    scores[rng.uniform(size=scores.shape[:2]) < 0.1] = np.nan
    scores[:3] = np.nan
    y, y_true = made.y, made.y_true
    if labels is not None:
        y, y_true = (np.append(np.array(labels, dtype=object), [None])[v] for v in (y, y_true))
    new = rng.standard_normal((40, 8))
    return Data(made.X[order], y[order], y_true[order], made.groups[order], scores[order], new)


@cache
def data(name):
    if name == "two":
        return dialogues(2)
    if name == "three":
        return dialogues(3, ["bad", "fine", "good"])
    if name == "labelled":  # enough labels to fine-tune by default
        return dialogues(2, n_sessions=40, labelled_fraction=1.0)
    if name == "one long":  # long sessions are dealt into parts if trained by steps
        return with_a_long_session(dialogues(2, n_sessions=20, session_length=100), 1600)
    # One long session that is not dealt, since it is less than a tenth of all.
    return with_a_long_session(dialogues(2, n_sessions=150, session_length=110), 1510)


def with_a_long_session(made, length):
    groups = np.array([f"short-{i // 20}" for i in range(len(made.groups))], dtype=object)
    groups[:length] = "long"
    order = np.random.RandomState(2).permutation(len(groups))
    made.groups = groups
    for part in ("X", "y", "y_true", "groups", "llm_scores"):
        setattr(made, part, getattr(made, part)[order])
    return made


FILLER = "the a i you we it is was my your to and not of in on for"


@cache
def texts(n_classes=2, n_sessions=16, length=5):
    """Sentences with a word that shows the class, as `Data` whose X is a list of str."""
    rng = np.random.RandomState(3)
    words = ["happy love good thanks", "angry hate bad broken", "order parcel card bill"]
    y = rng.randint(n_classes, size=n_sessions * length)

    def sentence(label):
        filler = rng.choice(FILLER.split(), rng.randint(2, 12))
        return " ".join(rng.permutation([*filler, rng.choice(words[label].split())]))

    X = [sentence(label) for label in y]
    groups = np.repeat(np.arange(n_sessions), length)
    scores = rng.dirichlet(np.ones(n_classes), size=(len(y), 2)) + np.eye(n_classes)[y][:, None]
    scores /= scores.sum(axis=2, keepdims=True)
    labelled = np.where(groups % 2, y, -1)
    new = [sentence(label) for label in rng.randint(n_classes, size=12)]
    return Data(X, labelled, y, groups, scores, [*new, "", "jazz " * 80])


@cache
def tiny_model():
    """Folder of a tiny text model of random weights, removed when the process ends."""
    from transformers.utils.logging import disable_progress_bar

    folder = TemporaryDirectory()
    KEPT.append(folder)
    disable_progress_bar()
    helpers = runpy.run_path(str(Path(__file__).with_name("tiny_model.py")))
    return helpers["write_tiny_model"](folder.name)


KEPT = []


# --- what is recorded -----------------------------------------------------------------------


def attributes(estimator, names):
    return {name: getattr(estimator, name) for name in names if hasattr(estimator, name)}


def outcome(clf, X):
    """Predictions and fitted attributes of a classifier."""
    found = attributes(clf, FITTED)
    for method in ("predict_proba", "decision_function", "predict"):
        found[method] = getattr(clf, method)(X)
    columns = sorted({name for entry in clf.history_ for name in entry})
    found["history_"] = {c: [entry.get(c, np.nan) for entry in clf.history_] for c in columns}
    return found


def flatten(value, name=""):
    """Arrays of a nested value by dotted name."""
    if isinstance(value, Mapping):
        parts = [(k, v) for k, v in value.items() if k not in FOR_PEOPLE]
    elif isinstance(value, tuple | list) and any(
        isinstance(v, tuple | list | Mapping | np.ndarray) for v in value
    ):
        parts = list(enumerate(value))
    else:
        return {name: as_array(value, name)}
    flat = {}
    for key, part in parts:
        flat |= flatten(part, f"{name}.{key}" if name else str(key))
    return flat


def as_array(value, name):
    """Value as an array that can be saved without pickle."""
    array = np.asarray(value)
    if array.dtype == object:
        cells = [(type(v).__name__, repr(v)) for v in array.ravel().tolist()]
        assert not any("0x" in shown for _, shown in cells), f"{name} holds an address"
        return np.array([array.shape.__repr__(), *(f"{kind} {shown}" for kind, shown in cells)])
    return array


def as_bytes(array):
    return np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)


def difference(expected, found):
    """Describe how two arrays differ; None if they are equal to the bit."""
    if expected.dtype != found.dtype and not expected.dtype.kind == found.dtype.kind == "U":
        return f"dtype {found.dtype}, not {expected.dtype}"
    if expected.shape != found.shape:
        return f"shape {found.shape}, not {expected.shape}"
    if expected.dtype.kind == "U":
        unlike = expected != found
    else:
        unlike = (as_bytes(expected) != as_bytes(found)).any(axis=1)
    if not unlike.any():
        return None
    text = f"{unlike.sum()} of {expected.size} values"
    if expected.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            text += f", by up to {np.nanmax(np.abs(expected - found), initial=0):.3g}"
    return text


# --- classifiers on features ----------------------------------------------------------------


class Deep(nn.Module):
    def __init__(self, n_features, n_outputs, width=6):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(n_features, width), nn.Tanh(), nn.Dropout(0.2))
        self.last = nn.Linear(width, n_outputs)

    def forward(self, X):
        return self.last(self.body(X))


def ready_network(n_outputs=1):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Deep(8, n_outputs)


def classifier(module="mlp", **params):
    params = {"max_epochs": 6, "random_state": 0} | params
    return PairwisePreferenceClassifier(module, **params)


def fit(clf, d):
    return clf.fit(d.X, d.y, **d.fit_params())


LBFGS = {"module": "linear", "solver": "lbfgs"}
SMALL_STEPS = {"batch_size": 32}
LONG = {"validation_fraction": 0.0, "smoother": "passthrough", "max_epochs": 1}

FITS = {
    "mlp, 30 epochs": ("two", {"max_epochs": 30}),
    "mlp, three classes, 30 epochs": ("three", {"max_epochs": 30}),
    "mlp, hidden units and dropout": (
        "two",
        {"module__hidden_units": 16, "module__dropout": 0.3} | SMALL_STEPS,
    ),
    "linear by adam": ("two", {"module": "linear", "lr": 0.05}),
    "linear by adam, three classes": ("three", {"module": "linear", "lr": 0.05} | SMALL_STEPS),
    "linear by lbfgs": ("two", LBFGS),
    "linear by lbfgs, three classes": ("three", LBFGS),
    "linear by lbfgs, logistic": ("two", LBFGS | {"loss": "logistic", "pairwise_weight": 1.0}),
    "linear by lbfgs, pairs alone": ("three", LBFGS | {"pointwise_weight": 0.0, "tol": 1e-4}),
    "mlp by lbfgs": ("two", {"solver": "lbfgs", "max_iter": 30}),
    "loss squared_hinge": ("two", {"loss": "squared_hinge", "pairwise_weight": 1.0} | SMALL_STEPS),
    "loss hinge": ("three", {"loss": "hinge", "pairwise_weight": 1.0} | SMALL_STEPS),
    "loss logistic": ("three", {"loss": "logistic", "pairwise_weight": 1.0} | SMALL_STEPS),
    "no pairs": ("two", {"pairwise_weight": 0.0}),
    "margin fixed": ("two", {"margin": "fixed", "margin_scale": 0.7, "pairwise_weight": 1.0}),
    "margin fixed by lbfgs": ("three", LBFGS | {"margin": "fixed", "pairwise_weight": 1.0}),
    "early stopping": (
        "two",
        {
            "early_stopping": True,
            "n_iter_no_change": 2,
            "max_epochs": 40,
            "lr": 0.1,
            "validation_fraction": 0.25,
        },
    ),
    "stage2 None": ("two", {"stage2": None}),
    "stage2 offsets": ("three", {"stage2": "offsets"}),
    "stage2 head": ("three", {"stage2": "head"}),
    "stage2 finetune": ("two", {"stage2": "finetune"}),
    "stage2 finetune, three classes": ("three", {"stage2": "finetune"}),
    "decision macro_f1": ("three", {"decision": "macro_f1"}),
    "decision macro_f1, two classes": ("two", LBFGS | {"decision": "macro_f1"}),
    "class_weight None": ("two", {"class_weight": None}),
    "class_weight dict": ("three", {"class_weight": {"bad": 3.0, "good": 0.5}}),
    "calibrator and smoother passed through": (
        "two",
        {"calibrator": "passthrough", "smoother": "passthrough"},
    ),
    "calibrator isotonic, smoother of three rounds": (
        "labelled",
        {
            "calibrator": LLMScoreCalibrator("isotonic"),
            "smoother": KNNLabelSmoother(4, n_iter=3, alpha=0.5, exclude_same_group=True),
        },
    ),
    "smoother approximate": ("labelled", {"smoother": KNNLabelSmoother(algorithm="approximate")}),
    "classes given": ("three", {"classes": ["good", "fine", "bad"]}),
    "custom module": ("two", {"module": Deep, "module__width": 5, "lr": 0.01}),
    "custom module, enough labels to fine-tune": ("labelled", {"module": Deep, "lr": 0.01}),
    "custom module, head, three classes": ("three", {"module": Deep, "stage2": "head"}),
    "long session dealt into parts": ("one long", LONG | {"pairwise_weight": 1.0}),
    "long session dealt into parts, hinge": (
        "one long",
        LONG | {"loss": "hinge", "pairwise_weight": 1.0},
    ),
    "long session, logistic": ("one long", LONG | {"loss": "logistic", "pairwise_weight": 1.0}),
    "long session by lbfgs": ("one long", LONG | LBFGS | {"pairwise_weight": 1.0, "max_iter": 15}),
    "long session in one step": ("many", LONG | {"pairwise_weight": 1.0, "module": "linear"}),
    "long session in one step, pairs sampled": (
        "many",
        LONG
        | {"module": "linear", "pairwise_weight": 1.0}
        | {"pair_sampler": IntraSessionPairSampler("uniform", max_pairs_per_session=50)},
    ),
}

for strategy in ("all", "uniform", "margin", "adjacent"):
    capped = IntraSessionPairSampler(strategy, max_pairs_per_session=6, min_margin=0.02)
    FITS[f"pair sampler {strategy}, capped"] = (
        "three",
        {"pair_sampler": capped, "pairwise_weight": 1.0} | SMALL_STEPS,
    )
for weight in ("equal", "pairs"):
    FITS[f"session_weight {weight}"] = (
        "two",
        {
            "pair_sampler": IntraSessionPairSampler(session_weight=weight, min_margin=0.05),
            "pairwise_weight": 1.0,
        },
    )
    FITS[f"session_weight {weight}, pairs sampled"] = (
        "two",
        {
            "pair_sampler": IntraSessionPairSampler("uniform", session_weight=weight),
            "pairwise_weight": 1.0,
        },
    )


def fit_and_predict(name, params):
    d = data(name)
    clf = fit(classifier(**params), d)
    found = outcome(clf, d.new)
    found["training rows"] = clf.predict_proba(d.X[:50])
    found["score"] = clf.score(d.X, d.y)
    found["calibrator_"] = clf.calibrator_.transform(d.llm_scores[:50])
    return found


for name, (rows, params) in FITS.items():
    case(name)(partial(fit_and_predict, rows, params))


@case("network given as an instance")
def instance():
    d = data("two")
    return outcome(fit(classifier(ready_network()), d), d.new)


@case("labels alone")
def labels_alone():
    found = {}
    for name in ("two", "three"):
        d = data(name)
        for how, params in {"adam": {}, "lbfgs": LBFGS, "head": {"stage2": "head"}}.items():
            clf = classifier(**params).fit(d.X, d.y_true, groups=d.groups)
            found[f"{name}, {how}"] = outcome(clf, d.new)
    d = data("two")
    found["one session"] = outcome(classifier().fit(d.X, d.y_true), d.new)
    found["true and false"] = outcome(classifier().fit(d.X, d.y_true > 0, groups=d.groups), d.new)
    return found


@case("scores alone")
def scores_alone():
    d = data("three")
    found = {}
    for how, params in {"mlp": {}, "lbfgs": LBFGS | {"decision": "macro_f1"}}.items():
        found[how] = outcome(classifier(**params).fit(d.X, None, **d.fit_params()), d.new)
    two = data("two")
    clf = classifier().fit(two.X, two.y, groups=two.groups, llm_scores=two.llm_scores[:, :, 1])
    found["of the positive class"] = outcome(clf, two.new)
    return found


@case("sample_weight")
def sample_weight():
    found = {}
    for name in ("two", "three"):
        d = data(name)
        weight = np.random.RandomState(0).exponential(size=len(d.y))
        weight[::7] = 0.0
        for how, params in {"adam": {}, "lbfgs": LBFGS, "fine": {"stage2": "finetune"}}.items():
            clf = classifier(pairwise_weight=1.0, **params)
            clf.fit(d.X, d.y, **d.fit_params(), sample_weight=weight)
            found[f"{name}, {how}"] = outcome(clf, d.new)
        found[f"{name}, score"] = clf.score(d.X, d.y, sample_weight=weight)
    return found


@case("warm start")
def warm_start():
    found = {}
    ways = {"mlp": {}, "lbfgs": LBFGS | {"max_iter": 5}, "custom": {"module": Deep}}
    for how, params in ways.items():
        d = data("two")
        clf = classifier(warm_start=True, **params)
        found[how] = [outcome(fit(clf, d), d.new) for _ in range(2)]
        found[f"{how}, then labels alone"] = outcome(clf.fit(d.X, d.y_true, groups=d.groups), d.new)
    return found


@case("one random state for several fits")
def shared_random_state():
    d = data("two")
    clf = classifier(random_state=np.random.RandomState(4))
    return [outcome(fit(clf, d), d.new) for _ in range(2)]


@case("partial_fit")
def partial_fit():
    found = {}
    ways = {"mlp": {}, "macro_f1": {"module": "linear", "decision": "macro_f1"}}
    for name, classes in {"two": [0, 1], "three": ["bad", "fine", "good"]}.items():
        d = data(name)
        part = pd.factorize(d.groups)[0] % 3
        for how, params in ways.items():
            clf = classifier(pairwise_weight=1.0, **params)
            for k in range(3):
                rows = part == k
                clf.partial_fit(
                    d.X[rows],
                    d.y[rows],
                    classes=classes,
                    groups=d.groups[rows],
                    llm_scores=d.llm_scores[rows],
                )
                found[f"{name}, {how}, {k}"] = outcome(clf, d.new)
    clf = classifier(**SMALL_STEPS)
    d = data("two")
    for _ in range(2):
        clf.partial_fit(d.X, d.y_true, classes=[0, 1], groups=d.groups)
    found["labels alone"] = outcome(clf, d.new)
    return found


@case("partial_fit after fit")
def partial_fit_after_fit():
    d = data("three")
    clf = fit(classifier(), d)
    clf.partial_fit(d.X[:150], d.y[:150], groups=d.groups[:150], llm_scores=d.llm_scores[:150])
    return outcome(clf, d.new)


@case("sparse rows")
def sparse_rows():
    found = {}
    for name in ("two", "three"):
        d = data(name)
        X, new = (csr_array(np.where(np.abs(A) > 0.7, A, 0.0)) for A in (d.X, d.new))
        for how, params in {"adam": SMALL_STEPS, "lbfgs": LBFGS}.items():
            clf = classifier(**params).fit(X, d.y, **d.fit_params())
            found[f"{name}, {how}"] = outcome(clf, new)
    return found


@case("single precision")
def single_precision():
    found = {}
    ways = {"adam": {}, "lbfgs": LBFGS, "macro_f1": {"decision": "macro_f1"}}
    for name in ("two", "three"):
        d = data(name)
        X, new = d.X.astype(np.float32), d.new.astype(np.float32)
        for how, params in ways.items():
            clf = classifier(**params).fit(X, d.y, **d.fit_params())
            found[f"{name}, {how}"] = outcome(clf, new)
            found[f"{name}, {how}, in double"] = clf.predict_proba(d.new)
    return found


@case("frames")
def frames():
    d = data("three")
    names = [f"feature_{i}" for i in range(d.X.shape[1])]
    index = pd.RangeIndex(1000, 1000 + len(d.y))
    X = pd.DataFrame(d.X, columns=names, index=index)
    y, groups = pd.Series(d.y, index=index), pd.Series(d.groups, index=index, dtype="category")
    clf = classifier().fit(X, y, groups=groups, llm_scores=d.llm_scores)
    found = outcome(clf, pd.DataFrame(d.new, columns=names))
    two = data("two")
    positive = pd.DataFrame(two.llm_scores[:, :, 1], columns=["a", "b", "c"])
    clf = classifier().fit(
        pd.DataFrame(two.X, columns=names), pd.Series(two.y), groups=two.groups, llm_scores=positive
    )
    return {"three": found, "two": outcome(clf, pd.DataFrame(two.new, columns=names))}


# --- saving, ONNX ---------------------------------------------------------------------------


@case("save_pretrained and from_pretrained")
def save_and_load():
    found = {}
    for name, params, module in [
        ("two", {}, None),
        ("three", LBFGS | {"decision": "macro_f1", "class_weight": {"bad": 2.0}}, None),
        ("two", {"module": Deep, "module__width": 4}, Deep),
    ]:
        d = data(name)
        clf = fit(classifier(**params), d)
        with TemporaryDirectory() as folder:
            clf.save_pretrained(folder)
            again = PairwisePreferenceClassifier.from_pretrained(folder, module=module)
        key = f"{name}, {params.get('module', 'mlp')!s:.6}"
        found[key] = outcome(again, d.new)
        if params.get("solver") != "lbfgs":
            again.partial_fit(d.X, d.y, **d.fit_params())
            found[f"{key}, partial_fit"] = outcome(again, d.new)
    return found


def run_graph(clf, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        clf.to_onnx(path)
        session = onnxruntime.InferenceSession(path, options)
        return session.run(None, inputs)[0]


@case("ONNX")
def onnx():
    found = {}
    for name, params in {"two": {}, "three": LBFGS}.items():
        d = data(name)
        clf = fit(classifier(**params), d)
        found[name] = run_graph(clf, {"features": d.new.astype(np.float32)})
    return found


# --- texts ----------------------------------------------------------------------------------


def text_classifier(**params):
    """Classifier of texts, by the class that the code has for them."""
    params = {"model_name": tiny_model(), "max_epochs": 2, "random_state": 0} | params
    if hasattr(skpref, "PairwisePreferenceTextClassifier"):
        return skpref.PairwisePreferenceTextClassifier(**params)
    of_module = ("model_name", "max_length", "trainable_layers")
    params = {f"module__{k}" if k in of_module else k: v for k, v in params.items()}
    return PairwisePreferenceClassifier("transformer", **params)


TEXT_FITS = {
    "texts": (2, {}),
    "texts, defaults": (2, {"max_epochs": None}),
    "texts, three classes": (3, {"decision": "macro_f1", "batch_size": 16}),
    "texts, finetune": (2, {"stage2": "finetune", "finetune_epochs": 2}),
    "texts, finetune, three classes": (3, {"stage2": "finetune", "encoder_lr": 1e-3}),
    "texts, offsets": (3, {"stage2": "offsets", "lr": 0.01}),
    "texts, stage2 None": (2, {"stage2": None}),
    "texts, last layer, short": (2, {"trainable_layers": 1, "max_length": 6}),
    "texts, head alone": (3, {"trainable_layers": 0, "lr": 0.01, "module__dropout": 0.3}),
    "texts, steps of two batches": (
        2,
        {"accumulate": 2, "batch_size": 10, "warmup": 0.5, "max_grad_norm": 0.1},
    ),
    "texts, constant rates": (2, {"warmup": None, "max_grad_norm": None, "weight_decay": 0.1}),
    "texts, few tokens at once": (
        2,
        {"module__token_budget": 60, "module__gradient_checkpointing": True},
    ),
    "texts, early stopping": (2, {"early_stopping": True, "n_iter_no_change": 1, "max_epochs": 4}),
    "texts, pairs sampled": (
        3,
        {
            "loss": "logistic",
            "pairwise_weight": 1.0,
            "pair_sampler": IntraSessionPairSampler("margin", max_pairs_per_session=4),
        },
    ),
    "texts, accelerate": (2, {"accelerate": {"cpu": True}}),
}


def fit_texts(n_classes, params):
    d = texts(n_classes)
    clf = text_classifier(**params)
    if params.get("max_epochs", 2) is None:  # the default
        defaults = type(clf)().get_params()
        clf.set_params(max_epochs=defaults["max_epochs"])
    found = outcome(fit(clf, d), d.new)
    found["calibrator_"] = clf.calibrator_.transform(d.llm_scores)
    return found


for name, (n_classes, params) in TEXT_FITS.items():
    case(name)(partial(fit_texts, n_classes, params))


@case("texts, labels alone")
def text_labels_alone():
    d = texts()
    clf = text_classifier().fit(pd.Series(d.X), d.y_true, groups=d.groups)
    return outcome(clf, np.array(d.new, dtype=object))


@case("texts, enough labels to fine-tune")
def many_texts():
    d = texts(2, 42, 5)
    return outcome(text_classifier(max_epochs=1).fit(d.X, d.y_true, **d.fit_params()), d.new)


@case("texts, warm start and partial_fit")
def continued_texts():
    d = texts()
    clf = text_classifier(warm_start=True, max_epochs=1)
    found = {"first": outcome(fit(clf, d), d.new), "second": outcome(fit(clf, d), d.new)}
    found["partial_fit"] = outcome(clf.partial_fit(d.X, d.y, **d.fit_params()), d.new)
    clf = text_classifier()
    for k in range(2):
        clf.partial_fit(d.X, d.y, classes=[0, 1], **d.fit_params())
        found[f"partial_fit {k}"] = outcome(clf, d.new)
    return found


class Kill(Callback):
    """End the process, as far as the classifier is concerned, in the third epoch."""

    def on_batch_begin(self, net, **kwargs):
        if len(net.history) == 3:
            raise KilledError


class KilledError(Exception):
    pass


class Count(Callback):
    """Count the steps of a training."""

    n_steps = 0

    def on_batch_end(self, net, training=False, **kwargs):
        Count.n_steps += training


@case("texts, resumed from a checkpoint")
def resumed_texts():
    d = texts()
    found = {}
    with TemporaryDirectory() as folder:
        params = {"max_epochs": 4, "batch_size": 20, "checkpoint_dir": folder}
        # A training with other callbacks counts as the same one.
        with contextlib.suppress(KilledError):
            fit(text_classifier(callbacks=[Kill()], **params), d)
        found["files when killed"] = len(os.listdir(folder))
        Count.n_steps = 0
        clf = fit(text_classifier(callbacks=[Count()], **params), d)
        found["steps after the kill"] = Count.n_steps
        found["resumed"] = outcome(clf, d.new)
        found["files at the end"] = len(os.listdir(folder))
        found["unbroken, with checkpoint"] = outcome(fit(text_classifier(**params), d), d.new)
    params["checkpoint_dir"] = None
    found["unbroken, without"] = outcome(fit(text_classifier(**params), d), d.new)
    return found


@case("texts, save_pretrained, from_pretrained and ONNX")
def saved_texts():
    from transformers import AutoTokenizer

    d = texts(3)
    clf = fit(text_classifier(max_length=32), d)
    found = {}
    with TemporaryDirectory() as folder:
        clf.save_pretrained(folder)
        again = type(clf).from_pretrained(folder)
        found["loaded"] = outcome(again, d.new)
        tokenizer = AutoTokenizer.from_pretrained(f"{folder}/encoder")
        again.partial_fit(d.X, d.y, **d.fit_params())
        found["partial_fit"] = outcome(again, d.new)
    tokens = tokenizer(d.new, padding=True, truncation=True, return_tensors="np")
    tokens = {k: tokens[k].astype(np.int64) for k in ("input_ids", "attention_mask")}
    found["graph"] = run_graph(clf, tokens)
    return found


@case("SentenceEncoder in a pipeline")
def encoder_in_a_pipeline():
    d = texts()
    encoder = SentenceEncoder(tiny_model())
    pipe = Pipeline([("encode", encoder), ("clf", classifier())])
    pipe.fit(d.X, d.y, **{f"clf__{name}": value for name, value in d.fit_params().items()})
    return {"proba": pipe.predict_proba(d.new), "embeddings": encoder.fit_transform(d.new)}


# --- calibrator, smoother, sampler ----------------------------------------------------------


def calibrate(method):
    found = {}
    for name in ("two", "three"):
        d = data(name)
        scores = {"probability": d.llm_scores, "raw": 3 * d.llm_scores - 2}
        scores["log_odds"] = np.log(d.llm_scores)
        if name == "two":
            scores["positive"] = d.llm_scores[:, :, 1]
        else:
            scores["table"] = d.llm_scores.reshape(len(d.y), -1)
        for kind, values in scores.items():
            score_type = kind if kind in ("raw", "log_odds") else "auto"
            calibrator = LLMScoreCalibrator(method, score_type=score_type)
            found[f"{name}, {kind}"] = {
                "fit_transform": calibrator.fit_transform(values, d.y, groups=d.groups),
                "transform": calibrator.transform(values[::-1]),
                **attributes(calibrator, CALIBRATED),
            }
        found[f"{name}, without groups"] = calibrator.fit_transform(values, d.y)
        found[f"{name}, without labels"] = calibrator.fit_transform(d.llm_scores)
    return found


for method in ("mean", "batch", "temperature", "sigmoid", "isotonic", "beta", "log_pool"):
    case(f"LLMScoreCalibrator {method}")(partial(calibrate, method))


def smooth(**params):
    found = {}
    for name in ("labelled", "three"):
        d = data(name)
        soft = LLMScoreCalibrator().fit_transform(d.llm_scores, d.y, groups=d.groups)
        for kind, y in {"hard": d.y, "soft": soft}.items():
            smoother = KNNLabelSmoother(5, random_state=0, **params)
            found[f"{name}, {kind}"] = {
                "fit_transform": smoother.fit_transform(d.X, y, groups=d.groups),
                "transform": smoother.transform(d.new, groups=d.groups[: len(d.new)]),
                **attributes(smoother, SMOOTHED),
            }
    return found


for name, params in {
    "exact": {"algorithm": "exact"},
    "exact, three rounds": {"algorithm": "exact", "n_iter": 3, "alpha": 0.6},
    "other sessions, by distance": {"exclude_same_group": True, "weights": "distance"},
    "euclidean": {"metric": "euclidean", "weights": "distance"},
    "manhattan": {"metric": "manhattan", "n_iter": 2},
    "approximate": {"algorithm": "approximate"},
    "approximate, other sessions": {
        "algorithm": "approximate",
        "metric": "euclidean",
        "n_iter": 2,
        "exclude_same_group": True,
    },
}.items():
    case(f"KNNLabelSmoother {name}")(partial(smooth, **params))


@case("KNNLabelSmoother on many rows, sparse rows")
def smooth_many():
    d = data("one long")
    smoother = KNNLabelSmoother(algorithm="approximate", random_state=0)
    found = {"approximate": smoother.fit_transform(d.X, d.y), "recall": smoother.recall_}
    d = data("three")
    rows = csr_array(np.where(np.abs(d.X) > 0.7, d.X, 0.0))
    return found | {"sparse": KNNLabelSmoother(5).fit_transform(rows, d.y)}


def sample(strategy):
    found = {}
    soft = data("three").llm_scores[:, 0]
    values = {"soft": soft, "score": soft[:, 1], "label": data("two").y_true.astype(float)}
    for name, y in values.items():
        groups = data("two" if name == "label" else "three").groups
        for cap in (None, 4):
            for weight in ("equal", "pairs"):
                sampler = IntraSessionPairSampler(
                    strategy,
                    min_margin=0.05 if name == "soft" else 0.0,
                    n_pairs=None if cap else 77,
                    max_pairs_per_session=cap,
                    session_weight=weight,
                    random_state=0,
                )
                found[f"{name}, {cap}, {weight}"] = vars(sampler.sample(y, groups))
    d = data("two")
    sampler = IntraSessionPairSampler(strategy, max_pairs_per_session=5, random_state=0)
    return found | {"fit_resample": sampler.fit_resample(d.X, d.y_true, d.groups)}


for strategy in ("all", "uniform", "margin", "adjacent"):
    case(f"IntraSessionPairSampler {strategy}")(partial(sample, strategy))


# --- metrics, inspection --------------------------------------------------------------------


@case("metrics")
def metrics():
    found = {}
    for name in ("two", "three"):
        d = data(name)
        prob = LLMScoreCalibrator("mean").fit_transform(d.llm_scores[3:])
        rows = np.flatnonzero(~np.isnan(prob[:, 0]))
        prob, y, groups = prob[rows], d.y[3:][rows], d.groups[3:][rows]
        for average in ("micro", "macro"):
            found[f"{name}, {average}"] = within_session_concordance(
                y, prob, groups=groups, average=average
            )
        for strategy in ("uniform", "quantile"):
            found[f"{name}, {strategy}"] = expected_calibration_error(
                y, prob, strategy=strategy, n_bins=7
            )
        clf = fit(classifier(), d)
        found[f"{name}, scorer"] = within_session_concordance_scorer(clf, d.X, d.y, groups=d.groups)
    return found


@case("preference_noise")
def noise():
    found = {}
    for name in ("two", "three"):
        d = data(name)
        for most in (200_000, 300):
            found[f"{name}, {most}"] = preference_noise(
                d.llm_scores, d.y, d.groups, n_bootstrap=30, max_pairs=most, random_state=0
            )
        mean = np.nanmean(d.llm_scores, axis=1)
        found[f"{name}, soft labels"] = preference_noise(
            mean, d.y, d.groups, layout="classes", n_gap_bins=4, n_bootstrap=10, random_state=0
        )
    return found


@case("prompt_agreement")
def agreement():
    found = {}
    for name in ("two", "three"):
        d = data(name)
        for method in ("spearman", "pearson"):
            found[f"{name}, {method}"] = prompt_agreement(
                d.llm_scores, d.y, d.groups, method=method, n_bootstrap=50, random_state=0
            )
        found[f"{name}, without labels"] = prompt_agreement(d.llm_scores, random_state=0)
    return found


@case("displays")
def displays():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    found = {}
    for name in ("two", "three"):
        d = data(name)
        soft = LLMScoreCalibrator().fit_transform(d.llm_scores, d.y, groups=d.groups)
        drawn = {
            "reliability": skpref.ScoreReliabilityDisplay.from_predictions(
                d.y, d.llm_scores, soft, n_bins=5, ax=Figure().subplots()
            ),
            "noise": skpref.PreferenceNoiseDisplay.from_predictions(
                d.llm_scores, d.y, d.groups, n_bootstrap=10, random_state=0, ax=Figure().subplots()
            ),
        }
        for kind, display in drawn.items():
            found[f"{name}, {kind}"] = {k: v for k, v in vars(display).items() if k[-1] != "_"}
            lines = display.ax_.get_lines()
            found[f"{name}, {kind}, lines"] = [np.array(line.get_xydata()) for line in lines]
    return found


def compare(estimator, d, **params):
    return compare_with_distillation(
        estimator, d.X, d.y, d.groups, d.llm_scores, n_bootstrap=50, random_state=0, **params
    )


@case("compare_with_distillation")
def comparison():
    scaled = Pipeline([("scale", StandardScaler()), ("clf", classifier(max_epochs=2))])
    weighted = classifier(class_weight={"bad": 2.0}, decision="macro_f1", max_epochs=2)
    return {
        "two, lbfgs": compare(classifier(**LBFGS), data("two"), cv=3),
        "two, pipeline": compare(scaled, data("two"), cv=2),
        "three, mlp": compare(weighted, data("three"), cv=GroupKFold(2)),
        "three, custom": compare(classifier(Deep, max_epochs=2), data("three"), cv=2),
    }


@case("compare_with_distillation of texts")
def comparison_of_texts():
    clf = text_classifier(max_epochs=1, stage2="finetune", finetune_epochs=1)
    return compare(clf, texts(2, 16, 3), cv=2)


@case("GridSearchCV over a pipeline, with metadata routing")
def search():
    d = data("three")
    clf = classifier(
        calibrator=LLMScoreCalibrator(),
        smoother=KNNLabelSmoother(),
        classes=["bad", "fine", "good"],
        max_epochs=3,
    )
    grid = {"clf__calibrator__method": ["mean", "log_pool"], "clf__margin_scale": [1.0, 4.0]}
    with sklearn.config_context(enable_metadata_routing=True):
        found = GridSearchCV(
            Pipeline([("scale", StandardScaler()), ("clf", clf)]),
            grid,
            cv=GroupKFold(3),
            scoring=within_session_concordance_scorer,
            error_score="raise",
        ).fit(d.X, d.y, **d.fit_params())
    scores = {k: v for k, v in found.cv_results_.items() if k.endswith("test_score")}
    return {
        "scores": scores,
        "best_index_": found.best_index_,
        "best": outcome(found.best_estimator_["clf"], found.best_estimator_[:-1].transform(d.new)),
        "predict_proba": found.predict_proba(d.new),
    }


# --- from the dialogue to the scores --------------------------------------------------------


def turns():
    d = texts(2, 6, 4)
    frame = {"session_id": d.groups, "turn": np.arange(len(d.X)) % 4, "text": d.X}
    frame["speaker"] = np.where(frame["turn"] % 2, "agent", "client")
    return pd.DataFrame(frame).sample(frac=1.0, random_state=0)


@case("DialogueContext")
def context():
    frame = turns()
    found = {"plain": DialogueContext().fit_transform(frame)}
    found["speaker"] = DialogueContext(3, speaker="speaker", separator=" | ").fit_transform(frame)
    return {name: np.asarray(value).astype(str) for name, value in found.items()}


def answer(scoring):
    """Client that answers by the characters of the question alone."""

    def client(**request):
        seed = sum(map(ord, request["messages"][-1]["content"]))
        if scoring == "logprobs":
            return {"bad": -0.2 - 0.1 * (seed % 7), "good": -1.5, "the": -3.0}
        if scoring == "label":
            return ["bad", "good"][seed % 2]
        return f'{{"bad": {0.05 * (seed % 20):.2f}, "good": 0.3}}'

    return client


@case("LLMLabeler")
def labels_of_an_llm():
    found = {}
    for scoring in ("logprobs", "verbalized", "label"):
        labeler = LLMLabeler(
            ["bad", "good"],
            model="none",
            client=answer(scoring),
            scoring=scoring,
            speaker="speaker",
            verbose=False,
        )
        found[scoring] = labeler.fit_transform(turns())
        found[f"{scoring}, failures"] = len(labeler.failures_)
    return found


@case("make_dialogues")
def made():
    bunch = make_dialogues(12, n_classes=3, missing_rate=0.2, random_state=7)
    return {k: v for k, v in bunch.items() if isinstance(v, np.ndarray)}


# --- running --------------------------------------------------------------------------------


def run_case(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {f"{name}/{key}": array for key, array in flatten(CASES[name]()).items()}


def compare_case(name, found, reference):
    """Lines on what differs from the reference, none if nothing does."""
    expected = {k: v for k, v in reference.items() if k.startswith(f"{name}/")}
    if not expected:
        return ["not in the reference"]
    lines = [f"{key}: no longer there" for key in expected.keys() - found.keys()]
    lines += [f"{key}: not in the reference" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        if (text := difference(expected[key], found[key])) is not None:
            lines.append(f"{key}: {text}")
    return sorted(line.removeprefix(f"{name}/") for line in lines)


def environment():
    found = [f"{library} {version(library)}" for library in LIBRARIES]
    return np.array([f"python {platform.python_version()}", platform.platform(), *found])


def report(name, n_values, seconds, verdict):
    print(f"{name:52} {n_values:>9,} values {seconds:6.1f} s  {verdict}", flush=True)


def run(names, reference=None):
    """Run cases and compare them with a reference; return the arrays and how many cases differ."""
    arrays, n_bad = {}, 0
    for name in names:
        start = time.perf_counter()
        try:
            found = run_case(name)
            lines = [] if reference is None else compare_case(name, found, reference)
            verdict = "recorded" if reference is None else "differs" if lines else "ok"
        except Exception:
            found, lines, verdict = {}, traceback.format_exc().splitlines(), "failed"
        report(name, sum(a.size for a in found.values()), time.perf_counter() - start, verdict)
        for line in lines:
            print(f"    {line}")
        n_bad += bool(lines)
        arrays |= found
    return arrays, n_bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["record", "check"])
    parser.add_argument("file", type=Path, help="the reference, an .npz file")
    parser.add_argument("--only", default="", help="run the cases whose name holds this word")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(1)
    names = [name for name in CASES if args.only in name]
    print(f"skpref of {Path(skpref.__file__).parent}")

    reference, start = None, time.perf_counter()
    if args.action == "check":
        with np.load(args.file) as stored:
            reference = dict(stored)
        if (stored_in := reference["environment"].tolist()) != environment().tolist():
            print(f"recorded elsewhere, so differences say little: {stored_in}")
    with threadpool_limits(1):
        arrays, n_bad = run(names, reference)
    missing = []
    if reference is not None:
        known = {key.split("/")[0] for key in reference} - {"environment", *CASES}
        missing = sorted(name for name in known if args.only in name)
    for name in missing:
        print(f"{name:52} of the reference is no case of this script")
    seconds = time.perf_counter() - start
    if args.action == "record" and not n_bad:
        args.file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(args.file, environment=environment(), **arrays)
    how = "failed" if reference is None else "differ or failed"
    print(f"{len(names)} cases in {seconds:.0f} s, {n_bad + len(missing)} {how}")
    sys.exit(bool(n_bad or missing))


if __name__ == "__main__":
    main()
