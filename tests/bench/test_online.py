"""The measurements of learning after training on a small world."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from recsys.bench.new_expert import measure_new_expert
from recsys.bench.online import OnlineOptions, measure
from recsys.config import OnlineSettings
from recsys.data.dataset import Dataset
from recsys.errors import InputError
from recsys.training.modular import ExpertOptions


def test_new_items_are_learned_and_every_event_is_counted_once(tiny_world: Path) -> None:
    options = OnlineOptions(world=tiny_world, new_items=30, publish_every=50, trained_share=0.6)
    outcome = measure(options, OnlineSettings(learning_rate=0.1), Console(quiet=True))
    rows = {row["events"]: row for row in outcome.rows()}
    everything, trained, new = rows["all"], rows["of items that were trained"], rows["of new items"]
    assert everything["count"] == float(trained["count"]) + float(new["count"])
    assert sum(float(row["count"]) for name, row in rows.items() if "new items, " in str(name)) == new["count"]
    assert float(new["online_ndcg_10"]) > float(new["trained_ndcg_10"])
    assert outcome.published + outcome.rolled_back >= 2


def test_an_expert_is_added_for_a_category_that_training_never_saw(tiny_world: Path) -> None:
    category = str(Dataset.load(tiny_world).items.explode("categories")["categories"].value_counts(sort=True)[1, 0])
    change = measure_new_expert(tiny_world, category, ExpertOptions(epochs=1), Console(quiet=True))
    assert category not in change.model.vocabulary.categories
    assert change.model.config.experts == change.expert + 1
    assert change.effect.overlap > 0.8
    with pytest.raises(InputError, match="category: no item is of 'Nothing'"):
        measure_new_expert(tiny_world, "Nothing", ExpertOptions(), Console(quiet=True))
