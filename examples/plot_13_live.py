"""
Live predictions
================

During a call, each utterance must be classified before the next one starts. The LLM is no longer
needed: a small encoder and a small network run on the CPU. How long does an utterance take, and
which step takes the time? The encoder takes nearly all of it, and longer texts with context take
longer. The classifier itself takes about half a millisecond.

The quality of the predictions is a separate question. The classifier learned from the scores of a
small LLM and from 16 labelled sessions; compare its accuracy with the share of the largest class.

The last figure shows the predictions in the course of one chat, with the human label of each
utterance.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.pipeline import make_pipeline

from skpref import DialogueContext, PairwisePreferenceClassifier, SentenceEncoder
from skpref.datasets import load_support_chats

chats = load_support_chats()
frame, groups = chats.frame, chats.groups
train, live = groups < "chat-040", (groups >= "chat-140") & (groups < "chat-150")
pipe = make_pipeline(
    DialogueContext(n_turns=1, speaker="speaker"),
    SentenceEncoder(),
    PairwisePreferenceClassifier(classes=chats.classes, random_state=0),
)
step = "pairwisepreferenceclassifier"
pipe.fit(
    frame[train],
    chats.y[train],
    **{f"{step}__groups": groups[train], f"{step}__llm_scores": chats.llm_scores[train]},
)
truth = frame["label"].to_numpy(dtype=object)
print(f"accuracy in the live chats: {np.mean(pipe.predict(frame[live]) == truth[live]):.3f}")
largest = max(np.mean(truth[live] == name) for name in chats.classes)
print(f"share of the largest class: {largest:.3f}")

# %%
# Utterance by utterance. The context step needs the previous one, the others only the newest text.
context, encoder, clf = (part for _, part in pipe.steps)
stages = {"context": [], "encoder": [], "classifier": []}
characters, curve = [], {}
for session, turns in frame[live].groupby("session_id", sort=False):
    rows = []
    for n in range(1, len(turns) + 1):
        clock = [time.perf_counter()]
        newest = context.transform(turns[max(n - 2, 0) : n])[-1:]
        clock.append(time.perf_counter())
        x = encoder.transform(newest)
        clock.append(time.perf_counter())
        rows.append(clf.predict_proba(x)[0])
        clock.append(time.perf_counter())
        for name, seconds in zip(stages, np.diff(clock), strict=True):
            stages[name].append(1000 * seconds)
        characters.append(len(newest[0]))
    curve[session] = np.array(rows)
total = np.sum(list(stages.values()), axis=0)
print(f"{len(total)} utterances, milliseconds:")
for name, values in [*stages.items(), ("total", total)]:
    p50, p99 = np.percentile(values, [50, 99])
    print(f"{name:11s} median {p50:6.2f}, 99th percentile {p99:6.2f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
left.hist(total, bins=np.linspace(0, np.percentile(total, 99), 40))
left.axvline(np.median(total), color="black", linestyle=":", linewidth=1)
left.set(xlabel="milliseconds per utterance (99% of them)", ylabel="utterances")
right.scatter(characters, total, s=10, alpha=0.5, label="all steps")
right.scatter(characters, stages["classifier"], s=10, alpha=0.5, label="classifier alone")
right.set(xlabel="characters, with context", ylabel="milliseconds", yscale="log")
right.legend()
plt.show()

# %%
# One chat; the dots at the top are the human labels.
session = max(curve, key=lambda name: len(set(truth[groups == name])) + len(curve[name]) / 100)
turns, probabilities = frame[groups == session], curve[session]
figure, axis = plt.subplots(figsize=(10, 4.2), layout="constrained")
colours = ["tab:red", "0.6", "tab:green"]
axis.stackplot(
    turns["turn"], probabilities.T, colors=colours, alpha=0.6, labels=chats.classes, step="mid"
)
dots = [colours[chats.classes.index(label)] for label in turns["label"]]
axis.scatter(turns["turn"], np.full(len(turns), 1.06), c=dots, s=45, clip_on=False)
axis.set(ylim=(0, 1.12), yticks=[0, 0.5, 1], xlabel="turn", ylabel="probability", title=session)
figure.legend(loc="outside lower center", ncols=3)
for speaker, text, label, row in zip(
    turns["speaker"], turns["text"], turns["label"], probabilities, strict=True
):
    print(f"{chats.classes[row.argmax()]:8s} ({label:8s}) {speaker}: {text:.70s}")
plt.show()
