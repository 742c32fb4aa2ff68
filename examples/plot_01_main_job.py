"""
From raw LLM scores to a small classifier
=========================================

Dialogues that three prompts of an LLM scored, a few sessions that people labelled, and a small
network that learns from both. Everything is fitted inside each fold, and folds keep sessions whole.
The dialogues are made up, so that anyone can run this; they have the session bias that pairs within
sessions are meant for. What the method does on real dialogues is in ``benchmarks/results``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpref import LLMScoreCalibrator, PairwisePreferenceClassifier
from skpref.datasets import make_dialogues
from skpref.metrics import expected_calibration_error, within_session_concordance

CLASSES = np.arange(3)


def predict_test(name, data, train, test):
    """Class probabilities of the test rows from one of the ways to use scores and labels."""
    X, y, scores, groups = data.X, data.y, data.llm_scores, data.groups
    if name == "LLM, mean of the prompts":
        model = LLMScoreCalibrator("mean", classes=CLASSES).fit(scores[train])
        return model.transform(scores[test])
    if name == "LLM, calibrated":
        model = LLMScoreCalibrator(classes=CLASSES).fit(scores[train], y[train])
        return model.transform(scores[test])
    if name == "human labels only":
        labelled = train[y[train] >= 0]
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[labelled], y[labelled])
        probabilities = np.zeros((len(test), len(CLASSES)))
        probabilities[:, model.classes_] = model.predict_proba(X[test])
        return probabilities
    weight = 0.0 if name == "distillation, row by row" else 1.0
    model = make_pipeline(
        StandardScaler(),
        PairwisePreferenceClassifier(pairwise_weight=weight, classes=CLASSES, random_state=0),
    )
    step = "pairwisepreferenceclassifier"
    given = {f"{step}__groups": groups[train], f"{step}__llm_scores": scores[train]}
    return model.fit(X[train], y[train], **given).predict_proba(X[test])


ROWS = [
    "LLM, mean of the prompts",
    "LLM, calibrated",
    "human labels only",
    "distillation, row by row",
    "skpref",
]

results = []
for seed in range(3):
    print(f"data set {seed + 1} of 3", flush=True)
    data = make_dialogues(
        n_sessions=150,
        n_classes=3,
        prompt_bias=1.5,
        session_bias=2.0,
        missing_rate=0.1,
        labelled_fraction=0.05,
        random_state=seed,
    )
    for fold, (train, test) in enumerate(GroupKFold(3).split(data.X, data.y, data.groups)):
        for name in ROWS:
            probabilities = predict_test(name, data, train, test)
            # A row that no prompt scored has no LLM probability; it counts as a guess.
            probabilities = np.nan_to_num(probabilities, nan=1 / len(CLASSES))
            truth, groups = data.y_true[test], data.groups[test]
            results.append(
                {
                    "row": name,
                    "fold": (seed, fold),
                    "macro-F1": f1_score(truth, probabilities.argmax(axis=1), average="macro"),
                    "accuracy": accuracy_score(truth, probabilities.argmax(axis=1)),
                    "concordance": within_session_concordance(truth, probabilities, groups=groups),
                    "ECE": expected_calibration_error(truth, probabilities, labels=CLASSES),
                }
            )

# %%
# Mean and standard deviation over three data sets of three folds.
table = pd.DataFrame(results).drop(columns="fold").groupby("row", sort=False).agg(["mean", "std"])
print(table.round(3).to_string())

# %%
# The same as a picture.
figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), sharey=True, layout="constrained")
for axis, metric in zip(axes, table.columns.levels[0], strict=True):
    axis.errorbar(table[metric, "mean"], ROWS, xerr=table[metric, "std"], fmt="o", capsize=3)
    axis.set_xlabel(metric)
    axis.grid(axis="x", alpha=0.3)
axes[0].invert_yaxis()
figure.suptitle("Test sessions, mean ± standard deviation")
figure.savefig("main_job.png", dpi=110)
print("\nwrote main_job.png")
