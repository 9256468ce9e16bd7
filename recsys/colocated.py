"""API and engine in one process: no message is encoded, sent or waited for between them.

For CPUs, where ranking a request costs about as much as carrying it: every core runs one process that does everything.
What is lost is that a broken engine leaves the API standing, and that the two are scaled on their own.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import structlog
import torch
from fastapi import FastAPI

from recsys.api.app import create_app, serve_http
from recsys.api.engine_client import EngineLostError, expire
from recsys.config import Settings
from recsys.engine.admission import Addressed
from recsys.engine.control import Control
from recsys.engine.engine import Engine, MicroBatch
from recsys.engine.freed_memory import keep_freed_memory
from recsys.engine.server import IDLE_S, THREAD_TURN_S
from recsys.errors import OverloadedError
from recsys.wire import RankReply, RankRequest, Similar

LONG_STEP_S = 0.005  # the loop may stand still for less

log = structlog.get_logger(__name__)


class ColocatedEngine:
    """An engine asked and driven by the event loop of the API; see `recsys.api.engine_pool.RankingEngine`.

    A short step runs on the loop, after the turn that read the requests; one that is long, or waits for lanes, in a
    thread, and the loop reads on.

    Args:
        engine: nobody else drives it.
        in_flight_max: questions without an answer; above it `OverloadedError`.
    """

    def __init__(self, engine: Engine, *, in_flight_max: int) -> None:
        self._engine = engine
        self._in_flight_max = in_flight_max
        self._pending: set[asyncio.Future[RankReply]] = set()
        self._turn_comes = False
        self._worked_s = time.monotonic()
        self._stop = threading.Event()
        threads = engine.settings.engine.threads  # OpenMP counts them for each thread that computes
        self._thread = ThreadPoolExecutor(1, "long-step", torch.set_num_threads, (threads,))

    @property
    def in_flight(self) -> int:
        """Questions without an answer."""
        return len(self._pending)

    @property
    def load(self) -> int:
        """Questions without an answer: nobody else asks."""
        return len(self._pending)

    @property
    def alive(self) -> bool:
        """Always, until it is closed."""
        return not self._engine.closed

    @property
    def ready(self) -> bool:
        """Model and catalogue loaded."""
        return self.alive and self._engine.ready

    @property
    def model_version(self) -> str:
        """Version that is served."""
        return self._engine.model_version

    async def start(self) -> None:
        """Follow the catalogue and what is wanted, in a thread, and take questions."""
        self._loop = asyncio.get_running_loop()
        control = Control(self._engine.settings, self._engine)
        self._control = threading.Thread(target=control.run, args=(self._stop,), name="control")
        self._control.start()
        self._idling = self._loop.call_later(IDLE_S, self._idle)
        log.info("engine_started", engine=self._engine.name, model=self._engine.model_version)

    async def close(self) -> None:
        """Fail what is pending and end the threads."""
        self._engine.close()
        self._stop.set()
        self._idling.cancel()
        for future in self._pending:
            if not future.done():
                future.set_exception(EngineLostError("the API is stopping"))
        await asyncio.to_thread(self._control.join)
        await asyncio.to_thread(self._thread.shutdown)
        log.info("engine_stopped", engine=self._engine.name)

    async def ask(self, question: RankRequest | Similar, *, timeout_s: float) -> RankReply:
        """The engine's reply.

        Raises:
            OverloadedError: too many questions are waiting already.
            EngineLostError: it is closing, or did not answer within `timeout_s`.
        """
        if len(self._pending) >= self._in_flight_max:
            raise OverloadedError(f"{self._in_flight_max} requests are waiting for the engine already")
        future: asyncio.Future[RankReply] = self._loop.create_future()
        self._pending.add(future)
        in_time = self._loop.call_later(timeout_s, expire, future)
        try:
            if (answer := self._engine.admit(future, question)) is not None:
                self._tell((answer,))
            self._come()
            return await future
        finally:
            in_time.cancel()
            self._pending.discard(future)

    def _come(self) -> None:
        """A turn, after whatever else the loop does now: all that was read goes into one micro-batch."""
        if not self._turn_comes:
            self._turn_comes = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_comes = False
        now = time.monotonic()
        batch, expired = self._engine.take(now)
        self._tell(expired)
        if batch is None:
            return
        self._worked_s = now
        if batch.served.lanes.sleep or not 0.0 < batch.expected_s < LONG_STEP_S:
            self._turn_comes = True  # when this one is over
            computed = self._thread.submit(self._engine.compute, batch)
            computed.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._finish, batch, done))
        else:
            self._answer(batch, self._engine.compute(batch))

    def _finish(self, batch: MicroBatch, computed: Future[list[Addressed]]) -> None:
        self._turn_comes = False
        self._answer(batch, computed.result())

    def _answer(self, batch: MicroBatch, answers: Sequence[Addressed]) -> None:
        self._tell(answers)
        self._loop.call_soon(self._engine.count, batch)  # behind the answers
        if self._engine.queued:
            self._come()

    @staticmethod
    def _tell(answers: Sequence[Addressed]) -> None:
        for future, reply in answers:
            if not future.done():
                future.set_result(reply)

    def _idle(self) -> None:
        if not self._turn_comes and time.monotonic() - self._worked_s >= IDLE_S:
            self._engine.idle(time.monotonic())
        self._idling = self._loop.call_later(IDLE_S, self._idle)


def create(settings: Settings | None = None, make: Callable[[Settings], Engine] = Engine) -> FastAPI:
    """The application with its engine inside."""
    config = settings or Settings()
    keep_freed_memory()
    sys.setswitchinterval(THREAD_TURN_S)
    engine = make(config)
    inside = ColocatedEngine(engine, in_flight_max=config.api.in_flight_max)
    return create_app(config, engines=(inside,), registries=(engine.metrics.registry,))


def run_colocated(settings: Settings, app: str = "recsys.colocated:create") -> None:
    """Entry point: `api.workers` processes, each with an engine of its own, until SIGTERM or SIGINT."""
    serve_http(settings, app)
