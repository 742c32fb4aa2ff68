"""Look into pipelines."""

from typing import Any

from sklearn.pipeline import Pipeline


def last_step(estimator: Any) -> tuple[str, Any]:
    """Return the last step of a pipeline (of pipelines), and the prefix of its parameters.

    Parameters
    ----------
    estimator : object
        Any estimator.

    Returns
    -------
    prefix : str
        "step__" for each pipeline on the way to the step; empty for a bare estimator.
    step : object
        The step itself, not a copy.
    """
    prefix = ""
    while isinstance(estimator, Pipeline):
        name, estimator = estimator.steps[-1]
        prefix += f"{name}__"
    return prefix, estimator
