"""DeepLIFT's rules for what compares elements with each other: softmax, maxima, and a choice between two tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._core.checks import anywhere, may_read
from ..._types import attributable
from ..spelled import counterpart, name_in_torch
from .origins import among
from .secants import EXACT, Rule, binary
from .slopes import picked, rows, scaled2
from .tape import Lift, Met


def softmax(log: bool) -> Rule:
    """``dp_i = L_i (dx_i - sum_j L_j dx_j / sum_j L_j)``, with ``L = dp / dlogp``, the logarithmic mean of p and p0."""

    def rule(lift: Lift, func: Any, x: Tensor, dim: int | None = None, dtype: Any = None, **kwargs: Any) -> Any:
        x = x if dtype is None else x.to(dtype)
        dim = x.dim() - 1 if dim is None else dim
        f = torch.log_softmax if log else torch.softmax
        met = lift.meet(x)
        if met is None:
            return f(x, dim)
        with lift.constants():
            a, b = lift.ends(met[0])
            p, p0 = torch.log_softmax(a, dim), torch.log_softmax(b, dim)
            mean = log_mean(p, p0).movedim(dim, -1)
            value = (p if log and a is met[0].own else f(met[0].own, dim)).movedim(dim, -1)
            total = mean.sum(-1, keepdim=True)
        return rows(x.movedim(dim, -1), None if log else mean, mean, total, value).movedim(-1, dim)

    return rule


def log_mean(p: Tensor, q: Tensor) -> Tensor:
    """``(e^p - e^q) / (p - q)``, without cancellation; 0 where both are -inf (masked)."""
    return torch.maximum(p, q).exp() * falls(p, q)


def falls(p: Tensor, q: Tensor) -> Tensor:
    """``(1 - e^-|p - q|) / |p - q|``."""
    gap = (p - q).abs_().nan_to_num_(0.0, 0.0, 0.0).clamp_min_(torch.finfo(p.dtype).eps).neg_()
    return torch.expm1(gap) / gap


def logsumexp(lift: Lift, func: Any, x: Tensor, dim: Any, keepdim: bool = False) -> Any:
    dims = [dim] if isinstance(dim, int) else list(dim)
    flat = _as_last(x, dims)
    best = flat.detach().argmax(-1, keepdim=True)  # there, x is not -inf
    logs = softmax(True)(lift, torch.log_softmax, flat, -1)
    y = (flat.gather(-1, best) - logs.gather(-1, best)).squeeze(-1)
    return _put_back(y, x, dims) if keepdim else y


def _as_last(x: Tensor, dims: list[int]) -> Tensor:
    """With these dimensions as one, the last."""
    return x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))


def _put_back(y: Tensor, x: Tensor, dims: list[int]) -> Tensor:
    """What has lost these dimensions of `x`, with 1 of each."""
    for d in sorted(d % x.dim() for d in dims if x.dim()):  # a number has none, whatever is said
        y = y.unsqueeze(d)
    return y


def larger_side(lift: Lift, x: Tensor, pool: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | None:
    """A maximum over groups of the last dimension: ``pool(x)`` gives values and indices into it.

    The slope goes to one element of each group, the maximum at x or at the baseline, whichever is larger: there
    ``0 <= (y - y0) / (x_i - x0_i) <= 1``. Groups may overlap.
    """
    met = lift.meet(x)
    if met is None:
        return None
    with lift.constants():
        a, b = lift.ends(met[0])
        (y, i), (y0, j) = pool(a), pool(b)
        index = torch.where(y >= y0, i, j)
        dx = (a - b).gather(-1, index)
        same = dx == 0
        m = torch.where(same, torch.ones_like(dx), (y - y0) / dx.masked_fill(same, 1.0))
    return picked(x, index, m, y), i


def max_pool(n: int, adaptive: bool, indices: bool = False) -> Rule:
    """Max pooling over `n` dimensions; overlapping windows accumulate."""
    pool = getattr(F, f"{'adaptive_' if adaptive else ''}max_pool{n}d")

    def rule(lift: Lift, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        size = 1 if adaptive else 5
        given = kwargs.pop("return_indices", False) or (len(args) > size and args[size]) or indices
        given = given or (adaptive and func is not pool)  # torch.adaptive_max_pool1d, as a graph has it, always gives both
        shapes: list[Any] = []

        def flat_pool(flat: Tensor) -> tuple[Tensor, Tensor]:
            y, i = pool(flat.reshape(*flat.shape[:-1], *x.shape[-n:]), *args[:size], return_indices=True, **kwargs)
            shapes.append(y.shape[-n:])
            return y.flatten(-n), i.flatten(-n)

        found = larger_side(lift, x.flatten(-n), flat_pool)
        if found is None:
            return pool(x, *args[:size], return_indices=given, **kwargs)
        y, i = (t.reshape(*x.shape[:-n], *shapes[0]) for t in found)
        return (y, i) if given else y

    return rule


def extremum(sign: int, plain: bool) -> Rule:
    """max and min (`plain`: amax and amin) of all of a tensor, over a dimension, or of two tensors."""

    def rule(lift: Lift, func: Any, x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        dim = kwargs.pop("other", dim)
        if isinstance(dim, Tensor):
            return binary(EXACT)(lift, torch.maximum if sign > 0 else torch.minimum, x, dim)
        if not attributable(x):
            return func(x, dim, keepdim) if dim is not None else func(x)
        whole = dim is None or (isinstance(dim, (tuple, list)) and not dim)
        dims = list(range(x.dim())) if whole else [dim] if isinstance(dim, int) else list(dim)

        def pool(t: Tensor) -> tuple[Tensor, Tensor]:
            y, i = t.max(-1, keepdim=True) if sign > 0 else t.min(-1, keepdim=True)
            return y, i

        found = larger_side(lift, _as_last(x, dims), pool)
        if found is None:
            return func(x, dim, keepdim) if dim is not None else func(x)
        y, i = found[0].squeeze(-1), found[1].squeeze(-1)
        if keepdim:
            y, i = _put_back(y, x, dims), _put_back(i, x, dims)
        if whole or plain:
            return y
        return (torch.return_types.max if sign > 0 else torch.return_types.min)((y, i))

    return rule


def where(lift: Lift, func: Any, condition: Tensor, *branches: Any) -> Any:
    """A branch is linear while the condition stays. Where it differs between x and the baseline, the step from one branch to
    the other is divided among the two in proportion to how they moved."""
    if len(branches) != 2:
        return func(condition, *branches)
    like = next((t for t in branches if attributable(t)), None)
    if like is None:
        return func(condition, *branches)
    x, y = (t if isinstance(t, Tensor) else torch.full((), t, dtype=like.dtype, device=like.device) for t in branches)
    met = lift.meet(condition, x, y)
    if met is None:
        return torch.where(condition, x, y)
    with lift.constants():
        c, c0 = lift.settled(condition, met[0])
        value = torch.where(c, met[1].own, met[2].own)
        base = torch.where(c0, met[1].base, met[2].base)
        lift.infinite = lift.infinite or not may_read() or not bool((value.isfinite() & base.isfinite()).all())
        da, db, step = _shared(lift, c, c0, *met[1:])
        if not lift.infinite and anywhere((c != c0) & ~step.isfinite()):  # a mask of the largest number there is
            lift.infinite = True
            da, db, step = _shared(lift, c, c0, *met[1:])
        changed = (c != c0) & torch.isfinite(step)
        mx = torch.where(changed, step * da, c.to(value.dtype))
        my = torch.where(changed, step * db, (~c).to(value.dtype))
    return scaled2(x.expand(value.shape), y.expand(value.shape), mx, my, value)


def _shared(lift: Lift, c: Tensor, c0: Tensor, x: Met, y: Met) -> tuple[Tensor, Tensor, Tensor]:
    """How the branches moved, and the step from one to the other by the square of that; not finite where it is too large."""
    (a, a0), (b, b0) = lift.ends(x), lift.ends(y)
    da, db = a - a0, b - b0
    norm = da * da + db * db
    step = (torch.where(c, a, b) - torch.where(c0, a0, b0)) / norm.masked_fill(norm == 0, 1.0)
    return da, db, torch.where(norm.isfinite(), step, norm)


def masked_fill(lift: Lift, func: Any, x: Tensor, mask: Tensor, value: Any) -> Any:
    return where(lift, torch.where, mask, value, x) if attributable(x) else func(x, mask, value)


def indexed(lift: Lift, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Linear, as long as the indices stay. One number for all that a mask selects is what fills it."""
    mask = _mask_of(func, *args) if len(args) == 3 and not kwargs else None
    if mask is not None:
        x, value = args[0], args[2]
        with lift:  # which follows where it comes from
            mask = mask if mask.dim() == x.dim() else mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim()))
        if func is not Tensor.__setitem__:
            return masked_fill(lift, torch.masked_fill, x, mask, value)
        lift.written(x, masked_fill(lift, torch.masked_fill, lift.copied(x), mask, value))
        return None
    given = among((*args, *kwargs.values()))
    choices = [t for t in given if not attributable(t)]
    if choices and attributable(args[0]) and not lift.constant(args[0]):
        lift.differ(*choices, of=[t for t in given if attributable(t)])
    return lift.scale(func(*args, **kwargs), args[0])


def _mask_of(func: Any, x: Any, index: Any, value: Any) -> Tensor | None:
    """The mask, of the first dimensions of `x`, where one number is written to what it selects."""
    if func is not Tensor.__setitem__ and name_in_torch(counterpart(func)) != "index_put":
        return None
    mask = index[0] if isinstance(index, (tuple, list)) and len(index) == 1 else index
    if not (attributable(x) and isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.dim()):
        return None
    one = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
    return mask if one else None
