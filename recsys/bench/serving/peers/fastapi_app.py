"""Plain FastAPI, as its tutorial writes it: ranked per request, or gathered for 2 ms and run in a thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel

from recsys.bench.serving.ranker import SmallRanker

BATCH, WAIT_S = 64, 0.002


class Asked(BaseModel):
    """A question."""

    user_id: int
    candidates: list[int]


class Best(BaseModel):
    """Its answer."""

    items: list[int]
    scores: list[float]


class Batcher:
    """The first question, then those of the next two milliseconds, up to 64."""

    def __init__(self, ranker: SmallRanker) -> None:
        self._ranker = ranker
        self._queue: asyncio.Queue[tuple[Asked, asyncio.Future[Best]]] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(1)

    async def ask(self, asked: Asked) -> Best:
        """Its place in a batch."""
        future: asyncio.Future[Best] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((asked, future))
        return await future

    async def run(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            try:
                async with asyncio.timeout(WAIT_S):
                    while len(batch) < BATCH:
                        batch.append(await self._queue.get())
            except TimeoutError:
                pass
            users, items = [asked.user_id for asked, _ in batch], [asked.candidates for asked, _ in batch]
            found = await loop.run_in_executor(self._threads, self._ranker.best, users, items)
            for (_, future), best, scores in zip(batch, *found, strict=True):
                if not future.done():
                    future.set_result(Best(items=best, scores=scores))


def app() -> FastAPI:
    """Per request, or with `BENCH_APP=batched` by the batcher."""
    ranker = SmallRanker()
    batcher = Batcher(ranker)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(batcher.run())
        yield
        running.cancel()

    made = FastAPI(lifespan=lifespan)

    if os.environ["BENCH_APP"] == "batched":

        @made.post("/recommend")
        async def recommend(asked: Asked) -> Best:
            return await batcher.ask(asked)

        return made

    @made.post("/recommend")
    async def recommend_one(asked: Asked) -> Best:
        best, scores = ranker.best([asked.user_id], [asked.candidates])
        return Best(items=best[0], scores=scores[0])

    return made
