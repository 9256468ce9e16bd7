"""What is left of a deadline, for every call that has one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from recsys.api.deadline import budget_s
from recsys.config import ApiSettings, Settings
from recsys.errors import InputError


def process(unread_s: float = 0.0) -> Any:
    settings = Settings(api=ApiSettings(deadline_ms=400, deadline_ms_max=5_000))
    return SimpleNamespace(settings=settings, congestion=SimpleNamespace(unread_s=unread_s))


def test_it_is_what_the_caller_says_or_else_the_usual_time() -> None:
    assert budget_s("250", process()) == budget_s(b"250", process()) == 0.25
    assert budget_s(None, process()) == 0.4
    assert budget_s(None, process(), default_ms=5_000) == 5.0


def test_time_in_the_socket_counts() -> None:
    assert budget_s("250", process(unread_s=0.1)) == pytest.approx(0.15)
    assert budget_s(None, process(unread_s=1.0)) < 0


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "5001", "soon", b"\xff"])
def test_a_wrong_one_is_named(wrong: str | bytes) -> None:
    with pytest.raises(InputError, match=r"X-Deadline-Ms: .* is not a number above 0 and up to 5000"):
        budget_s(wrong, process())
