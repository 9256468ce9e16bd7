"""Moving surplus to room along chains of experts, each move made by the token that minds it least.

At good prices nearly every token is where it should be, and the few experts over capacity border on others through
tokens that hardly care. A chain a -> b -> c takes one such token from a to b and another from b to c; it costs the
sum of their margins. Many shortest chains that share no token are taken at a time, as in successive shortest paths
for min-cost flow.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

Moves = dict[tuple[int, int], list[tuple[float, int]]]  # (from, to) -> (cost, token), dearest first


def settle(
    token_L: Tensor,
    from_L: Tensor,
    to_L: Tensor,
    cost_L: Tensor,
    load_E: Tensor,
    slots_E: Tensor,
    prices_E: Tensor,
    rounds: int,
) -> tuple[list[int], Tensor]:
    """Choose which of the offered moves to make so that experts over capacity get rid of their surplus.

    Args:
        token_L, from_L, to_L, cost_L: each offer moves a token from an expert it holds to another, at the cost of its
            margin (>= 0, score - price of the one minus that of the other). At most one offer of a token is taken.
        load_E, slots_E: load and capacity.
        prices_E: a chain from a to c loses its cost + price_a - price_c in score.
        rounds: shortest-path searches at most; each serves every expert with room once.

    Returns:
        Indices of the offers to take, and the loads after them.
    """
    experts = load_E.numel()
    moves: Moves = defaultdict(list)
    tokens, offered = token_L.tolist(), defaultdict(list)
    settled: set[int] = set()
    order_L = cost_L.argsort(descending=True, stable=True)
    for offer, source, target, cost in zip(
        order_L.tolist(), from_L[order_L].tolist(), to_L[order_L].tolist(), cost_L[order_L].tolist(), strict=True
    ):
        moves[source, target].append((cost, offer))
        offered[tokens[offer]].append((source, target))
    length_EE = torch.full((experts, experts), torch.inf)
    for (source, target), offers in moves.items():
        length_EE[source, target] = offers[-1][0]
    load, slots, taken = load_E.tolist(), slots_E.tolist(), []
    prices_E = prices_E.to("cpu", torch.float32)
    for _ in range(rounds):
        surplus = [e for e in range(experts) if load[e] > slots[e]]
        # With no surplus left, a token of any expert may move into room that is worth more to it.
        start_E = prices_E
        if surplus:
            start_E = torch.full_like(prices_E, torch.inf)
            start_E[surplus] = prices_E[surplus]
        distance_E, parent = _shortest(start_E, length_EE)
        loss_E = (distance_E - prices_E).tolist()
        worth = float("inf") if surplus else -1e-7
        sinks = sorted((loss, e) for e, loss in enumerate(loss_E) if load[e] < slots[e] and loss < worth)
        used: set[tuple[int, int]] = set()
        for _, sink in sinks:
            path = _path(sink, parent)
            if not path or used.intersection(path) or (surplus and load[path[0][0]] <= slots[path[0][0]]):
                continue
            chosen = [moves[edge][-1][1] if moves[edge] else -1 for edge in path]
            if -1 in chosen or len({tokens[offer] for offer in chosen}) < len(chosen):
                continue
            taken += chosen
            settled.update(tokens[offer] for offer in chosen)
            for edge in {edge for offer in chosen for edge in offered[tokens[offer]]}:
                while moves[edge] and tokens[moves[edge][-1][1]] in settled:
                    moves[edge].pop()
                length_EE[edge] = moves[edge][-1][0] if moves[edge] else torch.inf
                used.add(edge)  # its length is not the one that the paths were searched with
            load[path[0][0]] -= 1
            load[sink] += 1
        if not used:
            break
    return taken, torch.tensor(load, device=load_E.device)


def _shortest(start_E: Tensor, length_EE: Tensor) -> tuple[Tensor, list[int]]:
    """Bellman-Ford from all sources at once: distances, and the expert before each (-1 for none)."""
    distance_E, parent_E = start_E, torch.full(start_E.shape, -1)
    for _ in range(start_E.numel() - 1):
        through_E, before_E = (distance_E[:, None] + length_EE).min(dim=0)
        shorter_E = through_E < distance_E - 1e-9
        if not bool(shorter_E.any()):
            break
        distance_E = torch.where(shorter_E, through_E, distance_E)
        parent_E = torch.where(shorter_E, before_E, parent_E)
    return distance_E, parent_E.tolist()


def _path(sink: int, parent: list[int]) -> list[tuple[int, int]]:
    """Edges from a source to `sink`; none if there is no way."""
    path: list[tuple[int, int]] = []
    while parent[sink] >= 0:
        path.insert(0, (parent[sink], sink))
        sink = parent[sink]
        if len(path) > len(parent):
            return []
    return path
