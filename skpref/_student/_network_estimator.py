"""An estimator around a torch network: parameters of its module, and files."""

from abc import ABCMeta, abstractmethod
from types import SimpleNamespace

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skpref._sklearn import DocLinkMixin
from skpref._student._output import Output
from skpref._student._training_set import DEFAULT_PARTS

_MODULE = "module__"


def stages() -> SimpleNamespace:
    """Return the modules that need torch, whose import takes seconds and so waits for a fit.

    Returns
    -------
    SimpleNamespace
        stage1, stage2, onnx, persistence, modules, scoring, transformer and units.
    """
    from skpref._student import _onnx, _persistence, _stage1, _stage2
    from skpref._torch import _modules, _scoring, _transformer, _units

    return SimpleNamespace(
        stage1=_stage1,
        stage2=_stage2,
        onnx=_onnx,
        persistence=_persistence,
        modules=_modules,
        scoring=_scoring,
        transformer=_transformer,
        units=_units,
    )


class NetworkEstimator(DocLinkMixin, BaseEstimator, metaclass=ABCMeta):
    """Estimator that holds a network as `net_`, with scale and offsets for its scores.

    Its parameters include those of the network, each named ``module__<argument>``, and a fitted
    estimator can be written to a folder or to an ONNX file.
    """

    @abstractmethod
    def _saved_module(self):
        """Return the kind of the network, as a saved folder names it."""

    @abstractmethod
    def _untrained_net(self, network, class_weight, rng):
        """Return a net around a network, ready to train."""

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
        >>> clf = PairwisePreferenceClassifier(random_state=0).fit(X, y)
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

    def _take_network(self, build, saved):
        """Build a network, load the weights of a folder into it and make it that of this fit."""
        with stages().stage1.seeded(self.random_state) as rng:
            network = build()
            stages().persistence.load_weights(network, saved)
            self.net_ = self._untrained_net(network, self.class_weight_, rng)
        self._layer_before_stage2 = stages().persistence.saved_layer(saved)
        self._network_params_before = self._network_params()
        self._classes_before = self.classes_
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
        >>> clf = PairwisePreferenceClassifier(random_state=0).fit(X, y)
        >>> clf.to_onnx("student.onnx")  # doctest: +SKIP
        >>> import onnxruntime  # doctest: +SKIP
        >>> session = onnxruntime.InferenceSession("student.onnx")  # doctest: +SKIP
        >>> session.run(None, {"features": np.float32(X)})  # doctest: +SKIP
        """
        check_is_fitted(self)
        n_features = vars(self).get("n_features_in_")
        stages().onnx.export(self.net_.module_, self._output(), n_features, path)

    def _output(self) -> Output:
        """Return what makes logits of the network's scores."""
        return Output(self.scale_, self.offsets_, self.multilabel_)
