"""How long after an event is accepted does an answer show it? Measured beside other events and queries."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import numpy as np

POLL_MOST = 500


@dataclass(frozen=True, slots=True)
class FreshnessOptions:
    """The load during the measurement."""

    seconds: float = 20.0
    events_per_s: float = 200.0
    queries_per_s: float = 50.0
    probes_per_s: float = 10.0
    users: int = 500
    seed: int = 0


class _Load:
    """Open-loop background load: things start when they are due, whether or not the last one is back."""

    def __init__(self, http: httpx.AsyncClient, items: list[str], options: FreshnessOptions) -> None:
        self._http = http
        self._items = items
        self._options = options
        self._random = random.Random(options.seed)
        self.visible_ms: list[float] = []
        self.wait_ms: list[float] = []
        self.first_try = 0
        self.query_ms: list[float] = []
        self.failures = 0

    async def run(self) -> None:
        tasks = [
            asyncio.create_task(self._at_rate(self._options.events_per_s / 10, self._events)),
            asyncio.create_task(self._at_rate(self._options.queries_per_s, self._query)),
            asyncio.create_task(self._at_rate(self._options.probes_per_s, self._probe)),
        ]
        await asyncio.gather(*tasks)

    async def _at_rate(self, per_s: float, action: Callable[[], Awaitable[None]]) -> None:
        began = time.monotonic()
        running: set[asyncio.Future[None]] = set()
        due = 0.0
        while due < self._options.seconds:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            task = asyncio.ensure_future(action())
            running.add(task)
            task.add_done_callback(running.discard)
            due += self._random.expovariate(per_s)
        await asyncio.gather(*running)

    def _event(self, user: str) -> dict[str, str]:
        return {"user_id": user, "item_id": self._random.choice(self._items), "kind": "click"}

    def _user(self) -> str:
        return f"fresh-{self._random.randrange(self._options.users)}"

    async def _events(self) -> None:
        answer = await self._http.post("/v1/events", json={"events": [self._event(self._user()) for _ in range(10)]})
        self.failures += answer.status_code != 202

    async def _query(self) -> None:
        began = time.perf_counter()
        answer = await self._http.post("/v1/recommendations", json={"user_id": self._user(), "k": 10})
        self.query_ms.append((time.perf_counter() - began) * 1e3)
        self.failures += answer.status_code != 200

    async def _probe(self) -> None:
        """One event of a new user; then ask for that item until it is gone from the answers because it was seen."""
        user = f"probe-{self._random.getrandbits(64):x}"
        event = self._event(user)
        accepted = await self._http.post("/v1/events", json=event)
        if accepted.status_code != 202:
            self.failures += 1
            return
        began = time.perf_counter()
        question = {"user_id": user, "k": 1, "candidates": [event["item_id"]]}
        for attempt in range(POLL_MOST):
            asked = time.perf_counter()
            answer = await self._http.post("/v1/recommendations", json=question)
            if answer.status_code == 200 and not answer.json()["items"]:
                self.visible_ms.append((time.perf_counter() - began) * 1e3)
                self.wait_ms.append((asked - began) * 1e3)
                self.first_try += attempt == 0
                return
        self.failures += 1


async def measure_freshness(base: str, options: FreshnessOptions) -> dict[str, float]:
    """Times from "accepted" (202 received) to the first answer that shows the event.

    `asked_after_ms` runs to the moment that answer was asked for, which is what the event's way through the stream
    costs; `visible_ms` runs to its end, and so holds a whole query as well.
    """
    limits = httpx.Limits(max_connections=128, max_keepalive_connections=128)
    async with httpx.AsyncClient(base_url=base, timeout=10, limits=limits) as http:
        answer = await http.post("/v1/recommendations", json={"history": [], "k": 200})
        items = [item["item_id"] for item in answer.json()["items"]]
        load = _Load(http, items, options)
        await load.run()
    wait, visible, query = (np.array(values) for values in (load.wait_ms, load.visible_ms, load.query_ms))
    return {
        "probes": len(visible),
        "seen_by_the_very_next_answer_share": load.first_try / max(1, len(visible)),
        "asked_after_ms_p50": float(np.percentile(wait, 50)),
        "asked_after_ms_p99": float(np.percentile(wait, 99)),
        "visible_ms_p50": float(np.percentile(visible, 50)),
        "visible_ms_p99": float(np.percentile(visible, 99)),
        "query_ms_p50": float(np.percentile(query, 50)),
        "query_ms_p99": float(np.percentile(query, 99)),
        "events_per_s": options.events_per_s,
        "queries_per_s": options.queries_per_s,
        "failures": load.failures,
    }
