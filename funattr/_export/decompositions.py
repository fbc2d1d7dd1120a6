"""Backward passes in forward operations: what exporters know, where they do not know torch's operation for it.

The gradient of an attribution is with respect to values, never to weights: a convolution's is a transposed convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import backward_decompositions

aten = torch.ops.aten


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> Any:
    if mask[1] or mask[2]:
        return NotImplemented
    if transposed:  # its backward pass is a convolution
        found = aten.convolution(grad, weight, None, stride, padding, dilation, False, [0] * len(stride), groups)
        return found, None, None
    spatial = weight.dim() - 2
    stride, padding, dilation = ([*each] * (spatial if len(each) == 1 else 1) for each in (stride, padding, dilation))
    # What a convolution with strides did not look at, at the end.
    left = [
        x.shape[2 + i] - ((grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i in range(spatial)
    ]
    return aten.convolution(grad, weight, None, stride, padding, dilation, True, left, groups), None, None


def max_pool2d_backward(grad: Tensor, x: Tensor, *options: Any) -> Tensor:
    """Each window's gradient goes to where its maximum is; windows may overlap."""
    where = options[-1]
    flat = torch.zeros_like(x).flatten(-2)
    return flat.scatter_add(-1, where.flatten(-2), grad.flatten(-2)).reshape(x.shape)


def adaptive_avg_pool2d_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Each window's gradient, spread evenly over it."""
    rows, columns = (_windows(x.shape[d], grad.shape[d], x) for d in (-2, -1))
    return rows.transpose(0, 1) @ grad @ columns


def _windows(size: int, count: int, like: Tensor) -> Tensor:
    """``[count, size]``: how much each entry counts in each window."""
    spans = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
    return _matrix([[1 / (b - a) if a <= k < b else 0.0 for k in range(size)] for a, b in spans], like)


def _matrix(rows: list[list[float]], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).to(like.device, like.dtype)


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Any:
    """Averages over windows are a product of two matrices, but for what is left out of the count at the edges."""
    kernel, padding = ([*each] * (2 if len(each) == 1 else 1) for each in (kernel, padding))
    stride = [*stride] * (2 if len(stride) == 1 else 1) or kernel
    spans = [_spans(x.shape[d], grad.shape[d], kernel[d], stride[d], padding[d]) for d in (-2, -1)]
    inside = [[[float(max(a, 0) <= k < b) for k in range(x.shape[d])] for a, b, _ in spans[d]] for d in (-2, -1)]
    counts = [[end - a if count_include_pad else min(b, x.shape[d]) - max(a, 0) for a, b, end in spans[d]] for d in (-2, -1)]
    area = [[float(divisor or math.prod((p, q))) for q in counts[1]] for p in counts[0]]
    rows, columns = (_matrix(each, x) for each in inside)
    return rows.transpose(0, 1) @ (grad / _matrix(area, x)) @ columns


def _spans(size: int, count: int, kernel: int, stride: int, padding: int) -> list[tuple[int, int, int]]:
    """Where each window begins and ends, and ends where what pads the input counts."""
    starts = [i * stride - padding for i in range(count)]
    return [(a, a + kernel, min(a + kernel, size + padding)) for a in starts]


def as_forward() -> dict[Any, Callable[..., Any]]:
    """The table for make_fx: these, and torch's own for the backward passes that it can spell."""
    own: dict[Any, Callable[..., Any]] = {
        aten.convolution_backward.default: convolution_backward,
        aten.max_pool2d_with_indices_backward.default: max_pool2d_backward,
        aten._adaptive_avg_pool2d_backward.default: adaptive_avg_pool2d_backward,
        aten.avg_pool2d_backward.default: avg_pool2d_backward,
        aten.__rshift__.Scalar: aten.bitwise_right_shift.Tensor_Scalar,
        aten.__rshift__.Tensor: aten.bitwise_right_shift.Tensor,
    }
    return {**backward_decompositions(), **own}
