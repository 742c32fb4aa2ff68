"""The small classifier that learns which of two utterances of a session the LLM prefers."""

import copy
from contextlib import contextmanager
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from skpref._calibrator import LLMScoreCalibrator
from skpref._device import resolve_device
from skpref._optional import import_optional
from skpref._sampler import IntraSessionPairSampler
from skpref._sklearn import (
    DocLinkMixin,
    HasMethods,
    Interval,
    StrOptions,
    _check_sample_weight,
    _fit_context,
)
from skpref._smoother import KNNLabelSmoother
from skpref._student._stage2 import expected_f1_offsets, fit_head, fit_offsets, probabilities
from skpref._typing import BoolArray, FloatArray, IntArray
from skpref._validation import (
    check_groups,
    check_labels,
    check_llm_scores,
    check_texts,
    labels_of_codes,
    resolve_classes,
)

# In stage 2 all soft labels together weigh as much as this many human labels. The labels of a few
# whole sessions are much alike, so they say less about offsets than their number promises.
_SOFT_LABEL_WEIGHT = 200.0
# Networks that are fine-tuned whole by default are so from this many labels on.
_FINETUNE_LABELS = 200

_ROUTING_HELP = (
    "With metadata routing on (sklearn.set_config(enable_metadata_routing=True)), pass groups= and "
    "llm_scores= to the outer fit, or as params={...} to cross_validate. With routing off, "
    "GridSearchCV gives groups to the splitter only, so name the step as well: "
    "search.fit(X, y, groups=g, clf__groups=g, clf__llm_scores=s)."
)


_DEFAULTS = {
    "calibrator": LLMScoreCalibrator,
    "smoother": KNNLabelSmoother,
    "pair_sampler": IntraSessionPairSampler,
}


@contextmanager
def _seeded(random_state):
    """Seed torch for the block, leave its global generator as it was; yields a RandomState."""
    import torch

    rng = check_random_state(random_state)
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.randint(2**31)))
        yield rng


class _Rows(NamedTuple):
    """Training rows in canonical order; those of a session stand together."""

    X: FloatArray
    codes: IntArray  # human labels as class positions, -1 unlabelled
    soft: FloatArray  # (n_rows, n_classes), NaN rows unknown
    weight: FloatArray
    session: IntArray  # ascending

    def take(self, rows) -> "_Rows":
        return _Rows(*(part[rows] for part in self))

    def known(self) -> BoolArray:
        """Tell which rows have a soft label."""
        return np.asarray(~np.isnan(self.soft).any(axis=1))


def _canonical_order(X, session) -> IntArray:
    """Order of the rows that depends on their content only, sessions together.

    Batches and folds are drawn from this order, so neither shuffling the rows nor renaming the
    sessions changes the fitted model.
    """
    content = X
    if X.dtype != object:  # features; texts have an order of their own
        direction = np.random.RandomState(0).standard_normal(X.shape[1])
        content = X.astype(np.float64) @ direction
    by_content = np.argsort(content, kind="stable")
    rank = check_groups(session[by_content], len(by_content))
    return by_content[np.argsort(rank, kind="stable")]


def _has_pairs(soft, session, min_margin) -> bool:
    """Tell whether some session holds two rows whose soft labels differ enough."""
    starts = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
    spread = np.maximum.reduceat(soft, starts) - np.minimum.reduceat(soft, starts)
    return bool((spread >= min_margin).any() if min_margin > 0 else (spread > 0).any())


def _trains_by_epochs(estimator) -> bool:
    """Tell whether there is a `partial_fit`."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit trains for an epoch, which solver='lbfgs' does not; pass solver='adam'."
        )
    return True


class PairwisePreferenceClassifier(DocLinkMixin, ClassifierMixin, BaseEstimator):
    """Small classifier trained on preferences between utterances of the same session.

    Stage 1 learns from soft labels (calibrated and smoothed LLM scores, or the labels in `y` where
    there are no scores) which of two utterances of a session should score higher, and by how much.
    Stage 2 fixes what pairs leave open, a scale and one offset per class, with the human labels,
    and moves the network's last layer as far towards them as cross-validation bears out.
    After Liu et al. 2025, arXiv 2503.05620.

    Parameters
    ----------
    module : {"mlp", "linear", "transformer"}, nn.Module class, callable or instance, default="mlp"
        Network from (n_rows, n_features) to (n_rows, n_outputs), one output for a binary task, else
        one per class. A class or callable gets `n_features` and `n_outputs` where it has such
        parameters, and every ``module__*`` of this estimator. "transformer" takes texts as `X` and
        trains a Hugging Face encoder with a linear head end to end.
    loss : {"squared_hinge", "hinge", "logistic"}, default="squared_hinge"
        Loss of a pair by how far the scores fall short of the margin.
    margin : {"adaptive", "fixed"}, default="adaptive"
        Whether a pair must be `margin_scale` times its soft-label gap apart, or `margin_scale`.
    margin_scale : float, default=2.0
        Margin in units of the network's scores (logits).
    pairwise_weight : float, default=0.1
        Weight of the pairwise term. 0 leaves pointwise distillation. On the development sessions
        of nine real tasks more than 0.1 lost macro-F1 (benchmarks/results/levers.md).
    pointwise_weight : float, default=1.0
        Weight of the cross-entropy of each row with its soft label.
    class_weight : None, "balanced" or dict of {label: weight}, default="balanced"
        Weight of each class in the cross-entropy and in stage 2; its square root in "head" and
        "finetune", since the offsets have moved towards rare classes already. "balanced" divides
        by the frequency of the class among the soft labels, which raises macro-F1, and makes the
        probabilities those of a population with classes alike in number. None weights all rows
        alike, for probabilities that match the frequencies.
    stage2 : {"auto", "offsets", "head", "finetune"} or None, default="auto"
        "offsets" refits scale and offsets on human and soft labels, the soft ones together worth
        200 human ones. "head" then refits the last layer on the labelled rows, by ridge regression
        towards what stage 1 gave, as strong as cross-validation by labelled sessions finds best;
        "finetune" trains the whole network on them. All need a label, and "head" a network over
        features that ends in a linear layer. "auto", where there are `llm_scores` and labels, is
        "head" for "mlp" and "linear", and for other modules "finetune" from 200 labels on; else it
        is "offsets", from the soft labels alone where there is no human label. None leaves the
        network's scores as they are.
    finetune_epochs : int, default=5
        Epochs of fine-tuning.
    decision : {"argmax", "macro_f1"}, default="argmax"
        What `predict` gives: "argmax" the most probable class; "macro_f1" the one that is after a
        shift of the log-probabilities, one per class, which maximises the macro-F1 expected on the
        training rows if their soft labels are right. It does not touch `predict_proba`.
    calibrator : None, "passthrough" or transformer, default=None
        From `llm_scores` to soft labels. None means ``LLMScoreCalibrator()``; "passthrough"
        averages the prompts' probabilities as they are.
    smoother : None, "passthrough" or transformer, default=None
        Smooths the soft labels over `X`, or over the embeddings that a transformer gives before it
        is trained. None means ``KNNLabelSmoother()``.
    pair_sampler : None, "passthrough" or IntraSessionPairSampler, default=None
        None and "passthrough" compare all pairs of a session; a sampler with another strategy or a
        cap draws pairs anew in each epoch.
    classes : array-like of shape (n_classes,), default=None
        Class labels in the order of the last axis of `llm_scores`. None takes the sorted labels
        of `y`; needed where `y` may lack a class.
    max_epochs : int or "auto", default="auto"
        Passes over the sessions in stage 1. "auto" is 30, or 5 for a transformer.
    lr : float, default=0.001
        Learning rate of Adam; of a transformer, that of its head.
    encoder_lr : float, default=0.00005
        Learning rate of a transformer's encoder.
    warmup : float, "auto" or None, default="auto"
        Share of the training over which the learning rates rise, before they fall to 0 by its
        end. None keeps them constant. "auto" is None, or 0.1 for a transformer.
    max_grad_norm : float, "auto" or None, default="auto"
        Norm to which a longer gradient is clipped. None does not clip. "auto" is None, or 1.0 for
        a transformer.
    batch_size : int or "auto", default="auto"
        Utterances per step: whole sessions are packed up to that many. "auto" is 256, or 64 for a
        transformer. A longer session is a step by itself, unless it holds more than a tenth of all
        utterances: then it is dealt at random, anew in each epoch, into parts of about a tenth, so
        that an epoch has ten steps. A batch for a transformer has no more than
        ``module__token_budget`` tokens, too; of a session that has more by itself, the activations
        are computed again in parts for the gradient.
    accumulate : int, default=1
        Batches whose mean gradient makes a step.
    weight_decay : float, default=0.001
        Strength of the L2 penalty, half the squared norm of the network's parameters. For a
        transformer it is decoupled from the gradient (AdamW).
    solver : {"adam", "lbfgs"}, default="adam"
        How stage 1 minimises the loss. "adam" takes a step per batch. "lbfgs" takes all sessions
        at once and goes on until it converges, deterministically and without a learning rate:
        with ``module="linear"``, whose loss is convex, to the one optimum. It needs a smooth
        `loss`, "squared_hinge" or "logistic"; `max_epochs`, `batch_size`, `early_stopping` and
        `callbacks` do not apply to it. Fine-tuning in stage 2 is by Adam either way.
    tol : float, default=1e-5
        Largest component of the gradient at which "lbfgs" stops.
    max_iter : int, default=1000
        Most iterations of "lbfgs".
    early_stopping : bool, default=False
        Whether to stop when the loss of the held-out sessions no longer falls.
    validation_fraction : float, default=0.1
        Share of the sessions, labelled ones first, that stage 1 does not train on: the scale is
        fitted on them, and early stopping watches them. Rows where there is only one session.
    n_iter_no_change : int, default=5
        Epochs without a lower loss before early stopping.
    callbacks : list of skorch callbacks, default=None
        Further callbacks of the net, such as `skorch.callbacks.ProgressBar`.
    checkpoint_dir : str or path-like, default=None
        Folder in which the state of stage 1 is kept after each epoch. The same `fit` after a kill
        (same data, parameters, `random_state` of type int, on the same machine) goes on from
        there and gives the same result; only `callbacks` of your own start anew. The file is
        removed at the end of `fit`.
    accelerate : bool or dict, default=False
        Whether stage 1 trains through Hugging Face accelerate, on several GPUs where the script
        is started by ``accelerate launch``; then `random_state` must be an int, so that all
        processes draw the same, and `device` applies to prediction alone. A dict has arguments of
        `accelerate.Accelerator`.
    device : str, default="auto"
        "cpu", "cuda", "cuda:N", or "auto" for CUDA where there is one.
    warm_start : bool, default=False
        Whether `fit` continues from the network of the previous fit.
    verbose : int, default=0
        Whether the net prints a line per epoch.
    random_state : int, RandomState instance or None, default=None
        Seed of the network, the order of the sessions and the pairs.
    **module__params : dict
        Arguments of the module, each named ``module__<argument>``. "mlp" takes
        ``module__hidden_units`` and ``module__dropout``; "transformer" takes
        ``module__model_name`` (default: all-MiniLM-L6-v2), ``module__revision``,
        ``module__max_length`` (tokens), ``module__trainable_layers`` (None for all, 0 for the head
        alone, k for the last k), ``module__dropout``, ``module__token_budget`` (default: 16384),
        ``module__gradient_checkpointing``, ``module__bf16`` (default: where CUDA has it),
        ``module__compile`` and ``module__model_kwargs`` of the encoder.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    net_ : skorch.NeuralNet
        The fitted net.
    calibrator_ : transformer
        The fitted calibrator; only where `llm_scores` were given.
    soft_labels_ : ndarray of shape (n_utterances, n_classes)
        Soft labels of the rows given to `fit`, NaN for rows of zero weight.
    class_weight_ : ndarray of shape (n_classes,)
        Weight of each class.
    scale_, offsets_ : float, ndarray of shape (n_scores,)
        What stage 2 fitted: logits are ``scale_ * scores + offsets_``.
    decision_offsets_ : ndarray of shape (n_classes,)
        The shift of `decision`; zeros for "argmax".
    head_variance_ : float
        How far "head" of stage 2 let the last layer move: variance of the prior of the change, 0
        for none, as where the labels are of one session.
    history_ : list of dict
        Table of losses: stage, epoch, train_loss and, with early stopping, valid_loss.
    n_iter_ : int
        Epochs run in stage 1, or iterations of "lbfgs".
    n_features_in_ : int
        Number of features, unless `X` is text.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where `X` has string column names.

    See Also
    --------
    LLMScoreCalibrator : Raw LLM scores to class probabilities.
    KNNLabelSmoother : Smooths soft labels over neighbours.
    IntraSessionPairSampler : Pairs within sessions.
    SentenceEncoder : Embeds texts by an encoder that stays as it is.
    DialogueContext : Puts the turns before an utterance into its text.

    Notes
    -----
    `predict_proba` is the softmax of ``scale_ * scores + offsets_``. Scale and offsets are what
    calibrates it: a penalised maximum-likelihood fit on human labels and, as a prior, on the
    calibrated soft labels. The scale is fitted on sessions that the network was not trained on,
    since a network is too sure of the rows it has seen; where there are too few sessions to hold
    some out (fewer than half of ``1 / validation_fraction``) it is fitted on those all the same,
    and then, or with ``stage2=None``, probabilities are not calibrated: see
    `sklearn.calibration.CalibratedClassifierCV`. Class weights, which are balanced by default,
    lift the probabilities of rare classes above their frequencies.

    Each utterance goes through the network once per step, whatever the number of its pairs. The
    hinge losses compare all pairs of a session of any length: pair by pair up to 128 utterances,
    in longer ones by sums of O(n log n) that give the same. The logistic loss has no such sums; in
    longer sessions it is estimated, without bias, from 64 random losers of each utterance.

    A transformer reads the texts of a batch, which are whole sessions, in passes of texts of about
    one length, so that little is padding. Each text is encoded once a step, in bfloat16 mixed
    precision where CUDA has it. Prediction is in single precision everywhere.

    Neither the order of the rows nor the names of the sessions change the fitted model.

    Where `y` is partly unlabelled, a search can use the default scoring (`score`) or
    `skpref.metrics.within_session_concordance_scorer`, which leave unlabelled rows out;
    scikit-learn's own scorers take the mark of an unlabelled row for a class. With metadata routing
    off and no `llm_scores`, ``search.fit(X, y, groups=g)`` does not reach this estimator, and all
    rows are one session; name the step as well, ``clf__groups=g``.

    Examples
    --------
    >>> from skpref import PairwisePreferenceClassifier
    >>> from skpref.datasets import make_dialogues
    >>> data = make_dialogues(n_sessions=60, random_state=0)
    >>> clf = PairwisePreferenceClassifier(random_state=0)
    >>> clf.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
    PairwisePreferenceClassifier(random_state=0)
    >>> bool(clf.score(data.X, data.y_true) > 0.7)
    True
    """

    # Under metadata routing the session ids and scores reach fit without any set_fit_request.
    __metadata_request__fit = {"groups": True, "llm_scores": True}
    __metadata_request__partial_fit = {"groups": True, "llm_scores": True}

    _parameter_constraints: dict = {
        "module": [StrOptions({"linear", "mlp", "transformer"}), callable],
        "loss": [StrOptions({"hinge", "squared_hinge", "logistic"})],
        "margin": [StrOptions({"adaptive", "fixed"})],
        "margin_scale": [Interval(Real, 0, None, closed="neither")],
        "pairwise_weight": [Interval(Real, 0, None, closed="left")],
        "pointwise_weight": [Interval(Real, 0, None, closed="left")],
        "class_weight": [None, StrOptions({"balanced"}), dict],
        "stage2": [None, StrOptions({"auto", "offsets", "head", "finetune"})],
        "finetune_epochs": [Interval(Integral, 1, None, closed="left")],
        "decision": [StrOptions({"argmax", "macro_f1"})],
        "calibrator": [None, StrOptions({"passthrough"}), HasMethods(["fit_transform"])],
        "smoother": [None, StrOptions({"passthrough"}), HasMethods(["fit_transform"])],
        "pair_sampler": [None, StrOptions({"passthrough"}), HasMethods(["sample"])],
        "classes": [None, "array-like"],
        "max_epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "encoder_lr": [Interval(Real, 0, None, closed="neither")],
        "warmup": [None, StrOptions({"auto"}), Interval(Real, 0, 1, closed="both")],
        "max_grad_norm": [None, StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "accumulate": [Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "solver": [StrOptions({"adam", "lbfgs"})],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "callbacks": [None, list],
        "checkpoint_dir": [None, str, PathLike],
        "accelerate": ["boolean", dict],
        "device": [str],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        module="mlp",
        *,
        loss="squared_hinge",
        margin="adaptive",
        margin_scale=2.0,
        pairwise_weight=0.1,
        pointwise_weight=1.0,
        class_weight="balanced",
        stage2="auto",
        finetune_epochs=5,
        decision="argmax",
        calibrator=None,
        smoother=None,
        pair_sampler=None,
        classes=None,
        max_epochs="auto",
        lr=1e-3,
        encoder_lr=5e-5,
        warmup="auto",
        max_grad_norm="auto",
        batch_size="auto",
        accumulate=1,
        weight_decay=1e-3,
        solver="adam",
        tol=1e-5,
        max_iter=1000,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
        callbacks=None,
        checkpoint_dir=None,
        accelerate=False,
        device="auto",
        warm_start=False,
        verbose=0,
        random_state=None,
        **module__params,
    ):
        self.module = module
        self.loss = loss
        self.margin = margin
        self.margin_scale = margin_scale
        self.pairwise_weight = pairwise_weight
        self.pointwise_weight = pointwise_weight
        self.class_weight = class_weight
        self.stage2 = stage2
        self.finetune_epochs = finetune_epochs
        self.decision = decision
        self.calibrator = calibrator
        self.smoother = smoother
        self.pair_sampler = pair_sampler
        self.classes = classes
        self.max_epochs = max_epochs
        self.lr = lr
        self.encoder_lr = encoder_lr
        self.warmup = warmup
        self.max_grad_norm = max_grad_norm
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.weight_decay = weight_decay
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.callbacks = callbacks
        self.checkpoint_dir = checkpoint_dir
        self.accelerate = accelerate
        self.device = device
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        for name in module__params:
            if not name.startswith("module__"):
                raise TypeError(
                    f"PairwisePreferenceClassifier got an unexpected argument {name!r}; arguments "
                    "of the module are named module__<argument>."
                )
        vars(self).update(module__params)

    def _module_params(self) -> dict:
        prefix = "module__"
        return {k[len(prefix) :]: v for k, v in vars(self).items() if k.startswith(prefix)}

    def get_params(self, deep=True):
        """Get the parameters of this estimator, ``module__*`` included.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the parameters of calibrator, smoother and pair sampler.

        Returns
        -------
        dict
            Parameter names and values.
        """
        own = {f"module__{k}": v for k, v in self._module_params().items()}
        return super().get_params(deep=deep) | own

    def set_params(self, **params):
        """Set parameters of this estimator, of its parts and of the module.

        Parameters
        ----------
        **params : dict
            Parameters, such as ``margin_scale``, ``calibrator__method``, ``module__hidden_units``.

        Returns
        -------
        PairwisePreferenceClassifier
            This estimator.
        """
        vars(self).update({k: v for k, v in params.items() if k.startswith("module__")})
        params = {k: v for k, v in params.items() if not k.startswith("module__")}
        for part in ("calibrator", "smoother", "pair_sampler"):
            nested = [k for k in params if k.startswith(f"{part}__")]
            value = params.get(part, getattr(self, part))
            if nested and not hasattr(value, "set_params"):
                raise ValueError(
                    f"{nested[0]} cannot be set while {part}={value!r}; give the estimator first, "
                    f"as in PairwisePreferenceClassifier({part}={_DEFAULTS[part].__name__}())."
                )
        return super().set_params(**params)

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, groups=None, llm_scores=None, sample_weight=None):
        """Fit the network on pairs within sessions, then scale and offsets on labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features of the utterances; their texts for a transformer.
        y : array-like of shape (n_utterances,)
            Human labels. With `llm_scores`, -1 (numbers) or None/NaN (objects) marks an unlabelled
            row, and y=None labels none.
        groups : array-like of shape (n_utterances,), default=None
            Session id of each row; required with `llm_scores`. Without both, all rows are one
            session.
        llm_scores : array-like of shape (n_utterances, n_prompts, n_classes) or \
                (n_utterances, n_prompts), default=None
            Raw LLM scores, NaN where there is none; 2-D holds the positive class of a binary task.
        sample_weight : array-like of shape (n_utterances,), default=None
            Row weights; a pair weighs the product of its rows.

        Returns
        -------
        PairwisePreferenceClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If `llm_scores` come without `groups`, shapes or classes do not match, no session holds
            two rows with different soft labels, both weights are 0, stage 2 needs labels and there
            are none, "head" finds no linear layer to refit, or "lbfgs" gets a `loss` that is not
            smooth or `early_stopping`.
        """
        self._check_options()
        continues = self.warm_start and hasattr(self, "net_")
        rows = self._prepare(X, y, groups, llm_scores, sample_weight, classes=self.classes)
        self._check_trainable(rows)
        with _seeded(self.random_state) as rng:
            module = self.net_.module_ if continues else self._make_module(rows.X)
            rows = self._tokenized(rows, module)
            checkpoint = self._checkpoint(rows)
            held_out = self._hold_out(rows, rng)
            self.history_ = []
            self._train(rows, held_out, rng, module, checkpoint)
            self._calibrate(rows, held_out)
            self._adapt(rows, rng)
            self._choose_decision(rows)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return self

    @available_if(_trains_by_epochs)
    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y, classes=None, groups=None, llm_scores=None, sample_weight=None):
        """Train for one epoch on some whole sessions, then refit scale and offsets on them.

        The calibrator is fitted on the first call with `llm_scores` and used as it is on later
        ones, so give that call a fair share of the labels. Early stopping and fine-tuning do not
        apply, nor is the last layer refitted.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features of the utterances; their texts for a transformer.
        y : array-like of shape (n_utterances,)
            Human labels, as for `fit`.
        classes : array-like of shape (n_classes,), default=None
            All class labels; needed on the first call unless the parameter `classes` is set.
        groups : array-like of shape (n_utterances,), default=None
            Session id of each row, as for `fit`.
        llm_scores : array-like of shape (n_utterances, n_prompts, n_classes) or \
                (n_utterances, n_prompts), default=None
            Raw LLM scores, as for `fit`.
        sample_weight : array-like of shape (n_utterances,), default=None
            Row weights.

        Returns
        -------
        PairwisePreferenceClassifier
            The estimator.
        """
        self._check_options()
        first = not hasattr(self, "net_")
        known = self.classes if first else self.classes_
        known = classes if known is None else known
        if known is None:
            raise ValueError("classes must be given on the first call of partial_fit.")
        if classes is not None and not np.array_equal(classes, known):
            raise ValueError(
                f"classes={np.asarray(classes).tolist()!r} is not the same as on the first call of "
                f"partial_fit: {np.asarray(known).tolist()!r}."
            )
        rows = self._prepare(X, y, groups, llm_scores, sample_weight, classes=known, reset=first)
        with _seeded(self.random_state) as rng:
            module = self._make_module(rows.X) if first else self.net_.module_
            rows = self._tokenized(rows, module)
            if first:
                self.history_, self.n_iter_ = [], 0
                self.net_ = self._make_net(rows, rng, module, warmup=None)
            held_out = self._hold_out(rows, rng)
            self.net_.set_params(max_epochs=1)
            self.net_.partial_fit(self._dataset(rows.take(~held_out)))
            self.n_iter_ += 1
            self._record("pairs", self.net_.history[-1:])
            self._calibrate(rows, held_out)
            self._choose_decision(rows)
        return self

    def _takes_text(self) -> bool:
        return isinstance(self.module, str) and self.module == "transformer"

    def _by_input(self, name, text, features):
        """Value of a parameter that "auto" sets by what `X` is."""
        value = getattr(self, name)
        if not (isinstance(value, str) and value == "auto"):
            return value
        return text if self._takes_text() else features

    def _validate_features(self, X, *, reset):
        """Features in double precision where they come so and the module is known to take it."""
        if self._takes_text():
            return check_texts(X)
        keeps = isinstance(self.module, str) and resolve_device(self.device) == "cpu"
        dtype = [np.float64, np.float32] if keeps else np.float32
        return validate_data(self, X, accept_sparse="csr", dtype=dtype, reset=reset)

    def _prepare(self, X, y, groups, llm_scores, sample_weight, *, classes, reset=True) -> _Rows:
        """Validate the input and bring it to canonical order, with soft labels."""
        if y is None and llm_scores is None:
            raise ValueError(
                "PairwisePreferenceClassifier requires y to be passed, but the target y is None."
            )
        X = self._validate_features(X, reset=reset)
        n_rows = X.shape[0]
        y = np.full(n_rows, -1) if y is None else y
        check_consistent_length(X, y)
        if llm_scores is not None:
            if groups is None:
                raise ValueError(
                    "llm_scores was given without groups (the session ids), so pairs would cross "
                    f"sessions. {_ROUTING_HELP}"
                )
            llm_scores = check_llm_scores(llm_scores, n_rows)
        session = np.zeros(n_rows, dtype=int) if groups is None else check_groups(groups, n_rows)
        codes = self._encode(y, llm_scores, classes)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        order = np.flatnonzero(weight)
        if not len(order):
            raise ValueError("sample_weight is zero on every row; give some row a weight.")
        order = order[_canonical_order(X[order], session[order])]
        X, codes, weight = X[order], codes[order], weight[order]
        session = check_groups(session[order], len(order))
        if llm_scores is None:
            if len(np.unique(codes)) < 2:
                raise ValueError("y has one class only on the rows of positive sample_weight.")
            if reset and hasattr(self, "calibrator_"):  # of an earlier fit with scores
                del self.calibrator_
            soft: FloatArray = np.eye(len(self.classes_))[codes]
        else:
            soft = self._soft_labels(X, codes, session, llm_scores[order], refit=reset)
        self.soft_labels_ = np.full((n_rows, soft.shape[1]), np.nan)
        self.soft_labels_[order] = soft
        if reset:
            self.class_weight_ = self._class_weights(soft, weight)
        return _Rows(X, codes, soft, weight, session)

    def _encode(self, y, llm_scores, classes) -> IntArray:
        """Set `classes_` and return the labels as positions in it, -1 unlabelled."""
        partial = llm_scores is not None
        found, codes = check_labels(y, classes=classes, partial=partial)
        if partial:
            n_scores = llm_scores.shape[2] if llm_scores.ndim == 3 else 2
            found = resolve_classes(found, classes, n_scores)
        if len(found) < 2:
            raise ValueError(
                f"y has one class only ({found.tolist()!r}); a classifier needs at least 2 classes."
            )
        self.classes_ = found
        return codes

    def _soft_labels(self, X, codes, session, llm_scores, *, refit) -> FloatArray:
        """Calibrate the scores, then smooth them over the features."""
        if refit or not hasattr(self, "calibrator_"):
            calibrator = self._part("calibrator")
            if "classes" in calibrator.get_params():
                calibrator.set_params(classes=self.classes_)
            # Code -1 picks the last entry, None: the mark of no label whatever the labels' type.
            labels = labels_of_codes(codes, self.classes_)
            soft = calibrator.fit_transform(llm_scores, labels, groups=session)
            self.calibrator_ = calibrator
        else:
            soft = self.calibrator_.transform(llm_scores)
        smoother = self._part("smoother")
        if smoother is None:
            return soft
        if smoother.get_params().get("random_state", 0) is None:
            smoother.set_params(random_state=self.random_state)
        return smoother.fit_transform(self._to_smooth_over(X), soft, groups=session)

    def _to_smooth_over(self, X):
        """Features of the rows; of texts, the embeddings of the encoder as it was loaded."""
        if not self._takes_text():
            return X
        from skpref._encoder import SentenceEncoder

        given = self._module_params()
        names = {k: given[k] for k in ("model_name", "revision") if k in given}
        return SentenceEncoder(**names, device=self.device).fit_transform(X)

    def _part(self, name):
        """Clone of the calibrator, smoother or pair sampler; None for no such step."""
        value = getattr(self, name)
        if value is None:
            return _DEFAULTS[name]()
        if isinstance(value, str):
            # Scores of several prompts must become one distribution even without calibration.
            is_calibrator = name == "calibrator"
            return LLMScoreCalibrator("mean", score_type="probability") if is_calibrator else None
        return clone(value)

    def _check_options(self):
        if self.stage2 == "head" and self._takes_text():
            raise ValueError(
                "stage2='head' needs features but module='transformer' takes texts; pass 'offsets' "
                "or 'finetune'."
            )
        if not (self.pairwise_weight or self.pointwise_weight):
            raise ValueError(
                "pairwise_weight=0 and pointwise_weight=0 leave nothing to train on; give one of "
                "them a weight."
            )
        if self.solver == "adam":
            return
        if self._takes_text():
            raise ValueError("solver='lbfgs' does not train a transformer; pass solver='adam'.")
        if self.loss == "hinge":
            raise ValueError(
                "solver='lbfgs' needs a smooth loss but loss='hinge'; pass loss='squared_hinge' or "
                "'logistic', or solver='adam'."
            )
        if self.early_stopping:
            raise ValueError(
                "solver='lbfgs' runs to convergence, so early_stopping=True cannot be; pass "
                "early_stopping=False, or solver='adam'."
            )

    def _check_trainable(self, rows: _Rows):
        if self.stage2 in ("offsets", "head", "finetune") and not (rows.codes >= 0).any():
            raise ValueError(
                f"stage2={self.stage2!r} needs human labels but y has none; label some rows, or "
                "pass stage2='auto' to fit the offsets on the soft labels."
            )
        known = rows.take(rows.known())
        min_margin = getattr(self.pair_sampler, "min_margin", 0.0)
        if self.pairwise_weight and not _has_pairs(known.soft, known.session, min_margin):
            raise ValueError(
                "groups leave no valid pair: in no session do two rows differ in their soft labels "
                f"by min_margin={min_margin} or more. Check that groups are session ids, not row "
                "ids, lower min_margin, or pass pairwise_weight=0 for pointwise training."
            )

    def _n_outputs(self) -> int:
        """Scores per row: that of the positive class for a binary task, else one per class."""
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def _dataset(self, rows: _Rows):
        """Rows of known soft label, as the net takes them."""
        from skpref._torch._batches import SessionDataset

        rows = rows.take(rows.known())
        soft = rows.soft[:, -self._n_outputs() :]
        return SessionDataset(rows.X, soft, rows.weight, rows.session)

    def _make_module(self, X):
        """Build a network for the rows."""
        import torch

        from skpref._torch._net import resolve_module

        is_text = self._takes_text()
        n_features = None if is_text else X.shape[1]
        module = resolve_module(self.module, self._module_params(), n_features, self._n_outputs())
        return module if is_text else module.to(getattr(torch, X.dtype.name))

    def _tokenized(self, rows: _Rows, module) -> _Rows:
        """Rows as the network takes them."""
        return rows._replace(X=module.tokenize(rows.X)) if self._takes_text() else rows

    def _checkpoint(self, rows: _Rows):
        """File that the state of this very training is kept in."""
        if self.checkpoint_dir is None:
            return None
        if not isinstance(self.random_state, Integral):
            raise ValueError(
                f"checkpoint_dir was given but random_state={self.random_state!r}: a training that "
                "goes on must draw the same again; pass an int."
            )
        apart = ("checkpoint_dir", "device", "verbose", "callbacks", "accelerate")
        params = {k: v for k, v in self.get_params().items() if k not in apart}
        X = np.concatenate(rows.X) if self._takes_text() else rows.X
        folder = Path(self.checkpoint_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{joblib.hash((params, self.classes_, X, *rows[1:]))}.pt"

    def _make_net(self, rows: _Rows, rng, module, *, criterion=None, accelerate=False, **params):
        """Net around a module, ready to train."""
        import torch

        from skpref._torch._net import make_net, predict_scores

        n_outputs = self._n_outputs()
        sampler = self._part("pair_sampler")
        # All pairs are formed from the scores of a batch; only fewer of them need drawing.
        draws = sampler is not None and (
            getattr(sampler, "strategy", None) != "all" or sampler.max_pairs_per_session is not None
        )
        if draws and "random_state" in sampler.get_params():
            sampler.set_params(random_state=np.random.RandomState(rng.randint(2**31)))
        min_margin = getattr(sampler, "min_margin", 0.0)
        criterion = {
            "loss": self.loss,
            "margin": self.margin,
            "margin_scale": self.margin_scale,
            "pairwise_weight": self.pairwise_weight,
            "pointwise_weight": self.pointwise_weight,
            "min_margin": min_margin,
            "class_weight": torch.from_numpy(self.class_weight_),
        } | (criterion or {})
        all_pairs = "all" if criterion["pairwise_weight"] else None
        batches = {
            "pairs": all_pairs,
            "min_margin": min_margin,
            "session_weight": getattr(sampler, "session_weight", "equal"),
        }
        optimizer = {}
        if self._takes_text():
            batches["token_budget"] = module.token_budget
            optimizer = {
                "optimizer": torch.optim.AdamW,
                "optimizer__param_groups": [("encoder.*", {"lr": self.encoder_lr})],
            }
        if accelerate:
            library = import_optional("accelerate", "accelerate=True", "accelerate")
            options = self.accelerate if isinstance(self.accelerate, dict) else {}
            params["accelerator"] = accelerator = library.Accelerator(**options)
            if accelerator.num_processes > 1 and not isinstance(self.random_state, Integral):
                raise ValueError(
                    f"accelerate trains in {accelerator.num_processes} processes, which must draw "
                    f"the same, but random_state={self.random_state!r}; pass an int."
                )
        settings = {
            "warmup": self._by_input("warmup", 0.1, None),
            "max_grad_norm": self._by_input("max_grad_norm", 1.0, None),
        }
        net = make_net(
            module,
            criterion=criterion,
            batches=batches,
            iterator_train__pairs=sampler if draws and all_pairs else all_pairs,
            callbacks=copy.deepcopy(self.callbacks),
            batch_size=self._by_input("batch_size", 64, 256),
            accumulate=self.accumulate,
            lr=self.lr,
            optimizer__weight_decay=self.weight_decay,
            device=resolve_device(self.device),
            verbose=self.verbose,
            **(optimizer | settings | params),
        )
        if not rows.X.shape[0]:  # read from a file
            return net
        shape = predict_scores(net.module_, rows.X[:1]).shape
        if shape != (1, n_outputs):
            raise ValueError(
                f"module gives an output of shape {shape} for 1 row; it must give "
                f"(1, {n_outputs}): "
                + ("one score for a binary task." if n_outputs == 1 else "one score per class.")
            )
        return net

    def _class_weights(self, soft, weight) -> FloatArray:
        n_classes = len(self.classes_)
        if self.class_weight is None:
            return np.ones(n_classes)
        if isinstance(self.class_weight, dict):
            unknown = [c for c in self.class_weight if c not in self.classes_]
            if unknown:
                raise ValueError(
                    f"class_weight names classes that are not there: {unknown!r}; the classes are "
                    f"{self.classes_.tolist()!r}."
                )
            return np.array([self.class_weight.get(c, 1.0) for c in self.classes_.tolist()])
        share = np.nansum(weight[:, None] * soft, axis=0)
        share /= share.sum()
        return 1 / (n_classes * np.maximum(share, 1e-3))

    def _hold_out(self, rows: _Rows, rng) -> BoolArray:
        """Rows of the sessions that stage 1 does not train on, labelled sessions first."""
        unit = rows.session
        wanted = round(self.validation_fraction * (unit[-1] + 1))
        if self.early_stopping:
            if unit[-1] == 0:  # one session cannot be held out whole
                unit = np.arange(len(unit))
            wanted = max(1, round(self.validation_fraction * (unit[-1] + 1)))
        elif self.stage2 is None:
            wanted = 0
        order = rng.permutation(unit[-1] + 1)
        labelled = np.isin(order, unit[rows.codes >= 0])
        order = order[np.argsort(~labelled, kind="stable")]
        return np.isin(unit, order[: min(wanted, unit[-1])])

    def _train(self, rows: _Rows, held_out, rng, module, checkpoint):
        """Stage 1: pairs and cross-entropy on the soft labels."""
        from skpref._torch._net import release_training

        if self.solver == "lbfgs":
            self._minimize(rows.take(~held_out), rng, module)
            return
        options = {"max_epochs": self._by_input("max_epochs", 5, 30), "checkpoint": checkpoint}
        if self.early_stopping:
            options["valid"] = self._dataset(rows.take(held_out))
            options["n_iter_no_change"] = self.n_iter_no_change
        accelerate = self.accelerate is not False
        self.net_ = self._make_net(rows, rng, module, accelerate=accelerate, **options)
        self.net_.partial_fit(self._dataset(rows.take(~held_out)))
        self.n_iter_ = len(self.net_.history)
        self._record("pairs", self.net_.history)
        if accelerate:  # what was accelerated cannot be pickled
            unwrap = self.net_.accelerator.unwrap_model
            module = unwrap(self.net_.module_, keep_fp32_wrapper=False)
            self.net_ = self._make_net(rows, rng, module)
        release_training(self.net_)

    def _minimize(self, rows: _Rows, rng, module):
        """Stage 1 by L-BFGS on all sessions at once."""
        from skpref._torch._net import minimize_full_batch

        self.net_ = self._make_net(rows, rng, module)
        losses = minimize_full_batch(
            self.net_,
            self._dataset(rows),
            l2=self.weight_decay,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        self.n_iter_ = len(losses)
        history = [{"epoch": i, "train_loss": loss} for i, loss in enumerate(losses, start=1)]
        self._record("pairs", history)

    def _calibrate(self, rows: _Rows, held_out):
        """Stage 2: fit the scale on held-out rows and the offsets on all."""
        self.scale_, self.head_variance_ = 1.0, 0.0
        self.offsets_: FloatArray = np.zeros(self._n_outputs())
        if self.stage2 is None:
            return
        scores = self._scores(rows.X)
        scale = None
        if held_out.any():
            scale, _ = self._fit_offsets(rows.take(held_out), scores[held_out])
        self.scale_, self.offsets_ = self._fit_offsets(rows, scores, scale=scale)

    def _fit_offsets(self, rows: _Rows, scores, *, scale=None) -> tuple[float, FloatArray]:
        """Fit scale and offsets on the human labels and, as a prior, on the soft labels."""
        known = rows.codes >= 0
        target, weight = np.eye(len(self.classes_))[rows.codes[known]], rows.weight[known]
        if hasattr(self, "calibrator_"):
            soft = rows.known()
            share = rows.weight[soft] / max(rows.weight[soft].sum(), 1e-12)
            scores = np.vstack([scores[known], scores[soft]])
            target = np.vstack([target, rows.soft[soft]])
            weight = np.r_[weight, _SOFT_LABEL_WEIGHT * share]
        weight = weight * (target @ self.class_weight_)
        return fit_offsets(scores, target, weight, scale=scale)

    def _adapt(self, rows: _Rows, rng):
        """Move the network towards the human labels, its last layer or all of it."""
        labelled = rows.take(rows.codes >= 0)
        how = self.stage2
        if how == "auto" and hasattr(self, "calibrator_") and len(labelled.codes):
            enough = len(labelled.codes) >= _FINETUNE_LABELS
            how = "head" if self.module in ("mlp", "linear") else "finetune" if enough else how
        one_hot = labelled._replace(soft=np.eye(len(self.classes_))[labelled.codes])
        if how == "head":
            self._refit_head(one_hot)
        if how == "finetune":
            self._finetune(one_hot, rng)

    def _refit_head(self, one_hot: _Rows):
        """Refit the last layer on the human labels, near to what it is."""
        import torch

        from skpref._torch._net import score_by_last_layer

        scores, layer, inputs = score_by_last_layer(self.net_.module_, one_hot.X)
        logits = self.scale_ * scores.astype(np.float64) + self.offsets_
        weight = one_hot.weight * np.sqrt(self.class_weight_)[one_hot.codes]
        coef, intercept, self.head_variance_ = fit_head(
            inputs, logits, one_hot.soft, weight / weight.mean(), one_hot.session
        )
        with torch.no_grad():
            layer.weight += torch.from_numpy(coef / self.scale_).to(layer.weight)
        self.offsets_ = self.offsets_ + intercept

    def _finetune(self, one_hot: _Rows, rng):
        """Go on with cross-entropy on the human labels."""
        import torch

        criterion = {
            "pairwise_weight": 0.0,
            "pointwise_weight": 1.0,
            "class_weight": torch.from_numpy(np.sqrt(self.class_weight_)),
            "scale": self.scale_,
            "offsets": self.offsets_,
        }
        net = self._make_net(
            one_hot,
            rng,
            self.net_.module_,  # trained in place, so net_ keeps its part in partial_fit
            criterion=criterion,
            max_epochs=self.finetune_epochs,
        )
        net.partial_fit(self._dataset(one_hot))
        self._record("finetune", net.history)

    def _choose_decision(self, rows: _Rows):
        """Find the shift of the log-probabilities that `predict` applies."""
        self.decision_offsets_: FloatArray = np.zeros(len(self.classes_))
        if self.decision == "argmax":
            return
        known = rows.take(rows.known())
        p = probabilities(self.scale_ * self._scores(known.X).astype(np.float64) + self.offsets_)
        log_p = np.log(np.maximum(p, 1e-12))
        self.decision_offsets_ = expected_f1_offsets(log_p, known.soft, known.weight)

    def _record(self, stage, history):
        for epoch in history:
            losses = {k: epoch[k] for k in ("train_loss", "valid_loss") if k in epoch}
            self.history_.append({"stage": stage, "epoch": epoch["epoch"], **losses})

    def _scores(self, X) -> FloatArray:
        from skpref._torch._net import predict_scores

        return predict_scores(self.net_.module_, X)

    def _logits(self, X) -> FloatArray:
        check_is_fitted(self)
        if self._takes_text():
            X = self.net_.module_.tokenize(check_texts(X))
        else:
            # Cast to the network's precision batch by batch, not all rows at once.
            dtype = [np.float64, np.float32]
            X = validate_data(self, X, accept_sparse="csr", dtype=dtype, reset=False)
        scores = self._scores(X)
        return (self.scale_ * scores + self.offsets_).astype(scores.dtype)

    def decision_function(self, X):
        """Score the rows in logits.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features, or texts, as in `fit`.

        Returns
        -------
        ndarray of shape (n_utterances,) or (n_utterances, n_classes)
            ``scale_ * scores + offsets_``: of the positive class for a binary task.
        """
        logits = self._logits(X)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, X):
        """Probability of each class, calibrated by stage 2 (see Notes).

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features, or texts, as in `fit`.

        Returns
        -------
        ndarray of shape (n_utterances, n_classes)
            Softmax of ``scale_ * scores + offsets_``, which stage 2 fitted on the human labels and,
            as a prior, on the calibrated soft labels.
        """
        return probabilities(self._logits(X))

    def predict(self, X):
        """Most probable class, or what `decision` chooses.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features, or texts, as in `fit`.

        Returns
        -------
        ndarray of shape (n_utterances,)
            Class labels.
        """
        best = (self.predict_proba(X) * np.exp(self.decision_offsets_)).argmax(axis=1)
        return self.classes_[best]

    def score(self, X, y, sample_weight=None):
        """Accuracy on the labelled rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features, or texts, as in `fit`.
        y : array-like of shape (n_utterances,)
            Human labels. -1 and None/NaN mark unlabelled rows, which do not count, unless -1 is a
            class.
        sample_weight : array-like of shape (n_utterances,), default=None
            Row weights.

        Returns
        -------
        float
            Accuracy.
        """
        check_is_fitted(self)
        partial = -1 not in self.classes_.tolist()
        _, codes = check_labels(y, partial=partial)
        labelled = np.flatnonzero(codes >= 0)
        if not len(labelled):
            raise ValueError("y has no labelled row to score.")
        if sample_weight is not None:
            sample_weight = np.asarray(sample_weight)[labelled]
        truth = np.asarray(y)[labelled]
        return accuracy_score(truth, self.predict(X)[labelled], sample_weight=sample_weight)

    def save_pretrained(self, folder):
        """Write the fitted classifier to a folder, without pickle.

        The folder holds ``config.json`` (parameters, classes, scale and offsets),
        ``model.safetensors`` (the network's weights) and for ``module="transformer"`` ``encoder``,
        which `SentenceTransformer` loads, too.

        Parameters
        ----------
        folder : str or path-like
            Where to. What is there must be empty or written by this method; it is replaced when
            all is written, so that a crash leaves no half of a model.

        Raises
        ------
        FileExistsError
            If there is something else at `folder`.
        TypeError
            If the labels are neither numbers, strings nor booleans.

        See Also
        --------
        from_pretrained : Reads the folder.
        to_onnx : Writes a graph that needs neither torch nor this library.

        Notes
        -----
        What only training needs is not saved: the calibrator and smoother of the LLM scores, the
        soft labels and the state of the optimiser. Parameters that JSON cannot hold, such as a
        `calibrator` or `callbacks`, are at their default in the loaded estimator; ``config.json``
        lists them.

        `skops.io` writes fitted classifiers as well, but is no safer than pickle here: a skorch net
        keeps its network as a pickle. To trust are, for "mlp": ``builtins.print``,
        ``functools.partial``, ``skorch.callbacks.logging.EpochTimer``,
        ``skorch.callbacks.logging.PrintLog``, ``skorch.callbacks.scoring.PassthroughScoring``,
        ``skorch.dataset.Dataset``, ``skorch.history.History``, ``skorch.setter.optimizer_setter``,
        ``skpref._torch._batches.SessionBatches``, ``skpref._calibrator.LLMScoreCalibrator``,
        ``skpref._calibrator._Pool``, ``skpref._student._classifier.PairwisePreferenceClassifier``,
        ``skpref._torch._losses.PreferenceLoss``, ``skpref._torch._net.MLP``,
        ``skpref._torch._net.SessionNet`` and ``torch.optim.adam.Adam``.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> from skpref import PairwisePreferenceClassifier
        >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["no", "no", "yes", "yes"]
        >>> clf = PairwisePreferenceClassifier("linear", random_state=0).fit(X, y)
        >>> with TemporaryDirectory() as folder:
        ...     clf.save_pretrained(folder)
        ...     again = PairwisePreferenceClassifier.from_pretrained(folder)
        >>> bool((again.predict_proba(X) == clf.predict_proba(X)).all())
        True
        """
        from skpref._student._persistence import save_pretrained

        save_pretrained(self, folder)

    @classmethod
    def from_pretrained(cls, folder, *, module=None, device="auto"):
        """Read a classifier that `save_pretrained` wrote.

        Nothing is unpickled, and no code that a file names is imported.

        Parameters
        ----------
        folder : str or path-like
            The folder.
        module : nn.Module class, callable or instance, default=None
            What the parameter `module` was, where it was not a name.
        device : str, default="auto"
            Device of the classifier, whatever it was trained on.

        Returns
        -------
        PairwisePreferenceClassifier
            The fitted classifier. It predicts as the saved one, and `partial_fit` goes on from it,
            with a new optimiser.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or a file of it is missing.
        ValueError
            If the folder is of something else or of a newer version, `module` does not go with it,
            or the machine has no such `device`.
        ImportError
            If sentence-transformers, which texts need, is not installed.

        See Also
        --------
        save_pretrained : Writes the folder, with an example.

        Notes
        -----
        A text classifier takes its encoder from the folder, but keeps the parameter
        ``module__model_name``: `fit` starts from that model again. Training with `llm_scores` needs
        it, too, to smooth over its embeddings.
        """
        from skpref._student._persistence import load_pretrained

        return load_pretrained(cls, folder, module=module, device=device)

    def to_onnx(self, path):
        """Write the fitted classifier as one ONNX file, in single precision.

        Its output ``probabilities``, float32 of shape (n_rows, n_classes), is that of
        `predict_proba`, with the classes in the order of `classes_`. Its input is ``features``,
        float32 of shape (n_rows, n_features), or for texts ``input_ids`` and ``attention_mask``,
        int64 of shape (n_texts, n_tokens).

        Parameters
        ----------
        path : str or path-like
            The file.

        Raises
        ------
        ImportError
            If onnx or onnxscript is not installed.

        See Also
        --------
        save_pretrained : Writes the tokenizer of texts, in the folder ``encoder``.

        Notes
        -----
        Tokenize texts by ``tokenizer(texts, padding=True, truncation=True)``, where `tokenizer` is
        ``AutoTokenizer.from_pretrained("<folder>/encoder")`` of transformers.

        Examples
        --------
        >>> from skpref import PairwisePreferenceClassifier
        >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["no", "no", "yes", "yes"]
        >>> clf = PairwisePreferenceClassifier("linear", random_state=0).fit(X, y)
        >>> clf.to_onnx("student.onnx")  # doctest: +SKIP
        >>> import onnxruntime  # doctest: +SKIP
        >>> session = onnxruntime.InferenceSession("student.onnx")  # doctest: +SKIP
        >>> session.run(None, {"features": np.float32(X)})  # doctest: +SKIP
        """
        from skpref._student._persistence import export_onnx

        export_onnx(self, path)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = not self._takes_text()
        tags.input_tags.two_d_array = not self._takes_text()
        tags.input_tags.one_d_array = tags.input_tags.string = self._takes_text()
        return tags
