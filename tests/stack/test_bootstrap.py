"""A first start: what is there is used, what is missing is made, and history goes in once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recsys.stack import bootstrap

QUIET = Console(quiet=True)


def test_fills_once_even_when_event_ids_are_forgotten(stream: Any, tiny_world: Path) -> None:
    bootstrap.fill(tiny_world, stream.settings, QUIET)
    before = stream.stats()
    assert before["interactions:view"] > 0
    assert stream.redis.hlen(stream.keys.items) == 150
    stream.redis.delete(stream.keys.dedup)
    bootstrap.fill(tiny_world, stream.settings, QUIET)
    assert stream.stats() == before


def test_an_emptied_redis_is_filled_again(stream: Any, tiny_world: Path) -> None:
    bootstrap.fill(tiny_world, stream.settings, QUIET)
    before = stream.stats()
    stream.redis.flushall()
    bootstrap.fill(tiny_world, stream.settings, QUIET)
    assert {k: n for k, n in stream.stats().items() if k.startswith("interactions:")} == {
        k: n for k, n in before.items() if k.startswith("interactions:")
    }


def test_world_and_model_that_are_there_are_left_alone(
    stream: Any, tiny_world: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_world, tmp_path / "world")
    shutil.copytree(tiny_model, tmp_path / "model")
    monkeypatch.setenv("RECSYS_REDIS__URL", stream.settings.redis.url)
    config = (tmp_path / "model" / "config.json").read_bytes()
    assert bootstrap.main([str(tmp_path)]) == 0
    assert (tmp_path / "model" / "config.json").read_bytes() == config
    assert stream.redis.exists(stream.keys.bootstrapped)


def test_makes_a_world_where_there_is_none(tmp_path: Path) -> None:
    bootstrap.ensure_world(tmp_path / "world", QUIET)
    assert json.loads((tmp_path / "world" / "tastes.json").read_text())
    assert (tmp_path / "world" / "dataset.json").exists()


def test_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_a_broken_data_set_is_reported(
    stream: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "dataset.json").write_text("{")
    shutil.copytree(tiny_model, tmp_path / "model")
    monkeypatch.setenv("RECSYS_REDIS__URL", stream.settings.redis.url)
    assert bootstrap.main([str(tmp_path)]) == 1
    assert "dataset.json" in capsys.readouterr().err
    assert not stream.redis.exists(stream.keys.bootstrapped)


def test_redis_that_is_away_is_reported(
    tiny_world: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(tiny_world, tmp_path / "world")
    shutil.copytree(tiny_model, tmp_path / "model")
    monkeypatch.setenv("RECSYS_REDIS__URL", "redis://127.0.0.1:1/0")
    assert bootstrap.main([str(tmp_path)]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
