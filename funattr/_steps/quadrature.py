"""Nodes and weights on [0, 1]: where a path is sampled, and what each sample counts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .._torch import constant, tracing
from .._words import check_choice, check_count, complaint, kind_of

#: The name of a rule, or ``n -> (nodes, weights)``.
Quadrature: TypeAlias = "str | Callable[[int], tuple[Any, Any]]"


class Rule(NamedTuple):
    """Nodes on [0, 1] and their weights, which sum to 1: float64, on the CPU."""

    nodes: Tensor
    weights: Tensor


class Rates(NamedTuple):
    """How fast a value changes at the nodes, from the values at all places: the nodes, and the ends of the path.

    ``rows[i] @ values`` is the derivative, at node i, of the polynomial through the values at the (at most) eight places that
    are nearest to it: from ``lows[i]`` to ``highs[i]``. One through all of them would swing wildly at kinks.
    """

    nodes: list[float]  # in order, none twice
    weights: list[float]
    lows: list[int]
    highs: list[int]
    rows: list[list[float]]


#: Nodes that are nearer to each other, or to an end, count as one: a rate between them would be rounding.
_NEAR = 1e-6


def rates_of(nodes: Sequence[float], weights: Sequence[float], width: int = 8) -> Rates:
    """The rates at the nodes of a rule."""
    found = Rates([], [], [], [], [])
    for i in np.argsort(nodes, kind="stable"):
        node = min(max(nodes[i], 0.0), 1.0)
        node = 0.0 if node < _NEAR else 1.0 if node > 1 - _NEAR else node
        if found.nodes and node - found.nodes[-1] < _NEAR:
            found.weights[-1] += weights[i]
        else:
            found.nodes.append(node)
            found.weights.append(weights[i])
    places = np.unique([0.0, *found.nodes, 1.0])
    for node in found.nodes:
        at = low = high = int(np.searchsorted(places, node))
        while high - low + 1 < min(width, len(places)):
            if low > 0 and (high == len(places) - 1 or node - places[low - 1] <= places[high + 1] - node):
                low -= 1
            else:
                high += 1
        found.lows.append(low)
        found.highs.append(high)
        found.rows.append(_derivative(places, low, high, at))
    return found


def _derivative(places: np.ndarray[Any, Any], low: int, high: int, at: int) -> list[float]:
    """The weights of values in the derivative of their polynomial at one of them: barycentric, ``b_j / b_i / (x_i - x_j)``."""
    window, row = places[low : high + 1], np.zeros(len(places))
    apart = window[:, None] - window[None, :] + np.eye(len(window))
    b, i = 1 / apart.prod(1), at - low
    row[low : high + 1] = b / b[i] / apart[i]
    row[at] = 0.0
    row[at] = -row.sum()
    return [float(weight) for weight in row]


@functools.lru_cache(64)  # the nodes are eigenvalues: a third of the time that a path in a small model takes
def gausslegendre(n: int) -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


def riemann(at: float, n: int) -> tuple[list[float], list[float]]:
    """A node in each of n cells, at this part of it."""
    return [(i + at) / n for i in range(n)], [1 / n] * n


def trapezoid(n: int) -> tuple[list[float], list[float]]:
    if n == 1:
        return riemann(0.5, n)
    cell = 1 / (n - 1)
    return [i * cell for i in range(n)], [cell / 2, *[cell] * (n - 2), cell / 2]


RULES: dict[str, Callable[[int], tuple[list[float], list[float]]]] = {
    "gausslegendre": gausslegendre,
    **{f"riemann_{name}": functools.partial(riemann, at) for name, at in (("left", 0), ("right", 1), ("middle", 0.5))},
    "riemann_trapezoid": trapezoid,
}


def _numbers(given: Any) -> Tensor:
    try:
        return torch.as_tensor(given, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):  # torch says so in its own words, and does not say of what
        text = f"the quadrature rule must return numbers for its nodes and weights, got {kind_of(given)}."
        raise complaint(TypeError, text) from None


@constant
def _known(name: str, n: int) -> tuple[list[float], list[float]]:
    return RULES[name](n)  # numbers, not tensors: Dynamo takes in a constant tensor of one name once


@constant
def _known_rates(name: str, n: int) -> Rates:
    return _cached_rates(name, n)


@functools.lru_cache(64)
def _cached_rates(name: str, n: int) -> Rates:
    return rates_of(*RULES[name](n))


def rates_for(quadrature: Any, n_steps: int) -> Rates:
    """The rates at the nodes of the rule that the caller asks for."""
    rule = rule_for(quadrature, n_steps)
    if isinstance(quadrature, str):
        return _known_rates(quadrature, len(rule.nodes))
    return rates_of(rule.nodes.tolist(), rule.weights.tolist())


def rule_for(quadrature: Any, n_steps: int) -> Rule:
    """The nodes and weights that the caller asks for."""
    check_count(n_steps, "n_steps")
    n_steps = len([None] * n_steps)  # torch.compile may have made it symbolic, and the rule needs the number
    if isinstance(quadrature, str):
        check_choice(quadrature, "quadrature rule", RULES)
        return Rule(*[torch.tensor(part, dtype=torch.float64) for part in _known(quadrature, n_steps)])
    if not callable(quadrature):
        text = f"quadrature must be the name of a rule or a callable n -> (nodes, weights), got {kind_of(quadrature)}."
        raise complaint(TypeError, text)
    return _own(quadrature(n_steps))


def _own(pair: Any) -> Rule:
    """What the caller's own rule returned, looked at."""
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise complaint(TypeError, f"the quadrature rule returned {type(pair).__name__}, expected a pair (nodes, weights).")
    nodes, weights = (_numbers(part) for part in pair)
    if nodes.dim() != 1 or nodes.shape != weights.shape or not nodes.numel():
        raise complaint(
            ValueError,
            f"the quadrature rule returned nodes {list(nodes.shape)} and weights {list(weights.shape)}, expected one weight "
            f"per node.",
        )
    if not tracing():
        total = weights.sum().item()
        if not math.isclose(total, 1.0, abs_tol=1e-5):  # weights made in float32 may be off by that much
            raise complaint(ValueError, f"the weights of the quadrature rule sum to {total:g}, expected 1.")
        if not bool(((nodes >= 0) & (nodes <= 1)).all()):
            raise complaint(ValueError, "the nodes of the quadrature rule leave [0, 1].")
    return Rule(nodes, weights)
