"""What the load says, in one sentence that needs no chart to be understood; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

HOT = 1.75  # × mean from which an expert's demand counts as a crowd
WORTH_SAYING = 0.005  # share of redirected slots, or of queries shed, below which nothing is said of it
UNDER_LOAD = {  # titles that would contradict refusals, by mood
    "quiet": "Overload: no query reaches an expert",
    "calm": "Overload, and work is even",
    "uneven": "Overload, though the experts have room",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The present in words and in the numbers that the words use."""

    mood: str  # `quiet`, `calm`, `uneven`, `balanced` or `overrun`
    title: str
    text: str
    hot: tuple[int, ...] = ()
    wanted: float = 0.0  # demand of the busiest expert, × mean
    worked: float = 0.0  # served load of the busiest expert, × its mean
    redirected: float = 0.0  # share of served slots
    score_kept: float = 1.0


def tell(now: pl.DataFrame, *, score_kept: float) -> Story:
    """Describe `frames.load_now`.

    Args:
        now: load per expert.
        score_kept: gate score of the routes used, relative to the unconstrained ones.
    """
    if now.is_empty() or now["demand"].sum() <= 0:
        return Story(mood="quiet", title="No traffic", text="The engine is up and nobody asks it anything.")
    wanted = float(now["demand_x"].max() or 0.0)  # type: ignore[arg-type]
    served = now["served"]
    mean = float(served.sum()) / len(served)
    worked = float(served.max()) / mean if mean > 0 else 0.0  # type: ignore[arg-type]
    redirected = float(now["moved_in"].sum()) / max(float(served.sum()), 1e-9)
    hot = tuple(now.filter(pl.col("demand_x") >= HOT).sort("demand_x", descending=True)["expert"].to_list()[:3])
    told = Story(
        mood="calm",
        title="Calm",
        text=f"Wishes are spread well: the busiest expert is wanted {wanted:.1f}× the mean and works {worked:.1f}×.",
        hot=hot,
        wanted=wanted,
        worked=worked,
        redirected=redirected,
        score_kept=score_kept,
    )
    if hot:
        names, are = _names(hot), "is" if len(hot) == 1 else "are"
        leads, works = ("leads", "works") if len(hot) == 1 else ("lead", "work")
        crowd = f"{names[0].upper()}{names[1:]} {are} wanted up to {wanted:.1f}× the mean"
        wished = now.filter(pl.col("expert").is_in(hot))
        room = float((wished["capacity"] / wished["demand"]).min() or 0.0)  # type: ignore[arg-type]
        even = worked < max(HOT, 0.6 * wanted)
        if room >= 1 and not (even and redirected >= WORTH_SAYING):
            moves = "nothing has to move" if redirected < WORTH_SAYING else "little of it has to move"
            text = f"{crowd}, and {works} {worked:.1f}×. There is room for that, so {moves}."
            told = replace(told, mood="uneven", title=f"Uneven, with room: {names} {leads}", text=text)
        elif even:
            title, text = f"Crowd on {names}, work stays even", f"{crowd}; no expert works more than {worked:.2f}×."
            told = replace(told, mood="balanced", title=title, text=text)
        else:
            title, text = f"Crowd on {names}, work piles up", f"{crowd} and must work {worked:.1f}× while others wait."
            told = replace(told, mood="overrun", title=title, text=text)
    if redirected >= WORTH_SAYING:
        moved = f" {redirected:.0%} of the work was redirected; {score_kept:.1%} of the gate score is kept."
        told = replace(told, text=told.text + moved)
    return told


def shedding(told: Story, shed: float) -> Story:
    """The same while that share of the queries is refused: engines may be well because the API spares them."""
    if shed < WORTH_SAYING:
        return told
    refused = f"{shed:.0%} of the queries are shed."
    text = refused if told.mood == "quiet" else f"{told.text} {refused}"
    return replace(told, title=UNDER_LOAD.get(told.mood, told.title), text=text)


def guide(phase: str, *, policy: str, lane_us: float) -> str:
    """What to look at in a load run with a crowd, and what to do next.

    Args:
        phase: `burst.Plan.phase_at`.
        policy: that routes now.
        lane_us: microseconds a slot takes on the emulated device of its expert; 0: all experts share one.
    """
    if phase in ("before", "running"):
        return "Calm. Wishes change from query to query, and no expert stands out for long."
    if phase != "during":
        return "The crowd is gone. The report compares what it met."
    if policy != "topk":
        return (
            "The crowd lights up few experts on the left; on the right their work is spread over the others. "
            "**Now flip to plain top-k** and watch p99."
        )
    if not lane_us:
        return (
            "Plain top-k: the right picture is the left one. All experts share one device here, so that costs little. "
            "**Flip back**, and try a run with one device per expert."
        )
    return (
        "Plain top-k: the right picture is the left one, and every step waits for its fullest expert. p99 rises. "
        "**Flip back** and see it fall."
    )


def _names(experts: tuple[int, ...]) -> str:
    names = [f"expert {e}" if i == 0 else str(e) for i, e in enumerate(experts)]
    if len(names) > 1:
        names[0] = names[0].replace("expert", "experts")
        return ", ".join(names[:-1]) + " and " + names[-1]
    return names[0]
