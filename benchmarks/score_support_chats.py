"""Scores of the packaged support chats by a real LLM.

The scores in the package are of Qwen2.5-Coder-1.5B-Instruct, quantised to Q4_K_M, by the server of
llama.cpp::

    llama-server -m qwen2.5-coder-1.5b-instruct-q4_k_m.gguf -c 8192 -np 4 --port 18124
    export MODEL=qwen2.5-coder-1.5b-instruct-q4_k_m URL=http://127.0.0.1:18124/v1
    python -m benchmarks.score_support_chats --base-url $URL --model $MODEL

Takes about an hour on two cores. A run that was stopped resumes if the address is the same, since
answers in the cache are found by address, too.
"""

import argparse
from pathlib import Path

import numpy as np

from skpref import LLMLabeler
from skpref.datasets import _support_chats
from skpref.datasets._support_chats import CLASSES, read_chats, support_chats_bank

OUTPUT = Path(_support_chats.__file__).parent / "data" / "support_chats_scores.npz"


def main() -> None:
    """Score the chats and write the file that the package holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cache", default="support-chats-cache")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    frame, y = read_chats()
    labeler = LLMLabeler(
        CLASSES,
        support_chats_bank(),
        model=args.model,
        base_url=args.base_url,
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
    mass = np.nanmean(labeler.option_mass_, axis=0).round(2)
    print("probability of all options:", dict(zip(labeler.prompt_names_, mass, strict=True)))


if __name__ == "__main__":
    main()
