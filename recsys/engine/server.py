"""The engine process: one thread that answers, one that reads along during long steps, one control thread.

The serving thread reads the socket, takes what arrived while the last micro-batch ran (there is no timer), computes and
answers. A short step is over before another thread could be woken, and two threads would fight for the interpreter; a
long step has a second thread that admits, refuses and answers pings meanwhile. The control thread publishes load
snapshots, follows the catalogue and the wanted routing policy, and may lose Redis without hurting an answer.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import structlog
import zmq
from prometheus_client import start_http_server

from recsys.config import Settings
from recsys.engine.control import Control
from recsys.engine.door import LINGER_MS, Door
from recsys.engine.engine import Engine
from recsys.engine.freed_memory import keep_freed_memory
from recsys.signals import on_stop

log = structlog.get_logger(__name__)

THREAD_TURN_S = 0.0005  # what the serving thread waits at most for another one to give the interpreter back
LONG_STEP_S = 0.002  # from here on a second thread reads the socket during a step
READ_ALONG_WAIT_S = 0.02  # ... and looks that often whether the step is over
READ_EVERY_S = 0.001  # ... not for every bundle: each reading takes the interpreter from the step
IDLE_S = 0.2  # without work for that long is idle


class EngineProcess:
    """An engine behind its socket. `run` blocks until `stop` is called."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._endpoint = engine.settings.engine.own_endpoint
        self._stop = threading.Event()
        self._long_step = threading.Event()

    def stop(self) -> None:
        """Refuse what comes, answer what is queued, end `run`. Safe in a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Serve until `stop`."""
        engine, settings = self._engine, self._engine.settings
        if settings.engine.metrics_port:
            start_http_server(settings.engine.metrics_port, addr=settings.api.host, registry=engine.metrics.registry)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        door = Door(context, self._endpoint, engine.admit)
        control = Control(settings, engine)
        others = [
            threading.Thread(target=control.run, args=(self._stop,), name="control"),
            threading.Thread(target=self._read_along, args=(door,), name="read-along"),
        ]
        for thread in others:
            thread.start()
        log.info("engine_started", engine=engine.name, endpoint=self._endpoint, model=engine.model_version)
        try:
            self._serve(door)
        finally:
            self._stop.set()
            self._long_step.set()
            for thread in others:
                thread.join()
            context.destroy(linger=LINGER_MS)
            log.info("engine_stopped", engine=engine.name)

    def _serve(self, door: Door) -> None:
        engine, worked_s = self._engine, time.monotonic()
        while True:
            if self._stop.is_set():
                engine.close()
            more = door.receive()
            now = time.monotonic()
            batch, expired = engine.take(now)
            if expired:
                door.send(expired)
            if batch is not None:
                if not 0.0 < batch.expected_s < LONG_STEP_S:
                    self._long_step.set()
                answers = engine.compute(batch)
                self._long_step.clear()
                door.send(answers)
                engine.count(batch)
            if batch is not None or expired:
                worked_s = now
            elif engine.closed and not more:
                return
            elif now - worked_s >= IDLE_S:
                engine.idle(now)
                worked_s = now
            elif not more:
                door.wait(IDLE_S / 2)

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


def run_engine(settings: Settings, make: Callable[[Settings], Engine] = Engine) -> None:
    """Entry point: serve until SIGTERM or SIGINT."""
    keep_freed_memory()
    sys.setswitchinterval(THREAD_TURN_S)
    process = EngineProcess(make(settings))
    on_stop(process.stop)
    process.run()
