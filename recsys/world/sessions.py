"""When users are there: sessions start like a Poisson process with a daily rhythm and have a geometric length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.world.catalogue import IntArray
from recsys.world.config import WorldConfig
from recsys.world.population import Population

SESSION_GAP_MS = 30 * 60_000  # a longer pause ends a session
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_GAP_MEDIAN_MS = 30_000.0
_GAP_SIGMA = 0.8
# Sessions started per hour of the day (UTC, then shifted per user): a trough at night, a peak in the evening.
_RHYTHM = np.array([3, 2, 1, 1, 1, 1, 2, 4, 5, 5, 5, 6, 7, 6, 5, 5, 6, 7, 9, 11, 12, 11, 8, 5], dtype=float)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Times of all events, by user and then by time."""

    user: IntArray
    ts_ms: IntArray
    starts_session: NDArray[np.bool_]


def invent_times(
    config: WorldConfig, population: Population, *, days: float, now_ms: int, rng: np.random.Generator
) -> Timeline:
    """Times of the events of all users in the `days` before `now_ms` (Unix ms); none is later than `now_ms`."""
    per_user = population.activity_U * config.events_per_user_day * days / config.events_per_session
    sessions_U = rng.poisson(per_user)
    owner = np.repeat(np.arange(config.users), sessions_U)
    start = _session_starts(owner, population, days=days, now_ms=now_ms, rng=rng)
    length = rng.geometric(1.0 / config.events_per_session, len(owner))
    gaps = _GAP_MEDIAN_MS * rng.lognormal(0.0, _GAP_SIGMA, int(length.sum()))
    elapsed = np.cumsum(gaps)
    first = np.cumsum(length) - length
    since_start = elapsed - np.repeat(elapsed[first] if len(first) else elapsed, length)
    ts = (np.repeat(start, length) + since_start).astype(np.int64)
    user = np.repeat(owner, length)
    inside = ts <= now_ms
    user, ts = user[inside], ts[inside]
    order = np.lexsort((ts, user))
    user, ts = user[order], ts[order]
    new_user = np.diff(user, prepend=-1) != 0
    return Timeline(user, ts, new_user | (np.diff(ts, prepend=0) > SESSION_GAP_MS))


def _session_starts(
    owner: IntArray, population: Population, *, days: float, now_ms: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    hour = rng.choice(24, size=len(owner), p=_RHYTHM / _RHYTHM.sum()) + rng.random(len(owner))
    hour_ms = (hour + population.hour_U[owner]) * _HOUR_MS
    # The i-th 24 hours before now hold every hour of the day once.
    before_ms = (now_ms - hour_ms) % _DAY_MS
    day = rng.integers(0, max(1, int(np.ceil(days))), len(owner))
    start = now_ms - day * _DAY_MS - before_ms
    return np.maximum(start, now_ms - days * _DAY_MS)
