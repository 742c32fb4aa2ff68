"""
Smoothing in embedding space
============================

`KNNLabelSmoother` mixes the soft label of a turn with those of its nearest neighbours in embedding
space. Each point below is a turn of a customer, placed by t-SNE so that like turns are near each
other. From the left: what the LLM says after calibration, the same after smoothing, and what
people say. Smoothing makes regions out of single opinions. Whether the regions are right depends
on the LLM: errors that differ from turn to turn go, and errors that all neighbours share stay. The
table says which it was.
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
# The first 16 sessions are labelled and taught the calibrator; they are left out from here on.
unlabelled = np.array([label is None for label in chats.y])
is_customer = (chats.frame["speaker"] == "customer").to_numpy()
rows = unlabelled & is_customer & (chats.groups < "chat-070")
soft, groups = soft[rows], chats.groups[rows]
truth = chats.frame["label"].to_numpy(dtype=object)[rows]
X = SentenceEncoder().fit_transform(chats.frame["text"][rows])
print(f"{len(X)} turns of customers")

# %%
# More neighbours, and a larger share of them, smooth more. AUC is how well the probability of a
# class orders the turns, mean over the classes; 0.5 is chance.
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
# Before and after. The colour is the probability of "negative" less that of "positive", on a scale
# of its own in each of the first two pictures, since smoothing brings labels nearer to each other.
place = TSNE(perplexity=30, random_state=0).fit_transform(X)
truth_code = np.select([truth == "negative", truth == "positive"], [1.0, -1.0], 0.0)
figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
shown = "k=10, alpha=0.75"
for axis, title, label in zip(
    axes,
    ["LLM, calibrated", f"smoothed: {shown}", "people"],
    [soft, results[shown], None],
    strict=True,
):
    value = truth_code if label is None else label[:, 0] - label[:, 2]
    ranks = value if label is None else 2 * value.argsort().argsort() / len(value) - 1
    points = axis.scatter(*place.T, c=ranks, cmap="coolwarm", s=14, vmin=-1, vmax=1)
    axis.set(title=title, xticks=[], yticks=[])
bar = figure.colorbar(points, ax=axes, ticks=[-1, 1], shrink=0.8)
bar.ax.set_yticklabels(["positive", "negative"])
plt.show()
