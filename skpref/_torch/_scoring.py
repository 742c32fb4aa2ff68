"""Scores of rows by a fitted network."""

import numpy as np
import torch
from torch import nn

from skpref._torch._batches import as_tensor

# Rows that go through the network at once.
ROWS = 8192


def precision(module: nn.Module) -> type:
    """Return the precision of a network's parameters.

    Parameters
    ----------
    module : nn.Module
        The network.

    Returns
    -------
    type
        `numpy.float64` or, also for a network without parameters, `numpy.float32`.
    """
    parameter = next(module.parameters(), torch.empty(0))
    return np.float64 if parameter.dtype == torch.float64 else np.float32


def last_layer(module: nn.Module) -> nn.Linear | None:
    """Return the linear layer that comes last in a network, None if it has none.

    Parameters
    ----------
    module : nn.Module
        The network.

    Returns
    -------
    nn.Linear or None
        The layer.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return layers[-1] if layers else None


def score_by_last_layer(module: nn.Module, X) -> tuple[np.ndarray, nn.Linear, np.ndarray]:
    """Score rows of features; give the linear layer that the network ends in and its inputs, too.

    Parameters
    ----------
    module : nn.Module
        The fitted network.
    X : ndarray or CSR matrix of shape (n_rows, n_features)
        Features.

    Returns
    -------
    scores : ndarray of shape (n_rows, n_outputs)
        Scores.
    layer : nn.Linear
        The last layer.
    inputs : ndarray or CSR matrix of shape (n_rows, n_inputs)
        What it gets for each row.

    Raises
    ------
    ValueError
        If the scores are not what a linear layer gives.
    """
    if isinstance(module, nn.Linear):
        return predict_scores(module, X), module, X
    layer = last_layer(module)
    inputs, outputs = [], []

    def note(_layer, arguments, output):
        inputs.append(arguments[0].cpu().numpy())
        outputs.append(output.cpu().numpy())

    hook = None if layer is None else layer.register_forward_hook(note)
    try:
        scores = predict_scores(module, X)
    finally:
        if hook is not None:
            hook.remove()
    if (
        layer is None
        or not outputs
        or not np.array_equal(np.concatenate(outputs), scores, equal_nan=True)
    ):
        raise ValueError(
            "stage2='head' refits the linear layer that gives the scores, but the scores of "
            f"{type(module).__name__} are not what its last nn.Linear gives; pass 'offsets' or "
            "'finetune'."
        )
    return scores, layer, np.concatenate(inputs)


def predict_scores(module: nn.Module, X, *, n_rows: int = ROWS) -> np.ndarray:
    """Score rows, in batches, without the data-loading machinery of a net.

    Parameters
    ----------
    module : nn.Module
        The fitted network.
    X : ndarray or CSR matrix of shape (n_rows, n_features), or ndarray of object, shape (n_rows,)
        Features, or the token ids of each row.
    n_rows : int
        Rows that go through the network at once.

    Returns
    -------
    ndarray of shape (n_rows, n_outputs)
        Scores.
    """
    if module.training:  # asked first: setting the mode walks through all submodules
        module.eval()
    parameter = next(module.parameters(), None)
    like = torch.empty(0) if parameter is None else parameter
    parts = []
    with torch.inference_mode():
        for start in range(0, max(1, X.shape[0]), n_rows):
            rows = as_tensor(X[start : start + n_rows])
            rows = rows.to(like) if rows.is_floating_point() else rows.to(like.device)
            scores = module(rows)
            parts.append(scores.cpu().numpy())
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
