"""
Live predictions
================

During a chat, each utterance is classified before the next one arrives. The LLM is no longer
needed: a small encoder and a small network run on the CPU. What does that look like in one chat,
and how long does an utterance take?
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import f1_score

from skpref import (
    DialogueFeatures,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    SentenceEncoder,
)
from skpref.datasets import load_support_chats

# %%
# Train on all chats but ten, whose utterances come one by one below. The embeddings of the training
# utterances are those that come with the data.
chats = load_support_chats()
frame, groups = chats.frame, chats.groups
live = (groups >= "chat-140") & (groups < "chat-150")
speaker = DialogueFeatures().fit(frame[~live])
X = np.hstack([chats.embeddings[~live], speaker.transform(frame[~live])])
clf = PairwisePreferenceClassifier(
    calibrator=LLMScoreCalibrator("auto"), classes=chats.classes, random_state=0
)
clf.fit(X, chats.y[~live], groups=groups[~live], llm_scores=chats.llm_scores[~live])
encoder = SentenceEncoder(device="cpu").fit(["warm up"])

# %%
# Utterance by utterance: the encoder reads the newest text, the other features count the turns.
stages = {"encoder": [], "other features": [], "classifier": []}
curve = {}
for session, turns in frame[live].groupby("session_id", sort=False):
    rows = []
    for n in range(1, len(turns) + 1):
        so_far = turns[:n]
        clock = [time.perf_counter()]
        embedding = encoder.transform(so_far["text"].tail(1))
        clock.append(time.perf_counter())
        others = speaker.transform(so_far)[-1:]
        clock.append(time.perf_counter())
        rows.append(clf.predict_proba(np.hstack([embedding, others]))[0])
        clock.append(time.perf_counter())
        for name, seconds in zip(stages, np.diff(clock), strict=True):
            stages[name].append(1000 * seconds)
    curve[session] = np.array(rows)

# %%
# One chat: the one of the ten whose labels differ most. The dots at the top are people's labels.
truth = frame["label"].to_numpy(dtype=object)
shares = (
    frame[live].groupby("session_id")["label"].value_counts(normalize=True).unstack(fill_value=0)
)
session = (shares**2).sum(axis=1).idxmin()
turns, probabilities = frame[groups == session], curve[session]
colours = dict(zip(chats.classes, ["#D55E00", "0.6", "#0072B2"], strict=True))
figure, axis = plt.subplots(figsize=(8.5, 4.2), layout="constrained")
edges = np.append(turns["turn"], turns["turn"].max() + 1) - 0.5
steps = np.vstack([probabilities, probabilities[-1:]]).cumsum(axis=1)
for k, name in enumerate(chats.classes):
    below = steps[:, k - 1] if k else 0
    axis.fill_between(
        edges, below, steps[:, k], step="post", color=colours[name], alpha=0.75, lw=0, label=name
    )
dots = [colours[label] for label in turns["label"]]
axis.scatter(turns["turn"], np.full(len(turns), 1.06), c=dots, s=45, clip_on=False)
axis.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.12), yticks=[0, 0.5, 1])
axis.set(xlabel="utterance", ylabel="probability", title=f"{session}; dots: what people said")
axis.grid(visible=False)
figure.legend(loc="outside lower center", ncols=3)
for speaks, text, label, row in zip(
    turns["speaker"], turns["text"], turns["label"], probabilities, strict=True
):
    print(f"{chats.classes[row.argmax()]:8s} ({label:8s}) {speaks}: {text:.70s}")
plt.show()

# %%
# All ten chats, beside always saying the most frequent class.
found = np.array(chats.classes)[np.vstack(list(curve.values())).argmax(axis=1)]
most = np.full(len(found), "neutral")
for name, predicted in [("classifier", found), ("always neutral", most)]:
    macro = f1_score(truth[live], predicted, average="macro")
    print(f"{name:14} accuracy {np.mean(predicted == truth[live]):.3f}, macro-F1 {macro:.3f}")

# %%
# How long it takes, in milliseconds. The encoder takes nearly all of it.
total = np.sum(list(stages.values()), axis=0)
for name, values in [*stages.items(), ("total", total)]:
    p50, p99 = np.percentile(values, [50, 99])
    print(f"{name:14s} median {p50:6.2f}, 99th percentile {p99:6.2f}")
figure, axis = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
axis.hist(total, bins=np.linspace(0, np.percentile(total, 99), 40))
axis.axvline(np.median(total), color="black", linestyle=":", linewidth=1.5, label="median")
axis.set(xlabel="milliseconds, from the text to the probabilities", ylabel="utterances")
axis.set_title("Time for an utterance")
axis.legend()
plt.show()
