import re

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    log_loss,
)

from skpref import LLMScoreCalibrator
from skpref.datasets import make_dialogues
from skpref.inspection import prompt_agreement
from skpref.metrics import within_session_concordance
from tests.inspection.helpers import THREE_CLASSES, flat


@pytest.fixture(scope="module")
def prompts():
    """Prompts: two good ones, a copy of the first with little noise, and one that is noise."""
    data = make_dialogues(
        150, n_classes=3, n_prompts=2, labelled_fraction=0.6, session_bias=0.5, random_state=0
    )
    rng = np.random.default_rng(0)
    jitter = rng.normal(0, 0.05, data.llm_scores[:, :1].shape)
    copy = np.exp(np.log(data.llm_scores[:, :1]) + jitter)
    junk = rng.dirichlet([1, 1, 1], (len(data.X), 1))
    scores = np.concatenate([data.llm_scores, copy / copy.sum(axis=2, keepdims=True), junk], axis=1)
    return scores, data.y, data.groups


@pytest.mark.slow
def test_message_names_prompts_that_repeat_and_that_help(prompts):
    agreement = prompt_agreement(
        *prompts, prompt_names=["first", "second", "copy", "junk"], random_state=0
    )
    assert agreement.redundancy[[0, 2]].min() > 0.98
    assert agreement.redundancy[3] < 0.05
    assert agreement.correlation[0, 2] > 0.98
    assert abs(agreement.correlation[0, 3]) < 0.1
    assert agreement.accuracy[3] == pytest.approx(1 / 3, abs=0.06)
    assert agreement.concordance[:3].min() > 0.7
    assert agreement.error_correlation[0, 2] > 0.8
    assert agreement.drop.effect.tolist() == ["unclear", "helps", "unclear", "unclear"]
    assert "worse without second: keep." in agreement.message
    assert re.search(
        r"scores of first \(\S+% of the variance\) and copy .*: leave out", agreement.message
    )
    assert len(agreement.summary.splitlines()) == 5


@pytest.mark.slow
def test_agreement_agrees_with_other_libraries(prompts):
    scores, y, groups = prompts
    agreement = prompt_agreement(scores, y, groups, random_state=0, n_bootstrap=5)
    best = scores.argmax(axis=2)
    assert agreement.kappa[0, 1] == pytest.approx(cohen_kappa_score(best[:, 0], best[:, 1]))
    rank = [spearmanr(scores[:, 0, k], scores[:, 1, k]).statistic for k in range(3)]
    assert agreement.correlation[0, 1] == pytest.approx(np.mean(rank))
    np.testing.assert_allclose(np.diag(agreement.correlation), 1)
    np.testing.assert_allclose(np.diag(agreement.kappa), 1)
    labelled = y >= 0
    wrong = (best != y[:, None])[labelled]
    assert agreement.error_correlation[0, 1] == pytest.approx(np.corrcoef(wrong[:, :2].T)[0, 1])
    assert agreement.accuracy[0] == pytest.approx(1 - wrong[:, 0].mean())
    concordance = within_session_concordance(
        y[labelled], scores[labelled, 0], groups=groups[labelled]
    )
    assert agreement.concordance[0] == pytest.approx(concordance)


@pytest.mark.slow
def test_drop_agrees_with_a_loop(prompts):
    scores, y, groups = prompts
    agreement = prompt_agreement(scores, y, groups, random_state=0)
    labelled = y >= 0

    def quality(part):
        prob = LLMScoreCalibrator().fit_transform(part, y, groups=groups)[labelled]
        return log_loss(y[labelled], prob), accuracy_score(y[labelled], prob.argmax(axis=1))

    loss, accuracy = quality(scores)
    for p in range(4):
        without = quality(np.delete(scores, p, axis=1))
        # Folds are made from another order of sessions, so results differ in the last digits.
        assert agreement.drop.log_loss.mean[p] == pytest.approx(without[0] - loss, abs=3e-3)
        assert agreement.drop.accuracy.mean[p] == pytest.approx(accuracy - without[1], abs=0.01)
    assert (agreement.drop.log_loss.low <= agreement.drop.log_loss.mean).all()
    assert (agreement.drop.log_loss.mean <= agreement.drop.log_loss.high).all()


@pytest.mark.slow
def test_agreement_does_not_change_with_row_order_or_session_names(prompts):
    scores, y, groups = prompts
    expected = prompt_agreement(scores, y, groups, n_bootstrap=50, random_state=0)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(y))
    names = rng.permutation(len(np.unique(groups)))[np.unique(groups, return_inverse=True)[1]]
    agreement = prompt_agreement(
        scores[order], y[order], names[order], n_bootstrap=50, random_state=0
    )
    np.testing.assert_allclose(flat(agreement), flat(expected), rtol=1e-7, atol=1e-9)
    assert agreement.message == expected.message


@pytest.mark.slow
def test_binary_tables_and_raw_ratings():
    data = make_dialogues(80, labelled_fraction=0.5, random_state=0)
    kwargs = {"n_bootstrap": 5, "random_state": 0}
    three = prompt_agreement(data.llm_scores, data.y, data.groups, **kwargs)
    two = prompt_agreement(data.llm_scores[:, :, 1], data.y, data.groups, **kwargs)
    np.testing.assert_allclose(flat(two), flat(three), atol=1e-6)
    p = data.llm_scores[:, :, 1]
    ratings = np.log(p / (1 - p)) * 10 + 50
    raw = prompt_agreement(ratings, data.y, data.groups, **kwargs)
    np.testing.assert_allclose(raw.correlation, three.correlation, atol=1e-9)
    np.testing.assert_allclose(raw.concordance, three.concordance, atol=1e-9)


def test_without_labels_the_results_that_need_none_remain():
    data = make_dialogues(30, missing_rate=0.3, random_state=0)
    scores = data.llm_scores.copy()
    scores[:, 2] = np.nan
    agreement = prompt_agreement(scores)
    assert "drop" not in agreement
    assert agreement.coverage == pytest.approx([0.7, 0.7, 0], abs=0.05)
    assert np.isnan(agreement.correlation[2]).all()
    assert np.isnan(agreement.redundancy[2])
    assert 0 < agreement.redundancy[0] < 1
    assert "There is no score by prompt 2." in agreement.message
    assert "No prompt is redundant" in agreement.message


def test_one_prompt_has_nothing_to_be_compared_with():
    data = make_dialogues(30, n_prompts=1, labelled_fraction=0.5, random_state=0)
    agreement = prompt_agreement(data.llm_scores, data.y, data.groups, random_state=0)
    assert np.isnan(agreement.drop.log_loss.mean).all()
    assert np.isnan(agreement.redundancy).all()
    assert agreement.accuracy[0] > 0.6
    assert "one prompt only" in agreement.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prompt_names": ["a"]},
            "prompt_names=['a'] has 1 names but llm_scores has 2 prompts; pass one name per prompt",
        ),
        ({"y": [0]}, "y has 1 entries but llm_scores has 4 rows"),
        ({"groups": [0]}, "groups has 1 entries but there are 4 rows"),
        ({"classes": [0, 1]}, "y has labels that are not in classes: [2]"),
        ({"method": "kendall"}, "The 'method' parameter of prompt_agreement must be a str among"),
        ({"calibrator": "mean"}, "The 'calibrator' parameter of prompt_agreement must be"),
    ],
)
def test_agreement_names_what_is_wrong(changes, message):
    arguments = {"llm_scores": THREE_CLASSES, "y": [0, 1, 2, 0], "groups": list("aabb")} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        prompt_agreement(**arguments)


@pytest.mark.slow
def test_the_smallest_set_of_prompts_is_named_and_the_cheapest_of_those_that_are_equal():
    data = make_dialogues(150, labelled_fraction=0.5, random_state=0)
    good = data.llm_scores[:, :, 1].mean(axis=1, keepdims=True)
    noise = np.random.default_rng(0).uniform(size=(len(good), 2))
    scores = np.hstack([good, noise[:, :1], good, noise[:, 1:]])
    given = {"prompt_names": list("abcd"), "n_bootstrap": 10, "random_state": 0}
    agreement = prompt_agreement(scores, data.y, data.groups, **given)
    assert agreement.smallest.prompts.tolist() == [0]
    assert agreement.smallest.accuracy >= agreement.smallest.accuracy_of_all - 0.01
    assert "accuracy of all" in agreement.message
    assert "tokens" not in agreement.summary
    agreement = prompt_agreement(scores, data.y, data.groups, tokens=[900, 1, 50, 1], **given)
    assert agreement.smallest.prompts.tolist() == [2]
    assert "is c (" in agreement.message
    assert "for 50 of 952 tokens" in agreement.message
    header, first, *_ = agreement.summary.splitlines()
    assert header.split()[3] == "tokens"
    assert first.split()[3] == "900"


def test_prompts_that_are_all_needed_have_no_smaller_set():
    rng = np.random.default_rng(0)
    bits = rng.integers(2, size=(600, 3))
    y = (bits.sum(axis=1) >= 2).astype(int)
    scores = np.where(bits == 1, 0.8, 0.2) + rng.normal(scale=0.02, size=bits.shape)
    agreement = prompt_agreement(scores, y, n_bootstrap=10, random_state=0)
    assert agreement.smallest.prompts.tolist() == [0, 1, 2]
    assert "No smaller set of prompts" in agreement.message


@pytest.mark.parametrize("tokens", [[1, 2], [1, 2, -3], [1, 2, np.nan]])
def test_tokens_that_do_not_fit_the_prompts_are_refused(tokens):
    with pytest.raises(ValueError, match="the tokens that each prompt takes per utterance"):
        prompt_agreement(np.full((4, 3), 0.5), tokens=tokens)
