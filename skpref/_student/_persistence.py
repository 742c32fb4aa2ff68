"""Fitted classifiers as folders without pickle."""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from skorch.callbacks import EpochTimer, PassthroughScoring, PrintLog
from skorch.dataset import Dataset
from skorch.history import History
from skorch.setter import optimizer_setter
from torch import nn
from torch.optim import Adam, AdamW

from skpref import _calibrator, _label_pools, _pools, _sampler, _smoother
from skpref._torch import _batches, _losses, _modules, _net
from skpref._torch._transformer import TransformerScorer
from skpref._typing import FloatArray
from skpref._version import __version__

# Raise it when a folder is written that older code would read wrongly.
FORMAT_VERSION = 2
_CONFIG, _WEIGHTS, _ENCODER = "config.json", "model.safetensors", "encoder"
# Name of the last layer's weights before stage 2, beside those of the network.
_LAYER_BEFORE = "skpref.last_layer_before_stage2"
# Name of the network of a text classifier.
TEXT_MODULE = "transformer"
# Model settings that let a folder choose the code that runs.
_RUNS_CODE = ("trust_remote_code", "code_revision")

# Format 1 was of one class for features and texts, with more parameters. Those that a class has no
# longer are dropped, some have other names, and "auto" meant these values.
_NOT_OF_FEATURES = {
    "finetune_epochs",
    "encoder_lr",
    "warmup",
    "max_grad_norm",
    "accumulate",
    "checkpoint_dir",
    "accelerate",
}
_NOT_OF_TEXTS = {"solver", "tol", "max_iter"}
_RENAMED = {f"module__{name}": name for name in ("model_name", "max_length", "trainable_layers")}
_AUTO_OF_FEATURES = {"max_epochs": 30, "batch_size": 256}
_AUTO_OF_TEXTS = {"max_epochs": 5, "batch_size": 64, "warmup": 0.1, "max_grad_norm": 1.0}


class Saved(NamedTuple):
    """A folder that was written by `write_folder`.

    Parameters
    ----------
    folder : Path
        Where it is.
    config : dict
        Everything but the weights.
    """

    folder: Path
    config: dict

    @property
    def is_text(self) -> bool:
        """Whether the classifier takes texts."""
        return self.config["module"] == TEXT_MODULE

    @property
    def encoder(self) -> Path:
        """Folder of the encoder of a text classifier."""
        return self.folder / _ENCODER


def write_folder(folder, network: nn.Module, module, params: dict, fitted: dict) -> None:
    """Write a fitted classifier to a folder.

    Parameters
    ----------
    folder : str or path-like
        Path to write to; what is there must be empty or written by this function.
    network : nn.Module
        The fitted network.
    module : str, nn.Module class, callable or instance
        The parameter that the network was made by.
    params : dict
        Parameters of the classifier.
    fitted : dict
        Its fitted attributes.

    Raises
    ------
    FileExistsError
        If there is something else at `folder`.
    """
    folder = Path(folder).resolve()
    _check_replaceable(folder)
    config = _describe(network, module, params, fitted)
    part = folder.with_name(f".{folder.name}-{uuid4().hex}")
    part.mkdir(parents=True)
    try:
        _write_files(network, config, fitted.get("_layer_before_stage2"), part)
        _put_in_place(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_replaceable(folder: Path):
    """Raise if writing the folder would lose anything but an earlier folder of ours."""
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
    """Give a complete folder its name; the rename is atomic."""
    old = part.with_name(f"{part.name}-old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_files(network, config, layer_before, folder: Path):
    if isinstance(network, TransformerScorer):
        network.encoder.save_pretrained(str(folder / _ENCODER), create_model_card=False)
        network = network.head
    # safetensors takes neither views nor tensors that share memory.
    state = network.state_dict()
    if layer_before is not None:
        state = state | {_LAYER_BEFORE: torch.from_numpy(layer_before)}
    state = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    save_file(state, folder / _WEIGHTS)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _describe(network, module, params: dict, fitted: dict) -> dict:
    """Return everything but the weights, as JSON takes it."""
    kind = type(network)
    parameter = next(network.parameters(), torch.empty(0))
    saved_params, left_out = _encode_params(params)
    config = {
        "format_version": FORMAT_VERSION,
        "skpref_version": __version__,
        "module": module if isinstance(module, str) else f"{kind.__module__}.{kind.__qualname__}",
        "custom_module": not isinstance(module, str),
        "params": saved_params,
        "params_left_at_default": left_out,
        "classes": _encode_classes(fitted["classes_"]),
        "multilabel": fitted["multilabel_"],
        "scale": _as_json(fitted["scale_"]),
        "offsets": fitted["offsets_"].tolist(),
        "decision_offsets": fitted["decision_offsets_"].tolist(),
        "class_weight": fitted["class_weight_"].tolist(),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "n_iter": fitted["n_iter_"],
        "history": _as_json(fitted["history_"]),
    }
    if "n_features_in_" in fitted:
        config["n_features_in"] = fitted["n_features_in_"]
    if "feature_names_in_" in fitted:
        config["feature_names_in"] = fitted["feature_names_in_"].tolist()
    return config


def _as_json(value):
    """Return a value as JSON reads it back, lists for tuples and arrays; TypeError if it cannot."""
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


def _encode_params(given: dict) -> tuple[dict, list[str]]:
    """Return the parameters that JSON can hold, and the names of the others."""
    params, left_out = {}, []
    for name, value in given.items():
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


def read_folder(folder) -> Saved:
    """Read and check a folder that `write_folder` wrote, all but the weights.

    Parameters
    ----------
    folder : str or path-like
        The folder.

    Returns
    -------
    Saved
        Its description.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or a file of it is missing.
    ValueError
        If the folder is of something else or of a newer version.
    """
    folder = Path(folder)
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
            f"{config['format_version']}, and this is skpref {__version__}, which reads up "
            f"to format {FORMAT_VERSION}; upgrade skpref."
        )
    files = [_WEIGHTS] + ([f"{_ENCODER}/modules.json"] if config["module"] == TEXT_MODULE else [])
    for name in files:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"folder={str(folder)!r} lacks {name}; copy the whole folder that save_pretrained "
                "wrote."
            )
    return Saved(folder, config)


def saved_params(saved: Saved) -> dict:
    """Return the parameters of the saved classifier, but for module and device.

    Parameters
    ----------
    saved : Saved
        The folder.

    Returns
    -------
    dict
        Parameters as the class of today takes them.
    """
    params = saved.config["params"]
    weights = params.get("class_weight")
    if isinstance(weights, list):
        params = params | {"class_weight": dict(weights)}
    if saved.config["format_version"] > 1:
        return params
    dropped, auto = (
        (_NOT_OF_TEXTS, _AUTO_OF_TEXTS) if saved.is_text else (_NOT_OF_FEATURES, _AUTO_OF_FEATURES)
    )
    names = _RENAMED if saved.is_text else {}
    return {
        names.get(name, name): auto[name] if name in auto and value == "auto" else value
        for name, value in params.items()
        if name not in dropped
    }


def saved_attributes(saved: Saved) -> dict:
    """Return the fitted attributes other than the net.

    Parameters
    ----------
    saved : Saved
        The folder.

    Returns
    -------
    dict
        Names and values.
    """
    config, scale = saved.config, saved.config["scale"]
    fitted = {
        "classes_": np.array(config["classes"]["labels"], dtype=config["classes"]["dtype"]),
        "multilabel_": config.get("multilabel", False),
        "scale_": scale if isinstance(scale, float) else np.array(scale),
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


def choose_module(saved: Saved, module):
    """Return the parameter `module` of a saved classifier of features.

    Parameters
    ----------
    saved : Saved
        The folder.
    module : nn.Module class, callable, instance or None
        The parameter as the user gives it again; None for a network of this library.

    Returns
    -------
    str, nn.Module class, callable or instance
        The parameter.

    Raises
    ------
    ValueError
        If `module` does not go with the folder.
    """
    folder, config = saved
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


def load_weights(network: nn.Module, saved: Saved) -> None:
    """Load the saved weights into a network; of a text network, into its head.

    Parameters
    ----------
    network : nn.Module
        The network.
    saved : Saved
        The folder.

    Raises
    ------
    ValueError
        If the weights are those of another network.
    """
    target = network.head if isinstance(network, TransformerScorer) else network
    try:
        weights = load_file(saved.folder / _WEIGHTS)
        weights.pop(_LAYER_BEFORE, None)
        target.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {str(saved.folder)!r} are not those of the network that module and "
            f"its parameters make; pass the module that was fitted. {error}"
        ) from error


def saved_layer(saved: Saved) -> FloatArray | None:
    """Return the weights of the last layer before stage 2, from which training continues.

    Parameters
    ----------
    saved : Saved
        The folder.

    Returns
    -------
    ndarray or None
        The weights; None if stage 2 did not change them.
    """
    weights = load_file(saved.folder / _WEIGHTS)
    return weights[_LAYER_BEFORE].numpy() if _LAYER_BEFORE in weights else None


def encoder_params(params: dict, saved: Saved, device: str) -> dict:
    """Return the arguments of a text network, with the saved encoder in place of the first one.

    Parameters
    ----------
    params : dict
        The arguments of the saved network.
    saved : Saved
        The folder.
    device : str
        Device of the classifier.

    Returns
    -------
    dict
        The arguments.

    Raises
    ------
    ValueError
        If the encoder names code of its own.
    """
    encoder = saved.encoder
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


def trusted_types() -> list[str]:
    """Return the types of a net and of the parts of a classifier, as skops names them.

    Returns
    -------
    list of str
        Dotted names.
    """
    parts = (_calibrator, _label_pools, _pools, _sampler, _smoother)
    ours = {
        kind
        for module in (*parts, _batches, _losses, _modules, _net)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__.startswith("skpref.")
    }
    theirs = {Adam, AdamW, Dataset, EpochTimer, History, PassthroughScoring, PrintLog, partial}
    functions = {print, optimizer_setter}
    return sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in ours | theirs | functions)
