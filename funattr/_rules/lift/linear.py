"""DeepLIFT's rules for what is linear in each of two: products of matrices, convolutions, and their inverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb
from typing import Any

import torch
from torch import Tensor

from ..._core.plain import linear_and_bias
from ..._torch import tracing
from ..._types import by_channel
from .secants import portions
from .slopes import matmul
from .tape import Lift, Met


def matrix_product(lift: Lift, func: Any, x: Tensor, y: Tensor, *reduced: str) -> Any:
    if not x.layout == y.layout == torch.strided:
        if (x.requires_grad and y.requires_grad) or {"amax", "amin"}.intersection(reduced):
            lift.unknown.append("a product of sparse matrices that vary, or with a maximum,")
        return func(x, y, *reduced)
    if not (lift.varies(x) and lift.varies(y)):
        return func(x, y)
    if x.dim() < 2 or y.dim() < 2 or lift.is_scale(x) or lift.is_scale(y):
        return bilinear(lift, func, x, y)
    met = lift.meet(x, y)
    if met is None:
        return func(x, y)
    with lift.constants():
        (a, a0), (b, b0) = met
        value = func(a, b)
        a, b = torch.lerp(a, a0, 0.5), torch.lerp(b, b0, 0.5)
    return matmul(x, y, a, b, value)


def bilinear(lift: Lift, func: Any, x: Any, y: Any, *rest: Any, spread: bool = False, **kwargs: Any) -> Any:
    """Any function that is linear in each of its first two arguments; `spread` says that each number of a scale meets many."""
    if not (lift.varies(x) and lift.varies(y)):
        return func(x, y, *rest, **kwargs)
    met = lift.meet(x, y)
    if met is None:
        return func(x, y, *rest, **kwargs)

    def f(x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = func(x, y, *rest, **kwargs)
        return found

    with lift.constants():
        (a, a0), (b, b0) = met
        value = f(a, b)
    if lift.is_scale(y):  # as in a product
        p, q = portions(spread, b, b0)
        return value + f(x - a, p * b + q * b0) + f(a0.expand_as(a), p * (y - b)) + f(a, q * (y - b))
    if lift.is_scale(x):
        p, q = portions(spread, a, a0)
        return value + f(p * a + q * a0, y - b) + f(p * (x - a), b0.expand_as(b)) + f(q * (x - a), b)
    return value + f(x - a, (b + b0) / 2) + f((a + a0) / 2, y - b)


def grouped_product(lift: Lift, func: Any, x: Tensor, y: Tensor, offs: Tensor | None = None, *rest: Any, **kwargs: Any) -> Any:
    """A product of matrices for each group of rows, which end at `offs`."""
    if offs is not None and (lift.varies(x) or lift.varies(y)):
        lift.differ(offs)
    return bilinear(lift, func, x, y, offs, *rest, **kwargs)


def bilinear_layer(lift: Lift, func: Any, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if lift.varies(weight):  # then it is linear in each of three
        z = einsum(lift, torch.einsum, "...i,oij,...j->...o", x, weight, y)
    else:
        z = bilinear(lift, func, x, y, weight)
    return z if bias is None else z + bias


def convolution(lift: Lift, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **kwargs: Any) -> Any:
    if not (lift.varies(weight) and lift.varies(x)):
        return func(x, weight, bias, *rest, **kwargs)
    y = bilinear(lift, lambda s, t: func(s, t, None, *rest, **kwargs), x, weight)
    return y if bias is None else y + by_channel(bias, weight.dim())  # x may be one example, without a batch


def linear(lift: Lift, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not (lift.varies(weight) and lift.varies(x)):
        return (linear_and_bias if tracing() else func)(x, weight, bias)
    y = matrix_product(lift, torch.matmul, x, weight.mT if weight.dim() > 1 else weight)
    return y if bias is None else y + bias


def solve(lift: Lift, func: Callable[..., Tensor], x: Tensor, y: Tensor, *, left: bool = True, **kwargs: Any) -> Any:
    """X Y = B (or, from the right, Y X = B) as a product: ``X' dY + dX Y' = dB``, with X' and Y' half way."""

    def solved(x: Tensor, y: Tensor) -> Tensor:
        return func(x, y, **({} if left else {"left": False}), **kwargs)

    met = lift.meet(x, y) if lift.varies(x) else None
    if met is None:
        return solved(x, y)
    vector = y.dim() == 1 or (x.dim() - 1 == y.dim() and y.shape == x.shape[:-1])
    with lift.constants():
        (a, a0), (b, b0) = met
        value = solved(a, b)
        middle, between = (a + a0) / 2, (value + solved(a0.expand_as(a), b0.expand_as(b))) / 2
        between = between.unsqueeze(-1) if vector else between
    change = _triangle(x - a, **kwargs)
    change = change @ between if left else between @ change
    return value + solved(middle, y - b - (change.squeeze(-1) if vector else change))


def _triangle(x: Tensor, upper: bool | None = None, unitriangular: bool = False) -> Tensor:
    """The part of a matrix that is looked at."""
    if upper is None:
        return x
    return x.triu(int(unitriangular)) if upper else x.tril(-int(unitriangular))


def inverse(lift: Lift, func: Any, x: Tensor) -> Any:
    return solve(lift, torch.linalg.solve, x, torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand_as(x))


def einsum(lift: Lift, func: Any, equation: str, *operands: Any) -> Any:
    func = torch.einsum  # that of an exported graph takes them in a list
    operands, vary = operands_of(operands, lift.varies)
    if len(vary) == 2:
        return bilinear(
            lift, of_two(func, equation, operands, *vary), *(operands[i] for i in vary), spread=_one_in(equation, vary)
        )
    met = lift.meet(*(operands[i] for i in vary)) if len(vary) > 2 else None
    return func(equation, *operands) if met is None else _einsum_of_many(lift, func, equation, operands, dict(zip(vary, met)))


def _one_in(equation: Any, vary: Sequence[int]) -> bool:
    """Whether one of two operands has some of the other's dimensions alone."""
    if not isinstance(equation, str):
        return False
    first, second = (set(equation.partition("->")[0].split(",")[i].replace(" ", "")) for i in vary)
    return first < second or second < first


def _einsum_of_many(lift: Lift, func: Any, equation: str, operands: Sequence[Any], met: dict[int, Met]) -> Tensor:
    """Each operand's step from the baseline, with the others there or at x: the mean over all orders in which they move."""
    with lift.constants():
        found: Tensor = func(equation, *(met[i].own if i in met else t for i, t in enumerate(operands)))
        base = {i: other.expand_as(own) for i, (own, other) in met.items()}
    for i, (own, _) in met.items():
        for moved in (some for k in range(len(met)) for some in combinations(met.keys() - {i}, k)):
            step = (operands[i] - own) / (len(met) * comb(len(met) - 1, len(moved)))
            ends = {j: met[j].own if j in moved else base[j] for j in met} | {i: step}
            found = found + func(equation, *(ends.get(j, t) for j, t in enumerate(operands)))
    return found


def operands_of(given: tuple[Any, ...], varies: Callable[[Any], bool]) -> tuple[tuple[Any, ...], list[int]]:
    """The operands of einsum, which may come in a list, and which of them vary."""
    operands = tuple(given[0]) if given and isinstance(given[0], (list, tuple)) else given
    return operands, [i for i, t in enumerate(operands) if varies(t)]


def of_two(
    func: Callable[..., Tensor], equation: Any, operands: Sequence[Any], first: int, second: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Einsum as a function of two of its operands."""

    def pair(x: Tensor, y: Tensor) -> Tensor:
        filled = list(operands)
        filled[first], filled[second] = x, y
        return func(equation, *filled)

    return pair
