"""Pictures of scores, preferences, training and sessions, by scikit-learn's display convention."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted, column_or_1d

from skpref._calibrator import LLMScoreCalibrator
from skpref._student._classifier import PairwisePreferenceClassifier
from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds
from skpref._validation import check_labels, check_llm_scores
from skpref.inspection import (
    _check_prompt_names,
    _prompt_probabilities,
    _quantile_edges,
    _read,
    preference_noise,
)

__all__ = [
    "PreferenceNoiseDisplay",
    "ScoreReliabilityDisplay",
    "SessionTrajectoryDisplay",
    "TrainingCurveDisplay",
]

# Okabe and Ito's colours, which colour-blind people tell apart, and which differ in lightness.
_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
_GREY = "0.5"


def _axes(ax: Any, name: str, figsize: tuple[float, float]) -> tuple[Any, bool]:
    """Axes to draw on, and whether the figure is a new one of ours."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{name} requires matplotlib. You can install matplotlib with `pip install matplotlib`."
        ) from error
    if ax is not None:
        return ax, False
    _, ax = plt.subplots(figsize=figsize, layout="constrained")
    return ax, True


def _add_legend(ax: Any, is_ours: bool, handles: Sequence[Any], n_columns: int = 3) -> None:
    """Put the legend below the axes, where it hides no data, if the layout makes room for it."""
    look = {"handles": handles, "ncols": min(n_columns, len(handles)), "frameon": False}
    if is_ours:
        ax.figure.legend(loc="outside lower center", **look)
    elif ax.figure.get_layout_engine() is not None and not _has_long_ticks(ax):
        from matplotlib.transforms import ScaledTranslation

        # Past the ticks and the label of the x-axis, whatever the size of the axes.
        below = ScaledTranslation(0, -36 / 72, ax.figure.dpi_scale_trans)
        anchor = {"bbox_to_anchor": (0.5, 0), "bbox_transform": ax.transAxes + below}
        ax.legend(loc="upper center", fontsize="small", **(look | {"ncols": 2} | anchor))
    else:
        ax.legend(handles=handles, loc="best", fontsize="small")


def _has_long_ticks(ax: Any) -> bool:
    return any(label.get_rotation() for label in ax.get_xticklabels())


def _style(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)


def _last_step(estimator: Any, name: str) -> PairwisePreferenceClassifier:
    """Give the classifier at the end of a pipeline."""
    step = estimator
    while isinstance(step, Pipeline):
        step = step.steps[-1][1]
    if not isinstance(step, PairwisePreferenceClassifier):
        raise ValueError(
            f"estimator={estimator!r:.200} must be a PairwisePreferenceClassifier, or a Pipeline "
            f"whose last step is one, but that is a {type(step).__name__}; {name} draws no other."
        )
    check_is_fitted(step)
    return step


def _class_position(pos_label: Any, classes: np.ndarray) -> int:
    """Column of a class; of the last one for None."""
    known = classes.tolist()
    if pos_label is None:
        return len(known) - 1
    if pos_label not in known:
        raise ValueError(f"pos_label={pos_label!r} is not a class; pass one of {known!r}.")
    return known.index(pos_label)


class _Curve(NamedTuple):
    """Mean probability and observed share of each bin."""

    prob_pred: FloatArray
    prob_true: FloatArray


def _reliability(prob: FloatArray, codes: IntArray, k: int | None, n_bins: int) -> _Curve:
    """Bin the probabilities of one class, or of all, by quantiles."""
    known = ~np.isnan(prob[:, 0])
    hit = codes[known, None] == np.arange(prob.shape[1])
    prob = prob[known]
    prob, hit = (prob.ravel(), hit.ravel()) if k is None else (prob[:, k], hit[:, k])
    inner = _quantile_edges(prob, n_bins)
    bins = np.searchsorted(inner, np.round(prob, 9), side="right")
    count = np.bincount(bins)
    count = np.where(count, count, np.nan)
    curve = np.bincount(bins, prob) / count, np.bincount(bins, hit) / count
    told = ~np.isnan(curve[0])
    return _Curve(curve[0][told], curve[1][told])


class ScoreReliabilityDisplay:
    """How far LLM scores can be taken at their word, before and after calibration.

    Each line joins bins of about equally many scores: across, the mean probability; upwards, the
    share of these utterances that people gave the class. Below the diagonal the LLM is too sure.
    It is recommended to make one with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    prompts : dict of {str: (prob_pred, prob_true)}
        Curve of each prompt; two ndarrays of shape (n_bins,) each.
    ensemble : tuple of (prob_pred, prob_true), default=None
        Curve of the mean over prompts.
    calibrated : tuple of (prob_pred, prob_true), default=None
        Curve of the calibrated scores.
    pos_label : object, default=None
        The class that the curves are of; None for all classes together.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    prompt_lines_ : list of matplotlib Line2D
        Lines of the prompts.
    ensemble_line_, calibrated_line_ : matplotlib Line2D or None
        The other lines.
    reference_line_ : matplotlib Line2D
        The diagonal.

    See Also
    --------
    LLMScoreCalibrator : Calibrates the scores.
    skpref.metrics.expected_calibration_error : The distance from the diagonal as a number.
    sklearn.calibration.CalibrationDisplay : The same for one classifier.

    Examples
    --------
    >>> from skpref import LLMScoreCalibrator, ScoreReliabilityDisplay
    >>> from skpref.datasets import make_dialogues
    >>> data = make_dialogues(sharpness=3.0, labelled_fraction=0.5, random_state=0)
    >>> calibrator = LLMScoreCalibrator().fit(data.llm_scores, data.y)
    >>> ScoreReliabilityDisplay.from_estimator(
    ...     calibrator, data.llm_scores, data.y, groups=data.groups
    ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        prompts: Mapping[str, tuple[FloatArray, FloatArray]],
        ensemble: tuple[FloatArray, FloatArray] | None = None,
        calibrated: tuple[FloatArray, FloatArray] | None = None,
        pos_label: Any = None,
    ) -> None:
        self.prompts = prompts
        self.ensemble = ensemble
        self.calibrated = calibrated
        self.pos_label = pos_label

    def plot(self, ax: Any = None, **kwargs: Any) -> "ScoreReliabilityDisplay":
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for all curves.

        Returns
        -------
        ScoreReliabilityDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax, is_ours = _axes(ax, type(self).__name__, (5.2, 5.4))
        (self.reference_line_,) = ax.plot(
            [0, 1], [0, 1], color="black", linestyle=":", linewidth=1, label="perfectly calibrated"
        )

        def draw(curve, **style):
            return ax.plot(*curve, **(style | kwargs))[0]

        # Dashes and greys tell six prompts apart; one entry in the legend stands for more.
        looks = [{"color": c, "linestyle": d} for c in ("0.35", "0.65") for d in ("-", "--", ":")]
        many = len(self.prompts) > len(looks)
        self.prompt_lines_ = [
            draw(curve, linewidth=1.1, label=name, **(looks[-3] if many else looks[p]))
            for p, (name, curve) in enumerate(self.prompts.items())
        ]
        if many:
            self.prompt_lines_[0].set_label(f"{len(self.prompts)} prompts")
        thick = {"linewidth": 2.6, "markersize": 6, "zorder": 3}
        self.ensemble_line_ = self.calibrated_line_ = None
        if self.ensemble is not None:
            style = thick | {"color": _BLUE, "marker": "s", "label": "mean of prompts"}
            self.ensemble_line_ = draw(self.ensemble, **style)
        if self.calibrated is not None:
            style = thick | {"color": _ORANGE, "marker": "o", "label": "calibrated"}
            self.calibrated_line_ = draw(self.calibrated, **style)
        of = "a class", "the class"
        if self.pos_label is not None:
            of = repr(self.pos_label), repr(self.pos_label)
        ax.set(
            xlabel=f"mean probability of {of[0]}",
            ylabel=f"share that people labelled {of[1]}",
            xlim=(-0.02, 1.02),
            ylim=(-0.02, 1.02),
            aspect="equal",
        )
        _style(ax)
        shown = self.prompt_lines_[:1] if many else self.prompt_lines_
        thick_lines = [line for line in (self.ensemble_line_, self.calibrated_line_) if line]
        _add_legend(ax, is_ours, [*thick_lines, *shown, self.reference_line_])
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        calibrator: Any,
        llm_scores: ArrayLike,
        y: ArrayLike,
        *,
        groups: SessionIds | None = None,
        n_bins: int = 10,
        pos_label: Any = None,
        prompt_names: ArrayLike | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "ScoreReliabilityDisplay":
        """Draw a calibrator's scores before and after.

        Parameters
        ----------
        calibrator : LLMScoreCalibrator
            Fitted calibrator.
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
            Raw LLM scores.
        y : array-like of shape (n_samples,)
            Human labels; -1 (numbers), None or NaN marks a row without one.
        groups : array-like of shape (n_samples,), default=None
            Session id of each row, to be given for the rows that the calibrator was fitted on: a
            clone is then fitted anew so that each labelled row is calibrated without the labels of
            its session (`LLMScoreCalibrator.fit_transform`). None takes the calibrator as it is,
            which flatters it on those rows.
        n_bins : int, default=10
            Largest number of bins, of about equally many scores each.
        pos_label : object, default=None
            Class to draw. None draws all classes together, of a binary task the second one.
        prompt_names : array-like of str, shape (n_prompts,), default=None
            Names of the prompts.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for all curves.

        Returns
        -------
        ScoreReliabilityDisplay
            The display.

        Raises
        ------
        ValueError
            If no row is labelled, or scores, labels and classes do not match.
        """
        check_is_fitted(calibrator)
        classes = calibrator.classes_
        if groups is None:
            calibrated = calibrator.transform(llm_scores)
        else:
            again = clone(calibrator).set_params(classes=classes)
            calibrated = again.fit_transform(llm_scores, y, groups=groups)
        return cls.from_predictions(
            y,
            llm_scores,
            calibrated,
            classes=classes,
            n_bins=n_bins,
            pos_label=pos_label,
            prompt_names=prompt_names,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y: ArrayLike,
        llm_scores: ArrayLike,
        calibrated: ArrayLike | None = None,
        *,
        classes: ArrayLike | None = None,
        n_bins: int = 10,
        pos_label: Any = None,
        prompt_names: ArrayLike | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "ScoreReliabilityDisplay":
        """Draw given scores.

        Parameters
        ----------
        y : array-like of shape (n_samples,)
            Human labels; -1 (numbers), None or NaN marks a row without one.
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
            Raw LLM scores. Ratings are standardised first.
        calibrated : array-like of shape (n_samples, n_classes), default=None
            Calibrated probabilities, NaN in rows without any.
        classes : array-like of shape (n_classes,), default=None
            Class labels in the order of the last axis of the scores. None takes the sorted labels
            of `y`.
        n_bins : int, default=10
            Largest number of bins, of about equally many scores each.
        pos_label : object, default=None
            Class to draw. None draws all classes together, of a binary task the second one.
        prompt_names : array-like of str, shape (n_prompts,), default=None
            Names of the prompts.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for all curves.

        Returns
        -------
        ScoreReliabilityDisplay
            The display.

        Raises
        ------
        ValueError
            If no row is labelled, or scores, labels and classes do not match.
        """
        scores, found, codes = _read(llm_scores, y, classes)
        if pos_label is None and len(found) == 2:
            pos_label = found[1].item() if hasattr(found[1], "item") else found[1]
        k = None if pos_label is None else _class_position(pos_label, found)
        labelled = codes >= 0
        if not labelled.any():
            raise ValueError(
                "y has no labelled row, so that scores cannot be compared with labels; pass labels."
            )
        prob = _prompt_probabilities(scores, found)
        names = _check_prompt_names(prompt_names, prob.shape[1])
        curves = {
            name: _reliability(prob[labelled, p], codes[labelled], k, n_bins)
            for p, name in enumerate(names)
            if not np.isnan(prob[labelled, p]).all()
        }
        mean = LLMScoreCalibrator("mean", classes=found).fit_transform(scores)[labelled]
        after = None
        if calibrated is not None:
            table = np.asarray(calibrated, dtype=np.float64)
            if table.shape != (len(codes), len(found)):
                raise ValueError(
                    f"calibrated has shape {table.shape}; pass {(len(codes), len(found))}, one "
                    f"probability for each row and each of the classes {found.tolist()!r}."
                )
            after = _reliability(table[labelled], codes[labelled], k, n_bins)
        display = cls(
            prompts=curves if len(curves) > 1 else {},
            ensemble=_reliability(mean, codes[labelled], k, n_bins),
            calibrated=after,
            pos_label=pos_label,
        )
        return display.plot(ax=ax, **kwargs)


class PreferenceNoiseDisplay:
    """How often scores order two utterances wrongly, by how far apart they put them.

    One line is for pairs within a session, one for pairs across; bands are intervals over
    sessions. It is recommended to make one with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    noise : Bunch
        What `skpref.inspection.preference_noise` returns.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    within_line_, across_line_ : matplotlib Line2D
        The errors.
    within_band_, across_band_ : matplotlib PolyCollection
        Their intervals.
    chance_line_ : matplotlib Line2D
        One half.
    min_margin_line_ : matplotlib Line2D or None
        The suggested `min_margin`, where it is above 0.

    See Also
    --------
    skpref.inspection.preference_noise : The numbers.

    Examples
    --------
    >>> from skpref import PreferenceNoiseDisplay
    >>> from skpref.datasets import make_dialogues
    >>> data = make_dialogues(labelled_fraction=0.5, random_state=0)
    >>> PreferenceNoiseDisplay.from_predictions(
    ...     data.llm_scores, data.y, data.groups, random_state=0
    ... )  # doctest: +SKIP
    """

    def __init__(self, noise: Bunch) -> None:
        self.noise = noise

    def plot(self, ax: Any = None, **kwargs: Any) -> "PreferenceNoiseDisplay":
        """Draw the errors.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for both lines.

        Returns
        -------
        PreferenceNoiseDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax, is_ours = _axes(ax, type(self).__name__, (6.4, 4.4))
        by_gap = self.noise.by_gap

        def draw(name, color, marker):
            label = f"{name} sessions, all gaps: {100 * self.noise[name].error:.1f}% wrong"
            if np.isnan(self.noise[name].error):
                label = f"{name} sessions: no pair"
            style = {"color": color, "marker": marker, "linewidth": 2, "label": label}
            (line,) = ax.plot(by_gap.gap, by_gap[name], **(style | kwargs))
            low, high = by_gap[f"{name}_low"], by_gap[f"{name}_high"]
            band = ax.fill_between(
                by_gap.gap, low, high, color=line.get_color(), alpha=0.18, linewidth=0
            )
            return line, band

        self.within_line_, self.within_band_ = draw("within", _BLUE, "o")
        self.across_line_, self.across_band_ = draw("across", _ORANGE, "s")
        self.chance_line_ = ax.axhline(
            0.5, color="black", linestyle=":", linewidth=1, label="chance"
        )
        self.min_margin_line_ = None
        if self.noise.min_margin > 0:
            self.min_margin_line_ = ax.axvline(
                self.noise.min_margin,
                color=_GREEN,
                linestyle="--",
                linewidth=1.5,
                label=f"suggested min_margin: {self.noise.min_margin:.3g}",
            )
        tops = [0.5, *(np.nanmax(np.r_[0.0, by_gap[f"{n}_high"]]) for n in ("within", "across"))]
        ax.set(
            xlabel="score gap of the pair",
            ylabel="share of pairs in the wrong order",
            ylim=(-0.01, max(tops) * 1.06),
        )
        _style(ax)
        lines = [self.within_line_, self.across_line_, self.chance_line_, self.min_margin_line_]
        _add_legend(ax, is_ours, [line for line in lines if line], n_columns=2)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_predictions(
        cls,
        llm_scores: ArrayLike,
        y: ArrayLike,
        groups: SessionIds,
        *,
        classes: ArrayLike | None = None,
        layout: str = "auto",
        n_gap_bins: int = 10,
        max_pairs: int = 200_000,
        n_bootstrap: int = 200,
        confidence_level: float = 0.95,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "PreferenceNoiseDisplay":
        """Draw the errors of given scores.

        Parameters
        ----------
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes), \
                (n_samples, n_prompts) or (n_samples, n_classes)
            Raw LLM scores, or one score per class; see `skpref.inspection.preference_noise`.
        y : array-like of shape (n_samples,)
            Human labels; -1 (numbers), None or NaN marks a row without one.
        groups : array-like of shape (n_samples,)
            Session id of each row.
        classes : array-like of shape (n_classes,), default=None
            Class labels in the order of the last axis of the scores.
        layout : {"auto", "prompts", "classes"}, default="auto"
            What the columns of two-dimensional scores are.
        n_gap_bins : int, default=10
            Largest number of bins of the score gap.
        max_pairs : int, default=200_000
            Largest number of pairs that the errors are computed from.
        n_bootstrap : int, default=200
            Samples of sessions that the intervals are taken from.
        confidence_level : float, default=0.95
            Share of those samples that an interval covers.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for both lines.

        Returns
        -------
        PreferenceNoiseDisplay
            The display.

        Raises
        ------
        ValueError
            If scores, labels and classes do not match, or fewer than two classes are labelled.
        """
        noise = preference_noise(
            llm_scores,
            y,
            groups,
            classes=classes,
            layout=layout,
            n_gap_bins=n_gap_bins,
            max_pairs=max_pairs,
            n_bootstrap=n_bootstrap,
            confidence_level=confidence_level,
            random_state=random_state,
        )
        return cls(noise).plot(ax=ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        groups: SessionIds,
        *,
        n_gap_bins: int = 10,
        max_pairs: int = 200_000,
        n_bootstrap: int = 200,
        confidence_level: float = 0.95,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "PreferenceNoiseDisplay":
        """Draw the errors of a fitted classifier's probabilities.

        Parameters
        ----------
        estimator : object
            Fitted classifier or pipeline with `predict_proba` and `classes_`.
        X : {array-like, sparse matrix, frame} of shape (n_samples, n_features)
            Rows that it was not trained on.
        y : array-like of shape (n_samples,)
            Human labels; -1 (numbers), None or NaN marks a row without one.
        groups : array-like of shape (n_samples,)
            Session id of each row.
        n_gap_bins : int, default=10
            Largest number of bins of the score gap.
        max_pairs : int, default=200_000
            Largest number of pairs that the errors are computed from.
        n_bootstrap : int, default=200
            Samples of sessions that the intervals are taken from.
        confidence_level : float, default=0.95
            Share of those samples that an interval covers.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for both lines.

        Returns
        -------
        PreferenceNoiseDisplay
            The display.

        Raises
        ------
        ValueError
            If labels and classes do not match, or fewer than two classes are labelled.
        """
        return cls.from_predictions(
            estimator.predict_proba(X),
            y,
            groups,
            classes=estimator.classes_,
            layout="classes",
            n_gap_bins=n_gap_bins,
            max_pairs=max_pairs,
            n_bootstrap=n_bootstrap,
            confidence_level=confidence_level,
            random_state=random_state,
            ax=ax,
            **kwargs,
        )


class TrainingCurveDisplay:
    """Losses of a classifier over its training.

    Fine-tuning minimises another loss than the stage before, so it has an axis of its own, to the
    right. It is recommended to make one with `from_estimator`.

    Parameters
    ----------
    history : list of dict
        Table of losses: stage ("pairs" or "finetune"), epoch, train_loss and, with early stopping,
        valid_loss.
    unit : str, default="epoch"
        What a step of the first stage is.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    finetune_ax_ : matplotlib Axes or None
        Axes of the losses of fine-tuning, where there was any.
    figure_ : matplotlib Figure
        The figure.
    lines_ : dict of {str: matplotlib Line2D}
        Lines by what the legend calls them.

    See Also
    --------
    PairwisePreferenceClassifier : Its ``history_`` is what is drawn.

    Examples
    --------
    >>> from skpref import PairwisePreferenceClassifier, TrainingCurveDisplay
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["no", "no", "yes", "yes"]
    >>> clf = PairwisePreferenceClassifier("linear", random_state=0).fit(X, y)
    >>> TrainingCurveDisplay.from_estimator(clf)  # doctest: +SKIP
    """

    def __init__(self, history: Sequence[Mapping[str, Any]], *, unit: str = "epoch") -> None:
        self.history = history
        self.unit = unit

    def plot(self, ax: Any = None, **kwargs: Any) -> "TrainingCurveDisplay":
        """Draw the losses.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for all lines.

        Returns
        -------
        TrainingCurveDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the history is empty.
        """
        stages = {
            name: [step for step in self.history if step["stage"] == name]
            for name in ("pairs", "finetune")
        }
        if not any(stages.values()):
            raise ValueError(
                "history has no losses to draw; pass the history_ of a fitted "
                "PairwisePreferenceClassifier."
            )
        ax, is_ours = _axes(ax, type(self).__name__, (6.4, 4.0))
        self.lines_: dict[str, Any] = {}
        done = len(stages["pairs"])

        def draw(axes, steps, offset, losses):
            for key, (label, style) in losses.items():
                told = [(i + 1 + offset, s[key]) for i, s in enumerate(steps) if key in s]
                if told:
                    marker = "o" if len(told) <= 12 else None
                    base = {"linewidth": 2, "markersize": 4, "marker": marker, "label": label}
                    (self.lines_[label],) = axes.plot(
                        *zip(*told, strict=True), **(base | style | kwargs)
                    )

        draw(
            ax,
            stages["pairs"],
            0,
            {
                "train_loss": ("stage 1, training", {"color": _BLUE}),
                "valid_loss": (
                    "stage 1, held-out sessions",
                    {"color": _SKY, "linestyle": "--"},
                ),
            },
        )
        _style(ax)
        self.finetune_ax_ = None
        if stages["finetune"]:
            self.finetune_ax_ = ax.twinx()
            fine = {"train_loss": ("fine-tuning", {"color": _ORANGE, "linestyle": "-."})}
            draw(self.finetune_ax_, stages["finetune"], done, fine)
            ax.axvline(done + 0.5, color="0.4", linestyle=":", linewidth=1)
            self.finetune_ax_.set_ylabel("cross-entropy of fine-tuning", color=_ORANGE)
            self.finetune_ax_.tick_params(axis="y", colors=_ORANGE)
            self.finetune_ax_.spines[["top", "left"]].set_visible(False)
        ax.set(xlabel=self.unit, ylabel="loss of stage 1")
        ax.xaxis.get_major_locator().set_params(integer=True)
        # Of two axes on top of each other, the upper one draws over the legend of the lower.
        _add_legend(self.finetune_ax_ or ax, is_ours, list(self.lines_.values()))
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, **kwargs: Any
    ) -> "TrainingCurveDisplay":
        """Draw the losses of a fitted classifier.

        Parameters
        ----------
        estimator : PairwisePreferenceClassifier or Pipeline
            Fitted classifier, or pipeline with one as its last step.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for all lines.

        Returns
        -------
        TrainingCurveDisplay
            The display.

        Raises
        ------
        ValueError
            If the estimator is something else.
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        clf = _last_step(estimator, cls.__name__)
        unit = "iteration of L-BFGS" if clf.solver == "lbfgs" else "epoch"
        return cls(clf.history_, unit=unit).plot(ax=ax, **kwargs)


# Looks of the lines that have a role; other names get what is left.
_ROLES: dict[str, dict[str, Any]] = {
    "LLM": {"color": _GREY, "marker": "s", "linestyle": "--", "linewidth": 1.4},
    "soft label": {"color": _ORANGE, "marker": "^", "linestyle": "-.", "linewidth": 1.8},
    "student": {"color": _BLUE, "marker": "o", "linestyle": "-", "linewidth": 2.4},
}
_OTHERS = [_GREEN, _PURPLE, _SKY, "black"]


class SessionTrajectoryDisplay:
    """Scores of one class along the turns of one session.

    It is recommended to make one with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    turns : ndarray of shape (n_turns,)
        Position of each utterance in its session.
    scores : dict of {str: ndarray of shape (n_turns,)}
        Lines to draw, NaN for a gap. "LLM", "soft label" and "student" have looks of their own.
    is_class : ndarray of shape (n_turns,), default=None
        Whether people gave an utterance the class: 1, 0, or NaN where they did not say.
    texts : list of str, default=None
        What was said, shown below the turns, cut short.
    pos_label : object, default=None
        Name of the class.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    lines_ : dict of {str: matplotlib Line2D}
        Lines by name.
    label_markers_ : dict of {str: matplotlib Line2D}
        Markers of the human labels: "yes" and "no".

    See Also
    --------
    skpref.metrics.within_session_concordance : How well scores order the turns of sessions.

    Examples
    --------
    >>> from skpref import SessionTrajectoryDisplay
    >>> SessionTrajectoryDisplay.from_predictions(
    ...     None, {"student": [0.1, 0.3, 0.8]}, ["calm", "calm", "angry"], pos_label="angry"
    ... )  # doctest: +SKIP
    """

    def __init__(
        self,
        turns: np.ndarray,
        scores: Mapping[str, FloatArray],
        *,
        is_class: FloatArray | None = None,
        texts: Sequence[str] | None = None,
        pos_label: Any = None,
    ) -> None:
        self.turns = turns
        self.scores = scores
        self.is_class = is_class
        self.texts = texts
        self.pos_label = pos_label

    def plot(self, ax: Any = None, **kwargs: Any) -> "SessionTrajectoryDisplay":
        """Draw the scores.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for all lines.

        Returns
        -------
        SessionTrajectoryDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        n_turns = len(self.turns)
        size = (min(max(6.4, 0.32 * n_turns), 14.0), 5.2 if self.texts is not None else 4.0)
        ax, is_ours = _axes(ax, type(self).__name__, size)
        order = np.argsort(self.turns, kind="stable")
        turns = self.turns[order]
        others = iter(_OTHERS * (1 + len(self.scores) // len(_OTHERS)))
        self.lines_ = {}
        for name, score in self.scores.items():
            look = _ROLES.get(name) or {"color": next(others), "marker": ".", "linewidth": 1.6}
            style = {"label": name, "markersize": 5 if n_turns <= 40 else 0} | look | kwargs
            (self.lines_[name],) = ax.plot(turns, score[order], **style)
        self._mark_labels(ax, turns, order)
        what = "the class" if self.pos_label is None else f"{self.pos_label!r}"
        ax.set(xlabel="turn", ylabel=f"score of {what}")
        self._set_ticks(ax, turns, order)
        _style(ax)
        marked = [m for m in self.label_markers_.values() if len(m.get_xdata())]
        _add_legend(ax, is_ours, [*self.lines_.values(), *marked])
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _mark_labels(self, ax, turns, order):
        """Put a marker above the turns that are of the class, and one below the others."""
        values = np.concatenate([[0.0, 1.0], *self.scores.values()])
        low, high = np.nanmin(values), np.nanmax(values)
        room = 0.08 * (high - low)
        ax.set_ylim(low - 1.6 * room, high + 1.6 * room)
        self.label_markers_ = {}
        if self.is_class is None:
            return
        known = self.is_class[order]
        for name, wanted, at, face in (("yes", 1, high, "black"), ("no", 0, low, "white")):
            at = at + room if wanted else at - room
            chosen = turns[known == wanted]
            told = "is" if wanted else "is not"
            what = "the class" if self.pos_label is None else f"{self.pos_label!r}"
            (self.label_markers_[name],) = ax.plot(
                chosen,
                np.full(len(chosen), at),
                linestyle="",
                marker="D",
                markersize=5,
                color="black",
                markerfacecolor=face,
                label=f"people: {told} {what}",
            )

    def _set_ticks(self, ax, turns, order):
        ax.xaxis.get_major_locator().set_params(integer=True)
        if self.texts is None:
            return
        texts = [textwrap.shorten(self.texts[i], 28, placeholder=" …") for i in order]
        names = [f"{text}  {turn}" for turn, text in zip(turns.tolist(), texts, strict=True)]
        # Slanted up to the tick; a $ would begin a formula.
        names = [name.replace("$", r"\$") for name in names]
        ax.set_xticks(turns, names, rotation=50, ha="right", rotation_mode="anchor", fontsize=8)

    @classmethod
    def from_predictions(
        cls,
        turns: ArrayLike | None,
        scores: Mapping[str, ArrayLike],
        y: ArrayLike | None = None,
        *,
        texts: Sequence[str] | None = None,
        pos_label: Any = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "SessionTrajectoryDisplay":
        """Draw given scores.

        Parameters
        ----------
        turns : array-like of shape (n_turns,) or None
            Position of each utterance. None counts from 0.
        scores : dict of {str: array-like of shape (n_turns,)}
            Lines to draw: scores of one class by several models, NaN for a gap.
        y : array-like of shape (n_turns,), default=None
            Human labels; -1 (numbers), None or NaN marks a turn without one.
        texts : sequence of str of length n_turns, default=None
            What was said.
        pos_label : object, default=None
            The class that the scores are of; needed with `y`. Of the labels 0 and 1 it is 1.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for all lines.

        Returns
        -------
        SessionTrajectoryDisplay
            The display.

        Raises
        ------
        ValueError
            If there is no line, lengths differ, or `pos_label` is missing.
        """
        if not scores:
            raise ValueError(
                'scores={} has no line to draw; pass for example {"student": proba[:, 1]}.'
            )
        lines = {
            name: column_or_1d(np.asarray(score, dtype=np.float64))
            for name, score in scores.items()
        }
        n_turns = len(next(iter(lines.values())))
        lengths = {f"scores[{name!r}]": len(line) for name, line in lines.items()}
        given_too = {"y": y, "texts": texts, "turns": turns}
        lengths |= {
            k: len(np.asarray(v, dtype=object)) for k, v in given_too.items() if v is not None
        }
        wrong = {name: length for name, length in lengths.items() if length != n_turns}
        if wrong:
            name, length = next(iter(wrong.items()))
            raise ValueError(
                f"{name} has {length} entries but {next(iter(lengths))} has {n_turns}; pass one "
                "per turn of the session."
            )
        is_class = None
        if y is not None:
            found, codes = check_labels(y, partial=True)
            if pos_label is None and set(found.tolist()) <= {0, 1}:
                pos_label = 1
            if pos_label is None:
                raise ValueError(
                    f"pos_label=None but y has the labels {found.tolist()!r}; pass the class that "
                    "the scores are of."
                )
            is_pos = [c >= 0 and found.tolist()[c] == pos_label for c in codes]
            is_class = np.where(codes < 0, np.nan, np.array(is_pos, dtype=np.float64))
        at = np.arange(n_turns) if turns is None else column_or_1d(np.asarray(turns))
        given = None if texts is None else [str(text) for text in texts]
        display = cls(at, lines, is_class=is_class, texts=given, pos_label=pos_label)
        return display.plot(ax=ax, **kwargs)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        y: ArrayLike | None = None,
        llm_scores: ArrayLike | None = None,
        soft_labels: ArrayLike | None = None,
        turns: ArrayLike | None = None,
        texts: Sequence[str] | None = None,
        pos_label: Any = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "SessionTrajectoryDisplay":
        """Draw a fitted classifier's probabilities along one session.

        Parameters
        ----------
        estimator : object
            Fitted classifier or pipeline with `predict_proba` and `classes_`.
        X : {array-like, sparse matrix, frame} of shape (n_turns, n_features)
            Rows of one session.
        y : array-like of shape (n_turns,), default=None
            Human labels; -1 (numbers), None or NaN marks a turn without one.
        llm_scores : array-like of shape (n_turns, n_prompts, n_classes) or \
                (n_turns, n_prompts), default=None
            Raw LLM scores of the session: probabilities, log-odds or ratings. Their mean over
            prompts is drawn as "LLM".
        soft_labels : array-like of shape (n_turns, n_classes), default=None
            Calibrated and smoothed scores: the rows of the session of a classifier's
            ``soft_labels_``.
        turns : array-like of shape (n_turns,), default=None
            Position of each utterance. None counts from 0.
        texts : sequence of str of length n_turns, default=None
            What was said.
        pos_label : object, default=None
            The class to draw. None takes the last one.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for all lines.

        Returns
        -------
        SessionTrajectoryDisplay
            The display.

        Raises
        ------
        ValueError
            If `pos_label` is no class, or lengths differ.
        """
        classes = np.asarray(estimator.classes_)
        k = _class_position(pos_label, classes)
        lines: dict[str, FloatArray] = {}
        student = np.asarray(estimator.predict_proba(X))[:, k]
        if llm_scores is not None:
            raw = check_llm_scores(llm_scores, len(student))
            lines["LLM"] = LLMScoreCalibrator("mean", classes=classes).fit_transform(raw)[:, k]
        if soft_labels is not None:
            lines["soft label"] = np.asarray(soft_labels, dtype=np.float64)[:, k]
        lines["student"] = student
        return cls.from_predictions(
            turns, lines, y, texts=texts, pos_label=classes.tolist()[k], ax=ax, **kwargs
        )
