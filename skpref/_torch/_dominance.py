"""Hinge losses over all pairs of a session in O(n log n): sums over dominated points.

A pair of winner `i` and loser `j` costs ``max(0, high[i] - low[j]) ** power``. Sorted by soft
label, the losers of a winner are a prefix of its session, so a loss and its gradient are
sums of counts and values over ``{j : j before i, low[j] < high[i]}``: a two-dimensional dominance
sum. It is taken as merge sort counts inversions [1]_, from the top: the positions are halved again
and again, and at each halving every winner of the later half meets the losers of the earlier one
that are below it by prefix sums, all blocks of all sessions at once. What is left within the
smallest blocks is compared pair by pair.

References
----------
.. [1] Bentley, J. L. (1980). Multidimensional divide-and-conquer. Communications of the ACM 23(4).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Longest block that is compared pair by pair.
LEAF = 128
# Numbers that a step of such comparisons holds at once: they should stay in the cache.
_STEP = 2**18


def pair_loss(violation: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Return the loss of a pair by how far it falls short of the margin, and its derivative.

    Parameters
    ----------
    violation : Tensor
        Margin minus the difference of the network's scores, in units of the scores; minus
        infinity costs nothing.
    loss : {"hinge", "squared_hinge", "logistic"}
        Name of the loss.

    Returns
    -------
    value, slope : Tensor, same shape
        Loss of each pair and its derivative; that of a hinge at 0 is 0.
    """
    if loss == "logistic":
        return F.softplus(violation), torch.sigmoid(violation)
    excess = violation.relu()
    if loss == "hinge":
        return excess, (excess > 0).to(excess.dtype)
    return excess.square(), 2 * excess


def pair_sums(high: Tensor, low: Tensor, weight: Tensor, n_losers: Tensor, loss: str):
    """Sum a loss over all pairs of padded groups, pair by pair, in steps of bounded memory.

    Parameters
    ----------
    high, low : Tensor of shape (n_groups, length)
        What each row is worth as a winner and as a loser. The rows of a group are in ascending
        order of soft label.
    weight : Tensor of shape (n_groups, length)
        Row weights, 0 where padded.
    n_losers : Tensor of int64, shape (n_groups, length)
        How many rows, from the first of the group, lose to each row.
    loss : {"hinge", "squared_hinge", "logistic"}
        Loss of a pair, a function of ``high[i] - low[j]``.

    Returns
    -------
    value : Tensor, scalar
        Sum of the losses, each times the weights of both rows.
    slope : Tensor of shape (n_groups, length)
        Derivative of the sum by a shift of both `high` and `low` of a row.
    """
    n_groups, length = high.shape
    step = max(1, _STEP // length**2)
    rank = torch.arange(length, device=high.device)
    value, slope = high.new_zeros(()), torch.empty_like(high)
    for start in range(0, n_groups, step):
        part = slice(start, start + step)
        violation = high[part].unsqueeze(2) - low[part].unsqueeze(1)
        violation.masked_fill_(rank >= n_losers[part].unsqueeze(2), -torch.inf)
        losses, derivative = pair_loss(violation, loss)
        row = weight[part].unsqueeze(1)  # row times matrix is faster than matrix times column
        value += (weight[part] * torch.bmm(row, losses).squeeze(1)).sum()
        slope[part] = weight[part] * torch.bmm(row, derivative.mT - derivative).squeeze(1)
    return value, slope


def dominance_sums(
    high: Tensor,
    low: Tensor,
    weight: Tensor,
    n_losers: Tensor,
    power: int,
    *,
    strict: bool,
    leaf: int = LEAF,
):
    """Sum a hinge loss over all pairs of padded groups in O(n log n).

    Parameters
    ----------
    high, low : Tensor of float64, shape (n_groups, length)
        What each row is worth as a winner and as a loser. The rows of a group are in ascending
        order of soft label.
    weight : Tensor of float64, shape (n_groups, length)
        Row weights, 0 where padded.
    n_losers : Tensor of int64, shape (n_groups, length)
        How many rows, from the first of the group, lose to each row; never falling within a group.
    power : {1, 2}
        Power of the hinge.
    strict : bool
        Whether `high` is `low` and the losers of a row are all rows that come before it but for
        those it ties with. Then each row stands once in the order, not once as a winner and once
        as a loser.
    leaf : int
        Longest block that is compared pair by pair.

    Returns
    -------
    value : Tensor, scalar
        Sum over the pairs of ``weight[i] * weight[j] * max(0, high[i] - low[j]) ** power``.
    slope : Tensor of shape (n_groups, length)
        Derivative of that sum by a shift of both `high` and `low` of a row.
    """
    if strict:
        # Among ties, the higher value first: nothing before a row in its tie is below it.
        order = high.sort(dim=1, descending=True, stable=True).indices
        order = order.gather(1, n_losers.gather(1, order).sort(dim=1, stable=True).indices)
        elements = torch.stack([high, weight])
    else:
        # A winner stands between the last of its losers and the next row.
        rank = torch.arange(high.shape[1], device=high.device).expand_as(n_losers)
        order = torch.cat([2 * n_losers, 2 * rank + 1], dim=1).sort(dim=1, stable=True).indices
        nothing = torch.zeros_like(weight)
        as_winner, as_loser = torch.cat([weight, nothing], 1), torch.cat([nothing, weight], 1)
        elements = torch.stack([torch.cat([high, low], 1), as_winner, as_loser])
    elements = elements.gather(2, order.expand(len(elements), -1, -1))
    gain = torch.empty_like(elements[0]).scatter_(1, order, _gains(elements, power, leaf))
    # A power is homogeneous: Euler's theorem gives the sum from its derivatives. The derivatives of
    # a group add up to 0, so any centre will do, and one amid the values cancels least.
    centre = high.mean(dim=1, keepdim=True)
    if strict:
        return ((high - centre) * gain).sum(), power * gain
    won, lost = gain.split(high.shape[1], dim=1)
    value = ((high - centre) * won + (low - centre) * lost).sum()
    return value, power * (won + lost)


def _gains(elements: Tensor, power: int, longest_leaf: int) -> Tensor:
    """Weigh, for each element, what it exceeds before it less what exceeds it after it.

    `elements` is (2 or 3, n_groups, length): value and weight, or value, weight as a winner and
    weight as a loser. An excess counts by its size for power 2, as 1 for power 1.
    """
    n_groups, length = elements.shape[1:]
    n_halvings = max(0, (length - 1) // longest_leaf).bit_length()
    n_leaves = 2**n_halvings
    leaf = -(-length // n_leaves)
    elements = F.pad(elements, (0, n_leaves * leaf - length))
    value, winner, loser = (elements[k].reshape(-1, leaf) for k in (0, 1, -1))
    gain = _leaf_gains(value, winner, loser, power).view(n_groups, -1)
    if n_halvings:
        gain += _halving_gains(elements, leaf, n_halvings, power)
    return gain[:, :length]


def _leaf_gains(value: Tensor, winner: Tensor, loser: Tensor, power: int) -> Tensor:
    """Compare the elements of each leaf, (n_leaves, leaf), pair by pair."""
    n_leaves, leaf = value.shape
    gain = torch.empty_like(value)
    earlier = torch.ones(leaf, leaf, dtype=value.dtype, device=value.device).tril(-1)
    step = max(1, _STEP // leaf**2)
    for start in range(0, n_leaves, step):
        part = slice(start, start + step)
        excess = (value[part].unsqueeze(2) - value[part].unsqueeze(1)).relu_()
        excess = (excess if power == 2 else (excess > 0).to(excess.dtype)).mul_(earlier)
        won = torch.bmm(loser[part].unsqueeze(1), excess.mT).squeeze(1)
        lost = torch.bmm(winner[part].unsqueeze(1), excess).squeeze(1)
        gain[part] = winner[part] * won - loser[part] * lost
    return gain


def _halving_gains(elements: Tensor, leaf: int, n_halvings: int, power: int) -> Tensor:
    """Compare the later half of each block with the earlier one, from all to two leaves."""
    _, n_groups, length = elements.shape
    device = elements.device
    # Sorted by value; of equal values the later first, so that a tie counts in neither half.
    position = length - 1 - elements[0].flip(1).sort(dim=1, stable=True).indices
    position = (position + length * torch.arange(n_groups, device=device).unsqueeze(1)).view(-1)
    sorted_by_value = elements.flatten(1)[:, position]
    rows = torch.cat([sorted_by_value, torch.zeros_like(sorted_by_value[:1])])
    # Only here, since rounding must not decide which of two values is higher.
    rows[0] -= elements[0].mean(dim=1).repeat_interleave(length)
    for bit in reversed(range(n_halvings)):
        half = leaf << bit
        later = (position // half).bitwise_and_(1).bool()
        n_blocks = len(position) // (2 * half)
        earlier_at = (~later).nonzero().view(n_blocks, half)
        later_at = later.nonzero().view(n_blocks, half)
        place = torch.arange(n_blocks, device=device).unsqueeze(1) * (2 * half)
        place = place + torch.arange(half, device=device)
        low, high = rows[:, earlier_at], rows[:, later_at]
        # Where an element stands less its place in its half: how many of the other half are lower.
        below = _prefix_sums(low[0], low[-2], later_at - place, power)
        above = _prefix_sums(high[0], high[1], earlier_at - place, power, from_end=True)
        high[-1] += high[1] * _excess(high[0], below, power)
        low[-1] -= low[-2] * (-_excess(low[0], above, power) if power == 2 else above[0])
        rows = torch.stack([low, high], dim=2).flatten(1)
        position = torch.stack([position[earlier_at], position[later_at]], dim=1).view(-1)
    return torch.empty_like(rows[-1]).scatter_(0, position, rows[-1]).view(n_groups, length)


def _excess(value: Tensor, sums: Tensor, power: int) -> Tensor:
    """Return the sum of weights, or of weighted distances from `value`, given both sums."""
    return value * sums[0] - sums[1] if power == 2 else sums[0]


def _prefix_sums(value, weight, n_first, power: int, *, from_end=False) -> Tensor:
    """Sum weight, and for power 2 weighted value, over the first or all but the `n_first`."""
    terms = torch.stack([weight, weight * value][:power])
    sums = F.pad(terms.cumsum(2), (1, 0))
    chosen = sums.gather(2, n_first.expand(power, -1, -1))
    return sums[:, :, -1:] - chosen if from_end else chosen
