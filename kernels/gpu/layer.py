"""The MoE layer on a GPU: the kernels in their order. No value travels to the host, so a CUDA graph can hold it all."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from kernels.gpu import tiles
from kernels.gpu.assign import Assignment, assign
from kernels.gpu.combine import combine
from kernels.gpu.down import down
from kernels.gpu.experts import experts
from kernels.gpu.plan import Plan, plan
from kernels.gpu.prices import solve
from kernels.gpu.route import Routes, route
from kernels.gpu.tiny import tiny
from kernels.gpu.up import up


class Balanced(NamedTuple):
    """A balanced layer's result: `y_TD`, `prices_E` (the next batch's `start_E`), and who holds what at which gap."""

    y_TD: Tensor
    prices_E: Tensor
    assignment: Assignment


def apply(x_TD: Tensor, plan: Plan, w_up_ED2H: Tensor, w_down_EHD: Tensor) -> Tensor:
    """The experts of a plan and their weighted sum per token: (T, D). In one kernel where `tiles.fused_serves`."""
    if tiles.fused_serves(x_TD.shape[1], x_TD.dtype):
        y_SD = experts(x_TD, plan, w_up_ED2H, w_down_EHD)
    else:
        y_SD = down(up(x_TD, plan, w_up_ED2H), plan, w_down_EHD)
    return combine(y_SD, plan.slot_TK, plan.gates_TK)


def _check(x_TD: Tensor, gate_DE: Tensor, w_up_ED2H: Tensor, w_down_EHD: Tensor, k: int) -> None:
    """Kernels read by address: what does not fit together must be found here."""
    experts, hidden, width = w_down_EHD.shape
    wanted = {"x": (x_TD.shape[0], width), "gate": (width, experts), "w_up": (experts, width, 2 * hidden)}
    for (name, shape), tensor in zip(wanted.items(), (x_TD, gate_DE, w_up_ED2H), strict=True):
        if tensor.shape != shape or tensor.dtype != w_down_EHD.dtype or tensor.device != w_down_EHD.device:
            raise ValueError(
                f"{name} {tuple(tensor.shape)}, {tensor.dtype} on {tensor.device}, must be {shape}, {w_down_EHD.dtype} "
                f"on {w_down_EHD.device} to fit w_down {tuple(w_down_EHD.shape)}"
            )
    for name, tensor in (("x", x_TD), ("gate", gate_DE), ("w_up", w_up_ED2H), ("w_down", w_down_EHD)):
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, its strides are {tensor.stride()}")
    if not 1 <= k <= experts:
        raise ValueError(f"k must be in 1..{experts} (the number of experts), not {k}")


def _per_expert(experts: int, **vectors: Tensor | None) -> list[Tensor | None]:
    """The vectors, contiguous (an expanded one has a single number in memory)."""
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (experts,):
            raise ValueError(f"{name} {tuple(vector.shape)} must have one number for each of {experts} experts")
    return [None if vector is None else vector.contiguous() for vector in vectors.values()]


def moe(
    x_TD: Tensor,
    gate_DE: Tensor,
    w_up_ED2H: Tensor,
    w_down_EHD: Tensor,
    k: int,
    *,
    bias_E: Tensor | None = None,
    prices_E: Tensor | None = None,
    capacity: int | None = None,
) -> Tensor:
    """Route by `score + bias - price` and compute: (T, D). All tensors contiguous.

    Args:
        bias_E, prices_E: float32; a price of inf takes an expert out of the choice.
        capacity: slots per expert; later tokens lose theirs, and the gates of what a token keeps sum to 1 again.
            None: no limit.

    Raises:
        ValueError: tensors that do not fit together, `k` outside 1..E, or a negative capacity.
    """
    _check(x_TD, gate_DE, w_up_ED2H, w_down_EHD, k)
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must be >= 0 or None, not {capacity}")
    (tokens, width), (count, hidden, _) = x_TD.shape, w_down_EHD.shape
    bias_E, prices_E = _per_expert(count, bias_E=bias_E, prices_E=prices_E)
    if capacity is None and tiles.prefers_tiny(tokens, width, hidden, count):
        return tiny(x_TD, gate_DE, w_up_ED2H, w_down_EHD, k, bias_E=bias_E, prices_E=prices_E)
    routes = route(x_TD, gate_DE, k, bias_E=bias_E, prices_E=prices_E)
    made = _plan_of(routes, x_TD, capacity=capacity, renormalise=capacity is not None)
    return apply(x_TD, made, w_up_ED2H, w_down_EHD)


def balanced(
    x_TD: Tensor,
    gate_DE: Tensor,
    w_up_ED2H: Tensor,
    w_down_EHD: Tensor,
    k: int,
    capacity_E: Tensor,
    *,
    start_E: Tensor | None = None,
    bias_E: Tensor | None = None,
    phase: Tensor | None = None,
    sweeps: int = 12,
) -> Balanced:
    """As `moe`, by prices solved for this batch: no expert over its capacity, no slot lost while capacities suffice.

    Args:
        capacity_E: slots per expert, any integer type; 0 = dead.
        start_E: where the prices start (those of the last batch, say); default 0.
        phase: an integer on the device that moves from batch to batch, so that no token is always placed last.
        sweeps: of `kernels.gpu.prices`, at most.

    Raises:
        ValueError: tensors that do not fit together, `k` outside 1..E, or more than 64 experts.
    """
    _check(x_TD, gate_DE, w_up_ED2H, w_down_EHD, k)
    slots_E, start_E, bias_E = _per_expert(len(w_down_EHD), capacity_E=capacity_E, start_E=start_E, bias_E=bias_E)
    assert slots_E is not None
    scores_TE = route(x_TD, gate_DE, k, keep_scores=True).scores_TE
    assert scores_TE is not None
    prices = solve(scores_TE, slots_E, k, start_E=start_E, bias_E=bias_E, sweeps=sweeps)
    assignment = assign(scores_TE, slots_E, k, prices, bias_E=bias_E, phase=phase)
    routes = route(None, None, k, scores_TE=scores_TE, held_T=assignment.held_T)
    y_TD = apply(x_TD, _plan_of(routes, x_TD, renormalise=False), w_up_ED2H, w_down_EHD)
    return Balanced(y_TD, prices.prices_E, assignment)


def chosen(
    scores_TE: Tensor, capacity_E: Tensor, k: int, start_E: Tensor, bias_E: Tensor, phase: Tensor, real: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.ops.choose_balanced`: the choice of `balanced` from finished scores, ids best first, prices and gap."""
    scores_TE, bias_E = scores_TE.contiguous(), bias_E.float().contiguous()
    prices = solve(scores_TE, capacity_E, k, start_E=start_E, bias_E=bias_E, real=real)
    assignment = assign(scores_TE, capacity_E, k, prices, bias_E=bias_E, phase=phase, real=real)
    routes = route(None, None, k, scores_TE=scores_TE, held_T=assignment.held_T)
    return routes.ids_TK.long(), prices.prices_E.masked_fill(capacity_E <= 0, 0.0), assignment.gap.float()


def routed(
    x_TD: Tensor, gate_DE: Tensor, bias_E: Tensor | None, prices_E: Tensor | None, k: int, capacity: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`kernels.ops.route_and_plan`: scores, ids, gates, ranks and loads, in two launches and a few casts."""
    x_TD, gate_DE = x_TD.contiguous(), gate_DE.contiguous()
    bias_E, prices_E = (
        None if t is None else t.float() for t in _per_expert(gate_DE.shape[1], bias_E=bias_E, prices_E=prices_E)
    )
    routes = route(x_TD, gate_DE, k, bias_E=bias_E, prices_E=prices_E, keep_scores=True)
    assert routes.scores_TE is not None
    made = _plan_of(routes, x_TD, capacity=capacity, renormalise=capacity is not None)
    ids_TK = routes.ids_TK.masked_fill(made.slot_TK < 0, -1).long()
    return routes.scores_TE, ids_TK, made.gates_TK, made.rank_TK.long(), made.load_E.long()


def planned(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    gates_TK: Tensor,
    rank_TK: Tensor,
    load_E: Tensor,
    w_up_ED2H: Tensor,
    w_down_EHD: Tensor,
    capacity: int | None,
) -> Tensor:
    """The experts of a routing that was decided elsewhere: `kernels.ops.moe_experts` without gradients.

    Unlike the form for CPUs it reads no load back, so the dropless form can be captured in a graph as well.

    Raises:
        ValueError: weights of another type than the tokens.
    """
    if not x_TD.dtype == w_up_ED2H.dtype == w_down_EHD.dtype:
        raise ValueError(f"w_up {w_up_ED2H.dtype} and w_down {w_down_EHD.dtype} must be {x_TD.dtype}, as x is")
    x_TD, expert_ids_TK, gates_TK, rank_TK, w_up_ED2H, w_down_EHD = (
        t.contiguous() for t in (x_TD, expert_ids_TK, gates_TK, rank_TK, w_up_ED2H, w_down_EHD)
    )
    rows = tiles.rows_per_tile(expert_ids_TK.numel(), load_E.shape[0], x_TD.dtype)
    made = plan(expert_ids_TK, gates_TK, rank_TK, load_E[None, :], rows, capacity=capacity, whole_ranks=True)
    return apply(x_TD, made, w_up_ED2H, w_down_EHD)


def _plan_of(routes: Routes, x_TD: Tensor, *, capacity: int | None = None, renormalise: bool) -> Plan:
    ids_TK, gates_TK, rank_TK, counts_BE, _, block = routes
    rows = tiles.rows_per_tile(ids_TK.numel(), counts_BE.shape[1], x_TD.dtype)
    return plan(ids_TK, gates_TK, rank_TK, counts_BE, rows, block=block, capacity=capacity, renormalise=renormalise)
