from __future__ import annotations

import json

import pytest

from recsys.model.config import ModelConfig


def test_json_and_back_is_equal() -> None:
    config = ModelConfig(items=7, categories=3, width=32, encoder_heads=4, goals=("click",), dropout=0.5)
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("items", -1),
        ("width", 0),
        ("width", "64"),
        ("width", True),
        ("history", 0),
        ("experts", 0),
        ("encoder_layers", 1.5),
        ("encoder_gated", 1),
        ("ranker_ages", -1),
        ("dropout", 1.0),
        ("dropout", float("nan")),
        ("id_dropout", -0.1),
        ("k", 9),
        ("encoder_heads", 3),
        ("ranker_heads", 5),
        ("goals", ()),
        ("goals", ("click", "click")),
        ("goals", ("buy",)),
        ("goals", ("like", "click")),
    ],
)
def test_a_field_out_of_bounds_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field}|{field}\)"):
        ModelConfig(**{"items": 5, field: value})  # type: ignore[arg-type]


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(ValueError, match="depth"):
        ModelConfig.from_json({"items": 5, "depth": 3})
    with pytest.raises(ValueError, match="items: missing"):
        ModelConfig.from_json({})
    with pytest.raises(ValueError, match="goals"):
        ModelConfig.from_json({"items": 5, "goals": "click"})
