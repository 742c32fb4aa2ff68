import pickle
import re
import tracemalloc
from itertools import combinations, permutations
from typing import ClassVar

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import expit
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils._testing import assert_allclose_dense_sparse
from skorch.callbacks import Callback
from torch import nn

from skpref import (
    IntraSessionPairSampler,
    KNNLabelSmoother,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
)
from skpref._torch._modules import MLP
from skpref._torch._scoring import ROWS
from skpref.datasets import make_dialogues
from skpref.metrics import within_session_concordance
from tests.helpers import fast, fit


@pytest.fixture(scope="module")
def data():
    return make_dialogues(n_sessions=60, session_length=(4, 15), random_state=0)


@pytest.fixture(scope="module")
def data3():
    return make_dialogues(n_sessions=60, session_length=(4, 15), n_classes=3, random_state=0)


# --- what it learns -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many():
    return make_dialogues(n_sessions=200, random_state=0)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "logistic"])
@pytest.mark.parametrize("module", ["linear", "mlp"])
def test_each_loss_beats_the_scores_it_learned_from(many, loss, module):
    clf = fit(fast(module=module, loss=loss), many)
    llm = many.llm_scores.mean(axis=1).argmax(axis=1)
    assert clf.score(many.X, many.y_true) > (llm == many.y_true).mean()


@pytest.mark.slow
def test_pairs_alone_order_the_utterances_of_a_session(data3):
    clf = fit(fast(pointwise_weight=0, max_epochs=20), data3)
    concordance = within_session_concordance(
        data3.y_true, clf.decision_function(data3.X), groups=data3.groups
    )
    assert concordance > 0.85


@pytest.mark.slow
def test_pairs_within_sessions_withstand_session_bias():
    data = make_dialogues(
        n_sessions=150, session_length=(5, 12), session_bias=4.0, noise=0.3, random_state=1
    )
    clf = fast(
        module="linear",
        calibrator="passthrough",
        smoother="passthrough",
        stage2=None,
        max_epochs=30,
        pointwise_weight=0,
    )
    within = fit(clone(clf), data).decision_function(data.X)
    pointwise = clone(clf).set_params(pairwise_weight=0, pointwise_weight=1)
    beside = fit(pointwise, data).decision_function(data.X)
    truth = data.logits[:, 1] - data.logits[:, 0]
    assert np.corrcoef(within, truth)[0, 1] > np.corrcoef(beside, truth)[0, 1]


@pytest.mark.slow
def test_labels_fix_the_offsets_that_pairs_leave_open(data3):
    # A teacher whose scores are shifted toward one class orders well and decides badly.
    scores = data3.llm_scores * np.array([1, 1, 50])
    scores /= scores.sum(axis=2, keepdims=True)
    clf = fast(calibrator="passthrough", max_epochs=20, class_weight=None, stage2="offsets")
    with_labels = fit(clone(clf), data3, y=data3.y_true, llm_scores=scores)
    without = fit(clone(clf).set_params(stage2=None), data3, llm_scores=scores)
    assert with_labels.score(data3.X, data3.y_true) > without.score(data3.X, data3.y_true) + 0.1


@pytest.mark.slow
def test_without_scores_it_learns_from_labels_in_sessions_or_in_none(data):
    for groups in (data.groups, None):
        clf = fast(max_epochs=20).fit(data.X, data.y_true, groups=groups)
        assert clf.score(data.X, data.y_true) > 0.85


@pytest.mark.slow
def test_string_labels_with_none_as_unlabelled(data3):
    names = np.array(["neg", "neu", "pos"], dtype=object)
    y = np.where(data3.y < 0, None, names[data3.y])
    clf = fit(fast(), data3, y=y)
    assert clf.classes_.tolist() == clf.calibrator_.classes_.tolist() == ["neg", "neu", "pos"]
    same = fit(fast(), data3)
    assert_allclose(clf.predict_proba(data3.X), same.predict_proba(data3.X))


def test_minus_one_is_a_class_without_scores(data):
    y = np.where(data.y_true == 1, 1, -1)
    clf = fast().fit(data.X, y)
    assert clf.classes_.tolist() == [-1, 1]
    assert clf.score(data.X, y) > 0.8


@pytest.mark.slow
def test_two_dimensional_scores_are_those_of_the_positive_class(data):
    full = fit(fast(), data)
    short = fit(fast(), data, llm_scores=data.llm_scores[:, :, 1])
    assert_allclose(full.predict_proba(data.X), short.predict_proba(data.X), atol=1e-5)


def test_fully_unlabelled_with_auto_uses_the_soft_labels(data):
    with pytest.warns(UserWarning, match="label"):
        clf = fit(fast(classes=["no", "yes"]), data, y=None)
    assert set(clf.predict(data.X)) == {"no", "yes"}


# --- outputs --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data", "data3"])
def test_probabilities_follow_from_scale_and_offsets(name, request):
    data = request.getfixturevalue(name)
    clf = fit(fast(), data)
    logits = clf.decision_function(data.X)
    proba = clf.predict_proba(data.X)
    if logits.ndim == 1:
        logits = np.c_[np.zeros_like(logits), logits]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert_allclose(proba, expected, atol=1e-6)
    assert_array_equal(clf.predict(data.X), clf.classes_[proba.argmax(axis=1)])
    raw = clf.net_.module_(torch.from_numpy(data.X)).detach().numpy()
    shown = clf.decision_function(data.X).reshape(raw.shape)
    assert_allclose(clf.scale_ * raw + clf.offsets_, shown, atol=1e-9)


@pytest.mark.slow
def test_probabilities_are_calibrated(data3):
    train, test = np.arange(len(data3.y)) < 350, np.arange(len(data3.y)) >= 350
    y = np.where(train, data3.y_true, -1)
    clf = fit(fast(max_epochs=15), data3, y=y, rows=train)
    uncalibrated = fit(fast(max_epochs=15, stage2=None, margin_scale=20.0), data3, y=y, rows=train)

    def log_loss(model):
        proba = model.predict_proba(data3.X[test])
        return -np.log(proba[np.arange(test.sum()), data3.y_true[test]]).mean()

    assert log_loss(clf) < log_loss(uncalibrated)


def test_history_is_a_table_of_stage_epoch_and_losses(data):
    clf = fit(fast(stage2="finetune", early_stopping=True), data)
    table = pd.DataFrame(clf.history_)
    assert {"stage", "epoch", "train_loss", "valid_loss"} <= set(table.columns)
    assert (table["stage"] == "pairs").sum() == clf.n_iter_
    assert (table["stage"] == "finetune").sum() == 5
    assert np.isfinite(table["train_loss"]).all()


def test_score_leaves_unlabelled_rows_out(data):
    clf = fit(fast(), data)
    labelled = data.y >= 0
    assert clf.score(data.X, data.y) == clf.score(data.X[labelled], data.y[labelled])
    weight = np.random.RandomState(0).rand(len(data.y))
    assert clf.score(data.X, data.y, sample_weight=weight) == pytest.approx(
        clf.score(data.X[labelled], data.y[labelled], sample_weight=weight[labelled])
    )


def test_predicting_does_not_depend_on_the_batch(data):
    clf = fit(fast(), data)
    one_by_one = np.concatenate([clf.decision_function(x[None]) for x in data.X[:20]])
    assert_allclose(one_by_one, clf.decision_function(data.X[:20]), atol=1e-6)


def test_predicting_streams_over_the_rows(data):
    clf = fit(fast(), data)
    expected = clf.predict_proba(data.X)
    seen = []
    clf.net_.module_.register_forward_hook(lambda _module, X, _scores: seen.append(len(X[0])))
    X = np.tile(data.X, (200, 1))
    tracemalloc.start()
    found = clf.predict_proba(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_allclose(found[: len(data.X)], expected, atol=1e-6)
    assert max(seen) == ROWS
    # A few arrays of the scores and probabilities; none of the features.
    assert peak < 10 * found.nbytes
    assert peak < X.nbytes


# --- the full-batch solver --------------------------------------------------------------------


def converged(**params):
    """Only pairs, so that nothing but the convex problem decides."""
    only_pairs = {"calibrator": "passthrough", "smoother": "passthrough", "stage2": None}
    only_pairs |= {
        "pairwise_weight": 1.0,
        "pointwise_weight": 0.0,
        "weight_decay": 0.01,
        "tol": 1e-9,
        "random_state": 0,
    }
    return PairwisePreferenceClassifier("linear", solver="lbfgs", **only_pairs | params)


@pytest.mark.parametrize("margin", ["adaptive", "fixed"])
@pytest.mark.parametrize("lengths", [(40, 30, 20), (200, 150, 20)])  # pair by pair; by sums
def test_lbfgs_reaches_the_optimum_of_an_independent_convex_solver(margin, lengths):
    rng = np.random.RandomState(0)
    X, groups = rng.randn(sum(lengths), 5), np.repeat([0, 1, 2], lengths)
    soft = expit(X @ [2.0, -1.0, 0.5, 0.0, 1.0])  # separable
    sampler = IntraSessionPairSampler(session_weight="pairs")
    clf = converged(margin=margin, pair_sampler=sampler)
    clf.fit(X, None, groups=groups, llm_scores=soft[:, None])

    # A margin m on a difference d is a margin 1 on d / m with weight m^2: liblinear's problem.
    pairs = sampler.sample(soft, groups)
    required = 2.0 * (pairs.margin if margin == "adaptive" else np.ones(len(pairs)))
    sign = np.where(np.arange(len(pairs)) % 2, 1, -1)
    difference = (X[pairs.winner] - X[pairs.loser]) * (sign / required)[:, None]
    svm = LinearSVC(C=1 / 0.01, fit_intercept=False, tol=1e-10, max_iter=10**6, dual=False)
    svm.fit(difference, sign, sample_weight=required**2 / len(pairs))
    coefficients = clf.net_.module_.weight.detach().numpy()
    assert_allclose(coefficients, svm.coef_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_sessions", [20, 60])
@pytest.mark.parametrize("labels", ["human", "LLM"])
def test_a_linear_classifier_of_few_rows_is_trained_to_the_end(n_sessions, labels):
    data = make_dialogues(n_sessions + 100, random_state=0)
    train = np.isin(data.groups, np.unique(data.groups)[:n_sessions])
    y, scores = data.y_true, None
    if labels == "LLM":
        y, scores = data.y, data.llm_scores[train]
    clf = PairwisePreferenceClassifier("linear", random_state=0)
    clf.fit(data.X[train], y[train], groups=data.groups[train], llm_scores=scores)
    truth = LogisticRegression().fit(data.X[train], data.y_true[train])
    rest = data.X[~train], data.y_true[~train]
    assert clf.score(*rest) > truth.score(*rest) - 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "solver"),
    [
        ({"module": "linear"}, "lbfgs"),
        ({"module": "linear", "loss": "logistic"}, "lbfgs"),
        ({"module": "linear", "loss": "hinge"}, "adam"),
        ({"module": "linear", "early_stopping": True}, "adam"),
        ({"module": "linear", "warm_start": True}, "adam"),
        ({"module": "mlp"}, "adam"),
        ({"module": MLP}, "adam"),
    ],
    ids=str,
)
def test_the_solver_follows_the_other_parameters(data, params, solver):
    clf = fit(fast(max_epochs=2, **params), data)
    by_epochs = clf.n_iter_ == 2
    assert by_epochs == (solver == "adam")
    clf.partial_fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)


def test_lbfgs_needs_neither_seed_nor_learning_rate(data):
    first = fit(converged(pointwise_weight=1.0), data)
    second = fit(converged(pointwise_weight=1.0, random_state=1, lr=9.0), data)
    assert_allclose(first.decision_function(data.X), second.decision_function(data.X), atol=1e-4)
    losses = [epoch["train_loss"] for epoch in first.history_]
    assert len(losses) == first.n_iter_
    assert (np.diff(losses) <= 1e-12).all()


@pytest.mark.parametrize("convert", [np.float32, sparse.csr_matrix])
def test_lbfgs_finds_the_same_in_any_form_of_the_rows(data, convert):
    params = {"pointwise_weight": 1.0, "validation_fraction": 0.0}
    X, given = convert(data.X), {"groups": data.groups, "llm_scores": data.llm_scores}
    whole = converged(**params).fit(data.X, data.y, **given)
    other = converged(**params).fit(X, data.y, **given)
    assert_allclose(other.predict_proba(X), whole.predict_proba(data.X), atol=1e-5)


def test_lbfgs_converges_on_sampled_pairs_of_the_logistic_loss():
    data = make_dialogues(n_sessions=4, session_length=(140, 160), random_state=0)
    clf = fit(converged(loss="logistic", tol=1e-6, stage2="offsets"), data)
    assert clf.n_iter_ < clf.max_iter
    llm = data.llm_scores.mean(axis=1).argmax(axis=1)
    assert clf.score(data.X, data.y_true) > (llm == data.y_true).mean()


def test_lbfgs_warns_when_it_has_not_converged(data):
    with pytest.warns(ConvergenceWarning, match="did not reach tol=1e-09 in max_iter=2 iterations"):
        clf = fit(converged(max_iter=2), data)
    assert clf.n_iter_ == 2


def test_lbfgs_keeps_the_precision_of_the_module(data):
    X = data.X.astype(np.float32)
    clf = converged().fit(X, data.y, groups=data.groups, llm_scores=data.llm_scores)
    assert clf.net_.module_.weight.dtype == torch.float32
    assert clf.decision_function(X).dtype == np.float32


def test_without_any_weight_there_is_nothing_to_train_on(data):
    clf = fast(pairwise_weight=0, pointwise_weight=0)
    with raises("pairwise_weight=0 and pointwise_weight=0 leave nothing to train on"):
        fit(clf, data)
    with raises("leave nothing to train on"):
        clf.partial_fit(data.X, data.y, [0, 1], groups=data.groups, llm_scores=data.llm_scores)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": "hinge"}, "solver='lbfgs' needs a smooth loss but loss='hinge'"),
        ({"early_stopping": True}, "so early_stopping=True cannot be"),
    ],
)
def test_lbfgs_says_what_it_cannot_do(data, params, message):
    with raises(message):
        fit(converged(**params), data)
    with pytest.raises(AttributeError) as caught:
        converged().partial_fit  # noqa: B018
    assert "pass solver='adam'" in str(caught.value.__cause__)


def test_lbfgs_prints_a_line_per_iteration(data, capsys):
    clf = fit(converged(verbose=1), data)
    assert capsys.readouterr().out.count("iteration") == clf.n_iter_


# --- invariance -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"early_stopping": True},
        {"stage2": "finetune"},
        {"pair_sampler": IntraSessionPairSampler("uniform")},
        {"batch_size": 8},
    ],
    ids=str,
)
def test_row_order_and_session_names_do_not_change_the_model(data, params):
    rows = np.random.RandomState(0).permutation(len(data.y))
    names = np.array([f"x{hash(g) % 1000}-{g}" for g in data.groups])
    first = fit(fast(**params), data).predict_proba(data.X)
    second = fit(fast(**params), data, rows=rows, groups=names).predict_proba(data.X)
    assert_allclose(first, second, atol=1e-4)


@pytest.mark.slow
def test_same_random_state_gives_the_same_result_and_spares_the_global_seed(data):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = fit(fast(), data)
    assert torch.rand(1) == expected
    second = fit(fast(), data)
    other = fit(fast(random_state=1), data)
    assert_array_equal(first.predict_proba(data.X), second.predict_proba(data.X))
    assert not np.array_equal(first.predict_proba(data.X), other.predict_proba(data.X))


@pytest.mark.slow
@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X.astype(np.float32),
        sparse.csr_matrix,
        sparse.csc_array,
        lambda X: pd.DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])]),
        lambda X: X.tolist(),
    ],
    ids=["float32", "csr", "csc", "frame", "list"],
)
def test_input_forms_agree(data, convert):
    expected = fit(fast(), data).predict_proba(data.X)
    X = convert(data.X)
    clf = fast().fit(X, data.y, groups=data.groups, llm_scores=data.llm_scores)
    assert_allclose(clf.predict_proba(X), expected, atol=1e-3)


def test_frames_for_everything(data):
    X = pd.DataFrame(data.X).add_prefix("f")
    y = pd.Series(data.y, index=np.arange(len(data.y))[::-1])
    clf = fast().fit(X, y, groups=pd.Series(data.groups), llm_scores=data.llm_scores)
    assert clf.feature_names_in_.tolist() == X.columns.tolist()
    assert_allclose(clf.predict_proba(X), fit(fast(), data).predict_proba(data.X), atol=1e-6)


def test_a_row_of_weight_zero_is_as_good_as_absent(data):
    weight = np.ones(len(data.y))
    weight[::3] = 0
    kept = weight > 0
    weighted = fit(fast(), data, sample_weight=weight)
    absent = fit(fast(), data, rows=kept)
    assert_allclose(weighted.predict_proba(data.X), absent.predict_proba(data.X), atol=1e-6)
    assert np.isnan(weighted.soft_labels_[~kept]).all()


# --- parts ----------------------------------------------------------------------------------


def test_soft_labels_are_what_the_parts_give(data):
    calibrator, smoother = LLMScoreCalibrator("mean"), KNNLabelSmoother(3)
    clf = fit(fast(calibrator=calibrator, smoother=smoother), data)
    soft = LLMScoreCalibrator("mean").fit_transform(data.llm_scores, data.y, groups=data.groups)
    expected = KNNLabelSmoother(3).fit_transform(data.X, soft, groups=data.groups)
    assert_allclose(clf.soft_labels_, expected, atol=1e-6)
    assert not hasattr(calibrator, "classes_")
    assert clf.calibrator_.method_ == "mean"


def test_passthrough_averages_prompts_and_smooths_nothing(data):
    clf = fit(fast(calibrator="passthrough", smoother="passthrough"), data)
    assert_allclose(clf.soft_labels_, data.llm_scores.mean(axis=1), atol=1e-6)


@pytest.mark.slow
def test_fitting_again_without_scores_forgets_the_calibrator(data):
    clf = fit(fast(), data)
    clf.fit(data.X, data.y_true, groups=data.groups)
    assert not hasattr(clf, "calibrator_")
    fresh = fast().fit(data.X, data.y_true, groups=data.groups)
    assert_array_equal(clf.predict_proba(data.X), fresh.predict_proba(data.X))


def test_unscored_rows_are_filled_by_the_smoother_or_left_out(data):
    scores = data.llm_scores.copy()
    scores[::4] = np.nan
    filled = fit(fast(), data, llm_scores=scores)
    assert np.isfinite(filled.soft_labels_).all()
    left = fit(fast(smoother="passthrough"), data, llm_scores=scores)
    assert np.isnan(left.soft_labels_[::4]).all()
    assert np.isfinite(left.predict_proba(data.X)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        IntraSessionPairSampler("uniform"),
        IntraSessionPairSampler("margin", n_pairs=200),
        IntraSessionPairSampler("adjacent"),
        IntraSessionPairSampler("all", max_pairs_per_session=5),
        IntraSessionPairSampler("all", min_margin=0.1, session_weight="pairs"),
        "passthrough",
    ],
    ids=str,
)
def test_each_pair_sampler_trains(data3, sampler):
    clf = fit(fast(pair_sampler=sampler, pointwise_weight=0, max_epochs=20), data3)
    concordance = within_session_concordance(
        data3.y_true, clf.decision_function(data3.X), groups=data3.groups
    )
    assert concordance > 0.8


@pytest.mark.slow
def test_strategies_of_pair_samplers_make_different_networks(data3):
    samplers = [
        None,
        *[IntraSessionPairSampler(strategy) for strategy in ("uniform", "margin", "adjacent")],
        IntraSessionPairSampler(max_pairs_per_session=3),
    ]
    proba = [
        fit(fast(pair_sampler=sampler, pairwise_weight=1.0), data3).predict_proba(data3.X)
        for sampler in samplers
    ]
    for i, j in combinations(range(len(proba)), 2):
        assert abs(proba[i] - proba[j]).max() > 1e-3


def test_texts_are_sent_to_the_classifier_of_texts(data):
    with raises("use PairwisePreferenceTextClassifier(model_name=...)"):
        fit(fast(module="transformer"), data)


class Bilinear(nn.Module):
    def __init__(self, n_features, n_outputs, rank=4):
        super().__init__()
        self.left = nn.Linear(n_features, rank)
        self.right = nn.Linear(rank, n_outputs)

    def forward(self, X):
        return self.right(torch.tanh(self.left(X)))


class Spread(nn.Module):
    def __init__(self, n_outputs):
        super().__init__()
        self.layer = nn.LazyLinear(n_outputs + 5)

    def forward(self, X):
        return self.layer(X)


def test_user_modules_take_their_arguments(data3):
    clf = fit(fast(module=Bilinear, module__rank=7), data3)
    assert clf.net_.module_.left.out_features == 7
    clf.set_params(module__rank=3)
    assert fit(clf, data3).net_.module_.left.out_features == 3
    assert clone(clf).get_params()["module__rank"] == 3
    assert "module__rank=3" in repr(clf)
    instance = Bilinear(20, 3)
    before = instance.left.weight.clone()
    fit(fast(module=instance), data3)
    assert torch.equal(instance.left.weight, before)


def test_mlp_arguments(data):
    clf = fit(fast(module__hidden_units=[16, 8], module__dropout=0.3), data)
    widths = [m.out_features for m in clf.net_.module_.modules() if isinstance(m, nn.Linear)]
    assert widths == [16, 8, 1]


class Recorder(Callback):
    def __init__(self):
        self.epochs = 0

    def on_epoch_end(self, net, **kwargs):
        self.epochs += 1


def test_skorch_callbacks_run_on_a_copy(data):
    recorder = Recorder()
    clf = fit(fast(callbacks=[recorder], max_epochs=4), data)
    assert recorder.epochs == 0
    assert dict(clf.net_.callbacks_)["Recorder"].epochs == 4


class Sessions(Callback):
    """Notes the number of sessions that a net was trained on."""

    seen: ClassVar[list] = []

    def on_train_begin(self, net, X, y=None, **kwargs):
        self.seen.append(len(np.unique(X.session)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"stage2": "offsets", "validation_fraction": 0.25}, [45]),
        ({"stage2": None, "validation_fraction": 0.25}, [60]),
        ({"stage2": "offsets", "validation_fraction": 0.0}, [60]),
        ({"stage2": "offsets", "validation_fraction": 0.999}, [1]),
        ({"stage2": None, "early_stopping": True}, [54]),
        ({"stage2": "finetune"}, [54, 6]),
    ],
    ids=str,
)
def test_stage_two_keeps_sessions_that_stage_one_has_not_seen(data, params, expected):
    Sessions.seen.clear()
    fit(fast(callbacks=[Sessions()], **params), data)
    assert Sessions.seen == expected


def test_fine_tuning_is_the_default_of_other_modules_where_labels_are_many(data):
    other = MLP(20, 1, hidden_units=8)
    few = pd.DataFrame(fit(fast(module=other), data).history_)
    many = pd.DataFrame(fit(fast(module=other), data, y=data.y_true).history_)
    assert set(few["stage"]) == {"pairs"}
    assert set(many["stage"]) == {"pairs", "finetune"}
    alone = fast(module=other).fit(data.X, data.y_true, groups=data.groups)
    assert set(pd.DataFrame(alone.history_)["stage"]) == {"pairs"}


@pytest.mark.slow
@pytest.mark.parametrize("module", ["mlp", "linear"])
def test_refitting_the_last_layer_is_the_default_of_own_networks(data, module):
    clf, head, offsets = (
        fit(fast(module=module, stage2=stage2), data) for stage2 in ("auto", "head", "offsets")
    )
    assert clf.head_variance_ == head.head_variance_
    assert_array_equal(clf.predict_proba(data.X), head.predict_proba(data.X))
    assert offsets.head_variance_ == 0
    # Only the last layer has moved.
    moved = [
        not torch.equal(a, b)
        for a, b in zip(
            clf.net_.module_.parameters(), offsets.net_.module_.parameters(), strict=True
        )
    ]
    assert sum(moved) <= 1


@pytest.mark.slow
def test_the_refitted_layer_learns_what_the_scores_hide(data):
    # The LLM prefers by the first feature, people label by the second.
    rng = np.random.RandomState(0)
    X = rng.standard_normal((600, 4))
    p = 1 / (1 + np.exp(-2 * X[:, 0]))
    groups, y = np.arange(600) // 10, (X[:, 1] > 0).astype(int)
    known = np.where(groups < 20, y, -1)
    given = {"groups": groups, "llm_scores": np.stack([1 - p, p], axis=1)[:, None]}
    settings = {"calibrator": "passthrough", "smoother": "passthrough", "random_state": 0}
    right = {}
    for stage2 in ("head", "offsets"):
        clf = PairwisePreferenceClassifier("mlp", stage2=stage2, **settings).fit(X, known, **given)
        right[stage2] = (clf.predict(X) == y)[groups >= 20].mean()
        assert (clf.head_variance_ > 0) == (stage2 == "head")
    assert right["head"] > right["offsets"] + 0.15


def test_a_decision_for_macro_f1_finds_the_rare_class(data3):
    scores = data3.llm_scores * np.array([1, 1, 0.1])
    scores /= scores.sum(axis=2, keepdims=True)
    params = {"calibrator": "passthrough", "class_weight": None, "stage2": None}
    plain, rare = (
        fit(fast(decision=d, **params), data3, llm_scores=scores) for d in ("argmax", "macro_f1")
    )
    assert_array_equal(plain.predict_proba(data3.X), rare.predict_proba(data3.X))
    assert not plain.decision_offsets_.any()
    assert rare.decision_offsets_.argmax() == 2
    soft = plain.soft_labels_

    def expected_f1(clf):
        chosen = np.eye(3)[clf.predict(data3.X)]
        return (2 * (soft * chosen).sum(axis=0) / (soft + chosen).sum(axis=0)).mean()

    assert expected_f1(rare) > expected_f1(plain)
    again = clone(rare).partial_fit(
        data3.X, data3.y, classes=[0, 1, 2], groups=data3.groups, llm_scores=scores
    )
    assert again.decision_offsets_.shape == (3,)
    assert again.head_variance_ == 0


def test_labels_of_one_session_leave_the_last_layer_alone(data):
    y = np.where(data.groups == data.groups[0], data.y_true, -1)
    clf = fit(fast(stage2="head", calibrator="passthrough"), data, y=y)
    assert clf.head_variance_ == 0


def test_a_network_that_does_not_end_in_a_linear_layer_has_no_head_to_refit(data):
    class Squashed(MLP):
        def forward(self, X):
            return torch.tanh(super().forward(X))

    with raises("pass 'offsets' or 'finetune'"):
        fit(fast(module=Squashed, stage2="head"), data)


class Watcher(Callback):
    """Keep the rows that a training watches."""

    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        self.rows = dataset_valid.X


def test_early_stopping_holds_out_whole_sessions_and_stops(data):
    params = {"max_epochs": 200, "n_iter_no_change": 2, "validation_fraction": 0.2}
    clf = fit(fast(early_stopping=True, callbacks=[Watcher()], **params), data)
    assert clf.n_iter_ < 200
    watched = next(c.rows for _, c in clf.net_.callbacks_ if isinstance(c, Watcher))
    sizes = pd.Series(data.groups).value_counts()
    session_of = {x.tobytes(): g for x, g in zip(data.X, data.groups, strict=True)}
    held = pd.Series([session_of[x.tobytes()] for x in watched])
    assert held.nunique() == 12
    assert all(sizes[g] == n for g, n in held.value_counts().items())


def test_partial_fit_after_early_stopping_and_fine_tuning_goes_on_with_pairs(data):
    clf = fit(fast(early_stopping=True, stage2="finetune"), data)
    fit_on_pairs = clf.history_[-1]["stage"], clf.history_[0]["stage"]
    assert fit_on_pairs == ("finetune", "pairs")
    n_iter = clf.n_iter_
    clf.partial_fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
    assert clf.n_iter_ == n_iter + 1
    assert clf.history_[-1]["stage"] == "pairs"


def test_partial_fit_improves_epoch_by_epoch(data):
    clf = fast()
    given = {"groups": data.groups, "llm_scores": data.llm_scores}
    clf.partial_fit(data.X, data.y, classes=[0, 1], **given)
    first = clf.history_[0]["train_loss"]
    for _ in range(10):
        clf.partial_fit(data.X, data.y, **given)
    assert clf.n_iter_ == 11
    assert clf.history_[-1]["train_loss"] < first
    assert clf.score(data.X, data.y_true) > 0.8


def test_partial_fit_may_meet_scores_later(data):
    clf = fast().partial_fit(data.X, data.y_true, classes=[0, 1], groups=data.groups)
    clf.partial_fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
    assert clf.calibrator_.classes_.tolist() == [0, 1]


@pytest.mark.slow
def test_warm_start_goes_on_where_fit_ended(data):
    warm = fit(fast(warm_start=True, max_epochs=3), data)
    ended = warm.history_[-1]["train_loss"]
    fit(warm, data)
    assert warm.history_[0]["train_loss"] < 1.1 * ended
    cold = fit(fast(max_epochs=3), data)
    ended = cold.history_[0]["train_loss"]
    assert fit(cold, data).history_[0]["train_loss"] == pytest.approx(ended)


@pytest.mark.slow
def test_class_weight_raises_recall_of_the_weighted_class(data3):
    plain = fit(fast(), data3)
    heavy = fit(fast(class_weight={2: 10.0}), data3)
    assert (heavy.predict(data3.X) == 2).sum() > (plain.predict(data3.X) == 2).sum()


# --- scikit-learn protocol ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pickle", "joblib"])
def test_round_trip_predicts_the_same(data, how, tmp_path):
    clf = fit(fast(early_stopping=True, verbose=0, module__hidden_units=8), data)
    if how == "pickle":
        again = pickle.loads(pickle.dumps(clf))
    else:
        joblib.dump(clf, tmp_path / "clf.joblib")
        again = joblib.load(tmp_path / "clf.joblib")
    assert_array_equal(again.predict_proba(data.X), clf.predict_proba(data.X))
    assert again.get_params().keys() == clf.get_params().keys()


@pytest.mark.slow
def test_pickle_does_not_carry_the_training_rows():
    sizes = []
    for n_sessions in (40, 400):
        data = make_dialogues(n_sessions=n_sessions, random_state=0)
        clf = fast(early_stopping=True, max_epochs=1)
        fit(clf, data)
        del clf.soft_labels_
        sizes.append(len(pickle.dumps(clf)))
    assert sizes[1] < 1.5 * sizes[0]


def test_nested_parameters_and_clone():
    clf = PairwisePreferenceClassifier(
        calibrator=LLMScoreCalibrator(), smoother=KNNLabelSmoother(), module__dropout=0.1
    )
    clf.set_params(calibrator__method="mean", smoother__n_neighbors=3, module__dropout=0.2)
    copied = clone(clf)
    assert copied.get_params()["calibrator__method"] == "mean"
    assert copied.get_params()["smoother__n_neighbors"] == 3
    assert copied.module__dropout == 0.2
    assert "module__dropout" in clf.get_params(deep=False)


def test_in_a_pipeline_with_pandas_output_and_html(data):
    scaler = StandardScaler().set_output(transform="pandas")
    pipe = make_pipeline(scaler, fast())
    X = pd.DataFrame(data.X).add_prefix("f")
    step = "pairwisepreferenceclassifier"
    pipe.fit(X, data.y, **{f"{step}__groups": data.groups, f"{step}__llm_scores": data.llm_scores})
    assert pipe[-1].feature_names_in_.tolist() == X.columns.tolist()
    assert "PairwisePreferenceClassifier" in pipe._repr_html_()
    assert_allclose_dense_sparse(
        pipe.predict_proba(X), pipe[-1].predict_proba(pipe[0].transform(X))
    )


# --- bad input ------------------------------------------------------------------------------


def raises(message, error=ValueError):
    return pytest.raises(error, match=re.escape(message))


def test_scores_without_groups(data):
    with raises("llm_scores was given without groups"):
        fit(fast(), data, groups=None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("y", "inconsistent numbers of samples"),
        ("groups", "groups has"),
        ("llm_scores", "llm_scores has"),
        ("sample_weight", "sample_weight"),
    ],
)
def test_lengths_that_differ(data, name, message):
    given = {
        "y": data.y,
        "groups": data.groups,
        "llm_scores": data.llm_scores,
        "sample_weight": np.ones(len(data.y)),
    }
    given[name] = given[name][:-1]
    with raises(message):
        fast().fit(data.X, given.pop("y"), **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[:, 0, 0], "llm_scores has shape"),
        (lambda s: s[..., None], "llm_scores has shape"),
        (lambda s: np.repeat(s, 2, axis=2), "llm_scores has scores of 4 classes but y has 2"),
        (lambda s: np.full_like(s, np.nan), "llm_scores has no row with a score"),
        (lambda s: np.where(s > 0.5, np.inf, s), "llm_scores has infinite values"),
    ],
    ids=["1-D", "4-D", "classes", "all NaN", "inf"],
)
def test_scores_of_the_wrong_form(data, change, message):
    with raises(message):
        fit(fast(), data, llm_scores=change(data.llm_scores))


def test_probabilities_out_of_range_when_declared_so(data):
    calibrator = LLMScoreCalibrator(score_type="probability")
    with raises("score_type"):
        fit(fast(calibrator=calibrator), data, llm_scores=10 * data.llm_scores)
    with raises("score_type"):
        fit(fast(calibrator="passthrough"), data, llm_scores=10 * data.llm_scores)


def test_a_class_list_of_the_wrong_length(data):
    with raises("llm_scores has scores of 2 classes but there are 3 classes"):
        fit(fast(classes=[0, 1, 2]), data)


def test_a_label_that_is_not_in_classes(data):
    y = data.y.copy()
    y[0] = 7
    with raises("y has labels that are not in classes: [7]"):
        fit(fast(classes=[0, 1]), data, y=y)


def test_no_valid_pair_anywhere(data):
    with raises("groups leave no valid pair"):
        fit(fast(), data, groups=np.arange(len(data.y)))
    flat = np.full_like(data.llm_scores, 0.5)
    with raises("groups leave no valid pair"):
        fit(fast(calibrator="passthrough"), data, llm_scores=flat)
    with raises("min_margin=0.999"):
        fit(fast(pair_sampler=IntraSessionPairSampler(min_margin=0.999)), data)


def test_one_class_only(data):
    with raises("one class only"):
        fast().fit(data.X, np.zeros(len(data.y)))


@pytest.mark.parametrize("stage2", ["offsets", "head", "finetune"])
def test_stage_two_asked_for_without_labels(data, stage2):
    with (
        pytest.warns(UserWarning, match="label"),
        raises(f"stage2={stage2!r} needs human labels but y has none"),
    ):
        fit(fast(stage2=stage2, classes=[0, 1]), data, y=np.full(len(data.y), -1))


def test_nan_in_features(data):
    X = data.X.copy()
    X[3, 2] = np.nan
    with raises("Input X contains NaN"):
        fast().fit(X, data.y, groups=data.groups, llm_scores=data.llm_scores)


def test_missing_session_id(data):
    groups = data.groups.astype(object)
    groups[5] = None
    with raises("groups has no session id in 1 rows"):
        fit(fast(), data, groups=groups)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": "bpr"}, "The 'loss' parameter"),
        ({"device": "tpu"}, "device='tpu' is not known"),
        ({"module": "cnn"}, "The 'module' parameter"),
        ({"stage2": "all"}, "The 'stage2' parameter"),
        ({"margin_scale": 0}, "The 'margin_scale' parameter"),
        ({"calibrator": "none"}, "The 'calibrator' parameter"),
        ({"class_weight": {9: 1.0}}, "class_weight names classes that are not there: [9]"),
        ({"module": Bilinear(20, 1), "module__rank": 3}, "module is an instance"),
        ({"module": Spread}, "module gives an output of shape (1, 6) for 1 row"),
    ],
    ids=str,
)
def test_options_that_are_not_there(data, params, message):
    with raises(message):
        fit(fast(**params), data)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_asked_for_where_there_is_none(data, device):
    with raises(f"device={device!r} was asked for, but torch sees 0 CUDA devices"):
        fit(fast(device=device), data)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu(data):
    X = data.X.astype(np.float32)
    given = {"groups": data.groups, "llm_scores": data.llm_scores}
    on_gpu = fast(device="cuda").fit(X, data.y, **given)
    on_cpu = fast(device="cpu").fit(X, data.y, **given)
    assert next(on_gpu.net_.module_.parameters()).is_cuda
    assert_allclose(on_gpu.predict_proba(X), on_cpu.predict_proba(X), atol=0.02)


def test_unknown_arguments_are_refused_at_once():
    with raises("unexpected argument 'margin_scal'", TypeError):
        PairwisePreferenceClassifier(margin_scal=3)
    with raises("Invalid parameter 'margin_scal'"):
        PairwisePreferenceClassifier().set_params(margin_scal=3)
    with raises("calibrator__method cannot be set while calibrator=None"):
        PairwisePreferenceClassifier().set_params(calibrator__method="mean")


@pytest.mark.parametrize("smoother", [None, "passthrough"])
@pytest.mark.parametrize("labelled", [True, False])
def test_partial_fit_on_a_batch_without_scores_names_them(data, smoother, labelled):
    y = data.y_true if labelled else np.full(len(data.y), -1)
    given = {"groups": data.groups, "llm_scores": data.llm_scores}
    clf = fast(smoother=smoother).partial_fit(data.X, data.y, classes=[0, 1], **given)
    silent = given | {"llm_scores": np.full_like(data.llm_scores, np.nan)}
    with raises("llm_scores has no row with a score, so there are no soft labels to learn"):
        clf.partial_fit(data.X, y, **silent)


def test_unlabelled_rows_without_scores_are_refused_with_the_remedy(data):
    with raises("only with llm_scores may -1, None or NaN mark rows without a label"):
        fast().partial_fit(data.X, data.y, classes=[0, 1], groups=data.groups)


def test_partial_fit_needs_the_same_classes(data):
    given = {"groups": data.groups, "llm_scores": data.llm_scores}
    with raises("classes must be given on the first call"):
        fast().partial_fit(data.X, data.y, **given)
    clf = fast().partial_fit(data.X, data.y, classes=[0, 1], **given)
    with raises("is not the same as on the first call"):
        clf.partial_fit(data.X, data.y, classes=[0, 2], **given)


def test_scoring_rows_without_any_label(data):
    clf = fit(fast(), data)
    with raises("y has no labelled row"):
        clf.score(data.X, np.full(len(data.y), -1))


def test_plain_classification_data_needs_no_sessions():
    X, y = make_classification(300, random_state=0)
    assert fast(max_epochs=20).fit(X[:200], y[:200]).score(X[200:], y[200:]) > 0.8


# --- contracts of scikit-learn that its checks do not test ----------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_the_global_output_setting_does_not_reach_the_parts(data, output):
    pytest.importorskip(output)
    expected = fit(fast(), data).predict_proba(data.X)
    with sklearn.config_context(transform_output=output):
        clf = fit(fast(), data)
        parts = fit(
            fast(
                calibrator=LLMScoreCalibrator().set_output(transform=output),
                smoother=KNNLabelSmoother().set_output(transform=output),
            ),
            data,
        )
    assert_array_equal(clf.predict_proba(data.X), expected)
    assert_array_equal(parts.predict_proba(data.X), expected)


@pytest.mark.slow
@pytest.mark.parametrize("order", list(permutations([0, 1, 2])), ids=str)
def test_the_order_of_the_scores_changes_nothing_but_how_they_are_read(data3, order):
    order = list(order)
    expected = fit(fast(), data3)
    scores = data3.llm_scores[:, :, order]
    clf = fit(fast(classes=order), data3, llm_scores=scores)
    assert clf.classes_.tolist() == [0, 1, 2]
    assert_allclose(clf.predict_proba(data3.X), expected.predict_proba(data3.X), atol=1e-6)
    for name in ("accuracy", "neg_log_loss", "roc_auc_ovr"):
        scorer = get_scorer(name)
        value = scorer(expected, data3.X, data3.y_true)
        assert scorer(clf, data3.X, data3.y_true) == pytest.approx(value)
    parts = fast(classes=order)
    parts.partial_fit(data3.X, data3.y, groups=data3.groups, llm_scores=scores)
    parts.partial_fit(data3.X, data3.y, groups=data3.groups, llm_scores=scores)
    assert parts.classes_.tolist() == [0, 1, 2]


def test_two_dimensional_scores_are_of_the_second_class_given(data):
    expected = fit(fast(), data, llm_scores=data.llm_scores[:, :, 1])
    other = fit(fast(classes=[1, 0]), data, llm_scores=data.llm_scores[:, :, 0])
    assert_allclose(other.predict_proba(data.X), expected.predict_proba(data.X), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["-1", "list", "object", "bool list", "boolean", "Int64", "float"])
def test_fit_and_score_read_the_same_marks(data, kind):
    marks = [int(v) if v >= 0 else None for v in data.y]
    y = {
        "-1": data.y,
        "list": marks,
        "object": np.array(marks, dtype=object),
        "bool list": [None if v is None else v == 1 for v in marks],
        "boolean": pd.Series([None if v is None else v == 1 for v in marks], dtype="boolean"),
        "Int64": pd.Series(marks, dtype="Int64"),
        "float": np.array([np.nan if v is None else v for v in marks]),
    }[kind]
    expected = fit(fast(), data).score(data.X, data.y)
    clf = fast().fit(data.X, y, groups=data.groups, llm_scores=data.llm_scores)
    assert clf.score(data.X, y) == pytest.approx(expected)
