import re
import sys
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpref import (
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    PreferenceNoiseDisplay,
    ScoreReliabilityDisplay,
    SessionTrajectoryDisplay,
    TrainingCurveDisplay,
)
from skpref.datasets import make_dialogues
from skpref.inspection import preference_noise
from skpref.inspection._plot import _style

CLASSES = ["calm", "cross", "sad"]


@pytest.fixture(autouse=True)
def _no_window():
    with mpl.rc_context({"backend": "agg"}):
        plt.switch_backend("agg")
        yield
        plt.close("all")


@pytest.fixture(scope="module")
def data():
    made = make_dialogues(
        40, n_classes=3, sharpness=2.0, labelled_fraction=0.5, missing_rate=0.1, random_state=0
    )
    made.y = np.array([*CLASSES, None], dtype=object)[made.y]
    return made


@pytest.fixture(scope="module")
def fitted(data):
    clf = PairwisePreferenceClassifier(
        "linear", classes=CLASSES, max_epochs=3, early_stopping=True, stage2="finetune"
    )
    clf.set_params(random_state=0)
    return clf.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)


@pytest.fixture
def draw(data, fitted):
    """Make each display; keyword arguments go to its constructor method."""
    one = data.groups == data.groups[0]
    calibrator = LLMScoreCalibrator(classes=CLASSES).fit(data.llm_scores, data.y)

    def reliability(**kwargs):
        given = (calibrator, data.llm_scores, data.y)
        return ScoreReliabilityDisplay.from_estimator(*given, groups=data.groups, **kwargs)

    def noise(**kwargs):
        given = (data.llm_scores, data.y, data.groups)
        kwargs = {"classes": CLASSES, "random_state": 0, "n_bootstrap": 20} | kwargs
        return PreferenceNoiseDisplay.from_predictions(*given, **kwargs)

    def training(**kwargs):
        return TrainingCurveDisplay.from_estimator(fitted, **kwargs)

    def trajectory(**kwargs):
        given = {"y": data.y[one], "llm_scores": data.llm_scores[one], "pos_label": "cross"}
        given["soft_labels"] = fitted.soft_labels_[one]
        return SessionTrajectoryDisplay.from_estimator(fitted, data.X[one], **given, **kwargs)

    return {
        "reliability": reliability,
        "noise": noise,
        "training": training,
        "trajectory": trajectory,
    }


NAMES = ["reliability", "noise", "training", "trajectory"]


def legend_texts(figure):
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    return [text.get_text() for legend in legends if legend for text in legend.get_texts()]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_display_makes_a_labelled_figure_with_a_legend(draw, name):
    display = draw[name]()
    assert display.ax_.figure is display.figure_
    assert display.ax_.get_xlabel()
    assert display.ax_.get_ylabel()
    texts = legend_texts(display.figure_)
    assert len(texts) > 1
    assert not any(text.startswith("_") for text in texts)
    display.figure_.canvas.draw()
    # The legend is below the data, not on it.
    legend = display.figure_.legends[0].get_window_extent()
    assert legend.y1 <= display.ax_.get_window_extent().y0
    assert legend.x0 >= 0
    assert legend.x1 <= display.figure_.bbox.x1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_display_draws_on_given_axes(draw, name):
    figure, axes = plt.subplots(1, 2)
    before = plt.get_fignums()
    display = draw[name](ax=axes[1])
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert plt.get_fignums() == before
    assert not axes[0].lines
    assert legend_texts(figure)
    figure.canvas.draw()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_legend_on_given_axes_is_below_them_where_the_layout_makes_room(draw, name):
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    display = draw[name](ax=axes[0])
    figure.canvas.draw()
    owner = getattr(display, "finetune_ax_", None) or display.ax_
    legend = owner.get_legend().get_window_extent()
    assert legend.y1 <= display.ax_.xaxis.label.get_window_extent().y0
    assert legend.y0 >= 0


@pytest.mark.parametrize("name", NAMES)
def test_plot_can_be_called_again_and_takes_line_arguments(draw, name):
    display = draw[name]()
    first = display.figure_
    again = display.plot(linewidth=7.5)
    assert again is display
    assert display.figure_ is not first
    assert 7.5 in {line.get_linewidth() for line in display.ax_.lines}
    display = draw[name](alpha=0.25)
    assert 0.25 in {line.get_alpha() for line in display.ax_.lines}


@pytest.mark.parametrize("name", NAMES)
def test_without_matplotlib_the_error_names_the_extra(draw, name, monkeypatch):
    display = draw[name]()
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # makes its import fail
    message = (
        f"{type(display).__name__} needs matplotlib, which cannot be imported; install it with "
        '`pip install "skpref[plot]"`.'
    )
    with pytest.raises(ImportError, match=re.escape(message)):
        display.plot()


def test_reliability_curves_are_the_shares_of_the_bins():
    prob = np.repeat([0.1, 0.4, 0.9], 10)
    y = np.concatenate([np.arange(10) < n for n in (2, 5, 6)]).astype(int)
    y, prob = np.r_[y, -1], np.r_[prob, 0.5]  # an unlabelled row, too
    calibrated = np.column_stack([1 - prob, prob]) * 0 + [0.4, 0.6]
    scores = np.column_stack([prob, prob])
    display = ScoreReliabilityDisplay.from_predictions(y, scores, calibrated, n_bins=3)
    for line in (display.ensemble_line_, *display.prompt_lines_):
        np.testing.assert_allclose(line.get_xdata(), [0.1, 0.4, 0.9])
        np.testing.assert_allclose(line.get_ydata(), [0.2, 0.5, 0.6])
    np.testing.assert_allclose(display.calibrated_line_.get_xydata(), [[0.6, 13 / 30]])
    assert display.pos_label == 1


def test_reliability_of_all_classes_and_of_one():
    prob = np.repeat([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], 10, axis=0)
    y = np.array(CLASSES)[[0] * 8 + [1] * 2 + [2] * 5 + [1] * 5]
    given = {"llm_scores": prob[:, None], "n_bins": 3}
    all_classes = ScoreReliabilityDisplay.from_predictions(y, **given)
    assert all_classes.prompt_lines_ == []  # of one prompt, the ensemble is the prompt
    assert all_classes.calibrated_line_ is None
    np.testing.assert_allclose(
        all_classes.ensemble_line_.get_xydata(), [[0.1, 0], [0.2, 7 / 20], [0.7, 13 / 20]]
    )
    one = ScoreReliabilityDisplay.from_predictions(y, pos_label="sad", **given)
    np.testing.assert_allclose(one.ensemble_line_.get_xydata(), [[0.1, 0], [0.7, 0.5]])
    assert "'sad'" in one.ax_.get_xlabel()


def test_reliability_is_cross_fitted_where_groups_are_given(data):
    calibrator = LLMScoreCalibrator(classes=CLASSES).fit(data.llm_scores, data.y)
    given = (calibrator, data.llm_scores, data.y)
    display = ScoreReliabilityDisplay.from_estimator(*given, groups=data.groups)
    again = LLMScoreCalibrator(classes=CLASSES)
    cross = again.fit_transform(data.llm_scores, data.y, groups=data.groups)
    expected = ScoreReliabilityDisplay.from_predictions(
        data.y, data.llm_scores, cross, classes=CLASSES
    )
    np.testing.assert_array_equal(display.calibrated, expected.calibrated)
    plain = ScoreReliabilityDisplay.from_estimator(*given)
    assert not np.array_equal(display.calibrated[1], plain.calibrated[1])


def test_calibrated_scores_are_nearer_to_the_diagonal(draw):
    display = draw["reliability"]()

    def distance(curve):
        return np.abs(curve[0] - curve[1]).mean()

    assert distance(display.calibrated) < distance(display.ensemble)
    assert distance(display.calibrated) < min(map(distance, display.prompts.values()))


def test_names_of_many_prompts_share_one_entry_of_the_legend():
    data = make_dialogues(20, n_prompts=9, labelled_fraction=1.0, random_state=0)
    display = ScoreReliabilityDisplay.from_predictions(data.y, data.llm_scores)
    assert len(display.prompt_lines_) == 9
    assert "9 prompts" in legend_texts(display.figure_)
    few = ScoreReliabilityDisplay.from_predictions(
        data.y, data.llm_scores[:, :2], prompt_names=["short", "long"]
    )
    assert {"short", "long"} <= set(legend_texts(few.figure_))


def test_noise_lines_and_bands_are_the_numbers_of_preference_noise(draw, data):
    noise = preference_noise(
        data.llm_scores,
        data.y,
        data.groups,
        classes=CLASSES,
        random_state=0,
        n_bootstrap=20,
    )
    display = draw["noise"]()
    np.testing.assert_array_equal(display.within_line_.get_xdata(), noise.by_gap.gap)
    np.testing.assert_array_equal(display.within_line_.get_ydata(), noise.by_gap.within)
    np.testing.assert_array_equal(display.across_line_.get_ydata(), noise.by_gap.across)
    (path,) = display.within_band_.get_paths()
    assert path.vertices[:, 1].max() == noise.by_gap.within_high.max()
    assert set(display.chance_line_.get_ydata()) == {0.5}
    assert (display.min_margin_line_ is None) == (not noise.min_margin > 0)
    noise.min_margin = 0.25
    display = PreferenceNoiseDisplay(noise).plot()
    assert set(display.min_margin_line_.get_xdata()) == {0.25}
    assert "suggested min_margin: 0.25" in legend_texts(display.figure_)


@pytest.mark.slow
def test_noise_of_an_estimator_is_that_of_its_probabilities(data):
    y = np.where(np.array(data.y) == None, -1, data.y_true)  # noqa: E711
    model = LogisticRegression().fit(data.X, data.y_true)
    display = PreferenceNoiseDisplay.from_estimator(
        model, data.X, y, data.groups, n_bootstrap=5, random_state=0
    )
    expected = preference_noise(
        model.predict_proba(data.X), y, data.groups, n_bootstrap=5, random_state=0
    )
    np.testing.assert_array_equal(display.noise.by_gap.within, expected.by_gap.within)


def test_noise_without_pairs_across_is_drawn():
    y, score = [0, 1, 0, 1], [[0.1], [0.4], [0.6], [0.5]]
    display = PreferenceNoiseDisplay.from_predictions(score, y, [0] * 4, random_state=0)
    assert "across sessions: no pair" in legend_texts(display.figure_)
    display.figure_.canvas.draw()


def test_training_curves_hold_the_history(fitted):
    display = TrainingCurveDisplay.from_estimator(fitted)
    pairs = [step for step in fitted.history_ if step["stage"] == "pairs"]
    fine = [step["train_loss"] for step in fitted.history_ if step["stage"] == "finetune"]
    train = display.lines_["stage 1, training"]
    np.testing.assert_array_equal(train.get_xdata(), np.arange(1, len(pairs) + 1))
    np.testing.assert_array_equal(train.get_ydata(), [step["train_loss"] for step in pairs])
    held_out = display.lines_["stage 1, held-out sessions"]
    np.testing.assert_array_equal(held_out.get_ydata(), [step["valid_loss"] for step in pairs])
    np.testing.assert_array_equal(display.lines_["fine-tuning"].get_ydata(), fine)
    assert display.lines_["fine-tuning"].get_xdata()[0] == len(pairs) + 1
    assert display.lines_["fine-tuning"].axes is display.finetune_ax_


def test_training_curves_of_a_pipeline_and_of_lbfgs():
    X, y = np.arange(8.0)[:, None], [0, 1] * 4
    pipe = make_pipeline(StandardScaler(), PairwisePreferenceClassifier("linear", solver="lbfgs"))
    display = TrainingCurveDisplay.from_estimator(pipe.fit(X, y))
    assert list(display.lines_) == ["stage 1, training"]
    assert display.finetune_ax_ is None
    assert display.ax_.get_xlabel() == "iteration of L-BFGS"


def test_trajectory_holds_scores_and_labels(data, fitted, draw):
    one = data.groups == data.groups[0]
    display = draw["trajectory"]()
    assert list(display.lines_) == ["LLM", "soft label", "student"]
    np.testing.assert_array_equal(
        display.lines_["student"].get_ydata(), fitted.predict_proba(data.X[one])[:, 1]
    )
    np.testing.assert_array_equal(
        display.lines_["soft label"].get_ydata(), fitted.soft_labels_[one, 1]
    )
    assert display.ax_.get_ylabel() == "score of 'cross'"


def test_trajectory_marks_labels_and_sorts_the_turns():
    display = SessionTrajectoryDisplay.from_predictions(
        [3, 1, 2, 0],
        {"student": [0.3, 0.1, 0.2, 0.0], "rival": [0.5, np.nan, 0.5, 0.5]},
        ["b", "a", None, "b"],
        pos_label="b",
        texts=["last $", "second", "third", "first of all that was said in this session"],
    )
    np.testing.assert_array_equal(display.lines_["student"].get_xdata(), [0, 1, 2, 3])
    np.testing.assert_array_equal(display.lines_["student"].get_ydata(), [0, 0.1, 0.2, 0.3])
    np.testing.assert_array_equal(display.label_markers_["yes"].get_xdata(), [0, 3])
    np.testing.assert_array_equal(display.label_markers_["no"].get_xdata(), [1])
    assert display.label_markers_["yes"].get_ydata().min() > 1
    assert display.label_markers_["no"].get_ydata().max() < 0
    ticks = [label.get_text() for label in display.ax_.get_xticklabels()]
    assert ticks[0] == "first of all that was said …  0"
    assert ticks[3] == r"last \$  3"
    display.figure_.canvas.draw()


def test_trajectory_of_numbers_needs_no_class_and_no_turns():
    display = SessionTrajectoryDisplay.from_predictions(None, {"student": [0.2, 0.9]}, [0, 1])
    assert display.pos_label == 1
    np.testing.assert_array_equal(display.lines_["student"].get_xdata(), [0, 1])
    unlabelled = SessionTrajectoryDisplay.from_predictions(None, {"student": [0.2, 0.9]})
    assert unlabelled.label_markers_ == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ScoreReliabilityDisplay.from_predictions([-1, -1], np.zeros((2, 1))),
            "y has no labelled row, so scores cannot be compared with labels; pass labels.",
        ),
        (
            lambda: ScoreReliabilityDisplay.from_predictions([0, 1], np.zeros((2, 1)), np.zeros(2)),
            "calibrated has shape (2,); pass (2, 2), one probability for each row and each of the "
            "classes [0, 1].",
        ),
        (
            lambda: ScoreReliabilityDisplay.from_predictions(
                [0, 1], np.zeros((2, 1)), pos_label="x"
            ),
            "pos_label='x' is not a class; pass one of [0, 1].",
        ),
        (
            lambda: ScoreReliabilityDisplay.from_predictions(
                [0, 1], np.zeros((2, 1)), prompt_names=["a", "b"]
            ),
            "prompt_names=['a', 'b'] has 2 names but llm_scores has 1 prompts",
        ),
        (
            lambda: TrainingCurveDisplay.from_estimator(LogisticRegression()),
            "estimator=LogisticRegression() must be a PairwisePreferenceClassifier, or a Pipeline "
            "whose last step is one, but that is a LogisticRegression; of a search, pass its best",
        ),
        (
            lambda: TrainingCurveDisplay([]).plot(),
            "history has no losses to draw; pass the history_ of a fitted",
        ),
        (
            lambda: SessionTrajectoryDisplay.from_predictions(None, {}),
            "scores={} has no line to draw; pass for example",
        ),
        (
            lambda: SessionTrajectoryDisplay.from_predictions(None, {"a": [0.1], "b": [0.1, 0.2]}),
            "scores['b'] has 2 entries but scores['a'] has 1; pass one per utterance of",
        ),
        (
            lambda: SessionTrajectoryDisplay.from_predictions([0, 1], {"a": [0.1]}),
            "turns has 2 entries but scores['a'] has 1; pass one per utterance of",
        ),
        (
            lambda: SessionTrajectoryDisplay.from_predictions(None, {"a": [0.1, 1]}, ["x", "y"]),
            "pos_label=None but y has the labels ['x', 'y']; pass the class of the scores.",
        ),
        (
            lambda: SessionTrajectoryDisplay.from_estimator(
                SimpleNamespace(classes_=["x", "y"], predict_proba=lambda X: np.eye(2)),
                [[0], [1]],
                pos_label="z",
            ),
            "pos_label='z' is not a class; pass one of ['x', 'y'].",
        ),
    ],
)
def test_display_names_what_is_wrong(call, message):
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    "call",
    [
        lambda: TrainingCurveDisplay.from_estimator(PairwisePreferenceClassifier()),
        lambda: ScoreReliabilityDisplay.from_estimator(LLMScoreCalibrator(), [[0.1]], [0]),
    ],
)
def test_unfitted_estimators_are_not_drawn(call):
    with pytest.raises(NotFittedError):
        call()


def test_the_look_of_the_displays_is_a_style_of_matplotlib():
    with plt.style.context("skpref.inspection.style"):
        colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert colours[:2] == [_style.BLUE, _style.ORANGE]
