"""Find the classifier in a pipeline, and what inspection needs to know about it."""

from typing import Any

from sklearn.base import clone
from sklearn.pipeline import Pipeline

from skpref._pipelines import last_step
from skpref._student._base import BasePreferenceClassifier
from skpref._student._text_classifier import PairwisePreferenceTextClassifier
from skpref._student._training_set import make_calibrator


def find_classifier(estimator: Any) -> tuple[str, BasePreferenceClassifier]:
    """Return the prefix of the classifier's parameters in an estimator, and the classifier.

    Parameters
    ----------
    estimator : object
        Classifier, or pipeline (of pipelines) with one as its last step.

    Returns
    -------
    prefix : str
        "step__" for each pipeline on the way to the classifier; empty for a bare classifier.
    classifier : PairwisePreferenceClassifier or PairwisePreferenceTextClassifier
        The classifier itself, not a copy.

    Raises
    ------
    ValueError
        If the last step is something else.
    """
    prefix, step = last_step(estimator)
    if not isinstance(step, BasePreferenceClassifier):
        raise ValueError(
            f"estimator={estimator!r:.200} must be a PairwisePreferenceClassifier, or a Pipeline "
            f"whose last step is one, but that is a {type(step).__name__}; of a search, pass its "
            "best_estimator_."
        )
    return prefix, step


def replace_classifier(estimator: Any, prefix: str, classifier: Any) -> Any:
    """Return a clone of the estimator with another classifier at the place of `prefix`."""
    if not prefix:
        return classifier
    return clone(estimator).set_params(**{prefix.removesuffix("__"): classifier})


def steps_before(estimator: Any) -> Pipeline | None:
    """Return the steps of a pipeline before the classifier, unfitted; None if there are none."""
    steps: list[Any] = []
    while isinstance(estimator, Pipeline):
        steps += [step for _, step in estimator.steps[:-1]]
        estimator = estimator.steps[-1][1]
    if not steps:
        return None
    return clone(Pipeline([(f"step {i}", step) for i, step in enumerate(steps)]))


def takes_texts(classifier: BasePreferenceClassifier) -> bool:
    """Return whether the classifier learns from texts, not from features."""
    return isinstance(classifier, PairwisePreferenceTextClassifier)


def trains_by_lbfgs(classifier: BasePreferenceClassifier) -> bool:
    """Return whether stage 1 is L-BFGS, which iterates over all rows, not epochs of batches."""
    return not takes_texts(classifier) and classifier._chosen_solver() == "lbfgs"


def new_calibrator(classifier: BasePreferenceClassifier) -> Any:
    """Return the classifier's calibrator, or its default, unfitted."""
    return make_calibrator(classifier.calibrator)
