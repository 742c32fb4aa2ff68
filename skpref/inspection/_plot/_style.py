"""Axes, legends and colours that the displays share."""

from collections.abc import Sequence
from typing import Any

import numpy as np

# Okabe and Ito's colours, which colour-blind people tell apart, and which differ in lightness.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
GREY = "0.5"


def get_axes(ax: Any, name: str, figsize: tuple[float, float]) -> tuple[Any, bool]:
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


def add_legend(ax: Any, is_ours: bool, handles: Sequence[Any], n_columns: int = 3) -> None:
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


def style_axes(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)


def class_position(pos_label: Any, classes: np.ndarray) -> int:
    """Column of a class; of the last one for None."""
    known = classes.tolist()
    if pos_label is None:
        return len(known) - 1
    if pos_label not in known:
        raise ValueError(f"pos_label={pos_label!r} is not a class; pass one of {known!r}.")
    return known.index(pos_label)
