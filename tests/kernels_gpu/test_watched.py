"""A child process that hangs or dies costs its section; what it had found is kept, and the next ones are done."""

from __future__ import annotations

import multiprocessing
import operator
import os
import time
from functools import partial
from typing import Any

from kernels.gpu.watched import watched

Calls = tuple[Any, ...]
RUN: Any = partial(map, operator.call)  # the rows of a section are what its calls return


def rows_of(sections: dict[str, Calls], silent_s: float) -> list[tuple[str, Any]]:
    names = {calls: name for name, calls in sections.items()}
    return [(names[calls], row) for calls, row in watched(RUN, list(sections.values()), silent_s=silent_s)]


def calls(*values: int) -> Calls:
    return tuple(partial(int, value) for value in values)


def test_rows_come_in_order_from_one_process() -> None:
    found = rows_of({"a": (os.getpid,), "b": calls(1, 2), "c": (), "d": (os.getpid, int)}, silent_s=60)
    assert [name for name, _ in found] == ["a", "b", "b", "d", "d"]
    assert found[0][1] == found[-2][1] != os.getpid()


def test_who_dies_or_fails_costs_its_section() -> None:
    sections = {"dies": (*calls(1), partial(os._exit, 3)), "fails": (partial(int, "x"),), "goes on": calls(2)}
    assert rows_of(sections, silent_s=60) == [
        ("dies", 1),
        ("dies", "its process ended with 3"),
        ("fails", "its process ended with 1"),
        ("goes on", 2),
    ]


def test_who_hangs_is_killed() -> None:
    hangs = (*calls(1), partial(time.sleep, 3_600), *calls(2))
    found = rows_of({"hangs": hangs, "goes on": calls(3)}, silent_s=20)
    assert found == [("hangs", 1), ("hangs", "nothing came for 20 s"), ("goes on", 3)]
    assert not multiprocessing.active_children()
