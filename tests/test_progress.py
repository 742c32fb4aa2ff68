import io
import sys

import pytest

from skpref import _progress
from skpref._progress import auto_bar, progress_bar, wants_lines


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(make, verbose, stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    with make(2, "Working", verbose) as bar:
        bar.update()
        bar.update()
    return "Working" in stream.getvalue()


@pytest.mark.parametrize(
    ("verbose", "stream", "expected"),
    [
        ("auto", Terminal, True),
        ("auto", io.StringIO, False),
        (True, io.StringIO, True),
        (False, Terminal, False),
        (0, Terminal, False),
    ],
)
def test_auto_shows_a_bar_to_whoever_may_be_looking(verbose, stream, expected, monkeypatch):
    monkeypatch.setattr(_progress, "_PATIENCE", 0.0)
    assert shown(progress_bar, verbose, stream(), monkeypatch) == expected


def test_auto_waits(monkeypatch):
    assert not shown(progress_bar, "auto", Terminal(), monkeypatch)


def test_lines_take_the_place_of_the_bar(monkeypatch):
    monkeypatch.setattr(_progress, "_PATIENCE", 0.0)
    assert shown(auto_bar, "auto", Terminal(), monkeypatch)
    assert not shown(auto_bar, 1, Terminal(), monkeypatch)
    assert [wants_lines(verbose) for verbose in ("auto", 0, False, 1, True)] == [0, 0, 0, 1, 1]
