"""Fitted state that is whole or absent."""

from collections.abc import Callable
from functools import wraps
from typing import Any


def keeps_state_on_failure(method: Callable) -> Callable:
    """Make a method restore the attributes of its estimator if it fails or is interrupted.

    Fitted attributes that are set one by one would otherwise leave a mix of two fits behind, which
    predicts without a word.

    Parameters
    ----------
    method : callable
        `fit` or another method that sets fitted attributes. Objects that it changes in place are
        its own concern.

    Returns
    -------
    callable
        The method.
    """

    @wraps(method)
    def wrapper(self, *args: Any, **kwargs: Any) -> Any:
        before = vars(self).copy()
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return wrapper
