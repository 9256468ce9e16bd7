"""The engine process: one I/O thread that owns the socket, one compute thread that owns the device, one control thread.

The compute thread takes what arrived while the last micro-batch ran; there is no timer. Compute never runs on the I/O
thread, so requests are admitted, refused or expired while a batch is on the device. The control thread publishes
load snapshots, follows the catalogue and the wanted routing policy, and may lose Redis without hurting an answer.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping

import msgspec
import structlog
import torch
import zmq
from prometheus_client import start_http_server

from recsys.config import Settings
from recsys.engine.admission import AdmissionQueue, Ticket
from recsys.engine.catalogue import Catalogue
from recsys.engine.control import Control, Wanted
from recsys.engine.freed_memory import keep_freed_memory
from recsys.engine.pressure import Effort, Ladder, Limits, ServiceTime, effort
from recsys.engine.runner import Runner
from recsys.engine.telemetry import EngineMetrics, Outcome, Telemetry
from recsys.errors import InputError, UnavailableError
from recsys.model.recommender import Recommender
from recsys.state.items import CatalogueChange, CatalogueItem
from recsys.wire import Ping, Pong, RankReply, RankRequest, Similar, decode_to_engine, encode, encode_snapshot
from router.router import Router

log = structlog.get_logger(__name__)

_REPLIES = "inproc://replies"
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
        device = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        model = Recommender.from_pretrained(config.model_dir).to(device)
        self._model = model
        self._runner = Runner(model, candidates=config.candidates)
        self._queue = AdmissionQueue(config.queue_max)
        self._ladder = Ladder()
        self._service = ServiceTime()
        self._metrics = EngineMetrics()
        self._telemetry = Telemetry(
            engine=self.name,
            layers=model.config.moe_layers,
            experts=model.config.experts,
            queue_max=config.queue_max,
            metrics=self._metrics,
        )
        self._routers: dict[str, Router] = {}
        self._wanted = Wanted(settings.router.policy, settings.router.capacity_factor)
        self._health_E = torch.ones(model.config.experts, dtype=torch.float64)
        try:
            self._router(self._wanted.policy)
        except ValueError as error:  # now, not in the first batch
            raise InputError(f"RECSYS_ROUTER__POLICY: {error}", field="RECSYS_ROUTER__POLICY") from None
        self._catalogue: Catalogue | None = None
        self._pressure = 0.0
        self._stop = threading.Event()
        self._zmq: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    @property
    def ready(self) -> bool:
        """Catalogue loaded and the model warmed up."""
        return self._catalogue is not None

    def stop(self) -> None:
        """Refuse what comes, answer what is queued, end `run`. Safe in a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until `stop`."""
        config = self._settings.engine
        if config.metrics_port:
            start_http_server(config.metrics_port, addr=self._settings.api.host, registry=self._metrics.registry)
        outgoing = self._zmq.socket(zmq.PULL)
        outgoing.bind(_REPLIES)
        compute = threading.Thread(target=self._compute_loop, name="compute")
        control = Control(self._settings, self)
        follow = threading.Thread(target=control.run, args=(self._stop,), name="control")
        compute.start()
        follow.start()
        log.info("engine_started", engine=self.name, endpoint=self._endpoint, model=self._model.version)
        try:
            self._io_loop(outgoing, compute)
        finally:
            self._stop.set()
            self._queue.close()
            compute.join()
            follow.join()
            self._zmq.destroy(linger=200)
            log.info("engine_stopped", engine=self.name)

    # -- called by the control thread ------------------------------------------------------------------------------

    def set_wanted(self, wanted: Wanted) -> None:
        """Follow the policy, the bounds and the experts' health that are wanted, from the next batch.

        Raises:
            ValueError: an unknown policy or expert; everything stays as it was.
        """
        self._router(wanted.policy)
        health_E = torch.ones(self._model.config.experts, dtype=torch.float64)
        for expert, share in wanted.health:
            if expert >= len(health_E):
                raise ValueError(f"health: no expert {expert}, there are {len(health_E)}")
            health_E[expert] = share
        self._wanted, self._health_E = wanted, health_E

    def set_catalogue(self, items: Mapping[str, CatalogueItem]) -> None:
        """Load the whole catalogue; the first call warms the model up and makes the engine ready."""
        catalogue = Catalogue(list(items.values()), self._model)
        if self._catalogue is None:
            self._warm_up(catalogue)
        self._swap(catalogue)

    def change_catalogue(self, change: CatalogueChange) -> None:
        """Apply changes to the catalogue."""
        assert self._catalogue is not None, "changes come after the first load"
        self._swap(self._catalogue.changed(change.put, change.deleted, self._model))

    def snapshot(self) -> bytes:
        """The load since the last snapshot, encoded for the telemetry stream."""
        wanted = self._wanted
        now = self._effort(self._router(wanted.policy))
        return encode_snapshot(
            self._telemetry.snapshot(
                model_version=self._model.version,
                policy=wanted.policy,
                capacity_factor=now.capacity_factor,
                step=now.step,
                pressure=self._pressure,
                queue=len(self._queue),
            )
        )

    def _swap(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._metrics.catalogue.set(int(catalogue.live_I.sum()))

    def _warm_up(self, catalogue: Catalogue) -> None:
        """Run the smallest and the largest batch: the first caller pays for nothing, and step times are known."""
        seen = tuple(catalogue.item_ids[1 : self._model.config.history + 1])
        for requests in (1, self._settings.engine.batch_max):
            batch = [RankRequest(id="", time_left_ms=0, k=10, history=seen, exclude_seen=False)] * requests
            for repeat in range(4):
                began = time.perf_counter()
                self._runner.run(batch, catalogue, self._router(self._wanted.policy), step="calm")
                if repeat:  # the first pays for allocations and lazy set-up
                    self._service.observe(requests, time.perf_counter() - began)
        gc.collect()
        gc.freeze()  # the model and its tables never become garbage: keep the collector off them

    # -- I/O thread ------------------------------------------------------------------------------------------------

    def _io_loop(self, outgoing: zmq.Socket[bytes], compute: threading.Thread) -> None:
        router = self._zmq.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 200)
        try:
            router.bind(self._endpoint)
        except zmq.ZMQError as error:
            raise UnavailableError(f"RECSYS_ENGINE__ENDPOINT: cannot listen on {self._endpoint}: {error}") from None
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(outgoing, zmq.POLLIN)
        while compute.is_alive():
            if self._stop.is_set():
                self._queue.close()
            for ready, _ in poller.poll(100):
                if ready is outgoing:
                    self._send_replies(router, outgoing)
                else:
                    self._receive(router)
        self._send_replies(router, outgoing)

    @staticmethod
    def _send_replies(router: zmq.Socket[bytes], outgoing: zmq.Socket[bytes]) -> None:
        while outgoing.poll(0):
            router.send_multipart(outgoing.recv_multipart())

    def _receive(self, router: zmq.Socket[bytes]) -> None:
        """Admit what is there, but come back to send replies at least every 64 messages."""
        for _ in range(64):
            if not router.poll(0):
                return
            peer, frame = router.recv_multipart()
            reply = self._admit(peer, frame)
            if reply is not None:
                router.send_multipart([reply[0], encode(reply[1])])

    def _admit(self, peer: bytes, frame: bytes) -> tuple[bytes, RankReply | Pong] | None:
        """Queue a request, or answer at once what cannot be queued."""
        try:
            message = decode_to_engine(frame)
        except Exception as error:  # whatever a stranger sends to the socket must not end the engine
            log.warning("bad_message", error=str(error)[:200])
            return None
        if isinstance(message, Ping):
            return peer, Pong(message.n, self.ready and not self._stop.is_set(), len(self._queue), self._model.version)
        now = time.monotonic()
        left_s = message.time_left_ms / 1e3
        ticket = Ticket(peer, message, now, now + left_s)
        ahead = self._queue.ahead_of(ticket)
        wait_s = self._service.wait_s(ahead, self._settings.engine.batch_max)
        self._pressure = wait_s / left_s if left_s > 0 else 1.0
        if not self.ready or self._stop.is_set():
            why = "the engine is stopping" if self.ready else "the engine is starting"
            self._telemetry.left("refused")
            return peer, RankReply(id=message.id, status="refused", error=why, retry_after_s=1.0, elsewhere=True)
        if left_s <= 0:
            self._telemetry.left("expired")
            return peer, RankReply(id=message.id, status="expired", error="no time left on arrival")
        if ahead and wait_s > left_s:  # an idle engine always tries, or a bad estimate would stay for ever
            return peer, self._refusal(message, f"expected wait {wait_s * 1e3:.0f} ms", wait_s)
        refused = self._queue.offer(ticket)
        if refused is None:
            return None
        return refused.peer, self._refusal(refused.request, "the queue is full", wait_s)

    def _refusal(self, request: RankRequest | Similar, why: str, retry_after_s: float) -> RankReply:
        self._telemetry.left("refused", step="shed")
        return RankReply(
            id=request.id, status="refused", step="shed", error=why, retry_after_s=max(0.05, retry_after_s)
        )

    # -- compute thread --------------------------------------------------------------------------------------------

    def _compute_loop(self) -> None:
        out = self._zmq.socket(zmq.PUSH)
        out.setsockopt(zmq.LINGER, 200)
        out.connect(_REPLIES)
        while self._queue.wait(0.2) or not self._queue.closed:
            batch, expired = self._queue.take(self._settings.engine.batch_max, now_s=time.monotonic())
            for ticket in expired:
                self._reply(
                    out, ticket, RankReply(id=ticket.request.id, status="expired", error="expired in the queue")
                )
            if batch:
                self._compute(out, batch)
            elif not expired:
                self._pressure = 0.0
                self._climb(0.0, time.monotonic())
        out.close()

    def _compute(self, out: zmq.Socket[bytes], batch: list[Ticket]) -> None:
        began = time.monotonic()
        self._climb(self._pressure_of(batch, began), began)
        try:
            replies = self._run(batch)
        except Exception as error:  # one bad batch must not end the engine, and every caller gets its answer
            log.exception("batch_failed", requests=len(batch))
            replies = [
                RankReply(id=t.request.id, status="failed", error=f"{type(error).__name__}: {error}") for t in batch
            ]
        for ticket, reply in zip(batch, replies, strict=True):
            self._reply(out, ticket, reply, queue_ms=(began - ticket.arrived_s) * 1e3)

    def _run(self, batch: list[Ticket]) -> list[RankReply]:
        catalogue = self._catalogue
        assert catalogue is not None, "tickets are admitted only when ready"
        queries = [t.request for t in batch if isinstance(t.request, RankRequest)]
        began = time.perf_counter()
        answered: list[RankReply] = []
        if queries:
            router = self._router(batch[0].policy or self._wanted.policy)
            now = self._effort(router)
            router.capacity_factor, router.tokens_min = now.capacity_factor, now.tokens_min
            router.set_health(self._health_E)
            result = self._runner.run(queries, catalogue, router, step=now.step, candidates=now.candidates)
            seconds = time.perf_counter() - began
            self._service.observe(len(queries), seconds)
            self._telemetry.batch(len(queries), seconds, result.tokens, result.plans)
            answered = result.replies
        in_order = iter(answered)
        return [
            next(in_order) if isinstance(t.request, RankRequest) else self._runner.similar(t.request, catalogue)
            for t in batch
        ]

    def _reply(self, out: zmq.Socket[bytes], ticket: Ticket, reply: RankReply, *, queue_ms: float = 0.0) -> None:
        outcome = _OUTCOME.get(reply.status, "failed")
        step = reply.step if outcome == "answered" else ""
        self._telemetry.left(outcome, time.monotonic() - ticket.arrived_s, step=step)
        out.send_multipart([ticket.peer, encode(msgspec.structs.replace(reply, queue_ms=queue_ms))])

    def _climb(self, pressure: float, now_s: float) -> None:
        if self._settings.engine.ladder:
            self._ladder = self._ladder.update(pressure, now_s=now_s)

    def _pressure_of(self, batch: list[Ticket], now_s: float) -> float:
        """Expected wait of a request arriving now, relative to the time the oldest in this batch still has."""
        left_s = min(ticket.deadline_s for ticket in batch) - now_s
        wait_s = self._service.wait_s(len(self._queue), self._settings.engine.batch_max)
        return wait_s / max(left_s, 1e-3)

    def _router(self, policy: str) -> Router:
        if policy not in self._routers:
            config = self._model.config
            self._routers[policy] = Router(
                policy,
                capacity_factor=self._settings.router.capacity_factor,
                layers=config.moe_layers,
                experts=config.experts,
            )
        return self._routers[policy]

    def _effort(self, router: Router) -> Effort:
        """What a micro-batch of this policy may cost now."""
        bounds, sizes = self._settings.router, self._settings.engine
        limits = Limits(
            factor=self._wanted.capacity_factor,
            factor_min=bounds.capacity_factor_min,
            factor_economise=bounds.capacity_factor_economise,
            candidates=sizes.candidates,
            candidates_economise=sizes.candidates_economise,
            batch_max=sizes.batch_max,
        )
        return effort(self._ladder.rung(bounded=router.policy.bounded), limits)


def run_engine(settings: Settings) -> None:
    """Entry point: serve until SIGTERM or SIGINT."""
    keep_freed_memory()
    engine = Engine(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: engine.stop())
    engine.run()
