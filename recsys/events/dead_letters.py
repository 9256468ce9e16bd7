"""Entries that could not be applied: look at them, and send them through the stream again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, cast

import msgspec
import redis
import redis.asyncio

from recsys.config import Settings
from recsys.state.client import writer
from recsys.state.keys import Keys

_PAGE = 500
_PREFIX = "field."

# One letter moves in one step, so that two replays at a time, or one that is broken off, neither lose nor double it.
# It keeps the identity of its first entry: the same id for de-duplication, and the same time.
_MOVE = """
local letter = redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1])[1]
if not letter then return 0 end
local fixed, entry, has, source = cjson.decode(ARGV[2]), {}, {}, nil
local function add(name, value)
  has[name] = true
  entry[#entry + 1] = name
  entry[#entry + 1] = value
end
for i = 1, #letter[2], 2 do
  local name, value = letter[2][i], letter[2][i + 1]
  local field = string.match(name, '^field%.(.*)$')
  if name == 'source_id' then source = value elseif field and not fixed[field] then add(field, value) end
end
for name, value in pairs(fixed) do
  if value ~= '' then add(name, value) end
end
if source and not has.event_id then add('event_id', source) end
local written_ms = source and string.match(source, '^(%d+)-')
if written_ms and #written_ms >= 12 and not has.ts then add('ts', written_ms) end
redis.call('XADD', KEYS[1], '*', unpack(entry))
return redis.call('XDEL', KEYS[2], ARGV[1])
"""


class DeadLetter(TypedDict):
    """One letter as text; bytes that are not UTF-8 are shown as escapes (the letter itself keeps them)."""

    id: str
    source_id: str
    reason: str
    fields: dict[str, str]


def list_dead_letters(settings: Settings, *, count: int = 100, after: str = "") -> list[DeadLetter]:
    """At most `count` letters, oldest first, behind the letter `after`."""
    client, keys = writer(settings.redis), Keys(settings.redis.prefix)
    with client:
        return [_letter(letter_id, fields) for letter_id, fields in _letters(client, keys, count=count, after=after)]


async def newest_dead_letters(client: redis.asyncio.Redis, keys: Keys, *, count: int) -> list[DeadLetter]:
    """At most `count` letters, newest first. The client may decode replies: letters are read as bytes nevertheless."""
    ask = cast("Callable[..., Awaitable[Any]]", client.execute_command)
    found = await ask("XREVRANGE", keys.dead, "+", "-", "COUNT", count, NEVER_DECODE=True)
    return [_letter(letter_id, fields) for letter_id, fields in found]


def replay_dead_letters(
    settings: Settings, *, count: int = 1_000, ids: Sequence[str] | None = None, fix: Mapping[str, str] | None = None
) -> int:
    """Send the oldest `count` letters, or those with `ids`, through the stream again; returns how many went.

    `fix` replaces fields by name (an empty value removes one), in every letter sent. A letter that cannot be applied
    comes back as a new letter. Its `event_id` and `ts` stay, so that no letter takes effect twice.
    """
    client, keys = writer(settings.redis), Keys(settings.redis.prefix)
    with client:
        move = client.register_script(_MOVE)
        fixed = msgspec.json.encode(dict(fix or {}))
        # The ids are listed first: letters that come back during the replay are not sent twice.
        chosen = ids if ids is not None else [letter_id for letter_id, _ in _letters(client, keys, count=count)]
        return sum(int(move(keys=[keys.events, keys.dead], args=[letter_id, fixed])) for letter_id in chosen)


def _letters(
    client: redis.Redis, keys: Keys, *, count: int, after: str = ""
) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    first = f"({after}".encode() if after else b"-"
    while count > 0:
        page = cast("list[Any]", client.xrange(keys.dead, min=first, max="+", count=min(count, _PAGE)))
        yield from page
        if len(page) < min(count, _PAGE):
            return
        count -= len(page)
        first = b"(" + page[-1][0]


def _letter(letter_id: bytes, raw: Mapping[bytes, bytes]) -> DeadLetter:
    text = {_shown(name): _shown(value) for name, value in raw.items()}
    return DeadLetter(
        id=letter_id.decode(),
        source_id=text.get("source_id", ""),
        reason=text.get("reason", ""),
        fields={name.removeprefix(_PREFIX): value for name, value in text.items() if name.startswith(_PREFIX)},
    )


def _shown(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
