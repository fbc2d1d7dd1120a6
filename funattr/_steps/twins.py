"""A batch whose rows are all the same, as one baseline for many examples is: what its rows have in common is computed once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._core.cures import raised_by_model
from .._core.kept import drawn
from .._torch import (
    Memory,
    below_vmap,
    is_mapped,
    is_plain,
    must_rise,
    only_vmap_runs,
    operation_spaces,
    plain_data,
    times_written,
    tracing,
    transforms_active,
    without_modes,
)
from .._words import is_int

T = TypeVar("T")
#: ``one_row(t)``: the first row of `t`, with the batch dimension, where all are the same; None where not, or not to be seen.
OneRow = Callable[[Tensor], "Tensor | None"]


def same_rows(count: int, run: Callable[[OneRow], T]) -> T:
    """``run(one_row)``, a pass of a model over `count` rows, of which all may be the same: what is the same is computed once.

    Operations known to treat rows alone run on one row where all rows of what they take are the same, which is seen and
    never taken for granted; their result is that row, expanded. All others get all rows. So the result is what it would be
    without, also of models that count their rows, mix them or hold something for each. Where the model writes to some rows
    of what is expanded, or stumbles over it, it runs once more, plainly; so `run` starts from scratch each time.
    """
    if not tracing() and count > 1:
        mode = _Twins(count)
        try:
            with mode:
                found = run(mode.row)
            if mode.untouched() and not drawn():  # what is expanded lies in memory otherwise, in whose order a model draws
                return found
        except (_Written, Exception) as error:  # what is wrong without it, too, comes again
            if isinstance(error, Exception) and (must_rise(error) or raised_by_model(error)):
                raise
    return run(lambda t: None)


class _Written(BaseException):
    """Something is about to be written to memory that stands for many rows. A BaseException: models catch Exception."""


class _Twins(TorchFunctionMode):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.shared: dict[int, Memory] = {}  # by address: what stands for many rows, and how often it was written to here
        self.copies: set[int] = set()  # of these, what is one memory in the model and two here: not to be written to
        self.intact = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = _kind(func)
        if kind.passes and not kwargs:
            return func(*args)
        kwargs = kwargs or {}
        where = kind.where(*args, **kwargs) if kind.where is not None and args else []
        written = bool(self.shared) and self._overwrites(kind, args, kwargs)
        # Looking costs a pass over the data, and starting over all of the model's.
        given = self._one_of_each(args, where, written or kind.costly)
        if written:
            if given is None or _memory(args[0]) in self.copies:
                raise _Written
            func(*given, **kwargs)
            return self._share(args[0], written=1)
        if given is not None and not kind.writes:
            found = func(*given, **kwargs)
            if isinstance(found, Tensor):
                with without_modes():
                    return self._share(found.expand(self.count, *[-1] * (found.dim() - 1)))
        found = func(*args, **kwargs)
        if self.shared and kind.aliases and isinstance(found, Tensor) and self._is_shared(args[0]):
            self._alias(found, args[0])
        return found

    def _one_of_each(self, args: Any, where: list[int], looks: bool) -> list[Any] | None:
        """The arguments, with one row of those that are treated alone, where all rows of each are the same."""
        given = list(args)
        for i in where:
            given[i] = self.row(args[i], looks)
            if given[i] is None:
                return None
        return given if where else None

    def _alias(self, found: Tensor, t: Tensor) -> None:
        """Note what may be a view of shared memory."""
        self._share(found)
        if _memory(found) != _memory(t):  # the rows have no memory of their own; if they had, it would be this
            self.copies |= {_memory(found), _memory(t)}

    def row(self, t: Tensor, looks: bool = True) -> Tensor | None:
        """The first row of `t`, where all are the same memory, or are seen to hold the same."""
        with without_modes():
            if t.is_nested or t.layout != torch.strided or t.dim() == 0 or t.shape[0] != self.count:
                return None
            if t.requires_grad and torch.is_grad_enabled():  # each row has a gradient of its own
                return None
            return t[0][None] if t.stride(0) == 0 or (looks and _alike(t)) else None  # not t[:1], with its stride of 0

    def untouched(self) -> bool:
        """Whether nothing has been written to shared memory unseen, by a script for one."""
        return self.intact and all(memory.as_noted for memory in self.shared.values())

    def _share(self, t: Tensor, written: int = 0) -> Tensor:
        with without_modes():
            plain = plain_data(t)
            place = plain.untyped_storage().data_ptr()
            known = self.shared.get(place)
            if known is None or known.gone:
                self.intact = self.intact and (known is None or known.as_noted)
                self.copies.discard(place)
                self.shared[place] = Memory(plain)
            elif written:
                known.noted += min(written, times_written(plain))  # 0 where there are no versions
        return t

    def _is_shared(self, t: Any) -> bool:
        """Whether `t` lies in shared memory."""
        if not isinstance(t, Tensor):
            return False
        known = self.shared.get(_memory(t))
        return known is not None and not known.gone

    def _overwrites(self, kind: _Kind, args: Any, kwargs: Any) -> bool:
        """Whether the call writes to shared memory, or could do so out of our sight."""
        if kind.writes or kwargs.get("inplace") or (kind.where is _elementwise and any(arg is True for arg in args)):
            return self._is_shared(args[0])
        return "out" in kwargs and self._is_shared(kwargs["out"])


def _memory(t: Tensor) -> int:
    with without_modes():
        return plain_data(t).untyped_storage().data_ptr()


class _Kind(NamedTuple):
    """What is known of an operation."""

    where: Where | None  # if it treats rows alone
    costly: bool
    writes: bool
    aliases: bool
    passes: bool  # called without names, it has nothing to do with rows that are the same


@functools.cache
def _kind(func: Any) -> _Kind:
    name, where = getattr(func, "__name__", ""), _ALONE.get(func)
    writes, aliases = (name.endswith("_") and not name.endswith("__")) or name in _WRITES, name in _ALIASES
    if name == "__get__":  # of an attribute
        writes = getattr(getattr(func, "__self__", None), "__name__", "") == "data"
    return _Kind(where, func in _COSTLY, writes, aliases, where is None and not writes and not aliases)


def _alike(t: Tensor) -> bool:
    """Whether the rows of `t` are the same: never so where that cannot be seen."""
    if transforms_active():
        if not only_vmap_runs():
            return False
        if is_mapped(t):
            seen: list[bool] = []
            below_vmap(lambda whole: seen.append(_equal(whole.movedim(1, 0))) or [], t)  # type: ignore[func-returns-value]  # append is called for what it does, and `or []` is the list asked for
            return seen[0]
    return _equal(t)


def _equal(t: Tensor) -> bool:
    if not is_plain(t):
        return False
    try:
        return torch.equal(t[1:], t[:-1])
    except RuntimeError:  # somebody traces the operations of this thread, and there is no data
        return False


_WRITERS = """
    __setitem__ __iadd__ __isub__ __imul__ __itruediv__ __idiv__ __ifloordiv__ __imod__ __ipow__ __iand__ __ior__ __ixor__
    __imatmul__ __ilshift__ __irshift__ iadd isub imul itruediv numpy __array__ data_ptr untyped_storage storage __dlpack__
"""
_WRITES = {*_WRITERS.split()}
_SAME_MEMORY = """
    detach alias reshape reshape_as flatten unflatten ravel contiguous to type type_as float double half bfloat16 view view_as
"""
_ALIASES = {*_SAME_MEMORY.split()}

# Which arguments of an operation, by position, have a row for each row of its result, and are treated alone: a function of
# its arguments, none where that is not so.

Where = Callable[..., list[int]]


def _of(dims: int, more: bool = False) -> Where:
    """The first argument, of so many dimensions; the others are weights and numbers."""
    return lambda x, *args, **kwargs: [0] if x.dim() == dims or (more and x.dim() > dims) else []


def _elementwise(x: Tensor, *args: Any, **kwargs: Any) -> list[int]:
    return [] if any(isinstance(t, Tensor) for t in (*args, *kwargs.values())) else [0]


def _broadcast(x: Any, y: Any = None, *args: Any, **kwargs: Any) -> list[int]:
    """Of two that are broadcast, those that have the first dimension of the result, and not with size 1."""
    if y is None or "out" in kwargs:
        return []
    dims = max((t.dim() for t in (x, y) if isinstance(t, Tensor)), default=0)
    return [i for i, t in enumerate((x, y)) if isinstance(t, Tensor) and 0 < t.dim() == dims and t.shape[0] != 1]


def _matmul(x: Tensor, y: Any = None, **kwargs: Any) -> list[int]:
    if y is None or kwargs:
        return []
    return _broadcast(x, y) if max(x.dim(), y.dim()) > 2 else [0] if x.dim() == 2 else []


def _reduced(x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> list[int]:
    dims = [dim] if is_int(dim) else dim if isinstance(dim, (tuple, list)) else []
    return [0] if dims and x.dim() and not any(d % x.dim() == 0 for d in dims) else []


def _normed(x: Tensor, shape: Any = None, *args: Any, **kwargs: Any) -> list[int]:
    return [0] if shape is not None and x.dim() > len(shape) else []


def _batch_norm(
    x: Tensor, mean: Any = None, var: Any = None, w: Any = None, b: Any = None, *rest: Any, **named: Any
) -> list[int]:
    training = rest[0] if rest else named.get("training")
    return [] if training or mean is None or var is None else [0]


def _running_norm(
    x: Tensor, w: Any = None, b: Any = None, mean: Any = None, var: Any = None, *rest: Any, **named: Any
) -> list[int]:
    return _batch_norm(x, mean, var, w, b, *rest, **named)


def _attention(
    q: Tensor, k: Any = None, v: Any = None, mask: Any = None, dropout: float = 0.0, *rest: Any, **named: Any
) -> list[int]:
    mask, dropout = named.get("attn_mask", mask), named.get("dropout_p", dropout)
    if k is None or v is None or dropout or {q.dim(), k.dim(), v.dim()} != {4}:
        return []
    return [0, 1, 2] if mask is None or mask.dim() < 4 or mask.shape[0] == 1 else []


_ELEMENTWISE = """
    relu relu6 gelu silu mish tanh sigmoid elu selu celu softplus leaky_relu hardtanh hardswish hardsigmoid exp log sqrt rsqrt
    square abs neg clamp clamp_min clamp_max pow __pow__ reciprocal erf sin cos
"""
_BROADCAST = """
    add sub mul div true_divide __add__ __radd__ __sub__ __mul__ __rmul__ __truediv__
"""
_SPACES = (torch, Tensor, F, *operation_spaces)


def _all(names: str, where: Where) -> dict[Any, Where]:
    found = [getattr(space, name, None) for name in names.split() for space in _SPACES]
    return {func: where for func in found if func is not None}


_COSTLY: dict[Any, Where] = {
    **{key: where for n in (1, 2, 3) for key, where in _all(f"conv{n}d conv_transpose{n}d", _of(n + 2)).items()},
    **_all("linear", _of(2, more=True)),
    **_all("matmul __matmul__ bmm mm", _matmul),
    **_all("scaled_dot_product_attention", _attention),
}
_ALONE: dict[Any, Where] = {
    **_COSTLY,
    **_all(_ELEMENTWISE + " ".join(f"{name}_" for name in _ELEMENTWISE.split()), _elementwise),
    **_all(_BROADCAST + "copy_ add_ sub_ mul_ div_ __iadd__ __isub__ __imul__ __itruediv__", _broadcast),
    **_all("layer_norm rms_norm", _normed),
    **_all("mean sum amax softmax log_softmax", _reduced),
    F.batch_norm: _batch_norm,
    torch.batch_norm: _running_norm,
    **_all("group_norm", _of(2, more=True)),
    **{
        func: where
        for n in (1, 2, 3)
        for func, where in _all(f"max_pool{n}d avg_pool{n}d adaptive_avg_pool{n}d adaptive_max_pool{n}d", _of(n + 2)).items()
    },
}
