"""Choose where torch computes."""


def resolve_device(device: str) -> str:
    """Resolve the parameter `device` to an available torch device.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda" or "cuda:N".

    Returns
    -------
    str
        The device.

    Raises
    ------
    ValueError
        If the name is unknown or the machine has no such device.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ValueError(
            f"device={device!r} is not known; choose 'auto', 'cpu', 'cuda' or 'cuda:N'."
        )
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={device!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA "
            "devices; pass device='cpu', or 'auto' to use CUDA only if it is available."
        )
    return device
