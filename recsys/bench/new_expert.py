"""A category that training never saw, and the expert that is added for it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import polars as pl
from rich.console import Console

from recsys.data.dataset import Dataset
from recsys.data.splits import split_by_time
from recsys.errors import InputError
from recsys.model.recommender import Recommender
from recsys.training.change_expert import Change, change_expert
from recsys.training.config import TrainConfig, preset
from recsys.training.modular import ExpertOptions
from recsys.training.train import train

TEST_SHARE = 0.1


def measure_new_expert(world: Path, category: str, options: ExpertOptions, console: Console) -> Change:
    """Train on the past of a world without the items of a category, then add an expert for it.

    Raises:
        InputError: no item is of that category.
    """
    whole = Dataset.load(world)
    of_it = pl.col("item_id").is_in(
        whole.items.filter(pl.col("categories").list.contains(category))["item_id"].implode()
    )
    rest = whole.items.filter(~of_it)
    if len(rest) == len(whole.items):
        raise InputError(f"category: no item is of {category!r}", field="category")
    past = split_by_time(whole.interactions.filter(pl.col("kind") != "hide"), test_share=TEST_SHARE).train
    with tempfile.TemporaryDirectory() as folder:
        data, model = Path(folder) / "data", Path(folder) / "model"
        Dataset.build(past.filter(~of_it), items=rest, users=whole.users, meta=dict(whole.meta)).save(data)
        train(data, model, TrainConfig.from_json({"protocol": "none"}, preset("demo")), console=console)
        before = Recommender.from_pretrained(model)
    return change_expert(before, whole, category, options, test_share=TEST_SHARE, console=console)
