"""Ranks that a model gives to the events it should predict: by retrieval alone, and as they would be served."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.model.encoder import Encoded
from recsys.model.recommender import Recommender
from recsys.training.examples import Catalogue, Ints, pad
from recsys.training.metrics import target_ranks
from recsys.training.protocol import Cases
from router.router import Router

CASES = 256


@dataclass(frozen=True, slots=True)
class ModelRanks:
    """Rank of the target of each case, 1 = best; `served` is after ranking the candidates of retrieval."""

    retrieval: Tensor
    served: Tensor


@torch.inference_mode()
def model_ranks(
    model: Recommender, catalogue: Catalogue, cases: Cases, router: Router | None = None, candidates: int = 200
) -> ModelRanks:
    """Rank every case among all items of the catalogue that the user has not had.

    Args:
        router: None leaves ranking out: `served` is then `retrieval`.
        candidates: items that retrieval hands to the ranker; a target outside them is ranked behind all of them.
    """
    was_training = model.training
    model.eval()
    table_ID = catalogue.table(model)
    retrieval, served = [], []
    for first in range(0, len(cases), CASES):
        part = slice(first, first + CASES)
        targets_B = torch.from_numpy(cases.targets[part])
        encoded, scores_BI = retrieve(model, table_ID, cases, part)
        ranks_B = target_ranks(scores_BI, targets_B)
        retrieval.append(ranks_B)
        if router is not None:
            candidates_BN = scores_BI.topk(min(candidates, scores_BI.shape[1] - 1), sorted=True).indices
            click_BN = model.rank(encoded, candidates_BN, table_ID, router).logits_BNG[..., 0]
            click_BN = click_BN.masked_fill(scores_BI.gather(1, candidates_BN).isinf(), -torch.inf)
            ranks_B = rank_among(click_BN, candidates_BN, targets_B)
        served.append(ranks_B)
    model.train(was_training)
    empty = torch.zeros(0, dtype=torch.int64)
    return ModelRanks(torch.cat([empty, *retrieval]), torch.cat([empty, *served]))


def retrieve(model: Recommender, table_ID: Tensor, cases: Cases, part: slice | Ints) -> tuple[Encoded, Tensor]:
    """Some cases encoded, and the scores of all items, minus infinity for what each user had."""
    items, kinds = cases.histories(part, newest=model.config.history)
    encoded = model.encode(pad(items), pad(kinds), table_ID)
    scores_BI = model.retrieval_scores(encoded.user_BD, table_ID)
    exclude(scores_BI, cases.histories(part)[0])
    return encoded, scores_BI


def exclude(scores_BI: Tensor, histories: list[Ints]) -> None:
    """Give minus infinity to row 0 and to what each user had."""
    scores_BI[:, 0] = -torch.inf
    scores_BI.scatter_(1, pad(histories), -torch.inf)


def rank_among(scores_BN: Tensor, candidates_BN: Tensor, targets_B: Tensor) -> Tensor:
    """Rank of the target among the candidates, N + 1 where it is none of them."""
    found_BN = candidates_BN == targets_B[:, None]
    place_B = found_BN.to(torch.uint8).argmax(1)
    missing = scores_BN.shape[1] + 1
    return torch.where(found_BN.any(1), target_ranks(scores_BN, place_B), missing)
