"""One micro-batch from requests to replies: encode, retrieve, rank, select. The only part that touches the device."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.engine.catalogue import Catalogue
from recsys.engine.packed_linear import pack_linears
from recsys.engine.route_quality import explain, route_quality
from recsys.engine.selection import Floats, Rows, eligible_rows, fuse_goals, goal_weights, pick
from recsys.engine.static_steps import StaticSteps
from recsys.errors import InputError
from recsys.model.recommender import Recommender
from recsys.model.static_step import Shape, real_plans
from recsys.wire import ExpertUse, RankReply, RankRequest, Similar
from router.router import Router
from router.shapes import RoutingPlan

WIDTHS = 16  # histories are padded to a multiple of this: a few shapes, each of which is set up once
Form = Literal["plain", "launches", "graph", "none"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    """A valid request with what it means for this catalogue."""

    request: RankRequest
    history: list[int]
    weights_G: Floats
    allowed_I: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Requests as the device gets them; `named`: rows that the caller names, by place in the batch."""

    jobs: list[_Job]
    history_BL: Rows
    kinds_BL: Rows
    width: int
    named: dict[int, Rows]


@dataclass(frozen=True, slots=True)
class _Scored:
    """What the device found: candidate rows (0 = none, at the end), their logits, plans and tokens (-1 = none)."""

    candidates_BN: Rows
    logits_BNG: Floats
    plans: Sequence[RoutingPlan]
    tokens_BN: Tensor | Rows
    form: Form


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Replies in the order of the requests, and the routing plans of the MoE layers (none if nothing was ranked).

    `form`: at the shape of the batch ("plain"), at static shapes launch by launch or in a graph, or not at all.
    """

    replies: list[RankReply]
    plans: Sequence[RoutingPlan]
    tokens: int
    form: Form = "none"


class Runner:
    """Runs micro-batches on one device.

    Args:
        model: on the device it will run on; it is turned to evaluation, and its linear layers are packed for it.
        candidates: candidates that retrieval hands to the ranker.
        graphs_max: captured CUDA graphs to keep.
        static: run at static shapes where policy and device allow it; default on CUDA.
    """

    def __init__(
        self, model: Recommender, *, candidates: int, graphs_max: int = 64, static: bool | None = None
    ) -> None:
        self.model = model.eval()
        pack_linears(self.model)
        self._candidates = candidates
        self._device = model.device
        self._steps: StaticSteps | None = None
        if static if static is not None else self._device.type == "cuda":
            self._steps = StaticSteps(self.model, graphs_max=graphs_max, complain=_say_why_not)

    @property
    def widths(self) -> list[int]:
        """Lengths of histories that have a shape of their own, the longest first; without static shapes that alone."""
        longest = self.model.config.history
        return [longest] if self._steps is None else [longest, *range(WIDTHS, longest, WIDTHS)]

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
        form: Form = "none"
        if not len(catalogue):
            answered = [self._empty(job.request, router, step, len(requests)) for job in jobs]
        elif jobs:
            scored = self._scored(jobs, catalogue, router, candidates or self._candidates)
            compute_ms = (time.perf_counter() - started) * 1e3
            answered, tokens = self._answer(jobs, catalogue, router, step, len(requests), compute_ms, scored)
            plans, form = scored.plans, scored.form
        else:
            answered = []
        in_order = iter(answered)
        replies = [wrong[n] if n in wrong else next(in_order) for n in range(len(requests))]
        return BatchResult(replies, plans, tokens, form)

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

    def _scored(
        self,
        jobs: list[_Job],
        catalogue: Catalogue,
        router: Router,
        candidates: int,
    ) -> _Scored:
        history_BL, kinds_BL = self._histories(jobs)
        width = min(max(candidates, *(job.request.k for job in jobs)), len(catalogue.item_ids))  # k may ask for more
        named = {b: self._named(job, catalogue) for b, job in enumerate(jobs) if job.request.candidates is not None}
        steps = self._steps
        if steps is not None and type(router) is Router and steps.serves(router.policy.name):
            batch = _Batch(jobs, history_BL, kinds_BL, width, named)
            scored = self._at_static_shape(steps, batch, catalogue, router, candidates)
            if scored is not None:
                return scored
        encoded = self.model.encode(
            torch.from_numpy(history_BL).to(self._device),
            torch.from_numpy(kinds_BL).to(self._device),
            catalogue.table_ID,
            compact=True,
        )
        candidates_BN = self._retrieve(jobs, encoded.user_BD, catalogue, width, named)
        ranked = self.model.rank(encoded, torch.from_numpy(candidates_BN).to(self._device), catalogue.table_ID, router)
        logits_BNG = ranked.logits_BNG.double().cpu().numpy()
        return _Scored(candidates_BN, logits_BNG, ranked.plans, ranked.tokens_BN, "plain")

    def _at_static_shape(
        self,
        steps: StaticSteps,
        batch: _Batch,
        catalogue: Catalogue,
        router: Router,
        candidates: int,
    ) -> _Scored | None:
        """The same at a padded shape; None where no candidate is left to rank."""
        count, config = len(batch.jobs), self.model.config
        found_B = [
            len(batch.named[b]) if b in batch.named else min(batch.width, int(job.allowed_I.sum()))
            for b, job in enumerate(batch.jobs)
        ]
        if not any(found_B):
            return None
        capacity_E = router.capacity(sum(found_B), config.k)
        needed = max(found_B) if len(batch.named) == count else max(batch.width, *found_B)
        ranked = needed if needed == candidates else _power_of_two(needed)
        items = steps.items(len(catalogue.item_ids), ranked)
        shape = Shape(_power_of_two(count), batch.history_BL.shape[1], ranked, items)

        def fill(values: Mapping[str, Tensor]) -> None:
            arrays = {name: value.numpy() for name, value in values.items()}
            arrays["history_BL"][:count], arrays["kinds_BL"][:count] = batch.history_BL, batch.kinds_BL
            arrays["capacity_E"][:] = capacity_E.numpy()
            for b, job in enumerate(batch.jobs):
                if b in batch.named:
                    arrays["named_BN"][b, : len(batch.named[b])] = batch.named[b]
                else:
                    arrays["width_B"][b] = batch.width
                    arrays["allowed_BI"][b, : len(job.allowed_I)] = job.allowed_I

        values, form = steps.run(router.policy.name, shape, catalogue.table_ID, fill)
        real_T = values["candidates_BN"].reshape(-1) != 0
        plans = real_plans(values, capacity_E, real_T, config.moe_layers)
        router.last_plans[:] = plans
        tokens_BN = (real_T.cumsum(0) - 1).view(shape.requests, ranked)
        return _Scored(
            values["candidates_BN"][:count].numpy(), values["logits_BNG"][:count].double().numpy(), plans,
            tokens_BN, form,
        )  # fmt: skip

    def _answer(
        self,
        jobs: list[_Job],
        catalogue: Catalogue,
        router: Router,
        step: str,
        batch: int,
        compute_ms: float,
        scored: _Scored,
    ) -> tuple[list[RankReply], int]:
        candidates_BN, plans = scored.candidates_BN, scored.plans
        score_BN, log_p_BNG = fuse_goals(scored.logits_BNG, np.stack([job.weights_G for job in jobs]))
        found_B = (candidates_BN > 0).sum(1)
        kept, redirected_B = route_quality(plans, found_B)
        chosen = [
            self._pick(job, catalogue, rows_N[:found], score_N[:found])
            for job, rows_N, score_N, found in zip(jobs, candidates_BN, score_BN, found_B.tolist(), strict=True)
        ]
        chosen_BK = _padded(chosen, max(map(len, chosen)))
        rows_BK = np.take_along_axis(candidates_BN, chosen_BK, 1).tolist()
        score_BK = np.exp(np.take_along_axis(score_BN, chosen_BK, 1)).tolist()
        p_BGK = np.exp(np.take_along_axis(log_p_BNG, chosen_BK[..., None], 1)).transpose(0, 2, 1).tolist()
        replies = []
        for b, job in enumerate(jobs):
            k = len(chosen[b])
            item_ids = [catalogue.item_ids[row] for row in rows_BK[b][:k]]
            experts: tuple[ExpertUse, ...] = ()
            if job.request.explain:
                experts = explain(item_ids, scored.tokens_BN[b, chosen_BK[b, :k]].tolist(), plans)
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
                    cold_start=not any(job.history),
                    candidates=int(found_B[b]),
                    batch_requests=batch,
                    compute_ms=compute_ms,
                    experts=experts,
                )
            )
        return replies, int(found_B.sum())

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

    def _retrieve(
        self, jobs: list[_Job], user_BD: Tensor, catalogue: Catalogue, width: int, named: Mapping[int, Rows]
    ) -> Rows:
        """Candidate rows per request, 0 = none: those named by the caller, else the nearest eligible items."""
        scores_BI = self.model.retrieval_scores(user_BD, catalogue.table_ID)
        barred_BI = torch.from_numpy(np.stack([job.allowed_I for job in jobs])).logical_not_().to(self._device)
        scores_BI = scores_BI.masked_fill_(barred_BI, -torch.inf)
        top_scores_BN, top_rows_BN = scores_BI.topk(width, dim=1)
        found_BN = torch.where(top_scores_BN.isfinite(), top_rows_BN, 0).cpu().numpy()
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


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _say_why_not(why: str) -> None:
    log.warning("graph_not_captured", error=why)


def _padded(lists: list[list[int]], width: int) -> Rows:
    rows_BL = np.zeros((len(lists), width), dtype=np.int64)
    for b, values in enumerate(lists):
        rows_BL[b, : len(values)] = values
    return rows_BL
