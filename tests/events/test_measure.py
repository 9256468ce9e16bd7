"""The command behind the figures of `docs/events.md`."""

from typing import Any

import pytest
from rich.console import Console

from recsys.config import RedisSettings, StateSettings
from recsys.events import measure


@pytest.fixture
def measured(stream: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(measure, "USERS", 10)
    redis_settings = RedisSettings(url=stream.settings.redis.url, prefix=measure.PREFIX)
    settings = stream.settings.model_copy(update={"redis": redis_settings, "state": StateSettings(history_max=20)})
    return settings, stream.redis, Console(quiet=True)


def test_memory_is_that_of_full_histories(measured: Any) -> None:
    assert measure.memory(*measured).startswith("10 users with 20 interactions each: 0.0")


def test_delay_is_measured_for_every_event(measured: Any) -> None:
    assert "at 100 events/s: p50" in measure.delay(*measured, per_s=100, seconds=1)
    _, client, _ = measured
    measure._empty(client)
    assert client.keys(f"{measure.PREFIX}*") == []
