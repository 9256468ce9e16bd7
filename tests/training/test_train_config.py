from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.errors import DataFileError, InputError
from recsys.training.config import PRESETS, TrainConfig, preset


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_survives_json(name: str) -> None:
    config = preset(name)
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_file_changes_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"preset": "ml-1m", "seed": 3, "model": {"width": 32}}))
    config = TrainConfig.from_file(path)
    assert (config.seed, config.model.width, config.model.history) == (3, 32, preset("ml-1m").model.history)


def test_every_published_run_has_a_config_that_can_be_read() -> None:
    folder = Path(__file__).parents[2] / "configs"
    configs = {path: TrainConfig.from_file(path) for path in folder.rglob("*.json")}
    assert len(configs) > 10
    assert len(set(configs.values())) == len(configs)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 3}, "epochs: not a field"),
        ({"batch": 0}, "batch: 0 is not a whole number from 1"),
        ({"batch": True}, "batch: True"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast'"),
        ({"learning_rate": float("nan")}, "learning_rate: nan"),
        ({"protocol": "random"}, "protocol: 'random' is not one of"),
        ({"hard_negatives": 50, "hard_from": 10}, "hard_negatives: 50 exceeds"),
        ({"model": {"width": -1}}, r"model\.width"),
        ({"model": {"depth": 1}}, r"model\.depth"),
        ({"model": 3}, "model: not a map"),
    ],
)
def test_a_wrong_field_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig.from_json(values)


def test_unknown_preset() -> None:
    with pytest.raises(InputError, match="preset: 'huge' is not one of demo"):
        preset("huge")


@pytest.mark.parametrize("content", ["{", "[]", '{"batch": 0}', '{"preset": "huge"}'])
def test_a_wrong_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(DataFileError, match=r"run\.json"):
        TrainConfig.from_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"none\.json: missing"):
        TrainConfig.from_file(tmp_path / "none.json")
