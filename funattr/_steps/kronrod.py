"""The rule of Gauss and Kronrod with 7 and 15 nodes, on an interval of a path, and what it says of its own error."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._core.real import in_single
from .._types import Tree, floats_of
from .quadrature import Rates, rates_of

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
    return on.left + on.width * torch.tensor(kronrod()[0], dtype=torch.float64)


def integral(steps: Iterator[list[Tree]], on: Interval, size: int) -> Piece:
    """The integral over an interval of what is met at its nodes, in order, with a leading dimension; and its error.

    The error of an example is a norm over all that belongs to it.
    """
    weights = torch.tensor(kronrod()[1], dtype=torch.float64)
    sums: list[Tensor] = []
    sizes = torch.zeros(size, dtype=torch.float64)  # mean squares
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
    return Piece([on.width * t[0] for t in sums], errors.tolist(), like)


def squares(tensors: Sequence[Tensor], size: int) -> Tensor:
    """The sum of squares for each example: of all, where there is one."""
    if not size:
        return torch.zeros(0, dtype=torch.float64)
    return torch.stack([(t.double() ** 2).reshape(size, -1).sum(1) for t in tensors]).sum(0).cpu()
