"""One engine's work without its sockets, timed.

`python -m recsys.engine.tune_worker MODEL THREADS CANDIDATES DEVICE`

Says "ready", then answers each line `REQUESTS SECONDS` with one of JSON: how many requests it ranked in batches of that
many for about that long, and what a step took.
"""

from __future__ import annotations

import json
import random
import sys
import time
from statistics import quantiles

import torch

from recsys.engine.catalogue import Catalogue
from recsys.engine.freed_memory import keep_freed_memory
from recsys.engine.runner import Runner
from recsys.model.recommender import Recommender
from recsys.state.items import CatalogueItem
from recsys.wire import RankRequest
from router.router import Router

LEAST_STEPS = 5


def work(model_folder: str, threads: int, candidates: int, device: str) -> None:
    """Measure what the lines of standard input ask for, until it ends."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    model = Recommender.from_pretrained(model_folder, device)
    config, names = model.config, model.vocabulary.items
    runner = Runner(model, candidates=candidates)
    catalogue = Catalogue([CatalogueItem(item_id=name, title=name, ts=1) for name in names], model)
    router = Router.unconstrained(config.moe_layers, config.experts)
    draw = random.Random(0)
    asked = [
        RankRequest(id="", time_left_ms=0, k=10, history=tuple(draw.choices(names, k=config.history)) if names else ())
        for _ in range(256)
    ]
    runner.run(asked[:2], catalogue, router, step="calm")
    _tell("ready")
    for line in sys.stdin:
        requests, seconds = int(line.split()[0]), float(line.split()[1])
        batch = [asked[n % len(asked)] for n in range(requests)]
        runner.run(batch, catalogue, router, step="calm")  # pays for what only a first time costs
        began, took_s = time.perf_counter(), list[float]()
        while len(took_s) < LEAST_STEPS or time.perf_counter() - began < seconds:
            turn = time.perf_counter()
            runner.run(batch, catalogue, router, step="calm")
            took_s.append(time.perf_counter() - turn)
        per_s = requests * len(took_s) / (time.perf_counter() - began)
        cuts = quantiles(took_s, n=100, method="inclusive")
        _tell(json.dumps({"per_s": per_s, "p50_ms": cuts[49] * 1e3, "p99_ms": cuts[98] * 1e3}))


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
