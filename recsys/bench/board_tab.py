"""One browser tab on the board: its memory over time, how often its figures change, and what it complains about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from playwright.async_api import CDPSession, Page, async_playwright

from recsys.bench.film import FLAGS, chromium

# A figure that changes is a redraw that arrived; the time between two of them is how old the picture gets.
WATCH_FIGURES = """() => {
    window.redraws = {last: performance.now(), gaps_s: []};
    const figure = node => (node.nodeType === 1 ? node : node.parentElement)?.closest('[data-testid=stMetricValue]');
    new MutationObserver(changes => {
        const now = performance.now();
        if (now - window.redraws.last > 50 && changes.some(change => figure(change.target))) {
            window.redraws.gaps_s.push((now - window.redraws.last) / 1e3);
            window.redraws.last = now;
        }
    }).observe(document.body, {subtree: true, characterData: true, childList: true});
}"""
TAKE_GAPS = """() => {
    const running = (performance.now() - window.redraws.last) / 1e3;
    return {gaps_s: window.redraws.gaps_s.splice(0), running};
}"""
HEADLINE = "() => ['h1', 'p'].map(tag => document.querySelector(`.story ${tag}`)?.innerText ?? '')"
TROUBLE = ("Stale", "Disconnected", "Connecting", "No engine")


@dataclass(slots=True)
class Tab:
    """An open tab."""

    page: Page
    devtools: CDPSession
    errors: list[str] = field(default_factory=list)

    async def memory(self) -> tuple[float, float]:
        """Megabytes of its JavaScript heap after a collection, and nodes of its document."""
        await self.devtools.send("HeapProfiler.collectGarbage")
        told = await self.devtools.send("Performance.getMetrics")
        metrics = {one["name"]: one["value"] for one in told["metrics"]}
        return metrics["JSHeapUsedSize"] / 1e6, metrics["Nodes"]

    async def gaps_s(self) -> list[float]:
        """Seconds between changes of the figures since the last call; a longer one that still runs counts too."""
        told = await self.page.evaluate(TAKE_GAPS)
        gaps: list[float] = told["gaps_s"]
        return [*gaps, told["running"]] if told["running"] > max(gaps, default=0.0) else gaps

    async def trouble(self) -> str:
        """The headline and why, if it says that the picture is old or missing."""
        headline, why = await self.page.evaluate(HEADLINE)
        return f"{headline}: {why}" if any(word in headline for word in TROUBLE) else ""


@asynccontextmanager
async def open_tab(board: str) -> AsyncIterator[Tab]:
    """A tab that shows the live page, drawn."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = await browser.new_page()
        tab = Tab(page, await page.context.new_cdp_session(page))
        page.on("pageerror", lambda error: tab.errors.append(str(error)[:200]))
        await tab.devtools.send("Performance.enable")
        await page.goto(board)
        await page.locator("[data-testid=stVegaLiteChart] :is(canvas, svg.marks)").first.wait_for(timeout=60_000)
        await page.evaluate(WATCH_FIGURES)
        try:
            yield tab
        finally:
            await browser.close()
