"""Calm, a crowd of ten times the rate, calm again: what each policy answers, with and without the ladder.

Both services (ladder on, ladder off) run for the whole measurement and take turns, so that a disturbance of the machine
falls on both. The rates are relative to the saturation found at the start, and so are the results.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import msgspec
import numpy as np
import polars as pl
from rich.console import Console

from recsys.bench.open_loop import Outcome, closed_loop, connections, open_loop
from recsys.data.dataset import Dataset
from recsys.stack.local import LocalStack

Crowd = Literal["uniform", "one category"]
Row = dict[str, float | str]

CONNECTIONS = 512
BODIES = 2_000
BIN_S = 0.5
SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class BurstOptions:
    """The story; rates are relative to saturation."""

    policies: tuple[str, ...] = ("topk", "drop", "price")
    crowds: tuple[Crowd, ...] = ("uniform", "one category")
    calm_s: float = 10.0
    crowd_s: float = 30.0
    after_s: float = 15.0
    calm_share: float = 0.3
    times: float = 10.0
    in_crowd_share: float = 0.8
    deadline_ms: float = 300.0
    saturate_s: float = 5.0
    repeats: int = 1
    seed: int = 0

    @staticmethod
    def quick(policies: tuple[str, ...]) -> BurstOptions:
        """A look at it in about two minutes; no figures to quote."""
        return BurstOptions(policies=policies, calm_s=3.0, crowd_s=5.0, after_s=4.0, saturate_s=2.0)

    @property
    def seconds(self) -> float:
        """Of one trial."""
        return self.calm_s + self.crowd_s + self.after_s

    def rate_at(self, t_s: float, saturation: float) -> float:
        """Offered requests per second."""
        crowd = self.calm_s <= t_s < self.calm_s + self.crowd_s
        return self.calm_share * saturation * (self.times if crowd else 1.0)

    def phase(self, name: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Outcomes due in "calm", "crowd" or "after"."""
        start, end = {
            "calm": (0.0, self.calm_s),
            "crowd": (self.calm_s, self.calm_s + self.crowd_s),
            "after": (self.calm_s + self.crowd_s, self.seconds),
        }[name]
        return [one for one in outcomes if start <= one.due_s < end]


@dataclass(frozen=True, slots=True)
class Trial:
    """One policy in one crowd, with or without the ladder."""

    policy: str
    ladder: str
    crowd: Crowd
    repeat: int
    outcomes: list[Outcome]


@dataclass(frozen=True, slots=True)
class Questions:
    """Request bodies: of everybody, and of a crowd that wants one category."""

    calm: list[bytes]
    crowd: list[bytes]

    @staticmethod
    def of(world: Path, seed: int) -> Questions:
        """Users of a data set with their last interactions; the category is the most common one."""
        dataset = Dataset.load(world)
        category = dataset.items.explode("categories")["categories"].drop_nulls().mode().sort()[0]
        users = (
            dataset.interactions.group_by("user_id", maintain_order=True).agg(pl.col("item_id").tail(30)).head(BODIES)
        )
        bodies = [
            {"user_id": user, "history": items, "k": 10}
            for user, items in users.select("user_id", "item_id").iter_rows()
        ]
        random.Random(seed).shuffle(bodies)
        crowd = [{**body, "filters": {"categories_any": [category]}} for body in bodies]
        return Questions([msgspec.json.encode(b) for b in bodies], [msgspec.json.encode(b) for b in crowd])


async def run_burst(
    stacks: Mapping[str, LocalStack], questions: Questions, options: BurstOptions, console: Console
) -> tuple[float, list[Trial]]:
    """The rate of saturation (plain top-k, closed loop) and all trials; `stacks` by "on" and "off"."""
    saturation = await saturation_of(next(iter(stacks.values())), questions, options)
    console.print(f"Saturation: {saturation:.0f} answers/s")
    turns = [
        (repeat, crowd, policy, ladder)
        for repeat in range(options.repeats)
        for crowd in options.crowds
        for policy in options.policies
        for ladder in stacks
    ]
    trials = []
    with console.status("") as status:
        for turn, (repeat, crowd, policy, ladder) in enumerate(turns, start=1):
            status.update(f"{turn} of {len(turns)}: {policy}, ladder {ladder}, crowd {crowd}")
            stack = stacks[ladder]
            await _switch(stack, policy)
            outcomes = await one_trial(stack.base, questions, options, crowd, saturation)
            trials.append(Trial(policy, ladder, crowd, repeat, outcomes))
    return saturation, trials


async def saturation_of(stack: LocalStack, questions: Questions, options: BurstOptions) -> float:
    """Answers per second of plain top-k with always enough callers for a full micro-batch."""
    await _switch(stack, "topk")
    async with connections(stack.base, CONNECTIONS) as pool:
        await closed_loop(pool, questions.calm, callers=32, seconds=options.saturate_s / 2)  # warm
        return await closed_loop(pool, questions.calm, callers=32, seconds=options.saturate_s)


async def one_trial(
    base: str, questions: Questions, options: BurstOptions, crowd: Crowd, saturation: float
) -> list[Outcome]:
    """Outcomes of one story."""
    random_ = random.Random(options.seed)

    def body_at(t_s: float, asked: int) -> bytes:
        hot = crowd == "one category" and options.calm_s <= t_s < options.calm_s + options.crowd_s
        bodies = questions.crowd if hot and random_.random() < options.in_crowd_share else questions.calm
        return bodies[asked % len(bodies)]

    async with connections(base, CONNECTIONS) as pool:
        return await open_loop(
            pool,
            lambda t_s: options.rate_at(t_s, saturation),
            body_at,
            seconds=options.seconds,
            deadline_ms=options.deadline_ms,
        )


def rows_of(trials: Sequence[Trial], saturation: float, options: BurstOptions) -> list[Row]:
    """One row per trial."""
    return [_row(trial, saturation, options) for trial in trials]


def recovery_s(outcomes: Sequence[Outcome], options: BurstOptions) -> float:
    """Time after the crowd until all is well for good: everything answered, p99 at most twice that of the calm."""
    bound_s = 2 * _quantile(_accepted(options.phase("calm", outcomes)), 99)
    ended_s = options.calm_s + options.crowd_s
    unwell = [
        one.due_s + BIN_S
        for one in options.phase("after", outcomes)
        if one.status != 200 or one.fallback or one.latency_s > max(bound_s, options.deadline_ms / 1e3)
    ]
    return max(unwell, default=ended_s) - ended_s


def _row(trial: Trial, saturation: float, options: BurstOptions) -> Row:
    row: Row = {"policy": trial.policy, "ladder": trial.ladder, "crowd": trial.crowd, "repeat": trial.repeat}
    calm, crowd = (options.phase(name, trial.outcomes) for name in ("calm", "crowd"))
    good = _accepted(crowd)
    calm_p99, crowd_p99 = _quantile(_accepted(calm), 99), _quantile(good, 99)
    steps = Counter(one.step for one in good)
    row |= {
        "saturation_per_s": saturation,
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
        "score_kept_calm": _kept(_accepted(calm)),
        "score_kept_crowd": _kept(good),
        "recovery_s": recovery_s(trial.outcomes, options),
    }
    return row | {f"{step}_share": steps[step] / max(1, len(good)) for step in ("calm", "redirect", "economise")}


def _accepted(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [one for one in outcomes if one.status == 200 and not one.fallback]


def _quantile(outcomes: Sequence[Outcome], percent: float) -> float:
    return float(np.percentile([one.latency_s for one in outcomes], percent)) if outcomes else float("nan")


def _kept(outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([one.score_kept for one in outcomes])) if outcomes else float("nan")


async def _switch(stack: LocalStack, policy: str) -> None:
    """Ask for a policy and wait until the engine routes by it and has gone back to calm."""
    async with httpx.AsyncClient(base_url=stack.base, headers={"X-Api-Key": stack.admin_key}, timeout=10) as http:
        (await http.put("/v1/router", json={"policy": policy})).raise_for_status()
        async with asyncio.timeout(30):
            while True:
                await asyncio.sleep(SETTLE_S / 4)
                last = (await http.get("/v1/experts?window_s=5")).json()["snapshots"][-1]
                if (last["policy"], last["step"], last["queue"]) == (policy, "calm", 0):
                    return
