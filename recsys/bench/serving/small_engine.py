"""The project's engine with the small ranker in the place of the model: everything else is what always runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from fastapi import FastAPI

from recsys.bench.serving.questions import CANDIDATES, USERS
from recsys.bench.serving.ranker import SmallRanker
from recsys.colocated import create, run_colocated
from recsys.config import Settings
from recsys.engine.catalogue import Catalogue
from recsys.engine.engine import Engine
from recsys.engine.runner import BatchResult, Runner
from recsys.engine.server import run_engine
from recsys.model.config import ModelConfig
from recsys.model.recommender import Recommender
from recsys.model.vocabulary import Vocabulary
from recsys.wire import RankReply, RankRequest
from router.router import Router


def write_model_folder(folder: Path) -> Path:
    """A model that knows one item: the engine wants one to embed its catalogue with."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(items=("any",), categories=("any",), year_starts=(2000,))
    config = ModelConfig(items=1, categories=1, years=1, width=16, history=1, encoder_layers=1, moe_layers=1, experts=2)
    Recommender(config, vocabulary, version="small").save_pretrained(folder)
    return folder


class SmallRunner(Runner):
    """Ranks what the caller names; the newest item of the history says who asks."""

    def __init__(self, model: Recommender, *, split: bool) -> None:
        super().__init__(model, candidates=CANDIDATES)
        self._ranker = SmallRanker(split=split)

    def run(
        self,
        requests: Sequence[RankRequest],
        catalogue: Catalogue,
        router: Router,
        *,
        step: str,
        candidates: int | None = None,
    ) -> BatchResult:
        """Answer a micro-batch."""
        started = time.perf_counter()
        some = catalogue.item_ids[1 : CANDIDATES + 1]
        users = [int(request.history[-1]) % USERS if request.history else 0 for request in requests]
        items = [list(map(int, request.candidates or some)) for request in requests]
        found = self._ranker.best(users, items)
        compute_ms = (time.perf_counter() - started) * 1e3
        replies = [
            RankReply(
                id=request.id,
                status="ok",
                item_ids=[str(item) for item in best],
                scores=scores,
                model_version=self.model.version,
                policy=router.policy.name,
                step=step,
                candidates=CANDIDATES,
                batch_requests=len(requests),
                compute_ms=compute_ms,
            )
            for request, best, scores in zip(requests, *found, strict=True)
        ]
        return BatchResult(replies, (), CANDIDATES * len(requests))


class SmallEngine(Engine):
    """An engine process of the bench."""

    def __init__(self, settings: Settings, *, split: bool) -> None:
        super().__init__(settings)
        self._served.runner = SmallRunner(self._served.model, split=split)


def engine_of(settings: Settings) -> Engine:
    """As the environment says."""
    return SmallEngine(settings, split=os.environ.get("BENCH_APP") == "split")


def colocated_app() -> FastAPI:
    """API with the engine inside."""
    return create(make=engine_of)


if __name__ == "__main__":
    if sys.argv[1:] == ["colocated"]:
        run_colocated(Settings(), "recsys.bench.serving.small_engine:colocated_app")
    else:
        run_engine(Settings(), engine_of)
