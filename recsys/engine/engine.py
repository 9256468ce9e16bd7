"""An engine without a socket: requests are admitted, taken as micro-batches, computed and answered.

Whoever drives it (`recsys/engine/server.py` over ZeroMQ, `recsys/colocated.py` in the API's own process) calls `admit`
from the thread that reads, `take`, `compute` and `count` from the one that computes, and lets `Control` turn beside it.
"""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
import torch

from recsys.collector import collect_seldom
from recsys.config import Settings
from recsys.engine.admission import Addressed, AdmissionQueue, Ticket
from recsys.engine.catalogue import Catalogue
from recsys.engine.lanes import DEAD
from recsys.engine.pace import Pace
from recsys.engine.pressure import RUNGS, Effort, Limits, effort
from recsys.engine.runner import BatchResult
from recsys.engine.served import Served, folder_of
from recsys.engine.telemetry import EngineMetrics, Outcome, Telemetry
from recsys.engine.wanted import Wanted
from recsys.errors import InputError
from recsys.state.items import CatalogueChange, CatalogueItem
from recsys.wire import LoadSnapshot, Ping, Pong, RankReply, RankRequest, Similar, ToEngine
from router.policies import names
from router.router import Router

log = structlog.get_logger(__name__)

_OUTCOME: dict[str, Outcome] = {"ok": "answered", "refused": "refused", "expired": "expired", "invalid": "invalid"}


@dataclass(slots=True)
class MicroBatch:
    """Requests that are computed together.

    Attributes:
        tickets: in the order of arrival.
        served: the model that answers, also if another one is adopted meanwhile.
        router: of their policy.
        began_s: when they were taken, on the engine's clock.
        expected_s: what the step should take; 0 if there is no telling.
        seconds: that it took.
        result: what was computed; None if it failed.
    """

    tickets: list[Ticket]
    served: Served
    router: Router
    began_s: float
    expected_s: float
    seconds: float = 0.0
    result: BatchResult | None = None
    replies: list[RankReply] = field(default_factory=list)


class Engine:
    """Everything one engine does but for the way messages come and go."""

    def __init__(self, settings: Settings) -> None:
        config = settings.engine
        torch.set_num_threads(config.threads)
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self.metrics = EngineMetrics()
        self._served = Served(config.model_dir, settings)
        model = self._served.model
        self._queue = AdmissionQueue(config.queue_max)
        self._pace = Pace(wait_max_s=config.wait_max_ms / 1e3, batch_max=config.batch_max, ladder=config.ladder)
        self._telemetry = Telemetry(
            engine=self.name,
            layers=model.config.moe_layers,
            experts=model.config.experts,
            queue_max=config.queue_max,
            metrics=self.metrics,
        )
        bounds = settings.router
        self._wanted = Wanted(bounds.policy, bounds.capacity_factor, lane_us=bounds.lane_us)
        self._paced_for_us = bounds.lane_us  # what the lanes took when step times were learned
        self._follow(self._served, self._wanted)
        try:
            self._served.router(self._wanted.policy)
        except ValueError as error:  # now, not in the first batch
            raise InputError(f"RECSYS_ROUTER__POLICY: {error}", field="RECSYS_ROUTER__POLICY") from None
        self._policies = {None, *names()}

    @property
    def ready(self) -> bool:
        """Catalogue loaded and the model warmed up."""
        return self._served.catalogue is not None

    @property
    def queued(self) -> int:
        """Requests that wait for a micro-batch."""
        return len(self._queue)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._queue.closed

    def close(self) -> None:
        """Refuse what comes from now on; what is queued stays to be taken. Safe in any thread."""
        self._queue.close()

    # -- called by the control thread ------------------------------------------------------------------------------

    def set_wanted(self, wanted: Wanted) -> None:
        """Follow the policy, the bounds and the experts' health that are wanted, from the next batch.

        Raises:
            ValueError: an unknown policy or expert; everything stays as it was.
        """
        self._served.router(wanted.policy)
        self._follow(self._served, wanted)
        self._wanted = wanted

    @staticmethod
    def _follow(served: Served, wanted: Wanted) -> None:
        served.lanes.follow(dict(wanted.health), dict(wanted.inject), wanted.lane_us / 1e6)

    def set_catalogue(self, items: Mapping[str, CatalogueItem]) -> None:
        """Load the whole catalogue; the first call warms the model up and makes the engine ready."""
        served = self._served
        catalogue = Catalogue(list(items.values()), served.model)
        if served.catalogue is None:
            served.warm_up(catalogue, self._wanted.policy, self._efforts(), self._pace.learn)
            collect_seldom()
        self._swap(catalogue)

    def change_catalogue(self, change: CatalogueChange) -> None:
        """Apply changes to the catalogue."""
        served = self._served
        assert served.catalogue is not None, "changes come after the first load"
        self._swap(served.catalogue.changed(change.put, change.deleted, served.model))

    @property
    def model_version(self) -> str:
        """Version that is served."""
        return self._served.version

    def prepare(self, version: str) -> Served:
        """Load another version beside the one that serves, warmed up. Slow, and harmless in any thread.

        Raises:
            ModelFolderError: there is no such version, or its folder is broken.
        """
        served = Served(folder_of(version, self.settings), self.settings)
        before = self._served.catalogue
        if before is not None:
            served.catalogue = Catalogue(before.items, served.model, dead=before.dead)
            served.warm_up(served.catalogue, self._wanted.policy, self._efforts(), lambda *_: None)
        return served

    def adopt(self, served: Served) -> None:
        """Serve what was prepared from the next batch on; the batch that runs ends with the old one."""
        now = self._served.catalogue
        then = served.catalogue
        if now is not None and (then is None or (then.items, then.dead) != (now.items, now.dead)):
            served.catalogue = Catalogue(now.items, served.model, dead=now.dead)
        try:
            self._follow(served, self._wanted)
        except ValueError as error:  # another number of experts: what was said was of others
            self._follow(served, replace(self._wanted, health=(), inject=()))
            log.warning("health_forgotten", error=str(error))
        self._served = served
        self._telemetry.resize(layers=served.model.config.moe_layers, experts=served.model.config.experts)
        log.info("model_adopted", model=served.version)

    def snapshot(self) -> LoadSnapshot:
        """The load since the last snapshot, and what it moved: hot experts get the spare slots."""
        served, wanted, now_s = self._served, self._wanted, time.monotonic()
        now = self._effort()
        snapshot = self._telemetry.snapshot(
            model_version=served.version,
            policy=wanted.policy,
            capacity_factor=now.capacity_factor,
            step=now.step,
            pressure=self._pace.pressure,
            queue=len(self._queue),
        )
        if served.spares.observe(snapshot.layers, now_s=now_s):
            log.info("spare_slots_moved", replicas=served.spares.replicas_E.tolist())
        return replace(
            snapshot,
            health=served.lanes.health_E(now_s).tolist(),
            injected_us={str(e): "dead" if delay_s == DEAD else delay_s * 1e6 for e, delay_s in wanted.inject},
            lane_us=wanted.lane_us,
            replicas=served.spares.replicas_E.tolist(),
        )

    def _swap(self, catalogue: Catalogue) -> None:
        self._served.catalogue = catalogue
        self.metrics.catalogue.set(int(catalogue.live_I.sum()))

    # -- whichever thread reads ------------------------------------------------------------------------------------

    def admit(self, asker: Any, message: ToEngine) -> Addressed | None:
        """Queue a request. Returns what is to be answered at once, possibly to another asker, who had to make room."""
        if isinstance(message, Ping):
            return asker, Pong(message.n, self.ready and not self.closed, len(self._queue), self._served.version)
        now = time.monotonic()
        left_s = message.time_left_ms / 1e3
        ticket = Ticket(asker, message, now, now + left_s)
        if not self.ready or self.closed:
            why = "the engine is stopping" if self.ready else "the engine is starting"
            self._telemetry.left("refused", count=1)
            return asker, RankReply(id=message.id, status="refused", error=why, retry_after_s=1.0, elsewhere=True)
        if ticket.policy not in self._policies:
            self._telemetry.left("invalid", count=1)
            return asker, RankReply(id=message.id, status="invalid", error=f"policies: no policy {ticket.policy!r}")
        if left_s <= 0:
            self._telemetry.left("expired", count=1)
            return asker, RankReply(id=message.id, status="expired", error="no time left on arrival")
        ahead = self._queue.ahead_of(ticket)
        if not self._pace.admits(ahead, left_s, now, interactive=ticket.lane == 0):
            wait_s = self._pace.wait_s(ahead, now)
            return asker, self._refusal(message, f"expected wait {wait_s * 1e3:.0f} ms", wait_s)
        refused = self._queue.offer(ticket)
        if refused is None:
            return None
        return refused.asker, self._refusal(refused.request, "the queue is full", self._pace.wait_s(ahead, now))

    def _refusal(self, request: RankRequest | Similar, why: str, retry_after_s: float) -> RankReply:
        self._telemetry.left("refused", step="shed", count=1)
        return RankReply(
            id=request.id, status="refused", step="shed", error=why, retry_after_s=max(0.05, retry_after_s)
        )

    # -- the computing thread --------------------------------------------------------------------------------------

    def take(self, now_s: float) -> tuple[MicroBatch | None, list[Addressed]]:
        """The next micro-batch, None if nothing waits, and the answers to what expired meanwhile."""
        tickets, expired = self._queue.take(self._pace.batch, now_s=now_s, step_s=self._pace.step_s)
        late = [self._expire(ticket, now_s) for ticket in expired]
        if not tickets:
            return None, late
        served = self._served
        if self._wanted.lane_us != self._paced_for_us:
            self._pace.forget()
            self._paced_for_us = self._wanted.lane_us
        router = served.router(tickets[0].policy or self._wanted.policy)
        waited_s = now_s - min(ticket.arrived_s for ticket in tickets)
        self._pace.begin(
            len(tickets), waited_s=waited_s, behind=len(self._queue), bounded=router.policy.bounded, now_s=now_s
        )
        return MicroBatch(tickets, served, router, now_s, self._pace.step_s(len(tickets))), late

    def compute(self, batch: MicroBatch) -> list[Addressed]:
        """The answers, in order. Whatever goes wrong, every request gets one."""
        try:
            batch.replies, batch.result = self._run(batch)
        except Exception as error:  # one bad batch must not end the engine
            log.exception("batch_failed", requests=len(batch.tickets))
            why = f"{type(error).__name__}: {error}"
            batch.replies = [RankReply(id=t.request.id, status="failed", error=why) for t in batch.tickets]
        batch.seconds = time.monotonic() - batch.began_s
        self._pace.end(len(batch.tickets), batch.seconds)
        answers: list[Addressed] = []
        for ticket, reply in zip(batch.tickets, batch.replies, strict=True):
            reply.queue_ms = (batch.began_s - ticket.arrived_s) * 1e3
            answers.append((ticket.asker, reply))
        return answers

    def count(self, batch: MicroBatch) -> None:
        """For the load snapshots and the metrics, behind the answers."""
        now = time.monotonic()
        latencies_s: dict[tuple[Outcome, str], list[float]] = defaultdict(list)
        for ticket, reply in zip(batch.tickets, batch.replies, strict=True):
            outcome = _OUTCOME.get(reply.status, "failed")
            latencies_s[outcome, reply.step if outcome == "answered" else ""].append(now - ticket.arrived_s)
        for (outcome, step), taken_s in latencies_s.items():
            self._telemetry.left(outcome, taken_s, step=step)
        if (result := batch.result) is not None:
            self._telemetry.batch(len(result.replies), batch.seconds, result.tokens, result.plans, result.form)

    def idle(self, now_s: float) -> None:
        """Nothing to do for a while."""
        self._pace.idle(now_s)

    def _expire(self, ticket: Ticket, now_s: float) -> Addressed:
        waited_s = now_s - ticket.arrived_s
        self._telemetry.left("expired", [waited_s])
        error = "expired in the queue"
        return ticket.asker, RankReply(id=ticket.request.id, status="expired", error=error, queue_ms=waited_s * 1e3)

    def _run(self, batch: MicroBatch) -> tuple[list[RankReply], BatchResult | None]:
        served, router = batch.served, batch.router
        catalogue = served.catalogue
        assert catalogue is not None, "tickets are admitted only when ready"
        queries = [t.request for t in batch.tickets if isinstance(t.request, RankRequest)]
        result = None
        if queries:
            now = self._effort()
            router.capacity_factor, router.tokens_min = now.capacity_factor, now.tokens_min
            router.set_replicas(served.spares.replicas_E)
            finished = False
            while not finished:  # a lane that is found dead has no capacity in the next turn
                turn = time.perf_counter()
                router.set_health(served.lanes.health_E(time.monotonic()))
                result = served.runner.run(queries, catalogue, router, step=now.step, candidates=now.candidates)
                finished = served.lanes.finish(result.plans, time.perf_counter() - turn)
        in_order = iter(result.replies if result else ())
        replies = [
            next(in_order) if isinstance(t.request, RankRequest) else served.runner.similar(t.request, catalogue)
            for t in batch.tickets
        ]
        return replies, result

    def _effort(self) -> Effort:
        """What a micro-batch may cost now."""
        return effort(RUNGS[self._pace.height], self._limits())

    def _efforts(self) -> list[Effort]:
        """What one may cost at each height of the ladder."""
        limits = self._limits()
        return [effort(rung, limits) for rung in RUNGS]

    def _limits(self) -> Limits:
        bounds, sizes = self.settings.router, self.settings.engine
        return Limits(
            factor=self._wanted.capacity_factor,
            factor_min=bounds.capacity_factor_min,
            factor_economise=bounds.capacity_factor_economise,
            candidates=sizes.candidates,
            candidates_economise=sizes.candidates_economise,
            # With a device each all wait for the fullest expert of this micro-batch: more room is a longer wait.
            batch=0 if self._wanted.lane_us else self._pace.batch,
        )
