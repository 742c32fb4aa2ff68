"""Results that print as a message and a table."""

import html
from typing import Any

from sklearn.utils import Bunch


def columns_of_words(header: list[str], lines: list[list[str]]) -> list[bool]:
    """Return which columns hold no number; the first one names the lines.

    Parameters
    ----------
    header : list of str
        Column names.
    lines : list of list of str
        Lines as they are shown.

    Returns
    -------
    list of bool
        Whether each column holds words.
    """

    def is_number(cell):
        return cell.lstrip("+-")[:1].isdigit()

    columns = range(1, len(header))
    return [True, *(not any(is_number(line[k]) for line in lines) for k in columns)]


def format_table(header: list[str], lines: list[list[str]]) -> str:
    """Return a plain table: numbers aligned to the right, words to the left.

    Parameters
    ----------
    header : list of str
        Column names.
    lines : list of list of str
        Lines as they are shown.

    Returns
    -------
    str
        The table.
    """
    cells = [header, *lines]
    widths = [max(len(line[k]) for line in cells) for k in range(len(header))]
    of_words = columns_of_words(header, lines)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if words else cell.rjust(width)
            for cell, width, words in zip(line, widths, of_words, strict=True)
        ).rstrip()
        for line in cells
    )


class Table(Bunch):
    """Result with a message in plain words and a table, which it prints and shows as HTML.

    Parameters
    ----------
    header : list of str
        Column names of the table.
    lines : list of list of str
        Lines of the table as they are shown.
    **fields : dict
        The other fields, `message` among them.
    """

    def __init__(self, header: list[str], lines: list[list[str]], **fields: Any) -> None:
        super().__init__(**fields, summary=format_table(header, lines))
        self.__dict__["_cells"] = [header, *lines]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Bunch drops the state, since old pickles of it held its items twice.
        self.__dict__.update(state)

    def __str__(self) -> str:
        return f"{self.message}\n\n{self.summary}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        header, *lines = (
            "".join(f"<td>{html.escape(cell)}</td>" for cell in line)
            for line in self.__dict__["_cells"]
        )
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        header = header.replace("td>", "th>")
        message = html.escape(self.message)
        return f"<p>{message}</p><table><thead><tr>{header}</tr></thead>{body}</table>"
