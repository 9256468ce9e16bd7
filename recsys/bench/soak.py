"""Minutes at a share of saturation while engines, API workers and Redis are killed at random: what must never happen.

No request hangs, no answer is wrong, each is answered or refused within its deadline, no accepted event is lost or
counted twice, and memory stays where it was. A connection that breaks in the moment its API worker is killed is
nobody's fault; any other break is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import polars as pl
from rich.progress import Progress

from recsys.bench.open_loop import Connections, Outcome, closed_loop, connections, open_loop
from recsys.bench.victims import Victims
from recsys.data.dataset import Dataset

Row = dict[str, float | str]

CONNECTIONS = 256
K = 10
LATE_S = 0.5  # beyond the deadline: what a busy machine may take to tell a refusal
BREAKS_S = 1.0  # after the kill of an API worker its connections may break
EVENTS_EVERY_S = 0.1
SAMPLE_EVERY_S = 1.0
REST_S = 30.0  # until all is applied


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """How long, how much, how cruel."""

    minutes: float = 1.0
    share: float = 0.5  # of saturation
    kill_every_s: float = 10.0
    deadline_ms: float = 1_000.0
    saturate_s: float = 3.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A body, and what its answer must respect."""

    body: bytes
    seen: frozenset[str]
    category: str | None
    k: int


@dataclass(slots=True)
class SoakRun:
    """What happened. `memory`: (seconds, MB by process); `kills`: (seconds, whom)."""

    asked: list[Asked]
    saturation: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    memory: list[tuple[float, Mapping[str, float]]] = field(default_factory=list)
    kills: list[tuple[float, str]] = field(default_factory=list)
    events_accepted: int = 0
    events_counted: int = 0
    hung: int = 0


async def run_soak(base: str, victims: Victims, asked: list[Asked], options: SoakOptions) -> SoakRun:
    """Load, kills and events until the time is over; then everything must come to rest."""
    run, seconds = SoakRun(asked), options.minutes * 60
    bodies = [one.body for one in asked]
    async with connections(base, CONNECTIONS) as pool:
        run.saturation = await closed_loop(pool, bodies, callers=16, seconds=options.saturate_s)
    began = time.monotonic()
    with Progress() as bar:
        task = bar.add_task("Soak", total=seconds)
        async with connections(base, CONNECTIONS) as pool:
            others = [
                asyncio.create_task(_kill(victims, run, options, began)),
                asyncio.create_task(_sample(victims, run, began, lambda done_s: bar.update(task, completed=done_s))),
            ]
            writing = asyncio.create_task(_write_events(base, run, began + seconds))
            run.outcomes = await _load(pool, bodies, run, options, seconds)
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await writing
    run.events_counted = await _count_events(base, run.events_accepted)
    return run


async def _load(
    pool: Connections, bodies: list[bytes], run: SoakRun, options: SoakOptions, seconds: float
) -> list[Outcome]:
    loading = open_loop(
        pool,
        lambda t_s: max(1.0, options.share * run.saturation),
        lambda t_s, n: bodies[n % len(bodies)],
        seconds=seconds,
        deadline_ms=options.deadline_ms,
    )
    try:
        async with asyncio.timeout(seconds + 60):
            return await loading
    except TimeoutError:
        run.hung = 1
        return []


async def _kill(victims: Victims, run: SoakRun, options: SoakOptions, began: float) -> None:
    draws = random.Random(options.seed)
    while True:
        await asyncio.sleep(options.kill_every_s * draws.uniform(0.5, 1.5))
        whom = await asyncio.to_thread(victims.kill_one, draws)
        if whom:
            run.kills.append((time.monotonic() - began, whom))


async def _sample(victims: Victims, run: SoakRun, began: float, tell: Callable[[float], None]) -> None:
    while True:
        run.memory.append((time.monotonic() - began, await asyncio.to_thread(victims.memory_mb)))
        tell(time.monotonic() - began)
        await asyncio.sleep(SAMPLE_EVERY_S)


async def _write_events(base: str, run: SoakRun, until: float) -> None:
    """One event after the other, each repeated until it is accepted, as a careful client would."""
    tried = 0
    async with httpx.AsyncClient(base_url=base, timeout=5) as http:
        while time.monotonic() < until or (tried > run.events_accepted and time.monotonic() < until + REST_S):
            tried = run.events_accepted + 1
            event = {"event_id": f"soak-{tried}", "user_id": "soak", "item_id": "soak", "kind": "view"}
            with contextlib.suppress(httpx.HTTPError):
                if (await http.post("/v1/events", json=event)).status_code == 202:
                    run.events_accepted = tried
            await asyncio.sleep(EVENTS_EVERY_S)


async def _count_events(base: str, wanted: int) -> int:
    """Events of the user that were applied, once all of them are or half a minute is over."""
    found, deadline = 0, time.monotonic() + REST_S
    async with httpx.AsyncClient(base_url=base, timeout=5) as http:

        async def look() -> int:
            with contextlib.suppress(httpx.HTTPError):
                answer = await http.get("/v1/users/soak")
                if answer.status_code == 200:
                    return int(answer.json()["counts"].get("view", 0))
            return found

        while found < wanted and time.monotonic() < deadline:
            await asyncio.sleep(EVENTS_EVERY_S)
            found = await look()
        await asyncio.sleep(1.0)  # one that is applied twice would show now
        return await look()


def wrong(asked: Asked, outcome: Outcome, categories: Mapping[str, frozenset[str]]) -> str:
    """Why an answer is wrong, "" if it is not."""
    items = outcome.items
    if len(set(items)) != len(items):
        return "an item twice"
    if len(items) > asked.k:
        return "too many items"
    if not items:
        return "" if outcome.fallback else "no items"  # an API that just started may know nothing yet
    if asked.seen & set(items):
        return "an item that was seen"
    if unknown := [item for item in items if item not in categories]:
        return f"an item that does not exist: {unknown[0]}"
    if asked.category is not None and any(asked.category not in categories[item] for item in items):
        return "an item of another category"
    return ""


def soak_row(run: SoakRun, options: SoakOptions, categories: Mapping[str, frozenset[str]]) -> Row:
    """All that counts, in numbers; `broken_promises` is the sum of what must not happen."""
    kills_s = [at for at, whom in run.kills if whom == "api worker"]
    statuses = Counter(one.status for one in run.outcomes)
    excused = sum(_excused(one, kills_s) for one in run.outcomes if one.status == 0)
    limit_s = options.deadline_ms / 1e3 + LATE_S
    late = sum(one.latency_s - one.late_s > limit_s for one in run.outcomes if one.status)
    errors = Counter(
        why
        for n, one in enumerate(run.outcomes)
        if one.status == 200 and (why := wrong(run.asked[n % len(run.asked)], one, categories))
    )
    kills = Counter(whom for _, whom in run.kills)
    row: Row = {
        "minutes": options.minutes,
        "saturation_per_s": run.saturation,
        "offered_share": options.share,
        "requests": float(len(run.outcomes)),
        "answered": float(statuses[200]),
        "of_these_fallback": float(sum(one.fallback for one in run.outcomes)),
        "refused": float(statuses[503] + statuses[429]),
        "broken_by_a_kill": float(excused),
        "broken_otherwise": float(statuses[0] - excused),
        "other_status": float(sum(n for status, n in statuses.items() if status not in (0, 200, 429, 503))),
        "late": float(late),
        "wrong": float(sum(errors.values())),
        "hung": float(run.hung),
        "events_accepted": float(run.events_accepted),
        "events_lost_or_twice": float(abs(run.events_counted - run.events_accepted)),
        "kills_engine": float(kills["engine"]),
        "kills_api_worker": float(kills["api worker"]),
        "kills_redis": float(kills["redis"]),
    }
    growth = memory_growth(run.memory)
    row |= {f"memory_growth_{name}": value for name, value in sorted(growth.items())}
    bad = ("broken_otherwise", "other_status", "late", "wrong", "hung", "events_lost_or_twice")
    return row | {"broken_promises": sum(float(row[name]) for name in bad), "wrong_why": ", ".join(sorted(errors))}


def _excused(outcome: Outcome, kills_s: Sequence[float]) -> bool:
    ended_s = outcome.due_s + outcome.latency_s
    return any(-BREAKS_S <= ended_s - at_s <= BREAKS_S for at_s in kills_s)


def memory_growth(samples: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Largest memory in the last third of the time over the largest in the third before, by process."""
    if len(samples) < 9:
        return {}
    third = len(samples) // 3
    before, last = samples[third : 2 * third], samples[2 * third :]
    names = {name for _, used in samples for name in used}
    return {name: _largest(last, name) / max(_largest(before, name), 1.0) for name in names}


def _largest(samples: Sequence[tuple[float, Mapping[str, float]]], name: str) -> float:
    return max((used.get(name, 0.0) for _, used in samples), default=0.0)


def questions(world: Path, most: int = 1_000) -> tuple[list[Asked], dict[str, frozenset[str]]]:
    """What is asked, every other time for one category, and the categories of each item."""
    dataset = Dataset.load(world)
    categories = {item: frozenset(names or ()) for item, names in dataset.items.select("item_id", "categories").rows()}
    common = Counter(name for names in categories.values() for name in names)
    hot = min(common, key=lambda name: (-common[name], name))
    users = dataset.interactions.group_by("user_id", maintain_order=True).agg(pl.col("item_id").tail(30)).head(most)
    asked = []
    for n, (user, items) in enumerate(users.select("user_id", "item_id").iter_rows()):
        body: dict[str, object] = {"user_id": f"asks-{user}", "history": items, "k": K}
        if n % 2:
            body["filters"] = {"categories_any": [hot]}
        asked.append(Asked(msgspec.json.encode(body), frozenset(items), hot if n % 2 else None, K))
    return asked, categories
