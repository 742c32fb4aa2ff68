import pickle
import re
from pathlib import Path

import pytest
import torch

from skpref._torch._batches import as_tensor
from skpref._torch._transformer import TransformerScorer

TEXTS = ["where is my order?", "no", "i love this music", "hello", "the agent never called again!"]


@pytest.fixture
def scorer(tiny_model):
    torch.manual_seed(0)
    return TransformerScorer(2, tiny_model)


def test_scores_do_not_depend_on_the_batch(scorer, monkeypatch):
    scorer.eval()
    tokens = scorer.tokenize(TEXTS)
    apart = torch.cat([scorer(as_tensor(tokens[[i]])) for i in range(len(tokens))])
    torch.testing.assert_close(scorer(as_tensor(tokens)), apart)
    monkeypatch.setattr("skpref._torch._transformer._PASS_TOKENS", {"cpu": 10, "cuda": 10})
    torch.testing.assert_close(scorer(as_tensor(tokens)), apart)


def test_token_ids_are_the_tokenizers_cut_at_max_length(tiny_model):
    scorer = TransformerScorer(1, tiny_model, max_length=6)
    tokens = scorer.tokenize([*TEXTS, ""])
    tokenizer = scorer.encoder.tokenizer
    expected = tokenizer([*TEXTS, ""], truncation=True, max_length=6)["input_ids"]
    assert [t.tolist() for t in tokens] == expected
    assert max(map(len, tokens)) == 6
    padded = as_tensor(tokens)
    assert padded.shape == (6, 6)
    assert ((padded >= 0).sum(1).numpy() == [len(t) for t in tokens]).all()


def test_texts_beyond_the_token_budget_give_the_same_gradient(scorer, monkeypatch):
    monkeypatch.setattr("skpref._torch._transformer._PASS_TOKENS", {"cpu": 10})
    X = as_tensor(scorer.tokenize(TEXTS))
    scorer.train()
    kept = []

    def gradient(budget):
        scorer.token_budget = budget
        scorer.zero_grad()
        torch.manual_seed(0)  # the same dropout
        scores = scorer(X)
        kept.append(scores.detach())
        (scores**2).sum().backward()
        return [p.grad.clone() for p in scorer.parameters() if p.grad is not None]

    whole, parts = gradient(1000), gradient(5)
    assert len(whole) > 10
    torch.testing.assert_close(kept[0], kept[1])
    torch.testing.assert_close(whole, parts)


def test_compile_compiles_the_encoder_for_any_length(tiny_model, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda call, **options: asked.append(options) or call)
    scorer = TransformerScorer(1, tiny_model, compile=True)
    assert asked == [{"dynamic": True}]
    assert scorer(as_tensor(scorer.tokenize(TEXTS))).shape == (5, 1)
    pickle.loads(pickle.dumps(scorer))


def test_more_layers_than_there_are_is_an_error(tiny_model):
    message = "trainable_layers=3 but the encoder has 2 layers"
    with pytest.raises(ValueError, match=re.escape(message)):
        TransformerScorer(1, tiny_model, trainable_layers=3)


def test_a_static_model_is_sent_to_the_sentence_encoder(tmp_path, tiny_model):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(tiny_model) / "tokenizer.json"))
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)])
    static.save_pretrained(str(tmp_path), create_model_card=False)
    with pytest.raises(ValueError, match="Put SentenceEncoder before the classifier"):
        TransformerScorer(1, str(tmp_path))
