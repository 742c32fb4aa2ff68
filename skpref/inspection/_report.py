"""Put results into words and tables."""

from collections.abc import Sequence

import numpy as np

from skpref.inspection._bootstrap import FEW_SESSIONS, MIN_SESSIONS


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.1f}%"


def points(value: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def format_interval(value: float, low: float, high: float, digits: str) -> str:
    """Return "value (low to high)", or the value alone if there is no interval."""
    text = f"{value:{digits}}"
    return text if np.isnan(low) else f"{text} ({low:{digits}} to {high:{digits}})"


def format_table(header: list[str], lines: list[list[str]]) -> str:
    """Return a plain table: first column aligned to the left, the others to the right."""
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
    """Return names as "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def caution_if_few(n_sessions: int) -> list[str]:
    """Return the sentence to add if intervals from so few sessions are too narrow."""
    if not MIN_SESSIONS <= n_sessions < FEW_SESSIONS:
        return []
    return [f"Intervals from {n_sessions} sessions are too narrow: read them with caution."]
