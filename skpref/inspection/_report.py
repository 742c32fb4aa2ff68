"""Put results into words and tables."""

import textwrap
from collections.abc import Sequence
from html import escape

import numpy as np

from skpref._results import Table, columns_of_words
from skpref.inspection._bootstrap import FEW_SESSIONS, MIN_SESSIONS

_LINE_LENGTH = 88
# Colours are those of the page, and lines are grey, so that it reads well in light and dark mode.
_STYLE = """<style>
.skpref-report {color: inherit; background: transparent; max-width: 100%; overflow-x: auto}
.skpref-report p {max-width: 50em; margin: 0 0 .7em; line-height: 1.4}
.skpref-report table {border-collapse: collapse; border: none; color: inherit; font-size: .92em}
.skpref-report tr {background: transparent}
.skpref-report th, .skpref-report td {color: inherit; background: transparent; border: none;
  border-bottom: 1px solid rgba(128, 128, 128, .35); padding: .25em .8em; text-align: right;
  vertical-align: top; font-variant-numeric: tabular-nums}
.skpref-report th {font-weight: 600}
.skpref-report thead th {border-bottom: 2px solid rgba(128, 128, 128, .7)}
.skpref-report .words {text-align: left}
</style>"""


class Report(Table):
    """Result of an inspection: its fields, a message in plain words, and a table.

    It prints as the message and the table, and a notebook shows both as HTML. Fields can be read
    as attributes and as keys.

    Parameters
    ----------
    header : list of str
        Column names of the table.
    lines : list of list of str
        Lines of the table as they are shown.
    **fields : dict
        The other fields, `message` among them.
    """

    def __str__(self) -> str:
        return f"{textwrap.fill(self.message, _LINE_LENGTH)}\n\n{self.summary}"

    def _repr_html_(self) -> str:
        header, *lines = self.__dict__["_cells"]
        of_words = columns_of_words(header, lines)
        rows = [_html_row(line, of_words, "td") for line in lines if any(line)]
        return (
            f'{_STYLE}<div class="skpref-report"><p>{escape(self.message)}</p><table>'
            f"<thead>{_html_row(header, of_words, 'th')}</thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )


def _html_row(cells: list[str], of_words: list[bool], tag: str) -> str:
    """Return a row, whose first cell is its heading."""
    classes = [' class="words"' if words else "" for words in of_words]
    first, *rest = (f"{c}>{escape(cell)}" for c, cell in zip(classes, cells, strict=True))
    scope = "col" if tag == "th" else "row"
    return f'<tr><th scope="{scope}"{first}</th>{"".join(f"<{tag}{r}</{tag}>" for r in rest)}</tr>'


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


def join_names(names: Sequence[str] | np.ndarray) -> str:
    """Return names as "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def caution_if_few(n_sessions: int) -> list[str]:
    """Return the sentence to add if intervals from so few sessions are too narrow."""
    if not MIN_SESSIONS <= n_sessions < FEW_SESSIONS:
        return []
    return [f"Intervals from {n_sessions} sessions are too narrow: read them with caution."]
