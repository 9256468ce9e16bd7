"""LitServe: batches of up to 64 within two milliseconds, as many API servers as workers."""

from __future__ import annotations

import os
from typing import Any

import litserve

from recsys.bench.serving.ranker import SmallRanker

BATCH, WAIT_S = 64, 0.002


class Rank(litserve.LitAPI):
    """Ranks batches of decoded JSON."""

    def setup(self, device: str) -> None:
        """Once per worker."""
        self._ranker = SmallRanker()

    def predict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One batch."""
        found = self._ranker.best([asked["user_id"] for asked in batch], [asked["candidates"] for asked in batch])
        return [{"items": items, "scores": scores} for items, scores in zip(*found, strict=True)]

    def batch(self, asked: list[Any]) -> list[Any]:
        """A list is what `predict` takes."""
        return asked

    def unbatch(self, answered: list[Any]) -> list[Any]:
        """And gives."""
        return answered


if __name__ == "__main__":
    workers = int(os.environ["BENCH_WORKERS"])
    server = litserve.LitServer(
        Rank(max_batch_size=BATCH, batch_timeout=WAIT_S, api_path="/recommend"),
        accelerator="cpu",
        workers_per_device=workers,
        fast_queue=True,
        track_requests=False,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=workers,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
