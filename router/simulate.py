"""A policy under a stream of gate scores, on lanes that queue, slow down and die. Nothing here reads a clock.

The loop is that of a real deployment: lanes report what they served, the tracker turns that into rates, rates and
backlogs into capacities, the policy routes within them, and a planner moves spare slots to hot experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from router.gates import GateSource
from router.lanes import Fault, Lanes, Placement, Step, lane_of_slots
from router.load import LoadTracker, capacity_from_load
from router.policies import Policy
from router.replicas import ReplicaPlan, replan
from router.shapes import RouterState, RoutingPlan

RECOVERED = 1.25  # step time over the interval
MOSTLY_SERVED = 0.99


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the stream. A hot topic may move on every so many seconds."""

    name: str
    seconds: float
    hot_topic: int | None = None
    moves_every_s: float | None = None

    def topic_at(self, since_s: float) -> int | None:
        if self.hot_topic is None or self.moves_every_s is None:
            return self.hot_topic
        return self.hot_topic + int(since_s / self.moves_every_s)


def crowd_story(seconds: float) -> tuple[Phase, ...]:
    """Calm, then a burst on one topic, then a hot topic that moves four times; equally long."""
    part = seconds / 3
    return Phase("calm", part), Phase("burst", part, 0), Phase("moving", part, 1, part / 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that decides a run but the policy and the gates.

    Attributes:
        tokens, k: tokens per batch and experts per token.
        phases: what happens.
        lanes, slots_per_s, overhead_s: devices, their rate, and their fixed time per batch.
        utilisation: load that arrives / what all lanes could serve if it were spread evenly.
        deadline_s: a slot that cannot be done so long after its batch arrived is refused.
        faults: slow and dead lanes.
        noticed_s: how long until a dead lane is known to be dead; what goes there until then is lost.
        spare: slots beyond one per expert; `moves_s` is how long it takes until moved weights serve.
        half_life_s: of the measured load.
        panel: tokens that are the same in each batch, to count how often their experts change.
        hot_share: share of tokens in the hot topic.
        seed: of the stream.
    """

    tokens: int = 1024
    k: int = 2
    phases: tuple[Phase, ...] = field(default_factory=lambda: crowd_story(30.0))
    lanes: int = 16
    slots_per_s: float = 8000.0
    overhead_s: float = 0.0002
    utilisation: float = 0.5
    deadline_s: float = 0.1
    faults: tuple[Fault, ...] = ()
    noticed_s: float = 0.5
    spare: int = 0
    moves_s: float = 1.0
    half_life_s: float = 0.5
    panel: int = 32
    hot_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError naming the field and its bound."""
        for name in ("tokens", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, not {getattr(self, name)}")
        for name in ("slots_per_s", "utilisation", "deadline_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be > 0 and finite, not {getattr(self, name)}")
        if not 0 <= self.hot_share <= 1 or self.spare < 0 or not 0 <= self.panel <= self.tokens:
            raise ValueError("hot_share must be in 0..1, spare >= 0 and panel in 0..tokens")
        if not self.phases or any(phase.seconds <= 0 for phase in self.phases):
            raise ValueError("phases must last > 0 seconds, and there must be one")

    @property
    def interval_s(self) -> float:
        """Time between batches."""
        return self.tokens * self.k / (self.lanes * self.slots_per_s * self.utilisation)

    def arrivals(self) -> Iterator[tuple[int, float, int, int | None]]:
        """(batch, time, number of the phase, hot topic), in order."""
        batch, began_s = 0, 0.0
        for number, phase in enumerate(self.phases):
            while batch * self.interval_s < began_s + phase.seconds - 1e-9:
                now_s = batch * self.interval_s
                yield batch, now_s, number, phase.topic_at(now_s - began_s)
                batch += 1
            began_s += phase.seconds

    def shocks(self) -> list[float]:
        """Times at which something changes: phases, moves of the topic, faults."""
        times, began_s = set(), 0.0
        for phase in self.phases:
            times.add(began_s)
            if phase.moves_every_s:
                moves = int(phase.seconds / phase.moves_every_s + 1e-9)
                times.update(began_s + n * phase.moves_every_s for n in range(moves))
            began_s += phase.seconds
        times.update(t for fault in self.faults for t in (fault.from_s, fault.to_s))
        return sorted(t for t in times if 0 < t < began_s)


@dataclass(frozen=True, slots=True)
class Trace:
    """One number per batch (N batches), float64 unless said otherwise."""

    time_s_N: Tensor
    phase_N: Tensor
    step_s_N: Tensor
    served_N: Tensor
    kept_N: Tensor
    redirected_N: Tensor
    max_over_mean_N: Tensor
    switches_N: Tensor
    moves: int = field(default=0, kw_only=True)

    def of_phase(self, phase: int) -> Trace:
        """The batches of one phase."""
        columns = (getattr(self, column.name) for column in fields(self) if column.name != "moves")
        return Trace(*(value_N[self.phase_N == phase] for value_N in columns), moves=self.moves)


class _Deployment:
    """Lanes with what is known about them: the moving parts of one run."""

    def __init__(self, scenario: Scenario, experts: int) -> None:
        self.scenario = scenario
        self.lanes = Lanes(
            scenario.lanes,
            slots_per_s=scenario.slots_per_s,
            overhead_s=scenario.overhead_s,
            faults=scenario.faults,
        )
        self.rates = LoadTracker(torch.full((scenario.lanes,), scenario.slots_per_s), half_life_s=scenario.half_life_s)
        self.demand = LoadTracker(torch.zeros(experts), half_life_s=scenario.half_life_s)
        self.plan = ReplicaPlan.even(experts, experts + scenario.spare, now_s=0.0)
        self.placement = Placement.of(self.plan.replicas_E, scenario.lanes)
        self.coming: tuple[float, Placement] | None = None
        self.moves = 0

    def alive(self, now_s: float) -> Tensor:
        """Lanes not known to be dead, bool (lanes,)."""
        alive_L = torch.ones(self.scenario.lanes, dtype=torch.bool)
        for fault in self.scenario.faults:
            if fault.speed == 0 and fault.from_s + self.scenario.noticed_s <= now_s < fault.to_s:
                alive_L[fault.lane] = False
        return alive_L

    def capacity(self, policy: Policy, now_s: float) -> tuple[Tensor, Tensor]:
        """Slots of each expert now, and the share of each lane in them.

        An expert without room is not dead: plain top-k, which leaves out only dead ones, does not look at room.
        """
        capacity_E, share_EL = self.placement.capacity(self.room(now_s), self.scenario.tokens)
        if policy.name == "topk":
            capacity_E = self.placement.copies_EL[:, self.alive(now_s)].sum(dim=1)
        return capacity_E, share_EL

    def room(self, now_s: float) -> Tensor:
        """Slots that each lane may get now."""
        scenario = self.scenario
        return capacity_from_load(
            self.rates.at(now_s).service_rate_E,
            self.lanes.backlog(now_s),
            horizon_s=scenario.interval_s,
            most=scenario.tokens * scenario.k,
            alive_E=self.alive(now_s),
        )

    def observe(self, plan: RoutingPlan, step: Step, now_s: float) -> None:
        """Learn from a batch, and move spare slots when that is due."""
        self.rates.observe(step.asked_L, step.served_L, step.busy_s_L, now_s=now_s)
        self.demand.observe(plan.demand_E, plan.load_E, torch.zeros_like(plan.load_E), now_s=now_s)
        if self.coming is not None and now_s >= self.coming[0]:
            self.placement, self.coming = self.coming[1], None
        if not self.scenario.spare or self.coming is not None:
            return
        wanted_E = self.demand.at(now_s).demand_per_s_E
        better = replan(self.plan, wanted_E, now_s=now_s)
        if better is not self.plan:
            self.plan, self.moves = better, self.moves + 1
            placement = Placement.of(better.replicas_E, self.scenario.lanes, wanted_E)
            self.coming = (now_s + self.scenario.moves_s, placement)


def simulate(policy: Policy, gates: GateSource, scenario: Scenario) -> Iterator[Trace | int]:
    """Run a policy through a scenario.

    Yields:
        After each batch how many are done (for a progress bar), and the trace at the end. `run` drops the former.
    """
    world, state = _Deployment(scenario, gates.experts), RouterState.initial(gates.experts)
    panel_PE = gates.draw(scenario.panel, seed=scenario.seed + 1)
    before_PK: Tensor | None = None
    rows: list[tuple[float, ...]] = []
    for batch, now_s, phase, topic in scenario.arrivals():
        fresh_TE = gates.draw(
            scenario.tokens - scenario.panel,
            seed=scenario.seed * 1_000_003 + batch + 2,
            hot_topic=topic,
            hot_share=scenario.hot_share,
        )
        scores_TE = torch.cat((panel_PE, fresh_TE))
        capacity_E, share_EL = world.capacity(policy, now_s)
        plan, state = policy.route(scores_TE, capacity_E, scenario.k, state)
        step = world.lanes.serve(lane_of_slots(plan, share_EL), now_s=now_s, deadline_s=scenario.deadline_s)
        world.observe(plan, step, now_s)
        kept = (scores_TE.gather(1, plan.expert_ids_TK.clamp_min(0)) * step.served_TK).sum()
        now_PK = plan.expert_ids_TK[: scenario.panel].sort(dim=1).values
        switched = 0.0 if before_PK is None else float((now_PK != before_PK).any(dim=1).float().mean())
        before_PK = now_PK
        rows.append(
            (
                now_s,
                phase,
                step.seconds,
                float(step.served_TK.sum()),
                float(kept / scores_TE.gather(1, plan.wishes_TK).sum()),
                float(plan.redirected_TK.float().mean()),
                float(step.asked_L.max() * step.asked_L.numel() / step.asked_L.sum().clamp_min(1)),
                switched,
            )
        )
        yield batch + 1
    yield Trace(*torch.tensor(rows, dtype=torch.float64).unbind(dim=1), moves=world.moves)


def run(policy: Policy, gates: GateSource, scenario: Scenario) -> Trace:
    """The trace of a whole run."""
    *_, trace = simulate(policy, gates, scenario)
    assert isinstance(trace, Trace)
    return trace


def recovery_s(trace: Trace, scenario: Scenario) -> float:
    """Worst time from a change until the lanes keep up again, and do until the next one; inf = not before the next.

    They keep up with a batch that takes at most 1.25 intervals and loses at most 1 % of its slots.
    """
    late_N = trace.step_s_N > RECOVERED * scenario.interval_s
    late_N |= trace.served_N < MOSTLY_SERVED * scenario.tokens * scenario.k
    shocks, worst = scenario.shocks(), 0.0
    end_s = sum(phase.seconds for phase in scenario.phases)
    for start_s, stop_s in zip(shocks, [*shocks[1:], end_s], strict=True):
        here_N = (trace.time_s_N >= start_s - 1e-9) & (trace.time_s_N < stop_s - 1e-9)
        late_at_s_N = trace.time_s_N[here_N & late_N]
        if not late_at_s_N.numel():
            continue
        still = bool(late_N[here_N][-1])
        worst = max(worst, float("inf") if still else float(late_at_s_N[-1]) - start_s + scenario.interval_s)
    return worst


def summary(trace: Trace, scenario: Scenario) -> dict[str, float]:
    """Figures of a trace or a part of one.

    `p50_ms`, `p99_ms` step times; `goodput_per_s` slots done in time; `goodput_share` of all that were asked for;
    `score_kept`; `redirected_share`; `max_over_mean` of the lanes; `switches_per_min` of one recurring token.
    """
    batches = max(1, trace.step_s_N.numel())
    served = float(trace.served_N.sum())
    offered = batches * scenario.tokens * scenario.k
    return {
        "p50_ms": 1e3 * float(trace.step_s_N.quantile(0.5)),
        "p99_ms": 1e3 * float(trace.step_s_N.quantile(0.99)),
        "goodput_per_s": served / (batches * scenario.interval_s),
        "goodput_share": served / offered,
        "score_kept": float(trace.kept_N.mean()),
        "redirected_share": float(trace.redirected_N.mean()),
        "max_over_mean": float(trace.max_over_mean_N.mean()),
        "switches_per_min": float(trace.switches_N.mean()) * 60 / scenario.interval_s,
    }
