"""The share of the scores' error that a session shares."""

import numpy as np
import pytest
from scipy.special import softmax

from skpref.inspection import preference_noise
from skpref.inspection._shared import share_of_session


def make_scores(share, n_sessions=400, n_columns=1, seed=0, labels=3):
    """Scores whose error has the given share of its variance in the session."""
    rng = np.random.default_rng(seed)
    session = np.repeat(np.arange(n_sessions), rng.integers(1, 20, n_sessions))
    # Labels cluster by session, which must not count as an error that is shared.
    liked = rng.integers(labels, size=n_sessions)[session]
    label = np.where(rng.random(len(session)) < 0.5, liked, rng.integers(labels, size=len(session)))
    of_session = rng.normal(size=(n_sessions, n_columns))[session] * np.sqrt(share)
    own = rng.normal(size=(len(session), n_columns)) * np.sqrt(1 - share)
    effect = 3 * rng.normal(size=(labels, n_columns))
    return effect[label] + of_session + own, label, session


def shared(score, label, session, n_bootstrap=200, seed=0):
    rng = np.random.RandomState(seed)
    return share_of_session(score, label, session, n_bootstrap, 0.95, rng)


def naive(score, label, session):
    """The estimate by the textbook, for one score."""
    score = score[:, 0].copy()
    for k in np.unique(label):
        score[label == k] -= score[label == k].mean()
    groups = [score[session == s] for s in np.unique(session)]
    n = np.array([len(g) for g in groups])
    between = sum(len(g) * g.mean() ** 2 for g in groups) / (len(n) - 1)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (n.sum() - len(n))
    size = (n.sum() - (n**2).sum() / n.sum()) / (len(n) - 1)
    return (between - within) / (between + (size - 1) * within)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.25, 0.6])
@pytest.mark.parametrize("n_columns", [1, 3])
def test_the_true_share_is_found(share, n_columns):
    found = shared(*make_scores(share, n_columns=n_columns))
    assert found.share == pytest.approx(share, abs=0.04)
    assert found.low <= found.share <= found.high


def test_it_is_the_intraclass_correlation_of_the_textbook():
    case = make_scores(0.3, n_sessions=30)
    assert shared(*case, n_bootstrap=1).share == pytest.approx(naive(*case), rel=1e-9)


def test_the_interval_mostly_covers_the_truth():
    hits = 0
    for seed in range(60):
        found = shared(*make_scores(0.3, n_sessions=60, seed=seed), n_bootstrap=100)
        hits += found.low <= 0.3 <= found.high
    assert hits >= 45  # the bootstrap of sessions is a little too narrow


def test_the_unit_of_the_scores_does_not_matter():
    score, label, session = make_scores(0.3)
    expected = shared(score, label, session, n_bootstrap=1).share
    assert shared(1e3 * score + 1e5, label, session, n_bootstrap=1).share == pytest.approx(expected)


@pytest.mark.parametrize("case", ["one session", "one row each", "no error"])
def test_what_cannot_be_estimated_is_nan(case):
    score, label, session = make_scores(0.3, n_sessions=20)
    if case == "one session":
        session = np.zeros_like(session)
    if case == "one row each":
        session = np.arange(len(session))
    if case == "no error":
        score = label[:, None].astype(float)
    assert np.isnan(shared(score, label, session).share)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [2, 3])
def test_preference_noise_reports_it_in_message_and_table(labels):
    shares = []
    for share in (0.02, 0.5):
        score, label, session = make_scores(share, n_columns=labels, labels=labels)
        prob = softmax(score, axis=1)
        label[::7] = -1
        noise = preference_noise(prob, label, session, layout="classes", random_state=0)
        text = f"share {100 * max(noise.shared.share, 0):.1f}%"
        assert text in noise.message
        assert "comparing within sessions can remove no more" in noise.message
        last = noise.summary.splitlines()[-1]
        assert last.startswith("error shared by a session")
        assert f"{noise.shared.share:.3f} ({noise.shared.low:.3f}" in last
        shares.append(noise.shared.share)
    assert shares[0] < 0.1 < 0.2 < shares[1]
