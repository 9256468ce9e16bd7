"""What one user may teach between two publications: each item once, and so many. Nobody talks an item up alone."""

from __future__ import annotations


class Voices:
    """Who has said what since `clear`.

    Args:
        most: items of one user that count.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._said: dict[str, set[str]] = {}

    def counts(self, user_id: str, item_id: str) -> bool:
        """Whether this event still counts; if so, it is remembered."""
        said = self._said.setdefault(user_id, set())
        if item_id in said or len(said) >= self._most:
            return False
        said.add(item_id)
        return True

    def clear(self) -> None:
        """Everybody may speak again."""
        self._said.clear()
