"""
A search over the whole pipeline
================================

Everything from the frame of dialogues to the classifier is one pipeline, so a single grid search
covers all of it: whether the speaker stands beside the embedding, how scores are calibrated, and
whether soft labels are smoothed. Folds contain whole sessions, metadata
routing splits session ids and LLM scores by fold, and each text is encoded only once for all
settings.

The figure sorts the settings by their mean over folds and shows each fold. Folds differ more than
most settings, so compare dots of the same colour: a setting is better only if it is better in most
folds.
"""

from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import sklearn
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from skpref import (
    DialogueContext,
    DialogueFeatures,
    KNNLabelSmoother,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    SentenceEncoder,
)
from skpref.datasets import load_support_chats
from skpref.metrics import within_session_concordance_scorer

chats = load_support_chats()
# Suppose that 20 of 45 sessions are labelled.
rows = chats.groups < "chat-045"
frame, groups, llm_scores = chats.frame[rows], chats.groups[rows], chats.llm_scores[rows]
labelled = frame["session_id"].isin(np.unique(groups)[::2][:20])
y = frame["label"].where(labelled, None).to_numpy(dtype=object)
print(f"{len(frame)} utterances, {labelled.sum()} of them labelled")

# %%
# To search the parameters of the calibrator and the smoother, pass instances.
cache = TemporaryDirectory()
pipe = Pipeline(
    [
        (
            "features",
            FeatureUnion(
                [
                    (
                        "embedding",
                        make_pipeline(
                            DialogueContext(n_turns=0), SentenceEncoder(cache=cache.name)
                        ),
                    ),
                    ("speaker", DialogueFeatures()),
                ]
            ),
        ),
        (
            "clf",
            PairwisePreferenceClassifier(
                calibrator=LLMScoreCalibrator(),
                smoother=KNNLabelSmoother(),
                classes=chats.classes,
                random_state=0,
            ),
        ),
    ]
)
grid = {
    "features__speaker": ["drop", DialogueFeatures()],
    "clf__calibrator__method": ["batch", "log_pool"],
    "clf__smoother__alpha": [0.0, 0.5],
}
with sklearn.config_context(enable_metadata_routing=True):
    search = GridSearchCV(
        pipe, grid, cv=GroupKFold(4), scoring=within_session_concordance_scorer
    ).fit(frame, y, groups=groups, llm_scores=llm_scores)
search

# %%
# The best and the worst setting, and the effect of each parameter averaged over all others.
results = search.cv_results_
mean = results["mean_test_score"]
for i in mean.argsort()[[0, -1]]:
    print(f"{mean[i]:.3f}", *(f"\n      {k} = {v}" for k, v in results["params"][i].items()))
for parameter in grid:
    values = np.array([str(params[parameter]) for params in results["params"]])
    effect = ", ".join(f"{v}: {mean[values == v].mean():.3f}" for v in np.unique(values))
    print(f"{parameter:26s} {effect}")

# %%
# The concordance within the sessions of each fold.
scores = np.array([results[f"split{k}_test_score"] for k in range(4)])
order = mean.argsort()
figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
for fold, row in enumerate(scores):
    axis.plot(row[order], range(len(order)), "o", alpha=0.6, label=f"fold {fold + 1}")
axis.plot(mean[order], range(len(order)), "|", color="black", markersize=16, label="mean")
labels = []
for i in order:
    params = results["params"][i]
    smooth = "smoothed" if params["clf__smoother__alpha"] else "not smoothed"
    speaker = "text alone" if params["features__speaker"] == "drop" else "with the speaker"
    labels.append(f"{speaker}, {params['clf__calibrator__method']}, {smooth}")
axis.set_yticks(range(len(order)), labels)
axis.set(xlabel="concordance within sessions", title="Settings, best at the top")
axis.grid(axis="x", alpha=0.3)
axis.legend(loc="lower right")
plt.show()
cache.cleanup()
