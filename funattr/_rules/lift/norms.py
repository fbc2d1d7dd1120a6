"""DeepLIFT's rules for normalisations: over a layer, a group, a channel, a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..._torch import tracing
from ..._types import by_channel, in_single
from .secants import Rule
from .slopes import normal
from .tape import Lift


def normalised(
    lift: Lift, x: Tensor, dims: Sequence[int], eps: float, centred: bool = True, weight: Any = None, bias: Any = None
) -> Tensor:
    """``c / sqrt(mean(c^2) + eps)``, c being x less its mean, and a fixed weight and bias after it: what the rules for a
    square, for a reciprocal root and for a quotient make of it, as one map."""
    dims = tuple(dims)
    met = lift.meet(x)
    if met is None:
        return weighted(_standard(x, dims, eps, centred)[0], weight, bias)
    with lift.constants():
        (z, root), (z0, root0) = (_standard(t, dims, eps, centred) for t in met[0])
        share = root / (root + root0)
        slopes = z, z0, share * (root0 + root0), share
        value = z.clone() if weight is None and bias is None else weighted(z, weight, bias)  # the model may write to it
    return normal(x, slopes if weight is None else (*slopes, weight), dims, centred, value)


def _standard(x: Tensor, dims: tuple[int, ...], eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    """What a normalisation makes of x, and the inverse root of the variance."""
    if centred and dims == tuple(range(-len(dims), 0)) and not torch.is_grad_enabled():  # the root would have no gradient
        z, _, root = torch.native_layer_norm(x, x.shape[-len(dims) :], None, None, eps)
        return z, root if root.dtype == x.dtype else root.to(x.dtype)
    c = x - x.mean(dims, keepdim=True) if centred else x
    root = torch.rsqrt(in_single(c).square().mean(dims, keepdim=True) + eps).to(c.dtype)
    return c * root, root


#: Of half precision, where no eps is given: newer versions of torch have that of float32.
_SINGLE = hasattr(F, "rms_norm") and bool(F.rms_norm(torch.full((1,), 0.01, dtype=torch.float16, device="cpu"), (1,)) > 0.9)


def least(x: Tensor, eps: float | None) -> float:
    """What an RMS norm adds to the mean of the squares."""
    return torch.finfo(in_single(x).dtype if _SINGLE else x.dtype).eps if eps is None else eps


def weighted(z: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None and bias is not None:
        return torch.addcmul(bias, z, weight)
    z = z if weight is None else z * weight
    return z if bias is None else z + bias


def _normed(
    lift: Lift,
    plain: Callable[[], Tensor],
    x: Tensor,
    dims: Sequence[int],
    eps: float,
    affine: Sequence[Tensor | None],
    centred: bool = True,
) -> Tensor:
    """The normalisation of `x`, and its weight and bias after it. While a baseline is recorded, all that is torch's own."""
    if not all(t is None or lift.constant(t) for t in affine):
        return _affine(lift, normalised(lift, x, dims, eps, centred), *affine)
    if lift.baseline is None:
        lift.meet(x)
        return plain()
    return normalised(lift, x, dims, eps, centred, *affine)


def _affine(lift: Lift, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    with lift:  # a weight may vary too
        return weighted(x, weight, bias)


def per_channel(mode: TorchFunctionMode, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    with mode:  # which is to know what is made of parameters
        return weighted(x, *[t if t is None else by_channel(t, x.dim()) for t in (weight, bias)])


def layer_norm(
    lift: Lift, func: Any, x: Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: bool
) -> Tensor:
    func = torch.layer_norm if func is F.layer_norm and not tracing() else func  # whose look for modes is no Python
    return _normed(lift, lambda: func(x, shape, weight, bias, eps), x, range(-len(shape), 0), eps, (weight, bias))


def rms_norm(lift: Lift, func: Any, x: Tensor, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Tensor:
    across = range(-len(shape), 0)
    return _normed(lift, lambda: func(x, shape, weight, eps), x, across, least(x, eps), (weight, None), centred=False)


def group_norm(
    lift: Lift, func: Any, x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *cudnn: bool
) -> Tensor:
    y = normalised(lift, x.reshape(x.shape[0], groups, x.shape[1:].numel() // groups), [-1], eps).reshape(x.shape)
    return per_channel(lift, y, weight, bias)


def instance_norm(
    lift: Lift, func: Any, x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, own: bool, *rest: Any
) -> Tensor:
    if not own:
        return batch_norm(lift, torch.batch_norm, x, weight, bias, mean, var, False, *rest)
    return per_channel(lift, normalised(lift, x, range(2, x.dim()), rest[1]), weight, bias)


def batch_norm(lift: Lift, func: Callable[..., Tensor], *args: Any) -> Tensor:
    """Linear with running statistics; with those of the batch, a normalisation."""
    x, weight, bias, mean, var, training, *rest = args
    if not training:
        if lift.varies(weight) or lift.varies(bias):
            return per_channel(lift, func(x, None, None, mean, var, False, *rest), weight, bias)
        return func(*args)
    return per_channel(lift, normalised(lift, x, [0, *range(2, x.dim())], rest[1]), weight, bias)


NORMS: dict[str, Rule] = {rule.__name__: rule for rule in (layer_norm, rms_norm, group_norm, instance_norm, batch_norm)}
