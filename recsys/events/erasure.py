"""Removes the entries of deleted users from the stream and from the dead letters, a page at a time.

The state of a deleted user goes at once, with the `user_delete` event. What the user left in the two streams goes
here, after the last older entry has been acknowledged. Until then a tombstone makes the worker ignore such entries;
the tombstone, which has the user in its name, goes last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import redis

from recsys.state.keys import Keys

PAGE = 500
USERS_PER_PASS = 100

_FINISH = """
for i = 1, #ARGV, 3 do
  local user, id, tombstone = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('HGET', KEYS[1], user) == id then redis.call('HDEL', KEYS[1], user) end
  if redis.call('GET', tombstone) == id then redis.call('DEL', tombstone) end
end
"""

_Id = tuple[int, int]


class Eraser:
    """Call `step` now and then; any number of workers may, all steps can be repeated."""

    def __init__(self, client: redis.Redis, keys: Keys, *, group: str) -> None:
        self._client = client
        self._keys = keys
        self._group = group
        self._finish = client.register_script(_FINISH)
        self._pass: Iterator[None] | None = None

    @property
    def active(self) -> bool:
        """Whether a pass is under way, so that the next step should follow soon."""
        return self._pass is not None

    def step(self) -> None:
        """Look at one page of entries, or begin a pass if users wait for one."""
        self._pass = self._pass or self._begin()
        if self._pass is not None and next(self._pass, StopIteration) is StopIteration:
            self._pass = None

    def reset(self) -> None:
        """Forget a pass that was interrupted; the next begins anew."""
        self._pass = None

    def _begin(self) -> Iterator[None] | None:
        _, found = self._client.hscan(self._keys.erasures, count=USERS_PER_PASS)
        waiting = cast("dict[bytes, bytes]", found)
        pending = cast("dict[str, Any]", self._client.xpending(self._keys.events, self._group) if waiting else {})
        first_pending = _order(pending["min"]) if pending.get("pending") else None
        users = {
            user: deleted
            for user, deleted in list(waiting.items())[:USERS_PER_PASS]
            if first_pending is None or _order(deleted) < first_pending
        }
        return self._erase(users) if users else None

    def _erase(self, users: dict[bytes, bytes]) -> Iterator[None]:
        orders = {user: _order(deleted) for user, deleted in users.items()}

        def of_deleted(user: bytes | None, written: bytes) -> bool:
            return user is not None and user in orders and _order(written) <= orders[user]

        for page in self._pages(self._keys.events, last=max(users.values(), key=_order)):
            mine = [entry_id for entry_id, fields in page if of_deleted(fields.get(b"user_id"), entry_id)]
            if mine:
                self._client.xdel(self._keys.events, *mine)
            yield
        for page in self._pages(self._keys.dead, last=b"+"):
            mine = [
                letter_id
                for letter_id, fields in page
                if of_deleted(fields.get(b"field.user_id"), fields.get(b"source_id", letter_id))
            ]
            if mine:
                self._client.xdel(self._keys.dead, *mine)
            yield
        tombstones = {user: self._keys.gone(user.decode()) for user in users}
        self._finish(
            keys=[self._keys.erasures],
            args=[arg for user, deleted in users.items() for arg in (user, deleted, tombstones[user])],
        )

    def _pages(self, stream: str, *, last: bytes) -> Iterator[list[tuple[bytes, dict[bytes, bytes]]]]:
        first = b"-"
        while page := cast("list[Any]", self._client.xrange(stream, min=first, max=last, count=PAGE)):
            yield page
            if len(page) < PAGE:
                return
            first = b"(" + page[-1][0]


def _order(entry_id: bytes) -> _Id:
    ms, seq = entry_id.split(b"-")
    return int(ms), int(seq)
