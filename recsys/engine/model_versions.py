"""Which model versions there are, and the one that is wanted: loaded beside the one that serves, then swapped in.

Redis: hash `{p}models` holds activation (id of the call), wanted and previous, written by the API, and refused (the
activation that an engine could not serve) and why; each engine answers in `{p}models:{engine}`, which expires with it.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, cast

import msgspec
import redis
import structlog

from recsys.config import Settings
from recsys.engine.served import Served, model_versions
from recsys.errors import RecsysError
from recsys.state.keys import Keys
from recsys.wire import EngineModels

__all__ = ["ModelVersions", "Served"]

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 2.0
KEEP_S = 60  # longer than a model takes to load; who is there at all, the load snapshots say


class Swapping(Protocol):
    """What is needed of an engine."""

    name: str

    @property
    def model_version(self) -> str: ...
    def prepare(self, version: str) -> Served: ...
    def adopt(self, served: Served) -> None: ...


class ModelVersions:
    """Follows the wanted version. All calls from one thread; loading goes on in another."""

    def __init__(self, settings: Settings, client: redis.Redis, keys: Keys, engine: Swapping) -> None:
        self._settings = settings
        self._client = client
        self._keys = keys
        self._engine = engine
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="model-loader")
        self._loading: Future[Served] | None = None
        self._state = EngineModels(version=engine.model_version, available=[])
        self._activation = ""
        self._look_at_s = 0.0

    def follow(self, *, now: bool = False) -> None:
        """One look at what is wanted; `now` waits for the outcome, while nothing is served yet."""
        stored = self._client.hmget(self._keys.models, "activation", "wanted")
        activation, wanted = (str(value or b"", "utf-8") for value in cast("list[bytes | None]", stored))
        if self._loading is None and activation != self._activation:
            self._activation = activation
            if wanted and wanted != self._engine.model_version:
                log.info("model_loading", model=wanted)
                self._loading = self._loader.submit(self._engine.prepare, wanted)
            else:
                self._tell("")
        if self._loading is not None and (now or self._loading.done()):
            self._finish(self._loading)
        if self._loading is None and time.monotonic() >= self._look_at_s:
            self._tell(self._state.error)

    def close(self) -> None:
        """Forget what is being loaded."""
        self._loader.shutdown(wait=True, cancel_futures=True)

    def _finish(self, loading: Future[Served]) -> None:
        self._loading, error = None, ""
        try:
            self._engine.adopt(loading.result())
        except RecsysError as reason:
            error = str(reason)
        except Exception as reason:  # whatever a strange folder does, the old version goes on serving
            log.exception("model_not_loaded")
            error = f"{type(reason).__name__}: {reason}"
        if error:
            log.warning("model_refused", error=error)
            self._client.hset(self._keys.models, mapping={"refused": self._activation, "why": error})
        self._tell(error)

    def _tell(self, error: str) -> None:
        self._look_at_s = time.monotonic() + LOOK_EVERY_S
        self._state = EngineModels(
            version=self._engine.model_version,
            available=sorted(model_versions(self._settings)),
            activation=self._activation,
            error=error,
        )
        self._client.set(self._keys.models_of(self._engine.name), msgspec.json.encode(self._state), ex=KEEP_S)
