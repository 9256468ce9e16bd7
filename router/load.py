"""Measured load per expert, and the slots it leaves: queues enter routing through the capacity, not through a bias.

Every quantity is a decayed sum, so that two reports at one instant add up and a pause needs no ticks. Time is an
argument throughout: seconds on any clock that does not run backwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

LEAST_BUSY_S = 1e-9  # less measured work than this says nothing about a rate


@dataclass(frozen=True, slots=True)
class Load:
    """Load at one instant, float64 (E,), all per second.

    Attributes:
        demand_per_s_E: unconstrained wishes.
        served_per_s_E: slots finished.
        service_rate_E: slots finished per second of work: what an expert can do, however much it is asked for.
    """

    demand_per_s_E: Tensor
    served_per_s_E: Tensor
    service_rate_E: Tensor


class LoadTracker:
    """Exponentially weighted demand, served slots and service rate of each expert. One writer; readers take `at`.

    Args:
        service_rate_E: slots per second to assume until work is measured.
        half_life_s: after this long an observation counts half.
        started_s: when observation starts.

    Raises:
        ValueError: a rate that is negative or not finite, or a half-life that is not > 0.
    """

    def __init__(self, service_rate_E: Tensor, *, half_life_s: float = 2.0, started_s: float = 0.0) -> None:
        self._rate_E = _checked("service_rate", service_rate_E)
        if not 0 < half_life_s < float("inf"):
            raise ValueError(f"half_life_s must be > 0 and finite, not {half_life_s}")
        self._half_life_s = half_life_s
        self._started_s = self._last_s = started_s
        self._demand_E, self._served_E, self._busy_s_E = (torch.zeros_like(self._rate_E) for _ in range(3))

    def observe(self, demand_E: Tensor, served_E: Tensor, busy_s_E: Tensor, *, now_s: float) -> None:
        """What happened since the last call.

        Args:
            demand_E: wishes.
            served_E: slots finished.
            busy_s_E: seconds of work that took. Work without a finished slot (a stuck expert) lowers the rate too.

        Raises:
            ValueError: a negative or infinite number, a wrong shape, or a time before the last one.
        """
        demand_E, served_E, busy_s_E = (
            _checked(name, value, self._rate_E.shape)
            for name, value in (("demand", demand_E), ("served", served_E), ("busy_s", busy_s_E))
        )
        kept = self._decay(now_s)
        self._last_s = now_s
        self._demand_E = self._demand_E * kept + demand_E
        self._served_E = self._served_E * kept + served_E
        self._busy_s_E = self._busy_s_E * kept + busy_s_E
        measured_E = self._busy_s_E > LEAST_BUSY_S
        self._rate_E = torch.where(measured_E, self._served_E / self._busy_s_E.clamp_min(LEAST_BUSY_S), self._rate_E)

    def at(self, now_s: float) -> Load:
        """Load at `now_s`, which may be after the last observation: demand and served then fade, the rate stays.

        Raises:
            ValueError: a time before the last observation.
        """
        kept, memory_s = self._decay(now_s), self._half_life_s / log(2)
        # The weights of a full memory sum to `memory_s`; a young tracker has seen only a part of them.
        age_s = now_s - self._started_s
        seen_s = memory_s * -torch.expm1(torch.tensor(-age_s / memory_s, dtype=torch.float64))
        per_s = kept / seen_s.clamp_min(LEAST_BUSY_S)
        return Load(self._demand_E * per_s, self._served_E * per_s, self._rate_E.clone())

    def _decay(self, now_s: float) -> float:
        if not now_s >= self._last_s:
            raise ValueError(f"now_s must be >= {self._last_s} (the last observation), not {now_s}")
        return float(0.5 ** ((now_s - self._last_s) / self._half_life_s))


def capacity_from_load(
    service_rate_E: Tensor,
    backlog_E: Tensor,
    *,
    horizon_s: float,
    most: int,
    target_backlog: float = 0.0,
    alive_E: Tensor | None = None,
) -> Tensor:
    """Slots each expert may get in the next batch: clip(rate * horizon - (backlog - target), 0, most), int64 (E,).

    What an expert can finish within the horizon, less what it already has to finish. One formula serves fast, slow and
    draining experts; a dead one has a rate of 0 or is not alive.

    Args:
        service_rate_E: slots per second, as `LoadTracker` measures them.
        backlog_E: slots waiting.
        horizon_s: time between batches; a longer one leaves more room and lets queues grow.
        most: upper bound per expert, for instance the rows that are laid out.
        target_backlog: slots that may wait, which keep an expert busy between batches.
        alive_E: False = takes nothing, dead or draining; default all True.

    Raises:
        ValueError: naming the argument and its bound.
    """
    rate_E = _checked("service_rate", service_rate_E)
    backlog_E = _checked("backlog", backlog_E, rate_E.shape)
    for name, value in (("horizon_s", horizon_s), ("most", most), ("target_backlog", target_backlog)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be >= 0 and finite, not {value}")
    room_E = rate_E * horizon_s - (backlog_E - target_backlog)
    if alive_E is not None:
        if alive_E.shape != rate_E.shape or alive_E.dtype != torch.bool:
            raise ValueError(f"alive must be bool of shape {tuple(rate_E.shape)}")
        room_E = room_E.where(alive_E, torch.zeros_like(room_E))
    room_E = room_E.where(rate_E > 0, torch.zeros_like(room_E))  # a target backlog is no work for what does none
    return (room_E - 1e-9).ceil().clamp(0, most).to(torch.int64)


def _checked(name: str, value_E: Tensor, shape: torch.Size | None = None) -> Tensor:
    if value_E.dim() != 1 or (shape is not None and value_E.shape != shape):
        wanted = "(experts,)" if shape is None else tuple(shape)
        raise ValueError(f"{name} must have shape {wanted}, not {tuple(value_E.shape)}")
    value_E = value_E.detach().to("cpu", torch.float64)
    if not bool(((value_E >= 0) & value_E.isfinite()).all()):
        raise ValueError(f"{name} must be finite and >= 0 for every expert")
    return value_E
