"""Stage 1: train a network on pairs within sessions and on soft labels."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from sklearn.utils import check_random_state
from skorch.callbacks import EarlyStopping, GradientNormClipping
from skorch.utils import noop
from torch import nn

from skpref._optional import import_optional
from skpref._progress import wants_lines
from skpref._student._training_set import TrainingSet, make_pair_sampler
from skpref._torch._batches import SessionDataset
from skpref._torch._callbacks import Resume, WarmUp
from skpref._torch._full_batch import minimize_full_batch
from skpref._torch._net import SessionNet, make_net, release_training
from skpref._torch._scoring import last_layer, predict_scores
from skpref._torch._units import in_units
from skpref._typing import FloatArray


class Objective(NamedTuple):
    """Terms of the loss, named as the parameters of the classifier.

    Parameters
    ----------
    loss, margin, margin_scale, pairwise_weight, pointwise_weight : object
        Parameters of `PairwisePreferenceClassifier`.
    class_weight : ndarray of shape (n_classes,) or (n_labels, 2)
        Weight of each class in the pointwise term; with several labels per row, of each label
        where it is absent and where it applies.
    """

    loss: str
    margin: str
    margin_scale: float
    pairwise_weight: float
    pointwise_weight: float
    class_weight: FloatArray


class PairSource(NamedTuple):
    """Where the pairs of a batch come from.

    Parameters
    ----------
    sampler : IntraSessionPairSampler or None
        Draws pairs in each epoch; None compares all pairs.
    min_margin : float
        Least soft-label gap of a pair.
    session_weight : {"equal", "pairs"}
        Whether each session counts the same, or each pair.
    """

    sampler: Any
    min_margin: float
    session_weight: str


# torch has one global generator, so fits in threads take turns to seed it and draw from it.
_GENERATOR_LOCK = RLock()


@contextmanager
def seeded(random_state) -> Iterator[np.random.RandomState]:
    """Seed torch for the block and restore its global generator afterwards.

    Blocks in other threads wait, so that each draws what its seed says.

    Parameters
    ----------
    random_state : int, RandomState instance or None
        The seed.

    Yields
    ------
    RandomState
        For all other draws.
    """
    with _GENERATOR_LOCK, torch.random.fork_rng():
        rng = check_random_state(random_state)
        torch.manual_seed(int(rng.randint(2**31)))
        yield rng


def pair_source(value, rng: np.random.RandomState) -> PairSource:
    """Return the pair source that the parameter `pair_sampler` means.

    Parameters
    ----------
    value : None, "passthrough" or IntraSessionPairSampler
        The parameter.
    rng : RandomState
        Seeds a sampler that draws.

    Returns
    -------
    PairSource
        The source.
    """
    sampler = make_pair_sampler(value)
    # All pairs are formed from the scores of a batch; only fewer of them need drawing.
    draws = sampler is not None and (
        getattr(sampler, "strategy", None) != "all" or sampler.max_pairs_per_session is not None
    )
    if draws and "random_state" in sampler.get_params():
        sampler.set_params(random_state=np.random.RandomState(rng.randint(2**31)))
    return PairSource(
        sampler if draws else None,
        getattr(sampler, "min_margin", 0.0),
        getattr(sampler, "session_weight", "equal"),
    )


def check_output(network: nn.Module, X, n_scores: int) -> None:
    """Raise if a network does not give the scores that the classes need.

    Parameters
    ----------
    network : nn.Module
        The network.
    X : {ndarray, CSR matrix} of shape (n_rows, n_features), or ndarray of object, shape (n_rows,)
        Rows as the network takes them.
    n_scores : int
        Number of scores per row.

    Raises
    ------
    ValueError
        If the shape of the scores of one row is another one.
    """
    shape = predict_scores(network, X[:1]).shape
    if shape != (1, n_scores):
        raise ValueError(
            f"module gives an output of shape {shape} for 1 row; it must give (1, {n_scores}): "
            + ("one score for a binary task." if n_scores == 1 else "one score per class.")
        )


def as_dataset(training: TrainingSet) -> SessionDataset:
    """Return the rows of known soft label as the net takes them.

    Parameters
    ----------
    training : TrainingSet
        The rows.

    Returns
    -------
    SessionDataset
        The data set; a binary task has the soft label of the positive class alone.
    """
    rows = training.softly_labelled()
    is_binary = rows.soft.shape[1] == 2 and not rows.multilabel
    soft = rows.soft[:, 1:] if is_binary else rows.soft
    # Only ratios matter to stage 1, and products of large or small weights leave the floats.
    weight = rows.weight / (rows.weight.mean() if len(rows.weight) else 1.0)
    return SessionDataset(rows.X, soft, weight, rows.session)


def net_for(
    network: nn.Module,
    objective: Objective,
    pairs: PairSource,
    *,
    batches: dict | None = None,
    output=None,
    **options,
) -> SessionNet:
    """Return a net around a network, ready to train.

    Parameters
    ----------
    network : nn.Module
        The network; trained in place.
    objective : Objective
        The loss.
    pairs : PairSource
        The pairs.
    batches : dict, default=None
        Further arguments of `SessionBatches`.
    output : Output, default=None
        Makes logits of the scores in the pointwise term.
    **options : dict
        Further arguments of `make_net`.

    Returns
    -------
    SessionNet
        The net.
    """
    criterion = objective._asdict() | {
        "min_margin": pairs.min_margin,
        "class_weight": torch.from_numpy(objective.class_weight),
        "output": output,
    }
    source = pairs.sampler or "all"
    return make_net(
        network,
        criterion=criterion,
        batches={
            "min_margin": pairs.min_margin,
            "session_weight": pairs.session_weight,
            **(batches or {}),
        },
        pairs=source if objective.pairwise_weight else None,
        **options,
    )


def train_by_adam(
    network: nn.Module,
    training: TrainingSet,
    held_out: TrainingSet | None,
    *,
    objective: Objective,
    pairs: PairSource,
    n_iter_no_change: int | None = None,
    warmup: float | None = None,
    checkpoint: Path | None = None,
    accelerator=None,
    **options,
) -> tuple[SessionNet, list[dict]]:
    """Train a network by Adam, a step per batch of whole sessions.

    Parameters
    ----------
    network : nn.Module
        The network; trained in place.
    training : TrainingSet
        Rows to train on.
    held_out : TrainingSet or None
        Rows that early stopping watches; None trains for all epochs.
    objective : Objective
        The loss.
    pairs : PairSource
        The pairs.
    n_iter_no_change : int, default=None
        Epochs without a lower loss on `held_out` before training stops.
    warmup : float, default=None
        Share of the training over which the learning rates rise; None keeps them constant.
    checkpoint : Path, default=None
        File of the state of the training; removed by the caller.
    accelerator : accelerate.Accelerator, default=None
        Puts the training on several devices.
    **options : dict
        Further arguments of `net_for`, such as `max_epochs`, `batch_size` and `lr`.

    Returns
    -------
    net : SessionNet
        The trained net.
    history : list of dict
        Losses of each epoch.
    """
    temporary: list = []
    stopper = None
    if held_out is not None:
        sink = print if wants_lines(options.get("verbose")) else noop
        stopper = EarlyStopping(patience=n_iter_no_change, load_best=True, sink=sink)
        temporary.append(stopper)
    if warmup is not None:
        temporary.append(WarmUp(warmup))
    if checkpoint is not None:
        writes = accelerator is None or accelerator.is_main_process
        sampler = pairs.sampler if objective.pairwise_weight else None
        temporary.append(Resume(checkpoint, stopper, sampler, writes))
    rows, valid = as_dataset(training), None if held_out is None else as_dataset(held_out)
    net = net_for(
        network,
        objective,
        pairs,
        valid=valid,
        training_callbacks=temporary,
        accelerator=accelerator,
        **options,
    )
    with in_units(network, rows, valid), net.training(rows) as n_epochs:
        net.fit_loop(rows, epochs=n_epochs)
    history = losses(net.history)
    if accelerator is not None:  # an accelerated net cannot be pickled
        network = accelerator.unwrap_model(net.module_, keep_fp32_wrapper=False)
        net = net_for(network, objective, pairs, **options)
    release_training(net)
    return net, history


def train_by_lbfgs(
    network: nn.Module,
    training: TrainingSet,
    held_out: None,  # noqa: ARG001
    *,
    objective: Objective,
    pairs: PairSource,
    l2: float,
    tol: float,
    max_iter: int,
    **options,
) -> tuple[SessionNet, list[dict]]:
    """Train a network to convergence by L-BFGS on all sessions at once.

    Parameters
    ----------
    network : nn.Module
        The network; trained in place.
    training : TrainingSet
        Rows to train on.
    held_out : None
        Without early stopping no rows are watched.
    objective : Objective
        The loss.
    pairs : PairSource
        The pairs.
    l2 : float
        Strength of the L2 penalty.
    tol : float
        Largest component of the gradient at which to stop.
    max_iter : int
        Most iterations.
    **options : dict
        Further arguments of `net_for`.

    Returns
    -------
    net : SessionNet
        The net around the trained network.
    history : list of dict
        Loss of each iteration.
    """
    net = net_for(network, objective, pairs, **options)
    rows = as_dataset(training)
    with in_units(network, rows):
        values = minimize_full_batch(net, rows, l2=l2, tol=tol, max_iter=max_iter)
    return net, [{"epoch": i, "train_loss": loss} for i, loss in enumerate(values, start=1)]


def train_for_an_epoch(net: SessionNet, training: TrainingSet) -> list[dict]:
    """Train a net for one more epoch.

    Parameters
    ----------
    net : SessionNet
        The net.
    training : TrainingSet
        Rows to train on.

    Returns
    -------
    list of dict
        Losses of the epoch.
    """
    net.set_params(max_epochs=1)
    rows = as_dataset(training)
    with in_units(net.module_, rows), net.training(rows) as n_epochs:
        net.fit_loop(rows, epochs=n_epochs)
    return losses(net.history[-1:])


@contextmanager
def undone_on_failure(net: SessionNet) -> Iterator[None]:
    """Restore a net if training it further fails or is interrupted.

    Parameters
    ----------
    net : SessionNet
        The net, which the block trains in place.

    Yields
    ------
    None
        Nothing.
    """
    weights, optimizer = copy.deepcopy((net.module_.state_dict(), net.optimizer_.state_dict()))
    n_epochs = len(net.history)
    try:
        yield
    except BaseException:
        net.module_.load_state_dict(weights)
        net.optimizer_.load_state_dict(optimizer)
        del net.history[n_epochs:]
        raise


def restore_last_layer(network: nn.Module, weight: FloatArray | None) -> None:
    """Undo the change of the last layer by stage 2.

    Stage 1 scores without the scale that stage 2 fitted, so it continues from its own weights.

    Parameters
    ----------
    network : nn.Module
        The network; changed in place.
    weight : ndarray or None
        The layer's weights after stage 1; None if stage 2 did not change them.
    """
    layer = last_layer(network)
    if weight is not None and layer is not None:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))


def score_trained(network: nn.Module, X) -> FloatArray:
    """Return the scores of the training rows; raise if training has diverged.

    Parameters
    ----------
    network : nn.Module
        The trained network.
    X : {ndarray, CSR matrix} of shape (n_rows, n_features), or ndarray of object, shape (n_rows,)
        Its training rows.

    Returns
    -------
    ndarray of shape (n_rows, n_scores)
        Scores.

    Raises
    ------
    ValueError
        If a weight or a score is not finite.
    """
    scores = predict_scores(network, X)
    weights = all(bool(torch.isfinite(p).all()) for p in network.parameters())
    if weights and np.isfinite(scores).all():
        return scores
    size = "" if X.dtype == object else f" X holds values of up to {abs(X).max():.3g}:"
    raise ValueError(
        f"training diverged: the network's weights or scores are not finite.{size} scale the "
        "features (StandardScaler) and remove extreme values, or lower lr."
    )


def losses(history: Iterable[dict]) -> list[dict]:
    """Return the epochs of a net's history, with their losses alone.

    Parameters
    ----------
    history : iterable of dict
        The history, with all that skorch records.

    Returns
    -------
    list of dict
        Epoch, train_loss and, with early stopping, valid_loss.
    """
    names = ("epoch", "train_loss", "valid_loss")
    return [{name: epoch[name] for name in names if name in epoch} for epoch in history]


def checkpoint_path(folder, identity: tuple, random_state) -> Path:
    """Return the file that the state of one training is kept in; its folder is made.

    Parameters
    ----------
    folder : str or path-like
        The parameter `checkpoint_dir`.
    identity : tuple
        What two trainings have in common only if one can resume the other.
    random_state : object
        Seed of the classifier.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If `random_state` is not an int.
    """
    if not isinstance(random_state, Integral):
        raise ValueError(
            f"checkpoint_dir was given but random_state={random_state!r}: a training that "
            "resumes must draw the same again; pass an int."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{joblib.hash(identity)}.pt"


def make_accelerator(options, random_state):
    """Return the accelerator that the parameter `accelerate` means.

    Parameters
    ----------
    options : bool or dict
        The parameter.
    random_state : object
        Seed of the classifier.

    Returns
    -------
    accelerate.Accelerator or None
        The accelerator; None for False.

    Raises
    ------
    ImportError
        If accelerate is not installed.
    ValueError
        If several processes train and `random_state` is not an int.
    """
    if options is False:
        return None
    library = import_optional("accelerate", "accelerate=True", "accelerate")
    accelerator = library.Accelerator(**(options if isinstance(options, dict) else {}))
    if accelerator.num_processes > 1 and not isinstance(random_state, Integral):
        raise ValueError(
            f"accelerate trains in {accelerator.num_processes} processes, which must draw "
            f"the same, but random_state={random_state!r}; pass an int."
        )
    return accelerator


def gradient_clipping(max_grad_norm: float | None) -> list:
    """Return the callbacks that clip longer gradients.

    Parameters
    ----------
    max_grad_norm : float or None
        The parameter; None does not clip.

    Returns
    -------
    list
        One callback or none.
    """
    return [] if max_grad_norm is None else [GradientNormClipping(max_grad_norm)]


def encoder_optimizer(encoder_lr: float) -> dict:
    """Return the arguments of a net that trains an encoder at a learning rate of its own.

    Parameters
    ----------
    encoder_lr : float
        The learning rate.

    Returns
    -------
    dict
        Arguments of `net_for`.
    """
    return {
        "optimizer": torch.optim.AdamW,
        "optimizer__param_groups": [("encoder.*", {"lr": encoder_lr})],
    }
