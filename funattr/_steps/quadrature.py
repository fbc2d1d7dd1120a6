"""Nodes and weights on [0, 1]: where a path is sampled, and what each sample counts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .._habits import did_you_mean
from .._torch import constant, tracing
from .._words import complaint, kind_of
from .chunks import check_count

#: The name of a rule, or ``n -> (nodes, weights)``.
Quadrature: TypeAlias = "str | Callable[[int], tuple[Any, Any]]"


class Rule(NamedTuple):
    """Nodes on [0, 1] and their weights, which sum to 1: float64, on the CPU."""

    nodes: Tensor
    weights: Tensor

    def edges(self) -> Tensor:
        """The cells that the weights are the widths of: n + 1 edges from 0 to 1."""
        return torch.cat([self.weights.new_zeros(1), self.weights.cumsum(0)[:-1], self.weights.new_ones(1)])


@functools.lru_cache(64)  # the nodes are eigenvalues: a third of the time that a path in a small model takes
def gausslegendre(n: int) -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


def riemann_left(n: int) -> tuple[list[float], list[float]]:
    return [i / n for i in range(n)], [1 / n] * n


def riemann_right(n: int) -> tuple[list[float], list[float]]:
    return [(i + 1) / n for i in range(n)], [1 / n] * n


def riemann_middle(n: int) -> tuple[list[float], list[float]]:
    return [(i + 0.5) / n for i in range(n)], [1 / n] * n


def riemann_trapezoid(n: int) -> tuple[list[float], list[float]]:
    if n == 1:
        return riemann_middle(n)
    cell = 1 / (n - 1)
    return [i * cell for i in range(n)], [cell / 2, *[cell] * (n - 2), cell / 2]


RULES = {f.__name__: f for f in (gausslegendre, riemann_left, riemann_right, riemann_middle, riemann_trapezoid)}


def _numbers(given: Any) -> Tensor:
    try:
        return torch.as_tensor(given, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):  # torch says so in its own words, and does not say of what
        text = f"the quadrature rule must return numbers for its nodes and weights, got {kind_of(given)}."
        raise complaint(TypeError, text) from None


@constant
def _known(name: str, n: int) -> tuple[list[float], list[float]]:
    return RULES[name](n)  # numbers, not tensors: Dynamo takes in a constant tensor of one name once


def rule_for(quadrature: Any, n_steps: int) -> Rule:
    """The nodes and weights that the caller asks for."""
    check_count(n_steps, "n_steps")
    n_steps = len([None] * n_steps)  # torch.compile may have made it symbolic, and the rule needs the number
    if isinstance(quadrature, str):
        if quadrature not in RULES:
            raise complaint(ValueError, f"there is no quadrature rule {quadrature!r}. {did_you_mean(quadrature, RULES)}")
        known = _known(quadrature, n_steps)
        return Rule(torch.tensor(known[0], dtype=torch.float64), torch.tensor(known[1], dtype=torch.float64))
    if not callable(quadrature):
        text = f"quadrature must be the name of a rule or a callable n -> (nodes, weights), got {kind_of(quadrature)}."
        raise complaint(TypeError, text)
    pair: Any = quadrature(n_steps)
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
