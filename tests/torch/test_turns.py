import re

import numpy as np
import pytest
import torch

from skpref import PairwisePreferenceClassifier
from skpref._torch._modules import Turns, build_module


def trained(n_features=12, **params):
    """Return a network whose context has a weight."""
    torch.manual_seed(0)
    module = Turns(n_features, 3, **params).eval()
    torch.nn.init.normal_(module.output.weight)
    return module


def test_turns_that_are_not_there_change_nothing():
    module = trained(n_turns=2)
    own, before = torch.randn(5, 4), torch.randn(5, 4)
    empty = torch.zeros(5, 4)
    alone = module(torch.cat([own, empty, empty], dim=1))
    expected = module.output(
        torch.cat([torch.relu(module.hidden(own)), torch.zeros(5, 128)], dim=1)
    )
    torch.testing.assert_close(alone, expected)
    assert not torch.allclose(alone, module(torch.cat([own, before, empty], dim=1)))


def test_an_untrained_context_has_no_weight():
    module = Turns(12, 3).eval()
    X = torch.randn(5, 12)
    changed = torch.cat([X[:, :4], torch.randn(5, 8)], dim=1)
    torch.testing.assert_close(module(X), module(changed))


def test_it_learns_what_only_the_turn_before_shows():
    rng = np.random.default_rng(0)
    own, before = rng.normal(size=(2, 600, 3)).astype(np.float32)
    y = (before[:, 0] > 0).astype(int)
    X, groups = np.hstack([own, before]), np.arange(600) // 6
    clf = PairwisePreferenceClassifier("turns", module__n_turns=1, lr=0.01, random_state=0)
    clf.fit(X[:400], y[:400], groups=groups[:400])
    assert clf.score(X[400:], y[400:]) > 0.9


@pytest.mark.parametrize("n_turns", [0, -1, True, 1.5, None])
def test_a_number_of_turns_that_is_none_is_refused(n_turns):
    with pytest.raises(ValueError, match=re.escape(f"module__n_turns={n_turns!r} must be a pos")):
        build_module("turns", {"n_turns": n_turns}, 12, 3, "float32")


def test_features_that_are_no_window_are_refused():
    message = "X has 13 features, which are not 3 equal parts"
    with pytest.raises(ValueError, match=message):
        build_module("turns", {}, 13, 3, "float32")
