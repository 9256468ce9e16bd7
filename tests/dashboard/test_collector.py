"""What the garbage collector is kept off."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from dashboard import collector


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_modules_are_frozen_once_and_again_when_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.unfreeze()
    monkeypatch.setattr(collector, "_modules", 0)
    collector.freeze_modules()
    frozen = gc.get_freeze_count()
    assert frozen > 10_000
    kept = [[] for _ in range(1_000)]
    collector.freeze_modules()
    assert gc.get_freeze_count() <= frozen, "no module came, so nothing more is frozen"
    monkeypatch.setitem(sys.modules, "a_new_module", ModuleType("a_new_module"))
    collector.freeze_modules()
    assert gc.get_freeze_count() >= frozen + len(kept) / 2
