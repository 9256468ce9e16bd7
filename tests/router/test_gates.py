"""Streams of gate scores: repeatable, and they crowd when they are told to."""

from __future__ import annotations

import pytest
import torch

from router.gates import GateSource, RecordedGates, TopicGates
from router.imbalance import max_over_mean


def recording() -> RecordedGates:
    draws = torch.Generator().manual_seed(0)
    taste_R1E = 1.5 * torch.randn(60, 1, 8, generator=draws)
    scores_RNE = (taste_R1E + 0.3 * torch.randn(60, 20, 8, generator=draws)).softmax(dim=2)
    scores_RNE[5, 3:] = torch.nan  # a request with three candidates
    scores_RNE[6] = torch.nan  # one with none
    return RecordedGates(scores_RNE)


@pytest.mark.parametrize("gates", [TopicGates(8), recording()])
def test_a_crowd_is_uneven_and_a_seed_repeats_it(gates: GateSource) -> None:
    calm_TE, crowd_TE = gates.draw(2000, seed=1), gates.draw(2000, seed=1, hot_topic=0, hot_share=0.7)
    for scores_TE in (calm_TE, crowd_TE):
        assert scores_TE.shape == (2000, 8)
        assert torch.allclose(scores_TE.sum(dim=1), torch.ones(2000), atol=1e-5)
    assert torch.equal(crowd_TE, gates.draw(2000, seed=1, hot_topic=0, hot_share=0.7))
    assert not torch.equal(calm_TE, gates.draw(2000, seed=2))
    uneven = [max_over_mean(torch.bincount(s.argmax(dim=1), minlength=8)) for s in (calm_TE, crowd_TE)]
    assert uneven[1] > 1.3 * uneven[0]
    assert gates.draw(0, seed=1).shape == (0, 8)


def test_another_topic_crowds_other_experts() -> None:
    gates = recording()
    hottest = [int(gates.draw(2000, seed=1, hot_topic=topic).mean(dim=0).argmax()) for topic in range(8)]
    assert hottest == list(range(8))


def test_an_unusable_recording_is_refused() -> None:
    with pytest.raises(ValueError, match="requests, candidates, experts"):
        RecordedGates(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="no finite score"):
        RecordedGates(torch.full((2, 3, 4), torch.nan))
