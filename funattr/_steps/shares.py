"""What players are worth, from the scores of coalitions: exact sums, means over orders, and a fit to pairs; with errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._types import in_double
from .coalitions import scores_of
from .fits import least_squares
from .pairs import Pairs
from .plan import Opened


class Found(NamedTuple):
    """The value of each player, ``[M, N]``, and its standard error; in the dtype of the scores."""

    values: Tensor
    errors: Tensor


def of_nobody(game: Opened) -> Found:
    """Of an empty batch: one pass tells the dtype."""
    found = scores_of(game, 1, lambda numbers: torch.zeros(1, game.players, dtype=torch.bool, device=numbers.device))
    return Found(*(found.new_zeros(game.players, 0) for _ in range(2)))


def of_all(game: Opened) -> Found:
    """``sum over S without i of |S|! (M - |S| - 1)! / M! (v(S + i) - v(S))``: every coalition."""
    m = game.players
    bits = torch.arange(m)

    def which(numbers: Tensor) -> Tensor:
        return (numbers[:, None] >> bits.to(numbers.device)) & 1 == 1

    scores = scores_of(game, 2**m, which)
    kept = which(torch.arange(2**m, device=scores.device))
    sizes, wide = kept.sum(1), in_double(scores)
    inside = [0.0, *(1 / (m * math.comb(m - 1, s - 1)) for s in range(1, m + 1))]
    outside = [*(-1 / (m * math.comb(m - 1, s)) for s in range(m)), 0.0]
    joins, lacks = (torch.tensor(w, dtype=wide.dtype, device=wide.device)[sizes] for w in (inside, outside))
    values = [torch.where(kept[:, i], joins, lacks) @ wide for i in range(m)]
    found = torch.stack(values) if values else wide.new_zeros(0, *wide.shape[1:])
    return Found(found.to(scores.dtype), torch.zeros_like(found, dtype=scores.dtype))


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
    return Found(added.mean(0).to(scores), errors.to(scores))


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
    return Found((gain / m + values).to(scores), errors.to(scores))


def _from_2(numbers: Tensor) -> Tensor:
    """The numbers of draws, on the CPU, where draws are: the first two coalitions are none and all."""
    if numbers.is_meta:
        return torch.zeros(len(numbers), dtype=torch.long)
    return (numbers - 2).clamp(min=0).cpu()


def _with_ends(numbers: Tensor, kept: Tensor) -> Tensor:
    """The coalitions of these numbers: none, all, and then those that are given."""
    kept = kept.to(numbers.device)
    return torch.where(numbers[:, None] < 2, numbers[:, None] == 1, kept)
