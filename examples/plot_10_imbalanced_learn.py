"""
A ranker in an imbalanced-learn pipeline
========================================

`IntraSessionPairSampler` is a sampler of ``imblearn.pipeline``: it turns rows to differences of
two turns of one session. A linear model without intercept on these differences is a ranker, as
RankSVM is. What all turns of a session share, such as the mood of a customer, cancels in a
difference. In the data here three features carry the mood of the session and little of the turn,
and the mood decides the class of most turns, so that a classifier of rows learns the mood.

The more the mood counts, the better the ranker's order within sessions is by comparison: the rows'
falls, and the ranker's does not. Without a mood the two are alike. Of turns of *different*
sessions the ranker knows nothing, so the classifier of rows is the one to take where that is the
question.
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
    """Dialogues whose last three features tell the mood of the session, which sways the class."""
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
for i, weight in enumerate(weights):
    both = ", ".join(f"{name} {v[i].mean():.3f} ± {v[i].std():.3f}" for name, v in order.items())
    print(f"mood counts {weight:.0f}: {both}")

# %%
# What was learned where the mood counts most. Within a session the mood is the same for all, so the
# true weight of the last three features is 0 there.
learned = {"rows": rows.coef_[0], "pairs": ranker[-1].coef_[0]}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for name, values in order.items():
    left.errorbar(
        weights, values.mean(axis=1), yerr=values.std(axis=1), marker="o", capsize=3, label=name
    )
left.set(xlabel="how much the mood counts", ylabel="concordance within sessions", xticks=weights)
left.legend(title="learns from")
position = np.arange(8)
for offset, (name, values) in zip([-0.27, 0.0], learned.items(), strict=True):
    right.bar(position + offset, values, width=0.25, label=name)
right.bar(position + 0.27, coef, width=0.25, color="0.6", label="truth")
right.axvspan(4.5, 7.5, color="0.5", alpha=0.12)
right.axhline(0, color="black", linewidth=0.8)
right.set(xlabel="feature (shaded: mood of the session)", ylabel="weight", xticks=position)
right.legend()
plt.show()
