"""
Calibrating prompts
===================

A small LLM was asked with three prompts about the mood of each utterance of the support chats. Can
its probabilities be trusted, and how many labelled sessions does it take to correct them?
`LLMScoreCalibrator` has methods that use no labels, a few or many, and "auto" chooses among them by
cross-validation. The left plot compares predicted probabilities with observed frequencies. The
right plot shows the log loss on unseen sessions as labelled sessions are added; the dotted line is
a guess that knows only the shares of the classes.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score, log_loss

from skpref import LLMScoreCalibrator
from skpref.datasets import load_support_chats
from skpref.metrics import expected_calibration_error

chats = load_support_chats()
truth = chats.frame["label"].to_numpy(dtype=object)
sessions = np.unique(chats.groups)
test = np.isin(chats.groups, sessions[-60:])
pool = sessions[:-60]  # sessions that may be labelled
print(f"{len(pool)} sessions that may be labelled, {test.sum()} test utterances")


def calibrate(method, n_labelled, seed=0):
    """Predict the test utterances after labelling some sessions of the pool."""
    chosen = np.random.default_rng(seed).choice(pool, n_labelled, replace=False)
    y = np.where(np.isin(chats.groups, chosen), truth, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too few labels
        calibrator = LLMScoreCalibrator(method, classes=chats.classes)
        calibrator.fit(chats.llm_scores[~test], y[~test], groups=chats.groups[~test])
    return np.nan_to_num(calibrator.transform(chats.llm_scores[test]), nan=1 / 3)


# %%
# Each prompt separately, and the methods with 16 labelled sessions. ECE is the gap between
# confidence and accuracy. For ECE and log loss, lower is better. This LLM's answers are not far off
# as they come. "batch", which corrects for how often a prompt names each class without knowing how
# often people do, makes them worse; labels make them better.
predictions = {name: chats.llm_scores[test, p] for p, name in enumerate(chats.prompt_names)}
predictions |= {f"all, {m}": calibrate(m, 16) for m in ["mean", "batch", "log_pool", "auto"]}
print(f"{'':18s} {'macro-F1':>8s} {'ECE':>6s} {'log loss':>8s}")
for name, probabilities in predictions.items():
    probabilities = np.nan_to_num(probabilities, nan=1 / 3)
    predicted = np.array(chats.classes)[probabilities.argmax(axis=1)]
    f1 = f1_score(truth[test], predicted, average="macro")
    ece = expected_calibration_error(truth[test], probabilities, labels=chats.classes)
    loss = log_loss(truth[test], probabilities, labels=chats.classes)
    print(f"{name:18s} {f1:8.3f} {ece:6.3f} {loss:8.3f}")

# %%
# The weights show which prompts agree with the labels. They are never negative. With few labels
# they are pulled towards equal weights.
y = np.where(np.isin(chats.groups, pool[:16]), truth, None)
calibrator = LLMScoreCalibrator(classes=chats.classes).fit(chats.llm_scores[~test], y[~test])
for name, weight in zip(chats.prompt_names, calibrator.prompt_weights_, strict=True):
    print(f"{name:12s} {weight:.2f}")

# %%
# The log loss by number of labelled sessions, mean of five draws.
sizes = [2, 4, 8, 16, 32, 64, 100]
losses = {
    method: [
        np.mean(
            [
                log_loss(truth[test], calibrate(method, n, seed), labels=chats.classes)
                for seed in range(5)
            ]
        )
        for n in sizes
    ]
    for method in ["mean", "batch", "log_pool", "isotonic", "auto"]
}
shares = np.mean(truth[~test][:, None] == np.array(chats.classes), axis=0)
guess = log_loss(truth[test], np.tile(shares, (test.sum(), 1)), labels=chats.classes)
for method, values in losses.items():
    print(f"{method:12s}", *(f"{value:.3f}" for value in values))
print(f"shares of the classes alone: {guess:.3f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
is_negative = truth[test] == "negative"
for name, probabilities in predictions.items():
    scored = ~np.isnan(probabilities[:, 0])
    observed, mean = calibration_curve(
        is_negative[scored], probabilities[scored, 0], n_bins=8, strategy="quantile"
    )
    style = {"color": "0.7", "linewidth": 1}
    if name in ("all, mean", "all, auto"):
        style = {"marker": "o", "linewidth": 2, "label": name}
    left.plot(mean, observed, **style)
left.plot([], [], color="0.7", label="one prompt, other methods")
left.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
left.set(xlabel="predicted probability of negative", ylabel="observed share of negative")
left.set_title("Reliability")
left.legend()
for method, values in losses.items():
    right.plot(sizes, values, marker="o", label=method)
right.axhline(guess, color="black", linestyle=":", linewidth=1)
right.set(xscale="log", xlabel="labelled sessions", ylabel="log loss on unseen sessions")
right.set_title("What labels are worth")
right.set_xticks(sizes, sizes)
right.minorticks_off()
right.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
