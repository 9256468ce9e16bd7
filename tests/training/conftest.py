"""A tiny world in which the next item follows from the last one, and a config that learns it in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.schema import INTERACTIONS, ITEMS
from recsys.training.config import TrainConfig

START_MS = 1_700_000_000_000

Events = list[tuple[str, str, str, int]]


@pytest.fixture
def make_interactions() -> Callable[[Events], pl.DataFrame]:
    """Rows of (user, item, kind, second), in time order."""

    def make(events: Events) -> pl.DataFrame:
        rows = [
            {"user_id": user, "item_id": item, "kind": kind, "value": None, "ts": START_MS + second * 1_000}
            for user, item, kind, second in sorted(events, key=lambda event: event[3])
        ]
        return pl.DataFrame(rows, schema=INTERACTIONS)

    return make


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 users walk a ring of 60 items from a random place, now and then skipping one; every third item is liked."""
    random = np.random.default_rng(0)
    rows, second = [], 0
    for user in range(200):
        place = int(random.integers(60))
        for _ in range(int(random.integers(8, 16))):
            kind = "like" if place % 3 == 0 else "view"
            second += 1
            ts = START_MS + second * 1_000
            rows.append({"user_id": f"u{user}", "item_id": f"i{place}", "kind": kind, "value": None, "ts": ts})
            place = (place + (1 if random.random() < 0.9 else 2)) % 60
    items = [
        {"item_id": f"i{n}", "title": f"Item {n}", "categories": ["Even" if n % 2 == 0 else "Odd"], "year": 1990 + n}
        for n in range(60)
    ]
    folder = tmp_path_factory.mktemp("ring")
    Dataset.build(
        pl.DataFrame(rows, schema=INTERACTIONS),
        items=pl.DataFrame(items, schema=ITEMS),
        meta={"name": "ring", "ts": "time"},
    ).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny() -> TrainConfig:
    """Seconds of training on one thread."""
    return TrainConfig.from_json(
        {
            "model": {
                "width": 16,
                "history": 16,
                "encoder_layers": 1,
                "experts": 4,
                "expert_hidden": 16,
                "dropout": 0.0,
                "id_dropout": 0.02,
            },
            "validation_users": 50,
            "retrieval_epochs": 12,
            "ranking_epochs": 2,
            "batch": 16,
            "ranking_batch": 16,
            "positions": 3,
            "hard_negatives": 8,
            "hard_from": 20,
            "random_negatives": 8,
            "learning_rate": 0.01,
            "warmup_steps": 5,
            "patience": 20,
        }
    )
