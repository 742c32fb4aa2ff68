"""What the classifier composes with skorch: the modules and the net itself."""

import copy
import inspect
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet
from skorch.callbacks import EarlyStopping, GradientNormClipping
from skorch.helper import predefined_split
from skorch.hf import AccelerateMixin
from skorch.utils import TeeGenerator, noop, to_tensor
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from skpref._torch._batches import SessionBatches, SessionDataset, as_tensor
from skpref._torch._callbacks import Resume, WarmUp
from skpref._torch._losses import PreferenceLoss


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


# Rows that go through the network at once where all rows do.
_ROWS = 8192
_MODULES = {"linear": Linear, "mlp": MLP}


def resolve_module(module: Any, params: dict, n_features: int, n_outputs: int) -> nn.Module:
    """Build the network that scores a row.

    Parameters
    ----------
    module : {"linear", "mlp", "transformer"}, nn.Module class, callable or instance
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
    if module == "transformer":
        from skpref._torch._transformer import TransformerScorer as module
    elif isinstance(module, str):
        module = _MODULES[module]
    accepted = inspect.signature(module).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    sizes = {"n_features": n_features, "n_outputs": n_outputs}
    given = {k: v for k, v in sizes.items() if takes_any or k in accepted}
    return module(**(given | params))


def _as_sparse_tensor(X) -> Tensor:
    """COO tensor of a CSR matrix."""
    X = X.tocoo()
    place = torch.from_numpy(np.stack([X.row, X.col]))
    return torch.sparse_coo_tensor(place, as_tensor(X.data), X.shape, check_invariants=False)


class SessionNet(NeuralNet):
    """Net whose optimiser takes a step after several batches, and that can be interrupted.

    Parameters
    ----------
    *args, **kwargs
        Arguments of `skorch.NeuralNet`.
    accumulate : int, default=1
        Batches whose mean gradient makes a step.
    """

    def __init__(self, *args, accumulate=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.accumulate = accumulate

    def notify(self, method_name, **kwargs):
        """Call the callbacks; one that wants training to stop raises KeyboardInterrupt."""
        try:
            super().notify(method_name, **kwargs)
        except KeyboardInterrupt:
            self._stops = True
            raise

    def partial_fit(self, *args, **kwargs):
        """Train; skorch returns as if trained where a user interrupts, here that is raised."""
        self._stops = self._interrupted = False
        self._n_waiting = 0
        super().partial_fit(*args, **kwargs)
        if self._interrupted:
            raise KeyboardInterrupt
        return self

    def fit_loop(self, X, y=None, epochs=None, **kwargs):
        """Run the epochs; those that a resumed training has behind it count."""
        epochs = self.max_epochs if epochs is None else epochs
        done = [c.n_done_ for _, c in self.callbacks_ if isinstance(c, Resume)]
        try:
            return super().fit_loop(X, y, epochs=epochs - sum(done), **kwargs)
        except KeyboardInterrupt:
            self._interrupted = not self._stops
            raise

    def train_step(self, batch, **fit_params):
        """Add the gradient of a batch, and take a step where it is time."""
        if not self._n_waiting:
            self._zero_grad_optimizer()
        step = self.train_step_single(batch, **fit_params)
        self._n_waiting += 1
        if self._n_waiting == self.accumulate:
            self._take_step(batch)
        return step

    def run_single_epoch(self, iterator, training, **kwargs):
        """Run an epoch; its last batches make a step however few they are."""
        super().run_single_epoch(iterator, training, **kwargs)
        if self._n_waiting:
            self._take_step(None)

    def _take_step(self, batch):
        if self._n_waiting > 1:
            for _, parameter in self.get_all_learnable_params():
                if parameter.grad is not None:
                    parameter.grad /= self._n_waiting
        self._n_waiting = 0
        parameters = TeeGenerator(self.get_all_learnable_params())
        self.notify("on_grad_computed", named_parameters=parameters, batch=batch, training=True)
        self._step_optimizer(None)


class AcceleratedNet(AccelerateMixin, SessionNet):
    """Net that trains through Hugging Face accelerate, on several devices where there are.

    accelerate moves and shares out the batches of a `DataLoader`; the batches of sessions are not
    one, so they do that by themselves (`SessionBatches`, `shard`).
    """

    def _initialize_accelerator(self):
        # Without parameters the criterion has nothing that processes could keep in step.
        criteria, self._criteria = self._criteria, []
        try:
            return super()._initialize_accelerator()
        finally:
            self._criteria = criteria

    def infer(self, x, **fit_params):
        """Score a batch on the device of the accelerator."""
        return super().infer(to_tensor(x, device=self.accelerator.device), **fit_params)

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        """Compute the loss on the device of the accelerator."""
        y_true = to_tensor(y_true, device=self.accelerator.device)
        return super().get_loss(y_pred, y_true, *args, **kwargs)

    def evaluation_step(self, batch, training=False):
        """Score a batch of held-out sessions, which each process does by itself."""
        return SessionNet.evaluation_step(self, batch, training=training)

    def _step_optimizer(self, step_fn):
        NeuralNet._step_optimizer(self, step_fn)  # the gradient is there already


def make_net(
    module,
    *,
    criterion,
    batches=None,
    valid=None,
    n_iter_no_change=None,
    warmup=None,
    max_grad_norm=None,
    checkpoint=None,
    accelerator=None,
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
    warmup : float, default=None
        Share of the training over which the learning rates rise; None keeps them constant.
    max_grad_norm : float, default=None
        Largest norm of the gradient; None does not clip.
    checkpoint : Path, default=None
        File of the state of the training.
    accelerator : accelerate.Accelerator, default=None
        What puts the training on devices.
    callbacks : list, default=None
        Further skorch callbacks.
    **params : dict
        Further arguments of `SessionNet`.

    Returns
    -------
    SessionNet
        The net, initialised but not yet trained.
    """
    own: list = []
    clipping = [] if max_grad_norm is None else [GradientNormClipping(max_grad_norm)]
    stopper = None
    if valid is not None:
        sink = print if params.get("verbose") else noop
        stopper = EarlyStopping(patience=n_iter_no_change, load_best=True, sink=sink)
        own.append(stopper)
    if warmup is not None:
        own.append(WarmUp(warmup))
    if checkpoint is not None:
        pairs = params.get("iterator_train__pairs")
        sampler = pairs if hasattr(pairs, "sample") else None
        writes = accelerator is None or accelerator.is_main_process
        own.append(Resume(checkpoint, stopper, sampler, writes))
    net_class = SessionNet
    if accelerator is not None:
        net_class = AcceleratedNet
        shard = (accelerator.process_index, accelerator.num_processes)
        params |= {"accelerator": accelerator, "device": None, "iterator_train__shard": shard}
        # Early stopping takes up weights at the end by the names of the module as it is wrapped.
        params["unwrap_after_train"] = False
        # skorch minds `verbose` only where the sink is `print` itself.
        params["callbacks__print_log__sink"] = accelerator.print if params.get("verbose") else noop
    for name, value in (batches or {}).items():
        params.setdefault(f"iterator_train__{name}", value)
        params[f"iterator_valid__{name}"] = value
    params.setdefault("optimizer", torch.optim.Adam)
    net = net_class(
        module,
        criterion=PreferenceLoss,
        **{f"criterion__{k}": v for k, v in criterion.items()},
        iterator_train=SessionBatches,
        iterator_train__shuffle=True,
        iterator_valid=SessionBatches,
        train_split=None if valid is None else predefined_split(valid),
        callbacks=[*(callbacks or []), *clipping, *[(f"skpref_{i}", c) for i, c in enumerate(own)]],
        **params,
    ).initialize()
    # The net would keep, and pickle, the module once more as the parameter it was given by.
    net.module = type(module)
    return net


def release_training(net: NeuralNet) -> None:
    """Drop what belongs to one training from a net: held-out rows, early stopping, schedule, state.

    Parameters
    ----------
    net : skorch.NeuralNet
        A trained net.
    """
    net.train_split = None
    net.callbacks = [c for c in net.callbacks if not _is_own(c)]
    net.callbacks_ = [c for c in net.callbacks_ if not _is_own(c)]


def _is_own(callback) -> bool:
    return isinstance(callback, tuple) and callback[0].startswith("skpref_")


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
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    inputs, outputs = [], []

    def note(_layer, arguments, output):
        inputs.append(arguments[0].cpu().numpy())
        outputs.append(output.cpu().numpy())

    hook = layers[-1].register_forward_hook(note) if layers else None
    try:
        scores = predict_scores(module, X)
    finally:
        if hook is not None:
            hook.remove()
    if not outputs or not np.array_equal(np.concatenate(outputs), scores):
        raise ValueError(
            "stage2='head' refits the linear layer that gives the scores, but the scores of "
            f"{type(module).__name__} are not what its last nn.Linear gives; pass 'offsets' or "
            "'finetune'."
        )
    return scores, layers[-1], np.concatenate(inputs)


def predict_scores(module: nn.Module, X) -> np.ndarray:
    """Score rows, in batches, without the data-loading machinery of a net.

    Parameters
    ----------
    module : nn.Module
        The fitted network.
    X : ndarray or CSR matrix of shape (n_rows, n_features), or ndarray of object, shape (n_rows,)
        Features, or the token ids of each row.

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
            rows = as_tensor(X[start : start + _ROWS])
            rows = rows.to(like) if rows.is_floating_point() else rows.to(like.device)
            scores = module(rows)
            parts.append(scores.cpu().numpy())
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
