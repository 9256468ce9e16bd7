"""Trims the stream behind all its groups and keeps a tail of applied entries for readers and replay."""

from __future__ import annotations

from collections import deque
from importlib import resources
from typing import NamedTuple

import redis

from recsys.state.keys import Keys

_CUT_MAX = 100_000
_MARKS = 16


class _Mark(NamedTuple):
    """At the time when `acknowledged` entries had been acknowledged, all before `entry_id` were."""

    acknowledged: int
    entry_id: str


class Trimmer:
    """Call `trim` now and then; any number of workers may.

    To keep `retain` applied entries without counting them each time, it leaves marks while the stream moves on: once
    `retain` more entries were acknowledged after a mark, everything before that mark may go.
    """

    def __init__(self, client: redis.Redis, keys: Keys, *, retain: int, group: str, reader_lag_max: int) -> None:
        self._script = client.register_script(resources.files("recsys.events").joinpath("trim.lua").read_text())
        self._keys = [keys.events, keys.stats]
        self._retain = retain
        self._group = group
        self._reader_lag_max = reader_lag_max
        self._marks: deque[_Mark] = deque()
        self._behind = "0-0"

    def trim(self) -> int:
        """Cut what may be cut and return how many entries went."""
        needed, trimmed, acknowledged = self._script(
            keys=self._keys, args=[self._behind, _CUT_MAX, self._group, self._reader_lag_max]
        )
        now = _Mark(int(acknowledged), needed.decode())
        if self._marks and now.acknowledged < self._marks[-1].acknowledged:  # Redis lost its data
            self._marks.clear()
            self._behind = "0-0"
        if not self._marks or now.acknowledged - self._marks[-1].acknowledged >= self._retain / _MARKS:
            self._marks.append(now)
        while self._marks and now.acknowledged - self._marks[0].acknowledged >= self._retain:
            self._behind = self._marks.popleft().entry_id
        return int(trimmed)
