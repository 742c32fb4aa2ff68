"""The order of turns that are strings: as numbers, times or dates if they are written so."""

import re
from collections.abc import Callable
from datetime import datetime, time
from itertools import pairwise

import numpy as np

from skpref._typing import IntArray

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_TIME = re.compile(
    r"(\d{1,3}):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?\s*([ap])?\.?(?:m\.?)?", re.IGNORECASE
)
_DATE = re.compile(r"(\d{1,4})[./-](\d{1,2})[./-](\d{1,4})(?:(?:,?\s+|T)(.+))?")
_MONTHS = re.compile(
    r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun)[a-z]*\b",
    re.IGNORECASE,
)
_WITH_MONTHS = [
    f"{date}{clock}"
    for date in (
        *("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%Y", "%d/%b/%Y"),
        *("%b %d %Y", "%B %d %Y", "%a, %d %b %Y", "%a %d %b %Y"),
    )
    for clock in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
]


class _Unordered(ValueError):
    """Strings whose order is not clear."""


def rank_strings(values: list[str], name: str) -> IntArray:
    """Rank turns that are strings.

    Parameters
    ----------
    values : list of str
        The turns.
    name : str
        Their column, for the error.

    Returns
    -------
    ndarray of int, shape (n_turns,)
        Ranks; equal turns get equal ranks.

    Raises
    ------
    ValueError
        If the strings are numbers, times or dates in a form that cannot be ordered for sure.
    """
    distinct = sorted(set(values))
    try:
        keys = _find_keys([value.strip() for value in distinct])
    except _Unordered as error:
        raise ValueError(
            f"turn={name!r} holds strings such as {distinct[0]!r} and {distinct[-1]!r}, {error}; "
            "convert the column to numbers or datetimes first, for example with pandas.to_datetime."
        ) from None
    # Ranks of keys, since two spellings of a number or a time are the same turn.
    ranks = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    rank_of = {value: ranks[key] for value, key in zip(distinct, keys, strict=True)}
    return np.fromiter((rank_of[value] for value in values), dtype=np.int64, count=len(values))


def _find_keys(values: list[str]) -> list:
    """Return values to sort by, one for each string."""
    if all(_NUMBER.fullmatch(value) for value in values):
        # Integers as such: they may have more digits than a float.
        return [int(v) if re.fullmatch(r"[+-]?\d+", v) else float(v) for v in values]
    if all(_TIME.fullmatch(value) for value in values):
        return _time_keys(values)
    iso = _try(values, datetime.fromisoformat)
    if iso is not None and all(len(value) > 8 for value in values):
        if len({moment.tzinfo is None for moment in iso}) > 1:
            raise _Unordered("some with a time zone and some without")
        return iso
    if all(_DATE.fullmatch(value) for value in values):
        return _date_keys(values)
    if any(_MONTHS.search(value) for value in values) and any(c.isdigit() for c in values[0]):
        for form in _WITH_MONTHS:
            moments = _try(values, lambda value, form=form: datetime.strptime(value, form))
            if moments is not None:
                return moments
        raise _Unordered("which look like dates and are not in order as text")
    return _text_keys(values)


def _try(values: list[str], parse: Callable) -> list | None:
    try:
        return [parse(value) for value in values]
    except ValueError:
        return None


def _time_keys(values: list[str]) -> list[float]:
    halves = {bool(_TIME.fullmatch(value)[5]) for value in values}  # type: ignore[index]
    if len(halves) > 1:
        raise _Unordered("some with AM or PM and some without")
    if len({value.count(":") for value in values}) > 1:
        raise _Unordered("some of which have seconds, or hours, and some do not")
    return [_seconds(value) for value in values]


def _seconds(value: str) -> float:
    """Return the seconds of a time of day, or of a time since the beginning."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError(value)
    hours, minutes, seconds, fraction, half = match.groups()
    count = int(hours)
    if half is not None:
        if not 1 <= count <= 12:
            raise _Unordered("with hours that AM and PM do not have")
        count = count % 12 + (12 if half in "pP" else 0)
    return 3600 * count + 60 * int(minutes) + int(seconds or 0) + float(f"0.{fraction or 0}")


def _date_keys(values: list[str]) -> list[tuple]:
    """Read dates of numbers; which of day and month is first must be clear from them."""
    parts = [_DATE.fullmatch(value).groups() for value in values]  # type: ignore[union-attr]
    clocks = [_seconds_of_day(clock) for *_, clock in parts]
    numbers = [tuple(map(int, numbers)) for *numbers, _ in parts]
    readings = []
    for order in ((0, 1, 2), (2, 1, 0), (2, 0, 1)):  # year, month, day
        dates = [tuple(date[i] for i in order) for date in numbers]
        width = {len(part[order[0]]) for part in parts}
        if width in ({4}, {2}) and (width == {4} or order[0] == 2) and _are_dates(dates):
            readings.append([(*d, c) for d, c in zip(dates, clocks, strict=True)])
    if not readings:
        raise _Unordered("which look like dates and are none")
    orders = [sorted(range(len(values)), key=reading.__getitem__) for reading in readings]
    if any(order != orders[0] for order in orders):
        raise _Unordered("dates of which the first number may be the day or the month")
    return readings[0]


def _are_dates(dates: list[tuple]) -> bool:
    return _try(dates, lambda d: datetime(d[0] or 2000, d[1], d[2])) is not None  # type: ignore[arg-type]


def _seconds_of_day(clock: str | None) -> float:
    if not clock:
        return 0.0
    try:
        return _seconds(clock)
    except ValueError:
        pass
    try:
        moment = time.fromisoformat(clock)
    except ValueError:
        raise _Unordered(f"with {clock!r} after the date") from None
    if moment.tzinfo is not None:
        raise _Unordered("with time zones")
    return 3600 * moment.hour + 60 * moment.minute + moment.second + moment.microsecond / 1e6


def _text_keys(values: list[str]) -> list[str]:
    """Compare as text, unless numbers in the text would be put in another order."""
    by_numbers = [
        [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", value) if p]
        for value in values
    ]
    order = sorted(range(len(values)), key=values.__getitem__)
    if any(by_numbers[i] > by_numbers[j] for i, j in pairwise(order)):
        raise _Unordered("whose numbers text puts in another order")
    return values
