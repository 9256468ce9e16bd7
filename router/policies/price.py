"""One price per expert, solved inside the batch: tokens take their top-k of `score - price`.

Balanced routing is a transportation problem: maximise the kept score with k distinct experts per token and
`capacity_E` slots per expert. Its dual has one price per expert, and for any prices lam >= 0 the value
    g(lam) = sum_t [sum of the k largest (s_t - lam)] + sum_e C_e lam_e
is at least the optimum. So each batch carries a certificate: (g - kept) / g bounds the distance to the optimum.

1. Plain top-k fits the capacities: that is the answer, prices are zero.
2. Sweeps (`router.sweeps`) find prices at which few slots are over capacity. Prices of the last batch are where they
   start.
3. Chains move what is still over capacity to where there is room, at the least loss.

On a CPU with numba (`router.compiled`) the chains are shortest augmenting paths whose prices follow: the result is the
exact optimum, and its prices prove it. As tensor operations (no numba, or another device) only the nearly indifferent
tokens move along chains (`router.chains`); what is left over is evicted and spilled (`router.spill`), and the
certificate is that of the sweeps.

Overload (capacities sum to less than T*k): the same with an expert of value and price 0 beside the others, which
stands for a slot not used. The slots left out are those with the lowest score - price, and capacity is left only where
using it gains nothing.

Sources: see `router.sweeps` and `router.compiled.chains`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ops import choose, kth_largest_of_rows
from router import compiled
from router.chains import settle
from router.compiled.route import prepare, route
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan
from router.spill import phase_ring, rebid, swap_in
from router.sweeps import Market, solve

CHAIN_SHARE = 0.08  # slots over capacity up to which chains of moves are worth their time
CHAIN_OFFERS, CHAIN_CHOICES = 512, 4  # tokens that may move, and to how many experts each
CHAIN_ROUNDS = 48


@register
class Price:
    """In-batch prices, hard capacities, certified."""

    name = "price"
    bounded = True
    complete = True

    def __init__(self) -> None:
        prepare()

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        if compiled.available and choice_TE.device.type == "cpu":
            plan = route(scores_TE, choice_TE, capacity_E, k, state.prices_E)
        else:
            plan = _route_by_tensors(scores_TE, choice_TE, capacity_E, k, state)
        return plan, next_state(state, plan)


def _route_by_tensors(
    scores_TE: Tensor, choice_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
) -> RoutingPlan:
    wishes_TK = choose(choice_TE, k)
    demand_E = torch.bincount(wishes_TK.reshape(-1), minlength=capacity_E.shape[0])
    if bool((demand_E <= capacity_E).all()):
        return make_plan(scores_TE, choice_TE, wishes_TK, capacity_E, wishes_TK=wishes_TK, certified_gap=0.0)
    alive_A = capacity_E.nonzero().flatten()
    ids_TK, prices_E, gap = torch.full_like(wishes_TK, -1), torch.zeros_like(choice_TE[0]), 0.0
    if alive_A.numel():
        market = Market.of(choice_TE[:, alive_A], capacity_E[alive_A], k)
        prices_A = solve(market, state.prices_E[alive_A].to(choice_TE.dtype))
        ids_TK = held_to_ids(assign(market, prices_A, state.step), k, alive_A)
        kept = float((choice_TE.gather(1, ids_TK.clamp_min(0)) * (ids_TK >= 0)).sum(dtype=torch.float64))
        prices_E[alive_A], bound = prices_A, market.dual(prices_A)
        gap = max(0.0, (bound - kept) / bound) if bound > 0 else 0.0
    return make_plan(
        scores_TE, choice_TE, ids_TK, capacity_E, wishes_TK=wishes_TK, prices_E=prices_E, certified_gap=gap
    )


def assign(market: Market, prices_A: Tensor, seed: int) -> Tensor:
    """Hard assignment at these prices: who holds what, bool (A, T)."""
    cut_T, slots_A = market.best(prices_A)[0][:, market.k], market.slots_A
    margin_AT = market.value_AT - prices_A[:, None] - cut_T
    held_AT = margin_AT > 0
    load_A = held_AT.sum(dim=1)
    over = int((load_A - slots_A).clamp_min(0).sum())
    if not market.short and over <= CHAIN_SHARE * market.k * cut_T.numel():
        load_A = settle_margins(held_AT, margin_AT, load_A, slots_A, prices_A)
    if bool((load_A > slots_A).any()):
        margin_AT.masked_fill_(~held_AT, -torch.inf)
        held_AT &= margin_AT >= kth_largest_of_rows(margin_AT, slots_A.tolist())[:, None]
        load_A = held_AT.sum(dim=1)
        if bool((load_A > slots_A).any()):  # equal margins at the edge: the earlier token stays
            held_AT &= held_AT.cumsum(dim=1) <= slots_A[:, None]
            load_A = held_AT.sum(dim=1)
    room_A, missing = slots_A - load_A, market.k * cut_T.numel() - int(load_A.sum())
    if missing and bool(room_A.any()):
        short_T = market.k - held_AT.sum(dim=0)
        rebid(short_T, held_AT, room_A, market.value_AT, rounds=3)
        phase_ring(short_T, held_AT, room_A, seed)
        if bool(short_T.any()) and bool(room_A.any()):
            swap_in(short_T, held_AT, room_A, market.value_AT)
    return held_AT


def settle_margins(held_AT: Tensor, margin_AT: Tensor, load_A: Tensor, slots_A: Tensor, prices_A: Tensor) -> Tensor:
    """Let the tokens with the smallest margins move so that load fits. Changes `held_AT`; returns the loads."""
    least_T, last_T = margin_AT.masked_fill(~held_AT, torch.inf).min(dim=0)
    offers = min(least_T.numel(), max(CHAIN_OFFERS, least_T.numel() // 4))
    token_L = (least_T <= least_T.kthvalue(offers).values).nonzero().flatten()[: 2 * offers]
    open_AL = margin_AT[:, token_L].masked_fill_(held_AT[:, token_L], -torch.inf)
    next_DL, to_DL = open_AL.topk(min(CHAIN_CHOICES, len(slots_A)), dim=0)
    cost_DL = least_T[token_L] - next_DL
    offered_N = (cost_DL < torch.inf).flatten()
    token_N, from_N = (of_L.expand_as(to_DL).flatten()[offered_N] for of_L in (token_L, last_T[token_L]))
    to_N, cost_N = to_DL.flatten()[offered_N], cost_DL.flatten()[offered_N]
    taken, load_A = settle(token_N, from_N, to_N, cost_N, load_A, slots_A, prices_A, CHAIN_ROUNDS)
    if taken:
        token_M, from_M, to_M = token_N[taken], from_N[taken], to_N[taken]
        held_AT[from_M, token_M] = False
        held_AT[to_M, token_M] = True
    return load_A


def held_to_ids(held_AT: Tensor, k: int, alive_A: Tensor) -> Tensor:
    """(A, T) who holds what -> (T, K) expert ids in rising order, -1 at the end where a token holds fewer than k."""
    ids_TK = torch.full((held_AT.shape[1], k), -1, dtype=torch.int64, device=held_AT.device)
    token_N, place_N = held_AT.T.nonzero(as_tuple=True)
    count_T = held_AT.sum(dim=0)
    slot_N = torch.arange(token_N.numel(), device=held_AT.device) - (count_T.cumsum(0) - count_T)[token_N]
    ids_TK[token_N, slot_N] = alive_A[place_N]
    return ids_TK
