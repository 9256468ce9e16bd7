"""What learning from the stream is worth: items that are new and tastes that drift, with the learner and without.

A model is trained on the first part of a world's time, without some of its items. The rest of the events then arrives
in order, those items among it. Every event is predicted before it is learned from: retrieval, full rank.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from recsys.config import OnlineSettings
from recsys.data.dataset import Dataset
from recsys.model.recommender import Recommender
from recsys.online.guard import Guard
from recsys.online.student import Student, examples_of
from recsys.state.items import CatalogueItem
from recsys.training.config import TrainConfig, preset
from recsys.training.metrics import hit_rate, ndcg
from recsys.training.train import train

MANY = 10**9
NTH = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, MANY))  # the how-manieth event of a new item


@dataclass(frozen=True, slots=True)
class OnlineOptions:
    """What is measured.

    Attributes:
        world: data set folder.
        trained_share: share of the events that the model is trained on.
        new_items: items that training does not see.
        publish_every: events between publications; between them the served model stays as it is.
        seed: which items are new.
    """

    world: Path
    trained_share: float = 0.8
    new_items: int = 120
    publish_every: int = 500
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Rank of every event's item in the model that was trained, and in the one that the learner had published.

    Attributes:
        nth: for new items the how-manieth event of the item this is, 0 for items that were trained.
    """

    trained: Tensor
    online: Tensor
    nth: Tensor
    published: int
    rolled_back: int

    def rows(self) -> list[dict[str, float | str]]:
        """NDCG@10 and HR@10 of both, for all events and for kinds of them."""
        parts = [
            ("all", torch.ones_like(self.nth, dtype=torch.bool)),
            ("of items that were trained", self.nth == 0),
            ("of new items", self.nth > 0),
        ]
        for low, high in NTH:
            name = f"its event {low}" if low == high else f"its events {low} to {high}"
            name = name if high < MANY else f"from its event {low}"
            parts.append((f"of new items, {name}", (self.nth >= low) & (self.nth <= high)))
        rows = []
        for name, mask in parts:
            row: dict[str, float | str] = {"events": name, "count": int(mask.sum())}
            for model, ranks in (("trained", self.trained[mask]), ("online", self.online[mask])):
                row |= {f"{model}_ndcg_10": round(ndcg(ranks), 4), f"{model}_hr_10": round(hit_rate(ranks), 4)}
            rows.append(row)
        return rows


def measure(options: OnlineOptions, settings: OnlineSettings, console: Console) -> Outcome:
    """Train on the past, then live through the rest of the time."""
    world = Dataset.load(options.world)
    kept = world.interactions.filter(pl.col("kind") != "hide")
    cut = int(len(kept) * options.trained_share)
    names = world.items["item_id"].to_list()
    new = set(np.random.default_rng(options.seed).choice(names, options.new_items, replace=False).tolist())
    past = kept[:cut].filter(~pl.col("item_id").is_in(list(new)))
    model = _trained(past, world, console)
    items = [CatalogueItem.of_row(row) for row in world.items.iter_rows(named=True)]
    trained, student, guard = (
        Student(model, items, settings),
        Student(model, items, settings),
        Guard(MANY, settings.guard_tolerance),
    )
    ranks: list[tuple[Tensor, Tensor]] = []
    met: list[str] = []
    published, rolled_back, since = 0, 0, 0
    batches = list(examples_of(kept[cut:], size=settings.batch_max, before=past))
    for batch in track(batches, "the stream", console=console):
        judged = student.learn(batch)
        guard.see(judged)
        ranks.append((trained.judge(batch), judged.served_B))
        met += judged.item_ids
        since += len(judged.item_ids)
        if since >= options.publish_every:
            since = 0
            if guard.holds:
                published += 1
                student = student.onto(student.graduate(f"v{published}"), items)
            else:
                rolled_back += 1
                student.forget()
            guard.clear()
    base, online = (torch.cat(side) for side in zip(*ranks, strict=True))
    return Outcome(base, online, _nth(met, new), published, rolled_back)


def _nth(item_ids: list[str], new: set[str]) -> Tensor:
    seen: Counter[str] = Counter()
    nth = []
    for item_id in item_ids:
        seen[item_id] += 1
        nth.append(seen[item_id] if item_id in new else 0)
    return torch.tensor(nth)


def table_of(rows: list[dict[str, float | str]]) -> Table:
    """The rows for people."""
    table = Table(title="NDCG@10 and HR@10, every event before it is learned from")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="left" if name == "events" else "right")
    for row in rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    return table


def _trained(past: pl.DataFrame, world: Dataset, console: Console) -> Recommender:
    config = TrainConfig.from_json({"protocol": "none"}, preset("demo"))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        Dataset.build(past, items=world.items, users=world.users, meta=dict(world.meta)).save(data)
        return train(data, Path(folder) / "model", config, console=console)
