"""The engine's slow loop: publishes load, follows the catalogue and the wanted policy. Redis may come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
import redis
import structlog

from recsys.config import RouterSettings, Settings
from recsys.state.client import writer
from recsys.state.items import CatalogueChange, CatalogueFeed, CatalogueItem
from recsys.state.keys import Keys
from router.policies import names

log = structlog.get_logger(__name__)

FACTOR_MAX = 16.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """The policy and the bounds that `PUT /v1/router` asked for.

    Attributes:
        health: (expert, share of its capacity that is left) of experts that are not well.
    """

    policy: str
    capacity_factor: float
    health: tuple[tuple[int, float], ...] = ()

    @staticmethod
    def of(stored: Mapping[str, str], defaults: RouterSettings) -> Wanted:
        """From the fields in Redis.

        Raises:
            ValueError: a field is not what it should be.
        """
        factor = float(stored.get("capacity_factor", defaults.capacity_factor))
        if not 1 <= factor <= FACTOR_MAX:
            raise ValueError(f"capacity_factor: {factor}, must be from 1 to {FACTOR_MAX}")
        health = msgspec.json.decode(stored.get("health", "{}"), type=dict[int, float])
        for expert, share in health.items():
            if expert < 0 or not 0 <= share <= 1:
                raise ValueError(f"health: {expert} = {share}, must be an expert and a share from 0 to 1")
        return Wanted(stored.get("policy", defaults.policy), factor, tuple(sorted(health.items())))


class Controlled(Protocol):
    """What the control loop does to an engine."""

    def set_wanted(self, wanted: Wanted) -> None: ...
    def set_catalogue(self, items: Mapping[str, CatalogueItem]) -> None: ...
    def change_catalogue(self, change: CatalogueChange) -> None: ...
    def snapshot(self) -> bytes: ...


class Control:
    """One loop, one connection, `snapshot_every_ms` apart; a failing Redis is logged once per outage."""

    def __init__(self, settings: Settings, engine: Controlled) -> None:
        self._settings = settings
        self._engine = engine
        self._keys = Keys(settings.redis.prefix)
        self._redis = writer(settings.redis)
        self._feed = CatalogueFeed(self._redis, self._keys)
        self._loaded = False
        self._introduced = False
        self._stored: dict[str, str] | None = None
        self._outage = False
        self._follow_at_s = 0.0

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        every_s = self._settings.engine.snapshot_every_ms / 1e3
        due_s = time.monotonic()
        while not stop.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s + every_s, time.monotonic())
            snapshot = self._engine.snapshot()  # taken even if nobody can read it, so that an interval stays one
            try:
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
        self._redis.close()

    def _tick(self, snapshot: bytes) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.xadd(self._keys.telemetry, {"s": snapshot}, maxlen=self._settings.engine.snapshots_max)
            pipe.hgetall(self._keys.router)
            if not self._introduced:
                pipe.hset(self._keys.router, "policies", msgspec.json.encode(names()))
            stored = pipe.execute()[1]
        self._introduced = True
        self._follow_router({key.decode(): value.decode() for key, value in stored.items()})
        if time.monotonic() >= self._follow_at_s:
            self._follow_at_s = time.monotonic() + self._settings.engine.catalogue_poll_ms / 1e3
            self._follow_catalogue()

    def _follow_router(self, stored: dict[str, str]) -> None:
        if stored == self._stored:
            return
        self._stored = stored
        try:
            wanted = Wanted.of(stored, self._settings.router)
            self._engine.set_wanted(wanted)
        except ValueError as error:  # somebody wrote it past the API
            log.warning("router_refused", error=str(error))
        else:
            log.info("router_set", policy=wanted.policy, factor=wanted.capacity_factor, health=dict(wanted.health))

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
