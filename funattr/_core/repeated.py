"""What a model writes to that is not put back after a pass, for somebody may count passes there: a number, a list or a table
around a function, in its file, in a default, in a class. But what passes in a transform of torch.func leave there of its
tensors is of no use to anybody when it is over, and a model that finds it does not run."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache, partial
from typing import Any

from torch import Tensor, nn

from .._torch import is_wrapped, times_written
from .bytecode import names_of_file, stored_around
from .code import methods_of
from .holders import LIBRARIES, Attributes, Space, of_library, rebind, slots_of
from .tap import hooks_of, touched

_HELD = (dict, list, set, deque)
_MOST = 10_000  # of a longer one, of data, say, nobody looks
_DEEP = 5


def put_on(modules: Sequence[nn.Module]) -> list[Any]:
    """What somebody has put on single modules: hooks, and forwards of their own."""
    some = [*filter(touched, modules)]
    found = [hook for module in some for hooks in hooks_of(module) for hook in hooks.values()]
    return found + [module.__dict__["forward"] for module in some if "forward" in module.__dict__]


class Notes:
    """What functions, the methods of classes and what is `put_on` modules (hooks) write to beside what is put back; and how it
    was."""

    def __init__(self, code: Iterable[Any], put_on: Sequence[Any] = ()) -> None:
        self.held: dict[int, tuple[str, Any, Any]] = {}  # by name
        self.put_on = put_on
        hooks = [hook.func if isinstance(hook, partial) else getattr(hook, "__func__", hook) for hook in put_on]
        self.code = [some for some in (*code, *hooks) if isinstance(some, (type, types.FunctionType))]
        for hook in put_on:
            self._note(type(hook).__name__, getattr(hook, "__self__", hook), 0)
        own = _with_called(f for f in self.code if not isinstance(f, type))
        for f in (*_of_classes(frozenset(some for some in self.code if isinstance(some, type))), *own):
            for name, value in _named(f):
                self._note(name, value, 0)
        for some in self.code:
            self._note(some.__name__, some, 0)

    def _note(self, name: str, value: Any, depth: int) -> None:
        own: Any = type(value)
        if self.put_on and isinstance(value, Tensor):
            self.held[id(value)] = name, value, times_written(value)
        if self.put_on and depth == 0 and not (of_library(own) or isinstance(value, nn.Module)):
            for held in (getattr(value, "__dict__", None), slots_of(value)):  # what hooks keep in objects is not put back
                self._note(name, held, 1)
        kind = _kind(own)
        if kind is None or depth > _DEEP or id(value) in self.held or (kind == "holds" and len(value) > _MOST):
            return
        if kind == "class":
            for item in () if of_library(value) else vars(value).values():
                self._note(name, item, depth + 1)
            return
        before = None if kind == "gives" else dict(value) if isinstance(value, (dict, Attributes)) else value.copy()
        self.held[id(value)] = name, value, before
        for item in () if before is None else before.values() if isinstance(before, dict) else before:
            self._note(name, item, depth + 1)

    def changed(self) -> list[str]:
        """The names of what is not as it was; nobody knows that of what was drawn from an iterator."""
        return [name for name, value, before in self.held.values() if before is None or not _same(value, before)]

    def back(self) -> None:
        """Put all back, but for what iterators have given."""
        for _, value, before in self.held.values():
            if before is not None and not isinstance(value, Tensor):
                rebind(value, before)

    def take_back(self) -> None:
        """Put back what tensors of a transform of torch.func stand for, which is over. What was appended to a list stays."""
        for _, held, before in self.held.values():
            if isinstance(held, dict):
                wrapped = [key for key, value in held.items() if _holds_wrapped(value)]
                for key in wrapped:
                    if key in before:
                        held[key] = before[key]
                    else:
                        del held[key]
            elif isinstance(held, (list, deque)) and before is not None:
                for i, value in enumerate(held):
                    if i < len(before) <= len(held) and _holds_wrapped(value):
                        held[i] = before[i]


def _holds_wrapped(value: Any) -> bool:
    if isinstance(value, Tensor):
        return is_wrapped(value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list, deque)) else ()
    return any(map(_holds_wrapped, items))


@cache
def _kind(kind: type) -> str | None:
    """Whether values of a kind hold others, or give others to whoever asks, or are classes."""
    if issubclass(kind, (*_HELD, Attributes)) and (of_library(kind) or kind is Attributes):
        return "holds"
    return "class" if issubclass(kind, type) else "gives" if hasattr(kind, "__next__") else None


def _same(value: Any, before: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(times_written(value) == before)
    if len(value) != len(before):
        return False
    if isinstance(before, set):
        return bool(value == before)
    if isinstance(before, dict):
        return all(name in value and value[name] is one for name, one in before.items())
    return all(one is other for one, other in zip(value, before))


@lru_cache(256)
def _of_classes(kinds: frozenset[type]) -> tuple[types.FunctionType, ...]:
    """The functions that run when something of these classes does."""
    found: dict[Any, None] = {}
    for kind in kinds:
        if not any(issubclass(other, kind) for other in kinds - {kind}):
            found.update(dict.fromkeys(_with_called(methods_of(kind))))
    return tuple(found)


def _with_called(functions: Iterable[Any]) -> list[types.FunctionType]:
    """Those of the functions that are not torch's, with what they call of what is around them and in their files."""
    found = {id(f): f for f in map(_plain, functions) if _is_own(f)}
    todo = list(found.values())
    for g in todo:  # which grows
        named = [value for value in map(g.__globals__.get, names_of_file(g.__code__)[0]) if _is_in(value, g.__globals__)]
        around = [cell.cell_contents for cell in g.__closure__ or () if cell != types.CellType()]
        new = {id(h): h for h in map(_plain, (*named, *around)) if _is_own(h) and id(h) not in found}
        found.update(new)
        todo += new.values()
    return todo


def _plain(f: Any) -> Any:
    return f.fget if isinstance(f, property) else getattr(f, "__func__", f) if isinstance(f, _BOUND) else f


_BOUND = (staticmethod, classmethod, types.MethodType)


def _is_own(f: Any) -> bool:
    return isinstance(f, types.FunctionType) and (f.__module__ or "").partition(".")[0] not in LIBRARIES


def _is_in(value: Any, file: dict[str, Any]) -> bool:
    return isinstance(value, types.FunctionType) and value.__globals__ is file


def _named(f: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What the code of a function may write to, by name: variables around it and in its file, what these hold, and defaults."""
    stored, (read, written) = stored_around(f.__code__), names_of_file(f.__code__)
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
        if cell != types.CellType():  # nothing was put into yet
            yield name, Attributes(cell, ("cell_contents",)) if name in stored else cell.cell_contents
    yield from ((name, Attributes(Space(f.__globals__), (name,))) for name in written)
    yield from ((name, f.__globals__.get(name)) for name in read)
    yield from (("a default", value) for value in (*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values()))
