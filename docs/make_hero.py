"""Draw the picture of the README and the first page: ``python docs/make_hero.py``.

One chat that the classifier has not learned from: the probabilities for each utterance, and what
people said. Which chat: of those of 8 to 11 utterances, the one whose labels differ most, and of
equals the first, so that the classifier's success has no part in the choice.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from skpref import DialogueFeatures, LLMScoreCalibrator, PairwisePreferenceClassifier
from skpref.datasets import load_support_chats

FOLDER = Path(__file__).parent / "_static"
COLOURS = {"negative": "#D55E00", "neutral": "#999999", "positive": "#0072B2"}


def choose_chat(frame):
    """Return the id of the chat to draw."""
    labels = frame[~frame["session_id"].isin(frame["session_id"].unique()[:16])]
    labels = labels.groupby("session_id", sort=False)["label"]
    length, evenness = (
        labels.size(),
        labels.agg(lambda x: -(x.value_counts(normalize=True) ** 2).sum()),
    )
    return evenness[length.between(8, 11)].idxmax()


def draw(turns, prob, classes, ink, path):
    """Draw the utterances as rows: text, probabilities, and the label by people."""
    n = len(turns)
    figure, axis = plt.subplots(figsize=(9, 0.4 * n + 1.1))
    figure.subplots_adjust(left=0.58, right=0.91, top=1 - 0.75 / (0.4 * n + 1.1), bottom=0.02)
    left = np.zeros(n)
    for k, name in enumerate(classes):
        axis.barh(range(n), prob[:, k], left=left, color=COLOURS[name], height=0.72, label=name)
        left += prob[:, k]
    for i, (speaker, text, label) in enumerate(
        zip(turns["speaker"], turns["text"], turns["label"], strict=True)
    ):
        short = text if len(text) <= 58 else text[:56].rsplit(" ", 1)[0] + " …"
        weight = "bold" if speaker == "customer" else "normal"
        axis.text(-0.02, i, short, ha="right", va="center", color=ink, fontsize=9.5, weight=weight)
        right = classes[prob[i].argmax()] == label
        axis.plot(1.06, i, "o", color=COLOURS[label], markersize=11, clip_on=False)
        if not right:
            axis.text(1.105, i, "✗", color=ink, va="center", fontsize=11)
    axis.set(ylim=(n - 0.4, -0.6), xlim=(0, 1))
    axis.axis("off")
    head = {"color": ink, "fontsize": 10, "weight": "bold", "va": "bottom"}
    axis.text(-0.02, -0.75, "a new chat (customer in bold)", ha="right", **head)
    axis.text(0, -0.75, "the classifier", ha="left", **head)
    axis.text(1.15, -0.75, "people (✗: it errs)", ha="right", **head)
    legend = figure.legend(loc="upper right", ncols=3, frameon=False, bbox_to_anchor=(0.92, 1.01))
    for text in legend.get_texts():
        text.set_color(ink)
    figure.savefig(path, dpi=150, transparent=True)
    plt.close(figure)


def main():
    """Fit on all other chats, and draw the chat in light and dark."""
    chats = load_support_chats()
    here = chats.groups == choose_chat(chats.frame)
    X = np.hstack([chats.embeddings, DialogueFeatures().fit_transform(chats.frame)])
    clf = PairwisePreferenceClassifier(
        calibrator=LLMScoreCalibrator("auto"), classes=chats.classes, random_state=0
    )
    clf.fit(
        X[~here],
        chats.y[~here],
        groups=chats.groups[~here],
        llm_scores=chats.llm_scores[~here],
    )
    prob = clf.predict_proba(X[here])
    turns = chats.frame[here]
    found = np.array(chats.classes)[prob.argmax(axis=1)]
    print(f"{turns['session_id'].iloc[0]}: {np.mean(found == turns['label']):.0%} right")
    draw(turns, prob, chats.classes, "#222222", FOLDER / "hero.png")
    draw(turns, prob, chats.classes, "#dddddd", FOLDER / "hero-dark.png")


if __name__ == "__main__":
    main()
