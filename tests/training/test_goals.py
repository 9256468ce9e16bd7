"""Several goals trained together: what the like goal knows that the click goal does not."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

from recsys.data.dataset import Dataset
from recsys.engine.selection import fuse_goals, goal_weights
from recsys.model.config import GOALS
from recsys.training import goals
from recsys.training.config import TrainConfig
from recsys.training.evaluate import KeptOut, kept_out
from recsys.training.examples import pad
from recsys.training.train import train
from router.router import Router


@pytest.fixture(scope="module")
def tasted(ring: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ring, where everybody likes the even items, and loves every fourth: buys it."""
    dataset = Dataset.load(ring)
    number = pl.col("item_id").str.slice(1).cast(pl.Int64)
    kind = pl.when(number % 4 == 0).then(pl.lit("purchase")).when(number % 2 == 0).then(pl.lit("like"))
    events = dataset.interactions.with_columns(kind=kind.otherwise(pl.lit("view")))
    events = events.with_columns(pl.col("kind").cast(dataset.interactions.schema["kind"]))
    folder = tmp_path_factory.mktemp("tasted")
    Dataset.build(events, items=dataset.items, meta={"name": "tasted", "ts": "time"}).save(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tasted: Path, tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("goals") / "model"
    train(
        tasted,
        folder,
        TrainConfig.from_json({"ranking_epochs": 8, "model": {"goals": GOALS}}, tiny),
        console=Console(file=io.StringIO()),
    )
    return folder


@pytest.fixture(scope="module")
def kept(folder: Path, tasted: Path) -> KeptOut:
    return kept_out(folder, tasted)


def test_auc_by_hand() -> None:
    assert goals.auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0])) == 0.875
    assert math.isnan(goals.auc(torch.tensor([]), torch.tensor([1.0])))


def test_each_goal_knows_what_meets_it(kept: KeptOut) -> None:
    found = goals.goal_aucs(kept)
    assert {name: value > 0.8 for name, value in found.items() if name in GOALS} == dict.fromkeys(GOALS, True)
    assert found["like_if_taken"] > 0.75
    assert found["love_if_taken"] > 0.75


def test_weights_of_a_request_change_the_order_towards_their_goal(kept: KeptOut) -> None:
    """The more a like counts, the further ahead are the items that are liked: the even ones."""
    model, features = kept.model, kept.catalogue.features
    table_ID = model.item_table(features.ids_I, features.categories_IC, features.years_I)
    items, kinds = kept.cases.histories(slice(0, 40))
    candidates_BN = torch.arange(1, len(table_ID)).expand(40, -1)
    with torch.inference_mode():
        encoded = model.encode(pad(items), pad(kinds), table_ID)
        router = Router.unconstrained(model.config.moe_layers, model.config.experts)
        logits_BNG = model.rank(encoded, candidates_BN, table_ID, router).logits_BNG.double().numpy()
    is_liked_N = np.array([int(item[1:]) % 2 == 0 for item in kept.catalogue.item_ids])
    ahead = []
    for weights in ({"click": 1.0}, {"click": 1.0, "like": 2.0}, {"click": -0.9, "like": 1.0}):
        scores_BN = fuse_goals(logits_BNG, goal_weights(weights, model.config.goals))[0]
        scores = [torch.from_numpy(row) for row in scores_BN]
        ahead.append(np.mean([goals.auc(row[is_liked_N], row[~is_liked_N]) for row in scores]))
    assert ahead[0] < ahead[1] < ahead[2]
    assert ahead[2] > ahead[0] + 0.1


def test_the_command_prints_a_row_per_model(folder: Path, tasted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    goals.main(tasted, [folder])
    shown = capsys.readouterr().out
    assert "like_if" in shown
    assert "love_if" in shown
