"""Nodes and weights on [0, 1]."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from funattr._steps.quadrature import RULES, rates_for, rates_of, rule_for

from ..reference.flow import rate


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("name", RULES)
def test_weights_sum_to_one(name: str, n: int) -> None:
    rule = rule_for(name, n)
    assert rule.nodes.dtype == rule.weights.dtype == torch.float64
    assert len(rule.nodes) == len(rule.weights) == n
    assert abs(rule.weights.sum().item() - 1) < 1e-14
    assert ((rule.nodes >= 0) & (rule.nodes <= 1)).all()


@pytest.mark.parametrize(
    ("name", "n", "degree"),
    [("gausslegendre", 4, 7), ("riemann_middle", 4, 1), ("riemann_trapezoid", 4, 1), ("riemann_left", 4, 0)],
)
def test_exact_up_to_its_degree(name: str, n: int, degree: int) -> None:
    rule = rule_for(name, n)
    for power in range(degree + 1):
        assert abs((rule.weights * rule.nodes**power).sum().item() - 1 / (power + 1)) < 1e-14
    assert abs((rule.weights * rule.nodes ** (degree + 1)).sum().item() - 1 / (degree + 2)) > 1e-6


def test_where_the_nodes_are() -> None:
    assert rule_for("riemann_left", 4).nodes.tolist() == [0, 0.25, 0.5, 0.75]
    assert rule_for("riemann_right", 4).nodes.tolist() == [0.25, 0.5, 0.75, 1]
    assert rule_for("riemann_middle", 2).nodes.tolist() == [0.25, 0.75]
    assert rule_for("riemann_trapezoid", 3).weights.tolist() == [0.25, 0.5, 0.25]  # not (n - 1) / n of it


def test_a_rule_of_ones_own() -> None:
    rule = rule_for(lambda n: (np.full(n, 0.5, dtype=np.float32), [1 / n] * n), 3)
    assert rule.nodes.tolist() == [0.5] * 3
    assert rule.nodes.dtype == torch.float64


@pytest.mark.parametrize(
    ("quadrature", "n", "kind", "words"),
    [
        ("gauslegendre", 3, ValueError, "Did you mean 'gausslegendre'"),
        ("xyz", 3, ValueError, "Use one of 'gausslegendre'"),
        (3, 3, TypeError, "name of a rule or a callable"),
        ("gausslegendre", 0, ValueError, "n_steps must be at least 1"),
        ("gausslegendre", 2.0, TypeError, "n_steps must be an int"),
        ("gausslegendre", True, TypeError, "n_steps must be an int"),
        (lambda n: [0.5], 1, TypeError, "a pair"),
        (lambda n: ([0.5], [0.5, 0.5]), 1, ValueError, "one weight"),
        (lambda n: ([0.5], [2.0]), 1, ValueError, "sum to 2"),
        (lambda n: ([1.5], [1.0]), 1, ValueError, "leave"),
    ],
)
def test_errors(quadrature: Any, n: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        rule_for(quadrature, n)


def test_traces_with_any_number_of_steps() -> None:
    def mean_square(x: torch.Tensor, n: int) -> torch.Tensor:
        rule = rule_for("gausslegendre", n)
        return (rule.weights.to(x) * (x * rule.nodes.to(x)) ** 2).sum()

    compiled = torch.compile(mean_square, fullgraph=True, backend="aot_eager")
    for n in (2, 5, 9):
        assert abs(compiled(torch.tensor(3.0, dtype=torch.float64), n).item() - 3.0) < 1e-14


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("n", [1, 2, 5, 12, 40])
def test_rates_are_those_of_the_polynomial_through_the_nearest_values(name: str, n: int) -> None:
    rates = rates_for(name, n)
    rule = rule_for(name, n)
    places = sorted({0.0, *rule.nodes.tolist(), 1.0})
    assert abs(sum(rates.weights) - 1) < 1e-12
    values = [torch.tensor(math.sin(3 * p), dtype=torch.float64) for p in places]
    for node, row in zip(rates.nodes, rates.rows):
        mine = sum(weight * value for weight, value in zip(row, values))
        assert abs(mine - rate(places, values, node)) < 1e-7


def test_nodes_at_the_ends_twice_or_out_of_order() -> None:
    rates = rates_of([1.0, 0.5, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25])
    assert rates.nodes == [0.0, 0.5, 1.0]
    assert rates.weights == [0.25, 0.5, 0.25]
    assert rates.rows[1] == pytest.approx([-1, 0, 1])  # (V(1) - V(0)) / 1
