"""Training on all rows at once, by L-BFGS."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet
from skorch.utils import to_tensor
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from skpref._sklearn import one_blas_thread
from skpref._torch._batches import SessionDataset, as_tensor
from skpref._torch._modules import Linear
from skpref._torch._scoring import ROWS


def _as_sparse_tensor(X) -> Tensor:
    """Return a CSR matrix as a COO tensor."""
    X = X.tocoo()
    place = torch.from_numpy(np.stack([X.row, X.col]))
    return torch.sparse_coo_tensor(place, as_tensor(X.data), X.shape, check_invariants=False)


def minimize_full_batch(net: NeuralNet, data: SessionDataset, *, l2, tol, max_iter) -> list[float]:
    """Train the module of a net to convergence on all rows at once, by L-BFGS.

    Minimises the net's criterion over one batch of all rows plus ``l2 / 2`` times the squared
    norm of the parameters, which is what Adam with that weight decay descends, in double precision.

    Parameters
    ----------
    net : skorch.NeuralNet
        An initialised net; its module is trained in place, in evaluation mode (no dropout).
    data : SessionDataset
        The rows.
    l2 : float
        Strength of the penalty.
    tol : float
        Largest component of the gradient at which to stop.
    max_iter : int
        Most iterations.

    Returns
    -------
    list of float
        Objective after each iteration.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached in `max_iter` iterations.
    """
    batches = net.get_iterator(data, training=True)
    batches.batch_size, batches.shuffle = len(data), False
    [target] = batches.targets()
    target = to_tensor(target, device=net.device)
    module, dtype = net.module_.eval().double(), data.weight.dtype
    criterion = net.criterion_
    values: list[float] = []

    def objective(theta):
        vector_to_parameters(torch.from_numpy(theta).to(net.device), module.parameters())
        module.zero_grad()
        with _same_draws(criterion):
            value = accumulate_gradients(module, data, criterion, target, net.device)
        gradient = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        gradient = parameters_to_vector(gradient).cpu().numpy()
        return value + l2 / 2 * theta @ theta, gradient + l2 * theta

    def record(intermediate_result):
        values.append(float(intermediate_result.fun))
        if net.verbose:
            print(f"iteration {len(values)}: loss {values[-1]:.6f}")

    parameters = list(module.parameters())
    start = parameters_to_vector(parameters).detach().cpu().numpy()
    with one_blas_thread():
        solution = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            callback=record,
            options={"maxiter": max_iter, "maxfun": 15 * max_iter, "gtol": tol, "ftol": 1e-14},
        )
    objective(solution.x)
    module.to(dtype).zero_grad()
    if solution.nit >= max_iter:
        warnings.warn(
            f"solver='lbfgs' did not reach tol={tol} in max_iter={max_iter} iterations; increase "
            "max_iter, or scale the features to about one.",
            ConvergenceWarning,
            stacklevel=6,  # the line that called fit
        )
    return values


@contextmanager
def _same_draws(criterion) -> Iterator[None]:
    """Let the logistic loss draw the same pairs of long sessions in each evaluation.

    The other losses draw nothing, and seeding takes torch several milliseconds.
    """
    if criterion.loss != "logistic":
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def accumulate_gradients(module, data, criterion, target, device, *, n_rows=ROWS) -> float:
    """Return the loss of all rows, and leave its gradient in the module, by blocks of rows.

    The loss needs the scores of all rows together, the network does not: it scores the rows in
    blocks, and again in blocks pulls back the gradient by the scores.
    """
    blocks = [slice(start, start + n_rows) for start in range(0, len(data), n_rows)]
    # Filling in a large sparse matrix again and again would be most of the work.
    stays_sparse = issparse(data.X) and isinstance(module, Linear)
    if stays_sparse:
        blocks = [slice(None)]

    def score(block):
        X = data.X[block]
        X = _as_sparse_tensor(X) if stays_sparse else as_tensor(X)
        return module(X.to(device, torch.float64))

    if len(blocks) == 1:
        loss = criterion(score(blocks[0]), target)
        loss.backward()
        return loss.item()
    with torch.no_grad():
        scores = torch.cat([score(block) for block in blocks])
    loss = criterion(scores.requires_grad_(), target)
    (gradient,) = torch.autograd.grad(loss, scores)
    for block in blocks:
        score(block).backward(gradient[block])
    return loss.item()
