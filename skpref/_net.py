"""What the classifier composes with skorch: modules, batches of whole sessions, the net itself."""

import copy
import inspect
import warnings
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping
from skorch.helper import predefined_split
from skorch.utils import noop, to_tensor
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from skpref._losses import MAX_DENSE, PreferenceLoss
from skpref._sampler import _build_ladder, _ranges


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

    def forward(self, X: Tensor) -> Tensor:
        """Score the rows of `X`, dense or sparse COO, as (n_rows, n_outputs)."""
        if X.is_sparse:
            return torch.sparse.mm(X, self.weight.T) + self.bias
        return super().forward(X)


# So many pairs of a batch, padding included, cost less than to tell short sessions from long ones.
_FEW_PAIRS = 2**15
# Rows that go through the network at once where all rows do.
_ROWS = 8192
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


def _as_sparse_tensor(X) -> Tensor:
    """COO tensor of a CSR matrix."""
    X = X.tocoo()
    place = torch.from_numpy(np.stack([X.row, X.col]))
    return torch.sparse_coo_tensor(place, as_tensor(X.data), X.shape, check_invariants=False)


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
        self.teacher = soft
        self.soft = torch.from_numpy(soft.astype(X.dtype))
        self.weight = torch.from_numpy(weight.astype(X.dtype))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.session)

    def features(self, rows: np.ndarray) -> Tensor:
        """Return the features of `rows`."""
        return as_tensor(self.X[rows])


def _run_lengths(session: np.ndarray) -> np.ndarray:
    """Lengths of the runs of equal values."""
    return np.diff(np.flatnonzero(np.diff(session, prepend=-1, append=-1)))


class _AllPairs:
    """Every pair of a data set: for each row and class, which rows of its session lose to it.

    The entries, one for each row and class, are sorted by session, class and soft label, so that
    the losers of an entry are the first ones of its session and class. A last one that weighs
    nothing stands for padding. The loss of a batch is the sum of the losses of its pairs, each
    times the `share` of its session, by the sum of `mass` over its sessions.
    """

    def __init__(self, teacher, weight, session, min_margin: float, session_weight: str):
        ladder = _build_ladder(teacher, session, min_margin)
        self.n_scores = teacher.shape[1]
        self.length = _run_lengths(session)
        self.start = (np.cumsum(self.length) - self.length) * self.n_scores
        ends = np.r_[0.0, np.cumsum(weight[ladder.row], dtype=np.float64)]
        won = weight[ladder.row] * (ends[ladder.start + ladder.n_losers] - ends[ladder.start])
        self.mass = np.add.reduceat(won, self.start)
        self.share = np.ones(len(self.mass))
        if session_weight == "equal":
            self.share = 1 / np.where(self.mass > 0, self.mass, np.inf)
            self.mass = (self.mass > 0) * 1.0
        score = ladder.row * self.n_scores + ladder.class_index
        self.score = np.append(score, teacher.size)
        self.teacher = np.append(ladder.score, 0).astype(weight.dtype)
        self.weight = np.append(weight[ladder.row], 0).astype(weight.dtype)
        self.n_losers = np.append(ladder.n_losers, 0)

    def blocks(self, session, position) -> list[dict[str, Tensor]]:
        """Pad the entries of some sessions to blocks of about one length.

        `position` is where each score stands in the batch, the last that of the padding.
        """
        mass = self.mass[session]
        session = session[mass > 0]
        # Both rows of a pair bring the square root of what a pair of the session counts.
        scale = np.sqrt(self.share[session] / mass.sum()).astype(self.weight.dtype)
        blocks = []
        for part in _of_about_one_length(self.length[session], self.n_scores):
            length = self.length[session[part], None, None]
            place = np.arange(length.max())
            start = self.start[session[part], None, None]
            start = start + length * np.arange(self.n_scores)[:, None]
            entry = np.where(place < length, start + place, len(self.score) - 1)
            weight = self.weight[entry] * scale[part, None, None]
            columns = {
                "entry": position[self.score[entry]],
                "teacher": self.teacher[entry],
                "weight": weight,
                "n_losers": self.n_losers[entry],
            }
            block = {k: torch.from_numpy(v.reshape(-1, len(place))) for k, v in columns.items()}
            blocks.append(block)
        return blocks


def _of_about_one_length(lengths: np.ndarray, n_scores: int) -> list:
    """Tell which sessions to pad together: those of a length from one power of 2 to the next.

    Less than half of what comes is padding then. All sessions, where they make few pairs.
    """
    if not len(lengths):
        return []
    longest = lengths.max()
    if longest <= MAX_DENSE and len(lengths) * n_scores * longest**2 <= _FEW_PAIRS:
        return [slice(None)]
    size = np.ceil(np.log2(lengths))
    return [size == s for s in np.unique(size)]


class SessionBatches:
    """Iterate over batches of whole sessions, packed to about `batch_size` rows.

    Parameters
    ----------
    dataset : SessionDataset
        The rows.
    batch_size : int
        Most rows of a batch, but for a longer session, see Notes.
    shuffle : bool, default=False
        Whether the sessions come in a new random order each epoch.
    pairs : "all", IntraSessionPairSampler or None, default="all"
        "all" leaves all pairs of a session to the loss; a sampler draws pairs anew each epoch;
        None gives none.
    min_margin : float, default=0.0
        Least soft-label gap of a pair, for "all".
    session_weight : {"equal", "pairs"}, default="equal"
        Whether each session counts the same, or each pair, for "all".

    Notes
    -----
    A session that is longer than `batch_size` is a batch by itself. Only one that holds more than
    a tenth of all rows is dealt out at random, anew in each epoch, into parts of about that many,
    so that an epoch has ten steps or more: every pair has the same chance to be compared.
    """

    def __init__(
        self,
        dataset,
        batch_size,
        shuffle=False,
        pairs="all",
        min_margin=0.0,
        session_weight="equal",
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.pairs = pairs
        self.pair_options = {"min_margin": min_margin, "session_weight": session_weight}
        self._kept: _AllPairs | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, dict]]:
        """Yield ``(features, target)`` of each batch."""
        for rows, target in self._batches():
            yield self.dataset.features(rows), target

    def targets(self) -> Iterator[dict]:
        """Yield the target of each batch alone."""
        return (target for _, target in self._batches())

    def _batches(self) -> Iterator[tuple[np.ndarray, dict]]:
        """Yield the rows of each batch and what the loss must know of them."""
        data = self.dataset
        dealt, session = self._deal()
        lengths = _run_lengths(session)
        order = np.arange(len(lengths))
        if self.shuffle:
            order = torch.randperm(len(order)).numpy()
        rows = _ranges((np.cumsum(lengths) - lengths)[order], lengths[order])
        bounds = self._pack(lengths[order])
        ends = np.r_[0, np.cumsum(lengths[order])][bounds]
        targets = self._pair_targets(dealt, session, order, bounds, rows, ends)
        for (start, end), target in zip(pairwise(ends.tolist()), targets, strict=True):
            chosen = dealt[rows[start:end]]
            yield chosen, target | {"soft": data.soft[chosen], "weight": data.weight[chosen]}

    def _deal(self) -> tuple[np.ndarray, np.ndarray]:
        """Order of the rows and their sessions, in which a part of a long session is one, too."""
        session = self.dataset.session
        rows, lengths = np.arange(len(session)), _run_lengths(session)
        most = max(self.batch_size, len(session) // 10)
        if lengths.max() <= most:
            return rows, session
        length = np.repeat(lengths, lengths)
        place = rows - np.repeat(np.cumsum(lengths) - lengths, lengths)
        part = place // -(-length // -(-length // most))
        if self.shuffle:
            key = np.where(length > most, torch.rand(len(rows)).numpy(), place)
            rows = np.lexsort((key, session))
        new = (np.diff(session, prepend=-1) != 0) | (np.diff(part, prepend=-1) != 0)
        return rows, np.cumsum(new) - 1

    def _pack(self, lengths: np.ndarray) -> np.ndarray:
        """Fill batches with sessions, in order: bounds of the batches among the sessions."""
        bounds, filled = [0], 0
        for number, length in enumerate(lengths.tolist()):
            if filled and filled + length > self.batch_size:
                bounds.append(number)
                filled = 0
            filled += length
        return np.array([*bounds, len(lengths)])

    def _pair_targets(self, dealt, session, order, bounds, rows, ends) -> Iterable[dict]:
        """Give each batch what the loss must know of its pairs."""
        if self.pairs is None:
            return ({} for _ in bounds[1:])
        n_rows, n_scores = np.diff(ends), self.dataset.teacher.shape[1]
        place = np.empty_like(rows)  # of a row in its batch
        place[rows] = np.arange(len(rows)) - np.repeat(ends[:-1], n_rows)
        if self.pairs == "all":
            pairs = self._all_pairs(dealt, session)
            # The padding comes first, then the scores of the first row, and so on.
            position = 1 + place[:, None] * n_scores + np.arange(n_scores)
            position = np.append(position, 0)
            batches = (order[start:end] for start, end in pairwise(bounds.tolist()))
            return ({"blocks": pairs.blocks(own, position)} for own in batches)
        batch_of_row = np.empty_like(rows)
        batch_of_row[rows] = np.repeat(np.arange(len(n_rows)), n_rows)
        teacher = self.dataset.teacher[dealt]
        pairs = self.pairs.sample(teacher[:, 0] if n_scores == 1 else teacher, session)
        return self._sampled_pairs(pairs, batch_of_row, place, len(n_rows))

    def _all_pairs(self, dealt, session) -> _AllPairs:
        """Describe all pairs, once where no session is dealt out."""
        whole = session is self.dataset.session
        if whole and self._kept is not None:
            return self._kept
        teacher, weight = self.dataset.teacher[dealt], self.dataset.weight.numpy()[dealt]
        pairs = _AllPairs(teacher, weight, session, **self.pair_options)
        self._kept = pairs if whole else None
        return pairs

    def _sampled_pairs(self, pairs, batch_of_row, place, n_batches) -> list[dict[str, Tensor]]:
        """Hand each pair to the batch of its session."""
        weight = self.dataset.weight
        batch_of_pair = batch_of_row[pairs.winner]
        order = np.argsort(batch_of_pair, kind="stable")
        bounds = np.searchsorted(batch_of_pair[order], np.arange(1, n_batches))
        return [
            {
                "winner": torch.from_numpy(place[pairs.winner[chosen]]),
                "loser": torch.from_numpy(place[pairs.loser[chosen]]),
                "class_index": torch.from_numpy(pairs.class_index[chosen].astype(np.int64)),
                "margin": torch.from_numpy(pairs.margin[chosen]).to(weight),
                "pair_weight": torch.from_numpy(pairs.weight[chosen]).to(weight),
            }
            for chosen in np.split(order, bounds)
        ]


def make_net(
    module,
    *,
    criterion,
    batches=None,
    valid=None,
    n_iter_no_change=None,
    callbacks=None,
    **params,
):
    """Compose a skorch net from a module, the preference loss and the session batches.

    Parameters
    ----------
    module : nn.Module
        The initialised network.
    criterion : dict
        Arguments of `PreferenceLoss`.
    batches : dict, default=None
        Arguments of `SessionBatches`, in training and in validation.
    valid : SessionDataset, default=None
        Held-out sessions; None trains without early stopping.
    n_iter_no_change : int, default=None
        Epochs without a better loss on `valid` before training stops.
    callbacks : list, default=None
        Further skorch callbacks.
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
    for name, value in (batches or {}).items():
        params.setdefault(f"iterator_train__{name}", value)
        params[f"iterator_valid__{name}"] = value
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
        # The draws of the logistic loss in long sessions must be the same in each evaluation.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            value = _accumulate_gradients(module, data, criterion, target, net.device)
        gradient = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        gradient = parameters_to_vector(gradient).cpu().numpy()
        return value + l2 / 2 * theta @ theta, gradient + l2 * theta

    def record(intermediate_result):
        values.append(float(intermediate_result.fun))
        if net.verbose:
            print(f"iteration {len(values)}: loss {values[-1]:.6f}")

    parameters = list(module.parameters())
    start = parameters_to_vector(parameters).detach().cpu().numpy()
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


def _accumulate_gradients(module, data, criterion, target, device) -> float:
    """Loss of all rows, its gradient left in the module, by blocks of rows.

    The loss needs the scores of all rows together, the network does not: it scores the rows in
    blocks, and again in blocks pulls back the gradient by the scores.
    """
    blocks = [slice(start, start + _ROWS) for start in range(0, len(data), _ROWS)]
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


def predict_scores(module: nn.Module, X) -> np.ndarray:
    """Score rows, in batches, without the data-loading machinery of a net.

    Parameters
    ----------
    module : nn.Module
        The fitted network.
    X : ndarray or CSR matrix of shape (n_rows, n_features)
        Features.

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
        for start in range(0, max(1, X.shape[0]), _ROWS):
            scores = module(as_tensor(X[start : start + _ROWS]).to(like))
            parts.append(scores.cpu().numpy())
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
