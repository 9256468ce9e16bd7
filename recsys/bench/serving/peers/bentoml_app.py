"""BentoML: an adaptively batched call. A batched call takes and gives lists, here of one."""

from __future__ import annotations

import os
from typing import Any

import bentoml
from pydantic import BaseModel

from recsys.bench.serving.ranker import SmallRanker

BATCH, LATENCY_MS = 64, 1_000


class Asked(BaseModel):
    """A question."""

    user_id: int
    candidates: list[int]


@bentoml.service(
    workers=int(os.environ["BENCH_WORKERS"]),
    traffic={"timeout": 30, "max_concurrency": 4096},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Rank:
    """Ranks batches."""

    def __init__(self) -> None:
        self._ranker = SmallRanker()

    @bentoml.api(route="/recommend", batchable=True, max_batch_size=BATCH, max_latency_ms=LATENCY_MS)
    def recommend(self, requests: list[Asked]) -> list[dict[str, Any]]:
        """One batch."""
        found = self._ranker.best([asked.user_id for asked in requests], [asked.candidates for asked in requests])
        return [{"items": items, "scores": scores} for items, scores in zip(*found, strict=True)]
