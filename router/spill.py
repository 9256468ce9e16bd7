"""Placing what is left over: bids, then a ring over the free slots, then swaps along the cheapest chain of experts.

Used after prices or evictions have left a few slots without an expert. Afterwards every slot is used that can be used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from router.capacity import keep_best


def rebid(short_T: Tensor, held_ET: Tensor, room_E: Tensor, value_ET: Tensor, rounds: int) -> None:
    """Tokens with missing slots bid for experts with room. Changes its first three arguments in place.

    In each round a token bids for its best such expert with what it would lose by taking its second best; an expert
    takes the highest bids that fit (equal bids: the earlier token).

    Args:
        short_T: missing slots per token, int64.
        held_ET: which tokens hold which experts.
        room_E: free slots per expert, int64.
        value_ET: what an expert is worth to a token.
        rounds: at most this many.
    """
    for _ in range(rounds):
        token_L = short_T.nonzero().flatten()
        if not token_L.numel():
            return
        open_ET = value_ET[:, token_L].masked_fill_(held_ET[:, token_L] | (room_E <= 0)[:, None], -torch.inf)
        best_L, expert_L = open_ET.max(dim=0)
        bids_L = best_L > -torch.inf
        if not bool(bids_L.any()):
            return
        second_L = open_ET.scatter_(0, expert_L[None], -torch.inf).amax(dim=0).clamp_min(0)
        expert_L = torch.where(bids_L, expert_L, -1)
        taken_L = keep_best(expert_L[:, None], (best_L - second_L)[:, None], room_E)[:, 0]
        expert_L, token_L = expert_L[taken_L], token_L[taken_L]
        held_ET[expert_L, token_L] = True
        room_E -= torch.bincount(expert_L, minlength=room_E.numel())
        short_T[token_L] -= 1


def phase_ring(short_T: Tensor, held_ET: Tensor, room_E: Tensor, seed: int) -> None:
    """Spread missing slots evenly over the free ones, blind to scores. Changes its arguments in place.

    The free slots of all experts form a ring, expert after expert; missing slots step round it from a phase that
    `seed` sets, so that successive batches do not favour the same tokens. A token that already holds the expert it
    lands on waits for the swaps.

    Source: the low-discrepancy phase offsets of the Phase Router (TSltd/phase_router_rs), with the rooms as arc
    lengths.

    Args:
        short_T: missing slots per token, int64.
        held_ET: which tokens hold which experts.
        room_E: free slots per expert, int64.
        seed: any integer; the same one gives the same answer.
    """
    tokens_N = torch.repeat_interleave(torch.arange(short_T.numel(), device=short_T.device), short_T)
    free = int(room_E.sum())
    count = min(tokens_N.numel(), free)
    if not count:
        return
    arcs_N = torch.repeat_interleave(torch.arange(room_E.numel(), device=room_E.device), room_E)
    # Slots of one token are spread round the ring, so that they fall on different experts.
    steps_N = torch.arange(count, device=short_T.device)
    experts_N = arcs_N[((steps_N * free) // count + seed * 40_503) % free]
    tokens_N = tokens_N[:count]
    fits_N = ~held_ET[experts_N, tokens_N]
    pairs_N = experts_N * short_T.numel() + tokens_N
    first_N = torch.ones_like(fits_N)
    first_N[1:] = pairs_N[1:] != pairs_N[:-1]  # a token's slots are neighbours and the arcs ascend but for one wrap
    fits_N &= first_N
    experts_N, tokens_N = experts_N[fits_N], tokens_N[fits_N]
    held_ET[experts_N, tokens_N] = True
    room_E -= torch.bincount(experts_N, minlength=room_E.numel())
    short_T -= torch.bincount(tokens_N, minlength=short_T.numel())


def swap_in(short_T: Tensor, held_ET: Tensor, room_E: Tensor, value_ET: Tensor) -> None:
    """Give each missing slot an expert through the best chain of moves. Changes its arguments in place.

    Token t may take any expert it lacks if one of that expert's tokens moves on, and so forth, until an expert with
    room is reached. The chain with the largest change of total value is found by Bellman-Ford on the graph of
    experts; one exists whenever the slot can be used at all (augmenting paths of a flow). A few slots per batch
    come here, if any.
    """
    for token in torch.repeat_interleave(torch.arange(short_T.numel()), short_T.cpu()).tolist():
        chain = _best_chain(token, held_ET, room_E, value_ET)
        if chain is None:
            continue
        mover = token
        for expert, displaced in chain:
            held_ET[expert, mover] = True
            if displaced >= 0:
                held_ET[expert, displaced] = False
            mover = displaced
        room_E[chain[-1][0]] -= 1
        short_T[token] -= 1


def _best_chain(token: int, held_ET: Tensor, room_E: Tensor, value_ET: Tensor) -> list[tuple[int, int]] | None:
    """[(expert taken, token displaced from it), ...]; the last displaces nobody (-1). None if no chain reaches room."""
    experts = held_ET.shape[0]
    gain_EE, mover_EE = _best_moves(held_ET, value_ET)
    best_E = torch.where(held_ET[:, token], -torch.inf, value_ET[:, token]).double()
    came_E = [-1] * experts
    chains: list[list[int]] = [[e] for e in range(experts)]
    for _ in range(experts - 1):
        through_EE = best_E[:, None] + gain_EE
        improved_E, source_E = through_EE.max(dim=0)
        changed = False
        for e in torch.nonzero(improved_E > best_E + 1e-12).flatten().tolist():
            source = int(source_E[e])
            if e not in chains[source]:  # simple chains only
                best_E[e], came_E[e] = improved_E[e], source
                chains[e] = [*chains[source], e]
                changed = True
        if not changed:
            break
    open_E = best_E.masked_fill(room_E <= 0, -torch.inf)
    if float(open_E.max()) == -torch.inf:
        return None
    path = chains[int(open_E.argmax())]
    moves = [(path[i], int(mover_EE[path[i], path[i + 1]])) for i in range(len(path) - 1)]
    if len({m for _, m in moves} | {token}) <= len(moves):  # one token twice in a chain: moves would clash
        return _shortest_chain(token, held_ET, room_E)
    return [*moves, (path[-1], -1)]


def _best_moves(held_ET: Tensor, value_ET: Tensor) -> tuple[Tensor, Tensor]:
    """For experts a, b: the largest change of value when one token moves from a to b, and that token."""
    experts = held_ET.shape[0]
    gain_EE = torch.full((experts, experts), -torch.inf, dtype=torch.float64, device=held_ET.device)
    mover_EE = torch.full((experts, experts), -1, dtype=torch.int64, device=held_ET.device)
    for a in range(experts):
        tokens_N = held_ET[a].nonzero().flatten()
        if tokens_N.numel():
            change_EN = (value_ET[:, tokens_N] - value_ET[a, tokens_N]).double()
            best_E, at_E = change_EN.masked_fill_(held_ET[:, tokens_N], -torch.inf).max(dim=1)
            gain_EE[a], mover_EE[a] = best_E, tokens_N[at_E]
    return gain_EE, mover_EE


def _shortest_chain(token: int, held_ET: Tensor, room_E: Tensor) -> list[tuple[int, int]] | None:
    """Fewest moves (breadth first): no token can be in such a chain twice."""
    reached: dict[int, tuple[int, int]] = dict.fromkeys((~held_ET[:, token]).nonzero().flatten().tolist(), (-1, -1))
    queue = list(reached)
    for expert in queue:
        if room_E[expert] > 0:
            chain = [(expert, -1)]
            while reached[chain[0][0]][0] >= 0:
                source, mover = reached[chain[0][0]]
                chain.insert(0, (source, mover))
            return chain
        for other in range(held_ET.shape[0]):
            if other not in reached:
                movers = (held_ET[expert] & ~held_ET[other]).nonzero().flatten()
                if movers.numel():
                    reached[other] = (expert, int(movers[0]))
                    queue.append(other)
    return None
