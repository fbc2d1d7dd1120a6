"""DeepLIFT's rules: which operation has which slope between the baseline and x, and the one table that says so.

A rule is called like the operation, after the `Lift` that met it. While a baseline is recorded it leaves its inputs on the
tape; afterwards it returns the operation's value with slopes such that ``slope * (x - x0)``, summed over the inputs, is
exactly ``y - y0``: then completeness holds for any composition, however adjacent, reused or functional.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._core.door import may_read
from ..._torch import is_plain, tracing, transforms_active
from .slopes import matmul, scaled, scaled2
from .tape import Ledger, Lift, constant

Rule = Callable[..., Any]

# Where x and the baseline are this close (in units of the epsilon's cube root), the slope is the derivative in the middle:
# both its truncation and the secant's cancellation are then about epsilon^(2/3).
EXACT = 0.0  # piecewise linear: a secant has no error to speak of, unless x and the baseline are the same
SMOOTH = 1.0  # bends over distances of about 1
RELATIVE = -1.0  # bends over distances of about x: powers and logarithms


def secant(
    f: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, kind: float, value: Tensor | None = None, alone: bool = False
) -> Tensor:
    """``(f(a) - f(b)) / (a - b)``, or the derivative where that has no digits.

    `value` is f(a), where it is known. `alone` says that f looks at nothing but each element: it may be asked for a few.
    """
    dx = a - b
    digits = torch.finfo(a.dtype).eps ** (1 / 3)
    tiny = dx.abs() <= (kind * digits if kind >= 0 else digits * ((a + b) / 2).abs())
    rise, differentiable = (f(a) if value is None else value) - f(b), torch.is_grad_enabled()
    # Where the slope has a derivative, 0 / 0 would spoil it for the others too.
    slope = rise / dx.masked_fill(tiny, 1.0) if differentiable else rise.div_(dx)
    looks = may_read() and is_plain(a)
    if looks and not bool(tiny.any()):
        return slope
    where = a.expand(dx.shape) if kind == EXACT else (a + b) / 2
    if looks and alone and not differentiable:
        slope[tiny] = torch.nan_to_num(derivative(f, where[tiny]), 0.0, 0.0, 0.0)
        return slope
    return torch.where(tiny, torch.nan_to_num(derivative(f, where), 0.0, 0.0, 0.0), slope)


def derivative(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f'(x), elementwise; differentiable where x is."""
    if tracing() or transforms_active():
        pulled = torch.func.vjp(f, x)
        return pulled[1](torch.ones_like(pulled[0]))[0]  # type: ignore[no-any-return]
    again = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        x = x if again else x.detach().requires_grad_()
        y = f(x)
        if not y.requires_grad:
            return torch.zeros_like(x)
        (d,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=again, allow_unused=True)
        return torch.zeros_like(x) if d is None else d


def unary(kind: float, swapped: bool = False) -> Rule:
    """The rescale rule (Shrikumar et al. 2017) for an elementwise function of its first (or, swapped, second) argument."""

    def rule(lift: Lift, func: Any, *args: Any, **kwargs: Any) -> Any:
        x, rest = (args[1], args[:1]) if swapped else (args[0], args[1:])

        def f(t: Tensor) -> Tensor:
            return func(*rest, t, **kwargs) if swapped else func(t, *rest, **kwargs)  # type: ignore[no-any-return]

        alone = not any(isinstance(other, Tensor) for other in (*rest, *kwargs.values()))
        return rescaled(lift, f, x, kind, alone)

    return rule


def rescaled(lift: Ledger, f: Callable[[Tensor], Tensor], x: Any, kind: float, alone: bool = False) -> Any:
    if not is_float(x):
        return f(x)
    met = lift.meet(x)
    if met is None:
        return f(x)
    with lift.constants():
        a, b = met[0]
        value = f(a)
        slope = secant(f, a, b, kind, value, alone)
    return scaled(x, slope, value)


def is_float(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def both_vary(x: Any, y: Any) -> bool:
    return is_float(x) and is_float(y) and not constant(x) and not constant(y)


def binary(kind: float) -> Rule:
    """An elementwise function of two tensors: each one's secant, averaged over where the other may be (its Shapley value).

    For a product that is ``d(xy) = dx (y + y0) / 2 + dy (x + x0) / 2``.
    """

    def rule(lift: Lift, func: Any, x: Any, y: Any, **kwargs: Any) -> Any:
        if not is_float(x) and not is_float(y):
            return func(x, y, **kwargs)
        if not is_float(y):
            return rescaled(lift, lambda t: func(t, y, **kwargs), x, kind)
        if not is_float(x):
            return rescaled(lift, lambda t: func(x, t, **kwargs), y, kind)

        def in_x(a: Tensor, a0: Tensor, other: Tensor) -> Tensor:
            return secant(lambda t: func(t, other, **kwargs), a, a0, kind)

        def in_y(b: Tensor, b0: Tensor, other: Tensor) -> Tensor:
            return secant(lambda t: func(other, t, **kwargs), b, b0, kind)

        def slopes(a: Tensor, a0: Tensor, b: Tensor, b0: Tensor) -> tuple[Tensor, Tensor]:
            return (in_x(a, a0, b) + in_x(a, a0, b0)) / 2, (in_y(b, b0, a) + in_y(b, b0, a0)) / 2

        return elementwise(lift, lambda s, t: func(s, t, **kwargs), slopes, x, y)

    return rule


def elementwise(lift: Lift, f: Callable[..., Tensor], slopes: Callable[..., Any], x: Tensor, y: Tensor) -> Tensor:
    met = lift.meet(x, y)
    if met is None:
        return f(x, y)
    with lift.constants():
        (a, a0), (b, b0) = met
        mx, my = slopes(a, a0, b, b0)
        value = f(a, b)
    found: Tensor = scaled2(x.expand(value.shape), y.expand(value.shape), mx, my, value)
    return found


def clamp(lift: Lift, func: Any, x: Any, *bounds: Any, **named: Any) -> Any:
    """Piecewise linear in x; with bounds that are tensors, the larger of two and then the smaller of two."""
    low, high = (list(bounds) + [None, None])[:2] if func not in _CLAMP_MAX else (None, *bounds, None)[:2]
    low, high = named.get("min", low), named.get("max", high)
    if not any(is_float(t) and not constant(t) for t in (low, high)):
        return unary(EXACT)(lift, func, x, *bounds, **named)
    for bound, f in ((low, torch.maximum), (high, torch.minimum)):
        if bound is not None:
            other = bound if isinstance(bound, Tensor) else torch.full((), bound, dtype=x.dtype, device=x.device)
            x = binary(EXACT)(lift, f, x, other)
    return x


_CLAMP_MAX = (torch.clamp_max, Tensor.clamp_max)


def product(lift: Lift, func: Any, x: Any, y: Any) -> Any:
    if not both_vary(x, y):
        return func(x, y)
    return elementwise(lift, func, lambda a, a0, b, b0: ((b + b0) / 2, (a + a0) / 2), x, y)


def quotient(lift: Lift, func: Any, x: Any, y: Any, **kwargs: Any) -> Any:
    """d(x/y) = dx (1/y + 1/y0) / 2 - dy (x + x0) / 2 / (y y0)."""
    if kwargs.get("rounding_mode") is not None:
        return binary(EXACT)(lift, func, x, y, **kwargs)
    if not is_float(y) or constant(y):
        return func(x, y)
    if not isinstance(x, Tensor):
        return rescaled(lift, lambda t: func(x, t), y, RELATIVE)
    return elementwise(lift, func, lambda a, a0, b, b0: ((1 / b + 1 / b0) / 2, -(a + a0) / 2 / (b * b0)), x, y)


def swapped_quotient(lift: Lift, func: Any, y: Any, x: Any) -> Any:
    return quotient(lift, torch.div, x, y)


def matrix_product(lift: Lift, func: Any, x: Tensor, y: Tensor) -> Any:
    if not both_vary(x, y):
        return func(x, y)
    if x.dim() < 2 or y.dim() < 2:
        return bilinear(lift, func, x, y)
    met = lift.meet(x, y)
    if met is None:
        return func(x, y)
    with lift.constants():
        (a, a0), (b, b0) = met
        value = func(a, b)
        a, b = (a + a0) / 2, (b + b0) / 2
    return matmul(x, y, a, b, value)


def bilinear(lift: Lift, func: Any, x: Any, y: Any, *rest: Any, **kwargs: Any) -> Any:
    """Any function that is linear in each of its first two arguments."""
    if not both_vary(x, y):
        return func(x, y, *rest, **kwargs)
    met = lift.meet(x, y)
    if met is None:
        return func(x, y, *rest, **kwargs)
    with lift.constants():
        (a, a0), (b, b0) = met
        value = func(a, b, *rest, **kwargs)
        am, bm = (a + a0) / 2, (b + b0) / 2
    return value + func(x - a, bm, *rest, **kwargs) + func(am, y - b, *rest, **kwargs)


def bilinear_layer(lift: Lift, func: Any, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    z = bilinear(lift, func, x, y, weight)
    return z if bias is None else z + bias


def convolution(lift: Lift, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **kwargs: Any) -> Any:
    if not both_vary(x, weight):
        return func(x, weight, bias, *rest, **kwargs)
    y = bilinear(lift, lambda s, t: func(s, t, None, *rest, **kwargs), x, weight)
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.dim() - 2 if y.dim() == x.dim() else 0))


def linear(lift: Lift, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not both_vary(x, weight):
        return func(x, weight, bias)
    y = matrix_product(lift, torch.matmul, x, weight.mT if weight.dim() > 1 else weight)
    return y if bias is None else y + bias


def einsum(lift: Lift, func: Any, equation: str, *operands: Any) -> Any:
    operands = tuple(operands[0]) if operands and isinstance(operands[0], (list, tuple)) else operands
    vary = [i for i, t in enumerate(operands) if is_float(t) and not constant(t)]
    if len(vary) < 2:
        return func(equation, *operands)
    if len(vary) > 2:
        lift.unknown.append("einsum of three tensors that vary")
        return func(equation, *operands)

    def pair(x: Tensor, y: Tensor) -> Tensor:
        filled = list(operands)
        filled[vary[0]], filled[vary[1]] = x, y
        return func(equation, *filled)  # type: ignore[no-any-return]

    return bilinear(lift, pair, operands[vary[0]], operands[vary[1]])
