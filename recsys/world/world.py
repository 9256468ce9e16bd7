"""A synthetic world: a catalogue, a population, and what its users do, all from one seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.progress import Progress

from recsys.data.dataset import Dataset
from recsys.data.schema import KIND
from recsys.errors import InputError
from recsys.events.schema import KINDS, TS_MIN_MS
from recsys.world.behaviour import simulate
from recsys.world.catalogue import Catalogue, FloatArray
from recsys.world.config import WorldConfig
from recsys.world.flash_crowd import FlashCrowd
from recsys.world.population import Population
from recsys.world.sessions import invent_times

DAYS_MAX = 3_650
_DAY_MS = 86_400_000
_TASTES_FORMAT = 1


class World:
    """Items, users and their behaviour.

    The items and users follow from the config alone; a history also from its length and end. Every part has a stream
    of chance of its own, so a longer history does not change the catalogue.
    """

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()
        items_seed, users_seed, self._history_seed = np.random.SeedSequence(self.config.seed).spawn(3)
        self.catalogue = Catalogue.invent(self.config, np.random.default_rng(items_seed))
        self.population = Population.invent(self.config, np.random.default_rng(users_seed))

    @property
    def items(self) -> pl.DataFrame:
        """The catalogue as a table (`recsys.data.schema.ITEMS`)."""
        return self.catalogue.table

    @property
    def users(self) -> pl.DataFrame:
        """The users as a table (`recsys.data.schema.USERS`)."""
        return self.population.table

    def tastes(self, ts_ms: int) -> FloatArray:
        """Taste of every user at a time (Unix ms): [users, categories], rows sum to 1."""
        return self.population.taste(np.arange(self.config.users), ts_ms)

    def dataset(
        self, days: float = 60, *, now_ms: int, crowds: Sequence[FlashCrowd] = (), progress: bool = False
    ) -> Dataset:
        """The history of the `days` before `now_ms`.

        Args:
            days: length, up to 3,650.
            now_ms: its end (Unix ms); no event is later.
            crowds: flash crowds.
            progress: show a progress bar.

        Raises:
            InputError: a length or time outside its bounds, a crowd of a category that the world has not, or a
                history so short that nothing happens in it.
        """
        if not 0 < days <= DAYS_MAX:
            raise InputError(f"days: {days} is not above 0 and at most {DAYS_MAX}", field="days")
        if now_ms - days * _DAY_MS < TS_MIN_MS:
            raise InputError(f"now_ms: {now_ms} is too early for a history of {days} days", field="now_ms")
        numbered = [(self._category(crowd.category), crowd) for crowd in crowds]
        times_seed, choices_seed = np.random.SeedSequence(
            entropy=self._history_seed.entropy, spawn_key=self._history_seed.spawn_key
        ).spawn(2)
        timeline = invent_times(
            self.config, self.population, days=days, now_ms=now_ms, rng=np.random.default_rng(times_seed)
        )
        with _progress_bar(len(timeline.user), shown=progress) as advance:
            item, kind = simulate(
                self.catalogue,
                self.population,
                timeline,
                numbered,
                np.random.default_rng(choices_seed),
                advance=advance,
            )
        met = item >= 0
        if not met.any():
            raise InputError(f"days: nothing happens in {days} days; make the world larger or longer", field="days")
        interactions = pl.DataFrame(
            {
                "user_id": pl.Series(self.population.ids).gather(timeline.user[met]),
                "item_id": pl.Series(self.catalogue.ids).gather(item[met]),
                "kind": pl.Series(KINDS).gather(kind[met]).cast(KIND),
                "value": pl.repeat(None, int(met.sum()), dtype=pl.Float32, eager=True),
                "ts": timeline.ts_ms[met],
            }
        )
        return Dataset.build(interactions, items=self.items, users=self.users, meta=self._meta(days, now_ms, crowds))

    def export_tastes(self, path: Path | str, *, now_ms: int) -> None:
        """Write what a load generator needs to behave like this world's users, as JSON.

            {"format": 1, "now_ms": 1700000000000,
             "categories": ["Space", "Mystery", ...],
             "items": [{"id": "i0", "categories": ["Heist", "Comedy"], "weight": 0.00123}, ...],
             "users": [{"id": "u0", "activity": 0.7, "taste": {"Space": 0.02, "Mystery": 0.31, ...}}, ...]}

        An item's main category comes first; its `weight` is its popularity and sums to about 1 over the items. `taste`
        is the user's at `now_ms`, as shares that sum to about 1; a category that is left out has none. `activity` is
        relative to the mean user. To act as a user: draw a category from the taste, then an item of it by weight; in
        a flash crowd multiply the crowd's category in the taste first (at least an average share).

        Args:
            path: file to write.
            now_ms: time of the tastes (Unix ms).
        """
        names = self.config.category_names
        tastes_UC = np.round(self.tastes(now_ms), 4).tolist()
        catalogue, population = self.catalogue, self.population
        content = {
            "format": _TASTES_FORMAT,
            "now_ms": now_ms,
            "categories": names,
            "items": [
                {"id": id_, "categories": [names[c] for c in categories], "weight": float(f"{weight:.4g}")}
                for id_, categories, weight in zip(
                    catalogue.ids, catalogue.categories, catalogue.popularity_I, strict=True
                )
            ],
            "users": [
                {"id": id_, "activity": round(float(activity), 4), "taste": _shares(names, taste_C)}
                for id_, activity, taste_C in zip(population.ids, population.activity_U, tastes_UC, strict=True)
            ],
        }
        Path(path).write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")

    def _category(self, name: str) -> int:
        names = self.config.category_names
        if name not in names:
            raise InputError(f"category: {name!r} is not one of {', '.join(names)}", field="category")
        return names.index(name)

    def _meta(self, days: float, now_ms: int, crowds: Sequence[FlashCrowd]) -> dict[str, Any]:
        return {
            "name": "world",
            "ts": "time",
            "seed": self.config.seed,
            "days": days,
            "now_ms": now_ms,
            "flash_crowds": [
                {"category": c.category, "start_ms": c.start_ms, "end_ms": c.end_ms, "factor": c.factor} for c in crowds
            ],
        }


def _shares(names: Sequence[str], taste_C: Sequence[float]) -> dict[str, float]:
    return {name: share for name, share in zip(names, taste_C, strict=True) if share > 0}


@contextmanager
def _progress_bar(events: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    with Progress(disable=not shown) as bar:
        task = bar.add_task("Living through the history", total=events)
        yield lambda count: bar.advance(task, count)
