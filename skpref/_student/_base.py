"""The base of both classifiers: soft labels, a network, and the human labels."""

import copy
from abc import ABCMeta, abstractmethod
from numbers import Integral, Real
from types import SimpleNamespace

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from skpref._device import resolve_device
from skpref._sklearn import (
    DocLinkMixin,
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
    _is_fitted,
)
from skpref._student._output import Output, macro_f1_offsets, n_scores_for, probabilities
from skpref._student._training_set import (
    DEFAULT_PARTS,
    Prepared,
    TrainingSet,
    check_has_pairs,
    class_weights,
    hold_out_sessions,
    make_calibrator,
    make_smoother,
    prepare,
)
from skpref._typing import FloatArray
from skpref._validation import check_labels

_MODULE = "module__"


def stages() -> SimpleNamespace:
    """Return the modules that need torch, whose import takes seconds and so waits for a fit.

    Returns
    -------
    SimpleNamespace
        stage1, stage2, onnx, persistence, modules, scoring and transformer.
    """
    from skpref._student import _onnx, _persistence, _stage1, _stage2
    from skpref._torch import _modules, _scoring, _transformer

    return SimpleNamespace(
        stage1=_stage1,
        stage2=_stage2,
        onnx=_onnx,
        persistence=_persistence,
        modules=_modules,
        scoring=_scoring,
        transformer=_transformer,
    )


def _named(stage: str, losses: list[dict]) -> list[dict]:
    """Return rows of `history_`."""
    return [{"stage": stage, **epoch} for epoch in losses]


class BasePreferenceClassifier(DocLinkMixin, ClassifierMixin, BaseEstimator, metaclass=ABCMeta):
    """Base of the classifiers of features and of texts.

    A subclass has the parameters as attributes and implements the hooks: the kind of `X`
    (`_validate_X`, `_features_to_smooth`, `_as_network_input`), the network (`_build_network`),
    how a net trains it (`_net_options`, `_stage1`, `_checkpoint`, `_finetune_options`) and the
    meaning of "auto" in stage 2 (`_stage2_kind`).
    """

    # Under metadata routing the session ids and scores reach fit without any set_fit_request.
    __metadata_request__fit = {"groups": True, "llm_scores": True}
    __metadata_request__partial_fit = {"groups": True, "llm_scores": True}

    _parameter_constraints: dict = {
        "loss": [StrOptions({"hinge", "squared_hinge", "logistic"})],
        "margin": [StrOptions({"adaptive", "fixed"})],
        "margin_scale": [Interval(Real, 0, None, closed="neither")],
        "pairwise_weight": [Interval(Real, 0, None, closed="left")],
        "pointwise_weight": [Interval(Real, 0, None, closed="left")],
        "class_weight": [None, StrOptions({"balanced"}), dict],
        "decision": [StrOptions({"argmax", "macro_f1"})],
        "calibrator": [None, StrOptions({"passthrough"}), HasMethods(["fit_transform"])],
        "smoother": [None, StrOptions({"passthrough"}), HasMethods(["fit_transform"])],
        "pair_sampler": [None, StrOptions({"passthrough"}), HasMethods(["sample"])],
        "classes": [None, "array-like"],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "callbacks": [None, list],
        "device": [str],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    # --- hooks ---

    @abstractmethod
    def _validate_X(self, X, *, reset=False, to_train=False):
        """Return the rows as an array or CSR matrix."""

    @abstractmethod
    def _build_network(self, X, n_scores):
        """Return a new network for rows such as `X`."""

    @abstractmethod
    def _stage1(self, network, checkpoint):
        """Return the function of stage 1, with its options bound."""

    @abstractmethod
    def _stage2_kind(self, n_labelled, has_scores):
        """Return "head" or "finetune" if stage 2 continues after the offsets."""

    def _features_to_smooth(self, X):
        """Return the features over which soft labels are smoothed."""
        return X

    def _as_network_input(self, X, network):  # noqa: ARG002
        """Return the rows as the network takes them."""
        return X

    def _checkpoint(self, training, classes):  # noqa: ARG002
        """Return the file that keeps the state of stage 1, or None."""
        return

    def _net_options(self, network) -> dict:  # noqa: ARG002
        """Return the arguments of a net, in whichever stage it trains."""
        return {
            "batch_size": self.batch_size,
            "lr": self.lr,
            "optimizer__weight_decay": self.weight_decay,
            "callbacks": copy.deepcopy(self.callbacks) or [],
            "device": resolve_device(self.device),
            "verbose": self.verbose,
        }

    @abstractmethod
    def _finetune_options(self) -> dict:
        """Return the arguments of `finetune` that `_net_options` does not give."""

    @abstractmethod
    def _saved_module(self):
        """Return the kind of the network, as a saved folder names it."""

    def _check_options(self):
        """Raise if parameters contradict each other."""
        if not (self.pairwise_weight or self.pointwise_weight):
            raise ValueError(
                "pairwise_weight=0 and pointwise_weight=0 leave nothing to train on; give one of "
                "them a weight."
            )

    # --- parameters ---

    def _set_module_params(self, params):
        """Set parameters of the network, which `__init__` gets as keyword arguments."""
        for name in params:
            if not name.startswith(_MODULE):
                raise TypeError(
                    f"{type(self).__name__} got an unexpected argument {name!r}; arguments "
                    "of the module are named module__<argument>."
                )
        vars(self).update(params)

    def _module_params(self) -> dict:
        """Return the arguments of the network, without their prefix."""
        params = vars(self).items()
        return {k.removeprefix(_MODULE): v for k, v in params if k.startswith(_MODULE)}

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
        module = {f"{_MODULE}{k}": v for k, v in self._module_params().items()}
        return super().get_params(deep=deep) | module

    def set_params(self, **params):
        """Set parameters of this estimator, of its parts and of the module.

        Parameters
        ----------
        **params : dict
            Parameters, such as ``margin_scale``, ``calibrator__method``, ``module__hidden_units``.

        Returns
        -------
        object
            This estimator.
        """
        vars(self).update({k: v for k, v in params.items() if k.startswith(_MODULE)})
        params = {k: v for k, v in params.items() if not k.startswith(_MODULE)}
        for part, default in DEFAULT_PARTS.items():
            nested = [k for k in params if k.startswith(f"{part}__")]
            value = params.get(part, getattr(self, part))
            if nested and not hasattr(value, "set_params"):
                raise ValueError(
                    f"{nested[0]} cannot be set while {part}={value!r}; give the estimator first, "
                    f"as in {type(self).__name__}({part}={default.__name__}())."
                )
        return super().set_params(**params)

    # --- fit ---

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
            Raw LLM scores, NaN if there is no score; 2-D holds the positive class of a binary task.
        sample_weight : array-like of shape (n_utterances,), default=None
            Row weights; a pair weighs the product of its rows.

        Returns
        -------
        object
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
        prepared = self._prepare(X, y, groups, llm_scores, sample_weight, classes=self.classes)
        return self._fit_prepared(prepared)

    def _prepare(
        self,
        X,
        y,
        groups,
        llm_scores,
        sample_weight,
        *,
        classes,
        fitted_calibrator=None,
        reset=True,
    ) -> Prepared:
        """Validate the arguments of `fit` and return the training rows, with soft labels."""
        if y is None and llm_scores is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        return prepare(
            self._validate_X(X, reset=reset, to_train=True),
            y,
            groups,
            llm_scores,
            sample_weight,
            classes=classes,
            calibrator=make_calibrator(self.calibrator),
            smoother=make_smoother(self.smoother, self.random_state),
            features_to_smooth=self._features_to_smooth,
            fitted_calibrator=fitted_calibrator,
        )

    def _fit_prepared(self, prepared: Prepared, train=None):
        """Train a network on prepared rows: stage 1, stage 2, decision.

        `train` replaces the function of stage 1 that the parameters choose.
        """
        training, classes = prepared.training, prepared.classes
        self._check_trainable(training)
        class_weight = self._class_weight(prepared)
        objective = self._objective(class_weight)
        stage1 = stages().stage1
        with stage1.seeded(self.random_state) as rng:
            network = self._initial_network(training.X, n_scores_for(len(classes)))
            training = training._replace(X=self._as_network_input(training.X, network))
            stage1.check_output(network, training.X, len(classes))
            checkpoint = self._checkpoint(training, classes)
            held_out = self._hold_out(training, rng)
            pairs = stage1.pair_source(self.pair_sampler, rng)
            train = train or self._stage1(network, checkpoint)
            watched = training.take(held_out) if self.early_stopping else None
            net, losses = train(
                network, training.take(~held_out), watched, objective=objective, pairs=pairs
            )
            output = self._fit_output(net.module_, training, held_out, class_weight)
            output, variance, finetuning = self._adapt(
                net.module_, training, output, objective, pairs
            )
            decision = self._decide(net.module_, training, output)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        self.__dict__.pop("calibrator_", None)  # of an earlier fit
        self._set_fitted(prepared, class_weight, net, output, decision)
        self.head_variance_ = variance
        self.n_iter_ = len(losses)
        self.history_ = _named("pairs", losses) + _named("finetune", finetuning)
        return self

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
        object
            The estimator.
        """
        self._check_options()
        first = not _is_fitted(self, "net_")
        prepared = self._prepare(
            X,
            y,
            groups,
            llm_scores,
            sample_weight,
            classes=self._classes_of_partial_fit(classes, first),
            fitted_calibrator=None if first else vars(self).get("calibrator_"),
            reset=first,
        )
        training, classes = prepared.training, prepared.classes
        class_weight = self._class_weight(prepared) if first else self.class_weight_
        stage1 = stages().stage1
        with stage1.seeded(self.random_state) as rng:
            if first:
                network = self._build_network(training.X, n_scores_for(len(classes)))
            else:
                network = self.net_.module_
            training = training._replace(X=self._as_network_input(training.X, network))
            stage1.check_output(network, training.X, len(classes))
            net = self._untrained_net(network, class_weight, rng) if first else self.net_
            held_out = self._hold_out(training, rng)
            losses = stage1.train_for_an_epoch(net, training.take(~held_out))
            output = self._fit_output(network, training, held_out, class_weight)
            decision = self._decide(network, training, output)
        self._set_fitted(prepared, class_weight, net, output, decision)
        self.head_variance_ = 0.0
        self.n_iter_ = 1 if first else self.n_iter_ + 1
        self.history_ = ([] if first else self.history_) + _named("pairs", losses)
        return self

    def _classes_of_partial_fit(self, classes, first: bool):
        """Return the classes of this call of `partial_fit`, which are those of the first."""
        known = self.classes if first else self.classes_
        known = classes if known is None else known
        if known is None:
            raise ValueError("classes must be given on the first call of partial_fit.")
        if classes is not None and not np.array_equal(classes, known):
            raise ValueError(
                f"classes={np.asarray(classes).tolist()!r} is not the same as on the first call of "
                f"partial_fit: {np.asarray(known).tolist()!r}."
            )
        return known

    def _check_trainable(self, training: TrainingSet):
        """Raise if the rows lack what the parameters need."""
        if self.stage2 in ("offsets", "head", "finetune") and not (training.codes >= 0).any():
            raise ValueError(
                f"stage2={self.stage2!r} needs human labels but y has none; label some rows, or "
                "pass stage2='auto' to fit the offsets on the soft labels."
            )
        if self.pairwise_weight:
            check_has_pairs(training, getattr(self.pair_sampler, "min_margin", 0.0))

    def _class_weight(self, prepared: Prepared) -> FloatArray:
        """Return the weight of each class."""
        rows = prepared.training
        return class_weights(self.class_weight, prepared.classes, rows.soft, rows.weight)

    def _objective(self, class_weight):
        """Return the loss that the parameters describe."""
        return stages().stage1.Objective(
            self.loss,
            self.margin,
            self.margin_scale,
            self.pairwise_weight,
            self.pointwise_weight,
            class_weight,
        )

    def _initial_network(self, X, n_scores):
        """Return the network to train: that of the last fit in a warm start, else a new one."""
        if self.warm_start and _is_fitted(self, "net_"):
            return self.net_.module_
        return self._build_network(X, n_scores)

    def _untrained_net(self, network, class_weight, rng):
        """Return a net around a network, for `partial_fit` to train."""
        stage1 = stages().stage1
        return stage1.net_for(
            network,
            self._objective(class_weight),
            stage1.pair_source(self.pair_sampler, rng),
            **self._net_options(network),
        )

    def _hold_out(self, training: TrainingSet, rng):
        """Choose the rows that stage 1 does not train on."""
        return hold_out_sessions(
            training,
            self.validation_fraction,
            needed=self.early_stopping,
            wanted=self.stage2 is not None,
            rng=rng,
        )

    def _fit_output(self, network, training: TrainingSet, held_out, class_weight) -> Output:
        """Stage 2: fit scale and offsets."""
        if self.stage2 is None:
            return Output(1.0, np.zeros(n_scores_for(len(class_weight))))
        scores = stages().scoring.predict_scores(network, training.X)
        return stages().stage2.fit_output(scores, training, held_out, class_weight)

    def _adapt(self, network, training: TrainingSet, output: Output, objective, pairs):
        """Stage 2: move the network towards the human labels, its last layer or all of it."""
        labelled = training.labelled()
        kind = self._stage2_kind(len(labelled.codes), training.has_scores)
        variance, losses = 0.0, []
        if kind == "head":
            output, variance = stages().stage2.refit_last_layer(
                network, labelled, output, objective.class_weight
            )
        if kind == "finetune":
            losses = stages().stage2.finetune(
                network,
                labelled,
                output,
                objective=objective,
                pairs=pairs,
                **self._net_options(network),
                **self._finetune_options(),
            )
        return output, variance, losses

    def _decide(self, network, training: TrainingSet, output: Output) -> FloatArray:
        """Return the shift of the log-probabilities that `predict` applies."""
        if self.decision == "argmax":
            return np.zeros(training.soft.shape[1])
        rows = training.softly_labelled()
        scores = stages().scoring.predict_scores(network, rows.X)
        return macro_f1_offsets(scores, output, rows.soft, rows.weight)

    def _set_fitted(self, prepared: Prepared, class_weight, net, output: Output, decision):
        """Set the fitted attributes that `fit` and `partial_fit` share."""
        self.classes_ = prepared.classes
        self.soft_labels_ = prepared.soft_labels()
        if prepared.calibrator is not None:
            self.calibrator_ = prepared.calibrator
        self.class_weight_ = class_weight
        self.net_ = net
        self.scale_, self.offsets_ = output
        self.decision_offsets_ = decision

    # --- predict ---

    def _logits(self, X) -> FloatArray:
        """Return the logits of rows as a user gives them."""
        check_is_fitted(self)
        network = self.net_.module_
        X = self._as_network_input(self._validate_X(X), network)
        scores = stages().scoring.predict_scores(network, X)
        return Output(self.scale_, self.offsets_).logits(scores).astype(scores.dtype)

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

    # --- files ---

    def save_pretrained(self, folder):
        """Write the fitted classifier to a folder, without pickle.

        The folder holds ``config.json`` (parameters, classes, scale and offsets),
        ``model.safetensors`` (the network's weights) and, if the classifier takes texts,
        ``encoder``, which `SentenceTransformer` loads as well.

        Parameters
        ----------
        folder : str or path-like
            Path to write to. It must be empty or written by this method; it is replaced once
            everything is written, so that a crash leaves no half of a model.

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
        Whatever only training needs is not saved: the calibrator and smoother of the LLM scores,
        the soft labels and the state of the optimiser. Parameters that JSON cannot hold, such as a
        `calibrator` or `callbacks`, are at their default in the loaded estimator; ``config.json``
        lists them.

        `skops.io` writes fitted classifiers as well, but is no safer than pickle here: a skorch net
        keeps its network as a pickle. `skops_trusted_types` lists the types to trust.

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
        check_is_fitted(self)
        stages().persistence.write_folder(
            folder, self.net_.module_, self._saved_module(), self.get_params(deep=False), vars(self)
        )

    @classmethod
    def skops_trusted_types(cls):
        """List the types to trust when `skops.io` loads a fitted classifier.

        A classifier with a network and parts of this library consists of these types and of those
        that skops trusts already. Trust them only in a file from a source that you trust: a skorch
        net keeps its network as a pickle.

        Returns
        -------
        list of str
            Dotted names.

        See Also
        --------
        save_pretrained : Writes a folder without pickle.
        """
        name = f"{cls.__module__}.{cls.__qualname__}"
        return sorted([*stages().persistence.trusted_types(), name])

    @classmethod
    def _from_saved(cls, saved, params, device):
        """Return a classifier with the parameters and attributes of a folder, without a net."""
        persistence = stages().persistence
        clf = cls(**persistence.saved_params(saved), **params, device=device)
        vars(clf).update(persistence.saved_attributes(saved))
        return clf

    def _take_network(self, network, saved):
        """Load the weights of a folder into a network, and make the network that of this fit."""
        stages().persistence.load_weights(network, saved)
        with stages().stage1.seeded(self.random_state) as rng:
            self.net_ = self._untrained_net(network, self.class_weight_, rng)
        return self

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
        check_is_fitted(self)
        output = Output(self.scale_, self.offsets_)
        n_features = vars(self).get("n_features_in_")
        stages().onnx.export(self.net_.module_, output, n_features, path)
