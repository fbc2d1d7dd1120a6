"""Operations as they are called in a graph that torch has decomposed (`ExportedProgram.run_decompositions`): in terms of those
that rules know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._torch import without_modes


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *how: bool,
) -> Tensor:
    name = f"conv{'_transpose' * transposed}{weight.dim() - 2}d"
    rest = (padding, output_padding, groups, dilation) if transposed else (padding, dilation, groups)
    found: Tensor = getattr(torch, name)(x, weight, bias, stride, *rest)
    return found


def batch_norm(x: Tensor, w: Any, b: Any, mean: Tensor, var: Tensor, momentum: float, eps: float) -> tuple[Tensor, ...]:
    """By running statistics: there are no others to give."""
    return torch.batch_norm(x, w, b, mean, var, False, momentum, eps, False), x.new_empty(0), x.new_empty(0)


def layer_norm(x: Tensor, shape: list[int], w: Any, b: Any, eps: float) -> tuple[Tensor, ...]:
    """With the statistics, which nothing but a backward pass takes."""
    with without_modes(), torch.no_grad():
        rest = torch.native_layer_norm(x, shape, w, b, eps)[1:]
    return F.layer_norm(x, shape, w, b, eps), *rest


def group_norm(x: Tensor, w: Any, b: Any, n: int, c: int, size: int, groups: int, eps: float) -> tuple[Tensor, ...]:
    with without_modes(), torch.no_grad():
        rest = torch.native_group_norm(x, w, b, n, c, size, groups, eps)[1:]
    return F.group_norm(x, groups, w, b, eps), *rest


def softmax(x: Tensor, dim: int, to_single: bool) -> Tensor:
    return torch.softmax(x, dim, torch.float32 if to_single else None)


def log_softmax(x: Tensor, dim: int, to_single: bool) -> Tensor:
    return torch.log_softmax(x, dim, torch.float32 if to_single else None)


DECOMPOSED: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("convolution", "_convolution"), convolution),
    "_native_batch_norm_legit_no_training": batch_norm,
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "_softmax": softmax,
    "_log_softmax": log_softmax,
}
