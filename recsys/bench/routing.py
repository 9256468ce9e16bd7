"""Every policy and every rival on the same streams of gate scores: calm, a burst, a hot topic that moves on.

One row per stream, moment, capacity factor and policy, beside the exact optimum of that very batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from kernels.ops import choose
from recsys.bench import rivals
from router.capacity import uniform_capacity
from router.gates import GateSource, TopicGates
from router.imbalance import drop_rate
from router.oracle import exact_optimum
from router.plan import choice_scores
from router.policies import Policy, get, names
from router.shapes import RouterState, RoutingPlan

Row = dict[str, float | str]
MEMORYLESS = {"topk", "hash", "phase", "drop", "expanded_drop", "p2c", "sinkhorn"}  # but for the step that seeds draws
CHOOSE_BY_LOAD = {"hash", "phase", "p2c", "threshold"}  # what they choose is what they load; no repair after it
SHOWN_OVER_TIME = ("topk", "loss_free", "loss_free_best", "drift_plus_penalty", "evict_rebid", "price")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingBench:
    """What is run.

    Attributes:
        tokens, k: of a batch.
        experts: sizes of the generated streams.
        factors: capacity factors.
        calm, burst, moved: batches of each stretch of the stream.
        seeds: one stream each.
        recorded: further streams by name.
    """

    tokens: int = 4096
    k: int = 2
    experts: tuple[int, ...] = (8, 16, 64)
    factors: tuple[float, ...] = (1.0, 1.1, 1.25, 1.5)
    calm: int = 20
    burst: int = 20
    moved: int = 10
    seeds: tuple[int, ...] = (0,)
    recorded: Mapping[str, GateSource] = field(default_factory=dict)

    @staticmethod
    def quick(recorded: Mapping[str, GateSource]) -> RoutingBench:
        """Small sizes, for a first look and for tests."""
        return RoutingBench(
            tokens=512, experts=(8, 16), factors=(1.0, 1.25), calm=6, burst=6, moved=3, recorded=recorded
        )

    def moments(self) -> dict[int, str]:
        """Batches that are judged."""
        end_of_burst = self.calm + self.burst
        return {
            self.calm - 1: "calm",
            self.calm: "burst, first batch",
            end_of_burst - 1: "burst, settled",
            end_of_burst: "topic moved, first batch",
        }

    def batches(self, gates: GateSource, seed: int) -> list[Tensor]:
        """The stream: calm, half of the tokens on one topic, then on another."""
        topics = [None] * self.calm + [0] * self.burst + [1] * self.moved
        draws = range(1_000 * seed, 1_000 * seed + len(topics))
        return [gates.draw(self.tokens, seed=n, hot_topic=topic) for n, topic in zip(draws, topics, strict=True)]

    def streams(self) -> Iterator[tuple[str, GateSource, int]]:
        """(source, gates, seed)."""
        for seed in self.seeds:
            for experts in self.experts:
                yield "generated", TopicGates(experts, seed=seed), seed
            for name, gates in self.recorded.items():
                yield name, gates, seed


def run_bench(options: RoutingBench, progress: Progress | None = None) -> list[Row]:
    """All rows; the optimum is a row of its own (policy "optimum")."""
    rows: list[Row] = []
    streams = list(options.streams())
    task = progress.add_task("Policies", total=len(streams) * len(options.factors)) if progress else None
    for source, gates, seed in streams:
        batches = options.batches(gates, seed)
        for factor in options.factors:
            where: Row = {
                "gates": source,
                "experts": gates.experts,
                "seed": seed,
                "tokens": options.tokens,
                "capacity_factor": factor,
            }
            rows.extend(_one_stream(options, batches, gates.experts, factor, where))
            if progress and task is not None:
                progress.advance(TaskID(task))
    return rows


def contenders(batches: Sequence[Tensor], judged: Sequence[int], capacity_E: Tensor, k: int) -> list[Policy]:
    """Registered policies, then the rivals, those with a knob at its best setting for this stream."""
    tuned = [
        rivals.at_its_best(knobs, batches, judged, capacity_E, k)
        for knobs in (rivals.SINKHORN_KNOBS, rivals.LOSS_FREE_KNOBS)
    ]
    fixed: list[Policy] = [rivals.EVICT_AND_REBID, rivals.IN_ARRIVAL_ORDER, rivals.IN_CONFIDENCE_ORDER]
    return [*(get(name) for name in names()), *tuned, *fixed]


def equal_capacity(options: RoutingBench, experts: int, factor: float) -> Tensor:
    """The same slots for every expert."""
    return torch.full((experts,), uniform_capacity(options.tokens, options.k, experts, factor))


def _one_stream(
    options: RoutingBench, batches: Sequence[Tensor], experts: int, factor: float, where: Row
) -> Iterator[Row]:
    capacity_E, moments = equal_capacity(options, experts, factor), options.moments()
    best = {number: exact_optimum(batches[number], capacity_E, options.k) for number in moments}
    for number, moment in moments.items():
        wishes = _wished(batches[number], options.k)
        yield {**where, "moment": moment, "policy": "optimum", **_empty(), "score_kept": best[number] / wishes}
    for policy in contenders(batches, list(moments), capacity_E, options.k):
        for number, plan in _plans(policy, batches, capacity_E, options.k, set(moments)):
            figures = _figures(policy, plan, batches[number], best[number])
            yield {**where, "moment": moments[number], "policy": policy.name, **figures}


def _plans(
    policy: Policy, batches: Sequence[Tensor], capacity_E: Tensor, k: int, wanted: set[int]
) -> Iterator[tuple[int, RoutingPlan]]:
    """Plans of the wanted batches; those between are only seen by a policy that remembers."""
    state = RouterState.initial(len(capacity_E))
    skips = policy.name in MEMORYLESS or isinstance(policy, rivals.InOrder)
    for number, scores_TE in enumerate(batches):
        if number in wanted or not (skips or isinstance(policy, rivals.Repaired)):
            plan, state = policy.route(scores_TE, capacity_E, k, state)
            if number in wanted:
                yield number, plan
        elif isinstance(policy, rivals.Repaired):
            state = policy.pass_by(scores_TE, capacity_E, k, state)
        else:
            state = RouterState(state.prices_E, state.bias_E, state.step + 1)


def _figures(policy: Policy, plan: RoutingPlan, scores_TE: Tensor, best: float) -> dict[str, float]:
    slots, experts = plan.expert_ids_TK.numel(), len(plan.load_E)
    before_E, changed = plan.load_E, 0.0
    if policy.name not in CHOOSE_BY_LOAD:
        raw_TK = raw_choice(plan, scores_TE)
        before_E = torch.bincount(raw_TK.flatten(), minlength=experts)
        changed = 1 - float((raw_TK[:, :, None] == plan.expert_ids_TK[:, None, :]).sum()) / slots
    over = float((plan.load_E - plan.capacity_E).clamp_min(0).sum()) / slots
    kept = float(plan.score_kept) * _wished(scores_TE, plan.expert_ids_TK.shape[1])
    return {
        "max_over_mean_before": float(before_E.max()) * experts / slots,
        "max_over_mean_after": float(plan.load_E.max()) * experts / slots,
        "over_capacity_share": over,
        "repaired_share": changed,
        "redirected_share": float(plan.redirected_TK.float().mean()),
        "dropped_share": drop_rate(plan),
        "score_kept": float(plan.score_kept),
        "excess_regret": 1 - kept / best if over == 0 else nan,
        "certified_gap": float(plan.certified_gap),
    }


def _empty() -> dict[str, float]:
    names = ("max_over_mean_before", "max_over_mean_after", "over_capacity_share", "repaired_share")
    return dict.fromkeys(
        (*names, "redirected_share", "dropped_share", "score_kept", "excess_regret", "certified_gap"), nan
    )


def raw_choice(plan: RoutingPlan, scores_TE: Tensor) -> Tensor:
    """What a plan's prices choose before any repair: top-k of score - price."""
    choice_TE = choice_scores(scores_TE, torch.zeros(scores_TE.shape[1]))
    return choose(choice_TE, plan.expert_ids_TK.shape[1], prices_E=plan.prices_E)


def _wished(scores_TE: Tensor, k: int) -> float:
    return float(scores_TE.topk(k, dim=1).values.sum(dtype=torch.float64))


def over_time(options: RoutingBench, gates: GateSource, *, factor: float, seed: int = 0) -> list[Row]:
    """Each batch of a stream under the policies that a picture shows: imbalance before repair, and score kept."""
    batches = options.batches(gates, seed)
    capacity_E = equal_capacity(options, gates.experts, factor)
    all_of_them = set(range(len(batches)))
    rows: list[Row] = []
    for policy in contenders(batches, list(options.moments()), capacity_E, options.k):
        if policy.name in SHOWN_OVER_TIME:
            for number, plan in _plans(policy, batches, capacity_E, options.k, all_of_them):
                figures = _figures(policy, plan, batches[number], nan)
                rows.append({"policy": policy.name, "batch": float(number), **figures})
    return rows


def burst_plan(options: RoutingBench, gates: GateSource, *, factor: float, seed: int = 0) -> RoutingPlan:
    """What `price` does with the first batch of a burst."""
    batches = options.batches(gates, seed)[: options.calm + 1]
    capacity_E = equal_capacity(options, gates.experts, factor)
    *_, (_, plan) = _plans(get("price"), batches, capacity_E, options.k, {options.calm})
    return plan
