"""What is asked: one user and a hundred candidates, in the wire format of each server. Free of torch, for clients."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

USERS, ITEMS, CANDIDATES, TOP = 50_000, 100_000, 100, 20
BODIES = 256
REAL_ITEMS, REAL_HISTORY = 3_883, 50


@dataclass(frozen=True, slots=True)
class Question:
    """Numbers of a user and of candidates, none twice."""

    user: int
    candidates: tuple[int, ...]


def questions(count: int = BODIES, *, seed: int = 1) -> list[Question]:
    """The same ones for every server."""
    draw = random.Random(seed)
    return [Question(draw.randrange(USERS), tuple(draw.sample(range(ITEMS), CANDIDATES))) for _ in range(count)]


def plain(question: Question) -> bytes:
    """For servers that take what the ranker takes."""
    return msgspec.json.encode({"user_id": question.user, "candidates": question.candidates})


def listed(question: Question) -> bytes:
    """For a server whose batched calls take a list."""
    return b'{"requests": [' + plain(question) + b"]}"


def by_history(question: Question) -> bytes:
    """For the service, with the user told by a history of one item."""
    return _ours({"history": [str(question.user)]}, question)


def by_user(question: Question) -> bytes:
    """For the service, which looks up the user's history in Redis."""
    return _ours({"user_id": str(question.user)}, question)


def history_only(question: Question) -> bytes:
    """For the service with its real model: a full history, candidates by retrieval."""
    return msgspec.json.encode({"history": [str(item) for item in real_history(question)], "k": 10})


def real_history(question: Question) -> tuple[int, ...]:
    """Numbers of items in a catalogue of the size of MovieLens-1M, none twice."""
    return tuple(dict.fromkeys(item % REAL_ITEMS for item in question.candidates))[:REAL_HISTORY]


def _ours(asking: dict[str, object], question: Question) -> bytes:
    named = [str(item) for item in question.candidates]
    return msgspec.json.encode({**asking, "k": TOP, "exclude_seen": False, "candidates": named})


WIRES: dict[str, Callable[[Question], bytes]] = {
    "plain": plain,
    "listed": listed,
    "by_history": by_history,
    "by_user": by_user,
    "history_only": history_only,
}
