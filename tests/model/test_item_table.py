from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recsys.model.recommender import Recommender


def rows_of(model: Recommender, ids: list[int], category: int = 0) -> Tensor:
    categories_IC = torch.zeros(len(ids), 3)
    categories_IC[:, category] = 1
    return model.item_table(torch.tensor(ids), categories_IC, torch.ones(len(ids), dtype=torch.int64))


def test_a_new_item_has_its_content_alone(model: Recommender) -> None:
    table_ID = rows_of(model, [0, 4])
    content_D = model.item_categories.weight[:, 0] + model.item_years.weight[1]
    torch.testing.assert_close(table_ID[0], content_D)
    torch.testing.assert_close(table_ID[1], content_D + model.item_ids.weight[4])


def test_new_items_of_different_content_differ(model: Recommender) -> None:
    assert not torch.equal(rows_of(model, [0], 0), rows_of(model, [0], 1))


def test_training_leaves_out_the_id_of_some_items(make_model: Callable[..., Recommender]) -> None:
    model = make_model(id_dropout=0.5).train()
    ids = list(range(1, 41))
    content_D = rows_of(model, [0])[0]
    bare = (rows_of(model, ids) - content_D).abs().amax(1) < 1e-6
    assert 5 < bare.sum() < 35


def test_retrieval_never_proposes_the_padding(model: Recommender, table_ID: Tensor) -> None:
    user_BD = torch.randn(3, model.config.width)
    scores_BI = model.retrieval_scores(user_BD, table_ID)
    assert scores_BI[:, 0].isneginf().all()
    torch.testing.assert_close(scores_BI[:, 1:], user_BD @ table_ID[1:].T)
