"""One browser tab on the board: what its memory does over time, and which errors it reports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from playwright.async_api import CDPSession, async_playwright

from recsys.bench.film import FLAGS, chromium


@dataclass(slots=True)
class Tab:
    """An open tab."""

    devtools: CDPSession
    errors: list[str] = field(default_factory=list)

    async def memory(self) -> tuple[float, float]:
        """Megabytes of its JavaScript heap after a collection, and nodes of its document."""
        await self.devtools.send("HeapProfiler.collectGarbage")
        told = await self.devtools.send("Performance.getMetrics")
        metrics = {one["name"]: one["value"] for one in told["metrics"]}
        return metrics["JSHeapUsedSize"] / 1e6, metrics["Nodes"]


@asynccontextmanager
async def open_tab(board: str) -> AsyncIterator[Tab]:
    """A tab that shows the live page, drawn."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = await browser.new_page()
        tab = Tab(await page.context.new_cdp_session(page))
        page.on("pageerror", lambda error: tab.errors.append(str(error)[:200]))
        await tab.devtools.send("Performance.enable")
        await page.goto(board)
        await page.locator("[data-testid=stVegaLiteChart] :is(canvas, svg.marks)").first.wait_for(timeout=60_000)
        try:
            yield tab
        finally:
            await browser.close()
