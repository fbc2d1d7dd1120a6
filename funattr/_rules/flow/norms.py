"""Normalisations under a rule: what is made with statistics, which are constant then."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._torch import saved_as, tracing, transforms_active
from ..._types import by_channel, in_single
from ..lift.norms import least, per_channel, weighted
from .mode import Ruled
from .operation import Led, Operation, Pairs, standing


class Held:
    """An operation that is made with statistics, and what flows where these are constant."""

    def __init__(self, run: Callable[..., Tensor], pairs: Callable[[Operation, Operation], Pairs | Led]):
        self.run, self.pairs = run, pairs

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.run(*inputs)


def _norm(
    mode: Ruled,
    run: Callable[..., Tensor],
    x: Tensor,
    weight: Any,
    bias: Any,
    shape: Any,
    dims: Any,
    eps: float,
    centred: bool = True,
) -> Tensor:
    """A normalisation over `dims` of x in `shape`, less its mean where it is centred; its deviation is constant."""
    last = mode.name in ("layer_norm", "rms_norm")  # the weight is along the last dimensions, else along the channels
    if mode.varies(weight) or mode.varies(bias):
        return _by_hand(mode, run, x, weight, bias, last)

    def led(op: Operation, at: Operation) -> Pairs | Led:
        scale = _inverse_deviation(op.output)
        if scale is None:
            c = in_single(at.inputs[0].reshape(shape))
            c = c - c.mean(dims, True) if centred else c
            scale = torch.rsqrt((c * c).mean(dims, True) + eps).to(x.dtype)
        w = None if weight is None else at.inputs[1] if last else by_channel(at.inputs[1], x.dim())
        if not centred:
            return [(scale if w is None else scale * w, op.inputs[0])]
        return partial(standing, scale=scale, weight=w, x=op.inputs[0], shape=shape, dims=dims)

    def function(x: Tensor, *given: Tensor) -> Tensor:
        return run(x, None if weight is None else given[0], None if bias is None else given[-1])

    inputs, held = (x, *(part for part in (weight, bias) if part is not None)), Held(function, led)
    y = held(*inputs)
    if not mode.varies(x):
        return y
    return mode.know(mode.ruled(mode.rules.of(mode.name, "normalization"), Operation(mode.name, held, inputs, y)), x)


def _by_hand(mode: Ruled, run: Callable[..., Tensor], x: Tensor, weight: Any, bias: Any, last: bool = False) -> Tensor:
    """A norm whose weight or bias vary: a product and a sum after it, as where they are written so."""
    with mode:
        y = run(x, None, None)
        if last:
            return weighted(y, weight, bias)
    return per_channel(mode, y, weight, bias)


def _inverse_deviation(y: Tensor) -> Tensor | None:
    """What a layer norm has computed for its own gradient, as far as torch shows it (since 2.13): a constant."""
    node = None if tracing() or transforms_active() else y.grad_fn
    return None if node is None or node.name() != "NativeLayerNormBackward0" else saved_as("result2", node)


def layer_norm(mode: Ruled, func: Any, x: Tensor, shape: Any, w: Any = None, b: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    return _norm(mode, lambda x, w, b: func(x, shape, w, b, eps), x, w, b, x.shape, [*range(-len(shape), 0)], eps)


def rms_norm(mode: Ruled, func: Any, x: Tensor, shape: Any, w: Any = None, eps: float | None = None) -> Any:
    across = [*range(-len(shape), 0)]
    return _norm(mode, lambda x, w, b: func(x, shape, w, eps), x, w, None, x.shape, across, least(x, eps), False)


def group_norm(mode: Ruled, func: Any, x: Tensor, groups: int, w: Any = None, b: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    shape = (x.shape[0], groups, x.shape[1:].numel() // groups)
    return _norm(mode, lambda x, w, b: func(x, groups, w, b, eps, *_), x, w, b, shape, [2], eps)


def instance_norm(mode: Ruled, func: Any, x: Tensor, w: Any, b: Any, mean: Any, var: Any, own: bool, *rest: Any) -> Any:
    if not own:
        return batch_norm(mode, torch.batch_norm, x, w, b, mean, var, False, *rest)
    return _norm(mode, lambda x, w, b: func(x, w, b, mean, var, own, *rest), x, w, b, x.shape, [*range(2, x.dim())], rest[1])


def batch_norm(
    mode: Ruled, func: Callable[..., Tensor], x: Tensor, w: Any, b: Any, mean: Any, var: Any, training: bool, *rest: Any
) -> Any:
    """With running statistics merged into the linear operation or convolution that x came out of, if it did; else linear."""

    def run(x: Tensor, w: Any = w, b: Any = b) -> Tensor:
        return func(x, w, b, mean, var, training, *rest)

    if training:
        return _norm(mode, run, x, w, b, x.shape, [0, *range(2, x.dim())], rest[1])
    if mode.varies(w) or mode.varies(b):
        return _by_hand(mode, run, x, w, b)
    before = mode.facts[x].linear
    if before is None:
        return run(x)
    scale = torch.rsqrt(var + rest[1])
    return before.merged(mode, x, run, scale if w is None else w * scale, mean, b)
