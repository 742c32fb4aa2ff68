"""Scores as the columns of a frame, and back."""

import narwhals.stable.v2 as nw
import numpy as np

from skpref._context import wrap_frame
from skpref._typing import FloatArray
from skpref._validation import check_llm_scores


def column_names(prompts: list[str], classes: list) -> list[str]:
    """Name a column for each prompt and class.

    Parameters
    ----------
    prompts : list of str
        Names of the prompts.
    classes : list
        The classes.

    Returns
    -------
    list of str
        "prompt__class", prompt by prompt.
    """
    return [f"{prompt}__{c}" for prompt in prompts for c in classes]


def scores_to_frame(scores, prompts: list[str], classes: list, X, keys: list[str]):
    """Write scores into a frame.

    Parameters
    ----------
    scores : array-like of shape (n_samples, n_prompts, n_classes)
        The scores.
    prompts : list of str
        Names of the prompts.
    classes : list
        The classes.
    X : DataFrame or None
        A frame with a row for each row of scores.
    keys : list of str
        Columns of `X` to keep.

    Returns
    -------
    DataFrame
        The keys, then a column for each prompt and class. Of the library of `X`, else of pandas.
    """
    names = column_names(prompts, classes)
    scores = check_llm_scores(scores)
    shape = (len(prompts), len(classes))
    if scores.shape[1:] != shape:
        raise ValueError(
            f"scores has shape {scores.shape}; pass (n_samples, {shape[0]}, {shape[1]}), for "
            f"{shape[0]} prompts and {shape[1]} classes."
        )
    columns = dict(zip(names, scores.reshape(len(scores), -1).T, strict=True))
    if X is None:
        return nw.from_dict(columns, backend="pandas").to_native()
    frame = wrap_frame(X)
    if len(frame) != len(scores):
        raise ValueError(f"scores has {len(scores)} rows, but X has {len(frame)}.")
    series = [
        nw.new_series(name, values, backend=frame.implementation)
        for name, values in columns.items()
    ]
    return frame.with_columns(*series).select(*keys, *names).to_native()


def scores_from_frame(frame, prompts: list[str], classes: list) -> FloatArray:
    """Read scores from a frame that `scores_to_frame` wrote.

    Parameters
    ----------
    frame : DataFrame
        Has a column for each prompt and class.
    prompts : list of str
        Names of the prompts.
    classes : list
        The classes.

    Returns
    -------
    ndarray of shape (n_samples, n_prompts, n_classes)
        The scores.
    """
    names = column_names(prompts, classes)
    frame = wrap_frame(frame)
    if missing := [name for name in names if name not in frame.columns]:
        raise ValueError(
            f"frame lacks the columns {missing}; it has {list(frame.columns)}. Pass the same "
            "classes and prompts as to the labeler that made it."
        )
    columns = [frame[name].to_numpy().astype(float) for name in names]
    return np.stack(columns, axis=1).reshape(len(frame), -1, len(classes))
