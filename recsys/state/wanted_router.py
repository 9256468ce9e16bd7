"""The one place that writes what `PUT /v1/router` asks for: hash `{p}router`.

Fields: policies (JSON, written by engines), policy, capacity_factor, health (JSON by expert); of experiments inject
(JSON by expert) and lane_us, each with the Unix ms of its end, inject_until and lane_us_until; and with a quality
budget score_kept_min, kept_for_s, switch (id of the PUT that set it), previous (JSON of the policy and factor before).
After a return by itself: returned (JSON of why and when).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import redis

from recsys.state.keys import Keys

OF_A_SWITCH = ("score_kept_min", "kept_for_s", "switch", "previous", "returned")
EXPERIMENTS = ("inject", "lane_us")

# Only the switch that carried the budget may be taken back, and only once: engines watch it side by side.
_GIVE_BACK = """
if redis.call('HGET', KEYS[1], 'switch') ~= ARGV[1] then return 0 end
local previous = cjson.decode(redis.call('HGET', KEYS[1], 'previous'))
redis.call('HSET', KEYS[1], 'policy', previous.policy, 'capacity_factor', tostring(previous.capacity_factor),
  'returned', ARGV[2])
redis.call('HDEL', KEYS[1], 'score_kept_min', 'kept_for_s', 'switch', 'previous')
return 1
"""


class Returned(msgspec.Struct, frozen=True):
    """A policy was given back because it broke its quality budget."""

    why: str
    ts: int


class WantedRouter:
    """An engine's side; the API writes the fields of a request itself."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._key = keys.router
        self._give_back = client.register_script(_GIVE_BACK)

    def introduce(self, policies: Sequence[str]) -> None:
        """Say which policies there are."""
        self._client.hset(self._key, "policies", msgspec.json.encode(policies))

    def give_back(self, switch: str, why: str) -> bool:
        """Go back to the policy before that switch; False if somebody else did, or switched again."""
        returned = msgspec.json.encode(Returned(why, int(time.time() * 1e3)))
        return bool(self._give_back(keys=[self._key], args=[switch, returned]))

    @staticmethod
    def returned(stored: Mapping[str, str], *, within_s: float) -> str:
        """Why the policy went back by itself, if it did so a moment ago, else ""."""
        if "returned" not in stored:
            return ""
        found = returned_of(stored["returned"])
        return found.why if found and time.time() - found.ts / 1e3 < within_s else ""


def in_force(stored: Mapping[str, str], *, now_ms: float) -> dict[str, str]:
    """The fields without experiments that are over: a forgotten one must not cripple a service for ever."""
    over: set[str] = set()
    for name in EXPERIMENTS:
        until = stored.get(f"{name}_until", "")
        if not until.isdecimal() or int(until) <= now_ms:
            over |= {name, f"{name}_until"}
    return {name: value for name, value in stored.items() if name not in over}


def returned_of(raw: str) -> Returned | None:
    """What the field `returned` holds, None if somebody wrote nonsense."""
    try:
        return msgspec.json.decode(raw, type=Returned)
    except msgspec.DecodeError:
        return None


def previous_of(policy: str, capacity_factor: float) -> bytes:
    """The field `previous`."""
    fields: dict[str, Any] = {"policy": policy, "capacity_factor": capacity_factor}
    return msgspec.json.encode(fields)
