"""An expert turns slow, or dies, under a steady load: what each policy makes of it, and how long it takes.

The fault is injected through `PUT /v1/router`, so engines really wait for the sick lane; nobody tells them which expert
it is. The expert is the one with the largest demand. Times count from the start of a trial.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import httpx
import msgspec
import numpy as np
from rich.console import Console

from recsys.bench.open_loop import Outcome, closed_loop, connections, open_loop
from recsys.wire import LoadSnapshot

Fault = Literal["slow", "dead"]
Row = dict[str, float | str]

CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class HealthOptions:
    """The story of one trial."""

    policies: tuple[str, ...] = ("topk", "drop", "price")
    faults: tuple[Fault, ...] = ("slow", "dead")
    before_s: float = 6.0
    sick_s: float = 12.0
    after_s: float = 8.0
    share: float = 0.3  # of saturation
    slow_us: float = 100.0  # that each slot of the slow expert takes longer
    deadline_ms: float = 500.0
    saturate_s: float = 4.0

    @property
    def seconds(self) -> float:
        """Of one trial."""
        return self.before_s + self.sick_s + self.after_s

    @property
    def spans(self) -> dict[str, tuple[float, float]]:
        """Start and end of "before", "sick" and "after"."""
        sick = self.before_s + self.sick_s
        return {"before": (0.0, self.before_s), "sick": (self.before_s, sick), "after": (sick, self.seconds)}


@dataclass(frozen=True, slots=True)
class HealthTrial:
    """One policy with one fault. `load`: (seconds, share of the slots, health) of the sick expert, by snapshot."""

    policy: str
    fault: Fault
    expert: int
    outcomes: list[Outcome]
    load: list[tuple[float, float, float]]


class _Snapshots(msgspec.Struct):
    snapshots: list[LoadSnapshot]


class Faulty:
    """A running service whose experts can be made sick."""

    def __init__(self, base: str, admin_key: str) -> None:
        self._http = httpx.Client(base_url=base, headers={"X-Api-Key": admin_key}, timeout=20)

    def put(self, **body: object) -> None:
        """Change the router."""
        self._http.put("/v1/router", json=body).raise_for_status()

    def snapshots(self, since_ms: int) -> list[LoadSnapshot]:
        """Load since then."""
        answer = self._http.get("/v1/experts", params={"window_s": 600, "since": since_ms}).raise_for_status()
        return msgspec.json.decode(answer.content, type=_Snapshots).snapshots

    def hottest(self, since_ms: int) -> int:
        """Expert with the largest demand since then."""
        seen = [layer.demand for snapshot in self.snapshots(since_ms) for layer in snapshot.layers]
        return int(np.sum(seen, axis=0).argmax())

    def close(self) -> None:
        """Make everybody well and leave."""
        self.put(health={}, inject={})
        self._http.close()


async def run_health(
    base: str, admin_key: str, bodies: list[bytes], options: HealthOptions, console: Console
) -> tuple[float, list[HealthTrial]]:
    """The rate of saturation and all trials, one after the other."""
    service = Faulty(base, admin_key)
    try:
        async with connections(base, CONNECTIONS) as pool:
            await closed_loop(pool, bodies, callers=32, seconds=options.saturate_s / 2)  # warm
            began_ms = int(time.time() * 1e3)
            saturation = await closed_loop(pool, bodies, callers=32, seconds=options.saturate_s)
        expert = service.hottest(began_ms)
        console.print(f"Saturation: {saturation:.0f} answers/s; the expert: {expert}")
        trials = []
        for fault in options.faults:
            for policy in options.policies:
                with console.status(f"{policy}, {fault} expert"):
                    trials.append(await _trial(base, service, bodies, options, policy, fault, expert, saturation))
        return saturation, trials
    finally:
        service.close()


async def _trial(
    base: str,
    service: Faulty,
    bodies: list[bytes],
    options: HealthOptions,
    policy: str,
    fault: Fault,
    expert: int,
    saturation: float,
) -> HealthTrial:
    service.put(policy=policy, inject={})
    await asyncio.sleep(2.0)
    began_ms = int(time.time() * 1e3)

    async def disturb() -> None:
        await asyncio.sleep(options.before_s)
        injected: object = "dead" if fault == "dead" else options.slow_us
        await asyncio.to_thread(service.put, inject={str(expert): injected}, inject_for_s=options.sick_s + 60)
        await asyncio.sleep(options.sick_s)
        await asyncio.to_thread(service.put, inject={})

    async with connections(base, CONNECTIONS) as pool, asyncio.TaskGroup() as group:
        group.create_task(disturb())
        outcomes = await open_loop(
            pool,
            lambda t_s: options.share * saturation,
            lambda t_s, asked: bodies[asked % len(bodies)],
            seconds=options.seconds,
            deadline_ms=options.deadline_ms,
        )
    load = [_of_expert(s, expert, began_ms) for s in service.snapshots(began_ms) if s.tokens]
    return HealthTrial(policy, fault, expert, outcomes, load)


def _of_expert(snapshot: LoadSnapshot, expert: int, began_ms: int) -> tuple[float, float, float]:
    served = sum(layer.served[expert] for layer in snapshot.layers)
    total = sum(sum(layer.served) for layer in snapshot.layers)
    return (snapshot.ts - began_ms) / 1e3, served / max(total, 1), snapshot.health[expert]


def health_rows(trials: Sequence[HealthTrial], saturation: float, options: HealthOptions) -> list[Row]:
    """One row per trial."""
    return [_row(trial, saturation, options) for trial in trials]


def _row(trial: HealthTrial, saturation: float, options: HealthOptions) -> Row:
    row: Row = {"policy": trial.policy, "fault": trial.fault, "expert": trial.expert, "saturation_per_s": saturation}
    usual = _mean_share(trial, *options.spans["before"])
    for name, (start_s, end_s) in options.spans.items():
        inside = [one for one in trial.outcomes if start_s <= one.due_s < end_s]
        good = [one for one in inside if one.status == 200 and not one.fallback]
        row[f"{name}_p99_ms"] = float(np.percentile([o.latency_s for o in good], 99)) * 1e3 if good else float("nan")
        row[f"{name}_answered_share"] = len(good) / max(1, len(inside))
        row[f"{name}_score_kept"] = float(np.mean([o.score_kept for o in good])) if good else float("nan")
        row[f"{name}_expert_share"] = _mean_share(trial, start_s, end_s)
    sick_s, well_s = options.spans["sick"]
    row["moved_after_s"] = _first(trial, sick_s, well_s, lambda share: share < usual / 2)
    row["back_after_s"] = _first(trial, well_s, options.seconds, lambda share: share > usual * 0.8)
    row["neither_200_nor_503"] = sum(one.status not in (200, 503) for one in trial.outcomes)
    return row


def _mean_share(trial: HealthTrial, start_s: float, end_s: float) -> float:
    inside = [share for at_s, share, _ in trial.load if start_s <= at_s < end_s]
    return float(np.mean(inside)) if inside else float("nan")


def _first(trial: HealthTrial, start_s: float, end_s: float, reached: Callable[[float], bool]) -> float:
    """Seconds from `start_s` to the first of three snapshots in a row that are like that; NaN: none before `end_s`."""
    inside = [(at_s - start_s, reached(share)) for at_s, share, _ in trial.load if start_s <= at_s < end_s]
    return next((at_s for n, (at_s, _) in enumerate(inside) if all(ok for _, ok in inside[n : n + 3])), float("nan"))
