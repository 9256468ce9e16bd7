"""Reading the world's tastes, and what is said about a file that is wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.tastes import TastesError, load_tastes
from recsys.world.config import WorldConfig
from recsys.world.world import World


def test_reads_what_the_world_writes(tmp_path: Path) -> None:
    path = tmp_path / "tastes.json"
    World(WorldConfig(users=20, items=64, categories=4)).export_tastes(path, now_ms=1_700_000_000_000)
    tastes = load_tastes(path)
    assert (len(tastes.users), len(tastes.items), len(tastes.categories)) == (20, 64, 4)
    assert set(tastes.items_by_category) == set(tastes.categories)
    assert all(sum(user.taste.values()) == pytest.approx(1, abs=0.01) for user in tastes.users)


def test_an_item_is_found_under_each_of_its_categories(tastes_file: Path) -> None:
    content = json.loads(tastes_file.read_text())
    content["items"][0]["categories"] = ["noir", "western"]
    content["items"][1]["weight"] = 0
    tastes_file.write_text(json.dumps(content))
    by_category = {name: [i.id for i in items] for name, items in load_tastes(tastes_file).items_by_category.items()}
    assert "i0" in by_category["noir"]
    assert "i0" in by_category["western"]
    assert "i0" not in by_category["comedy"]
    assert "i1" not in by_category["noir"]  # never used


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        content[path[-1]] = to

    return change


def _without(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for step in path[:-1]:
            content = content[step]
        del content[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_set("format", to=2), "format: 2 is not 1"),
        (_set("categories", to=[]), "categories: at least one is needed"),
        (_set("categories", to=["noir", "noir"]), "categories[1]: 'noir' is there twice"),
        (_set("users", to=[]), "users: at least one is needed"),
        (_without("items"), "missing required field `items`"),
        (_without("items", 3, "weight"), "$.items[3]"),
        (_set("items", 3, "id", to=7), "$.items[3].id"),
        (_set("items", 3, "id", to="i0"), "items[3]: 'i0' is there twice"),
        (_set("items", 3, "id", to=""), "items[3]: '' is empty"),
        (_set("items", 3, "weight", to=-1), "items[3].weight: -1.0 is not a finite number >= 0"),
        (_set("items", 3, "categories", to=["opera"]), "items[3].categories: 'opera' is not in `categories`"),
        (_set("users", 2, "taste", "opera", to=1), "users[2].taste: 'opera' is not in `categories`"),
        (_set("users", 2, "taste", "noir", to=-0.5), "users[2].taste: -0.5"),
        (_set("users", 2, "taste", to=[0.2]), "$.users[2].taste"),
        (_set("users", 2, "activity", to=-1), "users[2].activity"),
    ],
)
def test_a_wrong_file_names_the_file_and_the_place(
    tastes_file: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    content = copy.deepcopy(json.loads(tastes_file.read_text()))
    change(content)
    tastes_file.write_text(json.dumps(content))
    with pytest.raises(TastesError) as error:
        load_tastes(tastes_file)
    assert str(tastes_file) in str(error.value)
    assert complaint in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"tastes"', b'{"format": 1, "categories": NaN}'])
def test_what_is_not_such_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tastes.json"
    path.write_bytes(content)
    with pytest.raises(TastesError, match=r"tastes\.json: "):
        load_tastes(path)


def test_nobody_active_or_nothing_wanted_is_refused(tastes_file: Path) -> None:
    whole = json.loads(tastes_file.read_text())
    idle = whole | {"users": [user | {"activity": 0} for user in whole["users"]]}
    unwanted = whole | {"items": [item | {"weight": 0} for item in whole["items"]]}
    for content, complaint in ((idle, "users: none has an activity"), (unwanted, "items: none has both")):
        tastes_file.write_text(json.dumps(content))
        with pytest.raises(TastesError, match=complaint):
            load_tastes(tastes_file)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(TastesError, match="cannot be read"):
            load_tastes(path)
