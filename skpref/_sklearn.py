"""The only door to scikit-learn's private names, so that a new release is met in one file."""

import os
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, metadata

from sklearn.base import _fit_context
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_params,
)
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_feature_names_in, _check_sample_weight, _is_fitted

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
    "validate_params",
]


@lru_cache
def _published_docs() -> str:
    """Address of the documentation by the package's metadata, if it has one."""
    try:
        urls = metadata("skpref").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    named = (url.split(", ", 1) for url in urls)
    return next((url for name, url in named if name == "Documentation"), "")


class DocLinkMixin:
    """Link the diagram of an estimator to its page in the reference.

    The site is the environment variable SKPREF_DOCS, such as a build of one's own, else what the
    package's metadata names. Without either there is no link.
    """

    _doc_link_module = "skpref"

    @property
    def _doc_link_template(self) -> str:
        site = (os.environ.get("SKPREF_DOCS") or _published_docs()).rstrip("/")
        return f"{site}/api/{{estimator_module}}.{{estimator_name}}.html" if site else ""
