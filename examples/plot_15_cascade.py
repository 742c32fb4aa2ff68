"""
Ask the LLM only where it pays
==============================

The classifier answers alone what it is sure of. About the other utterances a small LLM is asked as
well, and both are pooled. Here that is shown on a single split of the support chats, so intervals
are wide. For the means over 20 runs and for nine other tasks, see
``benchmarks/results/cascade.md``.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline

from skpref import (
    CascadeCurveDisplay,
    DialogueContext,
    LLMCascadeClassifier,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    SentenceEncoder,
)
from skpref.datasets import load_support_chats

chats = load_support_chats()
truth = chats.frame["label"].to_numpy()
encoder = make_pipeline(DialogueContext(n_turns=0, speaker="speaker"), SentenceEncoder())
X = encoder.fit_transform(chats.frame)

# %%
# 16 of the 161 chats are labelled; a quarter of the other chats is kept for the test.
labelled = np.array([label is not None for label in chats.y])
rest = np.flatnonzero(~np.isin(chats.groups, chats.groups[labelled]))
split = GroupShuffleSplit(test_size=0.25, random_state=0)
_, test = next(split.split(rest, groups=chats.groups[rest]))
test = rest[test]
train = np.setdiff1d(np.arange(len(truth)), test)

# %%
# The cascade may ask about a fifth of the utterances.
cascade = LLMCascadeClassifier(
    PairwisePreferenceClassifier(random_state=0),
    LLMScoreCalibrator("auto"),
    llm_share=0.2,
    decision="macro_f1",
    classes=chats.classes,
)
cascade.fit(
    X[train], chats.y[train], groups=chats.groups[train], llm_scores=chats.llm_scores[train]
)
ask = cascade.defer(X[test])
scores = np.where(ask[:, None, None], chats.llm_scores[test], np.nan)
alone = cascade.predict(X[test])
pooled = cascade.predict(X[test], llm_scores=scores)
print(f"asked about {ask.sum()} of {len(test)} utterances")
print(f"answers that changed: {(alone != pooled).sum()}")
print(f"of these, {(pooled == truth[test])[alone != pooled].sum()} became right", end=", ")
print(f"{(alone == truth[test])[alone != pooled].sum()} wrong")

# %%
# Some of the utterances that the LLM was asked about:
for i in np.flatnonzero(ask & (alone != pooled))[:6]:
    text = chats.frame["text"].iloc[test[i]]
    print(f"{alone[i]:>8} -> {pooled[i]:<8} (people: {truth[test[i]]:<8}) {text:.70}")

# %%
# What other shares would give.
display = CascadeCurveDisplay.from_estimator(
    cascade, X[test], truth[test], chats.groups[test], chats.llm_scores[test], random_state=0
)
display.ax_.set_title("A few questions to the LLM gain most of what it can give")
plt.show()
