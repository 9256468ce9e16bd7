"""The board's view of the contract is part of the contract."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from dashboard import answers, system_answers
from recsys import wire
from recsys.api import expert_users_schemas, router_schemas, schemas, system_schemas, traffic_schemas

PAIRS = [
    (answers.LayerLoad, wire.LayerLoad),
    (answers.LoadSnapshot, wire.LoadSnapshot),
    (answers.Experts, schemas.ExpertsAnswer),
    (answers.Router, router_schemas.RouterAnswer),
    (answers.QualityBudget, router_schemas.QualityBudgetAnswer),
    (answers.PolicyReturned, router_schemas.PolicyReturned),
    (answers.Models, schemas.ModelsAnswer),
    (answers.ServedModel, schemas.ServedModel),
    (answers.RoutedTraffic, traffic_schemas.RoutedTraffic),
    (answers.TrafficComparison, traffic_schemas.TrafficComparison),
    (answers.Item, schemas.RecommendedItem),
    (answers.Degraded, schemas.Degraded),
    (answers.Timing, schemas.Timing),
    (answers.Explanation, schemas.Explanation),
    (answers.Recommendations, schemas.RecommendationAnswer),
    (answers.RoutedAnswer, router_schemas.RoutedAnswer),
    (answers.MovedItem, router_schemas.MovedItem),
    (answers.RoutingDifference, router_schemas.RoutingDifference),
    (answers.Comparison, router_schemas.RouterComparison),
    (answers.HistoryEntry, schemas.HistoryEntry),
    (answers.User, schemas.UserAnswer),
    (answers.Popular, schemas.PopularAnswer),
    (answers.RejectedEvent, schemas.RejectedEvent),
    (answers.Events, schemas.EventsAnswer),
    (answers.ExpertUsers, expert_users_schemas.ExpertUsersAnswer),
    (answers.ExpertUsersLayer, expert_users_schemas.ExpertUsersLayer),
    (answers.UserKind, expert_users_schemas.UserKind),
    (system_answers.System, system_schemas.SystemAnswer),
    (system_answers.Process, system_schemas.ProcessAnswer),
    (system_answers.QueryCounts, system_schemas.QueryCountsAnswer),
    (system_answers.Stream, system_schemas.StreamAnswer),
    (system_answers.Group, system_schemas.GroupAnswer),
    (system_answers.DeadLetters, system_schemas.DeadLettersAnswer),
    (system_answers.DeadLetter, system_schemas.DeadLetterAnswer),
    (system_answers.DeadLetterList, system_schemas.DeadLetterList),
    (system_answers.RedisServer, system_schemas.RedisAnswer),
]


def fields_of(type_: Any) -> set[str]:
    if issubclass(type_, BaseModel):
        return set(type_.model_fields)
    return {field.name for field in dataclasses.fields(type_)}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda type_: type_.__name__)
def test_reads_only_fields_that_the_service_sends(ours: type[msgspec.Struct], theirs: type) -> None:
    assert set(ours.__struct_fields__) <= fields_of(theirs)


def test_every_answer_type_is_compared() -> None:
    named = [*vars(answers).values(), *vars(system_answers).values()]
    structs = {v for v in named if isinstance(v, type) and issubclass(v, msgspec.Struct)}
    assert structs - {ours for ours, _ in PAIRS} == {answers.Problem}
    assert set(answers.Problem.__struct_fields__) <= set(schemas.Problem.model_fields)
