"""Train one expert for a category of items while every other weight stays as it is.

1. The gate's column is fitted in closed form: candidates of the category should want the new expert a little more than
   the best other one, all others much less (ridge regression on what the gate reads).
2. Expert and column learn by the ranking loss on events of the category and as many others.
3. The balancing bias of the expert is set so that at most `old_share_max` of the other candidates' tokens choose it:
   the stated bound on how much old answers can change. It is set before 2 as well, so that there is something to learn.

Adding experts one at a time with the rest frozen is after DEMix layers (arXiv 2108.05036); bound and closed form are
this project's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from recsys.model.ranker import MoEBlock
from recsys.model.recommender import Recommender
from recsys.training.config import TrainConfig
from recsys.training.examples import Catalogue, Sequences, TrainingBatch, training_batches
from recsys.training.metrics import ndcg
from recsys.training.protocol import Cases
from recsys.training.scoring import model_ranks, retrieve
from recsys.training.steps import Steps
from router.router import Router
from router.shapes import OwnThreshold, RoutingPlan

AHEAD, BEHIND = 1.0, 6.0  # logits by which the new expert should lead, or stay behind, the best other one
RIDGE = 1e-2
CASES = 64
LIST = 10


@dataclass(frozen=True, slots=True)
class ExpertOptions:
    """How one expert is trained.

    Attributes:
        epochs: passes over the users.
        learning_rate: of Adam.
        old_share_max: share of the tokens of other items that may choose the new expert.
        candidates: that retrieval hands to the ranker.
        seed: of everything random.
    """

    epochs: int = 3
    learning_rate: float = 1e-3
    old_share_max: float = 0.01
    candidates: int = 200
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Effect:
    """What a new expert changed, on events that nobody trained on.

    Attributes:
        ndcg_before, ndcg_after: NDCG@10 of the ranker by kind of event ("category", "others").
        overlap: share of the first ten old items of each old event's list that stayed.
        used: share of (token, slot) pairs on the new expert, tokens of the category's items.
        used_by_others: the same of all other tokens; bounded.
    """

    ndcg_before: dict[str, float]
    ndcg_after: dict[str, float]
    overlap: float
    used: float
    used_by_others: float


@dataclass(frozen=True, slots=True)
class Market:
    """What an expert is for, and the events to look at.

    Attributes:
        catalogue: all items.
        is_new_I: rows of the catalogue that the expert is for, bool.
        cases: events whose candidates are looked at.
        candidates: that retrieval hands to the ranker.
    """

    catalogue: Catalogue
    is_new_I: Tensor
    cases: Cases
    candidates: int


def fit_expert(
    model: Recommender,
    expert: int,
    market: Market,
    sequences: Sequences,
    options: ExpertOptions,
    console: Console | None = None,
) -> None:
    """Train one expert in place; nothing else of the model changes.

    Args:
        model: with the expert in it (`recsys.model.modular.with_expert`).
        expert: its number.
        market: its cases fit the gate and set the bound; they may be among the events that are learned from.
        sequences: events to learn from.
        options: see there.
        console: where progress is shown.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        for layer in range(model.config.moe_layers):
            _fit_gate(model, layer, expert, market)
            _bound(model, layer, expert, market, options.old_share_max)
        _learn(model, expert, market, sequences, options, console)
        for layer in range(model.config.moe_layers):
            _bound(model, layer, expert, market, options.old_share_max)


def busiest(model: Recommender, market: Market) -> int:
    """The expert of the first block that the items in question choose most."""
    load_E = torch.zeros(model.config.experts, dtype=torch.int64)
    for rows_T, _, plan in _tokens(model, market, layer=0):
        load_E += torch.bincount(plan.expert_ids_TK[market.is_new_I[rows_T]].flatten(), minlength=len(load_E))
    return int(load_E.argmax())


def effect_of(before: Recommender, after: Recommender, expert: int, market: Market) -> Effect:
    """Compare two models on the same events."""
    of_new_B = market.is_new_I[torch.from_numpy(market.cases.targets)]
    quality = []
    for model in (before, after):
        router = model.free_router()
        ranks = model_ranks(model, market.catalogue, market.cases, router, market.candidates).served
        quality.append({"category": ndcg(ranks[of_new_B]), "others": ndcg(ranks[~of_new_B])})
    lists = zip(_old_lists(before, market), _old_lists(after, market), strict=True)
    kept = torch.cat([(old[:, :, None] == now[:, None, :]).any(-1).float().flatten() for old, now in lists])
    seen = [(rows_T, plan.expert_ids_TK) for rows_T, _, plan in _tokens(after, market, layer=0)]
    new_T = torch.cat([market.is_new_I[rows_T] for rows_T, _ in seen])
    on_it_T = (torch.cat([ids_TK for _, ids_TK in seen]) == expert).float().mean(dim=1)
    return Effect(
        ndcg_before=quality[0],
        ndcg_after=quality[1],
        overlap=float(kept.mean()),
        used=float(on_it_T[new_T].mean()) if bool(new_T.any()) else 0.0,
        used_by_others=float(on_it_T[~new_T].mean()),
    )


class _Listening(Router):
    """Plain top-k that keeps what the gate of one block said."""

    def __init__(self, model: Recommender, layer: int) -> None:
        super().__init__("topk", capacity_factor=1.0, layers=model.config.moe_layers, experts=model.config.experts)
        self._layer = layer
        self.choice_TE = torch.zeros(0)

    def route(
        self, layer: int, scores_TE: Tensor, k: int, bias_E: Tensor, own: OwnThreshold | None = None
    ) -> RoutingPlan:
        if layer == self._layer:
            self.choice_TE = scores_TE.detach() + bias_E
        return super().route(layer, scores_TE, k, bias_E, own)


@torch.inference_mode()
def _tokens(model: Recommender, market: Market, layer: int) -> Iterator[tuple[Tensor, Tensor, RoutingPlan]]:
    """For some cases at a time: the catalogue row of every token, what the block's choice compares, and its plan."""
    model.eval()
    router, table_ID = _Listening(model, layer), market.catalogue.table(model)
    for first in range(0, len(market.cases), CASES):
        part = slice(first, first + CASES)
        encoded, scores_BI = retrieve(model, table_ID, market.cases, part)
        best_BN, rows_BN = scores_BI.topk(min(market.candidates, scores_BI.shape[1] - 1))
        rows_BN = rows_BN.masked_fill(best_BN.isinf(), 0)
        ranked = model.rank(encoded, rows_BN, table_ID, router)
        yield rows_BN[rows_BN != 0], router.choice_TE, ranked.plans[layer]


@torch.inference_mode()
def _old_lists(model: Recommender, market: Market) -> Iterator[Tensor]:
    """First ten of each case among the items that the expert is not for."""
    model.eval()
    table_ID = market.catalogue.table(model)
    router = model.free_router()
    for first in range(0, len(market.cases), CASES):
        part = slice(first, first + CASES)
        encoded, scores_BI = retrieve(model, table_ID, market.cases, part)
        scores_BI[:, market.is_new_I] = -torch.inf
        rows_BN = scores_BI.topk(min(market.candidates, int((~market.is_new_I).sum()) - 1)).indices
        click_BN = model.rank(encoded, rows_BN, table_ID, router).logits_BNG[..., 0]
        click_BN = click_BN.masked_fill(scores_BI.gather(1, rows_BN).isinf(), -torch.inf)
        yield rows_BN.gather(1, click_BN.topk(min(LIST, click_BN.shape[1])).indices)


def _fit_gate(model: Recommender, layer: int, expert: int, market: Market) -> None:
    block = _block(model, layer)
    read: list[Tensor] = []
    handle = block.gate.register_forward_hook(lambda _, inputs, output: read.append(inputs[0].detach().float()))
    try:
        rows_T = torch.cat([rows for rows, _, _ in _tokens(model, market, layer)])
    finally:
        handle.remove()
    x_TD = torch.cat(read)
    with torch.no_grad():
        logits_TE = x_TD @ block.gate.weight.T
        logits_TE[:, expert] = -torch.inf
        best_T = logits_TE.max(dim=1).values
        new_T = market.is_new_I[rows_T]
        wanted_T = torch.where(new_T, best_T + AHEAD, best_T - BEHIND)
        weight_T = torch.where(new_T, 0.5 / new_T.sum().clamp(min=1), 0.5 / (~new_T).sum().clamp(min=1))
        weighed_TD = x_TD * weight_T[:, None]
        gram_DD = weighed_TD.T @ x_TD + RIDGE * torch.eye(x_TD.shape[1])
        block.gate.weight[expert] = torch.linalg.solve(gram_DD, weighed_TD.T @ wanted_T)
        others_E = torch.cat([block.bias_E[:expert], block.bias_E[expert + 1 :]])
        block.bias_E[expert] = others_E.mean()


def _learn(
    model: Recommender,
    expert: int,
    market: Market,
    sequences: Sequences,
    options: ExpertOptions,
    console: Console | None,
) -> None:
    """The ranking loss, with every gradient but the expert's own held at zero."""
    config = TrainConfig(model=model.config, hard_from=options.candidates, balance="none", seed=options.seed)
    steps = Steps.over(sequences, model, config, market.catalogue)
    model.requires_grad_(False)
    blocks = [_block(model, layer) for layer in range(model.config.moe_layers)]
    own = [weight for b in blocks for weight in (b.gate.weight, b.experts.up_ED2H, b.experts.down_EHD)]
    for weight in own:
        weight.requires_grad_()
        weight.register_hook(_only(expert))
    optimizer = torch.optim.Adam(own, lr=options.learning_rate, betas=(0.9, 0.98))
    random = np.random.default_rng(options.seed)
    for epoch in range(options.epochs):
        batches = list(
            training_batches(
                sequences, batch=config.ranking_batch, history=model.config.history, newest_share=1.0, random=random
            )
        )
        for batch in track(batches, f"expert {expert}, epoch {epoch + 1}", console=console, transient=True):
            part = _balanced(batch, market.is_new_I)
            if part is None:
                continue
            optimizer.zero_grad(set_to_none=True)
            loss, _ = steps.ranking(part)
            loss.backward()
            optimizer.step()
    model.requires_grad_(True).eval()


def _balanced(batch: TrainingBatch, is_new_I: Tensor) -> TrainingBatch | None:
    """The targets that the expert is for, and about as many others; None if it has none."""
    new_BL = is_new_I[batch.targets_BL]
    others_BL = (batch.targets_BL != 0) & ~new_BL
    if not bool(new_BL.any()):
        return None
    share = float(new_BL.sum()) / max(1.0, float(others_BL.sum()))
    kept_BL = new_BL | (others_BL & (torch.rand(new_BL.shape) < share))
    return TrainingBatch(batch.history_BL, batch.kinds_BL, batch.targets_BL * kept_BL, batch.levels_BL)


def _bound(model: Recommender, layer: int, expert: int, market: Market, share_max: float) -> None:
    """Set the expert's bias so that just this share of the other items' tokens choose it."""
    k, lead = model.config.k, []
    for rows_T, choice_TE, _ in _tokens(model, market, layer):
        others_TE = choice_TE.clone()
        others_TE[:, expert] = -torch.inf
        last_T = others_TE.topk(k, dim=1).values[:, -1]
        lead.append((choice_TE[:, expert] - last_T)[~market.is_new_I[rows_T]])
    lead_T = torch.cat(lead)
    most = int(share_max * len(lead_T))
    if len(lead_T) > most:
        over = float(lead_T.topk(most + 1).values[-1])  # the first that may not choose it
        with torch.no_grad():
            _block(model, layer).bias_E[expert] -= over + 1e-6


def _only(expert: int) -> Callable[[Tensor], Tensor]:
    def hold(grad: Tensor) -> Tensor:
        held = torch.zeros_like(grad)
        held[expert] = grad[expert]
        return held

    return hold


def _block(model: Recommender, layer: int) -> MoEBlock:
    block = model.ranker.blocks[layer]
    assert isinstance(block, MoEBlock)
    return block
