"""Import optional dependencies."""

from importlib import import_module
from typing import Any


def import_optional(name: str, purpose: str, extra: str) -> Any:
    """Import an optional dependency, or raise an ImportError that names the extra to install.

    Parameters
    ----------
    name : str
        The module.
    purpose : str
        What needs the package; begins the message.
    extra : str
        Extra of skpref that installs the package.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ImportError
        If the package cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {name}, which cannot be imported; install it with "
            f'`pip install "skpref[{extra}]"`.'
        ) from error
