"""
Fine-tuning the encoder
=======================

`PairwisePreferenceTextClassifier` takes texts and trains a Hugging Face encoder with a scoring
head, end to end. Each utterance is encoded once per step, and all pairs of its session are
compared. Here the last of the six layers of all-MiniLM-L6-v2 is trained on 32 of the support chats,
which takes half a minute on a laptop. On a GPU it trains in bfloat16 mixed precision.

On so few chats it does not pay: the same encoder kept frozen is ahead. So this shows how to
fine-tune, watch, save and export, and to compare before you deploy.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline

from skpref import (
    PairwisePreferenceClassifier,
    PairwisePreferenceTextClassifier,
    SentenceEncoder,
    TrainingCurveDisplay,
)
from skpref.datasets import load_support_chats

chats = load_support_chats()
frozen = make_pipeline(
    SentenceEncoder(), PairwisePreferenceClassifier(classes=chats.classes, random_state=0)
)
finetuned = PairwisePreferenceTextClassifier(
    trainable_layers=1,
    encoder_lr=2e-4,
    max_epochs=3,
    classes=chats.classes,
    random_state=0,
)

rows = chats.groups < "chat-032"
text, truth = chats.frame["text"][rows], chats.frame["label"][rows].to_numpy()
y, groups, llm_scores = chats.y[rows], chats.groups[rows], chats.llm_scores[rows]
train, test = next(GroupShuffleSplit(1, random_state=0).split(text, groups=groups))
given = {"groups": groups[train], "llm_scores": llm_scores[train]}
step = "pairwisepreferenceclassifier"
frozen.fit(text.iloc[train], y[train], **{f"{step}__{name}": part for name, part in given.items()})
finetuned.fit(text.iloc[train], y[train], **given)
for name, model in [("frozen", frozen), ("fine-tuned", finetuned)]:
    print(f"{name:10s} accuracy on unseen chats {model.score(text.iloc[test], truth[test]):.3f}")

# %%
# The loss falls in each epoch.
TrainingCurveDisplay.from_estimator(finetuned)
plt.show()

# %%
# Save the classifier. The folder contains the weights as safetensors and no pickle, and a model
# trained on a GPU can be loaded on any machine. The ONNX graph needs neither torch nor skpref.
with TemporaryDirectory() as folder:
    finetuned.save_pretrained(Path(folder, "mood"))
    loaded = PairwisePreferenceTextClassifier.from_pretrained(Path(folder, "mood"), device="cpu")
    same = (loaded.predict_proba(text[:20]) == finetuned.predict_proba(text[:20])).all()
    print("loaded from the folder, the same probabilities:", bool(same))
    try:
        import onnxruntime
        from transformers import AutoTokenizer

        finetuned.to_onnx(Path(folder, "mood.onnx"))
    except ImportError as error:
        print("ONNX is not available:", error)
    else:
        tokenizer = AutoTokenizer.from_pretrained(Path(folder, "mood", "encoder"))
        tokens = tokenizer(text[:20].tolist(), padding=True, truncation=True, return_tensors="np")
        inputs = {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        graph = onnxruntime.InferenceSession(Path(folder, "mood.onnx"))
        (probabilities,) = graph.run(None, inputs)
        difference = np.abs(probabilities - finetuned.predict_proba(text[:20])).max()
        print(f"ONNX: probabilities differ by at most {difference:.0e}")
