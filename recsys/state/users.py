"""What the service remembers of a user, read in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis
import redis.asyncio

from recsys.state.keys import Keys


@dataclass(frozen=True, slots=True)
class Remembered:
    """One interaction of the history."""

    item_id: str
    kind: str
    ts: int


@dataclass(frozen=True, slots=True)
class UserState:
    """Everything known of one user; all empty for a stranger. `history` is newest last, `hidden` newest first."""

    user_id: str
    history: tuple[Remembered, ...] = ()
    hidden: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether any event of this user was applied (and not forgotten since)."""
        return bool(self.history or self.hidden or self.counts or self.attributes)


@dataclass(frozen=True, slots=True)
class Taste:
    """What an answer needs of a user: `history` (items) and `kinds` run side by side, newest last."""

    history: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


# One command for many users: a client spends far longer on a command than the server.
_TASTES = """
local found = {}
for n = 1, #KEYS, 2 do
    found[#found + 1] = {redis.call('ZRANGE', KEYS[n], 0, -1), redis.call('ZREVRANGE', KEYS[n + 1], 0, -1)}
end
return found
"""


class UserReader:
    """Reads users asynchronously. Users are written by events only."""

    def __init__(self, client: redis.asyncio.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._tastes = client.register_script(_TASTES)

    async def get_tastes(self, user_ids: Sequence[str]) -> list[Taste]:
        """What answers need of several users, in their order, in one round trip."""
        keys = [key for user in user_ids for key in (self._keys.history(user), self._keys.hidden(user))]
        found: list[tuple[list[str], list[str]]] = await self._tastes(keys=keys)
        return [_taste(history, hidden) for history, hidden in found]

    async def get_user(self, user_id: str) -> UserState:
        """The user's state; its size is bounded by the settings `history_max` and `hidden_max`."""
        pipe = self._client.pipeline(transaction=False)
        pipe.zrange(self._keys.history(user_id), 0, -1)
        pipe.zrevrange(self._keys.hidden(user_id), 0, -1)
        pipe.hgetall(self._keys.counts(user_id))
        pipe.get(self._keys.profile(user_id))
        history, hidden, counts, profile = await pipe.execute()
        return UserState(
            user_id=user_id,
            history=tuple(_remembered(member) for member in history),
            hidden=tuple(hidden),
            counts={kind: int(n) for kind, n in counts.items()},
            attributes=msgspec.json.decode(profile)["attributes"] if profile else {},
        )


def read_histories(client: redis.Redis, keys: Keys, user_ids: Sequence[str]) -> list[tuple[Remembered, ...]]:
    """Histories of some users, newest last, in one round trip; for programs without an event loop."""
    pipe = client.pipeline(transaction=False)
    for user_id in user_ids:
        pipe.zrange(keys.history(user_id), 0, -1)
    return [tuple(_remembered(member.decode()) for member in members) for members in pipe.execute()]


def _taste(history: list[str], hidden: list[str]) -> Taste:
    parts = [member.split("|", 2) for member in history]
    return Taste(tuple([part[2] for part in parts]), tuple([part[1] for part in parts]), tuple(hidden))


def _remembered(member: str) -> Remembered:
    ts, kind, item_id = member.split("|", 2)
    return Remembered(item_id, kind, int(ts))
