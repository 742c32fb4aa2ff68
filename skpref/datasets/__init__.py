"""Load, fetch and make data sets to try the estimators on."""

from skpref.datasets._fetch import (
    fetch_casino,
    fetch_delidata,
    fetch_diplomacy,
    fetch_meld,
    fetch_weights_task,
)
from skpref.datasets._make_dialogues import make_dialogues
from skpref.datasets._sgd import fetch_sgd
from skpref.datasets._support_chats import load_support_chats

__all__ = [
    "fetch_casino",
    "fetch_delidata",
    "fetch_diplomacy",
    "fetch_meld",
    "fetch_sgd",
    "fetch_weights_task",
    "load_support_chats",
    "make_dialogues",
]
