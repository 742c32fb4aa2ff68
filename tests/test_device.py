import pytest
import torch

from skpref._device import resolve_device


def test_device_auto_is_an_available_one():
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="device='cuda:x' is not known"):
        resolve_device("cuda:x")
