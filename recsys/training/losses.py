"""What training makes small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = torch.finfo(torch.float32).tiny
_SURE = -0.05  # log of the highest probability: beyond it a wrong label would cost without bound
CHUNK = 512  # rows of logits alive at once: in bfloat16 they stay in the cache between the passes over them


class _FullSoftmax(torch.autograd.Function):
    """Cross entropy over all rows of a table, with gradients made on the way so that logits live for one chunk only.

    The softmax keeps the precision of its input (torch adds up in float32 inside), so no pass widens the logits; the
    targets' part of the gradient, the largest, is added outside the matrix products, unrounded.
    """

    @staticmethod
    def forward(ctx: Any, states_TD: Tensor, table_ID: Tensor, targets_T: Tensor, precision: torch.dtype) -> Tensor:
        T = max(1, states_TD.shape[0])
        states_TD = states_TD.float()
        narrow_TD, narrow_ID = states_TD.to(precision), table_ID.to(precision)
        grad_TD, grad_ID = torch.empty_like(states_TD), torch.zeros_like(table_ID)
        loss = states_TD.new_zeros(())
        for start in range(0, states_TD.shape[0], CHUNK):
            rows, targets = narrow_TD[start : start + CHUNK], targets_T[start : start + CHUNK, None]
            logits = rows @ narrow_ID.T
            logits[:, 0] = -torch.inf
            share = logits.softmax(1)
            loss -= share.gather(1, targets).float().clamp(min=_TINY).log().sum()
            grad_TD[start : start + CHUNK] = share @ narrow_ID
            grad_ID += share.T @ rows
        grad_TD -= table_ID[targets_T]
        grad_ID.index_add_(0, targets_T, states_TD, alpha=-1.0)
        ctx.save_for_backward(grad_TD / T, grad_ID / T)
        return loss / T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_TD, grad_ID = ctx.saved_tensors
        return grad_TD * grads[0], grad_ID * grads[0], None, None


def full_softmax(
    states_TD: Tensor, table_ID: Tensor, targets_T: Tensor, precision: torch.dtype = torch.float32
) -> Tensor:
    """Mean cross entropy of the targets (rows of the table, never row 0) over the whole table but row 0."""
    loss: Tensor = _FullSoftmax.apply(states_TD, table_ID, targets_T, precision)
    return loss


def sampled_softmax(
    states_TD: Tensor, table_ID: Tensor, targets_T: Tensor, negatives_M: Tensor, log_share_I: Tensor
) -> Tensor:
    """An estimate of `full_softmax` from M negatives drawn with probability `exp(log_share_I)`, with replacement.

    A negative's logit is corrected by how often it is drawn; the target, which is always there, needs no correction
    (arXiv 2507.09331). A negative that is the target itself does not count.
    """
    log_draws_M = log_share_I[negatives_M] + math.log(max(1, negatives_M.numel()))
    target_T1 = (states_TD * table_ID[targets_T]).sum(1, keepdim=True)
    negative_TM = states_TD @ table_ID[negatives_M].T - log_draws_M
    negative_TM = negative_TM.masked_fill(negatives_M == targets_T[:, None], -torch.inf)
    return (torch.cat([target_T1, negative_TM], 1).logsumexp(1) - target_T1[:, 0]).mean()


def ranking_loss(
    logits_BNG: Tensor, met_BG: Tensor, log_draws_BN: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0)
) -> Tensor:
    """Candidate 0 was taken, the others are negatives: listwise on the click goal, and binary for each goal.

    The other goals are learnt a second time among what was taken, where negatives do not drown what is liked.

    Negatives are not drawn evenly, so a logit is compared after subtracting how often its item is drawn. What is left
    to learn is `log p(next event is this item)` for click, and the same "and it is liked" for like, and so on: numbers
    that mean the same whatever the negatives were, and that can be added with weights.

    Args:
        logits_BNG: goal 0 is click.
        met_BG: 1 where what was done with the taken candidate meets the goal, else 0.
        log_draws_BN: log of the expected number of draws of each candidate as a negative; infinity leaves a
            candidate out.
        weights: of the goals; one of weight 0 is left out.
    """
    logits_BNG = logits_BNG.float()
    contrast_BN = logits_BNG[..., 0] - log_draws_BN
    listwise_BN = torch.cat([logits_BNG[:, :1, 0], contrast_BN[:, 1:]], 1)
    loss = -listwise_BN.log_softmax(1)[:, 0].mean()
    loss = weights[0] * (loss + _binary(contrast_BN, met_BG[:, 0]))
    taken_BG = logits_BNG[:, 0]
    for goal in range(1, logits_BNG.shape[-1]):
        if weights[goal]:
            noise = _binary(logits_BNG[..., goal] - log_draws_BN, met_BG[:, goal])
            given = _conditional(taken_BG[:, goal] - taken_BG[:, 0].detach(), met_BG[:, goal])
            loss = loss + weights[goal] * (noise + given)
    return loss


def _binary(contrast_BN: Tensor, label_B: Tensor) -> Tensor:
    """Noise-contrastive estimation: candidate 0 is real with its label, others are noise; summed over candidates."""
    labels_BN = torch.cat([label_B[:, None].float(), torch.zeros_like(contrast_BN[:, 1:])], 1)
    counted_BN = contrast_BN.isfinite()
    contrast_BN = contrast_BN.masked_fill(~counted_BN, 0.0)
    loss_BN = F.binary_cross_entropy_with_logits(contrast_BN, labels_BN, reduction="none")
    return (loss_BN * counted_BN).sum(1).mean()


def _conditional(log_p_B: Tensor, label_B: Tensor) -> Tensor:
    """Cross entropy of `exp(log_p)`, the probability that the goal is met if the item is taken."""
    below_B = log_p_B.clamp(max=_SURE)
    loss_B = torch.where(label_B.bool(), -below_B, -torch.log1p(-below_B.exp()))
    return (loss_B + (log_p_B - below_B)).mean()
