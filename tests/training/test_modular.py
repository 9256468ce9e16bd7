"""One expert is trained for a category that the model has not met; the others, and old answers, stay."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from recsys.cli import app
from recsys.data.dataset import Dataset
from recsys.errors import InputError
from recsys.model.recommender import Recommender
from recsys.training.change_expert import Change, change_expert, table_of
from recsys.training.modular import ExpertOptions

BOUND = 0.02


@pytest.fixture(scope="module")
def world(tiny_world: Path) -> Dataset:
    return Dataset.load(tiny_world)


@pytest.fixture(scope="module")
def category(world: Dataset) -> str:
    counts = world.items.explode("categories")["categories"].value_counts(sort=True)
    return str(counts["categories"][0])


@pytest.fixture(scope="module")
def told(tiny_model: Path) -> Recommender:
    """The small model with vectors that tell an item's categories, as those of a trained one do."""
    model = Recommender.from_pretrained(tiny_model)
    with torch.no_grad():
        model.item_categories.weight *= 30
    return model


@pytest.fixture(scope="module")
def change(world: Dataset, told: Recommender, category: str) -> Change:
    options = ExpertOptions(epochs=1, old_share_max=BOUND)
    return change_expert(told, world, category, options, console=Console(quiet=True))


def test_only_the_expert_learns(change: Change, told: Recommender) -> None:
    before, after = told.state_dict(), change.model.state_dict()
    for name, weight in before.items():
        if name.endswith(("gate.weight", "up_ED2H", "down_EHD", "bias_E")):
            assert torch.equal(after[name][:-1], weight), name
        else:
            assert torch.equal(after[name], weight), name


def test_the_category_uses_it_and_the_rest_hardly_does(change: Change) -> None:
    effect = change.effect
    assert effect.used > 2 * effect.used_by_others, effect
    assert effect.used_by_others <= 2 * BOUND, "the bound is kept on events that did not set it"
    assert effect.overlap > 0.9
    assert table_of(effect).row_count == 5


def test_another_expert_for_the_same_category_is_another_version(
    change: Change, world: Dataset, told: Recommender, category: str
) -> None:
    options = ExpertOptions(epochs=1, old_share_max=BOUND, seed=ExpertOptions().seed + 1)
    second = change_expert(told, world, category, options, console=Console(quiet=True)).model.version
    first = change.model.version
    assert first[:-8] == second[:-8]
    assert re.fullmatch(r"tiny\+[a-z0-9-]+-[0-9a-f]{8}", first)
    assert first != second


def test_a_category_without_events_is_refused(world: Dataset, tiny_model: Path, category: str) -> None:
    with pytest.raises(InputError, match="category: no event before the last 10% is of 'Nothing'"):
        change_expert(Recommender.from_pretrained(tiny_model), world, "Nothing", ExpertOptions())
    with pytest.raises(InputError, match="expert: 99 is not from 0 to 7"):
        change_expert(Recommender.from_pretrained(tiny_model), world, category, ExpertOptions(), expert=99)


def test_items_the_model_does_not_know_get_vectors_first(world: Dataset, tiny_model: Path, category: str) -> None:
    taken = world.interactions["item_id"].value_counts(sort=True)["item_id"][0]
    renamed = pl.when(pl.col("item_id") == taken).then(pl.lit("brand new")).otherwise(pl.col("item_id"))
    changed = Dataset.build(
        world.interactions.with_columns(item_id=renamed),
        items=world.items.with_columns(item_id=renamed),
        users=world.users,
        meta=dict(world.meta),
    )
    before = Recommender.from_pretrained(tiny_model)
    after = change_expert(before, changed, category, ExpertOptions(epochs=1), expert=1).model
    assert after.vocabulary.items[-1] == "brand new"
    assert after.config.experts == before.config.experts
    assert float(after.item_ids.weight[-1].detach().norm()) > 0


def test_the_commands(tiny_world: Path, tiny_model: Path, category: str, tmp_path: Path) -> None:
    run = CliRunner().invoke
    added = ["experts", "add", str(tiny_model), str(tiny_world), str(tmp_path / "more"), "--category", category]
    done = run(app, [*added, "--epochs", "1"])
    assert done.exit_code == 0, done.output
    assert "expert 8 is for" in done.output
    done = run(app, ["experts", "remove", str(tmp_path / "more"), str(tmp_path / "less"), "--expert", "8"])
    assert done.exit_code == 0, done.output
    old, new = (Recommender.from_pretrained(folder).state_dict() for folder in (tiny_model, tmp_path / "less"))
    assert all(torch.equal(old[name], new[name]) for name in old)
