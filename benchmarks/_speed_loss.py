"""Speed of the loss over all pairs of a session, against other ways to compute it."""

import itertools

import numpy as np

from benchmarks._timing import alternate, devices, exponent, measure_in_a_process, to_the_end


def loss_batch(lengths, device="cpu", seed=0):
    """Return scores and soft labels of sessions of given lengths, as the loss gets them."""
    import torch

    from skpref._torch._batches import SessionBatches, SessionDataset

    rng = np.random.RandomState(seed)
    session = np.repeat(np.arange(len(lengths)), lengths)
    soft = rng.rand(len(session), 1)
    scores = rng.randn(len(session), 1).astype(np.float32)
    dataset = SessionDataset(scores, soft, np.ones(len(session)), session)
    batches = SessionBatches(dataset, len(session), session_weight="pairs")
    [target] = batches.targets()
    move = torch.device(device)
    target["blocks"] = [{k: v.to(move) for k, v in b.items()} for b in target["blocks"]]
    scores = torch.from_numpy(scores).to(device).requires_grad_()
    return scores, torch.from_numpy(soft[:, 0].astype(np.float32)).to(device), target


def exact_loss(lengths, device="cpu"):
    """Prepare the sum over all pairs by skpref's own loss."""
    import torch

    from skpref._torch._losses import PreferenceLoss

    scores, _, target = loss_batch(lengths, device)
    criterion = PreferenceLoss(
        loss="squared_hinge",
        margin="adaptive",
        margin_scale=2.0,
        pairwise_weight=1.0,
        pointwise_weight=0.0,
        min_margin=0.0,
        class_weight=torch.ones(2),
    )
    return to_the_end(lambda: torch.autograd.grad(criterion(scores, target), scores)[0], device)


def dense_loss(lengths, device="cpu"):
    """Prepare the sum by broadcasting over sessions of one length, as plain torch would do it."""
    import torch

    scores, soft, _ = loss_batch(lengths, device)
    length = lengths[0]
    at_once = max(1, 2**26 // length**2)  # sessions, so that memory stays bounded

    def step():
        gradient = torch.zeros_like(scores)
        f = scores.view(-1, length)
        for f_some, t in zip(f.split(at_once), soft.view(-1, length).split(at_once), strict=True):
            gap = t.unsqueeze(2) - t.unsqueeze(1)
            short = (2.0 * gap - (f_some.unsqueeze(2) - f_some.unsqueeze(1))).clamp(min=0)
            loss = (short.square() * (gap > 0)).sum()
            gradient += torch.autograd.grad(loss, scores, retain_graph=True)[0]
        return gradient

    return to_the_end(step, device)


def pair_list_loss(lengths, device="cpu"):
    """Prepare the sum over a list of all pairs, as reward models are trained; the list is ready."""
    import torch

    scores, soft, _ = loss_batch(lengths, device)
    start = np.cumsum(lengths) - lengths
    pairs = [
        torch.combinations(torch.arange(s, s + n)) for s, n in zip(start, lengths, strict=True)
    ]
    first, second = (column.to(device) for column in torch.cat(pairs).T)
    up = soft[first] > soft[second]
    winner, loser = torch.where(up, first, second), torch.where(up, second, first)

    def step():
        f = scores[:, 0]
        short = 2.0 * (soft[winner] - soft[loser]) - (f[winner] - f[loser])
        return torch.autograd.grad(short.clamp(min=0).square().sum(), scores)[0]

    return to_the_end(step, device)


def loss_of_one_session(quick):
    """Sum over all pairs of one session, loss and gradient (squared hinge)."""
    rows, ours = [], []
    sizes = [10**3, 10**4, 10**5] if quick else [10**3, 10**4, 10**5, 10**6]
    for device, n in itertools.product(devices(), sizes):
        repeats = 15 if n <= 10**4 else 5
        rivals = {"ours": exact_loss([n], device)}
        seconds = alternate(rivals, repeats)
        peak = measure_in_a_process(exact_loss, [n], device)[1]
        row = {"device": device, "rows": n, "ours s": seconds["ours"], "ours MB": peak}
        if n <= 10**4:
            both = rivals | {"dense": dense_loss([n], device)}
            seconds = alternate(both, 9 if n <= 10**3 else 3)
            row |= {"ours s": seconds["ours"], "dense s": seconds["dense"]}
            row["dense / ours"] = seconds["dense"] / seconds["ours"]
            row["dense MB"] = measure_in_a_process(dense_loss, [n], device)[1]
        rows.append(row)
        if device == "cpu":
            ours.append(row["ours s"])
    cost = exponent(sizes[1:], ours[1:])
    rows.append({"device": "cpu", "rows": "exponent from 10^4 on", "ours s": cost})
    return rows


def loss_of_many_sessions(quick):
    """Sum over all pairs of many sessions, loss and gradient."""
    rows = []
    shapes = [[20] * 5000, [200] * 500] + ([] if quick else [[2000] * 50])
    for device, lengths in itertools.product(devices(), shapes):
        rivals = {
            "ours": exact_loss(lengths, device),
            "dense": dense_loss(lengths, device),
            "pair list": pair_list_loss(lengths, device),
        }
        seconds = alternate(rivals, 9 if lengths[0] <= 200 else 1)
        rows.append(
            {"device": device, "sessions": f"{len(lengths)} of {lengths[0]}"}
            | {f"{name} s": value for name, value in seconds.items()}
            | {f"{name} / ours": seconds[name] / seconds["ours"] for name in list(rivals)[1:]}
        )
    return rows


def pair_by_pair_or_by_halves(quick):
    """Sum over sessions of one length both ways, to see from which length on halves are faster."""
    import torch

    from skpref._torch._dominance import dominance_sums, pair_sums
    from skpref._torch._losses import MAX_DENSE

    rows = []
    sizes = [1, 2**15 if quick else 2**17]  # rows in all, at least one session
    lengths = [32, 64, 128, 256, 512, 1024]
    for device, n, length in itertools.product(devices(), sizes, lengths):
        shape = max(1, n // length), length
        generator = torch.Generator().manual_seed(0)
        residual = torch.randn(shape, generator=generator, dtype=torch.float64).to(device)
        n_losers = torch.arange(length, device=device).expand(shape).contiguous()
        single = residual.float()
        sides = residual, residual, torch.ones_like(residual), n_losers
        single = single, single, torch.ones_like(single), n_losers
        rivals = {
            "pair by pair": to_the_end(lambda s=single: pair_sums(*s, "squared_hinge"), device),
            "by halves": to_the_end(lambda s=sides: dominance_sums(*s, 2, strict=True), device),
        }
        seconds = alternate(rivals, 7 if n > 1 else 101)
        row = {"device": device, "sessions": shape[0], "length": length}
        row |= {f"{name} s": value for name, value in seconds.items()}
        row["pair by pair / by halves"] = seconds["pair by pair"] / seconds["by halves"]
        rows.append(row | {"used": "pair by pair" if length <= MAX_DENSE else "by halves"})
    return rows
