"""What a first start needs: a world, a model trained on it, compiled routing, and catalogue and history in Redis.

Everything is made once and found again. `python -m recsys.stack.bootstrap FOLDER` is the one-shot container; put a data
set of your own into `FOLDER/world`, or a trained model into `FOLDER/model`, and it uses them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before anything imports torch

import sys
import time
from pathlib import Path

from redis import RedisError
from rich.console import Console

from recsys.config import Settings
from recsys.errors import RecsysError, UnavailableError
from recsys.state.client import writer
from recsys.state.keys import Keys

HISTORY_EVENTS = 30_000


def ensure_world(world: Path, console: Console) -> None:
    """Make the synthetic world, unless the folder holds a data set."""
    if (world / "dataset.json").exists():
        return
    from recsys.data.commands import make_world

    with console.status("Making the world: items, users, two months of what they did"):
        make_world(world, users=2_000, items=1_200, days=60, seed=7, now_ms=int(time.time() * 1e3))
    console.print(f"World: made in {short(world)}")


def ensure_model(model: Path, world: Path, console: Console) -> None:
    """Train on the world, unless the folder holds a model; an interrupted training goes on."""
    if (model / "config.json").exists():
        return
    from recsys.training.config import preset
    from recsys.training.train import train

    console.print("Model: training on the world (about a minute, once)")
    train(world, model, preset("demo"), console=console)


def compile_router(console: Console) -> None:
    """Leave machine code of price routing in numba's cache, so that no engine compiles at its start."""
    from router.policies import get

    with console.status("Compiling the router (once per machine)"):
        get("price")


def fill(world: Path, settings: Settings, console: Console) -> None:
    """Catalogue and recent history through the public stream, once per Redis.

    Event ids are remembered for a day only, so a mark in Redis itself tells that its history is in.

    Raises:
        OverloadedError: no worker applies events.
        UnavailableError: Redis is away.
    """
    from recsys.data.dataset import Dataset
    from recsys.events.replay import publish_catalogue, replay

    mark = Keys(settings.redis.prefix).bootstrapped
    try:
        with writer(settings.redis) as redis:
            if redis.exists(mark):
                console.print("Redis: filled before")
                return
            dataset = Dataset.load(world)
            publish_catalogue(dataset, settings, console=console)
            replay(dataset, settings, last=HISTORY_EVENTS, console=console)
            redis.set(mark, int(time.time() * 1e3))
    except RedisError as error:
        raise UnavailableError(f"Redis: {error}") from error


def short(path: Path) -> Path:
    """Relative to where the user stands, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def main(arguments: list[str]) -> int:
    """0 when everything is there, 1 if not, 2 for wrong use."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m recsys.stack.bootstrap FOLDER\n")
        return 2
    folder, console = Path(arguments[0]), Console()
    try:
        ensure_world(folder / "world", console)
        ensure_model(folder / "model", folder / "world", console)
        compile_router(console)
        fill(folder / "world", Settings(), console)
    except RecsysError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
