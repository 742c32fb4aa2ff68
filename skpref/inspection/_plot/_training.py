"""Draw the losses of a classifier over its training."""

from collections.abc import Mapping, Sequence
from typing import Any

from sklearn.utils.validation import check_is_fitted

from skpref.inspection._pipeline import find_classifier, trains_by_lbfgs
from skpref.inspection._plot._style import BLUE, ORANGE, SKY, add_legend, get_axes, style_axes


class TrainingCurveDisplay:
    """Losses of a classifier over its training.

    Fine-tuning minimises another loss than stage 1, so it has a second axis, on the right. Use
    `from_estimator` to make a display.

    Parameters
    ----------
    history : list of dict
        Table of losses: stage ("pairs" or "finetune"), epoch, train_loss and, with early stopping,
        valid_loss.
    unit : str, default="epoch"
        Name of a step of stage 1: the label of the x-axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    finetune_ax_ : matplotlib Axes or None
        Axes of the losses of fine-tuning; None if there was no fine-tuning.
    figure_ : matplotlib Figure
        The figure.
    lines_ : dict of {str: matplotlib Line2D}
        Lines by their names in the legend.

    See Also
    --------
    PairwisePreferenceClassifier : Records the losses in ``history_``.

    Examples
    --------
    >>> from skpref import PairwisePreferenceClassifier, TrainingCurveDisplay
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["no", "no", "yes", "yes"]
    >>> clf = PairwisePreferenceClassifier(random_state=0).fit(X, y)
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
        ax, is_new = get_axes(ax, type(self).__name__, (6.4, 4.0))
        self.lines_: dict[str, Any] = {}
        n_steps = len(stages["pairs"])

        def draw(axes, steps, offset, losses):
            for key, (label, style) in losses.items():
                curve = [(i + 1 + offset, s[key]) for i, s in enumerate(steps) if key in s]
                if curve:
                    marker = "o" if len(curve) <= 12 else None
                    base = {"linewidth": 2, "markersize": 4, "marker": marker, "label": label}
                    (self.lines_[label],) = axes.plot(
                        *zip(*curve, strict=True), **(base | style | kwargs)
                    )

        draw(
            ax,
            stages["pairs"],
            0,
            {
                "train_loss": ("stage 1, training", {"color": BLUE}),
                "valid_loss": (
                    "stage 1, held-out sessions",
                    {"color": SKY, "linestyle": "--"},
                ),
            },
        )
        style_axes(ax)
        self.finetune_ax_ = None
        if stages["finetune"]:
            self.finetune_ax_ = ax.twinx()
            fine = {"train_loss": ("fine-tuning", {"color": ORANGE, "linestyle": "-."})}
            draw(self.finetune_ax_, stages["finetune"], n_steps, fine)
            ax.axvline(n_steps + 0.5, color="0.4", linestyle=":", linewidth=1)
            self.finetune_ax_.set_ylabel("cross-entropy of fine-tuning", color=ORANGE)
            self.finetune_ax_.tick_params(axis="y", colors=ORANGE)
            self.finetune_ax_.spines[["top", "left"]].set_visible(False)
        ax.set(xlabel=self.unit, ylabel="loss of stage 1")
        ax.xaxis.get_major_locator().set_params(integer=True)
        # The upper of two axes in one place draws over the legend of the lower.
        add_legend(self.finetune_ax_ or ax, is_new, list(self.lines_.values()))
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
            If the last step of the estimator is something else.
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        """
        _, classifier = find_classifier(estimator)
        check_is_fitted(classifier)
        unit = "iteration of L-BFGS" if trains_by_lbfgs(classifier) else "epoch"
        return cls(classifier.history_, unit=unit).plot(ax=ax, **kwargs)
