"""How many entries of the stream a group has not yet applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import redis

from recsys.state.keys import Keys


def count_backlog(groups: Iterable[Mapping[str, Any]], length: int, group: str) -> int:
    """Entries not yet delivered plus entries delivered but not acknowledged.

    Args:
        groups: the answer to `XINFO GROUPS`.
        length: the answer to `XLEN`, which also bounds the result where the server does not know the lag
            (it loses count when somebody deletes entries by hand).
        group: the group asked about; before it exists, everything in the stream is backlog.
    """
    for info in groups:
        if _text(info["name"]) == group:
            lag = info.get("lag")
            return min(length, int(info["pending"]) + (length if lag is None else int(lag)))
    return length


def read_backlog(client: redis.Redis, keys: Keys, group: str) -> int:
    """The same, asked of Redis now; 0 where there is no stream."""
    pipe = client.pipeline(transaction=False)
    pipe.xinfo_groups(keys.events)
    pipe.xlen(keys.events)
    groups, length = pipe.execute(raise_on_error=False)
    if isinstance(length, redis.RedisError):
        raise length
    return 0 if isinstance(groups, redis.ResponseError) else count_backlog(groups, int(length), group)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
