"""Which items users have close to each other."""

from __future__ import annotations

import numpy as np

from recsys.training.examples import Ints, Sequences


def co_occurrences(sequences: Sequences, window: int) -> tuple[Ints, Ints]:
    """Both items of any two events of a user at most `window` steps apart, in both directions, sorted by the first."""
    users = np.repeat(np.arange(len(sequences.lengths)), sequences.lengths)
    near = [
        (sequences.items[:-step][same], sequences.items[step:][same])
        for step in range(1, min(window, int(sequences.lengths.max(initial=0))) + 1)
        for same in [users[:-step] == users[step:]]
    ]
    older = np.concatenate([np.zeros(0, np.int64), *(pair[0] for pair in near)])
    newer = np.concatenate([np.zeros(0, np.int64), *(pair[1] for pair in near)])
    firsts, seconds = np.concatenate([older, newer]), np.concatenate([newer, older])
    order = np.argsort(firsts, kind="stable")
    return firsts[order], seconds[order]
