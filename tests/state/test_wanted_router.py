"""What `PUT /v1/router` asked for, and for how long."""

from __future__ import annotations

import pytest

from recsys.state.wanted_router import EXPERIMENTS, in_force


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_ends(name: str) -> None:
    stored = {"policy": "price", name: "{}", f"{name}_until": "1000"}
    assert in_force(stored, now_ms=999) == stored
    assert in_force(stored, now_ms=1_000) == {"policy": "price"}


@pytest.mark.parametrize("until", [{}, {"inject_until": ""}, {"inject_until": "never"}, {"inject_until": "-1"}])
def test_one_without_an_end_never_began(until: dict[str, str]) -> None:
    assert in_force({"inject": '{"3": "dead"}', **until}, now_ms=0) == {}


def test_the_rest_lasts() -> None:
    stored = {"policy": "drop", "capacity_factor": "1.5", "health": '{"3": 0.5}', "switch": "a"}
    assert in_force(stored, now_ms=1e15) == stored
