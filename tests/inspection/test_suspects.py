import numpy as np
import pandas as pd
import polars as pl
import pytest

from skpref import LLMScoreCalibrator
from skpref.datasets import make_dialogues
from skpref.inspection import suspects
from tests.helpers import raises


@pytest.fixture(scope="module")
def planted():
    """Dialogues with clear classes, and with 5% wrong labels."""
    data = make_dialogues(
        60, n_classes=3, class_sep=10.0, sharpness=0.4, labelled_fraction=0.5, random_state=0
    )
    rng = np.random.default_rng(0)
    labelled = np.flatnonzero(data.y >= 0)
    wrong = rng.choice(labelled, len(labelled) // 20, replace=False)
    y = data.y.copy()
    y[wrong] = (y[wrong] + rng.integers(1, 3, len(wrong))) % 3
    noisy = data.true_proba**0.3 * rng.uniform(0.3, 1, data.true_proba.shape)
    return data, y, noisy / noisy.sum(axis=1, keepdims=True), set(wrong.tolist())


def rows_of(found, kind):
    return found.table.row[found.table.kind == kind]


def assert_refused(y, changes, message):
    """Changed arguments raise an error with this message."""
    arguments = {
        "y": y,
        "probabilities": np.full((4, 2), 0.5),
        "llm_scores": np.full((4, 1, 2), 0.5),
        "groups": list("aabb"),
    } | changes
    with raises(message):
        suspects(**arguments)


def test_wrong_labels_come_first(planted):
    data, y, prob, wrong = planted
    found = suspects(y, prob, data.llm_scores, data.groups)
    first = rows_of(found, "label")[: len(wrong)]
    assert len(wrong & set(first.tolist())) > 0.7 * len(wrong)
    score = found.table.score[found.table.kind == "label"]
    assert (np.diff(score) <= 0).all()
    assert found.n_labels >= len(score)


def test_llm_scores_find_more_wrong_labels(planted):
    data, y, prob, wrong = planted
    hits = [
        len(wrong & set(rows_of(found, "label")[: len(wrong)].tolist()))
        for found in (suspects(y, prob), suspects(y, prob, data.llm_scores, data.groups))
    ]
    assert hits[1] > hits[0]


def test_suspects_disagree_with_the_pool_of_network_and_llm(planted):
    _, y, prob, _ = planted
    alone = suspects(y, prob, max_rows=1000)
    rows = rows_of(alone, "label")
    assert set(rows) == set(np.flatnonzero((y >= 0) & (prob.argmax(axis=1) != y)))
    assert alone.n_labels == len(rows)
    assert alone.n_conflicts == 0
    np.testing.assert_allclose(alone.table.score, 1 - prob[rows, y[rows]], atol=2e-3)


def test_conflicts_are_sure_on_both_sides():
    y = np.array([0, 1, -1, -1, 0, 1, 0, 1])
    groups = np.arange(8) // 2
    llm = np.array([0.1, 0.9, 0.95, 0.6, 0.2, 0.9, 0.1, 0.8])
    network = np.array([0.1, 0.9, 0.02, 0.05, 0.62, 0.8, 0.2, 0.45])

    class Same:
        """A calibrator that takes the scores for probabilities."""

        def get_params(self, deep=True):
            return {}

        def fit_transform(self, scores, y, groups):
            return np.column_stack([1 - scores[:, 0], scores[:, 0]])

    prob = np.column_stack([1 - network, network])
    found = suspects(y, prob, llm[:, None], groups, calibrator=Same())
    assert rows_of(found, "conflict").tolist() == [2, 4, 3, 7]
    scores = found.table.score[found.table.kind == "conflict"]
    np.testing.assert_allclose(scores, [0.9, 0.24, 0.2, 0.1])
    table = pd.DataFrame(found.table).query("kind == 'conflict'")
    assert table["label"].tolist() == [None, 0, None, 1]
    assert table["network"].tolist() == [0, 1, 0, 0]
    assert table["llm"].tolist() == [1, 0, 1, 1]
    assert table["session"].tolist() == [1, 2, 1, 3]
    assert "Network and LLM contradict each other about 4 of 8 utterances." in found.message


def test_labels_of_a_session_do_not_calibrate_its_own_scores(planted):
    data, y, prob, _ = planted
    # As many folds as sessions: which sessions share a fold may depend on the labels.
    params = {"max_rows": 2000, "calibrator": LLMScoreCalibrator(cv=10**6)}
    found = suspects(y, prob, data.llm_scores, data.groups, **params)
    session = data.groups[y >= 0][0]
    changed = np.where((data.groups == session) & (y >= 0), (y + 1) % 3, y)
    other = suspects(changed, prob, data.llm_scores, data.groups, **params)

    def choices(result):
        table = pd.DataFrame(result.table)
        table = table[(table["kind"] == "conflict") & (table["session"] == session)]
        return table[["row", "network", "llm", "score"]].reset_index(drop=True)

    pd.testing.assert_frame_equal(choices(found), choices(other))


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_texts_come_from_a_frame_or_a_list(planted, frame):
    data, y, prob, _ = planted
    texts = [f"utterance {i} & more" for i in range(len(y))]
    by_list = suspects(y, prob, groups=data.groups, X=texts, max_rows=4)
    assert by_list.table.text.tolist() == [texts[i] for i in by_list.table.row]
    held = frame({"said": texts, "session": data.groups})
    by_frame = suspects(y, prob, groups=data.groups, X=held, text="said", max_rows=4)
    assert by_frame.summary == by_list.summary
    assert f"utterance {by_list.table.row[0]} &amp; more" in by_list._repr_html_()
    assert "text" not in suspects(y, prob, max_rows=4).summary.splitlines()[0]
    long = suspects(y, prob, X=["word " * 100] * len(y), max_rows=4)
    assert max(map(len, long.summary.splitlines())) < 100


def test_rows_without_probabilities_are_judged_by_the_llm(planted):
    data, y, prob, _ = planted
    gaps = np.where((np.arange(len(y)) % 2 == 0)[:, None], np.nan, prob)
    found = suspects(y, gaps, data.llm_scores, data.groups, max_rows=2000)
    assert (rows_of(found, "conflict") % 2 == 1).all()
    assert (rows_of(found, "label") % 2 == 0).any()
    without = pd.DataFrame(found.table)["network"][found.table.row % 2 == 0]
    assert without.isna().all()
    assert (rows_of(suspects(y, gaps, max_rows=2000), "label") % 2 == 1).all()


def test_nothing_suspect_is_an_empty_table():
    found = suspects([0, 1], [[1.0, 0.0], [0.0, 1.0]])
    assert len(found.table.row) == 0
    assert found.message.startswith("0 of 2 human labels are not the first choice of the network.")
    assert "<table>" in found._repr_html_()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": [None] * 4}, "y has no label"),
        ({"y": [-1] * 4, "classes": [0, 1]}, "y has no label"),
        ({"y": [0, 1, 2, 1], "classes": [0, 1]}, "y has labels that are not in classes: [2]"),
        ({"y": [0, 1, 2, 1]}, "llm_scores has scores of 2 classes but y has 3"),
        (
            {"probabilities": np.full((4, 3), 1 / 3)},
            "probabilities has shape (4, 3) but",
        ),
        ({"probabilities": np.full((3, 2), 0.5)}, "probabilities has 3 entries but y has 4 rows"),
        ({"probabilities": np.full((4, 2), 0.6)}, "probabilities has 4 rows that are no probab"),
        ({"llm_scores": np.zeros((3, 1, 2))}, "y has 4 entries but llm_scores has 3 rows"),
        ({"groups": None}, "groups is needed to calibrate llm_scores"),
        ({"groups": [1]}, "groups has 1 entries but there are 4 rows"),
        ({"X": ["a"]}, "X has 1 entries but y has 4 rows"),
        ({"X": pd.DataFrame(np.zeros((4, 2)), columns=["a", "b"])}, "pass text= one of ['a', 'b']"),
    ],
)
def test_suspects_name_what_is_wrong(changes, message):
    assert_refused([0, 1, 0, 1], changes, message)


# --- several labels -----------------------------------------------------------------------------

LABELS = ["asks", "complains", "thanks"]


@pytest.fixture(scope="module")
def several():
    """40 sessions of 10 rows with three labels; some labels are unknown and some wrong."""
    rng = np.random.default_rng(0)
    truth = (rng.uniform(size=(400, 3)) < [0.5, 0.3, 0.2]).astype(int)
    y = np.where(rng.uniform(size=truth.shape) < 0.3, truth, -1)
    wrong = rng.choice(np.flatnonzero(y >= 0), 15, replace=False)
    y.flat[wrong] = 1 - y.flat[wrong]
    prob = np.clip(0.8 * truth + 0.1 + rng.normal(0, 0.15, truth.shape), 0.01, 0.99)
    scores = np.clip(truth[:, None] + rng.normal(0, 0.3, (400, 2, 3)), 0, 1)
    return y, prob, scores, np.repeat(np.arange(40), 10), wrong


def test_each_label_of_a_row_is_judged_for_itself(several):
    y, prob, scores, groups, wrong = several
    found = suspects(y, prob, scores, groups, classes=LABELS, max_rows=15)
    table = pd.DataFrame(found.table).query("kind == 'label'")
    cells = table["row"].to_numpy() * 3 + [LABELS.index(name) for name in table["column"]]
    assert len(set(cells) & set(wrong)) >= 13
    assert table["label"].tolist() == y.flat[cells].tolist()
    assert (table["network"] + table["llm"] >= 1 - table["label"]).all()
    assert f"of {np.sum(y >= 0):,} human labels" in found.message
    assert "of 1,200 labels of utterances" in found.message
    assert found.summary.splitlines()[0].split()[:5] == [
        "kind",
        "score",
        "row",
        "session",
        "column",
    ]


def test_several_labels_are_judged_as_each_alone_without_an_llm(several):
    y, prob, _, groups, _ = several
    together = pd.DataFrame(suspects(y, prob, groups=groups, max_rows=2000).table)
    for k in range(3):
        alone = suspects(y[:, k], np.column_stack([1 - prob[:, k], prob[:, k]]), max_rows=2000)
        of_label = together[together["column"] == k]
        assert of_label["row"].tolist() == alone.table.row.tolist()
        np.testing.assert_allclose(of_label["score"], alone.table.score)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": np.full((4, 2), -1)}, "y has no label"),
        ({"y": [[0, 2]] * 4}, "Unknown label type: y has shape (4, 2)"),
        ({"probabilities": np.full((4, 3), 0.5)}, "probabilities has shape (4, 3) but y has 2"),
        ({"probabilities": np.full((3, 2), 0.5)}, "probabilities has 3 entries but y has 4 rows"),
        (
            {"probabilities": [[0.5, 0.5]] * 3 + [[0.5, 1.5]]},
            "probabilities holds 1.5 (first: row 3, column 1)",
        ),
        ({"llm_scores": np.zeros((4, 1, 3))}, "llm_scores has scores of 3 labels but y has 2"),
        ({"groups": None}, "groups is needed to calibrate llm_scores"),
    ],
)
def test_suspects_of_several_labels_name_what_is_wrong(changes, message):
    assert_refused([[0, 1], [1, 0], [0, 0], [1, 1]], changes, message)
