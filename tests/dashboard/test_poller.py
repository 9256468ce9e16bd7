"""One poller for all viewers, bounded, resting when alone, and back by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dashboard import poller as poller_module
from dashboard.calls import CallCounts
from dashboard.client import Client
from dashboard.poller import Board, Poller
from dashboard.system_answers import QueryCounts


def until(poller: Poller, condition: Callable[[Board], object], what: str) -> Board:
    deadline = time.monotonic() + 10
    while not condition(board := poller.look()):
        assert time.monotonic() < deadline, f"not within 10 s: {what}"
        time.sleep(0.005)
    return board


@pytest.fixture
def poller(served: Any) -> Iterator[Poller]:
    poller = Poller(Client(served.url, timeout_s=1.0), every_s=0.05, rest_after_s=0.5)
    yield poller
    poller.stop()


def test_first_all_then_only_what_is_new(poller: Poller, served: Any) -> None:
    first = until(poller, lambda b: len(b.snapshots) > 400, "two minutes of load")
    later = until(poller, lambda b: b.version >= 5 and b.snapshots[-1].ts > first.snapshots[-1].ts, "news")
    assert [s.ts for s in later.snapshots] == sorted({s.ts for s in later.snapshots}), "none twice, none out of order"
    assert later.router is not None
    assert later.stale_s() < 3


def test_counters_of_the_api_are_kept_and_bounded(poller: Poller, served: Any) -> None:
    served.fake.turned_away_per_s = 1_000.0
    board = until(poller, lambda b: len(b.calls) >= 3, "counters")
    assert board.system is not None
    assert [c.ts for c in board.calls] == sorted({c.ts for c in board.calls})
    assert board.calls[-1].counts.turned_away > board.calls[0].counts.turned_away
    for n in range(poller_module.API_PROCESSES_MAX + 10):  # a process that starts again and again
        served.fake.began_s += 1
        poller._keep_calls(poller.client.system())
        assert len(poller._calls) <= poller_module.API_PROCESSES_MAX, n
    served.fake.gone = ("api",)
    poller._calls["old"] = poller._calls.popitem()[1]
    poller._calls["old"].append(CallCounts("old", 10**14, QueryCounts(0, 0, 0, 0, 0)))
    poller._keep_calls(poller.client.system())
    assert list(poller._calls) == ["old"], "what is older than two minutes is forgotten"


def test_many_viewers_cost_one_poll(poller: Poller, served: Any) -> None:
    until(poller, lambda b: b.version >= 1, "a poll")
    for _ in range(1_000):
        poller.look()
    assert served.fake.polls <= poller.look().version + 1


def test_rests_while_nobody_looks(poller: Poller, served: Any) -> None:
    until(poller, lambda b: b.version >= 1, "a poll")
    time.sleep(0.8)  # nobody looks
    at_rest = served.fake.polls
    time.sleep(0.3)
    assert served.fake.polls <= at_rest + 1
    until(poller, lambda b: served.fake.polls > at_rest + 1, "polls again")


def test_memory_is_bounded(poller: Poller, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    until(poller, lambda b: b.version >= 1, "a poll")
    monkeypatch.setattr(poller_module, "ENGINES_MAX", 3)
    monkeypatch.setattr(poller_module, "WINDOW_S", 5.0)
    served.fake.engines = tuple(f"engine-{n}" for n in range(8))
    board = until(poller, lambda b: len(b.engines) == 3, "three engines kept of eight")
    assert board.snapshots[0].ts >= board.snapshots[-1].ts - 5_000


def test_stale_when_engines_fall_silent(poller: Poller, served: Any) -> None:
    until(poller, lambda b: b.version >= 1, "a poll")
    served.fake.frozen = True
    until(poller, lambda b: b.stale_s() > 1.0, "an age that grows")
    served.fake.frozen = False
    until(poller, lambda b: b.stale_s() < 1.0, "fresh again")


def test_disconnected_and_back(poller: Poller, served: Any) -> None:
    until(poller, lambda b: b.version >= 1, "a poll")
    served.stop()
    gone = until(poller, lambda b: b.disconnected, "noticed")
    assert gone.snapshots, "the last picture stays"
    served.start()
    until(poller, lambda b: not b.disconnected, "back by itself")


def test_a_surprise_does_not_end_the_polling(poller: Poller, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    until(poller, lambda b: b.version >= 1, "a poll")
    with monkeypatch.context() as patched:
        patched.setattr(poller.client, "router", lambda: 1 / 0)
        told = until(poller, lambda b: b.disconnected, "noticed")
        assert "ZeroDivisionError" in (told.error or "")
    until(poller, lambda b: not b.disconnected, "back by itself")
