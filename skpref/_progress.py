"""Show the progress of work that takes long."""

import multiprocessing
import sys
from typing import Any

# After how many seconds a bar appears that nobody asked for.
_PATIENCE = 3.0


def _is_watched() -> bool:
    """Return whether somebody may be looking: a terminal or a notebook, and no worker process."""
    if multiprocessing.current_process().name != "MainProcess":
        return False
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel") or bool(getattr(sys.stderr, "isatty", lambda: False)())


def progress_bar(total: int, description: str, verbose: Any) -> Any:
    """Return a bar on standard error, a context manager with `update(n)`.

    Parameters
    ----------
    total : int
        Number of steps.
    description : str
        Name of the work.
    verbose : "auto", bool or int
        "auto" shows the bar after three seconds, and only in a terminal or a notebook; otherwise
        whether to show it.

    Returns
    -------
    tqdm
        The bar.
    """
    from tqdm import tqdm

    auto = verbose == "auto"
    return tqdm(
        total=total,
        desc=description,
        unit="",
        disable=not (_is_watched() if auto else verbose),
        delay=_PATIENCE if auto else 0.0,
        leave=not auto,
    )


def auto_bar(total: int, description: str, verbose: Any) -> Any:
    """Return a bar for work that prints lines instead if it is asked to be verbose.

    Parameters
    ----------
    total : int
        Number of steps.
    description : str
        Name of the work.
    verbose : "auto", bool or int
        "auto" shows the bar as in `progress_bar`; otherwise there is none.

    Returns
    -------
    tqdm
        The bar.
    """
    return progress_bar(total, description, verbose if verbose == "auto" else False)


def wants_lines(verbose: Any) -> bool:
    """Return whether to print lines.

    Parameters
    ----------
    verbose : "auto", bool or int
        Parameter of the user.

    Returns
    -------
    bool
        False for "auto", which shows a bar.
    """
    return verbose != "auto" and bool(verbose)
