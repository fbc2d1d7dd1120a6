"""What flows in the place of an operation: the rules of LRP, AttnLRP and kin.

Each is a list of pairs: the gradient, times a factor (None is 1), goes on to a source. It is made of the operation twice: `op`,
whose output and inputs carry the graph, is for the sources; `at`, the same as constants, for the factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ..._core.checks import may_read
from ..._torch import tracing, transforms_active
from ..._types import as_it_is, broadcasts, by_channel
from ..._words import complaint
from ..lift.secants import derivative
from .operation import Flow, Led, Operation, Pairs, hold, same

Rules = dict[Any, Callable[..., Any]]


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """`z`, away from 0 by `epsilon`, on its own side; 0 counts as positive."""
    return z + torch.where(z < 0, -epsilon, epsilon).to(z.dtype) if epsilon else z


def _share(z: Tensor, total: Tensor, epsilon: float) -> Tensor:
    """``z / total``; 0 where both are."""
    if epsilon >= torch.finfo(z.dtype).tiny:  # else z over it may be too large
        return z / stabilised(total, epsilon)
    return torch.where(total == 0, torch.zeros_like(z), z / torch.where(total == 0, 1.0, total))


def _plain(op: Operation, at: Operation) -> Pairs:
    return [(None, op.output)]


def _cut(op: Operation, at: Operation) -> Pairs:
    return []


def _activation(op: Operation, at: Operation) -> Pairs:
    z, y, x = at.inputs[0], at.output, op.inputs[0]
    x = x if x.shape == y.shape else x.expand_as(y)
    ratio = y / z
    if may_read(ratio) and math.isfinite(ratio.sum()):  # one fast pass: at 0 it is none, or infinite
        return [(ratio, x)]
    hooks: Any = as_it_is if tracing() or transforms_active() else saved_tensors_hooks(same, same)
    with hooks:  # none of the model's (torch.utils.checkpoint)
        slope = derivative(op.function, z).nan_to_num(math.nan, 0.0, 0.0)  # of a root at 0, which has no relevance
    # 0, as good as 0 (no normal number, by which to divide is too much), or infinite, as scores are that a mask has taken out
    none = ~ratio.isfinite() & ((z.abs() < torch.finfo(z.dtype).tiny) | z.isinf())
    return [(torch.where(none, slope, y / torch.where(none, 1.0, z)), x)]


def _half(op: Operation, at: Operation) -> Pairs:
    return [(at.output.new_full((), 0.5), op.output)]


def _normalization(op: Operation, at: Operation) -> Pairs | Led:
    """Of what is made with statistics, the same with these constant; of a statistic, nothing."""
    pairs = getattr(op.function, "pairs", None)
    return [] if pairs is None else pairs(op, at)


PLAIN = Flow(_plain, "gradient")
CUT = Flow(_cut, "cut")
ACTIVATION = Flow(_activation, "activation")
HALF = Flow(_half, "half", both=True, scales=True)
GATE = Flow(_half, "gate", both=True)  # the mode knows which of the two is one
NORMALIZATION = Flow(_normalization, "normalization", both=True)
BASE: Rules = {"activation": ACTIVATION, "product": HALF, "softmax": PLAIN, "normalization": NORMALIZATION}


def _bias(op: Operation, used: bool) -> Tensor | float:
    """The bias in the shape of the output, where the operation has one that is used."""
    if len(op.inputs) < 3 or not used:
        return 0.0
    x, weight, bias = op.inputs
    # Of x and a kernel, either may be the one that varies; x may have no batch.
    return by_channel(bias, max(x.dim(), weight.dim())) if op.name.startswith("conv") else bias


def _not_negative(x: Tensor) -> bool:
    """Whether it can be seen that nothing in `x` is negative: then half of the work falls away."""
    if tracing() or transforms_active():
        return False
    try:
        return bool(x.min() >= 0)
    except RuntimeError:  # it is empty, or somebody traces: what is in a tensor cannot be seen then
        return False


def _parts(op: Operation, at: Operation) -> tuple[Tensor, Callable[[], Tensor]]:
    """The sums of all positive contributions, and of all negative ones where somebody asks."""
    (x, w), f = op.inputs[:2], op.function
    more = w.clamp(min=0)
    if _not_negative(at.inputs[0]):
        return f(x, more), lambda: f(x, w.clamp(max=0))
    above, less = x.clamp(min=0), w.clamp(max=0)
    below = torch.where(x < 0, x, 0.0)  # not x - above: what a positive x is given there would cancel, but for rounding
    return f(above, more) + f(below, less), lambda: f(above, less) + f(below, more)


def epsilon_rule(epsilon: float) -> Flow:
    def flow(op: Operation, at: Operation) -> Pairs:
        size = at.output.abs()
        return [(size.div_(size + epsilon), op.output)]  # at 0 either sign: the share is 0

    return Flow(flow, f"epsilon({epsilon:g})", scales=True) if epsilon else PLAIN


def alpha_beta_rule(alpha: float, beta: float, epsilon: float, bias: bool) -> Flow:
    def flow(op: Operation, at: Operation) -> Pairs:
        (more, less), b = _parts(op, at), torch.as_tensor(_bias(at, bias), device=op.output.device)
        pairs: Pairs = [(alpha * _share(at.output, hold(more) + b.clamp(min=0), epsilon), more)]
        if beta:
            negative = less()
            pairs.append((-beta * _share(at.output, hold(negative) + b.clamp(max=0), epsilon), negative))
        return pairs

    return Flow(flow, f"alpha_beta({alpha:g}, {beta:g})", remakes=True)


def gamma_rule(gamma: float, epsilon: float, bias: bool) -> Flow:
    def flow(op: Operation, at: Operation) -> Pairs:
        (more, less), b = _parts(op, at), torch.as_tensor(_bias(at, bias), device=op.output.device)
        negative = less()
        down = gamma * (at.output < 0).to(more.dtype)
        up, down = 1 + gamma - down, 1 + down
        total = up * (hold(more) + b.clamp(min=0)) + down * (hold(negative) + b.clamp(max=0))
        share = _share(at.output, total, epsilon)
        return [(up * share, more), (down * share, negative)]

    return Flow(flow, f"gamma({gamma:g})", remakes=True)


def _ones(x: Tensor) -> Tensor:
    """Ones that have, times x, the gradient 1: shares that do not depend on x. An exact 0 here is none of the model's x, whose
    are moved, but what the model makes of it (``x - 0.5``): no multiple of it can be a share, which stays here."""
    at = hold(x)
    return 1 + (x - at) / torch.where(at == 0, math.inf, at)


def nothing(dtype: torch.dtype) -> float:
    """What an exact 0 in x counts as where its share does not depend on it: too small to be seen in any sum."""
    limits = torch.finfo(dtype)
    return float(min(limits.tiny**0.5, limits.eps / 4))


def flat_rule(op: Operation) -> Tensor:
    return op.function(_ones(op.inputs[0]), torch.ones_like(op.inputs[1]))


def wsquare_rule(op: Operation) -> Tensor:
    return op.function(_ones(op.inputs[0]), op.inputs[1] ** 2)


def box_rule(low: Any, high: Any) -> Callable[[Operation], Tensor]:
    def quotas(op: Operation) -> Tensor:
        x, w = op.inputs[:2]
        ones, f = _ones(x), op.function
        found = f(ones * hold(x), w)
        for name, bound, part in (("low", low, w.clamp(min=0)), ("high", high, w.clamp(max=0))):
            if isinstance(bound, Tensor) and not broadcasts(bound.shape, x.shape):
                text = f"{name} {list(bound.shape)} does not broadcast to what the first layer is given, {list(x.shape)}"
                raise complaint(ValueError, f"{text}: give each dimension that size or 1.")
            found = found - f(ones * torch.as_tensor(bound, dtype=x.dtype, device=x.device), part)
        return found

    return quotas


def first_rule(quotas: Callable[[Operation], Tensor], name: str, epsilon: float = 1e-6) -> Flow:
    def flow(op: Operation, at: Operation) -> Pairs:
        found = quotas(op)
        return [(_share(at.output, hold(found), epsilon), found)]

    return Flow(flow, name, shares=True, remakes=True)
