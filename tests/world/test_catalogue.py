"""Titles, weighted draws and successors."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.world.catalogue import Catalogue, Groups
from recsys.world.config import WorldConfig
from recsys.world.titles import invent_titles
from recsys.world.words import CATEGORIES, PLACES


def test_titles_are_unique_and_made_of_their_category() -> None:
    categories = [name for name in CATEGORIES for _ in range(60)]
    titles = invent_titles(categories, np.random.default_rng(0))
    assert len(set(titles)) == len(titles)
    for category, title in zip(categories, titles, strict=True):
        words = CATEGORIES[category]
        assert any(word in title for word in (*words.adjectives, *words.nouns)), title
        assert not title.startswith("A A"), title


def test_repeated_titles_become_parts() -> None:
    titles = invent_titles(["Space"] * 20_000, np.random.default_rng(0))
    assert len(set(titles)) == 20_000
    assert any(title.endswith(" IV") for title in titles)


def test_words_are_enough_and_distinct() -> None:
    assert len(CATEGORIES) == 16
    assert len(set(PLACES)) == len(PLACES)
    for words in CATEGORIES.values():
        assert len(set(words.adjectives)) == len(words.adjectives) >= 8
        assert len(set(words.nouns)) == len(words.nouns) >= 10


def test_groups_draw_by_weight() -> None:
    groups = Groups.of(np.array([1, 0, 1, 2]), np.array([7, 5, 8, 9]), np.array([1.0, 2.0, 3.0, 1e-9]), 3)
    drawn = groups.draw(np.array([0, 1, 2]), 20_000, np.random.default_rng(0))
    assert set(drawn[0]) == {5}
    assert set(drawn[2]) == {9}
    assert set(drawn[1]) == {7, 8}
    assert np.mean(drawn[1] == 8) == pytest.approx(0.75, abs=0.02)


def test_successors_begin_inside_the_topic() -> None:
    catalogue = Catalogue.invent(WorldConfig(items=600), np.random.default_rng(0))
    first = catalogue.successors_IF[:, 0]
    assert (catalogue.topic_I[first] == catalogue.topic_I).all()
    members = np.bincount(catalogue.topic_I)[catalogue.topic_I]
    assert (first != np.arange(600))[members > 1].all(), "no item follows itself where there is another"
    assert np.unique(first).size == 600, "every item follows exactly one other: topics are cycles"


def test_popularity_falls_like_a_power_of_the_rank() -> None:
    catalogue = Catalogue.invent(WorldConfig(), np.random.default_rng(0))
    popularity = np.sort(catalogue.popularity_I)[::-1]
    assert popularity.sum() == pytest.approx(1)
    slope = np.polyfit(np.log(np.arange(50, 1_000)), np.log(popularity[50:1_000]), 1)[0]
    assert slope == pytest.approx(-1.1, abs=0.05)
