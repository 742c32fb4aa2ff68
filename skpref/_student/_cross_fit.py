"""The classifier of a cascade, on rows that it has not seen."""

from typing import Any, NamedTuple

import numpy as np
import sklearn
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.parallel import Parallel, delayed

from skpref._indicator import join_label_tables
from skpref._pipelines import last_step
from skpref._pools import number_by_content
from skpref._progress import auto_bar, wants_lines
from skpref._sklearn import _safe_indexing
from skpref._typing import BoolArray, FloatArray, IntArray
from skpref._validation import labels_of_codes, read_numbers
from skpref.model_selection import LabelledGroupKFold


class Rows(NamedTuple):
    """The arguments of `fit`, read."""

    X: Any
    codes: IntArray  # (n_rows,), or (n_rows, n_labels) of several labels
    session: IntArray
    scores: FloatArray
    classes: np.ndarray

    @property
    def multilabel(self) -> bool:
        """Whether any number of the classes may apply to a row."""
        return self.codes.ndim == 2

    def labels(self, chosen: IntArray) -> np.ndarray:
        """Return the labels of some rows as a classifier takes them."""
        codes = self.codes[chosen]
        return codes if self.multilabel else labels_of_codes(codes, self.classes)

    def labelled(self) -> BoolArray:
        """Return which rows have a label, any if there are several."""
        return self.codes.max(axis=1) >= 0 if self.multilabel else self.codes >= 0

    def labelled_wholly(self) -> BoolArray:
        """Return which rows have a label, all of them if there are several."""
        return self.codes.min(axis=1) >= 0 if self.multilabel else self.codes >= 0


def with_classes(classifier: Any, classes: np.ndarray) -> Any:
    """Return a clone that knows all classes, if it has such a parameter.

    Parameters
    ----------
    classifier : classifier or Pipeline
        The classifier.
    classes : ndarray of shape (n_classes,)
        The classes.

    Returns
    -------
    classifier or Pipeline
        The clone.
    """
    classifier = clone(classifier)
    prefix, step = last_step(classifier)
    if "classes" in step.get_params(deep=False):
        classifier.set_params(**{f"{prefix}classes": classes})
    return classifier


def _fit_on(classifier: Any, rows: Rows, chosen: IntArray) -> Any:
    """Fit a clone on some rows, or on the labelled ones among them if it takes no scores."""
    classifier = clone(classifier)
    if isinstance(classifier, FrozenEstimator):
        return classifier
    wanted = get_routing_for_object(classifier).consumes("fit", ["groups", "llm_scores"])
    if "llm_scores" not in wanted:
        chosen = chosen[rows.labelled_wholly()[chosen]]
        if not len(chosen):
            raise ValueError(
                "y has no row in some fold all of whose labels are known, and classifier takes no "
                "llm_scores to learn from; pass one that does, or label rows wholly."
            )
    labels = rows.labels(chosen)
    given = {"groups": rows.session, "llm_scores": rows.scores}
    metadata = {name: given[name][chosen] for name in wanted}
    if "llm_scores" not in wanted:
        labels = np.array(labels.tolist())
    return classifier.fit(_safe_indexing(rows.X, chosen), labels, **metadata)


def probabilities(classifier: Any, X: Any, classes: np.ndarray, multilabel: bool) -> FloatArray:
    """Return the classifier's probabilities of the given classes, or of each of several labels.

    Parameters
    ----------
    classifier : classifier or Pipeline
        A fitted classifier.
    X : {ndarray, CSR matrix, frame, list}
        What it takes.
    classes : ndarray of shape (n_classes,)
        The classes, sorted, or names of the labels.
    multilabel : bool
        Whether any number of them may apply to a row.

    Returns
    -------
    ndarray of shape (n_rows, n_classes)
        The probabilities.

    Raises
    ------
    ValueError
        If the classifier knows other classes, or gives no column for each label.
    """
    if multilabel:
        return _label_probabilities(classifier, X, classes)
    given = read_numbers(classifier.predict_proba(X), "the output of predict_proba")
    known = np.asarray(classifier.classes_).tolist()
    if unknown := set(known) - set(classes.tolist()):
        raise ValueError(
            f"classifier knows classes that y and llm_scores lack: {sorted(unknown, key=repr)!r}; "
            f"the classes are {classes.tolist()!r}. Pass classes=[...] with every label, in the "
            "order of the scores."
        )
    prob = np.zeros((len(given), len(classes)))
    prob[:, [classes.tolist().index(c) for c in known]] = given
    return prob


def _label_probabilities(classifier: Any, X: Any, labels: np.ndarray) -> FloatArray:
    """Return the probability that each label applies."""
    given = join_label_tables(classifier.predict_proba(X), "classifier")
    prob = read_numbers(given, "the output of predict_proba").astype(np.float64)
    if prob.ndim != 2 or prob.shape[1] != len(labels):
        raise ValueError(
            f"classifier gives probabilities of shape {prob.shape}, but y has {len(labels)} "
            "labels; pass a classifier of several labels."
        )
    known = list(classifier.classes_)
    by_name = all(np.ndim(name) == 0 for name in known) and set(known) == set(labels.tolist())
    return prob[:, [known.index(name) for name in labels.tolist()]] if by_name else prob


def _predict_unseen(classifier: Any, rows: Rows, train: IntArray, test: IntArray) -> FloatArray:
    with sklearn.config_context(enable_metadata_routing=True, transform_output="default"):
        fitted = _fit_on(classifier, rows, train)
        return probabilities(fitted, _safe_indexing(rows.X, test), rows.classes, rows.multilabel)


def _split(rows: Rows, cv: int) -> list[tuple[IntArray, IntArray]]:
    """Return training and test rows, the same for any order of the rows and names of sessions."""
    n_folds = min(cv, len(np.unique(rows.session[rows.labelled()])))
    scores = rows.scores.reshape(*rows.scores.shape[:2], -1).astype(np.float64)
    pattern = rows.codes
    if rows.multilabel:
        pattern = np.unique(rows.codes, axis=0, return_inverse=True)[1].ravel()
    number = number_by_content(lambda part: scores[part], [slice(None)], pattern, rows.session)
    order = np.argsort(number, kind="stable")
    folds = LabelledGroupKFold(n_folds).split(order, rows.codes[order], number[order])
    return [(np.sort(order[train]), np.sort(order[test])) for train, test in folds]


def cross_fit(
    classifier: Any, rows: Rows, cv: int, *, n_jobs: int | None, verbose: Any
) -> tuple[FloatArray, Any]:
    """Return the probabilities of each row by a classifier that has not seen its session.

    Parameters
    ----------
    classifier : classifier or Pipeline
        The classifier. A frozen one is used as it is.
    rows : Rows
        The rows.
    cv : int
        Largest number of folds.
    n_jobs : int or None
        Number of fits at the same time.
    verbose : "auto", bool or int
        Whether to show a bar, or to print a line after each fit.

    Returns
    -------
    prob : ndarray of shape (n_rows, n_classes)
        The probabilities.
    classifier : classifier or Pipeline
        A classifier fitted on all rows.
    """
    everything = np.arange(len(rows.codes))
    if isinstance(classifier, FrozenEstimator):
        return probabilities(classifier, rows.X, rows.classes, rows.multilabel), classifier
    folds = _split(rows, cv)
    n_folds = len(folds)
    predictions = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(_predict_unseen)(classifier, rows, *fold) for fold in folds
    )
    prob = np.empty((len(everything), len(rows.classes)))
    with auto_bar(n_folds + 1, "Cascade, fits", verbose) as bar:
        for k, ((_, test), found) in enumerate(zip(folds, predictions, strict=True)):
            prob[test] = found
            bar.update()
            if wants_lines(verbose):
                print(f"cascade: fit {k + 1} of {n_folds + 1}")
        with sklearn.config_context(enable_metadata_routing=True, transform_output="default"):
            fitted = _fit_on(classifier, rows, everything)
    if wants_lines(verbose):
        print(f"cascade: fit {n_folds + 1} of {n_folds + 1}")
    return prob, fitted
