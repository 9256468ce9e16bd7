"""Bounds that make a run fail."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from loadtest.options import Options, flag
from loadtest.summary import Summary


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bound and what was measured; `value` is None if there was nothing to measure, which fails."""

    option: str
    phase: str
    value: float | None
    limit: float
    ok: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        measured = "nothing measured" if self.value is None else f"{self.value:.6g}"
        return f"{flag(self.option)} {self.limit:g} in {self.phase}: {measured}"


def judge(summary: Summary, options: Options) -> list[Verdict]:
    """Every bound that `options` sets, for every phase with requests; failed ones have `ok` false."""
    verdicts = []
    for name, counts in summary.recommendations.items():
        if counts.offered == 0:
            continue
        verdicts.append(_at_least("min_achieved", name, counts.achieved_share, options.min_achieved))
        answered = counts.answered
        for option, part in (("max_error_share", counts.errors), ("max_shed_share", counts.shed)):
            verdicts.append(_at_most(option, name, part / answered if answered else None, getattr(options, option)))
        if options.max_p99_ms:
            verdicts.append(_at_most("max_p99_ms", name, counts.response.quantile(0.99), options.max_p99_ms))
    for name, counts in summary.events.items():
        if counts.answered:
            verdicts.append(
                _at_most("max_error_share", f"events of {name}", counts.error_share, options.max_error_share)
            )
    if options.max_p99_ratio and "crowd" in summary.recommendations:
        crowd, calm = (summary.of(name).response.quantile(0.99) for name in ("crowd", "calm"))
        ratio = crowd / calm if crowd is not None and calm else None
        verdicts.append(_at_most("max_p99_ratio", "crowd", ratio, options.max_p99_ratio))
    return verdicts


def _at_most(option: str, phase: str, value: float | None, limit: float) -> Verdict:
    return Verdict(option, phase, value, limit, ok=value is not None and value <= limit)


def _at_least(option: str, phase: str, value: float, limit: float) -> Verdict:
    return Verdict(option, phase, value, limit, ok=value >= limit)
