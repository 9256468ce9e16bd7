"""Ray Serve: `serve.batch` in as many replicas as workers, HAProxy in front where the environment asks for it."""

from __future__ import annotations

import os
import signal
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from recsys.bench.serving.ranker import SmallRanker

BATCH, WAIT_S = 64, 0.002


@serve.deployment(
    num_replicas=int(os.environ["BENCH_WORKERS"]), max_ongoing_requests=512, ray_actor_options={"num_cpus": 0.5}
)
class Rank:
    """Ranks batches of decoded JSON."""

    def __init__(self) -> None:
        self._ranker = SmallRanker()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)
    async def rank(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One batch."""
        found = self._ranker.best([one["user_id"] for one in asked], [one["candidates"] for one in asked])
        return [{"items": items, "scores": scores} for items, scores in zip(*found, strict=True)]

    async def __call__(self, request: Request) -> Any:
        """One request."""
        return await self.rank(await request.json())


if __name__ == "__main__":
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])},
        logging_config={"enable_access_log": False},
    )
    serve.run(Rank.bind(), route_prefix="/recommend")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
