"""What a call finds in its thread and must leave there: modes, transforms, the grad mode, hooks; and errors from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._C import _functorch
from torch._C._functorch import TransformType, peek_interpreter_stack

from .transforms import depth

#: Documented since torch 2.5.
OutOfMemoryError = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


#: Turns off function modes and subclasses: for looking at data without being seen, and for calling an operation plainly.
without_modes = torch._C.DisableTorchFunction


def interrupted(error: BaseException) -> bool:
    """Whether `error` comes of torch's cleaning up after another (Ctrl-C in the middle of vmap) that asks to stop at once."""
    if hasattr(error, "complaint"):  # ours; and it may have ended the pass by a Stop, which is no interruption
        return False
    before = error.__context__
    while before is not None and isinstance(before, Exception):
        before = before.__context__
    return before is not None


def must_rise(error: BaseException) -> bool:
    """Whether nobody is to try another way after `error`: memory has run out, or somebody asks to stop."""
    return isinstance(error, OutOfMemoryError) or interrupted(error)


#: Where the Python functions of torch.nn.functional find the operations themselves.
operation_spaces = (torch._C._nn, torch._VF)


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
    TransformType.Vmap: _functorch._vmap_decrement_nesting,
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
