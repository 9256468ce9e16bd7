"""The events of the public stream, and the one way to read them from stream fields.

An entry is a flat map of strings, so that anyone can write one by hand:

    XADD recsys:events * type interaction user_id u1 item_id i7 kind like

Fields by `type` (all text; lists and maps as JSON; times in Unix milliseconds):

- `interaction`  user_id, item_id, kind; optional event_id, value, ts, request_id
- `item`         item_id, title; optional categories (JSON list), attributes (JSON map), published_at, event_id, ts
- `item_delete`  item_id; optional event_id, ts
- `user`         user_id; optional attributes (JSON map), event_id, ts
- `user_delete`  user_id; optional event_id, ts
- `impression`   request_id, user_id, items (JSON list); optional event_id, ts; written by the service itself

Without `ts` the time of the stream entry counts; without `event_id` the entry's own id, so a resend is a new event.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import msgspec

from recsys.errors import EventError

Kind = Literal["view", "click", "like", "purchase", "hide"]
KINDS: tuple[str, ...] = get_args(Kind)

ID_MAX = 128
TITLE_MAX = 512
CATEGORIES_MAX = 32
ATTRIBUTES_MAX = 64
ATTRIBUTES_BYTES_MAX = 16_384
ITEMS_MAX = 1_000
TS_MIN_MS = 100_000_000_000  # March 1973: anything below is seconds by mistake


COMMON_FIELDS = frozenset({"type", "event_id", "ts"})

_CONTROL = re.compile(r"[\x00-\x1f]")


class Interaction(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="interaction"):
    """A user did something with an item."""

    event_id: str
    user_id: str
    item_id: str
    kind: Kind
    ts: int
    value: float | None = None
    request_id: str | None = None


class Item(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="item"):
    """An item was added to the catalogue or changed; the whole item is replaced."""

    event_id: str
    item_id: str
    title: str
    ts: int
    categories: tuple[str, ...] = ()
    attributes: dict[str, Any] = {}
    published_at: int | None = None


class ItemDelete(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="item_delete"):
    """An item left the catalogue."""

    event_id: str
    item_id: str
    ts: int


class User(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="user"):
    """A user's profile; the whole profile is replaced."""

    event_id: str
    user_id: str
    ts: int
    attributes: dict[str, Any] = {}


class UserDelete(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="user_delete"):
    """Forget every trace of a user."""

    event_id: str
    user_id: str
    ts: int


class Impression(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="impression"):
    """What one answer showed; interactions join it by `request_id`."""

    event_id: str
    request_id: str
    user_id: str
    items: tuple[str, ...]
    ts: int


Event = Interaction | Item | ItemDelete | User | UserDelete | Impression


class _Fields:
    """Reads typed values out of the text fields of one entry, naming the field in every error."""

    ALLOWED: ClassVar[dict[str, frozenset[str]]] = {
        "interaction": frozenset({"user_id", "item_id", "kind", "value", "request_id"}),
        "item": frozenset({"item_id", "title", "categories", "attributes", "published_at"}),
        "item_delete": frozenset({"item_id"}),
        "user": frozenset({"user_id", "attributes"}),
        "user_delete": frozenset({"user_id"}),
        "impression": frozenset({"request_id", "user_id", "items"}),
    }

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields

    def check_names(self, type_: str) -> None:
        unknown = set(self._fields) - self.ALLOWED[type_] - COMMON_FIELDS
        if unknown:
            name = min(unknown)
            raise EventError(f"{name}: not a field of a {type_!r} event", field=name)

    def text(self, name: str, *, longest: int = ID_MAX) -> str:
        value = self._fields.get(name, "")
        if not value:
            raise EventError(f"{name}: required", field=name)
        if len(value) > longest:
            raise EventError(f"{name}: {len(value)} characters, at most {longest}", field=name)
        if _CONTROL.search(value):
            raise EventError(f"{name}: control characters are not allowed", field=name)
        return value

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if self._fields.get(name) else None

    def kind(self) -> Kind:
        value = self.text("kind")
        if value not in KINDS:
            raise EventError(f"kind: {value!r} is not one of {', '.join(KINDS)}", field="kind")
        return value  # type: ignore[return-value]

    def number(self, name: str) -> float | None:
        raw = self._fields.get(name)
        if not raw:
            return None
        try:
            value = float(raw)
        except ValueError:
            raise EventError(f"{name}: {raw[:40]!r} is not a number", field=name) from None
        if not math.isfinite(value):
            raise EventError(f"{name}: must be finite, got {raw[:40]!r}", field=name)
        return value

    def time_ms(self, name: str, *, now_ms: int, future_max_ms: int) -> int | None:
        raw = self._fields.get(name)
        if not raw:
            return None
        try:
            value = int(raw)
        except ValueError:
            raise EventError(f"{name}: {raw[:40]!r} is not an integer of Unix milliseconds", field=name) from None
        if value < TS_MIN_MS:
            raise EventError(f"{name}: {value} is before 1973; Unix milliseconds are expected, not seconds", field=name)
        if value > now_ms + future_max_ms:
            raise EventError(f"{name}: {value} is more than {future_max_ms} ms in the future", field=name)
        return value

    def json(self, name: str, type_: Any, expected: str) -> Any:
        raw = self._fields.get(name)
        if not raw:
            return None
        try:
            return msgspec.json.decode(raw, type=type_)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError):
            raise EventError(f"{name}: not {expected}: {raw[:60]!r}", field=name) from None

    def names(self, name: str, *, most: int) -> tuple[str, ...]:
        values = self.json(name, tuple[str, ...], "a JSON list of strings") or ()
        if len(values) > most:
            raise EventError(f"{name}: {len(values)} entries, at most {most}", field=name)
        for value in values:
            if not value or len(value) > ID_MAX:
                raise EventError(f"{name}: every entry has 1 to {ID_MAX} characters", field=name)
        return values

    def attributes(self) -> dict[str, Any]:
        if (length := len(self._fields.get("attributes", "").encode(errors="replace"))) > ATTRIBUTES_BYTES_MAX:
            raise EventError(f"attributes: {length} bytes, at most {ATTRIBUTES_BYTES_MAX}", field="attributes")
        values = self.json("attributes", dict[str, str | float | int | bool | None], "a flat JSON map") or {}
        if len(values) > ATTRIBUTES_MAX:
            raise EventError(f"attributes: {len(values)} entries, at most {ATTRIBUTES_MAX}", field="attributes")
        return values


FIELDS = COMMON_FIELDS.union(*_Fields.ALLOWED.values())  # of all events


def parse_event(fields: Mapping[str, str], *, entry_id: str, now_ms: int, future_max_ms: int = 300_000) -> Event:
    """Turn the fields of one stream entry into an event.

    Args:
        fields: the entry's fields, as text.
        entry_id: the entry's stream id, `<milliseconds>-<sequence>`; default for `event_id` and `ts`.
        now_ms: the present, for the bound on times in the future.
        future_max_ms: that bound.

    Raises:
        EventError: naming the field, its bound and what was found.
    """
    read = _Fields(fields)
    type_ = read.text("type")
    if type_ not in _Fields.ALLOWED:
        raise EventError(f"type: {type_!r} is not one of {', '.join(sorted(_Fields.ALLOWED))}", field="type")
    read.check_names(type_)
    event_id = read.optional_text("event_id") or entry_id
    ts = read.time_ms("ts", now_ms=now_ms, future_max_ms=future_max_ms) or _entry_ms(entry_id, now_ms=now_ms)
    match type_:
        case "interaction":
            return Interaction(
                event_id=event_id,
                user_id=read.text("user_id"),
                item_id=read.text("item_id"),
                kind=read.kind(),
                value=read.number("value"),
                ts=ts,
                request_id=read.optional_text("request_id"),
            )
        case "item":
            return Item(
                event_id=event_id,
                item_id=read.text("item_id"),
                title=read.text("title", longest=TITLE_MAX),
                categories=read.names("categories", most=CATEGORIES_MAX),
                attributes=read.attributes(),
                published_at=read.time_ms("published_at", now_ms=now_ms, future_max_ms=10**13),
                ts=ts,
            )
        case "item_delete":
            return ItemDelete(event_id=event_id, item_id=read.text("item_id"), ts=ts)
        case "user":
            return User(event_id=event_id, user_id=read.text("user_id"), attributes=read.attributes(), ts=ts)
        case "user_delete":
            return UserDelete(event_id=event_id, user_id=read.text("user_id"), ts=ts)
        case _:
            return Impression(
                event_id=event_id,
                request_id=read.text("request_id"),
                user_id=read.text("user_id"),
                items=read.names("items", most=ITEMS_MAX),
                ts=ts,
            )


def _entry_ms(entry_id: str, *, now_ms: int) -> int:
    """When the entry was written; ids chosen by hand, such as `1-1`, say nothing of the time, so the present counts."""
    written_ms = int(entry_id.split("-", 1)[0])
    return written_ms if TS_MIN_MS <= written_ms <= now_ms else now_ms


def to_fields(event: Event) -> dict[str, str]:
    """The stream fields of an event; `parse_event` reads them back to an equal event."""
    raw = msgspec.to_builtins(event)
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in raw.items()
        if value is not None
    }


def text_of(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """The fields of an entry as text.

    Raises:
        EventError: naming the field that is not UTF-8.
    """
    try:
        return {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError:
        raise EventError(f"{_not_utf8(fields)}: not UTF-8") from None


def _not_utf8(fields: Mapping[bytes, bytes]) -> str:
    for name, value in fields.items():
        for part in (name, value):
            try:
                part.decode()
            except UnicodeDecodeError:
                return name.decode(errors="backslashreplace")
    return "fields"
