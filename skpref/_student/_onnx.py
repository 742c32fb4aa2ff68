"""Fitted classifiers as ONNX graphs."""

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from skpref._optional import import_optional
from skpref._student._output import Output
from skpref._torch._transformer import TransformerScorer


def export(network: nn.Module, output: Output, n_features, path) -> None:
    """Write the probabilities of a fitted network as an ONNX graph.

    Parameters
    ----------
    network : nn.Module
        The network.
    output : Output
        Scale and offsets.
    n_features : int or None
        Number of features; None for a text network.
    path : str or path-like
        The file.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed.
    """
    for name in ("onnx", "onnxscript"):
        import_optional(name, "Exporting to ONNX", "onnx")
    # A copy also leaves out what torch.compile made of the network.
    network = copy.deepcopy(network).cpu().float()
    if isinstance(network, TransformerScorer):
        _use_plain_attention(network)
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
        inputs = {"input_ids": torch.ones_like(mask), "attention_mask": mask}
        axes = {0: "n_texts", 1: "n_tokens"}
        network = _TextScores(network)
    else:
        inputs = {"features": torch.zeros(2, n_features)}
        axes = {0: "n_rows"}
    dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
    with _quiet_torch():
        torch.onnx.export(
            _Probabilities(network, output).eval(),
            tuple(inputs.values()),
            os.fspath(path),
            input_names=list(inputs),
            output_names=["probabilities"],
            dynamic_shapes=((dims,) * len(inputs),),  # of *inputs, which is one argument
            external_data=False,
            dynamo=True,
            verbose=False,
        )


class _TextScores(nn.Module):
    """Scores of tokens as tokenizers give them; there is only one pass, which ONNX can hold."""

    def __init__(self, scorer):
        super().__init__()
        self.encoder, self.head = scorer.encoder, scorer.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.head(self.encoder(features)["sentence_embedding"])


class _Probabilities(nn.Module):
    """The network, then scale, offsets and softmax or sigmoid, as `predict_proba`."""

    def __init__(self, network, output: Output):
        super().__init__()
        self.network = network
        self.multilabel = output.multilabel
        self.register_buffer("scale", torch.tensor(output.scale, dtype=torch.float32))
        self.register_buffer("offsets", torch.tensor(output.offsets, dtype=torch.float32))

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Any = Output(self.scale, self.offsets).logits(self.network(*inputs))
        if self.multilabel:
            return logits.sigmoid()
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits.softmax(dim=1)


def _use_plain_attention(scorer):
    """Replace flash attention by attention that any machine has."""
    model = scorer.encoder[0].model
    if "flash" in model.config._attn_implementation:
        model.set_attn_implementation("sdpa")


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Hide messages of torch's exporter about its internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
