"""The classifier of texts."""

from functools import partial
from numbers import Integral, Real
from os import PathLike

import numpy as np

from skpref._device import resolve_device
from skpref._encoder import DEFAULT_MODEL, SentenceEncoder
from skpref._sklearn import Interval, StrOptions
from skpref._student._base import LARGEST_RATE, BasePreferenceClassifier
from skpref._student._network_estimator import stages
from skpref._student._output import n_scores_for
from skpref._validation import check_encodable, check_texts, plain_output

# Fine-tuning on labels is the default from this many on.
_FINETUNE_LABELS = 200
# Parameters that do not change what a training computes.
_NOT_IN_CHECKPOINT = ("checkpoint_dir", "device", "verbose", "callbacks", "accelerate")


class PairwisePreferenceTextClassifier(BasePreferenceClassifier):
    """Fine-tune a text encoder on preferences between utterances of the same session.

    The method is that of `PairwisePreferenceClassifier`, but `X` holds texts, and a Hugging Face
    encoder with a linear head is trained end to end. Training takes minutes to hours rather than
    seconds; try frozen embeddings (`SentenceEncoder`) first.

    Parameters
    ----------
    model_name : str or path-like, default="sentence-transformers/all-MiniLM-L6-v2"
        Name on the Hugging Face hub, or folder, of a sentence-transformers model or of any encoder.
    max_length : int, default=None
        Tokens after which a text is cut; None takes the limit of the model.
    trainable_layers : int, default=None
        How many of the encoder's last layers are trained. None trains all of it, 0 the head alone.
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
    stage2 : {"auto", "offsets", "finetune"} or None, default="auto"
        "offsets" refits scale and offsets on human and soft labels; the soft labels together weigh
        as much as 200 human ones. "finetune" then trains the whole network on the labelled rows.
        Both need a label. If there are `llm_scores`, "auto" is "finetune" from 200 labels on;
        otherwise it is "offsets", from the soft labels alone if there is no human label. None
        leaves the network's scores as they are.
    finetune_epochs : int, default=5
        Epochs of "finetune".
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
        Smooths the soft labels over the embeddings of the encoder before it is trained. None means
        ``KNNLabelSmoother()``.
    pair_sampler : None, "passthrough" or IntraSessionPairSampler, default=None
        None and "passthrough" compare all pairs of a session; a sampler with another strategy or a
        cap draws pairs again in each epoch.
    classes : array-like of shape (n_classes,), default=None
        Class labels in the order of the last axis of `llm_scores`. None takes the sorted labels
        of `y`; needed if `y` may lack a class. With several labels per utterance, the names of the
        columns of `y`; None takes those of a frame, otherwise 0, 1, ...
    max_epochs : int, default=5
        Passes over the sessions in stage 1.
    lr : float, default=0.001
        Learning rate of the head.
    encoder_lr : float, default=0.00005
        Learning rate of the encoder.
    warmup : float or None, default=0.1
        Share of the training over which the learning rates rise, before they fall to 0 by its
        end. None keeps them constant.
    max_grad_norm : float or None, default=1.0
        Norm to which a longer gradient is clipped. None does not clip.
    batch_size : int, default=64
        Utterances per step: whole sessions are packed up to that many, and up to
        ``module__token_budget`` tokens. A longer session is a step of its own, unless it holds more
        than a tenth of all utterances: then it is divided at random, again in each epoch, into
        parts of about a tenth, so that an epoch has ten steps. If a single session has more tokens
        than the budget, its activations are computed again in parts for the gradient.
    accumulate : int, default=1
        Batches whose mean gradient makes a step.
    weight_decay : float, default=0.001
        Strength of the L2 penalty, decoupled from the gradient (AdamW).
    early_stopping : bool, default=False
        Whether to stop when the loss of the held-out sessions no longer falls.
    validation_fraction : float, default=0.1
        Share of the sessions, labelled ones first, that stage 1 does not train on: the scale is
        fitted on them, and early stopping watches them. Rows if there is only one session.
    n_iter_no_change : int, default=5
        Epochs without a lower loss before early stopping.
    callbacks : list of skorch callbacks, default=None
        Further callbacks of the net, such as `skorch.callbacks.ProgressBar`.
    checkpoint_dir : str or path-like, default=None
        Folder in which the state of stage 1 is kept after each epoch. If training is interrupted,
        calling `fit` again with the same data and parameters, including a `random_state` of type
        int, on the same machine resumes it and gives the same result. User callbacks are not
        restored. The file is removed at the end of `fit`.
    accelerate : bool or dict, default=False
        Whether stage 1 trains through Hugging Face accelerate, on several GPUs if the script is
        started by ``accelerate launch``; then `random_state` must be an int, so that all
        processes draw the same, and `device` applies to prediction alone. A dict has arguments of
        `accelerate.Accelerator`.
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
        Further arguments of the network, each named ``module__<argument>``: ``module__revision``
        of the model, ``module__dropout``, ``module__token_budget`` (default: 16384),
        ``module__gradient_checkpointing``, ``module__bf16`` (default: if CUDA has it),
        ``module__compile`` and ``module__model_kwargs`` of the encoder.

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
    head_variance_ : float
        0; the last layer is not refitted on texts.
    history_ : list of dict
        Table of losses: stage, epoch, train_loss and, with early stopping, valid_loss.
    n_iter_ : int
        Epochs run in stage 1.

    See Also
    --------
    PairwisePreferenceClassifier : The same on features; its notes apply here, too.
    SentenceEncoder : Embeds texts with a frozen encoder.
    DialogueContext : Puts the turns before an utterance into its text.

    Notes
    -----
    The texts of a batch, which are whole sessions, go through the encoder in passes of texts of
    about one length, so that little is padding. Each text is encoded once a step, in bfloat16 mixed
    precision if CUDA has it. Prediction is in single precision everywhere.

    Examples
    --------
    >>> from skpref import PairwisePreferenceTextClassifier
    >>> from skpref.datasets import load_support_chats
    >>> chats = load_support_chats()  # doctest: +SKIP
    >>> clf = PairwisePreferenceTextClassifier(max_epochs=1, random_state=0)  # doctest: +SKIP
    >>> clf.fit(
    ...     chats.frame["text"], chats.y, groups=chats.groups, llm_scores=chats.llm_scores
    ... )  # doctest: +SKIP
    >>> clf.predict(["My parcel is late again!"])  # doctest: +SKIP
    """

    _parameter_constraints: dict = {
        **BasePreferenceClassifier._parameter_constraints,
        "model_name": [str, PathLike],
        "max_length": [None, Interval(Integral, 1, None, closed="left")],
        "trainable_layers": [None, Interval(Integral, 0, None, closed="left")],
        "stage2": [None, StrOptions({"auto", "offsets", "finetune"})],
        "finetune_epochs": [Interval(Integral, 1, None, closed="left")],
        "encoder_lr": [Interval(Real, 0, LARGEST_RATE, closed="neither")],
        "warmup": [None, Interval(Real, 0, 1, closed="both")],
        "max_grad_norm": [None, Interval(Real, 0, None, closed="neither")],
        "accumulate": [Interval(Integral, 1, None, closed="left")],
        "checkpoint_dir": [None, str, PathLike],
        "accelerate": ["boolean", dict],
    }

    def __init__(
        self,
        model_name=DEFAULT_MODEL,
        *,
        max_length=None,
        trainable_layers=None,
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
        max_epochs=5,
        lr=1e-3,
        encoder_lr=5e-5,
        warmup=0.1,
        max_grad_norm=1.0,
        batch_size=64,
        accumulate=1,
        weight_decay=1e-3,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
        callbacks=None,
        checkpoint_dir=None,
        accelerate=False,
        device="auto",
        warm_start=False,
        verbose="auto",
        random_state=None,
        **module__params,
    ):
        self.model_name = model_name
        self.max_length = max_length
        self.trainable_layers = trainable_layers
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
        self._set_module_params(module__params)

    def _validate_X(self, X, network=None, *, reset=False, to_train=False):  # noqa: ARG002
        return check_encodable(check_texts(X))

    def _features_to_smooth(self, X):
        """Return the embeddings of the encoder as it was loaded."""
        revision = self._module_params().get("revision")
        encoder = SentenceEncoder(self.model_name, revision=revision, device=self.device)
        return plain_output(encoder).fit_transform(X)

    def _network_params(self) -> dict:
        """Return the arguments of the network."""
        names = ("model_name", "max_length", "trainable_layers")
        return self._module_params() | {name: getattr(self, name) for name in names}

    def _build_network(self, training, n_scores):  # noqa: ARG002
        return stages().transformer.TransformerScorer(n_scores, **self._network_params())

    def _as_network_input(self, X, network):
        """Return the token ids of each text."""
        return network.tokenize(X)

    def _net_options(self, network) -> dict:
        options = super()._net_options(network)
        clipping = stages().stage1.gradient_clipping(self.max_grad_norm)
        return options | {
            "callbacks": options["callbacks"] + clipping,
            "accumulate": self.accumulate,
            "batches": {"token_budget": network.token_budget},
            **stages().stage1.encoder_optimizer(self.encoder_lr),
        }

    def _checkpoint(self, training, classes):
        if self.checkpoint_dir is None:
            return None
        params = {k: v for k, v in self.get_params().items() if k not in _NOT_IN_CHECKPOINT}
        identity = (params, classes, np.concatenate(training.X), *training[1:])
        return stages().stage1.checkpoint_path(self.checkpoint_dir, identity, self.random_state)

    def _stage1(self, network, checkpoint):
        stage1 = stages().stage1
        return partial(
            stage1.train_by_adam,
            max_epochs=self.max_epochs,
            n_iter_no_change=self.n_iter_no_change,
            warmup=self.warmup,
            checkpoint=checkpoint,
            accelerator=stage1.make_accelerator(self.accelerate, self.random_state),
            **self._net_options(network),
        )

    def _stage2_kind(self, n_labelled, has_scores):
        if self.stage2 != "auto":
            return self.stage2
        return "finetune" if has_scores and n_labelled >= _FINETUNE_LABELS else "offsets"

    def _finetune_options(self):
        return {"max_epochs": self.finetune_epochs, "warmup": self.warmup}

    def _saved_module(self):
        return stages().persistence.TEXT_MODULE

    @classmethod
    def from_pretrained(cls, folder, *, device="auto"):
        """Read a classifier that `save_pretrained` wrote.

        Nothing is unpickled, and no code that a file names is imported.

        Parameters
        ----------
        folder : str or path-like
            The folder.
        device : str, default="auto"
            Device of the classifier, whatever it was trained on.

        Returns
        -------
        PairwisePreferenceTextClassifier
            The fitted classifier. It predicts as the saved one, and `partial_fit` continues from
            it, with a new optimiser.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or a file of it is missing.
        ValueError
            If the folder is of something else, of a classifier of features or of a newer version,
            or `device` is not available.
        ImportError
            If sentence-transformers is not installed.

        See Also
        --------
        save_pretrained : Writes the folder, with an example.

        Notes
        -----
        The encoder is taken from the folder, but the parameter `model_name` stays: `fit` starts
        from that model again. Training with `llm_scores` needs it, too, to smooth over its
        embeddings.
        """
        persistence = stages().persistence
        saved = persistence.read_folder(folder)
        if not saved.is_text:
            raise ValueError(
                f"folder={str(folder)!r} holds a classifier of features; load it by "
                "PairwisePreferenceClassifier.from_pretrained."
            )
        clf = cls._from_saved(saved, {}, device)
        params = persistence.encoder_params(clf._network_params(), saved, resolve_device(device))
        n_scores = n_scores_for(len(clf.classes_), clf.multilabel_)
        build = partial(stages().transformer.TransformerScorer, n_scores, **params)
        return clf._take_network(build, saved)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = tags.input_tags.string = True
        return tags
