"""Running a function over steps: vmap in chunks, one after another where vmap cannot.

Arguments that all steps share are not mapped: what depends on them alone (the part of a model before a site) runs once
per chunk, and nobody's extra arguments are ever expanded.
"""

from __future__ import annotations

import contextlib
import dis
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch

# torch's warning that an operation has no batching rule (attention, on a CPU) and runs sample by sample: nothing a user
# of this library can do about it, and warnings.catch_warnings is not thread-safe.
from torch._C._functorch import _set_vmap_fallback_warning_enabled

from ._door import complaint, kind_of
from ._torch import tracing
from ._types import Tree, map_tensors, tensors


def each(function: Callable[..., Tree], mapped: Tree, *shared: Any, chunk: int | None = None) -> Iterator[Tree]:
    """``function(step, *shared)`` for every step of `mapped` (its tensors' leading dimension), `chunk` steps at once.

    Yields results with a leading dimension, in order: as many steps as fit, so count them by that dimension. Take what
    is needed from one result before asking for the next, and memory does not grow with the number of steps. `function`
    returns tensors, in any structure.
    """
    run = Runner()
    for start, stop in chunks(tensors(mapped)[0].shape[0], chunk):
        yield from run(function, map_tensors(lambda t, a=start, b=stop: t[a:b], mapped), *shared)


class Runner:
    """Runs chunks of steps, and remembers over the chunks of one call what vmap could not do."""

    def __init__(self, sequential: bool = False) -> None:
        self.ways = [] if sequential else [_mapped, _mapped_functional]
        self.cause: str | None = None

    def __call__(self, function: Callable[..., Tree], part: Tree, *shared: Any) -> Iterator[Tree]:
        if tracing():
            yield _mapped(function, part, shared)
            return
        while self.ways:
            try:
                result = self.ways[0](function, part, shared)
            except RuntimeError as error:
                if not refused(error):
                    raise
                self.cause = str(error)  # not the error: its traceback holds the model's activations
                del self.ways[0]
            else:
                yield result
                return
        for i in range(tensors(part)[0].shape[0]):
            result = function(map_tensors(lambda t, i=i: t[i], part), *shared)
            if self.cause is not None:  # now it is known that vmap was to blame
                _warn(self.cause)
                self.cause = None
            yield map_tensors(lambda t: t[None], result)


def _mapped(function: Callable[..., Tree], part: Tree, shared: tuple[Any, ...]) -> Tree:
    dims = (0, *(None for _ in shared))
    if tracing():
        return torch.func.vmap(function, in_dims=dims, randomness="same")(part, *shared)
    with _quiet:
        # "same": all steps see one dropout mask, so that the score is one function along a path.
        return torch.func.vmap(function, in_dims=dims, randomness="same")(part, *shared)


def _mapped_functional(function: Callable[..., Tree], part: Tree, shared: tuple[Any, ...]) -> Tree:
    """For models that write a mapped tensor into a shared one in place: `out += shortcut`."""
    return _mapped(torch.func.functionalize(function), part, shared)


def chunks(size: int, chunk: int | None) -> list[tuple[int, int]]:
    """`size` steps in chunks of at most `chunk`, of about the same size."""
    count = 1 if chunk is None else -(-size // chunk)
    each_one, longer = divmod(size, count) if count else (0, 0)
    bounds = [0]
    for i in range(count):
        bounds.append(bounds[-1] + each_one + (1 if i < longer else 0))
    return list(zip(bounds[:-1], bounds[1:]))


def chunk_for(chunk_size: int | None, like: Tree, *, shares: bool) -> int:
    """How many steps to run at once: what the caller says, else as many as bounded memory allows.

    `like` is what one step holds. Where steps share a prefix (`shares`), every further chunk costs one more run of it,
    so chunks are larger.
    """
    if chunk_size is not None:
        check_count(chunk_size, "chunk_size")
        return chunk_size
    elements = sum(t.numel() for t in tensors(like))
    return max(1, min(50, (1 << 23 if shares else 1 << 21) // max(1, elements)))


def check_count(value: Any, name: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise complaint(TypeError, f"{name} must be an int, got {kind_of(value)}.")
    if value < 1:
        raise complaint(ValueError, f"{name} must be at least 1, got {value}.")


# Whose error is it?

_WORDS = ("vmap", "functorch", "torch.func", "functionalize", "functionalization", "batching rule", "batchedtensor")
_WORDS += ("doesn't match the broadcast shape", "autograd.function", "storage", "data pointer", "view size is not compatible", "saved tensor hooks")
_TORCH = os.path.dirname(torch.__file__) + os.sep


def refused(error: RuntimeError) -> bool:
    """Whether vmap or torch.func raised `error`, and not the model."""
    text = str(error).lower()
    return any(word in text for word in _WORDS) and not raised_by_model(error)


def raised_by_model(error: BaseException) -> bool:
    """Whether a `raise` statement outside torch made `error`: operations of torch raise without one."""
    trace: TracebackType | None = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    raising = dis.opname[code.co_code[trace.tb_lasti]].startswith(("RAISE", "RERAISE"))
    return raising and not code.co_filename.startswith(_TORCH) and not hasattr(error, "complaint")


def _warn(cause: str) -> None:
    warnings.warn(
        f"the steps run one after another, which is slower: torch.func.vmap cannot run this model "
        f"({' '.join(cause.split())[:300]})",
        stacklevel=2,
    )


class _Quiet(contextlib.AbstractContextManager[None]):
    """No warnings about missing batching rules while any thread is inside."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                _set_vmap_fallback_warning_enabled(False)
            self.inside += 1

    def __exit__(self, *exception: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                _set_vmap_fallback_warning_enabled(True)  # torch's default; it cannot be read


_quiet = _Quiet()

