"""What the classifier composes with skorch: modules, batches of whole sessions, the net itself."""

import copy
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping
from skorch.helper import predefined_split
from skorch.utils import noop
from torch import Tensor, nn

from skpref._losses import PreferenceLoss


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


_STOPPER = "session_early_stopping"
_MODULES = {"linear": Linear, "mlp": MLP}


def resolve_module(module: Any, params: dict, n_features: int, n_outputs: int) -> nn.Module:
    """Build the network that scores a row.

    Parameters
    ----------
    module : {"linear", "mlp"}, nn.Module class, callable or instance
        A class or callable gets `n_features` and `n_outputs` where its signature has them. An
        instance is copied, so that the parameter of the estimator stays as it was given.
    params : dict
        Further keyword arguments (the classifier's ``module__*``).
    n_features, n_outputs : int
        Sizes of a row and of its scores.

    Returns
    -------
    nn.Module
        The initialised network.

    Raises
    ------
    ValueError
        If `module` is an instance and there are `params`, or a name that is not known.
    """
    if isinstance(module, nn.Module):
        if params:
            raise ValueError(
                f"module is an instance, so module__{sorted(params)[0]} cannot be applied; "
                "pass the class of the module instead."
            )
        return copy.deepcopy(module)
    if isinstance(module, str):
        module = _MODULES[module]
    accepted = inspect.signature(module).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    sizes = {"n_features": n_features, "n_outputs": n_outputs}
    given = {k: v for k, v in sizes.items() if takes_any or k in accepted}
    return module(**(given | params))


def resolve_device(device: str) -> str:
    """Turn the `device` parameter into a torch device that is there.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda" or "cuda:N".

    Returns
    -------
    str
        The device.

    Raises
    ------
    ValueError
        If the name is unknown or the machine has no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ValueError(
            f"device={device!r} is not known; choose 'auto', 'cpu', 'cuda' or 'cuda:N'."
        )
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={device!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA "
            "devices; pass device='cpu', or 'auto' to take CUDA only where there is one."
        )
    return device


def as_tensor(X) -> Tensor:
    """Dense tensor of some rows; sparse ones are only filled in here, batch by batch.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_features)
        Features.

    Returns
    -------
    Tensor of shape (n_rows, n_features)
        The same, dense.
    """
    dense = X.toarray() if issparse(X) else X
    # A read-only array, such as a frame's, cannot be shared with torch.
    return torch.from_numpy(dense if dense.flags.writeable else dense.copy())


class SessionDataset(torch.utils.data.Dataset):
    """Rows with their soft labels, sorted so that each session stands together.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_features)
        Features; their dtype is the one the net computes in.
    soft : ndarray of shape (n_rows, n_scores)
        Soft labels; only the positive class for a binary task.
    weight : ndarray of shape (n_rows,)
        Row weights.
    session : ndarray of int, shape (n_rows,)
        Session codes in ascending order.
    """

    def __init__(self, X, soft, weight, session):
        self.X = X
        self.session = session
        self.soft = torch.from_numpy(soft.astype(X.dtype))
        self.weight = torch.from_numpy(weight.astype(X.dtype))
        self.starts = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
        self.lengths = np.diff(np.r_[self.starts, len(session)])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.session)

    def features(self, rows: np.ndarray) -> Tensor:
        """Return the features of `rows`."""
        return as_tensor(self.X[rows])


class SessionBatches:
    """Iterate over batches of whole sessions, packed to about `batch_size` rows.

    Parameters
    ----------
    dataset : SessionDataset
        The rows.
    batch_size : int
        Most rows of a batch; a longer session is cut, see Notes.
    shuffle : bool, default=False
        Whether the sessions come in a new random order each epoch.
    pair_sampler : IntraSessionPairSampler, default=None
        Draws the pairs anew each epoch; None leaves all pairs of a session to the loss.

    Notes
    -----
    All pairs of a session cost memory quadratic in its length, so without a sampler a session
    longer than `batch_size` is dealt out at random into segments of at most that length, anew in
    each epoch: every pair has the same chance to be compared. With a sampler it stays whole.
    """

    def __init__(self, dataset, batch_size, shuffle=False, pair_sampler=None):
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.pair_sampler = pair_sampler

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield ``(features, target)`` of each batch."""
        data = self.dataset
        batches = self._pack(self._blocks())
        pairs_of_batch = self._draw_pairs(batches) if self.pair_sampler is not None else None
        for number, (rows, lengths) in enumerate(batches):
            target = {"soft": data.soft[rows], "weight": data.weight[rows]}
            if pairs_of_batch is None:
                target["layout"] = _layout(lengths)
            else:
                target |= pairs_of_batch[number]
            yield data.features(rows), target

    def _draw_pairs(self, batches) -> list[dict[str, Tensor]]:
        """Draw pairs from all sessions and hand each to the batch of its session."""
        data = self.dataset
        soft = data.soft.numpy()
        pairs = self.pair_sampler.sample(soft[:, 0] if soft.shape[1] == 1 else soft, data.session)
        batch_of_row = np.empty(len(data), dtype=np.int64)
        place = np.empty(len(data), dtype=np.int64)  # of a row within its batch
        for number, (rows, _) in enumerate(batches):
            batch_of_row[rows] = number
            place[rows] = np.arange(len(rows))
        batch_of_pair = batch_of_row[pairs.winner]
        order = np.argsort(batch_of_pair, kind="stable")
        bounds = np.searchsorted(batch_of_pair[order], np.arange(1, len(batches)))
        return [
            {
                "winner": torch.from_numpy(place[pairs.winner[chosen]]),
                "loser": torch.from_numpy(place[pairs.loser[chosen]]),
                "class_index": torch.from_numpy(pairs.class_index[chosen].astype(np.int64)),
                "margin": torch.from_numpy(pairs.margin[chosen]).to(data.weight),
                "pair_weight": torch.from_numpy(pairs.weight[chosen]).to(data.weight),
            }
            for chosen in np.split(order, bounds)
        ]

    def _blocks(self) -> list[np.ndarray]:
        """Rows of each session, or of each segment of a session that is too long."""
        data = self.dataset
        order = np.arange(len(data.starts))
        if self.shuffle:
            order = torch.randperm(len(order)).numpy()
        blocks = []
        for s in order:
            rows = np.arange(data.starts[s], data.starts[s] + data.lengths[s])
            if len(rows) <= self.batch_size or self.pair_sampler is not None:
                blocks.append(rows)
                continue
            if self.shuffle:
                rows = rows[torch.randperm(len(rows)).numpy()]
            blocks += np.array_split(rows, -(-len(rows) // self.batch_size))
        return blocks

    def _pack(self, blocks) -> list[tuple[np.ndarray, np.ndarray]]:
        """Fill batches with blocks, in order, up to `batch_size` rows: rows and block lengths."""
        batches: list[list[np.ndarray]] = [[]]
        filled = 0
        for block in blocks:
            if filled and filled + len(block) > self.batch_size:
                batches.append([])
                filled = 0
            batches[-1].append(block)
            filled += len(block)
        return [(np.concatenate(b), np.array([len(rows) for rows in b])) for b in batches]


def _layout(lengths: np.ndarray) -> Tensor:
    """Position in the batch of each row of each session, padded with -1."""
    column = np.arange(lengths.max())
    first = np.cumsum(lengths) - lengths
    inside = column < lengths[:, None]
    return torch.from_numpy(np.where(inside, first[:, None] + column, -1))


def make_net(module, *, valid=None, n_iter_no_change=None, callbacks=None, criterion, **params):
    """Compose a skorch net from a module, the preference loss and the session batches.

    Parameters
    ----------
    module : nn.Module
        The initialised network.
    valid : SessionDataset, default=None
        Held-out sessions; None trains without early stopping.
    n_iter_no_change : int, default=None
        Epochs without a better loss on `valid` before training stops.
    callbacks : list, default=None
        Further skorch callbacks.
    criterion : dict
        Arguments of `PreferenceLoss`.
    **params : dict
        Further arguments of `skorch.NeuralNet`.

    Returns
    -------
    skorch.NeuralNet
        The net, not yet trained.
    """
    callbacks = list(callbacks or [])
    if valid is not None:
        sink = print if params.get("verbose") else noop
        stopper = EarlyStopping(patience=n_iter_no_change, load_best=True, sink=sink)
        callbacks.append((_STOPPER, stopper))
    return NeuralNet(
        module,
        criterion=PreferenceLoss,
        **{f"criterion__{k}": v for k, v in criterion.items()},
        optimizer=torch.optim.Adam,
        iterator_train=SessionBatches,
        iterator_train__shuffle=True,
        iterator_valid=SessionBatches,
        train_split=None if valid is None else predefined_split(valid),
        callbacks=callbacks,
        **params,
    )


def release_held_out(net: NeuralNet) -> None:
    """Drop early stopping and the rows it watched, so that the net neither keeps nor needs them.

    Parameters
    ----------
    net : skorch.NeuralNet
        A trained net.
    """
    net.train_split = None
    net.callbacks = [c for c in net.callbacks if not _is_stopper(c)]
    net.callbacks_ = [c for c in net.callbacks_ if not _is_stopper(c)]


def _is_stopper(callback) -> bool:
    return isinstance(callback, tuple) and callback[0] == _STOPPER


def predict_scores(net: NeuralNet, X, batch_size: int = 8192) -> np.ndarray:
    """Score rows with a fitted net.

    Parameters
    ----------
    net : skorch.NeuralNet
        The fitted net.
    X : ndarray or CSR matrix of shape (n_rows, n_features)
        Features.
    batch_size : int, default=8192
        Rows per forward pass.

    Returns
    -------
    ndarray of shape (n_rows, n_outputs)
        Scores.
    """
    dtype = next((p.dtype for p in net.module_.parameters()), torch.float32)
    parts = []
    for start in range(0, max(1, X.shape[0]), batch_size):
        batch = as_tensor(X[start : start + batch_size]).to(dtype)
        parts.append(net.evaluation_step((batch, None)).cpu().numpy())
    return np.concatenate(parts)
