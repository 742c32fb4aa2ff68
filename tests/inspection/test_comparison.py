import re

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.model_selection import GroupKFold, KFold, RepeatedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpref import (
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    PairwisePreferenceTextClassifier,
)
from skpref.datasets import make_dialogues
from skpref.inspection import compare_with_distillation
from skpref.metrics import within_session_concordance
from tests.inspection.helpers import flat

NAMES = [
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


@pytest.mark.slow
def test_comparison_scores_are_those_of_the_pooled_predictions(compared):
    data, _, result = compared
    assert list(result.scores) == NAMES
    assert list(result.differences) == NAMES[1:]
    is_labelled = np.array([label is not None for label in data.y])
    codes = np.array(["cmx".index(label) for label in data.y[is_labelled]])
    for name in NAMES:
        prob = result.predictions[name][is_labelled]
        has_prob = ~np.isnan(prob[:, 0])
        assert has_prob.all() or name == "LLM scores, calibrated"
        truth, prob = codes[has_prob], prob[has_prob].astype(float)
        clipped = np.maximum(prob, 1e-7)
        expected = {
            "macro_f1": f1_score(truth, prob.argmax(axis=1), average="macro"),
            "accuracy": accuracy_score(truth, prob.argmax(axis=1)),
            "concordance": within_session_concordance(
                truth, prob, groups=data.groups[is_labelled][has_prob]
            ),
            "log_loss": log_loss(truth, clipped / clipped.sum(axis=1, keepdims=True)),
        }
        assert result.scores[name] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_comparison_predicts_by_models_that_saw_nothing_of_the_session(compared):
    data, clf, result = compared
    sessions = data.groups[[label is not None for label in data.y]]
    assert set(data.groups[result.fold >= 0]) == set(sessions)
    for k in range(3):
        test = result.fold == k
        train = ~test
        assert not set(data.groups[train]) & set(data.groups[test])
        given = {"groups": data.groups[train], "llm_scores": data.llm_scores[train]}
        for name, changes in {"skpref": {}, "skpref, no pairs": {"pairwise_weight": 0}}.items():
            model = sklearn.clone(clf).set_params(**changes)
            expected = model.fit(data.X[train], data.y[train], **given).predict_proba(data.X[test])
            np.testing.assert_array_equal(result.predictions[name][test], expected)
        labelled = train & np.array([label is not None for label in data.y])
        # Plain distillation: human labels in place of soft ones, then a scale and offsets only.
        soft = model.soft_labels_.copy()
        soft[labelled[train]] = np.eye(3)[["cmx".index(label) for label in data.y[labelled]]]
        given["llm_scores"] = soft[:, None]
        options = {"calibrator": "passthrough", "smoother": "passthrough", "stage2": "offsets"}
        options["classes"] = ["c", "m", "x"]  # the columns of soft_labels_ are sorted
        for name, weight in {"distillation": None, "distillation, balanced": "balanced"}.items():
            plain = sklearn.clone(model).set_params(class_weight=weight, **options)
            expected = plain.fit(data.X[train], data.y[train], **given).predict_proba(data.X[test])
            np.testing.assert_allclose(result.predictions[name][test], expected, atol=1e-5)
        given["llm_scores"] = data.llm_scores[train]
        model = LogisticRegression(max_iter=1000).fit(data.X[labelled], data.y[labelled].tolist())
        assert model.classes_.tolist() == ["c", "m", "x"]
        expected = model.predict_proba(data.X[test])
        np.testing.assert_allclose(result.predictions["human labels"][test], expected, atol=1e-3)
        calibrator = LLMScoreCalibrator(classes=clf.classes).fit(given["llm_scores"], data.y[train])
        expected = calibrator.transform(data.llm_scores[test])
        np.testing.assert_allclose(result.predictions["LLM scores, calibrated"][test], expected)
    labelled = np.array([label is not None for label in data.y])
    counts = np.bincount(result.fold[labelled])
    assert counts.max() < 1.6 * counts.min()  # labelled sessions are spread evenly


@pytest.mark.slow
def test_comparison_differences_hold_the_observed_ones(compared):
    _, _, result = compared
    for name in ("distillation", "human labels"):
        for metric, (mean, low, high) in result.differences[name].items():
            assert mean == pytest.approx(
                result.scores["skpref"][metric] - result.scores[name][metric]
            )
            assert low <= mean <= high
    assert "Against 'distillation':" in result.message
    assert len(result.summary.splitlines()) == 1 + 6 + 2 + 5


@pytest.mark.slow
def test_comparison_with_itself_differs_by_nothing():
    data = make_dialogues(20, labelled_fraction=0.5, random_state=0, n_features=6)
    given = (data.X, data.y, data.groups, data.llm_scores)
    clf = PairwisePreferenceClassifier(pairwise_weight=0, max_epochs=2, smoother="passthrough")
    result = compare_with_distillation(clf, *given, cv=2, random_state=0, n_bootstrap=20)
    assert all(triple == (0, 0, 0) for triple in result.differences["skpref, no pairs"].values())
    # Class weights given as a dict are those of "distillation", too; "balanced" is not.
    plain = {}
    for name, weight in {"none": {0: 1.0, 1: 1.0}, "dict": {0: 1.0, 1: 3.0}}.items():
        clf.set_params(class_weight=weight)
        given_weights = compare_with_distillation(clf, *given, cv=2, random_state=0, n_bootstrap=2)
        plain[name] = given_weights.predictions["distillation"][result.fold >= 0]
    expected = result.predictions["distillation"][result.fold >= 0]
    np.testing.assert_array_equal(plain["none"], expected)
    assert np.abs(plain["dict"] - expected).max() > 0.01
    assert "Intervals from 10 sessions are too narrow" in result.message
    assert "10 sessions are too few to show whether pairs pay here" in result.message
    assert clf.random_state is None
    assert not hasattr(clf, "net_")


@pytest.mark.slow
def test_comparison_takes_pipelines_frames_sparse_and_routing_on_or_off():
    data = make_dialogues(20, labelled_fraction=0.5, random_state=0, n_features=6)
    rest = (data.y, data.groups, data.llm_scores)
    kwargs = {"cv": 2, "random_state": 0, "n_bootstrap": 5}
    pipe = make_pipeline(StandardScaler(with_mean=False), quick())
    expected = compare_with_distillation(pipe, data.X, *rest, **kwargs)
    frame = pd.DataFrame(data.X, columns=[f"x{i}" for i in range(6)])
    with sklearn.config_context(enable_metadata_routing=True):
        result = compare_with_distillation(pipe, frame, *rest, **kwargs)
    for name in NAMES:
        assert result.scores[name] == pytest.approx(expected.scores[name], abs=1e-3)
    result = compare_with_distillation(pipe, csr_array(data.X), *rest, **kwargs)
    for name in NAMES:
        assert result.scores[name] == pytest.approx(expected.scores[name], abs=1e-3)


@pytest.mark.slow
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
    result = compare_with_distillation(pipe, *given, cv=2, n_bootstrap=5, random_state=0)
    flat_pipe = make_pipeline(StandardScaler(), quick())
    expected = compare_with_distillation(flat_pipe, *given, cv=2, n_bootstrap=5, random_state=0)
    for name in NAMES:
        assert result.scores[name] == pytest.approx(expected.scores[name], abs=1e-3)


@pytest.mark.slow
def test_comparison_of_a_text_classifier(tiny_model):
    rng = np.random.default_rng(0)
    y, groups = rng.integers(0, 2, 48), np.repeat(np.arange(12), 4)
    texts = [["good love happy", "bad hate sad"][label] for label in y]
    scores = (0.3 + 0.4 * y + rng.normal(0, 0.05, 48))[:, None]
    other_scores = 1 - scores
    clf = PairwisePreferenceTextClassifier(tiny_model, device="cpu", max_epochs=2, random_state=0)
    clf.set_params(lr=0.01, encoder_lr=0.01)
    human = np.where(groups < 6, y, -1)
    result, other = (
        compare_with_distillation(clf, texts, human, groups, given, cv=2, random_state=0)
        for given in (scores, other_scores)
    )
    assert list(result.scores) == NAMES
    tested = groups < 6
    assert np.isnan(result.predictions["human labels"][~tested]).all()
    # Learned from the labels, whatever the LLM said.
    by_labels = result.predictions["human labels"][tested]
    assert by_labels[np.arange(tested.sum()), y[tested]].min() > 0.6
    np.testing.assert_array_equal(by_labels, other.predictions["human labels"][tested])
    assert not np.array_equal(
        result.predictions["skpref"][tested], other.predictions["skpref"][tested]
    )


@pytest.mark.slow
def test_a_fold_may_train_on_labels_of_one_class():
    data = make_dialogues(12, session_length=6, labelled_fraction=0, random_state=0, n_features=6)
    y = data.y.copy()
    y[:6], y[6:12] = data.y_true[:6], 1
    given = (data.X, y, data.groups, data.llm_scores)
    with pytest.warns(UserWarning, match="needs human labels of at least two classes"):
        result = compare_with_distillation(quick(classes=[0, 1]), *given, cv=2, random_state=0)
    one_class = result.fold == result.fold[0]
    expected = np.tile([0.0, 1.0], (6, 1))
    np.testing.assert_array_equal(result.predictions["human labels"][one_class], expected)


def test_comparison_prints_its_progress(capsys):
    data = make_dialogues(12, labelled_fraction=0.5, random_state=0, n_features=6)
    given = (data.X, data.y, data.groups, data.llm_scores)
    compare_with_distillation(quick(), *given, cv=2, n_bootstrap=2, verbose=1, random_state=0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert re.fullmatch(r"fold 1/2, skpref: \d+\.\d s", lines[0])


@pytest.mark.slow
def test_comparison_shows_a_real_gain():
    # The LLM's error is the same in a whole session and visible in the features: the classifier
    # learns it from soft labels, and does not from pairs within sessions.
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
    result = compare_with_distillation(clf, X, human, groups, scores, random_state=0)
    assert result.differences["distillation"]["accuracy"][1] > 0
    assert result.differences["skpref, no pairs"]["accuracy"][1] > 0
    assert "So pairs pay here, in macro-F1 (+" in result.message


def search_of(clf):
    from sklearn.model_selection import GridSearchCV

    return GridSearchCV(clf, {"margin_scale": [1.0]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"estimator": LogisticRegression()},
            "must be a PairwisePreferenceClassifier, or a Pipeline whose last step is one, but "
            "that is a LogisticRegression;",
        ),
        ({"estimator": search_of(quick())}, "of a search, pass its best_estimator_."),
        ({"estimator": 3}, "The 'estimator' parameter of compare_with_distillation must be"),
        ({"y": [0, 1, -1, -1, -1, -1]}, "y has labels in 1 sessions, but at least 2 labelled"),
        ({"y": [-1] * 6}, "y has labels in 0 sessions, but at least 2 labelled sessions"),
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

    result = compare_with_distillation(
        quick(),
        data.X,
        data.y,
        data.groups,
        data.llm_scores,
        cv=FirstFold(3),
        n_bootstrap=5,
        random_state=0,
    )
    tested = result.fold >= 0
    assert 0 < np.mean(tested[data.y >= 0]) < 1
    assert np.isnan(result.predictions["skpref"][~tested]).all()
    assert f"On {np.sum(tested & (data.y >= 0))} human labels" in result.message
    assert all(np.isnan(low) for _, low, _ in result.differences["distillation"].values())
    assert "sessions are too few to show whether pairs pay" in result.message


# --- several labels per utterance ---------------------------------------------------------------


def several_labels(n_sessions=40, size=10, seed=0):
    rng = np.random.default_rng(seed)
    truth = (rng.random((n_sessions * size, 3)) < [0.5, 0.3, 0.15]).astype(int)
    log_odds = 3 * (truth[:, None] - 0.5) + rng.normal(0, 2, (len(truth), 2, 3))
    X = truth + rng.normal(0, 0.7, truth.shape)
    y = truth.copy()
    groups = np.repeat(np.arange(n_sessions), size)
    y[groups % 2 == 1] = -1
    y[rng.random(y.shape) < 0.1] = -1
    scores = 1 / (1 + np.exp(-log_odds))
    scores[rng.random(scores.shape[0]) < 0.1, :, 2] = np.nan
    return X, y, groups, scores


def test_several_labels_are_judged_where_they_are_known():
    X, y, groups, scores = several_labels()
    clf = PairwisePreferenceClassifier(classes=["asks", "thanks", "swears"], random_state=0)
    settings = {"cv": 2, "n_bootstrap": 50, "random_state": 0}
    found = compare_with_distillation(clf, X, y, groups, scores, **settings)
    assert found.classes.tolist() == ["asks", "thanks", "swears"]
    for name, prob in found.predictions.items():
        assert prob.shape == y.shape
        known = (y >= 0) & ~np.isnan(prob)
        chosen = prob > 0.5
        f1 = [f1_score(y[k, j], chosen[k, j]) for j, k in enumerate(known.T)]
        of_name = found.scores[name]
        assert of_name["macro_f1"] == pytest.approx(np.mean(f1))
        assert of_name["accuracy"] == pytest.approx(np.mean((chosen == y)[known]))
        assert of_name["log_loss"] == pytest.approx(
            log_loss(y[known], prob[known], labels=[0, 1]), abs=1e-6
        )
        assert 0.5 < of_name["concordance"] < 1
    assert np.isnan(found.predictions["LLM scores, calibrated"][:, 2]).any()
    assert "human labels of 20 sessions" in found.message
    again = compare_with_distillation(clf, X, y, groups, scores, **settings)
    assert flat(again.scores) == pytest.approx(flat(found.scores))


def test_several_labels_with_other_scores_are_refused():
    X, y, groups, scores = several_labels(10)
    clf = PairwisePreferenceClassifier(random_state=0)
    with pytest.raises(ValueError, match="llm_scores has scores of 2 labels but y has 3"):
        compare_with_distillation(clf, X, y, groups, scores[:, :, :2])
