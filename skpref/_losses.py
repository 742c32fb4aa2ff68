"""Torch losses of the student: pairs within a session, and a pointwise term beside them."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from skpref._dominance import dominance_sums, pair_sums

# Longest session whose pairs are formed one by one. Longer ones take the sums of O(n log n), or
# sampled pairs with the logistic loss (crossover in benchmarks/results/speed.md).
MAX_DENSE = 256
# Losers that the logistic loss draws for each winner of a longer session.
N_DRAWS = 64
# Winners whose draws are held at once.
_STEP = 2**14


def pair_loss(violation: Tensor, loss: str) -> Tensor:
    """Loss of a pair by how far the student falls short of the margin.

    Parameters
    ----------
    violation : Tensor
        Margin minus the student's score difference, in units of the student's scores.
    loss : {"hinge", "squared_hinge", "logistic"}
        Name of the loss.

    Returns
    -------
    Tensor, same shape
        Loss of each pair.
    """
    if loss == "logistic":
        return F.softplus(violation)
    hinge = violation.clamp(min=0)
    return hinge if loss == "hinge" else hinge.square()


class _AllPairs(torch.autograd.Function):
    """Weighted sum of the losses of all valid pairs, its gradient computed along with it."""

    @staticmethod
    def forward(ctx, scores: Tensor, blocks: list[dict[str, Tensor]], criterion: "PreferenceLoss"):
        # The last entry, without weight, stands for the padding.
        student = F.pad(scores.detach().reshape(-1), (0, 1)).double()
        total, gradient = student.new_zeros(()), torch.zeros_like(student)
        for block in blocks:
            value, slope = _sum_pairs(student[block["entry"]], block, criterion)
            total += value
            # A shift of both sides of an entry is a shift of its score the other way.
            gradient[block["entry"]] = -criterion.pairwise_weight * slope
        ctx.save_for_backward(gradient[:-1].view_as(scores).to(scores.dtype))
        return (criterion.pairwise_weight * total).to(scores.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


def _sum_pairs(student: Tensor, block: dict[str, Tensor], criterion: "PreferenceLoss"):
    """Loss of all pairs of a block, and its derivative by a shift of both sides of each entry."""
    low = criterion.margin_scale * block["teacher"] - student
    high = low
    if criterion.margin == "fixed":
        low = -student
        high = low + criterion.margin_scale
    sides = high, low, block["weight"], block["n_losers"]
    if student.shape[1] <= MAX_DENSE:
        return pair_sums(*sides, criterion.loss)
    if criterion.loss == "logistic":
        return _sampled_sums(*sides)
    strict = criterion.margin == "adaptive" and criterion.min_margin <= 0
    return dominance_sums(*sides, 2 if criterion.loss == "squared_hinge" else 1, strict=strict)


def _sampled_sums(high: Tensor, low: Tensor, weight: Tensor, n_losers: Tensor):
    """Estimate `pair_sums` of the logistic loss without bias from random losers of each winner."""
    value, slope = high.new_zeros(()), torch.zeros_like(high)
    length = high.shape[1]
    for group in range(len(high)):
        for start in range(0, length, _STEP):
            part = slice(start, start + _STEP)
            n = n_losers[group, part].unsqueeze(1)
            draw = torch.rand(len(n), N_DRAWS, dtype=high.dtype, device=high.device)
            loser = (draw * n).long().clamp_(max=length - 1)
            violation = high[group, part].unsqueeze(1) - low[group, loser]
            # Each drawn pair stands for n / N_DRAWS; a winner without losers for none.
            pair_weight = weight[group, part].unsqueeze(1) * weight[group, loser] * n / N_DRAWS
            value += (pair_weight * F.softplus(violation)).sum()
            derivative = pair_weight * torch.sigmoid(violation)
            slope[group, part] += derivative.sum(1)
            slope[group].index_add_(0, loser.view(-1), -derivative.view(-1))
    return value, slope


class PreferenceLoss(nn.Module):
    r"""Pairwise preference loss of a batch of whole sessions, plus a pointwise term.

    Parameters
    ----------
    loss : {"hinge", "squared_hinge", "logistic"}
        Loss of a pair.
    margin : {"adaptive", "fixed"}
        Whether a pair must be apart by `margin_scale` times its soft-label gap, or by
        `margin_scale` itself.
    margin_scale : float
        Margin in units of the student's scores.
    pairwise_weight, pointwise_weight : float
        Weights of the two terms.
    min_margin : float
        Least soft-label gap of the pairs that come; whether it is 0 decides which sum is taken.
    class_weight : Tensor of shape (n_classes,)
        Weight of each class in the pointwise term.
    scale : float, default=1.0
        Factor on the scores that makes them logits in the pointwise term.
    offsets : Tensor of shape (n_scores,) or float, default=0.0
        Added to the scaled scores.

    Notes
    -----
    Each row goes through the network once; all its pairs are formed from its scores. Over the
    valid pairs :math:`t_i > t_j` of one session and class the term is the mean of
    :math:`\ell(s (t_i - t_j) - (f_i - f_j))`, with soft labels t, scores f and margin scale s.

    Pairs of sessions of up to `MAX_DENSE` rows are formed one by one. In longer sessions the
    hinge losses are summed over all pairs in O(n log n) (`skpref._dominance`), and the logistic
    loss is estimated without bias from `N_DRAWS` random losers of each row. Sums are in double
    precision either way.
    """

    class_weight: Tensor
    offsets: Tensor

    def __init__(
        self,
        *,
        loss,
        margin,
        margin_scale,
        pairwise_weight,
        pointwise_weight,
        min_margin,
        class_weight,
        scale=1.0,
        offsets=0.0,
    ):
        super().__init__()
        self.loss = loss
        self.margin = margin
        self.margin_scale = margin_scale
        self.pairwise_weight = pairwise_weight
        self.pointwise_weight = pointwise_weight
        self.min_margin = min_margin
        self.scale = scale
        self.register_buffer("class_weight", class_weight)
        self.register_buffer("offsets", torch.as_tensor(offsets))

    def forward(self, scores: Tensor, target: dict[str, Tensor]) -> Tensor:
        """Compute the loss of one batch.

        Parameters
        ----------
        scores : Tensor of shape (n_rows, n_scores)
            The student's scores; one column for a binary task.
        target : dict of Tensor
            What `skpref._net.SessionBatches` yields beside the features.

        Returns
        -------
        Tensor, scalar
            The weighted sum of the two terms; 0 for a batch without pairs.
        """
        total = 0.0
        if self.pairwise_weight:
            if "winner" in target:
                total = self.pairwise_weight * self._sampled(scores, target)
            else:
                total = _AllPairs.apply(scores, target["blocks"], self)
        if self.pointwise_weight:
            total = total + self.pointwise_weight * self._pointwise(scores, target)
        return total if torch.is_tensor(total) else scores.sum() * total

    def _sampled(self, scores: Tensor, target: dict[str, Tensor]) -> Tensor:
        winner, loser, column = target["winner"], target["loser"], target["class_index"]
        gap = target["margin"] if self.margin == "adaptive" else 1.0
        violation = self.margin_scale * gap - (scores[winner, column] - scores[loser, column])
        weight = target["pair_weight"] * target["weight"][winner] * target["weight"][loser]
        losses = pair_loss(violation, self.loss)
        return (weight * losses).sum() / weight.sum().clamp(min=1e-12)

    def _pointwise(self, scores: Tensor, target: dict[str, Tensor]) -> Tensor:
        soft, weight = target["soft"].to(scores), target["weight"].to(scores)
        scores = self.scale * scores + self.offsets.to(scores)
        if scores.shape[1] == 1:
            scores = F.pad(scores, (1, 0))
            soft = torch.cat([1 - soft, soft], dim=1)
        class_weight = self.class_weight.to(scores)
        losses = F.cross_entropy(scores, soft, weight=class_weight, reduction="none")
        return weight @ losses / weight.sum().clamp(min=1e-12)
