"""Coalitions to fit Shapley values to: pairs of a coalition and its complement, drawn without replacement."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """K pairs, of each the coalition that is the smaller one, and what the fit makes of them."""

    kept: Tensor  # [K, M] bool
    weights: Tensor  # [K]: of the row of each
    chances: Tensor  # [K]: that it was drawn


def draw_pairs(players: int, count: int, sampling: str, uniform: Callable[..., Tensor]) -> Pairs:
    """`count` pairs, sizes by their shares, those of a size without replacement.

    The weight of a coalition of size s is ``1 / (C(M, s) s (M - s))``, the kernel of Shapley values, over its chance.
    """
    sizes = range(1, players // 2 + 1)
    totals = [math.comb(players, s) // (2 if 2 * s == players else 1) for s in sizes]
    count = min(count, sum(totals))
    shares = shares_of(players, count, sampling, totals)
    counts = rounded(shares, totals, float(uniform()))
    rows: list[Tensor] = []
    weights: list[float] = []
    chances: list[float] = []
    for s, number, share, total in zip(sizes, counts, shares, totals):
        if number:
            rows.append(of_size(players, s, number, total, uniform))
            chance = share / total if total < 1 << 1000 else 0.0  # of such numbers there are no floats
            # C(M, s) of the kernel is the number of coalitions of this size: twice that of pairs in the middle.
            weights += [(0.5 if 2 * s == players else 1.0) / (s * (players - s) * share)] * number
            chances += [chance] * number
    wide = torch.float64
    return Pairs(torch.cat(rows), torch.tensor(weights, dtype=wide), torch.tensor(chances, dtype=wide))


def shares_of(players: int, count: int, sampling: str, totals: list[int]) -> list[float]:
    """How many of `count` pairs are of each size, on average: equally many (leverage), or as many as the kernel weighs.

    A size that has fewer is taken whole, and the rest goes to the others.
    """
    bases = [1.0 if sampling == "leverage" else 1 / (s * (players - s)) for s in range(1, players // 2 + 1)]
    if players % 2 == 0:
        bases[-1] /= 2
    found, left, still = [0.0] * len(totals), count, set(range(len(totals)))
    while still:
        scale = left / sum(bases[i] for i in still)
        whole = {i for i in still if bases[i] * scale >= totals[i]}
        for i in whole or still:
            found[i] = float(totals[i]) if whole else bases[i] * scale
        left -= sum(totals[i] for i in whole)
        still = still - whole if whole else set()
    return found


def rounded(shares: list[float], totals: list[int], offset: float) -> list[int]:
    """Whole numbers whose means over offsets in [0, 1) are the shares, and whose sum is theirs."""
    counts, before, cumulated = [], 0, 0.0
    last = max((i for i, (share, total) in enumerate(zip(shares, totals)) if share < total), default=-1)
    for i, (share, total) in enumerate(zip(shares, totals)):
        if share >= total:
            counts.append(total)
            continue
        cumulated += share
        so_far = round(cumulated) if i == last else math.floor(cumulated + offset)
        counts.append(min(total, so_far - before))
        before = so_far
    return counts


def of_size(players: int, size: int, count: int, total: int, uniform: Callable[..., Tensor]) -> Tensor:
    """`count` different coalitions of a size, of `total`, ``[count, M]``. In the middle, of a pair the one with player 0."""
    middle = 2 * size == players
    if 2 * count > total:
        every = _all_of(players, size, middle)
        return every if count == total else every[torch.argsort(uniform(total))[:count]]
    found = torch.zeros(0, players, dtype=torch.bool)
    while len(found) < count:  # never more than are missing, so that none is left out for what it is
        drawn = uniform(count - len(found), players).argsort(1) < size
        if middle:
            drawn = drawn ^ ~drawn[:, :1]
        found = torch.unique(torch.cat([found, drawn]), dim=0)
    return found


def _all_of(players: int, size: int, middle: bool) -> Tensor:
    chosen = itertools.combinations(range(1, players), size - 1) if middle else itertools.combinations(range(players), size)
    listed = list(chosen)
    members = torch.tensor(listed, dtype=torch.long).reshape(len(listed), size - middle)
    found = torch.zeros(len(members), players, dtype=torch.bool).scatter(1, members, True)
    found[:, 0] |= middle
    return found
