"""What players are worth, from the scores of coalitions: which of these to ask, shares from their scores, and linear fits to
them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._types import floats_for, in_double, in_floats
from .coalitions import scores_of
from .plan import Opened


class Found(NamedTuple):
    """The value of each player, ``[M, N]``, and its standard error; in the dtype of the scores."""

    values: Tensor
    errors: Tensor


def of_nobody(game: Opened) -> Found:
    """Of an empty batch: one pass tells the dtype."""
    found = scores_of(game, 1, lambda numbers: torch.zeros(len(numbers), game.players, dtype=torch.bool, device=numbers.device))
    return Found(*(in_floats(found).new_zeros(game.players, 0) for _ in range(2)))


def of_all(game: Opened) -> Found:
    """``sum over S without i of |S|! (M - |S| - 1)! / M! (v(S + i) - v(S))``: every coalition."""
    m = len([None] * game.players)  # torch.compile may have made it symbolic, and the weights need the number
    bits = torch.arange(m, device="cpu")

    def which(numbers: Tensor) -> Tensor:
        return torch.bitwise_right_shift(numbers[:, None], bits.to(numbers.device)) & 1 == 1

    scores = scores_of(game, 2**m, which)
    kept = which(torch.arange(2**m, device=scores.device))
    sizes, wide = kept.sum(1), in_double(scores)
    inside = [0.0, *(1 / (m * math.comb(m - 1, s - 1)) for s in range(1, m + 1))]
    outside = [*(-1 / (m * math.comb(m - 1, s)) for s in range(m)), 0.0]
    joins, lacks = (torch.tensor(w, dtype=wide.dtype, device=wide.device)[sizes] for w in (inside, outside))
    values = [torch.where(kept[:, i], joins, lacks) @ wide for i in range(m)]
    found = torch.stack(values) if values else wide.new_zeros(0, *wide.shape[1:])
    return _in_floats(scores, found, torch.zeros_like(found))


def of_orders(game: Opened, ranks: Tensor) -> Found:
    """The mean of what each player adds when it comes in, over orders and their reverses: ``ranks`` ``[P, M]``."""
    pairs, m = ranks.shape

    def which(numbers: Tensor) -> Tensor:
        at = _from_2(numbers)
        order, come = at // (m - 1), at % (m - 1) + 1
        own = ranks[order // 2]
        here = torch.where(order[:, None] % 2 == 1, m - 1 - own, own) < come[:, None]
        return _with_ends(numbers, here)

    scores = scores_of(game, 2 + 2 * pairs * (m - 1), which)
    wide = in_double(scores)
    first, last = (wide[i].expand(2 * pairs, 1, -1) for i in (0, 1))
    steps = torch.cat([first, wide[2:].reshape(2 * pairs, m - 1, -1), last], 1).diff(dim=1)
    both = torch.stack([ranks, m - 1 - ranks], 1).reshape(2 * pairs, m, 1).to(wide.device)
    added = steps.gather(1, both.expand(-1, -1, steps.shape[2])).reshape(pairs, 2, m, -1).mean(1)
    errors = added.std(0) / math.sqrt(pairs) if pairs > 1 else torch.full_like(added[0], math.nan)
    return _in_floats(scores, added.mean(0), errors)


def of_pairs(game: Opened, pairs: Pairs) -> Found:
    """The weighted least squares fit of ``(v(S) - v(rest)) / 2`` to the players in S, with ``sum phi = v(all) - v(none)``."""
    count, m = pairs.kept.shape

    def which(numbers: Tensor) -> Tensor:
        at = _from_2(numbers)
        return _with_ends(numbers, pairs.kept[at // 2] ^ (at[:, None] % 2 == 1))

    scores = scores_of(game, 2 + 2 * count, which)
    wide = in_double(scores)
    gain = wide[1] - wide[0]
    half = (wide[2::2] - wide[3::2]) / 2
    right = half - (pairs.kept.double().mean(1, keepdim=True) - 0.5).to(half) * gain
    roots = pairs.weights.sqrt()[:, None]

    def rows(start: int, stop: int) -> Tensor:
        z = pairs.kept[start:stop].double()
        return roots[start:stop] * (z - z.mean(1, keepdim=True))

    values, errors = least_squares(rows, roots.to(right) * right, m, 1 - pairs.chances)
    values = values - values.mean(0)  # rows sum to 0, and so does the solution, but for rounding
    return _in_floats(scores, gain / m + values, errors)


def _in_floats(scores: Tensor, values: Tensor, errors: Tensor) -> Found:
    return Found(values.to(floats_for(scores)), errors.to(floats_for(scores)))


def _from_2(numbers: Tensor) -> Tensor:
    """The numbers of draws, on the CPU, where draws are: the first two coalitions are none and all."""
    if numbers.is_meta:
        return torch.zeros(len(numbers), dtype=torch.long, device="cpu")
    return (numbers - 2).clamp(min=0).cpu()


def _with_ends(numbers: Tensor, kept: Tensor) -> Tensor:
    """The coalitions of these numbers: none, all, and then those that are given."""
    kept = kept.to(numbers.device)
    return torch.where(numbers[:, None] < 2, numbers[:, None] == 1, kept)


# Which coalitions to ask.


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
    return Pairs(torch.cat(rows), *(torch.tensor(t, dtype=torch.float64, device="cpu") for t in (weights, chances)))


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
    found = torch.zeros(0, players, dtype=torch.bool, device="cpu")
    while len(found) < count:  # never more than are missing, so that none is left out for what it is
        drawn = uniform(count - len(found), players).argsort(1) < size
        if middle:
            drawn = drawn ^ ~drawn[:, :1]
        found = torch.unique(torch.cat([found, drawn]), dim=0)
    return found


def _all_of(players: int, size: int, middle: bool) -> Tensor:
    chosen = itertools.combinations(range(1, players), size - 1) if middle else itertools.combinations(range(players), size)
    listed = list(chosen)
    members = torch.tensor(listed, dtype=torch.long, device="cpu").reshape(len(listed), size - middle)
    found = torch.zeros(len(members), players, dtype=torch.bool, device="cpu").scatter(1, members, True)
    found[:, 0] |= middle
    return found


# Linear fits.

#: Numbers in the rows of a fit that are made at once.
ROOM = 1 << 22


def least_squares(rows: Callable[[int, int], Tensor], right: Tensor, width: int, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The least squares solution of least norm ``[M, N]`` of ``A x = right``, and its standard errors.

    ``A`` ``[K, M]`` comes in parts: ``rows(start, stop)``. By ``(A^T A)+``, and twice the same for what is left over, so that
    no digits are lost. Errors are ``diag(A+ diag(drawn r^2 / (1 - h)) A+^T)``, squared, with the residuals r and the
    leverages h.
    """
    step = max(1, ROOM // max(width, 1))
    parts = [(a, min(a + step, len(right))) for a in range(0, len(right), step)]
    inverse = _inverse(rows, parts, width)
    found = right.new_zeros(width, right.shape[1])
    for _ in range(3):
        missed = torch.zeros_like(found)
        for a, b in parts:
            own = rows(a, b).to(right)
            missed = missed + own.T @ (right[a:b] - own @ found)
        found = found + inverse.to(right) @ missed
    squares = torch.zeros_like(found)
    for a, b in parts:
        own = rows(a, b)
        back = own @ inverse  # [k, M]
        free = 1 - (back * own).sum(1)
        shares = torch.where(free > 1e-9, drawn[a:b] / free, 0)[:, None].to(right)
        left = (right[a:b] - own.to(right) @ found).square()
        squares = squares + back.square().T.to(right) @ (shares * left)
    return found, squares.sqrt()


def _inverse(rows: Callable[[int, int], Tensor], parts: list[tuple[int, int]], width: int) -> Tensor:
    """``(A^T A)+``: where A has few rows, and may be nearly singular, by its own singular values, which are not squared."""
    if len(parts) == 1 and parts[0][1] <= 2 * width:
        _, s, v = torch.linalg.svd(rows(*parts[0]), full_matrices=False)
        least = 1e-13 * s.max()
        found: Tensor = (v.T * torch.where(s > least, 1 / s.clamp(min=least).square(), 0)) @ v
    else:
        gram = torch.zeros(width, width, dtype=torch.float64, device="cpu")
        for a, b in parts:
            own = rows(a, b)
            gram += own.T @ own
        found = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True)
    return found


def lasso(kept: Tensor, right: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """``b`` of ``min sum_s w_s (y_s - c - z_s b)^2 / (2 sum w) + alpha |b|_1``, ``[M, N]``.

    For bool z ``[S, M]`` and y ``[S, N]``. Without `alpha` the least squares solution of least norm; else by coordinate
    descent, until nothing moves.
    """
    share = (weights / weights.sum())[:, None]
    z = kept.double()
    z, y = z - (share * z).sum(0), right - (share.to(right) * right).sum(0)
    roots = share.sqrt()
    if not alpha:
        return least_squares(lambda a, b: roots[a:b] * z[a:b], roots.to(y) * y, z.shape[1], torch.zeros_like(weights))[0]
    gram, slope = (z.T @ (share * z)).to(y), z.T.to(y) @ (share.to(y) * y)
    found = torch.zeros_like(slope)
    for _ in range(SWEEPS):
        before = found.clone()
        for j in range(len(found)):
            if kept[:, j].any() and not kept[:, j].all():
                free = slope[j] - gram[j] @ found + gram[j, j] * found[j]
                found[j] = torch.sign(free) * (free.abs() - alpha).clamp(min=0) / gram[j, j]
        if found.is_meta or (found - before).abs().max() <= 1e-12 * max(1e-300, float(found.abs().max())):
            break
    return found


#: Rounds of coordinate descent at most: it needs tens.
SWEEPS = 10_000
