"""What a call finds in its thread: the transforms of torch.func that run, what they map over, and those entered by hand; what
is written where one maps, by which layers; and what function modes and hooks are around it."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch._C import _functorch
from torch._C._functorch import TransformType, maybe_get_level, peek_interpreter_stack
from torch._C._functorch import _add_batch_dim as add_batch_dim
from torch._functorch import eager_transforms
from torch._functorch.eager_transforms import enable_inplace_requires_grad

from .traces import caller, constant, modes_around, tracing


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


_OLD = not hasattr(_functorch, "get_interpreter_stack")
_all_levels: Callable[[], Any] = getattr(_functorch, "get_interpreter_stack", _levels_one_by_one)


def levels() -> list[Any]:
    """The transforms that run in this thread, the outermost first."""
    return _all_levels() or []


def no_vmap_inside() -> bool:
    """Whether torch 2.0 functionalizes what runs: the gradient of recurrent layers under a vmap in there ends the process."""
    return _OLD and any(level.key() == TransformType.Functionalize for level in _levels_one_by_one())


grad_level = getattr(eager_transforms, "grad_increment_nesting", _grad_level)


def only_vmap_runs() -> bool:
    """Whether one vmap runs, and no transform around it: below it, the fused kernels are at home."""
    running = levels()
    return len(running) == 1 and bool(running[0].key() == TransformType.Vmap)


def vmap_runs() -> bool:
    """Whether a vmap is among the transforms that run in this thread: data cannot be read then."""
    return any(level.key() == TransformType.Vmap for level in levels())


def vmapped_over() -> int:
    """How many copies of what runs now the vmaps around it make."""
    vmaps = [level for level in levels() if level.key() == TransformType.Vmap]
    return math.prod(_functorch.CVmapInterpreterPtr(level).batchSize() for level in vmaps)


def plain_data(value: torch.Tensor) -> torch.Tensor:
    """`value` for all that transforms map it over: data that may be read."""
    while is_wrapped(value):
        value = _functorch.get_unwrapped(value)
    return value


def as_recorded(value: torch.Tensor) -> torch.Tensor:
    """`value` as the graph has it that is recorded below a vmap, which what the vmap shows has not."""
    while is_mapped(value) and not value.requires_grad:
        value = _functorch.get_unwrapped(value)
    return value


def mapped_without(value: torch.Tensor, others: Iterable[torch.Tensor]) -> bool:
    """Whether a vmap maps over `value` and over none of the `others`."""
    return bool(_mapped_by(value).difference(*map(_mapped_by, others)))


@constant
def _vmap_traced() -> bool:
    """Whether a vmap runs where Dynamo traces."""
    return any(level.key() == TransformType.Vmap for level in levels())


def recorded(value: torch.Tensor) -> bool:
    """Whether a graph holds `value`, of any level."""
    while not (value.requires_grad or tracing()) and is_wrapped(value):
        value = _functorch.get_unwrapped(value)
    return value.requires_grad


def says_what_it_writes(layer: nn.Module) -> bool:
    """Whether `layer` is one of torch's that run no others: they write to their input where they are to be in place."""
    kind, place = type(layer), type(layer).__module__
    alone = not place.endswith((".container", ".transformer")) and kind is not nn.MultiheadAttention
    as_made = tracing() or "forward" not in vars(layer)  # for Dynamo, the tap puts one there
    return alone and as_made and place.startswith("torch.nn.modules.")


def says_it_writes(layer: nn.Module) -> bool:
    in_place: bool = vars(layer).get("inplace", False) and says_what_it_writes(layer)
    return in_place and (layer.training or not type(layer).__module__.endswith(".dropout"))


def written_over(value: torch.Tensor, new: torch.Tensor) -> bool:
    """Whether `new` could be written where `value` lies, for all who hold that. What a vmap maps over has no room there: it is
    NaN then, which shows if somebody reads it."""
    if _vmap_traced() if tracing() else mapped_without(new, [value]):
        value.fill_(math.nan)
        return False
    value.copy_(new)
    return True


def _mapped_by(value: torch.Tensor) -> set[int]:
    found = set()
    while is_wrapped(value):
        if _functorch.is_batchedtensor(value):
            found.add(maybe_get_level(value))
        value = _functorch.get_unwrapped(value)
    return found


def out_of_levels(value: torch.Tensor, level: int) -> torch.Tensor:
    """`value` as it is after so many transforms; those inside of them have not mapped over it."""
    while maybe_get_level(value) > level:
        value = _functorch.get_unwrapped(value)
    return value


def mapped_below(value: torch.Tensor, level: int) -> bool:
    """Whether a vmap maps over `value` that was entered after so many transforms."""
    return any(mapped > level for mapped in _mapped_by(value))


def is_mapped(value: torch.Tensor | None) -> bool:
    """Whether the vmap that runs now maps over `value`."""
    level = peek_interpreter_stack()
    return value is not None and level is not None and maybe_get_level(value) == level.level()


def below_vmap(function: Callable[..., Iterable[torch.Tensor]], *args: torch.Tensor, levels: int = 1) -> list[torch.Tensor]:
    """What `function` returns for tensors as they are below the vmap that runs, where it maps over what comes first in them.

    Tensors that are not mapped are handed on as they are; of those that it returns all are. An autograd.Function with a vmap
    of its own does this too, and takes longer than most operations. Of several `levels` the vmap is the outermost: for what is
    a constant to the others, where what is returned is mapped if something was.
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
    return [add_batch_dim(t, 0, level) for t in found] if levels == 1 or any(dim is not None for dim in dims) else found


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


def numbers(value: torch.Tensor) -> list[float]:
    """``value.tolist()``, which torch 2.0 refuses inside torch.func.grad."""
    with without_transforms():
        return plain_data(value).tolist()


def current_grad_level() -> int:
    """The number of the innermost grad level; 0 where only plain autograd records."""
    if peek_interpreter_stack() is None:
        return 0
    return max((level.level() for level in levels() if level.key() == TransformType.Grad), default=0)


def make_leaf(value: torch.Tensor) -> torch.Tensor:
    """Turn `value`, a fresh tensor of the current grad level, into a leaf of that level."""
    with enable_inplace_requires_grad(True):
        return value.requires_grad_()


# What else a call finds in its thread.

#: Turns off function modes and subclasses: for looking at data without being seen, and for calling an operation plainly.
without_modes = torch._C.DisableTorchFunction
#: Where the Python functions of torch.nn.functional find the operations themselves.
operation_spaces = (torch._C._nn, torch._VF)


def saved_tensors_hooked() -> bool:
    """Whether hooks are on for what is saved for a backward pass: those of torch.utils.checkpoint, say."""
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(""):
            return False
    except RuntimeError:
        return True


#: See `surroundings`.
Surroundings = tuple[int, bool, int, bool, "str | None"]


def surroundings() -> Surroundings:
    """What a call must leave as it was in its thread: how many function modes there are, whether they are on, how many
    transforms, the grad mode, and why hooks on saved tensors are refused, if they are."""
    refused = torch._C._autograd._saved_tensors_hooks_get_disabled_error_message()
    modes = modes_around(), torch._C._is_torch_function_enabled()
    return (*modes, depth(), torch.is_grad_enabled(), refused)


def enter() -> Surroundings:
    """The surroundings of a call that begins."""
    caller.handled, caller.modes = sys.exc_info()[1], modes_around()
    return surroundings()
