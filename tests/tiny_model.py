from pathlib import Path

WORDS = """
the a i you we it is was my your to and not of in on for can do have will this that what how
when where please thanks hello yes no parcel order late lost found money back refund want
need help call agent number name card pay bill price good bad happy sad angry love hate music
jazz rain sun day week time again soon now never always broken works phone screen
"""


def write_tiny_model(folder):
    """Write a sentence-transformers model of 32 dimensions with random weights.

    Returns the folder of the model, which lies in `folder`. Imports nothing of this repository, so
    that it makes the same model whatever is installed.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = Path(folder)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?'-:", *letters]
    vocabulary += [f"##{letter}" for letter in letters] + sorted(set(WORDS.split()))
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    model = SentenceTransformer(str(folder / "bert"), device="cpu")  # adds mean pooling
    model.max_seq_length = 64
    model.save_pretrained(str(folder / "tiny"), create_model_card=False)
    return str(folder / "tiny")
