"""What the classifier composes with skorch: modules, batches of whole sessions, the net itself."""

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping
from skorch.helper import predefined_split
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
        layers: list[nn.Module] = []
        for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
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


class SessionDataset(torch.utils.data.Dataset):
    """Rows with their soft labels, sorted so that each session stands together.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_rows, n_features)
        Features, float32.
    soft : ndarray of shape (n_rows, n_scores)
        Soft labels, NaN rows unknown; only the positive class for a binary task.
    weight : ndarray of shape (n_rows,)
        Row weights.
    session : ndarray of int, shape (n_rows,)
        Session codes in ascending order.
    """

    def __init__(self, X, soft, weight, session):
        known = ~np.isnan(soft).any(axis=1)
        self.X = X
        self.session = session
        self.soft_labels = soft  # with NaN, for the pair sampler
        self.soft = torch.from_numpy(np.where(known[:, None], soft, 0).astype(np.float32))
        self.weight = torch.from_numpy((weight * known).astype(np.float32))
        self.starts = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
        self.lengths = np.diff(np.r_[self.starts, len(session)])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.session)

    def features(self, rows: np.ndarray) -> Tensor:
        """Return the features of `rows` as a dense tensor (sparse rows are filled batch by batch)."""
        batch = self.X[rows]
        return torch.from_numpy(batch.toarray() if issparse(batch) else batch)


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
        blocks = self._blocks()
        pairs = None
        if self.pair_sampler is not None:
            pairs = self.pair_sampler.sample(self._sampler_labels(), self.dataset.session)
        batch_of_row, batches = self._pack(blocks)
        pair_order = bounds = None
        if pairs is not None:
            batch_of_pair = batch_of_row[pairs.winner]
            pair_order = np.argsort(batch_of_pair, kind="stable")
            bounds = np.searchsorted(batch_of_pair[pair_order], np.arange(len(batches) + 1))
        for number, lengths_rows in enumerate(batches):
            rows, lengths = lengths_rows
            target = {"soft": self.dataset.soft[rows], "weight": self.dataset.weight[rows]}
            if pairs is None:
                target["layout"] = _layout(lengths)
            else:
                chosen = pair_order[bounds[number] : bounds[number + 1]]
                target |= _pair_target(pairs, chosen, rows)
            yield self.dataset.features(rows), target

    def _sampler_labels(self) -> np.ndarray:
        soft = self.dataset.soft_labels
        return soft[:, 0] if soft.shape[1] == 1 else soft

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

    def _pack(self, blocks) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Fill batches with blocks, in order, up to `batch_size` rows."""
        batch_of_row = np.empty(len(self.dataset), dtype=np.int64)
        batches: list[tuple[np.ndarray, np.ndarray]] = []
        pending: list[np.ndarray] = []

        def close():
            rows = np.concatenate(pending)
            batch_of_row[rows] = len(batches)
            batches.append((rows, np.array([len(b) for b in pending])))
            pending.clear()

        for block in blocks:
            if pending and sum(map(len, pending)) + len(block) > self.batch_size:
                close()
            pending.append(block)
        close()
        return batch_of_row, batches


def _layout(lengths: np.ndarray) -> Tensor:
    """Position in the batch of each row of each session, padded with -1."""
    column = np.arange(lengths.max())
    first = np.cumsum(lengths) - lengths
    inside = column < lengths[:, None]
    return torch.from_numpy(np.where(inside, first[:, None] + column, -1))


def _pair_target(pairs, chosen: np.ndarray, rows: np.ndarray) -> dict[str, Tensor]:
    """Pairs of one batch, with rows named by their position in it."""
    position = np.argsort(rows)
    where = lambda row: position[np.searchsorted(rows[position], row)]  # noqa: E731
    return {
        "winner": torch.from_numpy(where(pairs.winner[chosen])),
        "loser": torch.from_numpy(where(pairs.loser[chosen])),
        "class_index": torch.from_numpy(pairs.class_index[chosen].astype(np.int64)),
        "margin": torch.from_numpy(pairs.margin[chosen].astype(np.float32)),
        "pair_weight": torch.from_numpy(pairs.weight[chosen].astype(np.float32)),
    }
