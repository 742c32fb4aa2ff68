"""
Fine-tuning the encoder
=======================

`PairwisePreferenceTextClassifier` takes texts and trains a Hugging Face encoder with a scoring
head, end to end. Each utterance is encoded once per step, and all pairs of its session are
compared. Here the last of the six layers of all-MiniLM-L6-v2 is trained on twelve of the support
chats, which shows how, not how well: compare it with a frozen encoder on sessions of your own. On a
GPU it trains in bfloat16 mixed precision. The result is saved, loaded, and exported to ONNX.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from skpref import PairwisePreferenceTextClassifier, TrainingCurveDisplay
from skpref.datasets import load_support_chats

chats = load_support_chats()
finetuned = PairwisePreferenceTextClassifier(
    trainable_layers=1,
    encoder_lr=2e-4,
    max_epochs=3,
    classes=chats.classes,
    random_state=0,
)
rows = chats.groups < "chat-012"
text = chats.frame["text"][rows]
finetuned.fit(text, chats.y[rows], groups=chats.groups[rows], llm_scores=chats.llm_scores[rows])

# %%
# The loss by epoch.
display = TrainingCurveDisplay.from_estimator(finetuned)
display.ax_.set_title("Training the last layer of the encoder")

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
