"""What a model learns between two trainings, without a stream."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recsys.config import OnlineSettings
from recsys.model.recommender import Recommender
from recsys.online.guard import Guard
from recsys.online.student import Example, Judged, Student
from recsys.state.items import CatalogueItem

FAST = OnlineSettings(learning_rate=0.3)


def item(item_id: str, *categories: str) -> CatalogueItem:
    return CatalogueItem(item_id=item_id, title=item_id, ts=0, categories=categories)


@pytest.fixture
def model(tiny_model: Path) -> Recommender:
    return Recommender.from_pretrained(tiny_model)


@pytest.fixture
def items(model: Recommender) -> list[CatalogueItem]:
    category = model.vocabulary.categories[0]
    return [*(item(item_id, category) for item_id in model.vocabulary.items), item("new", category), item("unmet")]


def taken(item_id: str, *history: str) -> Example:
    return Example(item_id, history, ("view",) * len(history))


def test_a_new_item_rises_for_those_who_take_it_and_others_hardly_move(
    model: Recommender, items: list[CatalogueItem]
) -> None:
    student = Student(model, items, FAST)
    first, *_, last = (student.learn([taken("new", "i1", "i2"), taken("new", "i3", "i1")]) for _ in range(40))
    assert torch.equal(first.served_B, first.student_B), "nothing was learned yet"
    assert torch.equal(last.served_B, first.served_B), "the served model stays"
    assert int(last.student_B.max()) == 1 < int(first.served_B.min())
    learned = student.graduate("v2")
    trained = len(model.vocabulary.items)
    moved_I = (learned.item_ids.weight[1 : trained + 1] - model.item_ids.weight[1:]).norm(dim=1)
    assert moved_I.max() < 0.2 * learned.item_ids.weight[-1].norm()


def test_what_graduates_answers_as_the_student_did(model: Recommender, items: list[CatalogueItem]) -> None:
    student = Student(model, items, FAST)
    for _ in range(10):
        student.learn([taken("new", "i1", "i2"), taken("i9", "i3")])
    learned = student.graduate("v2")
    assert learned.vocabulary.items == (*model.vocabulary.items, "new"), "an item nobody met stays without its own"
    assert learned.version == "v2"
    cases = [taken("new", "i2", "i1"), taken("i9", "i4"), taken("i5", "i6")]
    again = student.onto(learned, items).learn(cases)
    assert torch.equal(student.learn(cases).student_B, again.served_B)


def test_forgetting_goes_back_to_what_is_served(model: Recommender, items: list[CatalogueItem]) -> None:
    student = Student(model, items, FAST)
    student.learn([taken("new", "i1")])
    assert student.changed
    student.forget()
    assert not student.changed
    weights, old = student.graduate("v2").state_dict(), model.state_dict()
    assert all(torch.equal(weights[name], old[name]) for name in old)


def test_a_changed_catalogue_keeps_what_was_learned(model: Recommender, items: list[CatalogueItem]) -> None:
    student = Student(model, items, FAST)
    for _ in range(20):
        student.learn([taken("new", "i1")])
    case = [taken("new", "i1")]
    before = student.learn(case).student_B
    student.follow([item("newer"), *items])
    assert int(student.learn(case).student_B) <= int(before) + 1


def test_events_that_teach_nothing_are_left_out(model: Recommender, items: list[CatalogueItem]) -> None:
    student = Student(model, items, FAST)
    judged = student.learn([taken("not in the catalogue", "i1"), taken("i1", "i1"), taken("i2")])
    assert judged.item_ids == ("i2",)
    assert student.learn([]).item_ids == ()


def test_the_seedless_student_repeats_itself(model: Recommender, items: list[CatalogueItem]) -> None:
    runs = [Student(model, items, FAST) for _ in range(2)]
    for student in runs:
        for n in range(5):
            student.learn([taken("new", f"i{n + 1}")])
    one, other = (student.graduate("v").item_ids.weight for student in runs)
    assert torch.equal(one, other)


def test_the_guard_lets_chance_pass_and_stops_a_loss() -> None:
    guard = Guard(window=100, tolerance=0.01)
    assert guard.holds, "nothing speaks against nothing"
    guard.see(Judged(("i",) * 4, torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 4])))
    assert guard.holds
    guard.see(Judged(("i",), torch.tensor([1]), torch.tensor([30])))
    assert not guard.holds
    guard.clear()
    assert guard.holds
    assert len(guard) == 0
