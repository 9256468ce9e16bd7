"""Which users an expert works for: a sample of those who asked lately is asked about again, with `explain`.

Load snapshots count slots and do not know whose, and the hot path pays nothing for this page.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
from redis.exceptions import RedisError

from recsys.api.deps import Resources
from recsys.api.engine_client import EngineLostError
from recsys.api.expert_users_schemas import ExpertUsersAnswer, ExpertUsersLayer, UserKind
from recsys.api.query import Query
from recsys.api.recommend import ask_engine, user_state
from recsys.errors import InputError, OverloadedError, UnavailableError
from recsys.wire import ExpertUse

USERS_MAX = 48
AT_ONCE = 8  # they go behind the traffic, and should not fill a queue
ITEMS_MIN = 20  # of an answer, so that its experts are not chance
HISTORY_READ = 20  # newest items that say what kind of user somebody is
KINDS_MAX = 16
WITHIN_S = 3.0
NEW = "(no history)"


@dataclass(frozen=True, slots=True)
class Served:
    """One user: of which kind, and per layer the share of the gate weight that each expert had in the answer."""

    kind: str
    layers: dict[int, dict[int, float]]


async def expert_users(res: Resources) -> ExpertUsersAnswer:
    """Ask again for users of the last two minutes, with low priority.

    Raises:
        UnavailableError: nobody asked anything, or no engine answers.
    """
    until_s = time.perf_counter() + WITHIN_S
    sample = recent_users(res.recent.within(120.0))
    room = asyncio.Semaphore(AT_ONCE)

    async def one(query: Query) -> Served | None:
        async with room:
            return await _served(query, until_s, res)

    served = [found for found in await asyncio.gather(*map(one, sample)) if found is not None]
    if not served:
        why = "engines refuse to answer for it now" if sample else "nobody asked for anything in the last two minutes"
        raise UnavailableError(f"which users an expert serves is not known: {why}")
    return summed(served, asked=len(sample))


def recent_users(queries: Sequence[Query]) -> list[Query]:
    """The newest query of each user, evenly chosen. Who asks with `explain` looks at the service, and is no user."""
    newest: dict[str, Query] = {}
    for n, query in enumerate(queries):
        if not query.explain:
            newest[query.user_id or f"\0{n}"] = query
    found = list(newest.values())
    step = max(1.0, len(found) / USERS_MAX)
    return [found[int(n * step)] for n in range(min(USERS_MAX, len(found)))]


async def _served(query: Query, until_s: float, res: Resources) -> Served | None:
    """None where there is no time left, no state, no answer with items or nothing known of them."""
    left_s = until_s - time.perf_counter()
    k = min(max(query.k, ITEMS_MIN), res.settings.api.k_max)
    known = await user_state(query, res, max(0.001, left_s))
    if known.failed:
        return None
    question = msgspec.structs.replace(query, k=k, explain=True, priority="batch")
    try:
        reply = await ask_engine(question, known, uuid.uuid4().hex, until_s - time.perf_counter(), res)
    except (OverloadedError, InputError, EngineLostError):
        return None
    if not (layers := shares(reply.experts)):  # filters that no item met
        return None
    left_s = max(0.001, until_s - time.perf_counter())
    try:
        items = await res.items.get(known.history[-HISTORY_READ:], within_s=left_s)
    except (RedisError, TimeoutError):
        return None
    return Served(kind_of(item.categories for item in items.values()), layers)


def kind_of(categories: Iterable[Sequence[str]]) -> str:
    """The category that a history is most about; each item counts once, shared among its categories."""
    weight: defaultdict[str, float] = defaultdict(float)
    for own in categories:
        for name in own:
            weight[name] += 1 / len(own)
    return min(weight, key=lambda name: (-weight[name], name)) if weight else NEW


def shares(uses: Iterable[ExpertUse]) -> dict[int, dict[int, float]]:
    """Per layer, the share of the gate weight that each expert had."""
    weight: dict[int, defaultdict[int, float]] = {}
    for use in uses:
        layer = weight.setdefault(use.layer, defaultdict(float))
        for expert, gate in zip(use.experts, use.gates, strict=True):
            layer[expert] += max(0.0, gate)
    return {
        layer: {expert: value / total for expert, value in found.items()}
        for layer, found in weight.items()
        if (total := sum(found.values())) > 0
    }


def summed(served: Sequence[Served], *, asked: int) -> ExpertUsersAnswer:
    """Users put together by kind, the most frequent kinds first; every user counts the same."""
    kinds = [kind for kind, _ in Counter(user.kind for user in served).most_common(KINDS_MAX)]
    layers = []
    for layer in sorted({n for user in served for n in user.layers}):
        users = [(user.kind, user.layers[layer]) for user in served if layer in user.layers]
        experts = 1 + max(expert for _, own in users for expert in own)
        leads = Counter(min(own, key=lambda expert: (-own[expert], expert)) for _, own in users)
        layers.append(
            ExpertUsersLayer(
                layer=layer,
                share=_mean([own for _, own in users], experts),
                leads=[leads[expert] for expert in range(experts)],
                kinds=[
                    UserKind(kind=kind, users=len(of_kind), share=_mean(of_kind, experts))
                    for kind in kinds
                    if (of_kind := [own for other, own in users if other == kind])
                ],
            )
        )
    return ExpertUsersAnswer(asked=asked, answered=len(served), layers=layers)


def _mean(users: Sequence[dict[int, float]], experts: int) -> list[float]:
    return [sum(own.get(expert, 0.0) for own in users) / len(users) for expert in range(experts)]
