"""The board as a person meets it: started by its command, seen in Chromium."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect, sync_playwright

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip
LONG_MS = 60_000
CHARTS = "[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg.marks"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def board(served: Any, tmp_path: Path, unused_port: int) -> Iterator[str]:
    """URL of a board started in another folder than its own, as a user would."""
    command = [sys.executable, "-m", "dashboard", "--port", str(unused_port), "--api", served.url]
    log = (tmp_path / "board.log").open("w+")
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, env=env)
    url = f"http://127.0.0.1:{unused_port}"
    deadline = time.monotonic() + 30
    while not _alive(url):
        assert process.poll() is None, (tmp_path / "board.log").read_text()
        assert time.monotonic() < deadline, "the board did not start within 30 s"
        time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(timeout=15)
    log.close()
    text = (tmp_path / "board.log").read_text()
    assert "Traceback" not in text, text


def _alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _all_drawn(page: Page) -> None:
    """Every chart has a plot of some height: one that Vega could not fit is an empty box."""
    heights = "charts => charts.map(c => c.querySelector('.mark-group.role-frame').getBoundingClientRect().height)"
    assert min(page.locator("[data-testid=stVegaLiteChart]").evaluate_all(heights)) > 60


def _overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    widest = "[document.documentElement, document.querySelector('[data-testid=stMain]')].map(e => e.scrollWidth)"
    return int(page.evaluate(f"Math.max(...{widest}) - window.innerWidth"))


def _headline(page: Page, text: str) -> None:
    expect(page.locator(".story h1")).to_contain_text(text, timeout=LONG_MS)


def _p99_ms(page: Page) -> float:
    """What the tile of latencies says, milliseconds."""
    tile = page.get_by_test_id("stMetric").filter(has_text="Latency p50")
    return float(tile.get_by_test_id("stMetricValue").inner_text().split("·")[1].replace(",", ""))


def _wait_for_p99(page: Page, holds: Callable[[float], bool]) -> None:
    deadline = time.monotonic() + LONG_MS / 1e3
    while not holds(ms := _p99_ms(page)):
        assert time.monotonic() < deadline, f"p99 stays {ms:g} ms"
        page.wait_for_timeout(100)


def _keep(page: Page, name: str) -> None:
    """A picture for people, where one is asked for."""
    if folder := os.environ.get("BOARD_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def _nobody_kept_out(page: Page) -> None:
    """No serious finding of axe-core."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
    assert not serious, "\n".join(serious)


FOCUS = """() => {
    const at = document.activeElement;
    const control = at.matches('a, button, input, textarea, summary, [role=slider], [role=tab]');
    const marked = [at, at.parentElement, at.parentElement?.parentElement].filter(Boolean).some(one => {
        const s = getComputedStyle(one);
        return (s.outlineStyle !== 'none' && s.outlineWidth !== '0px') || s.boxShadow !== 'none';
    });
    return control ? {name: (at.ariaLabel || at.innerText || '').trim(), marked} : null;
}"""


def _tab_to(page: Page, name: str, *, most: int = 30) -> None:
    """Walk by the Tab key; everything on the way shows that it has the focus."""
    met = []
    for _ in range(most):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if focus is not None:
            met.append(focus["name"])
            assert focus["marked"], f"{focus['name']!r} has the focus and does not show it"
            if name in focus["name"]:
                return
    pytest.fail(f"{name!r} is not within {most} steps of the Tab key: {met}")


def test_the_one_minute_story(browser: Browser, board: str, served: Any) -> None:
    """Calm, a flash crowd, work moves; plain top-k piles up; back; a like; the service goes and returns."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    asked: list[str] = []
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(board)
    _headline(page, "Calm")
    page.locator(CHARTS).first.wait_for(timeout=LONG_MS)
    assert page.locator("[data-testid=stVegaLiteChart]").count() == 11
    _keep(page, "calm")
    _nobody_kept_out(page)
    for control in ("Recommend", "System", "Layer", "price"):
        _tab_to(page, control)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Routing policy")).to_be_visible(timeout=LONG_MS)
    page.keyboard.press("Escape")

    served.fake.flash_crowd(5, 11, ago_s=60)
    served.fake.lane_us = 60.0
    _headline(page, "Crowd on experts 5 and 11, work stays even")
    expect(page.get_by_test_id("stPopover")).to_contain_text("emulated devices", timeout=LONG_MS)
    page.evaluate("document.querySelectorAll('[data-testid=stVegaLiteChart] canvas').forEach(c => c.dataset.old = 1)")
    rate = page.locator("[data-testid=stMetricValue]").first
    for _ in range(2):
        expect(rate).not_to_have_text(rate.inner_text(), timeout=LONG_MS)
    drawn = "canvas => canvas.every(c => c.dataset.old)"
    assert page.locator("[data-testid=stVegaLiteChart] canvas").evaluate_all(drawn), "charts stay, only data change"
    assert _overflow(page) <= 0
    _all_drawn(page)
    _keep(page, "flash_crowd")

    usual_ms = _p99_ms(page)
    page.get_by_test_id("stPopover").get_by_role("button").first.click()
    page.get_by_label("Admin key").fill("guess")
    page.get_by_role("button", name="Switch", exact=True).click()
    expect(page.get_by_text("does not accept this key")).to_be_visible(timeout=LONG_MS)
    _keep(page, "wrong_key")
    page.get_by_label("Admin key").fill("a-key-for-tests")
    page.get_by_label("Routing policy").click()
    page.get_by_role("option", name=re.compile("^topk")).click()
    page.wait_for_timeout(2_500)  # two redraws must not take away what was typed and chosen
    page.get_by_role("button", name="Switch", exact=True).click()
    expect(page.get_by_text("Switched to topk")).to_be_visible(timeout=LONG_MS)
    assert served.fake.policy == "topk"
    page.keyboard.press("Escape")
    _headline(page, "work piles up")
    _wait_for_p99(page, lambda ms: ms > 1.5 * usual_ms)
    _keep(page, "topk")
    served.fake.policy = "price"
    _headline(page, "work stays even")
    _wait_for_p99(page, lambda ms: ms < 1.5 * usual_ms)
    served.fake.lane_us = 0.0

    page.get_by_role("link", name="Recommend").click()
    titles = page.locator(".item .title")
    expect(titles).to_have_count(10, timeout=LONG_MS)
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=LONG_MS)
    page.get_by_role("button", name="Like").first.click()
    told = page.get_by_text("The list below knows it")
    expect(told).to_be_visible(timeout=LONG_MS)
    named = re.search(r"Liked (.+)\. The list", told.inner_text())  # the list may have moved under the pointer
    assert named is not None
    liked = re.escape(named[1])
    expect(page.locator(".move.new").first).to_be_visible(timeout=LONG_MS)
    expect(titles.filter(has_text=re.compile(f"^{liked}$"))).to_have_count(0, timeout=LONG_MS)
    _keep(page, "recommend")
    _nobody_kept_out(page)

    served.stop()
    page.get_by_role("button", name="Like").first.click()
    expect(page.get_by_text("Disconnected")).to_be_visible(timeout=LONG_MS)
    _keep(page, "recommend_disconnected")
    page.get_by_role("link", name="Live").click()
    _headline(page, "Disconnected")
    _keep(page, "disconnected")
    served.start()
    _headline(page, "Crowd on experts 5 and 11")
    page.get_by_role("link", name="System").click()
    expect(page.get_by_text("Ready: the service gives personal answers")).to_be_visible(timeout=LONG_MS)
    assert all(url.startswith((board, "data:", "blob:")) for url in asked), "the board needs nobody but itself"
    assert not [text for text in said if "Conflicting" in text or "Invalid" in text], "specs without contradictions"
    page.close()


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (390, "light"), (1280, "dark")])
def test_every_page_on_phone_and_desk_in_both_themes(
    browser: Browser, board: str, served: Any, width: int, theme: Any
) -> None:
    served.fake.flash_crowd(5, ago_s=60)
    served.fake.policy = "topk"  # the ladder is climbed to its end
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=theme, has_touch=width < 600)
    page = context.new_page()
    page.goto(board)
    _headline(page, "Crowd on expert 5")
    page.locator(CHARTS).first.wait_for(timeout=LONG_MS)
    assert _overflow(page) <= 0
    _keep(page, f"{width}_{theme}_live")
    _nobody_kept_out(page)
    pages = (
        ("recommend", ".item .title"),
        ("compare", ".items .item"),
        ("experts", CHARTS),
        ("burst", "[data-testid=stAlert]"),
        ("system", "[data-testid=stDataFrame]"),
    )
    for path, ready in pages:
        page.goto(f"{board}/{path}")
        page.locator(ready).first.wait_for(timeout=LONG_MS)
        assert _overflow(page) <= 0, path
        _keep(page, f"{width}_{theme}_{path}")
        _nobody_kept_out(page)
    context.close()


def test_wrong_options_are_explained() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dashboard", "--port", "0"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "--port: must be 1 to 65535, got 0" in done.stderr
