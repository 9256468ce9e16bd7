"""The project's own model at the size of MovieLens-1M, and what it ranks when nothing serves it.

`python -m recsys.bench.serving.real_ranker FOLDER SECONDS` runs full micro-batches as an engine does (encode, retrieve
200 candidates, rank them) on tensors that are there already, and prints requests per second: no queue, no messages, no
items picked. What the service reaches on the same cores is a share of that.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import torch

from recsys.bench.serving.questions import REAL_HISTORY, REAL_ITEMS, questions, real_history
from recsys.engine.catalogue import Catalogue
from recsys.engine.freed_memory import keep_freed_memory
from recsys.engine.runner import Runner
from recsys.model.config import ModelConfig
from recsys.model.recommender import Recommender
from recsys.model.vocabulary import Vocabulary
from recsys.state.items import CatalogueItem
from router.router import Router

CATEGORIES, BATCH, BATCHES, CANDIDATES = 18, 16, 64, 200


def write_model_folder(folder: Path) -> Path:
    """Random weights, with gates that have opinions so that routing has work."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(
        items=tuple(str(n) for n in range(REAL_ITEMS)),
        categories=tuple(f"category {n}" for n in range(CATEGORIES)),
        year_starts=tuple(range(1920, 2001, 10)),
    )
    config = ModelConfig(
        items=REAL_ITEMS, categories=CATEGORIES, years=len(vocabulary.year_starts), history=REAL_HISTORY
    )
    model = Recommender(config, vocabulary, version="random")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("gate.weight") or "heads" in name:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


@torch.inference_mode()
def bare_rate(folder: Path, seconds: float) -> float:
    """Requests per second of full micro-batches on one thread."""
    torch.set_num_threads(1)
    keep_freed_memory()
    runner = Runner(Recommender.from_pretrained(folder), candidates=CANDIDATES)
    model, config = runner.model, runner.model.config
    items = [
        CatalogueItem(item_id=str(n), title="", ts=1, categories=(f"category {n % CATEGORIES}",))
        for n in range(REAL_ITEMS)
    ]
    table_ID = Catalogue(items, model).table_ID
    router = Router("price", capacity_factor=1.5, layers=config.moe_layers, experts=config.experts)
    router.tokens_min = BATCH * CANDIDATES
    histories_QL = torch.tensor([real_history(question) for question in questions(BATCHES * BATCH)]) + 1
    batches_NBL = histories_QL.view(BATCHES, BATCH, REAL_HISTORY)
    histories = itertools.cycle(batches_NBL.unbind())  # no batch is in the caches already
    kinds_BL = torch.full((BATCH, REAL_HISTORY), 2)

    def batch() -> None:
        encoded = model.encode(next(histories), kinds_BL, table_ID)
        candidates_BN = model.retrieval_scores(encoded.user_BD, table_ID).topk(CANDIDATES, dim=1).indices
        model.rank(encoded, candidates_BN, table_ID, router)

    until = time.perf_counter() + seconds / 4
    while time.perf_counter() < until:  # warm
        batch()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        batch()
        done += BATCH
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.stdout.write(f"{bare_rate(Path(sys.argv[1]), float(sys.argv[2]))}\n")
