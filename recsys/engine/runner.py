"""One micro-batch from requests to replies: encode, retrieve, rank, select. The only part that touches the device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.engine.catalogue import Catalogue
from recsys.engine.packed_linear import pack_linears
from recsys.engine.selection import Floats, Rows, eligible_rows, fuse_goals, goal_weights, pick
from recsys.errors import InputError
from recsys.model.recommender import Recommender
from recsys.wire import ExpertUse, RankReply, RankRequest, Similar
from router.router import Router
from router.shapes import RoutingPlan

WIDTHS = 16  # histories are padded to a multiple of this: a few shapes, each of which is set up once


@dataclass(frozen=True, slots=True)
class _Job:
    """A valid request with what it means for this catalogue."""

    request: RankRequest
    history: list[int]
    weights_G: Floats
    allowed_I: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Replies in the order of the requests, and the routing plans of the MoE layers (none if nothing was ranked)."""

    replies: list[RankReply]
    plans: Sequence[RoutingPlan]
    tokens: int


class Runner:
    """Runs micro-batches on one device.

    Args:
        model: on the device it will run on; it is turned to evaluation, and its linear layers are packed for it.
        candidates: candidates that retrieval hands to the ranker.
    """

    def __init__(self, model: Recommender, *, candidates: int) -> None:
        self.model = model.eval()
        pack_linears(self.model)
        self._candidates = candidates
        self._device = model.device

    @torch.inference_mode()
    def run(
        self,
        requests: Sequence[RankRequest],
        catalogue: Catalogue,
        router: Router,
        *,
        step: str,
        candidates: int | None = None,
    ) -> BatchResult:
        """Answer a micro-batch. A wrong request gets an `invalid` reply and does not touch the others.

        `candidates` replaces the number that retrieval hands to the ranker; what a caller names is always ranked.
        """
        started = time.perf_counter()
        jobs: list[_Job] = []
        wrong: dict[int, RankReply] = {}
        for n, request in enumerate(requests):
            try:
                weights_G = goal_weights(request.goals, self.model.config.goals)
                history = catalogue.rows(request.history)
                jobs.append(_Job(request, history, weights_G, eligible_rows(request, catalogue, history)))
            except InputError as error:
                wrong[n] = RankReply(id=request.id, status="invalid", error=str(error))
        plans: Sequence[RoutingPlan] = ()
        tokens = 0
        if not len(catalogue):
            answered = [self._empty(job.request, router, step, len(requests)) for job in jobs]
        elif jobs:
            answered, plans, tokens = self._answer(
                jobs, catalogue, router, step, len(requests), started, candidates or self._candidates
            )
        else:
            answered = []
        in_order = iter(answered)
        return BatchResult([wrong[n] if n in wrong else next(in_order) for n in range(len(requests))], plans, tokens)

    @torch.inference_mode()
    def similar(self, request: Similar, catalogue: Catalogue) -> RankReply:
        """Items nearest to one item by cosine of the model's embeddings."""
        row = catalogue.row(request.item_id)
        if not row or not catalogue.live_I[row]:
            return RankReply(id=request.id, status="invalid", error=f"item_id: no item {request.item_id!r}")
        unit_ID = torch.nn.functional.normalize(catalogue.table_ID, dim=1)
        cosine_I = (unit_ID @ unit_ID[row]).float().cpu().numpy()
        cosine_I[~catalogue.live_I] = -np.inf
        cosine_I[row] = -np.inf
        order = np.argsort(-cosine_I, kind="stable")[: request.k]
        order = order[np.isfinite(cosine_I[order])]
        return RankReply(
            id=request.id,
            status="ok",
            item_ids=[catalogue.item_ids[row] for row in order],
            scores=cosine_I[order].tolist(),
            model_version=self.model.version,
        )

    def _answer(
        self,
        jobs: list[_Job],
        catalogue: Catalogue,
        router: Router,
        step: str,
        batch: int,
        started: float,
        candidates: int,
    ) -> tuple[list[RankReply], Sequence[RoutingPlan], int]:
        history_BL, kinds_BL = self._histories(jobs)
        encoded = self.model.encode(
            torch.from_numpy(history_BL).to(self._device),
            torch.from_numpy(kinds_BL).to(self._device),
            catalogue.table_ID,
            compact=True,
        )
        candidates_BN = self._retrieve(jobs, encoded.user_BD, catalogue, candidates)
        ranked = self.model.rank(encoded, torch.from_numpy(candidates_BN).to(self._device), catalogue.table_ID, router)
        logits_BNG = ranked.logits_BNG.double().cpu().numpy()
        compute_ms = (time.perf_counter() - started) * 1e3
        score_BN, log_p_BNG = fuse_goals(logits_BNG, np.stack([job.weights_G for job in jobs]))
        found_B = (candidates_BN > 0).sum(1)
        kept, redirected_B = _route_quality(ranked.plans, found_B)
        chosen = [
            self._pick(job, catalogue, rows_N[:found], score_N[:found])
            for job, rows_N, score_N, found in zip(jobs, candidates_BN, score_BN, found_B.tolist(), strict=True)
        ]
        chosen_BK = _padded(chosen, max(map(len, chosen)))
        rows_BK = np.take_along_axis(candidates_BN, chosen_BK, 1).tolist()
        score_BK = np.exp(np.take_along_axis(score_BN, chosen_BK, 1)).tolist()
        p_BGK = np.exp(np.take_along_axis(log_p_BNG, chosen_BK[..., None], 1)).transpose(0, 2, 1).tolist()
        cold_B: list[bool] = (history_BL.max(axis=1) == 0).tolist()
        replies = []
        for b, job in enumerate(jobs):
            k = len(chosen[b])
            item_ids = [catalogue.item_ids[row] for row in rows_BK[b][:k]]
            experts: tuple[ExpertUse, ...] = ()
            if job.request.explain:
                experts = self._explain(item_ids, ranked.tokens_BN[b, chosen_BK[b, :k]].tolist(), ranked.plans)
            replies.append(
                RankReply(
                    id=job.request.id,
                    status="ok",
                    item_ids=item_ids,
                    scores=score_BK[b][:k],
                    goals={goal: p_K[:k] for goal, p_K in zip(self.model.config.goals, p_BGK[b], strict=True)},
                    model_version=self.model.version,
                    policy=router.policy.name,
                    step=step,
                    score_kept=kept,
                    redirected=redirected_B[b],
                    cold_start=cold_B[b],
                    candidates=int(found_B[b]),
                    batch_requests=batch,
                    compute_ms=compute_ms,
                    experts=experts,
                )
            )
        return replies, ranked.plans, int(found_B.sum())

    @staticmethod
    def _pick(job: _Job, catalogue: Catalogue, rows_N: Rows, score_N: Floats) -> list[int]:
        """Places of the chosen ones among the candidates, best first."""
        vectors_ND = catalogue.vectors_ID[rows_N if job.request.diversity > 0 else []]
        return pick(score_N, vectors_ND, job.request.k, job.request.diversity).tolist()

    def _histories(self, jobs: list[_Job]) -> tuple[Rows, Rows]:
        """Table rows and kinds of the histories, right-padded with 0; ids that the catalogue lacks are left out."""
        longest, kind_of = self.model.config.history, self.model.vocabulary.kind_indices
        rows_BL: list[list[int]] = []
        kinds_BL: list[list[int]] = []
        for job in jobs:
            rows = job.history
            kinds = list(map(kind_of.get, job.request.history_kinds or ("click",) * len(rows), repeat(0)))
            if 0 in rows:
                known = [n for n, row in enumerate(rows) if row]
                rows, kinds = [rows[n] for n in known], [kinds[n] for n in known]
            rows_BL.append(rows[-longest:])
            kinds_BL.append(kinds[-longest:])
        width = max(len(rows) for rows in rows_BL)
        width = min(longest, max(1, -(-width // WIDTHS)) * WIDTHS)
        return _padded(rows_BL, width), _padded(kinds_BL, width)

    def _retrieve(self, jobs: list[_Job], user_BD: Tensor, catalogue: Catalogue, candidates: int) -> Rows:
        """Candidate rows per request, 0 = none: those named by the caller, else the nearest eligible items."""
        scores_BI = self.model.retrieval_scores(user_BD, catalogue.table_ID)
        barred_BI = torch.from_numpy(np.stack([job.allowed_I for job in jobs])).logical_not_().to(self._device)
        scores_BI = scores_BI.masked_fill_(barred_BI, -torch.inf)
        width = min(max(candidates, *(job.request.k for job in jobs)), scores_BI.shape[1])  # k may ask for more
        top_scores_BN, top_rows_BN = scores_BI.topk(width, dim=1)
        found_BN = torch.where(top_scores_BN.isfinite(), top_rows_BN, 0).cpu().numpy()
        named = {b: self._named(job, catalogue) for b, job in enumerate(jobs) if job.request.candidates is not None}
        for b in named:
            found_BN[b] = 0
        used = max([int((found_BN > 0).sum(1).max()), *(len(rows) for rows in named.values())])
        rows_BN = np.zeros((len(jobs), max(1, used)), dtype=np.int64)
        filled = min(used, width)
        rows_BN[:, :filled] = found_BN[:, :filled]  # the best first, so what is missing is missing at the end
        for b, rows in named.items():
            rows_BN[b, : len(rows)] = rows
        return rows_BN

    @staticmethod
    def _named(job: _Job, catalogue: Catalogue) -> Rows:
        rows = np.unique(np.array(catalogue.rows(job.request.candidates or ()), dtype=np.int64))
        return rows[job.allowed_I[rows]] if len(rows) else rows

    def _empty(self, request: RankRequest, router: Router, step: str, batch: int) -> RankReply:
        return RankReply(
            id=request.id, status="ok", model_version=self.model.version, policy=router.policy.name, step=step,
            cold_start=not request.history, batch_requests=batch,
        )  # fmt: skip

    @staticmethod
    def _explain(item_ids: list[str], tokens: list[int], plans: Sequence[RoutingPlan]) -> tuple[ExpertUse, ...]:
        uses = []
        for layer, plan in enumerate(plans):
            for item_id, token in zip(item_ids, tokens, strict=True):
                wished = plan.wishes_TK[token].tolist()
                got = plan.expert_ids_TK[token].tolist()
                used = [e for e in got if e >= 0]
                uses.append(
                    ExpertUse(
                        item_id,
                        layer,
                        tuple(used),
                        tuple(g for e, g in zip(got, plan.gates_TK[token].tolist(), strict=True) if e >= 0),
                        tuple(e for e in wished if e >= 0 and e not in used),
                        tuple(e for e in used if e not in wished),
                    )
                )
        return tuple(uses)


def _padded(lists: list[list[int]], width: int) -> Rows:
    rows_BL = np.zeros((len(lists), width), dtype=np.int64)
    for b, values in enumerate(lists):
        rows_BL[b, : len(values)] = values
    return rows_BL


def _route_quality(plans: Sequence[RoutingPlan], found_B: Rows) -> tuple[float, list[float]]:
    """The score kept by the batch, over which the router balances, and each request's own share of redirected slots.

    Tokens are the candidates that are there, request by request.
    """
    kept = sum(float(plan.score_kept) for plan in plans) / len(plans)
    if not any(bool(plan.redirected_TK.any()) for plan in plans):
        return kept, [0.0] * len(found_B)
    redirected_T = torch.stack([plan.redirected_TK for plan in plans]).sum((0, 2)).cpu().numpy()
    slots = sum(plan.redirected_TK.shape[1] for plan in plans)
    until_T = np.concatenate([[0], redirected_T.cumsum()])
    ends_B = found_B.cumsum()
    return kept, ((until_T[ends_B] - until_T[ends_B - found_B]) / (slots * found_B.clip(1))).tolist()
