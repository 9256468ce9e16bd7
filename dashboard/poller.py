"""One background poller for all viewers: N open boards cost the service one small request a second.

It keeps a bounded window of load snapshots, and rests while nobody looks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from dashboard.answers import LoadSnapshot, Router
from dashboard.calls import CallCounts
from dashboard.client import ApiError, Client
from dashboard.system_answers import System

WINDOW_S = 120.0  # what a viewer sees
SNAPSHOTS_PER_ENGINE_MAX = 1_000
ENGINES_MAX = 16
API_PROCESSES_MAX = 64
STALE_AFTER_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Board:
    """What the poller knows; never changed, only replaced."""

    version: int = 0  # polls finished
    snapshots: tuple[LoadSnapshot, ...] = ()  # oldest first
    router: Router | None = None
    system: System | None = None
    calls: tuple[CallCounts, ...] = ()  # of the API processes, oldest first
    error: str | None = None  # why the last poll failed
    age_s: float = 0.0  # of the newest snapshot when the poll ended
    ended: float = 0.0  # monotonic seconds
    poll_ms: float = 0.0

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines that reported within the window."""
        return tuple(sorted({s.engine for s in self.snapshots}))

    @property
    def disconnected(self) -> bool:
        """The service did not answer the last poll."""
        return self.error is not None

    def stale_s(self) -> float:
        """Seconds since the newest snapshot; 0 without any."""
        return self.age_s + time.monotonic() - self.ended if self.snapshots else 0.0


class Poller:
    """Polls `/v1/experts`, `/v1/router` and `/v1/system` in a thread of its own while somebody looks.

    Args:
        client: the service.
        every_s: time from the end of a poll to the start of the next.
        rest_after_s: stop polling when nobody called `look()` for so long.
    """

    def __init__(self, client: Client, *, every_s: float = 1.0, rest_after_s: float = 15.0) -> None:
        self.client = client
        self._every_s = every_s
        self._rest_after_s = rest_after_s
        self._board = Board()
        self._kept: dict[str, deque[LoadSnapshot]] = {}
        self._calls: dict[str, deque[CallCounts]] = {}
        self._newest_ms = 0
        self._newest_age_s = 0.0  # age of the newest snapshot at the moment it arrived
        self._newest_arrived = 0.0  # monotonic
        self._looked = time.monotonic()
        self._attention = threading.Event()
        self._hurry = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="board-poller", daemon=True)
        self._thread.start()

    def look(self) -> Board:
        """The present board, at once; tells the poller that somebody looks."""
        self._looked = time.monotonic()
        self._attention.set()
        return self._board

    def refresh(self) -> None:
        """Poll now rather than at the next turn."""
        self._hurry.set()

    def stop(self) -> None:
        """End the thread; it finishes the call it is in."""
        self._stopped = True
        self._attention.set()
        self._hurry.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped:
            self._poll()
            self._hurry.wait(self._every_s)
            self._hurry.clear()
            if time.monotonic() - self._looked > self._rest_after_s and not self._stopped:
                self._attention.clear()
                self._attention.wait()

    def _poll(self) -> None:
        started = time.monotonic()
        router, system, error = self._board.router, self._board.system, None
        try:
            self._keep(self.client.experts(window_s=self._missing_s()).snapshots)
            router = self.client.router()
            system = self.client.system()
            self._keep_calls(system)
        except ApiError as failure:
            error = str(failure)
        except Exception as failure:  # a thread that ends would leave its last word standing for ever
            error = f"The board itself failed: {failure!r}"
        ended = time.monotonic()
        self._board = Board(
            version=self._board.version + 1,
            snapshots=tuple(sorted((s for kept in self._kept.values() for s in kept), key=lambda s: s.ts)),
            router=router,
            system=system,
            calls=tuple(sorted((c for kept in self._calls.values() for c in kept), key=lambda c: c.ts)),
            error=error,
            age_s=self._newest_age_s + ended - self._newest_arrived,
            ended=ended,
            poll_ms=(ended - started) * 1_000,
        )

    def _missing_s(self) -> float:
        """Seconds to ask for: everything at first, then what came since, with some overlap."""
        if not self._kept:
            return WINDOW_S
        return min(WINDOW_S, time.monotonic() - self._newest_arrived + self._every_s + 4.0)

    def _keep(self, snapshots: list[LoadSnapshot]) -> None:
        """Merge new snapshots, forget those outside the window, and note when the newest one came."""
        for snapshot in snapshots:
            kept = self._kept.setdefault(snapshot.engine, deque(maxlen=SNAPSHOTS_PER_ENGINE_MAX))
            if not kept or snapshot.ts > kept[-1].ts:
                kept.append(snapshot)
        newest_ms = max((kept[-1].ts for kept in self._kept.values() if kept), default=0)
        if newest_ms != self._newest_ms:
            # Clocks of engine and board may differ: only the very first age is a difference of the two.
            first = self._newest_ms == 0
            self._newest_age_s = max(0.0, time.time() - newest_ms / 1_000) if first else 0.0
            self._newest_ms, self._newest_arrived = newest_ms, time.monotonic()
        for engine, kept in list(self._kept.items()):
            while kept and kept[0].ts < newest_ms - WINDOW_S * 1_000:
                kept.popleft()
            if not kept:
                del self._kept[engine]
        while len(self._kept) > ENGINES_MAX:
            del self._kept[min(self._kept, key=lambda engine: self._kept[engine][-1].ts)]

    def _keep_calls(self, system: System) -> None:
        """What each API process counted, for two minutes; rates are worked out from the differences."""
        for counts in map(CallCounts.of, system.processes):
            if counts is not None:
                kept = self._calls.setdefault(counts.process, deque(maxlen=SNAPSHOTS_PER_ENGINE_MAX))
                if not kept or counts.ts > kept[-1].ts:
                    kept.append(counts)
        newest_ms = max((kept[-1].ts for kept in self._calls.values()), default=0)
        for process, kept in list(self._calls.items()):
            while kept and kept[0].ts < newest_ms - WINDOW_S * 1_000:
                kept.popleft()
            if not kept:
                del self._calls[process]
        while len(self._calls) > API_PROCESSES_MAX:
            del self._calls[min(self._calls, key=lambda process: self._calls[process][-1].ts)]
