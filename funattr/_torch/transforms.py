"""The transforms of torch.func around what runs here: which they are, what they map over, and those entered by hand."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._C import _functorch
from torch._C._functorch import TransformType, maybe_get_level, peek_interpreter_stack
from torch._C._functorch import _add_batch_dim as add_batch_dim

# torch's warning that an operation has no batching rule: nothing a user can do about it where the vmap is ours, and
# warnings.catch_warnings is not thread-safe. (There is no getter; True is the default.)
from torch._C._functorch import _set_vmap_fallback_warning_enabled as set_vmap_fallback_warning  # type: ignore[attr-defined]  # private: its stub leaves it out
from torch._functorch import eager_transforms
from torch._functorch.eager_transforms import enable_inplace_requires_grad


def transforms_active() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp, ...) is running in this thread."""
    return peek_interpreter_stack() is not None


def depth() -> int:
    """How many transforms run, one inside the other, in this thread."""
    level = peek_interpreter_stack()
    return 0 if level is None else level.level()


def _levels_one_by_one() -> list[Any]:
    """For torch 2.0, which shows the innermost level only: they are taken off and put back."""
    levels: list[Any] = []
    taken: list[Any] = []
    try:
        while transforms_active():
            levels.append(peek_interpreter_stack())
            taken.append(_functorch.pop_dynamic_layer_stack())
    finally:
        for layer in reversed(taken):
            _functorch.push_dynamic_layer_stack(layer)
    return levels[::-1]


@contextlib.contextmanager
def _grad_level() -> Iterator[int]:
    """For torch 2.0."""
    level = _functorch._grad_increment_nesting()
    try:
        yield level
    finally:
        _functorch._grad_decrement_nesting()


_levels: Callable[[], Any] = getattr(_functorch, "get_interpreter_stack", _levels_one_by_one)


grad_level = getattr(eager_transforms, "grad_increment_nesting", _grad_level)


def only_vmap_runs() -> bool:
    """Whether one vmap runs, and no transform around it: below it, the fused kernels are at home."""
    levels = _levels() or []
    return len(levels) == 1 and bool(levels[0].key() == TransformType.Vmap)


def vmap_runs() -> bool:
    """Whether a vmap is among the transforms that run in this thread: data cannot be read then."""
    return any(level.key() == TransformType.Vmap for level in _levels() or [])


def vmapped_over() -> int:
    """How many copies of what runs now the vmaps around it make."""
    vmaps = [level for level in _levels() or [] if level.key() == TransformType.Vmap]
    return math.prod(_functorch.CVmapInterpreterPtr(level).batchSize() for level in vmaps)


def plain_data(value: torch.Tensor) -> torch.Tensor:
    """`value` for all that transforms map it over: data that may be read."""
    while is_wrapped(value):
        value = _functorch.get_unwrapped(value)
    return value


def mapped_without(value: torch.Tensor, others: Iterable[torch.Tensor]) -> bool:
    """Whether a vmap maps over `value` and over none of the `others`."""
    return bool(_mapped_by(value).difference(*map(_mapped_by, others)))


def _mapped_by(value: torch.Tensor) -> set[int]:
    found = set()
    while is_wrapped(value):
        if _functorch.is_batchedtensor(value):
            found.add(maybe_get_level(value))
        value = _functorch.get_unwrapped(value)
    return found


def is_mapped(value: torch.Tensor | None) -> bool:
    """Whether the vmap that runs now maps over `value`."""
    level = peek_interpreter_stack()
    return value is not None and level is not None and maybe_get_level(value) == level.level()


def below_vmap(function: Callable[..., Iterable[torch.Tensor]], *args: torch.Tensor) -> list[torch.Tensor]:
    """What `function` returns for tensors as they are below the vmap that runs, where it maps over what comes first in them.

    Tensors that are not mapped are handed on as they are; of those that it returns all are. An autograd.Function with a vmap
    of its own does this too, and takes longer than most operations.
    """
    dims = [_functorch.maybe_get_bdim(t) if is_mapped(t) else None for t in args]
    plain = [t if dim is None else _functorch.get_unwrapped(t) for t, dim in zip(args, dims)]
    interpreter = peek_interpreter_stack()
    assert interpreter is not None
    level = interpreter.level()
    vmap = _functorch.pop_dynamic_layer_stack()
    try:
        found = list(function(*(t if not dim else t.movedim(dim, 0) for t, dim in zip(plain, dims))))
    finally:
        _functorch.push_dynamic_layer_stack(vmap)
    return [add_batch_dim(t, 0, level) for t in found]


def is_wrapped(value: torch.Tensor) -> bool:
    """Whether a transform stands between us and the data of `value`."""
    return maybe_get_level(value) != -1


#: Turns off torch.func's transforms: for copying plain data where one runs (torch 2.0 to 2.13: what printing a tensor uses).
without_transforms: Any = torch._C._DisableFuncTorch
if not hasattr(without_transforms, "__enter__"):  # torch 2.0: for as long as it lives

    @contextlib.contextmanager
    def without_transforms() -> Iterator[None]:
        guard = torch._C._DisableFuncTorch()
        try:
            yield
        finally:
            del guard


def current_grad_level() -> int:
    """The number of the innermost grad level; 0 where only plain autograd records."""
    return max((level.level() for level in _levels() or [] if level.key() == TransformType.Grad), default=0)


def make_leaf(value: torch.Tensor) -> torch.Tensor:
    """Turn `value`, a fresh tensor of the current grad level, into a leaf of that level."""
    with enable_inplace_requires_grad(True):
        return value.requires_grad_()


class _Quiet(AbstractContextManager[None]):
    """No warnings about missing batching rules while any thread is inside."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                set_vmap_fallback_warning(False)
            self.inside += 1

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                set_vmap_fallback_warning(True)  # torch's default; it cannot be read


quiet = _Quiet()
