"""
From raw LLM scores to a small classifier
=========================================

The data are customer-support chats that a small real LLM scored with six prompts; 16 of the 161
sessions are labelled. A small network learns from the scores and the labels. Everything is fitted
inside each fold, and folds contain whole sessions. For results on other dialogues, see
``benchmarks/results``.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline, make_union

from skpref import (
    DialogueContext,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    SentenceEncoder,
)
from skpref.datasets import load_support_chats
from skpref.metrics import expected_calibration_error, within_session_concordance

chats = load_support_chats()
print(chats.frame[["session_id", "speaker", "text", "label"]].head(6).to_string())
y, groups, llm_scores = chats.y, chats.groups, chats.llm_scores
truth = chats.frame["label"].to_numpy()
labelled = chats.frame["session_id"].isin(groups[[label is not None for label in y]]).to_numpy()

# %%
# Concatenate the embedding of each utterance with an embedding of the utterance and the two before
# it; a single embedding of all three would blur the utterance itself. Nothing is learned here.
views = [
    make_pipeline(DialogueContext(n_turns=n, speaker="speaker"), SentenceEncoder()) for n in (0, 2)
]
X = make_union(*views).fit_transform(chats.frame)


def predict_test(name, train, test, seed):
    """Predict class probabilities of the test rows by one way to use scores and labels."""
    if name == "LLM, mean of the prompts":
        return LLMScoreCalibrator("mean", classes=chats.classes).fit_transform(llm_scores)[test]
    if name == "LLM, calibrated":
        model = LLMScoreCalibrator(classes=chats.classes).fit(llm_scores[train], y[train])
        return model.transform(llm_scores[test])
    if name == "human labels only":
        rows = train[labelled[train]]
        model = LogisticRegression(max_iter=1000).fit(X[rows], y[rows].astype(str))
        return model.predict_proba(X[test])
    model = PairwisePreferenceClassifier(classes=chats.classes, random_state=seed)
    if name == "skpref, no pairs":
        model.set_params(pairwise_weight=0.0)
    model.fit(X[train], y[train], groups=groups[train], llm_scores=llm_scores[train])
    if name == "distillation":
        # Cross-entropy with the same soft labels, replaced by the human label in labelled rows.
        soft, rows = model.soft_labels_.copy(), labelled[train]
        soft[rows] = y[train][rows, None] == np.array(chats.classes)
        model.set_params(calibrator="passthrough", smoother="passthrough", class_weight=None)
        model.set_params(pairwise_weight=0.0, stage2="offsets")
        model.fit(X[train], y[train], groups=groups[train], llm_scores=soft[:, None])
    return model.predict_proba(X[test])


# %%
# The unlabelled sessions are split into folds; the labelled sessions are always used for training.
ROWS = [
    "LLM, mean of the prompts",
    "LLM, calibrated",
    "human labels only",
    "distillation",
    "skpref, no pairs",
    "skpref",
]
rest = np.flatnonzero(~labelled)
results = []
folds = GroupKFold(4, shuffle=True, random_state=0).split(rest, groups=groups[rest])
for fold, (train, test) in enumerate(folds):
    print(f"fold {fold + 1} of 4", flush=True)
    train, test = np.union1d(np.flatnonzero(labelled), rest[train]), rest[test]
    for name in ROWS:
        probabilities = predict_test(name, train, test, seed=fold)
        # A row that no prompt scored has no LLM probability and counts as a uniform guess.
        probabilities = np.nan_to_num(probabilities, nan=1 / len(chats.classes))
        predicted = np.array(chats.classes)[probabilities.argmax(axis=1)]
        results.append(
            {
                "row": name,
                "macro-F1": f1_score(truth[test], predicted, average="macro"),
                "accuracy": accuracy_score(truth[test], predicted),
                "concordance": within_session_concordance(
                    truth[test], probabilities, groups=groups[test], labels=chats.classes
                ),
                "ECE": expected_calibration_error(truth[test], probabilities, labels=chats.classes),
            }
        )

# %%
# Mean and standard deviation over the folds.
table = pd.DataFrame(results).groupby("row", sort=False).agg(["mean", "std"])
print(table.round(3).to_string())

# %%
# The same as a figure.
figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), sharey=True, layout="constrained")
for axis, metric in zip(axes, table.columns.levels[0], strict=True):
    axis.errorbar(table[metric, "mean"], ROWS, xerr=table[metric, "std"], fmt="o", capsize=3)
    axis.set_xlabel(metric)
    axis.grid(axis="x", alpha=0.3)
axes[0].invert_yaxis()
figure.suptitle("Test sessions, mean ± standard deviation over folds")
figure.savefig("main_job.png", dpi=110)
print("\nwrote main_job.png")
