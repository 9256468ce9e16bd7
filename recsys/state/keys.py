"""Names of every Redis key, in one place. `p` is the prefix from the settings (`recsys:`).

| key | type | holds | bound |
|---|---|---|---|
| {p}events | stream | the public event stream | backlog + retain |
| {p}events:dead | stream | entries that could not be applied: source_id, reason, fields | dead_letters_max |
| {p}dedup | zset | event_id -> ms when applied | count and age |
| {p}erasures | hash | user -> id of a deletion whose traces in the streams are still to be removed | users |
| {p}stats | hash | counters: acknowledged, applied, duplicates, late, dead, ignored, interactions:{kind}, ... | fixed |
| {p}u:{user}:hist | zset | score ts, member `ts|kind|item`; newest kept | history_max, TTL |
| {p}u:{user}:hidden | zset | item -> ts of items the user hid | hidden_max, TTL |
| {p}u:{user}:count | hash | kind -> number of interactions ever applied | kinds, TTL |
| {p}u:{user}:profile | string | JSON {ts, attributes} | TTL |
| {p}u:{user}:shown | zset | score ts, member JSON {request_id, items} | per-user max, TTL|
| {p}u:{user}:early | zset | score ms, member answer + item: what was done before its answer came | per-user max, TTL |
| {p}u:{user}:gone | string | stream id of the deletion; older entries of the user are ignored | TTL |
| {p}items | hash | item_id -> JSON item | the catalogue |
| {p}items:gone | zset | item_id -> ts of its deletion; an older item event does not bring it back | 100,000 |
| {p}items:changes | stream | n (1, 2, ... without gaps), item_id, op (put, delete): what engines follow | 10,000 |
| {p}i:count | hash | item_id -> interactions ever applied | 1,000,000 |
| {p}pop:h:{hour} | zset | item_id -> weight of interactions with ts in that hour | 26 hours, 100,000 |
| {p}pop:d:{day} | zset | the same by day | 8 days, 100,000 |
| {p}pop:all | zset | the same for all time | 100,000 |
| {p}router | hash | desired policy and bounds, set by PUT /v1/router | fixed |
| {p}models | hash | wanted model version, the one before, id of the activation; the one refused and why | fixed |
| {p}learner | string | the learner that learns now; others wait | TTL |
| {p}models:{engine} | string | JSON of the versions an engine has and the one it serves | engines, TTL |
| {p}bootstrapped | string | Unix ms when a first start put a data set's history in | fixed |
| {p}process:{id} | string | JSON of what a process says of itself every second | TTL |
| {p}processes | zset | id -> ms when it was last heard | 256 |
| {p}telemetry | stream | load snapshots of the engines, field `s` = JSON LoadSnapshot | snapshots_max |
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix."""

    prefix: str = "recsys:"

    @property
    def events(self) -> str:
        return f"{self.prefix}events"

    @property
    def dead(self) -> str:
        return f"{self.prefix}events:dead"

    @property
    def dedup(self) -> str:
        return f"{self.prefix}dedup"

    @property
    def erasures(self) -> str:
        return f"{self.prefix}erasures"

    @property
    def stats(self) -> str:
        return f"{self.prefix}stats"

    @property
    def items(self) -> str:
        return f"{self.prefix}items"

    @property
    def items_gone(self) -> str:
        return f"{self.prefix}items:gone"

    @property
    def item_changes(self) -> str:
        return f"{self.prefix}items:changes"

    @property
    def item_counts(self) -> str:
        return f"{self.prefix}i:count"

    @property
    def popular_all(self) -> str:
        return f"{self.prefix}pop:all"

    @property
    def router(self) -> str:
        return f"{self.prefix}router"

    @property
    def models(self) -> str:
        return f"{self.prefix}models"

    @property
    def learner(self) -> str:
        return f"{self.prefix}learner"

    def models_of(self, engine: str) -> str:
        return f"{self.prefix}models:{engine}"

    @property
    def bootstrapped(self) -> str:
        return f"{self.prefix}bootstrapped"

    @property
    def processes(self) -> str:
        return f"{self.prefix}processes"

    def process(self, process_id: str) -> str:
        return f"{self.prefix}process:{process_id}"

    @property
    def telemetry(self) -> str:
        return f"{self.prefix}telemetry"

    def popular_hour(self, hour: int) -> str:
        return f"{self.prefix}pop:h:{hour}"

    def popular_day(self, day: int) -> str:
        return f"{self.prefix}pop:d:{day}"

    def history(self, user_id: str) -> str:
        return f"{self.prefix}u:{user_id}:hist"

    def hidden(self, user_id: str) -> str:
        return f"{self.prefix}u:{user_id}:hidden"

    def counts(self, user_id: str) -> str:
        return f"{self.prefix}u:{user_id}:count"

    def profile(self, user_id: str) -> str:
        return f"{self.prefix}u:{user_id}:profile"

    def shown(self, user_id: str) -> str:
        return f"{self.prefix}u:{user_id}:shown"

    def gone(self, user_id: str) -> str:
        return f"{self.prefix}u:{user_id}:gone"
