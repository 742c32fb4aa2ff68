"""Scores of the packaged support chats by a real LLM.

Run ``python -m benchmarks.score_support_chats``; it takes about half an hour on two cores, and
goes on where it was stopped. With ``--base-url`` and ``--model`` another LLM is asked.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks._llm_server import MODEL, start_llm_server
from skpref import LLMLabeler
from skpref.datasets import _support_chats as chats

OUTPUT = Path(chats.__file__).parent / "data" / "support_chats_scores.npz"


def main():
    """Score the chats and write the file that the package holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--cache", default="support-chats-cache")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    # Always the same port, since answers in the cache are found by the address, too.
    server, base_url = (None, args.base_url) if args.base_url else start_llm_server(18123)
    frame, y = chats.read_chats()
    labeler = LLMLabeler(
        chats.CLASSES,
        chats.support_chats_bank(),
        model=args.model,
        base_url=base_url,
        speaker="speaker",
        n_context_turns=1,
        cache=args.cache,
        max_concurrency=4,
    )
    scores = labeler.fit(frame, y).transform(frame)
    np.savez_compressed(
        args.output, llm_scores=scores.astype(np.float16), prompt_names=labeler.prompt_names_
    )
    print(labeler.usage_)
    del server
    mass = np.nanmean(labeler.option_mass_, axis=0).round(2)
    print("probability of all options:", dict(zip(labeler.prompt_names_, mass, strict=True)))


if __name__ == "__main__":
    main()
