"""Pool a classifier with an LLM, and learn for which rows asking the LLM pays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import entr, logit
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler

from skpref._calibrator import LLMScoreCalibrator
from skpref._student._error_bound import ClusteredRate, clustered_rate, sessions_needed
from skpref._student._output import expected_f1_offsets, f1_shift
from skpref._student._training_set import calibrate, labels_in_place
from skpref._typing import BoolArray, FloatArray, IntArray
from skpref._validation import plain_output

_LEAST = 1e-12


def _log(prob: FloatArray) -> FloatArray:
    return np.log(np.maximum(prob, _LEAST))


def _logit(prob: FloatArray) -> FloatArray:
    return logit(np.clip(prob, _LEAST, 1 - _LEAST))


class Opinion(NamedTuple):
    """Probabilities, and the shift with which classes are chosen.

    Parameters
    ----------
    prob : ndarray of shape (n_rows, n_classes)
        Probabilities.
    offsets : ndarray of shape (n_classes,)
        Shift of the log-probabilities, or of the logits of several labels.
    multilabel : bool, default=False
        Whether the classes are labels, any number of which may apply to a row.
    """

    prob: FloatArray
    offsets: FloatArray
    multilabel: bool = False

    def choose(self) -> IntArray:
        """Return the position of the class of each row, or 1 where a label applies and 0 where not.

        Returns
        -------
        ndarray of int, shape (n_rows,) or (n_rows, n_labels)
            The choice.
        """
        if self.multilabel:
            return (_logit(self.prob) + self.offsets > 0).astype(np.int64)
        return (_log(self.prob) + self.offsets).argmax(axis=1)

    def worth(self, chosen: IntArray) -> FloatArray:
        """Return the probability that a choice is right, weighted as the decision does.

        Parameters
        ----------
        chosen : ndarray of int, shape (n_rows,) or (n_rows, n_labels)
            A choice.

        Returns
        -------
        ndarray of shape (n_rows,)
            The probability; of several labels the mean.
        """
        if self.multilabel:
            weight = np.exp(self.offsets)
            applies, absent = self.prob * weight, 1 - self.prob
            return np.mean(np.where(chosen == 1, applies, absent) / np.maximum(weight, 1), axis=1)
        value = self.prob * np.exp(self.offsets - self.offsets.max())
        return value[np.arange(len(value)), chosen]


class Voice(NamedTuple):
    """How the probabilities of one or two sources become an opinion.

    Parameters
    ----------
    pool : LLMScoreCalibrator
        The fitted pool.
    offsets : ndarray of shape (n_classes,)
        Shift of the opinion.
    """

    pool: Any
    offsets: FloatArray

    def opinion(self, *sources: FloatArray) -> Opinion:
        """Pool the probabilities of the sources.

        Parameters
        ----------
        *sources : ndarray of shape (n_rows, n_classes)
            Probabilities of the classifier and, if the LLM was asked, of the LLM.

        Returns
        -------
        Opinion
            The opinion.
        """
        prob = self.pool.transform(np.stack(sources, axis=1))
        return Opinion(prob, self.offsets, self.pool.multilabel_)


def _learn_pool(
    sources: list[FloatArray], codes: IntArray, session: IntArray, classes: np.ndarray
) -> tuple[FloatArray, Any]:
    """Return pooled probabilities, cross-fitted by session, and the fitted pool."""
    pool = plain_output(LLMScoreCalibrator("log_pool", score_type="probability"))
    return calibrate(pool, np.stack(sources, axis=1), codes, session, classes)


def decision_offsets(
    prob: FloatArray, best_guess: FloatArray, decision: str, rows: BoolArray, multilabel: bool
) -> FloatArray:
    """Return the shift with which classes are chosen.

    Parameters
    ----------
    prob : ndarray of shape (n_rows, n_classes)
        Probabilities.
    best_guess : ndarray of shape (n_rows, n_classes)
        Soft labels under which the macro-F1 is expected.
    decision : {"argmax", "macro_f1"}
        How a class is chosen.
    rows : ndarray of bool, shape (n_rows,)
        Rows that count.
    multilabel : bool
        Whether the classes are labels, any number of which may apply to a row.

    Returns
    -------
    ndarray of shape (n_classes,)
        The shift; zeros for "argmax".
    """
    if decision == "argmax":
        return np.zeros(prob.shape[1])
    if not multilabel:
        return expected_f1_offsets(_log(prob[rows]), best_guess[rows], np.ones(rows.sum()))
    known = rows[:, None] & ~np.isnan(prob) & ~np.isnan(best_guess)
    columns = zip(_logit(prob).T, best_guess.T, known.T, strict=True)
    return np.array(
        [f1_shift(p[k], guess[k], np.ones(k.sum())) if k.any() else 0.0 for p, guess, k in columns]
    )


class Voices(NamedTuple):
    """The classifier alone, the LLM alone, and both pooled.

    Parameters
    ----------
    alone, pooled : Voice
        From the probabilities of the classifier, and of both, to an opinion.
    llm_offsets : ndarray of shape (n_classes,)
        Shift of the opinion of the LLM.
    """

    alone: Voice
    pooled: Voice
    llm_offsets: FloatArray


def learn_voices(
    network: FloatArray,
    llm: FloatArray,
    codes: IntArray,
    session: IntArray,
    classes: np.ndarray,
    decision: str,
) -> tuple[Voices, Opinion, Opinion]:
    """Learn how the classifier answers alone, and how it is pooled with the LLM.

    Parameters
    ----------
    network : ndarray of shape (n_rows, n_classes)
        The classifier's probabilities of rows that it was not trained on.
    llm : ndarray of shape (n_rows, n_classes)
        The LLM's calibrated probabilities, cross-fitted; NaN where it was not asked.
    codes : ndarray of int, shape (n_rows,) or (n_rows, n_labels)
        Human labels as class positions, or 1 and 0 for several labels; -1 where unlabelled.
    session : ndarray of int, shape (n_rows,)
        Session codes.
    classes : ndarray of shape (n_classes,)
        Class labels.
    decision : {"argmax", "macro_f1"}
        How a class is chosen.

    Returns
    -------
    voices : Voices
        For new rows.
    alone, pooled : Opinion
        Opinions of the rows, each without the labels of its session.
    """
    one, one_pool = _learn_pool([network], codes, session, classes)
    both, both_pool = _learn_pool([network, llm], codes, session, classes)
    best_guess, several = labels_in_place(both, codes), codes.ndim == 2
    asked = was_asked(llm)
    offsets = [decision_offsets(p, best_guess, decision, asked, several) for p in (one, both, llm)]
    voices = Voices(Voice(one_pool, offsets[0]), Voice(both_pool, offsets[1]), offsets[2])
    return voices, Opinion(one, offsets[0], several), Opinion(both, offsets[1], several)


def was_asked(llm: FloatArray) -> BoolArray:
    """Return which rows the LLM has said something about.

    Parameters
    ----------
    llm : ndarray of shape (n_rows, n_classes)
        Its probabilities, NaN where it has not.

    Returns
    -------
    ndarray of bool, shape (n_rows,)
        True if any class has a probability.
    """
    return np.asarray(~np.isnan(llm).all(axis=1))


def _features(alone: Opinion) -> FloatArray:
    """Return what is known of a row before the LLM is asked."""
    prob = alone.prob
    if alone.multilabel:
        return np.column_stack([_logit(prob), (entr(prob) + entr(1 - prob)).sum(axis=1)])
    top = np.sort(prob, axis=1)[:, :-3:-1]
    return np.column_stack([_log(prob), top, top[:, 0] - top[:, 1], entr(prob).sum(axis=1)])


def learn_gain(alone: Opinion, pooled: Opinion, asked: BoolArray) -> Any:
    """Learn the gain to be expected from asking the LLM.

    The gain of a row is how much more probable, for the pool, its own choice is than that of the
    classifier alone; for ``decision="macro_f1"`` with a weight of each class, and with several
    labels the mean over them. It needs no human label, so it is learnt from all rows that have
    scores.

    Parameters
    ----------
    alone, pooled : Opinion
        Opinions of the training rows.
    asked : ndarray of bool, shape (n_rows,)
        Whether the LLM scored each row.

    Returns
    -------
    regressor
        From what `expected_gain` knows of a row to the gain.
    """
    gain = pooled.worth(pooled.choose()) - pooled.worth(alone.choose())
    model = make_pipeline(
        StandardScaler(),
        SplineTransformer(knots="quantile", extrapolation="constant"),
        Ridge(),
    )
    return plain_output(model).fit(_features(alone)[asked], gain[asked])


def expected_gain(model: Any, alone: Opinion) -> FloatArray:
    """Return the gain to be expected from asking the LLM about each row.

    Parameters
    ----------
    model : regressor
        As `learn_gain` returns it.
    alone : Opinion
        Opinion of the classifier alone.

    Returns
    -------
    ndarray of shape (n_rows,)
        The gain.
    """
    return model.predict(_features(alone))


class Rule(NamedTuple):
    """Which rows to ask about: those whose expected gain is above a threshold."""

    threshold: float
    share: float
    error: ClusteredRate


def make_rules(
    alone: Opinion,
    pooled: Opinion,
    gain: FloatArray,
    has_scores: BoolArray,
    codes: IntArray,
    session: IntArray,
    shares: Sequence[float],
) -> list[Rule]:
    """Return the rule for each share of rows to ask about.

    Parameters
    ----------
    alone, pooled : Opinion
        Opinions of the training rows.
    gain : ndarray of shape (n_rows,)
        Gain to be expected from asking about each.
    has_scores : ndarray of bool, shape (n_rows,)
        Whether the LLM scored each row.
    codes : ndarray of int, shape (n_rows,) or (n_rows, n_labels)
        Human labels as class positions, or 1 and 0 for several labels; -1 where unlabelled.
    session : ndarray of int, shape (n_rows,)
        Session codes.
    shares : sequence of float
        The shares, from 0 to 1.

    Returns
    -------
    list of Rule
        The rules, with the error on the labelled rows.
    """
    known = codes >= 0
    row = np.nonzero(known)[0]  # of each label
    wrong = [opinion.choose()[known] != codes[known] for opinion in (alone, pooled)]
    rules = []
    for share in shares:
        threshold = float(np.quantile(gain, 1 - share)) if 0 < share < 1 else np.inf
        threshold = -np.inf if share == 1 else threshold
        ask = (gain > threshold) & has_scores
        error = clustered_rate(np.where(ask[row], *wrong[::-1]), session[row])
        rules.append(Rule(threshold, float(np.mean(gain > threshold)), error))
    return rules


def cheapest_rule(rules: list[Rule], max_error: float, confidence: float) -> Rule:
    """Return the last rule of a sequence up to which all bounds are met.

    Testing in an order that does not depend on the labels, up to the first failure, keeps the
    confidence of a single test (Angelopoulos et al. 2021, "Learn then test", arXiv 2110.01052).

    Parameters
    ----------
    rules : list of Rule
        Rules, from the one that asks most.
    max_error : float
        Largest error rate.
    confidence : float
        Probability with which it is kept.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError
        If the first bound is not met.
    """
    chosen = None
    for rule in rules:
        if rule.error.upper(confidence) > max_error:
            break
        chosen = rule
    if chosen is None:
        raise ValueError(_out_of_reach(rules[0], max_error, confidence))
    return chosen


def _out_of_reach(rule: Rule, max_error: float, confidence: float) -> str:
    n_sessions = round(rule.error.n_sessions) - 1
    start = (
        f"max_error={max_error} cannot be promised: asking the LLM about {rule.share:.0%} of the "
        f"utterances, the error on {n_sessions} labelled sessions is about {rule.error.rate:.3f}, "
        f"and with confidence {confidence} at most {rule.error.upper(confidence):.3f}."
    )
    needed = sessions_needed(rule.error, max_error, confidence)
    if needed is None:
        return f"{start} More labels would not change that; pass a larger max_error."
    return (
        f"{start} If the error stays the same, {needed - n_sessions} more labelled sessions would "
        "do; label more, or pass a larger max_error."
    )
