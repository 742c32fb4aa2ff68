import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from skpref._torch._modules import MLP
from skpref._torch._scoring import predict_scores


@pytest.mark.parametrize("convert", [np.asarray, csr_matrix])
def test_prediction_in_parts_is_that_of_the_whole(convert):
    torch.manual_seed(0)
    module = MLP(3, 1, dropout=0.5)
    X = convert(np.random.RandomState(0).randn(11, 3))
    whole = predict_scores(module, X)
    assert not module.training
    assert whole.dtype == np.float32
    np.testing.assert_allclose(predict_scores(module, X, n_rows=4), whole, atol=1e-6)
    assert predict_scores(module, X[:0]).shape == (0, 1)
