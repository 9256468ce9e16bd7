"""The one-minute story of the board, played by a browser on a real service: a picture of each step for the docs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path

from rich.console import Console

from recsys.bench.film import FLAGS, chromium, palette_of, start_board
from recsys.stack.local import LocalStack
from recsys.stack.processes import python

WINDOW = {"width": 1280, "height": 860}
WIDTH = 960
TRAFFIC_PER_S = 10.0  # beside the crowd, so that the board is alive before it
CALM_S = 15.0
LOOK_S = 8.0  # at each step, as long as a person would
RUN_WITHIN_S = 120.0


def story_pictures(
    service: Callable[[], AbstractContextManager[LocalStack]], tastes: Path, folder: Path, console: Console
) -> list[Path]:
    """Play the story and write `story_1_calm.png` and so on to `folder`; the files.

    Args:
        service: starts a service with a filled catalogue.
        tastes: the world's `tastes.json`.
        folder: where to write.
        console: where each step is told.

    Raises:
        UnavailableError: something does not come up.
    """
    with service() as stack:
        board = start_board(stack, RECSYS_DASHBOARD_KEY=stack.admin_key, RECSYS_DASHBOARD_TASTES=str(tastes.resolve()))
        load = python("-m", "loadtest", "--shape=steady", f"--host={stack.base}", f"--tastes={tastes}")
        stack.processes.start("traffic", [*load, f"--rate={TRAFFIC_PER_S:g}", "--duration=600"])
        return play(board, folder, console)


def play(board: str, folder: Path, console: Console) -> list[Path]:
    """The story on a board with its key and its tastes, at `board`."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []

    def keep(name: str, png: bytes) -> None:
        files.append(folder / f"story_{len(files) + 1}_{name}.png")
        _small(png, files[-1])
        console.print(f"{files[-1]}: {files[-1].stat().st_size / 1e3:.0f} kB")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport=WINDOW)  # type: ignore[arg-type]
        page.set_default_timeout(RUN_WITHIN_S * 1e3)
        page.goto(board)
        page.locator(".story h1").wait_for()
        page.wait_for_timeout(CALM_S * 1e3)
        keep("calm", page.screenshot())
        page.get_by_role("link", name="Burst lab").click()
        page.get_by_role("button", name="Start").wait_for()
        page.wait_for_timeout(1e3)
        keep("start", page.screenshot())
        page.get_by_role("button", name="Start").click()
        page.get_by_text("during", exact=True).wait_for()
        page.wait_for_timeout(LOOK_S * 1e3)
        keep("crowd", page.screenshot())
        page.get_by_role("button", name="Flip to plain top-k").click()
        page.wait_for_timeout(LOOK_S * 1e3)
        keep("topk", page.screenshot())
        page.get_by_role("button", name="Flip back").click()
        page.wait_for_timeout(LOOK_S * 1e3)
        keep("back", page.screenshot())
        page.get_by_role("button", name="Save as one html file").wait_for()
        page.wait_for_timeout(2e3)
        keep("report", page.screenshot())
        browser.close()
    return files


def _small(png: bytes, out: Path) -> None:
    from PIL import Image

    shot = Image.open(BytesIO(png)).convert("RGB")
    shot = shot.resize((WIDTH, round(shot.height * WIDTH / shot.width)), Image.Resampling.LANCZOS)
    shot.quantize(palette=palette_of([shot]), dither=Image.Dither.NONE).save(out, optimize=True)
