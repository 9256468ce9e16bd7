"""Users of many requests in one round trip: while one batch is on its way to Redis and back, the next one gathers."""

from __future__ import annotations

import asyncio

from recsys.state.users import Taste, UserReader

BATCH = 64


class Tastes:
    """Reads users in batches, one batch at a time. Within one event loop.

    Args:
        users: reads a batch.
    """

    def __init__(self, users: UserReader) -> None:
        self._users = users
        self._waiting: list[tuple[str, asyncio.Future[Taste]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def get(self, user_id: str, *, within_s: float) -> Taste:
        """What an answer needs of a user.

        Raises:
            TimeoutError: not within that time. RedisError: Redis is away.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Taste] = loop.create_future()
        in_time = loop.call_later(within_s, _expire, future)
        self._waiting.append((user_id, future))
        if self._reading is None:
            self._reading = loop.create_task(self._read(), name="tastes")
        try:
            return await future
        finally:
            in_time.cancel()

    async def _read(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                batch = [(user_id, future) for user_id, future in batch if not future.done()]
                if batch:
                    await self._read_batch(batch)
        finally:
            self._reading = None

    async def _read_batch(self, batch: list[tuple[str, asyncio.Future[Taste]]]) -> None:
        try:
            found = await self._users.get_tastes([user_id for user_id, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), taste in zip(batch, found, strict=True):
            if not future.done():
                future.set_result(taste)


def _expire(future: asyncio.Future[Taste]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
