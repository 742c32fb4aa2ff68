"""Axes, legends and colours that the displays share."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skpref._optional import import_optional

# Okabe and Ito's colours: distinct to colour-blind people, and of different lightness.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
GREY = "0.5"


def get_axes(ax: Any, name: str, figsize: tuple[float, float]) -> tuple[Any, bool]:
    """Return the axes to draw on, and whether they are in a new figure of this display."""
    import_optional("matplotlib", name, "plot")
    if ax is not None:
        return ax, False
    pyplot = import_optional("matplotlib.pyplot", name, "plot")
    _, ax = pyplot.subplots(figsize=figsize, layout="constrained")
    return ax, True


def add_legend(ax: Any, is_new: bool, handles: Sequence[Any], n_columns: int = 3) -> None:
    """Put the legend below the axes, off the data, if the layout makes room for it."""
    look = {"handles": handles, "ncols": min(n_columns, len(handles)), "frameon": False}
    if is_new:
        ax.figure.legend(loc="outside lower center", **look)
    elif ax.figure.get_layout_engine() is not None and not _has_long_ticks(ax):
        from matplotlib.transforms import ScaledTranslation

        # Below the ticks and the label of the x-axis, for axes of any size.
        below = ScaledTranslation(0, -36 / 72, ax.figure.dpi_scale_trans)
        anchor = {"bbox_to_anchor": (0.5, 0), "bbox_transform": ax.transAxes + below}
        ax.legend(loc="upper center", fontsize="small", **(look | {"ncols": 2} | anchor))
    else:
        ax.legend(handles=handles, loc="best", fontsize="small")


def _has_long_ticks(ax: Any) -> bool:
    return any(label.get_rotation() for label in ax.get_xticklabels())


def style_axes(ax: Any) -> None:
    """Remove the frame on two sides and draw a light grid below the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)


def class_position(pos_label: Any, classes: np.ndarray) -> int:
    """Return the column of a class; None means the last one."""
    labels = classes.tolist()
    if pos_label is None:
        return len(labels) - 1
    if pos_label not in labels:
        raise ValueError(f"pos_label={pos_label!r} is not a class; pass one of {labels!r}.")
    return labels.index(pos_label)
