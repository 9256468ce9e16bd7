"""The answer to which users an expert works for."""

from __future__ import annotations

from pydantic import BaseModel, Field


class UserKind(BaseModel):
    """Users whose history is most about one category."""

    kind: str = Field(description="That category; `(no history)` for those who have none")
    users: int
    share: list[float] = Field(description="Per expert, its share of the gate weight in their answers; adds up to 1")


class ExpertUsersLayer(BaseModel):
    """One MoE layer; lists run over experts."""

    layer: int
    share: list[float] = Field(description="Share of the gate weight in the answers, every user counting the same")
    leads: list[int] = Field(description="Users in whose answer the expert had the largest share")
    kinds: list[UserKind] = Field(description="The sixteen most frequent kinds, those with most users first")


class ExpertUsersAnswer(BaseModel):
    """Users of the last two minutes by the experts that work for them, at most half a minute old. Names nobody."""

    asked: int = Field(description="Users in the sample, of those that this process answered lately")
    answered: int = Field(description="Of them, answered again with their experts")
    layers: list[ExpertUsersLayer]
