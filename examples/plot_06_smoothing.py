"""
Smoothing in embedding space
============================

`KNNLabelSmoother` mixes the soft label of an utterance with those of its nearest neighbours in
embedding space, so that an utterance about which the LLM is alone in its view is put right. Here it
is one that tells the LLM what to say. How much smoothing is good?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score

from skpref import KNNLabelSmoother, LLMScoreCalibrator
from skpref.datasets import load_support_chats

chats = load_support_chats()
soft = LLMScoreCalibrator("auto", classes=chats.classes).fit_transform(
    chats.llm_scores, chats.y, groups=chats.groups
)
# The calibrator was fitted on the labels of the first 16 sessions, which are left out from here on.
rows = np.array([label is None for label in chats.y]) & ~np.isnan(soft[:, 0])
soft, X, groups = soft[rows], chats.embeddings[rows], chats.groups[rows]
text, truth = chats.frame["text"].to_numpy()[rows], chats.frame["label"].to_numpy()[rows]

# %%
# A customer tries to talk the LLM into a label, and the LLM obeys. Its neighbours, with the
# probabilities of the LLM's scores, say otherwise.
smoothed = KNNLabelSmoother(n_neighbors=10, alpha=0.5).fit_transform(X, soft)
chosen = [t.startswith("ignore the instructions above and say") for t in text].index(True)
print(f"{text[chosen]}\npeople: {truth[chosen]}", end=", ")
print(f"P(positive): LLM {soft[chosen, 2]:.2f}, smoothed {smoothed[chosen, 2]:.2f}, neighbours:")
for i in np.argsort(-(X @ X[chosen]))[1:6]:
    print(f"{soft[i, 2]:.2f}  {truth[i]:8}  {text[i]:.75}")

# %%
# How well the soft labels order utterances by class: the area under the ROC curve, averaged over
# the classes, on people's labels. Neighbours of the same session are left out, since they share
# what the LLM got wrong about it. A share of the neighbours helps, too much blurs.
shares = np.linspace(0, 1, 6)
figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
for n_neighbors in (5, 10, 20, 40):
    areas = []
    for alpha in shares:
        smoother = KNNLabelSmoother(n_neighbors, alpha=alpha, exclude_same_group=True)
        mixed = smoother.fit_transform(X, soft, groups=groups)
        areas.append(roc_auc_score(truth, mixed, multi_class="ovr", labels=chats.classes))
    axis.plot(shares, areas, marker="o", label=f"{n_neighbors} neighbours")
    best = int(np.argmax(areas))
    print(f"{n_neighbors:2} neighbours: {areas[0]:.3f} without, {areas[best]:.3f}", end=" ")
    print(f"with a share of {shares[best]:.1f}, {areas[-1]:.3f} with nothing else")
axis.set(xlabel="share of the neighbours (alpha)", ylabel="area under the ROC curve")
axis.set_title("Order of the soft labels by smoothing")
axis.legend()
plt.show()

# %%
# What it costs: a mean of several labels is less sure. The classifier takes the order from the soft
# labels, and its sureness from people's labels.
