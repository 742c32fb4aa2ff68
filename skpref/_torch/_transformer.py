"""A Hugging Face encoder with a scoring head, which is trained end to end on text."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skpref._sentence_models import DEFAULT_MODEL, load_sentence_transformer
from skpref._torch._modules import check_dropout

# Tokens that go through the encoder at once. Texts of about one length go together, so that little
# is padding: many short passes keep a CPU busy, a GPU wants long ones.
_PASS_TOKENS = {"cpu": 2**9, "cuda": 2**15}


class TransformerScorer(nn.Module):
    """Transformer encoder and a linear head, from token ids to scores.

    Parameters
    ----------
    n_outputs : int
        Scores per text.
    model_name : str, default="sentence-transformers/all-MiniLM-L6-v2"
        Name on the Hugging Face hub, or folder, of a sentence-transformers model or of any encoder.
    revision : str, default=None
        Branch, tag or commit of the model on the hub.
    max_length : int, default=None
        Tokens after which a text is cut; None takes what the model was made for.
    trainable_layers : int, default=None
        How many of the last layers are trained. None trains the whole encoder, 0 the head alone.
    dropout : float, default=0.1
        Probability of dropping a unit of the embedding before the head, in training.
    token_budget : int, default=16384
        Tokens whose activations are kept in memory. Where a batch has more, those of each pass
        are computed again for the gradient (gradient checkpointing of whole passes).
    gradient_checkpointing : bool, default=False
        Whether the activations of each layer are computed again for the gradient.
    bf16 : bool, default=None
        Whether to train in mixed precision with bfloat16. None does on a CUDA device that has it.
    compile : bool, default=False
        Whether to compile the encoder with `torch.compile`.
    model_kwargs : dict, default=None
        Further arguments of the encoder, such as ``{"attn_implementation": "flash_attention_2"}``.
    """

    def __init__(
        self,
        n_outputs,
        model_name=DEFAULT_MODEL,
        revision=None,
        max_length=None,
        trainable_layers=None,
        dropout=0.1,
        token_budget=2**14,
        gradient_checkpointing=False,
        bf16=None,
        compile=False,
        model_kwargs=None,
    ):
        super().__init__()
        check_dropout(dropout)
        self.token_budget = token_budget
        self.bf16 = bf16
        self.encoder = load_sentence_transformer(
            model_name,
            revision=revision,
            model_kwargs={"dtype": torch.float32} | (model_kwargs or {}),
        )
        if not hasattr(self.encoder[0], "model"):
            raise ValueError(
                f"model_name={model_name!r} is a {type(self.encoder[0]).__name__} model; "
                "only transformers are trained end to end. Put SentenceEncoder before the "
                "classifier instead."
            )
        if max_length is not None:
            self.encoder.max_seq_length = max_length
        self._freeze(trainable_layers)
        if gradient_checkpointing:
            # Recent releases of transformers warn of the older name.
            model = self.encoder[0].model
            enable = getattr(model, "activation_checkpointing_enable", None)
            (enable or model.gradient_checkpointing_enable)()
        if compile:
            self.encoder.compile(dynamic=True)
        dim = self.encoder.get_embedding_dimension()
        # Embeddings come in many scales, often of length one; the head wants features of about one.
        self.head = nn.Sequential(
            nn.LayerNorm(dim, elementwise_affine=False),
            nn.Dropout(dropout),
            nn.Linear(dim, n_outputs),
        )

    def _freeze(self, trainable_layers):
        """Leave only the last layers to training."""
        model = self.encoder[0].model
        for name, parameter in model.named_parameters():
            # Sentence embeddings are pooled from the tokens; this would never get a gradient.
            parameter.requires_grad = not name.startswith("pooler.")
        if trainable_layers is None:
            return
        lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
        layers = max(lists, key=len, default=())
        if trainable_layers > len(layers):
            raise ValueError(
                f"trainable_layers={trainable_layers} but the encoder has {len(layers)} "
                "layers; pass at most that, or None to train all of the encoder."
            )
        trained = {
            p for layer in layers[len(layers) - trainable_layers :] for p in layer.parameters()
        }
        for parameter in model.parameters():
            parameter.requires_grad = parameter in trained

    def tokenize(self, texts) -> np.ndarray:
        """Return the token ids of each text.

        Parameters
        ----------
        texts : sequence of str
            Texts.

        Returns
        -------
        ndarray of object, shape (n_texts,)
            An int32 array of token ids per text.
        """
        tokenizer, limit = self.encoder.tokenizer, self.encoder.max_seq_length
        options = {"truncation": limit is not None, "max_length": limit}
        encoded = tokenizer(list(texts), return_attention_mask=False, **options)
        tokens = np.empty(len(texts), dtype=object)
        # A tokenizer without special tokens makes nothing of an empty text.
        tokens[:] = [np.asarray(ids or [0], dtype=np.int32) for ids in encoded["input_ids"]]
        return tokens

    def embed(self, tokens: Tensor) -> Tensor:
        """Embed texts of about one length.

        Parameters
        ----------
        tokens : Tensor of shape (n_texts, longest)
            Token ids, -1 for padding.

        Returns
        -------
        Tensor of shape (n_texts, dimension)
            Embeddings.
        """
        mask = tokens >= 0
        ids = tokens.masked_fill(~mask, self.encoder.tokenizer.pad_token_id or 0)
        features = {"input_ids": ids, "attention_mask": mask.long()}
        return self.encoder(features)["sentence_embedding"]

    def forward(self, X: Tensor) -> Tensor:
        """Score texts.

        Parameters
        ----------
        X : Tensor of shape (n_texts, longest)
            Token ids, -1 for padding at the end.

        Returns
        -------
        Tensor of shape (n_texts, n_outputs)
            Scores, in single precision.
        """
        lengths = (X >= 0).sum(1)
        order = lengths.argsort(descending=True, stable=True)
        again = self.training and int(lengths.sum()) > self.token_budget
        parts = []
        most = _PASS_TOKENS["cpu" if X.is_cpu else "cuda"]
        for part, length in _passes(lengths[order].tolist(), most):
            tokens = X[order[part], :length]
            # Checkpointing keeps the state of the random numbers, so dropout is the same again.
            score = self._score
            parts.append(checkpoint(score, tokens, use_reentrant=False) if again else score(tokens))
        scores = torch.cat(parts)
        return scores[order.argsort()]

    def _score(self, tokens: Tensor) -> Tensor:
        bf16 = self.bf16
        if bf16 is None:
            bf16 = tokens.is_cuda and torch.cuda.is_bf16_supported()
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16 and self.training):
            embedding = self.embed(tokens)
        return self.head(embedding.float())


def _passes(lengths, most) -> Iterator[tuple[slice, int]]:
    """Cut texts, longest first, into passes of at most so many tokens, padding included."""
    start = 0
    while start < len(lengths):
        end = start + max(1, most // lengths[start])
        yield slice(start, end), lengths[start]
        start = end
