"""Splits of interactions that let no future leak into training."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from recsys.errors import InputError

_ROW = "\0row"  # cannot be the name of a column of the schema


@dataclass(frozen=True, slots=True)
class Split:
    """Parts of one table of interactions; together they are the whole table, each in its order.

    `validation` has no rows where none was asked for. Before a test a model may see `train` and `validation`.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame


def split_by_time(interactions: pl.DataFrame, *, test_share: float | None = None, until_ms: int | None = None) -> Split:
    """One cut in time for everybody: training strictly before it, test from it on.

    Args:
        interactions: rows with `ts` (Unix ms).
        test_share: wanted share of rows in the test part, in (0, 1); rows that tie with the cut all go to the test.
        until_ms: the cut itself: training holds the rows with `ts < until_ms`.

    Raises:
        InputError: not exactly one way to cut, a share outside its bounds, or a cut that leaves a part empty.
    """
    if (test_share is None) == (until_ms is None):
        raise InputError("give exactly one of test_share and until_ms", field="test_share")
    if not interactions.height:
        raise InputError("there are no interactions to split", field="interactions")
    if test_share is not None:
        if not 0 < test_share < 1:
            raise InputError(f"test_share: {test_share} is not between 0 and 1", field="test_share")
        first_test = min(int(interactions.height * (1 - test_share)), interactions.height - 1)
        until_ms = int(interactions["ts"].sort()[first_test])
    train = interactions.filter(pl.col("ts") < until_ms)
    test = interactions.filter(pl.col("ts") >= until_ms)
    if not train.height or not test.height:
        first, last = interactions.select(first=pl.col("ts").min(), last=pl.col("ts").max()).row(0)
        part = "test" if train.height else "training"
        raise InputError(f"the cut at {until_ms} leaves no {part} rows; times go from {first} to {last}", field="ts")
    return Split(train, interactions.clear(), test)


def leave_one_out(interactions: pl.DataFrame, *, validation_users: int = 0, seed: int = 0) -> Split:
    """Each user's last event is the test, for a sample of users the one before it is validation.

    The last is the latest by `ts`; ties keep the order of rows. A user with a single event is in training only, and
    a validation event is taken only from users who keep at least one event for training.

    Args:
        interactions: rows with `user_id` and `ts`.
        validation_users: size of the sample; all eligible users if there are fewer.
        seed: of the sample.

    Raises:
        InputError: a negative sample, or no user with two events.
    """
    if validation_users < 0:
        raise InputError(f"validation_users: {validation_users} is negative", field="validation_users")
    ranked = (
        interactions.with_row_index(_ROW)
        .sort("ts", maintain_order=True)
        .with_columns(
            from_end=pl.int_range(pl.len(), dtype=pl.Int64).reverse().over("user_id"),
            events=pl.len().over("user_id"),
        )
        .sort(_ROW)
    )
    is_test = (pl.col("from_end") == 0) & (pl.col("events") >= 2)
    if not ranked.select(is_test.any()).item():
        raise InputError("no user has two events, so nothing can be left out", field="user_id")
    eligible = ranked.filter((pl.col("from_end") == 0) & (pl.col("events") >= 3))["user_id"].unique().sort()
    sample = eligible.sample(min(validation_users, eligible.len()), seed=seed)
    is_validation = (pl.col("from_end") == 1) & pl.col("user_id").is_in(sample.implode())
    columns = interactions.columns
    return Split(
        train=ranked.filter(~is_test & ~is_validation).select(columns),
        validation=ranked.filter(is_validation).select(columns),
        test=ranked.filter(is_test).select(columns),
    )
