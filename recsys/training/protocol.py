"""What is trained on, what is predicted, and the check that no future reaches training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.data.splits import Split, leave_one_out, split_by_time
from recsys.errors import InputError
from recsys.model.vocabulary import Vocabulary
from recsys.training.config import TrainConfig
from recsys.training.examples import Catalogue, Ints, Sequences

VALIDATION_SHARE = 0.05


class FutureLeakError(InputError):
    """Training data holds events that are not before what is to be predicted."""


def split(interactions: pl.DataFrame, config: TrainConfig) -> Split:
    """Cut the events as `config.protocol` says. The parts depend on the data and the config alone.

    Raises:
        FutureLeakError: a part that is trained on holds an event of the future.
    """
    match config.protocol:
        case "leave_one_out":
            parts = leave_one_out(interactions, validation_users=config.validation_users, seed=config.seed)
        case "time":
            outer = split_by_time(interactions, test_share=config.test_share)
            inner = split_by_time(outer.train, test_share=VALIDATION_SHARE)
            parts = Split(inner.train, inner.test, outer.test)
        case _:
            inner = split_by_time(interactions, test_share=VALIDATION_SHARE)
            parts = Split(inner.train, inner.test, interactions.clear())
    refuse_future(parts.train, parts.validation, by_user=config.protocol == "leave_one_out")
    refuse_future(pl.concat([parts.train, parts.validation]), parts.test, by_user=config.protocol == "leave_one_out")
    return parts


def refuse_future(before: pl.DataFrame, after: pl.DataFrame, *, by_user: bool) -> None:
    """Check that no event of `before` is later than one of `after`, of the same user only or of all.

    Raises:
        FutureLeakError: naming the user and the times.
    """
    if not before.height or not after.height:
        return
    if by_user:
        first = after.group_by("user_id").agg(cut=pl.col("ts").min())
        late = before.join(first, on="user_id").filter(pl.col("ts") > pl.col("cut"))
    else:
        late = before.with_columns(cut=pl.lit(after["ts"].min())).filter(pl.col("ts") >= pl.col("cut"))
    twice = before.join(after, on=["user_id", "item_id", "kind", "ts"], how="semi")
    if late.height:
        row = late.row(0, named=True)
        raise FutureLeakError(f"user {row['user_id']}: an event at {row['ts']} is trained on, the cut is {row['cut']}")
    if twice.height:
        row = twice.row(0, named=True)
        raise FutureLeakError(f"user {row['user_id']}: the event at {row['ts']} is both trained on and predicted")


@dataclass(frozen=True, slots=True)
class Cases:
    """Events to predict, each from all events of its user before it.

    Case c predicts `targets[c]` from events `begins[c]` up to `ends[c]` of `sequences`.
    """

    sequences: Sequences
    begins: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def targets(self) -> Ints:
        """Catalogue rows to predict."""
        return self.sequences.items[self.ends]

    def histories(self, cases: slice | Ints, newest: int | None = None) -> tuple[list[Ints], list[Ints]]:
        """Items and kinds that each of the cases may look at, at most the `newest` of them."""
        spans = [
            slice(begin if newest is None else max(begin, end - newest), end)
            for begin, end in zip(self.begins[cases], self.ends[cases], strict=True)
        ]
        return [self.sequences.items[span] for span in spans], [self.sequences.kinds[span] for span in spans]


def build_cases(
    before: pl.DataFrame,
    targets: pl.DataFrame,
    catalogue: Catalogue,
    vocabulary: Vocabulary,
    *,
    most: int | None = None,
    seed: int = 0,
) -> Cases:
    """One case per event of `targets`. Its history holds earlier targets too: in serving, events arrive at once.

    An item that the user had before is no target, because answers leave out what was seen.

    Args:
        most: a random sample of so many cases is taken; None = all.
        seed: of the sample.
    """
    events = pl.concat([before.with_columns(marked=pl.lit(False)), targets.with_columns(marked=pl.lit(True))])
    sequences = Sequences.build(events, catalogue, vocabulary)
    ends = np.flatnonzero(sequences.marked & _first_time(sequences))
    if most is not None and len(ends) > most:
        ends = np.sort(np.random.default_rng(seed).choice(ends, most, replace=False))
    begins = sequences.offsets[np.searchsorted(sequences.offsets, ends, side="right") - 1]
    return Cases(sequences, begins, ends)


def _first_time(sequences: Sequences) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each event is the first of its user with its item."""
    users = np.repeat(np.arange(len(sequences.lengths)), sequences.lengths)
    pairs = users * (int(sequences.items.max(initial=0)) + 1) + sequences.items
    first = np.zeros(len(pairs), dtype=np.bool_)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first
