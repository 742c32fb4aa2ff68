import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from skpref._torch._batches import SessionBatches, SessionDataset
from skpref._torch._full_batch import accumulate_gradients
from skpref._torch._losses import PreferenceLoss
from skpref._torch._modules import MLP, Linear

CRITERION = {
    "loss": "squared_hinge",
    "margin": "adaptive",
    "margin_scale": 1.0,
    "pairwise_weight": 1.0,
    "pointwise_weight": 1.0,
    "min_margin": 0.0,
    "class_weight": torch.ones(2),
}


@pytest.mark.parametrize("module", [MLP, Linear])
@pytest.mark.parametrize("convert", [np.asarray, csr_matrix])
def test_gradients_of_all_rows_do_not_depend_on_the_blocks(module, convert):
    rng = np.random.RandomState(0)
    X, soft, session = rng.randn(40, 6), rng.rand(40, 1), np.repeat(np.arange(8), 5)
    torch.manual_seed(0)
    module = module(6, 1).double()
    criterion = PreferenceLoss(**CRITERION)

    def gradients(X, **limit):
        dataset = SessionDataset(X, soft, np.ones(40), session)
        [target] = SessionBatches(dataset, 100).targets()
        module.zero_grad()
        value = accumulate_gradients(module, dataset, criterion, target, "cpu", **limit)
        return value, [p.grad.clone() for p in module.parameters()]

    whole_value, whole = gradients(X)
    value, parts = gradients(convert(X), n_rows=7)
    assert value == pytest.approx(whole_value)
    for part, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, expected)
