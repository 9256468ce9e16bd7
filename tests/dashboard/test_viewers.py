"""A viewer without a browser is redrawn as a tab is, and every redraw is timed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboard.viewers import watch

pytestmark = pytest.mark.e2e


@pytest.fixture
def board(served: Any, unused_port: int, eventually: Any) -> Iterator[str]:
    command = [sys.executable, "-m", "dashboard", "--port", str(unused_port), "--api", served.url]
    root = Path(__file__).resolve().parents[2]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, **quiet)  # type: ignore[call-overload]
    url = f"http://127.0.0.1:{unused_port}"
    eventually(lambda: _alive(url), within_s=40, what="the board")
    yield url
    process.terminate()
    process.wait(timeout=15)


def _alive(url: str) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_two_viewers_are_redrawn_and_cost_the_service_one_poll(board: str, served: Any) -> None:
    met = asyncio.run(watch(board, 4.0, viewers=2))
    assert len(met) == 2
    assert all(viewer.seconds and viewer.exceptions == 0 for viewer in met)
    assert all(0 < seconds < 30 for viewer in met for seconds in viewer.seconds)
    polls, redraws = served.fake.polls, sum(len(viewer.seconds) for viewer in met)
    assert polls < redraws + 8
