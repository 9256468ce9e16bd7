"""Load snapshots of the engines, as the API reads them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import redis.asyncio

from recsys.state.keys import Keys
from recsys.wire import LoadSnapshot, decode_snapshot

AT_ONCE = 256
PAGE = 32  # snapshots read together where many are wanted: well below a millisecond of the reader's loop
PRESENT_S = 3.0  # an engine that said nothing for longer is not there


class TelemetryReader:
    """Reads what engines published. Bounded by `engine.snapshots_max`."""

    def __init__(self, client: redis.asyncio.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def pages(self, *, since_ms: int, until: str = "+") -> AsyncIterator[list[str]]:
        """JSON snapshots published at or after that time, up to entry `until`, oldest first, at most `PAGE` at once."""
        start = str(since_ms)
        while True:
            entries: Any = await self._client.xrange(self._keys.telemetry, min=start, max=until, count=PAGE)
            if entries:
                yield [fields["s"] for _, fields in entries]
            if len(entries) < PAGE:
                return
            start = f"({entries[-1][0]}"

    async def last_id(self) -> str:
        """Id of the newest entry, to read on from; "0-0" if there is none."""
        entries: Any = await self._client.xrevrange(self._keys.telemetry, count=1)
        return str(entries[0][0]) if entries else "0-0"

    async def after(self, entry_id: str) -> list[tuple[str, str]]:
        """(id, JSON snapshot) of what was published after that entry, oldest first."""
        entries: Any = await self._client.xrange(self._keys.telemetry, min=f"({entry_id}", count=AT_ONCE)
        return [(entry, fields["s"]) for entry, fields in entries]

    async def present(self) -> list[LoadSnapshot]:
        """The newest snapshot of each engine heard of lately, by name."""
        newest: dict[str, LoadSnapshot] = {}
        async for page in self.pages(since_ms=int((time.time() - PRESENT_S) * 1e3)):
            for snapshot in map(decode_snapshot, page):
                newest[snapshot.engine] = snapshot
        return [newest[name] for name in sorted(newest)]
