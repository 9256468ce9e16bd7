"""The burst: requests start when they are due, and the figures are those of what happened."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import polars as pl
import pytest

from recsys.bench.burst import (
    Arm,
    BurstOptions,
    Question,
    Questions,
    Trial,
    arms,
    at_accepted_rate,
    crowds_of,
    gain,
)
from recsys.bench.burst_rows import recovery_s, rows_of
from recsys.bench.open_loop import Outcome, closed_loop, connections, open_loop
from recsys.data.dataset import Dataset
from recsys.errors import InputError

OPTIONS = BurstOptions(calm_s=2.0, crowd_s=2.0, after_s=2.0, calm_share=0.5, times=4.0, deadline_ms=100.0)
ANSWER = b'{"degraded": {"step": "redirect", "score_kept": 0.9}, "fallback": null, "items": [{"item_id": "i7"}]}'


class Server:
    """Answers 200 but for bodies that say otherwise; holds the answer to "slow" until `release` is set."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.release = asyncio.Event()
        self._serving: list[asyncio.Task[None] | None] = []

    async def ended(self) -> None:
        """All connections are closed."""
        await asyncio.gather(*(task for task in self._serving if task))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.append(asyncio.current_task())
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
                body = await reader.readexactly(length)
                self.seen.append(body)
                if body == b"break":
                    break
                if body == b"slow":
                    await self.release.wait()
                status = b"503 Busy" if body == b"busy" else b"200 OK"
                writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(ANSWER), ANSWER))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


def test_requests_start_when_they_are_due_although_the_first_is_not_back() -> None:
    async def run() -> list[Outcome]:
        server = Server()
        bodies = [b"slow", b"fine", b"busy", b"break", b"last"]

        def body_at(due_s: float, asked: int) -> bytes:
            if bodies[asked] == b"last":
                server.release.set()
            return bodies[asked]

        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with listening:
            async with connections(f"http://127.0.0.1:{port}", 8) as pool:
                found = await open_loop(pool, lambda _: 50.0, body_at, seconds=0.099, deadline_ms=100)
            await server.ended()
        assert len(server.seen) == 5
        return found

    found = asyncio.run(run())
    assert [one.status for one in found] == [200, 200, 503, 0, 200]
    assert [round(one.due_s, 3) for one in found] == [0.0, 0.02, 0.04, 0.06, 0.08]
    assert found[0].latency_s >= 0.075  # held until the last was sent, counted from when it was due
    assert (found[1].step, found[1].score_kept, found[1].fallback, found[1].items) == ("redirect", 0.9, False, ("i7",))


def test_a_closed_loop_counts_answers() -> None:
    async def run() -> float:
        server = Server()
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with listening:
            async with connections(f"http://127.0.0.1:{port}", 8) as pool:
                rate = await closed_loop(pool, [b"a", b"b"], callers=4, seconds=0.2)
            await server.ended()
        return rate

    assert asyncio.run(run()) > 0


def test_the_offered_rate_has_a_crowd_in_the_middle() -> None:
    assert [OPTIONS.rate_at(t, 100) for t in (0, 1.99, 2, 3.99, 4, 6)] == [50, 50, 200, 200, 50, 50]


def outcomes() -> list[Outcome]:
    """10/s in calm, 100/s in the crowd of which every other is refused, 10/s after with one late answer."""
    calm = [Outcome(n / 10, 0.010, 200, "calm") for n in range(20)]
    crowd = [Outcome(2 + n / 100, 0.020, 503 if n % 2 else 200, "" if n % 2 else "economise", 0.8) for n in range(200)]
    after = [Outcome(4 + n / 10, 0.5 if n == 3 else 0.010, 200, "calm") for n in range(20)]
    return calm + crowd + after


def test_a_row_says_what_happened_in_the_crowd() -> None:
    (row,) = rows_of([Trial("price", "on", "uniform", 0, outcomes())], 100.0, OPTIONS)
    assert row["offered_over_saturation"] == pytest.approx(1.0)
    assert row["goodput_over_saturation"] == pytest.approx(0.5)
    assert row["shed_share"] == pytest.approx(0.5)
    assert row["neither_200_nor_503"] == 0
    assert row["crowd_p99_over_calm"] == pytest.approx(2.0)
    assert row["score_kept_crowd"] == pytest.approx(0.8)
    assert (row["economise_share"], row["calm_share"]) == (1.0, 0.0)
    assert row["recovery_s"] == pytest.approx(0.8)  # the late answer of 4.3 s, to the end of half a second


def test_rows_stand_beside_padded_topk_and_beside_drop() -> None:
    half = [one for n, one in enumerate(outcomes()) if n % 2 == 0 or one.due_s < 2]
    kept = [replace(one, score_kept=0.9) for one in outcomes()]
    trials = [
        Trial("topk-padded", "off", "uniform", 0, [replace(one, status=503) if one.due_s > 3 else one for one in kept]),
        Trial("drop", "on", "uniform", 0, half),
        Trial("price", "on", "uniform", 0, kept),
        Trial("price", "on", "one category", 0, kept),
    ]
    padded, drop, price, alone = rows_of(trials, 100.0, OPTIONS)
    assert price["answers_over_padded"] == pytest.approx(
        float(price["accepted_per_s"]) / float(padded["accepted_per_s"])
    )
    assert float(price["answers_over_padded"]) > 1
    assert price["score_kept_over_drop"] == pytest.approx(0.1)
    assert drop["score_kept_over_drop"] == 0
    assert math.isnan(float(alone["answers_over_padded"]))


def test_padded_experts_are_a_service_of_their_own_without_the_ladder() -> None:
    found = arms(("topk-padded", "price"), ("on", "off"))
    assert found == (Arm("topk-padded", "off"), Arm("price", "on"), Arm("price", "off"))
    assert [(arm.service, arm.routed_by) for arm in found] == [
        ("topk-padded", "topk"),
        ("on", "price"),
        ("off", "price"),
    ]


def test_all_well_after_the_crowd_is_no_time_at_all() -> None:
    assert recovery_s([o for o in outcomes() if o.latency_s < 0.5], OPTIONS) == 0


def test_a_list_is_worth_what_came_next() -> None:
    given = Outcome(0.0, 0.01, 200, items=("a", "b", "c"))
    assert [gain(given, item) for item in "abcd"] == pytest.approx([1.0, 0.63093, 0.5, 0.0], abs=1e-5)
    told = [replace(one, gain=0.5) for one in outcomes()]
    (row,) = rows_of([Trial("price", "on", "uniform", 0, told)], 100.0, OPTIONS)
    assert (row["ndcg_calm"], row["ndcg_crowd"]) == (0.5, 0.5), "refusals are not lists"


def test_questions_are_those_before_the_interaction_that_training_never_saw(tiny_world: Path) -> None:
    questions = Questions.of(tiny_world, seed=0)
    data = Dataset.load(tiny_world)
    last = dict(data.interactions.group_by("user_id", maintain_order=True).agg(pl.col("item_id").last()).iter_rows())
    categories = dict(data.items.select("item_id", "categories").iter_rows())
    for question in questions.calm:
        body = msgspec.json.decode(question.body)
        assert body["history"]
        assert question.next_item == last[body["user_id"]]
        assert question.next_item not in body["history"]
    calm = {question.next_item: msgspec.json.decode(question.body) for question in questions.calm}
    wanted = set()
    for question in questions.crowd:
        body = msgspec.json.decode(question.body)
        (category,) = body.pop("filters")["categories_any"]
        wanted.add(category)
        assert category in categories[question.next_item]
        assert body.keys() == calm[question.next_item].keys()
    assert len(wanted) == 1
    assert len(questions.crowd) < len(questions.calm)


def test_the_crowd_is_held_against_the_same_rate_without_a_crowd() -> None:
    same = [Outcome(n / 50, 0.016, 200, "calm") for n in range(100)]
    (row,) = rows_of([Trial("price", "on", "uniform", 0, outcomes(), same)], 100.0, OPTIONS)
    assert row["same_rate_p99_ms"] == pytest.approx(16)
    assert row["crowd_p99_over_same_rate"] == pytest.approx(1.25)


def test_the_same_rate_is_that_of_the_answers_in_the_crowd() -> None:
    async def run() -> tuple[list[Outcome], list[bytes]]:
        server = Server()
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        asked = Questions([Question(b"calm", "")], [Question(b"crowd", "")])
        options = replace(OPTIONS, same_rate_s=0.199, in_crowd_share=1.0)
        async with listening:
            found = await at_accepted_rate(f"http://127.0.0.1:{port}", asked, options, "one category", outcomes())
            await server.ended()
        return found, server.seen

    found, seen = asyncio.run(run())
    assert len(found) == 10  # 50 of 100 per second were answered
    assert set(seen) == {b"crowd"}
    assert all(one.late_s <= one.latency_s for one in found)


def test_kinds_of_crowd_have_names() -> None:
    assert crowds_of(["one category"]) == ("one category",)
    with pytest.raises(InputError, match="'rush' is not one of uniform, one category"):
        crowds_of(["rush"])
