"""The load test reads what the world writes, though neither imports the other."""

from __future__ import annotations

from pathlib import Path

from loadtest.tastes import load_tastes
from recsys.world import World, WorldConfig


def test_the_load_test_reads_the_exported_tastes(tmp_path: Path) -> None:
    world = World(WorldConfig(users=30, items=40, categories=5))
    world.export_tastes(tmp_path / "tastes.json", now_ms=1_790_000_000_000)
    tastes = load_tastes(tmp_path / "tastes.json")
    assert tastes.categories == world.config.category_names
    assert [user.id for user in tastes.users] == world.users["user_id"].to_list()
    assert [item.id for item in tastes.items] == world.items["item_id"].to_list()
    offered = {name for item in tastes.items if item.weight > 0 for name in item.categories}
    assert offered == set(tastes.categories), "every category has items to ask for"
