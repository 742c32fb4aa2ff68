"""Test LLMScoreCalibrator."""

import pickle
import re
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags

from skpref._calibrator import LLMScoreCalibrator
from tests.helpers import raises

LABEL_FREE = ["mean", "batch"]
SUPERVISED = ["temperature", "sigmoid", "isotonic", "beta", "log_pool"]
METHODS = LABEL_FREE + SUPERVISED
FALLBACK = r"^method='.*' needs human labels of at least two classes"


def simulate(n=400, n_classes=3, sharpness=(2.0, 1.0, 0.0), bias=None, seed=0):
    """Draw true classes, and probabilities of prompts that see them through noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    sharpness = np.asarray(sharpness)
    logits = rng.normal(size=(n, len(sharpness), n_classes))
    logits += sharpness[:, None] * np.eye(n_classes)[y][:, None]
    if bias is not None:
        logits += bias
    return softmax(logits, axis=2), y


def votes(labels, n_classes):
    """Turn labels (n, n_prompts) into hard votes (n, n_prompts, n_classes); -1 is no vote."""
    one_hot = np.eye(n_classes)[labels]
    one_hot[labels < 0] = np.nan
    return one_hot


def holes(scores, share, seed=0):
    scores = scores.copy()
    scores[np.random.default_rng(seed).random(scores.shape[:2]) < share] = np.nan
    return scores


# --- methods ------------------------------------------------------------------------------------


def test_mean_of_votes_is_the_vote_share_of_the_prompts_that_voted():
    labels = np.array([[0, 0, 1], [2, 2, 2], [1, -1, 2], [-1, -1, 0]])
    prob = LLMScoreCalibrator("mean").fit_transform(votes(labels, 3))
    expected = [[2 / 3, 1 / 3, 0], [0, 0, 1], [0, 0.5, 0.5], [1, 0, 0]]
    assert_allclose(prob, expected)


def test_batch_removes_a_prompts_preference_for_a_class():
    plain, y = simulate(2000)
    biased, _ = simulate(2000, bias=np.array([3.0, 0.0, 0.0]))
    calibrator = LLMScoreCalibrator("batch", score_type="log_odds")
    batch = calibrator.fit_transform(np.log(biased))
    assert_allclose(batch, calibrator.fit_transform(np.log(plain)))
    mean = LLMScoreCalibrator("mean").fit(biased).transform(biased)
    assert (batch.argmax(1) == y).mean() > (mean.argmax(1) == y).mean() + 0.05


@pytest.mark.parametrize("true_temperature", [0.5, 3.0])
def test_temperature_is_recovered(true_temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(5000, 3))
    y = np.array([rng.choice(3, p=p) for p in softmax(logits, axis=1)])
    scores = (logits * true_temperature)[:, None]
    calibrator = LLMScoreCalibrator("temperature", score_type="log_odds").fit(scores, y)
    assert calibrator.temperature_ == pytest.approx(true_temperature, rel=0.1)
    assert_allclose(calibrator.class_bias_, 0)


def test_sigmoid_recovers_slope_and_intercept():
    rng = np.random.default_rng(0)
    score = rng.normal(size=8000)
    y = (rng.random(8000) < expit(2 * score - 1)).astype(int)
    calibrator = LLMScoreCalibrator("sigmoid", score_type="log_odds", C=100)
    calibrator.fit(score[:, None], y)
    grid = np.linspace(-2, 2, 9)
    assert_allclose(calibrator.transform(grid[:, None])[:, 1], expit(2 * grid - 1), atol=0.04)


def test_beta_recovers_an_asymmetric_map():
    rng = np.random.default_rng(0)
    s = rng.uniform(0.01, 0.99, size=8000)
    truth = expit(2 * np.log(s) - 0.5 * np.log1p(-s) + 0.3)
    y = (rng.random(8000) < truth).astype(int)
    calibrator = LLMScoreCalibrator("beta", C=100).fit(s[:, None], y)
    assert_allclose(calibrator.transform(s[:, None])[:, 1], truth, atol=0.05)
    assert calibrator.class_scales_[1] > calibrator.class_scales_[0] >= 0


def test_isotonic_recovers_a_step():
    rng = np.random.default_rng(0)
    s = rng.uniform(size=4000)
    y = (rng.random(4000) < np.where(s > 0.3, 0.8, 0.1)).astype(int)
    calibrator = LLMScoreCalibrator("isotonic").fit(s[:, None], y)
    prob = calibrator.transform([[0.1], [0.6], [0.9]])[:, 1]
    assert_allclose(prob, [0.1, 0.8, 0.8], atol=0.08)


def test_log_pool_recovers_weights_and_bias():
    rng = np.random.default_rng(0)
    log_scores = log_softmax(rng.normal(scale=1.5, size=(8000, 3, 3)), axis=2)
    weights, bias = np.array([1.5, 0.5, 0.0]), np.array([1.0, 0.0, -1.0])
    prob = softmax(np.einsum("npk,p->nk", log_scores, weights) + bias, axis=1)
    y = np.array([rng.choice(3, p=p) for p in prob])
    calibrator = LLMScoreCalibrator(score_type="log_odds", C=10).fit(log_scores, y)
    assert_allclose(calibrator.prompt_weights_, weights, atol=0.1)
    assert_allclose(calibrator.transform(log_scores), prob, atol=0.06)


def test_log_pool_beats_the_mean_with_few_labels():
    scores, y = simulate(2000, sharpness=(2, 2, 0, 0), bias=np.array([1.5, 0, 0]))
    human = np.where(np.arange(2000) < 60, y, -1)
    test = slice(1000, None)
    losses = {
        method: log_loss(
            y[test],
            LLMScoreCalibrator(method).fit(scores[:1000], human[:1000]).transform(scores[test]),
        )
        for method in ["mean", "batch", "log_pool"]
    }
    assert losses["log_pool"] < losses["batch"] < losses["mean"]


def test_log_pool_gives_less_weight_to_useless_and_reversed_prompts():
    scores, y = simulate(1000, sharpness=(1.5, 0.0, -1.5))
    weights = LLMScoreCalibrator().fit(scores, y).prompt_weights_
    assert weights[0] > 5 * weights[1]
    assert weights[2] == 0


def test_one_voter_is_calibrated_to_its_reliability():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=3000)
    vote = np.where(rng.random(3000) < 0.7, y, rng.integers(3, size=3000))
    scores = votes(vote[:, None], 3)
    prob = LLMScoreCalibrator().fit(scores, y).transform(scores)
    reliability = (vote == y).mean()
    assert_allclose(prob[np.arange(3000), vote].mean(), reliability, atol=0.02)
    assert_array_equal(prob.argmax(1), vote)


@pytest.mark.parametrize("method", SUPERVISED)
def test_a_class_without_labels_stays_possible_and_is_not_boosted(method):
    scores, y = simulate(400, sharpness=(1.0, 1.0))
    human = np.where(y == 2, -1, y)
    prob = LLMScoreCalibrator(method, classes=[0, 1, 2]).fit(scores, human).transform(scores)
    assert (prob[:, 2] > 0).all()
    assert prob[:, 2].mean() < 0.4


@pytest.mark.parametrize("method", ["sigmoid", "beta", "temperature", "log_pool"])
def test_smaller_c_stays_closer_to_the_label_free_pool(method):
    scores, y = simulate()
    label_free = LLMScoreCalibrator("batch").fit(scores).transform(scores)
    if method in ("temperature", "log_pool"):
        label_free = np.exp(np.log(scores + 1e-3).mean(axis=1))
        label_free /= label_free.sum(axis=1, keepdims=True)
    distances = [
        np.abs(LLMScoreCalibrator(method, C=C).fit(scores, y).transform(scores) - label_free).max()
        for C in (1e-6, 1e-2, 1.0)
    ]
    assert distances[0] < 1e-3
    assert distances == sorted(distances)


def test_doubling_every_prompt_changes_nothing():
    scores, y = simulate()
    one = LLMScoreCalibrator().fit(scores, y).transform(scores)
    twice = np.concatenate([scores, scores], axis=1)
    assert_allclose(LLMScoreCalibrator().fit(twice, y).transform(twice), one, atol=1e-3)


# --- invariants ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_are_distributions_or_unknown(method, data):
    n, n_prompts, n_classes = (data.draw(st.integers(a, b)) for a, b in [(4, 12), (1, 3), (2, 4)])
    score_type = data.draw(st.sampled_from(["probability", "log_odds", "raw"]))
    low, high = (0, 1) if score_type == "probability" else (-50, 50)
    scores = data.draw(
        arrays(float, (n, n_prompts, n_classes), elements=st.floats(low, high) | st.just(np.nan))
    )
    scores[0] = 0.5
    scores[1] = np.linspace(0.1, 0.9, n_classes)
    y = np.append([0, 1], data.draw(arrays(int, n - 2, elements=st.integers(-1, n_classes - 1))))
    calibrator = LLMScoreCalibrator(method, score_type=score_type, classes=np.arange(n_classes))
    prob = calibrator.fit(scores, y).transform(scores)
    assert prob.shape == (n, n_classes)
    missing = np.isnan(scores).any(axis=2)
    if score_type == "probability":
        missing |= (scores == 0).all(axis=2)
    unknown = missing.all(axis=1)
    assert_array_equal(np.isnan(prob).all(axis=1), unknown)
    assert (prob[~unknown] >= 0).all()
    assert_allclose(prob[~unknown].sum(axis=1), 1)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(
    scores=arrays(float, 30, elements=st.floats(0, 1)),
    y=arrays(int, 28, elements=st.integers(0, 1)),
)
def test_one_binary_prompt_is_calibrated_monotonically(method, scores, y):
    y = np.append(y, [0, 1])
    prob = LLMScoreCalibrator(method, score_type="probability").fit(scores[:, None], y)
    grid = np.linspace(0, 1, 50)[:, None]
    assert (np.diff(prob.transform(grid)[:, 1]) >= -1e-9).all()


@pytest.mark.parametrize("method", METHODS)
def test_row_order_does_not_matter(method):
    scores, y = simulate()
    order = np.random.default_rng(1).permutation(len(y))
    one = LLMScoreCalibrator(method).fit(scores, y).transform(scores)
    two = LLMScoreCalibrator(method).fit(scores[order], y[order]).transform(scores)
    assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_prompt_that_never_answers_changes_nothing(method):
    scores, y = simulate()
    silent = np.insert(scores, 1, np.nan, axis=1)
    expected = LLMScoreCalibrator(method).fit(scores, y).transform(scores)
    calibrator = LLMScoreCalibrator(method).fit(silent, y)
    assert_allclose(calibrator.transform(silent), expected, atol=1e-6)
    late = np.insert(scores, 1, 1 / 3, axis=1)
    assert_allclose(calibrator.transform(late), expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_prompt_that_would_have_agreed_changes_nothing(method):
    scores, y = simulate(sharpness=(1.0,))
    copies = np.repeat(scores, 3, axis=1)
    calibrator = LLMScoreCalibrator(method).fit(copies, y)
    fewer = copies.copy()
    fewer[::2, 0] = fewer[::3, 2] = np.nan
    assert_allclose(calibrator.transform(fewer), calibrator.transform(copies))


@pytest.mark.parametrize("method", METHODS)
def test_a_partly_missing_vector_is_a_missing_prompt(method):
    scores, y = simulate()
    part, whole = scores.copy(), scores.copy()
    part[::3, 0, 1] = np.nan
    whole[::3, 0] = np.nan
    calibrator = LLMScoreCalibrator(method)
    assert_allclose(calibrator.fit_transform(part, y), calibrator.fit_transform(whole, y))


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_scores_does_not_change_the_columns(method):
    scores, y = simulate()
    names = np.array(["b", "a", "c"])
    order = [2, 0, 1]
    one = LLMScoreCalibrator(method, classes=names).fit(scores, names[y])
    two = LLMScoreCalibrator(method, classes=names[order]).fit(scores[:, :, order], names[y])
    assert_array_equal(one.classes_, ["a", "b", "c"])
    assert_array_equal(two.classes_, ["a", "b", "c"])
    expected = LLMScoreCalibrator(method).fit(scores[:, :, [1, 0, 2]], names[y])
    assert_allclose(one.transform(scores), two.transform(scores[:, :, order]), atol=1e-12)
    assert_allclose(one.transform(scores), expected.transform(scores[:, :, [1, 0, 2]]), atol=1e-12)
    for name in ("prompt_offsets_", "class_bias_"):
        if hasattr(one, name):
            assert_allclose(getattr(one, name), getattr(expected, name), atol=1e-12)


@pytest.mark.parametrize("score_type", ["probability", "log_odds", "raw"])
def test_two_dimensions_hold_the_scores_of_the_second_class_given(score_type):
    scores, y = simulate(n_classes=2)
    labels = np.array(["negative", "positive"])[y]
    options = {"score_type": score_type}
    one = LLMScoreCalibrator(classes=["negative", "positive"], **options)
    two = LLMScoreCalibrator(classes=["positive", "negative"], **options)
    table, other = scores[:, :, 1], scores[:, :, 0]
    if score_type == "log_odds":
        table, other = (log_softmax(scores, axis=2) @ [-1, 1] * s for s in (1, -1))
    assert_array_equal(two.fit(other, labels).classes_, ["negative", "positive"])
    assert_allclose(one.fit(table, labels).transform(table), two.transform(other), atol=1e-4)


def test_columns_of_prompts_and_classes_are_in_the_order_of_classes():
    scores, y = simulate()
    calibrator = LLMScoreCalibrator(classes=[2, 0, 1]).fit(scores[:, :, [2, 0, 1]], y)
    table = LLMScoreCalibrator(classes=[2, 0, 1]).fit(scores[:, :, [2, 0, 1]].reshape(400, -1), y)
    expected = LLMScoreCalibrator().fit_transform(scores, y)
    assert_allclose(calibrator.transform(scores[:, :, [2, 0, 1]]), expected, atol=1e-12)
    assert_allclose(table.transform(scores[:, :, [2, 0, 1]].reshape(400, -1)), expected, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_labelled_row_without_scores_is_ignored(method):
    scores, y = simulate()
    scores[:20] = np.nan
    other = y.copy()
    other[:20] = (y[:20] + 1) % 3
    one = LLMScoreCalibrator(method).fit_transform(scores, y)
    assert_allclose(one, LLMScoreCalibrator(method).fit_transform(scores, other))
    assert np.isnan(one[:20]).all()


# --- forms of scores ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_flattened_and_three_dimensional_scores_give_the_same_result(method):
    scores, y = simulate()
    flat = scores.reshape(len(scores), -1)
    expected = LLMScoreCalibrator(method).fit(scores, y)
    for calibrator in (LLMScoreCalibrator(method), LLMScoreCalibrator(method, classes=[0, 1, 2])):
        calibrator.fit(flat, y)
        assert calibrator.n_prompts_ == 3
        assert calibrator.n_features_in_ == 9
        assert_array_equal(calibrator.transform(scores), expected.transform(scores))
        assert_array_equal(calibrator.transform(flat), expected.transform(scores))


@pytest.mark.parametrize("method", METHODS)
def test_binary_scores_may_be_one_or_two_columns_per_prompt(method):
    scores, y = simulate(n_classes=2)
    two = LLMScoreCalibrator(method).fit(scores, y).transform(scores)
    one = LLMScoreCalibrator(method).fit(scores[:, :, 1], y).transform(scores[:, :, 1])
    assert one.shape == (len(y), 2)
    assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_ratings_from_one_to_ten(method):
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=300)
    ratings = np.clip(np.round(rng.normal(4 + 3 * y[:, None], 1.5, size=(300, 2))), 1, 10)
    calibrator = LLMScoreCalibrator(method).fit(ratings, y)
    assert calibrator.score_type_ == "raw"
    assert ((calibrator.transform(ratings)[:, 1] > 0.5) == y).mean() > 0.85
    shifted = calibrator.fit(10 * ratings - 3, y).transform(10 * ratings - 3)
    assert_allclose(shifted, calibrator.fit(ratings, y).transform(ratings), atol=1e-6)


def test_log_odds_of_probabilities_give_about_the_same_result():
    scores, y = simulate(n_classes=2)
    prob = scores[:, :, 1]
    one = LLMScoreCalibrator().fit_transform(prob, y)
    two = LLMScoreCalibrator(score_type="log_odds").fit_transform(np.log(prob / (1 - prob)), y)
    assert_allclose(one, two, atol=0.02)


def test_probabilities_need_not_sum_to_one():
    scores, y = simulate()
    loose = scores * np.linspace(0.2, 0.9, len(y))[:, None, None]
    assert_allclose(
        LLMScoreCalibrator().fit_transform(loose, y), LLMScoreCalibrator().fit_transform(scores, y)
    )


@pytest.mark.parametrize("method", METHODS)
def test_one_prompt_and_constant_scores_work(method):
    _, y = simulate()
    for constant in (0.5, 7.0):
        prob = LLMScoreCalibrator(method).fit_transform(np.full((len(y), 1, 3), constant), y)
        assert_allclose(prob, np.broadcast_to(prob[0], prob.shape))


def test_the_score_type_of_fit_is_kept():
    scores, y = simulate(n_classes=2)
    calibrator = LLMScoreCalibrator().fit(scores, y)
    message = "llm_scores has values outside [0, 1] but score_type_='probability'; "
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrator.transform(5 * scores)
    with pytest.raises(ValueError, match=re.escape(message)):
        LLMScoreCalibrator(score_type="probability").fit(5 * scores, y)
    assert LLMScoreCalibrator().fit(5 * scores, y).score_type_ == "raw"


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "blank", [lambda y: np.where(y < 0, None, y), lambda y: np.where(y < 0, np.nan, y)]
)
def test_every_marker_of_an_unlabelled_row_is_recognised(blank):
    scores, y = simulate()
    y[::2] = -1
    assert_array_equal(
        LLMScoreCalibrator().fit(scores, blank(y)).transform(scores),
        LLMScoreCalibrator().fit(scores, y).transform(scores),
    )


@pytest.mark.parametrize("method", SUPERVISED)
@pytest.mark.parametrize("kind", ["none", "unlabelled", "one class"])
def test_too_few_labels_fall_back_to_batch_with_a_warning(method, kind):
    scores, y = simulate()
    y = {"none": None, "unlabelled": np.full(len(y), -1), "one class": np.where(y == 0, 0, -1)}[
        kind
    ]
    calibrator = LLMScoreCalibrator(method, classes=[0, 1, 2])
    with pytest.warns(UserWarning, match=FALLBACK):
        calibrator.fit(scores, y)
    assert calibrator.method_ == "batch"
    expected = LLMScoreCalibrator("batch").fit(scores)
    assert_allclose(calibrator.transform(scores), expected.transform(scores))


@pytest.mark.parametrize("method", LABEL_FREE)
def test_label_free_methods_ignore_labels_and_do_not_warn(method):
    scores, y = simulate()
    one = LLMScoreCalibrator(method).fit_transform(scores)
    assert_array_equal(LLMScoreCalibrator(method).fit_transform(scores, y, y), one)


@pytest.mark.parametrize(
    ("shape", "y", "classes", "expected"),
    [
        ((6, 2, 3), None, None, [0, 1, 2]),
        ((6, 4), None, None, [0, 1]),
        ((6, 6), None, ["x", "y", "z"], ["x", "y", "z"]),
        ((6, 2, 3), [2, 5, 9, 2, 5, 9], None, [2, 5, 9]),
        ((6, 2, 3), [2, 5, -1, 2, 5, -1], [9, 5, 2], [2, 5, 9]),
        ((6, 4), ["no", "yes", None, None, "no", "yes"], None, ["no", "yes"]),
    ],
)
def test_classes_come_from_the_parameter_then_the_labels_then_the_scores(
    shape, y, classes, expected
):
    y = None if y is None else np.array(y, dtype=object if None in y else None)
    scores = np.random.default_rng(0).random(shape)
    calibrator = LLMScoreCalibrator("mean", classes=classes).fit(scores, y)
    assert_array_equal(calibrator.classes_, expected)
    assert calibrator.transform(scores).shape == (6, len(expected))


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "y", "classes", "message"),
    [
        ((6, 2, 3), [0, 1] * 3, None, "llm_scores has 3 classes but y names 2 classes: [0, 1]. "),
        ((6, 2, 2), [0, 1, 2] * 2, None, "llm_scores has 2 classes but y names 3 classes"),
        ((6, 2), [1] * 6, None, "llm_scores has 2 classes but y names 1 class: [1]. Pass classes"),
        ((6, 2, 3), None, ["a", "b"], "llm_scores has 3 classes but classes names 2 classes"),
        ((6, 2), [0, 1, 7] * 2, [0, 1], "y has labels that are not in classes: [7]"),
        ((6, 7), [0, 1, 2] * 2, None, "llm_scores has 7 columns, not a multiple of the 3 classes"),
        ((6, 7), None, [0, 1, 2], "llm_scores has 7 columns, not a multiple of the 3 classes"),
        ((6, 2, 1), [0, 1] * 3, None, "llm_scores has shape (n_utterances, n_prompts, 1)"),
        ((6,), [0, 1] * 3, None, "llm_scores has 1 dimensions, not 2 or 3."),
        ((6, 2, 2, 2), [0, 1] * 3, None, "llm_scores has 4 dimensions, not 2 or 3."),
        ((6, 2), [0, 1], None, "y has 2 entries but llm_scores has 6 rows"),
        ((6, 2), [0.5, 1.7] * 3, None, "Unknown label type"),
        # Several labels per row.
        ((6, 2, 2), np.eye(6)[:, :4], None, "llm_scores has shape (6, 2, 2) but y has 4 labels"),
        ((6, 2, 2), np.eye(4)[:, :2], None, "y has 4 entries but llm_scores has 6 rows"),
    ],
)
def test_inconsistent_shapes_and_classes_are_refused(shape, y, classes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LLMScoreCalibrator(classes=classes).fit(np.full(shape, 0.5), y)


def test_transform_refuses_scores_in_another_form_than_in_fit():
    scores, y = simulate(n_classes=2)
    calibrator = LLMScoreCalibrator().fit(scores[:, :, 1], y)
    message = "llm_scores has (3, 2) prompts and columns per prompt but fit saw (3, 1)"
    with pytest.raises(ValueError, match=re.escape(message)):
        calibrator.transform(scores)
    with pytest.raises(ValueError, match="X has 2 features"):
        calibrator.transform(scores[:, :2, 1])


def test_scores_that_are_no_numbers_are_named():
    with pytest.raises(ValueError, match="llm_scores cannot be read as numbers"):
        LLMScoreCalibrator().fit([["no", "yes"]] * 2, [0, 1])


def test_tags_tell_the_form_of_the_input():
    assert get_tags(LLMScoreCalibrator()).input_tags.three_d_array
    for n_classes in (2, 3):
        tags = get_tags(LLMScoreCalibrator(classes=range(n_classes)))
        assert tags.classifier_tags.multi_class == (n_classes > 2)


def test_a_fit_by_another_method_leaves_nothing_of_the_last():
    scores, y = simulate(n_classes=3)
    for other in METHODS:
        calibrator = LLMScoreCalibrator(other).fit(scores, y)
        again = calibrator.set_params(method="mean").fit(scores, y)
        assert vars(again).keys() == vars(LLMScoreCalibrator("mean").fit(scores, y)).keys()


@pytest.mark.parametrize("shape", [(6, 2), (6, 2, 2)])
def test_infinite_and_entirely_missing_scores_are_refused(shape):
    scores = np.full(shape, 0.5)
    scores[0, 0] = np.inf
    with pytest.raises(ValueError, match=r"llm_scores.*inf"):
        LLMScoreCalibrator().fit(scores, [0, 1] * 3)
    with pytest.raises(ValueError, match="llm_scores has no row with a score"):
        LLMScoreCalibrator().fit(np.full(shape, np.nan), [0, 1] * 3)


@pytest.mark.parametrize(
    "params", [{"method": "platt"}, {"score_type": "logit"}, {"C": 0}, {"cv": 1}, {"classes": 3}]
)
def test_invalid_parameters_are_named(params):
    with pytest.raises(ValueError, match=re.escape(f"The {next(iter(params))!r} parameter")):
        LLMScoreCalibrator(**params).fit(np.eye(4), [0, 1] * 2)


def test_transform_needs_fit():
    with pytest.raises(NotFittedError):
        LLMScoreCalibrator().transform(np.eye(2))


@pytest.mark.parametrize("method", ["fit", "fit_transform"])
def test_a_failed_fit_leaves_the_calibrator_as_it_was(method):
    scores, y = simulate(60)
    unfitted = LLMScoreCalibrator()
    with pytest.raises(ValueError, match="no row with a score"):
        getattr(unfitted, method)(np.full_like(scores, np.nan), y)
    with pytest.raises(NotFittedError):
        unfitted.transform(scores)
    fitted = LLMScoreCalibrator().fit(scores, y)
    before = fitted.transform(scores)
    with pytest.raises(ValueError, match="no row with a score"):
        getattr(fitted, method)(np.full((60, 2, 2), np.nan), np.array(["a", "b"])[y % 2])
    assert_array_equal(fitted.classes_, [0, 1, 2])
    assert_array_equal(fitted.transform(scores), before)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e153, 1e300])
def test_ratings_of_any_size(scale):
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    scores = rng.normal(size=(200, 3)) + 2 * y[:, None]
    expected = LLMScoreCalibrator(score_type="raw").fit_transform(scores, y)
    assert np.ptp(expected) > 0.9
    found = LLMScoreCalibrator(score_type="raw").fit_transform(scores * scale, y)
    assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_log_odds_of_any_size(method):
    y = np.arange(20) % 2
    scores = np.where(y, 1.0, -1.0)[:, None, None] * [[-1e300, 1e300], [-1.0, 1.0]]
    calibrator = LLMScoreCalibrator(method, score_type="log_odds").fit(scores, y)
    prob = calibrator.transform(scores)
    assert_allclose(prob.sum(axis=1), 1)
    assert_array_equal(prob.argmax(axis=1), y)


@pytest.mark.parametrize("kind", ["masked", "Float64", "double[pyarrow]", "objects"])
def test_masked_and_nullable_scores_are_missing_ones(kind):
    scores, y = simulate(n_classes=2)
    table = scores[:, :, 1]
    gone = np.random.default_rng(0).random(table.shape) < 0.2
    plain = np.where(gone, np.nan, table)
    given = {
        "masked": lambda: np.ma.masked_array(np.where(gone, 999.0, table), mask=gone),
        "objects": lambda: pd.DataFrame(plain).astype("Float64").astype(object),
    }.get(kind, lambda: pd.DataFrame(plain).astype(kind))()
    expected = LLMScoreCalibrator().fit(plain, y).transform(plain)
    assert_array_equal(LLMScoreCalibrator().fit(given, y).transform(given), expected)


def test_generators_are_read_once():
    scores, y = simulate(60)
    groups = np.arange(60) // 6
    expected = LLMScoreCalibrator().fit_transform(scores, y, groups)
    found = LLMScoreCalibrator().fit_transform((row for row in scores), iter(y), iter(groups))
    assert_array_equal(found, expected)


# --- cross-fitting ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SUPERVISED)
def test_a_labelled_row_does_not_see_the_labels_of_its_session(method):
    scores, y = simulate(200)
    groups = np.random.default_rng(1).integers(12, size=200)
    human = np.where(np.arange(200) % 3 > 0, y, -1)
    calibrator = LLMScoreCalibrator(method, classes=[0, 1, 2])
    before = calibrator.fit_transform(scores, human, groups)
    inside = groups == 4
    changed = np.where(inside & (human >= 0), (human + 1) % 3, human)
    after = calibrator.fit_transform(scores, changed, groups)
    labelled_inside = inside & (human >= 0)
    assert_array_equal(after[labelled_inside], before[labelled_inside])
    assert np.abs(after[human < 0] - before[human < 0]).max() > 1e-4
    assert np.abs(after[~inside & (human >= 0)] - before[~inside & (human >= 0)]).max() > 1e-4


def test_unlabelled_rows_are_calibrated_with_all_labels():
    scores, y = simulate(200)
    groups = np.arange(200) // 10
    human = np.where(np.arange(200) % 2, y, -1)
    calibrator = LLMScoreCalibrator()
    crossed = calibrator.fit_transform(scores, human, groups)
    whole = calibrator.transform(scores)
    assert_allclose(crossed[human < 0], whole[human < 0])
    assert np.abs(crossed[human >= 0] - whole[human >= 0]).max() > 1e-4


def test_without_groups_fit_transform_is_fit_then_transform():
    scores, y = simulate()
    calibrator = LLMScoreCalibrator()
    assert_array_equal(calibrator.fit_transform(scores, y), calibrator.transform(scores))


def test_one_labelled_session_is_calibrated_without_labels():
    scores, y = simulate(200)
    groups = np.arange(200) // 20
    human = np.where(groups == 3, y, -1)
    calibrator = LLMScoreCalibrator()
    with pytest.warns(UserWarning, match=FALLBACK):
        prob = calibrator.fit_transform(scores, human, groups)
    assert calibrator.method_ == "log_pool"
    batch = LLMScoreCalibrator("batch").fit_transform(scores)
    assert_allclose(prob[groups == 3], batch[groups == 3])
    assert_allclose(prob[groups != 3], calibrator.transform(scores)[groups != 3])


def test_renaming_sessions_changes_nothing():
    scores, y = simulate(200)
    groups = np.random.default_rng(1).integers(12, size=200)
    names = np.array([f"call {i}" for i in range(12)], dtype=object)
    assert_array_equal(
        LLMScoreCalibrator().fit_transform(scores, y, groups),
        LLMScoreCalibrator().fit_transform(scores, y, names[groups]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "log_pool"])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_sessions_of_one_size_are_dealt_by_their_content(method, seed, hard):
    rng = np.random.default_rng(seed)
    scores, y = simulate(36, seed=seed)
    if hard:  # many rows differ only in which prompt gave which vote
        scores = holes(votes(scores.argmax(axis=2), 3), 0.1, seed)
    groups = np.arange(36) // 3
    human = np.where((rng.random(36) < 0.8) | (np.arange(36) < 3), y, -1)
    human[:3] = range(3)

    def cross_fit(rows, prompts=slice(None), classes=slice(None), names=tuple(range(12))):
        calibrator = LLMScoreCalibrator(method, classes=np.arange(3)[classes])
        given = scores[rows][:, prompts][:, :, classes]
        return calibrator.fit_transform(given, human[rows], np.array(names)[groups[rows]])

    expected, order = cross_fit(np.arange(36)), rng.permutation(36)
    everything = cross_fit(order, [2, 0, 1], [1, 2, 0], rng.permutation(12))
    # Sessions with the same labelled rows may change places, and their rows with them.
    for found in (cross_fit(order), everything):
        assert_allclose(np.sort(found, axis=0), np.sort(expected, axis=0), atol=1e-4)


def brier(prob, y):
    return ((prob - np.eye(prob.shape[1])[y]) ** 2).sum(axis=1).mean()


def test_auto_takes_another_method_only_if_it_is_clearly_better():
    rng = np.random.default_rng(0)
    n, groups = 600, np.arange(600) // 10
    y = rng.integers(3, size=n)
    # The LLM never prefers the last class, and is more or less sure of each class.
    strength = np.array([0.2, 1.0, 3.0])
    log_scores = strength * (np.eye(3)[y] + rng.normal(0, 0.3, (n, 3))) - [0.0, 0.0, 2.0]
    scores = np.exp(log_scores) / np.exp(log_scores).sum(axis=1, keepdims=True)
    auto = LLMScoreCalibrator("auto")
    prob = auto.fit_transform(scores[:, None], y, groups)
    assert auto.method_ in ("beta", "isotonic", "log_pool")
    default = LLMScoreCalibrator().fit_transform(scores[:, None], y, groups)
    assert brier(prob, y) < 0.9 * brier(default, y)
    few = np.where(groups < 3, y, -1)
    assert LLMScoreCalibrator("auto").fit(scores[:, None], few, groups).method_ == "log_pool"


def test_auto_takes_another_method_for_two_classes():
    rng = np.random.default_rng(0)
    y, groups = rng.integers(2, size=600), np.arange(600) // 10
    # The LLM is cautious about one class alone.
    score = np.clip(
        rng.normal(np.where(y == 1, 0.52, 0.45), np.where(y == 1, 0.2, 0.03)), 0.01, 0.99
    )
    calibrator = LLMScoreCalibrator("auto")
    prob = calibrator.fit_transform(score[:, None], y, groups)
    assert calibrator.method_ != "log_pool"
    default = LLMScoreCalibrator().fit_transform(score[:, None], y, groups)
    assert brier(prob, y) < 0.9 * brier(default, y)


def test_auto_with_labels_of_one_session_is_the_default():
    scores, y = simulate(60)
    groups = np.arange(60) // 10
    found, expected = (
        LLMScoreCalibrator(method, classes=[0, 1, 2]).fit(
            scores, np.where(groups < 1, y, -1), groups
        )
        for method in ("auto", "log_pool")
    )
    assert_allclose(found.transform(scores), expected.transform(scores))


@pytest.mark.parametrize("call", ["fit", "fit_transform"])
def test_groups_are_checked(call):
    scores, y = simulate(20)
    with pytest.raises(ValueError, match=re.escape("groups has 3 entries but there are 20 rows")):
        getattr(LLMScoreCalibrator(), call)(scores, y, [0, 1, 2])


# --- size ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("score_type", ["probability", "log_odds", "raw"])
def test_the_chunk_size_changes_nothing(method, score_type, monkeypatch):
    scores, y = simulate(200)
    scores = holes(scores if score_type == "probability" else 3 * np.log(scores), 0.3)
    human = np.where(np.arange(200) % 3 > 0, y, -1)
    groups = np.arange(200) // 10
    calibrator = LLMScoreCalibrator(method, score_type=score_type)
    crossed = calibrator.fit_transform(scores, human, groups)
    plain = calibrator.transform(scores)
    monkeypatch.setattr("skpref._pools._CHUNK_SIZE", 20)
    assert_allclose(calibrator.transform(scores), plain, rtol=1e-12)
    assert_allclose(calibrator.fit_transform(scores, human, groups), crossed, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("method", "share"), [*((method, 0.05) for method in METHODS), ("log_pool", 1.0)]
)
def test_memory_stays_within_twice_the_scores(method, share, dtype, monkeypatch):
    # The memory of a chunk does not depend on the number of rows; this size suits 100,000 rows.
    monkeypatch.setattr("skpref._pools._CHUNK_SIZE", 1 << 13)
    n = 100_000
    scores = np.random.default_rng(0).random((n, 6, 5), dtype=np.float32).astype(dtype)
    y = np.random.default_rng(1).integers(5, size=n)
    human = np.where(np.arange(n) < share * n, y, -1)
    calibrator = LLMScoreCalibrator(method, cv=2)
    for call in (
        lambda: calibrator.fit(scores, human),
        lambda: calibrator.transform(scores),
        lambda: calibrator.fit_transform(scores, human, np.arange(n) // 20),
    ):
        tracemalloc.start()
        call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= 2 * scores.nbytes


# --- scikit-learn's conventions -----------------------------------------------------------------


class Recorder(ClassifierMixin, BaseEstimator):
    """Store the input of the last step of a pipeline."""

    def fit(self, X, y):
        self.X_, self.classes_ = X, np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[np.argmax(X, axis=1)]


def test_a_pipeline_routes_groups_to_the_cross_fitting():
    scores, y = simulate(200)
    groups = np.arange(200) // 10
    flat = scores.reshape(200, -1)
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(LLMScoreCalibrator(), Recorder()).fit(flat, y, groups=groups)
    crossed = LLMScoreCalibrator().fit_transform(scores, y, groups)
    assert_array_equal(pipeline[-1].X_, crossed)
    assert pipeline.predict(flat).shape == (200,)


@pytest.mark.parametrize("method", METHODS)
def test_pickle_and_clone(method):
    scores, y = simulate()
    calibrator = LLMScoreCalibrator(method, C=2.0).fit(scores, y)
    copy = pickle.loads(pickle.dumps(calibrator))
    assert_array_equal(copy.transform(scores), calibrator.transform(scores))
    refitted = clone(calibrator).fit(scores, y)
    assert_array_equal(refitted.transform(scores), calibrator.transform(scores))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", METHODS)
def test_the_float_type_is_kept(method, dtype):
    scores, y = simulate()
    scores = scores.astype(dtype)
    calibrator = LLMScoreCalibrator(method).fit(scores, y)
    assert calibrator.transform(scores).dtype == dtype
    assert calibrator.fit_transform(scores, y, np.arange(400) // 10).dtype == dtype


def test_frames_are_accepted_and_returned():
    scores, y = simulate(50, n_classes=2)
    frame = pd.DataFrame(scores[:, :, 1], columns=["p1", "p2", "p3"], index=np.arange(50) + 7)
    labels = pd.Series(np.where(y == 1, "yes", "no"), index=frame.index)
    calibrator = LLMScoreCalibrator().set_output(transform="pandas")
    for out in (calibrator.fit_transform(frame, labels), calibrator.transform(frame)):
        assert list(out) == ["llmscorecalibrator_no", "llmscorecalibrator_yes"]
        assert_array_equal(out.index, frame.index)
    assert_array_equal(calibrator.feature_names_in_, ["p1", "p2", "p3"])
    with pytest.raises(ValueError, match="feature names should match"):
        calibrator.transform(frame.rename(columns={"p1": "q"}))


def test_refitting_with_another_method_leaves_no_attribute_behind():
    scores, y = simulate()
    calibrator = LLMScoreCalibrator("temperature").fit(scores, y)
    calibrator.set_params(method="mean").fit(scores, y)
    assert not hasattr(calibrator, "temperature_")
    assert not hasattr(calibrator, "prompt_weights_")


def test_ordinary_input_gives_no_warning():
    scores, y = simulate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LLMScoreCalibrator().fit(holes(scores, 0.4), y).transform(holes(scores, 0.9))


# --- several labels per row ---------------------------------------------------------------------


def several_labels(n_labels=3):
    """Votes of two prompts on several labels, the first prompt the better one, and some labels."""
    rng = np.random.default_rng(0)
    y = (rng.uniform(size=(240, n_labels)) < [0.5, 0.3, 0.1][:n_labels]).astype(int)
    noise = rng.normal(1, [[1], [3]], size=(240, 2, n_labels))  # says yes too often
    scores = 1 / (1 + np.exp(-(4 * y[:, None] - 2 + noise)))
    scores[rng.uniform(size=scores.shape) < 0.1] = np.nan
    known = np.where(rng.uniform(size=y.shape) < 0.5, y, -1)
    return scores, known, y, np.arange(240) // 8


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_labels_are_calibrated_each(method):
    scores, known, truth, groups = several_labels()
    prob = LLMScoreCalibrator(method).fit_transform(scores, known, groups=groups)
    assert prob.shape == truth.shape
    assert_array_equal(np.isnan(prob), np.isnan(scores).all(axis=1))
    given = ~np.isnan(prob)
    error = ((prob - truth) ** 2)[given].mean()
    if method not in ("mean", "batch", "temperature"):  # these cannot correct the bias
        plain = LLMScoreCalibrator("mean").fit_transform(scores, known)
        assert error < 0.8 * ((plain - truth) ** 2)[given].mean()


@pytest.mark.parametrize("method", ["mean", "batch", "temperature", "log_pool"])
def test_one_label_is_a_binary_task(method):
    scores, known, _, groups = several_labels(1)
    prob = LLMScoreCalibrator(method).fit_transform(scores, known, groups=groups)
    binary = LLMScoreCalibrator(method).fit_transform(scores[:, :, 0], known[:, 0], groups=groups)
    assert_allclose(prob[:, 0], binary[:, 1], atol=1e-4)


def test_labels_share_what_prompts_are_worth():
    scores, known, _, _ = several_labels()
    known[:, 2] = -1
    calibrator = LLMScoreCalibrator().fit(scores, known)
    assert calibrator.prompt_weights_.shape == (3, 2)
    better, worse = calibrator.prompt_weights_[2]
    assert better > 2 * worse
    assert_allclose(calibrator.prompt_weights_[2], calibrator.prompt_weights_[:2].mean(axis=0), 0.5)
    assert calibrator.class_bias_[2, 1] < 0


def test_order_of_rows_and_names_of_sessions_do_not_matter_to_labels():
    scores, known, _, groups = several_labels()
    prob = LLMScoreCalibrator().fit_transform(scores, known, groups=groups)
    order = np.random.RandomState(0).permutation(240)
    again = LLMScoreCalibrator().fit_transform(
        scores[order], known[order], groups=[f"session {g}" for g in groups[order]]
    )
    assert_allclose(again, prob[order], atol=1e-5)


def test_without_labels_the_llms_own_frequency_stays():
    scores, known, _, _ = several_labels()
    with pytest.warns(UserWarning, match="label-free method 'mean'"):
        prob = LLMScoreCalibrator().fit_transform(scores, np.full_like(known, -1))
    assert_allclose(prob, LLMScoreCalibrator("mean").fit_transform(scores, known))


def test_labels_and_scores_must_match():
    scores, known, _, _ = several_labels()
    with raises("llm_scores has shape (240, 2, 3) but y has 2 labels per row"):
        LLMScoreCalibrator().fit(scores, known[:, :2])
    table = scores.reshape(240, -1)
    prob = LLMScoreCalibrator().fit(table, known).transform(table)
    assert_array_equal(prob, LLMScoreCalibrator().fit(scores, known).transform(scores))


def test_auto_without_a_scored_label_needs_none():
    scores = np.where(np.arange(12)[:, None, None] < 6, np.nan, [[0.3, 0.7]])
    y = np.where(np.arange(12) < 6, np.arange(12) % 2, -1)
    calibrator = LLMScoreCalibrator("auto")
    with pytest.warns(UserWarning, match="the label-free method 'batch' is used instead"):
        calibrator.fit(scores, y, groups=np.arange(12) // 2)
    assert calibrator.method_ == "batch"
    assert np.isfinite(calibrator.transform(scores)[6:]).all()
