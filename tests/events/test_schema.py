"""The text form of events: what is written is read back, and nothing that anybody writes breaks the reader."""

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import EventError
from recsys.events.schema import (
    ID_MAX,
    KINDS,
    TITLE_MAX,
    Event,
    Impression,
    Interaction,
    Item,
    ItemDelete,
    User,
    UserDelete,
    parse_event,
    to_fields,
)

NOW = 1_800_000_000_000
printable = st.characters(min_codepoint=32, exclude_categories=["Cs"])
ids = st.text(printable, min_size=1, max_size=ID_MAX)
times = st.integers(100_000_000_000, NOW)
finite = st.floats(allow_nan=False, allow_infinity=False)
attributes = st.dictionaries(
    st.text(printable, max_size=20),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | st.text(printable, max_size=40),
    max_size=20,
)
common = {"event_id": ids, "ts": times}
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Interaction,
        **common,
        user_id=ids,
        item_id=ids,
        kind=st.sampled_from(KINDS),
        value=st.none() | finite,
        request_id=st.none() | ids,
    ),
    st.builds(
        Item,
        **common,
        item_id=ids,
        title=st.text(printable, min_size=1, max_size=TITLE_MAX),
        categories=st.lists(ids, max_size=32).map(tuple),
        attributes=attributes,
        published_at=st.none() | times,
    ),
    st.builds(ItemDelete, **common, item_id=ids),
    st.builds(User, **common, user_id=ids, attributes=attributes),
    st.builds(UserDelete, **common, user_id=ids),
    st.builds(Impression, **common, request_id=ids, user_id=ids, items=st.lists(ids, max_size=50).map(tuple)),
)


@given(events)
def test_an_event_is_read_back_from_its_fields(event: Event) -> None:
    assert parse_event(to_fields(event), entry_id="1-1", now_ms=NOW) == event


names = st.sampled_from(
    ["type", "event_id", "user_id", "item_id", "kind", "value", "ts", "request_id", "title", "categories",
     "attributes", "published_at", "items"]
)  # fmt: skip
nearly_right = st.sampled_from(
    ["interaction", "item", "user", "impression", "user_delete", "like", "1", "-1", "1e999", "nan", "inf", "[]", "{}",
     '["a"]', '[""]', '{"a":[]}', '{"a":1e400}', "[" * 5_000, "9" * 5_000, "1_000", "\u0661", str(NOW), "\x00",
     "\ud800"]
)  # fmt: skip


@given(st.dictionaries(names | st.text(), nearly_right | st.text()))
def test_arbitrary_text_is_an_event_or_an_event_error(fields: dict[str, str]) -> None:
    with suppress(EventError):
        parse_event(fields, entry_id="1700000000000-0", now_ms=NOW)


@pytest.mark.parametrize("entry_id", ["1-1", "0-1", "99999999999999-0"])
def test_an_entry_id_that_is_no_time_means_now(entry_id: str) -> None:
    now_ms = int(time.time() * 1000)
    event = parse_event({"type": "user_delete", "user_id": "u1"}, entry_id=entry_id, now_ms=now_ms)
    assert event.ts == now_ms


def test_without_ts_and_event_id_the_entry_speaks() -> None:
    event = parse_event({"type": "user_delete", "user_id": "u1"}, entry_id="1700000000000-7", now_ms=NOW)
    assert (event.event_id, event.ts) == ("1700000000000-7", 1_700_000_000_000)
