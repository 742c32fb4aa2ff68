"""Subjects of the fuzz: each estimator and function, its legal use, and what it promises."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl

from skpref import (
    DialogueContext,
    DialogueFeatures,
    IntraSessionPairSampler,
    KNNLabelSmoother,
    LLMLabeler,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
)
from skpref.datasets import make_dialogues
from skpref.inspection import compare_with_distillation, preference_noise, prompt_agreement
from skpref.metrics import expected_calibration_error, within_session_concordance
from tests.fuzz_inputs import SPOILT, as_objects, choose, draw_parameters

LENGTHS = ("shorter", "longer", "no rows")


class Broken(AssertionError):
    """A promise that was not kept."""


def ensure(kept, promise):
    if not kept:
        raise Broken(promise)


class Setting(NamedTuple):
    """Parameters, and options of the call that are no parameters."""

    params: dict
    options: dict


class Subject:
    """An estimator or a function, in terms of `Data`."""

    weight = 1
    constraints: dict = {}
    arguments: tuple = ()  # fields of Data
    names: dict = {}  # what messages call an argument, if not by the name of the field
    legal_anyway: dict = {}  # by argument, what SPOILT holds and this one takes
    several_labels = False  # whether `y` may have a column for each label
    by_row: tuple = ()  # outputs with an entry per row
    properties: tuple = ()
    extremes: tuple = ()
    uses: tuple = ()  # arguments that are given again after the fit
    classes_parameter = "classes"
    tolerance = 1e-6
    share = 0.25  # of the parameters that are drawn

    @property
    def name(self):
        return type(self).__name__

    def draw(self, rng, data):
        params = draw_parameters(rng, self.constraints, self.own(rng, data), self.share)
        if "random_state" in self.constraints:  # None would draw from the global generator
            params.setdefault("random_state", 0)
        return Setting(params, self.options(rng, data))

    def own(self, rng, data):
        return {}

    def options(self, rng, data):
        return {}

    def adapt(self, data, setting):
        """The data as this setting takes it."""
        return data

    def used(self, setting):
        return self.arguments

    def takes_anyway(self, argument, data):
        """What SPOILT holds of an argument and this one takes."""
        legal = self.legal_anyway.get(argument, ())
        # Two columns of 0 and 1 are two labels for each row.
        two_labels = self.several_labels and all(c in (0, 1) for c in data.classes)
        return (*legal, "two columns") if argument == "y" and two_labels else legal

    def refusals(self, setting, data):
        """Pairs: whether it holds, and then what the refusal may say."""
        return []

    def names_of(self, argument):
        return self.names.get(argument, (argument,))

    def all_names(self, setting=None):
        names = [n for argument in self.arguments for n in self.names_of(argument)]
        return (*names, *self.constraints)

    def build(self, setting) -> Any:
        raise NotImplementedError

    def fit(self, model, data, setting):
        pass

    def use(self, model, data, setting) -> dict:
        raise NotImplementedError

    def check(self, model, data, setting, out):
        pass

    def spoil(self, rng, data, setting):
        """Data with one argument that must be refused, how, and the names to expect."""
        argument = choose(rng, self.used(setting))
        taken = self.takes_anyway(argument, data)
        kinds = [k for k in SPOILT[argument] if k not in taken]
        kind = choose(rng, kinds)
        data = data._replace(**{argument: SPOILT[argument][kind](getattr(data, argument))})
        names = self.all_names() if kind in LENGTHS else self.names_of(argument)
        return data, f"{argument}: {kind}", names


class Estimator(Subject):
    estimator: type

    @property
    def constraints(self):
        return self.estimator._parameter_constraints

    def build(self, setting):
        return self.estimator(**setting.params)


def check_distributions(proba, n, k, nan_rows=None):
    ensure(proba.shape == (n, k), f"shape {proba.shape}, not {(n, k)}")
    nan_rows = np.zeros(n, bool) if nan_rows is None else nan_rows
    ensure((np.isnan(proba).all(axis=1) == nan_rows).all(), "the rows that are NaN")
    known = proba[~nan_rows]
    ensure(np.isfinite(known).all(), "finite probabilities")
    ensure(((known >= 0) & (known <= 1 + 1e-6)).all(), "probabilities between 0 and 1")
    ensure(np.allclose(known.sum(axis=1), 1, atol=1e-5), "rows that sum to 1")


# --- estimators ---


class Calibrator(Estimator):
    weight = 5
    several_labels = True
    legal_anyway = {"y": ("infinite",)}
    estimator = LLMScoreCalibrator
    arguments = ("llm_scores", "y", "groups")
    names = {"llm_scores": ("llm_scores", "X")}
    by_row = ("transform", "fit_transform")
    properties = (
        "row order",
        "session names",
        "prompt order",
        "class order",
        "containers",
        "clone",
        "pickle",
        "threads",
        "output",
        "refit",
        "state",
    )
    extremes = ("llm_scores",)
    uses = ("llm_scores",)
    tolerance = 1e-4  # what L-BFGS leaves
    share = 0.5

    def own(self, rng, data):
        return {"classes": lambda rng: list(data.classes)}

    def options(self, rng, data):
        return {"without labels": rng.random() < 0.1}

    def used(self, setting):
        return ("llm_scores", "groups") if setting.options["without labels"] else self.arguments

    def refusals(self, setting, data):
        outside = data.score_kind in ("log_odds", "raw")
        return [
            (outside and setting.params.get("score_type") == "probability", "outside [0, 1]"),
            (np.isnan(data.llm_scores).all(), "no row with a score"),
        ]

    def fit(self, model, data, setting):
        y = None if setting.options["without labels"] else data.y
        self.cross_fitted = model.fit_transform(data.llm_scores, y, groups=data.groups)
        model.fit(data.llm_scores, y, groups=data.groups)

    def use(self, model, data, setting):
        out = model.transform(data.llm_scores)
        return {"transform": np.asarray(out), "fit_transform": np.asarray(self.cross_fitted)}

    def check(self, model, data, setting, out):
        scores = np.asarray(data.llm_scores, dtype=float)
        scores = scores if scores.ndim == 3 else scores[:, :, None]
        complete = ~np.isnan(scores).any(axis=2)
        if model.score_type_ == "probability" and scores.shape[2] > 1:
            complete &= scores.sum(axis=2) > 0
        k = len(data.classes)
        for proba in out.values():
            check_distributions(proba, len(scores), k, ~complete.any(axis=1))
        ensure(list(model.classes_) == sorted(model.classes_), "sorted classes_")
        names = model.get_feature_names_out()
        ensure(len(names) == k, "a name for each column")


class Smoother(Estimator):
    weight = 5
    estimator = KNNLabelSmoother
    arguments = ("X", "y", "groups")
    legal_anyway = {"y": ("two columns",)}
    by_row = ("transform", "fit_transform")
    properties = (
        "row order",
        "session names",
        "sparse",
        "containers",
        "clone",
        "pickle",
        "threads",
        "output",
        "refit",
        "state",
    )
    extremes = ("X",)
    uses = ("X",)
    share = 0.4
    any_metric = ("cosine", "euclidean", "l2", "l1")

    def keeps_row_order(self, setting, data):
        # Of neighbours at the same distance the first is taken. With these, many distances tie.
        metric = setting.params.get("metric", "cosine")
        return metric != "canberra" and not (metric == "cosine" and data.X.shape[1] == 1)

    def refusals(self, setting, data):
        dense = setting.params.get("metric", "cosine") not in self.any_metric
        return [(dense, "cannot compare rows of a sparse X")]

    def own(self, rng, data):
        return {
            "device": lambda rng: choose(rng, ["auto", "cpu"]),
            "algorithm": lambda rng: choose(rng, ["auto", "exact"]),
            "metric": lambda rng: choose(
                rng, ["cosine", "euclidean", "l2", "sqeuclidean", "l1", "chebyshev", "canberra"]
            ),
        }

    def options(self, rng, data):
        return {"soft": rng.random() < 0.3}

    def takes_columns(self, setting):
        return setting.options["soft"] or setting.params.get("multilabel", False)

    def adapt(self, data, setting):
        return data._replace(y=data.soft) if self.takes_columns(setting) else data

    def used(self, setting):
        if self.takes_columns(setting):
            return ("X", "groups")
        return self.arguments

    def fit(self, model, data, setting):
        self.own_rows = model.fit_transform(data.X, data.y, groups=data.groups)

    def use(self, model, data, setting):
        out = model.transform(data.X, groups=data.groups)
        return {"transform": np.asarray(out), "fit_transform": np.asarray(self.own_rows)}

    def check(self, model, data, setting, out):
        k = len(data.classes)
        for proba in out.values():
            check_distributions(proba, len(data.truth), k)
        distinct = len(np.unique(np.asarray(data.X), axis=0)) == len(data.truth)
        if distinct:
            same = np.allclose(out["transform"], out["fit_transform"], atol=1e-6)
            ensure(same, "transform of the fitted rows is fit_transform")


class Sampler(Estimator):
    weight = 4
    estimator = IntraSessionPairSampler
    arguments = ("soft", "groups")
    names = {"soft": ("y",)}
    legal_anyway = {"soft": ("flat", "nan", "no columns")}
    by_row = ("wins", "losses")
    properties = ("row order", "session names", "containers", "clone", "pickle", "threads")
    extremes = ("soft",)
    share = 0.5

    def own(self, rng, data):
        return {"min_margin": lambda rng: float(choose(rng, [0, 0.01, 0.3, 5]))}

    def options(self, rng, data):
        return {"column": rng.random() < 0.5}

    def adapt(self, data, setting):
        return data._replace(soft=data.soft[:, 1]) if setting.options["column"] else data

    def keeps_row_order(self, setting, data):
        drawn = setting.params.get("strategy", "all") in ("uniform", "margin")
        return not drawn and setting.params.get("max_pairs_per_session") is None

    def use(self, model, data, setting):
        self.pairs = model.sample(data.soft, data.groups)
        n = len(data.truth)
        return {
            "wins": np.bincount(self.pairs.winner, minlength=n),
            "losses": np.bincount(self.pairs.loser, minlength=n),
            "n": np.array(len(self.pairs)),
        }

    def check(self, model, data, setting, out):
        pairs, scores = self.pairs, data.soft.reshape(len(data.truth), -1)
        groups = as_objects(data.groups)
        ensure((groups[pairs.winner] == groups[pairs.loser]).all(), "pairs within sessions")
        gap = scores[pairs.winner, pairs.class_index] - scores[pairs.loser, pairs.class_index]
        ensure((gap > 0).all() and (gap >= model.min_margin).all(), "margins of min_margin")
        ensure(np.allclose(gap, pairs.margin), "margin is the gap")
        ensure(not len(pairs) or np.isclose(pairs.weight.mean(), 1), "weights of mean 1")
        cap = model.max_pairs_per_session
        if cap is not None and len(pairs):
            counts = Counter(groups[pairs.winner].tolist())
            ensure(max(counts.values()) <= cap, "max_pairs_per_session")
        if scores.shape[1] == 1 and len(pairs):
            X, sign = model.fit_resample(data.X, data.soft, groups=data.groups)
            ensure(X.shape == (len(sign), data.X.shape[1]), "one difference for each sign")
            ensure(set(sign.tolist()) <= {-1, 1}, "signs")


class Classifier(Estimator):
    several_labels = True
    weight = 5
    estimator = PairwisePreferenceClassifier
    arguments = ("X", "y", "groups", "llm_scores", "sample_weight")
    by_row = ("proba", "decision", "predict")
    properties = (
        "row order",
        "session names",
        "prompt order",
        "class order",
        "sparse",
        "containers",
        "clone",
        "pickle",
        "threads",
        "output",
        "refit",
        "state",
        "continue",
        "scoring",
    )
    extremes = ("X", "llm_scores", "sample_weight")
    uses = ("X",)
    tolerance = 1e-3
    share = 0.2

    def own(self, rng, data):
        part = {
            LLMScoreCalibrator: lambda: {},
            KNNLabelSmoother: lambda: Smoother().own(rng, data),
            IntraSessionPairSampler: lambda: {"min_margin": lambda rng: 0.01},
        }

        def one_of(kind):
            params = draw_parameters(rng, kind._parameter_constraints, part[kind](), 0.3)
            params.pop("classes", None)
            return choose(rng, [None, "passthrough", kind(**params)])

        return {
            "module": lambda rng: choose(rng, ["mlp", "linear"]),
            "class_weight": lambda rng: choose(
                rng, [None, "balanced", {c: float(rng.uniform(0.2, 3)) for c in data.classes}]
            ),
            "calibrator": lambda rng: one_of(LLMScoreCalibrator),
            "smoother": lambda rng: one_of(KNNLabelSmoother),
            "pair_sampler": lambda rng: one_of(IntraSessionPairSampler),
            "classes": lambda rng: list(data.classes),
            "lr": lambda rng: float(10 ** rng.uniform(-4, -1)),
            "weight_decay": lambda rng: float(choose(rng, [0, 1e-3, 0.1])),
            "callbacks": lambda rng: choose(rng, [None, []]),
            "device": lambda rng: choose(rng, ["auto", "cpu"]),
            "verbose": lambda rng: 0,
        }

    def draw(self, rng, data):
        params = {"max_epochs": 1, "max_iter": 15, "random_state": 0}
        if rng.random() < 0.4:
            params["module"] = "linear"
        drawn = super().draw(rng, data)
        return drawn._replace(params=params | drawn.params)

    def options(self, rng, data):
        return {
            "scores": rng.random() < 0.7,
            "weights": rng.random() < 0.3,
            "partial_fit": rng.random() < 0.15,
        }

    def adapt(self, data, setting):
        if not setting.options["scores"]:
            data = data._replace(y=data.truth, llm_scores=None)
        return data if setting.options["weights"] else data._replace(sample_weight=None)

    def used(self, setting):
        left_out = [
            *([] if setting.options["scores"] else ["llm_scores"]),
            *([] if setting.options["weights"] else ["sample_weight"]),
        ]
        return [a for a in self.arguments if a not in left_out]

    def refusals(self, setting, data):
        p = setting.params
        lbfgs = p.get("solver") == "lbfgs"
        raw = data.score_kind in ("log_odds", "raw") and setting.options["scores"]
        probabilities = p.get("calibrator") == "passthrough" or (
            getattr(p.get("calibrator"), "score_type", None) == "probability"
        )
        neither = p.get("pairwise_weight") == 0 and p.get("pointwise_weight") == 0
        smoother = p.get("smoother")
        votes = isinstance(smoother, KNNLabelSmoother)
        return [
            # Votes of all rows in all rows leave them the same soft label.
            (votes and smoother.alpha > 0.9, "leave no valid pair"),
            (votes and smoother.metric not in Smoother.any_metric, "rows of a sparse X"),
            (lbfgs and p.get("loss") == "hinge", "needs a smooth loss"),
            (lbfgs and p.get("early_stopping"), "early_stopping"),
            (neither, "leave nothing to train on"),
            (raw and probabilities, "outside [0, 1]"),
        ]

    def fit(self, model, data, setting):
        given = {"groups": data.groups, "llm_scores": data.llm_scores}
        given["sample_weight"] = data.sample_weight
        if setting.options["partial_fit"] and str(model.solver) == "adam":
            return model.partial_fit(data.X, data.y, classes=list(data.classes), **given)
        return model.fit(data.X, data.y, **given)

    def use(self, model, data, setting):
        return {
            "proba": model.predict_proba(data.X),
            "decision": model.decision_function(data.X),
            "predict": model.predict(data.X),
        }

    def check(self, model, data, setting, out):
        n, k = len(data.truth), len(data.classes)
        ensure(list(model.classes_) == sorted(data.classes), "sorted classes_")
        check_distributions(out["proba"], n, k)
        ensure(out["decision"].shape == ((n,) if k == 2 else (n, k)), "shape of decision_function")
        ensure(np.isin(out["predict"], model.classes_).all(), "predict gives classes")
        if model.decision == "argmax":
            best = model.classes_[out["proba"].argmax(axis=1)]
            ensure((best == out["predict"]).all(), "predict is the most probable class")
        accuracy = np.mean(out["predict"] == data.truth)
        ensure(np.isclose(model.score(data.X, data.truth), accuracy), "score is the accuracy")
        ensure(0 <= model.score(data.X, data.y) <= 1, "score of partly labelled rows")


class Context(Estimator):
    weight = 3
    estimator = DialogueContext
    arguments = ("texts", "groups", "turn")
    names = {
        "texts": ("X", "text"),
        "groups": ("X", "session", "groups"),
        "turn": ("X", "turn"),
    }
    by_row = ("text",)
    properties = ("row order", "session names", "clone", "pickle", "threads", "output")
    share = 0.4

    def own(self, rng, data):
        return {
            "text": lambda rng: "text",
            "session": lambda rng: "session_id",
            "turn": lambda rng: choose(rng, ["turn", None]),
            "speaker": lambda rng: choose(rng, ["text", None]),
            "template": lambda rng: choose(rng, [None, "{text}!", "<{text}> {text}"]),
            "separator": lambda rng: choose(rng, ["", " | ", "\n", "{}"]),
        }

    def options(self, rng, data):
        plain = data.groups.dtype.kind in "iufUM"
        return {"polars": plain and rng.random() < 0.4}

    def keeps_row_order(self, setting, data):
        return setting.params.get("turn", "turn") is not None

    def frame(self, data, setting):
        columns = {"text": data.texts, "session_id": data.groups, "turn": data.turn}
        if setting.options["polars"]:
            return pl.DataFrame(columns)
        return pd.DataFrame(columns, index=np.arange(len(data.texts))[::-1])

    def use(self, model, data, setting):
        out = model.fit_transform(self.frame(data, setting))
        self.out = out
        if model.output == "columns":
            context = np.asarray(out["context"], dtype=object)
            return {"text": np.asarray(out["text"], dtype=object) + "|" + context}
        return {"text": np.asarray(out, dtype=object).reshape(len(data.texts))}

    def check(self, model, data, setting, out):
        n = len(data.texts)
        ensure(out["text"].shape == (n,), "one text per row")
        own = {None: "{}", "{text}!": "{}!", "<{text}> {text}": "<{0}> {0}"}[model.template]
        if model.speaker is None or model.template is not None:
            own_turns = [own.format(text) for text in data.texts]
            pairs = zip(out["text"], own_turns, strict=True)
            ensure(all(a.startswith(b) for a, b in pairs), "the utterance first")

    def spoil(self, rng, data, setting):
        n = len(data.texts)
        kinds = {
            "texts": {
                "missing": lambda v: as_objects([None, *v[1:]]),
                "numbers": lambda v: np.arange(n),
            },
            "groups": {"missing": lambda v: as_objects([None, *map(str, v[1:])])},
            "turn": {
                "missing": lambda v: np.where(np.arange(n) == 0, np.nan, v),
                "the same": lambda v: np.zeros(n, int),
            },
        }
        argument = choose(rng, kinds)
        if argument == "turn" and setting.params.get("turn", "turn") is None:
            argument = "texts"
        kind = choose(rng, kinds[argument])
        changed = kinds[argument][kind](getattr(data, argument))
        setting.options["polars"] = False
        return (
            data._replace(**{argument: changed}),
            f"{argument}: {kind}",
            self.names_of(argument),
        )


class Features(Context):
    """DialogueFeatures."""

    weight = 2
    estimator = DialogueFeatures
    by_row = ("features",)

    def own(self, rng, data):
        return {
            "text": lambda rng: "text",
            "session": lambda rng: choose(rng, ["session_id", ["session_id"]]),
            "turn": lambda rng: choose(rng, ["turn", None]),
            "scale": lambda rng: float(choose(rng, [0.3, 1, 20])),
        }

    def draw(self, rng, data):
        drawn = super().draw(rng, data)
        speaker = choose(rng, ["text", None])
        return drawn._replace(params=drawn.params | {"speaker": speaker})

    def use(self, model, data, setting):
        frame = self.frame(data, setting)
        return {"features": np.asarray(model.fit(frame).transform(frame))}

    def check(self, model, data, setting, out):
        names = model.get_feature_names_out()
        ensure(out["features"].shape == (len(data.texts), len(names)), "a column for each name")
        ensure(np.isfinite(out["features"]).all(), "finite features")


class Labeler(Estimator):
    """With a callable for an LLM, whose answer depends on the question alone."""

    weight = 0.5
    estimator = LLMLabeler
    arguments = ("texts", "groups", "turn")
    names = Context.names
    by_row = ("scores",)
    properties = ("row order", "session names", "clone", "output")
    share = 0.3

    def own(self, rng, data):
        return {
            "classes": lambda rng: list(data.classes),
            "prompts": lambda rng: {"a": "{options} {answer} {utterance}"},
            "model": lambda rng: "rule",
            **{name: (lambda rng: None) for name in ("base_url", "api_key", "cache")},
            # A limit of the cost needs prices.
            **{name: (lambda rng: None) for name in ("prices", "max_cost")},
            "request_params": lambda rng: choose(rng, [None, {"top_p": 0.5}]),
            "requests_per_minute": lambda rng: None,
            "tokens_per_minute": lambda rng: None,
            "timeout": lambda rng: 5.0,
            "text": lambda rng: "text",
            "session": lambda rng: "session_id",
            "turn": lambda rng: choose(rng, ["turn", None]),
            "speaker": lambda rng: choose(rng, ["text", None]),
            "verbose": lambda rng: False,
            "client": lambda rng: None,
            "scoring": lambda rng: "label",
            "n_samples": lambda rng: 1,
            "option_orders": lambda rng: choose(rng, [1, 2, "balanced"]),
            "top_logprobs": lambda rng: 5,
            "batch": lambda rng: False,  # needs an endpoint
            "unit": lambda rng: "utterance",  # another one needs other prompts
            "multilabel": lambda rng: False,  # its answers are among the parsers
        }

    def draw(self, rng, data):
        setting = super().draw(rng, data)
        needed = {
            "classes": list(data.classes),
            "model": "rule",
            "client": Rule([str(c) for c in data.classes]),
            "scoring": "label",
            "verbose": False,
            "prompts": {"a": "{options} {answer} {utterance}"},
        }
        params = {k: v for k, v in setting.params.items() if k != "client"} | needed
        return setting._replace(params=params)

    def options(self, rng, data):
        return {"polars": False}

    def keeps_row_order(self, setting, data):
        return setting.params.get("turn", "turn") is not None

    def use(self, model, data, setting):
        frame = Context().frame(data, setting)
        scores = model.fit(frame, data.y).transform(frame)
        if not isinstance(scores, np.ndarray):  # the user's setting asks for frames
            scores = np.asarray(scores)
            if len(data.classes) > 2:
                scores = scores.reshape(len(frame), -1, len(data.classes))
            else:  # the second class alone
                scores = scores[:, :, None]
                scores = np.concatenate([1 - scores, scores], axis=2)
        return {"scores": scores}

    def check(self, model, data, setting, out):
        n, k = len(data.texts), len(data.classes)
        ensure(out["scores"].shape == (n, 1, k), "shape of the scores")
        check_distributions(out["scores"][:, 0], n, k)

    spoil = Context.spoil


class Rule:
    """Answers with a class that depends on the utterance alone, and can be pickled."""

    def __init__(self, names):
        self.names = names

    def __call__(self, messages, **settings):
        utterance = messages[-1]["content"].split("\n")[-1]
        return self.names[sum(utterance.encode()) % len(self.names)]


# --- functions ---


class Function(Subject):
    function: Any

    @property
    def constraints(self):
        found = type(self).function._skl_parameter_constraints
        taken = {n for argument in self.arguments for n in self.names_of(argument)}
        checked = {name: a for name, a in found.items() if a != "no_validation"}
        return {name: allowed for name, allowed in checked.items() if name not in taken}

    def build(self, setting):
        return lambda *args, **given: type(self).function(*args, **given, **setting.params)


class Concordance(Function):
    weight = 3
    function = staticmethod(within_session_concordance)
    arguments = ("y", "soft", "groups")
    names = {"y": ("y_true",), "soft": ("y_score",)}
    properties = ("row order", "session names", "class order", "containers", "threads")
    extremes = ("soft",)
    classes_parameter = "labels"

    def own(self, rng, data):
        return {"labels": lambda rng: list(data.classes)}

    def takes_anyway(self, argument, data):
        # One dimension is the positive class of a binary task.
        return ("flat",) if argument == "soft" and len(data.classes) == 2 else ()

    def use(self, model, data, setting):
        return {"value": np.array(model(data.y, data.soft, groups=data.groups))}

    def check(self, model, data, setting, out):
        value = out["value"]
        ensure(value.shape == () and (np.isnan(value) or 0 <= value <= 1), "a value from 0 to 1")


class CalibrationError(Concordance):
    function = staticmethod(expected_calibration_error)
    arguments = ("y", "soft")
    names = {"y": ("y_true",), "soft": ("y_prob",)}
    properties = ("row order", "class order", "containers", "threads")

    def use(self, model, data, setting):
        return {"value": np.array(model(data.y, data.soft))}


class Noise(Function):
    weight = 3
    function = staticmethod(preference_noise)
    several_labels = True
    arguments = ("llm_scores", "y", "groups")
    names = {"llm_scores": ("llm_scores", "layout")}
    properties = (
        "row order",
        "session names",
        "prompt order",
        "class order",
        "containers",
        "threads",
        "output",
    )
    extremes = ("llm_scores",)

    def own(self, rng, data):
        return {
            "classes": lambda rng: list(data.classes),
            "layout": lambda rng: choose(rng, ["auto", "prompts"]),
        }

    def draw(self, rng, data):
        drawn = super().draw(rng, data)
        return drawn._replace(params={"n_bootstrap": 8, "random_state": 0} | drawn.params)

    def refusals(self, setting, data):
        known = ~np.isnan(data.llm_scores.reshape(len(data.truth), -1)).all(axis=1)
        found = {v for v, k in zip(data.truth.tolist(), known, strict=True) if k}
        partly = len(found) < len(data.classes) or not known.all()
        return [(partly, "so no two rows can be compared")]

    def use(self, model, data, setting):
        found = model(data.llm_scores, data.y, data.groups)
        values = [[found[part].error, found[part].low, found[part].high] for part in PARTS]
        gaps = [len(found.by_gap.edges), found.min_margin, *found.by_gap.within]
        return {"errors": np.array(values), "gaps": np.array(gaps)}

    def check(self, model, data, setting, out):
        errors = out["errors"][:2, 0]
        ensure(((errors >= 0) & (errors <= 1) | np.isnan(errors)).all(), "errors from 0 to 1")


PARTS = ("within", "across", "difference")


class Agreement(Noise):
    weight = 1.5
    function = staticmethod(prompt_agreement)
    tolerance = 1e-3
    properties = ("row order", "session names", "class order", "containers", "output")

    def own(self, rng, data):
        return {
            "classes": lambda rng: list(data.classes),
            "calibrator": lambda rng: choose(rng, [None, LLMScoreCalibrator("batch")]),
            "prompt_names": lambda rng: [f"p{i}" for i in range(data.llm_scores.shape[1])],
        }

    def options(self, rng, data):
        return {"without labels": rng.random() < 0.2}

    def used(self, setting):
        return ("llm_scores", "groups") if setting.options["without labels"] else self.arguments

    def refusals(self, setting, data):
        return []

    def use(self, model, data, setting):
        if setting.options["without labels"]:
            found = model(data.llm_scores, groups=data.groups)
        else:
            found = model(data.llm_scores, data.y, data.groups)
        out = {name: found[name] for name in ("correlation", "kappa", "redundancy", "coverage")}
        if "drop" in found:
            out["drop"] = found.drop.log_loss.mean
        return out

    def check(self, model, data, setting, out):
        p = data.llm_scores.shape[1]
        ensure(out["correlation"].shape == (p, p), "a square of correlations")
        ensure(((out["coverage"] >= 0) & (out["coverage"] <= 1)).all(), "coverage from 0 to 1")


class Comparison(Function):
    weight = 0.1
    function = staticmethod(compare_with_distillation)
    several_labels = True
    arguments = ("X", "y", "groups", "llm_scores")
    properties = ("output",)
    tolerance = 1e-3

    def draw(self, rng, data):
        clf = PairwisePreferenceClassifier(
            "linear", max_epochs=1, max_iter=15, random_state=0, classes=data.classes
        )
        params = {"estimator": clf, "n_bootstrap": 8, "random_state": 0, "cv": 2}
        return Setting(params, {})

    def refusals(self, setting, data):
        # Folds of so few sessions may lack a class.
        return [(True, "session"), (True, "class")]

    def use(self, model, data, setting):
        found = model(X=data.X, y=data.y, groups=data.groups, llm_scores=data.llm_scores)
        ensure(isinstance(found.message, str), "a message")
        return {"n": np.array(len(found))}


class Dialogues(Function):
    weight = 2
    function = staticmethod(make_dialogues)
    share = 0.6

    def own(self, rng, data):
        def length(rng):
            low = int(rng.integers(1, 5))
            high = low + int(rng.integers(4))
            return choose(rng, [low, np.int64(low), (low, high), [low, high]])

        return {
            "session_length": length,
            "class_sep": lambda rng: float(choose(rng, [0, 0.1, 3, 50])),
        }

    def draw(self, rng, data):
        drawn = super().draw(rng, data)
        return drawn._replace(params={"n_sessions": 4, "random_state": 0} | drawn.params)

    def refusals(self, setting, data):
        p = setting.params
        too_many = p.get("n_informative", 5) > p.get("n_features", 20)
        return [(too_many, "n_informative")]

    def use(self, model, data, setting):
        found = model()
        again = model()
        ensure(np.array_equal(found.llm_scores, again.llm_scores, equal_nan=True), "the same again")
        return {name: np.asarray(found[name]) for name in ("X", "y", "true_proba", "llm_scores")}

    def check(self, model, data, setting, out):
        n = len(out["X"])
        k = setting.params.get("n_classes", 2)
        check_distributions(out["true_proba"], n, k)
        ensure(out["llm_scores"].shape[::2] == (n, k), "shape of llm_scores")
        scores = out["llm_scores"].reshape(-1, k)
        check_distributions(scores, len(scores), k, np.isnan(scores).all(axis=1))
        ensure(((out["y"] >= -1) & (out["y"] < k)).all(), "labels")

    def spoil(self, rng, data, setting):
        bad = choose(rng, [0, -1, (3, 1), (1,), (1, 2, 3), (0, 4), (1.5, 2), ["a", "b"], (), None])
        setting.params["session_length"] = bad
        return data, f"session_length={bad!r}", ("session_length",)


SUBJECTS = [
    Calibrator(),
    Smoother(),
    Sampler(),
    Classifier(),
    Context(),
    Features(),
    Labeler(),
    Concordance(),
    CalibrationError(),
    Noise(),
    Agreement(),
    Comparison(),
    Dialogues(),
]
