"""What `PUT /v1/router` asked for, as an engine reads it from Redis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from recsys.config import RouterSettings
from recsys.engine.lanes import DEAD
from recsys.engine.quality_budget import QualityBudget

FACTOR_MAX = 16.0
LANE_US_MAX = 1_000.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """The policy and the bounds that are wanted.

    Attributes:
        health: (expert, share of its capacity that is left) of experts that are not well.
        inject: (expert, seconds each slot takes longer; `lanes.DEAD`: it never answers), for experiments.
        lane_us: microseconds a slot takes on the device that each expert is given, for experiments; 0: all share one.
        budget: what the policy must keep to stay.
    """

    policy: str
    capacity_factor: float
    health: tuple[tuple[int, float], ...] = ()
    inject: tuple[tuple[int, float], ...] = ()
    lane_us: float = 0.0
    budget: QualityBudget | None = None

    @staticmethod
    def of(stored: Mapping[str, str], defaults: RouterSettings) -> Wanted:
        """From the fields in Redis.

        Raises:
            ValueError: a field is not what it should be.
        """
        factor = float(stored.get("capacity_factor", defaults.capacity_factor))
        if not 1 <= factor <= FACTOR_MAX:
            raise ValueError(f"capacity_factor: {factor}, must be from 1 to {FACTOR_MAX}")
        health = msgspec.json.decode(stored.get("health", "{}"), type=dict[int, float])
        for expert, share in health.items():
            if expert < 0 or not 0 <= share <= 1:
                raise ValueError(f"health: {expert} = {share}, must be an expert and a share from 0 to 1")
        injected = msgspec.json.decode(stored.get("inject", "{}"), type=dict[int, float | Literal["dead"]])
        inject = {expert: DEAD if us == "dead" else us / 1e6 for expert, us in injected.items()}
        for expert, delay_s in inject.items():
            if expert < 0 or not delay_s >= 0:
                raise ValueError(f"inject: {expert} = {delay_s} s, must be an expert and a time from 0")
        lane_us = float(stored.get("lane_us", defaults.lane_us))
        if not 0 <= lane_us <= LANE_US_MAX:
            raise ValueError(f"lane_us: {lane_us}, must be from 0 to {LANE_US_MAX:g}")
        budget = None
        if kept := float(stored.get("score_kept_min") or 0):
            budget = QualityBudget(stored.get("switch", ""), kept, float(stored.get("kept_for_s") or 5))
        policy = stored.get("policy", defaults.policy)
        ill, slow = tuple(sorted(health.items())), tuple(sorted(inject.items()))
        return Wanted(policy, factor, ill, slow, lane_us, budget)
