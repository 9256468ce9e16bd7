"""What the engine did: as a load snapshot a few times a second, and as Prometheus metrics."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector
from torch import Tensor

from recsys.buckets import cumulated
from recsys.wire import LayerLoad, LoadSnapshot
from router.shapes import RoutingPlan

Outcome = Literal["answered", "refused", "expired", "invalid", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("answered", "refused", "expired", "invalid", "failed")
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class EngineMetrics:
    """The engine's Prometheus metrics, in a registry of their own.

    recsys_engine_requests_total{outcome}            requests by how they left
    recsys_engine_answers_total{step}                answers and refusals by step of the ladder
    recsys_engine_queue_requests                     requests waiting
    recsys_engine_latency_seconds                    arrival to reply
    recsys_engine_step_seconds                       one micro-batch
    recsys_engine_batch_requests                     requests per micro-batch
    recsys_engine_batches_total{form}                micro-batches by how they were computed (`runner.Form`)
    recsys_engine_expert_slots_total{layer,expert,what}  demand, served, redirected_in
    recsys_engine_dropped_slots_total{layer}         slots nobody computed
    recsys_engine_pressure_ratio                     expected wait / time left
    recsys_engine_catalogue_items                    live items
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("recsys_engine_requests", "Requests by how they left", ["outcome"], registry=registry)
        self.answers = Counter(
            "recsys_engine_answers", "Answers and refusals by step of the ladder", ["step"], registry=registry
        )
        self.queue = Gauge("recsys_engine_queue_requests", "Requests waiting", registry=registry)
        self.latency = SummedHistogram("recsys_engine_latency_seconds", "Arrival to reply", _SECONDS)
        registry.register(self.latency)
        self.step = Histogram("recsys_engine_step_seconds", "One micro-batch", buckets=_SECONDS, registry=registry)
        self.batch = Histogram(
            "recsys_engine_batch_requests",
            "Requests per micro-batch",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.forms = Counter(
            "recsys_engine_batches", "Micro-batches by how they were computed", ["form"], registry=registry
        )
        self.slots = Counter(
            "recsys_engine_expert_slots", "Expert slots", ["layer", "expert", "what"], registry=registry
        )
        self.dropped = Counter("recsys_engine_dropped_slots", "Slots nobody computed", ["layer"], registry=registry)
        self.pressure = Gauge("recsys_engine_pressure_ratio", "Expected wait / time left", registry=registry)
        self.catalogue = Gauge("recsys_engine_catalogue_items", "Live items", registry=registry)


class SummedHistogram(Collector):
    """A histogram that takes the values of a whole micro-batch at once: one by one they cost more than their answers.

    Args:
        uppers: upper bounds of the buckets, rising; one without a bound comes after them.
    """

    def __init__(self, name: str, documentation: str, uppers: Sequence[float]) -> None:
        self._name, self._documentation, self._uppers = name, documentation, tuple(uppers)
        self._counts = [0] * (len(self._uppers) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: Sequence[float]) -> None:
        """Count values, from any thread."""
        with self._lock:
            self._sum += sum(values)
            for value in values:
                self._counts[bisect_left(self._uppers, value)] += 1

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        with self._lock:
            buckets, total = cumulated(self._uppers, self._counts), self._sum
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=total)


@dataclass(slots=True)
class _LayerSums:
    """Sums over the batches of one interval for one MoE layer."""

    experts: int
    demand_E: Tensor = field(init=False)
    served_E: Tensor = field(init=False)
    flow_EE: Tensor = field(init=False)
    capacity_E: Tensor = field(init=False)
    price_E: Tensor = field(init=False)
    dropped: int = 0
    kept: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    skew_before: list[float] = field(default_factory=list)
    skew_after: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.demand_E = torch.zeros(self.experts, dtype=torch.int64)
        self.served_E = torch.zeros(self.experts, dtype=torch.int64)
        self.flow_EE = torch.zeros(self.experts, self.experts, dtype=torch.int64)
        self.capacity_E = torch.zeros(self.experts, dtype=torch.int64)
        self.price_E = torch.zeros(self.experts)

    def add(self, plan: RoutingPlan) -> None:
        """One batch."""
        demand_E, served_E = plan.demand_E.cpu(), plan.load_E.cpu()
        self.demand_E += demand_E
        self.served_E += served_E
        self.capacity_E += plan.capacity_E.cpu()
        self.price_E = plan.prices_E.float().cpu()
        self.dropped += int((plan.expert_ids_TK < 0).sum())
        self.kept.append(float(plan.score_kept))
        gap = float(plan.certified_gap)
        if np.isfinite(gap):
            self.gap.append(gap)
        self.skew_before.append(_max_over_mean(demand_E))
        self.skew_after.append(_max_over_mean(served_E))
        if bool(plan.redirected_TK.any()):
            self.flow_EE += flows(plan)

    def load(self, batches: int) -> LayerLoad:
        """The layer's part of a snapshot. Prices are of the last batch; the rest covers the interval."""
        out_E, in_E = self.flow_EE.sum(1), self.flow_EE.sum(0)
        pairs = [(int(a), int(b), int(self.flow_EE[a, b])) for a, b in self.flow_EE.nonzero().tolist()]
        return LayerLoad(
            demand=self.demand_E.tolist(),
            served=self.served_E.tolist(),
            redirected_in=in_E.tolist(),
            redirected_out=out_E.tolist(),
            dropped=self.dropped,
            capacity=[float(c) for c in self.capacity_E.tolist()],
            price=[float(p) for p in self.price_E.tolist()],
            max_over_mean_demand=_mean(self.skew_before, 1.0),
            max_over_mean_served=_mean(self.skew_after, 1.0),
            score_kept=_mean(self.kept, 1.0),
            certified_gap=_mean(self.gap, 0.0),
            flow=sorted(pairs, key=lambda pair: -pair[2])[:32],
        )


def flows(plan: RoutingPlan) -> Tensor:
    """(from, to) counts of redirected slots, int64 (E, E): such a slot holds what replaces the wish of the slot."""
    experts = len(plan.demand_E)
    moved_TK = plan.redirected_TK & (plan.wishes_TK >= 0)
    pair_N = plan.wishes_TK[moved_TK] * experts + plan.expert_ids_TK[moved_TK]
    return torch.bincount(pair_N.cpu(), minlength=experts * experts).view(experts, experts)


class Telemetry:
    """Collects what happens between two snapshots. `batch` and `left` from any thread, `snapshot` from one."""

    def __init__(self, *, engine: str, layers: int, experts: int, queue_max: int, metrics: EngineMetrics) -> None:
        self._engine = engine
        self._layers = layers
        self._experts = experts
        self._queue_max = queue_max
        self._metrics = metrics
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self._outcomes = dict.fromkeys(OUTCOMES, 0)
        self._latency_s: list[float] = []
        self._step_ms: list[float] = []
        self._batch_requests: list[int] = []
        self._tokens = 0
        self._shed = False
        self._sums = [_LayerSums(self._experts) for _ in range(self._layers)]

    def resize(self, *, layers: int, experts: int) -> None:
        """Count for another model from now on; of the interval that runs only the routing is forgotten."""
        with self._lock:
            self._layers, self._experts = layers, experts
            self._sums = [_LayerSums(experts) for _ in range(layers)]

    def left(self, outcome: Outcome, latencies_s: Sequence[float] = (), *, step: str = "", count: int = 0) -> None:
        """Requests left the engine alike: at a step of the ladder or without one, with latencies or `count` without."""
        count = count or len(latencies_s)
        self._metrics.requests.labels(outcome).inc(count)
        if step:
            self._metrics.answers.labels(step).inc(count)
        if latencies_s:
            self._metrics.latency.observe(latencies_s)
        with self._lock:
            self._shed |= step == "shed"
            self._outcomes[outcome] += count
            self._latency_s += latencies_s

    def batch(
        self, requests: int, seconds: float, tokens: int, plans: Sequence[RoutingPlan], form: str = "plain"
    ) -> None:
        """One micro-batch was computed."""
        self._metrics.forms.labels(form).inc()
        self._metrics.step.observe(seconds)
        self._metrics.batch.observe(requests)
        with self._lock:
            self._step_ms.append(seconds * 1e3)
            self._batch_requests.append(requests)
            self._tokens += tokens
            for sums, plan in zip(self._sums, plans, strict=False):
                if sums.experts == len(plan.demand_E):  # else of a model that was swapped out while it ran
                    sums.add(plan)

    def snapshot(
        self, *, model_version: str, policy: str, capacity_factor: float, step: str, pressure: float, queue: int
    ) -> LoadSnapshot:
        """Everything since the last call, which starts a new interval. Its step is "shed" if anything was refused."""
        with self._lock:
            now = time.monotonic()
            outcomes, latency_s, steps = self._outcomes, self._latency_s, self._step_ms
            sizes, tokens, sums = self._batch_requests, self._tokens, self._sums
            step = "shed" if self._shed else step
            interval_ms, self._since = (now - self._since) * 1e3, now
            self._reset()
        self._count_slots(sums)
        self._metrics.queue.set(queue)
        self._metrics.pressure.set(pressure)
        latency_p50, latency_p95, latency_p99 = _quantiles([1e3 * s for s in latency_s], 50, 95, 99)
        step_p50, step_p99 = _quantiles(steps, 50, 99)
        return LoadSnapshot(
            engine=self._engine,
            ts=int(time.time() * 1e3),
            interval_ms=interval_ms,
            model_version=model_version,
            policy=policy,
            capacity_factor=capacity_factor,
            step=step,
            pressure=pressure,
            queue=queue,
            queue_max=self._queue_max,
            answered=outcomes["answered"],
            refused=outcomes["refused"],
            expired=outcomes["expired"],
            failed=outcomes["failed"],
            batches=len(steps),
            batch_requests_mean=_mean(sizes, 0.0),
            tokens=tokens,
            step_ms_p50=step_p50,
            step_ms_p99=step_p99,
            latency_ms_p50=latency_p50,
            latency_ms_p95=latency_p95,
            latency_ms_p99=latency_p99,
            layers=[layer.load(len(steps)) for layer in sums],
        )

    def _count_slots(self, sums: list[_LayerSums]) -> None:
        for layer, load in enumerate(sums):
            self._metrics.dropped.labels(layer).inc(load.dropped)
            arrivals_E = load.flow_EE.sum(0)
            for what, count_E in (("demand", load.demand_E), ("served", load.served_E), ("redirected_in", arrivals_E)):
                for expert, count in enumerate(count_E.tolist()):
                    if count:
                        self._metrics.slots.labels(layer, expert, what).inc(count)


def _max_over_mean(load_E: Tensor) -> float:
    total = int(load_E.sum())
    return float(load_E.max()) * len(load_E) / total if total else 1.0


def _mean(values: Sequence[float], empty: float) -> float:
    return float(np.mean(values)) if values else empty


def _quantiles(values: Sequence[float], *percents: float) -> list[float]:
    return [float(q) for q in np.percentile(values, percents)] if values else [0.0] * len(percents)
