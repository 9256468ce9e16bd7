"""The consumer that turns the event stream into state.

    read a batch -> parse -> one atomic step: effect and acknowledgement -> now and then: take over, trim, erase

Any number of workers share the stream through one consumer group. A worker may die anywhere: what it had read and
not applied is taken over by another after `claim_idle_ms`, or by itself when only the connection was lost.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import redis
import structlog
from prometheus_client import start_http_server

from recsys.config import Settings
from recsys.errors import EventError
from recsys.events.backlog import count_backlog
from recsys.events.erasure import Eraser
from recsys.events.group import ensure_group
from recsys.events.metrics import WorkerMetrics
from recsys.events.schema import parse_event, text_of
from recsys.events.trim import Trimmer
from recsys.signals import on_stop
from recsys.state.apply import Applied, Applier, Effect, dead_letter, effect_of
from recsys.state.client import reader, writer
from recsys.state.keys import Keys
from recsys.state.presence import Presence

log = structlog.get_logger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]

_GONE_AFTER_CLAIM_IDLES = 60  # a consumer this many claim times without a sign of life and without entries is removed


@dataclass(slots=True)
class _Every:
    """True once per period."""

    period_s: float
    next_s: float = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now < self.next_s:
            return False
        self.next_s = now + self.period_s
        return True


class Worker:
    """One consumer of the group. `run` returns only when it is told to stop."""

    def __init__(self, settings: Settings, *, name: str | None = None) -> None:
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.metrics = WorkerMetrics()
        self._settings = settings.events
        self._keys = Keys(settings.redis.prefix)
        self._reads = reader(settings.redis, block_ms=settings.events.block_ms)
        self._writes = writer(settings.redis)
        self._applier = Applier(self._writes, self._keys, settings.events, settings.state)
        self._trimmer = Trimmer(
            self._writes,
            self._keys,
            retain=settings.events.retain_entries,
            group=settings.events.group,
            reader_lag_max=settings.events.reader_lag_max,
        )
        self._eraser = Eraser(self._writes, self._keys, group=settings.events.group)
        self._remove_gone = self._writes.register_script(
            resources.files("recsys.events").joinpath("consumers.lua").read_text()
        )
        self._mend_lag = self._writes.register_script(resources.files("recsys.events").joinpath("lag.lua").read_text())
        self._claim = _Every(settings.events.claim_every_ms / 1000)
        self._trim = _Every(settings.events.trim_every_ms / 1000)
        self._claim_after = b"-"
        self._last_applied_ms = 0
        self._failures = 0

    def run(self, stop: threading.Event) -> None:
        """Apply events until `stop` is set; outlives Redis being away, restarted or emptied."""
        log.info("worker.started", name=self.name, group=self._settings.group)
        while not stop.is_set():
            try:
                self._consume(stop)
            except redis.RedisError as error:
                self._eraser.reset()
                self.metrics.reconnects.inc()
                pause_s = self._pause_s()
                log.warning("worker.interrupted", name=self.name, error=str(error), retry_in_s=round(pause_s, 3))
                stop.wait(pause_s)
        self._reads.close()
        self._writes.close()
        log.info("worker.stopped", name=self.name)

    def _consume(self, stop: threading.Event) -> None:
        ensure_group(self._writes, self._keys.events, self._settings.group, start="0")
        self._resume()
        while not stop.is_set():
            entries = self._read()
            if entries:
                self._apply(entries)
            self._maintain()
            self._failures = 0

    def _pause_s(self) -> float:
        """Capped exponential backoff with jitter, so that many workers do not come back in step."""
        self._failures += 1
        exponential = 0.05 * 2.0 ** min(self._failures, 20)
        return random.uniform(0.5, 1.0) * min(self._settings.reconnect_max_s, exponential)

    # reading and applying ------------------------------------------------------------------------------------------

    def _read(self) -> list[Entry]:
        # An erasure under way goes on between batches, so this does not wait for the next batch.
        block_ms = None if self._eraser.active else self._settings.block_ms
        answer: Any = self._reads.xreadgroup(
            self._settings.group, self.name, {self._keys.events: ">"}, count=self._settings.batch_max, block=block_ms
        )
        return list(answer[0][1]) if answer else []

    def _apply(self, entries: Sequence[Entry]) -> Applied:
        """Parse entries and apply them; malformed ones become dead letters in the same atomic step."""
        started = time.perf_counter()
        now_ms = int(time.time() * 1000)
        effects = [self._effect(entry_id, fields, now_ms) for entry_id, fields in entries]
        applied = self._applier.apply(effects)
        self.metrics.batch_seconds.observe(time.perf_counter() - started)
        self._record(effects, applied)
        return applied

    def _effect(self, entry_id: bytes, fields: dict[bytes, bytes], now_ms: int) -> Effect:
        written = entry_id.decode()
        try:
            event = parse_event(
                text_of(fields), entry_id=written, now_ms=now_ms, future_max_ms=self._settings.future_max_ms
            )
        except EventError as error:
            return dead_letter(written, str(error))
        return effect_of(written, event, late_after_ms=self._settings.late_after_ms)

    def _record(self, effects: Sequence[Effect], applied: Applied) -> None:
        metrics, total, kinds = self.metrics, Counter[tuple[str, str]](), Counter[str]()
        for effect, outcome in zip(effects, applied.outcomes, strict=True):
            total[effect["type"], outcome] += 1
            if outcome == "dead":
                log.warning("worker.dead_letter", source_id=effect["id"], reason=effect.get("reason", "script error"))
            if outcome != "applied":
                continue
            self._last_applied_ms = int(effect["id"].split("-")[0])
            metrics.delay_seconds.observe(max(applied.now_ms - self._last_applied_ms, 0) / 1000)
            if effect["type"] == "interaction":
                kinds[effect["kind"]] += 1
                kinds["late"] += effect["late"]
            elif effect["type"] == "user_delete":
                self._claim.next_s = 0.0  # begin the erasure now
        metrics.batch_size.observe(len(effects))
        metrics.late.inc(kinds.pop("late", 0))
        for labels, n in total.items():
            metrics.entries.labels(*labels).inc(n)
        for kind, n in kinds.items():
            metrics.interactions.labels(kind).inc(n)

    # taking over ---------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Apply what this worker had read before it lost the connection."""
        while pending := self._pending(consumer=self.name):
            self._deliver_again(pending, idle_ms=0)

    def _take_over(self) -> None:
        """Apply entries of consumers that died, one page per call; the next call goes on behind it."""
        pending = self._pending(idle_ms=self._settings.claim_idle_ms, first=self._claim_after)
        full = len(pending) == self._settings.batch_max
        self._claim_after = b"(" + pending[-1]["message_id"] if full else b"-"
        self._deliver_again(pending, idle_ms=self._settings.claim_idle_ms)

    def _pending(
        self, *, consumer: str | None = None, idle_ms: int | None = None, first: bytes = b"-"
    ) -> list[dict[str, Any]]:
        return list[Any](
            self._writes.xpending_range(
                self._keys.events, self._settings.group, min=first, max="+", count=self._settings.batch_max,
                consumername=consumer, idle=idle_ms,
            )
        )  # fmt: skip

    def _deliver_again(self, pending: Sequence[dict[str, Any]], *, idle_ms: int) -> None:
        """Apply entries that were delivered before.

        An entry that was delivered twice without success may be what killed the workers: it is tried alone, so that
        it cannot take others with it, and after `deliveries_max` deliveries it goes to the dead letters.
        """
        worn_out = [row for row in pending if row["times_delivered"] >= self._settings.deliveries_max]
        once = [row for row in pending if row["times_delivered"] <= 1]
        twice = [row for row in pending if 1 < row["times_delivered"] < self._settings.deliveries_max]
        for row in worn_out:
            reason = f"delivered {row['times_delivered']} times without success"
            self._bury(row["message_id"], reason)
        for rows in ([once] if once else []) + [[row] for row in twice]:
            self._deliver_claimed([row["message_id"] for row in rows], idle_ms=idle_ms)

    def _deliver_claimed(self, entry_ids: list[bytes], *, idle_ms: int) -> None:
        claimed: Any = self._writes.xclaim(self._keys.events, self._settings.group, self.name, idle_ms, [*entry_ids])
        if claimed:
            self.metrics.claimed.inc(len(claimed))
            self._apply(claimed)
        if idle_ms == 0:  # nobody else can have claimed the rest: it was deleted from the stream
            for entry_id in set(entry_ids) - {entry_id for entry_id, _ in claimed}:
                self._bury(entry_id, "deleted from the stream before it was applied")

    def _bury(self, entry_id: bytes, reason: str) -> None:
        effects = [dead_letter(entry_id.decode(), reason)]
        self._record(effects, self._applier.apply(effects))

    # upkeep --------------------------------------------------------------------------------------------------------

    def _maintain(self) -> None:
        if self._claim.due():
            self._take_over()
            self._eraser.step()
        elif self._eraser.active:
            self._eraser.step()
        if self._trim.due():
            self.metrics.trimmed.inc(self._trimmer.trim())
            gone_after_ms = _GONE_AFTER_CLAIM_IDLES * self._settings.claim_idle_ms
            self._remove_gone(keys=[self._keys.events], args=[self._settings.group, gone_after_ms])
            self._mend_lag(keys=[self._keys.events])
            self._measure()

    def _measure(self) -> None:
        pipe = self._writes.pipeline(transaction=False)
        pipe.xinfo_groups(self._keys.events)
        pipe.xlen(self._keys.events)
        pipe.xrevrange(self._keys.events, count=1)
        groups, length, newest = pipe.execute()
        waiting = count_backlog(groups, length, self._settings.group)
        newest_ms = int(newest[0][0].split(b"-")[0]) if newest else 0
        self.metrics.stream_entries.set(length)
        self.metrics.backlog.set(waiting)
        self.metrics.lag_seconds.set(max(newest_ms - self._last_applied_ms, 0) / 1000 if waiting else 0)


def run_worker(settings: Settings, stop: threading.Event | None = None) -> None:
    """Run one worker until `stop` is set; without `stop`, until SIGTERM or SIGINT (the batch in hand is finished)."""
    if stop is None:
        stop = threading.Event()
        on_stop(stop.set)
    worker = Worker(settings)
    if settings.events.metrics_port:
        start_http_server(settings.events.metrics_port, addr=settings.api.host, registry=worker.metrics.registry)
    with Presence(settings, "worker", worker.name):
        worker.run(stop)
