"""Download published dialogue data sets from their authors' repositories."""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sklearn.utils import Bunch

from skpref._optional import import_optional
from skpref._sklearn import validate_params

_BASE_URL = "https://raw.githubusercontent.com"
_ANNOTATIONS = "Videepvv/LLM-Dialogue-Annotation-AIED/3cfeca7c8ccf99869ef40e76f38619d3435938f6"

_import = partial(import_optional, purpose="Downloading data sets", extra="datasets")
_checked = validate_params(
    {"data_home": [str, os.PathLike, None], "download_if_missing": ["boolean"]},
    prefer_skip_nested_validation=True,
)

_Records = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class _Source:
    """Location and terms of a data set, and the function that reads its files."""

    title: str
    root: str  # owner/repository/commit and the folder that contains all files
    files: dict[str, str]  # path: SHA-256, or the hash of Git
    licence: str
    citation: str
    read: Callable[[list[Path]], _Records]


def _file_hash(path: Path, like: str) -> str:
    """Hash a file as another hash was made: by SHA-256, or by Git, whose hashes are shorter."""
    content = path.read_bytes()
    if len(like) == 64:
        return hashlib.sha256(content).hexdigest()
    blob = b"blob %d\0" % len(content) + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()


def _retrieve(url: str, known: str, target: Path) -> None:
    """Download a file, and check its hash before it is in place."""
    pooch = _import("pooch")
    progressbar = find_spec("tqdm") is not None
    if len(known) == 64:
        pooch.retrieve(url, known, fname=target.name, path=target.parent, progressbar=progressbar)
        return
    part = target.with_suffix(".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    pooch.HTTPDownloader(progressbar=progressbar)(url, str(part), None)
    if (found := _file_hash(part, known)) != known:
        part.unlink()
        raise ValueError(f"The hash of {url} is {found}, but {known} is expected.")
    part.replace(target)


def _download(url: str, known: str, target: Path, download_if_missing: bool) -> None:
    """Download a file unless it is already in place."""
    requests = _import("requests")  # pooch itself needs it
    if target.is_file() and _file_hash(target, known) == known:
        return
    if not download_if_missing:
        raise OSError(
            f"{target} is missing or was changed, and download_if_missing=False; "
            f"pass download_if_missing=True to download it from {url}."
        )
    try:
        _retrieve(url, known, target)
    except requests.RequestException as error:
        if error.response is not None:
            error.response.close()  # pooch leaves the connection open, for example after a 404
        raise OSError(
            f"Cannot download {url}: {error}. Try again with an internet connection, or copy the "
            f"file to {target} by other means."
        ) from error


def _fetch(
    source: _Source, data_home: str | os.PathLike[str] | None, download_if_missing: bool
) -> Bunch:
    """Download the missing files and build the frame, whose first columns all data sets share."""
    pooch, pandas = _import("pooch"), _import("pandas")
    home = data_home or os.environ.get("SKPREF_DATA") or pooch.os_cache("skpref")
    folder = Path(home).expanduser() / source.root
    urls = [f"{_BASE_URL}/{source.root}/{name}" for name in source.files]
    paths = [folder / name for name in source.files]
    for url, path, known in zip(urls, paths, source.files.values(), strict=True):
        _download(url, known, path, download_if_missing)

    frame = pandas.DataFrame(list(source.read(paths)))
    frame["text"] = [" ".join(text.split()) for text in frame["text"]]
    frame.insert(1, "turn", frame.groupby("session_id").cumcount())
    return Bunch(
        frame=frame,
        licence=source.licence,
        citation=source.citation,
        urls=urls,
        DESCR=f"{source.title}\n\nLicence: {source.licence}\nCitation: {source.citation}\n"
        f"Files: {', '.join(urls)}\n",
    )


def _open(path: Path) -> StringIO:
    return StringIO(path.read_text(encoding="utf-8"))


def _model(path: Path) -> str:
    """Extract the name of the LLM, as used in columns, from a name like deli_gpt-4o-mini.json."""
    return path.stem.partition("_")[2].replace("-", "").replace(".", "")


def _split_by_hash(session_id: str) -> str:
    """Assign a whole session to a split, 70 : 10 : 20 on average, the same on every machine."""
    digest = hashlib.md5(session_id.encode(), usedforsecurity=False).hexdigest()
    percentile = int(digest, 16) % 100
    return "test" if percentile < 20 else "dev" if percentile < 30 else "train"


def _read_meld(paths: list[Path]) -> _Records:
    for split, path in zip(("train", "dev", "test"), paths, strict=True):
        for row in csv.DictReader(_open(path)):
            yield {
                "session_id": f"{split}_{row['Dialogue_ID']}",
                "speaker": row["Speaker"],
                "text": row["Utterance"],
                "label": row["Emotion"],
                "split": split,
                "emotion": row["Emotion"],
                "sentiment": row["Sentiment"],
                "utterance_id": int(row["Utterance_ID"]),
                "season": int(row["Season"]),
                "episode": int(row["Episode"]),
            }


_DELI_CODES = {
    "type": {-1: "none", 0: "probing", 1: "non_probing_deliberation"},
    "target": dict(enumerate(["none", "solution", "reasoning", "moderation", "agree", "disagree"])),
}


def _read_delidata(paths: list[Path]) -> _Records:
    models, answers = [_model(p) for p in paths], [json.load(_open(p)) for p in paths]
    for rows in zip_longest(*answers):  # only the first LLM labelled all rows
        row, session = rows[0], rows[0]["group_id"]
        if session == answers[0][-1]["group_id"]:
            return  # the files end in the middle of this group
        yield {
            "session_id": session,
            "speaker": row["participant"],
            "text": row["utterance"],
            "label": _DELI_CODES["type"][row["gt_type"]],
            "split": _split_by_hash(session),
            "target": _DELI_CODES["target"][row["gt_target"]],
            **{
                f"llm_{model}_{task}": answer and names[answer[f"pred_{task}"]]
                for model, answer in zip(models, rows, strict=True)
                for task, names in _DELI_CODES.items()
            },
        }


def _read_casino(paths: list[Path]) -> _Records:
    for split, path in zip(("train", "dev", "test"), paths, strict=True):
        for dialogue in json.load(_open(path)):
            annotations = dialogue["annotations"][::-1]
            if not annotations:
                continue
            for row in dialogue["chat_logs"]:
                if row["task_data"]:
                    continue  # a button press, such as Submit-Deal
                # A few utterances have no annotation, so the two lists cannot be zipped.
                is_next = annotations and annotations[-1][0] == row["text"]
                strategies = annotations.pop()[1] if is_next else None
                outcomes = dialogue["participant_info"][row["id"]]["outcomes"]
                yield {
                    "session_id": f"d{dialogue['dialogue_id']}",
                    "speaker": row["id"],
                    "text": row["text"],
                    "label": strategies and strategies.split(",")[0],
                    "split": split,
                    "strategies": strategies,
                    "speaker_final_satisfaction": outcomes["satisfaction"],
                }


def _read_diplomacy(paths: list[Path]) -> _Records:
    names = {True: "truth", False: "lie"}  # the receiver's label can also be NOANNOTATION
    for split, path in zip(("train", "dev", "test"), paths, strict=True):
        for number, dialogue in enumerate(map(json.loads, _open(path))):
            game, players = dialogue["game_id"], "-".join(dialogue["players"])
            for i, text in enumerate(dialogue["messages"]):
                yield {
                    "session_id": f"{split}_{number}_g{game}_{players}",
                    "speaker": dialogue["speakers"][i],
                    "text": text,
                    "label": names[dialogue["sender_labels"][i]],
                    "split": split,
                    "receiver_label": names.get(dialogue["receiver_labels"][i]),
                    "game_id": game,
                    "year": dialogue["years"][i],
                    "season": dialogue["seasons"][i],
                    "message_index": dialogue["absolute_message_index"][i],
                    "score_delta": int(dialogue["game_score_delta"][i]),
                }


_FACETS = {"CSK": "CPS_CONST", "NC": "CPS_NEG", "MTF": "CPS_MAINTAIN"}
_WEIGHTS_SPLIT = {"Group_05": "test", "Group_08": "dev", "Group_09": "test", "Group_10": "test"}


def _read_weights_task(paths: list[Path]) -> _Records:
    human, *llms = paths
    models, answers = [_model(p) for p in llms], [json.load(_open(p)) for p in llms]
    for row, *rated in zip(csv.DictReader(_open(human)), *answers, strict=True):
        # One column of codes uses blanks for 0, so the codes are compared as text.
        facets = {
            facet: int("1" in [row[code] for code in row if code.startswith(prefix)])
            for facet, prefix in _FACETS.items()
        }
        yield {
            "session_id": row["Group_x"],
            "speaker": f"P{row['Participant']}",
            "text": row["Transcript"],
            "label": "+".join(facet for facet in facets if facets[facet]) or "none",
            "split": _WEIGHTS_SPLIT.get(row["Group_x"], "train"),
            **facets,
            **{
                f"{facet}_llm_{model}": value
                for model, answer in zip(models, rated, strict=True)
                for facet, value in zip(facets, answer["predicted"], strict=True)
            },
        }


_MELD = _Source(
    title="MELD: emotion and sentiment of utterances in the dialogues of a TV series",
    root="declare-lab/MELD/2d2011b409d3ca2d7e94460cd007d434b1d0a102/data/MELD",
    files={
        "train_sent_emo.csv": "d2fa2d6529cf03cac2989efec05c9b27d8fd2f4c8fc5974c7ae88aa537fa02db",
        "dev_sent_emo.csv": "2e89c6f8aa182d6f62f8c6331aece905ac7273ca4999660bfb5213e1d0370c1c",
        "test_sent_emo.csv": "8d37103938f7067600839fe29d5a114a6cd1bcdafb75bec101e06464c5006888",
    },
    licence="GPL-3.0",
    citation='Poria et al. 2019, "MELD: A Multimodal Multi-Party Dataset for Emotion Recognition '
    'in Conversations", ACL',
    read=_read_meld,
)
_DELIDATA = _Source(
    title="DeliData: deliberation in group chats that solve a puzzle, with labels of 3 LLMs",
    root=f"{_ANNOTATIONS}/results/DELI",
    files={
        "deli_gpt-4o-mini.json": "b00d5ec482ba7bbb83499facc779b6a56e8e228c248d64182f1769bfa597b8c1",
        "deli_qwen-32b.json": "38ccf85bb2fa5098b48ecbb9bccd2e10cb13f7d549c232aca2e35d98b722b0c0",
        "deli_gemini-2.0-flash.json": (
            "098c6734ec169b0708ee66bcfa01bcb4fd952bdf86ebe61998cf0f1cef976b69"
        ),
    },
    licence="MIT",
    citation='Karadzhov, Stafford and Vlachos 2023, "DeliData: A Dataset for Deliberation in '
    'Multi-party Problem Solving", CSCW; labels of the LLMs: Videepvv/LLM-Dialogue-Annotation-AIED',
    read=_read_delidata,
)
_CASINO = _Source(
    title="CaSiNo: strategies in negotiations about camping supplies",
    root="kushalchawla/CaSiNo/2f6ed4a6a55110152a7699fbaa8150d6036314be/data/split",
    files={
        "casino_train.json": "6b953d153fc8c78f27e911c1439b93b9b3519357e3ba825091b2e567845ba3a7",
        "casino_valid.json": "91f2d1f09accedf98667ac081fd5083752738390734e991601b036643da077e0",
        "casino_test.json": "bf6da2d7c105396300d85a65819c04d99304ac9abb8a590ba342fd0c86b4dd12",
    },
    licence="CC BY 4.0",
    citation='Chawla et al. 2021, "CaSiNo: A Corpus of Campsite Negotiation Dialogues for '
    'Automatic Negotiation Systems", NAACL',
    read=_read_casino,
)
_DIPLOMACY = _Source(
    title="Diplomacy: truth and lies in the messages of players, labelled by sender and receiver",
    root="DenisPeskoff/2020_acl_diplomacy/c28c0870a639f6f388c87d4f8eaf685e64bfb1a6/data",
    files={
        "train.jsonl": "833d8ef26561bbd1921e9f5e730b2ebea0a59cec24f7082bfdcacb8b6cf30792",
        "validation.jsonl": "6b2ca19991c7596693ea61b34b1be2d6ada3fcf6710472edd4afed841556e571",
        "test.jsonl": "2061ee7f040d6d8016760cb146d7821fef57cfbb4ced868f233e63854257c050",
    },
    licence="CC BY 4.0",
    citation='Peskov et al. 2020, "It Takes Two to Lie: One to Lie, and One to Listen", ACL',
    read=_read_diplomacy,
)
_WEIGHTS_TASK = _Source(
    title="Weights Task: collaborative problem solving in triads, with labels of 6 LLMs",
    root=_ANNOTATIONS,
    files={
        "data/GoldenData/WTD/OOCPS_aied.csv": (
            "fc9bc419ad558af304de65faa972cd92d3550d77228527b15ab997a31ace5cef"
        ),
        "results/CPS/cps_gemini-2.0-flash.json": (
            "a72e45b3bb1ad4e1564ebebae089458eb7a1a1567d6205e2d9df727d76400845"
        ),
        "results/CPS/cps_gpt-4o-mini.json": (
            "caab601e4ec14da2a9b690ac533683a9e0090ce54a5d83b000ab3e21ee981e45"
        ),
        "results/CPS/cps_llama-8b.json": (
            "ac69f023c00c5b1cc9227195976acec201467476670c29a0fdc61df6ce3fac42"
        ),
        "results/CPS/cps_qwen-7b.json": (
            "16cc78926df4477613dd1842fc851ce5a5f2d604e2250eea93eefd29fcc29b73"
        ),
        "results/CPS/cps_qwen-14b.json": (
            "f784023f8258d57d3c83f9f8726cdc1c9bbf8393942059110c765a715b4d93ea"
        ),
        "results/CPS/cps_qwen-32b.json": (
            "be2d81a6fac49a5c6f4ab2aef259ac86888da7ccc811160c32feb046eee1de78"
        ),
    },
    licence="MIT",
    citation="Khebour et al. 2024, Weights Task Dataset; labels of the LLMs: "
    "Videepvv/LLM-Dialogue-Annotation-AIED",
    read=_read_weights_task,
)


@_checked
def fetch_meld(
    *, data_home: str | os.PathLike[str] | None = None, download_if_missing: bool = True
) -> Bunch:
    """Load MELD: emotion and sentiment in the dialogues of a TV series.

    1432 multi-speaker scenes of the series Friends, in the published split. Each utterance is
    labelled by people with one of 7 emotions and one of 3 sentiments.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder in which the files are stored. By default, the environment variable ``SKPREF_DATA``
        or, if that is not set, ``pooch.os_cache("skpref")``.
    download_if_missing : bool, default=True
        Whether to download files that are not in `data_home`. If False, raise an OSError instead.

    Returns
    -------
    Bunch
        Dictionary-like object with ``frame``, a pandas DataFrame of shape (13708, 11) in
        which the rows of a session are consecutive and in order, and with ``licence``,
        ``citation``, ``urls`` and ``DESCR``.

    Raises
    ------
    OSError
        If a file cannot be downloaded, or is missing and `download_if_missing` is False.
    ValueError
        If the checksum of a downloaded file is wrong.

    Notes
    -----
    Columns: ``session_id``, ``turn``, ``speaker``, ``text``, ``label`` (the emotion), ``split``
    (train, dev, test), ``emotion``, ``sentiment``, ``utterance_id`` (as published; with gaps),
    ``season``, ``episode``.

    Whitespace in the text is collapsed; the times in the video are left out.

    Licence: GPL-3.0, as stated by declare-lab/MELD, the repository of the files. You are
    responsible for complying with it and with any rights in the show's script. Cite Poria et al.
    2019, "MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations", ACL.

    Examples
    --------
    >>> from skpref.datasets import fetch_meld
    >>> frame = fetch_meld().frame  # doctest: +SKIP
    >>> frame.loc[0, ["speaker", "label"]].tolist()  # doctest: +SKIP
    ['Chandler', 'neutral']
    """
    return _fetch(_MELD, data_home, download_if_missing)


@_checked
def fetch_delidata(
    *, data_home: str | os.PathLike[str] | None = None, download_if_missing: bool = True
) -> Bunch:
    """Load a part of DeliData: deliberation in group chats, with labels of 3 LLMs.

    182 groups solve the Wason card selection task. Each utterance is labelled with a type and a
    target, by people and by up to 3 LLMs.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder in which the files are stored. By default, the environment variable ``SKPREF_DATA``
        or, if that is not set, ``pooch.os_cache("skpref")``.
    download_if_missing : bool, default=True
        Whether to download files that are not in `data_home`. If False, raise an OSError instead.

    Returns
    -------
    Bunch
        Dictionary-like object with ``frame``, a pandas DataFrame of shape (4998, 13) in
        which the rows of a session are consecutive and in order, and with ``licence``,
        ``citation``, ``urls`` and ``DESCR``.

    Raises
    ------
    OSError
        If a file cannot be downloaded, or is missing and `download_if_missing` is False.
    ValueError
        If the checksum of a downloaded file is wrong.

    Notes
    -----
    Columns: ``session_id``, ``turn``, ``speaker``, ``text``, ``label`` (the type: probing,
    non_probing_deliberation, none), ``split``, ``target`` (solution, reasoning, moderation,
    agree, disagree, none), and ``llm_<model>_type`` and ``llm_<model>_target`` for the models
    gpt4omini (all rows), qwen32b (the first 3000) and gemini20flash (the first 2350); missing in
    the other rows.

    Left out are the other 318 groups, which no file of these LLMs contains completely, and two
    further LLMs, whose files in the repository are large. Whitespace in the text is collapsed. No
    split is published; this one assigns whole sessions by a hash of their id, 70 : 10 : 20.

    Licence: MIT, as stated by Videepvv/LLM-Dialogue-Annotation-AIED, the repository of the files.
    You are responsible for complying with it. Cite the repository and Karadzhov, Stafford and
    Vlachos 2023, "DeliData: A Dataset for Deliberation in Multi-party Problem Solving", CSCW.

    Examples
    --------
    >>> from skpref.datasets import fetch_delidata
    >>> frame = fetch_delidata().frame  # doctest: +SKIP
    >>> frame["llm_gemini20flash_type"].count()  # doctest: +SKIP
    2350
    """
    return _fetch(_DELIDATA, data_home, download_if_missing)


@_checked
def fetch_casino(
    *, data_home: str | os.PathLike[str] | None = None, download_if_missing: bool = True
) -> Bunch:
    """Load the annotated part of CaSiNo: strategies in negotiations.

    396 dialogues in which two people divide camping supplies, in the published split. Each
    utterance is labelled by people with one or more of 10 strategies.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder in which the files are stored. By default, the environment variable ``SKPREF_DATA``
        or, if that is not set, ``pooch.os_cache("skpref")``.
    download_if_missing : bool, default=True
        Whether to download files that are not in `data_home`. If False, raise an OSError instead.

    Returns
    -------
    Bunch
        Dictionary-like object with ``frame``, a pandas DataFrame of shape (4618, 8) in
        which the rows of a session are consecutive and in order, and with ``licence``,
        ``citation``, ``urls`` and ``DESCR``.

    Raises
    ------
    OSError
        If a file cannot be downloaded, or is missing and `download_if_missing` is False.
    ValueError
        If the checksum of a downloaded file is wrong.

    Notes
    -----
    Columns: ``session_id``, ``turn``, ``speaker``, ``text``, ``label`` (the first strategy;
    missing in 3 rows), ``split`` (train, dev, test), ``strategies`` (all, joined by commas),
    ``speaker_final_satisfaction`` (with the whole negotiation).

    The 634 dialogues without annotations are left out, as are the offers and decisions made by
    pressing a button. Whitespace in the text is collapsed.

    Licence: CC BY 4.0, as stated by kushalchawla/CaSiNo, the repository of the files. You are
    responsible for complying with it. Cite Chawla et al. 2021, "CaSiNo: A Corpus of Campsite
    Negotiation Dialogues for Automatic Negotiation Systems", NAACL.

    Examples
    --------
    >>> from skpref.datasets import fetch_casino
    >>> frame = fetch_casino().frame  # doctest: +SKIP
    >>> frame.loc[0, ["session_id", "label"]].tolist()  # doctest: +SKIP
    ['d607', 'self-need']
    """
    return _fetch(_CASINO, data_home, download_if_missing)


@_checked
def fetch_diplomacy(
    *, data_home: str | os.PathLike[str] | None = None, download_if_missing: bool = True
) -> Bunch:
    """Load Diplomacy: truth and lies in the messages of players.

    246 conversations between two players of a board game, in the published split. For each
    message, the sender states whether it is a lie, and the receiver whether it seems to be one.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder in which the files are stored. By default, the environment variable ``SKPREF_DATA``
        or, if that is not set, ``pooch.os_cache("skpref")``.
    download_if_missing : bool, default=True
        Whether to download files that are not in `data_home`. If False, raise an OSError instead.

    Returns
    -------
    Bunch
        Dictionary-like object with ``frame``, a pandas DataFrame of shape (17289, 12) in
        which the rows of a session are consecutive and in order, and with ``licence``,
        ``citation``, ``urls`` and ``DESCR``.

    Raises
    ------
    OSError
        If a file cannot be downloaded, or is missing and `download_if_missing` is False.
    ValueError
        If the checksum of a downloaded file is wrong.

    Notes
    -----
    Columns: ``session_id``, ``turn``, ``speaker``, ``text``, ``label`` (truth or lie, by the
    sender), ``split`` (train, dev, test), ``receiver_label`` (truth or lie; missing if the
    receiver gave no label), ``game_id``, ``year``, ``season``, ``message_index`` (within the
    game), ``score_delta`` (the speaker's score minus the receiver's). Conversations of the same
    game have the same ``game_id``.

    Whitespace in the text is collapsed; conversations without messages are left out.

    Licence: CC BY 4.0, as stated by DenisPeskoff/2020_acl_diplomacy, the repository of the files.
    You are responsible for complying with it. Cite Peskov et al. 2020, "It Takes Two to Lie: One
    to Lie, and One to Listen", ACL.

    Examples
    --------
    >>> from skpref.datasets import fetch_diplomacy
    >>> frame = fetch_diplomacy().frame  # doctest: +SKIP
    >>> frame["label"].value_counts().to_dict()  # doctest: +SKIP
    {'truth': 16402, 'lie': 887}
    """
    return _fetch(_DIPLOMACY, data_home, download_if_missing)


@_checked
def fetch_weights_task(
    *, data_home: str | os.PathLike[str] | None = None, download_if_missing: bool = True
) -> Bunch:
    """Load the Weights Task: collaborative problem solving, with labels of 6 LLMs.

    10 long sessions in which people weigh cubes together. Each utterance is labelled by people
    and by 6 LLMs with 3 facets of collaborative problem solving, each 0 or 1.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder in which the files are stored. By default, the environment variable ``SKPREF_DATA``
        or, if that is not set, ``pooch.os_cache("skpref")``.
    download_if_missing : bool, default=True
        Whether to download files that are not in `data_home`. If False, raise an OSError instead.

    Returns
    -------
    Bunch
        Dictionary-like object with ``frame``, a pandas DataFrame of shape (2410, 27) in
        which the rows of a session are consecutive and in order, and with ``licence``,
        ``citation``, ``urls`` and ``DESCR``.

    Raises
    ------
    OSError
        If a file cannot be downloaded, or is missing and `download_if_missing` is False.
    ValueError
        If the checksum of a downloaded file is wrong.

    Notes
    -----
    Columns: ``session_id``, ``turn``, ``speaker``, ``text``, ``label`` (the facets that are 1,
    joined by ``+``, or none), ``split``, ``CSK`` (constructing shared knowledge), ``NC``
    (negotiation and coordination), ``MTF`` (maintaining team function), and
    ``<facet>_llm_<model>`` for the models gemini20flash, gpt4omini, llama8b, qwen7b, qwen14b and
    qwen32b.

    The human facets are computed from the human codes, because the facets in the files of the
    LLMs lack one code of MTF. Answers that could not be parsed are all 0 in the files and here:
    529 of llama8b, 25 of qwen7b, 12 of qwen14b. Whitespace in the text is collapsed. No split is
    published; here, groups 5, 9 and 10 are test and group 8 is dev.

    Licence: MIT, as stated by Videepvv/LLM-Dialogue-Annotation-AIED, the repository of the files.
    You are responsible for complying with it. Cite the repository and Khebour et al. 2024,
    Weights Task Dataset.

    Examples
    --------
    >>> from skpref.datasets import fetch_weights_task
    >>> frame = fetch_weights_task().frame  # doctest: +SKIP
    >>> frame["session_id"].nunique()  # doctest: +SKIP
    10
    """
    return _fetch(_WEIGHTS_TASK, data_home, download_if_missing)
