"""
A ranker in an imbalanced-learn pipeline
========================================

`IntraSessionPairSampler` is a sampler for ``imblearn.pipeline``: it turns rows into differences of
two utterances of the same session. A linear model without intercept on these differences is a
ranker, like RankSVM. Anything that all utterances of a session share, such as the mood of a
customer, cancels in a difference. In these data, three features depend on the mood of the session
and little on the utterance, and the mood decides the class of most utterances, so that a classifier
of rows learns the mood.

The stronger the effect of the mood, the better the ranker is in comparison: the order within
sessions gets worse for the classifier of rows, but not for the ranker. Without a mood the two give
similar results. The ranker cannot compare utterances of *different* sessions; for that, use the
classifier of rows.
"""

import matplotlib.pyplot as plt
import numpy as np
import sklearn
from imblearn.pipeline import make_pipeline
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit

from skpref import IntraSessionPairSampler
from skpref.datasets import make_dialogues
from skpref.metrics import within_session_concordance


def make_moody(weight, seed):
    """Make dialogues whose last three features show the session's mood, which affects the class."""
    data = make_dialogues(n_sessions=80, n_features=8, class_sep=1.5, random_state=seed)
    code = np.unique(data.groups, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    mood = rng.normal(size=code.max() + 1)[code]
    log_odds = data.logits[:, 1] + weight * mood
    truth = (log_odds + rng.logistic(size=len(code)) > 0).astype(int)
    X = data.X.copy()
    X[:, 5:] = 0.5 * X[:, 5:] + mood[:, None]
    return X, truth, data.groups, data.coef[:, 1]


rows = LogisticRegression()
ranker = make_pipeline(
    IntraSessionPairSampler(max_pairs_per_session=200, random_state=0),
    LogisticRegression(fit_intercept=False),
)
weights = [0.0, 1.0, 2.0, 4.0, 8.0]
order = {"rows": np.zeros((5, 5)), "pairs": np.zeros((5, 5))}
with sklearn.config_context(enable_metadata_routing=True):
    for i, weight in enumerate(weights):
        for seed in range(5):
            X, y, groups, coef = make_moody(weight, seed)
            train, test = next(GroupShuffleSplit(random_state=0).split(X, groups=groups))
            rows.fit(X[train], y[train])
            ranker.fit(X[train], y[train], groups=groups[train])
            for name, model in [("rows", rows), ("pairs", ranker)]:
                score = model.decision_function(X[test])
                order[name][i, seed] = within_session_concordance(
                    y[test], score, groups=groups[test]
                )

# %%
# Concordance within unseen sessions, mean and standard deviation over five data sets.
figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name, values in order.items():
    axis.errorbar(
        weights, values.mean(axis=1), yerr=values.std(axis=1), marker="o", capsize=3, label=name
    )
axis.set(xlabel="weight of the mood", ylabel="concordance within sessions", xticks=weights)
axis.set_title("A mood that a session shares misleads a classifier of rows")
axis.legend(title="learned from")
plt.show()
for i, weight in enumerate(weights):
    both = ", ".join(f"{name} {v[i].mean():.3f} ± {v[i].std():.3f}" for name, v in order.items())
    print(f"weight of the mood {weight:.0f}: {both}")

# %%
# The coefficients learned with the largest weight of the mood. Within a session the mood is
# constant, so the true coefficients of the last three features are 0.
learned = {"rows": rows.coef_[0], "pairs": ranker[-1].coef_[0]}
figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
position = np.arange(8)
for offset, (name, values) in zip([-0.27, 0.0], learned.items(), strict=True):
    axis.bar(position + offset, values, width=0.25, label=name)
axis.bar(position + 0.27, coef, width=0.25, color="0.6", label="truth")
axis.axvspan(4.5, 7.5, color="0.5", alpha=0.12)
axis.axhline(0, color="black", linewidth=0.8)
axis.set(xlabel="feature (shaded: mood of the session)", ylabel="coefficient", xticks=position)
axis.set_title("In a difference of two turns the mood cancels")
axis.legend(title="learned from")
plt.show()
