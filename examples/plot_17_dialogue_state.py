"""
Follow the state of a dialogue
==============================

What has the guest settled by now? Each slot of a booking is a label of its own: it applies from the
line on in which the guest fills it. A function with a short memory stands for the LLM, which reads
whole dialogues; a few labelled dialogues teach the classifier what the LLM forgets.
"""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

from skpref import DialogueContext, LLMLabeler, PairwisePreferenceClassifier, PromptBank

# %%
# Dialogues
# ---------
#
# The guest fills the slots in any order, sometimes two in a line.
SAID = {
    "city": ("It should be in {}.", ["Rome", "Bari", "Pisa", "Turin"]),
    "cuisine": ("We feel like {} food.", ["Thai", "Greek", "Indian", "Ligurian"]),
    "people": ("There will be {} of us.", ["two", "four", "five", "seven"]),
    "time": ("Come to think of it, at {}.", ["noon", "six", "eight", "half past nine"]),
}
SLOTS = list(SAID)
ASKED = ["Noted. What else?", "Let me look that up.", "Very well. Anything else?"]
IDLE = ["Let me think.", "Sounds lovely.", "One moment, please.", "Is there parking?"]
rng = np.random.default_rng(0)


def make_dialogue(session):
    """Return the lines of a dialogue, with the state after each."""
    lines, state = [], dict.fromkeys(SLOTS, 0)
    left = rng.permutation(SLOTS).tolist()
    while len(lines) < 12:
        named = [left.pop() for _ in range(rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15])) if left]
        words = [SAID[slot][0].format(rng.choice(SAID[slot][1])) for slot in named]
        state |= dict.fromkeys(named, 1)
        for speaker, text in (
            ("guest", " ".join(words) or rng.choice(IDLE)),
            ("host", rng.choice(ASKED)),
        ):
            row = {"session_id": session, "turn": len(lines), "speaker": speaker, "text": text}
            lines.append(row | state)
    return lines


frame = pd.DataFrame([line for session in range(150) for line in make_dialogue(session)])
truth = frame[SLOTS].to_numpy()

# %%
# An LLM with a short memory
# --------------------------
#
# One call lists a dialogue. The answer names, for each line, the labels that apply. This LLM looks
# at the last five lines only, and overlooks a fifth of what it sees there.
CLUES = {"city": "in ", "cuisine": "food", "people": " of us", "time": ", at "}


def client(messages, **_settings):
    """Answer as a forgetful LLM would."""
    lines = re.findall(r"^\d+\. (.*)$", messages[-1]["content"], re.M)
    draws = np.random.default_rng(len(messages[-1]["content"]))
    answer = []
    for number in range(1, len(lines) + 1):
        seen = " ".join(lines[max(number - 5, 0) : number])
        labels = [slot for slot in SLOTS if CLUES[slot] in seen and draws.uniform() < 0.8]
        answer.append({"line": number, "labels": labels})
    return json.dumps({"lines": answer})


labeler = LLMLabeler(
    SLOTS,
    PromptBank("session", task="what the guest has settled by then"),
    model="forgetful",
    client=client,
    unit="session",
    n_utterances_per_call=12,
    multilabel=True,
    scoring="label",
    speaker="speaker",
)
llm_scores = labeler.fit_transform(frame)
print(f"{labeler.usage_['requests']} calls for {len(frame):,} lines, scores {llm_scores.shape}")

# %%
# A classifier that does not forget
# ---------------------------------
#
# Its features are the words of the dialogue so far. Ten dialogues are labelled; 90 others have the
# scores of the LLM alone.
features = make_pipeline(DialogueContext(n_turns=12), TfidfVectorizer(use_idf=False))
X = features.fit_transform(frame)
session = frame["session_id"].to_numpy()
train, test = session < 100, session >= 100
y = np.where((session < 10)[:, None], truth, -1)
clf = PairwisePreferenceClassifier(classes=SLOTS, random_state=0)
clf.fit(X[train], y[train], groups=session[train])
without = clf.predict(X[test])
clf.fit(X[train], y[train], groups=session[train], llm_scores=llm_scores[train])

for name, state in [
    ("the LLM", llm_scores[test, 0] > 0.5),
    ("ten labelled dialogues alone", without),
    ("both", clf.predict(X[test])),
]:
    joint = accuracy_score(truth[test], state)
    each = f1_score(truth[test], state, average=None)
    listed = ", ".join(f"{slot} {f1:.2f}" for slot, f1 in zip(SLOTS, each, strict=True))
    print(f"{name}: the whole state is right at {joint:.0%} of the lines; F1 of {listed}")

# %%
# One dialogue
# ------------
#
# Each line with the classifier's probability that a slot is filled by then, and what is true.
shown = np.flatnonzero(session == 101)
prob = clf.predict_proba(X[shown])
figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
image = axis.imshow(prob, cmap="Blues", vmin=0, vmax=1, aspect="auto")
line, slot = np.nonzero(truth[shown])
axis.scatter(slot, line, s=60, facecolor="none", edgecolor="#D55E00", label="filled in truth")
axis.set_xticks(range(len(SLOTS)), SLOTS)
axis.set_yticks(range(len(shown)), frame["speaker"][shown] + ": " + frame["text"][shown])
axis.grid(visible=False)
figure.suptitle("What the guest of one dialogue has settled")
figure.colorbar(image, label="probability that the slot is filled")
figure.legend(loc="outside lower right", frameon=False)
plt.show()
