"""Dialogue state on Schema-Guided Dialogue: which intents and slots are active at each turn.

    export URL=http://127.0.0.1:18124/v1
    python -m benchmarks.dialogue_state --base-url $URL --model NAME    # asks an LLM
    python -m benchmarks.dialogue_state                                 # compares

Dialogues about restaurants of three published files, which are downloaded (CC BY-SA 4.0). An LLM
that was asked about 120 of them, whole dialogues a call, gave the scores in
`results/dialogue_state_scores.npz`. Writes `results/dialogue_state.md` and `dialogue_state.json`.
"""

import argparse

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from skpref import LLMLabeler, PromptBank
from skpref.datasets._sgd import load_files

FILES = [f"train/dialogues_{number:03}.json" for number in (1, 2, 3)]
SERVICE = "Restaurants_1"
INTENTS = {
    "find": ("FindRestaurants", "the user is looking for a restaurant"),
    "reserve": ("ReserveRestaurant", "the user is booking a table at a restaurant"),
    "bye": (None, "the user ends the conversation"),
}
SLOTS = {
    "city": ("city", "the city or area where to eat"),
    "cuisine": ("cuisine", "the kind of food"),
    "price": ("price_range", "how cheap or expensive it should be"),
    "restaurant": ("restaurant_name", "a restaurant by name"),
    "date": ("date", "the day of the booking"),
    "time": ("time", "the time of day of the booking"),
    "people": ("party_size", "for how many people"),
    "alcohol": ("serves_alcohol", "whether alcohol is served"),
    "music": ("has_live_music", "whether there is live music"),
    "nothing": (None, "none of these: thanks, a yes or no, another question"),
}
ASKED = {
    "intents": (INTENTS, "what the user wants at that point of the conversation"),
    "slots": (SLOTS, "what it says about the restaurant or the booking"),
}
STATE = [name for kind in (INTENTS, SLOTS) for name, _ in kind.values() if name is not None]
N_SCORED = 100  # dialogues


def load(data_home: str | None) -> Bunch:
    """Return the dialogues about restaurants alone, in random order, with the state of each turn."""
    sgd = load_files(FILES, data_home, download_if_missing=True)
    state = pd.concat([sgd.intents, sgd.slots], axis=1)[[f"{SERVICE}:{name}" for name in STATE]]
    alone = (sgd.services[SERVICE] == 1) & (sgd.services.sum(axis=1) == 1)
    is_user = (sgd.frame["speaker"] == "user").to_numpy()
    sessions = sgd.frame["session_id"]
    kept = ~sessions.isin(sessions[is_user & ~alone])
    names = np.random.RandomState(0).permutation(sessions[kept].unique())
    rank = sessions.map({name: i for i, name in enumerate(names)})
    order = np.flatnonzero(kept)[np.argsort(rank[kept].to_numpy(), kind="stable")]
    frame = sgd.frame.iloc[order].reset_index(drop=True)
    return Bunch(frame=frame, y=state.to_numpy()[order], n_scored=(rank[kept] < N_SCORED).sum())


def make_labeler(kind: str, args) -> LLMLabeler:
    """Return a labeler that lists dialogues and asks of each line what it is about."""
    options, task = ASKED[kind]
    bank = PromptBank(
        "session", task=task, definitions={name: means for name, (_, means) in options.items()}
    )
    return LLMLabeler(
        sorted(options),
        bank,
        model=args.model,
        base_url=args.base_url,
        api_key="none",
        unit="session",
        n_utterances_per_call=20,
        n_context_turns=2,
        speaker="speaker",
        cache=args.cache / "dialogue_state",
        max_concurrency=4,
        timeout=900,
        verbose=1,
    )


def ask(data: Bunch, args) -> None:
    """Ask about the first dialogues, and write what the LLM said of each line."""
    frame = data.frame[: data.n_scored]
    said = {}
    for kind in ASKED:
        labeler = make_labeler(kind, args).fit(frame)
        said[kind] = labeler.transform(frame)[:, 0].astype(np.float16)
        print(kind, labeler.usage_, flush=True)
    np.savez_compressed(args.scores, **said)
