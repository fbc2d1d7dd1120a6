"""How the backward pass flows: rules for single operations, as function modes around a forward pass.

A mode sees ``nn.ReLU``, ``F.relu``, ``torch.relu`` and ``x.relu_()`` alike, wherever the model calls them, needs no
hooks, works under vmap, and compiles into the one graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._core.checks import may_read
from .._core.plain import unruled
from .._torch import (
    as_recorded,
    autograd_function,
    current_grad_level,
    edge_of,
    is_view,
    kept_whole,
    nodes_before,
    times_written,
    tracing,
    transforms_active,
)
from .._words import complaint
from .spelled import EXPORTED, SWITCHED, Entry, by_function, exported, placed, told


@autograd_function
class _Rectify(torch.autograd.Function):
    """ReLU with a rule for its backward pass, for gradients of one level only.

    Differentiated once more (``create_graph=True``), the values that the rule's gradient was made of vary as ReLU says,
    not as the rule says: so the rule holds at the grad level of the attribution, and outer levels see a plain ReLU.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, guided: bool, level: int, in_place: bool) -> Tensor:
        return torch.relu_(x) if in_place else torch.relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.guided, level, in_place = inputs
        ctx.ruled = current_grad_level() == level
        ctx.set_materialize_grads(False)  # what hands on no gradient (quantised operations) is not to pass for one of zeros
        if in_place:
            ctx.mark_dirty(x)
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        if gradient is None:
            return None, None, None, None
        if ctx.ruled:
            gradient = torch.relu(gradient)
            if not ctx.guided:
                return gradient, None, None, None
        return torch.ops.aten.threshold_backward(gradient, y, 0), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *constant: None) -> Any:
        return torch.ops.aten.threshold_backward(tangent, *ctx.saved_tensors, 0)


def _rectified(x: Tensor, guided: bool, in_place: bool) -> Tensor:
    if in_place and (tracing() or transforms_active() or is_view(x)):  # there, writing to an input is refused
        return x.copy_(_rectified(x, guided, False))
    return _Rectify.apply(x, guided, current_grad_level(), in_place)  # type: ignore[no-any-return, no-untyped-call]  # torch has no types for apply


def guided_relu(x: Tensor, in_place: bool) -> Tensor:
    """Positive gradients at positive outputs: ``relu(g) * (y > 0)``."""
    return _rectified(x, True, in_place)


def deconv_relu(x: Tensor, in_place: bool) -> Tensor:
    """Positive gradients, wherever they go: ``relu(g)``."""
    return _rectified(x, False, in_place)


class ReluRule(TorchFunctionMode):
    """Gives every ReLU of a forward pass another backward; notes in `fired` that it met one.

    `fired` is the caller's list: an attribute of the mode could not be read after it exits in a compiled function.
    """

    def __init__(self, rule: Callable[[Tensor, bool], Tensor], fired: list[bool], unmet: list[str]):
        super().__init__()
        self.rule = rule
        self.fired = fired
        self.unmet = unmet  # likewise: what the graph shows, and no mode was told of
        self.signs: list[tuple[Tensor, Tensor, bool, int]] = []  # masks, of what they say where it is positive, or where not

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = self.seen(func, args, kwargs or {})
        return unruled(func, args, kwargs or {}) if found is None else found[0]

    def seen(self, func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any] | None:
        """What becomes of an operation that is a ReLU; None of one that is none, of which is noted what masks it makes."""
        if func is torch.rnn_relu or func is torch.rnn_relu_cell:
            text = "nn.RNN(nonlinearity='relu') runs its ReLU inside one fused operation, where a rule cannot reach."
            raise complaint(ValueError, text)
        if func in SPELLED:
            entry: Entry | None = SPELLED[func]
        else:
            entry = exported(KINDS, func) if not tracing() and isinstance(func, EXPORTED) else None
        if entry is None:
            if tracing() and isinstance(func, FunctionType) and kept_whole(func):
                self.unmet.append(told(func))
            return None
        placed_args, rest = placed(entry.order, args, kwargs) if kwargs else (args, kwargs)
        found = entry.rule(self, *placed_args, **rest)
        if found is None:
            return None
        if isinstance(found, list):  # of what the result says, as a mask
            y = unruled(func, args, kwargs)
            self.signs += [(y, *said) for said in found]
            return (y,)
        x, sure = found
        self.fired.append(True)
        if sure is not True:
            return (torch.where(sure, self.rule(x, False), unruled(func, args, kwargs)),)
        return (self._ruled(x, args[0] if args else x, in_place(func, entry, args, kwargs)),)

    def look(self, scores: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        """Notes ReLUs between these that left torch's own backward pass: what this mode meets leaves another."""
        ends = {edge_of(as_recorded(t)).node for t in leaves}
        names = {node.name() for node in nodes_before((as_recorded(t).grad_fn for t in scores), ends)}
        self.unmet += [name for name in names if name.startswith("ReluBackward") or "torch::jit" in name]

    def _ruled(self, x: Tensor, target: Tensor, in_place: bool) -> Tensor:
        return target.copy_(self.rule(x, False)) if in_place and target is not x else self.rule(x, in_place)

    def chosen(self, mask: Any, x: Any, positive: bool) -> bool:
        """Whether `mask` says where `x` is positive (or where it is not)."""
        return any(
            mask is m and x is t and positive is sign and times_written(t) == version for m, t, sign, version in self.signs
        )


def in_place(func: Any, entry: Entry, args: Any, kwargs: dict[str, Any]) -> bool:
    at = SWITCHED.get(func, len(args))
    return entry.in_place or bool(kwargs.get("inplace", args[at] if len(args) > at else False))


# What a call is a ReLU of, and whether it is, which may be a tensor where data cannot be read; None where it is not; of a mask,
# a list. A function of the mode and of the call's arguments.


def _zero(t: Any) -> Any:
    if not isinstance(t, Tensor):
        return isinstance(t, (int, float)) and t == 0
    if t.requires_grad:
        return False
    zero = (t == 0).all()
    return bool(zero) if may_read() else zero


def _relu(mode: ReluRule, x: Tensor, *inplace: bool, **named: bool) -> Any:
    return x, True


def _clamp(mode: ReluRule, x: Tensor, min: Any = None, max: Any = None) -> Any:
    return (x, True) if max in (None, math.inf) and not isinstance(min, Tensor) and min == 0 else None


def _threshold(mode: ReluRule, x: Tensor, threshold: Any = None, value: Any = None, *inplace: bool, **named: bool) -> Any:
    return (x, True) if threshold == 0 and value == 0 else None


def _leaky(mode: ReluRule, x: Tensor, negative_slope: float = 0.01, *inplace: bool, **named: bool) -> Any:
    return (x, True) if negative_slope == 0 else None


def _hardtanh(mode: ReluRule, x: Tensor, min_val: float = -1.0, max_val: float = 1.0, *inplace: bool, **named: bool) -> Any:
    return _clamp(mode, x, min_val, max_val)


def _larger(mode: ReluRule, x: Tensor, other: Any = None, *rest: Any, **named: Any) -> Any:
    if not isinstance(other, Tensor) or not x.is_floating_point():
        return None
    x, other = torch.broadcast_tensors(x, other)
    first, second = _zero(other), _zero(x)
    if first is False or second is False or first is True or second is True:
        return (x, first) if first is not False and second is not True else (other, second) if second is not False else None
    return torch.where(first, x, other), first | second


def _where(mode: ReluRule, mask: Any, x: Any = None, y: Any = None) -> Any:
    for t, other, positive in ((x, y, True), (y, x, False)):
        if mode.chosen(mask, t, positive):
            zero = _zero(other)
            return None if zero is False else (t, zero)
    return None


def _where_method(mode: ReluRule, x: Any, mask: Any = None, y: Any = None) -> Any:
    return _where(mode, mask, x, y)


def _filled(mode: ReluRule, x: Tensor, mask: Any = None, value: Any = None) -> Any:
    return _where(mode, mask, value, x)


def _masked(mode: ReluRule, x: Any, y: Any = None) -> Any:
    """``h * (h > 0)``."""
    for t, mask in ((x, y), (y, x)):
        if mode.chosen(mask, t, True):
            return t, True
    return None


# Of a mask, what it says, to be noted: of which tensor, whether where that is positive, and how often it was written to.


def _compared(positive: bool, mode: ReluRule, x: Any, other: Any = 0) -> Any:
    zero = not isinstance(other, Tensor) and other == 0
    return [(x, positive, times_written(x))] if zero and isinstance(x, Tensor) else None


def _cast(mode: ReluRule, mask: Any, *args: Any, **kwargs: Any) -> Any:
    """A mask in another dtype."""
    return [said for known, *said in mode.signs if known is mask] or None


KINDS: dict[str, Callable[..., Any]] = {
    "relu": _relu,
    **dict.fromkeys(("clamp", "clip", "clamp_min"), _clamp),
    "threshold": _threshold,
    "leaky_relu": _leaky,
    "hardtanh": _hardtanh,
    **dict.fromkeys(("maximum", "fmax", "max"), _larger),
    "where": _where,
    "masked_fill": _filled,
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), _masked),
    **dict.fromkeys(("gt", "ge", "greater", "greater_equal", "__gt__", "__ge__"), partial(_compared, True)),
    **dict.fromkeys(("lt", "le", "less", "less_equal", "__lt__", "__le__"), partial(_compared, False)),
    **dict.fromkeys(("to", "type", "type_as", "float", "double", "half", "bfloat16"), _cast),
}
#: function -> what it is, and how it is called.
SPELLED = {
    **by_function(KINDS),
    Tensor.where: Entry(_where_method, Tensor.where, False, ["input", "condition", "other"], "where"),
}
