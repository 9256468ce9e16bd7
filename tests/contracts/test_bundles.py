"""Bundles: nothing in them is lost, doubled, reordered, or taken along by a neighbour that cannot be read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.wire import (
    BUNDLE_MAX,
    FromEngine,
    Ping,
    Pong,
    RankReply,
    RankRequest,
    Similar,
    ToEngine,
    bundles,
    decode_from_engine,
    decode_to_engine,
    encode,
)

names = st.text(max_size=5)
asked = st.one_of(
    st.builds(Ping, st.integers(0, 9)),
    st.builds(Similar, names, st.floats(0, 9), names, st.integers(1, 9)),
    st.builds(RankRequest, names, st.floats(0, 9), st.integers(1, 9), history=st.lists(names).map(tuple)),
)
told = st.one_of(
    st.builds(Pong, st.integers(0, 9), st.booleans(), st.integers(0, 9), names),
    st.builds(RankReply, names, st.sampled_from(["ok", "refused"]), item_ids=st.lists(names, max_size=3)),
)
NO_MESSAGES: list[Any] = [{"t": "rank"}, {"t": "no such"}, 7, {"t": "ping", "n": "x"}, [], None]
WRONG = [msgspec.msgpack.encode(value) for value in NO_MESSAGES]


@given(st.lists(asked, max_size=3 * BUNDLE_MAX), st.lists(told, max_size=20))
def test_whatever_goes_in_comes_out_in_order(questions: list[ToEngine], answers: list[FromEngine]) -> None:
    frames = list(bundles(questions))
    assert len(frames) == -(-len(questions) // BUNDLE_MAX)
    read = [decode_to_engine(frame) for frame in frames]
    assert all(0 < len(messages) <= BUNDLE_MAX and not errors for messages, errors in read)
    assert [message for messages, _ in read for message in messages] == questions
    assert decode_from_engine(encode(answers)) == (answers, [])


@given(st.lists(st.one_of(asked, st.sampled_from(WRONG)), min_size=1, max_size=20))
def test_a_wrong_message_takes_no_other_with_it(parts: list[ToEngine | bytes]) -> None:
    raw = [msgspec.Raw(part if isinstance(part, bytes) else msgspec.msgpack.encode(part)) for part in parts]
    messages, errors = decode_to_engine(encode(raw))
    assert messages == [part for part in parts if not isinstance(part, bytes)]
    assert len(errors) == sum(isinstance(part, bytes) for part in parts)
    assert all(errors)


@given(st.binary(max_size=40))
def test_no_frame_of_a_stranger_raises(frame: bytes) -> None:
    for read in (decode_to_engine, decode_from_engine):
        messages, errors = read(frame)
        assert not messages or not errors


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", encode([Ping(1)])[:-1], msgspec.msgpack.encode(Ping(1)), b"\x91" * 5000]
)
def test_what_is_no_bundle_is_one_error(frame: bytes) -> None:
    messages, errors = decode_to_engine(frame)
    assert (messages, len(errors)) == ([], 1)
