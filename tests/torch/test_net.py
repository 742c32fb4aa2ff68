import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from skpref._torch._batches import SessionDataset
from skpref._torch._modules import MLP
from skpref._torch._net import make_net

CRITERION = {
    "loss": "squared_hinge",
    "margin": "adaptive",
    "margin_scale": 1.0,
    "pairwise_weight": 1.0,
    "pointwise_weight": 1.0,
    "min_margin": 0.0,
    "class_weight": torch.ones(2),
}


def test_an_interrupt_by_the_user_is_raised_and_one_by_a_callback_stops():
    class Interrupted(MLP):
        def forward(self, X):
            if self.training and at == "module":
                raise KeyboardInterrupt
            return super().forward(X)

    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            if at == "callback":
                raise KeyboardInterrupt

    X, soft = np.eye(6, dtype=np.float32), np.linspace(0, 1, 6)[:, None]
    data = SessionDataset(X, soft, np.ones(6), np.zeros(6, dtype=int))
    net = make_net(Interrupted(6, 1), criterion=CRITERION, callbacks=[Stop()], verbose=0)
    at = "callback"
    with net.training(data) as n_epochs:
        net.fit_loop(data, epochs=n_epochs)
    assert len(net.history) == 1
    at = "module"
    with pytest.raises(KeyboardInterrupt), net.training(data) as n_epochs:
        net.fit_loop(data, epochs=n_epochs)
