"""All engines behind one call: the shorter queue is asked, and another engine if the first one is lost.

Ranking changes nothing, so a question may be asked twice; what bounds the second try is the first one's deadline.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec
from prometheus_client import Counter

from recsys.api.engine_client import EngineLostError
from recsys.errors import OverloadedError
from recsys.wire import RankReply, RankRequest, Similar


class RankingEngine(Protocol):
    """One engine, wherever it is. Use within one event loop: `start`, then `ask`, then `close`."""

    @property
    def in_flight(self) -> int: ...
    @property
    def load(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    @property
    def ready(self) -> bool: ...
    @property
    def model_version(self) -> str: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def ask(self, question: RankRequest | Similar, *, timeout_s: float) -> RankReply: ...


class EnginePool:
    """All engines as one. Use within one event loop: `start`, then `ask`, then `close`.

    Of two engines drawn at random the one with the shorter queue is asked (two choices: Mitzenmacher 2001), so that
    API processes that know the same old queue lengths do not all run to the same engine.

    Args:
        engines: at least one.
        in_flight_max: questions without an answer, over all engines; above it `OverloadedError`.
        retries: counts questions that were asked a second time.
    """

    def __init__(self, engines: Sequence[RankingEngine], *, in_flight_max: int, retries: Counter) -> None:
        if not engines:
            raise ValueError("engines: at least one is needed")
        self._engines = engines
        self._in_flight_max = in_flight_max
        self._retries = retries

    @property
    def in_flight(self) -> int:
        """Questions without an answer."""
        return sum(engine.in_flight for engine in self._engines)

    @property
    def ready(self) -> bool:
        """Whether any engine ranks."""
        return any(engine.ready for engine in self._engines)

    @property
    def ready_engines(self) -> int:
        """How many engines rank."""
        return sum(engine.ready for engine in self._engines)

    @property
    def model_version(self) -> str:
        """Version of an engine that ranks, or ""."""
        return next((engine.model_version for engine in self._engines if engine.ready), "")

    async def start(self) -> None:
        """Connect to all (or keep trying to)."""
        for engine in self._engines:
            await engine.start()

    async def close(self) -> None:
        """Fail what is pending and disconnect."""
        await asyncio.gather(*(engine.close() for engine in self._engines))

    async def ask(self, question: RankRequest | Similar, *, timeout_s: float) -> RankReply:
        """One engine's reply; each engine is asked at most once.

        Raises:
            OverloadedError: too many questions are waiting already.
            EngineLostError: no engine is there, or those that were did not answer within `timeout_s`.
        """
        if self.in_flight >= self._in_flight_max:
            raise OverloadedError(f"{self._in_flight_max} requests are waiting for the engines already")
        ends_s, left_s = time.monotonic() + timeout_s, timeout_s
        untried = [engine for engine in self._engines if engine.alive]
        lost, reply = EngineLostError("no engine"), None
        while untried and left_s > 0:
            engine = shorter_queue(untried)
            untried.remove(engine)
            if left_s < timeout_s:
                spent_ms = (timeout_s - left_s) * 1e3
                question = msgspec.structs.replace(question, time_left_ms=question.time_left_ms - spent_ms)
                timeout_s = left_s
            try:
                reply = await engine.ask(question, timeout_s=left_s)
                if not reply.elsewhere:
                    return reply
            except EngineLostError as error:
                lost = error
            left_s = ends_s - time.monotonic()
            self._retries.inc(bool(untried) and left_s > 0)
        if reply is not None:
            return reply
        raise lost


def shorter_queue(engines: Sequence[RankingEngine]) -> RankingEngine:
    """The less loaded of two engines drawn at random, among those that are ready if there are any."""
    there = [engine for engine in engines if engine.ready] or engines
    first = int(random.random() * len(there))
    if len(there) == 1:
        return there[first]
    second = (first + 1 + int(random.random() * (len(there) - 1))) % len(there)
    return min(there[first], there[second], key=_load)


def _load(engine: RankingEngine) -> int:
    return engine.load
