"""Fitted state: whole or absent, the same in threads, and continued from where it was left."""

import re
import signal
import threading

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.exceptions import NotFittedError
from skorch.callbacks import Callback

from skpref import PairwisePreferenceClassifier
from skpref.datasets import make_dialogues


@pytest.fixture(scope="module")
def data():
    return make_dialogues(n_sessions=30, session_length=(4, 10), random_state=0)


def given(data, rows=slice(None)):
    return {"groups": data.groups[rows], "llm_scores": data.llm_scores[rows]}


def fast(module="mlp", **params):
    return PairwisePreferenceClassifier(module, **{"max_epochs": 3, "random_state": 0} | params)


def fit(clf, data):
    return clf.fit(data.X, data.y, **given(data))


class Interrupt(Callback):
    """Interrupt a training as a user does, at a batch of an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            signal.raise_signal(signal.SIGINT)


def interrupted(call):
    # A signal is not a callback's wish to stop, although it arrives while one runs.
    def handler(*_):
        interrupts.append(1)
        raise SystemExit("interrupted")

    interrupts = []
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(SystemExit):
            call()
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupts


@pytest.mark.parametrize(
    ("X", "message"),
    [(np.nan, "NaN"), (1e30, "training diverged")],
)
def test_a_failed_first_fit_leaves_the_classifier_unfitted(data, X, message):
    bad = data.X.astype(np.float32)
    bad[0, 0] = X
    clf = fast()
    with pytest.raises(ValueError, match=message):
        clf.fit(bad, data.y, **given(data))
    with pytest.raises(NotFittedError):
        clf.predict(data.X)
    assert not [name for name in vars(clf) if name.endswith("_")]


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("warm_start", [True, False])
def test_an_interrupted_call_leaves_the_classifier_as_it_was(data, method, warm_start):
    clf = fit(fast(warm_start=warm_start), data)
    before, names = clf.predict_proba(data.X), set(vars(clf))
    history = list(clf.history_)
    clf.net_.callbacks_.append(("interrupt", Interrupt(len(clf.net_.history) + 1)))
    clf.set_params(callbacks=[Interrupt(2)])
    interrupted(lambda: getattr(clf, method)(data.X, data.y, **given(data)))
    assert_array_equal(clf.predict_proba(data.X), before)
    assert set(vars(clf)) == names
    assert clf.history_ == history


def test_a_refused_refit_leaves_the_classifier_as_it_was(data):
    clf = fit(fast(), data)
    before = clf.predict_proba(data.X)
    words = np.array(["neg", "pos"])[data.y_true]
    with pytest.raises(ValueError, match="no valid pair"):
        clf.fit(data.X[:, :5], words, groups=np.arange(len(words)), llm_scores=data.llm_scores)
    assert clf.classes_.tolist() == [0, 1]
    assert clf.n_features_in_ == data.X.shape[1]
    assert_array_equal(clf.predict_proba(data.X), before)


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"module__dropout": 0.5}, {"loss": "logistic"}])
def test_fits_in_threads_are_those_of_one_thread(data, params):
    def run():
        return fit(fast(**params), data).predict_proba(data.X)

    alone = run()
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    results = Parallel(n_jobs=3, backend="threading")(delayed(run)() for _ in range(6))
    for result in results:
        assert_array_equal(result, alone)
    assert torch.equal(torch.rand(2), expected)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


@pytest.mark.parametrize(("first", "second"), [("f4", "f8"), ("f8", "f4")])
@pytest.mark.parametrize("how", ["partial_fit", "warm_start"])
def test_later_rows_are_cast_to_the_precision_of_the_network(data, first, second, how):
    clf = fast(warm_start=True)
    call = clf.fit if how == "warm_start" else clf.partial_fit
    more = {} if how == "warm_start" else {"classes": [0, 1]}
    call(data.X.astype(first), data.y, **given(data), **more)
    call(data.X.astype(second), data.y, **given(data), **more)
    dtype = {"f4": torch.float32, "f8": torch.float64}[first]
    assert {p.dtype for p in clf.net_.module_.parameters()} == {dtype}


@pytest.mark.parametrize("stage2", ["auto", "offsets", None])
def test_warm_starts_lower_the_loss_further(data, stage2):
    clf = fast("linear", warm_start=True, stage2=stage2, lr=0.01)
    losses = [fit(clf, data).history_[-1]["train_loss"] for _ in range(4)]
    assert (np.diff(losses) < 0).all()


def test_a_partial_fit_after_a_fit_continues_where_stage_one_ended(data):
    clf = fit(fast("linear", solver="adam", lr=0.01), data)
    assert clf.head_variance_ > 0
    ended = clf.history_[-1]["train_loss"]
    clf.partial_fit(data.X, data.y, **given(data))
    assert clf.history_[-1]["train_loss"] < ended


def test_a_loaded_classifier_continues_where_stage_one_ended(data, tmp_path):
    clf = fit(fast("linear", solver="adam", lr=0.01), data)
    clf.save_pretrained(tmp_path)
    loaded = PairwisePreferenceClassifier.from_pretrained(tmp_path)
    ended = clf.history_[-1]["train_loss"]
    loaded.partial_fit(data.X, data.y, **given(data))
    assert loaded.history_[-1]["train_loss"] < 1.1 * ended


@pytest.mark.parametrize("how", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"module": "linear"}, "module was changed from 'mlp' to 'linear'"),
        ({"module__hidden_units": 7}, "module__hidden_units was changed from None to 7"),
    ],
)
def test_another_network_is_refused_by_name(data, how, params, message):
    clf = fit(fast(warm_start=True), data).set_params(**params)
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(clf, how)(data.X, data.y, **given(data))


@pytest.mark.parametrize("how", ["fit", "partial_fit"])
def test_another_width_is_refused_by_name(data, how):
    clf = fit(fast(warm_start=True), data)
    with pytest.raises(ValueError, match="X has 5 features, but PairwisePreferenceClassifier"):
        getattr(clf, how)(data.X[:, :5], data.y, **given(data))


def test_other_classes_are_refused_by_name(data):
    clf = fit(fast(warm_start=True), data)
    words = np.array(["neg", "pos"])[data.y_true]
    with pytest.raises(ValueError, match=re.escape("classes of the last fit, [0, 1]")):
        clf.fit(data.X, words, **given(data))


@pytest.mark.parametrize("module", ["linear", "mlp"])
def test_a_diverged_network_is_an_error(data, module):
    X = data.X.astype(np.float32)
    X[0, 0] = 1e30
    with pytest.raises(ValueError, match=r"training diverged.*up to 1e\+30.*lower lr"):
        fit_on(fast(module, solver="adam"), X, data)


def fit_on(clf, X, data):
    with np.errstate(all="ignore"):
        return clf.fit(X, data.y, **given(data))


# --- score ------------------------------------------------------------------------------------


def test_score_checks_the_lengths(data):
    clf = fit(fast(), data)
    n = len(data.y)
    for X, y, weight in [
        (data.X, data.y_true[: n - 3], None),
        (data.X[: n - 3], data.y_true, None),
        (data.X[:9], data.y_true[:9], np.ones(n)),
        (data.X, data.y_true, np.ones(9)),
    ]:
        with pytest.raises(ValueError, match=r"inconsistent|sample_weight has"):
            clf.score(X, y, sample_weight=weight)


# --- rows alike, models alike -------------------------------------------------------------------


def noisy():
    return make_dialogues(
        n_sessions=40,
        labelled_fraction=0.5,
        noise=4.0,
        prompt_bias=3.0,
        sharpness=0.3,
        random_state=0,
    )


def test_sparse_and_dense_rows_give_the_same_last_layer():
    data = noisy()
    X = np.abs(data.X) + data.X + 1.0  # not centred, as counts are
    dense, sparse = (
        fast("linear", solver="lbfgs").fit(A, data.y, **given(data)) for A in (X, csr_matrix(X))
    )
    assert dense.head_variance_ == sparse.head_variance_ > 0
    assert_allclose(sparse.predict_proba(X), dense.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("weight", [1e-30, 1.0, 1e200])
def test_stage_one_depends_on_ratios_of_weights_alone(data, weight):
    clf = fast("linear", stage2=None)
    clf.fit(data.X, data.y, sample_weight=np.full(len(data.y), weight), **given(data))
    expected = fit(fast("linear", stage2=None), data)
    assert_allclose(clf.predict_proba(data.X), expected.predict_proba(data.X), atol=1e-6)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"module__hidden_units": -1}, "module__hidden_units=-1"),
        ({"module__hidden_units": 64.0}, "module__hidden_units=64.0"),
        ({"module__hidden_units": (8, 0)}, "module__hidden_units=(8, 0)"),
        ({"module__dropout": 1.0}, "module__dropout=1.0"),
        ({"module__droput": 0.1}, "module__droput is no argument of module='mlp'"),
        ({"lr": 1e39}, "'lr' parameter"),
    ],
)
def test_values_of_the_network_are_checked(data, params, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(fast(**params), data)


def test_threads_that_wait_for_the_generator_do_not_wait_forever(data):
    done = []
    threads = [
        threading.Thread(target=lambda: done.append(fit(fast(), data).n_iter_)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert done == [3, 3, 3]
