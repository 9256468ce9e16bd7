"""Invented, readable, unique titles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.world.words import CATEGORIES, PLACES

_PATTERNS = (
    "The {adjective} {noun}",
    "{adjective} {noun}",
    "The {noun} of {place}",
    "{article} {noun} in {place}",
    "{noun} at {place}",
    "{adjective} {place}",
)


def invent_titles(categories: Sequence[str], rng: np.random.Generator) -> list[str]:
    """One title per entry of `categories`, made of that category's words; repeats become "... II", "... III".

    Args:
        categories: the main category of each item.
        rng: source of chance.
    """
    draws = rng.integers(0, 2**31, size=(len(categories), 4)).tolist()
    taken: dict[str, int] = {}
    titles = []
    for category, (pattern, adjective, noun, place) in zip(categories, draws, strict=True):
        words = CATEGORIES[category]
        title = _PATTERNS[pattern % len(_PATTERNS)].format(
            adjective=words.adjectives[adjective % len(words.adjectives)],
            noun=(chosen := words.nouns[noun % len(words.nouns)]),
            article="An" if chosen[0] in "AEIO" else "A",
            place=PLACES[place % len(PLACES)],
        )
        part = taken[title] = taken.get(title, 0) + 1
        titles.append(title if part == 1 else f"{title} {_roman(part)}")
    return titles


def _roman(number: int) -> str:
    text = ""
    for value, sign in ((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
                        (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")):  # fmt: skip
        count, number = divmod(number, value)
        text += sign * count
    return text
