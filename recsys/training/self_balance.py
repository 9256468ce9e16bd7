"""Balance of experts that decide by themselves: none is wanted by all tokens, and no token wants them all.

Also the last setting of their thresholds. Source: Routing-Free Mixture-of-Experts (arXiv 2604.00801).
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.model.ranker import MoEBlock
from recsys.model.recommender import Recommender
from recsys.model.self_gate import SelfExperts
from recsys.training.examples import Catalogue
from recsys.training.protocol import Cases
from recsys.training.scoring import model_ranks
from router.router import Router
from router.shapes import OwnThreshold, RoutingPlan


def activation_balance(scores_TE: Tensor, active_TE: Tensor, mix: float) -> Tensor:
    """`mix` of the balance over experts and the rest of that over tokens, 0-d; differentiable in the scores.

    Over experts: the mean over experts of (share of tokens it takes) * (its mean activation). Over tokens: the mean
    over tokens of (share of experts that take it) * (its mean activation).

    Args:
        scores_TE: activations >= 0, of the experts of all blocks.
        active_TE: which of them passed the threshold; without a gradient.
        mix: 1 = experts alone, 0 = tokens alone.
    """
    taken_TE = active_TE.to(scores_TE.dtype)
    by_expert = (taken_TE.mean(0) * scores_TE.mean(0)).mean()
    by_token = (taken_TE.mean(1) * scores_TE.mean(1)).mean()
    return mix * by_expert + (1 - mix) * by_token


def balance_of(model: Recommender, mix: float) -> Tensor:
    """`activation_balance` of what the blocks heard in the last training batch, all experts of all blocks together."""
    heard = [experts.heard for experts in _deciding(model) if experts.heard is not None]
    scores, active = zip(*heard, strict=True)
    return activation_balance(torch.cat(scores, 1), torch.cat(active, 1), mix)


def settle_density(model: Recommender, catalogue: Catalogue, cases: Cases, candidates: int) -> None:
    """Set each threshold so that k experts per token are active, on average, among the candidates that are served.

    Training holds that mean among candidates of its own, easier ones among them. Does nothing for a softmax gate or
    without cases. One pass per block, the first block first: what it lets pass changes what the next one hears.
    """
    for layer, experts in enumerate(_deciding(model) if len(cases) else ()):
        router = _Listening(model, layer)
        model_ranks(model, catalogue, cases, router, candidates)
        experts.threshold.copy_(experts.threshold_for(torch.cat(router.heard)))


class _Listening(Router):
    """No limits, and the scores of one block are kept."""

    def __init__(self, model: Recommender, layer: int) -> None:
        config = model.config
        super().__init__(
            "threshold", capacity_factor=float(config.experts), layers=config.moe_layers, experts=config.experts
        )
        self._layer = layer
        self.heard: list[Tensor] = []

    def route(
        self, layer: int, scores_TE: Tensor, k: int, bias_E: Tensor, own: OwnThreshold | None = None
    ) -> RoutingPlan:
        if layer == self._layer:
            self.heard.append(scores_TE)
        return super().route(layer, scores_TE, k, bias_E, own)


def _deciding(model: Recommender) -> list[SelfExperts]:
    blocks = [block for block in model.ranker.blocks if isinstance(block, MoEBlock)]
    return [block.experts for block in blocks if isinstance(block.experts, SelfExperts)]
