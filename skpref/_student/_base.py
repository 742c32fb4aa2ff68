"""The base of both classifiers: soft labels, a network, and the human labels."""

import copy
from abc import abstractmethod
from functools import partial
from numbers import Integral, Real

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from skpref._device import resolve_device
from skpref._sklearn import (
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
    _is_fitted,
)
from skpref._state import keeps_state_on_failure
from skpref._student._classes import (
    check_same_classes,
    class_weights,
    classes_to_continue,
    label_weights,
)
from skpref._student._network_estimator import NetworkEstimator, stages
from skpref._student._output import decide, labelled_accuracy, probabilities
from skpref._student._training_set import (
    Prepared,
    TrainingSet,
    check_trainable,
    hold_out_sessions,
    make_calibrator,
    make_smoother,
    prepare,
)
from skpref._typing import FloatArray, IntArray

_MODULE = "module__"


# torch computes in single precision.
LARGEST_RATE = float(np.finfo(np.float32).max)


# Of the parameters that both classifiers have.
CONSTRAINTS: dict = {
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
    "lr": [Interval(Real, 0, LARGEST_RATE, closed="neither")],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "weight_decay": [Interval(Real, 0, LARGEST_RATE, closed="left")],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "callbacks": [None, list],
    "device": [str],
    "warm_start": ["boolean"],
    "verbose": [StrOptions({"auto"}), "verbose"],
    "random_state": ["random_state"],
}


def _same(value, other) -> bool:
    """Return whether two values of a parameter are the same."""
    return value is other or (type(value) is type(other) and bool(np.all(value == other)))


def _named(stage: str, losses: list[dict]) -> list[dict]:
    """Return rows of `history_`."""
    return [{"stage": stage, **epoch} for epoch in losses]


class BasePreferenceClassifier(ClassifierMixin, NetworkEstimator):
    """Base of the classifiers of features and of texts.

    A subclass has the parameters as attributes and implements the hooks: the kind of `X`
    (`_validate_X`, `_features_to_smooth`, `_as_network_input`), the network (`_build_network`),
    how a net trains it (`_net_options`, `_stage1`, `_checkpoint`, `_finetune_options`) and the
    meaning of "auto" in stage 2 (`_stage2_kind`).
    """

    # Under metadata routing the session ids and scores reach fit without any set_fit_request.
    __metadata_request__fit = {"groups": True, "llm_scores": True, "exclude": True}
    __metadata_request__partial_fit = {"groups": True, "llm_scores": True, "exclude": True}

    _parameter_constraints: dict = CONSTRAINTS

    # --- hooks ---

    @abstractmethod
    def _validate_X(self, X, network=None, *, reset=False, to_train=False):
        """Return the rows as an array or CSR matrix, in the precision of a given network."""

    @abstractmethod
    def _network_params(self) -> dict:
        """Return the parameters that make the network what it is."""

    @abstractmethod
    def _build_network(self, training, n_scores):
        """Return a new network for such rows."""

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

    def _check_options(self):
        """Raise if parameters contradict each other."""
        if not (self.pairwise_weight or self.pointwise_weight):
            raise ValueError(
                "pairwise_weight=0 and pointwise_weight=0 leave nothing to train on; give one of "
                "them a weight."
            )

    # --- fit ---

    @_fit_context(prefer_skip_nested_validation=False)
    @keeps_state_on_failure
    def fit(self, X, y, groups=None, llm_scores=None, sample_weight=None, exclude=None):
        """Fit the network on pairs within sessions, then scale and offsets on labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features of the utterances; their texts for a transformer.
        y : array-like of shape (n_utterances,) or (n_utterances, n_labels)
            Human labels. With `llm_scores`, -1 (numbers) or None/NaN (objects) marks an unlabelled
            row, and y=None labels none. Two dimensions hold several labels per utterance: 1 where
            a label applies, 0 where it does not, and -1, None or NaN where that is unknown.
        groups : array-like of shape (n_utterances,), default=None
            Session id of each row; required with `llm_scores`. Without both, all rows are one
            session.
        llm_scores : array-like of shape (n_utterances, n_prompts, n_classes) or \
                (n_utterances, n_prompts), default=None
            Raw LLM scores, NaN if there is no score; 2-D holds the positive class of a binary task.
            With several labels per utterance, the probability that each label applies, of shape
            (n_utterances, n_prompts, n_labels).
        sample_weight : array-like of shape (n_utterances,), default=None
            Row weights; a pair weighs the product of its rows.
        exclude : array-like of bool, shape (n_utterances, n_classes), default=None
            Classes that a person or a rule has ruled out for a row that has `llm_scores`, in the
            order of their last axis. Their soft label is 0.

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
        network = self._network_to_continue() if self.warm_start else None
        prepared = self._prepare(
            X, y, groups, llm_scores, sample_weight, exclude, classes=self.classes, network=network
        )
        return self._fit_prepared(prepared, network=network)

    def _prepare(
        self,
        X,
        y,
        groups,
        llm_scores,
        sample_weight,
        exclude=None,
        *,
        classes,
        network=None,
        fitted_calibrator=None,
    ) -> Prepared:
        """Validate the arguments of `fit` and return the training rows, with soft labels.

        `network` is the one that training continues from, if any.
        """
        if y is None and llm_scores is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        prepared = prepare(
            self._validate_X(X, network, reset=network is None, to_train=True),
            y,
            groups,
            llm_scores,
            sample_weight,
            classes=classes,
            calibrator=make_calibrator(self.calibrator),
            smoother=make_smoother(self.smoother, self.random_state),
            features_to_smooth=self._features_to_smooth,
            fitted_calibrator=fitted_calibrator,
            exclude=exclude,
        )
        if network is not None:
            several = prepared.training.multilabel, self.multilabel_
            check_same_classes(prepared.classes, self.classes_, *several)
        return prepared

    def _fit_prepared(self, prepared: Prepared, train=None, network=None):
        """Train a network on prepared rows: stage 1, stage 2, decision.

        `train` replaces the function of stage 1 that the parameters choose, and `network` a new
        network.
        """
        training, n_scores = prepared.training, prepared.n_scores()
        check_trainable(training, self.stage2, self.pairwise_weight, self.pair_sampler)
        class_weight = self._class_weight(prepared)
        stage1, objective = stages().stage1, self._objective(class_weight)
        with stage1.seeded(self.random_state) as rng:
            network = network or self._build_network(training, n_scores)
            training = training._replace(X=self._as_network_input(training.X, network))
            stage1.check_output(network, training.X, n_scores)
            checkpoint = self._checkpoint(training, prepared.classes)
            held_out = self._hold_out(training, rng)
            pairs = stage1.pair_source(self.pair_sampler, rng)
            train = train or self._stage1(network, checkpoint)
            watched = training.take(held_out) if self.early_stopping else None
            net, losses = train(
                network, training.take(~held_out), watched, objective=objective, pairs=pairs
            )
            scores = stage1.score_trained(net.module_, training.X)
            finetune = partial(
                stages().stage2.finetune,
                objective=objective,
                pairs=pairs,
                **self._net_options(net.module_),
                **self._finetune_options(),
            )
            kind = self._stage2_kind(np.count_nonzero(training.has_label()), training.has_scores)
            adapted = self._adapt(net, scores, training, held_out, class_weight, kind, finetune)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        self.__dict__.pop("calibrator_", None)  # of an earlier fit
        self._set_fitted(prepared, class_weight, net, adapted)
        self.n_iter_ = len(losses)
        self.history_ = _named("pairs", losses) + _named("finetune", adapted.history)
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    @keeps_state_on_failure
    def partial_fit(
        self, X, y, classes=None, groups=None, llm_scores=None, sample_weight=None, exclude=None
    ):
        """Train for one epoch on some whole sessions, then refit scale and offsets on them.

        The calibrator is fitted on the first call with `llm_scores` and used as it is on later
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
        self._check_options()
        first = not _is_fitted(self)
        network = None if first else self._network_to_continue(in_place=True)
        before = self.classes if first or self.classes is not None else self._classes_before
        classes = classes_to_continue(before, classes)
        prepared = self._prepare(
            X,
            y,
            groups,
            llm_scores,
            sample_weight,
            exclude,
            classes=classes,
            network=network,
            fitted_calibrator=None if first else vars(self).get("calibrator_"),
        )
        training, n_scores = prepared.training, prepared.n_scores()
        class_weight = self._class_weight(prepared) if first else self.class_weight_
        stage1 = stages().stage1
        with stage1.seeded(self.random_state) as rng:
            network = network or self._build_network(training, n_scores)
            training = training._replace(X=self._as_network_input(training.X, network))
            stage1.check_output(network, training.X, n_scores)
            net = self._untrained_net(network, class_weight, rng) if first else self.net_
            held_out = self._hold_out(training, rng)
            with stage1.undone_on_failure(net):
                stage1.restore_last_layer(network, vars(self).get("_layer_before_stage2"))
                losses = stage1.train_for_an_epoch(net, training.take(~held_out))
                scores = stage1.score_trained(network, training.X)
                kind = None if self.stage2 is None else "offsets"
                adapted = self._adapt(net, scores, training, held_out, class_weight, kind)
        self._set_fitted(prepared, class_weight, net, adapted, classes)
        self.n_iter_ = 1 if first else self.n_iter_ + 1
        self.history_ = ([] if first else self.history_) + _named("pairs", losses)
        return self

    def __sklearn_is_fitted__(self):
        return "net_" in vars(self)

    def _class_weight(self, prepared: Prepared) -> FloatArray:
        """Return the weight of each class, or the two of each label."""
        rows = prepared.training
        weigh = label_weights if rows.multilabel else class_weights
        return weigh(self.class_weight, prepared.classes, rows.soft, rows.weight)

    def _objective(self, class_weight):
        """Return the loss that the parameters describe."""
        kind = stages().stage1.Objective
        terms = {name: getattr(self, name) for name in kind._fields if name != "class_weight"}
        return kind(**terms, class_weight=class_weight)

    def _network_to_continue(self, *, in_place=False):
        """Return the network of the last fit as stage 1 left it, None if there is none.

        It is a copy unless training is to continue in place.
        """
        if not _is_fitted(self):
            return None
        for name, value in self._network_params().items():
            if not _same(value, self._network_params_before.get(name)):
                raise ValueError(
                    f"training continues with the network of the last fit, but {name} was changed "
                    f"from {self._network_params_before.get(name)!r} to {value!r}; set it back, or "
                    "fit a new classifier (clone) without warm_start or partial_fit."
                )
        network = self.net_.module_
        if in_place:
            return network
        network = copy.deepcopy(network)
        stages().stage1.restore_last_layer(network, vars(self).get("_layer_before_stage2"))
        return network

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

    def _adapt(self, net, scores, training, held_out, class_weight, kind, finetune=None):
        """Run stage 2 and choose the decision."""
        return stages().stage2.adapt(
            net.module_,
            scores,
            training,
            held_out,
            class_weight,
            kind=kind,
            decision=self.decision,
            finetune=finetune,
        )

    def _set_fitted(self, prepared: Prepared, class_weight, net, adapted, classes=None):
        """Set the fitted attributes that `fit` and `partial_fit` share."""
        self.classes_, self.multilabel_ = prepared.classes, prepared.training.multilabel
        self._classes_before = prepared.classes if classes is None else classes
        self.soft_labels_ = prepared.soft_labels()
        if prepared.calibrator is not None:
            self.calibrator_ = prepared.calibrator
        self.class_weight_ = class_weight
        self.net_ = net
        self.scale_, self.offsets_, _ = adapted.output
        self.decision_offsets_ = adapted.decision
        self.head_variance_ = adapted.variance
        self._layer_before_stage2 = adapted.layer_before
        self._network_params_before = self._network_params()

    # --- predict ---

    def _logits(self, X) -> FloatArray:
        """Return the logits of rows as a user gives them."""
        check_is_fitted(self)
        network = self.net_.module_
        X = self._as_network_input(self._validate_X(X), network)
        scores = stages().scoring.predict_scores(network, X)
        return self._output().logits(scores).astype(scores.dtype)

    def decision_function(self, X):
        """Return the logits of the rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features, or texts, as in `fit`.

        Returns
        -------
        ndarray of shape (n_utterances,) or (n_utterances, n_classes)
            ``scale_ * scores + offsets_``: of the positive class for a binary task, of each label
            if several may apply.
        """
        logits = self._logits(X)
        return logits[:, 0] if logits.shape[1] == 1 and not self.multilabel_ else logits

    def predict_proba(self, X):
        """Return the probability of each class, calibrated by stage 2.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features, or texts, as in `fit`.

        Returns
        -------
        ndarray of shape (n_utterances, n_classes)
            Softmax of ``scale_ * scores + offsets_``. Stage 2 fitted scale and offsets on the human
            labels and, as a prior, on the calibrated soft labels. With several labels per
            utterance it is the sigmoid, and rows need not sum to 1.
        """
        return probabilities(self._logits(X), self.multilabel_)

    def predict(self, X):
        """Return the most probable class, or the one that `decision` chooses.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features, or texts, as in `fit`.

        Returns
        -------
        ndarray of shape (n_utterances,) or (n_utterances, n_labels)
            Class labels; with several labels per row, 1 where a label applies and 0 where not.
        """
        codes = self._predict_codes(X)
        return codes if self.multilabel_ else self.classes_[codes]

    def _predict_codes(self, X) -> IntArray:
        """Return the positions in `classes_` that `decision` chooses, or which labels apply."""
        return decide(self._logits(X), self.decision_offsets_, self.multilabel_)

    def score(self, X, y, sample_weight=None):
        """Return the accuracy on the labelled rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_utterances, n_features), or array-like of str
            Features, or texts, as in `fit`.
        y : array-like of shape (n_utterances,) or (n_utterances, n_labels)
            Human labels. -1 and None/NaN mark unlabelled rows, which do not count, unless -1 is a
            class. A row of several labels counts as right if all its known labels are.
        sample_weight : array-like of shape (n_utterances,), default=None
            Row weights.

        Returns
        -------
        float
            Accuracy.
        """
        check_is_fitted(self)
        return labelled_accuracy(self._predict_codes(X), y, self.classes_, sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
