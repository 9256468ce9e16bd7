"""Who comes, what they ask and how they react."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from statistics import fmean

import pytest

from loadtest.audience import SESSIONS, Audience, Visit
from loadtest.behaviour import affinity, react
from loadtest.options import LoadTestError, Options
from loadtest.shapes import Phase
from loadtest.tastes import Tastes, User, load_tastes
from recsys.api.schemas import RecommendationRequest

CALM = Phase("calm", 60, 50)


@pytest.fixture
def tastes(tastes_file: Path) -> Tastes:
    return load_tastes(tastes_file)


def visits(tastes: Tastes, phase: Phase, many: int, **options: object) -> list[Visit]:
    audience = Audience(tastes, Options(**options), Random(5))  # type: ignore[arg-type]
    return [audience.visit(phase) for _ in range(many)]


def test_the_seed_fixes_the_visits(tastes: Tastes) -> None:
    assert visits(tastes, CALM, 500) == visits(tastes, CALM, 500)


def test_few_users_make_most_visits_by_zipf(tastes: Tastes) -> None:
    count = Counter(visit.user.id for visit in visits(tastes, CALM, 30_000, zipf=1.0, session_length=1))
    most = [n for _, n in count.most_common()]
    assert most[0] / most[9] == pytest.approx(10, rel=0.3)
    assert len(visits(tastes, CALM, 1, zipf=0)) == 1


def test_without_zipf_users_come_by_their_activity(tastes: Tastes) -> None:
    users = tuple(
        User(user.id, 3.0 if user.id == "u7" else float(user.id == "u8"), user.taste) for user in tastes.users
    )
    only = Tastes(tastes.format, tastes.categories, tastes.items, users)
    count = Counter(visit.user.id for visit in visits(only, CALM, 8_000, zipf=0, session_length=1))
    assert set(count) == {"u7", "u8"}
    assert count["u7"] / count["u8"] == pytest.approx(3, rel=0.15)


def test_sessions_have_the_mean_length_asked_for(tastes: Tastes) -> None:
    seen = visits(tastes, CALM, 40_000, session_length=5)[SESSIONS * 5 :]
    lengths = Counter(id(visit) for visit in seen)
    assert fmean(lengths.values()) == pytest.approx(5, rel=0.1)


def test_the_crowd_has_its_share_and_comes_by_one_category(tastes: Tastes) -> None:
    seen = visits(tastes, Phase("crowd", 30, 500, 0.7), 4_000)
    crowd = [visit for visit in seen if visit.category is not None]
    assert len(crowd) / len(seen) == pytest.approx(0.7, abs=0.03)
    [category] = {visit.category for visit in crowd}
    assert all(category in tastes.categories_of[item] for visit in crowd for item in visit.history)


def test_each_crowd_draws_its_category_unless_one_is_given(tastes: Tastes) -> None:
    audience = Audience(tastes, Options(), Random(5))
    crowds = [Phase("crowd", 30, 500, 1.0) for _ in range(30)]
    assert len({audience.visit(phase).category for phase in crowds}) == 3
    audience = Audience(tastes, Options(category="noir"), Random(5))
    assert {audience.visit(phase).category for phase in crowds} == {"noir"}


def test_processes_with_chance_of_their_own_mean_the_same_crowd(tastes: Tastes) -> None:
    crowds = [Phase("crowd", 30, 10, 1.0) for _ in range(6)]
    one, other = (Audience(tastes, Options(seed=2), Random(seed)) for seed in (1, 2))
    assert [one.visit(phase).category for phase in crowds] == [other.visit(phase).category for phase in crowds]


def test_a_crowd_about_an_item_comes_by_that_item_alone_and_asks_for_anything(tastes: Tastes) -> None:
    phase = Phase("crowd", 30, 10, 0.7, about="item")
    audience = Audience(tastes, Options(), Random(5))
    seen = [audience.visit(phase) for _ in range(1_000)]
    crowd = [visit for visit in seen if visit.history]
    assert len(crowd) == pytest.approx(700, abs=60)
    [history] = {visit.history for visit in crowd}
    assert audience.wanted == f"item {history[0]}"
    assert crowd[0].body(5) == {"user_id": crowd[0].user.id, "k": 5, "history": list(history)}
    assert Audience(tastes, Options(item="i7"), Random(5)).visit(Phase("crowd", 9, 9, 1.0, "item")).history == ("i7",)
    with pytest.raises(LoadTestError, match="--item: 'i999' is not in the catalogue"):
        Audience(tastes, Options(item="i999"), Random(5))


def test_an_unknown_category_is_refused_with_the_known_ones(tastes: Tastes) -> None:
    with pytest.raises(LoadTestError, match="--category: 'opera' has no items; categories are comedy, noir, western"):
        Audience(tastes, Options(category="opera"), Random(5))


def test_requests_keep_the_contract(tastes: Tastes) -> None:
    for visit in visits(tastes, Phase("crowd", 30, 500, 0.7), 200):
        request = RecommendationRequest.model_validate(visit.body(10))
        assert request.user_id == visit.user.id
        assert bool(request.history) == bool(request.filters.categories_any) == (visit.category is not None)


def test_affinity_is_relative_to_the_favourite() -> None:
    taste = {"noir": 0.6, "comedy": 0.3}
    assert affinity(taste, ["noir"]) == 1
    assert affinity(taste, ["comedy", "opera"]) == pytest.approx(0.5)
    assert affinity(taste, ["opera"]) == affinity(taste, []) == affinity({}, ["noir"]) == 0


def test_the_crowds_category_counts_as_a_favourite_and_unknown_items_by_the_answers_categories(tastes: Tastes) -> None:
    audience = Audience(tastes, Options(), Random(5))
    user = User("u", 1.0, {"western": 0.9, "comedy": 0.1})
    shown = [("i0", []), ("new", ["western"]), ("newer", ["comedy"])]  # i0 is a comedy
    fits = [round(fit, 3) for _, fit in audience.affinities(Visit(user), shown)]
    assert fits == [0.111, 1, 0.111]
    assert [fit for _, fit in audience.affinities(Visit(user, "comedy"), shown)] == [1, 1, 1]


def clicks(position: int, fit: float, many: int = 4_000) -> float:
    shown = [(f"i{n}", fit) for n in range(10)]
    return sum(("click", f"i{position}") in react(shown, Random(n)) for n in range(many)) / many


def test_what_fits_and_what_stands_first_is_clicked_more() -> None:
    assert clicks(0, 1.0) > clicks(4, 1.0) > clicks(9, 1.0) > 0
    assert clicks(0, 1.0) > 3 * clicks(0, 0.1)


def test_likes_follow_clicks_and_hides_what_is_disliked() -> None:
    kinds: Counter[str] = Counter()
    for n in range(3_000):
        done = react([("good", 1.0), ("bad", 0.0)], Random(n))
        kinds.update(kind for kind, _ in done)
        for (before, item), (kind, same) in zip([("", ""), *done], done, strict=False):
            if kind == "like":
                assert (before, item) == ("click", same)
            if kind == "hide":
                assert same == "bad"
    assert kinds["click"] > kinds["like"] > kinds["hide"] > 0


def test_an_empty_list_gets_no_reaction() -> None:
    assert react([], Random(0)) == []
