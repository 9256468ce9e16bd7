"""What is said of each expert's present and past."""

from __future__ import annotations

from typing import Any

import msgspec

from dashboard import expert_history
from dashboard.answers import LoadSnapshot


def told(service: Any, **changes: Any) -> list[LoadSnapshot]:
    raw = [msgspec.to_builtins(snapshot) | changes for snapshot in service.snapshots(60.0)]
    return msgspec.convert(raw, list[LoadSnapshot])


def test_slots_health_and_history(made_up_service: Any) -> None:
    table = expert_history.by_expert(told(made_up_service(), health=[0.25], replicas=[2, 1]), 0)
    assert table["expert"].to_list() == list(range(16))
    assert table["health"][:2].to_list() == [25.0, 100.0], "who is not mentioned is well"
    assert table["blocks"][:2].to_list() == [2, 1]
    assert all(0 < share < 101 for share in table["used"])
    assert {len(history) for history in table["history"]} <= {30, 31}


def test_nothing_is_known_yet() -> None:
    assert expert_history.by_expert([], 0).is_empty()
