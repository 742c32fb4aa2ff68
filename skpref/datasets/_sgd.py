"""The Schema-Guided Dialogue data set, with the state of each turn as indicators."""

import json
import os
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skpref._sklearn import StrOptions, validate_params
from skpref.datasets._fetch import _fetch, _import, _Records, _Source

_FILES = Path(__file__).parent / "data" / "sgd_files.txt"
_KINDS = ("services", "intents", "slots")


def _read_sgd(paths: list[Path]) -> _Records:
    for path in paths:
        split = path.parent.name
        for dialogue in json.loads(path.read_text(encoding="utf-8")):
            for turn in dialogue["turns"]:
                frames = turn["frames"]
                acts = (action["act"] for frame in frames for action in frame["actions"])
                yield {
                    "session_id": f"{split}_{dialogue['dialogue_id']}",
                    "speaker": turn["speaker"].lower(),
                    "text": turn["utterance"],
                    "label": next(acts, None),
                    "split": split,
                    "acts": ",".join(sorted({a["act"] for f in frames for a in f["actions"]})),
                    **_read_state(frames),
                }


def _read_state(frames: list[dict]) -> dict[str, set[str] | None]:
    """Return the names that are active in a turn of the user; None for one of the system."""
    if not all("state" in frame for frame in frames):
        return dict.fromkeys(_KINDS)
    states = [(frame["service"], frame["state"]) for frame in frames]
    return {
        "services": {service for service, _ in states},
        "intents": {
            f"{service}:{state['active_intent']}"
            for service, state in states
            if state["active_intent"] != "NONE"
        },
        "slots": {
            f"{service}:{slot}" for service, state in states for slot in state["slot_values"]
        },
    }


def _indicators(active: list[set[str] | None]):
    """Return a frame of 1 and 0 with a column per name, -1 in rows without a state."""
    names = sorted(set(chain.from_iterable(found for found in active if found)))
    column = {name: k for k, name in enumerate(names)}
    values = np.zeros((len(active), len(names)), dtype=np.int8)
    for row, found in enumerate(active):
        if found is None:
            values[row] = -1
        else:
            values[row, [column[name] for name in found]] = 1
    return _import("pandas").DataFrame(values, columns=names)


_SGD = _Source(
    title="Schema-Guided Dialogue: services, intents and slots of task-oriented dialogues",
    root=(
        "google-research-datasets/dstc8-schema-guided-dialogue/"
        "e852981ae34990f4358979625854259302feaa78"
    ),
    files={},
    licence="CC BY-SA 4.0",
    citation='Rastogi et al. 2020, "Towards Scalable Multi-domain Conversational Agents: The '
    'Schema-Guided Dialogue Dataset", AAAI',
    read=_read_sgd,
)


def _hashes() -> dict[str, str]:
    """Return the hash of each file, by which Git knows it, in the order of ``git ls-tree``."""
    pairs = (line.split() for line in _FILES.read_text(encoding="utf-8").splitlines())
    return {name: known for known, name in pairs}


def load_files(names: list[str], data_home, download_if_missing: bool) -> Bunch:
    """Load some files of the data set.

    Parameters
    ----------
    names : list of str
        Their paths in the repository.
    data_home : str, path-like or None
        The parameter of `fetch_sgd`.
    download_if_missing : bool
        The parameter of `fetch_sgd`.

    Returns
    -------
    Bunch
        As that of `fetch_sgd`.
    """
    hashes = _hashes()
    source = replace(_SGD, files={name: hashes[name] for name in names})
    bunch = _fetch(source, data_home, download_if_missing)
    for kind in _KINDS:
        bunch[kind] = _indicators(bunch.frame.pop(kind).tolist())
    return bunch


@validate_params(
    {
        "subset": [StrOptions({"train", "dev", "test", "all"})],
        "data_home": [str, os.PathLike, None],
        "download_if_missing": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def fetch_sgd(
    *,
    subset: str = "all",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
) -> Bunch:
    """Load Schema-Guided Dialogue: services, intents and slots of task-oriented dialogues.

    More than 20,000 dialogues of a user with an assistant that searches, books and pays through
    45 services, in the published split. The state of each turn of the user says which services,
    intents and slots are active.

    Parameters
    ----------
    subset : {"train", "dev", "test", "all"}, default="all"
        The split to load. All files together have more than half a gigabyte.
    data_home : str or path-like, default=None
        Folder in which the files are stored. By default, the environment variable ``SKPREF_DATA``
        or, if that is not set, ``pooch.os_cache("skpref")``.
    download_if_missing : bool, default=True
        Whether to download files that are not in `data_home`. If False, raise an OSError instead.

    Returns
    -------
    Bunch
        Dictionary-like object with ``frame``, a pandas DataFrame in which the rows of a session
        are consecutive and in order; with ``services``, ``intents`` and ``slots``, frames of
        indicators with the same rows and a column for each name; and with ``licence``,
        ``citation``, ``urls`` and ``DESCR``.

    Raises
    ------
    OSError
        If a file cannot be downloaded, or is missing and `download_if_missing` is False.
    ValueError
        If the checksum of a downloaded file is wrong.

    Notes
    -----
    Columns of ``frame``: ``session_id``, ``turn``, ``speaker`` (user or system), ``text``,
    ``label`` (the first act), ``split`` (train, dev, test), ``acts`` (all, sorted, joined by
    commas).

    An indicator is 1 if the name is active in the turn, else 0, and -1 in turns of the system,
    which have no state. Services are named as in the schema, such as ``Flights_3``; intents are
    ``Flights_3:SearchOnewayFlight``, and a slot is active if it has a value:
    ``Flights_3:origin_city``. The state is that of the services in the turn, so that a service
    that was spoken of before is not active. Only names that are active somewhere in `subset` are
    columns; the test split has services that the others lack.

    The labels come from the simulator that made the dialogues. Values of slots and the calls of
    services are left out; whitespace in the text is collapsed. Files are checked by the hashes
    of the commit.

    Licence: CC BY-SA 4.0, as stated by google-research-datasets/dstc8-schema-guided-dialogue, the
    repository of the files. You are responsible for complying with it. Cite Rastogi et al. 2020,
    "Towards Scalable Multi-domain Conversational Agents: The Schema-Guided Dialogue Dataset",
    AAAI.

    Examples
    --------
    >>> from skpref.datasets import fetch_sgd
    >>> sgd = fetch_sgd(subset="dev")  # doctest: +SKIP
    >>> is_user = sgd.frame["speaker"] == "user"  # doctest: +SKIP
    >>> sgd.slots.loc[is_user, "Flights_3:origin_city"].head(3).tolist()  # doctest: +SKIP
    [0, 0, 0]
    """
    names = [name for name in _hashes() if subset in ("all", name.partition("/")[0])]
    return load_files(names, data_home, download_if_missing)
