"""From the arguments of `fit` to training rows: read, order, calibrate, smooth."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from skpref._calibrator import LLMScoreCalibrator
from skpref._columns import read_numbers
from skpref._indicator import is_multilabel, read_indicator, soft_of_indicator
from skpref._sampler import IntraSessionPairSampler
from skpref._sessions import renumber
from skpref._smoother import KNNLabelSmoother
from skpref._student._classes import label_scores, read_exclusions, rule_out
from skpref._student._output import n_scores_for
from skpref._typing import BoolArray, FloatArray, IntArray
from skpref._validation import (
    check_groups,
    check_labels,
    check_llm_scores,
    check_same_length,
    check_weights,
    labels_of_codes,
    plain_output,
    score_order,
    sort_scores,
)

_ROUTING_HELP = (
    "With metadata routing on (sklearn.set_config(enable_metadata_routing=True)), pass groups= and "
    "llm_scores= to the outer fit, or as params={...} to cross_validate. With routing off, "
    "GridSearchCV gives groups to the splitter only, so name the step as well: "
    "search.fit(X, y, groups=g, clf__groups=g, clf__llm_scores=s)."
)

_DECIMALS = 9  # of soft labels

# Estimators that None means, by parameter.
DEFAULT_PARTS = {
    "calibrator": LLMScoreCalibrator,
    "smoother": KNNLabelSmoother,
    "pair_sampler": IntraSessionPairSampler,
}


class TrainingSet(NamedTuple):
    """Training rows in canonical order; the rows of a session stand together.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_rows, n_features), or ndarray of object, shape (n_rows,)
        Features, texts or token ids.
    codes : ndarray of int, shape (n_rows,) or (n_rows, n_labels)
        Human labels as class positions, -1 where unlabelled. With several labels per row, 1 where
        a label applies, 0 where it does not.
    soft : ndarray of shape (n_rows, n_classes)
        Soft labels; a NaN row is unknown. With several labels per row, the probability that each
        applies, NaN where unknown.
    weight : ndarray of shape (n_rows,)
        Row weights, all positive.
    session : ndarray of int, shape (n_rows,)
        Session codes, ascending.
    has_scores : bool
        Whether the soft labels come from LLM scores, not from the human labels.
    """

    X: Any
    codes: IntArray
    soft: FloatArray
    weight: FloatArray
    session: IntArray
    has_scores: bool

    def take(self, rows) -> "TrainingSet":
        """Return the given rows."""
        X, codes, soft, weight, session = (part[rows] for part in self[:-1])
        return TrainingSet(X, codes, soft, weight, session, self.has_scores)

    @property
    def multilabel(self) -> bool:
        """Whether several labels may apply to a row."""
        return self.codes.ndim == 2

    def has_label(self) -> BoolArray:
        """Return which rows have a human label, or several."""
        known = self.codes >= 0
        return np.asarray(known.any(axis=1)) if self.multilabel else known

    def has_soft_label(self) -> BoolArray:
        """Return which rows have a soft label, or several."""
        known = ~np.isnan(self.soft)
        return np.asarray(known.any(axis=1) if self.multilabel else known.all(axis=1))

    def softly_labelled(self) -> "TrainingSet":
        """Return the rows that have a soft label."""
        return self.take(self.has_soft_label())

    def labelled(self) -> "TrainingSet":
        """Return the rows that have a human label, which becomes their soft label."""
        rows = self.take(self.has_label())
        return rows._replace(soft=as_soft_labels(rows.codes, self.soft.shape[1]))

    def with_labels_as_soft(self) -> "TrainingSet":
        """Return all rows; those with a human label have it as their soft label."""
        return self._replace(soft=labels_in_place(self.soft, self.codes))

    def problems(self, class_weight: FloatArray) -> list["Problem"]:
        """Return the problems that stage 2 solves one by one: one, or a binary one per label."""
        if not self.multilabel:
            return [Problem(slice(None), self, class_weight)]
        return [
            Problem(
                slice(k, k + 1),
                self._replace(codes=codes, soft=np.column_stack([1 - soft, soft])),
                class_weight[k],
            )
            for k, (codes, soft) in enumerate(zip(self.codes.T, self.soft.T, strict=True))
        ]


class Problem(NamedTuple):
    """A problem of exclusive classes that some scores of the network are for.

    Parameters
    ----------
    columns : slice
        The scores.
    rows : TrainingSet
        All rows, with the human and soft labels of this problem.
    class_weight : ndarray of shape (n_classes,)
        Weight of each of its classes.
    """

    columns: slice
    rows: TrainingSet
    class_weight: FloatArray


class Prepared(NamedTuple):
    """Training rows and by-products of preparing them.

    Parameters
    ----------
    training : TrainingSet
        The rows of positive weight.
    order : ndarray of int, shape (n_rows,)
        Their positions among the rows given to `fit`.
    n_given : int
        Number of rows given to `fit`.
    classes : ndarray of shape (n_classes,)
        Class labels.
    calibrator : transformer or None
        The fitted calibrator; None if there are no LLM scores.
    """

    training: TrainingSet
    order: IntArray
    n_given: int
    classes: np.ndarray
    calibrator: Any

    def n_scores(self) -> int:
        """Return the number of scores per row that the network must give."""
        return n_scores_for(len(self.classes), self.training.multilabel)

    def soft_labels(self) -> FloatArray:
        """Return the soft labels of the rows given to `fit`, NaN for rows of zero weight."""
        soft = np.full((self.n_given, len(self.classes)), np.nan)
        soft[self.order] = self.training.soft
        return soft


def prepare(
    X,
    y,
    groups,
    llm_scores,
    sample_weight,
    *,
    classes,
    calibrator,
    smoother,
    features_to_smooth: Callable,
    fitted_calibrator=None,
    exclude=None,
) -> Prepared:
    """Read the arguments of `fit`, bring the rows to canonical order and soften their labels.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_rows, n_features), or ndarray of object, shape (n_rows,)
        Validated features or texts.
    y, groups, llm_scores, sample_weight : array-like or None
        As for `PairwisePreferenceClassifier.fit`.
    classes : array-like of shape (n_classes,) or None
        Class labels in the order of the last axis of `llm_scores`.
    calibrator, smoother : transformer or None
        As `make_calibrator` and `make_smoother` return them. They are fitted in place.
    features_to_smooth : callable
        From rows of `X` to the features that their soft labels are smoothed over.
    fitted_calibrator : transformer or None, default=None
        Used as it is, in place of `calibrator`.
    exclude : array-like or None, default=None
        As for `PairwisePreferenceClassifier.fit`.

    Returns
    -------
    Prepared
        The training rows.

    Raises
    ------
    ValueError
        If `llm_scores` come without `groups`, or arguments do not match.
    """
    n_rows = X.shape[0]
    if llm_scores is not None:
        if groups is None:
            raise ValueError(
                "llm_scores was given without groups (the session ids), so pairs would cross "
                f"sessions. {_ROUTING_HELP}"
            )
        llm_scores = check_llm_scores(llm_scores, n_rows)
    session = np.zeros(n_rows, dtype=int) if groups is None else check_groups(groups, n_rows)
    classes, codes, llm_scores, columns = _read_classes(y, n_rows, llm_scores, classes)
    mask = np.zeros((n_rows, len(classes)), dtype=bool)
    if exclude is not None:
        if codes.ndim == 2 or llm_scores is None:
            raise ValueError(
                "exclude rules out classes of rows with llm_scores, of which one applies to each "
                "row. If several labels may apply, mark in y by 0 what does not; without "
                "llm_scores, every row has its label."
            )
        mask = read_exclusions(exclude, columns, codes)
    weight = check_weights(sample_weight, n_rows)
    order = np.flatnonzero(weight)
    if not len(order):
        raise ValueError("sample_weight is zero on every row; give some row a weight.")
    order = order[canonical_order(X[order], session[order])]
    X, codes, weight, mask = X[order], codes[order], weight[order], mask[order]
    session = renumber(session[order])
    if llm_scores is None:
        if len(np.unique(codes[codes >= 0])) < 2:
            raise ValueError("y has one class only on the rows of positive sample_weight.")
        soft = as_soft_labels(codes, len(classes))
        fitted_calibrator = None
    else:
        scores = llm_scores[order]
        if fitted_calibrator is None:
            soft, fitted_calibrator = calibrate(calibrator, scores, codes, session, classes)
        else:
            soft = read_numbers(fitted_calibrator.transform(scores), "the output of calibrator")
    if mask.any():
        soft = rule_out(soft, mask)
    training = TrainingSet(X, codes, soft, weight, session, llm_scores is not None)
    if not training.has_soft_label().any():
        raise ValueError(
            "llm_scores has no row with a score, so there are no soft labels to learn; pass "
            "the scores of at least one row or, if y labels each row, llm_scores=None."
        )
    if smoother is not None and training.has_scores:
        soft = smooth(smoother, features_to_smooth(X), training)
        soft = rule_out(soft, mask) if mask.any() else soft
    # Soft labels that differ by rounding alone are a tie, not a pair.
    training = training._replace(soft=np.round(soft, _DECIMALS))
    return Prepared(training, order, n_rows, classes, fitted_calibrator)


def _read_classes(
    y, n_rows: int, llm_scores, classes
) -> tuple[np.ndarray, IntArray, FloatArray | None, IntArray]:
    """Return the sorted class labels, labels as positions in them, and scores in their order.

    Last, the position of each class among the scores as given. The names of several labels per row
    stay in the order of the columns.
    """
    if is_multilabel(y, classes, llm_scores):
        labels, codes = read_indicator(y, classes)
        check_same_length(len(codes), "y", n_rows, "X")
        llm_scores = None if llm_scores is None else label_scores(llm_scores, labels)
        return labels, codes, llm_scores, np.arange(len(labels))
    partial = llm_scores is not None
    y = np.full(n_rows, -1) if y is None else y
    labels, codes = check_labels(y, classes=classes, partial=partial)
    check_same_length(len(codes), "y", n_rows, "X")
    columns: IntArray = np.arange(len(labels))
    if partial:
        n_scores = llm_scores.shape[2] if llm_scores.ndim == 3 else 2
        labels, columns = score_order(labels, classes, n_scores)
        llm_scores = sort_scores(llm_scores, columns)
    if len(labels) < 2:
        raise ValueError(
            f"y has one class only ({labels.tolist()!r}); a classifier needs at least 2 classes."
        )
    return labels, codes, llm_scores, columns


def calibrate(
    calibrator: Any,
    scores: FloatArray,
    codes: IntArray,
    session: IntArray,
    classes: np.ndarray,
) -> tuple[FloatArray, Any]:
    """Fit a calibrator and return what it makes of the scores that it is fitted on.

    Parameters
    ----------
    calibrator : transformer
        Unfitted calibrator, which is fitted in place.
    scores : ndarray of shape (n_rows, n_prompts, n_classes) or (n_rows, n_prompts)
        Scores in the order of the classes.
    codes : ndarray of int, shape (n_rows,) or (n_rows, n_labels)
        Human labels as in `TrainingSet`.
    session : ndarray of int, shape (n_rows,)
        Session codes.
    classes : ndarray of shape (n_classes,)
        Class labels.

    Returns
    -------
    prob : ndarray of shape (n_rows, n_classes)
        Probabilities, cross-fitted by session.
    calibrator : transformer
        The calibrator.
    """
    if "classes" in calibrator.get_params():
        calibrator.set_params(classes=classes)
    multilabel = codes.ndim == 2
    labels = soft_of_indicator(codes) if multilabel else labels_of_codes(codes, classes)
    soft = calibrator.fit_transform(scores, labels, groups=session)
    return read_numbers(soft, "the output of calibrator"), calibrator


def smooth(smoother: Any, features, training: TrainingSet) -> FloatArray:
    """Return the soft labels of the training rows, smoothed over features.

    Parameters
    ----------
    smoother : transformer
        Unfitted smoother, which is fitted in place.
    features : {ndarray, CSR matrix} of shape (n_rows, n_features)
        Features of the rows.
    training : TrainingSet
        The rows.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        Soft labels.
    """
    if training.multilabel and "multilabel" in smoother.get_params():
        smoother.set_params(multilabel=True)
    soft = smoother.fit_transform(features, training.soft, groups=training.session)
    return read_numbers(soft, "the output of smoother")


def as_soft_labels(codes: IntArray, n_classes: int) -> FloatArray:
    """Return human labels as soft labels.

    Parameters
    ----------
    codes : ndarray of int, shape (n_rows,) or (n_rows, n_labels)
        Human labels as in `TrainingSet`, at least one for each row.
    n_classes : int
        Number of classes.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        Soft labels; with several labels per row, NaN where unknown.
    """
    return soft_of_indicator(codes) if codes.ndim == 2 else np.eye(n_classes)[codes]


def labels_in_place(soft: FloatArray, codes: IntArray) -> FloatArray:
    """Return soft labels in which human labels replace the soft labels of their rows.

    Parameters
    ----------
    soft : ndarray of shape (n_rows, n_classes)
        Soft labels.
    codes : ndarray of int, shape (n_rows,) or (n_rows, n_labels)
        Human labels as in `TrainingSet`.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        The soft labels.
    """
    if codes.ndim == 2:
        return np.where(codes >= 0, codes, soft)
    one_hot = np.eye(soft.shape[1], dtype=soft.dtype)[codes]
    return np.where((codes >= 0)[:, None], one_hot, soft)


def canonical_order(X, session: IntArray) -> IntArray:
    """Return an order of the rows that depends on their content only, sessions together.

    Batches and folds are drawn from this order, so neither shuffling the rows nor renaming the
    sessions changes the fitted model.

    Parameters
    ----------
    X : {ndarray, CSR matrix} of shape (n_rows, n_features), or ndarray of str, shape (n_rows,)
        Features or texts.
    session : ndarray of int, shape (n_rows,)
        Session codes.

    Returns
    -------
    ndarray of int, shape (n_rows,)
        The order.
    """
    content = X
    if X.ndim == 2:  # texts have an order of their own
        direction = np.random.RandomState(0).standard_normal(X.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):  # of values near the largest float
            content = X.astype(np.float64) @ direction
    by_content = np.argsort(content, kind="stable")
    rank = renumber(session[by_content])
    return by_content[np.argsort(rank, kind="stable")]


def _part(value, name: str):
    """Return a clone of a calibrator, smoother or pair sampler; None for "passthrough"."""
    if isinstance(value, str):
        return None
    return plain_output(DEFAULT_PARTS[name]() if value is None else value)


def make_calibrator(value):
    """Return the unfitted calibrator that the parameter `calibrator` means.

    Parameters
    ----------
    value : None, "passthrough" or transformer
        The parameter.

    Returns
    -------
    transformer
        A new estimator.
    """
    if isinstance(value, str):
        # Scores of several prompts must become one distribution even without calibration.
        return plain_output(LLMScoreCalibrator("mean", score_type="probability"))
    return _part(value, "calibrator")


def make_smoother(value, random_state):
    """Return the unfitted smoother that the parameter `smoother` means.

    Parameters
    ----------
    value : None, "passthrough" or transformer
        The parameter.
    random_state : int, RandomState instance or None
        Seed of a smoother that has none.

    Returns
    -------
    transformer or None
        A new estimator, or None for "passthrough".
    """
    smoother = _part(value, "smoother")
    if smoother is not None and smoother.get_params().get("random_state", 0) is None:
        smoother.set_params(random_state=random_state)
    return smoother


def make_pair_sampler(value):
    """Return the pair sampler that the parameter `pair_sampler` means.

    Parameters
    ----------
    value : None, "passthrough" or IntraSessionPairSampler
        The parameter.

    Returns
    -------
    IntraSessionPairSampler or None
        A new sampler, or None for "passthrough".
    """
    return _part(value, "pair_sampler")


def check_trainable(training: TrainingSet, stage2, pairwise_weight: float, pair_sampler) -> None:
    """Raise if the rows lack what the parameters need.

    Parameters
    ----------
    training : TrainingSet
        The rows.
    stage2, pairwise_weight, pair_sampler : object
        Parameters of `PairwisePreferenceClassifier`.

    Raises
    ------
    ValueError
        If stage 2 needs labels and there are none, or there is no valid pair.
    """
    if stage2 in ("offsets", "head", "finetune") and not training.has_label().any():
        raise ValueError(
            f"stage2={stage2!r} needs human labels but y has none; label some rows, or "
            "pass stage2='auto' to fit the offsets on the soft labels."
        )
    if pairwise_weight:
        check_has_pairs(training, getattr(pair_sampler, "min_margin", 0.0))


def check_has_pairs(training: TrainingSet, min_margin: float) -> None:
    """Raise if no session holds two rows whose soft labels differ enough.

    Parameters
    ----------
    training : TrainingSet
        The rows.
    min_margin : float
        Least difference of the soft labels; with 0, any difference above zero.

    Raises
    ------
    ValueError
        If there is no valid pair.
    """
    _, _, soft, _, session, _ = training.softly_labelled()
    starts = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
    spread = np.fmax.reduceat(soft, starts) - np.fmin.reduceat(soft, starts)
    if not ((spread >= min_margin).any() if min_margin > 0 else (spread > 0).any()):
        raise ValueError(
            "groups leave no valid pair: in no session do two rows differ in their soft labels "
            f"by min_margin={min_margin} or more. Check that groups are session ids, not row "
            "ids, lower min_margin, or pass pairwise_weight=0 for pointwise training."
        )


def hold_out_sessions(
    training: TrainingSet, fraction: float, *, needed: bool, wanted: bool, rng
) -> BoolArray:
    """Choose the rows of the sessions that stage 1 does not train on, labelled sessions first.

    Parameters
    ----------
    training : TrainingSet
        The rows.
    fraction : float
        Share of the sessions.
    needed : bool
        Whether at least one session is held out, or rows of the only one, as early stopping needs.
    wanted : bool
        Whether any session is held out if none is needed.
    rng : RandomState
        Draws the sessions.

    Returns
    -------
    ndarray of bool, shape (n_rows,)
        Whether each row is held out.
    """
    # Of the sessions that stage 1 learns from, since without them the others may leave it nothing.
    unit, learnt = training.session, training.has_soft_label()
    if needed and len(np.unique(unit[learnt])) == 1:  # one session cannot be held out whole
        unit = np.arange(len(unit))
    useful = np.unique(unit[learnt])
    n_wanted = round(fraction * len(useful)) if wanted or needed else 0
    n_wanted = min(max(n_wanted, int(needed)), len(useful) - 1)
    order = rng.permutation(useful)
    labelled = np.isin(order, unit[training.has_label()])
    return np.isin(unit, order[np.argsort(~labelled, kind="stable")][:n_wanted])
