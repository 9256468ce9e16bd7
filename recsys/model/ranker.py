"""Candidates scored for every goal: attention over the history, then Mixture-of-Experts blocks, then one head a goal.

A candidate is one token. Each block runs one shared expert on every token, the floor of quality when routed experts
are scarce, and adds k of E routed experts (SwiGLU), which the router picks from the gate's scores; with gate `self`
the experts score tokens themselves (`recsys.model.self_gate`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.ops import moe_experts
from recsys.model.config import ModelConfig
from recsys.model.encoder import Encoded
from recsys.model.self_gate import SelfExperts, activation_weights
from router.router import Router
from router.shapes import RoutingPlan
from router.static import StaticRouter


@dataclass(frozen=True, slots=True)
class Ranked:
    """Scores of candidates.

    Attributes:
        logits_BNG: one logit per goal, in the order of `ModelConfig.goals`.
        plans: what the router decided in each block, over the tokens: the candidates that are no padding, in order;
            all candidates under a router that masks padding.
        tokens_BN: which of the real tokens each candidate is, -1 for padding; int64.
    """

    logits_BNG: Tensor
    plans: tuple[RoutingPlan, ...]
    tokens_BN: Tensor


class HistoryAttention(nn.Module):
    """What in the history speaks for a candidate: multi-head attention of candidates over events and their states.

    With `ages` > 0, events are also weighed by how old they are (a learnt bias per head and age, the last one for all
    older events), and beside what was found there is how much of it: the log of the sum of weights before they are
    normalised, which attention by itself would forget.
    """

    def __init__(self, width: int, heads: int, ages: int) -> None:
        super().__init__()
        self.heads = heads
        self.ages = ages
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(2 * width, 2 * width)
        if ages:
            self.age_bias_AM = nn.Parameter(torch.zeros(ages, heads))

    def forward(self, candidates_BND: Tensor, encoded: Encoded, places_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Attend up to a position of the history, each of P positions for the next N / P candidates.

        Returns:
            attended_BND and, with `ages`, the logs of the sums of weights, (B, N, heads); without, (B, N, 0).
        """
        (B, N, D), P = candidates_BND.shape, places_BP.shape[1]
        history_BLD = torch.cat([encoded.states_BLD, encoded.events_BLD], dim=-1)
        L, M = history_BLD.shape[1], self.heads
        q_BMND = self.query(candidates_BND).view(B, N, M, D // M).transpose(1, 2)
        k_BMLD, v_BMLD = self.key_value(history_BLD).view(B, L, 2, M, D // M).permute(2, 0, 3, 1, 4)
        age_BPL = places_BP[..., None] - torch.arange(L, device=places_BP.device)
        if not self.ages:
            seen_BNL = (age_BPL >= 0).repeat_interleave(N // P, dim=1)
            attended_BMND = F.scaled_dot_product_attention(q_BMND, k_BMLD, v_BMLD, attn_mask=seen_BNL[:, None])
            return attended_BMND.transpose(1, 2).reshape(B, N, D), candidates_BND.new_zeros(B, N, 0)
        bias_BPLM = F.embedding(age_BPL.clamp(0, self.ages - 1), self.age_bias_AM)
        bias_BPLM = bias_BPLM.masked_fill((age_BPL < 0)[..., None], -torch.inf)
        bias_BMP1L = bias_BPLM.permute(0, 3, 1, 2)[:, :, :, None]
        scores_BMNL = (q_BMND * (D // M) ** -0.5) @ k_BMLD.transpose(-1, -2)
        scores_BMNL = (scores_BMNL.view(B, M, P, N // P, L) + bias_BMP1L).view(B, M, N, L)
        mass_BMN1 = scores_BMNL.logsumexp(-1, keepdim=True)
        attended_BMND = (scores_BMNL - mass_BMN1).exp().to(v_BMLD.dtype) @ v_BMLD
        return attended_BMND.transpose(1, 2).reshape(B, N, D), mass_BMN1[..., 0].transpose(1, 2)


class Experts(nn.Module):
    """Weights of E SwiGLU experts; `up` has the half that is gated by silu first."""

    def __init__(self, experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.up_ED2H = nn.Parameter(torch.empty(experts, width, 2 * hidden))
        self.down_EHD = nn.Parameter(torch.empty(experts, hidden, width))
        for weight in self.parameters():
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


class MoEBlock(nn.Module):
    """x + shared expert (unless the config has none) + k routed experts, behind one norm.

    Attributes:
        bias_E: added to scores for choosing, learnt in training.
        share_E: mean gate score of each expert in the last training batch, with its gradient; None before the first.
    """

    bias_E: Tensor
    share_E: Tensor | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.k = config.k
        self.gate_noise = config.gate_noise
        self.expert_dropout = config.expert_dropout
        self.norm = nn.LayerNorm(config.width)
        if config.gate == "softmax":
            self.gate = nn.Linear(config.width, config.experts, bias=False)
        self.shared = config.shared_expert
        if self.shared:
            self.shared_in = nn.Linear(config.width, 2 * config.expert_hidden, bias=False)
            self.shared_out = nn.Linear(config.expert_hidden, config.width, bias=False)
        self.experts = (
            SelfExperts(config)
            if config.gate == "self"
            else Experts(config.experts, config.width, config.expert_hidden)
        )
        self.register_buffer("bias_E", torch.zeros(config.experts))

    def forward(self, x_TD: Tensor, layer: int, router: Router | StaticRouter) -> tuple[Tensor, RoutingPlan]:
        normed_TD = self.norm(x_TD)
        scores_TE = self._scores(normed_TD)
        normed_TD = normed_TD.to(_compute_type(normed_TD))
        own = self.experts.own if isinstance(self.experts, SelfExperts) else None
        plan = router.route(layer, scores_TE, self.k, self.bias_E, own)
        routed_TD = moe_experts(
            normed_TD,
            plan.expert_ids_TK,
            plan.gates_TK if own is None else activation_weights(scores_TE, plan.expert_ids_TK),
            plan.rank_TK,
            plan.load_E,
            self.experts.up_ED2H.to(normed_TD.dtype),
            self.experts.down_EHD.to(normed_TD.dtype),
            capacity=router.static_capacity(x_TD.shape[0], self.k),
        )
        if not self.shared:
            return x_TD + routed_TD, plan
        gate_TH, up_TH = self.shared_in(normed_TD).chunk(2, dim=-1)
        return x_TD + self.shared_out(F.silu(gate_TH) * up_TH) + routed_TD, plan

    def _scores(self, normed_TD: Tensor) -> Tensor:
        """Gate scores. In training they are disturbed, so that an expert also learns to be a second choice."""
        if isinstance(self.experts, SelfExperts):
            scores_TE = self.experts.activations(normed_TD)
            return self._with_absences(scores_TE) if self.training else scores_TE
        logits_TE = self.gate(normed_TD).float()
        if not self.training:
            return logits_TE.softmax(-1)
        scores_TE = (logits_TE + self.gate_noise * torch.randn_like(logits_TE)).softmax(-1)
        self.share_E = scores_TE.mean(0)
        return self._with_absences(scores_TE)

    def _with_absences(self, scores_TE: Tensor) -> Tensor:
        kept_TE = torch.rand_like(scores_TE) >= self.expert_dropout
        return scores_TE * torch.where(kept_TE, 1.0, 1e-6)


class Ranker(nn.Module):
    """Tokens from user, candidate, their product, the candidate's attention over the history, and context."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, goals = config.width, len(config.goals)
        self.attention = HistoryAttention(width, config.ranker_heads, config.ranker_ages)
        self.user_in = nn.Linear(width, width)
        self.item_in = nn.Linear(width, width, bias=False)
        self.product_in = nn.Linear(width, width, bias=False)
        self.attention_in = nn.Linear(width, width, bias=False)
        self.context_in = nn.Linear(2 + (config.ranker_heads if config.ranker_ages else 0), width, bias=False)
        self.blocks = nn.ModuleList(MoEBlock(config) for _ in range(config.moe_layers))
        self.final_norm = nn.LayerNorm(width)
        self.heads = nn.Linear(width, goals)
        self.retrieval_G = nn.Parameter(torch.ones(goals))
        nn.init.zeros_(self.heads.weight)  # at the start, ranking is retrieval
        nn.init.zeros_(self.heads.bias)

    def forward(
        self,
        encoded: Encoded,
        candidates_BND: Tensor,
        real_BN: Tensor,
        router: Router | StaticRouter,
        places_BP: Tensor | None = None,
    ) -> Ranked:
        """See `Recommender.rank`."""
        B, N, D = candidates_BND.shape
        if places_BP is None:
            places_BP, user_BPD = encoded.mask_BL.sum(1, keepdim=True) - 1, encoded.user_BD[:, None]
        else:
            user_BPD = encoded.states_BLD.gather(1, places_BP[..., None].expand(-1, -1, D))
        P = places_BP.shape[1]
        items_BPCD = candidates_BND.view(B, P, N // P, D)
        retrieval_BN = (items_BPCD @ user_BPD[..., None]).view(B, N)
        events_BN = (places_BP + 1).to(retrieval_BN.dtype).log().repeat_interleave(N // P, dim=1)
        attended_BND, mass_BNM = self.attention(candidates_BND, encoded, places_BP)
        context_BNC = torch.cat([torch.stack([retrieval_BN / D**0.5, events_BN], dim=-1), mass_BNM], dim=-1)
        both_BPCD = self.user_in(user_BPD)[:, :, None] + self.product_in(user_BPD[:, :, None] * items_BPCD)
        x_BND = (
            both_BPCD.view(B, N, D)
            + self.item_in(candidates_BND)
            + self.attention_in(attended_BND)
            + self.context_in(context_BNC)
        ).float()
        real_T = real_BN.reshape(B * N)
        x_TD, plans = x_BND.reshape(B * N, D), []
        padded = not router.masks_padding and not bool(real_T.all())
        if padded:
            x_TD = x_TD[real_T]  # padding must not take an expert's slots
        for layer, block in enumerate(self.blocks):
            x_TD, plan = block(x_TD, layer, router)
            plans.append(plan)
        heads_NG = self.heads(self.final_norm(x_TD)).float()
        if padded:
            heads_NG = heads_NG.new_zeros(B * N, len(self.retrieval_G)).masked_scatter(real_T[:, None], heads_NG)
        return Ranked(
            logits_BNG=retrieval_BN[..., None] * self.retrieval_G + heads_NG.view(B, N, len(self.retrieval_G)),
            plans=tuple(plans),
            tokens_BN=(real_T.cumsum(0) - 1).view(B, N).masked_fill(real_BN.logical_not(), -1),
        )


def _compute_type(x: Tensor) -> torch.dtype:
    """The type that matrix products run in: that of the surrounding autocast, else that of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
