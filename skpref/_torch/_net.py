"""The skorch net that stage 1 trains."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from skorch import NeuralNet
from skorch.helper import predefined_split
from skorch.hf import AccelerateMixin
from skorch.utils import TeeGenerator, noop, to_tensor

from skpref._torch._batches import SessionBatches
from skpref._torch._callbacks import EpochBar, Resume
from skpref._torch._losses import PreferenceLoss

# Names of the callbacks of one training begin so.
_TEMPORARY = "skpref_"


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

    def on_train_begin(self, net, **kwargs):
        """Begin a training."""
        super().on_train_begin(net, **kwargs)
        self._stopped_by_callback = False
        self._n_waiting = 0  # batches whose gradients have been added up

    def notify(self, method_name, **kwargs):
        """Call the callbacks; one that wants training to stop raises KeyboardInterrupt."""
        try:
            super().notify(method_name, **kwargs)
        except KeyboardInterrupt:
            self._stopped_by_callback = True
            raise

    @contextmanager
    def training(self, dataset) -> Iterator[int]:
        """Surround `fit_loop`: begin and end the training, and raise a user's interrupt.

        skorch's `partial_fit` returns as if trained if a user interrupts it.

        Yields
        ------
        int
            Epochs to run: `max_epochs` minus those that a resumed training has done.
        """
        self.notify("on_train_begin", X=dataset, y=None)
        done = [c.n_done_ for _, c in self.callbacks_ if isinstance(c, Resume)]
        interrupted = False
        try:
            yield self.max_epochs - sum(done)
        except KeyboardInterrupt:
            interrupted = not self._stopped_by_callback
        self.notify("on_train_end", X=dataset, y=None)
        if interrupted:
            raise KeyboardInterrupt

    def train_step(self, batch, **_):
        """Add the gradient of a batch, and take a step if it is time.

        A step is due after `accumulate` batches, and at the end of an epoch.
        """
        if not self._n_waiting:
            self._zero_grad_optimizer()
        self._set_training(True)
        X, target = batch
        with self._precision():
            scores = self.infer(X)
            loss = self.criterion_(scores, to_tensor(target, device=self._place()))
            self._pull_back(loss)
        self._n_waiting += 1
        if self._n_waiting == self.accumulate or target["last"]:
            self._take_step(batch)
        return {"loss": loss, "y_pred": scores}

    def _take_step(self, batch):
        if self._n_waiting > 1:
            for _, parameter in self.get_all_learnable_params():
                if parameter.grad is not None:
                    parameter.grad /= self._n_waiting
        self._n_waiting = 0
        parameters = TeeGenerator(self.get_all_learnable_params())
        self.notify("on_grad_computed", named_parameters=parameters, batch=batch, training=True)
        self._step_optimizer(None)

    def _precision(self):
        """Return the context in which a batch is scored."""
        return nullcontext()

    def _place(self):
        """Return the device of the batches."""
        return self.device

    def _pull_back(self, loss):
        """Compute the gradient of a loss."""
        loss.backward()


class AcceleratedNet(AccelerateMixin, SessionNet):
    """Net that trains through Hugging Face accelerate, on several devices if they are available.

    accelerate moves and divides the batches of a `DataLoader`. The batches of sessions are not one,
    so they are divided by `SessionBatches` (`shard`).
    """

    def _initialize_accelerator(self):
        # The criterion has no parameters that processes would have to synchronise.
        criteria, self._criteria = self._criteria, []
        try:
            return super()._initialize_accelerator()
        finally:
            self._criteria = criteria

    def train_step(self, batch, **_):
        """Add the gradient of a batch, and take a step if it is time."""
        with self.accelerator.accumulate(self.module_):
            return SessionNet.train_step(self, batch)

    def infer(self, x, **fit_params):
        """Score a batch on the device of the accelerator."""
        return super().infer(to_tensor(x, device=self._place()), **fit_params)

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        """Compute the loss on the device of the accelerator."""
        return super().get_loss(y_pred, to_tensor(y_true, device=self._place()), *args, **kwargs)

    def evaluation_step(self, batch, training=False):
        """Score a batch of held-out sessions, which each process does separately."""
        return SessionNet.evaluation_step(self, batch, training=training)

    def _precision(self):
        return self.accelerator.autocast()

    def _place(self):
        return self.accelerator.device

    def _pull_back(self, loss):
        self.accelerator.backward(loss)

    def _step_optimizer(self, step_fn):
        NeuralNet._step_optimizer(self, step_fn)  # the gradient has been computed


def make_net(
    module,
    *,
    criterion,
    batches=None,
    pairs="all",
    valid=None,
    callbacks=None,
    training_callbacks=(),
    accelerator=None,
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
    pairs : "all", IntraSessionPairSampler or None, default="all"
        Pairs of the batches of training, as `SessionBatches` takes them. Validation compares all
        pairs, or none.
    valid : SessionDataset, default=None
        Held-out sessions; None trains without early stopping.
    callbacks : list, default=None
        skorch callbacks that stay with the net.
    training_callbacks : list, default=()
        skorch callbacks that `release_training` removes.
    accelerator : accelerate.Accelerator, default=None
        Puts the training on devices.
    **params : dict
        Further arguments of `SessionNet`.

    Returns
    -------
    SessionNet
        The net, initialised but not yet trained.
    """
    if params.get("verbose") == "auto":
        params["verbose"] = 0
        training_callbacks = [*training_callbacks, EpochBar()]
    net_class = SessionNet
    if accelerator is not None:
        net_class = AcceleratedNet
        params |= _accelerated(accelerator, params.get("verbose"))
    for name, value in (batches or {}).items():
        params[f"iterator_train__{name}"] = params[f"iterator_valid__{name}"] = value
    params.setdefault("optimizer", torch.optim.Adam)
    temporary = [(f"{_TEMPORARY}{i}", c) for i, c in enumerate(training_callbacks)]
    net = net_class(
        module,
        criterion=PreferenceLoss,
        **{f"criterion__{k}": v for k, v in criterion.items()},
        iterator_train=SessionBatches,
        iterator_train__shuffle=True,
        iterator_train__pairs=pairs,
        iterator_valid=SessionBatches,
        iterator_valid__pairs=None if pairs is None else "all",
        train_split=None if valid is None else predefined_split(valid),
        callbacks=[*(callbacks or []), *temporary],
        **params,
    ).initialize()
    # The net would keep, and pickle, the module once more as the parameter it was given by.
    net.module = type(module)
    return net


def _accelerated(accelerator, verbose) -> dict:
    """Return the arguments of a net that trains through accelerate."""
    return {
        "accelerator": accelerator,
        "device": None,
        "iterator_train__shard": (accelerator.process_index, accelerator.num_processes),
        # Early stopping restores weights at the end by the names of the wrapped module.
        "unwrap_after_train": False,
        # skorch respects `verbose` only if the sink is `print` itself.
        "callbacks__print_log__sink": accelerator.print if verbose else noop,
    }


def release_training(net: NeuralNet) -> None:
    """Drop from a net what belongs to one training: held-out rows, stopping, schedule, state.

    Parameters
    ----------
    net : skorch.NeuralNet
        A trained net.
    """
    net.train_split = None
    net.callbacks = [c for c in net.callbacks if not _is_temporary(c)]
    net.callbacks_ = [c for c in net.callbacks_ if not _is_temporary(c)]


def _is_temporary(callback) -> bool:
    return isinstance(callback, tuple) and callback[0].startswith(_TEMPORARY)
