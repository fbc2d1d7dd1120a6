"""Errors from outside (Ctrl-C, a timeout): which are, and what must be left that they kept from being left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch._C import _functorch
from torch._C._functorch import TransformType, peek_interpreter_stack

from .traces import caller, modes_around
from .transforms import Surroundings, without_modes

#: Documented since torch 2.5.
OutOfMemoryError = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


def interruption(error: BaseException) -> BaseException | None:
    """What asks to stop at once, where `error` comes of torch's cleaning up after it (Ctrl-C in the middle of vmap)."""
    before: BaseException | None = error
    while isinstance(before, Exception) and before is not caller.handled:
        if hasattr(before, "complaint"):  # ours; and it may have ended the pass by a Stop, which is no interruption
            return None
        before = before.__context__
    return None if before is caller.handled else before


def must_rise(error: BaseException) -> bool:
    """Whether nobody is to try another way after `error`: memory has run out, or somebody asks to stop."""
    return isinstance(error, OutOfMemoryError) or interruption(error) is not None


# What torch.overrides and torch.func enter and leave by, without their context managers: seen to work on torch 2.0 to 2.14.

#: Left once more, in any thread, it turns them on: what it found when it was entered.
_MODES_ON = without_modes()
_MODES_ON.__enter__()
_MODES_ON.__exit__(None, None, None)


def put_back(before: Surroundings, error: BaseException | None) -> None:
    """Leave what was entered since. Torch's context managers are Python functions: an exception from outside (Ctrl-C, a
    timeout) that comes just as one is being left would keep it entered, for all that the thread does from then on."""
    _end_contexts(error)
    caller.handled = None
    modes, on, outer, grad, refused = before
    if on:
        _MODES_ON.__exit__(None, None, None)
    if refused is None:
        torch._C._autograd._saved_tensors_hooks_enable()
    else:
        torch._C._autograd._saved_tensors_hooks_disable(refused)
    while modes_around() > modes:
        torch._C._pop_torch_function_stack()
    while (level := peek_interpreter_stack()) is not None and level.level() > outer:
        _LEAVE[level.key()]()
    torch.set_grad_enabled(grad)


_OF_GENERATOR: Any = type(contextlib.contextmanager(lambda: iter(()))())
#: What enters and leaves any context manager that is made of a generator.
_ENTERED_BY = (_OF_GENERATOR.__enter__.__code__, _OF_GENERATOR.__exit__.__code__)


def _end_contexts(error: BaseException | None) -> None:
    """End what an exception from outside has kept from being left, now: torch takes a function mode off while the mode
    handles a call, in a generator that would put it back when `error` is let go of, in the middle of whatever runs then.
    And those around it were left before it, and have each taken off the level of a transform that was another's: where its
    own is of another kind by now, torch takes that off and complains, and this must not stand for what asked to stop."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code in _ENTERED_BY and not (made := trace.tb_frame.f_locals["self"].gen).gi_running:
                with contextlib.suppress(RuntimeError):
                    made.close()
            trace = trace.tb_next
        error = error.__context__


_LEAVE: dict[TransformType, Callable[[], Any]] = {
    TransformType.Vmap: _functorch._vmap_decrement_nesting,
    TransformType.Grad: _functorch._grad_decrement_nesting,
    TransformType.Jvp: _functorch._jvp_decrement_nesting,
    TransformType.Functionalize: _functorch._func_decrement_nesting,
}
