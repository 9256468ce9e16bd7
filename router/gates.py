"""Streams of gate scores to try policies on: generated from topics, or recorded from a model and drawn again.

Both kinds can be made to crowd: a share of the tokens then comes from one hot topic, and the hot topic can move.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class GateSource(Protocol):
    """Where batches of gate scores come from."""

    experts: int

    def draw(self, tokens: int, *, seed: int, hot_topic: int | None = None, hot_share: float = 0.5) -> Tensor:
        """Scores (T, E), float32, softmax; a share of them from the hot topic if there is one. A seed repeats it."""
        ...


class TopicGates:
    """Tokens of topics that prefer experts: logits ~ N(taste of the topic, 1), popularity of topics by Zipf's law.

    Args:
        experts: E.
        seed: of the tastes.
        topics: how many.
        zipf: exponent of their popularity.
        contrast: standard deviation of the tastes.
    """

    def __init__(
        self, experts: int, *, seed: int = 0, topics: int = 32, zipf: float = 1.1, contrast: float = 1.5
    ) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.experts = experts
        self._taste_ME = contrast * torch.randn(topics, experts, generator=draws)
        self._popularity_M = torch.arange(1, topics + 1) ** -zipf

    def draw(self, tokens: int, *, seed: int, hot_topic: int | None = None, hot_share: float = 0.5) -> Tensor:
        draws = torch.Generator().manual_seed(seed)
        if not tokens:
            return torch.zeros(0, self.experts)
        topic_T = torch.multinomial(self._popularity_M, tokens, replacement=True, generator=draws)
        crowd_T = torch.rand(tokens, generator=draws) < hot_share
        if hot_topic is not None:
            topic_T[crowd_T] = hot_topic % len(self._popularity_M)
        noise_TE = torch.randn(tokens, self.experts, generator=draws)
        return (self._taste_ME[topic_T] + noise_TE).softmax(dim=1)


class RecordedGates:
    """Requests drawn from a recording, each with the scores of all its candidates.

    A topic of a recording is a request and those most like it, by the mean gate of their candidates. Topics are
    numbered by the expert that they crowd: topic m is about the request that wants expert m % E most.

    Args:
        scores_RNE: R requests, N candidates each; rows of NaN stand where a request had fewer.
        topic_share: share of the requests that make up a topic.

    Raises:
        ValueError: wrong shape, or not one usable score.
    """

    def __init__(self, scores_RNE: Tensor, *, topic_share: float = 0.05) -> None:
        if scores_RNE.dim() != 3 or not scores_RNE.numel():
            raise ValueError(f"a recording must be (requests, candidates, experts), not {tuple(scores_RNE.shape)}")
        real_RN = scores_RNE.isfinite().all(dim=2)
        some_R = real_RN.any(dim=1)
        if not bool(some_R.any()):
            raise ValueError("the recording holds no finite score")
        self.experts = scores_RNE.shape[2]
        self._requests = [scores_NE[real_N] for scores_NE, real_N in zip(scores_RNE, real_RN, strict=True)]
        self._requests = [scores_NE.float() for scores_NE in self._requests if len(scores_NE)]
        mean_RE = torch.stack([scores_NE.mean(dim=0) for scores_NE in self._requests])
        members = max(1, round(topic_share * len(mean_RE)))
        centre_EE = mean_RE[mean_RE.argmax(dim=0)]
        self._members_EM = torch.cdist(centre_EE, mean_RE).topk(members, largest=False).indices

    def draw(self, tokens: int, *, seed: int, hot_topic: int | None = None, hot_share: float = 0.5) -> Tensor:
        draws, parts, left = torch.Generator().manual_seed(seed), [torch.zeros(0, self.experts)], tokens
        while left > 0:
            request = int(torch.randint(len(self._requests), (1,), generator=draws))
            crowd = bool(torch.rand(1, generator=draws) < hot_share)
            if hot_topic is not None and crowd:
                members_M = self._members_EM[hot_topic % self.experts]
                request = int(members_M[request % len(members_M)])
            parts.append(self._requests[request][:left])
            left -= len(parts[-1])
        return torch.cat(parts)
