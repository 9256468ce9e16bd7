"""A tiny model with random weights and the tables around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recsys.model.config import ModelConfig
from recsys.model.recommender import Recommender
from recsys.model.vocabulary import Vocabulary
from router.router import Router

ITEMS = 40


@pytest.fixture
def make_model() -> Callable[..., Recommender]:
    """Builds a model whose ranker says something: heads start at zero, here they do not."""

    def make(**changes: object) -> Recommender:
        torch.manual_seed(7)
        vocabulary = Vocabulary(
            items=tuple(f"i{n}" for n in range(ITEMS)), categories=("Comedy", "Drama", "War"), year_starts=(1990, 2000)
        )
        shape = {"width": 16, "history": 12, "experts": 4, "expert_hidden": 8} | changes
        model = Recommender(ModelConfig.from_json(shape | vocabulary.sizes()), vocabulary)
        for weight in (model.item_ids.weight, model.item_categories.weight, model.ranker.heads.weight):
            nn.init.normal_(weight)
        return model.eval()

    return make


@pytest.fixture
def model(make_model: Callable[..., Recommender]) -> Recommender:
    return make_model()


@pytest.fixture
def table_ID(model: Recommender) -> Tensor:
    """All trained items, and as row 41 one that was never seen."""
    features = model.vocabulary.item_features(
        [*model.vocabulary.items, "new"],
        [["Comedy"] if n % 2 else ["Drama", "War"] for n in range(ITEMS + 1)],
        [1985 + n for n in range(ITEMS + 1)],
    ).with_padding()
    return model.item_table(features.ids_I, features.categories_IC, features.years_I).detach()


@pytest.fixture
def router(model: Recommender) -> Router:
    return Router.unconstrained(model.config.moe_layers, model.config.experts)
