"""
Adaptive margin
===============

By how much must the scores of the network differ in a pair? With ``margin="adaptive"``, by
`margin_scale` times the difference of the soft labels: a lot if the LLM is sure, little if it is
not. With ``margin="fixed"``, every pair must differ by `margin_scale`, even if the soft labels
hardly differ. The data are synthetic, with few features, a bias of each session, and much noise in
the scores. The network learns from pairs alone, so that the runs differ only in the margin.

With the best scale for each, the two margins give similar results here. The adaptive margin loses
less if the scale is too large, the fixed margin if it is too small. The scale is therefore worth
searching in both cases.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from skpref import PairwisePreferenceClassifier
from skpref.datasets import make_dialogues
from skpref.metrics import within_session_concordance

SCALES = [0.5, 1.0, 2.0, 5.0, 10.0]
order = {margin: np.zeros((len(SCALES), 3)) for margin in ("adaptive", "fixed")}
for seed in range(3):
    data = make_dialogues(
        n_sessions=60, class_sep=2.0, session_bias=2.0, noise=3.0, random_state=seed
    )
    train, test = next(GroupShuffleSplit(random_state=0).split(data.X, groups=data.groups))
    for margin in order:
        for i, scale in enumerate(SCALES):
            clf = PairwisePreferenceClassifier(
                margin=margin,
                margin_scale=scale,
                pointwise_weight=0.0,
                smoother="passthrough",
                random_state=0,
            )
            clf.fit(
                data.X[train],
                data.y[train],
                groups=data.groups[train],
                llm_scores=data.llm_scores[train],
            )
            order[margin][i, seed] = within_session_concordance(
                data.y_true[test], clf.decision_function(data.X[test]), groups=data.groups[test]
            )

# %%
# Concordance within test sessions, mean and standard deviation over three data sets.
for margin, values in order.items():
    for scale, row in zip(SCALES, values, strict=True):
        print(f"{margin:9s} scale {scale:4.1f}: {row.mean():.3f} ± {row.std():.3f}")
paired = order["adaptive"] - order["fixed"]
for scale, row in zip(SCALES, paired, strict=True):
    print(f"adaptive minus fixed at {scale:4.1f}: {row.mean():+.4f} ± {row.std():.4f}")

# %%
# The loss of a pair as a function of the difference of the network's scores.
# sphinx_gallery_thumbnail_number = 2
figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
apart = np.linspace(-1.5, 3, 200)
for gap, colour in [(0.1, "tab:blue"), (0.5, "tab:orange"), (0.9, "tab:red")]:
    cost = np.maximum(2.0 * gap - apart, 0) ** 2
    axis.plot(apart, cost, color=colour, label=f"adaptive, LLM's gap {gap}")
axis.plot(apart, np.maximum(2.0 - apart, 0) ** 2, color="black", linestyle="--", label="fixed")
axis.set(xlabel="winner's score minus loser's", ylabel="squared hinge, margin_scale=2", ylim=(0, 6))
axis.set_title("The closer the LLM's scores, the less is asked of the network's")
axis.legend(title="margin")
plt.show()

# %%
# What the order gains by it.
figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
for margin, values in order.items():
    axis.errorbar(
        SCALES, values.mean(axis=1), yerr=values.std(axis=1), marker="o", capsize=3, label=margin
    )
axis.set(xscale="log", xlabel="margin_scale", ylabel="concordance within test sessions")
axis.set_title("Adaptive and fixed margins of several sizes")
axis.set_xticks(SCALES, SCALES)
axis.minorticks_off()
axis.legend(title="margin")
plt.show()
