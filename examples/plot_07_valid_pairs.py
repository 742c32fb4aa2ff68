"""
Which pairs are valid
=====================

Two turns make a pair if they are of one session and their scores differ. The pictures show all
pairs of turns of three support chats: a dot is a pair, the row wins and the column loses, and its
colour is the margin. Pairs stay within the blocks of the sessions. `min_margin` leaves out pairs
that the LLM is not sure of; "adjacent" keeps one pair per turn; a cap keeps long sessions from
drowning short ones.

The second picture asks whether large margins are right more often than small ones, by the labels
of people. If the line rises, `min_margin` and the adaptive margin have something to work with.
"""

import matplotlib.pyplot as plt
import numpy as np

from skpref import IntraSessionPairSampler, LLMScoreCalibrator
from skpref.datasets import load_support_chats

chats = load_support_chats()
soft = LLMScoreCalibrator(classes=chats.classes).fit_transform(
    chats.llm_scores, chats.y, groups=chats.groups
)
negative = soft[:, 0]
three = np.isin(chats.groups, ["chat-021", "chat-025", "chat-030"])
groups = chats.groups[three]
gap = np.quantile(np.abs(np.subtract.outer(negative[three], negative[three])), 0.6).round(3)

samplers = {
    "all": IntraSessionPairSampler(),
    f"min_margin={gap}": IntraSessionPairSampler(min_margin=gap),
    "adjacent": IntraSessionPairSampler("adjacent"),
    "at most 60 per session": IntraSessionPairSampler(max_pairs_per_session=60, random_state=0),
}
figure, axes = plt.subplots(1, 4, figsize=(13, 3.7), sharey=True, layout="constrained")
ends = np.flatnonzero(groups[1:] != groups[:-1]) + 0.5
for axis, (name, sampler) in zip(axes, samplers.items(), strict=True):
    pairs = sampler.sample(negative[three], groups)
    print(f"{name:24s} {len(pairs)} pairs")
    points = axis.scatter(pairs.loser, pairs.winner, c=pairs.margin, s=9, cmap="viridis", vmin=0)
    for end in ends:
        axis.axhline(end, color="0.8", linewidth=1, zorder=0)
        axis.axvline(end, color="0.8", linewidth=1, zorder=0)
    axis.set(title=name, xlabel="loser", aspect="equal")
axes[0].set_ylabel("winner")
figure.colorbar(points, ax=axes, label="margin", shrink=0.85)
plt.show()

# %%
# All chats, all classes: how often does the winner's human label say that it should win? Pairs
# whose turns have the same label for the class tell nothing and are left out.
pairs = IntraSessionPairSampler().sample(soft, chats.groups)
one_hot = chats.frame["label"].to_numpy(dtype=object)[:, None] == np.array(chats.classes)
human = one_hot[pairs.winner, pairs.class_index].astype(int)
human -= one_hot[pairs.loser, pairs.class_index]
told = human != 0
edges = np.quantile(pairs.margin[told], np.linspace(0, 1, 9))
bin_of = np.clip(np.searchsorted(edges, pairs.margin[told], side="right") - 1, 0, 7)
right = np.array([np.mean(human[told][bin_of == i] > 0) for i in range(8)])
middle = np.array([np.median(pairs.margin[told][bin_of == i]) for i in range(8)])
print(f"{told.sum()} pairs, {np.mean(human[told] > 0):.3f} of them in the right order")
for low, share in zip(edges, right, strict=False):
    print(f"margin from {low:.3f}: {share:.3f} right")
print(f"largest margins less smallest ones: {right[-1] - right[0]:+.3f}")

figure, axis = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
axis.plot(middle, right, marker="o")
axis.axhline(0.5, color="black", linestyle=":", linewidth=1)
axis.annotate("chance", (middle[-1], 0.5), ha="right", va="bottom")
axis.set(xlabel="margin of the LLM's soft labels", ylabel="share of pairs in the right order")
plt.show()
