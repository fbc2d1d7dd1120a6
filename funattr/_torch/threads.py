"""What holds for all threads while a call in any of them needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

# torch's warning that an operation has no batching rule: nothing a user can do about it where the vmap is ours, and
# warnings.catch_warnings is not thread-safe. (There is no getter; True is the default.)
from torch._C._functorch import _set_vmap_fallback_warning_enabled as set_vmap_fallback_warning  # type: ignore[attr-defined]  # private: its stub leaves it out
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function


class _WhileInside(AbstractContextManager[None]):
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
quiet = _WhileInside(lambda: set_vmap_fallback_warning(False), lambda: set_vmap_fallback_warning(True))


class _Met(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.met: set[Any] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.met.add(func)
        return func(*args, **(kwargs or {}))


_INDEXING: dict[str, Any] = {name: getattr(Tensor, name) for name in ("__getitem__", "__setitem__")}


def _hidden() -> bool:
    """Whether function modes see nothing of ``t[i]`` and ``t[i] = value``, as on torch 2.0."""
    t = torch.zeros(1, device="cpu")
    with _Met() as mode:
        t[0] = t[0]
    return not mode.met.issuperset(_INDEXING.values())


class _Shown:
    """An operator of tensors. Asked of the class, it is what it was, by which modes and subclasses know it."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __get__(self, t: Tensor | None, kind: Any = None) -> Any:
        return self.plain if t is None else partial(self, t)

    def __call__(self, *args: Any) -> Any:
        return handle_torch_function(self.plain, args, *args) if has_torch_function(args) else self.plain(*args)


def _show() -> None:
    for name, plain in _INDEXING.items():
        setattr(Tensor, name, _Shown(plain))


def _hide() -> None:
    for name in _INDEXING:  # which Tensor inherits
        delattr(Tensor, name)


#: Function modes see indexing, also where torch does not show it.
indexing_shown: AbstractContextManager[None] = _WhileInside(_show, _hide) if _hidden() else nullcontext()
