"""mosec: its dynamic batcher, one process a worker."""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker

from recsys.bench.serving.ranker import SmallRanker

BATCH, WAIT_MS = 64, 2


class Rank(Worker):
    """Ranks batches of decoded JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._ranker = SmallRanker()

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One batch."""
        found = self._ranker.best([asked["user_id"] for asked in data], [asked["candidates"] for asked in data])
        return [{"items": items, "scores": scores} for items, scores in zip(*found, strict=True)]


if __name__ == "__main__":
    wait_ms = int(os.environ.get("BENCH_WAIT_MS", WAIT_MS))
    server = Server()
    server.append_worker(Rank, num=int(os.environ["BENCH_WORKERS"]), max_batch_size=BATCH, max_wait_time=wait_ms)
    server.run()
