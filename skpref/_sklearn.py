"""Import scikit-learn's private names, so that a new release can break only this file."""

import os
from contextlib import AbstractContextManager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, metadata

from sklearn.base import _fit_context
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_params,
)
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.parallel import _get_threadpool_controller
from sklearn.utils.validation import (
    _check_feature_names_in,
    _check_sample_weight,
    _is_fitted,
    _num_samples,
)

__all__ = [
    "DocLinkMixin",
    "HasMethods",
    "Interval",
    "StrOptions",
    "_check_feature_names_in",
    "_check_sample_weight",
    "_fit_context",
    "_get_output_config",
    "_is_fitted",
    "_num_samples",
    "_safe_indexing",
    "one_blas_thread",
    "validate_params",
]


def one_blas_thread() -> AbstractContextManager:
    """Return a context in which NumPy and SciPy use one thread.

    The small products of a solver, on threads that wait for the next one, keep the threads of torch
    waiting: L-BFGS takes four times as long.

    Returns
    -------
    context manager
        The context.
    """
    return _get_threadpool_controller().limit(limits=1, user_api="blas")


@lru_cache
def _published_docs() -> str:
    """Return the address of the documentation in the package's metadata, or an empty string."""
    try:
        urls = metadata("skpref").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    named = (url.split(", ", 1) for url in urls)
    return next((url for name, url in named if name == "Documentation"), "")


class DocLinkMixin:
    """Link the diagram of an estimator to its page in the API reference.

    The address of the site is the environment variable SKPREF_DOCS (for example of a local
    build) or, if that is not set, the address in the package's metadata. Without either, there is
    no link.
    """

    _doc_link_module = "skpref"

    @property
    def _doc_link_template(self) -> str:
        site = (os.environ.get("SKPREF_DOCS") or _published_docs()).rstrip("/")
        return f"{site}/api/{{estimator_module}}.{{estimator_name}}.html" if site else ""
