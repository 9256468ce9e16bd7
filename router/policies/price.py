"""One price per expert, solved inside the batch: tokens take their top-k of `score - price`.

Balanced routing is a transportation problem: maximise the kept score with k distinct experts per token and
`capacity_E` slots per expert. Its dual has one price per expert, and for any prices lam >= 0 the value
    g(lam) = sum_t [sum of the k largest (s_t - lam)] + sum_e C_e lam_e
is at least the optimum. So each batch carries a certificate: (g - kept) / g bounds the distance to the optimum.

1. Plain top-k fits the capacities: that is the answer, prices are zero.
2. Sweeps. Given each token's cut-off p_t (the (k+1)-th largest s - lam), the price that fills expert e exactly is
   the (C_e+1)-th largest s_te - p_t. All experts step towards it at once, over-relaxed, first on a sample of the
   tokens, then on all of them until few slots are over capacity. Prices of the last batch are where it starts,
   halved where an expert has room (complementary slackness).
3. Repair. Experts over capacity evict their lowest margins; evicted slots bid for experts with room, where the one
   with most to lose wins; what is left is spread over a phase ring and, if it must, moved in by chains of swaps. No
   slot is lost while capacity suffices.

Overload (capacities sum to less than T*k): the same with p_t >= 0 and no shift of prices, so that the slots left
out are those with the lowest score - price, and every bit of capacity is used.

Sources: quantile steps from BIP balancing (arXiv 2502.15451) and Quantile Balancing (J. Su, 2026); the sample, the
over-relaxation, the repair, the overload form and the certificate are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.ops import choose, kth_largest_of_rows, split_rows
from router import compiled
from router.chains import settle
from router.plan import check_inputs, choice_scores, make_plan, next_state
from router.policies.base import register
from router.shapes import RouterState, RoutingPlan
from router.spill import phase_ring, rebid, swap_in

SWEEPS = 8  # over all tokens, or the equivalent over a sample
HARD_SWEEPS = 24  # while more than HARD_SHARE of the slots are over capacity: few requests with many alike tokens
HARD_SHARE = 0.02
SAMPLE_TOKENS = 2048
SAMPLE_SWEEPS = 6
# Relative step up and down. Up overshoots early and saves sweeps; down is faster, since a price too high leaves
# room idle.
SAMPLE_STEPS = (1.3, 1.6)
FULL_STEPS = (1.2, 1.8)
OVERFLOW_SHARE = 0.004  # slots over capacity at which moving them one by one is cheaper than another sweep
IDLE_SHARE = 0.001  # score that priced but unused room may cost
CHAIN_SHARE = 0.08  # slots over capacity up to which chains of moves are worth their time
CHAIN_SHARE_COMPILED = 0.6
FEW_SHARE = 0.01  # slots over capacity up to which the nearly indifferent tokens are enough; else every one may move
CERTAIN_ENOUGH = 0.001  # certified gap above which prices are fitted to the assignment for a better certificate
CHAIN_OFFERS = 512
CHAIN_ROUNDS = 48


@dataclass(frozen=True, slots=True)
class Market:
    """One batch seen from its living experts (A of them).

    Attributes:
        value_TA: choice scores.
        value_AT: the same, experts first.
        slots_A: capacities, none above the number of tokens.
        k: slots per token, none above A.
        short: whether the capacities sum to less than T*k.
    """

    value_TA: Tensor
    value_AT: Tensor
    slots_A: list[int]
    k: int
    short: bool

    @staticmethod
    def of(value_TA: Tensor, slots_A: list[int], k: int) -> Market:
        tokens, alive = value_TA.shape
        slots_A, k = [min(slots, tokens) for slots in slots_A], min(k, alive)
        return Market(value_TA, value_TA.T.contiguous(), slots_A, k, sum(slots_A) < tokens * k)

    def sample(self, stride: int) -> Market:
        """Every `stride`-th token, capacities in proportion."""
        value_TA = self.value_TA[::stride].contiguous()
        share = value_TA.shape[0] / self.value_TA.shape[0]
        slots_A = [max(1, round(slots * share)) for slots in self.slots_A]
        return Market(value_TA, value_TA.T.contiguous(), slots_A, self.k, self.short)

    def cut_off(self, prices_A: Tensor) -> tuple[Tensor, float]:
        """At these prices.

        What a slot must be worth to each token, (T,), and the dual value, a bound on the optimum.
        """
        best_TK, next_T = split_rows(self.value_TA - prices_A, self.k)
        if self.short:
            best_TK, next_T = best_TK.clamp_min(0), next_T.clamp_min(0)
        paid = sum(slots * price for slots, price in zip(self.slots_A, prices_A.tolist(), strict=True))
        return next_T, float(best_TK.sum(dtype=torch.float64)) + paid


def sweep_prices(
    market: Market, prices_A: Tensor, sweeps: int, steps: tuple[float, float], enough: float
) -> tuple[Tensor, Tensor, float]:
    """Up to `sweeps` over-relaxed quantile steps.

    Returns:
        The prices, the cut-offs of the tokens at these prices, and the lowest dual value seen.
    """
    slots_A, above = torch.tensor(market.slots_A), [slots + 1 for slots in market.slots_A]
    bound = float("inf")
    for sweep in range(sweeps + 1):
        cut_T, dual = market.cut_off(prices_A)
        bound = min(bound, dual)
        if sweep == sweeps:
            break
        surplus_AT = market.value_AT - cut_T  # what a token would pay for a slot
        if sweep and enough:
            spare_A = slots_A - (surplus_AT > prices_A[:, None]).sum(dim=1)
            idle = float((spare_A.clamp_min(0) * prices_A).sum())
            if -int(spare_A.clamp_max(0).sum()) <= enough and idle <= IDLE_SHARE * dual:
                break
        change_A = kth_largest_of_rows(surplus_AT, above).clamp_min(0) - prices_A
        prices_A = (prices_A + torch.where(change_A > 0, steps[0] * change_A, steps[1] * change_A)).clamp_min(0)
        if not market.short:
            prices_A = prices_A - prices_A.min()
    return prices_A, cut_T, bound


def solve(market: Market, start_A: Tensor) -> tuple[Tensor, Tensor, float]:
    """Prices from a sample of the tokens, then from all of them. Returns as `sweep_prices`."""
    tokens = market.value_TA.shape[0]
    stride, enough = tokens // SAMPLE_TOKENS, OVERFLOW_SHARE * tokens * market.k
    sweeps = SWEEPS - (-(-SAMPLE_SWEEPS // stride) if stride > 1 else 0)
    if _compiled_serves(market.value_TA):
        return _solve_compiled(market, start_A, stride, sweeps, enough)
    if stride > 1:
        start_A, _, _ = sweep_prices(market.sample(stride), start_A, SAMPLE_SWEEPS, SAMPLE_STEPS, 0)
    return sweep_prices(market, start_A, sweeps, FULL_STEPS, enough)


def _compiled_serves(tensor: Tensor) -> bool:
    return compiled.available and tensor.device.type == "cpu"


def _solve_compiled(
    market: Market, start_A: Tensor, stride: int, sweeps: int, enough: float
) -> tuple[Tensor, Tensor, float]:
    prices_A, width, bound = start_A.numpy().copy(), 0.0, float("inf")
    stages = [(market, sweeps, FULL_STEPS, enough)]
    if stride > 1:
        stages.insert(0, (market.sample(stride), SAMPLE_SWEEPS, SAMPLE_STEPS, -1.0))
    for part, turns, steps, stop in stages:
        cut_T = torch.empty_like(part.value_AT[0])
        bound, width = compiled.sweep(
            part.value_AT.numpy(),
            torch.tensor(part.slots_A).numpy(),
            part.k,
            part.short,
            prices_A,
            cut_T.numpy(),
            turns,
            HARD_SWEEPS if part is market else turns,
            *steps,
            stop,
            HARD_SHARE * part.k * cut_T.numel(),
            IDLE_SHARE,
            4 * width,
        )
    return torch.from_numpy(prices_A), cut_T, bound


def assign(market: Market, prices_A: Tensor, cut_T: Tensor, seed: int) -> Tensor:
    """Hard assignment at these prices: who holds what, bool (A, T)."""
    slots_A = torch.tensor(market.slots_A, device=cut_T.device)
    place = _place_compiled if _compiled_serves(market.value_AT) else _place
    held_AT, load_A = place(market, prices_A, cut_T, slots_A)
    if bool((load_A > slots_A).any()):
        margin_AT = (market.value_AT - prices_A[:, None] - cut_T).masked_fill_(~held_AT, -torch.inf)
        held_AT &= margin_AT >= kth_largest_of_rows(margin_AT, market.slots_A)[:, None]
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


def _over_share(market: Market, load_A: Tensor, slots_A: Tensor) -> float:
    """Share of the slots that are over capacity."""
    return int((load_A - slots_A).clamp_min(0).sum()) / (market.value_AT.shape[1] * market.k)


def _place(market: Market, prices_A: Tensor, cut_T: Tensor, slots_A: Tensor) -> tuple[Tensor, Tensor]:
    """What each token prefers at these prices, with small surpluses moved on: who holds what, and the loads."""
    margin_AT = market.value_AT - prices_A[:, None] - cut_T
    held_AT = margin_AT > 0
    load_A = held_AT.sum(dim=1)
    if not market.short and _over_share(market, load_A, slots_A) <= CHAIN_SHARE:
        load_A = settle_margins(held_AT, margin_AT, load_A, slots_A, prices_A)
    return held_AT, load_A


def _place_compiled(market: Market, prices_A: Tensor, cut_T: Tensor, slots_A: Tensor) -> tuple[Tensor, Tensor]:
    """The same as `_place`, compiled."""
    held_AT, load_A = torch.empty_like(market.value_AT, dtype=torch.bool), torch.empty_like(slots_A)
    least_T, value_AT = torch.empty_like(cut_T), market.value_AT.numpy()
    compiled.hold(value_AT, prices_A.numpy(), cut_T.numpy(), held_AT.numpy(), load_A.numpy(), least_T.numpy())
    over = _over_share(market, load_A, slots_A)
    if not market.short and over <= CHAIN_SHARE_COMPILED:
        value_TA = market.value_TA.contiguous().numpy()
        idle = float(((slots_A - load_A).clamp_min(0) * prices_A).sum() / prices_A.mul(slots_A).sum().clamp_min(1e-9))
        few = over <= FEW_SHARE and idle <= FEW_SHARE
        chains = int((CHAIN_SHARE if few else CHAIN_SHARE_COMPILED) * least_T.numel() * market.k) + 8
        movers_L = _nearly_indifferent(least_T) if few else torch.arange(least_T.numel())
        compiled.settle(value_TA, held_AT.numpy(), load_A.numpy(), slots_A.numpy(), movers_L.numpy(), chains)
    return held_AT, load_A


def _nearly_indifferent(least_T: Tensor) -> Tensor:
    """The tokens with the smallest margins: those that may move."""
    tokens = least_T.numel()
    offers = min(tokens, max(CHAIN_OFFERS, tokens // 4))
    return (least_T <= least_T.kthvalue(offers).values).nonzero().flatten()[: 2 * offers]


def settle_margins(held_AT: Tensor, margin_AT: Tensor, load_A: Tensor, slots_A: Tensor, prices_A: Tensor) -> Tensor:
    """Let the tokens with the smallest margins move so that load fits. Changes `held_AT`; returns the loads."""
    least_T, last_T = margin_AT.masked_fill(~held_AT, torch.inf).min(dim=0)
    token_L = _nearly_indifferent(least_T)
    next_L, to_L = margin_AT[:, token_L].masked_fill_(held_AT[:, token_L], -torch.inf).max(dim=0)
    from_L, cost_L = last_T[token_L], least_T[token_L] - next_L
    taken, load_A = settle(from_L, to_L, cost_L, load_A, slots_A, prices_A, CHAIN_ROUNDS)
    if taken:
        token_M, from_M, to_M = token_L[taken], from_L[taken], to_L[taken]
        held_AT[from_M, token_M] = False
        held_AT[to_M, token_M] = True
    return load_A


@register
class Price:
    """In-batch prices, hard capacities, certified."""

    name = "price"
    bounded = True
    complete = True

    def __init__(self) -> None:
        compiled.prepare()

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
            value_TA = choice_TE if alive_A.numel() == choice_TE.shape[1] else choice_TE[:, alive_A]
            market = Market.of(value_TA, capacity_E[alive_A].tolist(), k)
            prices_A, cut_T, bound = solve(market, state.prices_E[alive_A].to(choice_TE.dtype))
            held_AT = assign(market, prices_A, cut_T, state.step)
            prices_E[alive_A] = prices_A
            ids_TK = held_to_ids(held_AT, k, alive_A)
            kept = float((choice_TE.gather(1, ids_TK.clamp_min(0)) * (ids_TK >= 0)).sum(dtype=torch.float64))
            gap = max(0.0, (bound - kept) / bound) if bound > 0 else 0.0
            if gap > CERTAIN_ENOUGH and not market.short and _compiled_serves(held_AT):
                fitted_A, fitted = fit_prices(market, held_AT, prices_A)
                if fitted < bound:
                    prices_E[alive_A], gap = fitted_A, max(0.0, (fitted - kept) / fitted)
        plan = make_plan(
            scores_TE, choice_TE, ids_TK, capacity_E, wishes_TK=wishes_TK, prices_E=prices_E, certified_gap=gap
        )
        return plan, next_state(state, plan)


def fit_prices(market: Market, held_AT: Tensor, prices_A: Tensor) -> tuple[Tensor, float]:
    """Prices at which tokens would hold what they hold, as far as there are any, and the dual value there.

    After many chains the prices of the sweeps say little about the assignment.
    """
    fitted_A, slots_A = prices_A.clone(), torch.tensor(market.slots_A)
    full_A = held_AT.sum(dim=1) >= slots_A
    compiled.potentials(market.value_TA.contiguous().numpy(), held_AT.numpy(), full_A.numpy(), fitted_A.numpy())
    return fitted_A, market.cut_off(fitted_A)[1]


def held_to_ids(held_AT: Tensor, k: int, alive_A: Tensor) -> Tensor:
    """(A, T) who holds what -> (T, K) expert ids in rising order, -1 at the end where a token holds fewer than k."""
    tokens = held_AT.shape[1]
    ids_TK = torch.full((tokens, k), -1, dtype=torch.int64, device=held_AT.device)
    if _compiled_serves(held_AT):
        compiled.list_held(held_AT.numpy(), alive_A.numpy(), ids_TK.numpy())
        return ids_TK
    token_N, place_N = held_AT.T.nonzero(as_tuple=True)
    count_T = held_AT.sum(dim=0)
    slot_N = torch.arange(token_N.numel(), device=held_AT.device) - (count_T.cumsum(0) - count_T)[token_N]
    ids_TK[token_N, slot_N] = alive_A[place_N]
    return ids_TK
