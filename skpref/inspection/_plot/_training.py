"""Draw the losses of a classifier over its training."""

from collections.abc import Mapping, Sequence
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skpref._student._base import BasePreferenceClassifier
from skpref.inspection._plot._style import BLUE, ORANGE, SKY, add_legend, get_axes, style_axes


def _last_step(estimator: Any, name: str) -> BasePreferenceClassifier:
    """Give the classifier at the end of a pipeline."""
    step = estimator
    while isinstance(step, Pipeline):
        step = step.steps[-1][1]
    if not isinstance(step, BasePreferenceClassifier):
        raise ValueError(
            f"estimator={estimator!r:.200} must be a PairwisePreferenceClassifier, or a Pipeline "
            f"whose last step is one, but that is a {type(step).__name__}; {name} draws no other."
        )
    check_is_fitted(step)
    return step


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
        ax, is_ours = get_axes(ax, type(self).__name__, (6.4, 4.0))
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
            draw(self.finetune_ax_, stages["finetune"], done, fine)
            ax.axvline(done + 0.5, color="0.4", linestyle=":", linewidth=1)
            self.finetune_ax_.set_ylabel("cross-entropy of fine-tuning", color=ORANGE)
            self.finetune_ax_.tick_params(axis="y", colors=ORANGE)
            self.finetune_ax_.spines[["top", "left"]].set_visible(False)
        ax.set(xlabel=self.unit, ylabel="loss of stage 1")
        ax.xaxis.get_major_locator().set_params(integer=True)
        # Of two axes on top of each other, the upper one draws over the legend of the lower.
        add_legend(self.finetune_ax_ or ax, is_ours, list(self.lines_.values()))
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
