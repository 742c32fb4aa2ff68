"""Several labels per utterance: one network with a score for each label."""

import pickle
from functools import cache

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.base import clone
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.utils import Bunch

from skpref import (
    IntraSessionPairSampler,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    PairwisePreferenceTextClassifier,
)
from skpref.inspection import prompt_agreement
from skpref.metrics import within_session_concordance
from tests.helpers import fast, given, raises
from tests.helpers import fit as fit_on

NAMES = ["ask", "complain", "thank", "leave"]


@cache
def make_data():
    """30 sessions of 10 utterances; four labels, the last one rare, scored by two prompts."""
    rng = np.random.default_rng(0)
    n, n_features = 300, 6
    X = rng.normal(size=(n, n_features))
    logit = 1.5 * X @ rng.normal(size=(n_features, 4)) + [0, -1, -2, -4]
    y_true = (rng.uniform(size=logit.shape) < expit(logit)).astype(int)
    noise = rng.normal(0, [1.0, 3.0], size=(n, 4, 2)).transpose(0, 2, 1)
    scores = expit(2 * y_true[:, None] + noise)  # says yes too often
    scores[rng.uniform(size=scores.shape) < 0.1] = np.nan
    y = np.where(rng.uniform(size=y_true.shape) < 0.3, y_true, -1)
    return Bunch(X=X, y=y, y_true=y_true, llm_scores=scores, groups=np.repeat(np.arange(30), 10))


@cache
def fitted(module="mlp"):
    return fit_on(fast(module), make_data())


def concordance(clf, data):
    prob = clf.predict_proba(data.X)
    return [roc_auc_score(t, p) for t, p in zip(data.y_true.T, prob.T, strict=True)]


# --- what is learned ----------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["mlp", "linear"])
def test_each_label_is_learned(module):
    assert min(concordance(fitted(module), make_data())) > 0.88


def test_labels_alone_suffice():
    data = make_data()
    clf = fast("linear").fit(data.X, data.y, groups=data.groups)
    assert min(concordance(clf, data)) > 0.85


def test_a_few_labelled_sessions_among_many_others_are_enough():
    # A tenth of all sessions is held out, labelled ones first: more than have labels here.
    rng = np.random.default_rng(0)
    X, sessions = rng.normal(size=(600, 4)), np.repeat(np.arange(60), 10)
    truth = (X[:, :3] > 0).astype(int)
    known = (sessions < 5)[:, None]
    scores = np.where(known, truth * 0.8 + 0.1, np.nan)[:, None]
    y = np.where(known, truth, -1)
    for stopping in ({}, {"early_stopping": True, "lr": 0.05}):
        clf = PairwisePreferenceClassifier(smoother="passthrough", random_state=0, **stopping)
        for taught in ({}, {"llm_scores": scores}):
            found = clf.fit(X, y, groups=sessions, **taught).predict(X)
            assert (found == truth).mean() > 0.8


@pytest.mark.parametrize("partly", [False, True])
def test_one_fit_equals_separate_fits_of_the_same_loss(partly):
    data = make_data()
    y = data.y if partly else data.y_true
    clf = fast("linear", pairwise_weight=0, stage2=None, tol=1e-9)
    prob = clf.fit(data.X, y).predict_proba(data.X)
    for k in range(y.shape[1]):
        known = y[:, k] >= 0
        alone = clone(clf).fit(data.X[known], y[known, k])
        np.testing.assert_allclose(alone.predict_proba(data.X)[:, 1], prob[:, k], atol=1e-5)


def test_one_label_is_a_binary_task():
    data = make_data()
    clf = fast("linear", classes=["ask"])
    one = fit_on(clf, data, y=data.y[:, :1], llm_scores=data.llm_scores[:, :, :1])
    binary = fit_on(fast("linear"), data, y=data.y[:, 0], llm_scores=data.llm_scores[:, :, 0])
    expected = binary.predict_proba(data.X)[:, 1:]
    np.testing.assert_allclose(one.predict_proba(data.X), expected, atol=1e-4)
    assert one.predict(data.X).shape == one.decision_function(data.X).shape == (300, 1)
    assert one.score(data.X, data.y[:, :1]) == binary.score(data.X, data.y[:, 0])


def test_a_rare_label_gains_from_the_others():
    data = make_data()
    y = data.y.copy()
    y[np.flatnonzero(y[:, 3] == 1)[3:], 3] = -1  # three positives remain
    rare = y[:, 3]
    together = LLMScoreCalibrator().fit(data.llm_scores, y)
    alone = LLMScoreCalibrator().fit(data.llm_scores[:, :, 3], rare)
    unseen = rare < 0
    truth = data.y_true[unseen, 3]

    def brier(prob):
        kept = ~np.isnan(prob)
        return ((prob - truth)[kept] ** 2).mean()

    separate = brier(alone.transform(data.llm_scores[:, :, 3])[unseen, 1])
    assert brier(together.transform(data.llm_scores)[unseen, 3]) < 0.95 * separate
    # The second prompt is noisier; each label alone could hardly say so.
    assert (together.prompt_weights_[:, 0] > 2 * together.prompt_weights_[:, 1]).all()


def test_decision_by_macro_f1_helps_rare_labels_and_leaves_probabilities():
    data = make_data()
    plain = fitted("linear")
    clf = fit_on(fast("linear", decision="macro_f1"), data)
    np.testing.assert_array_equal(clf.predict_proba(data.X), plain.predict_proba(data.X))
    macro = [f1_score(data.y_true, m.predict(data.X), average="macro") for m in (plain, clf)]
    assert macro[1] > macro[0]
    shifted = clf.decision_function(data.X) + clf.decision_offsets_
    np.testing.assert_array_equal(clf.predict(data.X), shifted > 0)


@pytest.mark.slow
def test_class_weights_are_those_within_each_label():
    data = make_data()
    balanced = fitted("linear")
    share = np.column_stack([1 - data.y_true.mean(axis=0), data.y_true.mean(axis=0)])
    weights = fast().fit(data.X, data.y_true).class_weight_
    np.testing.assert_allclose(weights, 1 / (2 * share))
    plain = fit_on(fast("linear", class_weight=None), data)
    assert (plain.class_weight_ == 1).all()
    assert (balanced.predict_proba(data.X)[:, 3] > plain.predict_proba(data.X)[:, 3]).mean() > 0.9
    clf = fit_on(fast("linear", class_weight={2: 5.0}), data)
    np.testing.assert_array_equal(clf.class_weight_, [[1, 1], [1, 1], [1, 5], [1, 1]])


def test_pairs_compare_each_label_where_it_is_known():
    from skpref._torch._losses import PreferenceLoss
    from skpref._torch._net import SessionBatches
    from tests.helpers import make_dataset

    data = make_dataset([5, 7, 3], n_scores=3)
    data.soft[np.random.RandomState(1).rand(15, 3) < 0.3] = np.nan
    data.soft_tensor = torch.from_numpy(data.soft.astype(np.float32))
    [(_, target)] = SessionBatches(data, 100, session_weight="pairs")
    scores = torch.randn(15, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"loss": "squared_hinge", "margin": "adaptive", "margin_scale": 2.0}
    loss = PreferenceLoss(
        **options,
        pairwise_weight=1.0,
        pointwise_weight=0.0,
        min_margin=0.0,
        class_weight=torch.ones(3, 2),
    )
    pairs = IntraSessionPairSampler(session_weight="pairs").sample(data.soft, data.session)
    gap = scores[pairs.winner, pairs.class_index] - scores[pairs.loser, pairs.class_index]
    expected = (2 * torch.from_numpy(pairs.margin) - gap).clamp(min=0) ** 2
    assert loss(scores, target).item() == pytest.approx(3 * expected.mean().item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {"early_stopping": True},
        {"loss": "hinge"},
        {"loss": "logistic", "smoother": "passthrough"},
        {"solver": "lbfgs", "max_iter": 30},
        {"stage2": "finetune", "calibrator": "passthrough"},
        {"stage2": "head"},
        {"stage2": "offsets", "pair_sampler": IntraSessionPairSampler("uniform")},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:solver='lbfgs' did not reach")
def test_every_way_through_fit_learns(params):
    clf = fit_on(fast(**params), make_data())
    assert min(concordance(clf, make_data())[:3]) > 0.8
    assert np.isfinite(clf.predict_proba(make_data().X)).all()


def test_stage_2_moves_towards_the_labels_of_a_label_that_no_prompt_asked_about():
    data = make_data()
    scores = data.llm_scores.copy()
    scores[:, :, 0] = np.nan
    clf = fit_on(fast(), data, llm_scores=scores)
    assert np.isnan(clf.soft_labels_[:, 0]).all()
    assert concordance(clf, data)[0] > 0.7


# --- what is given ------------------------------------------------------------------------------

WITH_GAPS = [[1, 0, None], [0, None, 1], [1, 1, 0], [None, None, None], [0, 0, 1], [0, 1, 0]]
CODES = np.array([[-1 if v is None else v for v in row] for row in WITH_GAPS])
FLOATS = np.where(CODES < 0, np.nan, CODES)
HOLDERS = {
    "-1": CODES,
    "NaN": FLOATS,
    "float32": FLOATS.astype(np.float32),
    "list": WITH_GAPS,
    "list of tuples": [tuple(row) for row in WITH_GAPS],
    "list of arrays": list(FLOATS),
    "object": np.array(WITH_GAPS, dtype=object),
    "NA": [[pd.NA if v is None else v for v in row] for row in WITH_GAPS],
    "masked": np.ma.masked_array(np.abs(CODES), mask=CODES < 0),
    "masked floats": np.ma.masked_invalid(FLOATS),
    "DataFrame": pd.DataFrame(FLOATS, index=range(3, 9)),
    "Int64": pd.DataFrame(WITH_GAPS).astype("Int64"),
    "boolean": pd.DataFrame(WITH_GAPS).astype("boolean"),
    "polars": pl.DataFrame(WITH_GAPS, orient="row", schema=list("abc")),
    "arrow": pa.table({k: [row[i] for row in WITH_GAPS] for i, k in enumerate("abc")}),
    "tensor": torch.from_numpy(FLOATS),
    "sparse": csr_array(CODES),
}


@pytest.mark.parametrize("y", HOLDERS.values(), ids=HOLDERS)
def test_any_container_holds_labels(y):
    X = np.arange(12.0).reshape(6, 2) % 5
    clf = fast("linear", tol=0.1, stage2=None).fit(X, y)
    expected = clone(clf).fit(X, CODES).predict_proba(X)
    np.testing.assert_array_equal(clf.predict_proba(X), expected)
    right = (clf.predict(X) == CODES) | (CODES < 0)
    assert clf.score(X, y) == right.all(axis=1)[(CODES >= 0).any(axis=1)].mean()
    calibrator = LLMScoreCalibrator("mean").fit(np.zeros((6, 2, 3)), y)
    assert calibrator.multilabel_
    assert list(calibrator.classes_) == list(clf.classes_)


@pytest.mark.slow
def test_labels_are_named_by_classes_or_by_the_columns():
    data = make_data()
    assert fitted().classes_.tolist() == [0, 1, 2, 3]
    named = fit_on(fast("linear", max_iter=1000), data, y=pd.DataFrame(data.y, columns=NAMES))
    assert named.classes_.tolist() == NAMES
    given_names = fit_on(fast("linear", classes=NAMES), data)
    assert given_names.classes_.tolist() == NAMES
    np.testing.assert_array_equal(given_names.predict(data.X), named.predict(data.X))


def test_labels_without_any_positive_and_more_labels_than_rows_are_fitted():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(8, 3)), rng.integers(2, size=(8, 12))
    y[:, 2] = 0
    y[:, 3] = -1
    y[:, 4] = 1
    scores = rng.uniform(size=(8, 2, 12))
    for clf in (
        fast(decision="macro_f1").fit(X, y),
        fast().fit(X, y, groups=[0, 0, 0, 0, 1, 1, 2, 2], llm_scores=scores),
    ):
        prob = clf.predict_proba(X)
        assert np.isfinite(prob).all()
        assert (prob[:, 2] < 0.5).all()
        assert (prob[:, 4] > prob[:, 2]).all()


def test_no_label_is_needed_with_scores():
    data = make_data()
    with pytest.warns(UserWarning, match="label-free method 'mean'"):
        clf = fit_on(fast("linear"), data, y=np.full_like(data.y, -1))
    assert min(concordance(clf, data)) > 0.75


def test_neither_row_order_nor_names_of_sessions_matter():
    data = make_data()
    order = np.random.RandomState(0).permutation(len(data.X))
    names = np.array([f"session {g}" for g in data.groups])
    shuffled = fast("linear").fit(
        data.X[order], data.y[order], groups=names[order], llm_scores=data.llm_scores[order]
    )
    expected = fitted("linear").predict_proba(data.X)
    np.testing.assert_allclose(shuffled.predict_proba(data.X), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.full((300, 4), 2)}, "Unknown label type: y has shape (300, 4)"),
        ({"llm_scores": np.zeros((300, 2, 3))}, "llm_scores has shape (300, 2, 3) but y has 4"),
        ({"llm_scores": np.zeros((300, 2))}, "pass (n_utterances, n_prompts, 4)"),
        ({"y": np.zeros((300, 4)), "llm_scores": None}, "y has one class only"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with raises(message):
        fit_on(fast(), make_data(), **changes)


def test_classes_must_match_the_columns():
    data = make_data()
    with raises("y has 4 columns, one for each label, but classes names 2"):
        fit_on(fast(classes=["ask", "thank"]), data)
    with raises("lists in another order"):
        fit_on(fast(classes=NAMES[::-1]), data, y=pd.DataFrame(data.y, columns=NAMES))


def test_parts_that_take_one_class_say_what_to_do():
    data = make_data()
    with raises("If y holds several labels per row, which are not supported here"):
        prompt_agreement(data.llm_scores, data.y_true, data.groups)
    with raises("pass one label at a time, as y_true[:, k]"):
        within_session_concordance(data.y_true, fitted().predict_proba(data.X), groups=data.groups)


# --- scikit-learn's conventions -----------------------------------------------------------------


def test_predictions_have_scikit_learns_forms():
    data, clf = make_data(), fitted()
    for name in ("predict", "predict_proba", "decision_function"):
        assert getattr(clf, name)(data.X).shape == (300, 4)
    assert set(np.unique(clf.predict(data.X))) == {0, 1}
    np.testing.assert_array_equal(clf.predict(data.X), clf.predict_proba(data.X) > 0.5)
    expected = (clf.predict(data.X) == data.y_true).all(axis=1).mean()
    assert clf.score(data.X, data.y_true) == expected
    assert clf.__sklearn_tags__().classifier_tags.multi_label
    assert clf.multilabel_
    samples = f1_score(data.y_true, clf.predict(data.X), average="samples", zero_division=1.0)
    assert samples > 0.5


@pytest.mark.slow
def test_search_and_cross_validation_route_scores(routing):
    data = make_data()
    clf = fast("linear")
    search = GridSearchCV(
        clf, {"calibrator": ["passthrough", None]}, cv=GroupKFold(2), scoring="f1_macro"
    )
    search.fit(data.X, data.y_true, **given(data))
    assert search.best_score_ > 0.5
    prob = cross_val_predict(
        clf,
        data.X,
        data.y_true,
        cv=GroupKFold(2),
        params=given(data),
        method="predict_proba",
    )
    assert roc_auc_score(data.y_true, prob) > 0.9


@pytest.mark.slow
def test_default_scoring_of_a_search_leaves_unknown_labels_out(routing):
    data = make_data()
    search = GridSearchCV(fast("linear"), {"class_weight": [None]}, cv=GroupKFold(2))
    search.fit(data.X, data.y, **given(data))
    assert 0.3 < search.best_score_ <= 1


# --- more training, files -----------------------------------------------------------------------


@pytest.mark.slow
def test_training_continues():
    data = make_data()
    warm = fast(warm_start=True, max_epochs=3)
    fit_on(warm, data)
    before = warm.history_[-1]["train_loss"]
    fit_on(warm, data)
    assert warm.history_[-1]["train_loss"] < before
    clf = fast(classes=NAMES)
    for rows in (slice(0, 150), slice(150, 300)) * 2:
        clf.partial_fit(data.X[rows], data.y[rows], **given(data, rows))
    assert min(concordance(clf, data)[:3]) > 0.75
    with raises("y has one class per row and the last fit had several labels"):
        clf.partial_fit(data.X, np.array(NAMES)[np.arange(300) % 4])


@pytest.mark.slow
def test_copies_predict_the_same(tmp_path):
    data, clf = make_data(), fit_on(fast(decision="macro_f1", classes=NAMES), make_data())
    clf.save_pretrained(tmp_path)
    loaded = PairwisePreferenceClassifier.from_pretrained(tmp_path)
    for copy in (pickle.loads(pickle.dumps(clf)), loaded, fit_on(clone(clf), data)):
        np.testing.assert_array_equal(copy.predict_proba(data.X), clf.predict_proba(data.X))
        np.testing.assert_array_equal(copy.predict(data.X), clf.predict(data.X))
        assert copy.classes_.tolist() == NAMES
    rows = slice(0, 100)
    loaded.partial_fit(data.X[rows], data.y[rows], **given(data, rows))
    assert loaded.predict(data.X).shape == (300, 4)


@pytest.mark.slow
def test_onnx_gives_the_probabilities(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    data, clf = make_data(), fitted()
    clf.to_onnx(tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    [prob] = session.run(None, {"features": data.X.astype(np.float32)})
    np.testing.assert_allclose(prob, clf.predict_proba(data.X), atol=1e-5)


@pytest.mark.slow
def test_texts_have_several_labels(tiny_model, tmp_path):
    asks, thanks = np.arange(60) % 2, np.arange(60) // 2 % 2
    pairs = zip(asks, thanks, strict=True)
    texts = ["where is it " * a + "thanks a lot " * t + "ok" for a, t in pairs]
    y = np.column_stack([asks, thanks])
    clf = PairwisePreferenceTextClassifier(
        tiny_model, max_epochs=8, lr=0.05, encoder_lr=1e-3, random_state=0
    )
    clf.fit(texts, y, groups=np.arange(60) // 6, llm_scores=0.1 + 0.8 * y[:, None])
    assert clf.score(texts, y) > 0.9
    clf.save_pretrained(tmp_path)
    loaded = PairwisePreferenceTextClassifier.from_pretrained(tmp_path)
    np.testing.assert_allclose(loaded.predict_proba(texts), clf.predict_proba(texts), atol=1e-6)
