"""Who traces what runs here: Dynamo, make_fx, a mode; and what they have to be told."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar, cast

import torch

# torch's warning that an operation has no batching rule: nothing a user can do about it where the vmap is ours, and
# warnings.catch_warnings is not thread-safe. (There is no getter; True is the default.)
from torch._C._functorch import _set_vmap_fallback_warning_enabled as set_vmap_fallback_warning  # type: ignore[attr-defined]  # private: its stub leaves it out
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad

F = TypeVar("F")


def _never() -> bool:
    return False


#: True while Dynamo traces this very thread; `is_compiling` is process-wide and would fool the others. (Before torch 2.3
#: there is no such function: what is compiled there runs as it does eagerly, with graph breaks.)
tracing = getattr(getattr(torch, "compiler", None), "is_dynamo_compiling", _never)


def constant(function: F) -> F:
    """Have Dynamo call `function` while it traces, and keep the result. As `torch.compiler.assume_constant_result`, which
    imports Dynamo, a second's work."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # private: its stub leaves it out
    return function


def autograd_function(kind: F) -> F:
    """For a torch.autograd.Function with a setup_context: `apply` binds the arguments of its forward by their names, at every
    call, which takes longer than a small operation. Here they come by position, all of them."""
    known: Any = kind  # a class, to mypy any callable
    whole, plain = known.apply, super(torch.autograd.Function, known).apply

    def apply(*args: Any) -> Any:
        return (whole if tracing() or peek_interpreter_stack() is not None else plain)(*args)

    known.forward.__signature__ = inspect.signature(known.forward)
    known.apply = staticmethod(apply)
    return kind


def made_by_func(kind: Any) -> bool:
    """Whether torch.func made this class anew of an autograd.Function, which it runs by an operation that modes see."""
    return str(kind.__module__).startswith("torch._functorch.")


def observed_by_dispatch_mode() -> bool:
    """Whether a TorchDispatchMode (a tracer, a fake mode, a FLOP counter) sees every operation of this thread."""
    return torch._C._len_torch_dispatch_stack() > 0


def modes_around() -> int:
    """How many function modes there are in this thread, besides the one that handles a call."""
    return torch._C._len_torch_function_stack()


def any_batch() -> bool:
    """Whether make_fx traces this thread with sizes that are symbols, for batches of any size.

    Torch's batching rules read sizes as numbers there: under vmap the graph would hold the size that was traced.
    """
    if tracing() or not torch._C._len_torch_dispatch_stack():
        return False
    kinds = getattr(torch._C, "_TorchDispatchModeKey", None)  # before torch 2.1 modes cannot be asked for by what they are
    mode: Any = None if kinds is None else torch._C._get_dispatch_mode(kinds.PROXY)
    return mode is not None and getattr(mode, "tracing_mode", None) == "symbolic"


def forward_mode() -> bool:
    """Whether tensors may have tangents: inside torch.autograd.forward_ad, and so torch.func.jvp and linearize."""
    return forward_ad._current_level >= 0  # private, as the next: seen to work on torch 2.0.1, 2.4.1, 2.13.0 and 2.14.1


def without_tangents() -> AbstractContextManager[Any]:
    """What is made inside is a constant to forward mode, as to the backward pass what is made under torch.no_grad."""
    return forward_ad._set_fwd_grad_enabled(False)


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


@contextlib.contextmanager
def unlogged() -> Iterator[None]:
    """Without what torch logs of an operation that fails in a trace, traceback and all: it is raised as well, and caught where
    something is tried."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def is_registered(kind: type) -> bool:
    """Whether it is of operations that somebody has registered by torch.library, whose code is not to be read. They have no
    public kind: seen on torch 2.13."""
    return kind.__module__.startswith(("torch._library", "torch._ops"))


def writes(operation: Any) -> bool:
    """Whether an operation of a graph writes to what it is given."""
    schema = getattr(operation, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def backward_decompositions() -> dict[Any, Callable[..., Any]]:
    """Torch's own spellings of backward passes in other operations. (`_decomp` is what `torch.export` reads, too.)"""
    from torch._decomp import get_decompositions

    names = ("native_layer_norm_backward", "native_batch_norm_backward", "native_group_norm_backward")
    return dict(get_decompositions([getattr(torch.ops.aten, name) for name in names]))


def told_already(text: str) -> bool:
    """Whether the graph that Dynamo makes in this thread has been told `text` before: from now on it has."""
    context = getattr(sys.modules.get("torch._guards"), "CompileContext", None)  # not before torch 2.1
    compiling = None if context is None else context.try_get()
    if compiling is None:
        return False
    told = _told.setdefault(compiling, set())
    if text in told:
        return True
    told.add(text)
    return False


_told: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def compile_lock() -> AbstractContextManager[Any]:
    """The lock that keeps Dynamo from tracing a model in another thread while its hook dictionaries change under it."""
    convert_frame = sys.modules.get("torch._dynamo.convert_frame")
    # Torch 2.0 has the lock elsewhere, and does not trace what we do anyway.
    return getattr(convert_frame, "compile_lock", _no_lock)


_no_lock = contextlib.nullcontext()


class _Caller(threading.local):
    handled: BaseException | None = None  # the caller's own, in whose handler it calls: to Python, the context of ours
    modes = 0  # function modes of the caller's


caller = _Caller()


# What torch.compile made, run as it was written: compiled, it meets no transform and no function mode of ours as it should, and
# has no second derivative. Names of Dynamo seen to work on torch 2.6 to 2.14; before, there is no such switch.


def may_be_compiled() -> bool:
    """Whether torch.compile may have been called, and what it made can be run as it was written."""
    return not tracing() and hasattr(sys.modules.get("torch._dynamo.eval_frame"), "_stance")


def of_dynamo(error: Exception) -> bool:
    """Whether it is Dynamo's own."""
    return type(error).__module__ == "torch._dynamo.exc"


def compiled_from(function: Any) -> Any:
    """What torch.compile made a function of; None of any other."""
    return getattr(function, "_torchdynamo_orig_callable", None)


class _Stance:
    """As `torch.compiler.set_stance("force_eager")` in the threads that are inside, and in all others as it was."""

    def __init__(self, before: Any) -> None:
        self.before = before

    @property
    def stance(self) -> str:
        here = threading.get_ident() in _inside.values() and not _in_own_graph()
        return "force_eager" if here else self.before.stance

    def __getattr__(self, name: str) -> Any:
        return getattr(self.before, name)


def _in_own_graph() -> bool:
    """Whether torch compiles what one of its own operations holds (torch.cond, map), which cannot run otherwise."""
    here = getattr(sys.modules.get("torch._higher_order_ops.utils"), "_hop_compile_tls", None)  # not before torch 2.10
    return bool(getattr(here, "in_hop_compile", False))


def as_written(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``call(*args, **kwargs)``, in which nothing runs compiled."""
    if not may_be_compiled():
        return call(*args, **kwargs)
    token, frames = object(), cast("Any", sys.modules["torch._dynamo.eval_frame"])
    try:
        with _lock:
            _inside[token] = threading.get_ident()
            if type(frames._stance) is not _Stance:
                frames._stance = _Stance(frames._stance)
        return call(*args, **kwargs)
    finally:
        # Twice: an exception from outside (Ctrl-C, a timeout) may cut the first one short.
        try:
            _leave(frames, token)
        finally:
            _leave(frames, token)


def visible(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, as it was written where something is on that must meet each operation: a transform, forward mode, or a function
    mode that the caller has not put there."""
    seen = may_be_compiled() and (peek_interpreter_stack() is not None or forward_mode() or modes_around() > caller.modes)
    return partial(as_written, call) if seen else call


def _leave(frames: Any, token: object) -> None:
    with _lock:
        _inside.pop(token, None)
        if not _inside and type(frames._stance) is _Stance:
            frames._stance = frames._stance.before


_inside: dict[object, int] = {}  # calls, and their threads
_lock = threading.Lock()


# What holds for all threads while a call in any of them needs it.


class WhileInside(AbstractContextManager[None]):
    """Turned on while any thread is inside."""

    def __init__(self, turn_on: Callable[[], None], turn_off: Callable[[], None]) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.turn_on, self.turn_off = turn_on, turn_off

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.turn_on()
            self.inside += 1

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.turn_off()


#: No warnings about missing batching rules. (Torch's default is True; it cannot be read.)
quiet = WhileInside(lambda: set_vmap_fallback_warning(False), lambda: set_vmap_fallback_warning(True))
