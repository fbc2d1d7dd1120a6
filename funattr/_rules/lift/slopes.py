"""The linear maps that DeepLIFT puts in the place of nonlinear operations: value as it was, slope as the rule says.

Each is a function of live inputs, which carry the graph, and of constants. Its forward is the value, which is given; under
a vmap over baselines only the slopes are mapped, so that the forward pass is shared by all of them. A slope holds at the grad
level of the attribution: to outer levels the value varies as it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._torch import at_one_level, autograd_function, current_grad_level, nothing_below, tracing, without_modes
from ..._types import as_it_is

#: The gradients of all live inputs: ``pull(g, shapes of the inputs, which of them are wanted, *slopes)``.
Pull = Callable[..., "tuple[Tensor | None, ...]"]
Shapes = Sequence[torch.Size]
Wanted = Sequence[bool]


@autograd_function
class _Slope(torch.autograd.Function):
    """A value given beforehand, and how its gradient comes back. Inputs: level, how many are live, those, slopes, the value."""

    @staticmethod
    def forward(pull: Pull, level: int, live: int, *inputs: Any) -> Tensor:
        value: Tensor = inputs[-1]
        return value.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.pull, level, live, *rest = inputs
        ctx.ruled, ctx.live = current_grad_level() == level, live
        ctx.shapes, ctx.rest = [x.shape for x in rest[:live]], len(rest) - live
        ctx.save_for_backward(*rest[live:-1])
        ctx.set_materialize_grads(False)  # as in relu.py: what hands on no gradient is not to pass for one of zeros

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None or not ctx.ruled:
            return None, None, None, *[None] * (ctx.live + ctx.rest - 1), g
        found = ctx.pull(g, ctx.shapes, ctx.needs_input_grad[3:], *ctx.saved_tensors)
        return None, None, None, *found, *[None] * ctx.rest

    @staticmethod
    def jvp(ctx: Any, pull: None, level: None, live: None, *inputs: Any) -> Tensor:
        tangent: Tensor = inputs[-1]
        return tangent.clone()

    @staticmethod
    def vmap(info: Any, in_dims: Any, pull: Any, level: int, live: int, *inputs: Any) -> Any:
        # The slopes may be mapped while the value is not: then nor is the result.
        return inputs[-1].view_as(inputs[-1]), in_dims[-1]


class _Alone(torch.autograd.Function):
    """The same at a grad level with nothing recorded below it. For each call of the other one torch.func makes a class, and
    takes the arguments apart at every level, which takes longer than an operation."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _Slope.setup_context(ctx, inputs, None)
        return _Slope.forward(*inputs)

    backward = _Slope.backward


def _slope(pull: Pull, live: int, *inputs: Tensor) -> Tensor:
    alone = not tracing() and nothing_below()
    kind: Any = super(torch.autograd.Function, _Alone) if alone else _Slope
    with at_one_level() if alone else as_it_is:
        found: Tensor = kind.apply(pull, current_grad_level(), live, *inputs)
        return found


def _reduced(g: Tensor, shape: torch.Size) -> Tensor:
    """`g` summed over what was broadcast from `shape`."""
    if g.shape == shape:
        return g
    extra = g.dim() - len(shape)
    g = g.sum(tuple(range(extra))) if extra else g
    ones = [i for i, size in enumerate(shape) if size == 1 and g.shape[i] != 1]
    return g.sum(ones, keepdim=True) if ones else g


# Functions, for Dynamo to keep whole: see traced.py.


def scaled(x: Tensor, m: Tensor, value: Tensor) -> Tensor:
    """The value, with slope `m` in each element of `x`."""
    return _slope(_times, 1, x, m, value)


def scaled2(x: Tensor, y: Tensor, mx: Tensor, my: Tensor, value: Tensor) -> Tensor:
    """The value, with slopes `mx` in `x` and `my` in `y`, all elementwise."""
    return _slope(_times, 2, x, y, mx, my, value)


def _times(g: Tensor, shapes: Shapes, wanted: Wanted, *slopes: Tensor) -> tuple[Tensor | None, ...]:
    return tuple([g * m if on else None for m, on in zip(slopes, wanted)])


def matmul(x: Tensor, y: Tensor, a: Tensor, b: Tensor, value: Tensor) -> Tensor:
    """The value, with the slopes of ``x @ b`` in `x` and of ``a @ y`` in `y`."""
    a, b = a.to(value.dtype), b.to(value.dtype)  # as autocast in the model had them: in the backward pass it is off
    return _slope(_products, 2, x, y, a, b, value)


def _products(g: Tensor, shapes: Shapes, wanted: Wanted, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
    return _reduced(g @ b.mT, shapes[0]) if wanted[0] else None, _reduced(a.mT @ g, shapes[1]) if wanted[1] else None


def rows(x: Tensor, scale: Tensor | None, mean: Tensor, total: Tensor, value: Tensor) -> Tensor:
    """The value, with the slopes of ``scale * (x - sum(mean * x, -1) / total)``; None for a scale of 1."""
    slopes = (mean, total) if scale is None else (mean, total, scale)
    return _slope(_row, 1, x, *slopes, value)


def _row(g: Tensor, shapes: Shapes, wanted: Wanted, mean: Tensor, total: Tensor, *scale: Tensor) -> tuple[Tensor]:
    h = g * scale[0] if scale else g
    return (torch.addcmul(h, mean, h.sum(-1, keepdim=True) / total, value=-1),)


def attention(q: Tensor, k: Tensor, v: Tensor, slopes: tuple[Tensor, ...], scale: float, value: Tensor) -> Tensor:
    """The value, with the slopes ``(q, k, v, weights, mean, total)`` of ``scale * q @ k.mT``, softmax (`rows`) and
    ``weights @ v``; a seventh is what a mask that moves makes of the scores."""
    return _slope(partial(_attention, scale), 3, q, k, v, *slopes, value)


def _attention(scale: float, g: Tensor, shapes: Shapes, wanted: Wanted, *slopes: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, weights, mean, total, *bend = slopes
    g = g.contiguous()  # once, and not in each product
    (h,) = _row(g @ v.mT, shapes, wanted, mean, total, mean)
    h = h.mul_(scale)
    h = h * bend[0] if bend else h
    found = h @ k, h.mT @ q, weights.mT @ g
    return tuple([_reduced(t, shape) for t, shape in zip(found, shapes)])


def normal(x: Tensor, slopes: tuple[Tensor, ...], dims: tuple[int, ...], centred: bool, value: Tensor) -> Tensor:
    """The value, with the slopes of a normalisation of `x` to z: ``(z, z0, scale, share)`` and maybe a weight after it.

    With c = x, centred, and its inverse roots r and r0, z = r c: ``dz = scale dc + (z + z0) / (r + r0) dr`` with ``scale = 2 r
    r0 / (r + r0)``, and ``dr = -(r r0)^2 / (r + r0) mean((c + c0) dc)``; `share` is ``r / (r + r0)``.
    """
    return _slope(partial(_norm, dims, centred), 1, x, *slopes, value)


def _norm(dims: tuple[int, ...], centred: bool, g: Tensor, shapes: Shapes, wanted: Wanted, *slopes: Tensor) -> tuple[Tensor]:
    z, z0, scale, share, *weight = slopes
    g = g * weight[0] if weight else g
    mean = (g * (z + z0)).mean(dims, keepdim=True)
    h = torch.addcmul(g, torch.lerp(z, z0, share), mean, value=-0.5).mul_(scale)
    if centred:
        middle = h.mean(dims, keepdim=True)
        h = h - middle if torch.is_grad_enabled() else h.sub_(middle)  # torch 2.0 needs h again, where that is differentiated
    return (h,)


def picked(x: Tensor, index: Tensor, m: Tensor, value: Tensor) -> Tensor:
    """The value, with slope `m` in the elements of `x` at `index` along the last dimension."""
    return _slope(_pick, 1, x, index, m, value)


def _pick(g: Tensor, shapes: Shapes, wanted: Wanted, index: Tensor, m: Tensor) -> tuple[Tensor]:
    h = g * m
    return (torch.zeros(shapes[0], dtype=h.dtype, device=h.device).scatter_add(-1, index.expand(h.shape), h),)


class Aside(torch.no_grad):
    """Without a graph, and unseen by other modes: under vmap there is one for attention, and slopes take many operations."""

    def __enter__(self) -> None:
        super().__enter__()
        self.modes = without_modes()
        self.modes.__enter__()

    def __exit__(self, *exception: Any) -> None:
        try:
            self.modes.__exit__(*exception)
        finally:
            super().__exit__(*exception)
