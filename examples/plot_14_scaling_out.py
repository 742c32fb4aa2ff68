"""
Scaling a search out
====================

Scikit-learn's searches run their fits through joblib, and Dask can serve as its backend. The same
``GridSearchCV`` then runs on the workers of a cluster, here two processes on this machine. The
result is identical to that of ``n_jobs=1``. Each bar below is a fit.

A search as small as this one gains little or nothing: starting the workers, and torch in each of
them, takes longer than the fits. It pays off if a fit takes many seconds or there are many
machines. The printed times were measured when this page was built.
"""

import os
import time

import joblib
import matplotlib.pyplot as plt
import numpy as np
import sklearn
from dask.distributed import Client, LocalCluster
from sklearn.model_selection import GridSearchCV, GroupKFold

from skpref import LLMScoreCalibrator, PairwisePreferenceClassifier
from skpref.datasets import make_dialogues


def score_and_trace(estimator, X, y):
    """Return the accuracy, and for the figure the process and the end of the fit."""
    return {"accuracy": estimator.score(X, y), "end": time.time(), "process": os.getpid()}


def make_search(**params):
    """Make the search that all runs use."""
    clf = PairwisePreferenceClassifier(
        calibrator=LLMScoreCalibrator(), classes=[0, 1], random_state=0
    )
    grid = {"calibrator__method": ["mean", "log_pool"], "margin_scale": [1.0, 2.0, 5.0]}
    return GridSearchCV(clf, grid, cv=GroupKFold(3), scoring=score_and_trace, refit=False, **params)


def run(name, search, data):
    """Search and print the time; return start, end and process of each fit."""
    start = time.time()
    with sklearn.config_context(enable_metadata_routing=True):
        search.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
    print(f"{name:16s} {time.time() - start:5.1f} s")
    results = search.cv_results_
    end, process = (
        np.array([results[f"split{k}_test_{what}"] for k in range(3)]).ravel()
        for what in ("end", "process")
    )
    return end - start - np.tile(results["mean_fit_time"], 3), end - start, process


def main():
    """Run the search on both backends and plot the fits."""
    data = make_dialogues(n_sessions=100, labelled_fraction=0.5, random_state=0)
    here, there = make_search(n_jobs=1), make_search()
    traces = {"n_jobs=1": run("n_jobs=1", here, data)}
    # To use a cluster of machines, pass the scheduler's address instead of the LocalCluster.
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster), joblib.parallel_backend("dask"):
        traces["Dask, first run"] = run("Dask, first run", there, data)
        traces["Dask, warm"] = run("Dask, warm", make_search(), data)
    ours, theirs = (s.cv_results_["mean_test_accuracy"] for s in (here, there))
    print("largest difference of the accuracies:", np.abs(ours - theirs).max())

    _, axes = plt.subplots(3, 1, figsize=(9, 4.6), sharex=True, layout="constrained")
    for axis, (name, (start, end, process)) in zip(axes, traces.items(), strict=True):
        lane = np.unique(process, return_inverse=True)[1]
        axis.barh(lane, end - start, left=start, height=0.7, edgecolor="white")
        axis.set(title=name, yticks=np.unique(lane))
        axis.set_yticklabels([f"process {i + 1}" for i in np.unique(lane)])
    axes[-1].set_xlabel("seconds since the search began")
    plt.show()


# The workers are processes that import this file, so the main function must be guarded.
if __name__ == "__main__":
    main()
