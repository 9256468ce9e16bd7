"""How pressed the engine is, and which step of the ladder that means. Pure: time is an argument.

    calm       the capacity factor of the settings: room for almost every first choice
    redirect   the smallest capacity factor: balanced, static, the fastest full-quality step
    shed       refuse what cannot be answered in time, at once and with a time to come back

One signal, expected wait / time left, turns it. Going up is immediate; going down waits for `dwell_s` below the
lower threshold, so that the ladder does not flicker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Step = Literal["calm", "redirect"]


@dataclass(frozen=True, slots=True)
class Ladder:
    """Present step and since when the pressure has been low. A value: `update` returns the next one."""

    up_at: float = 0.25
    down_at: float = 0.10
    dwell_s: float = 1.0
    step: Step = "calm"
    low_since_s: float | None = None

    def update(self, pressure: float, *, now_s: float) -> Ladder:
        """The ladder after seeing `pressure` at `now_s`."""
        if pressure >= self.up_at:
            return replace(self, step="redirect", low_since_s=None)
        if self.step == "calm" or pressure > self.down_at:
            return replace(self, low_since_s=None)
        if self.low_since_s is None:
            return replace(self, low_since_s=now_s)
        if now_s - self.low_since_s >= self.dwell_s:
            return replace(self, step="calm", low_since_s=None)
        return self


class ServiceTime:
    """Moving estimate of a micro-batch's cost: `step_s(n)` ~ fixed + n * per request.

    Exponentially weighted least squares over (requests, seconds), so that it follows the machine.
    """

    def __init__(self, forget: float = 0.05) -> None:
        self._forget = forget
        self._n = self._t = self._nn = self._nt = 0.0
        self._seen = 0

    def observe(self, requests: int, seconds: float) -> None:
        """One finished step."""
        self._seen += 1
        w = max(self._forget, 1 / self._seen)  # a plain mean until there is enough to forget
        self._n += w * (requests - self._n)
        self._t += w * (seconds - self._t)
        self._nn += w * (requests * requests - self._nn)
        self._nt += w * (requests * seconds - self._nt)

    def step_s(self, requests: int) -> float:
        """Expected seconds of a step of that many requests; 0 before the first observation."""
        if not self._seen:
            return 0.0
        variance = self._nn - self._n * self._n
        slope = max(0.0, (self._nt - self._n * self._t) / variance) if variance > 1e-9 else self._t / max(self._n, 1.0)
        fixed = max(0.0, self._t - slope * self._n)
        return fixed + slope * requests

    def wait_s(self, queued: int, batch_max: int) -> float:
        """Expected time until a request behind `queued` others is answered."""
        steps, rest = divmod(queued + 1, batch_max)
        return steps * self.step_s(batch_max) + (self.step_s(rest) if rest else 0.0)
