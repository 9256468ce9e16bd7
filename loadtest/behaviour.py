"""What a user does with a list: looks from the top down, and clicks, likes or hides by taste.

The position-based click model: P(click) = P(look at position) x P(attracted by the item). (Craswell et al.: An
experimental comparison of click position-bias models, WSDM 2008.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random

# P(look at position p) = (p + 1) ** -LOOK_DECAY: 1, .66, .52, ... .25 at the tenth
LOOK_DECAY = 0.6
CLICK_BY_CHANCE = 0.02
CLICK_BY_TASTE = 0.3
LIKE_AFTER_CLICK = 0.4
HIDE_IF_DISLIKED = 0.03
DISLIKED_BELOW = 0.1

Reaction = tuple[str, str]


def affinity(taste: Mapping[str, float], categories: Iterable[str]) -> float:
    """How well an item fits a taste, in 0..1: the best of its categories relative to the user's favourite."""
    favourite = max(taste.values(), default=0.0)
    return max((taste.get(name, 0.0) for name in categories), default=0.0) / favourite if favourite > 0 else 0.0


def react(affinities: Sequence[tuple[str, float]], rng: Random) -> list[Reaction]:
    """What the user does with a shown list.

    Args:
        affinities: item ids with their affinity in 0..1, in the order shown.
        rng: the user's whims.

    Returns:
        `(kind, item_id)` in the order done; kinds are click, like and hide.
    """
    done: list[Reaction] = []
    for position, (item_id, fit) in enumerate(affinities):
        if rng.random() >= (position + 1) ** -LOOK_DECAY:
            continue
        if rng.random() < CLICK_BY_CHANCE + CLICK_BY_TASTE * fit:
            done.append(("click", item_id))
            if rng.random() < LIKE_AFTER_CLICK * fit:
                done.append(("like", item_id))
        elif fit < DISLIKED_BELOW and rng.random() < HIDE_IF_DISLIKED:
            done.append(("hide", item_id))
    return done
