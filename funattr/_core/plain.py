"""Operations in plain forms: for second derivatives, and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._torch import constant, operation_spaces, show_to_modes, tracing
from .._types import in_single, map_tensors
from .attention import plain_attention
from .where import Bound
from .written import MOVES, unmoved


def unruled(func: Any, args: Any, kwargs: Any) -> Any:
    """What a mode does with an operation that it leaves alone."""
    if func is Tensor.unflatten:  # written in Python with super(), which does not trace inside a mode
        func = torch.unflatten
    return (linear_and_bias if func is F.linear and tracing() else func)(*args, **kwargs)


class PlainAttention(TorchFunctionMode):
    """Attention in plain operations: the fused kernels have no second derivative, and not all have a batching rule. And what
    else has no second derivative."""

    def __init__(self, only: str | None = None):
        super().__init__()
        self.only = only
        if tracing():
            _show()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not tracing() and func in MOVES and (moved := unmoved(func, args, kwargs)) is not None:
            return moved
        if func is F.scaled_dot_product_attention and self.only in (None, args[0].device.type if args else None):
            return plain_attention(*args, **kwargs)
        if func is F.hardsigmoid and self.only is None:
            return plain_hardsigmoid(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:  # a mode is off while it handles a call, and the attention is inside this one
                return attention_body(*args, **kwargs)
        return unruled(func, args, kwargs)


@constant
def _show() -> None:
    show_to_modes([F.hardsigmoid, *ORDERED])


#: The body of `F.multi_head_attention_forward`, which does not hand itself to the mode again.
attention_body = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda _: False},
    "multi_head_attention_forward",
    F.multi_head_attention_forward.__defaults__,
)
attention_body.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__


def plain_hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """`F.hardsigmoid`, of whose derivative torch (2.0 to 2.14) has none."""
    found = F.relu6(input + 3) / 6
    return input.copy_(found) if inplace else found


class PlainForms(PlainAttention):
    """Compiled, under vmap: plain operations for what has no batching rule there and would run sample by sample.

    And `out + shortcut` for `out += shortcut`, which vmap refuses where it maps over the shortcut alone: where `out` was just
    made, in memory of its own, and nothing has been made of it, that is the same. By all its names it is the sum from then on.
    """

    def __init__(self, ruled: bool) -> None:
        super().__init__("cpu")
        self.ruled = ruled  # a rule for linear operations is for the bias, too
        self.fresh: list[Tensor] = []
        self.sums: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tuple([self.now(t) for t in args]), {name: self.now(t) for name, t in (kwargs or {}).items()}
        args, kwargs = in_order(func, args, kwargs)
        if func is Tensor.add_ and _among(args[0], self.fresh):
            self.sums.append((args[0], torch.add(*args, **kwargs)))
            return self.sums[-1][1]
        self.fresh = [t for t in self.fresh if not _among(t, args)]
        if func is F.batch_norm:
            found = plain_batch_norm(*args, **kwargs)
        elif func is F.linear and not self.ruled:
            found = linear_and_bias(*args, **kwargs)
        else:
            found = super().__torch_function__(func, types, args, kwargs)
        if func in _FRESH:
            self.fresh = [*self.fresh[-7:], found]
        return found

    def now(self, given: Any) -> Any:
        """What a name stands for now."""
        if type(given) is list or type(given) is tuple:
            return type(given)([self.now(part) for part in given])
        for old, new in self.sums:
            if given is old:
                return new
        return given


class InOrder(TorchFunctionMode):
    """Compiled, where a vmap around maps over targets or samples."""

    def __init__(self) -> None:
        super().__init__()
        if tracing():
            _show()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return unruled(func, *in_order(func, args, kwargs or {}))


#: Kernels that ask whether the channels come last, which vmap cannot always answer.
ORDERED = {
    *(F.group_norm, torch.group_norm, torch.native_group_norm),
    *(F.interpolate, F.upsample, F.upsample_nearest, F.upsample_bilinear),
    *(kernel for name, kernel in vars(operation_spaces[0]).items() if "upsample" in name),
}


def in_order(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, with the channels of what is `ORDERED` where they are in the shape."""
    if func not in ORDERED or not (args or "input" in kwargs):
        return args, kwargs
    return ((args[0].contiguous(), *args[1:]), kwargs) if args else ((), {**kwargs, "input": kwargs["input"].contiguous()})


def linear_and_bias(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As two operations: as one torch reads the size of the batch as a number, under vmap, and fails if it is a symbol."""
    found = F.linear(input, weight)
    return found if bias is None else found + bias


def _among(value: object, others: Sequence[object]) -> bool:
    return any(value is other for other in others)


def in_plain_forms(bound: Bound) -> Bound:
    """The model under `PlainForms`, in each of its passes, where it is being compiled."""

    def run(*args: Any, **kwargs: Any) -> Any:
        forms = PlainForms(bound.rules is not None)
        with forms:
            return map_tensors(forms.now, bound.call(*args, **kwargs))

    return bound._replace(call=run) if tracing() else bound


#: Operations whose result is in memory of its own.
_FRESH = {F.conv1d, F.conv2d, F.conv3d, F.linear, F.batch_norm, F.layer_norm, torch.matmul}


def plain_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm, in eval mode as a scale and a shift, with the arguments of `F.batch_norm`."""
    if training or running_mean is None or running_var is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    running_mean, running_var = in_single(running_mean), in_single(running_var)  # and so all that is made of these
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    shape = [1, -1, *[1] * (input.dim() - 2)]
    return (input * scale.reshape(shape) + shift.reshape(shape)).to(input.dtype)
