"""Session times: rate, length, daily rhythm, bounds."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.world.config import WorldConfig
from recsys.world.population import Population
from recsys.world.sessions import Timeline, invent_times

NOW = 1_790_000_000_000
DAY_MS = 86_400_000
CONFIG = WorldConfig(users=2_000)


@pytest.fixture(scope="module")
def population() -> Population:
    return Population.invent(CONFIG, np.random.default_rng(0))


@pytest.fixture(scope="module")
def timeline(population: Population) -> Timeline:
    return invent_times(CONFIG, population, days=60, now_ms=NOW, rng=np.random.default_rng(1))


def test_order_and_bounds(timeline: Timeline) -> None:
    assert (np.diff(timeline.user) >= 0).all()
    same = np.diff(timeline.user) == 0
    assert (np.diff(timeline.ts_ms)[same] >= 0).all()
    assert timeline.ts_ms.min() >= NOW - 60 * DAY_MS
    assert timeline.ts_ms.max() <= NOW


def test_rate_and_length(timeline: Timeline) -> None:
    expected = CONFIG.users * 60 * CONFIG.events_per_user_day
    assert len(timeline.user) == pytest.approx(expected, rel=0.05)
    assert len(timeline.user) / timeline.starts_session.sum() == pytest.approx(CONFIG.events_per_session, rel=0.1)


def test_active_users_have_more_events(timeline: Timeline, population: Population) -> None:
    counts = np.bincount(timeline.user, minlength=CONFIG.users)
    assert np.corrcoef(counts, population.activity_U)[0, 1] > 0.9


def test_the_night_is_quiet(timeline: Timeline) -> None:
    hours = np.bincount(timeline.ts_ms // 3_600_000 % 24, minlength=24)
    assert hours[18:23].sum() > 3 * hours[1:6].sum()


def test_half_a_day_is_a_history_too(population: Population) -> None:
    short = invent_times(CONFIG, population, days=0.5, now_ms=NOW, rng=np.random.default_rng(1))
    assert short.ts_ms.min() >= NOW - DAY_MS // 2
    assert len(short.user) == pytest.approx(CONFIG.users * 0.5 * CONFIG.events_per_user_day, rel=0.15)


def test_nobody_there(population: Population) -> None:
    nothing = invent_times(CONFIG, population, days=1e-7, now_ms=NOW, rng=np.random.default_rng(1))
    assert len(nothing.user) == len(nothing.ts_ms) == len(nothing.starts_session) == 0
