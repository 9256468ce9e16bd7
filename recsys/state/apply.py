"""The one place where events become state: each entry's effect and its acknowledgement are one atomic step.

A batch goes to Redis as one call of `apply.lua`. For each entry the script first acknowledges it; an entry that is
no longer pending was applied by somebody else and is skipped. So an effect happens exactly once under any crash of
a worker, of Redis, or of the line between them, and under any race of two workers for the same entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, cast

import msgspec
import redis

from recsys.config import EventSettings, StateSettings
from recsys.events.schema import Event, Impression, Interaction, Item, ItemDelete, User, UserDelete
from recsys.state.items import CatalogueItem
from recsys.state.keys import Keys

Outcome = Literal["applied", "duplicate", "ignored", "dead", "taken"]

# How much one interaction of a kind adds to an item's popularity: roughly how much rarer each is than a view.
POPULARITY_WEIGHTS: dict[str, int] = {"view": 1, "click": 2, "like": 4, "purchase": 8, "hide": 0}
POPULAR_TRACKED_MAX = 100_000
ITEMS_COUNTED_MAX = 1_000_000
ITEM_CHANGES_MAX = 10_000
ITEMS_GONE_MAX = 100_000
REASON_MAX = 500

Effect = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch: Redis' clock (Unix ms) and one outcome per entry, in order."""

    now_ms: int
    outcomes: tuple[Outcome, ...]


def effect_of(entry_id: str, event: Event, *, late_after_ms: int) -> Effect:
    """What `apply.lua` needs to know of one entry."""
    effect: Effect = {"id": entry_id, "ts": event.ts}
    # An entry's own id cannot come twice, and an impression written twice is the same member: no need to remember them.
    if event.event_id != entry_id and not isinstance(event, Impression):
        effect["event_id"] = event.event_id
    match event:
        case Interaction():
            effect |= {"type": "interaction", "user": event.user_id, "item": event.item_id, "kind": event.kind}
            effect["late"] = int(entry_id.split("-", 1)[0]) - event.ts > late_after_ms
            if event.request_id is not None:
                effect["answer"] = _answer_prefix(event.request_id)
        case Item():
            item = msgspec.json.encode(CatalogueItem.of(event)).decode()
            effect |= {"type": "item", "item": event.item_id, "json": item}
        case ItemDelete():
            effect |= {"type": "item_delete", "item": event.item_id}
        case User():
            profile = msgspec.json.encode({"ts": event.ts, "attributes": event.attributes}).decode()
            effect |= {"type": "user", "user": event.user_id, "json": profile}
        case UserDelete():
            effect |= {"type": "user_delete", "user": event.user_id}
        case Impression():
            items = msgspec.json.encode(event.items).decode()
            answer = _answer_prefix(event.request_id)
            shown = f'{answer}"items":{items}}}'
            effect |= {"type": "impression", "user": event.user_id, "json": shown, "answer": answer}
    return effect


def dead_letter(entry_id: str, reason: str) -> Effect:
    """Moves one entry, with its fields as they are in the stream, to the dead letters."""
    return {"id": entry_id, "type": "dead", "reason": reason[:REASON_MAX]}


def _answer_prefix(request_id: str) -> str:
    """How a remembered answer begins, so that the script finds it without reading the others."""
    return f'{{"request_id":{msgspec.json.encode(request_id).decode()},'


class Applier:
    """Applies batches of effects through one Redis connection."""

    def __init__(self, client: redis.Redis, keys: Keys, events: EventSettings, state: StateSettings) -> None:
        self._script = client.register_script(resources.files("recsys.state").joinpath("apply.lua").read_text())
        self._keys = [
            keys.events, keys.dead, keys.dedup, keys.stats, keys.items, keys.item_changes, keys.item_counts,
            keys.popular_all, keys.erasures, keys.items_gone,
        ]  # fmt: skip
        self._config = msgspec.msgpack.encode(
            {
                "prefix": keys.prefix,
                "group": events.group,
                "dedup_max": events.dedup_max,
                "dedup_window_s": events.dedup_window_s,
                "dead_letters_max": events.dead_letters_max,
                "history_max": state.history_max,
                "hidden_max": state.hidden_max,
                "user_ttl_s": state.user_ttl_s,
                "impressions_per_user_max": state.impressions_per_user_max,
                "impression_ttl_s": state.impression_ttl_s,
                "popular_tracked_max": POPULAR_TRACKED_MAX,
                "items_counted_max": ITEMS_COUNTED_MAX,
                "item_changes_max": ITEM_CHANGES_MAX,
                "items_gone_max": ITEMS_GONE_MAX,
                "weights": POPULARITY_WEIGHTS,
            }
        )

    def apply(self, effects: Sequence[Effect]) -> Applied:
        """Apply and acknowledge entries that are pending in the group, in the given order.

        Raises:
            redis.RedisError: it is unknown whether the batch was applied; entries still pending were not.
        """
        now_ms, outcomes = self._script(keys=self._keys, args=[self._config, msgspec.msgpack.encode(effects)])
        return Applied(int(now_ms), tuple(cast(Outcome, outcome.decode()) for outcome in outcomes))
