"""From a choice of experts to a full routing plan, and the checks on what comes in. Shared by every policy."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops import choose, normalised_gates, rank_slots
from router.shapes import RouterState, RoutingPlan


def check_inputs(scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState) -> None:
    """Reject what no policy can route.

    Raises:
        ValueError: naming the argument and its bound.
    """
    if scores_TE.dim() != 2:
        raise ValueError(f"scores must be (tokens, experts), not {tuple(scores_TE.shape)}")
    if scores_TE.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"scores must be float32 or float64, not {scores_TE.dtype}")
    tokens, experts = scores_TE.shape
    if not 1 <= k <= experts:
        raise ValueError(f"k must be in 1..{experts} (the number of experts), not {k}")
    if capacity_E.shape != (experts,) or capacity_E.dtype != torch.int64:
        found = f"{capacity_E.dtype} {tuple(capacity_E.shape)}"
        raise ValueError(f"capacity must be int64 of shape ({experts},), not {found}")
    if state.bias_E.shape != (experts,) or state.prices_E.shape != (experts,):
        raise ValueError(
            f"state has {state.bias_E.shape[0]} biases and {state.prices_E.shape[0]} prices for {experts} experts"
        )
    if scores_TE.device.type != "cpu":  # reading a value back would stall the device; its producer is ours
        return
    if experts and int(capacity_E.min()) < 0:
        raise ValueError(f"capacity must be >= 0, not {int(capacity_E.min())}")
    if tokens:
        low, high = torch.aminmax(scores_TE.detach())
        if not (float(low) >= 0 and float(high) < torch.inf):  # false for NaN too
            raise ValueError(
                "scores must be finite and >= 0 (softmax or sigmoid), found a NaN, infinite or negative one"
            )


def choice_scores(scores_TE: Tensor, bias_E: Tensor) -> Tensor:
    """What a policy compares.

    Score + bias, the bias shifted to >= 0 (a shift common to all experts changes no choice).
    """
    scores_TE = scores_TE.detach()
    if not bias_E.any():
        return scores_TE
    return scores_TE + (bias_E - bias_E.min()).to(scores_TE.dtype)


def make_plan(
    scores_TE: Tensor,
    choice_TE: Tensor,
    expert_ids_TK: Tensor,
    capacity_E: Tensor,
    *,
    wishes_TK: Tensor | None = None,
    prices_E: Tensor | None = None,
    certified_gap: float = float("nan"),
) -> RoutingPlan:
    """Complete a choice: gates, ranks, loads, wishes, what was redirected, how much score was kept.

    Args:
        scores_TE: gate scores; the gates are differentiable in them.
        choice_TE: what the choice was made by (`choice_scores`).
        expert_ids_TK: the choice; the same tensor as `wishes_TK` when nothing was changed.
        capacity_E: slots each expert had.
        wishes_TK: plain top-k of `choice_TE`, when the caller has it already.
        prices_E: prices used, default none.
        certified_gap: upper bound on the relative distance to the optimum, NaN = no certificate.
    """
    experts, k = scores_TE.shape[1], expert_ids_TK.shape[1]
    wishes_TK = choose(choice_TE, k) if wishes_TK is None else wishes_TK
    redirected_TK = None
    if expert_ids_TK is not wishes_TK:
        expert_ids_TK, redirected_TK = _beside_wishes(expert_ids_TK, wishes_TK)
    rank_TK, load_E = rank_slots(expert_ids_TK, experts)
    if redirected_TK is None:
        demand_E, score_kept = load_E, choice_TE.new_ones(())
        redirected_TK = torch.zeros_like(expert_ids_TK, dtype=torch.bool)
    else:
        demand_E = torch.bincount(wishes_TK.reshape(-1), minlength=experts)
        kept = choice_TE.gather(1, expert_ids_TK.clamp_min(0)).mul_(expert_ids_TK >= 0).sum(dtype=torch.float64)
        wished = choice_TE.gather(1, wishes_TK).sum(dtype=torch.float64)
        score_kept = torch.where(wished > 0, kept / wished, 1.0).to(choice_TE.dtype)
    return RoutingPlan(
        wishes_TK=wishes_TK,
        expert_ids_TK=expert_ids_TK,
        gates_TK=normalised_gates(scores_TE, expert_ids_TK),
        rank_TK=rank_TK,
        demand_E=demand_E,
        load_E=load_E,
        prices_E=torch.zeros(experts, device=scores_TE.device) if prices_E is None else prices_E.float(),
        redirected_TK=redirected_TK,
        score_kept=score_kept,
        certified_gap=choice_TE.new_tensor(certified_gap),
        capacity_E=capacity_E,
    )


def _beside_wishes(expert_ids_TK: Tensor, wishes_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Order each token's slots so that a wish that came true stands in the wish's slot, and the others where they
    replace one.

    Returns the ordered ids, and True where a used slot is a replacement.
    """
    same_TKK = wishes_TK[:, :, None] == expert_ids_TK[:, None, :]
    granted_TK = same_TKK.any(dim=2)
    ids_TK = wishes_TK.clone()
    ids_TK[~granted_TK] = expert_ids_TK[~same_TKK.any(dim=1)]  # equally many in each row
    return ids_TK, ~granted_TK & (ids_TK >= 0)


def next_state(state: RouterState, plan: RoutingPlan) -> RouterState:
    """State after a batch of a policy that learns nothing else: its prices, and one more step."""
    return RouterState(prices_E=plan.prices_E, bias_E=state.bias_E, step=state.step + 1)
