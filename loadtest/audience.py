"""Who asks for what: users by activity and Zipf's law, in sessions, and the crowd that wants one category or item."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

from loadtest.behaviour import affinity
from loadtest.options import LoadTestError, Options
from loadtest.shapes.phase import Phase
from loadtest.tastes import Tastes, User

SESSIONS = 100
LANDING_ITEMS = 5


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a session.

    Attributes:
        user: who asks.
        category: the category that the crowd asks for; None for everybody else, and where it came by one item.
        history: items the crowd came by, newest last; empty for everybody else, whose own history counts.
    """

    user: User
    category: str | None = None
    history: tuple[str, ...] = ()

    def body(self, k: int) -> dict[str, Any]:
        """The request for recommendations."""
        body: dict[str, Any] = {"user_id": self.user.id, "k": k}
        if self.history:
            body["history"] = list(self.history)
        if self.category is not None:
            body["filters"] = {"categories_any": [self.category]}
        return body


class Audience:
    """Draws the visit of each arrival; same seed and same arrivals, same visits.

    A session is several requests of one user. Every arrival goes on with one of the sessions under way or begins a
    new one in place of the oldest, so that sessions change who asks and never when; their mean length is
    `--session-length` once as many are under way as there is room for.
    """

    def __init__(self, tastes: Tastes, options: Options, rng: Random) -> None:
        if options.category and options.category not in tastes.items_by_category:
            known = ", ".join(sorted(tastes.items_by_category)[:20])
            raise LoadTestError(f"--category: {options.category!r} has no items; categories are {known}")
        if options.item and options.item not in tastes.categories_of:
            raise LoadTestError(f"--item: {options.item!r} is not in the catalogue")
        self._tastes = tastes
        self._rng = rng
        self._wanted = options.category
        self._wanted_item = options.item
        self._seed, self._crowds = options.seed, 0
        self._begin = 1 / options.session_length
        self._users = sorted(tastes.users, key=lambda user: (-user.activity, user.id))
        self._user_weights = list(
            accumulate(user.activity * (rank + 1) ** -options.zipf for rank, user in enumerate(self._users))
        )
        self._sessions: deque[Visit] = deque(maxlen=SESSIONS)
        self._crowd: deque[Visit] = deque(maxlen=SESSIONS)
        self._crowd_phase: Phase | None = None
        self._landing_weights: list[float] = []
        self.category: str | None = None
        self.item: str | None = None

    def visit(self, phase: Phase) -> Visit:
        """Who comes next in `phase`."""
        if phase.crowd_share <= 0:
            return self._next(self._sessions)
        if phase is not self._crowd_phase:
            self._crowd_phase = phase
            self._begin_crowd(phase)
        if self._rng.random() < phase.crowd_share:
            return self._next(self._crowd, in_crowd=True)
        return self._next(self._sessions)

    @property
    def wanted(self) -> str | None:
        """What the present or last crowd wants, in words; None before the first."""
        return f"item {self.item}" if self.item else self.category

    def affinities(self, visit: Visit, shown: Iterable[tuple[str, Sequence[str]]]) -> list[tuple[str, float]]:
        """How well shown items, given with their categories, fit the visitor."""
        taste = visit.user.taste
        if visit.category is not None:
            taste = taste | {visit.category: max(taste.values(), default=0.0) or 1.0}
        known = self._tastes.categories_of
        return [(item_id, affinity(taste, known.get(item_id, categories))) for item_id, categories in shown]

    def _next(self, sessions: deque[Visit], *, in_crowd: bool = False) -> Visit:
        rng = self._rng
        slot = rng.randrange(SESSIONS)
        if slot < len(sessions) and rng.random() >= self._begin:
            return sessions[slot]
        user = rng.choices(self._users, cum_weights=self._user_weights)[0]
        visit = self._landed(user) if in_crowd else Visit(user)
        sessions.append(visit)  # the oldest session leaves a full ring
        return visit

    def _landed(self, user: User) -> Visit:
        if self.item is not None:
            return Visit(user, history=(self.item,))
        assert self.category is not None, "a crowd has begun"
        items = self._tastes.items_by_category[self.category]
        landing = self._rng.choices(items, cum_weights=self._landing_weights, k=LANDING_ITEMS)
        return Visit(user, self.category, tuple(dict.fromkeys(item.id for item in landing)))

    def _begin_crowd(self, phase: Phase) -> None:
        # of the seed and nothing else, so that several processes mean the same crowd
        draw = Random(f"{self._seed}:crowd:{self._crowds}")
        self._crowds += 1
        self._crowd.clear()
        if phase.about == "item":
            items = self._tastes.items
            drawn = draw.choices(items, weights=[item.weight for item in items])[0].id
            self.item = self._wanted_item or drawn
            return
        categories = self._tastes.items_by_category
        weights = [sum(item.weight for item in items) for items in categories.values()]
        self.category = self._wanted or draw.choices(list(categories), weights=weights)[0]
        self._landing_weights = list(accumulate(item.weight for item in categories[self.category]))
