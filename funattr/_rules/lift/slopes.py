"""The linear maps that DeepLIFT puts in the place of nonlinear operations: value as it was, slope as the rule says.

Each is a function of live inputs, which carry the graph, and of constants. Its forward is the value, which is given; under
a vmap over baselines only the slopes are mapped, so that the forward pass is shared by all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._torch import autograd_function


@autograd_function
class _Slope(torch.autograd.Function):
    """A value given beforehand, whose backward is for the subclass to say. Inputs: live tensors first, the value last."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        return inputs[-1].detach()  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *live, _ = inputs
        ctx.shapes = [x.shape for x in live[: len(live) // 2]]
        ctx.save_for_backward(*live[len(live) // 2 :])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        # The slopes may be mapped while the value is not: then nor is the result.
        value, dim = inputs[-1], in_dims[-1]
        return value.detach(), dim


class _Scaled(_Slope):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (m,) = ctx.saved_tensors
        return g * m, None, None


class _Scaled2(_Slope):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        mx, my = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return g * mx if wanted[0] else None, g * my if wanted[1] else None, None, None, None


class _Matmul(_Slope):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        gx = _reduced(g @ b.mT, ctx.shapes[0]) if wanted[0] else None
        gy = _reduced(a.mT @ g, ctx.shapes[1]) if wanted[1] else None
        return gx, gy, None, None, None


class _Rows(_Slope):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[1:3])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        scale, weight = ctx.saved_tensors
        h = g * scale
        return h - weight * h.sum(-1, keepdim=True), None, None, None


class _Normal(_Slope):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, *slopes, ctx.dims, ctx.centred, _ = inputs
        ctx.save_for_backward(*slopes)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        centre, root, bend = ctx.saved_tensors
        h = g * root + centre * (bend * (g * centre).sum(ctx.dims, keepdim=True))
        return h - h.mean(ctx.dims, keepdim=True) if ctx.centred else h, None, None, None, None, None, None


class _Picked(_Slope):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.shape = inputs[0].shape
        ctx.save_for_backward(*inputs[1:3])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        index, m = ctx.saved_tensors
        h = g * m
        zeros = torch.zeros(ctx.shape, dtype=h.dtype, device=h.device)
        return zeros.scatter_add(-1, index.expand(h.shape), h), None, None, None


def _reduced(g: Tensor, shape: torch.Size) -> Tensor:
    """`g` summed over what was broadcast from `shape`."""
    if g.shape == shape:
        return g
    extra = g.dim() - len(shape)
    g = g.sum(tuple(range(extra))) if extra else g
    ones = [i for i, size in enumerate(shape) if size == 1 and g.shape[i] != 1]
    return g.sum(ones, keepdim=True) if ones else g


# Functions, for Dynamo to keep whole: see _traced.py.


def scaled(x: Tensor, m: Tensor, value: Tensor) -> Tensor:
    """The value, with slope `m` in each element of `x`."""
    return _Scaled.apply(x, m, value)  # type: ignore[no-any-return, no-untyped-call]


def scaled2(x: Tensor, y: Tensor, mx: Tensor, my: Tensor, value: Tensor) -> Tensor:
    """The value, with slopes `mx` in `x` and `my` in `y`, all elementwise."""
    return _Scaled2.apply(x, y, mx, my, value)  # type: ignore[no-any-return, no-untyped-call]


def matmul(x: Tensor, y: Tensor, a: Tensor, b: Tensor, value: Tensor) -> Tensor:
    """The value, with the slopes of ``x @ b`` in `x` and of ``a @ y`` in `y`."""
    return _Matmul.apply(x, y, a, b, value)  # type: ignore[no-any-return, no-untyped-call]


def rows(x: Tensor, scale: Tensor, weight: Tensor, value: Tensor) -> Tensor:
    """The value, with the slopes of ``scale * (x - sum(weight * x, -1))``."""
    return _Rows.apply(x, scale, weight, value)  # type: ignore[no-any-return, no-untyped-call]


def normal(
    x: Tensor, centre: Tensor, root: Tensor, bend: Tensor, dims: tuple[int, ...], centred: bool, value: Tensor
) -> Tensor:
    """The value, with the slopes of ``root * c + centre * sum(bend * centre * c, dims)``, where c is `x`, or `x` centred."""
    return _Normal.apply(x, centre, root, bend, dims, centred, value)  # type: ignore[no-any-return, no-untyped-call]


def picked(x: Tensor, index: Tensor, m: Tensor, value: Tensor) -> Tensor:
    """The value, with slope `m` in the elements of `x` at `index` along the last dimension."""
    return _Picked.apply(x, index, m, value)  # type: ignore[no-any-return, no-untyped-call]
