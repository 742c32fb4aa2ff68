"""
From an LLM's scores to a small classifier
==========================================

161 support chats, scored by a small LLM with three prompts; people have labelled 16 of them. What
can you do with that? Use the labels alone, train the classifier, let it ask the LLM about a fifth
of the utterances, or ask the LLM about everything. All four are compared on chats that none of them
has learned from.

Run as a script, it ends by classifying what you type.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, GroupKFold

from skpref import (
    DialogueFeatures,
    LLMCascadeClassifier,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    SentenceEncoder,
)
from skpref.datasets import load_support_chats
from skpref.inspection import performance_report

chats = load_support_chats()
truth = chats.frame["label"].to_numpy()
for row in chats.frame.head(6).itertuples():
    print(f"{row.label:8} {row.speaker}: {row.text:.75}")

# %%
# The embeddings of the utterances come with the chats. Beside them: who speaks, how far the chat
# is, and how long the utterance is.
extra = DialogueFeatures().fit(chats.frame)
X = np.hstack([chats.embeddings, extra.transform(chats.frame)]).astype(np.float32)
classifier = PairwisePreferenceClassifier(
    calibrator=LLMScoreCalibrator("auto"), classes=chats.classes, random_state=0
)
labelled = np.isin(chats.groups, chats.groups[[label is not None for label in chats.y]])

# %%
# Four ways
# ---------
#
# One half of the chats without labels is judged by what learnt from the other half and from the
# labelled chats, and the other way round. All have the same features, and every calibrator is
# chosen by cross-validation on the labelled chats.
SHARES = [0, 0.1, 0.2, 0.3, 0.5, 0.75, 1]


def ask_first(share, order, scores):
    """Return the scores of the utterances that are asked about, NaN for the others."""
    asked = order[: round(share * len(order))]
    given = np.full_like(scores, np.nan)
    given[asked] = scores[asked]
    return given


def answer(train, test):
    """Return what each way predicts for the test rows."""
    rows = train[labelled[train]]
    logistic = LogisticRegression(class_weight="balanced", max_iter=1000)
    strengths = {"C": [0.01, 0.1, 1, 10, 100]}
    alone = GridSearchCV(logistic, strengths, scoring="f1_macro", cv=GroupKFold(4))
    alone.fit(X[rows], truth[rows], groups=chats.groups[rows])
    cascade = LLMCascadeClassifier(
        classifier, LLMScoreCalibrator("auto"), llm_share=0.2, cv=3, verbose=1
    )
    scores = chats.llm_scores[train], chats.llm_scores[test]
    cascade.fit(X[train], chats.y[train], groups=chats.groups[train], llm_scores=scores[0])
    llm = cascade.calibrator_.transform(scores[1])
    llm = np.nan_to_num(llm, nan=1 / 3)  # not asked: no opinion
    order = np.argsort(-cascade.expected_gain(X[test]), kind="stable")
    found = {"your labels alone": alone.predict(X[test])}
    found["the LLM alone"] = np.array(chats.classes)[llm.argmax(axis=1)]
    raw = np.nanmean(scores[1], axis=1)
    found["the LLM alone, uncalibrated"] = np.array(chats.classes)[raw.argmax(axis=1)]
    for share in SHARES:
        found[share] = cascade.predict(X[test], ask_first(share, order, scores[1]))
    return found


rest = np.flatnonzero(~labelled)
halves = GroupKFold(2, shuffle=True, random_state=0).split(rest, groups=chats.groups[rest])
folds = [(np.union1d(np.flatnonzero(labelled), rest[train]), rest[test]) for train, test in halves]
answers = {}
for k, (train, test) in enumerate(folds):
    print(f"half {k + 1} of {len(folds)}", flush=True)
    for way, predicted in answer(train, test).items():
        answers.setdefault(way, np.empty(len(truth), dtype=object))[test] = predicted

# %%
# Intervals are those of whole chats, since the utterances of a chat resemble each other. The LLM
# takes three calls for an utterance, one for each prompt.
NAMES = {
    "your labels alone": ("your labels alone", 0),
    0: ("the classifier", 0),
    0.2: ("the classifier, asking about 20%", 0.2),
    "the LLM alone": ("the LLM alone", 1),
    "the LLM alone, uncalibrated": ("the LLM alone, uncalibrated", 1),
}


def judge(way):
    """Return macro-F1 and accuracy on the chats without labels, with 95% intervals."""
    found = answers[way][rest], truth[rest], chats.groups[rest]
    table = performance_report(*found, n_bootstrap=300, random_state=0).table
    rows = [list(table.metric).index(name) for name in ("macro-F1", "accuracy")]
    return [f"{table.value[i]:.3f} ({table.low[i]:.2f} to {table.high[i]:.2f})" for i in rows]


columns = ["macro-F1", "accuracy"]
table = pd.DataFrame([judge(way) for way in NAMES], columns=columns)
table["calls to the LLM"] = [f"{300 * share:.0f}" for _, share in NAMES.values()]
table.index = pd.Index([name for name, _ in NAMES.values()], name="on 100 utterances of new chats")
print(table.to_string())

# %%
# The curve between
# -----------------
figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
f1 = {way: f1_score(truth[rest], a[rest], average="macro") for way, a in answers.items()}
curve = [f1[share] for share in SHARES]
percent = [100 * share for share in SHARES]
axis.plot(percent, curve, color="#0072B2", linewidth=3, label="the classifier, asking the LLM")
axis.plot(20, f1[0.2], "o", color="#0072B2", markersize=10)
axis.annotate(
    f"{f1[0.2]:.3f} for a fifth of the calls",
    (20, f1[0.2]),
    xytext=(12, -22),
    textcoords="offset points",
    color="#0072B2",
    weight="bold",
)
points = {
    "the LLM alone": (100, "#009E73", "s"),
    "the LLM alone, uncalibrated": (100, "#CC79A7", "^"),
    "your labels alone": (0, "0.4", "D"),
}
for way, (place, colour, marker) in points.items():
    axis.plot(place, f1[way], marker, color=colour, markersize=9, label=way)
axis.plot(0, f1[0], "o", color="#D55E00", markersize=9, label="the classifier, alone")
axis.set_xlabel("utterances that the LLM is asked about (%)")
axis.set_ylabel("macro-F1 on new chats")
axis.set_title("What it takes to know the mood of each utterance")
axis.spines[["top", "right"]].set_visible(False)
axis.grid(color="0.92")
figure.legend(loc="outside lower center", ncols=2, frameon=False)
figure.savefig("main_job.png", dpi=150)
print("\nwrote main_job.png")

# %%
# Sentences of yours
# ------------------
#
# Only these need the encoder. Give others as arguments of the script, or type them.
said = sys.argv[1:] if __name__ == "__main__" and "sphinx" not in sys.modules else []
said = said or ["It broke again.", "Which size do you need?", "You saved my day!"]
classifier.fit(X, chats.y, groups=chats.groups, llm_scores=chats.llm_scores)
encoder = SentenceEncoder().fit(said)


def show(texts):
    """Print the class of each text, and how sure the classifier is."""
    turns = {"session_id": range(len(texts)), "turn": 0, "speaker": "customer", "text": texts}
    who_and_where = extra.transform(pd.DataFrame(turns))
    # A sentence on its own is no turn of a chat: the mean of position and length says nothing.
    who_and_where[:, -2:] = 0
    new = np.hstack([encoder.transform(texts), who_and_where])
    for text, prob in zip(texts, classifier.predict_proba(new), strict=True):
        print(f"{chats.classes[prob.argmax()]:8} {prob.max():4.0%}  {text}")


show(said)
while sys.stdin.isatty() and (typed := input("A sentence of yours (Enter to end): ")):
    show([typed])
