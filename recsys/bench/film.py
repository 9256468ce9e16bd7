"""The board in the same crowd under two policies, filmed: a real run, one screenshot a second, one above the other.

Needs Chromium, Playwright and Pillow (`pip install --group dev`). Each policy gets a service of its own, so that its
board remembers nothing of the other's crowd. Each expert has an emulated device: on one that all share, a skewed crowd
costs plain top-k little, and the film would show work that moves for nothing.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from rich.console import Console
from rich.progress import track

from recsys.bench.open_loop import closed_loop, connections
from recsys.errors import UnavailableError
from recsys.stack.local import LocalStack
from recsys.stack.processes import python
from recsys.stack.redis_server import free_port

if TYPE_CHECKING:
    from PIL.Image import Image
    from playwright.sync_api import Page

WINDOW = {"width": 1180, "height": 800}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
EMULATED_FOR_S = 900.0
CAPTION_PX = 34
FRAME_MS, LAST_FRAME_MS = 280, 2_500
COLOURS, PALETTE_FRAMES = 96, 6
BOARD_WITHIN_S = 60
LATE_S = 0.5  # a shot that would come later is left out, and the one before stands for it
LEFT_OUT_MAX = 0.35  # share of the shots
HEAT_MAPS = ".st-key-picture [data-testid=stVegaLiteChart]"  # the first two charts
EMULATED = " · emulated: one device per expert, {:g} ms a slot"  # the font has no µ
CROWD_SHARE = 0.9  # of what one caller gets from `price`: more than plain top-k can do, whose steps wait for one expert
ASK_S, TURNS, USERS = 2.0, 4, 200
# However long the headline's sentences get, the charts stay where the camera is.
STEADY = ".st-key-head { height: 84px; flex: none !important; overflow: hidden } .story p { height: 3.2em }"
SWATCH_PX = 24
HOTTEST = ["#6ece58", "#b5de2b", "#fde725"]  # the upper end of the heat maps' scale


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmOptions:
    """What is filmed; lengths in seconds, rates in requests per second.

    Attributes:
        policies: from the top to the bottom, each with its caption.
        rate: in calm; ten times as many in the crowd, which is `CROWD_SHARE` of full effort where None is given.
        lane_us: microseconds a slot takes on the emulated device of its expert; 0: all share one.
        category: that the crowd wants; empty = drawn by popularity.
        before_s: calm that is not filmed, so that the board has something to show.
        calm_s: calm that is.
        crowd_s: the crowd.
        after_s: calm again.
        width: of the picture, pixels.
    """

    policies: tuple[tuple[str, str], ...] = (
        ("topk", "plain top-k: work goes where it is wished for"),
        ("price", "price: work moves to less burdened experts"),
    )
    rate: float | None = None
    lane_us: float = 60.0
    category: str = ""
    before_s: float = 40.0
    calm_s: float = 4.0
    crowd_s: float = 24.0
    after_s: float = 8.0
    width: int = 900

    @property
    def duration_s(self) -> float:
        """Of the load: calm before and after the crowd are equally long there."""
        return 2 * (self.before_s + self.calm_s) + self.crowd_s


def film(
    service: Callable[[], AbstractContextManager[LocalStack]],
    tastes: Path,
    out: Path,
    options: FilmOptions,
    console: Console,
) -> None:
    """Film every policy in turn and write the animation (GIF) to `out`.

    Args:
        service: starts a service with a filled catalogue.
        tastes: the world's `tastes.json`.
        out: file to write.
        options: of the film.
        console: where progress is shown.

    Raises:
        UnavailableError: there is no Chromium, or something does not come up.
    """
    if options.rate is None:
        with service() as stack:  # of its own: the films show the last two minutes
            _switch(stack, policy="price", lane_us=options.lane_us, inject_for_s=EMULATED_FOR_S)
            options = replace(options, rate=CROWD_SHARE / 10 * asyncio.run(_full_effort(stack.base)))
        console.print(f"Calm at {options.rate:.1f} requests/s, the crowd is ten times as many")
    strips = []
    for policy, caption in options.policies:
        with service() as stack:
            _switch(stack, policy=policy, lane_us=options.lane_us, inject_for_s=EMULATED_FOR_S)
            board = start_board(stack)
            load = partial(stack.processes.start, "load", _load_command(stack.base, tastes, options))
            shots = _shots(board, load, options, f"Filming {policy}", console)
            if options.lane_us:
                caption += EMULATED.format(options.lane_us / 1e3)
            strips.append([_captioned(shot, caption, options.width) for shot in shots])
    frames = [_stacked(parts) for parts in zip(*strips, strict=True)]
    _save(frames, out)
    console.print(f"{out}: {len(frames)} frames, {out.stat().st_size / 1e6:.1f} MB")


def _switch(stack: LocalStack, **wanted: object) -> None:
    headers = {"X-Api-Key": stack.admin_key}
    httpx.put(f"{stack.base}/v1/router", json=wanted, headers=headers).raise_for_status()


async def _full_effort(base: str) -> float:
    """Answers per second to one caller: several would make a queue, and the ladder would answer more by doing less."""
    bodies = [json.dumps({"user_id": f"u{n}", "k": 10}).encode() for n in range(USERS)]
    async with connections(base, 1) as pool:
        await closed_loop(pool, bodies, callers=1, seconds=ASK_S)  # engines learn what steps take
        # other work on the machine only ever lowers it
        return max([await closed_loop(pool, bodies, callers=1, seconds=ASK_S) for _ in range(TURNS)])


def _load_command(base: str, tastes: Path, options: FilmOptions) -> list[str]:
    assert options.rate is not None, "measured by now"
    numbers = {"rate": options.rate, "duration": options.duration_s, "crowd-seconds": options.crowd_s}
    told = [f"--{name}={value:g}" for name, value in numbers.items()]
    told += [f"--category={options.category}"] if options.category else []
    return python("-m", "loadtest", "--shape=flash_crowd", f"--host={base}", f"--tastes={tastes}", *told)


def start_board(stack: LocalStack, **environment: str) -> str:
    """Start the board of a service as one more of its processes, told what is in `environment` too; its URL.

    Raises:
        UnavailableError: it does not come up within a minute.
    """
    port = free_port(8501)
    stack.processes.start(
        "board", python("-m", "dashboard", "--port", str(port)), env={"RECSYS_API_URL": stack.base} | environment
    )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + BOARD_WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                return url
        except OSError as error:
            if time.monotonic() > deadline:
                raise UnavailableError(f"the board: not within {BOARD_WITHIN_S} s") from error
            time.sleep(0.1)


def _shots(
    board: str, start_load: Callable[[], object], options: FilmOptions, told: str, console: Console
) -> list[bytes]:
    """One picture a second of headline, figures and heat maps, from `calm_s` before the crowd on."""
    from playwright.sync_api import sync_playwright

    shots: list[bytes] = []
    left_out = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport=WINDOW)  # type: ignore[arg-type]
        page.goto(board)
        page.locator(".story h1").wait_for(timeout=BOARD_WITHIN_S * 1_000)
        start_load()
        began = time.monotonic()
        page.locator(f"{HEAT_MAPS} :is(canvas, svg.marks)").first.wait_for(timeout=BOARD_WITHIN_S * 1_000)
        page.add_style_tag(content=STEADY)
        clip = _clip(page)
        seconds = int(options.calm_s + options.crowd_s + options.after_s)
        for second in track(range(seconds), told, console=console, transient=True):
            page.wait_for_timeout(max(0.0, 1e3 * (began + options.before_s + second - time.monotonic())))
            late = time.monotonic() > began + options.before_s + second + LATE_S
            left_out += late
            shots.append(shots[-1] if late and shots else page.screenshot(clip=clip))
        browser.close()
    if left_out > LEFT_OUT_MAX * seconds:
        raise UnavailableError(f"the machine is too busy to be filmed: {left_out} of {seconds} shots came too late")
    return shots


def _clip(page: Page) -> Any:
    """Headline, figures and both heat maps with their axes."""
    return page.evaluate(
        """charts => {
            const top = document.querySelector('.st-key-head').getBoundingClientRect().top - 6;
            const end = document.querySelectorAll(charts)[1].getBoundingClientRect().bottom + 6;
            return {x: 0, y: top, width: window.innerWidth, height: end - top};
        }""",
        HEAT_MAPS,
    )


def chromium() -> str | None:
    """The distribution's Chromium; None lets Playwright take its own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _captioned(png: bytes, caption: str, width: int) -> Image:
    """A shot scaled to `width` under a band with its caption."""
    from PIL import Image, ImageDraw, ImageFont

    shot = Image.open(BytesIO(png)).convert("RGB")
    shot = shot.resize((width, round(shot.height * width / shot.width)), Image.Resampling.LANCZOS)
    framed = Image.new("RGB", (width, shot.height + CAPTION_PX), "#1b2430")
    ImageDraw.Draw(framed).text((12, 7), caption, fill="white", font=ImageFont.load_default(17))
    framed.paste(shot, (0, CAPTION_PX))
    return framed


def _stacked(parts: Sequence[Image]) -> Image:
    from PIL import Image

    whole = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), "white")
    y = 0
    for part in parts:
        whole.paste(part, (0, y))
        y += part.height
    return whole


def palette_of(pictures: Sequence[Image]) -> Image:
    """Few colours for all, and among them those that are small everywhere but carry a meaning."""
    from PIL import Image

    from dashboard.charts import STEP_COLOURS

    swatches = [Image.new("RGB", (pictures[0].width, SWATCH_PX), colour) for colour in (*STEP_COLOURS, *HOTTEST)]
    return _stacked([*pictures, *swatches]).quantize(COLOURS)


def _save(frames: Sequence[Image], out: Path) -> None:
    """One palette for all frames: what does not change then costs nothing."""
    from PIL import Image

    palette = palette_of(frames[:: max(1, len(frames) // PALETTE_FRAMES)])
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    out.parent.mkdir(parents=True, exist_ok=True)
    durations = [FRAME_MS] * (len(flat) - 1) + [LAST_FRAME_MS]
    flat[0].save(out, save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=True)
