"""Splits: hand-made tables, and for any table that no future reaches training."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from recsys.data.schema import INTERACTIONS
from recsys.data.splits import Split, leave_one_out, split_by_time
from recsys.errors import InputError

T = 1_700_000_000_000


def events(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [(user, item, "click", None, T + at) for user, item, at in rows], schema=INTERACTIONS, orient="row"
    )


def items_of(frame: pl.DataFrame) -> list[str]:
    return frame["item_id"].to_list()


tables = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("uvwxyz"), st.integers(0, 6)), min_size=1, max_size=30
).map(lambda rows: events(*rows).sort("ts", maintain_order=True))


def assert_parts_make_the_whole(split: Split, whole: pl.DataFrame) -> None:
    parts = pl.concat([split.train, split.validation, split.test])
    assert_frame_equal(parts, whole, check_row_order=False)


def test_time_cut_by_share_sends_ties_to_the_test() -> None:
    table = events(("a", "1", 0), ("a", "2", 1), ("b", "3", 2), ("b", "4", 2), ("b", "5", 3))
    split = split_by_time(table, test_share=0.4)  # the cut falls on the second event of time 2
    assert items_of(split.train) == ["1", "2"]
    assert items_of(split.test) == ["3", "4", "5"]
    assert split.validation.height == 0


def test_time_cut_at_a_time() -> None:
    table = events(("a", "1", 0), ("a", "2", 1), ("b", "3", 2))
    split = split_by_time(table, until_ms=T + 1)
    assert items_of(split.train) == ["1"]
    assert items_of(split.test) == ["2", "3"]


@settings(deadline=None)
@given(tables, st.floats(0.01, 0.99))
def test_time_cut_leaks_no_future(table: pl.DataFrame, share: float) -> None:
    try:
        split = split_by_time(table, test_share=share)
    except InputError:
        cut = table["ts"][min(int(table.height * (1 - share)), table.height - 1)]
        assert cut == table["ts"].min(), "refused only where nothing is before the cut"
        return
    last, first = split.train["ts"].to_list()[-1], split.test["ts"].to_list()[0]
    assert last < first
    assert split.test.height >= share * table.height - 1
    assert_parts_make_the_whole(split, table)


@pytest.mark.parametrize(
    ("share", "until", "expected"),
    [
        (None, None, "exactly one of test_share and until_ms"),
        (0.5, T, "exactly one of test_share and until_ms"),
        (0.0, None, "test_share: 0.0 is not between 0 and 1"),
        (1.0, None, "test_share: 1.0 is not between 0 and 1"),
        (float("nan"), None, "test_share: nan is not between 0 and 1"),
        (None, T, "leaves no training rows; times go from"),
        (None, T + 9, "leaves no test rows; times go from"),
    ],
)
def test_wrong_time_cuts(share: float | None, until: int | None, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        split_by_time(events(("a", "1", 0), ("a", "2", 1)), test_share=share, until_ms=until)


def test_nothing_to_cut() -> None:
    with pytest.raises(InputError, match="no interactions"):
        split_by_time(events(), test_share=0.5)
    with pytest.raises(InputError, match="no user has two events"):
        leave_one_out(events(("a", "1", 0), ("b", "1", 0)))
    with pytest.raises(InputError, match="no user has two events"):
        leave_one_out(events())


def test_last_event_is_left_out() -> None:
    table = events(("a", "1", 0), ("b", "2", 1), ("a", "3", 2), ("c", "4", 3), ("b", "5", 4), ("b", "6", 5))
    split = leave_one_out(table)
    assert items_of(split.test) == ["3", "6"]
    assert items_of(split.train) == ["1", "2", "4", "5"], "c has one event only and stays"
    assert split.validation.height == 0


def test_ties_keep_the_order_of_rows() -> None:
    split = leave_one_out(events(("a", "1", 5), ("a", "2", 5), ("a", "3", 5)), validation_users=1)
    assert (items_of(split.train), items_of(split.validation), items_of(split.test)) == (["1"], ["2"], ["3"])


def test_rows_need_not_be_sorted() -> None:
    split = leave_one_out(events(("a", "late", 9), ("a", "early", 1)))
    assert items_of(split.test) == ["late"]


def test_validation_needs_three_events_and_a_seed_fixes_the_sample() -> None:
    rows = [(f"u{u}", f"{n}", 10 * u + n) for u in range(20) for n in range(2 + u % 2)]
    table = events(*rows)
    split = leave_one_out(table, validation_users=4, seed=3)
    again = leave_one_out(table, validation_users=4, seed=3)
    other = leave_one_out(table, validation_users=4, seed=4)
    assert split.validation.height == 4
    assert all(int(user[1:]) % 2 == 1 for user in split.validation["user_id"])
    assert_frame_equal(split.validation, again.validation)
    assert not split.validation.equals(other.validation)
    assert leave_one_out(table, validation_users=99).validation.height == 10
    with pytest.raises(InputError, match="validation_users: -1 is negative"):
        leave_one_out(table, validation_users=-1)


@settings(deadline=None)
@given(tables, st.integers(0, 5), st.integers(0, 3))
def test_left_out_events_are_the_last_of_their_user(table: pl.DataFrame, validation_users: int, seed: int) -> None:
    counts = dict(table.group_by("user_id").len().iter_rows())
    try:
        split = leave_one_out(table, validation_users=validation_users, seed=seed)
    except InputError:
        assert max(counts.values()) == 1
        return
    assert_parts_make_the_whole(split, table)
    assert set(split.test["user_id"]) == {user for user, count in counts.items() if count >= 2}
    assert split.validation.height == min(validation_users, sum(count >= 3 for count in counts.values()))
    for part, later in ((split.train, split.validation), (split.train, split.test), (split.validation, split.test)):
        pairs = part.join(later, on="user_id", suffix="_later")
        assert (pairs["ts"] <= pairs["ts_later"]).all()
    for user, in_order in table.group_by("user_id", maintain_order=True):
        if counts[user[0]] >= 2:
            left_out = split.test.filter(pl.col("user_id") == user[0])
            assert left_out.rows() == in_order.tail(1).rows()
