"""Draw the share of pairs that scores order wrongly."""

from typing import Any

import numpy as np
from sklearn.utils import Bunch

from skpref._typing import ArrayLike, SessionIds
from skpref.inspection._noise import preference_noise
from skpref.inspection._plot._style import BLUE, GREEN, ORANGE, add_legend, get_axes, style_axes


class PreferenceNoiseDisplay:
    """Share of pairs that scores order wrongly, by the score gap of the pair.

    One line is for pairs within a session, one for pairs across sessions; bands are intervals
    over sessions. Use `from_estimator` or `from_predictions` to make a display.

    Parameters
    ----------
    noise : Bunch
        Result of `skpref.inspection.preference_noise`.

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
        The suggested `min_margin`; None if it is not above 0.

    See Also
    --------
    skpref.inspection.preference_noise : Computes the errors.

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
        ax, is_new = get_axes(ax, type(self).__name__, (6.4, 4.4))
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

        self.within_line_, self.within_band_ = draw("within", BLUE, "o")
        self.across_line_, self.across_band_ = draw("across", ORANGE, "s")
        self.chance_line_ = ax.axhline(
            0.5, color="black", linestyle=":", linewidth=1, label="chance"
        )
        self.min_margin_line_ = None
        if self.noise.min_margin > 0:
            self.min_margin_line_ = ax.axvline(
                self.noise.min_margin,
                color=GREEN,
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
        style_axes(ax)
        lines = [self.within_line_, self.across_line_, self.chance_line_, self.min_margin_line_]
        add_legend(ax, is_new, [line for line in lines if line], n_columns=2)
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
            Human labels; -1 (numbers), None or NaN marks an unlabelled row.
        groups : array-like of shape (n_samples,)
            Session id of each row.
        classes : array-like of shape (n_classes,), default=None
            Class labels in the order of the last axis of the scores.
        layout : {"auto", "prompts", "classes"}, default="auto"
            Meaning of the columns of two-dimensional scores.
        n_gap_bins : int, default=10
            Maximum number of bins of the score gap.
        max_pairs : int, default=200_000
            Maximum number of pairs from which the errors are computed.
        n_bootstrap : int, default=200
            Number of bootstrap samples of the sessions.
        confidence_level : float, default=0.95
            Share of the bootstrap samples that an interval covers.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.
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
            Rows that the estimator was not trained on.
        y : array-like of shape (n_samples,)
            Human labels; -1 (numbers), None or NaN marks an unlabelled row.
        groups : array-like of shape (n_samples,)
            Session id of each row.
        n_gap_bins : int, default=10
            Maximum number of bins of the score gap.
        max_pairs : int, default=200_000
            Maximum number of pairs from which the errors are computed.
        n_bootstrap : int, default=200
            Number of bootstrap samples of the sessions.
        confidence_level : float, default=0.95
            Share of the bootstrap samples that an interval covers.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.
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
