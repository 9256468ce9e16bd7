"""Whom experts work for: tables and words."""

from __future__ import annotations

import json

import pytest

from dashboard import charts, expert_users
from dashboard.answers import ExpertUsersLayer, UserKind

LAYER = ExpertUsersLayer(
    layer=0,
    share=[0.5, 0.3, 0.2, 0.0],
    leads=[3, 1, 1, 0],
    kinds=[UserKind("drama", 4, [0.7, 0.2, 0.1, 0.0]), UserKind("(no history)", 1, [0.1, 0.3, 0.6, 0.0])],
)


def test_kinds_of_users_by_expert() -> None:
    heat = expert_users.by_kind(LAYER)
    assert heat.height == 8
    assert heat["kind"].unique(maintain_order=True).to_list() == ["drama · 4", "(no history) · 1"]
    assert heat.row(0, named=True)["times"] == pytest.approx(2.8)
    assert heat.row(6, named=True)["share"] == pytest.approx(60.0)


def test_an_expert_has_its_own_kinds() -> None:
    table = expert_users.by_expert(LAYER)
    assert table["kinds"].to_list() == ["drama 1.4×", "all alike", "(no history) 3.0×", "all alike"]
    assert table["share"].to_list() == [50.0, 30.0, 20.0, 0.0]
    assert table["leads"].to_list() == [3, 1, 1, 0]
    assert "E2: (no history) 3.0×" in expert_users.describe(LAYER)


def test_the_chart_asks_and_says_its_unit() -> None:
    spec = charts.user_heat()
    assert spec["title"]["text"].endswith("?")
    assert spec["title"]["subtitle"]
    json.dumps(spec)
    encoding = spec["encoding"]
    assert {encoding[c]["field"] for c in ("x", "y", "color")} <= set(expert_users.by_kind(LAYER).columns)
