"""Experts that decide by themselves which tokens they take; there is no gate that compares them.

Expert e projects a token onto `rank` directions of its own. How strongly they answer, `scale * rms - offset`, is its
self-activation: it takes the token where that passes the block's threshold, and the same projection is the first half
of its hidden layer, so deciding costs nothing that computing would not. The activation is also the weight of what the
expert adds. Source: Routing-Free Mixture-of-Experts (arXiv 2604.00801). There the density follows from the coefficient
of the balance loss; here the threshold itself follows the activations, which holds the density within a few steps and
is what a load price can be added to.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.model.config import ModelConfig
from router.shapes import OwnThreshold

MEMORY = 0.9  # weight of the past in the moving average of the threshold


class SelfExperts(nn.Module):
    """E SwiGLU experts whose gating half is of low rank and says how much they want a token.

    Attributes:
        threshold: what an activation has to pass, 0-d; learnt by `hold_density`, saved with the weights.
        heard: activations of the last training batch with their gradient, and which of them passed; None before it.
    """

    threshold: Tensor
    heard: tuple[Tensor, Tensor] | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, width, rank, hidden = config.experts, config.width, config.gate_rank, config.expert_hidden
        self.k, self.slots = config.k, config.slots
        self.probe_EDR = nn.Parameter(torch.empty(experts, width, rank))
        self.gate_ERH = nn.Parameter(torch.empty(experts, rank, hidden))
        self.value_EDH = nn.Parameter(torch.empty(experts, width, hidden))
        self.down_EHD = nn.Parameter(torch.empty(experts, hidden, width))
        for weight in self.parameters():
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        self.scale_E = nn.Parameter(torch.ones(experts))
        self.offset_E = nn.Parameter(torch.zeros(experts))
        self.register_buffer("threshold", torch.ones(()))

    @property
    def up_ED2H(self) -> Tensor:
        """The hidden layer as plain SwiGLU experts have it."""
        return torch.cat([self.probe_EDR @ self.gate_ERH, self.value_EDH], dim=2)

    @property
    def own(self) -> OwnThreshold:
        """What policy `threshold` compares activations with."""
        return OwnThreshold(self.threshold, self.slots)

    def activations(self, x_TD: Tensor) -> Tensor:
        """Self-activations, float32 (T, E), >= 0; in training they also move the threshold."""
        E, D, R = self.probe_EDR.shape
        with torch.autocast(x_TD.device.type, enabled=False):
            answers_TER = (x_TD.float() @ self.probe_EDR.permute(1, 0, 2).reshape(D, E * R)).view(-1, E, R)
            strength_TE = (answers_TER.square().mean(-1) + 1e-12).sqrt()
            scores_TE = torch.relu(self.scale_E * strength_TE - self.offset_E)
        if self.training:
            self.hold_density(scores_TE)
            self.heard = scores_TE, scores_TE.detach() > self.threshold
        return scores_TE

    @torch.no_grad()
    def hold_density(self, scores_TE: Tensor) -> None:
        """Move the threshold towards the one that suits this batch."""
        if scores_TE.shape[0]:
            self.threshold.lerp_(self.threshold_for(scores_TE), 1 - MEMORY)

    def threshold_for(self, scores_TE: Tensor) -> Tensor:
        """What T * k activations of T > 0 tokens pass, those beyond a token's slots not counted."""
        best_N = scores_TE.topk(self.slots, dim=1).values.flatten()
        rest = best_N.numel() - self.k * scores_TE.shape[0]
        return best_N.kthvalue(rest).values if rest else torch.zeros_like(self.threshold)


def activation_weights(scores_TE: Tensor, expert_ids_TK: Tensor) -> Tensor:
    """Weight of each slot: the activation itself, not normalised over a token's experts; 0 where not used."""
    return scores_TE.gather(1, expert_ids_TK.clamp_min(0)) * (expert_ids_TK >= 0)
