"""The classifier inside the tools that users have, of scikit-learn and of others."""

import subprocess
import sys

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    TunedThresholdClassifierCV,
    learning_curve,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skpref import (
    DialogueContext,
    KNNLabelSmoother,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
)
from skpref.datasets import make_dialogues
from tests.helpers import fast, given

pytestmark = pytest.mark.filterwarnings("ignore:.*joblib:UserWarning")

STEP = "pairwisepreferenceclassifier"  # of the pipelines that `make_pipeline` makes


@pytest.fixture(scope="module")
def data():
    return make_dialogues(
        n_sessions=36, session_length=(4, 8), labelled_fraction=0.5, random_state=0
    )


@pytest.fixture(scope="module")
def full(data):
    """The same with every row labelled and no scores: what wrappers of classifiers take."""
    return data.X, data.y_true, data.groups


def classifier(**params):
    return fast(**{"max_epochs": 20, "batch_size": 256} | params)


@pytest.mark.slow
def test_calibrated_classifier_fits_by_session(data, full, routing):
    X, y, groups = full
    calibrated = CalibratedClassifierCV(classifier(), cv=GroupKFold(3), ensemble=False)
    calibrated.fit(X, y, groups=groups, llm_scores=data.llm_scores)
    assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    assert calibrated.score(X, y) > 0.7


def test_frozen_classifier_is_calibrated_on_labelled_rows_alone(data):
    clf = classifier(classes=[0, 1]).fit(data.X, data.y, **given(data))
    labelled = data.y >= 0
    calibrated = CalibratedClassifierCV(FrozenEstimator(clf))
    calibrated.fit(data.X[labelled], data.y[labelled])
    order = np.argsort(clf.predict_proba(data.X)[:, 1])
    assert (np.diff(calibrated.predict_proba(data.X)[order, 1]) >= -1e-9).all()


def test_tuned_threshold_uses_a_fitted_classifier_and_labelled_rows(data):
    clf = classifier(classes=[0, 1]).fit(data.X, data.y, **given(data))
    labelled = data.y >= 0
    tuned = TunedThresholdClassifierCV(
        FrozenEstimator(clf), scoring="balanced_accuracy", cv="prefit", refit=False
    )
    tuned.fit(data.X[labelled], data.y[labelled])
    positive = clf.predict_proba(data.X)[:, 1] >= tuned.best_threshold_
    assert_array_equal(tuned.predict(data.X) == 1, positive)


def test_stacking_takes_fitted_classifiers(data, arrays):
    # Stacking gives what it routes to the final estimator, too, so it cannot fit ours by session.
    ours = classifier(classes=[0, 1]).fit(data.X, data.y, **given(data))
    labelled = data.y >= 0
    X, y = data.X[labelled], data.y[labelled]
    linear = LogisticRegression().fit(X, y)
    stack = StackingClassifier([("ours", ours), ("linear", linear)], cv="prefit").fit(X, y)
    assert stack.score(data.X, data.y_true) > 0.7
    assert_array_equal(stack.transform(data.X)[:, 0], ours.predict_proba(data.X)[:, 1])


def test_permutation_importance_finds_the_informative_features():
    data = make_dialogues(n_sessions=60, n_features=6, n_informative=2, random_state=0)
    clf = PairwisePreferenceClassifier(classes=[0, 1], random_state=0)
    clf.fit(data.X, data.y, **given(data))
    found = permutation_importance(clf, data.X, data.y_true, n_repeats=3, random_state=0)
    expected = np.abs([np.corrcoef(column, data.y_true)[0, 1] for column in data.X.T]).argmax()
    assert found.importances_mean.argmax() == expected


@pytest.mark.slow
def test_learning_curve_grows_by_sessions(data, full, routing):
    X, y, _ = full
    sizes, train, test = learning_curve(
        classifier(),
        X,
        y,
        cv=GroupKFold(3),
        train_sizes=[0.5, 1.0],
        params=given(data),
        error_score="raise",
    )
    assert sizes[1] > sizes[0]
    assert np.isfinite(train).all()
    assert np.isfinite(test).all()


@pytest.mark.slow
def test_halving_search_routes_sessions_and_scores(data, full, routing):
    X, y, groups = full
    search = HalvingGridSearchCV(
        classifier(max_epochs=1),
        {"margin_scale": [1.0, 2.0, 4.0]},
        cv=GroupKFold(3),
        resource="max_epochs",
        max_resources=4,
        min_resources=1,
        random_state=0,
        error_score="raise",
    )
    search.fit(X, y, groups=groups, llm_scores=data.llm_scores)
    assert search.n_iterations_ >= 2
    assert search.best_estimator_.max_epochs in (3, 4)


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_transformers_give_frames_that_the_classifier_takes(data, output):
    frames = pytest.importorskip(output)
    columns = [f"f{i}" for i in range(data.X.shape[1])]
    X = frames.DataFrame({name: data.X[:, i] for i, name in enumerate(columns)})
    pipe = make_pipeline(StandardScaler(), classifier(classes=[0, 1]))
    pipe.set_output(transform=output)
    pipe.fit(X, data.y, **given(data, step=STEP))
    assert list(pipe[-1].feature_names_in_) == columns
    assert pipe.predict_proba(X).shape == (len(data.y), 2)
    scores = data.llm_scores.reshape(len(data.y), -1)
    soft = LLMScoreCalibrator("mean", classes=[0, 1]).set_output(transform=output)
    soft = soft.fit_transform(scores)
    assert isinstance(soft, frames.DataFrame)
    near = KNNLabelSmoother().set_output(transform=output)
    assert isinstance(near.fit_transform(data.X, soft.to_numpy()), frames.DataFrame)


def test_polars_dialogues_give_what_pandas_gives(data, arrays):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    words = np.where(data.y_true == 1, "good thanks", "bad sorry")
    frame = {"session_id": data.groups.astype(str), "turn": np.arange(len(words)), "text": words}
    found = []
    for frames in (pandas, polars):
        X = frames.DataFrame(frame)
        pipe = make_pipeline(
            DialogueContext(n_turns=1), CountVectorizer(), classifier(classes=[0, 1])
        )
        pipe.fit(X, data.y, **given(data, step=STEP))
        found.append(pipe.predict_proba(X))
    assert_array_equal(*found)


def test_imblearn_pipeline_resamples_before_the_classifier(full, routing, arrays):
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.pipeline import make_pipeline as make_imblearn_pipeline

    X, y, _ = full
    pipe = make_imblearn_pipeline(
        StandardScaler(), RandomOverSampler(random_state=0), classifier(validation_fraction=0)
    )
    pipe.fit(X, y)
    assert pipe.score(X, y) > 0.7


def search(n_jobs):
    pipe = Pipeline([("scale", StandardScaler()), ("clf", classifier(classes=[0, 1]))])
    grid = {"clf__margin_scale": [1.0, 2.0], "clf__pairwise_weight": [0.0, 1.0]}
    return GridSearchCV(pipe, grid, cv=GroupKFold(3), n_jobs=n_jobs, error_score="raise")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_dask_workers_run_the_search_with_the_same_result(data, routing):
    distributed = pytest.importorskip("distributed")
    alone = search(1).fit(data.X, data.y, **given(data))
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        spread = search(-1).fit(data.X, data.y, **given(data))
    for name in ("mean_test_score", "params"):
        assert_array_equal(alone.cv_results_[name], spread.cv_results_[name])
    assert_array_equal(alone.predict_proba(data.X), spread.predict_proba(data.X))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:OptunaSearchCV is experimental", "ignore::FutureWarning")
def test_optuna_searches_by_session(data):
    optuna = pytest.importorskip("optuna")
    integration = pytest.importorskip("optuna_integration.sklearn")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = integration.OptunaSearchCV(
        Pipeline([("scale", StandardScaler()), ("clf", classifier(classes=[0, 1]))]),
        {"clf__margin_scale": optuna.distributions.FloatDistribution(1.0, 4.0)},
        cv=GroupKFold(3),
        n_trials=3,
        random_state=0,
        error_score="raise",
    )
    steps = given(data, step="clf")
    found.fit(data.X, data.y, groups=data.groups, **steps)
    assert len(found.trials_) == 3
    assert 1 <= found.best_params_["clf__margin_scale"] <= 4
    assert found.predict(data.X).shape == data.y.shape


SCRIPT = """
import sys
import joblib, numpy as np
X = np.load(sys.argv[2])
np.save(sys.argv[3], joblib.load(sys.argv[1]).predict_proba(X))
"""


@pytest.mark.slow
def test_joblib_file_is_read_by_another_process(data, tmp_path):
    pipe = make_pipeline(StandardScaler(), classifier(classes=[0, 1]))
    pipe.fit(data.X, data.y, **given(data, step=STEP))
    paths = [str(tmp_path / name) for name in ("pipe.joblib", "X.npy", "p.npy")]
    joblib.dump(pipe, paths[0])
    np.save(paths[1], data.X)
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True, timeout=300)
    assert_array_equal(np.load(paths[2]), pipe.predict_proba(data.X))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_mlflow_reloads_a_fitted_pipeline(data, tmp_path):
    mlflow = pytest.importorskip("mlflow.sklearn")
    pipe = make_pipeline(StandardScaler(), classifier(classes=[0, 1]))
    pipe.fit(data.X, data.y, **given(data, step=STEP))
    mlflow.save_model(
        pipe,
        str(tmp_path / "model"),
        pip_requirements=["skpref"],
        serialization_format="cloudpickle",
    )
    again = mlflow.load_model(str(tmp_path / "model"))
    assert_array_equal(again.predict_proba(data.X), pipe.predict_proba(data.X))


def test_fitting_is_quiet(data, capfd):
    clone(classifier(classes=[0, 1])).fit(data.X, data.y, **given(data))
    assert capfd.readouterr() == ("", "")
