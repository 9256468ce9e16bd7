"""Users of many requests share a round trip; nobody waits longer than he said, and titles in use never grow old."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ConnectionError as Gone

from recsys.api.tastes import BATCH, Tastes
from recsys.state.users import Taste


class Users:
    """Answers when `open` is set; remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.open = asyncio.Event()
        self.asked = asyncio.Event()

    async def get_tastes(self, user_ids: Sequence[str]) -> list[Taste]:
        self.batches.append(list(user_ids))
        self.asked.set()
        await self.open.wait()
        if "broken" in user_ids:
            raise Gone("away")
        return [Taste(history=(user,)) for user in user_ids]


def test_what_arrives_during_a_round_trip_is_read_in_the_next() -> None:
    async def run() -> None:
        users: Any = Users()
        tastes = Tastes(users)
        first = [asyncio.ensure_future(tastes.get(f"a{n}", within_s=20)) for n in range(3)]
        await users.asked.wait()
        rest = [asyncio.ensure_future(tastes.get(f"b{n}", within_s=20)) for n in range(BATCH + 1)]
        await asyncio.sleep(0)
        users.open.set()
        found = await asyncio.gather(*first, *rest)
        assert [len(batch) for batch in users.batches] == [3, BATCH, 1]
        assert [taste.history for taste in found] == [(f"a{n}",) for n in range(3)] + [(f"b{n}",) for n in range(65)]

    asyncio.run(run())


def test_an_error_is_everybodys_and_passes_and_a_slow_answer_is_not_waited_for() -> None:
    async def run() -> None:
        users: Any = Users()
        tastes = Tastes(users)
        with pytest.raises(TimeoutError):
            await tastes.get("slow", within_s=0.01)
        users.open.set()
        found = await asyncio.gather(*(tastes.get(u, within_s=20) for u in ("broken", "b")), return_exceptions=True)
        assert all(isinstance(one, Gone) for one in found)
        assert (await tastes.get("c", within_s=20)).history == ("c",)

    asyncio.run(run())
