"""Prices by sweeps over the tokens of a batch; this is the form in torch, `router.compiled.sweeps` the fast one.

A sweep looks at all tokens at the present prices: the cut-off of a token is the score - price of its best expert not
chosen, and what it would lose by leaving an expert is its margin there. Then all prices step, in one of two ways.

Alone: to the price at which just `C_e` tokens still pay above their cut-offs, each expert by itself, over-relaxed. It
works from any start, but experts that share their tokens only creep: each alone sees no reason to rise.

Together: a Newton step of the dual. How many tokens change from expert a to b per unit of price is counted among those
nearest to changing, as many as are too many (or too few): the window has the width of the step that is needed, so the
slope is that of the whole step and not of a point, where it would be 0 or infinite. The slopes form a weighted graph
of the experts; its Laplacian, times the steps, equals the surplus. One E x E system moves all prices jointly.
Damping grows with the share of slots over capacity, prices stay >= 0, and no step exceeds twice the widest window.

The first steps are of the first kind if many slots are over capacity, the others of the second. Large batches start on
a sample of their tokens.

Sources: the step alone is that of BIP balancing (arXiv 2502.15451) and Quantile Balancing (J. Su, 2026), over-relaxed.
Newton's method for semi-discrete transport: Kitagawa, Merigot and Thibert 2019 (arXiv 1603.05579); slopes over
quantile windows are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.ops import kth_largest_of_rows, split_rows

SWEEPS = 6  # over all tokens
SAMPLE_TOKENS = 1024
SAMPLE_SWEEPS = 4
ALONE = 2  # steps of the first kind at most,
FAR_SHARE = 0.1  # while more than this share of the slots is over capacity
ALONE_STEPS = (1.2, 1.8)  # relative step up and down: too high a price leaves room idle, so down is faster
LEAST_SHARE = 0.2  # of an expert's slots: tokens that a slope is counted from at least
DAMPING = (0.05, 0.5)  # relative, and how much more per share of the slots over capacity
ENOUGH_SHARE = 0.004  # slots over capacity at which moving them one by one is cheaper than another sweep
SAMPLE_ENOUGH_SHARE = 0.01


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
    slots_A: Tensor
    k: int
    short: bool

    @staticmethod
    def of(value_TA: Tensor, slots_A: Tensor, k: int) -> Market:
        tokens, alive = value_TA.shape
        slots_A, k = slots_A.clamp_max(tokens), min(k, alive)
        return Market(value_TA, value_TA.T.contiguous(), slots_A, k, int(slots_A.sum()) < tokens * k)

    def sample(self, stride: int) -> Market:
        """Every `stride`-th token, capacities in proportion."""
        value_TA = self.value_TA[::stride].contiguous()
        share = value_TA.shape[0] / self.value_TA.shape[0]
        slots_A = (self.slots_A * share).round().clamp_min(1).to(torch.int64)
        return Market(value_TA, value_TA.T.contiguous(), slots_A, self.k, self.short)

    def best(self, prices_A: Tensor) -> tuple[Tensor, Tensor]:
        """The k+1 best of each token at these prices, falling: score - price (T, K+1) and expert, A = none."""
        tokens, alive = self.value_TA.shape
        best_TJ, id_TJ = (self.value_TA - prices_A).topk(min(self.k + 1, alive), dim=1)
        if self.k == alive:
            best_TJ = torch.cat((best_TJ, best_TJ.new_zeros(tokens, 1)), dim=1)
            id_TJ = torch.cat((id_TJ, id_TJ.new_full((tokens, 1), alive)), dim=1)
        if self.short:
            id_TJ = id_TJ.masked_fill(best_TJ <= 0, alive)
            best_TJ = best_TJ.clamp_min(0)
        return best_TJ, id_TJ

    def dual(self, prices_A: Tensor) -> float:
        """A bound on the optimum."""
        best_TK, _ = split_rows(self.value_TA - prices_A, self.k)
        if self.short:
            best_TK = best_TK.clamp_min(0)
        paid = (self.slots_A * prices_A.double()).sum()
        return float(best_TK.sum(dtype=torch.float64) + paid)


def solve(market: Market, start_A: Tensor) -> Tensor:
    """Prices from a sample of the tokens if there are many, then from all of them."""
    stride = market.value_TA.shape[0] // SAMPLE_TOKENS
    if stride > 1:
        start_A = sweep_prices(market.sample(stride), start_A, SAMPLE_SWEEPS, SAMPLE_ENOUGH_SHARE)
    return sweep_prices(market, start_A, SWEEPS, ENOUGH_SHARE)


def sweep_prices(market: Market, prices_A: Tensor, sweeps: int, enough: float) -> Tensor:
    """Up to `sweeps` steps; fewer if at most a share `enough` of the slots is over capacity, and of the price idle."""
    slots = market.k * market.value_TA.shape[0]
    tight = int(market.slots_A.sum()) == slots
    for turn in range(sweeps):
        best_TJ, id_TJ = market.best(prices_A)
        net_AT = market.value_AT - prices_A[:, None]
        held_AT = net_AT > best_TJ[:, market.k]
        excess_A = held_AT.sum(dim=1) - market.slots_A
        over = int(excess_A.clamp_min(0).sum()) / slots
        idle = (excess_A.clamp_max(0).neg() * prices_A).sum() <= enough * (market.slots_A * prices_A).sum()
        if over <= enough and (tight or bool(idle)):
            break
        if turn < ALONE and over > FAR_SHARE:
            step_A = _step_alone(market, best_TJ[:, market.k], prices_A)
        else:
            step_A = _step_together(market, prices_A, net_AT, held_AT, excess_A, best_TJ, id_TJ, over)
        prices_A = (prices_A + step_A).clamp_min(0)
        if not market.short:
            prices_A = prices_A - prices_A.min()
    return prices_A


def _step_alone(market: Market, cut_T: Tensor, prices_A: Tensor) -> Tensor:
    beyond = [slots + 1 for slots in market.slots_A.tolist()]
    change_A = kth_largest_of_rows(market.value_AT - cut_T, beyond).clamp_min(0) - prices_A
    return torch.where(change_A > 0, ALONE_STEPS[0] * change_A, ALONE_STEPS[1] * change_A)


def _step_together(
    market: Market,
    prices_A: Tensor,
    net_AT: Tensor,
    held_AT: Tensor,
    excess_A: Tensor,
    best_TJ: Tensor,
    id_TJ: Tensor,
    over: float,
) -> Tensor:
    k, alive = market.k, len(prices_A)
    leaving_A1 = (excess_A >= 0)[:, None]
    distance_AT = torch.where(leaving_A1, net_AT - best_TJ[:, k], (best_TJ[:, k - 1] - net_AT).clamp_min(0))
    distance_AT.masked_fill_(held_AT != leaving_A1, torch.inf)
    wanted_A = torch.maximum(excess_A.abs(), (LEAST_SHARE * market.slots_A).to(torch.int64) + 1)
    found_A = torch.minimum(wanted_A, (held_AT == leaving_A1).sum(dim=1))
    width_A = -kth_largest_of_rows(-distance_AT, found_A.tolist())
    width_A = width_A.nan_to_num(neginf=0).clamp_min(1e-7).double()
    near_AT = (distance_AT <= width_A[:, None]).to(market.value_TA.dtype)
    leave_AB, join_AB = (near_AT @ _one_hot(id_TJ[:, place], alive + 1, near_AT.dtype) for place in (k, k - 1))
    slope_AB = torch.where(leaving_A1, leave_AB, join_AB).double() / (2 * width_A[:, None])
    none_A, slope_AA = slope_AB[:, alive], slope_AB[:, :alive] + slope_AB[:, :alive].T
    slope_AA.fill_diagonal_(0)
    laplacian_AA = torch.diag((slope_AA.sum(dim=1) + none_A) * (1 + DAMPING[0] + DAMPING[1] * over) + 0.01) - slope_AA
    step_A = _solve_above(laplacian_AA, excess_A.double(), -prices_A.double(), excess_A < 0)
    limit = 2 * (width_A * (excess_A.abs() / wanted_A).clamp_max(1)).max()
    return step_A.clamp(-limit, limit).to(prices_A.dtype)


def _solve_above(matrix_AA: Tensor, right_A: Tensor, least_A: Tensor, lowers_A: Tensor) -> Tensor:
    """The solution of a linear system, with the components that would fall below `least_A` fixed there."""
    fixed_A = (least_A >= 0) & lowers_A
    for _ in range(6):
        free_A = ~fixed_A
        known_A = torch.where(fixed_A, least_A, 0)
        reduced_AA = matrix_AA * (free_A[:, None] & free_A) + torch.diag(fixed_A.to(matrix_AA.dtype))
        solution_A = torch.linalg.solve(reduced_AA, torch.where(fixed_A, least_A, right_A - matrix_AA @ known_A))
        below_A = free_A & (solution_A < least_A)
        if not bool(below_A.any()):
            break
        fixed_A = fixed_A | below_A
    return solution_A


def _one_hot(ids_T: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    return (ids_T[:, None] == torch.arange(count, device=ids_T.device)).to(dtype)
