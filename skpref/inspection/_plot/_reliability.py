"""Draw how well scores are calibrated."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds
from skpref._validation import read_numbers
from skpref.inspection._plot._style import (
    BLUE,
    ORANGE,
    add_legend,
    class_position,
    get_axes,
    style_axes,
)
from skpref.inspection._scores import (
    assign_bins,
    check_prompt_names,
    mean_probabilities,
    prompt_probabilities,
    quantile_edges,
    read_scores,
)


class _Curve(NamedTuple):
    """Mean probability and observed share in each bin."""

    prob_pred: FloatArray
    prob_true: FloatArray


def _reliability(prob: FloatArray, codes: IntArray, k: int | None, n_bins: int) -> _Curve:
    """Bin the probabilities of one class, or of all, by quantiles."""
    has_prob = ~np.isnan(prob[:, 0])
    hit = codes[has_prob, None] == np.arange(prob.shape[1])
    prob = prob[has_prob]
    prob, hit = (prob.ravel(), hit.ravel()) if k is None else (prob[:, k], hit[:, k])
    bins = assign_bins(prob, quantile_edges(prob, n_bins))
    count = np.bincount(bins)
    count = np.where(count, count, np.nan)
    prob_pred, prob_true = np.bincount(bins, prob) / count, np.bincount(bins, hit) / count
    filled = ~np.isnan(prob_pred)
    return _Curve(prob_pred[filled], prob_true[filled])


class ScoreReliabilityDisplay:
    """Reliability diagram of LLM scores, before and after calibration.

    Each line connects bins with about equal numbers of scores: horizontally the mean probability,
    vertically the share of these utterances that people gave the class. Below the diagonal the LLM
    is overconfident. Use `from_estimator` or `from_predictions` to make a display.

    Parameters
    ----------
    prompts : dict of {str: (prob_pred, prob_true)}
        Curve of each prompt; two ndarrays of shape (n_bins,) each.
    ensemble : tuple of (prob_pred, prob_true), default=None
        Curve of the mean over prompts.
    calibrated : tuple of (prob_pred, prob_true), default=None
        Curve of the calibrated scores.
    pos_label : object, default=None
        Class of the curves; None for all classes together.

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
    skpref.metrics.expected_calibration_error : Mean distance from the diagonal.
    sklearn.calibration.CalibrationDisplay : Reliability diagram of a classifier.

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
        ax, is_new = get_axes(ax, type(self).__name__, (5.2, 5.4))
        (self.reference_line_,) = ax.plot(
            [0, 1], [0, 1], color="black", linestyle=":", linewidth=1, label="perfectly calibrated"
        )

        def draw(curve, **style):
            return ax.plot(*curve, **(style | kwargs))[0]

        # Dashes and greys distinguish six prompts; more share one entry in the legend.
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
            style = thick | {"color": BLUE, "marker": "s", "label": "mean of prompts"}
            self.ensemble_line_ = draw(self.ensemble, **style)
        if self.calibrated is not None:
            style = thick | {"color": ORANGE, "marker": "o", "label": "calibrated"}
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
        style_axes(ax)
        shown = self.prompt_lines_[:1] if many else self.prompt_lines_
        thick_lines = [line for line in (self.ensemble_line_, self.calibrated_line_) if line]
        add_legend(ax, is_new, [*thick_lines, *shown, self.reference_line_])
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
        """Draw scores before and after a fitted calibrator.

        Parameters
        ----------
        calibrator : LLMScoreCalibrator
            Fitted calibrator.
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
            Raw LLM scores.
        y : array-like of shape (n_samples,)
            Human labels; -1 (numbers), None or NaN marks an unlabelled row.
        groups : array-like of shape (n_samples,), default=None
            Session id of each row. Pass it if the rows are those that the calibrator was fitted
            on: a clone is then fitted again, so that each labelled row is calibrated without the
            labels of its session (`LLMScoreCalibrator.fit_transform`). None uses the calibrator as
            it is, which overstates its quality on those rows.
        n_bins : int, default=10
            Maximum number of bins, with about equal numbers of scores.
        pos_label : object, default=None
            Class to draw. None draws all classes together; for two classes, the second one.
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
        classes = calibrator._classes_as_given()
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
            Human labels; -1 (numbers), None or NaN marks an unlabelled row.
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
            Raw LLM scores. Ratings are standardised first.
        calibrated : array-like of shape (n_samples, n_classes), default=None
            Calibrated probabilities, NaN in rows that have none. The columns are those of the
            sorted classes, as a calibrator gives them.
        classes : array-like of shape (n_classes,), default=None
            Class labels in the order of the last axis of the scores. None takes the sorted labels
            of `y`.
        n_bins : int, default=10
            Maximum number of bins, with about equal numbers of scores.
        pos_label : object, default=None
            Class to draw. None draws all classes together; for two classes, the second one.
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
        scores, class_labels, codes = read_scores(llm_scores, y, classes)
        if pos_label is None and len(class_labels) == 2:
            pos_label = class_labels.tolist()[1]
        k = None if pos_label is None else class_position(pos_label, class_labels)
        labelled = codes >= 0
        if not labelled.any():
            raise ValueError(
                "y has no labelled row, so scores cannot be compared with labels; pass labels."
            )
        prob = prompt_probabilities(scores, class_labels)
        names = check_prompt_names(prompt_names, prob.shape[1])
        curves = {
            name: _reliability(prob[labelled, p], codes[labelled], k, n_bins)
            for p, name in enumerate(names)
            if not np.isnan(prob[labelled, p]).all()
        }
        mean = mean_probabilities(scores, class_labels)[labelled]
        after = None
        if calibrated is not None:
            table = read_numbers(calibrated, "calibrated")
            shape = (len(codes), len(class_labels))
            if table.shape != shape:
                raise ValueError(
                    f"calibrated has shape {table.shape}; pass {shape}, one "
                    f"probability for each row and each of the classes {class_labels.tolist()!r}."
                )
            after = _reliability(table[labelled], codes[labelled], k, n_bins)
        display = cls(
            prompts=curves if len(curves) > 1 else {},
            ensemble=_reliability(mean, codes[labelled], k, n_bins),
            calibrated=after,
            pos_label=pos_label,
        )
        return display.plot(ax=ax, **kwargs)
