"""
Long dialogues
==============

The first figure shows the time of one pass over 20,000 utterances, divided into sessions of 20 to
20,000. The number of pairs grows a thousandfold but the time does not, because the pairs are never
listed.

The second figure shows a possible problem. In a long call the bias of the LLM drifts, so that
distant utterances are as hard to compare as utterances of different sessions. As a remedy, pass the
ids of parts of a dialogue as `groups`. How long should the parts be? Here the drift is a random
walk, with many features and few dialogues. Whole dialogues contain wrong pairs, parts of two
utterances leave few pairs, and lengths in between are best; adding cross-entropy to the pairs
changes little. There are only two training dialogues: over many, errors of a drift average out, and
the length matters less.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import expit

from skpref import LLMScoreCalibrator, PairwisePreferenceClassifier
from skpref.datasets import make_dialogues
from skpref.metrics import within_session_concordance

lengths = [20, 100, 500, 2000, 20_000]
data = make_dialogues(n_sessions=1, session_length=20_000, random_state=0)
settings = {"calibrator": LLMScoreCalibrator("batch"), "smoother": "passthrough", "random_state": 0}
PairwisePreferenceClassifier("mlp", max_epochs=1, **settings).fit(
    data.X, None, groups=np.arange(20_000) // 20, llm_scores=data.llm_scores
)  # warm-up
seconds, n_pairs = [], []
for length in lengths:
    groups = np.arange(20_000) // length
    epochs = []
    for max_epochs in (1, 11):
        clf = PairwisePreferenceClassifier(
            "mlp", max_epochs=max_epochs, batch_size=2000, **settings
        )
        start = time.perf_counter()
        clf.fit(data.X, None, groups=groups, llm_scores=data.llm_scores)
        epochs.append(time.perf_counter() - start)
    seconds.append((epochs[1] - epochs[0]) / 10)
    n_pairs.append(20_000 * (length - 1) / 2)
    print(f"sessions of {length:6d}: {n_pairs[-1]:13,.0f} pairs, {seconds[-1]:.3f} s per epoch")

figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
axis.plot(lengths, seconds, marker="o", label="seconds per epoch")
axis.plot(
    lengths,
    np.array(n_pairs) * seconds[0] / n_pairs[0],
    color="0.6",
    linestyle="--",
    label="if time grew like the pairs",
)
axis.set(xscale="log", yscale="log", xlabel="utterances per session", ylabel="seconds")
axis.set_title("All pairs of 20,000 utterances, in sessions of any length")
axis.legend()
plt.show()

# %%
# Five dialogues of 600 utterances in which the LLM's bias drifts; two for training, without labels.
parts = [600, 200, 60, 20, 6, 2]
order = np.zeros((2, len(parts), 4))
for seed in range(4):
    long = make_dialogues(
        n_sessions=5,
        session_length=600,
        n_features=100,
        class_sep=1.5,
        noise=2.0,
        session_bias=0,
        random_state=seed,
    )
    steps = np.random.default_rng(seed).normal(scale=0.5, size=(5, 600))
    log_odds = np.log(long.llm_scores[..., 1] / long.llm_scores[..., 0])
    llm_scores = expit(log_odds + np.cumsum(steps, axis=1).reshape(-1, 1))
    dialogue, turn = np.repeat(np.arange(5), 600), np.tile(np.arange(600), 5)
    train, test = dialogue < 2, dialogue >= 2
    for i, length in enumerate(parts):
        part = dialogue * 1000 + turn // length
        for j, pointwise_weight in enumerate([0.0, 1.0]):
            clf = PairwisePreferenceClassifier(pointwise_weight=pointwise_weight, **settings)
            clf.fit(long.X[train], None, groups=part[train], llm_scores=llm_scores[train])
            score = clf.decision_function(long.X[test])
            order[j, i, seed] = within_session_concordance(
                long.y_true[test], score, groups=dialogue[test]
            )
for i, length in enumerate(parts):
    cells = [f"{order[j, i].mean():.3f} ± {order[j, i].std():.3f}" for j in range(2)]
    print(f"parts of {length:3d}: pairs alone {cells[0]}, with cross-entropy {cells[1]}")

# %%
# The order is scored against the true classes, over whole dialogues not used for training.
figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
for j, label in enumerate(["pairs alone", "with cross-entropy"]):
    axis.errorbar(
        parts, order[j].mean(axis=1), yerr=order[j].std(axis=1), marker="o", capsize=3, label=label
    )
axis.set(xscale="log", xlabel="utterances per part", ylabel="concordance in whole dialogues")
axis.set_title("Where the LLM's bias drifts, compare within parts of a dialogue")
axis.set_xticks(parts, parts)
axis.minorticks_off()
axis.legend(title="trained on")
plt.show()
