"""Conductance from values and gradients at nodes, by the definition: Lagrange's polynomials, differentiated term by term."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def nearest(places: Sequence[float], x: float, count: int = 8) -> list[int]:
    return sorted(sorted(range(len(places)), key=lambda k: abs(places[k] - x))[:count])


def slope_of_basis(places: Sequence[float], j: int, x: float) -> float:
    """The derivative at x of the polynomial that is 1 at the j-th place and 0 at the others."""
    others = [k for k in range(len(places)) if k != j]
    return sum(
        math.prod((x - places[k]) / (places[j] - places[k]) for k in others if k != m) / (places[j] - places[m]) for m in others
    )


def rate(places: Sequence[float], values: Sequence[Tensor], x: float) -> Tensor:
    """The derivative at x of the polynomial through the values at the eight nearest places."""
    window = nearest(places, x)
    chosen = [places[k] for k in window]
    return sum((values[k] * slope_of_basis(chosen, j, x) for j, k in enumerate(window)), 0 * values[0])


def flow(
    nodes: Sequence[float],
    weights: Sequence[float],
    gradients: Sequence[Tensor],
    values: Sequence[Tensor],
    ends: Sequence[Tensor],
) -> Tensor:
    """``sum_i w_i g_i V'_i``, plus what the rates miss of the way at the mean gradient. `ends`: the values at 0 and at 1."""
    known = {0.0: ends[0], 1.0: ends[1]} | dict(zip(nodes, values))
    places = sorted(known)
    rates = [rate(places, [known[p] for p in places], a) for a in nodes]
    found = sum((w * g * r for w, g, r in zip(weights, gradients, rates)), 0 * ends[0])
    missed = ends[1] - ends[0] - sum(w * r for w, r in zip(weights, rates))
    return found + missed * sum(w * g for w, g in zip(weights, gradients))
