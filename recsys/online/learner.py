"""The process that learns from the stream beside the workers, in a consumer group of its own.

    read events -> judge served and learned model on them -> learn -> every `publish_every_s`: publish, or roll back

An entry is acknowledged when the version that learned from it is published, so a learner that dies learns again what
was lost with it. Of several learners one learns; it may stop, or be far behind, without harm to answers.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis
import structlog
import torch
from prometheus_client import start_http_server

from recsys.config import Settings
from recsys.errors import EventError, ModelFolderError
from recsys.events.backlog import read_backlog
from recsys.events.group import ensure_group
from recsys.events.schema import Interaction, parse_event, text_of
from recsys.online.guard import Guard
from recsys.online.metrics import LearnerMetrics
from recsys.online.published import Published
from recsys.online.student import Example, Student
from recsys.online.voices import Voices
from recsys.signals import on_stop
from recsys.state.client import reader, writer
from recsys.state.items import CatalogueFeed, CatalogueItem
from recsys.state.keys import Keys
from recsys.state.presence import Presence
from recsys.state.users import read_histories

log = structlog.get_logger(__name__)

CONSUMER = "learner"
RETRY_S = 1.0
LEASE_MS = 30_000  # longer than a turn may take, publication included

# Two learners would publish different weights under one name.
_HOLD = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class Learner:
    """`run` returns only when it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self.metrics = LearnerMetrics()
        self._settings = settings
        self._keys = Keys(settings.redis.prefix)
        self._reads = reader(settings.redis, block_ms=settings.events.block_ms)
        self._writes = writer(settings.redis)
        self._feed = CatalogueFeed(self._writes, self._keys)
        self._published = Published(settings, self._writes, self._keys)
        self._guard = Guard(settings.online.guard_events, settings.online.guard_tolerance)
        self._voices = Voices(settings.online.user_items_max)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._lease = self._writes.register_script(_HOLD)
        self._held = False
        self._items: dict[str, CatalogueItem] = {}
        self._version = ""
        self._student: Student | None = None
        self._learned: list[bytes] = []
        self._publish_at_s = 0.0

    @property
    def version(self) -> str:
        """The model that it learns on top of; empty while another learner learns."""
        return self._version if self._held else ""

    def run(self, stop: threading.Event) -> None:
        """Learn until `stop` is set; outlives Redis being away and models that cannot be read."""
        while not stop.is_set():
            try:
                if not self._hold():
                    stop.wait(RETRY_S)
                    continue
                self._begin()
                while self._hold() and not stop.is_set():
                    self._turn()
            except (redis.RedisError, ModelFolderError, OSError) as error:
                self.metrics.reconnects.inc()
                log.warning("learner_interrupted", error=str(error), retry_in_s=RETRY_S)
                stop.wait(RETRY_S)
        self._let_go()
        self._reads.close()
        self._writes.close()

    def _hold(self) -> bool:
        """Be the one learner, or stay it; another one that died is followed after half a minute."""
        held = bool(self._lease(keys=[self._keys.learner], args=[self.name, LEASE_MS]))
        if held != self._held:
            log.info("learner_holds" if held else "learner_waits", name=self.name)
        self._held = held
        return held

    def _let_go(self) -> None:
        if self._held:
            with suppress(redis.RedisError):
                self._writes.delete(self._keys.learner)

    def _begin(self) -> None:
        ensure_group(self._writes, self._keys.events, self._settings.online.group, start="$")
        self._items = self._feed.load()
        self._study(self._published.wanted())
        self._learned, last = [], b"0"
        while entries := self._read(last):  # read before, and never published
            self._learn(entries)
            last = entries[-1][0]
        log.info("learner_started", model=self._version, items=len(self._items), again=len(self._learned))

    def _turn(self) -> None:
        self._follow()
        self._learn(self._read(b">"))
        if time.monotonic() >= self._publish_at_s:
            self._hear_engines()
            self._graduate()
            self._publish_at_s = time.monotonic() + self._settings.online.publish_every_s

    def _study(self, version: str) -> None:
        """Begin with what is served now; what was learned on top of another model is forgotten."""
        model = self._published.load(version)
        self._version = model.version
        self._student = Student(model, self._items.values(), self._settings.online)
        self._guard.clear()
        self._voices.clear()
        self._publish_at_s = time.monotonic() + self._settings.online.publish_every_s

    def _follow(self) -> None:
        """The catalogue, and the version that is wanted: somebody may have activated another one."""
        assert self._student is not None
        change = self._feed.follow()
        if change.reloaded is not None or change.put or change.deleted:
            kept = self._items if change.reloaded is None else change.reloaded
            self._items = {i: item for i, item in (kept | change.put).items() if i not in change.deleted}
            self._student.follow(self._items.values())
        wanted = self._published.wanted()
        if wanted not in ("", self._version):
            log.info("learner_follows", model=wanted)
            self._study(wanted)

    def _read(self, after: bytes) -> list[Any]:
        """New entries, or those behind `after` that were read before and not acknowledged."""
        online = self._settings.online
        behind = read_backlog(self._writes, self._keys, online.group) - len(self._learned) if after == b">" else 0
        if behind > online.lag_max:
            log.warning("learner_skips", entries=behind)
            self.metrics.skipped.inc(behind)
            self._writes.xgroup_setid(self._keys.events, online.group, "$")
        answer: Any = self._reads.xreadgroup(
            online.group, CONSUMER, {self._keys.events: after}, count=online.batch_max,
            block=self._settings.events.block_ms,
        )  # fmt: skip
        return list(answer[0][1]) if answer else []

    def _learn(self, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> None:
        """Learn from the interactions; the rest is acknowledged at once."""
        assert self._student is not None
        latest_ms = self._settings.events.future_max_ms
        events = {
            entry_id: event for entry_id, fields in entries if (event := _interaction(entry_id, fields, latest_ms))
        }
        self._acknowledge([entry_id for entry_id, _ in entries if entry_id not in events])
        self._learned += events
        if events:
            heard = [event for event in events.values() if self._voices.counts(event.user_id, event.item_id)]
            self.metrics.ignored.inc(len(events) - len(heard))
            judged = self._student.learn(self._examples(heard))
            self._guard.see(judged)
            self.metrics.events.inc(len(judged.item_ids))

    def _acknowledge(self, entry_ids: list[bytes]) -> None:
        if entry_ids:
            self._writes.xack(self._keys.events, self._settings.online.group, *entry_ids)

    def _examples(self, events: Sequence[Interaction]) -> list[Example]:
        """With each event what its user had done before. The workers may or may not have applied it already."""
        histories = read_histories(self._writes, self._keys, [event.user_id for event in events])
        examples = []
        for event, history in zip(events, histories, strict=True):
            before = [one for one in history if one.ts < event.ts and one.kind != "hide"]
            items, kinds = tuple(one.item_id for one in before), tuple(one.kind for one in before)
            examples.append(Example(event.item_id, items, kinds))
        return examples

    def _graduate(self) -> None:
        """Publish what was learned if it is no worse than what is served, else forget it."""
        student, guard, online = self._student, self._guard, self._settings.online
        assert student is not None
        self.metrics.ndcg.labels("served").set(guard.served)
        self.metrics.ndcg.labels("learned").set(guard.student)
        if len(guard) < online.guard_events_min:  # too little to tell: what was learned waits for more
            if len(self._learned) >= online.guard_events:  # but does not hold the stream
                self._acknowledge_learned()
            return
        if guard.holds and student.changed:
            self._publish(student)
        elif student.changed:
            log.warning("learner_rolled_back", served=guard.served, learned=guard.student, events=len(guard))
            self.metrics.rolled_back.inc()
            student.forget()
        guard.clear()
        self._voices.clear()
        self._acknowledge_learned()

    def _hear_engines(self) -> None:
        """An engine that cannot serve the newest version brings back the one before."""
        if why := self._published.withdraw_refused():
            log.warning("learner_refused", model=self._version, error=why)
            self.metrics.refused.inc()
            self._follow()

    def _acknowledge_learned(self) -> None:
        self._acknowledge(self._learned)
        self._learned = []

    def _publish(self, student: Student) -> None:
        guard, model = self._guard, student.graduate(self._published.next_version(self._version))
        if not self._published.publish(model, before=self._version):
            return  # somebody activated another version, which `_follow` finds
        log.info(
            "learner_published", model=model.version, served=guard.served, learned=guard.student, events=len(guard)
        )
        self.metrics.published.inc()
        self._version = model.version
        self._student = student.onto(model, self._items.values())


def _interaction(entry_id: bytes, fields: dict[bytes, bytes], future_max_ms: int) -> Interaction | None:
    """The event, if it is one that is learned from; what is malformed is the workers' business."""
    try:
        now_ms = int(time.time() * 1e3)
        event = parse_event(text_of(fields), entry_id=entry_id.decode(), now_ms=now_ms, future_max_ms=future_max_ms)
    except EventError:
        return None
    return event if isinstance(event, Interaction) and event.kind != "hide" else None


def run_learner(settings: Settings, stop: threading.Event | None = None) -> None:
    """Run until `stop` is set; without `stop`, until SIGTERM or SIGINT."""
    torch.set_num_threads(1)
    learner = Learner(settings)
    if settings.online.metrics_port:
        start_http_server(settings.online.metrics_port, addr=settings.api.host, registry=learner.metrics.registry)
    if stop is None:
        stop = threading.Event()
        on_stop(stop.set)
    with Presence(settings, "learner", learner.name, model=lambda: learner.version):
        learner.run(stop)
