"""Fitted classifiers as folders that no pickle is in, and as ONNX graphs."""

import copy
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

import skpref
from skpref._device import resolve_device
from skpref._optional import import_optional
from skpref._student._classifier import _Rows, _seeded
from skpref._torch._net import resolve_module

# Raise it when a folder is written that older code would read wrongly.
FORMAT_VERSION = 1
_CONFIG, _WEIGHTS, _ENCODER = "config.json", "model.safetensors", "encoder"
# Model settings that let a folder choose the code that runs.
_RUNS_CODE = ("trust_remote_code", "code_revision")


def save_pretrained(clf, folder) -> None:
    """Write a fitted classifier to a folder.

    Parameters
    ----------
    clf : PairwisePreferenceClassifier
        The fitted classifier.
    folder : str or path-like
        Where to; what is there must be empty or written by this function.

    Raises
    ------
    FileExistsError
        If there is something else at `folder`.
    """
    check_is_fitted(clf)
    folder = Path(folder).resolve()
    _check_replaceable(folder)
    config = _config(clf)
    part = folder.with_name(f".{folder.name}-{uuid4().hex}")
    part.mkdir(parents=True)
    try:
        _write(clf, config, part)
        _put_in_place(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_pretrained(cls, folder, *, module=None, device="auto") -> Any:
    """Read a classifier that `save_pretrained` wrote.

    Parameters
    ----------
    cls : type
        `PairwisePreferenceClassifier` or a subclass.
    folder : str or path-like
        The folder.
    module : nn.Module class, callable or instance, default=None
        What makes the network, where it is not one of this library.
    device : str, default="auto"
        Device of the classifier.

    Returns
    -------
    PairwisePreferenceClassifier
        The fitted classifier.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or a file of it is missing.
    ValueError
        If the folder is of something else or of a newer version, or `module` does not go with it.
    """
    folder = Path(folder)
    config = _read_config(folder)
    params = _decode_params(config["params"])
    clf = cls(**params, module=_choose_module(config, module, folder), device=device)
    for name, value in _attributes(config).items():
        setattr(clf, name, value)
    with _seeded(clf.random_state) as rng:
        network = _read_network(clf, config, folder)
        none: Any = np.empty(0)
        clf.net_ = clf._make_net(_Rows(none, none, none, none, none), rng, network, warmup=None)
    return clf


def export_onnx(clf, path) -> None:
    """Write the probabilities of a fitted classifier as an ONNX graph.

    Parameters
    ----------
    clf : PairwisePreferenceClassifier
        The fitted classifier.
    path : str or path-like
        The file.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed.
    """
    check_is_fitted(clf)
    for name in ("onnx", "onnxscript"):
        import_optional(name, "Exporting to ONNX", "onnx")
    # A copy also leaves out what torch.compile made of the network.
    network = copy.deepcopy(clf.net_.module_).cpu().float()
    if clf._takes_text():
        _use_plain_attention(network)
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        inputs = {"input_ids": torch.ones_like(mask), "attention_mask": mask}
        axes = {0: "n_texts", 1: "n_tokens"}
        network = _TextScores(network)
    else:
        inputs = {"features": torch.zeros(2, clf.n_features_in_)}
        axes = {0: "n_rows"}
    dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
    with _quiet_torch():
        torch.onnx.export(
            _Probabilities(network, clf.scale_, clf.offsets_).eval(),
            tuple(inputs.values()),
            os.fspath(path),
            input_names=list(inputs),
            output_names=["probabilities"],
            dynamic_shapes=((dims,) * len(inputs),),  # of *inputs, which is one argument
            external_data=False,
            dynamo=True,
            verbose=False,
        )


# --- writing a folder -----------------------------------------------------------------------


def _check_replaceable(folder: Path):
    """Raise where writing the folder would lose anything but an earlier one of ours."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"folder={str(folder)!r} is a file; pass the path of a folder.")
    others = {path.name for path in folder.iterdir()}
    if _is_ours(folder):
        others -= {_CONFIG, _WEIGHTS, _ENCODER}
    if others:
        raise FileExistsError(
            f"folder={str(folder)!r} holds files that save_pretrained did not write, such as "
            f"{min(others)!r}, and they would be lost; pass a new or an empty folder."
        )


def _is_ours(folder: Path) -> bool:
    try:
        return "skpref_version" in json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _put_in_place(part: Path, folder: Path):
    """Give a complete folder its name; at no time is there a part of one under that name."""
    old = part.with_name(f"{part.name}-old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(clf, config, folder: Path):
    network = clf.net_.module_
    if clf._takes_text():
        network.encoder.save_pretrained(str(folder / _ENCODER), create_model_card=False)
        network = network.head
    # safetensors takes neither views nor tensors that share memory.
    state = {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}
    save_file(state, folder / _WEIGHTS)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _config(clf) -> dict:
    """Everything but the weights, as JSON takes it."""
    network = clf.net_.module_
    kind = type(network)
    parameter = next(network.parameters(), torch.empty(0))
    params, left_out = _encode_params(clf)
    config = {
        "format_version": FORMAT_VERSION,
        "skpref_version": skpref.__version__,
        "module": clf.module
        if isinstance(clf.module, str)
        else f"{kind.__module__}.{kind.__qualname__}",
        "custom_module": not isinstance(clf.module, str),
        "params": params,
        "params_left_at_default": left_out,
        "classes": _encode_classes(clf.classes_),
        "scale": float(clf.scale_),
        "offsets": clf.offsets_.tolist(),
        "decision_offsets": clf.decision_offsets_.tolist(),
        "class_weight": clf.class_weight_.tolist(),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "n_iter": clf.n_iter_,
        "history": _as_json(clf.history_),
    }
    if hasattr(clf, "n_features_in_"):
        config["n_features_in"] = clf.n_features_in_
    if hasattr(clf, "feature_names_in_"):
        config["feature_names_in"] = clf.feature_names_in_.tolist()
    return config


def _as_json(value):
    """Value as JSON gives it back, lists for tuples and arrays; TypeError where it cannot."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, list | tuple):
        return [_as_json(v) for v in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _as_json(v) for key, v in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is no JSON")


def _encode_params(clf) -> tuple[dict, list[str]]:
    """Parameters that JSON can hold, and the names of the others."""
    params, left_out = {}, []
    for name, value in clf.get_params(deep=False).items():
        if name in ("module", "device"):
            continue
        if name == "class_weight" and isinstance(value, dict):
            value = list(value.items())  # JSON would make strings of the labels
        try:
            params[name] = _as_json(value)
        except TypeError:
            left_out.append(name)
    return params, left_out


def _encode_classes(classes) -> dict:
    try:
        if classes.dtype.kind not in "biufUO":
            raise TypeError(f"dtype {classes.dtype}")
        return {"dtype": classes.dtype.str, "labels": _as_json(classes)}
    except TypeError as error:
        raise TypeError(
            f"classes_ has labels that cannot be saved ({error}); train with labels that are "
            "numbers, strings or booleans."
        ) from error


# --- reading a folder -----------------------------------------------------------------------


def _read_config(folder: Path) -> dict:
    """Read and check what there is but the weights."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"folder={str(folder)!r} is not there; pass a folder that save_pretrained wrote."
        )
    if not _is_ours(folder):
        raise ValueError(
            f"folder={str(folder)!r} has no {_CONFIG} of skpref; pass a folder that "
            "save_pretrained wrote."
        )
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    if config["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"folder={str(folder)!r} was written by skpref {config['skpref_version']} in format "
            f"{config['format_version']}, and this is skpref {skpref.__version__}, which reads up "
            f"to format {FORMAT_VERSION}; upgrade skpref."
        )
    files = [_WEIGHTS] + ([f"{_ENCODER}/modules.json"] if config["module"] == "transformer" else [])
    for name in files:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"folder={str(folder)!r} lacks {name}; copy the whole folder that save_pretrained "
                "wrote."
            )
    return config


def _decode_params(params: dict) -> dict:
    weights = params.get("class_weight")
    return params | ({"class_weight": dict(weights)} if isinstance(weights, list) else {})


def _attributes(config: dict) -> dict:
    """Fitted attributes other than the net."""
    fitted = {
        "classes_": np.array(config["classes"]["labels"], dtype=config["classes"]["dtype"]),
        "scale_": config["scale"],
        "offsets_": np.array(config["offsets"]),
        "decision_offsets_": np.array(config["decision_offsets"]),
        "class_weight_": np.array(config["class_weight"]),
        "n_iter_": config["n_iter"],
        "history_": config["history"],
    }
    if "n_features_in" in config:
        fitted["n_features_in_"] = config["n_features_in"]
    if "feature_names_in" in config:
        fitted["feature_names_in_"] = np.array(config["feature_names_in"], dtype=object)
    return fitted


def _choose_module(config: dict, module, folder: Path):
    """Value of the parameter `module`."""
    name = config["module"]
    if not config["custom_module"]:
        if module is not None:
            raise ValueError(
                f"module was given, but {str(folder)!r} holds a network of this library, "
                f"module={name!r}; leave it out."
            )
        return name
    if not callable(module):
        raise ValueError(
            f"{str(folder)!r} holds a network of the class {name}, and no code is imported by a "
            f"name in a file; import the class and pass module={name.rpartition('.')[2]}."
        )
    lost = [p for p in config["params_left_at_default"] if p.startswith("module__")]
    if lost and isinstance(module, type):
        raise ValueError(
            f"{lost[0]} was not saved, since JSON cannot hold it; pass module="
            f"functools.partial({module.__name__}, {lost[0].removeprefix('module__')}=...)."
        )
    return module


def _read_network(clf, config: dict, folder: Path) -> nn.Module:
    params = clf._module_params()
    is_text = clf._takes_text()
    if is_text:
        params = _encoder_params(params, folder / _ENCODER, resolve_device(clf.device))
    n_features: Any = config.get("n_features_in")
    network: Any = resolve_module(clf.module, params, n_features, clf._n_outputs())
    if not is_text:
        network = network.to(getattr(torch, config["dtype"]))
    weights = load_file(folder / _WEIGHTS)
    try:
        (network.head if is_text else network).load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {str(folder)!r} are not those of the network that module and its "
            f"parameters make; pass the module that was fitted. {error}"
        ) from error
    return network


def _encoder_params(params: dict, encoder: Path, device: str) -> dict:
    """Arguments of the module, with the saved encoder in place of the first one."""
    modules = json.loads((encoder / "modules.json").read_text(encoding="utf-8"))
    foreign = [m["type"] for m in modules if not m["type"].startswith("sentence_transformers.")]
    if foreign:
        raise ValueError(
            f"{str(encoder)!r} names code of its own ({foreign[0]}), and no code is imported by a "
            "name in a file; only encoders of modules of sentence-transformers are loaded."
        )
    kwargs = {k: v for k, v in (params.get("model_kwargs") or {}).items() if k not in _RUNS_CODE}
    if device == "cpu" and "flash" in str(kwargs.get("attn_implementation")):
        del kwargs["attn_implementation"]  # it needs CUDA
    kwargs["use_safetensors"] = True
    return params | {"model_name": str(encoder), "revision": None, "model_kwargs": kwargs}


# --- ONNX -----------------------------------------------------------------------------------


class _TextScores(nn.Module):
    """Scores of tokens as tokenizers give them; there is only one pass, which ONNX can hold."""

    def __init__(self, scorer):
        super().__init__()
        self.encoder, self.head = scorer.encoder, scorer.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.head(self.encoder(features)["sentence_embedding"])


class _Probabilities(nn.Module):
    """What `predict_proba` gives: a network, then scale, offsets and softmax."""

    def __init__(self, network, scale, offsets):
        super().__init__()
        self.network = network
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float32))

    def forward(self, *inputs: Tensor) -> Tensor:
        logits = self.scale * self.network(*inputs) + self.offsets
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits.softmax(dim=1)


def _use_plain_attention(scorer):
    """Take attention that any machine has, in place of flash attention."""
    model = scorer.encoder[0].model
    if "flash" in model.config._attn_implementation:
        model.set_attn_implementation("sdpa")


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Hide what torch's exporter says of its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
