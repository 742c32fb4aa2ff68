"""Losses of the network: pairs within a session, and a pointwise term beside them."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from skpref._torch._dominance import LEAF, dominance_sums, pair_loss, pair_sums

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
    """Sum the weighted losses of all pairs; return the sum and its gradient by the scores."""
    # The first entry, without weight, represents the padding.
    flat = F.pad(scores.reshape(-1), (1, 0))
    value, gradient = flat.new_zeros(()), torch.zeros_like(flat)
    for block in target["blocks"]:
        entry = block["entry"]
        sides = _sides(flat.take(entry), block, criterion)
        block_value, slope = criterion.choose_sums(entry.shape[1])(*sides)
        value += block_value
        # A shift of both sides of an entry is a shift of its score the other way.
        gradient.put_(entry, slope.to(gradient))
    weight = criterion.pairwise_weight * criterion.n_terms
    return weight * value, -weight * gradient[1:].view_as(scores)


def _sides(scores: Tensor, block: dict[str, Tensor], criterion: "PreferenceLoss"):
    """Return what each entry of a block is worth as a winner and as a loser, and its weight."""
    # Pairs do not depend on an offset that a group shares, and rounding does.
    scores = scores - scores[:, :1]
    if criterion.sums_by_halves(scores.shape[1]):
        scores = scores.double()  # sums over many rows
    soft, weight = block["soft"].to(scores), block["weight"].to(scores)
    if criterion.margin == "adaptive":
        high = low = criterion.margin_scale * soft - scores
    else:
        low = -scores
        high = low + criterion.margin_scale
    return high, low, weight, block["n_losers"]


def _given_pairs(scores: Tensor, target: dict[str, Tensor], criterion: "PreferenceLoss"):
    """Return the weighted mean of the losses of given pairs, and its gradient by the scores."""
    column = target["class_index"]
    winner, loser = (target["winner"], column), (target["loser"], column)
    gap = target["margin"] if criterion.margin == "adaptive" else 1.0
    violation = criterion.margin_scale * gap - (scores[winner] - scores[loser])
    losses, slope = pair_loss(violation, criterion.loss)
    share = target["pair_weight"] * target["weight"][winner[0]] * target["weight"][loser[0]]
    pairwise_weight = criterion.pairwise_weight * criterion.n_terms
    share = share * (pairwise_weight / share.sum().clamp(min=1e-12))
    gradient = torch.zeros_like(scores)
    gradient.index_put_(winner, -share * slope, accumulate=True)
    gradient.index_put_(loser, share * slope, accumulate=True)
    return (share * losses).sum(), gradient


def sampled_sums(
    high: Tensor,
    low: Tensor,
    weight: Tensor,
    n_losers: Tensor,
    *,
    n_draws: int = N_DRAWS,
    step: int = _STEP,
):
    """Estimate `pair_sums` of the logistic loss without bias from random losers of each winner.

    Parameters
    ----------
    high, low, weight, n_losers : Tensor of shape (n_groups, length)
        As `pair_sums` takes them.
    n_draws : int
        Losers drawn for each winner.
    step : int
        Winners whose draws are held at once.

    Returns
    -------
    value, slope : Tensor
        Estimates of what `pair_sums` returns.
    """
    n_groups, length = high.shape
    first = length * torch.arange(n_groups, device=high.device)
    first = first.repeat_interleave(length).unsqueeze(1)
    high, low, weight, n_losers = (side.flatten() for side in (high, low, weight, n_losers))
    value, slope = high.new_zeros(()), torch.zeros_like(high)
    for part in torch.arange(len(high), device=high.device).split(step):
        n = n_losers[part].unsqueeze(1)
        draw = torch.rand(len(part), n_draws, dtype=torch.float64, device=high.device)
        # What a winner without losers draws weighs nothing; rounding must not draw past n.
        loser = first[part] + torch.minimum((draw * n).long(), (n - 1).clamp(min=0))
        losses, derivative = pair_loss(high[part].unsqueeze(1) - low[loser], "logistic")
        # Each pair drawn represents n / n_draws pairs.
        pair_weight = weight[part].unsqueeze(1) * weight[loser] * n / n_draws
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
        Margin in units of the network's scores.
    pairwise_weight, pointwise_weight : float
        Weights of the two terms.
    min_margin : float
        Least soft-label gap of the valid pairs; whether it is 0 decides which sum is taken.
    class_weight : Tensor of shape (n_classes,) or (n_labels, 2)
        Weight of each class in the pointwise term. With two columns each score is of a label that
        may apply beside others, and they weigh rows where it is absent and where it applies.
    output : Output, default=None
        Scale and offsets (tensors) that make logits of the scores in the pointwise term. None takes
        the scores as logits.
    max_dense : int
        Longest session whose pairs are formed one by one.
    n_draws : int
        Losers that the logistic loss draws for each winner of a longer session.
    leaf : int
        Longest block that `dominance_sums` compares pair by pair.

    Notes
    -----
    Each row goes through the network once; all its pairs are formed from its scores. Over the
    valid pairs :math:`t_i > t_j` of one session and class the term is the mean of
    :math:`\ell(s (t_i - t_j) - (f_i - f_j))`, with soft labels t, scores f and margin scale s.

    Pairs of sessions of up to `max_dense` rows are formed one by one. In longer sessions the
    hinge losses are summed over all pairs in O(n log n) and double precision
    (`skpref._torch._dominance`), and the logistic loss is estimated without bias from `n_draws`
    random losers of each row.

    With several labels per row, the terms are sums over the labels, and a label is left out of the
    rows where its soft label is NaN.
    """

    class_weight: Tensor

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
        output=None,
        max_dense=MAX_DENSE,
        n_draws=N_DRAWS,
        leaf=LEAF,
    ):
        super().__init__()
        self.loss = loss
        self.margin = margin
        self.margin_scale = margin_scale
        self.pairwise_weight = pairwise_weight
        self.pointwise_weight = pointwise_weight
        self.min_margin = min_margin
        self.output = output
        self.max_dense = max_dense
        self.n_draws = n_draws
        self.leaf = leaf
        self.register_buffer("class_weight", class_weight)
        self.multilabel = class_weight.ndim == 2
        # The mean over all pairs is taken once for each label, as is the mean over all rows.
        self.n_terms = len(class_weight) if self.multilabel else 1

    def sums_by_halves(self, length: int) -> bool:
        """Return whether pairs of groups of this length are summed in O(n log n)."""
        return length > self.max_dense and self.loss != "logistic"

    def choose_sums(self, length: int) -> Callable:
        """Return the function that sums the losses of the pairs of groups of this length."""
        if length <= self.max_dense:
            return partial(pair_sums, loss=self.loss)
        if not self.sums_by_halves(length):
            return partial(sampled_sums, n_draws=self.n_draws)
        power = 2 if self.loss == "squared_hinge" else 1
        strict = self.margin == "adaptive" and self.min_margin <= 0
        return partial(dominance_sums, power=power, strict=strict, leaf=self.leaf)

    def forward(self, scores: Tensor, target: dict[str, Tensor]) -> Tensor:
        """Compute the loss of one batch.

        Parameters
        ----------
        scores : Tensor of shape (n_rows, n_scores)
            The network's scores; one column for a binary task.
        target : dict of Tensor
            The target that `SessionBatches` yields beside the features.

        Returns
        -------
        Tensor, scalar
            The weighted sum of the two terms; 0 for a batch without pairs.
        """
        values = scores.detach()
        value, gradient = values.new_zeros(()), torch.zeros_like(values)
        if self.pairwise_weight:
            sum_pairs = _all_pairs if "blocks" in target else _given_pairs
            value, gradient = sum_pairs(values, target, self)
        if self.pointwise_weight:
            pointwise = self._labels_apart if self.multilabel else self._pointwise
            cross_entropy, error = pointwise(values, target)
            value, gradient = value + cross_entropy, gradient + error
        return _WithGradient.apply(scores, value, gradient)

    def _pointwise(self, scores: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of rows with soft labels, and its gradient by the scores."""
        soft, weight = target["soft"].to(scores), target["weight"].to(scores)
        logits = scores if self.output is None else self.output.logits(scores)
        if scores.shape[1] == 1:
            logits = F.pad(logits, (1, 0))
            soft = torch.cat([1 - soft, soft], dim=1)
        soft = soft * self.class_weight.to(scores)
        total = weight.sum().clamp(min=1e-12) / self.pointwise_weight
        share = (weight / total).unsqueeze(1)
        log_prob = F.log_softmax(logits, dim=1)
        value = -(share * soft * log_prob).sum()
        error = log_prob.exp() * soft.sum(dim=1, keepdim=True) - soft
        gradient = (share * error)[:, -scores.shape[1] :]
        return value, gradient if self.output is None else self.output.scale * gradient

    def _labels_apart(self, scores: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the sum over the labels of their binary cross-entropy, and its gradient."""
        soft, weight = target["soft"].to(scores), target["weight"].to(scores)
        logits = scores if self.output is None else self.output.logits(scores)
        known = ~soft.isnan()
        share = torch.where(known, weight.unsqueeze(1), 0.0)
        share = share * (self.pointwise_weight / share.sum(dim=0).clamp(min=1e-12))
        applies = torch.where(known, soft, 0.0)
        absent, present = self.class_weight.to(scores).T.unsqueeze(1)
        absent, present = absent * (1 - applies), present * applies
        value = -(share * (present * F.logsigmoid(logits) + absent * F.logsigmoid(-logits))).sum()
        gradient = share * ((present + absent) * logits.sigmoid() - present)
        return value, gradient if self.output is None else self.output.scale * gradient
