"""Read scores and labels, for noise, agreement, comparison and displays."""

import numpy as np

from skpref._calibrator import LLMScoreCalibrator
from skpref._typing import ArrayLike, FloatArray, IntArray
from skpref._validation import check_labels, check_llm_scores, resolve_classes

SMALLEST = 1e-7  # probability that a log loss is cut off at; float32 has nothing finer next to 1


def read_scores(
    llm_scores: ArrayLike, y: ArrayLike | None, classes: ArrayLike | None
) -> tuple[FloatArray, np.ndarray, IntArray]:
    """Scores in double precision, the class labels, and labels as positions in them."""
    scores = check_llm_scores(llm_scores).astype(np.float64)
    labels = np.full(len(scores), -1) if y is None else y
    found, codes = check_labels(labels, classes=classes, partial=True)
    if len(codes) != len(scores):
        raise ValueError(
            f"y has {len(codes)} entries but llm_scores has {len(scores)} rows; pass one label "
            "per row, -1 or None where there is none."
        )
    if scores.ndim == 3:
        return scores, resolve_classes(found, classes, scores.shape[2]), codes
    if len(found) == 0:
        found = np.arange(2)
    if len(found) < 2:
        raise ValueError(
            f"y has one class only ({found.tolist()!r}); pass classes=[...] with every label, in "
            "the order of the scores."
        )
    return scores, found, codes


def _are_soft_labels(scores: FloatArray, n_classes: int) -> bool:
    """Tell whether each row of a table is a distribution over the classes."""
    known = scores[~np.isnan(scores).any(axis=1)]
    return (
        scores.shape[1] == n_classes
        and bool((known >= 0).all())
        and np.allclose(known.sum(axis=1), 1, atol=1e-3)
    )


def score_per_class(scores: FloatArray, classes: np.ndarray, layout: str) -> FloatArray:
    """One score per class (n, n_classes), NaN in rows without any."""
    n_classes = len(classes)
    if layout == "classes" and scores.shape[1:] != (n_classes,):
        raise ValueError(
            f"llm_scores has shape {scores.shape} but layout='classes' needs one column for each "
            f"of the {n_classes} classes {classes.tolist()!r}; pass (n_utterances, {n_classes}), "
            "or layout='prompts'."
        )
    guessed = layout == "auto" and scores.ndim == 2 and _are_soft_labels(scores, n_classes)
    if layout == "classes" or guessed:
        return np.where(np.isnan(scores).any(axis=1, keepdims=True), np.nan, scores)
    return LLMScoreCalibrator("mean", classes=classes).fit_transform(scores)


def prompt_probabilities(scores: FloatArray, classes: np.ndarray) -> FloatArray:
    """Read what each prompt says by itself (n, n_prompts, n_classes); NaN where it is missing."""
    score_type = LLMScoreCalibrator("mean", classes=classes).fit(scores).score_type_
    if scores.ndim == 2 and len(classes) > 2:
        scores = scores.reshape(len(scores), -1, len(classes))
    out = np.full((len(scores), scores.shape[1], len(classes)), np.nan)
    reader = LLMScoreCalibrator("mean", classes=classes, score_type=score_type)
    for p in range(scores.shape[1]):
        one = scores[:, [p]]
        if (~np.isnan(one).reshape(len(one), -1).any(axis=1)).any():
            out[:, p] = reader.fit_transform(one)
    return out


def check_prompt_names(prompt_names: ArrayLike | None, n_prompts: int) -> list[str]:
    if prompt_names is None:
        return [f"prompt {p}" for p in range(n_prompts)]
    names = [str(name) for name in np.asarray(prompt_names, dtype=object).tolist()]
    if len(names) != n_prompts:
        raise ValueError(
            f"prompt_names={names!r} has {len(names)} names but llm_scores has {n_prompts} "
            "prompts; pass one name per prompt."
        )
    return names


def order_by_content(
    content: FloatArray, session: IntArray, length: IntArray
) -> tuple[IntArray, IntArray]:
    """Order of the rows by content, sessions together; and the new code of each session.

    Sessions that hold the same rows are alike in all that is computed here, so neither the order
    of the rows nor the names of the sessions change a result.
    """
    content = np.where(np.isnan(content), -np.inf, content)
    by_content = np.lexsort(content.T)
    ascending = content[by_content]
    changed = np.r_[False, (ascending[1:] != ascending[:-1]).any(axis=1)]
    kind = np.empty(len(content), dtype=np.int64)
    kind[by_content] = np.cumsum(changed)
    # A sum of integers that wraps around is the same in any order, so it names a bag of rows.
    top = np.iinfo(np.uint64).max
    mark = np.random.RandomState(0).randint(0, top, size=kind.max(initial=0) + 1, dtype=np.uint64)
    signature = np.zeros(len(length), dtype=np.uint64)
    np.add.at(signature, session, mark[kind])
    rank = np.empty(len(length), dtype=np.int64)
    rank[np.lexsort((signature, length))] = np.arange(len(length))
    return np.lexsort((kind, rank[session])), rank


def quantile_edges(values: FloatArray, n_bins: int) -> FloatArray:
    """Inner edges that cut values into bins of about one size; a bin holds its lower edge."""
    if not len(values):
        return np.empty(0)
    # Values that differ by rounding alone, as means of votes do, belong together.
    values = np.sort(np.round(values, 9))
    inner = values[np.arange(1, n_bins) * len(values) // n_bins]
    return np.unique(inner[inner > values[0]])


def assign_bins(values: FloatArray, inner: FloatArray) -> IntArray:
    return np.searchsorted(inner, np.round(values, 9), side="right")
