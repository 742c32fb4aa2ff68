"""
Fine-tuning the encoder
=======================

``module="transformer"`` takes texts and trains a Hugging Face encoder with a scoring head, end to
end. Each utterance is encoded once a step, and all pairs of its session are compared. Here it is
set against the same encoder left frozen, on made-up chats; two of the six layers of
all-MiniLM-L6-v2 are trained, which takes a minute on a laptop. On a GPU it trains in bfloat16 mixed
precision. The encoder's learning rate was picked by hand on such chats and the frozen student is at
its defaults, so this shows how it is done and not which is better.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _chats import make_chats
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline

from skpref import PairwisePreferenceClassifier, SentenceEncoder

frozen = make_pipeline(
    SentenceEncoder(), PairwisePreferenceClassifier(classes=[0, 1, 2], random_state=0)
)
finetuned = PairwisePreferenceClassifier(
    "transformer",
    module__trainable_layers=2,
    encoder_lr=2e-4,
    classes=[0, 1, 2],
    random_state=0,
)

accuracy = {"frozen": [], "fine-tuned": []}
for seed in range(3):
    frame, llm_scores = make_chats(n_sessions=60, random_state=seed)
    groups = frame["session_id"]
    train, test = next(GroupShuffleSplit(random_state=seed).split(frame, groups=groups))
    text, y = frame["text"], frame["label"].iloc[train]
    given = {"groups": groups.iloc[train], "llm_scores": llm_scores[train]}
    step = "pairwisepreferenceclassifier"
    frozen.fit(text.iloc[train], y, **{f"{step}__{name}": value for name, value in given.items()})
    finetuned.fit(text.iloc[train], y, **given)
    for name, model in [("frozen", frozen), ("fine-tuned", finetuned)]:
        accuracy[name].append(model.score(text.iloc[test], frame["truth"].iloc[test]))

# %%
# Accuracy on unseen chats, mean and standard deviation over three sets of chats.
for name, values in accuracy.items():
    print(f"{name:10s} {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")

# %%
# Keep it. The folder has the weights as safetensors and no pickle; a model that was trained on a
# GPU is loaded on any machine. The ONNX graph needs neither torch nor skpref.
with TemporaryDirectory() as folder:
    finetuned.save_pretrained(Path(folder, "mood"))
    loaded = PairwisePreferenceClassifier.from_pretrained(Path(folder, "mood"), device="cpu")
    same = (loaded.predict_proba(text[:20]) == finetuned.predict_proba(text[:20])).all()
    print("loaded from the folder, the same probabilities:", bool(same))
    try:
        import onnxruntime
        from transformers import AutoTokenizer

        finetuned.to_onnx(Path(folder, "mood.onnx"))
    except ImportError as error:
        print("no ONNX here:", error)
    else:
        tokenizer = AutoTokenizer.from_pretrained(Path(folder, "mood", "encoder"))
        tokens = tokenizer(text[:20].tolist(), padding=True, truncation=True, return_tensors="np")
        inputs = {name: tokens[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        graph = onnxruntime.InferenceSession(Path(folder, "mood.onnx"))
        (probabilities,) = graph.run(None, inputs)
        difference = np.abs(probabilities - finetuned.predict_proba(text[:20])).max()
        print(f"ONNX: probabilities differ by {difference:.0e} at most")
