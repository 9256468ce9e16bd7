"""Deleting a user removes every trace, also of events that are still under way."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from recsys.events import erasure


def traces(stream: Any, user_id: str) -> list[str]:
    """Every place in Redis where the id occurs: key names, and whole values of all types."""
    found = []
    for key in stream.redis.scan_iter():
        kind = stream.redis.type(key)
        value: object = {
            "string": lambda key=key: stream.redis.get(key),
            "hash": lambda key=key: stream.redis.hgetall(key),
            "zset": lambda key=key: stream.redis.zrange(key, 0, -1),
            "stream": lambda key=key: stream.redis.xrange(key),
            "none": lambda: None,  # removed since it was listed
        }[kind]()
        if user_id in key or user_id in json.dumps(value):
            found.append(key)
    return found


def fill(stream: Any, user_id: str) -> None:
    stream.interact(user_id, "i1", "like")
    stream.interact(user_id, "i2", "hide")
    stream.add(type="user", user_id=user_id, attributes='{"age": 30}')
    stream.add(type="impression", request_id="r1", user_id=user_id, items='["i1"]')
    stream.add(type="interaction", user_id=user_id, item_id="i1", kind="malformed")


def test_no_trace_is_left(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "PAGE", 7)
    for n in range(40):
        fill(stream, f"other{n}")
        if n % 10 == 0:
            fill(stream, "leaving")
    stream.settle()
    assert len(traces(stream, "leaving")) == 7
    entries, letters = stream.redis.xlen(stream.keys.events), stream.redis.xlen(stream.keys.dead)
    stream.add(type="user_delete", user_id="leaving")
    stream.eventually(lambda: traces(stream, "leaving") == [], what="no trace of the user")
    assert stream.redis.xlen(stream.keys.events) == entries - 20, "others' entries stay"
    assert stream.redis.xlen(stream.keys.dead) == letters - 4
    assert stream.redis.hget(stream.keys.counts("other0"), "like") == "1"


def test_older_entries_still_pending_are_ignored_and_then_erased(make_stream: Callable[..., Any]) -> None:
    stream = make_stream(events={"claim_idle_ms": 300})
    group = stream.settings.events.group
    stream.redis.xgroup_create(stream.keys.events, group, id="0", mkstream=True)
    fill(stream, "leaving")
    stream.redis.xreadgroup(group, "slow", {stream.keys.events: ">"}, count=100)
    stream.add(type="user_delete", user_id="leaving")
    stream.start_worker()
    stream.eventually(lambda: stream.redis.exists(stream.keys.gone("leaving")), what="the tombstone")
    stream.settle()
    stream.eventually(lambda: traces(stream, "leaving") == [], what="no trace of the user")
    assert stream.stats()["ignored"] == 4


def test_who_comes_back_is_a_new_user(stream: Any) -> None:
    fill(stream, "back")
    stream.add(type="user_delete", user_id="back")
    stream.interact("back", "i9")
    stream.settle()
    stream.eventually(lambda: not stream.redis.hexists(stream.keys.erasures, "back"), what="erasure is over")
    assert stream.redis.hgetall(stream.keys.counts("back")) == {"view": "1"}
    assert len(stream.redis.xrange(stream.keys.events)) == 1


def test_a_resent_deletion_does_not_delete_the_new_user(stream: Any) -> None:
    stream.interact("back", "i1")
    stream.add(type="user_delete", user_id="back", event_id="d1")
    stream.interact("back", "i9")
    stream.add(type="user_delete", user_id="back", event_id="d1")
    stream.settle()
    assert stream.redis.hgetall(stream.keys.counts("back")) == {"view": "1"}


def test_many_users_at_once(stream: Any) -> None:
    for n in range(250):
        stream.interact(f"leaving{n}", "i1")
    for n in range(250):
        stream.add(type="user_delete", user_id=f"leaving{n}")
    stream.eventually(lambda: traces(stream, "leaving") == [], what="no trace of any of them")
