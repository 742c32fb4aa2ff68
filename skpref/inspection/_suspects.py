"""Find human labels that are probably wrong, and utterances that network and LLM disagree on."""

from numbers import Integral
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import Bunch

from skpref._calibrator import LLMScoreCalibrator
from skpref._columns import is_table
from skpref._context import Columns, wrap_frame
from skpref._indicator import is_multilabel, read_indicator
from skpref._sklearn import HasMethods, Interval, validate_params
from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds
from skpref._validation import (
    check_groups,
    check_labels,
    check_same_length,
    check_texts,
    labels_of_codes,
    read_session_ids,
)
from skpref.inspection._report import Report
from skpref.inspection._scores import (
    check_label_probabilities,
    check_probabilities,
    fit_calibrator,
    read_label_scores,
    read_scores,
)

# Added to each probability before logarithms are taken, so that no voice can rule out a class.
_SMOOTHING = 1e-3
_TEXT_LENGTH = 60  # of a text in the table that is shown


class _Suspects(NamedTuple):
    """Questions to look at, worst first."""

    question: IntArray
    score: FloatArray


def _pool(voices: list[FloatArray]) -> FloatArray:
    """Return the normalised product of the voices; a voice that is NaN says nothing."""
    logs = [np.log(voice + _SMOOTHING) for voice in voices]
    total = np.sum([np.where(np.isnan(log), 0, log) for log in logs], axis=0)
    total[np.all([np.isnan(log) for log in logs], axis=0)] = np.nan
    pooled = np.exp(total - total.max(axis=1, keepdims=True))
    return pooled / pooled.sum(axis=1, keepdims=True)


def _suspect_labels(pool: FloatArray, codes: IntArray) -> _Suspects:
    """Return the labels that are not the pool's first choice, the least probable one first."""
    chosen = np.flatnonzero((codes >= 0) & ~np.isnan(pool[:, 0]))
    chosen = chosen[pool[chosen].argmax(axis=1) != codes[chosen]]
    score = 1 - pool[chosen, codes[chosen]]
    order = np.argsort(-score, kind="stable")
    return _Suspects(chosen[order], score[order])


def _find_conflicts(network: FloatArray, llm: FloatArray) -> _Suspects:
    """Return what has different first choices, ordered by how sure the less sure voice is."""
    chosen = np.flatnonzero(~np.isnan(network[:, 0]) & ~np.isnan(llm[:, 0]))
    first, second = network[chosen].argmax(axis=1), llm[chosen].argmax(axis=1)
    differ = first != second
    chosen, first, second = chosen[differ], first[differ], second[differ]
    # How much each voice prefers its own choice to that of the other one.
    of_network = network[chosen, first] - network[chosen, second]
    of_llm = llm[chosen, second] - llm[chosen, first]
    score = np.minimum(of_network, of_llm)
    order = np.argsort(-score, kind="stable")
    return _Suspects(chosen[order], score[order])


class _Questions(NamedTuple):
    """Questions that network, LLM and people answer: the class of a row, or if a label applies."""

    network: FloatArray  # (n_questions, n_answers), NaN without a probability
    llm: FloatArray
    codes: IntArray  # the human answer, -1 if there is none
    row: IntArray
    column: np.ndarray  # the label in question; None of exclusive classes
    answers: np.ndarray


def _read_voices(y, probabilities, llm_scores, classes, calibrate, several: bool):
    """Return the probabilities of network and LLM, the human labels as codes, and the classes."""
    if llm_scores is not None:
        scores, classes, codes = (read_label_scores if several else read_scores)(
            llm_scores, y, classes
        )
    elif several:
        classes, codes = read_indicator(y, classes)
    else:
        classes, codes = check_labels(y, classes=classes, partial=True)
    if not (codes >= 0).any():
        raise ValueError("y has no label; pass at least some human labels.")
    check = check_label_probabilities if several else check_probabilities
    network = check(probabilities, classes, "probabilities")
    check_same_length(len(network), "probabilities", len(codes), "y")
    no_llm = np.full_like(network, np.nan)
    llm = no_llm if llm_scores is None else calibrate(scores, codes, classes)
    return network, llm, codes, classes


def _ask(network: FloatArray, llm: FloatArray, codes: IntArray, classes: np.ndarray) -> _Questions:
    """Return a question for each row, or for each of several labels of each row."""
    rows = np.arange(len(codes))
    if codes.ndim == 1:
        return _Questions(network, llm, codes, rows, np.full(len(codes), None), classes)
    column = np.tile(classes.astype(object), len(codes))
    row = np.repeat(rows, len(classes))
    return _Questions(
        _yes_or_no(network), _yes_or_no(llm), codes.ravel(), row, column, np.arange(2)
    )


def _yes_or_no(prob: FloatArray) -> FloatArray:
    """Return the probabilities of both answers (n_rows * n_labels, 2)."""
    return np.column_stack([1 - prob.ravel(), prob.ravel()])


def _read_texts(X: Any, text: str, n_rows: int) -> np.ndarray:
    """Return one text per row, from a frame or a sequence; None in each row without `X`."""
    if X is None:
        return np.full(n_rows, None)
    if is_table(X):
        frame = wrap_frame(X)
        Columns(text, text, None, None).check(frame)
        X = frame[text].to_numpy()
    texts = check_texts(X)
    check_same_length(len(texts), "X", n_rows, "y")
    return texts


def _list_suspects(kind: str, found: _Suspects, max_rows: int, columns: Bunch) -> Bunch:
    """Return the first suspects of a kind with what is known about their questions."""
    chosen = found.question[:max_rows]
    kinds = np.full(len(chosen), kind, dtype=object)
    known = {name: column[chosen] for name, column in columns.items()}
    return Bunch(kind=kinds, score=found.score[:max_rows], **known)


def _first_choices(prob: FloatArray, classes: np.ndarray) -> np.ndarray:
    """Return the most probable class of each row, None if there is no probability."""
    return labels_of_codes(np.where(np.isnan(prob[:, 0]), -1, prob.argmax(axis=1)), classes)


def _write_lines(table: Bunch) -> tuple[list[str], list[list[str]]]:
    """Return header and lines; a column that is None throughout is left out."""
    shown = {
        name: ["" if value is None else str(value) for value in column]
        for name, column in table.items()
        if name in ("kind", "score", "row") or any(value is not None for value in column)
    }
    shown["score"] = [f"{score:.3f}" for score in table.score]
    if "text" in shown:
        shown["text"] = [shorten(text, _TEXT_LENGTH, placeholder=" …") for text in shown["text"]]
    return list(shown), [list(line) for line in zip(*shown.values(), strict=True)]


def _write_message(
    asked: _Questions, labels: _Suspects, conflicts: _Suspects | None, max_rows: int
) -> str:
    def listed(n):
        return "" if n <= max_rows else f" (the first {max_rows} are listed)"

    chooser = "the network" if conflicts is None else "the pool of network and LLM"
    parts = [
        f"{len(labels.question):,} of {np.sum(asked.codes >= 0):,} human labels are not the first "
        f"choice of {chooser}{listed(len(labels.question))}."
    ]
    if conflicts is not None:
        what = "utterances" if asked.column[0] is None else "labels of utterances"
        parts.append(
            f"Network and LLM contradict each other about {len(conflicts.question):,} of "
            f"{len(asked.codes):,} {what}{listed(len(conflicts.question))}."
        )
    return " ".join([*parts, "The worst come first: read these, and correct what is wrong."])


@validate_params(
    {
        "y": ["array-like"],
        "probabilities": ["array-like"],
        "llm_scores": ["array-like", None],
        "groups": ["array-like", None],
        "X": "no_validation",
        "text": [str],
        "classes": ["array-like", None],
        "calibrator": [None, HasMethods(["fit_transform"])],
        "max_rows": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def suspects(
    y: ArrayLike,
    probabilities: ArrayLike,
    llm_scores: ArrayLike | None = None,
    groups: SessionIds | None = None,
    *,
    X: Any = None,
    text: str = "text",
    classes: ArrayLike | None = None,
    calibrator: Any = None,
    max_rows: int = 50,
) -> Report:
    """List human labels that are probably wrong, and utterances to look at, worst first.

    A label is suspect if the network and the LLM together prefer another class. An utterance is
    worth a look as well if network and LLM contradict each other and both are sure.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_labels)
        Human labels; -1 (numbers), None or NaN marks an unlabelled row. Two dimensions hold several
        labels per utterance, as `PairwisePreferenceClassifier` takes them; each is then judged for
        itself.
    probabilities : array-like of shape (n_samples, n_classes) or (n_samples, n_labels)
        Probabilities of the network, in the order of the sorted classes, or of the labels, as
        `predict_proba` gives them; NaN in rows without a prediction. They should be out of fold:
        each session predicted by a network that was trained without it, so that it cannot repeat
        the wrong labels.
    llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts), \
            default=None
        Raw LLM scores, NaN if missing. They are calibrated without the labels of the row's own
        session. None judges labels by the network alone, and finds no contradictions.
    groups : array-like of shape (n_samples,), default=None
        Session id of each row. Needed with `llm_scores`.
    X : frame or sequence of str, default=None
        Utterances, to show their texts: a frame with a column of texts, or one text per row.
    text : str, default="text"
        Column of the texts, if `X` is a frame.
    classes : array-like of shape (n_classes,), default=None
        Class labels in the order of the last axis of the LLM scores. None takes the sorted labels
        of `y`.
    calibrator : transformer, default=None
        Calibrates the LLM scores. None means ``LLMScoreCalibrator()``.
    max_rows : int, default=50
        Maximum number of rows of each kind.

    Returns
    -------
    Report
        Its fields can be read as attributes; `print` and notebooks show message and table.

        - table : Bunch of arrays, one entry per suspect, labels first, then contradictions, worst
          first: kind ("label" or "conflict"), score, row (position in `y`), session, column (of
          several labels, the one in question), label, network and llm (their most probable classes,
          or whether the label applies) and text; None if there is none. The score
          of a label is 1 minus its pooled probability. That of a contradiction is how much the less
          sure of the two prefers its class to that of the other. ``pandas.DataFrame(result.table)``
          is a frame.
        - n_labels : int, number of labels that are not the first choice of the pool.
        - n_conflicts : int, number of rows, or labels of rows, on which network and LLM contradict
          each other.
        - classes : ndarray of shape (n_classes,), sorted; of several labels 0 and 1.
        - message : str, the same in words.
        - summary : str, the suspects as a table.

    Raises
    ------
    ValueError
        If no row is labelled, probabilities do not match the classes or do not sum to 1, labels
        are not among the classes, `groups` is missing with `llm_scores`, or lengths differ.

    See Also
    --------
    compare_with_distillation : Its `predictions` are out of fold for the labelled sessions.
    skpref.model_selection.LabelledGroupKFold : Folds for predictions of all sessions.

    Notes
    -----
    Network and LLM are pooled by the product of their probabilities. How many of the first 50
    suspects are wrong is measured by ``python -m benchmarks.suspects``, on made-up dialogues and
    on the packaged support chats with labels that were made wrong on purpose.

    Examples
    --------
    >>> from skpref.datasets import make_dialogues
    >>> from skpref.inspection import suspects
    >>> data = make_dialogues(40, class_sep=8.0, labelled_fraction=1.0, random_state=0)
    >>> y = data.y.copy()
    >>> planted = [7, 79, 156, 232]
    >>> y[planted] = 1 - y[planted]
    >>> found = suspects(y, data.true_proba, data.llm_scores, data.groups, max_rows=5)
    >>> print(found.summary)
    kind      score  row  session     label  network  llm
    label     1.000   79  session-05      0        1    1
    label     1.000  156  session-09      0        1    1
    label     1.000  232  session-14      1        0    0
    label     1.000    7  session-00      1        0    0
    label     0.992  338  session-20      1        0    0
    conflict  0.674  708  session-39      0        1    0
    conflict  0.652   90  session-06      1        1    0
    conflict  0.637  486  session-26      1        1    0
    conflict  0.632  442  session-24      1        1    0
    conflict  0.529   23  session-01      1        1    0
    """
    if llm_scores is not None and groups is None:
        raise ValueError(
            "groups is needed to calibrate llm_scores without the labels of a row's own session; "
            "pass the session id of each row."
        )

    def calibrate(scores, codes, classes):
        used = LLMScoreCalibrator() if calibrator is None else calibrator
        session = check_groups(groups, len(codes))
        return fit_calibrator(used, scores, codes, classes, session)[0]

    several = is_multilabel(y, classes, llm_scores)
    asked = _ask(*_read_voices(y, probabilities, llm_scores, classes, calibrate, several))
    n_rows = asked.row[-1] + 1
    no_session = np.array([None]), np.zeros(n_rows, dtype=np.int64)
    ids, session = no_session if groups is None else read_session_ids(groups, n_rows)
    texts = _read_texts(X, text, n_rows)
    labels = _suspect_labels(_pool([asked.network, asked.llm]), asked.codes)
    conflicts = None if llm_scores is None else _find_conflicts(asked.network, asked.llm)
    columns = Bunch(
        row=asked.row,
        session=ids[session][asked.row],
        column=asked.column,
        label=labels_of_codes(asked.codes, asked.answers),
        network=_first_choices(asked.network, asked.answers),
        llm=_first_choices(asked.llm, asked.answers),
        text=texts[asked.row],
    )
    table = _list_suspects("label", labels, max_rows, columns)
    if conflicts is not None:
        others = _list_suspects("conflict", conflicts, max_rows, columns)
        table = Bunch(**{name: np.r_[table[name], others[name]] for name in table})
    return Report(
        *_write_lines(table),
        table=table,
        n_labels=len(labels.question),
        n_conflicts=0 if conflicts is None else len(conflicts.question),
        classes=asked.answers,
        message=_write_message(asked, labels, conflicts, max_rows),
    )
