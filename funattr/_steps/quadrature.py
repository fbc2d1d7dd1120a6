"""Nodes and weights on [0, 1]: where a path is sampled, and what each sample counts. To a tolerance, the rule of Gauss and
Kronrod on an interval of the path, and what it says of its own error."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .._torch import constant, numbers, tracing, vmap_runs
from .._types import Tree, floats_of, in_single
from .._words import check_choice, check_count, check_real, complaint, kind_of

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
        return Rule(*[torch.tensor(part, dtype=torch.float64, device="cpu") for part in _known(quadrature, n_steps)])
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


# To a tolerance.

#: How many nodes the rule has.
NODES = 15


class Interval(NamedTuple):
    """A part of the path, which runs from 0 to 1."""

    left: float
    width: float

    def halves(self) -> tuple[Interval, Interval]:
        half = self.width / 2
        return Interval(self.left, half), Interval(self.left + half, half)


class Piece(NamedTuple):
    """What an interval gives: its part of the integral, a row for each example, and the error of that for each."""

    parts: list[Tensor]
    errors: list[float]
    like: Tree  # the structure that the parts belong in


#: The nodes right of the middle of [-1, 1], and the weights of all from the middle on (Piessens et al., QUADPACK, 1983).
_RIGHT = (
    *(0.207784955007898467600689403773245, 0.405845151377397166906606412076961, 0.586087235467691130294144691693013),
    *(0.741531185599394439863864773280788, 0.864864423359769072789712788640926, 0.949107912342758524526189684047851),
    0.991455371120812639206854697526329,
)
_WEIGHTS = (
    *(0.209482141084727828012999174891714, 0.204432940075298892414161999234649, 0.190350578064785409913256402421014),
    *(0.169004726639267902826583426598550, 0.140653259715525918745189590510238, 0.104790010322250183839876322541518),
    *(0.063092092629978553290700663189204, 0.022935322010529224963732008058970),
)
#: Of a jump anywhere between two nodes, the four coefficients below see 1 / 0.64 of the error that it makes, or more; where
#: several jumps partly hide each other they see less.
_SAFETY = 1.5
#: Rounding, in units of the last place of what is summed.
_ROUNDING = 50


@functools.cache
def kronrod() -> tuple[list[float], list[list[float]]]:
    """The nodes on [0, 1], and rows of weights: those of the rule, then four that see what it cannot integrate.

    ``K - G`` is, but for a factor, the coefficient of degree 14 of the polynomial through the values at the nodes. A kink in
    an unlucky place hides from it, but not from those of the degrees 11 to 14 together: so all four count.
    """
    x = np.array([*(-node for node in reversed(_RIGHT)), 0.0, *_RIGHT])
    w = np.array([*reversed(_WEIGHTS[1:]), *_WEIGHTS]) / 2
    q, _ = np.linalg.qr(np.sqrt(w)[:, None] * np.polynomial.legendre.legvander(x, NODES - 1))
    coefficients = (np.sqrt(w)[:, None] * q).T  # of the polynomials that are orthogonal at the nodes, with these weights
    return ((x + 1) / 2).tolist(), [w.tolist(), *(_SAFETY * coefficients[11:]).tolist()]


@functools.cache
def kronrod_rates() -> Rates:
    """How fast a value changes at the nodes of an interval, from the values there and at its ends."""
    nodes, rows = kronrod()
    return rates_of(nodes, rows[0])


def nodes_on(on: Interval) -> Tensor:
    """The nodes of an interval."""
    return on.left + on.width * torch.tensor(kronrod()[0], dtype=torch.float64, device="cpu")


def integral(steps: Iterator[list[Tree]], on: Interval, size: int) -> Piece:
    """The integral over an interval of what is met at its nodes, in order, with a leading dimension; and its error.

    The error of an example is a norm over all that belongs to it.
    """
    weights = torch.tensor(kronrod()[1], dtype=torch.float64, device="cpu")
    sums: list[Tensor] = []
    sizes = torch.zeros(size, dtype=torch.float64, device="cpu")  # mean squares
    done, like = 0, None
    for like in steps:
        found = [in_single(t) for t in floats_of(like)]
        some = weights[:, done : done + found[0].shape[0]]
        new = [torch.tensordot(some.to(t), t, 1) for t in found]
        sums = [s + t for s, t in zip(sums, new)] if sums else new
        sizes = sizes + some[0] @ torch.stack([squares(step, size) for step in zip(*(t.detach() for t in found))])
        done += some.shape[1]
    seen = torch.stack([squares([t[i].detach() for t in sums], size) for i in range(1, len(weights))]).sum(0)
    rounding = _ROUNDING * max(torch.finfo(t.dtype).eps for t in sums)
    errors = on.width * (seen + rounding**2 * sizes).sqrt()
    return Piece([on.width * t[0] for t in sums], numbers(errors), like)


def squares(tensors: Sequence[Tensor], size: int) -> Tensor:
    """The sum of squares for each example: of all, where there is one."""
    if not size:
        return torch.zeros(0, dtype=torch.float64, device="cpu")
    return torch.stack([(t.double() ** 2).reshape(size, -1).sum(1) for t in tensors]).sum(0).cpu()


class Tolerance(NamedTuple):
    """What the caller asks for: an error of at most `rtol` times the norm of an example's result, and the most nodes for it."""

    rtol: float
    most: int
    tells: bool  # whether he asks for the error too


def tolerance(rtol: float | None, return_error: bool, n_steps: int, quadrature: object) -> Tolerance | None:
    """The arguments `rtol` and `return_error`, checked; None where no tolerance is asked for."""
    if rtol is None:
        if return_error:
            raise complaint(ValueError, "return_error=True needs a tolerance: pass rtol too, rtol=1e-2 for one percent.")
        return None
    if tracing() or vmap_runs():
        text = "rtol chooses the nodes by what the model gives, which torch.compile and torch.func.vmap cannot follow"
        raise complaint(ValueError, f"{text}: call it outside, or say how many nodes to take, with n_steps and without rtol.")
    check_real(rtol, "rtol")
    if not 0 < rtol < math.inf:
        raise complaint(ValueError, f"rtol must be above 0 and finite, got {rtol!r}: 1e-2 is one percent.")
    if quadrature != "gausslegendre":
        raise complaint(ValueError, f"rtol has a rule of its own, of Gauss and Kronrod: leave quadrature={quadrature!r} out.")
    check_count(n_steps, "n_steps")
    if n_steps < NODES:
        text = f"n_steps is the most nodes allowed where there is rtol, and {NODES} are the fewest"
        raise complaint(ValueError, f"{text}: pass n_steps={NODES} or more, got {n_steps}.")
    return Tolerance(float(rtol), n_steps, return_error)
