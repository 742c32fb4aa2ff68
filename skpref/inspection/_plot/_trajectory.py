"""Draw scores along a session."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import column_or_1d

from skpref._columns import read_column
from skpref._typing import ArrayLike, FloatArray
from skpref._validation import check_labels, check_llm_scores, read_numbers, score_order
from skpref.inspection._plot._style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    add_legend,
    class_position,
    get_axes,
    style_axes,
)
from skpref.inspection._scores import mean_probabilities

# Styles of the lines that have a role; other lines get the remaining colours.
_ROLES: dict[str, dict[str, Any]] = {
    "LLM": {"color": GREY, "marker": "s", "linestyle": "--", "linewidth": 1.4},
    "soft label": {"color": ORANGE, "marker": "^", "linestyle": "-.", "linewidth": 1.8},
    "student": {"color": BLUE, "marker": "o", "linestyle": "-", "linewidth": 2.4},
}
_OTHERS = [GREEN, PURPLE, SKY, "black"]


def _check_lengths(lines: Mapping[str, FloatArray], optional: Mapping[str, Any]) -> int:
    """Return the number of utterances, the same in all that is given."""
    lengths = {f"scores[{name!r}]": len(line) for name, line in lines.items()}
    lengths |= {name: len(values) for name, values in optional.items() if values is not None}
    first, n_turns = next(iter(lengths.items()))
    for name, length in lengths.items():
        if length != n_turns:
            raise ValueError(
                f"{name} has {length} entries but {first} has {n_turns}; pass one per utterance of "
                "the session."
            )
    return n_turns


def _compare_labels(y: ArrayLike, pos_label: Any) -> tuple[FloatArray, Any]:
    """Return whether each label is the class (NaN if unlabelled), and the class."""
    labels, codes = check_labels(y, partial=True)
    if pos_label is None and set(labels.tolist()) <= {0, 1}:
        pos_label = 1
    if pos_label is None:
        raise ValueError(
            f"pos_label=None but y has the labels {labels.tolist()!r}; pass the class of the "
            "scores."
        )
    is_pos = [c >= 0 and labels.tolist()[c] == pos_label for c in codes]
    return np.where(codes < 0, np.nan, np.array(is_pos, dtype=np.float64)), pos_label


def _classes_of_scores(estimator: Any) -> Any:
    """Return the parameter `classes` of a classifier, or of the last step of a pipeline."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return getattr(estimator, "classes", None)


class SessionTrajectoryDisplay:
    """Scores of one class along one session.

    Use `from_estimator` or `from_predictions` to make a display.

    Parameters
    ----------
    turns : ndarray of shape (n_turns,)
        Position of each utterance in its session.
    scores : dict of {str: ndarray of shape (n_turns,)}
        Lines to draw, NaN for a gap. "LLM", "soft label" and "student" have fixed styles.
    is_class : ndarray of shape (n_turns,), default=None
        Whether people gave an utterance the class: 1, 0, or NaN if it is unlabelled.
    texts : list of str, default=None
        Text of each utterance, shown shortened below the x-axis.
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
    skpref.metrics.within_session_concordance : Share of pairs that scores order rightly.

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
        ax, is_new = get_axes(ax, type(self).__name__, size)
        order = np.argsort(self.turns, kind="stable")
        turns = self.turns[order]
        others = iter(_OTHERS * (1 + len(self.scores) // len(_OTHERS)))
        self.lines_ = {}
        for name, score in self.scores.items():
            look = _ROLES.get(name) or {"color": next(others), "marker": ".", "linewidth": 1.6}
            style = {"label": name, "markersize": 5 if n_turns <= 40 else 0} | look | kwargs
            (self.lines_[name],) = ax.plot(turns, score[order], **style)
        self._mark_labels(ax, turns, order)
        name_of_class = "the class" if self.pos_label is None else f"{self.pos_label!r}"
        ax.set(xlabel="turn", ylabel=f"score of {name_of_class}")
        self._set_ticks(ax, turns, order)
        style_axes(ax)
        marked = [m for m in self.label_markers_.values() if len(m.get_xdata())]
        add_legend(ax, is_new, [*self.lines_.values(), *marked])
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _mark_labels(self, ax, turns, order):
        """Put a marker above the utterances of the class, and below the others."""
        values = np.concatenate([[0.0, 1.0], *self.scores.values()])
        low, high = np.nanmin(values), np.nanmax(values)
        room = 0.08 * (high - low)
        ax.set_ylim(low - 1.6 * room, high + 1.6 * room)
        self.label_markers_ = {}
        if self.is_class is None:
            return
        is_class = self.is_class[order]
        for name, wanted, at, face in (("yes", 1, high, "black"), ("no", 0, low, "white")):
            at = at + room if wanted else at - room
            chosen = turns[is_class == wanted]
            verb = "is" if wanted else "is not"
            name_of_class = "the class" if self.pos_label is None else f"{self.pos_label!r}"
            (self.label_markers_[name],) = ax.plot(
                chosen,
                np.full(len(chosen), at),
                linestyle="",
                marker="D",
                markersize=5,
                color="black",
                markerfacecolor=face,
                label=f"people: {verb} {name_of_class}",
            )

    def _set_ticks(self, ax, turns, order):
        ax.xaxis.get_major_locator().set_params(integer=True)
        if self.texts is None:
            return
        texts = [textwrap.shorten(self.texts[i], 28, placeholder=" …") for i in order]
        names = [f"{text}  {turn}" for turn, text in zip(turns.tolist(), texts, strict=True)]
        # Slanted, ending at the tick. An unescaped $ would begin a formula.
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
            Human labels; -1 (numbers), None or NaN marks an unlabelled utterance.
        texts : sequence of str of length n_turns, default=None
            Text of each utterance.
        pos_label : object, default=None
            Class of the scores; needed with `y`, unless the labels are 0 and 1 (then 1).
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
            name: column_or_1d(read_numbers(score, f"scores[{name!r}]").astype(np.float64))
            for name, score in scores.items()
        }
        is_class = None
        if y is not None:
            is_class, pos_label = _compare_labels(y, pos_label)
        given_texts = None if texts is None else read_column(texts, "texts", entry="text")
        given_turns = None if turns is None else read_column(turns, "turns", entry="turn number")
        n_turns = _check_lengths(lines, {"y": is_class, "texts": given_texts, "turns": given_turns})
        display = cls(
            np.arange(n_turns) if given_turns is None else given_turns,
            lines,
            is_class=is_class,
            texts=None if given_texts is None else list(map(str, given_texts.tolist())),
            pos_label=pos_label,
        )
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
            Human labels; -1 (numbers), None or NaN marks an unlabelled utterance.
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
            Text of each utterance.
        pos_label : object, default=None
            Class to draw. None takes the last one.
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
        k = class_position(pos_label, classes)
        lines: dict[str, FloatArray] = {}
        prob = np.asarray(estimator.predict_proba(X))[:, k]
        if llm_scores is not None:
            raw = check_llm_scores(llm_scores, len(prob))
            order = score_order(classes, _classes_of_scores(estimator), len(classes))
            lines["LLM"] = mean_probabilities(raw, order.as_given)[:, k]
        if soft_labels is not None:
            lines["soft label"] = read_numbers(soft_labels, "soft_labels")[:, k]
        lines["student"] = prob
        return cls.from_predictions(
            turns, lines, y, texts=texts, pos_label=classes.tolist()[k], ax=ax, **kwargs
        )
