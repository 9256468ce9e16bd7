"""Candidates scored for every goal: attention over the history, then Mixture-of-Experts blocks, then one head a goal.

A candidate is one token. Each block runs one shared expert on every token, the floor of quality when routed experts
are scarce, and adds k of E routed experts (SwiGLU), which the router picks from the gate's scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.ops import moe_experts
from recsys.model.config import ModelConfig
from recsys.model.encoder import Encoded
from router.router import Router
from router.shapes import RoutingPlan


@dataclass(frozen=True, slots=True)
class Ranked:
    """Scores of candidates.

    Attributes:
        logits_BNG: one logit per goal, in the order of `ModelConfig.goals`.
        plans: what the router decided in each block, over the tokens: the candidates that are no padding, in order.
        tokens_BN: token of each candidate, -1 for padding; int64.
    """

    logits_BNG: Tensor
    plans: tuple[RoutingPlan, ...]
    tokens_BN: Tensor


class HistoryAttention(nn.Module):
    """What in the history speaks for a candidate: multi-head attention of candidates over events and their states."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(2 * width, 2 * width)

    def forward(self, candidates_BND: Tensor, encoded: Encoded) -> Tensor:
        B, N, D = candidates_BND.shape
        history_BLD = torch.cat([encoded.states_BLD, encoded.events_BLD], dim=-1)
        q = self.query(candidates_BND).view(B, N, self.heads, D // self.heads).transpose(1, 2)
        k, v = (
            self.key_value(history_BLD)
            .view(B, history_BLD.shape[1], 2, self.heads, D // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        seen = encoded.mask_BL[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(B, N, D)


class Experts(nn.Module):
    """Weights of E SwiGLU experts; `up` has the half that is gated by silu first."""

    def __init__(self, experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.up_ED2H = nn.Parameter(torch.empty(experts, width, 2 * hidden))
        self.down_EHD = nn.Parameter(torch.empty(experts, hidden, width))
        for weight in self.parameters():
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


class MoEBlock(nn.Module):
    """x + shared expert + k routed experts, behind one norm."""

    bias_E: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.k = config.k
        self.gate_noise = config.gate_noise
        self.expert_dropout = config.expert_dropout
        self.norm = nn.LayerNorm(config.width)
        self.gate = nn.Linear(config.width, config.experts, bias=False)
        self.shared_in = nn.Linear(config.width, 2 * config.expert_hidden, bias=False)
        self.shared_out = nn.Linear(config.expert_hidden, config.width, bias=False)
        self.experts = Experts(config.experts, config.width, config.expert_hidden)
        self.register_buffer("bias_E", torch.zeros(config.experts))

    def forward(self, x_TD: Tensor, layer: int, router: Router) -> tuple[Tensor, RoutingPlan]:
        normed_TD = self.norm(x_TD)
        scores_TE = self._scores(normed_TD)
        plan = router.route(layer, scores_TE, self.k, self.bias_E)
        routed_TD = moe_experts(
            normed_TD,
            plan.expert_ids_TK,
            plan.gates_TK,
            plan.rank_TK,
            plan.load_E,
            self.experts.up_ED2H,
            self.experts.down_EHD,
            capacity=router.static_capacity(x_TD.shape[0], self.k),
        )
        gate_TH, up_TH = self.shared_in(normed_TD).chunk(2, dim=-1)
        return x_TD + self.shared_out(F.silu(gate_TH) * up_TH) + routed_TD, plan

    def _scores(self, normed_TD: Tensor) -> Tensor:
        """Gate scores. In training they are disturbed, so that an expert also learns to be a second choice."""
        logits_TE = self.gate(normed_TD).float()
        if not self.training:
            return logits_TE.softmax(-1)
        scores_TE = (logits_TE + self.gate_noise * torch.randn_like(logits_TE)).softmax(-1)
        kept_TE = torch.rand_like(scores_TE) >= self.expert_dropout
        return scores_TE * torch.where(kept_TE, 1.0, 1e-6)


class Ranker(nn.Module):
    """Tokens from user, candidate, their product, the candidate's attention over the history, and context."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, goals = config.width, len(config.goals)
        self.attention = HistoryAttention(width, config.ranker_heads)
        self.user_in = nn.Linear(width, width)
        self.item_in = nn.Linear(width, width, bias=False)
        self.product_in = nn.Linear(width, width, bias=False)
        self.attention_in = nn.Linear(width, width, bias=False)
        self.context_in = nn.Linear(2, width, bias=False)
        self.blocks = nn.ModuleList(MoEBlock(config) for _ in range(config.moe_layers))
        self.final_norm = nn.LayerNorm(width)
        self.heads = nn.Linear(width, goals)
        self.retrieval_G = nn.Parameter(torch.ones(goals))
        nn.init.zeros_(self.heads.weight)  # at the start, ranking is retrieval
        nn.init.zeros_(self.heads.bias)

    def forward(self, encoded: Encoded, candidates_BND: Tensor, real_BN: Tensor, router: Router) -> Ranked:
        B, N, D = candidates_BND.shape
        user_B1D = encoded.user_BD[:, None]
        retrieval_BN = (candidates_BND @ encoded.user_BD[:, :, None]).squeeze(-1)
        events_B1 = encoded.mask_BL.sum(1, keepdim=True).to(retrieval_BN.dtype).log()
        context_BN2 = torch.stack([retrieval_BN / D**0.5, events_B1.expand(B, N)], dim=-1)
        x_BND = (
            self.user_in(user_B1D)
            + self.item_in(candidates_BND)
            + self.product_in(user_B1D * candidates_BND)
            + self.attention_in(self.attention(candidates_BND, encoded))
            + self.context_in(context_BN2)
        )
        real_T = real_BN.reshape(B * N)
        x_TD, plans = x_BND.reshape(B * N, D), []
        padded = not bool(real_T.all())
        if padded:
            x_TD = x_TD[real_T]  # padding must not take an expert's slots
        for layer, block in enumerate(self.blocks):
            x_TD, plan = block(x_TD, layer, router)
            plans.append(plan)
        heads_NG = self.heads(self.final_norm(x_TD))
        if padded:
            heads_NG = heads_NG.new_zeros(B * N, len(self.retrieval_G)).masked_scatter(real_T[:, None], heads_NG)
        return Ranked(
            logits_BNG=retrieval_BN[..., None] * self.retrieval_G + heads_NG.view(B, N, len(self.retrieval_G)),
            plans=tuple(plans),
            tokens_BN=torch.where(real_BN, (real_T.cumsum(0) - 1).view(B, N), -1),
        )
