"""The items of a world and how they hang together.

A category has a handful of topics, an item belongs to one topic. Inside a topic items have an order, like the parts
of a series: after one item the next few are its likely successors. This is what a sequence model can learn and a
popularity count cannot. Letters: I items, C categories, P topics, D width of the latent vectors, F successors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.data.schema import ITEMS
from recsys.world.config import WorldConfig
from recsys.world.titles import invent_titles

LATENT = 8
SUCCESSORS = 8
_SERIES = 5  # of the successors, how many come from the order inside the topic; the others from the category
_TOPICS_PER_CATEGORY = 6
_ZIPF_EXPONENT = 1.1
_ZIPF_SHIFT = 3.0
_SIDE_WEIGHT = 0.4  # of an item in a category that is not its main one
_LAST_YEAR = 2025

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Groups:
    """Members of many groups in one array: those of group g are `members[start[g]:start[g + 1]]`."""

    members: IntArray
    start: IntArray
    cumulative: FloatArray  # of the members' weights, over all groups; one longer than members

    @classmethod
    def of(cls, group: IntArray, member: IntArray, weight: FloatArray, count: int) -> Self:
        """Group the pairs (group, member), each with a weight."""
        order = np.argsort(group, kind="stable")
        start = np.searchsorted(group[order], np.arange(count + 1))
        return cls(member[order], start, np.concatenate([[0.0], np.cumsum(weight[order])]))

    def draw(self, groups: IntArray, draws: int, rng: np.random.Generator) -> IntArray:
        """`draws` members for each entry of `groups`, by weight, with repeats; no group may be empty."""
        first, last = self.start[groups, None], self.start[groups + 1, None]
        low, high = self.cumulative[first], self.cumulative[last]
        target = low + rng.random((len(groups), draws)) * (high - low)
        position = np.searchsorted(self.cumulative, target, side="right") - 1
        return self.members[np.clip(position, first, last - 1)]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items as a table and as arrays; index i is the item `ids[i]`."""

    table: pl.DataFrame
    ids: tuple[str, ...]
    categories: tuple[tuple[int, ...], ...]  # of each item, the main one first
    main_category_I: IntArray
    topic_I: IntArray
    popularity_I: FloatArray  # sums to 1
    latent_ID: FloatArray
    successors_IF: IntArray
    by_category: Groups
    by_topic: Groups

    @classmethod
    def invent(cls, config: WorldConfig, rng: np.random.Generator) -> Self:
        """The items of a world."""
        I, C = config.items, config.categories
        main_I = _main_categories(I, C, rng)
        topic_I = main_I * _TOPICS_PER_CATEGORY + rng.integers(0, _TOPICS_PER_CATEGORY, I)
        popularity_I = rng.permutation(1.0 / (np.arange(I) + _ZIPF_SHIFT) ** _ZIPF_EXPONENT)
        popularity_I /= popularity_I.sum()
        topics = C * _TOPICS_PER_CATEGORY
        latent_ID = 0.8 * rng.standard_normal((topics, LATENT))[topic_I] + 0.6 * rng.standard_normal((I, LATENT))
        sides = _side_categories(main_I, C, rng)
        categories = tuple((int(m), *s) for m, s in zip(main_I, sides, strict=True))
        pairs = np.array([(c, i, rank) for i, cs in enumerate(categories) for rank, c in enumerate(cs)])
        weight = popularity_I[pairs[:, 1]] * np.where(pairs[:, 2] == 0, 1.0, _SIDE_WEIGHT)
        by_topic = Groups.of(topic_I, np.arange(I), popularity_I, topics)
        by_category = Groups.of(pairs[:, 0], pairs[:, 1], weight, C)
        names = config.category_names
        ids = tuple(f"i{i}" for i in range(I))
        table = pl.DataFrame(
            {
                "item_id": ids,
                "title": invent_titles([names[c] for c in main_I], rng),
                "categories": [[names[c] for c in cs] for cs in categories],
                "year": np.maximum(_LAST_YEAR - rng.exponential(14.0, I).astype(np.int64), 1930),
            },
            schema=ITEMS,
        )
        return cls(
            table,
            ids,
            categories,
            main_I,
            topic_I,
            popularity_I,
            latent_ID / np.sqrt(LATENT),
            _successors(topic_I, main_I, by_topic, by_category, rng),
            by_category,
            by_topic,
        )


def _main_categories(items: int, categories: int, rng: np.random.Generator) -> IntArray:
    """A main category per item, some more common than others, each used at least once."""
    share_C = rng.permutation(1.0 / np.sqrt(np.arange(categories) + 1.0))
    drawn = rng.choice(categories, size=items, p=share_C / share_C.sum())
    drawn[:categories] = np.arange(categories)
    return rng.permutation(drawn)


def _side_categories(main_I: IntArray, categories: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Up to two more categories per item, mostly from the two that lie next to its main one."""
    count_I = np.minimum(rng.choice(3, size=len(main_I), p=[0.55, 0.35, 0.10]), categories - 1)
    near_I2 = (main_I[:, None] + rng.permuted(np.tile([1, 2], (len(main_I), 1)), axis=1)) % categories
    return [
        tuple(dict.fromkeys(int(c) for c in near[:count] if c != main))
        for main, near, count in zip(main_I, near_I2, count_I, strict=True)
    ]


def _successors(
    topic_I: IntArray, main_I: IntArray, by_topic: Groups, by_category: Groups, rng: np.random.Generator
) -> IntArray:
    """What tends to follow an item: the next ones in its topic's order, then some of its category."""
    first_I, size_I = by_topic.start[topic_I], np.diff(by_topic.start)[topic_I]
    position_I = np.empty_like(topic_I)
    position_I[by_topic.members] = np.arange(len(topic_I))
    steps = np.arange(1, _SERIES + 1)
    series_IF = by_topic.members[first_I[:, None] + (position_I - first_I + steps[:, None]).T % size_I[:, None]]
    return np.concatenate([series_IF, by_category.draw(main_I, SUCCESSORS - _SERIES, rng)], axis=1)
