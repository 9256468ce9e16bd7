"""Health probes against real processes: healthy ones, and ones that are gone, stuck or not ready."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import redis

from recsys.config import ApiSettings, EngineSettings, EventSettings, RedisSettings, Settings
from recsys.stack import probe

NOBODY = "redis://127.0.0.1:1/0"


def test_healthy(service: Any, eventually: Callable[..., None]) -> None:
    settings = Settings(
        redis=RedisSettings(url=service.redis.url),
        api=ApiSettings(port=service.port),
        engine=EngineSettings(endpoint=f"{service.engines['engine']}"),
    )
    assert probe.probe_api(settings) == ""
    assert probe.probe_engine(settings) == ""
    assert probe.probe_worker(settings) == ""


def test_no_worker(redis_url: str) -> None:
    assert "nobody" in probe.probe_worker(Settings(redis=RedisSettings(url=redis_url)))


def test_stuck_worker(redis_url: str, eventually: Callable[..., None]) -> None:
    """A connection whose last command was a read that ended long ago is a worker that hangs."""
    settings = Settings(redis=RedisSettings(url=redis_url), events=EventSettings(block_ms=1))
    with redis.Redis.from_url(redis_url) as client:
        client.xgroup_create("s", "g", mkstream=True)
        client.xreadgroup("g", "c", {"s": ">"})
        assert probe.probe_worker(settings) == ""
        eventually(lambda: "last read" in probe.probe_worker(settings), what="the silence to be noticed")


def test_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.05)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        endpoint = f"tcp://0.0.0.0:{s.getsockname()[1]}"
        assert "no answer" in probe.probe_engine(Settings(engine=EngineSettings(endpoint=endpoint)))


@pytest.mark.parametrize("name", ["api", "worker"])
def test_command_says_why(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_REDIS__URL", NOBODY)
    monkeypatch.setenv("RECSYS_API__PORT", "1")
    assert probe.main([name]) == 1
    assert "refused" in capsys.readouterr().err


def test_command_says_which_setting_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_API__PORT", "many")
    assert probe.main(["api"]) == 1
    assert "api.port" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["api", "worker"]])
def test_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_needs_no_torch() -> None:
    """The images of API and worker have none."""
    code = "import sys, recsys.stack.probe, recsys.api.app, recsys.events.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
