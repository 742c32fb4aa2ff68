"""Callbacks of the net: progress, a schedule of the learning rates, and resuming."""

import json
import os
import warnings
from pathlib import Path

import torch
from skorch.callbacks import Callback

from skpref._progress import progress_bar


class EpochBar(Callback):
    """Show a progress bar of the epochs, if the training takes long and somebody may watch."""

    def on_train_begin(self, net, **_):
        """Begin the bar."""
        self.bar_ = progress_bar(net.max_epochs, "Training", "auto")

    def on_epoch_end(self, net, **_):  # noqa: ARG002
        """Count an epoch."""
        self.bar_.update()

    def on_train_end(self, net, **_):  # noqa: ARG002
        """End the bar."""
        self.bar_.close()


class WarmUp(Callback):
    """Raise the learning rates linearly, then lower them linearly to 0 at the end.

    skorch's `LRScheduler` counts steps. Here the number of steps in an epoch depends on how the
    sessions are packed, and a resumed training must find its place again. So this callback reads
    from each batch how much of the epoch is done.

    Parameters
    ----------
    fraction : float
        Share of the training over which the rates rise.
    """

    def __init__(self, fraction):
        self.fraction = fraction

    def on_train_begin(self, net, **_):
        """Remember the rates to reach."""
        self.rates_ = [group["lr"] for group in net.optimizer_.param_groups]

    def on_batch_begin(self, net, batch=None, training=False, **_):
        """Set the rates for a batch, by the share of the training that is done at its middle."""
        if not training:
            return
        done = (len(net.history) - 1 + batch[1]["done"]) / net.max_epochs
        rise = done / self.fraction if self.fraction else 1.0
        fall = (1 - done) / (1 - self.fraction) if self.fraction < 1 else 1.0
        for group, rate in zip(net.optimizer_.param_groups, self.rates_, strict=True):
            group["lr"] = rate * max(0.0, min(rise, fall))

    def on_train_end(self, net, **_):
        """Restore the rates, for training that follows."""
        for group, rate in zip(net.optimizer_.param_groups, self.rates_, strict=True):
            group["lr"] = rate


class Resume(Callback):
    """Save the state of the training after each epoch, and resume from a saved state.

    skorch's `Checkpoint` omits the state of the random numbers and of early stopping, and a kill
    can leave some of its files unwritten. Here everything that the next epoch depends on is in one
    file, which replaces the previous one atomically.

    Parameters
    ----------
    path : Path
        File of the state.
    stopper : EarlyStopping or None
        Early stopping of the same net.
    sampler : IntraSessionPairSampler or None
        Sampler that draws the pairs of the net's batches.
    writes : bool, default=True
        Whether this process, one of those that train together, saves the state.
    """

    def __init__(self, path, stopper, sampler, writes=True):
        self.path = Path(path)
        self.stopper = stopper
        self.sampler = sampler
        self.writes = writes

    def on_train_begin(self, net, **_):
        """Restore the saved state."""
        self.n_done_ = 0
        state = self._read() if self.path.is_file() else None
        if state is None:
            return
        net.module_.load_state_dict(state["module"])
        net.optimizer_.load_state_dict(state["optimizer"])
        net.history.extend(json.loads(state["history"]))
        self.n_done_ = len(net.history)
        if self.stopper is not None:
            vars(self.stopper).update(state["stopper"])
        if self.sampler is not None:
            kind, keys, *rest = state["sampler"]
            self.sampler.random_state.set_state((kind, keys.numpy(), *rest))
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state["cuda_random"]:
            torch.cuda.set_rng_state_all(state["cuda_random"])

    def on_epoch_end(self, net, **_):
        """Save the state."""
        if not self.writes:
            return
        state = {
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "history": json.dumps(list(net.history)),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        if self.stopper is not None:
            kept = ("misses_", "best_model_weights_", "best_epoch_")
            state["stopper"] = {name: getattr(self.stopper, name) for name in kept}
            state["stopper"]["dynamic_threshold_"] = float(self.stopper.dynamic_threshold_)
        if self.sampler is not None:
            kind, keys, *rest = self.sampler.random_state.get_state()
            state["sampler"] = [kind, torch.from_numpy(keys.astype("int64")), *rest]
        part = self.path.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())  # or a power failure could leave the name without the content
        os.replace(part, self.path)

    def _read(self) -> dict | None:
        """Return the saved state; None, with a warning, if the file is damaged."""
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # what torch raises depends on where the file is cut
            warnings.warn(
                f"The state of training in checkpoint_dir, {str(self.path)!r}, cannot be read "
                f"({type(error).__name__}: {error}); training starts from the beginning.",
                UserWarning,
                stacklevel=2,
            )
            return None
