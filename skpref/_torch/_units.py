"""Training in other units than the features come in."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix, issparse
from sklearn.utils.extmath import row_norms
from torch import nn

from skpref._torch._batches import SessionDataset
from skpref._torch._modules import MLP, Linear
from skpref._typing import FloatArray

# Sizes are logarithms to base 2.
# On rows of norms between these, Adam with its default rate and the default penalty train well;
# other rows are brought to about the last.
_LEAST_NORM, _LARGEST_NORM, _GOOD_NORM = -1.0, 5.0, 1.0
# A feature whose values are so much smaller or larger than those of a typical one is in units of
# its own, and gets the size of a typical one. One that is smaller still is dead.
_DEAD, _SMALL, _LARGE = -16.0, -3.0, 5.0
# A mean further from zero than so many mean deviations is taken off.
_DEVIATIONS = 3.0
# As many rows tell the units of all.
_ROWS = 2000


class Units(NamedTuple):
    """Features of a network in training are ``(X - center) * scale``.

    Parameters
    ----------
    center : ndarray of shape (n_features,)
        What is taken off.
    scale : ndarray of shape (n_features,)
        Powers of 2, so that multiplying by them loses nothing.
    """

    center: FloatArray
    scale: FloatArray

    def apply(self, X):
        """Return features in these units."""
        if not issparse(X):
            return ((X - self.center) * self.scale).astype(X.dtype)
        # Features that lie far from zero are hardly ever zero, so few places are filled in.
        moved = X - csr_matrix(np.ones((X.shape[0], 1))) @ csr_matrix(self.center[None])
        return moved.multiply(self.scale).tocsr().astype(X.dtype)


@np.errstate(over="ignore", invalid="ignore")
def choose_units(X, weight) -> Units | None:
    """Choose units that do not leave a network untrained.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_rows, n_features)
        Features.
    weight : ndarray of shape (n_rows,)
        Weights of the rows, all positive.

    Returns
    -------
    Units or None
        The units; None if the features are fine as they are, or too large for any.
    """
    some = slice(None, None, -(-len(weight) // _ROWS) or 1)
    rows, weight = X[some].astype(np.float64), weight[some]
    center, size = _places(rows, weight)
    known = np.isfinite(size)
    if not known.any():
        return None
    typical = np.median(size[known])
    apart = np.where(known, size - typical, 0.0)
    other_units = (apart > _DEAD) & ((apart < _SMALL) | (apart > _LARGE))
    scale = 2.0 ** -np.where(other_units, np.round(apart), 0.0)
    # Divided by the typical size, no square leaves the floats.
    norms = row_norms(Units(center, scale * 2.0**-typical).apply(rows))
    norm = _mean_log2(norms, weight) + typical
    if np.isfinite(norm) and not _LEAST_NORM <= norm <= _LARGEST_NORM:
        scale = scale * 2.0 ** np.round(_GOOD_NORM - norm)
    return Units(center, scale) if center.any() or (scale != 1).any() else None


def _places(rows, weight) -> tuple[FloatArray, FloatArray]:
    """Return where each feature lies, 0 if that is near enough, and the size of its values.

    The size is the mean of their logarithms, without zeros, NaN if there are only zeros: so a rare
    word is as large as a common one, and a value out of all bounds counts for one.
    """
    rows = csr_matrix(rows)
    rows.eliminate_zeros()
    column, value, total = rows.indices, rows.data, weight.sum()
    weight = np.repeat(weight, np.diff(rows.indptr))

    def add_up(values):
        return np.bincount(column, values, minlength=rows.shape[1])

    mean = add_up(weight * value) / total
    at_zero = total - add_up(weight)
    deviation = (add_up(weight * np.abs(value - mean[column])) + at_zero * np.abs(mean)) / total
    center = np.where(np.abs(mean) > _DEVIATIONS * deviation, mean, 0.0)
    return center, _mean_log2(value - center[column], weight, add_up)


def _mean_log2(values, weight, add_up=np.sum):
    """Return the mean of the logarithms of values that are not 0, NaN if there are none."""
    weight = np.where(values == 0, 0.0, weight)
    logarithm = np.log2(np.abs(values), where=values != 0, out=np.zeros(len(values)))
    return add_up(weight * logarithm) / add_up(weight)


def _first_layer(network: nn.Module) -> nn.Linear | None:
    """Return the layer that takes the features, None of a network that is not ours."""
    if isinstance(network, Linear):
        return network
    return network.layers[0] if isinstance(network, MLP) else None


def express(network: nn.Module, units: Units | None, *, back: bool = False) -> None:
    """Let a network of features in some units take them as they come, with equal scores.

    Parameters
    ----------
    network : nn.Module
        The network; changed in place if it is one of this library.
    units : Units or None
        The units; None leaves the network as it is.
    back : bool, default=False
        Whether to do the reverse.
    """
    layer = _first_layer(network)
    if units is None or layer is None:
        return
    center, scale = (torch.from_numpy(part).to(layer.weight.device) for part in units)
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    if back:
        weight, bias = weight / scale, bias + weight @ center
    else:
        weight = weight * scale
        bias = bias - weight @ center
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


@contextmanager
def in_units(
    network: nn.Module, rows: SessionDataset, *others: SessionDataset | None
) -> Iterator[None]:
    """Train a network, within the block, on data in units that suit it.

    Parameters
    ----------
    network : nn.Module
        The network, which takes features as they come before and after.
    rows : SessionDataset
        The data that choose the units; in these units within the block.
    *others : SessionDataset or None
        Further data in the same units.

    Yields
    ------
    None
        Nothing.
    """
    units = (
        None
        if _first_layer(network) is None
        else choose_units(rows.X, rows.weight.double().numpy())
    )
    if units is None:
        yield
        return
    for data in (rows, *others):
        if data is not None:
            data.X = units.apply(data.X)
    express(network, units, back=True)
    yield
    express(network, units)
