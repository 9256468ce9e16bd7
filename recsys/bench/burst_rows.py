"""The figures of a crowd: one row per trial of `recsys bench burst`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from recsys.bench.burst import BIN_S, PADDED, BurstOptions, Trial
from recsys.bench.open_loop import Outcome

Row = dict[str, float | str]


def rows_of(trials: Sequence[Trial], saturation: float, options: BurstOptions) -> list[Row]:
    """One row per trial, each beside padded top-k and beside `drop` with the same ladder in the same round."""
    rows = [_row(trial, saturation, options) for trial in trials]
    found = {(row["policy"], row["ladder"], row["crowd"], row["repeat"]): row for row in rows}
    for row in rows:
        turn = (row["crowd"], row["repeat"])
        padded, drop = found.get((PADDED, "off", *turn)), found.get(("drop", row["ladder"], *turn))
        row["answers_over_padded"] = _number(row, "accepted_per_s") / _number(padded, "accepted_per_s")
        row["score_kept_over_drop"] = _number(row, "score_kept_crowd") - _number(drop, "score_kept_crowd")
    return rows


def _number(row: Row | None, name: str) -> float:
    return (float(row[name]) or float("nan")) if row else float("nan")


def recovery_s(outcomes: Sequence[Outcome], options: BurstOptions) -> float:
    """Time after the crowd until all is well for good: everything answered, p99 at most twice that of the calm."""
    bound_s = 2 * _quantile(_accepted(options.phase("calm", outcomes)), 99)
    ended_s = options.calm_s + options.crowd_s
    unwell = [
        one.due_s + BIN_S
        for one in options.phase("after", outcomes)
        if not one.accepted or one.latency_s > max(bound_s, options.deadline_ms / 1e3)
    ]
    return max(unwell, default=ended_s) - ended_s


def _row(trial: Trial, saturation: float, options: BurstOptions) -> Row:
    row: Row = {"policy": trial.policy, "ladder": trial.ladder, "crowd": trial.crowd, "repeat": trial.repeat}
    calm, crowd = (options.phase(name, trial.outcomes) for name in ("calm", "crowd"))
    good = _accepted(crowd)
    calm_p99, crowd_p99 = _quantile(_accepted(calm), 99), _quantile(good, 99)
    same_p99 = _quantile(_accepted(trial.same_rate), 99)
    steps = Counter(one.step for one in good)
    row |= {
        "lane_us": options.lane_us,
        "saturation_per_s": saturation,
        "accepted_per_s": len(good) / options.crowd_s,
        "offered_over_saturation": len(crowd) / options.crowd_s / saturation,
        "goodput_over_saturation": sum(one.latency_s <= options.deadline_ms / 1e3 for one in good)
        / options.crowd_s
        / saturation,
        "shed_share": sum(one.status == 503 for one in crowd) / len(crowd),
        "fallback_share": sum(one.fallback for one in crowd) / len(crowd),
        "neither_200_nor_503": sum(one.status not in (200, 503) for one in trial.outcomes),
        "calm_p50_ms": _quantile(_accepted(calm), 50) * 1e3,
        "calm_p99_ms": calm_p99 * 1e3,
        "crowd_p50_ms": _quantile(good, 50) * 1e3,
        "crowd_p99_ms": crowd_p99 * 1e3,
        "crowd_p99_over_calm": crowd_p99 / calm_p99 if calm_p99 else float("nan"),
        "same_rate_p99_ms": same_p99 * 1e3,
        "crowd_p99_over_same_rate": crowd_p99 / same_p99 if same_p99 else float("nan"),
        "generator_late_p99_ms": float(np.percentile([one.late_s for one in crowd], 99)) * 1e3,
        "score_kept_calm": _kept(_accepted(calm)),
        "score_kept_crowd": _kept(good),
        "redirected_crowd": float(np.mean([one.redirected for one in good])) if good else float("nan"),
        "ndcg_calm": _ndcg(calm),
        "ndcg_crowd": _ndcg(crowd),
        "recovery_s": recovery_s(trial.outcomes, options),
    }
    return row | {f"{step}_share": steps[step] / max(1, len(good)) for step in ("calm", "redirect", "economise")}


def _accepted(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [one for one in outcomes if one.accepted]


def _quantile(outcomes: Sequence[Outcome], percent: float) -> float:
    return float(np.percentile([one.latency_s for one in outcomes], percent)) if outcomes else float("nan")


def _kept(outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([one.score_kept for one in outcomes])) if outcomes else float("nan")


def _ndcg(outcomes: Sequence[Outcome]) -> float:
    """Mean gain of the lists that were given, popular ones of the fallback too; a refusal is no list."""
    gains = [one.gain for one in outcomes if one.status == 200]
    return float(np.mean(gains)) if gains else float("nan")
