"""The order of the scores changes nothing, and every container is read."""

import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import DataConversionWarning

from skpref import LLMScoreCalibrator, ScoreReliabilityDisplay, SessionTrajectoryDisplay
from skpref.datasets import make_dialogues
from skpref.inspection import preference_noise, prompt_agreement
from skpref.inspection._scores import read_scores
from tests.containers import INTEGERS, STRINGS, cases, hold
from tests.helpers import raises

NAMES = np.array(["low", "medium", "high"])


@pytest.fixture(scope="module")
def data():
    return make_dialogues(30, n_classes=3, labelled_fraction=0.6, missing_rate=0.1, random_state=0)


@pytest.fixture(scope="module")
def binary():
    return make_dialogues(30, labelled_fraction=0.6, missing_rate=0.1, random_state=0)


@pytest.fixture(autouse=True)
def _no_window():
    with mpl.rc_context({"backend": "agg"}):
        plt.switch_backend("agg")
        yield
        plt.close("all")


def named(data):
    return np.append(NAMES, None)[data.y]


def test_noise_does_not_depend_on_the_order_of_the_scores(data):
    given = (named(data), data.groups)
    expected = preference_noise(
        data.llm_scores, *given, classes=NAMES, random_state=0, n_bootstrap=5
    )
    for order in ([1, 0, 2], [2, 1, 0]):
        scores = data.llm_scores[:, :, order]
        found = preference_noise(
            scores, *given, classes=NAMES[order], random_state=0, n_bootstrap=5
        )
        assert found.within.error == expected.within.error
        assert found.across.error == expected.across.error
        assert_array_equal(found.by_gap.within, expected.by_gap.within)


def test_noise_of_one_score_per_class_does_not_depend_on_the_order(binary):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(len(binary.y), 2)) + np.eye(2)[binary.y_true]
    options = {"layout": "classes", "random_state": 0, "n_bootstrap": 5}
    expected = preference_noise(scores, binary.y, binary.groups, classes=[0, 1], **options)
    found = preference_noise(scores[:, ::-1], binary.y, binary.groups, classes=[1, 0], **options)
    assert found.within.error == expected.within.error


@pytest.mark.slow
@pytest.mark.parametrize("as_ratings", [False, True])
def test_agreement_does_not_depend_on_the_order_of_the_scores(binary, as_ratings):
    positive = binary.llm_scores[:, :, 1] * (5 if as_ratings else 1)
    negative = -positive if as_ratings else 1 - positive
    given = {"y": binary.y, "groups": binary.groups, "n_bootstrap": 5, "random_state": 0}
    expected = prompt_agreement(positive, classes=[0, 1], **given)
    found = prompt_agreement(negative, classes=[1, 0], **given)
    for name in ("accuracy", "concordance", "correlation", "coverage"):
        assert_allclose(found[name], expected[name], atol=1e-9)
    assert_allclose(found.drop.log_loss.mean, expected.drop.log_loss.mean, atol=1e-6)


@pytest.mark.slow
def test_agreement_gives_a_calibrator_the_sorted_classes(data):
    order = [2, 0, 1]
    given = {"y": named(data), "groups": data.groups, "n_bootstrap": 5, "random_state": 0}
    expected = prompt_agreement(data.llm_scores, classes=NAMES, **given)
    found = prompt_agreement(
        data.llm_scores[:, :, order],
        classes=NAMES[order],
        calibrator=LLMScoreCalibrator(classes=NAMES[order]),
        **given,
    )
    assert_allclose(found.drop.log_loss.mean, expected.drop.log_loss.mean, atol=1e-9)


@pytest.mark.slow
def test_reliability_does_not_depend_on_the_order_of_the_scores(data):
    order = [2, 0, 1]
    scores, y = data.llm_scores[:, :, order], named(data)
    for groups in (None, data.groups):
        one = LLMScoreCalibrator(classes=NAMES).fit(data.llm_scores, y)
        two = LLMScoreCalibrator(classes=NAMES[order]).fit(scores, y)
        options = {"groups": groups, "pos_label": "low"}
        expected = ScoreReliabilityDisplay.from_estimator(one, data.llm_scores, y, **options)
        found = ScoreReliabilityDisplay.from_estimator(two, scores, y, **options)
        for name in ("ensemble", "calibrated"):
            assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-6)


class Fixed:
    """Classifier with given probabilities."""

    def __init__(self, classes, prob):
        self.classes, self.prob = classes, prob
        self.classes_ = np.unique(classes)

    def predict_proba(self, X):
        return self.prob[: len(X)]


def test_trajectory_does_not_depend_on_the_order_of_the_scores(data):
    prob = np.full((len(data.y), 3), 1 / 3)
    order = [2, 0, 1]
    options = {"pos_label": "low"}
    expected = SessionTrajectoryDisplay.from_estimator(
        Fixed(NAMES, prob), data.X[:5], llm_scores=data.llm_scores[:5], **options
    )
    found = SessionTrajectoryDisplay.from_estimator(
        Fixed(NAMES[order], prob), data.X[:5], llm_scores=data.llm_scores[:5, :, order], **options
    )
    mean = LLMScoreCalibrator("mean", classes=[0, 1, 2]).fit_transform(data.llm_scores)[:5, 0]
    assert_allclose(expected.scores["LLM"], mean)
    assert_allclose(found.scores["LLM"], mean)


@pytest.mark.parametrize(("kind", "make"), cases(strings=STRINGS, integers=INTEGERS))
def test_labels_of_every_container(kind, make):
    values = {"strings": ["b", "a", "b", None], "integers": [3, 1, 3, -1]}[kind]
    y = hold(make, values)
    if y is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataConversionWarning)
            _, classes, codes = read_scores(np.eye(4), y, None)
            shown = SessionTrajectoryDisplay.from_predictions(
                None, {"student": np.ones(4)}, make(values), pos_label=values[0]
            )
        assert classes.tolist() == sorted(values[:2])
        assert codes.tolist() == [1, 0, 1, -1]
        assert_array_equal(shown.is_class, [1, 0, 1, np.nan])


def test_scores_of_every_kind_of_table(binary):
    table = binary.llm_scores[:, :, 1]
    gaps = np.isnan(table)
    options = {"classes": [0, 1], "random_state": 0, "n_bootstrap": 5}
    expected = preference_noise(table, binary.y, binary.groups, **options)
    for scores in (
        np.ma.masked_array(np.where(gaps, 9.0, table), mask=gaps),
        pd.DataFrame(table).astype("Float64"),
        pl.DataFrame(table),
        torch.tensor(table),
    ):
        found = preference_noise(scores, binary.y, binary.groups, **options)
        assert found.within.error == expected.within.error


def test_lines_of_every_kind_of_column():
    gap = [0.5, np.nan]
    for score in (
        np.ma.masked_array([0.5, 9.0], mask=[False, True]),
        pd.Series([0.5, None], dtype="Float64"),
        pl.Series([0.5, None]),
        torch.tensor(gap, requires_grad=True),
    ):
        shown = SessionTrajectoryDisplay.from_predictions(
            iter([3, 1]), {"LLM": score}, texts=pl.Series(["a", "b"])
        )
        assert_array_equal(shown.scores["LLM"], gap)
        assert shown.texts == ["a", "b"]
    with raises("scores['LLM'] cannot be read as numbers"):
        SessionTrajectoryDisplay.from_predictions(None, {"LLM": ["a", "b"]})


def test_no_rows_are_refused():
    with raises("llm_scores has no rows; pass the scores of at least one utterance"):
        prompt_agreement(np.zeros((0, 2, 2)))
