"""scikit-learn's estimator checks for the classifier of texts, on texts made of their numbers."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

from skpref import PairwisePreferenceTextClassifier
from tests.tiny_model import WORDS

# Why a check cannot hold, by its name.
REASONS = {
    "check_classifiers_train": "one epoch of a network of random weights does not learn to read "
    "numbers that are written as words",
    "check_sample_weight_equivalence_on_dense_data": "the encoder drops units at random, for two "
    "copies of a row not the same as for one of twice the weight",
}


class OnNumbers(PairwisePreferenceTextClassifier):
    """Reads each row of numbers as a text, since scikit-learn has no texts to give."""

    def _validate_X(self, X, network=None, *, reset=False, to_train=False):
        X = validate_data(self, X, dtype=float, reset=reset)
        words = sorted(set(WORDS.split()))
        steps = np.floor(4 * X[:, :8]).astype(int) + 7 * np.arange(X[:, :8].shape[1])
        texts = [" ".join(words[i % len(words)] for i in row) for row in steps.tolist()]
        return super()._validate_X(texts)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.string = False
        tags.input_tags.two_d_array = True
        return tags


@pytest.mark.slow
def test_checks_of_scikit_learn_hold_on_texts_but_for_a_reason(tiny_model):
    clf = OnNumbers(tiny_model, max_epochs=1, batch_size=256, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(clf, on_fail=None, on_skip=None)
    failed = {result["check_name"] for result in results if result["status"] == "failed"}
    assert failed == set(REASONS)
    assert sum(result["status"] == "passed" for result in results) > 50


def test_the_classifier_of_texts_says_that_it_takes_texts():
    with pytest.warns(SkipTestWarning, match="string=True"):
        results = check_estimator(PairwisePreferenceTextClassifier(), on_skip="warn")
    assert {result["status"] for result in results} == {"passed"}
