"""DeepLIFT's rules: which operation has which slope between the baseline and x, and the one table that says so.

A rule is called like the operation, after the `Lift` that met it. While a baseline is recorded it leaves its inputs on the
tape; afterwards it returns the operation's value with slopes such that ``slope * (x - x0)``, summed over the inputs, is
exactly ``y - y0``: then completeness holds for any composition, however adjacent, reused or functional.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._core.checks import may_read
from ..._core.plain import PlainAttention
from ..._torch import below_vmap, grad_levels_in_vmap, grad_of_sum, is_plain, slope_of_one, tracing, transforms_active
from ..._types import attributable, in_single
from ..spelled import counterpart
from .slopes import scaled, scaled2
from .tape import Lift, Met

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
    if alone and not (tracing() or torch.is_grad_enabled()) and (levels := grad_levels_in_vmap(a, b)):
        given = (a, b, f(a) if value is None else value)
        return below_vmap(lambda a, b, value: [secant(f, a, b, kind, value, alone)], *given, levels=levels)[0]
    if alone and in_single(a) is not a:  # a difference of rounded values has few digits
        return secant(f, in_single(a), in_single(b), kind, None, alone).to(a.dtype)
    dx = a - b
    digits = torch.finfo(a.dtype).eps ** (1 / 3)
    bound: Any = kind * digits if kind >= 0 else digits * ((a + b) / 2).abs()
    looks, differentiable = may_read() and is_plain(a), torch.is_grad_enabled()
    if looks and alone and not differentiable:
        few = _not_above(dx, bound)  # first: what is large is soon out of the processor's reach
        least = _least(f, a, dx, kind, few) if few.numel() else None
        slope = ((f(a) if value is None else value) - f(b)).div_(dx)
        return slope if least is None else slope.contiguous().view(-1).index_copy_(0, few, least).view(slope.shape)
    rise = (f(a) if value is None else value) - f(b)
    tiny = ~(dx.abs() > bound)
    # Where the slope has a derivative, 0 / 0 would spoil it for the others too.
    slope = rise / dx.masked_fill(tiny, 1.0) if differentiable else rise.div_(dx)
    if looks and not bool(tiny.any()):
        return slope
    where = a.expand(dx.shape) if kind == EXACT else (a + b) / 2
    return torch.where(tiny, torch.nan_to_num(derivative(f, where), 0.0, 0.0, 0.0), slope)


def _least(f: Callable[[Tensor], Tensor], a: Tensor, dx: Tensor, kind: float, few: Tensor) -> Tensor:
    """The derivatives at a few places, on a tensor with gaps: for one without, oneDNN takes its time to make itself ready."""
    middle = a.expand_as(dx).take(few)
    if kind != EXACT:
        middle = torch.sub(middle, dx.take(few), alpha=0.5, out=middle.new_empty(few.numel(), 2)[:, 0])
    return torch.nan_to_num(derivative(f, middle), 0.0, 0.0, 0.0)


def _not_above(t: Tensor, bound: Tensor | float) -> Tensor:
    """Where, as in a flat tensor, not ``|t| > bound``: two that are minus infinity (masks) differ by nothing. For that numpy
    takes a fraction of torch's time on a CPU."""
    if t.device.type == "cpu" and t.dtype in (torch.float32, torch.float64):
        values, most = t.numpy(), bound.numpy() if isinstance(bound, Tensor) else bound
        return torch.from_numpy((~(np.abs(values) > most)).ravel().nonzero()[0])
    return (~(t.abs() > bound)).flatten().nonzero().squeeze(1)


def derivative(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """f'(x), elementwise; differentiable where x is."""
    if tracing() or transforms_active():
        with PlainAttention():  # what has no second derivative, which torch.func makes ready for
            pulled = torch.func.vjp(f, x)
        slope: Tensor = pulled[1](torch.ones_like(pulled[0]))[0]
        return slope
    again = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        x = x if again else x.detach().requires_grad_()
        y = f(x)
        d = slope_of_one(y, x) if y.requires_grad and not again else None
        if d is None and y.requires_grad:
            d = grad_of_sum(y, [x], again, again)[0]
        return torch.zeros_like(x) if d is None else d


def unary(kind: float) -> Rule:
    """The rescale rule (Shrikumar et al. 2017) for an elementwise function of its first argument."""

    def rule(lift: Lift, func: Any, x: Any, *rest: Any, **kwargs: Any) -> Any:
        alone = not any(isinstance(other, Tensor) for other in (*rest, *kwargs.values()))
        return rescaled(lift, lambda t: func(t, *rest, **kwargs), x, kind, alone)

    return rule


def rescaled(lift: Lift, f: Callable[[Tensor], Tensor], x: Any, kind: float, alone: bool = False) -> Any:
    if not attributable(x):
        return f(x)
    met = lift.meet(x)
    if met is None:
        return f(x)
    with lift.constants():
        value = f(met[0].own)
        a, b = lift.ends(met[0])
        slope = secant(f, a, b, kind, value, alone)
    return scaled(x, slope, value)


def binary(kind: float) -> Rule:
    """An elementwise function of two tensors: each one's secant, averaged over where the other may be (its Shapley value).

    For a product that is ``d(xy) = dx (y + y0) / 2 + dy (x + x0) / 2``.
    """

    def rule(lift: Lift, func: Any, x: Any, y: Any, **kwargs: Any) -> Any:
        if not isinstance(y, Tensor):
            return rescaled(lift, lambda t: func(t, y, **kwargs), x, kind)
        if not isinstance(x, Tensor):
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
    """`slopes(a, a0, b, b0)` gives those in both. What has no gradient (a mask, a gate, a count) has no share: `steered`."""
    if not attributable(x) and not attributable(y):
        return f(x, y)
    met = lift.meet(x, y)
    if met is None:
        return f(x, y)
    mx: Any = None
    my: Any = None
    with lift.constants():
        value = f(met[0].own, met[1].own)
        (a, a0), (b, b0) = (_as_float(pair, value) for pair in met)
        if lift.steers(y):
            mx = steered(lift, y, f, lambda b, b0: slopes(a, a0, b, b0)[0], met[0], met[1], value)
        elif lift.steers(x):
            my = steered(lift, x, lambda s, t: f(t, s), lambda a, a0: slopes(a, a0, b, b0)[1], met[1], met[0], value)
        else:
            mx, my = slopes(a, a0, b, b0)
    x, y = x.expand(value.shape), y.expand(value.shape)
    if mx is None or my is None:
        return scaled(y, my, value) if my is not None else scaled(x, mx, value)
    return scaled2(x, y, mx, my, value)


def _as_float(met: Met, like: Tensor) -> Met:
    return met if met.own.is_floating_point() else Met(met.own.to(like.dtype), met.base.to(like.dtype))


def steered(
    lift: Lift, t: Tensor, f: Callable[..., Tensor], slope: Callable[..., Tensor], x: Met, gate: Met, value: Tensor
) -> Tensor:
    """The slope in x of ``f(x, gate)``, which bears all that changes: with the gate, if that comes from the site too.
    A gate that does not is taken from x, as integrated gradients does, and noted where it is another one at the baseline."""
    gate = lift.settled(t, gate)
    own, base = _as_float(gate, value)
    same = slope(own, own)
    if gate.own is gate.base:
        return same
    dx = x.own - x.base
    keeps = (own == base) | (dx == 0)
    return torch.where(keeps, same, (value - f(x.base, gate.base)) / dx.masked_fill(keeps, 1.0))


def clamp(lift: Lift, func: Any, x: Any, *bounds: Any, **named: Any) -> Any:
    """Piecewise linear in x; with bounds that are tensors, the larger of two and then the smaller of two."""
    low, high = (list(bounds) + [None, None])[:2] if counterpart(func) not in _CLAMP_MAX else (None, *bounds, None)[:2]
    low, high = named.get("min", low), named.get("max", high)
    if not any(lift.varies(t) for t in (low, high)):
        return unary(EXACT)(lift, func, x, *bounds, **named)
    for bound, f in ((low, torch.maximum), (high, torch.minimum)):
        if bound is not None:
            other = bound if isinstance(bound, Tensor) else torch.full((), bound, dtype=x.dtype, device=x.device)
            x = binary(EXACT)(lift, f, x, other)
    return x


_CLAMP_MAX = (torch.clamp_max, Tensor.clamp_max)


def product(lift: Lift, func: Any, x: Any, y: Any) -> Any:
    """Half of each other's; but with the reciprocal of a scale it is a quotient by that, and so are its shares."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or lift.constant(x) or lift.constant(y):
        return lift.scale(func(x, y), x, y)
    if lift.is_scale(y):
        return elementwise(lift, func, partial(_times_scale, _spread(y, x)), x, y)
    if lift.is_scale(x):
        spread = _spread(x, y)
        return elementwise(lift, func, lambda a, a0, b, b0: _times_scale(spread, b, b0, a, a0)[::-1], x, y)
    return elementwise(lift, func, lambda a, a0, b, b0: ((b + b0) / 2, (a + a0) / 2), x, y)


def _times_scale(spread: bool, a: Tensor, a0: Tensor, r: Tensor, r0: Tensor) -> tuple[Tensor, Tensor]:
    """``d(a r) = da (p r + q r0) + dr (p a0 + q a)`` with p + q = 1: halves. But as of a scale, ``a / s`` with s = 1 / r,
    below, p : q is |r0| : |r|: halves would be as complete, and of no use where r is 1000 at one end and 1 at the other, as
    the norm of zeros has it."""
    p, q = portions(spread, r, r0)
    return p * r + q * r0, p * a0 + q * a


def portions(spread: bool, r: Tensor, r0: Tensor) -> tuple[Tensor, Tensor]:
    """p and q of that."""
    fair, size, size0 = _fair(spread, r, r0), r.abs(), r0.abs()
    whole = torch.where(fair, size + size0, 1.0)
    return torch.where(fair, size0 / whole, 0.5), torch.where(fair, size / whole, 0.5)


def _fair(spread: bool, s: Tensor, s0: Tensor) -> Tensor:
    """Where a product with a scale, or with its reciprocal, is shared as of a scale: where it is one number for many, and for
    one where it is far from what it was: a cosine next to a vector of zeros, a correlation with a constant.

    Elsewhere shares are Shapley's, as of all that has two operands; but these have ``1 / s0`` in them, and no bound where that
    is 0. No continuous rule is both: 100 is where what is shared out may be 50 times the quotients."""
    size, size0 = s.abs(), s0.abs()
    far = torch.maximum(size, size0) > 100 * torch.minimum(size, size0)
    return far | (s * s0 > 0) if spread else far


def _spread(y: Tensor, x: Tensor) -> bool:
    """Whether `y` is a scale of `x`: one number for many of its elements."""
    sizes = zip(y.shape[::-1], y.stride()[::-1], x.shape[::-1])
    return y.dim() < x.dim() or any(other > 1 and (size == 1 or step == 0) for size, step, other in sizes)


def quotient(lift: Lift, func: Any, x: Any, y: Any, **kwargs: Any) -> Any:
    """d(x/y) = dx (1/y + 1/y0) / 2 - dy (x + x0) / 2 / (y y0), each one's share in the mean over who comes first. Where y is a
    scale of x, z = x / y is ``z y = x``, a product: ``dz (y + y0) / 2 + dy (z + z0) / 2 = dx``; so where y is far from y0."""
    if kwargs.get("rounding_mode") is not None:
        return binary(EXACT)(lift, func, x, y, **kwargs)
    if not isinstance(y, Tensor) or lift.constant(y):
        return func(x, y)
    if not isinstance(x, Tensor):
        return lift.scale(rescaled(lift, lambda t: func(x, t), y, RELATIVE), y, force=True)
    return elementwise(lift, func, partial(_over, _spread(y, x)), x, y)


def _over(spread: bool, a: Tensor, a0: Tensor, b: Tensor, b0: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes of that. As a product, with b's sizes, so that they hold for signs that differ: what they share out is then at
    most twice ``|a / b| + |a0 / b0|``."""
    fair, halves = _fair(spread, b, b0), ((1 / b + 1 / b0) / 2, -(a + a0) / 2 / (b * b0))
    s, s0, whole = b.sign(), b0.sign(), torch.where(fair, b.abs() + b0.abs(), 1.0)
    return torch.where(fair, (s + s0) / whole, halves[0]), torch.where(fair, -(a / b * s0 + a0 / b0 * s) / whole, halves[1])


def reciprocal(lift: Lift, func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return lift.scale(unary(RELATIVE)(lift, func, x, *args, **kwargs), x, force=True)


def power(lift: Lift, func: Any, x: Any, y: Any, **kwargs: Any) -> Any:
    found = binary(RELATIVE)(lift, func, x, y, **kwargs)
    return lift.scale(found, x, force=True) if isinstance(y, (int, float)) and y < 0 else found


def swapped_quotient(lift: Lift, func: Any, y: Any, x: Any) -> Any:
    return quotient(lift, torch.div, x, y)
