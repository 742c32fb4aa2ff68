"""
Which pairs are valid
=====================

Two utterances form a valid pair if they belong to the same session and their scores differ. The
first figure shows the pairs of three support chats: each dot is a pair, the row is the winner, the
column is the loser, and the colour is the margin. Pairs stay within the blocks of the sessions.
`min_margin` leaves out pairs of which the LLM is unsure, "adjacent" keeps one pair per utterance,
and a maximum number of pairs prevents long sessions from outweighing short ones.

The second figure shows whether pairs with large margins agree with the human labels more often than
pairs with small margins. If the line rises, `min_margin` and the adaptive margin can help.
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
# All chats, all classes: how often do the human labels confirm the winner? Pairs whose utterances
# have the same human label for the class give no information and are left out.
pairs = IntraSessionPairSampler().sample(soft, chats.groups)
one_hot = chats.frame["label"].to_numpy(dtype=object)[:, None] == np.array(chats.classes)
human = one_hot[pairs.winner, pairs.class_index].astype(int)
human -= one_hot[pairs.loser, pairs.class_index]
margin, confirmed = pairs.margin[human != 0], human[human != 0] > 0
edges = np.quantile(margin, np.linspace(0, 1, 9))
bin_of = np.clip(np.searchsorted(edges, margin, side="right") - 1, 0, 7)
correct = np.array([np.mean(confirmed[bin_of == i]) for i in range(8)])
middle = np.array([np.median(margin[bin_of == i]) for i in range(8)])
print(f"{len(margin)} pairs, {np.mean(confirmed):.3f} of them in the correct order")
for low, share in zip(edges, correct, strict=False):
    print(f"margin from {low:.3f}: {share:.3f} correct")
print(f"largest minus smallest margins: {correct[-1] - correct[0]:+.3f}")

# sphinx_gallery_thumbnail_number = 2
figure, axis = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
axis.plot(middle, correct, marker="o")
axis.axhline(0.5, color="black", linestyle=":", linewidth=1)
axis.annotate("chance", (middle[-1], 0.5), ha="right", va="bottom")
axis.set(xlabel="margin of the LLM's soft labels", ylabel="share of pairs in the correct order")
axis.set_title("People confirm the pairs of which the LLM is sure")
plt.show()
