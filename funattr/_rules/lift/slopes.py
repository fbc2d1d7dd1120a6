"""The linear maps that DeepLIFT puts in the place of nonlinear operations: value as it was, slope as the rule says.

Each is a function of live inputs, which carry the graph, and of constants. Its forward is the value, which is given; under
a vmap over baselines only the slopes are mapped, so that the forward pass is shared by all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._torch import autograd_function

#: The gradient of one live input: ``pull(g, shape of the input, *slopes)``.
Pull = Callable[..., Tensor]


@autograd_function
class _Slope(torch.autograd.Function):
    """A value given beforehand, and how its gradient comes back. Inputs: live tensors, slopes, the value."""

    @staticmethod
    def forward(pulls: tuple[Pull, ...], *inputs: Any) -> Tensor:
        return inputs[-1].detach()  # type: ignore[no-any-return]  # the last input is a tensor

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.pulls, *rest = inputs
        live = len(ctx.pulls)
        ctx.shapes, ctx.rest = [x.shape for x in rest[:live]], len(rest) - live
        ctx.save_for_backward(*rest[live:-1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        slopes, wanted = ctx.saved_tensors, ctx.needs_input_grad[1:]
        found = [pull(g, shape, *slopes) if on else None for pull, shape, on in zip(ctx.pulls, ctx.shapes, wanted)]
        return None, *found, *[None] * ctx.rest

    @staticmethod
    def vmap(info: Any, in_dims: Any, pulls: Any, *inputs: Any) -> Any:
        # The slopes may be mapped while the value is not: then nor is the result.
        return inputs[-1].detach(), in_dims[-1]


def _slope(pulls: tuple[Pull, ...], *inputs: Tensor) -> Tensor:
    return _Slope.apply(pulls, *inputs)  # type: ignore[no-any-return, no-untyped-call]  # torch does not type apply


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
    return _slope((_first,), x, m, value)


def scaled2(x: Tensor, y: Tensor, mx: Tensor, my: Tensor, value: Tensor) -> Tensor:
    """The value, with slopes `mx` in `x` and `my` in `y`, all elementwise."""
    return _slope((_first, _second), x, y, mx, my, value)


def _first(g: Tensor, shape: torch.Size, m: Tensor, *others: Tensor) -> Tensor:
    return g * m


def _second(g: Tensor, shape: torch.Size, mx: Tensor, my: Tensor) -> Tensor:
    return g * my


def matmul(x: Tensor, y: Tensor, a: Tensor, b: Tensor, value: Tensor) -> Tensor:
    """The value, with the slopes of ``x @ b`` in `x` and of ``a @ y`` in `y`."""
    return _slope((_left, _right), x, y, a, b, value)


def _left(g: Tensor, shape: torch.Size, a: Tensor, b: Tensor) -> Tensor:
    return _reduced(g @ b.mT, shape)


def _right(g: Tensor, shape: torch.Size, a: Tensor, b: Tensor) -> Tensor:
    return _reduced(a.mT @ g, shape)


def rows(x: Tensor, scale: Tensor, weight: Tensor, value: Tensor) -> Tensor:
    """The value, with the slopes of ``scale * (x - sum(weight * x, -1))``."""
    return _slope((_row,), x, scale, weight, value)


def _row(g: Tensor, shape: torch.Size, scale: Tensor, weight: Tensor) -> Tensor:
    h = g * scale
    return h - weight * h.sum(-1, keepdim=True)


def normal(x: Tensor, slopes: tuple[Tensor, ...], dims: tuple[int, ...], centred: bool, value: Tensor) -> Tensor:
    """The value, with the slopes ``(c, c0, scale, share, bend)`` of ``scale * dc + k * sum(bend * (c + c0) / 2 * dc, dims)``,
    where c is `x`, or `x` centred, and k lies between c0 and c, at `share` of the way."""
    return _slope((partial(_norm, dims, centred),), x, *slopes, value)


def _norm(dims: tuple[int, ...], centred: bool, g: Tensor, shape: torch.Size, *slopes: Tensor) -> Tensor:
    c, c0, scale, share, bend = slopes
    change, change0 = (bend * (g * weight).sum(dims, keepdim=True) for weight in (c, c0))
    change = share * change + (1 - share) * change0
    h = g * scale + change / 2 * (c + c0)
    return h - h.mean(dims, keepdim=True) if centred else h


def picked(x: Tensor, index: Tensor, m: Tensor, value: Tensor) -> Tensor:
    """The value, with slope `m` in the elements of `x` at `index` along the last dimension."""
    return _slope((_pick,), x, index, m, value)


def _pick(g: Tensor, shape: torch.Size, index: Tensor, m: Tensor) -> Tensor:
    h = g * m
    return torch.zeros(shape, dtype=h.dtype, device=h.device).scatter_add(-1, index.expand(h.shape), h)
