"""Data sets to try estimators on."""

from skpref.datasets._make_dialogues import make_dialogues

__all__ = ["make_dialogues"]
