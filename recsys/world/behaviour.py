"""What users do, event by event.

Three ways to the next item: follow on from the last one (its successors), stay with its topic, or go by taste (draw a
category from the taste, times flash crowds, then items of it by popularity). Among the few items that come up, the
user takes one by latent affinity. Nobody meets an item twice.

All users take their n-th step at once, so the cost is that of the longest history times a few array operations. Every
step draws the same amount of chance whatever happens, so that a world with a flash crowd equals the one without until
the crowd begins. Letters: A active users, M items that come up, C categories, U users of a block, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.events.schema import KINDS
from recsys.world.catalogue import SUCCESSORS, Catalogue, FloatArray, IntArray
from recsys.world.flash_crowd import FlashCrowd
from recsys.world.population import Population
from recsys.world.sessions import Timeline

_SHOWN = 16  # items that come up at one step
_FOLLOW, _STAY = 0.28, 0.27  # inside a session; the rest goes by taste
_FOLLOW_FIRST, _STAY_FIRST = 0.10, 0.15  # at the start of a session
_AFFINITY_WEIGHT = 1.5
_MATES_LOG_WEIGHT = -3.0  # of other items of the topic, against the first successor
_BLOCK = 4_096  # users at a time, so that memory does not grow with their number

# Log weights of the kinds: constant and slope over how much the user likes the item (about -2 to 3).
_KIND_WEIGHTS: dict[str, tuple[float, float]] = {
    "view": (0.0, 0.0),
    "click": (-0.4, 0.5),
    "like": (-1.9, 1.0),
    "purchase": (-3.3, 1.2),
    "hide": (-2.6, -0.9),
}


def simulate(
    catalogue: Catalogue,
    population: Population,
    timeline: Timeline,
    crowds: Sequence[tuple[int, FlashCrowd]],
    rng: np.random.Generator,
    *,
    advance: Callable[[int], object] = lambda events: None,
) -> tuple[IntArray, NDArray[np.int64]]:
    """Choose item and kind of every event of the timeline.

    Args:
        catalogue, population: the world.
        timeline: who is there when.
        crowds: flash crowds with the index of their category.
        rng: source of chance.
        advance: told the number of events after each step, for a progress bar.

    Returns:
        Index of the item (-1 where the user has met everything that came up) and index into KINDS, per event.
    """
    item = np.full(len(timeline.user), -1, dtype=np.int64)
    kind = np.zeros(len(timeline.user), dtype=np.int64)
    bounds = np.searchsorted(timeline.user, np.arange(len(population.ids) + 1))
    for block in range(0, len(population.ids), _BLOCK):
        first_U = bounds[block : block + _BLOCK + 1]
        _simulate_block(catalogue, population, timeline, crowds, block, first_U, item, kind, rng, advance)
    return item, kind


def _simulate_block(
    catalogue: Catalogue,
    population: Population,
    timeline: Timeline,
    crowds: Sequence[tuple[int, FlashCrowd]],
    block: int,
    first_U: IntArray,
    item: IntArray,
    kind: IntArray,
    rng: np.random.Generator,
    advance: Callable[[int], object],
) -> None:
    counts_U = np.diff(first_U)
    by_length = np.argsort(-counts_U, kind="stable")  # the active ones are always a prefix
    seen_UI = np.zeros((len(counts_U), len(catalogue.ids)), dtype=np.bool_)
    last_U = np.full(len(counts_U), -1)
    for step in range(int(counts_U.max(initial=0))):
        active = by_length[: int((counts_U > step).sum())]
        rows = first_U[active] + step
        users, ts = active + block, timeline.ts_ms[rows]
        taste_AC = population.taste(users, ts)
        shown_AM, log_weight_AM = _come_up(
            catalogue, _crowded(taste_AC, ts, crowds), last_U[active], timeline.starts_session[rows], rng
        )
        affinity_AM = np.einsum("ad,amd->am", population.latent_UD[users], catalogue.latent_ID[shown_AM])
        score_AM = log_weight_AM + _AFFINITY_WEIGHT * affinity_AM + rng.gumbel(size=shown_AM.shape)
        score_AM[seen_UI[active[:, None], shown_AM]] = -np.inf
        best_A = score_AM.argmax(axis=1)
        at_A = np.arange(len(active))
        chosen_A = shown_AM[at_A, best_A]
        share_A = taste_AC[at_A, catalogue.main_category_I[chosen_A]] * taste_AC.shape[1]
        kind_A = _kinds(share_A, affinity_AM[at_A, best_A], rng)
        found = np.isfinite(score_AM[at_A, best_A])
        active, rows, chosen = active[found], rows[found], chosen_A[found]
        item[rows], kind[rows] = chosen, kind_A[found]
        seen_UI[active, chosen] = True
        last_U[active] = chosen
        advance(len(found))


def _crowded(taste_AC: FloatArray, ts: IntArray, crowds: Sequence[tuple[int, FlashCrowd]]) -> FloatArray:
    """Tastes with the crowds' categories multiplied; in a crowd everybody has at least an average interest."""
    wanted_AC = taste_AC.copy()
    average = 1.0 / taste_AC.shape[1]
    for category, crowd in crowds:
        inside = (ts >= crowd.start_ms) & (ts < crowd.end_ms)
        wanted_AC[inside, category] = crowd.factor * np.maximum(wanted_AC[inside, category], average)
    return wanted_AC


def _come_up(
    catalogue: Catalogue, wanted_AC: FloatArray, last_A: IntArray, fresh_A: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[IntArray, FloatArray]:
    """The items that come up at this step, and their log weights."""
    cumulative_AC = np.cumsum(wanted_AC, axis=1)
    target_A = rng.random(len(last_A)) * cumulative_AC[:, -1]
    category_A = np.minimum((cumulative_AC <= target_A[:, None]).sum(axis=1), wanted_AC.shape[1] - 1)
    shown_AM = catalogue.by_category.draw(category_A, _SHOWN, rng)
    log_weight_AM = np.zeros(shown_AM.shape)

    chance_A = rng.random(len(last_A))
    follow_A = np.where(fresh_A, _FOLLOW_FIRST, _FOLLOW)
    stay_A = follow_A + np.where(fresh_A, _STAY_FIRST, _STAY)
    has_last = last_A >= 0
    near = has_last & (chance_A < stay_A)
    shown_AM[near] = catalogue.by_topic.draw(catalogue.topic_I[last_A], _SHOWN, rng)[near]
    follow = has_last & (chance_A < follow_A)
    shown_AM[follow, :SUCCESSORS] = catalogue.successors_IF[last_A[follow]]
    log_weight_AM[follow, :SUCCESSORS] = -np.log(np.arange(1, SUCCESSORS + 1))
    log_weight_AM[follow, SUCCESSORS:] = _MATES_LOG_WEIGHT
    return shown_AM, log_weight_AM


def _kinds(share_A: FloatArray, affinity_A: FloatArray, rng: np.random.Generator) -> NDArray[np.int64]:
    """The better users like their items, the stronger their reactions.

    Args:
        share_A: taste for the item's category, 1 = average.
        affinity_A: latent affinity to the item.
        rng: source of chance.
    """
    liking_A = 0.8 * affinity_A + 0.4 * np.log(share_A + 0.1)
    weights = np.array([_KIND_WEIGHTS[kind] for kind in KINDS])
    logits = weights[:, 0] + liking_A[:, None] * weights[:, 1]
    kinds: NDArray[np.int64] = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return kinds
