"""What flows in the place of an operation: the rules of LRP, AttnLRP and kin, as expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._core.checks import may_read
from ..._torch import tracing, transforms_active
from .hold import hold
from .operation import Flow, Operation

Rules = dict[Any, Callable[..., Any]]


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """`z`, away from 0 by `epsilon`, on its own side; 0 counts as positive."""
    return z + torch.where(z < 0, -epsilon, epsilon).to(z.dtype) if epsilon else z


def _share(z: Tensor, total: Tensor, epsilon: float) -> Tensor:
    """``z / total``, a constant; 0 where both are."""
    z, total = hold(z), stabilised(hold(total), epsilon)
    return z / total if epsilon else torch.where(total == 0, torch.zeros_like(z), z / torch.where(total == 0, 1.0, total))


# What flows in the place of an operation. `op.output` and the inputs carry the graph.


def _plain(op: Operation) -> Tensor:
    return op.output


def _cut(op: Operation) -> Tensor:
    return hold(op.output)


def _activation(op: Operation) -> Tensor:
    z, at = op.inputs[0], hold(op.inputs[0])
    zero = at == 0
    if may_read() and not bool(zero.any()):
        return z * (hold(op.output) / at)
    slope = torch.func.vjp(op.function, at)[1](torch.ones_like(op.output))[0]
    return z * torch.where(zero, slope, hold(op.output) / torch.where(zero, 1.0, at))


def _half(op: Operation) -> Tensor:
    return op.output / 2


def _normalization(op: Operation) -> Tensor:
    constant = getattr(op.function, "constant", None)  # of what is made with statistics, the same with these held
    return hold(op.output) if constant is None else constant(*op.inputs)


PLAIN = Flow(_plain, "gradient", plain=True)
CUT = Flow(_cut, "cut")
ACTIVATION = Flow(_activation, "activation")
HALF = Flow(_half, "half", both=True)
GATE = Flow(_half, "gate", both=True)  # the mode knows which of the two is one
NORMALIZATION = Flow(_normalization, "normalization", both=True)
BASE: Rules = {"activation": ACTIVATION, "product": HALF, "softmax": PLAIN, "normalization": NORMALIZATION}


def _bias(op: Operation) -> Tensor | None:
    """The bias in the shape of the output, where the operation has one."""
    if len(op.inputs) < 3:
        return None
    weight, bias = op.inputs[1:3]
    return bias.reshape(-1, *[1] * (weight.dim() - 2)) if op.name.startswith("conv") else bias


def _not_negative(x: Tensor) -> bool:
    """Whether it can be seen that nothing in `x` is negative: then half of the work falls away."""
    if tracing() or transforms_active():
        return False
    try:
        return bool((x >= 0).all())
    except RuntimeError:  # somebody traces: what is in a tensor cannot be seen then
        if may_read():
            raise
        return False


def _parts(op: Operation, both: bool) -> tuple[Tensor, Tensor | None]:
    """The sums of all positive contributions, and of all negative ones."""
    (x, w), f = op.inputs[:2], op.function
    above, more, less = x.clamp(min=0), w.clamp(min=0), w.clamp(max=0)
    if _not_negative(hold(x)):
        return f(x, more), f(x, less) if both else None
    below = x - above
    return f(above, more) + f(below, less), f(above, less) + f(below, more) if both else None


def epsilon_rule(epsilon: float) -> Flow:
    if epsilon == 0:
        return PLAIN

    def flow(op: Operation) -> Tensor:
        z = hold(op.output)
        away = torch.copysign(torch.full((), epsilon, dtype=z.dtype, device=z.device), z)  # at 0 either sign: the share is 0
        return op.output * (z / (z + away))

    return Flow(flow, f"epsilon({epsilon:g})")


def alpha_beta_rule(alpha: float, beta: float, epsilon: float, bias: bool) -> Flow:
    def flow(op: Operation) -> Tensor:
        more, less = _parts(op, beta != 0)
        b = _bias(op) if bias else None
        found = alpha * more * _share(op.output, more if b is None else more + b.clamp(min=0), epsilon)
        if less is not None:
            found = found - beta * less * _share(op.output, less if b is None else less + b.clamp(max=0), epsilon)
        return found

    return Flow(flow, f"alpha_beta({alpha:g}, {beta:g})", remakes=True, through=False)


def gamma_rule(gamma: float, epsilon: float, bias: bool) -> Flow:
    def flow(op: Operation) -> Tensor:
        z, b = op.output, _bias(op)
        linear = z if b is None else z - b
        more, down = _parts(op, False)[0], hold(z) < 0
        found = linear + gamma * torch.where(down, linear - more, more)
        total = found
        if bias and b is not None:
            total = found + b + gamma * torch.where(down, b.clamp(max=0), b.clamp(min=0))
        return found * _share(z, total, epsilon)

    return Flow(flow, f"gamma({gamma:g})", remakes=True)


def _ones(x: Tensor) -> Tensor:
    """Ones that have, times x, the gradient 1: shares that do not depend on x."""
    at = hold(x)
    return 1 + (x - at) / torch.where(at == 0, nothing(at.dtype), at)


def nothing(dtype: torch.dtype) -> float:
    """What an exact 0 in x counts as where its share does not depend on it: too small to be seen in any sum."""
    return float(torch.finfo(dtype).tiny ** 0.5)


def flat_rule(op: Operation) -> Tensor:
    return op.function(_ones(op.inputs[0]), torch.ones_like(op.inputs[1]))


def wsquare_rule(op: Operation) -> Tensor:
    return op.function(_ones(op.inputs[0]), op.inputs[1] ** 2)


def box_rule(low: Any, high: Any) -> Callable[[Operation], Tensor]:
    def flow(op: Operation) -> Tensor:
        x, w = op.inputs[:2]
        ones, f = _ones(x), op.function
        found = f(ones * hold(x), w)
        for bound, part in ((low, w.clamp(min=0)), (high, w.clamp(max=0))):
            found = found - f(ones * torch.as_tensor(bound, dtype=x.dtype, device=x.device), part)
        return found

    return flow


def first_rule(quotas: Callable[[Operation], Tensor], name: str, epsilon: float = 1e-6) -> Flow:
    def flow(op: Operation) -> Tensor:
        found = quotas(op)
        return found * _share(op.output, found, epsilon)

    return Flow(flow, name, shares=True, remakes=True, through=False)
