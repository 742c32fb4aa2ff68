import pytest
import torch
from torch import nn

from skpref._torch._modules import MLP, build_module


def test_hidden_layers_of_the_mlp_have_the_sizes_asked_for():
    module = MLP(5, 2, hidden_units=(4, 3))
    sizes = [
        (part.in_features, part.out_features)
        for part in module.layers
        if hasattr(part, "in_features")
    ]
    assert sizes == [(5, 4), (4, 3), (3, 2)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("module", ["mlp", "linear", nn.Sequential(nn.Linear(5, 2))])
def test_a_network_has_the_precision_asked_for(module, dtype):
    network = build_module(module, {}, 5, 2, dtype)
    X = torch.zeros(3, 5, dtype=getattr(torch, dtype))
    assert network(X).dtype == X.dtype
    assert network is not module
