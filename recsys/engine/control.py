"""The engine's slow loop: publishes load, follows the catalogue, the wanted policy and the wanted model version.

Redis may come and go.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import redis
import structlog

from recsys.config import Settings
from recsys.engine.model_versions import ModelVersions, Served
from recsys.engine.quality_budget import BudgetWatch
from recsys.engine.wanted import Wanted
from recsys.state.client import writer
from recsys.state.items import CatalogueChange, CatalogueFeed, CatalogueItem
from recsys.state.keys import Keys
from recsys.state.presence import Presence
from recsys.state.wanted_router import WantedRouter, in_force
from recsys.wire import LoadSnapshot, encode_snapshot
from router.policies import names

log = structlog.get_logger(__name__)

RETURN_SHOWN_S = 30.0  # snapshots say for that long that the policy went back by itself


class Controlled(Protocol):
    """What the control loop does to an engine."""

    name: str

    @property
    def model_version(self) -> str: ...
    def set_wanted(self, wanted: Wanted) -> None: ...
    def set_catalogue(self, items: Mapping[str, CatalogueItem]) -> None: ...
    def change_catalogue(self, change: CatalogueChange) -> None: ...
    def prepare(self, version: str) -> Served: ...
    def adopt(self, served: Served) -> None: ...
    def snapshot(self) -> LoadSnapshot: ...


class Control:
    """One loop, one connection, `snapshot_every_ms` apart; a failing Redis is logged once per outage."""

    def __init__(self, settings: Settings, engine: Controlled) -> None:
        self._settings = settings
        self._engine = engine
        self._keys = Keys(settings.redis.prefix)
        self._redis = writer(settings.redis)
        self._feed = CatalogueFeed(self._redis, self._keys)
        self._router = WantedRouter(self._redis, self._keys)
        self._models = ModelVersions(settings, self._redis, self._keys, engine)
        self._loaded = False
        self._introduced = False
        self._stored: dict[str, str] | None = None
        self._watch: BudgetWatch | None = None
        self._returned = ""
        self._outage = False
        self._follow_at_s = 0.0

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        engine = self._engine
        with Presence(self._settings, "engine", engine.name, model=lambda: engine.model_version):
            self._follow(stop)

    def _follow(self, stop: threading.Event) -> None:
        every_s = self._settings.engine.snapshot_every_ms / 1e3
        due_s = time.monotonic()
        while not stop.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s + every_s, time.monotonic())
            try:
                snapshot = self._engine.snapshot()  # taken even if nobody can read it, so that an interval stays one
                self._tick(snapshot)
                if self._outage:
                    log.info("redis_back")
                self._outage = False
            except redis.RedisError as error:
                if not self._outage:
                    log.warning("redis_unreachable", error=str(error))
                self._outage, self._introduced = True, False
            except Exception:  # the loop outlives any one bad item or answer
                log.exception("control_failed")
        self._models.close()
        self._redis.close()

    def _tick(self, snapshot: LoadSnapshot) -> None:
        budget = self._watch.budget.score_kept_min if self._watch else None
        snapshot = replace(snapshot, score_kept_min=budget, returned=self._returned)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.xadd(
                self._keys.telemetry, {"s": encode_snapshot(snapshot)}, maxlen=self._settings.engine.snapshots_max
            )
            pipe.hgetall(self._keys.router)
            stored = pipe.execute()[1]
        if not self._introduced:
            self._router.introduce(names())
        self._introduced = True
        self._follow_router({key.decode(): value.decode() for key, value in stored.items()})
        self._keep_budget(snapshot)
        self._models.follow(now=not self._loaded)  # before the first catalogue, which is made for the model
        if time.monotonic() >= self._follow_at_s:
            self._follow_at_s = time.monotonic() + self._settings.engine.catalogue_poll_ms / 1e3
            self._follow_catalogue()

    def _follow_router(self, stored: dict[str, str]) -> None:
        stored = in_force(stored, now_ms=time.time() * 1e3)
        if stored == self._stored:
            return
        self._stored = stored
        try:
            wanted = Wanted.of(stored, self._settings.router)
            self._engine.set_wanted(wanted)
        except ValueError as error:  # somebody wrote it past the API
            log.warning("router_refused", error=str(error))
            return
        log.info(
            "router_set",
            policy=wanted.policy,
            factor=wanted.capacity_factor,
            health=dict(wanted.health),
            injected_s=dict(wanted.inject),
            lane_us=wanted.lane_us,
        )
        if (self._watch.budget if self._watch else None) != wanted.budget:
            self._watch = BudgetWatch(wanted.budget, now_s=time.monotonic()) if wanted.budget else None

    def _keep_budget(self, snapshot: LoadSnapshot) -> None:
        """Go back to the policy before, if the present one has not kept what it had to."""
        self._returned = self._router.returned(self._stored or {}, within_s=RETURN_SHOWN_S)
        if self._watch is None or (kept := self._watch.observe(snapshot, now_s=time.monotonic())) is None:
            return
        budget = self._watch.budget
        why = f"{snapshot.policy}: score kept {kept:.3f} over {budget.seconds:g} s, at least {budget.score_kept_min:g}"
        if self._router.give_back(budget.switch, why):
            log.warning("policy_returned", why=why)
        self._watch = None

    def _follow_catalogue(self) -> None:
        if not self._loaded:
            self._engine.set_catalogue(self._feed.load())
            self._loaded = True
            return
        change = self._feed.follow()
        if change.reloaded is not None:
            self._engine.set_catalogue(change.reloaded)
        elif change.put or change.deleted:
            self._engine.change_catalogue(change)
