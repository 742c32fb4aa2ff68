import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from skpref import (
    DialogueContext,
    IntraSessionPairSampler,
    PairwisePreferenceClassifier,
    PairwisePreferenceTextClassifier,
    SentenceEncoder,
)
from skpref._torch._transformer import TransformerScorer

# Whole tokens of the tiny model.
TOLD = [
    "parcel order late lost found money back refund want need help call agent number name card pay "
    "bill price good",
    "bad happy sad angry love hate music jazz rain sun day week time again soon now never always "
    "broken works",
]
TEXTS = ["where is my order?", "no", "i love this music", "hello", "the agent never called again!"]
NOISE = "the a i you we it is was my your to and not of in on for can do have will this that"


def make_texts(n_sessions=40, length=6, seed=0):
    """Texts of random words; one word out of two lists of 20 shows the class."""
    rng = np.random.RandomState(seed)
    told, noise = [words.split() for words in TOLD], NOISE.split()
    y = rng.randint(2, size=n_sessions * length)
    texts = []
    for label in y:
        chosen = [*rng.choice(noise, rng.randint(2, 6)), rng.choice(told[label])]
        texts.append(" ".join(rng.permutation(chosen)))
    return pd.Series(texts), y, np.repeat(np.arange(n_sessions), length)


def tiny(tiny_model, **params):
    return PairwisePreferenceTextClassifier(
        tiny_model, **{"max_epochs": 2, "random_state": 0} | params
    )


@pytest.mark.slow
@pytest.mark.parametrize("option", ["gradient_checkpointing", "bf16"])
def test_options_of_the_encoder_keep_what_it_learns(tiny_model, option):
    texts, y, groups = make_texts()
    plain = tiny(tiny_model).fit(texts, y, groups=groups)
    other = tiny(tiny_model, **{f"module__{option}": True}).fit(texts, y, groups=groups)
    expected, found = plain.predict_proba(texts), other.predict_proba(texts)
    assert found.dtype == np.float32
    tolerance = 1e-5 if option == "gradient_checkpointing" else 0.05
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainable_layers", "trained"),
    [
        (None, {"embeddings", "encoder.layer.0", "encoder.layer.1"}),
        (1, {"encoder.layer.1"}),
        (0, {}),
    ],
)
def test_only_the_asked_for_layers_are_trained(tiny_model, trainable_layers, trained):
    texts, y, groups = make_texts(n_sessions=10)
    clf = tiny(tiny_model, trainable_layers=trainable_layers).fit(texts, y, groups=groups)
    before = TransformerScorer(1, tiny_model).encoder[0].model.state_dict()
    after = clf.net_.module_.encoder[0].model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {re.match(r"embeddings|encoder\.layer\.\d|\w+", name)[0] for name in changed} == {
        *trained
    }


class Recorder(Callback):
    """Keep what the optimiser is given."""

    def on_train_begin(self, net, **kwargs):
        self.rates, self.norms = [], []

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.rates.append([group["lr"] for group in net.optimizer_.param_groups])
        grads = [p.grad.norm() for _, p in named_parameters if p.grad is not None]
        self.norms.append(float(torch.stack(grads).norm()))


def recorded(clf, *args, **kwargs):
    """Return the recorder of a fit."""
    clf.set_params(callbacks=[Recorder()]).fit(*args, **kwargs)
    return next(c for _, c in clf.net_.callbacks_ if isinstance(c, Recorder))


@pytest.mark.slow
def test_rates_rise_then_fall_to_zero(tiny_model):
    texts, y, groups = make_texts()
    seen = recorded(
        tiny(tiny_model, batch_size=6, max_epochs=2, warmup=0.25, lr=1.0, encoder_lr=0.1),
        *(texts, y),
        groups=groups,
    )
    encoder, head = np.array(seen.rates).T
    np.testing.assert_allclose(encoder, head / 10)
    peak = head.argmax()
    assert 0.2 < (peak + 1) / len(head) < 0.3
    assert head[peak] == pytest.approx(1.0, abs=0.05)
    assert (np.diff(head[:peak]) > 0).all()
    assert (np.diff(head[peak + 1 :]) < 0).all()
    assert head[0] < 0.1
    assert head[-1] < 0.05
    seen = recorded(tiny(tiny_model, warmup=None), texts, y, groups=groups)
    assert set(map(tuple, seen.rates)) == {(5e-5, 1e-3)}


def test_training_after_a_schedule_has_the_full_rate(tiny_model):
    texts, y, groups = make_texts(n_sessions=10)
    clf = tiny(tiny_model).fit(texts, y, groups=groups)
    assert [group["lr"] for group in clf.net_.optimizer_.param_groups] == [5e-5, 1e-3]
    before = clf.predict_proba(texts)
    clf.partial_fit(texts, y, groups=groups)
    assert clf.history_[-1]["epoch"] == 3
    assert not np.allclose(before, clf.predict_proba(texts))


def test_long_gradients_are_clipped(tiny_model):
    texts, y, groups = make_texts(n_sessions=10)
    # The recorder comes first, so that it sees them as they were.
    free = recorded(tiny(tiny_model, max_grad_norm=None), texts, y, groups=groups)
    clipped = recorded(tiny(tiny_model, max_grad_norm=1e-6), texts, y, groups=groups)
    assert free.norms[0] == pytest.approx(clipped.norms[0])
    assert free.norms[-1] != pytest.approx(clipped.norms[-1])


def test_gradients_are_clipped_in_training_that_follows(tiny_model):
    texts, y, groups = make_texts(n_sessions=10)
    clf = tiny(tiny_model, max_grad_norm=1e-6).fit(texts, y, groups=groups)
    clf.partial_fit(texts, y, groups=groups)
    parameters = [p.grad for p in clf.net_.module_.parameters() if p.grad is not None]
    assert torch.stack([grad.norm() for grad in parameters]).norm() < 1.1e-6


@pytest.mark.slow
def test_fine_tuned_beats_its_own_frozen_encoder(tiny_model):
    texts, y, groups = make_texts(n_sessions=150)
    train, test = next(GroupShuffleSplit(random_state=0).split(texts, y, groups))
    frozen = make_pipeline(
        SentenceEncoder(tiny_model),
        StandardScaler(),
        PairwisePreferenceClassifier(random_state=0),
    )
    tuned = tiny(tiny_model, max_epochs=12, encoder_lr=3e-3, lr=3e-3, batch_size=32)
    step = "pairwisepreferenceclassifier__groups"
    frozen.fit(texts[train], y[train], **{step: groups[train]})
    tuned.fit(texts[train], y[train], groups=groups[train])
    assert tuned.score(texts[test], y[test]) > frozen.score(texts[test], y[test]) + 0.1


def test_soft_labels_are_smoothed_over_the_encoder_as_it_was_loaded(tiny_model):
    texts, y, groups = make_texts(n_sessions=12)
    scores = np.random.RandomState(0).rand(len(y), 2, 2)
    # The folds of a calibrator depend on the order of the rows, which comes from their content.
    given = {"calibrator": "passthrough", "max_epochs": 1}
    clf = tiny(tiny_model, **given).fit(texts, y, groups=groups, llm_scores=scores)
    embeddings = SentenceEncoder(tiny_model).fit_transform(texts)
    other = PairwisePreferenceClassifier(random_state=0, **given)
    other.fit(embeddings, y, groups=groups, llm_scores=scores)
    np.testing.assert_allclose(clf.soft_labels_, other.soft_labels_, atol=1e-6)
    again = clf.set_params(warm_start=True).fit(texts, y, groups=groups, llm_scores=scores)
    np.testing.assert_allclose(again.soft_labels_, other.soft_labels_, atol=1e-6)


def test_the_order_of_rows_and_the_kind_of_texts_change_nothing(tiny_model):
    texts, y, groups = make_texts(n_sessions=12)
    expected = tiny(tiny_model).fit(texts, y, groups=groups).predict_proba(texts)
    order = np.random.RandomState(0).permutation(len(y))
    shuffled = tiny(tiny_model).fit(texts[order].tolist(), y[order], groups=groups[order])
    np.testing.assert_allclose(shuffled.predict_proba(texts.to_frame()), expected, atol=1e-6)


def test_pickle_holds_the_network_once(tiny_model):
    texts, y, groups = make_texts(n_sessions=10)
    clf = tiny(tiny_model).fit(texts, y, groups=groups)
    content = pickle.dumps(clf)
    weights = sum(p.nbytes for p in clf.net_.module_.parameters())
    assert len(content) < 4 * weights + 200_000  # the network, two moments, and its tokenizer
    found = pickle.loads(content)
    np.testing.assert_array_equal(found.predict_proba(texts), clf.predict_proba(texts))
    assert "net_" not in vars(clone(found))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pandas", "polars"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_dialogue_goes_through_a_pipeline_and_a_search(tiny_model, tmp_path, kind, frozen):
    library = pytest.importorskip(kind)
    texts, y, groups = make_texts(n_sessions=8)
    turn = np.arange(len(y)) % 6
    frame = library.DataFrame({"text": texts.tolist(), "session_id": groups, "turn": turn})
    encoder = SentenceEncoder(tiny_model, cache=tmp_path)
    steps = [encoder, PairwisePreferenceClassifier(max_epochs=2)] if frozen else [tiny(tiny_model)]
    pipe = make_pipeline(DialogueContext(), *steps)
    step = pipe.steps[-1][0]
    grid = {"dialoguecontext__n_turns": [0, 2], f"{step}__margin_scale": [1, 2]}
    search = GridSearchCV(pipe, grid, cv=GroupKFold(2), error_score="raise")
    search.fit(frame, y, groups=groups, **{f"{step}__groups": groups})
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    model = pickle.loads(pickle.dumps(search.best_estimator_))
    whole = model.predict_proba(frame)
    np.testing.assert_array_equal(whole, search.predict_proba(frame))
    # Live: the newest turn alone, from its session so far.
    newest = model[:1].transform(frame[:4])[-1:]
    np.testing.assert_allclose(model[1:].predict_proba(newest), whole[3:4], atol=1e-5)


def test_early_stopping_takes_held_out_sessions_of_texts(tiny_model):
    texts, y, groups = make_texts(n_sessions=10)
    clf = tiny(tiny_model, early_stopping=True, n_iter_no_change=1, lr=0.1, max_epochs=20)
    clf.fit(texts, y, groups=groups)
    assert clf.n_iter_ < 20
    assert all("valid_loss" in epoch for epoch in clf.history_)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((4, 2)), "X"),
        (["a", None, "b", "c"], "row"),
        (["a", "b", 3, "c"], "X"),
        ("a text", "X"),
    ],
)
def test_what_is_no_text_is_refused(tiny_model, X, message):
    with pytest.raises(ValueError, match=message):
        tiny(tiny_model).fit(X, [0, 1, 0, 1])
    clf = tiny(tiny_model).fit(["a", "no", "yes", "hello"], [0, 1, 0, 1])
    with pytest.raises(ValueError, match=message):
        clf.predict(X)


def test_a_missing_y_is_refused(tiny_model):
    with pytest.raises(ValueError, match="requires y to be passed"):
        tiny(tiny_model).fit(TEXTS, None)


def test_half_a_character_is_refused(tiny_model):
    with pytest.raises(ValueError, match="X holds half a character"):
        tiny(tiny_model).fit(["fine", "broken \ud83d emoji"], [0, 1])


def test_checkpoints_want_a_seed(tiny_model, tmp_path):
    clf = tiny(tiny_model, checkpoint_dir=tmp_path, random_state=None)
    with pytest.raises(ValueError, match=re.escape("random_state=None")):
        clf.fit(TEXTS[:4], [0, 1, 0, 1])


# Fits with checkpoints, and kills itself in an epoch where asked to.
KILLED = """
import os, signal, sys
import numpy as np
sys.path.insert(0, {tests!r})
from skorch.callbacks import Callback
from tests.student.test_text_classifier import resumable

class Kill(Callback):
    def on_batch_begin(self, net, **kwargs):
        if len(net.history) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

resumable({kind!r}, {model!r}, {folder!r}, [Kill()])
"""


def resumable(kind, model, folder, callbacks=None):
    """Fit a model of some kind that keeps its state in a folder."""
    texts, y, groups = make_texts(n_sessions=20)
    scores = np.random.RandomState(0).rand(len(y), 2, 2)
    params = {
        "checkpoint_dir": folder,
        "callbacks": callbacks,
        "max_epochs": 5,
        "batch_size": 24,
        "random_state": 0,
        "verbose": 1,
    }
    X = texts
    if kind == "sampled pairs":
        sampler = IntraSessionPairSampler("uniform", max_pairs_per_session=5)
        params |= {"pair_sampler": sampler, "module__dropout": 0.5, "early_stopping": True}
    clf = tiny(model, **params)
    clf.fit(X, y, groups=groups, llm_scores=scores)
    return clf, clf.predict_proba(X)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["all pairs", "sampled pairs"])
def test_a_killed_training_goes_on_to_the_same_result(tiny_model, tmp_path, kind, capsys):
    _, unbroken = resumable(kind, tiny_model, None)
    assert capsys.readouterr().out.count("\n") >= 7
    code = KILLED.format(
        tests=str(Path(__file__).parent), kind=kind, model=tiny_model, folder=str(tmp_path)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    [state] = tmp_path.iterdir()
    clf, resumed = resumable(kind, tiny_model, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.split()[:1] in (["1"], ["2"]) for line in lines) == 0  # the epochs of before
    assert [epoch["epoch"] for epoch in clf.history_] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(resumed, unbroken)
    assert not state.exists()


def test_other_data_or_parameters_do_not_take_up_a_state(tiny_model, tmp_path):
    texts, y, groups = make_texts(n_sessions=6)

    def file_of(clf, texts):
        prepared = clf._prepare(texts, y, groups, None, None, classes=None)
        network = clf._build_network(None, 1)
        rows = prepared.training
        rows = rows._replace(X=clf._as_network_input(rows.X, network))
        return clf._checkpoint(rows, prepared.classes)

    clf = tiny(tiny_model, checkpoint_dir=tmp_path)
    file = file_of(clf, texts)
    assert file == file_of(clone(clf).set_params(verbose=1), texts.copy())
    assert file != file_of(clone(clf).set_params(lr=0.1), texts)
    assert file != file_of(clone(clf), texts[::-1])


def test_accelerate_gives_the_same_in_one_process(tiny_model):
    pytest.importorskip("accelerate")
    texts, y, groups = make_texts(n_sessions=10)
    plain = tiny(tiny_model, early_stopping=True).fit(texts, y, groups=groups)
    through = tiny(tiny_model, early_stopping=True, accelerate={"cpu": True})
    through.fit(texts, y, groups=groups)
    expected = plain.predict_proba(texts)
    np.testing.assert_allclose(through.predict_proba(texts), expected, atol=1e-6)
    found = pickle.loads(pickle.dumps(through)).predict_proba(texts)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    through.partial_fit(texts, y, groups=groups)


TOGETHER = """
import os
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.student.test_text_classifier import make_texts, tiny

texts, y, groups = make_texts(n_sessions=10)
clf = tiny({model!r}, early_stopping=True, accelerate={{"cpu": True}}, batch_size=12)
clf.fit(texts, y, groups=groups)
found = clf.n_iter_, (clf.predict_proba(texts) ** 2).sum()
Path(__file__).with_name("found" + os.environ["RANK"]).write_text(repr(found))
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tiny_model, tmp_path):
    pytest.importorskip("accelerate")
    script = tmp_path / "together.py"
    script.write_text(TOGETHER.format(tests=str(Path(__file__).parent), model=tiny_model))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (tmp_path / f"found{rank}" for rank in range(2))
    assert first.read_text() == second.read_text()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("bf16", [None, False])
def test_training_on_cuda_predicts_the_same_on_the_cpu(tiny_model, bf16):
    texts, y, groups = make_texts()
    clf = tiny(tiny_model, device="cuda", module__bf16=bf16).fit(texts, y, groups=groups)
    on_cuda = clf.predict_proba(texts)
    clf.net_.module_.to("cpu")
    np.testing.assert_allclose(clf.predict_proba(texts), on_cuda, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_killed_training_on_cuda_goes_on(tiny_model, tmp_path):
    # The state of the device's random numbers is saved, and comes back.
    texts, y, groups = make_texts(n_sessions=10)
    clf = tiny(tiny_model, device="cuda", checkpoint_dir=tmp_path, max_epochs=3)

    class Stop(Callback):
        def on_batch_begin(self, net, **kwargs):
            if len(net.history) == 3:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        clone(clf).set_params(callbacks=[Stop()]).fit(texts, y, groups=groups)
    resumed = clf.fit(texts, y, groups=groups).predict_proba(texts)
    unbroken = clone(clf).set_params(checkpoint_dir=None).fit(texts, y, groups=groups)
    np.testing.assert_allclose(resumed, unbroken.predict_proba(texts), atol=1e-3)
