"""Torch losses of the student: pairs within a session, and a pointwise term beside them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A dense block of pairs holds sessions x length x length x classes numbers; more are done in turn.
_MAX_BLOCK = 2**22


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
        Pairs with a smaller soft-label gap are left out.
    session_weight : {"equal", "pairs"}
        Whether each session counts the same, or each pair.
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
        session_weight,
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
        self.session_weight = session_weight
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
        total = scores.sum() * 0.0
        if self.pairwise_weight:
            pairwise = self._sampled if "winner" in target else self._dense
            total = total + self.pairwise_weight * pairwise(scores, target)
        if self.pointwise_weight:
            total = total + self.pointwise_weight * self._pointwise(scores, target)
        return total

    def _violation(self, gap: Tensor, difference: Tensor) -> Tensor:
        required = self.margin_scale * (gap if self.margin == "adaptive" else 1.0)
        return required - difference

    def _sampled(self, scores: Tensor, target: dict[str, Tensor]) -> Tensor:
        winner, loser, column = target["winner"], target["loser"], target["class_index"]
        difference = scores[winner, column] - scores[loser, column]
        weight = target["pair_weight"] * target["weight"][winner] * target["weight"][loser]
        losses = pair_loss(self._violation(target["margin"], difference), self.loss)
        return (weight * losses).sum() / weight.sum().clamp(min=1e-12)

    def _dense(self, scores: Tensor, target: dict[str, Tensor]) -> Tensor:
        layout = target["layout"]
        n_sessions, length = layout.shape
        # Padded sessions are cut into chunks so that memory stays bounded whatever the batch.
        chunk = max(1, _MAX_BLOCK // (length * length * scores.shape[1]))
        parts = [
            self._dense_block(scores, target, layout[start : start + chunk])
            for start in range(0, n_sessions, chunk)
        ]
        loss = torch.cat([part[0] for part in parts])
        weight = torch.cat([part[1] for part in parts])
        if self.session_weight == "equal":
            has_pairs = weight > 0
            per_session = loss / torch.where(has_pairs, weight, torch.ones_like(weight))
            return per_session.sum() / has_pairs.sum().clamp(min=1)
        return loss.sum() / weight.sum().clamp(min=1e-12)

    def _dense_block(self, scores, target, layout) -> tuple[Tensor, Tensor]:
        """Sum of losses and of weights over the valid pairs of each padded session."""
        row = layout.clamp(min=0)
        soft = target["soft"][row]
        # Padding weighs nothing.
        weight = target["weight"][row] * (layout >= 0)
        score = scores[row]
        gap = soft.unsqueeze(2) - soft.unsqueeze(1)
        valid = gap > 0 if self.min_margin <= 0 else gap >= self.min_margin
        pair_weight = (weight.unsqueeze(2) * weight.unsqueeze(1)).unsqueeze(3) * valid
        violation = self._violation(gap, score.unsqueeze(2) - score.unsqueeze(1))
        losses = pair_weight * pair_loss(violation, self.loss)
        return losses.sum(dim=(1, 2, 3)), pair_weight.sum(dim=(1, 2, 3))

    def _pointwise(self, scores: Tensor, target: dict[str, Tensor]) -> Tensor:
        soft, weight = target["soft"], target["weight"]
        scores = self.scale * scores + self.offsets.to(scores)
        if scores.shape[1] == 1:
            scores = torch.cat([torch.zeros_like(scores), scores], dim=1)
            soft = torch.cat([1 - soft, soft], dim=1)
        class_weight = self.class_weight.to(scores)
        losses = -(class_weight * soft * F.log_softmax(scores, dim=1)).sum(dim=1)
        return (weight * losses).sum() / weight.sum().clamp(min=1e-12)
