"""What a call is a ReLU of, and whether it is, which may be a tensor where data cannot be read; None where it is not; of a
mask, what it says. Functions of the mode, which knows masks and copies, and of the call's arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import may_read
from .._torch import times_written
from .spelled import Entry, by_function


def _zero(t: Any) -> Any:
    if not isinstance(t, Tensor):
        return isinstance(t, (int, float)) and t == 0
    if t.requires_grad:
        return False
    zero = (t == 0).all()
    return bool(zero) if may_read() else zero


def _relu(mode: Any, x: Tensor, *inplace: bool, **named: bool) -> Any:
    return x, True


def _clamp(mode: Any, x: Tensor, min: Any = None, max: Any = None) -> Any:
    bound = max if max is None or isinstance(max, (int, float)) else math.nan
    if not x.is_floating_point() or not (bound is None or bound >= torch.finfo(x.dtype).max):
        return None
    zero = _zero(min)
    return None if zero is False else (x, zero)


def _threshold(mode: Any, x: Tensor, threshold: Any = None, value: Any = None, *inplace: bool, **named: bool) -> Any:
    return (x, True) if threshold == 0 and value == 0 else None


def _leaky(mode: Any, x: Tensor, negative_slope: float = 0.01, *inplace: bool, **named: bool) -> Any:
    return (x, True) if negative_slope == 0 else None


def _prelu(mode: Any, x: Tensor, weight: Any = None) -> Any:
    zero = _zero(weight.detach() if isinstance(weight, nn.Parameter) else weight)
    return None if zero is False else (x, zero)


def _rrelu(mode: Any, x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *rest: bool, **named: Any) -> Any:
    return (x, True) if lower == upper == 0 else None


def _elu(mode: Any, x: Tensor, alpha: float = 1.0, *rest: Any, **named: Any) -> Any:
    return (x, True) if alpha == 0 and all(other in (0, 1) for other in rest) else None


def _hardtanh(mode: Any, x: Tensor, min_val: float = -1.0, max_val: float = 1.0, *inplace: bool, **named: bool) -> Any:
    return _clamp(mode, x, min_val, max_val)


def _larger(mode: Any, x: Tensor, other: Any = None, *rest: Any, **named: Any) -> Any:
    if not isinstance(other, Tensor) or not x.is_floating_point():
        return None
    x, other = torch.broadcast_tensors(x, other)
    first, second = _zero(other), _zero(x)
    if first is False or second is False or first is True or second is True:
        return (x, first) if first is not False and second is not True else (other, second) if second is not False else None
    return torch.where(first, x, other), first | second


def _where(mode: Any, mask: Any, x: Any = None, y: Any = None) -> Any:
    for t, other, positive in ((x, y, True), (y, x, False)):
        if (sure := mode.chosen(mask, t, positive)) is not False:
            zero = _zero(other)
            return None if zero is False else (t, zero if sure is True else sure if zero is True else zero & sure)
    return None


def _where_method(mode: Any, x: Any, mask: Any = None, y: Any = None) -> Any:
    return _where(mode, mask, x, y)


def _filled(mode: Any, x: Tensor, mask: Any = None, value: Any = None) -> Any:
    return _where(mode, mask, value, x)


def _put(mode: Any, x: Tensor, index: Any = None, value: Any = None, *accumulate: Any) -> Any:
    """``h[h < 0] = 0``."""
    mask = index[0] if isinstance(index, (tuple, list)) and len(index) == 1 else index
    return _where(mode, mask, value, x) if isinstance(mask, Tensor) and not any(accumulate) else None


def _masked(mode: Any, x: Any, y: Any = None) -> Any:
    """``h * (h > 0)``."""
    for t, mask in ((x, y), (y, x)):
        if (sure := mode.chosen(mask, t, True)) is not False:
            return t, sure
    return None


# Of a mask, what it says, to be noted: of which tensor, whether where that is positive, and how often it was written to.


def _compared(positive: bool, mode: Any, x: Any, other: Any = 0) -> Any:
    both = [(t, sign, _zero(zero)) for t, zero, sign in ((x, other, positive), (other, x, not positive)) if _is_number(t)]
    return [(t, sign, times_written(t), sure) for t, sign, sure in both if sure is not False] or None


def _is_number(t: Any) -> bool:
    return isinstance(t, Tensor) and t.is_floating_point()


def _negated(mode: Any, mask: Any) -> Any:
    return [(t, not sign, *said) for known, t, sign, *said in mode.signs if known is mask] or None


def _cast(mode: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
    """A mask in another dtype."""
    return [said for known, *said in mode.signs if known is mask] or None


COPY: Any = object()


def _copied(mode: Any, x: Any, **named: Any) -> Any:
    return COPY


KINDS: dict[str, Callable[..., Any]] = {
    "relu": _relu,
    **dict.fromkeys(("clamp", "clip", "clamp_min"), _clamp),
    "threshold": _threshold,
    "leaky_relu": _leaky,
    "prelu": _prelu,
    "rrelu": _rrelu,
    "elu": _elu,
    "hardtanh": _hardtanh,
    **dict.fromkeys(("maximum", "fmax", "max"), _larger),
    "where": _where,
    "masked_fill": _filled,
    **dict.fromkeys(("index_put", "__setitem__"), _put),
    **dict.fromkeys(("mul", "multiply", "__mul__", "__rmul__"), _masked),
    **dict.fromkeys(("gt", "ge", "greater", "greater_equal", "__gt__", "__ge__"), partial(_compared, True)),
    **dict.fromkeys(("lt", "le", "less", "less_equal", "__lt__", "__le__"), partial(_compared, False)),
    **dict.fromkeys(("logical_not", "bitwise_not", "__invert__"), _negated),
    **dict.fromkeys(("detach", "clone"), _copied),
    **dict.fromkeys(("to", "type", "type_as", "float", "double", "half", "bfloat16"), _cast),
}
#: function -> what it is, and how it is called.
SPELLED = {
    **by_function(KINDS),
    Tensor.where: Entry(_where_method, Tensor.where, False, ["input", "condition", "other"], "where"),
}
