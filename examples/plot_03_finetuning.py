"""
Fine-tuning the encoder
=======================

`PairwisePreferenceTextClassifier` takes texts and trains a Hugging Face encoder with a scoring
head, end to end. Each utterance is encoded once per step, and all pairs of its session are
compared. Here it is compared with the same encoder kept frozen, on twelve of the support chats.
The last of the six layers of all-MiniLM-L6-v2 is trained, which takes half a minute on a laptop. On
a GPU it trains in bfloat16 mixed precision. The encoder's learning rate was chosen by hand on
synthetic chats, and the frozen classifier has its defaults, so this shows how to fine-tune, not
which of the two is better.
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

accuracy = {"frozen": [], "fine-tuned": []}
rows = chats.groups < "chat-012"
text, truth = chats.frame["text"][rows], chats.frame["label"][rows].to_numpy()
y, groups, llm_scores = chats.y[rows], chats.groups[rows], chats.llm_scores[rows]
for train, test in GroupShuffleSplit(2, random_state=0).split(text, groups=groups):
    given = {"groups": groups[train], "llm_scores": llm_scores[train]}
    step = "pairwisepreferenceclassifier"
    to_step = {f"{step}__{name}": value for name, value in given.items()}
    frozen.fit(text.iloc[train], y[train], **to_step)
    finetuned.fit(text.iloc[train], y[train], **given)
    for name, model in [("frozen", frozen), ("fine-tuned", finetuned)]:
        accuracy[name].append(model.score(text.iloc[test], truth[test]))

# %%
# Accuracy on unseen chats, mean and standard deviation over two splits, and the training curve of
# the last fine-tuning.
for name, values in accuracy.items():
    print(f"{name:10s} {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.plot(list(accuracy), np.array(list(accuracy.values())), marker="o")
left.set(ylabel="accuracy on unseen chats", xlim=(-0.3, 1.3))
left.legend([f"split {k}" for k in range(1, 3)])
_ = TrainingCurveDisplay.from_estimator(finetuned, ax=right)

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
