"""One step of each phase of training: from a batch to a loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.model.config import GOALS
from recsys.model.encoder import Encoded
from recsys.model.ranker import MoEBlock, Ranked
from recsys.model.recommender import Recommender
from recsys.training.config import TrainConfig
from recsys.training.examples import Catalogue, Sequences, TrainingBatch
from recsys.training.losses import full_softmax, ranking_loss, sampled_softmax
from recsys.training.self_balance import balance_of
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
    """What the steps of a run share.

    Attributes:
        goal_weights: of the config, 0 for goals that no training event meets.
    """

    model: Recommender
    config: TrainConfig
    catalogue: Catalogue
    popularity: Popularity
    router: Router
    goal_weights: tuple[float, ...]

    @staticmethod
    def over(sequences: Sequences, model: Recommender, config: TrainConfig, catalogue: Catalogue) -> Steps:
        """Steps of training on those events."""
        highest = int(sequences.levels.max(initial=0))
        met = [GOALS.index(goal) <= highest for goal in model.config.goals]
        return Steps(
            model=model,
            config=config,
            catalogue=catalogue,
            popularity=Popularity.count(torch.from_numpy(sequences.items), len(catalogue.item_ids) + 1),
            router=model.free_router(),
            goal_weights=tuple(weight * known for weight, known in zip(config.goal_weights, met, strict=False)),
        )

    def table(self) -> Tensor:
        """Vectors of the whole catalogue, row 0 included."""
        return self.catalogue.table(self.model)

    def retrieval(self, batch: TrainingBatch) -> Tensor:
        """Cross entropy of every next event over the catalogue."""
        table_ID = self.table()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            encoded = self.model.encode(batch.history_BL, batch.kinds_BL, table_ID)
        return self._softmax(encoded, batch, table_ID)

    def ranking(self, batch: TrainingBatch) -> tuple[Tensor, tuple[RoutingPlan, ...]]:
        """Order the next event before what retrieval would have offered, at a few positions of each user.

        The encoder drops out as in its own training: on events that it has learnt it finds the target more surely
        than it will on new ones, and a ranker that saw that would trust it too much.
        """
        joint = self.config.ranking_to_encoder
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            with torch.set_grad_enabled(joint):
                table_ID = self.table()
                encoded = self.model.encode(batch.history_BL, batch.kinds_BL, table_ID)
            places_BP = self._places(batch.targets_BL)
            targets_BP = batch.targets_BL.gather(1, places_BP)
            B, P = targets_BP.shape
            real_A = (targets_BP != 0).reshape(B * P)
            with torch.no_grad():
                candidates_AN, log_draws_AN = self._candidates(
                    encoded, batch.history_BL, places_BP, targets_BP, table_ID
                )
            N = candidates_AN.shape[1]
            candidates_BN = (candidates_AN * real_A[:, None]).view(B, P * N)
            ranked: Ranked = self.model.rank(encoded, candidates_BN, table_ID, self.router, places_BP)
        level_G = torch.tensor([GOALS.index(goal) for goal in self.model.config.goals])
        met_AG = batch.levels_BL.gather(1, places_BP).reshape(B * P, 1)[real_A] >= level_G
        logits_ANG = ranked.logits_BNG.view(B * P, N, -1)
        loss = ranking_loss(logits_ANG[real_A], met_AG, log_draws_AN[real_A], self.goal_weights)
        if self.model.config.gate == "self":
            if self.config.balance != "none":
                loss = loss + self.config.balance_weight * balance_of(self.model, self.config.balance_mix)
        elif self.config.balance == "loss":
            loss = loss + self.config.balance_weight * self._imbalance(ranked.plans)
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
        if self.config.balance != "bias" or self.model.config.gate == "self":
            return
        for block, plan in zip(self.model.ranker.blocks, plans, strict=True):
            assert isinstance(block, MoEBlock)
            load_E = plan.load_E.float()
            block.bias_E += self.config.balance_rate * torch.sign(load_E.mean() - load_E)

    def _imbalance(self, plans: tuple[RoutingPlan, ...]) -> Tensor:
        """Sum over blocks of E times load share by mean gate score: 1 each when all experts are equally busy."""
        total = torch.zeros(())
        for block, plan in zip(self.model.ranker.blocks, plans, strict=True):
            assert isinstance(block, MoEBlock)
            assert block.share_E is not None
            load_E = plan.load_E.float()
            total = total + len(load_E) * (load_E / load_E.sum().clamp(min=1) * block.share_E).sum()
        return total

    def _softmax(self, encoded: Encoded, batch: TrainingBatch, table_ID: Tensor) -> Tensor:
        wanted_BL = batch.targets_BL != 0
        states_TD, targets_T = encoded.states_BLD[wanted_BL], batch.targets_BL[wanted_BL]
        if table_ID.shape[0] - 1 <= self.config.full_softmax_items:
            return full_softmax(states_TD, table_ID, targets_T, getattr(torch, self.config.precision))
        negatives_M = self.popularity.draw((self.config.sampled_negatives,))
        return sampled_softmax(states_TD, table_ID, targets_T, negatives_M, self.popularity.share_I.log())

    def _places(self, targets_BL: Tensor) -> Tensor:
        """Positions to rank at, (B, P), at most `config.positions` of each user; those without a target last."""
        wanted_BL = (targets_BL != 0).float() * torch.rand(targets_BL.shape)
        return wanted_BL.topk(min(self.config.positions, targets_BL.shape[1])).indices

    def _candidates(
        self, encoded: Encoded, history_BL: Tensor, places_BP: Tensor, targets_BP: Tensor, table_ID: Tensor
    ) -> tuple[Tensor, Tensor]:
        """For each of A = B * P positions the target, then hard and random negatives, and the log of how often each is
        drawn as a negative.

        That is infinite for negatives that do not count: the target again, and what the user had.
        """
        (B, P), D = places_BP.shape, table_ID.shape[1]
        targets_A1 = targets_BP.reshape(B * P, 1)
        user_AD = encoded.states_BLD.gather(1, places_BP[..., None].expand(-1, -1, D)).view(B * P, D)
        scores_AI = self.model.retrieval_scores(user_AD, table_ID).float()
        later_BPL = torch.arange(history_BL.shape[1]) >= places_BP[..., None]
        had_BPL = history_BL[:, None].expand(-1, P, -1).masked_fill(later_BPL, 0)
        scores_AI.scatter_(1, had_BPL.reshape(B * P, -1), -torch.inf)
        target_A1 = scores_AI.gather(1, targets_A1)
        scores_AI.scatter_(1, targets_A1, -torch.inf)
        best_AN, places_AN = scores_AI.topk(min(self.config.hard_from, scores_AI.shape[1] - 1))
        hard = min(self.config.hard_negatives, best_AN.shape[1])
        draw_AN = torch.rand(best_AN.shape).topk(hard).indices
        random_AN = self.popularity.draw((B * P, self.config.random_negatives))
        candidates_AN = torch.cat([targets_A1, places_AN.gather(1, draw_AN), random_AN], 1)
        scores_AN = scores_AI.gather(1, candidates_AN)
        scores_AN[:, :1] = target_A1
        draws_AN = self.popularity.share_I[candidates_AN] * self.config.random_negatives
        draws_AN += (scores_AN >= best_AN[:, -1:]) * (hard / best_AN.shape[1])
        return candidates_AN, draws_AN.log().masked_fill(scores_AN.isinf(), torch.inf)
