"""A task ends, whatever it does with a cancellation."""

from __future__ import annotations

import asyncio

from recsys.api.ending import end


def test_who_swallows_a_cancellation_is_told_again() -> None:
    told = 0

    async def stubborn() -> None:
        nonlocal told
        while True:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                told += 1
                if told == 3:
                    raise

    async def run() -> None:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await asyncio.wait_for(end(task), 20)
        assert task.cancelled()
        await end(task)  # a second time costs nothing

    asyncio.run(run())
    assert told == 3
