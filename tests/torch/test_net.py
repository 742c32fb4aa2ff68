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


class Recorder(Callback):
    """Keep the norm of the gradient at each step."""

    def on_train_begin(self, net, **kwargs):
        self.norms = []

    def on_grad_computed(self, net, named_parameters, **kwargs):
        grads = [parameter.grad.norm() for _, parameter in named_parameters]
        self.norms.append(float(torch.stack(grads).norm()))


def trained(batch_size, accumulate):
    torch.manual_seed(0)
    rng = np.random.RandomState(0)
    X, soft = rng.randn(40, 3).astype(np.float32), rng.rand(40, 1)
    data = SessionDataset(X, soft, np.ones(40), np.repeat(np.arange(8), 5))
    sizes = {"batch_size": batch_size, "accumulate": accumulate, "max_epochs": 1}
    net = make_net(MLP(3, 1), criterion=CRITERION, callbacks=[Recorder()], verbose=0, **sizes)
    with net.training(data) as n_epochs:
        net.fit_loop(data, epochs=n_epochs)
    norms = next(c.norms for _, c in net.callbacks_ if isinstance(c, Recorder))
    return norms, net.module_(torch.from_numpy(X)).detach()


def test_accumulated_batches_make_the_step_of_one():
    one, expected = trained(40, 1)
    four, scores = trained(10, 4)
    three, _ = trained(10, 3)  # the rest of an epoch makes a step, too
    assert [len(one), len(four), len(three)] == [1, 1, 2]
    assert one[0] == pytest.approx(four[0], rel=1e-5)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
