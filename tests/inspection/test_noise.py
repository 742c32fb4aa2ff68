import re
import warnings
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from skpref import LLMScoreCalibrator
from skpref.datasets import make_dialogues
from skpref.inspection import preference_noise
from skpref.metrics import within_session_concordance
from tests.inspection.helpers import THREE_CLASSES, flat


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


@pytest.mark.slow
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


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(scored_sessions(), st.randoms(use_true_random=False), st.sampled_from([7, 1000]))
def test_noise_does_not_change_with_row_order_or_session_names(case, random, max_pairs):
    codes, score, groups = case
    expected = noise_of(codes, score, groups, max_pairs=max_pairs)
    order = random.sample(range(len(codes)), len(codes))
    renamed = np.array([{"z": 4, "a": 1, "m": 3, "k": 2}[g] for g in groups])
    result = noise_of(codes[order], score[order], renamed[order], max_pairs=max_pairs)
    np.testing.assert_array_equal(flat(result), flat(expected))
    assert (result.message, result.summary) == (expected.message, expected.summary)


def test_votes_that_tie_over_sessions_do_not_depend_on_row_order():
    # One-hot votes: most rows are alike, and so are some sessions.
    rng = np.random.default_rng(0)
    codes, groups = rng.integers(0, 2, 60), np.repeat(np.arange(20), 3)
    votes = np.eye(2)[np.where(rng.random(60) < 0.3, 1 - codes, codes)]
    expected = noise_of(codes, votes, groups, n_bootstrap=20)
    for _ in range(5):
        order = rng.permutation(60)
        result = noise_of(codes[order], votes[order], -groups[order], n_bootstrap=20)
        np.testing.assert_array_equal(flat(result), flat(expected))


@pytest.mark.slow
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
    assert (
        "150 labelled sessions do not show whether pairs within a session are less noisy"
        in noise.message
    )


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


@pytest.mark.slow
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


@pytest.mark.slow
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
        result = preference_noise(scores, data.y, data.groups, **kwargs)
        np.testing.assert_allclose(flat(result), expected, atol=1e-9)
    # layout="prompts" makes columns that sum to 1 two prompts; their mean is 0.5 in every row.
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
    result = preference_noise(scores, y, data.groups, n_bootstrap=2, random_state=0)
    kept = ~hidden & ~unscored
    concordance = within_session_concordance(
        data.y_true[kept],
        LLMScoreCalibrator("mean").fit_transform(scores)[kept],
        groups=data.groups[kept],
    )
    assert result.within.error == pytest.approx(1 - concordance, abs=1e-12)


def test_all_scores_tied():
    noise = noise_of(np.array([0, 1] * 6), np.full((12, 2), 0.5), np.repeat(np.arange(6), 2))
    assert noise.within.error == noise.across.error == 0.5
    assert noise.by_gap.tied_within == noise.by_gap.tied_across == 1
    assert noise.by_gap.n_within.tolist() == [0]
    assert np.isnan(noise.min_margin)
    assert "No score gap was shown" in noise.message


def test_one_session_has_no_pair_across_and_no_interval():
    noise = noise_of(np.array([0, 1, 0, 1]), np.eye(2)[[0, 1, 1, 0]], np.zeros(4))
    assert noise.within.error == 0.5
    assert noise.across.n_pairs == 0
    undefined = [noise.across.error, noise.within.low, noise.difference.error, noise.difference.low]
    assert np.isnan(undefined).all()
    assert noise.intra_session_helps == "unclear"
    assert "There is no pair across sessions." in noise.message
    assert "are less noisy: label more sessions." in noise.message


def test_sessions_of_one_row_have_no_pair_within():
    noise = noise_of(np.array([0, 1] * 5), np.eye(2)[[0, 1] * 5], np.arange(10))
    assert np.isnan(noise.within.error)
    assert noise.within.n_pairs == len(noise.by_length.error) == 0
    assert noise.across.error == 0
    assert "There is no pair within sessions." in noise.message


def test_few_sessions_are_said_to_be_few():
    data = make_dialogues(8, labelled_fraction=1.0, random_state=0)
    noise = preference_noise(data.llm_scores, data.y, data.groups, random_state=0)
    assert "Intervals from 8 sessions are too narrow" in noise.message


def test_drawn_pairs_are_fair():
    data = make_dialogues(60, n_classes=3, labelled_fraction=1.0, random_state=0)
    given = (data.llm_scores, data.y, data.groups)
    complete = preference_noise(
        *given, n_gap_bins=3, max_pairs=10**7, n_bootstrap=2, random_state=0
    )
    drawn = preference_noise(*given, n_gap_bins=3, max_pairs=20_000, n_bootstrap=2, random_state=0)
    assert drawn.by_gap.n_across.sum() == 20_000
    assert (complete.across.error, complete.within.error) == (
        drawn.across.error,
        drawn.within.error,
    )
    np.testing.assert_allclose(drawn.by_gap.across, complete.by_gap.across, atol=0.02)
    share = complete.by_gap.n_across / complete.by_gap.n_across.sum()
    np.testing.assert_allclose(drawn.by_gap.n_across / 20_000, share, atol=0.02)


def test_noise_of_a_hundred_thousand_rows():
    rng = np.random.default_rng(0)
    y, groups = rng.integers(0, 2, 100_000), rng.integers(0, 5000, 100_000)
    noise = preference_noise(rng.random((len(y), 1)), y, groups, n_bootstrap=3, random_state=0)
    assert noise.across.error == pytest.approx(0.5, abs=0.01)
    assert noise.across.n_pairs > 2 * 10**9


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
    arguments = {"llm_scores": THREE_CLASSES, "y": [0, 1, 2, 0], "groups": list("aabb")} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        preference_noise(**arguments)


def test_nothing_warns_about_empty_slices():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        noise_of(np.array([0, 1, 2, 0]), np.eye(3)[[0, 1, 2, 0]], np.array([0, 0, 1, 2]))


def several_labels(n=300, n_labels=3, seed=0):
    rng = np.random.default_rng(seed)
    codes = (rng.random((n, n_labels)) < [0.5, 0.2, 0.05]).astype(int)
    scores = np.clip(codes[:, None] + rng.normal(scale=0.6, size=(n, 2, n_labels)), 0, 1)
    codes[rng.random(codes.shape) < 0.2] = -1
    scores[rng.random(n) < 0.1] = np.nan
    return codes, scores, np.repeat(np.arange(n // 10), 10)


def test_pairs_of_several_labels_are_those_of_each():
    codes, scores, groups = several_labels()
    noise = preference_noise(scores, codes, groups, n_bootstrap=20, random_state=0)
    apart = [
        preference_noise(scores[:, :, k], codes[:, k], groups, n_bootstrap=20, random_state=0)
        for k in range(3)
    ]
    for where in ("within", "across"):
        n_pairs = np.array([part[where].n_pairs for part in apart])
        error = np.array([part[where].error for part in apart])
        assert noise[where].n_pairs == n_pairs.sum()
        assert noise[where].error == pytest.approx(error @ n_pairs / n_pairs.sum())
    shares = [part.shared.share for part in apart]
    assert min(shares) < noise.shared.share < max(shares)


def test_several_labels_in_a_frame_and_in_any_order():
    codes, scores, groups = several_labels()
    usual = preference_noise(scores, codes, groups, n_bootstrap=20, random_state=0)
    order = np.random.default_rng(1).permutation(len(codes))
    frame = pd.DataFrame(codes, columns=["asks", "thanks", "swears"]).astype(float)
    frame = frame.where(frame >= 0)
    other = preference_noise(
        scores[order], frame.iloc[order], groups[order], n_bootstrap=20, random_state=0
    )
    assert flat(other) == pytest.approx(flat(usual), nan_ok=True)
    one_score = preference_noise(scores[:, 0], codes, groups, random_state=0)
    assert 0 < one_score.within.error < 0.5


def test_several_labels_that_cannot_be_compared_are_refused():
    codes, scores, groups = several_labels(30)
    with pytest.raises(ValueError, match="y has no label that applies to one row"):
        preference_noise(scores, np.ones_like(codes), groups)
    with pytest.raises(ValueError, match="llm_scores"):
        preference_noise(scores[:, :, :2], codes, groups)
    with pytest.raises(ValueError, match="llm_scores"):
        preference_noise(scores[:20], codes, groups)
