"""Put results in words and tables."""

from collections.abc import Sequence

import numpy as np

from skpref.inspection._bootstrap import FEW_SESSIONS, MIN_SESSIONS


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def format_table(header: list[str], lines: list[list[str]]) -> str:
    """Plain table: the first column to the left, the others to the right."""
    cells = [header, *lines]
    widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def join_names(names: Sequence[str] | np.ndarray) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def format_interval(value: float, low: float, high: float, digits: str) -> str:
    shown = f"{value:{digits}}"
    return shown if np.isnan(low) else f"{shown} ({low:{digits}} to {high:{digits}})"


def caution_if_few(n_sessions: int) -> list[str]:
    if not MIN_SESSIONS <= n_sessions < FEW_SESSIONS:
        return []
    return [f"From {n_sessions} sessions intervals come out too narrow: take them with caution."]
