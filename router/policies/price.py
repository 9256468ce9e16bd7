"""One price per expert, solved inside the batch: tokens take their top-k of `score - price`.

Balanced routing is a transportation problem: maximise the kept score with k distinct experts per token and `capacity_E` slots per
expert. Its dual has one price per expert, and for any prices lam >= 0 the value
    g(lam) = sum_t [sum of the k largest (s_t - lam)] + sum_e C_e lam_e
is at least the optimum. So each batch carries a certificate: (g - kept) / g bounds the distance to the optimum.

1. Plain top-k fits the capacities: that is the answer, prices are zero.
2. Sweeps. Given each token's cut-off p_t (the (k+1)-th largest s - lam), the price that fills expert e exactly is the (C_e+1)-th largest
   s_te - p_t. All experts step towards it at once, over-relaxed, first on a sample of the tokens, then on all of them until few
   slots are over capacity. Prices of the last batch are where it starts, halved where an expert has room (complementary slackness).
3. Repair. Experts over capacity evict their lowest margins; evicted slots bid for experts with room, where the one with most to lose wins;
   what is left is spread over a phase ring and, if it must, moved in by chains of swaps. No slot is lost while capacity suffices.

Overload (capacities sum to less than T*k): the same with p_t >= 0 and no shift of prices, so that the slots left out are those with
the lowest score - price, and every bit of capacity is used.

Sources: quantile steps from BIP balancing (arXiv 2502.15451) and Quantile Balancing (J. Su, 2026); the sample, the over-relaxation, the
repair, the overload form and the certificate are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.ops import choose, k_largest_of_columns, kth_largest_of_rows
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan
from router.spill import phase_ring, rebid, swap_in

SAMPLE_TOKENS = 1024
SAMPLE_SWEEPS = 8
FULL_SWEEPS = 6
RELAXATION = 1.4
OVERFLOW_SHARE = 0.005  # slots over capacity at which the repair is cheaper than another sweep


@dataclass(frozen=True, slots=True)
class Market:
    """One batch seen from its living experts (A of them): scores, capacities, slots per token.

    Attributes:
        value_AT: choice scores, experts first.
        slots_A: capacities, none above the number of tokens.
        k: slots per token, none above A.
        short: whether the capacities sum to less than T*k.
    """

    value_AT: Tensor
    slots_A: list[int]
    k: int
    short: bool

    @staticmethod
    def of(value_AT: Tensor, slots_A: list[int], k: int) -> Market:
        tokens, k = value_AT.shape[1], min(k, len(slots_A))
        return Market(value_AT, slots_A, k, sum(slots_A) < tokens * k)

    def sample(self, stride: int) -> Market:
        """Every `stride`-th token, capacities in proportion."""
        value_AT = self.value_AT[:, ::stride].contiguous()
        share = value_AT.shape[1] / self.value_AT.shape[1]
        return Market(value_AT, [max(1, round(slots * share)) for slots in self.slots_A], self.k, self.short)

    def cut_off(self, net_AT: Tensor) -> tuple[Tensor, Tensor]:
        """Per token: what a slot must be worth at least, and the total worth of its k best; both at prices already subtracted."""
        *held, next_T = k_largest_of_columns(net_AT, self.k + 1)
        if self.short:
            held, next_T = [worth_T.clamp_min(0) for worth_T in held], next_T.clamp_min(0)
        worth_T = held[0]
        for more_T in held[1:]:
            worth_T = worth_T + more_T
        return next_T, worth_T


def sweep_prices(market: Market, prices_A: Tensor, sweeps: int, enough: float) -> tuple[Tensor, float]:
    """Up to `sweeps` over-relaxed quantile steps. Returns the prices, and the lowest dual value seen (a bound on the optimum)."""
    capacity_A = torch.tensor(market.slots_A, dtype=prices_A.dtype, device=prices_A.device)
    above = [slots + 1 for slots in market.slots_A]
    bound = float("inf")
    for sweep in range(sweeps + 1):
        net_AT = market.value_AT - prices_A[:, None]
        cut_T, worth_T = market.cut_off(net_AT)
        bound = min(bound, float(worth_T.sum(dtype=torch.float64) + (capacity_A * prices_A).sum(dtype=torch.float64)))
        load_A = (net_AT > cut_T).sum(dim=1)
        overflow = float((load_A - capacity_A).clamp_min(0).sum())
        if sweep == sweeps or overflow <= enough:
            break
        if sweep == 0:  # prices of another batch: let go of those that nobody needs now
            prices_A = torch.where(load_A < capacity_A, 0.5 * prices_A, prices_A)
        exact_A = kth_largest_of_rows(market.value_AT - cut_T, above).clamp_min(0)
        prices_A = (prices_A + RELAXATION * (exact_A - prices_A)).clamp_min(0)
        if not market.short:
            prices_A = prices_A - prices_A.min()
    return prices_A, bound


def assign(market: Market, prices_A: Tensor, seed: int) -> tuple[Tensor, float]:
    """Hard assignment at these prices: who holds what (A, T), and the dual value of the prices."""
    net_AT = market.value_AT - prices_A[:, None]
    cut_T, worth_T = market.cut_off(net_AT)
    margin_AT = net_AT - cut_T
    held_AT = margin_AT > 0
    slots_A = torch.tensor(market.slots_A, device=prices_A.device)
    if bool((held_AT.sum(dim=1) > slots_A).any()):
        held_AT &= margin_AT >= kth_largest_of_rows(margin_AT, market.slots_A)[:, None]
        if bool((held_AT.sum(dim=1) > slots_A).any()):  # equal margins at the edge: the earlier token stays
            held_AT &= held_AT.cumsum(dim=1) <= slots_A[:, None]
    room_A = slots_A - held_AT.sum(dim=1)
    short_T = market.k - held_AT.sum(dim=0)
    rebid(short_T, held_AT, room_A, market.value_AT, rounds=3)
    phase_ring(short_T, held_AT, room_A, seed)
    if bool(room_A.any()) and bool(short_T.any()):
        swap_in(short_T, held_AT, room_A, market.value_AT)
    bound = worth_T.sum(dtype=torch.float64) + (slots_A * prices_A).sum(dtype=torch.float64)
    return held_AT, float(bound)


@register
class Price:
    """In-batch prices, hard capacities, certified."""

    name = "price"
    bounded = True
    complete = True

    def route(
        self, scores_TE: Tensor, capacity_E: Tensor, k: int, state: RouterState
    ) -> tuple[RoutingPlan, RouterState]:
        check_inputs(scores_TE, capacity_E, k, state)
        choice_TE = choice_scores(scores_TE, state.bias_E)
        wishes_TK = choose(choice_TE, k)
        demand_E = torch.bincount(wishes_TK.reshape(-1), minlength=capacity_E.shape[0])
        if bool((demand_E <= capacity_E).all()):
            plan = make_plan(scores_TE, choice_TE, wishes_TK, capacity_E, wishes_TK=wishes_TK, certified_gap=0.0)
            return plan, next_state(state, plan)
        alive_A = capacity_E.nonzero().flatten()
        ids_TK, prices_E, gap = torch.full_like(wishes_TK, -1), torch.zeros_like(choice_TE[0]), 0.0
        if alive_A.numel():
            tokens = choice_TE.shape[0]
            market = Market.of(choice_TE[:, alive_A].T.contiguous(), capacity_E[alive_A].clamp_max(tokens).tolist(), k)
            prices_A, bound = solve(market, state.prices_E[alive_A].to(choice_TE.dtype))
            held_AT, at_prices = assign(market, prices_A, state.step)
            kept = float(market.value_AT.masked_fill(~held_AT, 0).sum(dtype=torch.float64))
            bound = max(min(bound, at_prices), kept)
            gap = (bound - kept) / bound if bound > 0 else 0.0
            prices_E[alive_A] = prices_A
            ids_TK = held_to_ids(held_AT, k, alive_A)
        plan = make_plan(
            scores_TE, choice_TE, ids_TK, capacity_E, wishes_TK=wishes_TK, prices_E=prices_E, certified_gap=gap
        )
        return plan, next_state(state, plan)


def solve(market: Market, start_A: Tensor) -> tuple[Tensor, float]:
    """Prices from a sample of the tokens, then from all of them; and an upper bound on the optimum."""
    tokens = market.value_AT.shape[1]
    stride = tokens // SAMPLE_TOKENS
    if stride > 1:
        start_A, _ = sweep_prices(market.sample(stride), start_A, SAMPLE_SWEEPS, 0)
    return sweep_prices(market, start_A, FULL_SWEEPS, OVERFLOW_SHARE * tokens * market.k)


def held_to_ids(held_AT: Tensor, k: int, alive_A: Tensor) -> Tensor:
    """(A, T) who holds what -> (T, K) expert ids in rising order, -1 at the end where a token holds fewer than k."""
    tokens = held_AT.shape[1]
    token_N, expert_N = held_AT.T.nonzero(as_tuple=True)
    expert_N = alive_A[expert_N]
    if expert_N.numel() == tokens * k:
        return expert_N.view(tokens, k)
    count_T = held_AT.sum(dim=0)
    slot_N = torch.arange(token_N.numel(), device=held_AT.device) - (count_T.cumsum(0) - count_T)[token_N]
    ids_TK = torch.full((tokens, k), -1, dtype=torch.int64, device=held_AT.device)
    ids_TK[token_N, slot_N] = expert_N
    return ids_TK
