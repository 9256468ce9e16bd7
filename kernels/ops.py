"""The public face of the kernels: what the router and the model call.

`route_and_plan`, `expert_ffn` and `combine` are one layer in three operations; `moe_experts` is the last two for a
routing that was decided elsewhere. All are `torch.library` operations or made of them.

Letters of tensor suffixes: T tokens, D width, H hidden width of an expert, E experts, K experts per token, S slots,
C capacity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.combine import combine
from kernels.experts import expert_ffn
from kernels.plan import check_capacity, gate_scores, route_and_plan, slot_rows, triton_serves
from kernels.selection import choose, kth_largest_of_rows, normalised_gates, rank_slots, split_rows

__all__ = [
    "choose",
    "choose_balanced",
    "combine",
    "expert_ffn",
    "gate_scores",
    "kth_largest_of_rows",
    "moe_experts",
    "normalised_gates",
    "planned_experts",
    "rank_slots",
    "route_and_plan",
    "slot_rows",
    "split_rows",
]


def moe_experts(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    gates_TK: Tensor,
    rank_TK: Tensor,
    load_E: Tensor,
    w_up_ED2H: Tensor,
    w_down_EHD: Tensor,
    *,
    capacity: int | None,
) -> Tensor:
    """Run the chosen SwiGLU experts and sum them per token with their gates. Differentiable in x, gates and weights.

    Args:
        x_TD: tokens; rows of tokens without a used slot are never read into a result, whatever they hold.
        expert_ids_TK: int64, -1 = slot not used.
        gates_TK: weight of each slot.
        rank_TK: row of each slot inside its expert, as `rank_slots` numbers them.
        load_E: slots per expert.
        w_up_ED2H: gate and value halves side by side.
        w_down_EHD: back to the width of the model.
        capacity: rows per expert for the static form, where slots ranked at or beyond it contribute nothing;
            None for the dropless form.

    Raises:
        ValueError: shapes that do not fit together, or a negative capacity.
    """
    (tokens, width), (count, w_width, double) = x_TD.shape, w_up_ED2H.shape
    if w_width != width or w_down_EHD.shape != (count, double // 2, width) or double % 2:
        raise ValueError(
            f"w_up {tuple(w_up_ED2H.shape)} and w_down {tuple(w_down_EHD.shape)} "
            f"must be (E, D, 2H) and (E, H, D) with D = {width}"
        )
    if expert_ids_TK.shape[0] != tokens or not expert_ids_TK.shape == gates_TK.shape == rank_TK.shape:
        raise ValueError(
            f"expert_ids {tuple(expert_ids_TK.shape)}, gates {tuple(gates_TK.shape)} and rank {tuple(rank_TK.shape)} "
            f"must all be (T, K) with T = {tokens}"
        )
    if load_E.shape != (count,):
        raise ValueError(f"load {tuple(load_E.shape)} must be (E,) with E = {count}")
    check_capacity(capacity)
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x_TD, gates_TK, w_up_ED2H, w_down_EHD))
    if triton_serves(x_TD) and not learns:
        return planned_experts(x_TD, expert_ids_TK, gates_TK, rank_TK, load_E, w_up_ED2H, w_down_EHD, capacity)
    slot_TK = slot_rows(expert_ids_TK, rank_TK, load_E, capacity)
    return combine(expert_ffn(x_TD, slot_TK, load_E, w_up_ED2H, w_down_EHD, capacity), slot_TK, gates_TK)


@torch.library.custom_op("moe::planned_experts", mutates_args=())
def planned_experts(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    gates_TK: Tensor,
    rank_TK: Tensor,
    load_E: Tensor,
    w_up_ED2H: Tensor,
    w_down_EHD: Tensor,
    capacity: int | None,
) -> Tensor:
    """`moe_experts` by the Triton kernels: reads nothing back from the device, so a CUDA graph can hold it.

    No gradient.
    """
    from kernels.gpu import layer  # triton only where it is used

    return layer.planned(x_TD, expert_ids_TK, gates_TK, rank_TK, load_E, w_up_ED2H, w_down_EHD, capacity)


@planned_experts.register_fake
def _(x_TD, expert_ids_TK, gates_TK, rank_TK, load_E, w_up_ED2H, w_down_EHD, capacity):  # type: ignore[no-untyped-def]
    return x_TD.new_empty(x_TD.shape)


@torch.library.custom_op("moe::choose_balanced", mutates_args=())
def choose_balanced(
    scores_TE: Tensor, capacity_E: Tensor, k: int, start_E: Tensor, bias_E: Tensor, phase: Tensor, real: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Experts of each token by prices solved for this batch, by the Triton kernels: nothing is read back.

    Args:
        scores_TE: float32; the first `real` rows are tokens, the others padding.
        capacity_E: slots per expert, int64; 0 = dead.
        k: experts per token.
        start_E: prices to start from, float32.
        bias_E: added to the scores for choosing.
        phase: an integer that moves from batch to batch, 0-d.
        real: how many tokens there are, an integer, 0-d.

    Returns:
        `expert_ids_TK`, -1 = slot not used, as all slots of padding are; `prices_E`, float32, 0 for the dead; and the
        certified gap, 0-d float32.
    """
    from kernels.gpu import layer  # triton only where it is used

    return layer.chosen(scores_TE, capacity_E, k, start_E, bias_E, phase, real)


@choose_balanced.register_fake
def _(scores_TE, capacity_E, k, start_E, bias_E, phase, real):  # type: ignore[no-untyped-def]
    ids_TK = scores_TE.new_empty((scores_TE.shape[0], k), dtype=torch.int64)
    return ids_TK, scores_TE.new_empty(scores_TE.shape[1]), scores_TE.new_empty(())
