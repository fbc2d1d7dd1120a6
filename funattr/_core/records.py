"""Lists and tables in which functions keep something for later passes, or for their caller: what passes in a transform of
torch.func leave there of its tensors is of no use to anybody when it is over, and a model that finds it does not run."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from .._torch import is_wrapped
from .bytecode import names_of_file
from .holders import LIBRARIES, of_library

_KINDS = (dict, list, deque)
_MOST = 10_000  # of a longer one, of data, say, no copy is made


def records_of(code: Iterable[Any]) -> list[tuple[Any, Any]]:
    """What functions, and the methods of classes, name of this kind, around them, as defaults, in their files; with copies."""
    code = [some for some in code if isinstance(some, (type, types.FunctionType))]
    found = {id(held): held for some in code for held in _held(some)}
    todo = [f for some in code for f in (_methods(some) if isinstance(some, type) else (some,))]
    met = set(todo)
    for f in todo:  # which grows
        if (f.__module__ or "").partition(".")[0] in LIBRARIES:
            continue
        for value in _named(f):
            found.update((id(held), held) for held in _held(value))
            if isinstance(value, types.FunctionType) and value.__globals__ is f.__globals__ and value not in met:
                met.add(value)
                todo.append(value)
    return [(held, held.copy()) for held in found.values() if len(held) <= _MOST]


@functools.cache
def _methods(kind: type) -> list[types.FunctionType]:
    values = [value.fget if isinstance(value, property) else getattr(value, "__func__", value) for value in vars(kind).values()]
    return [value for value in values if isinstance(value, types.FunctionType)]


def _named(f: types.FunctionType) -> Iterator[Any]:
    for cell in f.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # one that nothing was put into yet
            continue
    yield from f.__defaults__ or ()
    yield from (f.__kwdefaults__ or {}).values()
    yield from map(f.__globals__.get, names_of_file(f.__code__)[0])


def _held(value: Any) -> Iterator[Any]:
    if isinstance(value, _KINDS) and of_library(type(value)):
        yield value
    elif isinstance(value, type) and not of_library(value):
        yield from (held for held in vars(value).values() if isinstance(held, _KINDS) and of_library(type(held)))


def take_back(records: Iterable[tuple[Any, Any]]) -> None:
    """Put back what tensors of a transform stand for. What was appended to a list stays: somebody may count passes there."""
    for held, before in records:
        for key in [key for key, value in _items(held) if _holds_wrapped(value)]:
            if not isinstance(held, dict):
                if key < len(before) <= len(held):
                    held[key] = before[key]
            elif key in before:
                held[key] = before[key]
            else:
                del held[key]


def _items(held: Any) -> Iterable[tuple[Any, Any]]:
    return held.items() if isinstance(held, dict) else enumerate(held)


def _holds_wrapped(value: Any) -> bool:
    if isinstance(value, Tensor):
        return is_wrapped(value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, *_KINDS)) else ()
    return any(map(_holds_wrapped, items))
