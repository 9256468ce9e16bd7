"""The engine process: one thread that answers, one that reads along during long steps, one control thread.

The serving thread reads the socket, takes what arrived while the last micro-batch ran (there is no timer), computes and
answers. A short step is over before another thread could be woken, and two threads would fight for the interpreter; a
long step has a second thread that admits, refuses and answers pings meanwhile. The control thread publishes load
snapshots, follows the catalogue and the wanted routing policy, and may lose Redis without hurting an answer.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog
import torch
import zmq
from prometheus_client import start_http_server

from recsys.collector import collect_seldom
from recsys.config import Settings
from recsys.engine.admission import AdmissionQueue, Ticket
from recsys.engine.catalogue import Catalogue
from recsys.engine.control import Control
from recsys.engine.door import LINGER_MS, Addressed, Door
from recsys.engine.freed_memory import keep_freed_memory
from recsys.engine.lanes import DEAD
from recsys.engine.pace import Pace
from recsys.engine.pressure import RUNGS, Effort, Limits, effort
from recsys.engine.runner import BatchResult
from recsys.engine.served import Served, folder_of
from recsys.engine.telemetry import EngineMetrics, Outcome, Telemetry
from recsys.engine.wanted import Wanted
from recsys.errors import InputError
from recsys.signals import on_stop
from recsys.state.items import CatalogueChange, CatalogueItem
from recsys.wire import LoadSnapshot, Ping, Pong, RankReply, RankRequest, Similar, ToEngine
from router.policies import names
from router.router import Router

log = structlog.get_logger(__name__)

THREAD_TURN_S = 0.0005  # what the serving thread waits at most for another one to give the interpreter back
LONG_STEP_S = 0.002  # from here on a second thread reads the socket during a step
READ_ALONG_WAIT_S = 0.02  # ... and looks that often whether the step is over
READ_EVERY_S = 0.001  # ... not for every bundle: each reading takes the interpreter from the step
IDLE_S = 0.2  # without work for that long is idle
_OUTCOME: dict[str, Outcome] = {"ok": "answered", "refused": "refused", "expired": "expired", "invalid": "invalid"}


class Engine:
    """Everything one engine process does. `run` blocks until `stop` is called."""

    def __init__(self, settings: Settings) -> None:
        config = settings.engine
        torch.set_num_threads(config.threads)
        torch.manual_seed(settings.seed)
        self._settings = settings
        self._endpoint = config.own_endpoint
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self._served = Served(config.model_dir, settings)
        model = self._served.model
        self._queue = AdmissionQueue(config.queue_max)
        self._pace = Pace(wait_max_s=config.wait_max_ms / 1e3, batch_max=config.batch_max, ladder=config.ladder)
        self._metrics = EngineMetrics()
        self._telemetry = Telemetry(
            engine=self.name,
            layers=model.config.moe_layers,
            experts=model.config.experts,
            queue_max=config.queue_max,
            metrics=self._metrics,
        )
        self._wanted = Wanted(settings.router.policy, settings.router.capacity_factor)
        try:
            self._served.router(self._wanted.policy)
        except ValueError as error:  # now, not in the first batch
            raise InputError(f"RECSYS_ROUTER__POLICY: {error}", field="RECSYS_ROUTER__POLICY") from None
        self._policies = {None, *names()}
        self._stop = threading.Event()
        self._long_step = threading.Event()
        self._zmq: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    @property
    def ready(self) -> bool:
        """Catalogue loaded and the model warmed up."""
        return self._served.catalogue is not None

    def stop(self) -> None:
        """Refuse what comes, answer what is queued, end `run`. Safe in a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until `stop`."""
        config = self._settings.engine
        if config.metrics_port:
            start_http_server(config.metrics_port, addr=self._settings.api.host, registry=self._metrics.registry)
        door = Door(self._zmq, self._endpoint, self._admit)
        control = Control(self._settings, self)
        others = [
            threading.Thread(target=control.run, args=(self._stop,), name="control"),
            threading.Thread(target=self._read_along, args=(door,), name="read-along"),
        ]
        for thread in others:
            thread.start()
        log.info("engine_started", engine=self.name, endpoint=self._endpoint, model=self._served.version)
        try:
            self._serve(door)
        finally:
            self._stop.set()
            self._long_step.set()
            for thread in others:
                thread.join()
            self._zmq.destroy(linger=LINGER_MS)
            log.info("engine_stopped", engine=self.name)

    # -- called by the control thread ------------------------------------------------------------------------------

    def set_wanted(self, wanted: Wanted) -> None:
        """Follow the policy, the bounds and the experts' health that are wanted, from the next batch.

        Raises:
            ValueError: an unknown policy or expert; everything stays as it was.
        """
        self._served.router(wanted.policy)
        self._served.lanes.follow(dict(wanted.health), dict(wanted.inject))
        self._wanted = wanted

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
        served = Served(folder_of(version, self._settings), self._settings)
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
            served.lanes.follow(dict(self._wanted.health), dict(self._wanted.inject))
        except ValueError as error:  # another number of experts: what was said was of others
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
            replicas=served.spares.replicas_E.tolist(),
        )

    def _swap(self, catalogue: Catalogue) -> None:
        self._served.catalogue = catalogue
        self._metrics.catalogue.set(int(catalogue.live_I.sum()))

    # -- whichever thread reads the socket -------------------------------------------------------------------------

    def _admit(self, peer: bytes, message: ToEngine) -> Addressed | None:
        """Queue a request, or answer at once what cannot be queued."""
        if isinstance(message, Ping):
            return peer, Pong(message.n, self.ready and not self._stop.is_set(), len(self._queue), self._served.version)
        now = time.monotonic()
        left_s = message.time_left_ms / 1e3
        ticket = Ticket(peer, message, now, now + left_s)
        if not self.ready or self._stop.is_set():
            why = "the engine is stopping" if self.ready else "the engine is starting"
            self._telemetry.left("refused", count=1)
            return peer, RankReply(id=message.id, status="refused", error=why, retry_after_s=1.0, elsewhere=True)
        if ticket.policy not in self._policies:
            self._telemetry.left("invalid", count=1)
            return peer, RankReply(id=message.id, status="invalid", error=f"policies: no policy {ticket.policy!r}")
        if left_s <= 0:
            self._telemetry.left("expired", count=1)
            return peer, RankReply(id=message.id, status="expired", error="no time left on arrival")
        ahead = self._queue.ahead_of(ticket)
        if not self._pace.admits(ahead, left_s, now, interactive=ticket.lane == 0):
            wait_s = self._pace.wait_s(ahead, now)
            return peer, self._refusal(message, f"expected wait {wait_s * 1e3:.0f} ms", wait_s)
        refused = self._queue.offer(ticket)
        if refused is None:
            return None
        return refused.peer, self._refusal(refused.request, "the queue is full", self._pace.wait_s(ahead, now))

    def _refusal(self, request: RankRequest | Similar, why: str, retry_after_s: float) -> RankReply:
        self._telemetry.left("refused", step="shed", count=1)
        return RankReply(
            id=request.id, status="refused", step="shed", error=why, retry_after_s=max(0.05, retry_after_s)
        )

    def _read_along(self, door: Door) -> None:
        """Admit, refuse and answer pings during long steps."""
        try:
            while not self._stop.is_set():
                self._long_step.wait()
                door.receive()
                door.wait(READ_ALONG_WAIT_S)
                time.sleep(READ_EVERY_S)
        except Exception:  # the engine would go on without noticing
            log.exception("reading_failed")
            self.stop()

    # -- serving thread --------------------------------------------------------------------------------------------

    def _serve(self, door: Door) -> None:
        worked_s = time.monotonic()
        while True:
            if self._stop.is_set():
                self._queue.close()
            more = door.receive()
            now = time.monotonic()
            batch, expired = self._queue.take(self._pace.batch, now_s=now, step_s=self._pace.step_s)
            if expired:
                replies = [RankReply(id=t.request.id, status="expired", error="expired in the queue") for t in expired]
                self._answer(door, expired, replies, now)
            if batch:
                self._compute(door, batch, now)
            if batch or expired:
                worked_s = now
            elif self._queue.closed and not more:
                return
            elif now - worked_s >= IDLE_S:
                self._pace.idle(now)
                worked_s = now
            elif not more:
                door.wait(IDLE_S / 2)

    def _compute(self, door: Door, batch: list[Ticket], now: float) -> None:
        served = self._served
        router = served.router(batch[0].policy or self._wanted.policy)
        waited_s = now - min(ticket.arrived_s for ticket in batch)
        self._pace.begin(
            len(batch), waited_s=waited_s, behind=len(self._queue), bounded=router.policy.bounded, now_s=now
        )
        if not 0.0 < self._pace.step_s(len(batch)) < LONG_STEP_S:
            self._long_step.set()
        try:
            replies, result = self._run(batch, served, router)
        except Exception as error:  # one bad batch must not end the engine, and every caller gets its answer
            log.exception("batch_failed", requests=len(batch))
            why = f"{type(error).__name__}: {error}"
            replies, result = [RankReply(id=t.request.id, status="failed", error=why) for t in batch], None
        self._long_step.clear()
        seconds = time.monotonic() - now
        self._pace.end(len(batch), seconds)
        self._answer(door, batch, replies, now)
        if result is not None:  # counted behind the answers
            self._telemetry.batch(len(result.replies), seconds, result.tokens, result.plans)

    def _answer(self, door: Door, tickets: list[Ticket], replies: list[RankReply], began_s: float) -> None:
        for ticket, reply in zip(tickets, replies, strict=True):
            reply.queue_ms = (began_s - ticket.arrived_s) * 1e3
        door.send((ticket.peer, reply) for ticket, reply in zip(tickets, replies, strict=True))
        now = time.monotonic()
        latencies_s: dict[tuple[Outcome, str], list[float]] = defaultdict(list)
        for ticket, reply in zip(tickets, replies, strict=True):
            outcome = _OUTCOME.get(reply.status, "failed")
            latencies_s[outcome, reply.step if outcome == "answered" else ""].append(now - ticket.arrived_s)
        for (outcome, step), taken_s in latencies_s.items():
            self._telemetry.left(outcome, taken_s, step=step)

    def _run(self, batch: list[Ticket], served: Served, router: Router) -> tuple[list[RankReply], BatchResult | None]:
        catalogue = served.catalogue
        assert catalogue is not None, "tickets are admitted only when ready"
        queries = [t.request for t in batch if isinstance(t.request, RankRequest)]
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
            for t in batch
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
        bounds, sizes = self._settings.router, self._settings.engine
        return Limits(
            factor=self._wanted.capacity_factor,
            factor_min=bounds.capacity_factor_min,
            factor_economise=bounds.capacity_factor_economise,
            candidates=sizes.candidates,
            candidates_economise=sizes.candidates_economise,
            batch=self._pace.batch,
        )


def run_engine(settings: Settings, make: Callable[[Settings], Engine] = Engine) -> None:
    """Entry point: serve until SIGTERM or SIGINT."""
    keep_freed_memory()
    sys.setswitchinterval(THREAD_TURN_S)
    engine = make(settings)
    on_stop(engine.stop)
    engine.run()
