"""Made-up support chats for the examples: texts, a truth, and the scores of a made-up LLM."""

import numpy as np
import pandas as pd

CLASSES = ["negative", "neutral", "positive"]

_CUSTOMER = {
    "negative": [
        "The {thing} stopped working after {n} days.",
        "I have been waiting {n} days for the {thing} and nobody answers.",
        "This is the third {thing} that arrives broken, I am fed up.",
        "You charged me twice for the {thing}.",
        "That did not help at all.",
        "Your last colleague hung up on me.",
        "I want my money back for this {thing}.",
        "It still makes the same awful noise.",
    ],
    "neutral": [
        "I ordered a {thing} {n} days ago.",
        "The order number ends with {n}.",
        "Which cable do I need for the {thing}?",
        "I use it about {n} hours a day.",
        "I am at my desk now, what shall I press?",
        "It is the black {thing}, the larger one.",
        "Do I have to keep the box?",
        "I can send you a picture of the {thing}.",
    ],
    "positive": [
        "Great, the {thing} works again!",
        "That was quick, thank you so much.",
        "Wonderful, you saved my day.",
        "The new {thing} is even better than I hoped.",
        "Perfect, that solved it.",
        "You have been very kind, I will recommend you.",
        "I love the {thing}, it was worth waiting {n} days.",
        "Oh nice, a refund is more than fair.",
    ],
}
_AGENT = [
    "Let me look that up for you.",
    "Could you tell me more about the {thing}?",
    "I have sent you a new {thing}.",
    "Please hold the power button for {n} seconds.",
    "I am sorry to hear that.",
    "Is there anything else I can do?",
]
_THINGS = ["kettle", "headset", "router", "vacuum cleaner", "keyboard", "toaster", "lamp"]


def make_chats(n_sessions=60, labelled_fraction=0.1, random_state=0):
    """Write chats in which a customer's mood wanders, and score them as a biased LLM might.

    Parameters
    ----------
    n_sessions : int, default=60
        Number of chats.
    labelled_fraction : float, default=0.1
        Share of the chats that a human labelled.
    random_state : int, default=0
        Seed.

    Returns
    -------
    frame : DataFrame
        session_id, turn, speaker, text, `truth` (position in `CLASSES`), and `label`, which is -1
        where no human looked.
    llm_scores : ndarray of shape (n_utterances, 2, 3)
        Probabilities by two prompts.
    """
    rng = np.random.RandomState(random_state)
    rows = []
    for session in range(n_sessions):
        thing, mood = rng.choice(_THINGS), rng.randint(3)
        for turn in range(rng.randint(6, 13)):
            is_agent = turn % 2 == 1
            if not is_agent and rng.rand() < 0.6:
                mood = rng.randint(3)
            sentences = _AGENT if is_agent else _CUSTOMER[CLASSES[mood]]
            text = rng.choice(sentences).format(thing=thing, n=rng.randint(2, 30))
            speaker, truth = ("agent", 1) if is_agent else ("customer", mood)
            rows.append((f"chat-{session}", turn, speaker, text, truth))
    frame = pd.DataFrame(rows, columns=["session_id", "turn", "speaker", "text", "truth"])
    chats = frame["session_id"].unique()
    labelled = rng.choice(chats, max(3, round(labelled_fraction * n_sessions)), replace=False)
    frame["label"] = frame["truth"].where(frame["session_id"].isin(labelled), -1)
    # Each prompt leans to some class, and in each chat both lean to another one.
    code = pd.factorize(frame["session_id"])[0]
    lean = rng.randn(2, 3) + 1.5 * rng.randn(n_sessions, 1, 3)[code]
    logits = 2 * np.eye(3)[frame["truth"]][:, None] + lean + rng.randn(len(frame), 2, 3)
    scores = np.exp(logits)
    return frame, scores / scores.sum(axis=2, keepdims=True)
