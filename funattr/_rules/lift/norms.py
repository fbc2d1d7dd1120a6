"""DeepLIFT's rules for normalisations: over a layer, a group, a channel, a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .secants import RELATIVE, Rule, secant
from .slopes import normal
from .tape import Lift


def normalised(lift: Lift, x: Tensor, dims: Sequence[int], eps: float, centred: bool = True) -> Tensor:
    """``c / sqrt(mean(c^2) + eps)``, c being x less its mean: what the rules for a square, for a reciprocal root and for
    a product make of it, as one map; one by one they take five times as many operations."""
    dims = tuple(dims)

    def parts(t: Tensor) -> tuple[Tensor, Tensor]:
        c = t - t.mean(dims, keepdim=True) if centred else t
        return c, (c * c).mean(dims, keepdim=True) + eps

    met = lift.meet(x)
    if met is None:
        c, v = parts(x)
        return c * torch.rsqrt(v)
    with lift.constants():
        (c, v), (c0, v0) = map(parts, met[0])
        root, root0 = torch.rsqrt(v), torch.rsqrt(v0)
        # The mean of squares changes by the mean of (c + c0) dc.
        bend = secant(torch.rsqrt, v, v0, RELATIVE, root) * (2 * v.numel() / max(c.numel(), 1))
        centre, root, value = (c + c0) / 2, (root + root0) / 2, c * root
    return normal(x, centre, root, bend, dims, centred, value)


def _affine(lift: Lift, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    with lift:  # a weight may vary too
        x = x if weight is None else x * weight
        return x if bias is None else x + bias


def _per_channel(x: Tensor, *parameters: Tensor | None) -> list[Tensor | None]:
    return [t if t is None else t.reshape(-1, *[1] * (x.dim() - 2)) for t in parameters]


def layer_norm(
    lift: Lift,
    func: Any,
    x: Tensor,
    shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    return _affine(lift, normalised(lift, x, range(-len(shape), 0), eps), weight, bias)


def rms_norm(lift: Lift, func: Any, x: Tensor, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Tensor:
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(lift, normalised(lift, x, range(-len(shape), 0), eps, False), weight, None)


def group_norm(
    lift: Lift,
    func: Any,
    x: Tensor,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    y = normalised(lift, x.reshape(x.shape[0], groups, -1), [2], eps).reshape(x.shape)
    return _affine(lift, y, *_per_channel(x, weight, bias))


def instance_norm(
    lift: Lift,
    func: Any,
    x: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Tensor:
    if not use_input_stats:
        return torch.batch_norm(x, weight, bias, mean, var, False, momentum, eps, cudnn)
    return _affine(lift, normalised(lift, x, range(2, x.dim()), eps), *_per_channel(x, weight, bias))


def batch_norm(lift: Lift, func: Any, *args: Any) -> Tensor:
    """Linear with running statistics; with those of the batch, a normalisation."""
    x, weight, bias, _, _, training, _, eps, _ = args
    if not training:
        return func(*args)  # type: ignore[no-any-return]
    return _affine(lift, normalised(lift, x, [0, *range(2, x.dim())], eps), *_per_channel(x, weight, bias))


NORMS: dict[str, Rule] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "batch_norm": batch_norm,
}
