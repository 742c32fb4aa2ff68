"""The classifier of features."""

from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from skpref._device import resolve_device
from skpref._sklearn import Interval, StrOptions
from skpref._student._base import BasePreferenceClassifier
from skpref._student._network_estimator import stages
from skpref._student._output import n_scores_for
from skpref._validation import refuse_masked

# Modules of one's own are fine-tuned by default from this many labels on, for as many epochs.
_FINETUNE_LABELS = 200
_FINETUNE_EPOCHS = 5


def _trains_by_epochs(estimator) -> bool:
    """Return whether there is a `partial_fit`."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit trains for an epoch, which solver='lbfgs' does not; pass solver='adam'."
        )
    return True


class PairwisePreferenceClassifier(BasePreferenceClassifier):
    """Small classifier trained on preferences between utterances of the same session.

    Stage 1 learns from soft labels which of two utterances of a session should score higher, and
    by how much. Soft labels are calibrated and smoothed LLM scores, or the labels in `y` if there
    are no scores. Stage 2 fixes what pairs leave open, a scale and one offset per class, with the
    human labels, and, if cross-validation supports it, shifts the last layer towards them. After
    Liu et al. 2025, arXiv 2503.05620.

    Parameters
    ----------
    module : {"linear", "mlp"}, nn.Module class, callable or instance, default="linear"
        Network from (n_rows, n_features) to (n_rows, n_outputs), one output for a binary task, else
        one per class or label. A class or callable gets `n_features` and `n_outputs` if it has such
        parameters, and every ``module__*`` of this estimator. On embeddings of nine real tasks,
        "linear" and "mlp" had the same macro-F1 without human labels; with 200, "linear" was ahead
        by 1.2 points on the mean and behind on two tasks (benchmarks/results/levers.md).
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
        Weight of each class in the cross-entropy and in stage 2; its square root when stage 2
        moves the network, since the offsets have moved towards rare classes already. "balanced"
        divides by the frequency of the class among the soft labels, which raises macro-F1, and
        makes the probabilities those of a population with classes of equal size. None weights all
        rows alike, for probabilities that match the frequencies. With several labels per utterance,
        "balanced" is within each label, and a dict weighs the rows to which a label applies.
    stage2 : {"auto", "offsets", "head", "finetune"} or None, default="auto"
        "offsets" refits scale and offsets on human and soft labels; the soft labels together weigh
        as much as 200 human ones. "head" then refits the last layer on the labelled rows, by ridge
        regression towards its weights after stage 1; cross-validation by labelled session chooses
        the strength. "finetune" then trains the whole network on them for five epochs. All need a
        label, and "head" a network that ends in a linear layer. If there are `llm_scores` and
        labels, "auto" is "head" for "mlp" and "linear", and "finetune" for other modules from 200
        labels on; otherwise it is "offsets", from the soft labels alone if there is no human
        label. None leaves the network's scores as they are.
    decision : {"argmax", "macro_f1"}, default="argmax"
        How `predict` chooses a class. "argmax": the most probable class. "macro_f1": add a
        per-class offset to the log-probabilities, chosen to maximise the macro-F1 expected on the
        training rows if their soft labels are right. Affects `predict` only. With several labels
        per utterance, "argmax" predicts the labels of a probability above one half, and "macro_f1"
        shifts each label's logit to the maximum of its F1, as expected from the classifier's own
        probabilities on the training rows.
    calibrator : None, "passthrough" or transformer, default=None
        From `llm_scores` to soft labels. None means ``LLMScoreCalibrator()``; "passthrough"
        averages the prompts' probabilities as they are.
    smoother : None, "passthrough" or transformer, default=None
        Smooths the soft labels over `X`. None means ``KNNLabelSmoother()``.
    pair_sampler : None, "passthrough" or IntraSessionPairSampler, default=None
        None and "passthrough" compare all pairs of a session; a sampler with another strategy or a
        cap draws pairs again in each epoch.
    classes : array-like of shape (n_classes,), default=None
        Class labels in the order of the last axis of `llm_scores`. None takes the sorted labels
        of `y`; needed if `y` may lack a class. With several labels per utterance, the names of the
        columns of `y`; None takes those of a frame, otherwise 0, 1, ...
    max_epochs : int, default=30
        Passes over the sessions in stage 1.
    lr : float, default=0.001
        Learning rate of Adam. ``module="linear"`` takes 0.01 or more if `partial_fit` or early
        stopping train it on few rows.
    batch_size : int, default=256
        Utterances per step: whole sessions are packed up to that many. A longer session is a step
        of its own, unless it holds more than a tenth of all utterances: then it is divided at
        random, again in each epoch, into parts of about a tenth, so that an epoch has ten steps.
    weight_decay : float, default=0.001
        Strength of the L2 penalty, half the squared norm of the network's parameters.
    solver : {"auto", "adam", "lbfgs"}, default="auto"
        How stage 1 minimises the loss. "adam" takes a step per batch. "lbfgs" takes all sessions
        at once and continues until it converges, deterministically and without a learning rate:
        with ``module="linear"``, whose loss is convex, to the one optimum. It needs a smooth
        `loss`, "squared_hinge" or "logistic"; `max_epochs`, `lr`, `batch_size`, `early_stopping`
        and `callbacks` do not apply to it. "auto" is "lbfgs" for ``module="linear"`` with such a
        loss, without early stopping, callbacks and warm start, and "adam" otherwise: a fixed number
        of steps leaves a linear network on few rows far from its optimum. Fine-tuning in stage 2
        and `partial_fit` are by Adam either way.
    tol : float, default=1e-5
        Largest component of the gradient at which "lbfgs" stops.
    max_iter : int, default=1000
        Most iterations of "lbfgs".
    early_stopping : bool, default=False
        Whether to stop when the loss of the held-out sessions no longer falls.
    validation_fraction : float, default=0.1
        Share of the sessions, labelled ones first, that stage 1 does not train on: the scale is
        fitted on them, and early stopping watches them. Rows if there is only one session.
    n_iter_no_change : int, default=5
        Epochs without a lower loss before early stopping.
    callbacks : list of skorch callbacks, default=None
        Further callbacks of the net, such as `skorch.callbacks.ProgressBar`.
    device : str, default="auto"
        "cpu", "cuda", "cuda:N", or "auto" for CUDA if it is available.
    warm_start : bool, default=False
        Whether `fit` continues from the network of the previous fit.
    verbose : "auto", bool or int, default="auto"
        Whether the net prints a line per epoch. "auto" shows a progress bar instead, after three
        seconds, and only in a terminal or a notebook.
    random_state : int, RandomState instance or None, default=None
        Seed of the network, the order of the sessions and the pairs.
    **module__params : dict
        Arguments of the module, each named ``module__<argument>``. "mlp" takes
        ``module__hidden_units`` and ``module__dropout``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels; with several labels per utterance, their names in the order of the columns.
    multilabel_ : bool
        Whether several labels may apply to an utterance.
    net_ : skorch.NeuralNet
        The fitted net.
    calibrator_ : transformer
        The fitted calibrator; only if `llm_scores` were given.
    soft_labels_ : ndarray of shape (n_utterances, n_classes)
        Soft labels of the rows given to `fit`, NaN for rows of zero weight.
    class_weight_ : ndarray of shape (n_classes,) or (n_labels, 2)
        Weight of each class; of each label where it is absent and where it applies.
    scale_, offsets_ : float or ndarray of shape (n_labels,), ndarray of shape (n_scores,)
        Fitted by stage 2: logits are ``scale_ * scores + offsets_``.
    decision_offsets_ : ndarray of shape (n_classes,)
        The shift of `decision`; zeros for "argmax".
    head_variance_ : float or ndarray of shape (n_labels,)
        How far "head" of stage 2 let the last layer move: variance of the prior of the change, 0
        for none, as when the labels are of one session.
    history_ : list of dict
        Table of losses: stage, epoch, train_loss and, with early stopping, valid_loss.
    n_iter_ : int
        Epochs run in stage 1, or iterations of "lbfgs".
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if `X` has string column names.

    See Also
    --------
    PairwisePreferenceTextClassifier : Takes texts and fine-tunes an encoder.
    LLMScoreCalibrator : Raw LLM scores to class probabilities.
    KNNLabelSmoother : Smooths soft labels over neighbours.
    IntraSessionPairSampler : Pairs within sessions.
    SentenceEncoder : Embeds texts with a frozen encoder.
    DialogueContext : Puts the turns before an utterance into its text.

    Notes
    -----
    `predict_proba` is the softmax of ``scale_ * scores + offsets_``. Scale and offsets calibrate
    it: a penalised maximum-likelihood fit on human labels and, as a prior, on the calibrated soft
    labels. The scale is fitted on sessions that the network was not trained on, since a network is
    too sure of the rows it has seen. If there are too few sessions to hold some out (fewer than
    half of ``1 / validation_fraction``), it is fitted on the training sessions; then, and with
    ``stage2=None``, probabilities are not calibrated: see
    `sklearn.calibration.CalibratedClassifierCV`. Class weights, which are balanced by default, lift
    the probabilities of rare classes above their frequencies.

    Each utterance goes through the network once per step, whatever the number of its pairs. The
    hinge losses compare all pairs of a session of any length: pair by pair up to 128 utterances,
    in longer ones by sums of O(n log n) that give the same. The logistic loss has no such sums; in
    longer sessions it is estimated, without bias, from 64 random losers of each utterance.

    If several labels may apply to an utterance, `y` has a column for each. One network with an
    output per label learns all of them: the loss is the sum over the labels of the loss of a binary
    task, on the rows where the label is known, and stage 2 fits each label separately.

    Neither the order of the rows nor the names of the sessions change the fitted model. Nor does it
    matter much in which units the features come: "linear" and "mlp" train on features that are
    shifted and scaled where these are far from zero, or much larger or smaller than Adam's steps or
    than one another, and the first layer takes that back after the training. Features that are fine
    as they are, such as embeddings of unit length, are not touched.

    If `y` is partly unlabelled, a search can use the default scoring (`score`) or
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

    _parameter_constraints: dict = {
        **BasePreferenceClassifier._parameter_constraints,
        "module": [StrOptions({"linear", "mlp"}), callable],
        "stage2": [None, StrOptions({"auto", "offsets", "head", "finetune"})],
        "solver": [StrOptions({"auto", "adam", "lbfgs"})],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        module="linear",
        *,
        loss="squared_hinge",
        margin="adaptive",
        margin_scale=2.0,
        pairwise_weight=0.1,
        pointwise_weight=1.0,
        class_weight="balanced",
        stage2="auto",
        decision="argmax",
        calibrator=None,
        smoother=None,
        pair_sampler=None,
        classes=None,
        max_epochs=30,
        lr=1e-3,
        batch_size=256,
        weight_decay=1e-3,
        solver="auto",
        tol=1e-5,
        max_iter=1000,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
        callbacks=None,
        device="auto",
        warm_start=False,
        verbose="auto",
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
        self.decision = decision
        self.calibrator = calibrator
        self.smoother = smoother
        self.pair_sampler = pair_sampler
        self.classes = classes
        self.max_epochs = max_epochs
        self.lr = lr
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.callbacks = callbacks
        self.device = device
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self._set_module_params(module__params)

    def _validate_params(self):
        if isinstance(self.module, str) and self.module == "transformer":
            raise ValueError(
                "module='transformer' takes texts, which have a classifier of their own; use "
                "PairwisePreferenceTextClassifier(model_name=...)."
            )
        super()._validate_params()

    def _check_options(self):
        super()._check_options()
        if self.solver != "lbfgs":
            return
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

    @available_if(_trains_by_epochs)
    def partial_fit(
        self, X, y, classes=None, groups=None, llm_scores=None, sample_weight=None, exclude=None
    ):
        """Train for one epoch on some whole sessions, then refit scale and offsets on them.

        The calibrator is fitted on the first call with `llm_scores` and used unchanged in later
        ones, so give that call a fair share of the labels. Early stopping and fine-tuning do not
        apply, nor is the last layer refitted.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features of the utterances; their texts for a transformer.
        y : array-like of shape (n_utterances,) or (n_utterances, n_labels)
            Human labels, as for `fit`.
        classes : array-like of shape (n_classes,), default=None
            All class labels; needed on the first call unless the parameter `classes` is set. The
            names of several labels per utterance are in the order of the columns of `y`.
        groups : array-like of shape (n_utterances,), default=None
            Session id of each row, as for `fit`.
        llm_scores : array-like of shape (n_utterances, n_prompts, n_classes) or \
                (n_utterances, n_prompts), default=None
            Raw LLM scores, as for `fit`.
        sample_weight : array-like of shape (n_utterances,), default=None
            Row weights.
        exclude : array-like of bool, shape (n_utterances, n_classes), default=None
            Classes that are ruled out, as for `fit`.

        Returns
        -------
        object
            The estimator.
        """
        return super().partial_fit(X, y, classes, groups, llm_scores, sample_weight, exclude)

    def _validate_X(self, X, network=None, *, reset=False, to_train=False):
        """Return features, in double precision if they come so and the network is known to take it.

        For prediction they are cast to the network's precision batch by batch, not all at once.
        """
        is_name = isinstance(self.module, str)
        keeps = not to_train or (is_name and resolve_device(self.device) == "cpu")
        dtype: Any = [np.float64, np.float32] if keeps else np.float32
        if network is not None:
            dtype = stages().scoring.precision(network)
        refuse_masked(X)
        return validate_data(self, X, accept_sparse="csr", dtype=dtype, reset=reset)

    def _network_params(self) -> dict:
        return {"module": self.module} | {
            f"module__{k}": v for k, v in self._module_params().items()
        }

    def _build_network(self, training, n_scores):
        X = training.X
        network = stages().modules.build_module(
            self.module, self._module_params(), X.shape[1], n_scores, X.dtype.name
        )
        if isinstance(self.module, str):
            units = stages().units
            units.express(network, units.choose_units(X, training.weight))
        return network

    def _stage1(self, network, checkpoint):  # noqa: ARG002
        stage1, options = stages().stage1, self._net_options(network)
        if self._chosen_solver() == "lbfgs":
            limits = {"l2": self.weight_decay, "tol": self.tol, "max_iter": self.max_iter}
            return partial(stage1.train_by_lbfgs, **limits, **options)
        return partial(
            stage1.train_by_adam,
            max_epochs=self.max_epochs,
            n_iter_no_change=self.n_iter_no_change,
            **options,
        )

    def _chosen_solver(self) -> str:
        """Return the solver of `fit`, which "auto" leaves to the other parameters."""
        if self.solver != "auto":
            return self.solver
        is_linear = isinstance(self.module, str) and self.module == "linear"
        needs_epochs = self.early_stopping or self.warm_start or self.callbacks
        converges = is_linear and self.loss != "hinge" and not needs_epochs
        return "lbfgs" if converges else "adam"

    def _stage2_kind(self, n_labelled, has_scores):
        if self.stage2 != "auto" or not (has_scores and n_labelled):
            return self.stage2
        if isinstance(self.module, str):
            return "head"
        return "finetune" if n_labelled >= _FINETUNE_LABELS else "offsets"

    def _finetune_options(self):
        return {"max_epochs": _FINETUNE_EPOCHS}

    def _saved_module(self):
        return self.module

    @classmethod
    def from_pretrained(cls, folder, *, module=None, device="auto"):
        """Read a classifier that `save_pretrained` wrote.

        Nothing is unpickled, and no code that a file names is imported.

        Parameters
        ----------
        folder : str or path-like
            The folder.
        module : nn.Module class, callable or instance, default=None
            The parameter `module`, if it was not a name.
        device : str, default="auto"
            Device of the classifier, whatever it was trained on.

        Returns
        -------
        PairwisePreferenceClassifier
            The fitted classifier. It predicts as the saved one, and `partial_fit` continues from
            it, with a new optimiser.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or a file of it is missing.
        ValueError
            If the folder is of something else, of a text classifier or of a newer version, `module`
            does not go with it, or `device` is not available.

        See Also
        --------
        save_pretrained : Writes the folder, with an example.
        """
        persistence = stages().persistence
        saved = persistence.read_folder(folder)
        if saved.is_text:
            raise ValueError(
                f"folder={str(folder)!r} holds a classifier of texts; load it by "
                "PairwisePreferenceTextClassifier.from_pretrained."
            )
        module = persistence.choose_module(saved, module)
        clf = cls._from_saved(saved, {"module": module}, device)
        build = partial(
            stages().modules.build_module,
            clf.module,
            clf._module_params(),
            clf.n_features_in_,
            n_scores_for(len(clf.classes_), clf.multilabel_),
            saved.config["dtype"],
        )
        return clf._take_network(build, saved)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
