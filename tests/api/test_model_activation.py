"""Who asks for a model version while another one is being loaded, without engines: Redis is all they share."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import redis

from recsys.api import model_activation
from recsys.config import RedisSettings
from recsys.errors import ConflictError
from recsys.state.client import async_client
from recsys.state.keys import Keys
from recsys.wire import EngineModels

KEYS = Keys()


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    """With one engine that serves "first" and answers nothing."""
    found = redis.Redis.from_url(redis_url, decode_responses=True)
    state = EngineModels(version="first", available=["first", "second", "third"])
    found.set(KEYS.models_of("e"), msgspec.json.encode(state))
    return found


def activate(redis_url: str, version: str, meanwhile: Any) -> Any:
    async def run() -> Any:
        async def present() -> list[Any]:
            return [SimpleNamespace(engine="e")]

        shared = async_client(RedisSettings(url=redis_url))
        res: Any = SimpleNamespace(redis=shared, keys=KEYS, telemetry=SimpleNamespace(present=present))
        try:
            asked = asyncio.create_task(model_activation.activate(version, res))
            while await shared.hget(KEYS.models, "wanted") != version:  # noqa: ASYNC110 - Redis tells nobody
                await asyncio.sleep(0.001)
            meanwhile(await shared.hget(KEYS.models, "activation"))
            return await asked
        finally:
            await shared.aclose()

    return asyncio.run(run())


def test_a_call_that_was_overtaken_leaves_the_newer_wish_alone(redis_url: str, client: redis.Redis) -> None:
    newer: dict[Any, Any] = {"activation": "newer", "wanted": "third", "previous": "second"}

    def overtake(_: str) -> None:
        client.hset(KEYS.models, mapping=newer)

    with pytest.raises(ConflictError, match="another version was asked for meanwhile; 'third' goes on serving"):
        activate(redis_url, "second", overtake)
    assert client.hgetall(KEYS.models) == newer


def test_what_an_engine_cannot_load_is_taken_back(redis_url: str, client: redis.Redis) -> None:
    def refuse(activation: str) -> None:
        assert client.hget(KEYS.models, "previous") == "first"
        state = EngineModels(version="first", available=[], activation=activation, error="broken")
        client.set(KEYS.models_of("e"), msgspec.json.encode(state))

    with pytest.raises(ConflictError, match="e: broken; 'first' goes on serving"):
        activate(redis_url, "second", refuse)
    found = client.hgetall(KEYS.models)
    assert (found["wanted"], found.get("previous")) == ("first", None)
