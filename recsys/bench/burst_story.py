"""`recsys burst`: one crowd under each policy in turn, as a table, a csv file and a picture.

`recsys bench burst` asks the same questions in the same way, of every policy with and without the ladder, in two kinds
of crowd and as often as wanted; here is the short form that anybody can run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from recsys.bench.burst import PADDED, Arm, BurstOptions, Questions, Service, calm_share_of, run_burst
from recsys.bench.burst_plots import plot_burst
from recsys.bench.burst_rows import Row, rows_of
from recsys.bench.commands import add_to_csv, burst_services
from recsys.bench.machine import machine
from recsys.errors import InputError, UnavailableError
from recsys.stack.bootstrap import ensure_model, ensure_world, short

AS_IT_RUNS = "as it runs"
TABLE_WIDTH = 130
COLUMNS = (
    ("calm_p99_ms", "p99 calm, ms", "{:.0f}"),
    ("crowd_p99_ms", "p99 crowd, ms", "{:.0f}"),
    ("goodput_per_s", "in time, answers/s", "{:.0f}"),
    ("shed_share", "shed", "{:.0%}"),
    ("redirected_crowd", "redirected", "{:.1%}"),
    ("score_kept_crowd", "score kept", "{:.1%}"),
    ("ndcg_calm", "NDCG@10 calm", "{:.3f}"),
    ("ndcg_crowd", "NDCG@10 crowd", "{:.3f}"),
    ("recovery_s", "well again after, s", "{:.1f}"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryOptions:
    """What `recsys burst` can be told.

    Attributes:
        arms: `policy` or `policy:off`, which is without the ladder.
        folder: with the world and the model of `recsys demo`; made if they are not there.
        api: base URL of a running service to ask instead of one of our own; it must serve that world.
        key: its admin key.
        repeats: rounds.
        quick: short phases.
        lane_us: microseconds a slot takes on the emulated device of its expert; 0: all experts share one device.
        out: folder for burst.csv, burst.md and burst.png.

    Raises:
        InputError: an arm that makes no sense.
    """

    arms: tuple[str, ...] = ("topk:off", "topk", "drop", "price")
    folder: Path = Path("var/demo")
    api: str = ""
    key: str = "demo"
    repeats: int = 1
    quick: bool = False
    lane_us: float = 0.0
    out: Path = Path("var/burst")

    def compared(self) -> tuple[Arm, ...]:
        """The arms, read."""
        found = []
        for text in self.arms:
            policy, _, ladder = text.strip().partition(":")
            if not policy or ladder not in ("", "on", "off"):
                raise InputError(f"--arms: {text!r} is not POLICY or POLICY:off", field="arms")
            if self.api and policy == PADDED:
                raise InputError(f"--arms: {PADDED} is a kind of engine, not a policy of a running one", field="arms")
            if self.api and ladder:
                raise InputError(f"--arms: {text!r}: the ladder of a running service stays as it is", field="arms")
            found.append(Arm(policy, AS_IT_RUNS if self.api else ladder or "on"))
        return tuple(found)

    def burst(self) -> BurstOptions:
        """What is run: one kind of crowd, under each of the arms."""
        arms = self.compared()
        burst = BurstOptions.quick(arms) if self.quick else BurstOptions(arms, calm_s=10, crowd_s=20, after_s=10)
        return replace(
            burst,
            crowds=("one category",),
            repeats=self.repeats,
            lane_us=self.lane_us,
            calm_share=calm_share_of(self.lane_us),
        )


def tell_story(options: StoryOptions, console: Console) -> list[Row]:
    """Run every arm, print the table, and write csv, markdown and picture.

    Raises:
        InputError: a wrong option, or a policy that the service does not know.
        UnavailableError: the service does not come up, or does not answer.
    """
    story = options.burst()
    with _services(options, story.arms, console) as services:
        questions = Questions.of(options.folder / "world", story.seed)
        try:
            saturation, trials = asyncio.run(run_burst(services, questions, story, console))
        except httpx.HTTPError as error:
            raise UnavailableError(f"the service is lost: {error}") from error
    rows = [
        row | {"goodput_per_s": float(row["goodput_over_saturation"]) * saturation}
        for row in rows_of(trials, saturation, story)
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    add_to_csv(rows, options.out / "burst.csv", replace=True)
    (options.out / "burst.md").write_text(markdown(rows, story, saturation))
    plot_burst(trials, saturation, story, options.out / "burst.png")
    Console(width=max(console.width, TABLE_WIDTH)).print(_table(rows))
    console.print(f"Written: {short(options.out.resolve())}/burst.csv, burst.md, burst.png")
    return rows


def markdown(rows: Sequence[Row], story: BurstOptions, saturation: float) -> str:
    """The table with what it needs to be understood."""
    calm, crowd = (story.rate_at(t, saturation) for t in (0.0, story.calm_s))
    devices = f"One emulated device per expert, {story.lane_us:g} µs a slot. " if story.lane_us else ""
    lines = [
        f"{devices}Calm at {calm:.0f} requests/s, a crowd of {crowd:.0f} requests/s for {story.crowd_s:g} s of whom "
        f"{story.in_crowd_share:.0%} want one category, calm again; plain top-k saturates at {saturation:.0f}/s. "
        f"In time: within {story.deadline_ms:g} ms of when the request was due. NDCG@10: of the lists given, against "
        "the item that each user took next, which training never saw; in the crowd most questions ask within one "
        "category, where the next item is easier to find, so compare within a column.",
        "",
        "| policy | ladder | " + " | ".join(name for _, name, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    lines += ["", "  ".join(f"{name} {value}" for name, value in machine().items())]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> Table:
    table = Table("policy", "ladder", *(name for _, name, _ in COLUMNS), title="A crowd of ten times the rate")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    return [str(row["policy"]), str(row["ladder"]), *(form.format(row[name]) for name, _, form in COLUMNS)]


@contextmanager
def _services(options: StoryOptions, arms: Sequence[Arm], console: Console) -> Iterator[dict[str, Service]]:
    """The running service that was named, left as it was found, or services of our own for the ladders asked for."""
    world, model = options.folder / "world", options.folder / "model"
    if options.api:
        service = Service(options.api.rstrip("/"), options.key)
        before = _router(service.base)
        try:
            yield {AS_IT_RUNS: service}
        finally:
            headers = {"X-Api-Key": service.admin_key}
            httpx.put(f"{service.base}/v1/router", json=before, headers=headers)
        return
    ensure_world(world, console)
    ensure_model(model, world, console)
    with burst_services(world, model, list(dict.fromkeys(arm.service for arm in arms)), console) as services:
        yield services


def _router(base: str) -> dict[str, object]:
    try:
        stands = httpx.get(f"{base}/v1/router", timeout=5).raise_for_status().json()
        return {name: stands[name] for name in ("policy", "lane_us")}
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError) as error:
        raise UnavailableError(f"{base}/v1/router: {error or 'no answer'}") from error
