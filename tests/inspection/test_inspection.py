import re
import warnings
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    f1_score,
    log_loss,
)
from sklearn.model_selection import GroupKFold, KFold, RepeatedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpref import (
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    PairwisePreferenceTextClassifier,
)
from skpref.datasets import make_dialogues
from skpref.inspection import compare_with_distillation, preference_noise, prompt_agreement
from skpref.metrics import within_session_concordance


def slow_noise(codes, score, groups, columns):
    """Loop over pairs: wrong and all pairs within and across, and (gap, wrong) of untied ones."""
    total, wrong = {"within": 0, "across": 0}, {"within": 0.0, "across": 0.0}
    untied = {"within": [], "across": []}
    for i, j in permutations(range(len(codes)), 2):
        if min(codes[i], codes[j]) < 0 or np.isnan(score[[i, j]]).any():
            continue
        for k in columns:
            if codes[i] == k != codes[j]:
                where = "within" if groups[i] == groups[j] else "across"
                gap = score[i, k] - score[j, k]
                total[where] += 1
                wrong[where] += 0.5 if gap == 0 else float(gap < 0)
                if gap:
                    untied[where].append((abs(gap), float(gap < 0)))
    return total, wrong, untied


@st.composite
def scored_sessions(draw):
    n_classes = draw(st.integers(2, 4))
    n = draw(st.integers(4, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(-1, n_classes, n)
    codes[:2] = [0, 1]
    score = rng.integers(0, draw(st.integers(1, 30)) + 1, (n, n_classes)) / 8
    score[2:][rng.random(n - 2) < 0.1] = np.nan
    groups = np.array(["z", "a", "m", "k"])[rng.integers(0, draw(st.integers(1, 4)), n)]
    return codes, score, groups


def noise_of(codes, score, groups, **kwargs):
    given = {"classes": range(score.shape[1]), "layout": "classes", "n_bootstrap": 3}
    return preference_noise(score, codes, groups, **(given | {"random_state": 0} | kwargs))


@settings(deadline=None, max_examples=100)
@given(scored_sessions(), st.integers(1, 6))
def test_noise_agrees_with_a_loop_over_pairs(case, n_bins):
    codes, score, groups = case
    n_classes = score.shape[1]
    columns = [1] if n_classes == 2 else range(n_classes)
    total, wrong, untied = slow_noise(codes, score, groups, columns)
    noise = noise_of(codes, score, groups, n_gap_bins=n_bins)
    for where in ("within", "across"):
        assert noise[where].n_pairs == total[where]
        expected = wrong[where] / total[where] if total[where] else np.nan
        np.testing.assert_allclose(noise[where].error, expected, atol=1e-12)
        edges = noise.by_gap.edges
        for b in range(len(edges) - 1):
            last = b == len(edges) - 2
            inside = [w for g, w in untied[where] if edges[b] <= g and (last or g < edges[b + 1])]
            assert noise.by_gap[f"n_{where}"][b] == len(inside)
            expected = np.mean(inside) if inside else np.nan
            np.testing.assert_allclose(noise.by_gap[where][b], expected, atol=1e-12)
        tied = 1 - len(untied[where]) / total[where] if total[where] else np.nan
        np.testing.assert_allclose(noise.by_gap[f"tied_{where}"], tied, atol=1e-12)


def flat(found):
    """Numbers of nested results, to be compared."""
    if isinstance(found, dict):
        return np.concatenate([flat(v) for v in found.values()] or [np.zeros(0)])
    if isinstance(found, np.ndarray) and found.dtype.kind in "fi":
        return found.ravel().astype(float)
    return np.array([found], dtype=float) if isinstance(found, int | float) else np.zeros(0)


@settings(deadline=None, max_examples=60)
@given(scored_sessions(), st.randoms(use_true_random=False), st.sampled_from([7, 1000]))
def test_noise_does_not_change_with_row_order_or_session_names(case, random, max_pairs):
    codes, score, groups = case
    expected = noise_of(codes, score, groups, max_pairs=max_pairs)
    order = random.sample(range(len(codes)), len(codes))
    renamed = np.array([{"z": 4, "a": 1, "m": 3, "k": 2}[g] for g in groups])
    found = noise_of(codes[order], score[order], renamed[order], max_pairs=max_pairs)
    np.testing.assert_array_equal(flat(found), flat(expected))
    assert (found.message, found.summary) == (expected.message, expected.summary)


def test_votes_that_tie_over_sessions_do_not_depend_on_row_order():
    # One-hot votes: most rows are alike, and so are some sessions.
    rng = np.random.default_rng(0)
    codes, groups = rng.integers(0, 2, 60), np.repeat(np.arange(20), 3)
    votes = np.eye(2)[np.where(rng.random(60) < 0.3, 1 - codes, codes)]
    expected = noise_of(codes, votes, groups, n_bootstrap=20)
    for _ in range(5):
        order = rng.permutation(60)
        found = noise_of(codes[order], votes[order], -groups[order], n_bootstrap=20)
        np.testing.assert_array_equal(flat(found), flat(expected))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_session_bias_is_noise_across_sessions_only(n_classes):
    given = {"n_sessions": 150, "n_classes": n_classes, "labelled_fraction": 1.0}
    biased = make_dialogues(**given, session_bias=3.0, random_state=0)
    noise = preference_noise(biased.llm_scores, biased.y, biased.groups, random_state=0)
    assert noise.within.error < noise.across.error - 0.03
    assert noise.difference.error == pytest.approx(noise.within.error - noise.across.error)
    assert noise.intra_session_helps == "yes"
    assert "less noisy, by -" in noise.message
    fair = make_dialogues(**given, session_bias=0.0, random_state=0)
    noise = preference_noise(fair.llm_scores, fair.y, fair.groups, random_state=0)
    assert noise.difference.low < 0 < noise.difference.high
    assert noise.intra_session_helps == "unclear"
    assert "cannot be told from 150 labelled sessions" in noise.message


def test_topics_of_sessions_can_make_pairs_across_easier():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 10)
    topic = np.repeat(rng.normal(0, 2, 100), 10)  # the labels follow it, and so do the scores
    y = (topic + rng.normal(0, 1, 1000) > 0).astype(int)
    score = expit(topic + rng.normal(0, 0.3, 1000))
    noise = preference_noise(score[:, None], y, groups, layout="prompts", random_state=0)
    assert noise.intra_session_helps == "no"
    assert noise.difference.low > 0
    assert "noisier than those across" in noise.message


def test_error_falls_with_the_gap_and_the_margin_leaves_chance_out():
    rng = np.random.default_rng(0)
    n = 3000
    groups, y = np.repeat(np.arange(150), 20), rng.integers(0, 2, n)
    # Half of the rows carry only noise of a small size, the others are clear.
    clear = rng.random(n) < 0.5
    score = 0.5 + np.where(clear, 0.4 * (2 * y - 1), 0) + rng.uniform(-0.05, 0.05, n)
    noise = preference_noise(score[:, None], y, groups, layout="prompts", random_state=0)
    assert noise.by_gap.within[0] == pytest.approx(0.5, abs=0.05)
    assert noise.by_gap.within[-1] == 0
    assert 0.05 < noise.min_margin < 0.5
    assert f"try min_margin={noise.min_margin:.3g} in IntraSessionPairSampler" in noise.message
    pure = preference_noise(rng.random((n, 1)), y, groups, layout="prompts", random_state=0)
    assert np.isnan(pure.min_margin) or pure.min_margin > 0
    good = preference_noise(expit(y + 0.0)[:, None], y, groups, layout="prompts", random_state=0)
    assert good.min_margin == 0
    assert good.within.error == 0


def test_intervals_cover_the_truth():
    def draw(seed, n_sessions):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(n_sessions), rng.integers(4, 13, n_sessions))
        z = rng.normal(0, 2, len(groups))
        y = (rng.random(len(z)) < expit(z)).astype(int)
        bias = rng.normal(0, 1.5, n_sessions)[groups]
        return expit(z + bias + rng.normal(0, 1, len(z)))[:, None], y, groups

    truth = preference_noise(*draw(999, 3000), layout="prompts", n_bootstrap=1, random_state=0)
    inside = {"within": 0, "across": 0, "difference": 0}
    for seed in range(40):
        noise = preference_noise(
            *draw(seed, 50), layout="prompts", n_bootstrap=100, max_pairs=100, random_state=0
        )
        for name in inside:
            inside[name] += noise[name].low <= truth[name].error <= noise[name].high
    assert all(n >= 34 for n in inside.values()), inside


def test_length_bins_hold_all_pairs_and_count_unlabelled_rows_in_the_length():
    data = make_dialogues(80, session_length=(2, 40), labelled_fraction=0.8, random_state=0)
    y = data.y.copy()
    y[::3] = -1
    noise = preference_noise(data.llm_scores, y, data.groups, random_state=0)
    by = noise.by_length
    assert by.n_pairs.sum() == noise.within.n_pairs
    assert (by.error * by.n_pairs).sum() / by.n_pairs.sum() == pytest.approx(noise.within.error)
    assert (by.shortest <= by.longest).all()
    assert (by.longest[:-1] < by.shortest[1:]).all()
    labelled = np.isin(data.groups, data.groups[y >= 0])
    assert by.longest[-1] == np.unique(data.groups[labelled], return_counts=True)[1].max()
    assert (by.low <= by.error).all()
    assert (by.error <= by.high).all()


def test_binary_prompts_soft_labels_and_three_dimensions_say_the_same():
    data = make_dialogues(30, labelled_fraction=1.0, missing_rate=0.2, random_state=0)
    kwargs = {"n_bootstrap": 5, "random_state": 0}
    expected = flat(preference_noise(data.llm_scores, data.y, data.groups, **kwargs))
    positive = data.llm_scores[:, :, 1]
    soft = LLMScoreCalibrator("mean").fit_transform(data.llm_scores)
    for scores in (positive, soft, soft.tolist(), pd.DataFrame(soft)):
        found = preference_noise(scores, data.y, data.groups, **kwargs)
        np.testing.assert_allclose(flat(found), expected, atol=1e-9)
    # Two prompts that happen to sum to 1 are prompts when one says so; these say nothing.
    soft = np.round(soft * 64) / 64  # without rounding errors, which break ties
    as_prompts = preference_noise(soft, data.y, data.groups, layout="prompts", **kwargs)
    assert as_prompts.within.error == 0.5


@pytest.mark.parametrize("mark", [-1, None, np.nan])
def test_unlabelled_and_unscored_rows_do_not_count(mark):
    data = make_dialogues(30, labelled_fraction=1.0, random_state=0)
    hidden = np.arange(len(data.y)) % 3 == 0
    unscored = np.arange(len(data.y)) % 5 == 0
    scores = data.llm_scores.copy()
    scores[unscored] = np.nan
    y = data.y_true.astype(object)
    y[hidden] = mark
    found = preference_noise(scores, y, data.groups, n_bootstrap=2, random_state=0)
    kept = ~hidden & ~unscored
    concordance = within_session_concordance(
        data.y_true[kept],
        LLMScoreCalibrator("mean").fit_transform(scores)[kept],
        groups=data.groups[kept],
    )
    assert found.within.error == pytest.approx(1 - concordance, abs=1e-12)


def test_all_scores_tied():
    noise = noise_of(np.array([0, 1] * 6), np.full((12, 2), 0.5), np.repeat(np.arange(6), 2))
    assert noise.within.error == noise.across.error == 0.5
    assert noise.by_gap.tied_within == noise.by_gap.tied_across == 1
    assert noise.by_gap.n_within.tolist() == [0]
    assert np.isnan(noise.min_margin)
    assert "No score gap could be shown" in noise.message


def test_one_session_has_no_pair_across_and_no_interval():
    noise = noise_of(np.array([0, 1, 0, 1]), np.eye(2)[[0, 1, 1, 0]], np.zeros(4))
    assert noise.within.error == 0.5
    assert noise.across.n_pairs == 0
    told = [noise.across.error, noise.within.low, noise.difference.error, noise.difference.low]
    assert np.isnan(told).all()
    assert noise.intra_session_helps == "unclear"
    assert "There is no pair across sessions." in noise.message
    assert "from 1 labelled sessions: label some more." in noise.message


def test_sessions_of_one_row_have_no_pair_within():
    noise = noise_of(np.array([0, 1] * 5), np.eye(2)[[0, 1] * 5], np.arange(10))
    assert np.isnan(noise.within.error)
    assert noise.within.n_pairs == len(noise.by_length.error) == 0
    assert noise.across.error == 0
    assert "There is no pair within sessions." in noise.message


def test_few_sessions_are_said_to_be_few():
    data = make_dialogues(8, labelled_fraction=1.0, random_state=0)
    noise = preference_noise(data.llm_scores, data.y, data.groups, random_state=0)
    assert "From 8 sessions intervals come out too narrow" in noise.message


def test_drawn_pairs_are_fair():
    data = make_dialogues(60, n_classes=3, labelled_fraction=1.0, random_state=0)
    given = (data.llm_scores, data.y, data.groups)
    every = preference_noise(*given, n_gap_bins=3, max_pairs=10**7, n_bootstrap=2, random_state=0)
    some = preference_noise(*given, n_gap_bins=3, max_pairs=20_000, n_bootstrap=2, random_state=0)
    assert some.by_gap.n_across.sum() == 20_000
    assert (every.across.error, every.within.error) == (some.across.error, some.within.error)
    np.testing.assert_allclose(some.by_gap.across, every.by_gap.across, atol=0.02)
    share = every.by_gap.n_across / every.by_gap.n_across.sum()
    np.testing.assert_allclose(some.by_gap.n_across / 20_000, share, atol=0.02)


def test_noise_of_a_hundred_thousand_rows():
    rng = np.random.default_rng(0)
    y, groups = rng.integers(0, 2, 100_000), rng.integers(0, 5000, 100_000)
    noise = preference_noise(rng.random((len(y), 1)), y, groups, n_bootstrap=3, random_state=0)
    assert noise.across.error == pytest.approx(0.5, abs=0.01)
    assert noise.across.n_pairs > 2 * 10**9


THREE = np.full((4, 2, 3), 1 / 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": [-1] * 4}, "y has 0 classes on the 0 labelled rows with scores"),
        ({"y": [0, 0, -1, -1], "classes": [0, 1, 2]}, "y has 1 classes on the 2 labelled rows"),
        ({"y": [0, 1, 0]}, "y has 3 entries but llm_scores has 4 rows; pass one label per row"),
        ({"y": [0, 1, 0, 1]}, "llm_scores has scores of 3 classes but y has 2 ([0, 1]); pass "),
        ({"classes": [0, 1]}, "y has labels that are not in classes: [2]"),
        ({"groups": [1]}, "groups has 1 entries but there are 4 rows"),
        ({"groups": None}, "The 'groups' parameter of preference_noise must be"),
        (
            {"layout": "classes"},
            "llm_scores has shape (4, 2, 3) but layout='classes' needs one column for each of the "
            "3 classes [0, 1, 2]; pass (n_utterances, 3), or layout='prompts'.",
        ),
        ({"layout": "rows"}, "The 'layout' parameter of preference_noise must be a str among"),
        ({"llm_scores": np.zeros(4)}, "llm_scores has shape (4,); pass (n_utterances, n_prompts"),
        ({"llm_scores": np.zeros((4, 1)), "y": [1, 1, 1, 1]}, "y has one class only ([1]); pass "),
        ({"n_gap_bins": 0}, "The 'n_gap_bins' parameter of preference_noise must be an int"),
        ({"confidence_level": 1.0}, "The 'confidence_level' parameter of preference_noise"),
    ],
)
def test_noise_names_what_is_wrong(changes, message):
    arguments = {"llm_scores": THREE, "y": [0, 1, 2, 0], "groups": list("aabb")} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        preference_noise(**arguments)


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


def test_prompts_that_repeat_and_that_help_are_told(prompts):
    found = prompt_agreement(
        *prompts, prompt_names=["first", "second", "copy", "junk"], random_state=0
    )
    assert found.redundancy[[0, 2]].min() > 0.98
    assert found.redundancy[3] < 0.05
    assert found.correlation[0, 2] > 0.98
    assert abs(found.correlation[0, 3]) < 0.1
    assert found.accuracy[3] == pytest.approx(1 / 3, abs=0.06)
    assert found.concordance[:3].min() > 0.7
    assert found.error_correlation[0, 2] > 0.8
    assert found.drop.effect.tolist() == ["unclear", "helps", "unclear", "unclear"]
    assert "worse without second: keep." in found.message
    assert re.search(r"what first \(\S+% of the variance\) and copy .* says", found.message)
    assert len(found.summary.splitlines()) == 5


def test_agreement_agrees_with_other_libraries(prompts):
    scores, y, groups = prompts
    found = prompt_agreement(scores, y, groups, random_state=0, n_bootstrap=5)
    best = scores.argmax(axis=2)
    assert found.kappa[0, 1] == pytest.approx(cohen_kappa_score(best[:, 0], best[:, 1]))
    rank = [spearmanr(scores[:, 0, k], scores[:, 1, k]).statistic for k in range(3)]
    assert found.correlation[0, 1] == pytest.approx(np.mean(rank))
    np.testing.assert_allclose(np.diag(found.correlation), 1)
    np.testing.assert_allclose(np.diag(found.kappa), 1)
    known = y >= 0
    wrong = (best != y[:, None])[known]
    assert found.error_correlation[0, 1] == pytest.approx(np.corrcoef(wrong[:, :2].T)[0, 1])
    assert found.accuracy[0] == pytest.approx(1 - wrong[:, 0].mean())
    one = within_session_concordance(y[known], scores[known, 0], groups=groups[known])
    assert found.concordance[0] == pytest.approx(one)


def test_drop_is_what_a_loop_gives(prompts):
    scores, y, groups = prompts
    found = prompt_agreement(scores, y, groups, random_state=0)
    known = y >= 0

    def quality(part):
        prob = LLMScoreCalibrator().fit_transform(part, y, groups=groups)[known]
        return log_loss(y[known], prob), accuracy_score(y[known], prob.argmax(axis=1))

    loss, accuracy = quality(scores)
    for p in range(4):
        without = quality(np.delete(scores, p, axis=1))
        # Folds are dealt in another order of sessions, so that it is not the same to the digit.
        assert found.drop.log_loss.mean[p] == pytest.approx(without[0] - loss, abs=3e-3)
        assert found.drop.accuracy.mean[p] == pytest.approx(accuracy - without[1], abs=0.01)
    assert (found.drop.log_loss.low <= found.drop.log_loss.mean).all()
    assert (found.drop.log_loss.mean <= found.drop.log_loss.high).all()


def test_agreement_does_not_change_with_row_order_or_session_names(prompts):
    scores, y, groups = prompts
    expected = prompt_agreement(scores, y, groups, n_bootstrap=50, random_state=0)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(y))
    names = rng.permutation(len(np.unique(groups)))[np.unique(groups, return_inverse=True)[1]]
    found = prompt_agreement(scores[order], y[order], names[order], n_bootstrap=50, random_state=0)
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-7, atol=1e-9)
    assert found.message == expected.message


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


def test_without_labels_there_is_what_needs_none():
    data = make_dialogues(30, missing_rate=0.3, random_state=0)
    scores = data.llm_scores.copy()
    scores[:, 2] = np.nan
    found = prompt_agreement(scores)
    assert "drop" not in found
    assert found.coverage == pytest.approx([0.7, 0.7, 0], abs=0.05)
    assert np.isnan(found.correlation[2]).all()
    assert np.isnan(found.redundancy[2])
    assert 0 < found.redundancy[0] < 1
    assert "There is no score at all by prompt 2." in found.message
    assert "No prompt is redundant" in found.message


def test_one_prompt_has_nothing_to_be_compared_with():
    data = make_dialogues(30, n_prompts=1, labelled_fraction=0.5, random_state=0)
    found = prompt_agreement(data.llm_scores, data.y, data.groups, random_state=0)
    assert np.isnan(found.drop.log_loss.mean).all()
    assert np.isnan(found.redundancy).all()
    assert found.accuracy[0] > 0.6
    assert "one prompt only" in found.message


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
    arguments = {"llm_scores": THREE, "y": [0, 1, 2, 0], "groups": list("aabb")} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        prompt_agreement(**arguments)


ROWS = [
    "skpref",
    "skpref, no pairs",
    "distillation",
    "distillation, balanced",
    "LLM scores, calibrated",
    "human labels",
]


def quick(**kwargs):
    return PairwisePreferenceClassifier("linear", solver="lbfgs", random_state=0, **kwargs)


@pytest.fixture(scope="module")
def compared():
    data = make_dialogues(
        40, n_classes=3, labelled_fraction=0.4, missing_rate=0.1, random_state=0, n_features=8
    )
    data.y = np.array(["m", "c", "x", None], dtype=object)[data.y]
    clf = quick(classes=["m", "c", "x"])
    given = (data.X, data.y, data.groups, data.llm_scores)
    return data, clf, compare_with_distillation(clf, *given, cv=3, random_state=0)


def test_comparison_scores_are_those_of_the_pooled_predictions(compared):
    data, _, found = compared
    assert list(found.scores) == ROWS
    assert list(found.differences) == ROWS[1:]
    known = np.array([label is not None for label in data.y])
    codes = np.array(["mcx".index(label) for label in data.y[known]])
    for row in ROWS:
        prob = found.predictions[row][known]
        told = ~np.isnan(prob[:, 0])
        assert told.all() or row == "LLM scores, calibrated"
        truth, prob = codes[told], prob[told].astype(float)
        clipped = np.maximum(prob, 1e-7)
        expected = {
            "macro_f1": f1_score(truth, prob.argmax(axis=1), average="macro"),
            "accuracy": accuracy_score(truth, prob.argmax(axis=1)),
            "concordance": within_session_concordance(truth, prob, groups=data.groups[known][told]),
            "log_loss": log_loss(truth, clipped / clipped.sum(axis=1, keepdims=True)),
        }
        assert found.scores[row] == pytest.approx(expected, abs=1e-6)


def test_comparison_predicts_by_models_that_saw_nothing_of_the_session(compared):
    data, clf, found = compared
    sessions = data.groups[[label is not None for label in data.y]]
    assert set(data.groups[found.fold >= 0]) == set(sessions)
    for k in range(3):
        test = found.fold == k
        train = ~test
        assert not set(data.groups[train]) & set(data.groups[test])
        given = {"groups": data.groups[train], "llm_scores": data.llm_scores[train]}
        for row, changes in {"skpref": {}, "skpref, no pairs": {"pairwise_weight": 0}}.items():
            model = sklearn.clone(clf).set_params(**changes)
            expected = model.fit(data.X[train], data.y[train], **given).predict_proba(data.X[test])
            np.testing.assert_array_equal(found.predictions[row][test], expected)
        labelled = train & np.array([label is not None for label in data.y])
        # Plain distillation: labels in place of soft ones, and only scale and offsets after that.
        soft = model.soft_labels_.copy()
        soft[labelled[train]] = np.eye(3)[["mcx".index(label) for label in data.y[labelled]]]
        given["llm_scores"] = soft[:, None]
        own = {"calibrator": "passthrough", "smoother": "passthrough", "stage2": "offsets"}
        for row, weight in {"distillation": None, "distillation, balanced": "balanced"}.items():
            plain = sklearn.clone(model).set_params(class_weight=weight, **own)
            expected = plain.fit(data.X[train], data.y[train], **given).predict_proba(data.X[test])
            np.testing.assert_allclose(found.predictions[row][test], expected, atol=1e-5)
        given["llm_scores"] = data.llm_scores[train]
        model = LogisticRegression(max_iter=1000).fit(data.X[labelled], data.y[labelled].tolist())
        assert model.classes_.tolist() == ["c", "m", "x"]
        expected = model.predict_proba(data.X[test])[:, [1, 0, 2]]
        np.testing.assert_allclose(found.predictions["human labels"][test], expected, atol=1e-3)
        calibrator = LLMScoreCalibrator(classes=clf.classes).fit(given["llm_scores"], data.y[train])
        expected = calibrator.transform(data.llm_scores[test])
        np.testing.assert_allclose(found.predictions["LLM scores, calibrated"][test], expected)
    labelled = np.array([label is not None for label in data.y])
    counts = np.bincount(found.fold[labelled])
    assert counts.max() < 1.6 * counts.min()  # labelled sessions are dealt evenly


def test_comparison_differences_hold_the_observed_ones(compared):
    _, _, found = compared
    for row in ("distillation", "human labels"):
        for metric, (mean, low, high) in found.differences[row].items():
            assert mean == pytest.approx(found.scores["skpref"][metric] - found.scores[row][metric])
            assert low <= mean <= high
    assert "Against 'distillation':" in found.message
    assert len(found.summary.splitlines()) == 1 + 6 + 2 + 5


def test_comparison_with_itself_differs_by_nothing():
    data = make_dialogues(20, labelled_fraction=0.5, random_state=0, n_features=6)
    given = (data.X, data.y, data.groups, data.llm_scores)
    clf = PairwisePreferenceClassifier(pairwise_weight=0, max_epochs=2, smoother="passthrough")
    found = compare_with_distillation(clf, *given, cv=2, random_state=0, n_bootstrap=20)
    assert all(triple == (0, 0, 0) for triple in found.differences["skpref, no pairs"].values())
    # Class weights given as a dict are those of "distillation", too; "balanced" is not.
    plain = {}
    for name, weight in {"none": {0: 1.0, 1: 1.0}, "dict": {0: 1.0, 1: 3.0}}.items():
        clf.set_params(class_weight=weight)
        given_weights = compare_with_distillation(clf, *given, cv=2, random_state=0, n_bootstrap=2)
        plain[name] = given_weights.predictions["distillation"][found.fold >= 0]
    expected = found.predictions["distillation"][found.fold >= 0]
    np.testing.assert_array_equal(plain["none"], expected)
    assert np.abs(plain["dict"] - expected).max() > 0.01
    assert "From 10 sessions intervals come out too narrow" in found.message
    assert "10 sessions are too few to tell whether pairs pay here" in found.message
    assert clf.random_state is None
    assert not hasattr(clf, "net_")


def test_comparison_takes_pipelines_frames_sparse_and_routing_on_or_off():
    data = make_dialogues(20, labelled_fraction=0.5, random_state=0, n_features=6)
    rest = (data.y, data.groups, data.llm_scores)
    kwargs = {"cv": 2, "random_state": 0, "n_bootstrap": 5}
    pipe = make_pipeline(StandardScaler(with_mean=False), quick())
    expected = compare_with_distillation(pipe, data.X, *rest, **kwargs)
    frame = pd.DataFrame(data.X, columns=[f"x{i}" for i in range(6)])
    with sklearn.config_context(enable_metadata_routing=True):
        found = compare_with_distillation(pipe, frame, *rest, **kwargs)
    for row in ROWS:
        assert found.scores[row] == pytest.approx(expected.scores[row], abs=1e-3)
    found = compare_with_distillation(pipe, csr_array(data.X), *rest, **kwargs)
    for row in ROWS:
        assert found.scores[row] == pytest.approx(expected.scores[row], abs=1e-3)


def test_comparison_fits_steps_that_want_groups_and_steps_in_steps():
    data = make_dialogues(20, labelled_fraction=0.5, random_state=0, n_features=6)
    given = (data.X, data.y, data.groups, data.llm_scores)

    class Centre(TransformerMixin, BaseEstimator):
        __metadata_request__fit = {"groups": True}

        def fit(self, X, y=None, groups=None):
            assert len(groups) == len(X)
            self.mean_ = X.mean(axis=0)
            return self

        def transform(self, X):
            return X - self.mean_

    pipe = make_pipeline(Centre(), make_pipeline(StandardScaler(), quick()))
    found = compare_with_distillation(pipe, *given, cv=2, n_bootstrap=5, random_state=0)
    flat_pipe = make_pipeline(StandardScaler(), quick())
    expected = compare_with_distillation(flat_pipe, *given, cv=2, n_bootstrap=5, random_state=0)
    for row in ROWS:
        assert found.scores[row] == pytest.approx(expected.scores[row], abs=1e-3)


def test_comparison_of_a_text_classifier(tiny_model):
    rng = np.random.default_rng(0)
    y, groups = rng.integers(0, 2, 48), np.repeat(np.arange(12), 4)
    texts = [["good love happy", "bad hate sad"][label] for label in y]
    scores = (0.3 + 0.4 * y + rng.normal(0, 0.05, 48))[:, None]
    clf = PairwisePreferenceTextClassifier(tiny_model, device="cpu", max_epochs=1, random_state=0)
    human = np.where(groups < 6, y, -1)
    found = compare_with_distillation(clf, texts, human, groups, scores, cv=2, random_state=0)
    assert list(found.scores) == ROWS
    assert np.isfinite(found.predictions["human labels"][groups < 6]).all()


def test_a_fold_may_train_on_labels_of_one_class():
    data = make_dialogues(12, session_length=6, labelled_fraction=0, random_state=0, n_features=6)
    y = data.y.copy()
    y[:6], y[6:12] = data.y_true[:6], 1
    given = (data.X, y, data.groups, data.llm_scores)
    with pytest.warns(UserWarning, match="needs human labels of at least two classes"):
        found = compare_with_distillation(quick(classes=[0, 1]), *given, cv=2, random_state=0)
    one_class = found.fold == found.fold[0]
    expected = np.tile([0.0, 1.0], (6, 1))
    np.testing.assert_array_equal(found.predictions["human labels"][one_class], expected)


def test_comparison_prints_its_progress(capsys):
    data = make_dialogues(12, labelled_fraction=0.5, random_state=0, n_features=6)
    given = (data.X, data.y, data.groups, data.llm_scores)
    compare_with_distillation(quick(), *given, cv=2, n_bootstrap=2, verbose=1, random_state=0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert re.fullmatch(r"fold 1/2, skpref: \d+\.\d s", lines[0])


def test_comparison_tells_a_gain_that_is_there():
    # The LLM is off by a whole session at a time, in a way that the features show: soft labels
    # teach the student to be off, too, and pairs within sessions do not.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(150), 8)
    shift = rng.choice([-1.0, 1.0], 150)[groups]
    z = rng.normal(0, 1, len(groups))
    y = (rng.random(len(groups)) < expit(3 * z)).astype(int)
    X = np.column_stack([z + rng.normal(0, 0.3, len(groups)), shift])
    scores = expit(2 * z + 3 * shift)[:, None]
    human = np.where(groups < 75, y, -1)
    clf = quick(smoother="passthrough", calibrator="passthrough", stage2=None)
    clf.set_params(pointwise_weight=0)
    found = compare_with_distillation(clf, X, human, groups, scores, random_state=0)
    assert found.differences["distillation"]["accuracy"][1] > 0
    assert found.differences["skpref, no pairs"]["accuracy"][1] > 0
    assert "So pairs pay here, in macro-F1 (+" in found.message


def search_of(clf):
    from sklearn.model_selection import GridSearchCV

    return GridSearchCV(clf, {"margin_scale": [1.0]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"estimator": LogisticRegression()},
            "must be a PairwisePreferenceClassifier, or a Pipeline whose last step is one, but "
            "that is a LogisticRegression.",
        ),
        ({"estimator": search_of(quick())}, "Of a search, pass its best_estimator_."),
        ({"estimator": 3}, "The 'estimator' parameter of compare_with_distillation must be"),
        ({"y": [0, 1, -1, -1, -1, -1]}, "y has labels in 1 sessions; the labels of at least 2"),
        ({"y": [-1] * 6}, "y has labels in 0 sessions; the labels of at least 2 sessions"),
        ({"X": np.zeros((5, 2))}, "llm_scores has 6 rows but X has 5; pass one row of scores per"),
        ({"cv": KFold(3, shuffle=True, random_state=0)}, "puts utterances of one session into"),
        ({"groups": range(6), "cv": RepeatedKFold(n_splits=2)}, "tests a row more than once"),
        ({"groups": [1]}, "groups has 1 entries but there are 6 rows"),
        ({"llm_scores": np.zeros((6, 1, 3))}, "llm_scores has scores of 3 classes but y has 2"),
    ],
)
def test_comparison_names_what_is_wrong(changes, message):
    arguments = {
        "estimator": quick(),
        "X": np.arange(12.0).reshape(6, 2),
        "y": [0, 1, 0, 1, 0, 1],
        "groups": list("aabbcc"),
        "llm_scores": np.full((6, 1), 0.5),
    } | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        compare_with_distillation(**arguments)


def test_splitter_may_leave_rows_untested():
    data = make_dialogues(20, labelled_fraction=0.5, random_state=0, n_features=6)

    class FirstFold(GroupKFold):
        def split(self, X, y=None, groups=None):
            yield next(iter(super().split(X, y, groups)))

        def get_n_splits(self, X=None, y=None, groups=None):
            return 1

    found = compare_with_distillation(
        quick(),
        data.X,
        data.y,
        data.groups,
        data.llm_scores,
        cv=FirstFold(3),
        n_bootstrap=5,
        random_state=0,
    )
    tested = found.fold >= 0
    assert 0 < np.mean(tested[data.y >= 0]) < 1
    assert np.isnan(found.predictions["skpref"][~tested]).all()
    assert f"On {np.sum(tested & (data.y >= 0))} human labels" in found.message
    assert all(np.isnan(low) for _, low, _ in found.differences["distillation"].values())
    assert "sessions are too few to tell whether pairs pay" in found.message


def test_nothing_warns_about_empty_slices():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        noise_of(np.array([0, 1, 2, 0]), np.eye(3)[[0, 1, 2, 0]], np.array([0, 0, 1, 2]))
