"""Whatever is wrong with an entry: it becomes a dead letter that says so, and the entries behind it are applied."""

import json
import time
from typing import Any

import pytest

GOOD = {"type": "interaction", "user_id": "u1", "item_id": "i1", "kind": "like"}
ITEM = {"type": "item", "item_id": "i1", "title": "Night Train"}
ANSWER = {"type": "impression", "request_id": "r1", "user_id": "u1", "items": '["i1"]'}
LONG = "x" * 129


def without(fields: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in fields.items() if key != name}


MALFORMED: dict[str, tuple[dict[Any, Any], str]] = {
    "no type": (without(GOOD, "type"), "type: required"),
    "empty type": ({**GOOD, "type": ""}, "type: required"),
    "unknown type": ({**GOOD, "type": "rating"}, "type: 'rating' is not one of"),
    "misspelt field": ({**GOOD, "itemid": "i1"}, "itemid: not a field"),
    "field of another type": ({**GOOD, "title": "x"}, "title: not a field"),
    "no user": (without(GOOD, "user_id"), "user_id: required"),
    "no item": (without(GOOD, "item_id"), "item_id: required"),
    "no kind": (without(GOOD, "kind"), "kind: required"),
    "unknown kind": ({**GOOD, "kind": "love"}, "kind: 'love' is not one of"),
    "kind in capitals": ({**GOOD, "kind": "LIKE"}, "kind: 'LIKE' is not one of"),
    "user id too long": ({**GOOD, "user_id": LONG}, "user_id: 129 characters, at most 128"),
    "event id too long": ({**GOOD, "event_id": LONG}, "event_id: 129 characters"),
    "line break in an id": ({**GOOD, "item_id": "a\nb"}, "item_id: control characters"),
    "zero byte in an id": ({**GOOD, "item_id": "a\0b"}, "item_id: control characters"),
    "value in words": ({**GOOD, "value": "four"}, "value: 'four' is not a number"),
    "value not a number": ({**GOOD, "value": "nan"}, "value: must be finite"),
    "value infinite": ({**GOOD, "value": "1e999"}, "value: must be finite"),
    "time in words": ({**GOOD, "ts": "yesterday"}, "ts: 'yesterday' is not an integer"),
    "time in ISO 8601": ({**GOOD, "ts": "2026-01-01T00:00:00Z"}, "ts: '2026-01-01T00:00:00Z' is not an integer"),
    "time with a fraction": ({**GOOD, "ts": "1700000000000.5"}, "ts: '1700000000000.5' is not an integer"),
    "time in seconds": ({**GOOD, "ts": "1700000000"}, "ts: 1700000000 is before 1973"),
    "negative time": ({**GOOD, "ts": "-1"}, "ts: -1 is before 1973"),
    "time in microseconds": ({**GOOD, "ts": "1700000000000000"}, "ts: 1700000000000000 is more than 300000 ms in"),
    "time in the future": ({**GOOD, "ts": str(int(time.time() * 1000) + 3_600_000)}, "in the future"),
    "not UTF-8": ({**GOOD, "item_id": b"\xff\xfe"}, "item_id: not UTF-8"),
    "field name not UTF-8": ({**GOOD, b"\xff": "x"}, "\\xff: not UTF-8"),
    "item without a title": (without(ITEM, "title"), "title: required"),
    "title too long": ({**ITEM, "title": "x" * 513}, "title: 513 characters, at most 512"),
    "categories not JSON": ({**ITEM, "categories": "thriller"}, "categories: not a JSON list of strings"),
    "categories not a list": ({**ITEM, "categories": '{"a": 1}'}, "categories: not a JSON list of strings"),
    "categories not strings": ({**ITEM, "categories": "[1]"}, "categories: not a JSON list of strings"),
    "empty category": ({**ITEM, "categories": '[""]'}, "categories: every entry has 1 to 128"),
    "too many categories": ({**ITEM, "categories": json.dumps(["a"] * 33)}, "categories: 33 entries, at most 32"),
    "attributes not JSON": ({**ITEM, "attributes": "year=1998"}, "attributes: not a flat JSON map"),
    "attributes not a map": ({**ITEM, "attributes": "[]"}, "attributes: not a flat JSON map"),
    "attributes nested": ({**ITEM, "attributes": '{"a": {"b": 1}}'}, "attributes: not a flat JSON map"),
    "too many attributes": (
        {**ITEM, "attributes": json.dumps({str(n): n for n in range(65)})},
        "attributes: 65 entries, at most 64",
    ),
    "attributes too large": ({**ITEM, "attributes": json.dumps({"a": "x" * 16_384})}, "bytes, at most 16384"),
    "publication in seconds": ({**ITEM, "published_at": "1700000000"}, "published_at: 1700000000 is before 1973"),
    "item deletion without item": ({"type": "item_delete"}, "item_id: required"),
    "user without id": ({"type": "user", "attributes": "{}"}, "user_id: required"),
    "user deletion without user": ({"type": "user_delete"}, "user_id: required"),
    "answer without request id": (without(ANSWER, "request_id"), "request_id: required"),
    "answer with items as text": ({**ANSWER, "items": "i1,i2"}, "items: not a JSON list of strings"),
    "answer with too many items": ({**ANSWER, "items": json.dumps(["i"] * 1_001)}, "items: 1001 entries, at most 1000"),
    "thousands of fields": ({f"f{n}": "x" for n in range(5_000)} | GOOD, "f0: not a field"),
}


@pytest.mark.parametrize(("fields", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_becomes_a_dead_letter(stream: Any, fields: dict[Any, Any], reason: str) -> None:
    entry_id = stream.redis.xadd(stream.keys.events, fields)
    stream.interact("u2", "i2")
    stream.settle()
    [(_, letter)] = stream.redis.xrange(stream.keys.dead)
    assert letter["source_id"] == entry_id
    assert reason in letter["reason"]
    assert len(letter) == 2 + min(len(fields), 1_000), "the fields as they were come along"
    assert stream.stats() == {
        "acknowledged": 2, "applied": 1, "dead": 1, "interactions:view": 1,
    }  # fmt: skip


def test_an_effect_that_fails_inside_redis_becomes_a_dead_letter(stream: Any) -> None:
    stream.redis.set(stream.keys.history("u1"), "somebody else's value")
    stream.interact("u1", "i1", event_id="e1")
    stream.interact("u2", "i1")
    stream.settle()
    [(_, letter)] = stream.redis.xrange(stream.keys.dead)
    assert "wrong kind of value" in letter["reason"]
    assert stream.redis.zscore(stream.keys.dedup, "e1") is None, "or it could not be replayed"
    assert stream.stats()["applied"] == 1
