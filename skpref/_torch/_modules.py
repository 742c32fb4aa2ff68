"""Networks from features to scores."""

import copy
import inspect
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def check_hidden_units(hidden_units) -> None:
    """Raise unless hidden layers are given by positive whole numbers.

    Parameters
    ----------
    hidden_units : int or sequence of int
        Units of the hidden layers.

    Raises
    ------
    ValueError
        If a size is no positive integer.
    """
    sizes = [hidden_units] if np.isscalar(hidden_units) else list(hidden_units)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, Integral) or size < 1:
            raise ValueError(
                f"module__hidden_units={hidden_units!r} must be a positive int, or a sequence of "
                "them with one per hidden layer; use module='linear' for none."
            )


def check_dropout(dropout) -> None:
    """Raise unless a probability of dropping units leaves some.

    Parameters
    ----------
    dropout : float
        The probability.

    Raises
    ------
    ValueError
        If it is no number of at least 0 and less than 1.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, Real) or not 0 <= float(dropout) < 1:
        raise ValueError(f"module__dropout={dropout!r} must be a float of at least 0 and below 1.")


class MLP(nn.Module):
    """Multi-layer perceptron with one score per class.

    Parameters
    ----------
    n_features, n_outputs : int
        Sizes of a row and of its scores.
    hidden_units : int or sequence of int, default=128
        Units of the hidden layers.
    dropout : float, default=0.0
        Probability of dropping a hidden unit in training.
    """

    def __init__(self, n_features, n_outputs, hidden_units=128, dropout=0.0):
        super().__init__()
        check_hidden_units(hidden_units)
        check_dropout(dropout)
        sizes = [n_features, *np.atleast_1d(hidden_units).tolist()]
        layers = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], n_outputs))

    def forward(self, X: Tensor) -> Tensor:
        """Score the rows of `X`, shape (n_rows, n_features), as (n_rows, n_outputs)."""
        return self.layers(X)


class Linear(nn.Linear):
    """Linear scores; `nn.Linear` with the argument names that every module gets.

    Parameters
    ----------
    n_features, n_outputs : int
        Sizes of a row and of its scores.
    """

    def __init__(self, n_features, n_outputs):
        super().__init__(n_features, n_outputs)

    def forward(self, X: Tensor) -> Tensor:
        """Score the rows of `X`, dense or sparse COO, as (n_rows, n_outputs)."""
        if X.is_sparse:
            return torch.sparse.mm(X, self.weight.T) + self.bias
        return super().forward(X)


_MODULES = {"linear": Linear, "mlp": MLP}


def build_module(
    module: Any, params: dict, n_features: int, n_outputs: int, dtype: str
) -> nn.Module:
    """Build the network that scores a row.

    Parameters
    ----------
    module : {"linear", "mlp"}, nn.Module class, callable or instance
        A class or callable gets `n_features` and `n_outputs` if its signature has them. An
        instance is copied, so that the parameter of the estimator stays as it was given.
    params : dict
        Further keyword arguments (the classifier's ``module__*``).
    n_features, n_outputs : int
        Sizes of a row and of its scores.
    dtype : {"float32", "float64"}
        Precision of the parameters.

    Returns
    -------
    nn.Module
        The initialised network.

    Raises
    ------
    ValueError
        If `module` is an instance and there are `params`.
    """
    if isinstance(module, nn.Module):
        if params:
            raise ValueError(
                f"module is an instance, so module__{sorted(params)[0]} cannot be applied; "
                "pass the class of the module instead."
            )
        return copy.deepcopy(module).to(getattr(torch, dtype))
    make = _MODULES[module] if isinstance(module, str) else module
    accepted = inspect.signature(make).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    sizes = {"n_features": n_features, "n_outputs": n_outputs}
    given = {k: v for k, v in sizes.items() if takes_any or k in accepted}
    unknown = [k for k in params if not takes_any and k not in accepted]
    if unknown:
        names = sorted(k for k in accepted if k not in sizes)
        raise ValueError(
            f"module__{unknown[0]} is no argument of module={module!r}; it takes "
            + (", ".join(f"module__{name}" for name in names) or "none")
            + "."
        )
    return make(**(given | params)).to(getattr(torch, dtype))
