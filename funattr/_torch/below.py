"""What runs below the transforms of torch.func, where data may be read and kernels are fused; and a vmap entered late."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._C import _functorch
from torch._C._functorch import TransformType, maybe_get_level, peek_interpreter_stack
from torch._C._functorch import _add_batch_dim as add_batch_dim

from .traces import observed_by_dispatch_mode
from .transforms import depth, levels, out_of_levels, transforms_active


def below_vmap(function: Callable[..., Iterable[torch.Tensor]], *args: torch.Tensor, levels: int = 1) -> list[torch.Tensor]:
    """What `function` returns for tensors as they are below the vmap that runs, where it maps over what comes first in them.

    Tensors that are not mapped are handed on as they are; if one was mapped, all are that it returns. An autograd.Function with
    a vmap of its own does this too, and takes longer than most operations. Of several `levels` the vmap is the outermost: for
    what is a constant to the others.
    """
    taken: list[Any] = []
    try:
        while len(taken) < levels:
            level = depth()
            taken.append(_functorch.pop_dynamic_layer_stack())
        outer = [out_of_levels(t, level) for t in args]
        dims = [_functorch.maybe_get_bdim(t) if maybe_get_level(t) == level else None for t in outer]
        plain = [t if dim is None else _functorch.get_unwrapped(t) for t, dim in zip(outer, dims)]
        found = list(function(*(t if not dim else t.movedim(dim, 0) for t, dim in zip(plain, dims))))
    finally:
        for layer in reversed(taken):
            _functorch.push_dynamic_layer_stack(layer)
    return [add_batch_dim(t, 0, level) for t in found] if any(dim is not None for dim in dims) else found


def grad_levels_in_vmap() -> int:
    """How many transforms run, if they are a vmap and grad levels inside of it, and nobody sees the operations; else 0."""
    kinds = [] if observed_by_dispatch_mode() else [level.key() for level in levels()]
    return len(kinds) if kinds == [TransformType.Vmap, *[TransformType.Grad] * (len(kinds) - 1)] else 0


class Late:
    """A vmap entered by hand, over steps that are mapped from where `enter` is called to the end of the pass: inside the model,
    at a site. Over how many is only known once the value there is seen, and a pass to look at it first would run what lies
    before the site a second time."""

    def __init__(self) -> None:
        self.size = 0
        self.level: int | None = None

    def enter(self, steps: list[torch.Tensor]) -> list[torch.Tensor]:
        """The steps, as one; the first alone where a transform of the model's own runs, which would end before this one."""
        self.size = 1 if transforms_active() else steps[0].shape[0]
        if self.size == 1:
            return [t[0] for t in steps]
        level = self.level = _functorch._vmap_increment_nesting(self.size, "same")
        return [add_batch_dim(t, 0, level) for t in steps]

    def run(self, function: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
        """What `function`, which enters, returns, with a leading dimension for the steps."""
        try:
            found = function()
            return [t[None] if self.level is None else _functorch._remove_batch_dim(t, self.level, self.size, 0) for t in found]
        finally:
            if self.level is not None:
                _functorch._vmap_decrement_nesting()


def nothing_below() -> bool:
    """Whether a grad level is the innermost transform, and was entered where nothing was to be recorded; and nobody sees it."""
    level = peek_interpreter_stack()
    if level is None or level.key() != TransformType.Grad or observed_by_dispatch_mode():
        return False
    return not _functorch.CGradInterpreterPtr(level).prevGradMode()
