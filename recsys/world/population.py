"""The users of a world: what they like, how that drifts, how active they are.

Letters: U users, C categories, D width of the latent vectors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.data.schema import USERS
from recsys.world.catalogue import LATENT, FloatArray, IntArray
from recsys.world.config import WorldConfig

_CONCENTRATION = 2.0  # of the Dirichlet distribution; the smaller, the more one-sided the tastes
_CURIOSITY = 0.05  # share of a taste that is spread over all categories
_PERIOD_DAYS = (90.0, 360.0)  # in which a taste drifts away and back
_ACTIVITY_SIGMA = 0.8
_ACTIVITY_MAX = 8.0  # times the mean
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Population:
    """Users as a table and as arrays; index u is the user `ids[u]`."""

    table: pl.DataFrame
    ids: tuple[str, ...]
    taste_from_UC: FloatArray
    taste_to_UC: FloatArray
    period_ms_U: FloatArray
    phase_U: FloatArray
    latent_UD: FloatArray
    activity_U: FloatArray  # mean 1
    hour_U: FloatArray  # shift of the personal day, hours

    @classmethod
    def invent(cls, config: WorldConfig, rng: np.random.Generator) -> Self:
        """The users of a world."""
        U, C = config.users, config.categories
        alpha_C = np.full(C, _CONCENTRATION / C)
        taste_from_UC = _curious(rng.dirichlet(alpha_C, U))
        taste_to_UC = _curious(rng.dirichlet(alpha_C, U))
        activity_U = np.minimum(rng.lognormal(0.0, _ACTIVITY_SIGMA, U), _ACTIVITY_MAX)
        names = config.category_names
        ids = tuple(f"u{u}" for u in range(U))
        favourites = [names[c] for c in taste_from_UC.argmax(axis=1)]
        table = pl.DataFrame(
            {"user_id": ids, "attributes": [json.dumps({"favourite": f}) for f in favourites]}, schema=USERS
        )
        return cls(
            table,
            ids,
            taste_from_UC,
            taste_to_UC,
            rng.uniform(*_PERIOD_DAYS, U) * _DAY_MS,
            rng.random(U),
            rng.standard_normal((U, LATENT)),
            activity_U / activity_U.mean(),
            rng.normal(0.0, 2.5, U),
        )

    def taste(self, users: IntArray, ts_ms: NDArray[np.int64] | int) -> FloatArray:
        """Taste of each of `users` at its own time `ts_ms`: rows over the categories that sum to 1."""
        turn = ts_ms / self.period_ms_U[users] + self.phase_U[users]
        weight = 0.5 - 0.5 * np.cos(2 * np.pi * turn)
        return self.taste_from_UC[users] * (1 - weight)[:, None] + self.taste_to_UC[users] * weight[:, None]


def _curious(taste_UC: FloatArray) -> FloatArray:
    taste_UC = np.nan_to_num(taste_UC)  # a very small concentration can underflow to 0/0
    taste_UC = taste_UC / np.maximum(taste_UC.sum(axis=1, keepdims=True), 1e-12)
    mixed: FloatArray = (1 - _CURIOSITY) * taste_UC + _CURIOSITY / taste_UC.shape[1]
    mixed /= mixed.sum(axis=1, keepdims=True)
    return mixed
