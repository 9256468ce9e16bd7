"""Recent queries again under two routing policies: what would all of this traffic have got?"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import Counter
from collections.abc import Sequence

import msgspec

from recsys.api.compare import check_known
from recsys.api.deps import Resources
from recsys.api.engine_client import EngineLostError
from recsys.api.query import Query
from recsys.api.recommend import Known, ask_engine, user_state
from recsys.api.traffic_schemas import RoutedTraffic, TrafficComparison
from recsys.errors import InputError, OverloadedError, UnavailableError
from recsys.wire import RankReply

AT_ONCE = 32  # so that the engine makes micro-batches of them, as it does of traffic


async def compare_traffic(
    policies: tuple[str, str], *, seconds: float, most: int, budget_s: float, res: Resources
) -> TrafficComparison:
    """Ask a sample of the queries of the last `seconds` again, first all under one policy and then under the other.

    They go behind the present traffic (priority `batch`), in micro-batches of their own, at the step that the engine
    stands on; users are known as they are now.

    Raises:
        InputError: an unknown policy. UnavailableError: no engine, or no user's state.
    """
    until_s = time.perf_counter() + budget_s
    await check_known(policies, res)
    kept = res.recent.within(seconds)
    sample = [msgspec.structs.replace(query, priority="batch") for query in _spread(kept, most)]
    known = await asyncio.gather(*(user_state(query, res, budget_s) for query in sample))
    asked = [(query, state) for query, state in zip(sample, known, strict=True) if not state.failed]
    if sample and not asked:
        raise UnavailableError("no user's state can be read, so there is nothing to compare")
    first, second = [await _routed(asked, policy, until_s, res) for policy in policies]
    pairs = [(a.item_ids, b.item_ids) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return TrafficComparison(
        kept=len(kept),
        asked=len(asked),
        first=_told(policies[0], first),
        second=_told(policies[1], second),
        compared=len(pairs),
        same=_mean([a == b for a, b in pairs]),
        overlap=_mean([len(set(a) & set(b)) / len(set(a) | set(b)) if a or b else 1.0 for a, b in pairs]),
        first_item_same=_mean([a[:1] == b[:1] for a, b in pairs]),
    )


async def _routed(
    asked: Sequence[tuple[Query, Known]], policy: str, until_s: float, res: Resources
) -> list[RankReply | None]:
    """Replies in the order asked; None where the engine refused, or the query no longer makes sense."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(query: Query, known: Known) -> RankReply | None:
        async with room:
            left_s = until_s - time.perf_counter()
            try:
                return await ask_engine(query, known, uuid.uuid4().hex, left_s, res, policy=policy)
            except (OverloadedError, InputError):
                return None
            except EngineLostError as error:
                raise UnavailableError(str(error)) from None

    return await asyncio.gather(*(one(query, known) for query, known in asked))


def _told(policy: str, replies: Sequence[RankReply | None]) -> RoutedTraffic:
    answered = [reply for reply in replies if reply is not None]
    times = sorted(reply.compute_ms for reply in answered)
    return RoutedTraffic(
        policy=policy,
        answered=len(answered),
        refused=len(replies) - len(answered),
        steps=dict(Counter(reply.step for reply in answered)),
        score_kept=_mean([reply.score_kept for reply in answered], none=1.0),
        redirected=_mean([reply.redirected for reply in answered]),
        compute_ms_p50=_quantile(times, 0.5),
        compute_ms_p99=_quantile(times, 0.99),
    )


def _spread(queries: Sequence[Query], most: int) -> list[Query]:
    """At most so many, evenly."""
    step = max(1.0, len(queries) / most)
    return [queries[int(n * step)] for n in range(min(most, len(queries)))]


def _mean(values: Sequence[float], *, none: float = 0.0) -> float:
    return sum(values) / len(values) if values else none


def _quantile(ordered: Sequence[float], q: float) -> float:
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0
