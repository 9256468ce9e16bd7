"""Answers do not wait for the garbage collector."""

from __future__ import annotations

import gc

from recsys.collector import collect_seldom, not_collecting


def test_what_is_there_is_left_alone_and_garbage_is_still_found() -> None:
    before = gc.get_threshold()
    stays = [[n] for n in range(1_000)]
    try:
        collect_seldom()
        assert gc.get_freeze_count() >= len(stays)
        assert gc.isenabled()
        looks = gc.get_stats()[0]["collections"]
        for _ in range(2 * gc.get_threshold()[0]):
            cycle: list[object] = []
            cycle.append(cycle)
        assert gc.get_stats()[0]["collections"] > looks
        assert gc.get_count()[0] < 2 * gc.get_threshold()[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_nothing_is_collected_inside_and_it_goes_on_as_before() -> None:
    with not_collecting():
        assert not gc.isenabled()
        with not_collecting():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
