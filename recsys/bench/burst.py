"""Calm, a crowd of ten times the rate, calm again: what each policy answers, with and without the ladder.

Both services (ladder on, ladder off) run for the whole measurement and take turns, so that a disturbance of the machine
falls on both. The rates are relative to the saturation found at the start, and so are the results. Every question is
that of a user before an interaction that was kept from training, so the answers can be held against what came next.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import httpx
import msgspec
import polars as pl
from rich.console import Console

from recsys.bench.open_loop import Outcome, closed_loop, connections, open_loop
from recsys.collector import not_collecting
from recsys.data.dataset import Dataset
from recsys.data.splits import leave_one_out
from recsys.errors import InputError

Crowd = Literal["uniform", "one category"]
CONNECTIONS = 512
QUESTIONS = 2_000
HISTORY = 50
K = 10
BIN_S = 0.5
PADDED = "topk-padded"  # plain top-k where the step pays for the fullest expert
POLICIES = (PADDED, "topk", "drop", "price")
SETTLE_S = 2.0


class Service(NamedTuple):
    """A running service and its admin key."""

    base: str
    admin_key: str


class Arm(NamedTuple):
    """What is compared: a policy, with the ladder "on" or "off"."""

    policy: str
    ladder: str

    @property
    def service(self) -> str:
        """Name of the service that it needs: services differ in their ladder and in the form of the experts."""
        return PADDED if self.policy == PADDED else self.ladder

    @property
    def routed_by(self) -> str:
        """The policy's name in the service."""
        return "topk" if self.policy == PADDED else self.policy


def arms(policies: Sequence[str], ladders: Sequence[str]) -> tuple[Arm, ...]:
    """Every policy with every ladder; padded experts without it, since they are a form that is compared with."""
    found = (Arm(policy, "off" if policy == PADDED else ladder) for policy in policies for ladder in ladders)
    return tuple(dict.fromkeys(found))


def crowds_of(names: Sequence[str]) -> tuple[Crowd, ...]:
    """Kinds of crowd by name.

    Raises:
        InputError: there is none of that name.
    """
    known = get_args(Crowd)
    if wrong := [name for name in names if name not in known]:
        raise InputError(f"crowds: {wrong[0]!r} is not one of {', '.join(known)}", field="crowds")
    return tuple(known[known.index(name)] for name in names)


def calm_share_of(lane_us: float) -> float:
    """Usual rate in calm over saturation: ten times it should be more than any arm can answer.

    Saturation is asked of everybody. A crowd of one category has fewer candidates, and its time falls with them most
    where each expert has a device.
    """
    return 0.6 if lane_us else 0.3


@dataclass(frozen=True, slots=True)
class BurstOptions:
    """The story; rates are relative to saturation.

    `lane_us`: microseconds a slot takes on the emulated device of its expert; 0: all experts share one device.
    """

    arms: tuple[Arm, ...] = arms(POLICIES, ("on", "off"))
    crowds: tuple[Crowd, ...] = ("uniform", "one category")
    calm_s: float = 5.0
    crowd_s: float = 15.0
    after_s: float = 5.0
    calm_share: float = calm_share_of(0.0)
    times: float = 10.0
    in_crowd_share: float = 0.8
    deadline_ms: float = 300.0
    saturate_s: float = 5.0
    same_rate_s: float = 5.0
    repeats: int = 1
    seed: int = 0
    lane_us: float = 0.0

    @staticmethod
    def quick(arms: tuple[Arm, ...]) -> BurstOptions:
        """A look at it in about two minutes; no figures to quote."""
        return BurstOptions(arms=arms, calm_s=3.0, crowd_s=5.0, after_s=4.0, saturate_s=2.0, same_rate_s=2.0)

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


class Question(NamedTuple):
    """A request, and the item its user really took next."""

    body: bytes
    next_item: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One policy in one crowd, with or without the ladder.

    `same_rate` is a load without a crowd: the same questions at the rate that was answered in the crowd, and no more.
    """

    policy: str
    ladder: str
    crowd: Crowd
    repeat: int
    outcomes: list[Outcome]
    same_rate: list[Outcome] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Questions:
    """Of everybody, and of a crowd of those who next took something of one category, and ask for it."""

    calm: list[Question]
    crowd: list[Question]

    @staticmethod
    def of(world: Path, seed: int) -> Questions:
        """Users of a data set with their interactions before the last one, the one that `leave_one_out` keeps.

        The category is the most common one among those last interactions.

        Raises:
            InputError: nobody has two interactions, or nothing has a category.
        """
        dataset = Dataset.load(world)
        categories = dict(dataset.items.select("item_id", "categories").iter_rows())
        parts = leave_one_out(dataset.interactions)
        histories = parts.train.group_by("user_id", maintain_order=True).agg(pl.col("item_id").tail(HISTORY))
        taken = parts.test.filter(pl.col("kind") != "hide").select("user_id", next_item="item_id")
        known = histories.join(taken, on="user_id", maintain_order="left")
        # an item that was met before is left out of answers, so nobody could foretell it
        rows = [row for row in known.iter_rows() if row[2] not in row[1]]
        random.Random(seed).shuffle(rows)
        counts = Counter(category for row in rows for category in categories.get(row[2]) or ())
        if not counts:
            raise InputError(f"{world}: no user's last item has a category", field="world")
        hot = min(counts, key=lambda name: (-counts[name], name))
        calm, crowd = [], []
        for user, items, next_item in rows[:QUESTIONS]:
            body = {"user_id": user, "history": items, "k": K}
            calm.append(Question(msgspec.json.encode(body), next_item))
            if hot in (categories.get(next_item) or ()):
                body["filters"] = {"categories_any": [hot]}
                crowd.append(Question(msgspec.json.encode(body), next_item))
        return Questions(calm, crowd or calm)


async def run_burst(
    services: Mapping[str, Service], questions: Questions, options: BurstOptions, console: Console
) -> tuple[float, list[Trial]]:
    """The rate of saturation (plain top-k, closed loop) and all trials; `services` by the arms' `service`."""
    plain = services.get("off", next(iter(services.values())))  # of whole answers, if one is there to give them
    saturation = await saturation_of(plain, questions, options)
    console.print(f"Saturation: {saturation:.0f} answers/s")
    turns = [
        (repeat, crowd, arm) for repeat in range(options.repeats) for crowd in options.crowds for arm in options.arms
    ]
    trials = []
    with console.status("") as status:
        for turn, (repeat, crowd, arm) in enumerate(turns, start=1):
            status.update(f"{turn} of {len(turns)}: {arm.policy}, ladder {arm.ladder}, crowd {crowd}")
            service = services[arm.service]
            await switch(service, arm.routed_by, options.lane_us)
            with not_collecting():  # a look through all outcomes would make the load late by a tenth of a second
                outcomes = await one_trial(service.base, questions, options, crowd, saturation)
            await switch(service, arm.routed_by, options.lane_us)
            with not_collecting():
                same = await at_accepted_rate(service.base, questions, options, crowd, outcomes)
            trials.append(Trial(arm.policy, arm.ladder, crowd, repeat, outcomes, same))
    return saturation, trials


async def saturation_of(service: Service, questions: Questions, options: BurstOptions) -> float:
    """Answers per second of plain top-k with always enough callers for a full micro-batch."""
    await switch(service, "topk", options.lane_us)
    bodies = [question.body for question in questions.calm]
    async with connections(service.base, CONNECTIONS) as pool:
        await closed_loop(pool, bodies, callers=32, seconds=options.saturate_s / 2)  # warm
        return await closed_loop(pool, bodies, callers=32, seconds=options.saturate_s)


async def one_trial(
    base: str, questions: Questions, options: BurstOptions, crowd: Crowd, saturation: float
) -> list[Outcome]:
    """Outcomes of one story, each with its gain: what the list was worth to who asked."""
    asked, next_items = _Asker(questions, options, crowd), list[str]()

    def body_at(t_s: float, turn: int) -> bytes:
        question = asked.at(t_s, turn)
        next_items.append(question.next_item)
        return question.body

    async with connections(base, CONNECTIONS) as pool:
        outcomes = await open_loop(
            pool,
            lambda t_s: options.rate_at(t_s, saturation),
            body_at,
            seconds=options.seconds,
            deadline_ms=options.deadline_ms,
        )
    return [replace(one, gain=gain(one, item)) for one, item in zip(outcomes, next_items, strict=True)]


async def at_accepted_rate(
    base: str, questions: Questions, options: BurstOptions, crowd: Crowd, outcomes: Sequence[Outcome]
) -> list[Outcome]:
    """What the crowd's questions get when no more are asked than were answered in it."""
    rate = sum(one.accepted for one in options.phase("crowd", outcomes)) / options.crowd_s
    if not rate:
        return []
    asked = _Asker(questions, options, crowd)
    async with connections(base, CONNECTIONS) as pool:
        return await open_loop(
            pool,
            lambda _: rate,
            lambda t_s, turn: asked.at(options.calm_s, turn).body,
            seconds=options.same_rate_s,
            deadline_ms=options.deadline_ms,
        )


class _Asker:
    """Draws questions: in the crowd, a share from those who want one category."""

    def __init__(self, questions: Questions, options: BurstOptions, crowd: Crowd) -> None:
        self._questions, self._options, self._crowd = questions, options, crowd
        self._random = random.Random(options.seed)

    def at(self, t_s: float, turn: int) -> Question:
        options = self._options
        hot = self._crowd == "one category" and options.calm_s <= t_s < options.calm_s + options.crowd_s
        mostly = hot and self._random.random() < options.in_crowd_share
        among = self._questions.crowd if mostly else self._questions.calm
        return among[turn % len(among)]


def gain(outcome: Outcome, next_item: str) -> float:
    """NDCG@10 of one list: 1 / log2(1 + rank) of the item that its user took next, 0 where it is not in it."""
    return 1 / math.log2(2 + outcome.items.index(next_item)) if next_item in outcome.items else 0.0


async def switch(service: Service, policy: str, lane_us: float = 0.0) -> None:
    """Ask for a policy and a lane time and wait until every engine has them and has gone back to calm.

    Raises:
        InputError: the service does not know the policy, or not this key.
    """
    headers = {"X-Api-Key": service.admin_key}
    async with httpx.AsyncClient(base_url=service.base, headers=headers, timeout=10) as http:
        answer = await http.put("/v1/router", json={"policy": policy, "lane_us": lane_us})
        if answer.is_error:
            raise InputError(f"{service.base}/v1/router: {answer.text}", field="policy")
        async with asyncio.timeout(30):
            while True:
                await asyncio.sleep(SETTLE_S / 4)
                last = (await http.get("/v1/experts?window_s=5")).json()["snapshots"][-1]
                found = (last["policy"], last["lane_us"], last["step"], last["queue"])
                if found == (policy, lane_us, "calm", 0):
                    return
