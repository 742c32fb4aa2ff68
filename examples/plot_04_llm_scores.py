"""
From a CSV of chats to LLM scores to a classifier
=================================================

There are three steps: `LLMLabeler` asks an LLM about every utterance, the scores are written to
parquet, and `PairwisePreferenceClassifier` learns from them and from a few labelled sessions. If an
OpenAI-compatible endpoint is set, it scores some of the sessions. Otherwise the example uses the
scores included with the support chats, which a 1.5B model gave for the same prompts. To set an
endpoint::

    export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=... LLM_MODEL=...
"""

import os
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline, make_union

from skpref import (
    DialogueContext,
    DialogueFeatures,
    LLMLabeler,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    PromptBank,
    SentenceEncoder,
)
from skpref.datasets import load_support_chats

# %%
# A typical input file: one row per utterance, and labels for the first sessions only.
folder = TemporaryDirectory()
chats = load_support_chats()
columns = ["session_id", "turn", "speaker", "text"]
chats.frame[columns].assign(label=chats.y).to_csv(f"{folder.name}/chats.csv", index=False)
frame = pd.read_csv(f"{folder.name}/chats.csv")
print(frame.head(4).to_string())

# %%
# The prompts state the task and the meaning of the classes. Some prompts show examples, which `fit`
# draws from the labels; the examples for an utterance come from other sessions.
bank = PromptBank(
    task="the mood of the speaker",
    definitions={
        "negative": "annoyed, angry, disappointed, worried, sad or sarcastic",
        "neutral": "facts, questions, answers and routine politeness",
        "positive": "relieved, grateful, pleased, friendly or amused",
    },
)
labeler = LLMLabeler(
    ["negative", "neutral", "positive"],
    bank,
    model=os.environ.get("LLM_MODEL", "none"),
    speaker="speaker",
    cache="llm-cache" if "LLM_MODEL" in os.environ else None,
    max_concurrency=16,
)
labeler.fit(frame, frame["label"])
if "LLM_MODEL" in os.environ:
    frame = frame[frame["session_id"] < "chat-040"]
    scores = labeler.transform(frame)  # resumes after a crash: no request is repeated
    print(labeler.usage_, pd.DataFrame(labeler.failures_), sep="\n")
else:
    scores = chats.llm_scores
labeler.to_frame(scores, frame).to_parquet(f"{folder.name}/scores.parquet")


# %%
# If one process is too slow, workers can share the cache. Each needs the key in its environment.
def score_on_cluster(client, frame, n_shards=16):
    """Score on the workers of a dask cluster, split by session; `client` is a dask client."""
    shard = pd.factorize(frame["session_id"])[0] % n_shards
    parts = [frame[shard == i] for i in range(n_shards)]
    scores = client.gather(client.map(labeler.transform, parts))
    rows = np.argsort(shard, kind="stable")
    return np.concatenate(scores)[np.argsort(rows)]


# %%
# How good is each prompt? Here the labels of most sessions are known but not used by the method.
scores = labeler.from_frame(pd.read_parquet(f"{folder.name}/scores.parquet"))
truth = chats.frame["label"].iloc[frame.index]
unseen = frame["label"].isna().to_numpy()
calibrated = LLMScoreCalibrator(classes=labeler.classes_).fit_transform(
    scores, frame["label"], groups=frame["session_id"]
)
rows = {name: scores[:, p] for p, name in enumerate(labeler.prompt_names_)}
rows |= {"mean": np.nanmean(scores, axis=1), "calibrated": calibrated}
table = pd.DataFrame(
    {
        name: {
            "AUC": roc_auc_score(
                truth[unseen], np.nan_to_num(soft[unseen], nan=1 / 3), multi_class="ovr"
            ),
            "macro-F1": f1_score(
                truth[unseen], labeler.classes_[soft[unseen].argmax(axis=1)], average="macro"
            ),
        }
        for name, soft in rows.items()
    }
).T
print(table.round(3))

# %%
# The classifier learns from the scores of all utterances except those of the last sessions, and
# predicts in milliseconds without an LLM.
embed = make_pipeline(DialogueContext(n_turns=0), SentenceEncoder())
X = make_union(embed, DialogueFeatures()).fit_transform(frame)
sessions = frame["session_id"].to_numpy()
test = np.isin(sessions, np.unique(sessions)[-len(np.unique(sessions)) // 4 :])
clf = PairwisePreferenceClassifier(classes=labeler.classes_, random_state=0)
clf.fit(X[~test], frame["label"][~test], groups=sessions[~test], llm_scores=scores[~test])
print(f"accuracy on unseen sessions: {accuracy_score(truth[test], clf.predict(X[test])):.3f}")

figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
axis.barh(table.index, table["AUC"])
axis.axvline(0.5, color="black", linewidth=1)
axis.set(xlabel="AUC, mean over classes", xlim=(0.4, 1))
axis.invert_yaxis()
figure.savefig("prompts.png", dpi=110)
