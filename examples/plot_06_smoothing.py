"""
Smoothing in embedding space
============================

`KNNLabelSmoother` mixes the soft label of an utterance with those of its nearest neighbours in
embedding space. Each point below is an utterance of a customer, placed by t-SNE so that similar
utterances are near each other. From left to right: the calibrated scores of the LLM, the same after
smoothing, and the human labels. Smoothing forms regions from individual scores. Whether the regions
are correct depends on the LLM: smoothing removes errors that differ between utterances, but not
errors that all neighbours share. The table shows which kind dominates.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.manifold import TSNE
from sklearn.metrics import log_loss, roc_auc_score

from skpref import KNNLabelSmoother, LLMScoreCalibrator, SentenceEncoder
from skpref.datasets import load_support_chats

chats = load_support_chats()
soft = LLMScoreCalibrator(classes=chats.classes).fit_transform(
    chats.llm_scores, chats.y, groups=chats.groups
)
# The calibrator was fitted on the labels of the first 16 sessions, which are left out from here on.
unlabelled = np.array([label is None for label in chats.y])
is_customer = (chats.frame["speaker"] == "customer").to_numpy()
rows = unlabelled & is_customer & (chats.groups < "chat-070")
soft, groups = soft[rows], chats.groups[rows]
truth = chats.frame["label"].to_numpy(dtype=object)[rows]
X = SentenceEncoder().fit_transform(chats.frame["text"][rows])
print(f"{len(X)} utterances of customers")

# %%
# More neighbours, and a larger share of them, smooth more. AUC measures how well the probability of
# a class orders the utterances, averaged over the classes; 0.5 is chance.
settings = [(5, 0.25), (10, 0.25), (10, 0.75), (40, 0.75), (200, 1.0)]
results = {"no smoothing": soft}
for n_neighbors, alpha in settings:
    smoother = KNNLabelSmoother(n_neighbors, alpha=alpha, exclude_same_group=True)
    results[f"k={n_neighbors}, alpha={alpha}"] = smoother.fit_transform(X, soft, groups=groups)
auc = {}
for name, label in results.items():
    auc[name] = roc_auc_score(truth, label, multi_class="ovr", labels=chats.classes)
    loss = log_loss(truth, label, labels=chats.classes)
    print(f"{name:20s} AUC {auc[name]:.3f}, log loss {loss:.3f}")
best = max(auc, key=auc.get)
print(f"best by AUC: {best}, {auc[best] - auc['no smoothing']:+.3f} against no smoothing")

# %%
# Before and after. The colour is the probability of "negative" minus that of "positive". The first
# two plots have separate colour scales, since smoothing makes the soft labels more similar.
position = TSNE(perplexity=30, random_state=0).fit_transform(X)
truth_code = np.select([truth == "negative", truth == "positive"], [1.0, -1.0], 0.0)
figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
shown = "k=10, alpha=0.75"
for axis, title, label in zip(
    axes,
    ["LLM, calibrated", f"smoothed: {shown}", "human labels"],
    [soft, results[shown], None],
    strict=True,
):
    value = truth_code if label is None else label[:, 0] - label[:, 2]
    ranks = value if label is None else 2 * value.argsort().argsort() / len(value) - 1
    points = axis.scatter(*position.T, c=ranks, cmap="coolwarm", s=14, vmin=-1, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
bar = figure.colorbar(points, ax=axes, ticks=[-1, 1], shrink=0.8)
bar.ax.set_yticklabels(["positive", "negative"])
plt.show()
