"""Private torch names, all of them, each with the reason it is needed; and what older versions call otherwise.

Seen to work on torch 2.0.1, 2.4.1, 2.13.0 and 2.14.1; what a version lacks is said where it is made up for. Everything else in
the package uses documented names only.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
import threading
import types
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch._C import _functorch
from torch._C._functorch import TransformType, maybe_get_level, peek_interpreter_stack

# A vmap entered by hand, inside the model: over how many groups is only known once the value at the layer has been seen,
# and a pass to look at it first would run what lies before the layer a second time.
from torch._C._functorch import _add_batch_dim as add_batch_dim
from torch._C._functorch import _remove_batch_dim as remove_batch_dim

# torch's warning that an operation has no batching rule: nothing a user can do about it where the vmap is ours, and
# warnings.catch_warnings is not thread-safe. (There is no getter; True is the default.)
from torch._C._functorch import _set_vmap_fallback_warning_enabled as set_vmap_fallback_warning  # type: ignore[attr-defined]  # private: its stub leaves it out

# Grad levels entered by hand: torch.func.grad wants its input before the call, but the leaf of an
# attribution is only met inside the model, in the same forward pass.
from torch._C._functorch import _unwrap_for_grad as unwrap_for_grad
from torch._C._functorch import _vmap_decrement_nesting as leave_vmap
from torch._C._functorch import _vmap_increment_nesting as enter_vmap
from torch._functorch import eager_transforms
from torch._functorch.eager_transforms import enable_inplace_requires_grad

# The one pytree registry that model libraries (transformers' ModelOutput) register their outputs with.
from torch.utils._pytree import TreeSpec, tree_flatten
from torch.utils._pytree import tree_unflatten as _tree_unflatten

#: What is torch's own, under the names that the package uses. The rest is below.
__all__ = [
    "TreeSpec",
    "add_batch_dim",
    "enter_vmap",
    "leave_vmap",
    "remove_batch_dim",
    "tree_flatten",
    "unwrap_for_grad",
]

F = TypeVar("F")


def tree_unflatten(leaves: Iterable[Any], spec: TreeSpec) -> Any:
    """The leaves in their structure; in a plain tuple for a NamedTuple that refuses them, as a PackedSequence does None."""
    leaves = list(leaves)
    if tracing():
        return _tree_unflatten(leaves, spec)
    try:
        return _tree_unflatten(leaves, spec)
    except Exception:
        return _built(iter(leaves), spec)


def _built(leaves: Iterator[Any], spec: Any) -> Any:
    if spec.is_leaf() if hasattr(spec, "is_leaf") else not spec.children_specs:  # torch 2.0 has no is_leaf
        return next(leaves) if spec.num_leaves else _tree_unflatten([], spec)
    children = spec.children() if hasattr(spec, "children") else spec.children_specs
    parts = [_built(leaves, child) for child in children]
    try:
        return _tree_unflatten(parts, TreeSpec(spec.type, spec.context, [_LEAF] * len(parts)))
    except Exception:
        if spec.type is not namedtuple:
            raise
        return tuple(parts)


_LEAF: Any = tree_flatten(0)[1]


def _never() -> bool:
    return False


#: True while Dynamo traces this very thread; `is_compiling` is process-wide and would fool the others. (Before torch 2.3
#: there is no such function: what is compiled there runs as it does eagerly, with graph breaks.)
tracing = getattr(getattr(torch, "compiler", None), "is_dynamo_compiling", _never)

#: Documented since torch 2.5.
OutOfMemoryError = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


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


#: Makes of a tensor, by whatever name it is held, another; since torch 2.3.
swap_tensors: Any = getattr(torch.utils, "swap_tensors", None)


def alone_in_memory(value: torch.Tensor) -> bool:
    """Whether no other tensor, no view and no graph holds the memory of `value`; False where torch does not tell."""
    owners = getattr(torch._C, "_storage_Use_Count", None)
    if owners is None or is_wrapped(value) or not is_plain(value) or value.layout is not torch.strided:
        return False
    return bool(owners(value.untyped_storage()._cdata) <= 2)  # the tensor, and the storage as Python has it


def is_wrapped(value: torch.Tensor) -> bool:
    """Whether a transform stands between us and the data of `value`."""
    return maybe_get_level(value) != -1


#: Turns off function modes and subclasses: for looking at data without being seen, and for calling an operation plainly.
without_modes = torch._C.DisableTorchFunction


#: Turns off torch.func's transforms: for copying plain data where one runs (torch 2.0 to 2.13: what printing a tensor uses).
without_transforms = torch._C._DisableFuncTorch


def constant(function: F) -> F:
    """Have Dynamo call `function` while it traces, and keep the result. As `torch.compiler.assume_constant_result`, which
    imports Dynamo, a second's work."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # private: its stub leaves it out
    return function


def show_to_modes(functions: Iterable[Any]) -> None:
    """Have Dynamo hand `functions` to function modes, as eager calls do. It asks torch.overrides which ones those are, and
    that list leaves out some that are: torch.relu_, F.hardswish. Imports Dynamo."""
    import torch._dynamo.variables.torch as dynamo

    if hasattr(dynamo, "get_overridable_functions"):
        dynamo.get_overridable_functions().update(functions)


class _AsGiven(inspect.Signature):
    """A signature that binds arguments as they are given: all, and by position."""

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        return types.SimpleNamespace(args=args, kwargs=kwargs, apply_defaults=lambda: None)


def autograd_function(kind: F) -> F:
    """For a torch.autograd.Function with a setup_context: `apply` binds the arguments of its forward, and asks for the
    signature at every call, which takes longer than a small operation. Here it is at hand."""
    kind.forward.__signature__ = _AsGiven([*inspect.signature(kind.forward).parameters.values()])  # type: ignore[attr-defined]  # private: its stub leaves it out
    return kind


def forward_class(node: Any) -> Any:
    """The torch.autograd.Function that a node of the graph is the backward pass of."""
    return type(node)._forward_cls


def made_by_func(kind: Any) -> bool:
    """Whether torch.func made this class anew of an autograd.Function, which it runs by an operation that modes see."""
    return str(kind.__module__).startswith("torch._functorch.")


def interrupted(error: BaseException) -> bool:
    """Whether `error` comes of torch's cleaning up after another (Ctrl-C in the middle of vmap) that asks to stop at once."""
    if hasattr(error, "complaint"):  # ours; and it may have ended the pass by a Stop, which is no interruption
        return False
    before = error.__context__
    while before is not None and isinstance(before, Exception):
        before = before.__context__
    return before is not None


#: Where the Python functions of torch.nn.functional find the operations themselves.
operation_spaces = (torch._C._nn, torch._VF)


def current_grad_level() -> int:
    """The number of the innermost grad level; 0 where only plain autograd records."""
    return max((level.level() for level in _levels() or [] if level.key() == TransformType.Grad), default=0)


def make_leaf(value: torch.Tensor) -> torch.Tensor:
    """Turn `value`, a fresh tensor of the current grad level, into a leaf of that level."""
    with enable_inplace_requires_grad(True):
        return value.requires_grad_()


def surroundings() -> tuple[int, int, bool, str | None]:
    """What a call must leave as it was in its thread: how many function modes there are and transforms, the grad mode, and
    why hooks on saved tensors are refused, if they are."""
    refused = torch._C._autograd._saved_tensors_hooks_get_disabled_error_message()
    return torch._C._len_torch_function_stack(), depth(), torch.is_grad_enabled(), refused


def put_back(before: tuple[int, int, bool, str | None]) -> None:
    """Leave what was entered since. Torch's context managers are Python functions: an exception from outside (Ctrl-C, a
    timeout) that comes just as one is being left would keep it entered, for all that the thread does from then on."""
    modes, outer, grad, refused = before
    if refused is None:
        torch._C._autograd._saved_tensors_hooks_enable()
    else:
        torch._C._autograd._saved_tensors_hooks_disable(refused)
    while torch._C._len_torch_function_stack() > modes:
        torch._C._pop_torch_function_stack()
    while (level := peek_interpreter_stack()) is not None and level.level() > outer:
        _LEAVE[level.key()]()
    torch.set_grad_enabled(grad)


_LEAVE: dict[TransformType, Callable[[], Any]] = {
    TransformType.Vmap: leave_vmap,
    TransformType.Grad: _functorch._grad_decrement_nesting,
    TransformType.Jvp: _functorch._jvp_decrement_nesting,
    TransformType.Functionalize: _functorch._func_decrement_nesting,
}


def saved_tensors_hooked() -> bool:
    """Whether hooks are on for what is saved for a backward pass: those of torch.utils.checkpoint, say."""
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(""):
            return False
    except RuntimeError:
        return True


def saved_input(node: Any) -> torch.Tensor | None:
    """The input that a node of the graph has saved, to look at its layout; None where hooks pack it, or torch shows none."""
    saved = getattr(node, "_raw_saved_input", None)
    if saved is None or getattr(saved, "unpack_hook", saved) is not None:
        return None
    data = saved.data
    return data if isinstance(data, torch.Tensor) else None


def observed_by_dispatch_mode() -> bool:
    """Whether a TorchDispatchMode (a tracer, a fake mode, a FLOP counter) sees every operation of this thread."""
    return torch._C._len_torch_dispatch_stack() > 0


def any_batch() -> bool:
    """Whether make_fx traces this thread with sizes that are symbols, for batches of any size.

    Torch's batching rules read sizes as numbers there: under vmap the graph would hold the size that was traced.
    """
    if tracing() or not torch._C._len_torch_dispatch_stack():
        return False
    mode = _active_mode(torch._C._TorchDispatchModeKey.PROXY)
    return mode is not None and getattr(mode, "tracing_mode", None) == "symbolic"


#: Before torch 2.1 modes cannot be asked for by what they are.
_active_mode: Callable[..., Any] = getattr(torch._C, "_get_dispatch_mode", lambda key: None)


def beside_traces() -> AbstractContextManager[Any]:
    """What runs inside is seen by no mode that traces: for plain data, of which a trace is to hold what comes of it."""
    if tracing() or not torch._C._len_torch_dispatch_stack():
        return contextlib.nullcontext()
    from torch.utils import _python_dispatch

    return _python_dispatch._disable_current_modes()


def fake_batch(values: Sequence[torch.Tensor], sized: Sequence[bool]) -> tuple[list[torch.Tensor], Callable[[], bool]]:
    """The tensors without data, of which those that are `sized` have a symbol for their first size, one for all; and what tells
    whether an operation has made a number of it since. Imports what traces, a second's work."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    made: list[torch.Tensor] = []
    for value, symbol in zip(values, sized):
        fixed = [DimDynamic.STATIC] * value.dim()
        dims = [DimDynamic.DUCK, *fixed[1:]] if symbol else fixed
        made.append(mode.from_tensor(value, symbolic_context=StatelessSymbolicContext(dynamic_sizes=dims)))

    def is_number() -> bool:
        first: list[Any] = [t.shape[0] for t, symbol in zip(made, sized) if symbol]
        return any(isinstance(size, int) or size.node.expr.is_number for size in first)

    return made, is_number


def backward_decompositions() -> dict[Any, Callable[..., Any]]:
    """Torch's own spellings of backward passes in other operations. (`_decomp` is what `torch.export` reads, too.)"""
    from torch._decomp import get_decompositions

    names = ("native_layer_norm_backward", "native_batch_norm_backward", "native_group_norm_backward")
    return dict(get_decompositions([getattr(torch.ops.aten, name) for name in names]))


def times_written(value: torch.Tensor) -> int:
    """How often the memory of `value` was written to, as torch counts it; 0 where it does not."""
    return 0 if tracing() or value.is_inference() else value._version


def is_view(value: torch.Tensor) -> bool:
    """Whether `value` shares its memory with a tensor that autograd knows."""
    return value._is_view()


def base_of(value: torch.Tensor) -> torch.Tensor | None:
    """What `value` is a view of."""
    return value._base


def edge_of(value: torch.Tensor) -> Any:
    """The place of `value` in the graph, as it is now: it may be overwritten later."""
    return torch.autograd.graph.get_gradient_edge(value)


def is_plain(value: Any) -> bool:
    """Whether the data of `value` may be read: no subclass, not on the meta device."""
    return type(value) in (torch.Tensor, torch.nn.Parameter) and not value.is_meta


def is_dressed(value: Any) -> bool:
    """Whether `value` is a tensor of a subclass that holds plain data and carries something besides, as MONAI's are.

    What dispatches operations by itself (a shard, a nested tensor) has no plain data to be taken out.
    """
    kind = type(value)
    plain = kind in (torch.Tensor, torch.nn.Parameter)
    return not plain and kind.__torch_dispatch__ is torch.Tensor.__torch_dispatch__


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


def compile_lock() -> AbstractContextManager[Any]:
    """The lock that keeps Dynamo from tracing a model in another thread while its hook dictionaries change under it."""
    convert_frame = sys.modules.get("torch._dynamo.convert_frame")
    # Torch 2.0 has the lock elsewhere, and does not trace what we do anyway.
    return getattr(convert_frame, "compile_lock", _no_lock)


_no_lock = contextlib.nullcontext()
