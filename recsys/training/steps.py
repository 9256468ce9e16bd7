"""One step of each phase of training: from a batch to a loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.model.encoder import Encoded
from recsys.model.ranker import MoEBlock, Ranked
from recsys.model.recommender import Recommender
from recsys.training.config import TrainConfig
from recsys.training.examples import Catalogue, TrainingBatch
from recsys.training.losses import full_softmax, ranking_loss, sampled_softmax
from router.router import Router
from router.shapes import RoutingPlan


@dataclass(frozen=True, slots=True)
class Popularity:
    """How often each row of the catalogue occurs in training; row 0 never does."""

    share_I: Tensor

    @staticmethod
    def count(items: Tensor, rows: int) -> Popularity:
        """From the rows of all training events."""
        counts_I = torch.bincount(items, minlength=rows).double()
        return Popularity((counts_I / counts_I.sum().clamp(min=1)).float())

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Rows drawn with replacement."""
        count = int(torch.tensor(shape).prod())
        return torch.multinomial(self.share_I, count, replacement=True).view(shape)


@dataclass(frozen=True, slots=True)
class Steps:
    """What the steps of a run share."""

    model: Recommender
    config: TrainConfig
    catalogue: Catalogue
    popularity: Popularity
    router: Router
    has_likes: bool

    def table(self) -> Tensor:
        """Vectors of the whole catalogue, row 0 included."""
        features = self.catalogue.features
        return self.model.item_table(features.ids_I, features.categories_IC, features.years_I)

    def retrieval(self, batch: TrainingBatch) -> Tensor:
        """Cross entropy of every next event over the catalogue."""
        table_ID = self.table()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            encoded = self.model.encode(batch.history_BL, batch.kinds_BL, table_ID)
        return self._softmax(encoded, batch, table_ID)

    def ranking(self, batch: TrainingBatch) -> tuple[Tensor, tuple[RoutingPlan, ...]]:
        """Order the next event before what retrieval would have offered, at a few positions of each user."""
        joint = self.config.ranking_to_encoder
        self.model.train(joint)
        self.model.ranker.train()
        with torch.set_grad_enabled(joint):
            table_ID = self.table()
            encoded = self.model.encode(batch.history_BL, batch.kinds_BL, table_ID)
        rows_P, places_P = self._positions(batch.targets_BL)
        at = _prefixes(encoded, rows_P, places_P)
        targets_P = batch.targets_BL[rows_P, places_P]
        had_PL = batch.history_BL[rows_P].masked_fill(~at.mask_BL[:, 1:], 0)
        candidates_PN, log_draws_PN = self._candidates(at.user_BD.detach(), table_ID.detach(), targets_P, had_PL)
        ranked: Ranked = self.model.rank(at, candidates_PN, table_ID, self.router)
        liked_P = batch.liked_BL[rows_P, places_P] if self.has_likes else None
        loss = ranking_loss(ranked.logits_BNG, liked_P, log_draws_PN)
        if joint:
            loss = loss + self._softmax(encoded, batch, table_ID)
        return loss, ranked.plans

    @torch.no_grad()
    def calibrate(self, batch: TrainingBatch) -> None:
        """Set the heads' biases so that logits start as log-probabilities: minus the mean log of the softmax's sum."""
        was_training = self.model.training
        self.model.eval()
        table_ID = self.table()
        encoded = self.model.encode(batch.history_BL, batch.kinds_BL, table_ID)
        log_z_B = self.model.retrieval_scores(encoded.user_BD, table_ID).logsumexp(1)
        self.model.ranker.heads.bias.fill_(-float(log_z_B.mean()))
        self.model.train(was_training)

    def balance(self, plans: tuple[RoutingPlan, ...]) -> None:
        """Raise the bias of experts below the mean load and lower that of those above (arXiv 2408.15664)."""
        for block, plan in zip(self.model.ranker.blocks, plans, strict=True):
            assert isinstance(block, MoEBlock)
            load_E = plan.load_E.float()
            block.bias_E += self.config.balance_rate * torch.sign(load_E.mean() - load_E)

    def _softmax(self, encoded: Encoded, batch: TrainingBatch, table_ID: Tensor) -> Tensor:
        wanted_BL = batch.targets_BL != 0
        states_TD, targets_T = encoded.states_BLD[wanted_BL], batch.targets_BL[wanted_BL]
        if table_ID.shape[0] - 1 <= self.config.full_softmax_items:
            return full_softmax(states_TD, table_ID, targets_T, getattr(torch, self.config.precision))
        negatives_M = self.popularity.draw((self.config.sampled_negatives,))
        return sampled_softmax(states_TD, table_ID, targets_T, negatives_M, self.popularity.share_I.log())

    def _positions(self, targets_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Users and positions to rank at, at most `config.positions` of each user."""
        wanted_BL = (targets_BL != 0).float() * torch.rand(targets_BL.shape)
        chosen_BP = wanted_BL.topk(min(self.config.positions, targets_BL.shape[1])).indices
        rows_BP = torch.arange(len(targets_BL))[:, None].expand_as(chosen_BP)
        real_BP = targets_BL.gather(1, chosen_BP) != 0
        return rows_BP[real_BP], chosen_BP[real_BP]

    def _candidates(
        self, user_PD: Tensor, table_ID: Tensor, targets_P: Tensor, had_PL: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The target, then hard and random negatives, and the log of how often each is drawn as a negative.

        That is infinite for negatives that do not count: the target again, and what the user had.
        """
        with torch.no_grad():
            scores_PI = self.model.retrieval_scores(user_PD, table_ID)
            scores_PI.scatter_(1, had_PL, -torch.inf)
            target_P1 = scores_PI.gather(1, targets_P[:, None])
            scores_PI.scatter_(1, targets_P[:, None], -torch.inf)
            best_PN, places_PN = scores_PI.topk(min(self.config.hard_from, scores_PI.shape[1] - 1))
            hard = min(self.config.hard_negatives, best_PN.shape[1])
            draw_PN = torch.rand(best_PN.shape).topk(hard).indices
            random_PN = self.popularity.draw((len(targets_P), self.config.random_negatives))
            candidates_PN = torch.cat([targets_P[:, None], places_PN.gather(1, draw_PN), random_PN], 1)
            scores_PN = scores_PI.gather(1, candidates_PN)
            scores_PN[:, :1] = target_P1
            draws_PN = self.popularity.share_I[candidates_PN] * self.config.random_negatives
            draws_PN += (scores_PN >= best_PN[:, -1:]) * (hard / best_PN.shape[1])
            return candidates_PN, draws_PN.log().masked_fill(scores_PN.isinf(), torch.inf)


def _prefixes(encoded: Encoded, rows_P: Tensor, places_P: Tensor) -> Encoded:
    """The histories as they were at some positions. Causal states do not know what came later: the mask says it all."""
    positions_L = torch.arange(encoded.mask_BL.shape[1])
    return Encoded(
        user_BD=encoded.states_BLD[rows_P, places_P],
        states_BLD=encoded.states_BLD[rows_P],
        events_BLD=encoded.events_BLD[rows_P],
        mask_BL=encoded.mask_BL[rows_P] & (positions_L <= places_P[:, None]),
    )
