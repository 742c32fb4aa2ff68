import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from skpref.datasets import make_dialogues
from skpref.inspection import performance_report
from skpref.metrics import expected_calibration_error, within_session_concordance
from tests.helpers import raises

NAMES = np.array(["angry", "calm", "glad"])


def draw(n_sessions, rng, length=12, sharpness=1.0):
    """Probabilities, labels drawn from them, and sessions whose utterances resemble each other."""
    session = np.repeat(np.arange(n_sessions), length)
    logits = rng.normal([0, -0.5, -1], 1.2, (len(session), 3))
    logits[:, 0] += rng.normal(0, 1.0, n_sessions)[session]
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    codes = (rng.random((len(session), 1)) > np.exp(logits).cumsum(axis=1)[:, :2]).sum(axis=1)
    prob = np.exp(sharpness * logits)
    return prob / prob.sum(axis=1, keepdims=True), codes, session


@pytest.fixture
def drawn():
    prob, codes, session = draw(20, np.random.default_rng(0))
    y = NAMES[codes].astype(object)
    y[::7] = None
    return prob, y, session


def value(report, metric, label=None):
    table = report.table
    return table.value[(table.metric == metric) & (table.label == label)].item()


def test_figures_are_those_of_the_labelled_rows(drawn):
    prob, y, session = drawn
    report = performance_report(prob, y, session, n_bootstrap=5)
    known = y != None  # noqa: E711
    truth, found = y[known].tolist(), NAMES[prob[known].argmax(axis=1)]
    assert value(report, "accuracy") == pytest.approx(accuracy_score(truth, found))
    assert value(report, "macro-F1") == pytest.approx(f1_score(truth, found, average="macro"))
    expected = within_session_concordance(truth, prob[known], groups=session[known])
    assert value(report, "concordance") == pytest.approx(expected)
    expected = expected_calibration_error(truth, prob[known])
    assert value(report, "ECE") == pytest.approx(expected)
    of_classes = {"recall": recall_score, "precision": precision_score}
    for metric, function in of_classes.items():
        for name, expected in zip(NAMES, function(truth, found, average=None), strict=True):
            assert value(report, metric, name) == pytest.approx(expected)
    rows = report.table.n_rows[report.table.metric == "recall"]
    assert rows.tolist() == [truth.count(name) for name in NAMES]
    assert report.confusion.sum(axis=1).tolist() == rows.tolist()
    assert f"On {known.sum()} human labels of 20 sessions" in report.message
    assert f"Rows left out: {(~known).sum()} unlabelled." in report.message
    assert len(pd.DataFrame(report.table)) == 4 + 3 + 3


@pytest.mark.slow
@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_intervals_hold_the_truth_about_as_often_as_they_say(sharpness):
    rng = np.random.default_rng(0)
    metrics = ["accuracy", "macro-F1", "ECE"]
    many = performance_report(*draw(10_000, rng, sharpness=sharpness), n_bootstrap=1)
    hits = []
    for seed in range(60):
        sample = draw(20, rng, sharpness=sharpness)
        table = performance_report(*sample, n_bootstrap=100, random_state=seed).table
        rows = [table.metric.tolist().index(m) for m in metrics]
        truth = [value(many, m) for m in metrics]
        hits.append((table.low[rows] <= truth) & (truth <= table.high[rows]))
    assert (np.mean(hits, axis=0) > 0.85).all()
    assert np.mean(hits, axis=0)[0] < 1


def test_intervals_by_session_are_wider_than_those_of_as_many_independent_rows():
    rng = np.random.default_rng(0)
    # A session is predicted well or badly as a whole.
    session = np.repeat(np.arange(30), 20)
    right = rng.random(600) < np.where(np.arange(30) % 2, 0.95, 0.4)[session]
    y = rng.integers(0, 2, 600)
    found = np.where(right, y, 1 - y)
    by_session, by_row = (
        performance_report(found, y, groups, n_bootstrap=200, random_state=0).table
        for groups in (session, np.arange(600))
    )
    width = [table.high[0] - table.low[0] for table in (by_session, by_row)]
    assert width[0] > 2 * width[1]


def test_estimator_probabilities_and_labels_agree():
    data = make_dialogues(20, labelled_fraction=0.5, random_state=0)
    clf = LogisticRegression().fit(data.X[data.y < 0], data.y_true[data.y < 0])
    given = {"y": data.y, "groups": data.groups, "n_bootstrap": 20, "random_state": 0}
    by_estimator = performance_report(clf, X=data.X, **given)
    prob = clf.predict_proba(data.X)
    for predictions in (prob, prob[:, 1], pd.DataFrame(prob), prob.tolist()):
        other = performance_report(predictions, **given)
        assert other.summary == by_estimator.summary
        assert other.message == by_estimator.message
    labels = performance_report(clf.predict(data.X), **given)
    assert set(labels.table.metric) == {"accuracy", "macro-F1", "recall", "precision"}
    with_prob = np.isin(by_estimator.table.metric.astype(str), ["concordance", "ECE"])
    np.testing.assert_array_equal(labels.table.low, by_estimator.table.low[~with_prob])
    svm = LinearSVC().fit(data.X[data.y < 0], data.y_true[data.y < 0])
    expected = performance_report(svm.predict(data.X), **given)
    assert performance_report(svm, X=data.X, **given).summary == expected.summary


def test_decision_of_an_estimator_counts_not_its_most_probable_class():
    class Careful(LogisticRegression):
        def predict(self, X):
            return np.ones(len(X), dtype=int)

    data = make_dialogues(10, labelled_fraction=1.0, random_state=0)
    clf = Careful().fit(data.X, data.y)
    report = performance_report(clf, data.y, data.groups, X=data.X, n_bootstrap=5)
    assert value(report, "accuracy") == pytest.approx(data.y.mean())
    assert value(report, "concordance") > 0.9
    assert report.confusion[:, 0].sum() == 0


def test_rows_without_a_prediction_are_left_out(drawn):
    prob, y, session = drawn
    half = session < 10
    expected = performance_report(prob[half], y[half], session[half], random_state=0)
    prob = np.where(half[:, None], prob, np.nan)
    report = performance_report(prob, y, session, random_state=0)
    assert report.summary == expected.summary
    n_left = np.sum(~half & (y != None))  # noqa: E711
    assert f"{n_left} labelled but not predicted" in report.message
    labels = np.where(half, NAMES[np.nan_to_num(prob).argmax(axis=1)], None)
    report = performance_report(labels, y, session, random_state=0)
    assert value(report, "accuracy") == value(expected, "accuracy")


def test_classes_of_too_few_sessions_are_named():
    rng = np.random.default_rng(0)
    session = np.repeat(np.arange(20), 10)
    y = rng.integers(0, 2, 200)
    y[:8] = 2  # all in one session
    y[10 * np.arange(1, 20, 2)] = 3  # in ten sessions
    report = performance_report(y, y, session, n_bootstrap=50, random_state=0)
    assert report.worthless == [2]
    assert "do not rely on their figures: 2 (8 labels in 1 sessions)." in report.message
    table = report.table
    low = {
        label: table.low[(table.metric == "recall") & (table.label == label)] for label in (2, 3)
    }
    assert np.isnan(low[2]).all()
    assert (low[3] == 1).all()
    line = next(line for line in report.summary.splitlines() if line.startswith("recall of 2"))
    assert line.endswith("too few sessions")


def test_a_class_without_a_label_has_no_recall(drawn):
    prob, y, session = drawn
    classes = ["wild", *NAMES]
    prob = np.column_stack([prob, np.zeros(len(prob))])  # "wild" is the last when sorted
    report = performance_report(prob, y, session, classes=classes, n_bootstrap=5)
    assert np.isnan(value(report, "recall", "wild"))
    assert "wild (0 labels in 0 sessions)" in report.message
    assert value(report, "macro-F1") == value(
        performance_report(prob[:, :3], y, session, n_bootstrap=5), "macro-F1"
    )


@pytest.mark.parametrize(("n_sessions", "low_is_known"), [(4, False), (5, True), (20, True)])
def test_message_says_how_many_sessions_are_needed(n_sessions, low_is_known):
    prob, codes, session = draw(n_sessions, np.random.default_rng(0))
    report = performance_report(prob, codes, session, n_bootstrap=20, random_state=0)
    assert report.n_sessions_to_halve == 4 * n_sessions
    assert np.isnan(report.table.low[0]) != low_is_known
    few = f"{n_sessions} sessions are too few for intervals"
    halve = f"about {4 * n_sessions} labelled sessions are needed, {3 * n_sessions} more"
    assert (halve if low_is_known else few) in report.message
    assert ("too narrow" in report.message) == (n_sessions == 5)


@pytest.mark.slow
def test_four_times_the_sessions_halve_the_interval():
    rng = np.random.default_rng(0)
    widths = {20: [], 80: []}
    for n_sessions, of_size in widths.items():
        for seed in range(10):
            sample = draw(n_sessions, rng)
            table = performance_report(*sample, n_bootstrap=200, random_state=seed).table
            of_size.append(table.high[:2] - table.low[:2])
    assert np.mean(widths[80]) == pytest.approx(np.mean(widths[20]) / 2, rel=0.15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": [None] * 6}, "y has no label; pass the human labels"),
        ({"predictions": np.full((6, 2), np.nan)}, "y has labels of predicted rows in 0 sessions"),
        ({"groups": ["a"] * 6}, "y has labels of predicted rows in 1 sessions, but at least 2"),
        ({"groups": ["a"]}, "groups has 1 entries but there are 6 rows"),
        (
            {"predictions": np.full((6, 3), 1 / 3)},
            "has shape (6, 3) but there are 2 classes",
        ),
        ({"predictions": np.full((5, 2), 0.5)}, "predictions has 5 entries but y has 6 rows"),
        ({"predictions": np.full((6, 2), 0.4)}, "6 rows that are no probabilities (first: row 0"),
        ({"predictions": [[2.0, -1.0]] * 6}, "6 rows that are no probabilities (first: row 0"),
        ({"predictions": [[np.nan, 1.0]] * 6}, "6 rows that are no probabilities (first: row 0"),
        ({"y": [0, 1, 2] * 2, "classes": [0, 1]}, "y has labels that are not in classes: [2]"),
        ({"y": list("abcabc"), "predictions": [0] * 6}, "pass labels of the same type"),
        ({"predictions": [0, 5] * 3, "classes": [0, 1]}, "predictions has labels that are not in"),
        ({"predictions": LogisticRegression()}, "so X is needed as well"),
        ({"X": np.zeros((6, 1))}, "X is given, but predictions is no estimator"),
    ],
)
def test_report_names_what_is_wrong(changes, message):
    arguments = {
        "predictions": np.full((6, 2), 0.5),
        "y": [0, 1, 0, 1, 0, 1],
        "groups": list("aabbcc"),
    } | changes
    with raises(message):
        performance_report(**arguments)


# --- several labels per utterance ---------------------------------------------------------------


def several_labels(n_sessions=30, size=8, seed=0):
    rng = np.random.default_rng(seed)
    truth = (rng.random((n_sessions * size, 3)) < [0.5, 0.3, 0.1]).astype(int)
    prob = np.clip(0.5 + 0.35 * (2 * truth - 1) + rng.normal(0, 0.25, truth.shape), 0.01, 0.99)
    y = pd.DataFrame(truth, columns=["asks", "thanks", "swears"])
    y = y.mask(rng.random(y.shape) < 0.2)
    return y, prob, np.repeat(np.arange(n_sessions), size)


def figures(report):
    table = report.table
    return {(m, k): v for m, k, v in zip(table.metric, table.label, table.value, strict=True)}


def test_several_labels_are_judged_where_they_are_known():
    y, prob, groups = several_labels()
    report = performance_report(prob, y, groups, random_state=0)
    truth, known = y.fillna(-1).to_numpy(int), y.notna().to_numpy()
    chosen, found = (prob > 0.5).astype(int), figures(report)
    assert report.classes.tolist() == list(y)
    assert found["accuracy", None] == pytest.approx((chosen == truth)[known].mean())
    f1 = []
    for k, name in enumerate(y):
        pair = truth[known[:, k], k], chosen[known[:, k], k]
        assert found["recall", name] == pytest.approx(recall_score(*pair))
        assert found["precision", name] == pytest.approx(precision_score(*pair))
        f1.append(f1_score(*pair))
        assert report.confusion[k].tolist() == confusion_matrix(*pair).tolist()
    assert found["macro-F1", None] == pytest.approx(np.mean(f1))
    assert 0 < found["ECE", None] < 0.3
    assert (report.table.low <= report.table.value).all()
    assert report.table.n_rows[0] == known.sum()


def test_several_labels_by_labels_and_by_estimators():
    y, prob, groups = several_labels()
    whole = y.fillna(0).astype(int)
    usual = figures(performance_report(prob, y, groups, random_state=0))
    by_label = figures(performance_report((prob > 0.5).astype(int), y, groups, random_state=0))
    assert {key: usual[key] for key in by_label} == by_label
    assert ("ECE", None) not in by_label
    for model in (OneVsRestClassifier(LogisticRegression()), RandomForestClassifier(10)):
        model.fit(prob, whole)
        found = figures(performance_report(model, y, groups, X=prob, random_state=0))
        assert found["accuracy", None] > 0.8
    constant = RandomForestClassifier(2).fit(prob, whole.assign(swears=0))
    with pytest.raises(ValueError, match="predictions has seen a label that applies to all rows"):
        performance_report(constant, y, groups, X=prob)
    with pytest.raises(ValueError, match="predictions has shape"):
        performance_report(prob[:, :2], y, groups)
    with pytest.raises(ValueError, match="which is no probability; pass numbers from 0 to 1"):
        performance_report(3 * prob, y, groups)
    with pytest.raises(ValueError, match="y has no label"):
        performance_report(prob, y.mask(y.notna()), groups)
