"""Torch losses of the student: pairs within a session, and a pointwise term beside them."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from skpref._torch._dominance import dominance_sums, pair_loss, pair_sums

# Longest session whose pairs are formed one by one. Longer ones take the sums of O(n log n), or
# sampled pairs with the logistic loss. Between what is best for a batch of one session, some 300,
# and for one of many, some 100 (benchmarks/results/speed.md, pair by pair or by halves).
MAX_DENSE = 128
# Losers that the logistic loss draws for each winner of a longer session.
N_DRAWS = 64
# Winners whose draws are held at once.
_STEP = 2**14


class _WithGradient(torch.autograd.Function):
    """A loss whose gradient by the scores is known along with its value."""

    @staticmethod
    def forward(ctx, scores: Tensor, value: Tensor, gradient: Tensor):
        ctx.save_for_backward(gradient)
        return value.to(scores.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


def _all_pairs(scores: Tensor, target: dict, criterion: "PreferenceLoss"):
    """Weighted sum of the losses of all pairs, and its gradient by the scores."""
    # The first entry, without weight, stands for the padding.
    student = F.pad(scores.reshape(-1), (1, 0))
    value, gradient = student.new_zeros(()), torch.zeros_like(student)
    for block in target["blocks"]:
        entry = block["entry"]
        some, slope = _sum_pairs(student.take(entry), block, criterion)
        value += some
        # A shift of both sides of an entry is a shift of its score the other way.
        gradient.put_(entry, slope.to(gradient))
    weight = criterion.pairwise_weight
    return weight * value, -weight * gradient[1:].view_as(scores)


def _given_pairs(scores: Tensor, target: dict[str, Tensor], criterion: "PreferenceLoss"):
    """Weighted mean of the losses of given pairs, and its gradient by the scores."""
    column = target["class_index"]
    winner, loser = (target["winner"], column), (target["loser"], column)
    gap = target["margin"] if criterion.margin == "adaptive" else 1.0
    violation = criterion.margin_scale * gap - (scores[winner] - scores[loser])
    losses, slope = pair_loss(violation, criterion.loss)
    share = target["pair_weight"] * target["weight"][winner[0]] * target["weight"][loser[0]]
    share = share * (criterion.pairwise_weight / share.sum().clamp(min=1e-12))
    gradient = torch.zeros_like(scores)
    gradient.index_put_(winner, -share * slope, accumulate=True)
    gradient.index_put_(loser, share * slope, accumulate=True)
    return (share * losses).sum(), gradient


def _sum_pairs(student: Tensor, block: dict[str, Tensor], criterion: "PreferenceLoss"):
    """Loss of all pairs of a block, and its derivative by a shift of both sides of each entry."""
    long = student.shape[1] > MAX_DENSE
    if long and criterion.loss != "logistic":
        student = student.double()  # sums over many rows
    teacher, weight = block["teacher"].to(student), block["weight"].to(student)
    adaptive = criterion.margin == "adaptive"
    low = criterion.margin_scale * teacher - student if adaptive else -student
    high = low if adaptive else low + criterion.margin_scale
    sides = high, low, weight, block["n_losers"]
    if not long:
        return pair_sums(*sides, criterion.loss)
    if criterion.loss == "logistic":
        return _sampled_sums(*sides)
    power = 2 if criterion.loss == "squared_hinge" else 1
    return dominance_sums(*sides, power, strict=adaptive and criterion.min_margin <= 0)


def _sampled_sums(high: Tensor, low: Tensor, weight: Tensor, n_losers: Tensor):
    """Estimate `pair_sums` of the logistic loss without bias from random losers of each winner."""
    n_groups, length = high.shape
    first = length * torch.arange(n_groups, device=high.device)
    first = first.repeat_interleave(length).unsqueeze(1)
    high, low, weight, n_losers = (side.flatten() for side in (high, low, weight, n_losers))
    value, slope = high.new_zeros(()), torch.zeros_like(high)
    for part in torch.arange(len(high), device=high.device).split(_STEP):
        n = n_losers[part].unsqueeze(1)
        draw = torch.rand(len(part), N_DRAWS, dtype=torch.float64, device=high.device)
        # A winner without losers draws what stands for nothing; rounding must not draw past n.
        loser = first[part] + torch.minimum((draw * n).long(), (n - 1).clamp(min=0))
        losses, derivative = pair_loss(high[part].unsqueeze(1) - low[loser], "logistic")
        # Each pair drawn stands for n / N_DRAWS.
        pair_weight = weight[part].unsqueeze(1) * weight[loser] * n / N_DRAWS
        value += (pair_weight * losses).sum()
        derivative = pair_weight * derivative
        slope[part] += derivative.sum(1)
        slope.index_add_(0, loser.flatten(), -derivative.flatten())
    return value, slope.view(n_groups, length)


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
    hinge losses are summed over all pairs in O(n log n) and double precision
    (`skpref._torch._dominance`), and the logistic loss is estimated without bias from `N_DRAWS`
    random losers of each row.
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
            What `skpref._torch._net.SessionBatches` yields beside the features.

        Returns
        -------
        Tensor, scalar
            The weighted sum of the two terms; 0 for a batch without pairs.
        """
        known = scores.detach()
        value, gradient = known.new_zeros(()), torch.zeros_like(known)
        if self.pairwise_weight:
            every = _all_pairs if "blocks" in target else _given_pairs
            value, gradient = every(known, target, self)
        if self.pointwise_weight:
            cross_entropy, error = self._pointwise(known, target)
            value, gradient = value + cross_entropy, gradient + error
        return _WithGradient.apply(scores, value, gradient)

    def _pointwise(self, scores: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the rows with their soft labels, and its gradient by the scores."""
        soft, weight = target["soft"].to(scores), target["weight"].to(scores)
        logits = self.scale * scores + self.offsets.to(scores)
        if scores.shape[1] == 1:
            logits = F.pad(logits, (1, 0))
            soft = torch.cat([1 - soft, soft], dim=1)
        soft = soft * self.class_weight.to(scores)
        total = weight.sum().clamp(min=1e-12) / self.pointwise_weight
        share = (weight / total).unsqueeze(1)
        log_prob = F.log_softmax(logits, dim=1)
        value = -(share * soft * log_prob).sum()
        error = log_prob.exp() * soft.sum(dim=1, keepdim=True) - soft
        return value, self.scale * (share * error)[:, -scores.shape[1] :]
