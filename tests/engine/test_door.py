"""The engine's socket: what comes in a bundle is admitted one by one, what leaves goes back in bundles, in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from recsys.engine.door import Door
from recsys.errors import UnavailableError
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
    encode,
)

WITHIN_S = 10.0


class Desk:
    """A door that answers pings and writes down the rest."""

    def __init__(self, context: zmq.Context[Any], endpoint: str) -> None:
        self.admitted: list[tuple[bytes, str]] = []
        self.door = Door(context, endpoint, self._admit)
        self._context, self._endpoint = context, endpoint
        self._callers: list[zmq.Socket[Any]] = []

    def _admit(self, peer: bytes, message: ToEngine) -> tuple[bytes, FromEngine] | None:
        if isinstance(message, Ping):
            return peer, Pong(message.n, True, len(self.admitted), "v")
        self.admitted.append((peer, message.id))
        return None

    def caller(self) -> zmq.Socket[Any]:
        socket: zmq.Socket[Any] = self._context.socket(zmq.DEALER)
        socket.connect(self._endpoint)
        socket.setsockopt(zmq.RCVTIMEO, int(WITHIN_S * 1e3))
        self._callers.append(socket)
        return socket

    def receive(self, count: int) -> None:
        """Until that many are admitted."""
        deadline_s = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline_s:
            if self.door.receive():
                continue
            if len(self.admitted) >= count:
                return
            self.door.wait(0.05)
        raise AssertionError(f"{len(self.admitted)} of {count} admitted")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    context: zmq.Context[Any] = zmq.Context()
    yield Desk(context, f"ipc://{tmp_path}/door.sock")
    context.destroy(linger=0)


def rank(name: str) -> RankRequest:
    return RankRequest(id=name, time_left_ms=1, k=1)


def test_a_bundle_of_mixed_kinds_is_admitted_in_order(desk: Desk) -> None:
    caller = desk.caller()
    caller.send(encode([rank("a"), Ping(1), Similar("b", 1.0, "item", 3), rank("c"), Ping(2)]))
    desk.receive(3)
    assert [name for _, name in desk.admitted] == ["a", "b", "c"]
    assert decode_from_engine(caller.recv()) == ([Pong(1, True, 1, "v"), Pong(2, True, 3, "v")], [])


def test_more_than_a_bundle_arrives_whole(desk: Desk) -> None:
    caller, names = desk.caller(), [str(n) for n in range(20 * BUNDLE_MAX + 3)]
    for frame in bundles([rank(name) for name in names]):
        caller.send(frame)
    desk.receive(len(names))
    assert [name for _, name in desk.admitted] == names


def test_what_cannot_be_read_leaves_the_others_alone(desk: Desk) -> None:
    caller = desk.caller()
    wrong = msgspec.Raw(msgspec.msgpack.encode({"t": "rank", "id": "wrong"}))
    caller.send(b"\xc1 no bundle")
    caller.send(b"")
    caller.send_multipart([b"several", b"frames", encode([rank("last frame")])])
    caller.send(encode([rank("a"), wrong, rank("b")]))
    desk.receive(3)
    assert [name for _, name in desk.admitted] == ["last frame", "a", "b"]


def test_replies_leave_in_order_to_whom_they_belong(desk: Desk) -> None:
    callers = [desk.caller() for _ in range(2)]
    for n, caller in enumerate(callers):
        caller.send(encode([rank(f"{n}-{k}") for k in range(BUNDLE_MAX)]))
    desk.receive(2 * BUNDLE_MAX)
    mixed = desk.admitted[::2] + desk.admitted[1::2]
    desk.door.send((peer, RankReply(id=name, status="ok")) for peer, name in mixed)
    for n, caller in enumerate(callers):
        replies, errors = decode_from_engine(caller.recv())
        assert [reply.id for reply in replies if isinstance(reply, RankReply)] == [
            name for _, name in mixed if name.startswith(f"{n}-")
        ]
        assert not errors


def test_two_threads_take_turns_and_lose_nothing(desk: Desk) -> None:
    """While one reads along, another one answers, as in long steps."""
    caller, over = desk.caller(), threading.Event()
    count = 30 * BUNDLE_MAX

    def read_along() -> None:
        while not over.is_set():
            desk.door.receive()
            desk.door.wait(0.001)

    thread = threading.Thread(target=read_along)
    thread.start()
    try:
        for frame in bundles([rank(str(n)) for n in range(count)]):
            caller.send(frame)
        answered, deadline_s = 0, time.monotonic() + WITHIN_S
        while answered < count:
            assert time.monotonic() < deadline_s, f"{answered} of {count}"
            desk.door.receive()
            there = desk.admitted[answered : answered + 7]
            desk.door.send((peer, RankReply(id=name, status="ok")) for peer, name in there)
            answered += len(there)
        got: list[str] = []
        while len(got) < count:
            replies, _ = decode_from_engine(caller.recv())
            got += [reply.id for reply in replies if isinstance(reply, RankReply)]
    finally:
        over.set()
        thread.join()
    assert got == [str(n) for n in range(count)]


def test_an_address_that_is_taken_is_named(desk: Desk) -> None:
    with pytest.raises(UnavailableError, match="no such"):
        Door(desk._context, "ipc:///no such folder/door.sock", desk._admit)
