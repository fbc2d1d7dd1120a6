"""What the code of functions reads of its file and writes to, as the interpreter's steps say it."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterator
from itertools import pairwise
from typing import Any


@functools.lru_cache(1024)
def names_of_file(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of its file that a code reads, and those that it writes to."""
    read, written = set(), set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(step.argval)
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            written.add(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            more = names_of_file(inner)
            read.update(more[0])
            written.update(more[1])
    return tuple(sorted(read)), tuple(sorted(written))


@functools.cache
def stored_elsewhere(kind: type) -> frozenset[str]:
    """The attributes that the code of a class writes to something else than the object whose method it is: to a class, to a
    layer. Where only the pass knows the name, what writes it is there in its place."""
    found: set[str] = set()
    for f in vars(kind).values():
        f = f.fset if isinstance(f, property) else f
        whole = getattr(getattr(f, "__func__", f), "__code__", None)
        own = whole.co_varnames[:1] if whole is not None and not isinstance(f, classmethod) else ()
        for code in _with_inner(whole):
            found.update({"setattr"}.intersection(code.co_names))
            steps = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "EXTENDED_ARG")]
            pairs = [(before, step) for before, step in pairwise(steps) if step.opname == "STORE_ATTR"]
            found.update(step.argval for before, step in pairs if not _loads(before, own))
    return frozenset(found)


def _loads(step: dis.Instruction, names: tuple[str, ...]) -> bool:
    """Whether a step loads, as the last of what it loads, a variable of one of these names."""
    last = step.argval[-1] if isinstance(step.argval, tuple) else step.argval
    return step.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and last in names


def _with_inner(code: types.CodeType | None) -> Iterator[types.CodeType]:
    if isinstance(code, types.CodeType):
        yield code
        for inner in code.co_consts:
            yield from _with_inner(inner)


@functools.lru_cache(1024)
def stored_around(code: types.CodeType) -> frozenset[str]:
    """The variables around a function that it, or one in it, writes to."""
    steps = [step for some in _with_inner(code) for step in dis.get_instructions(some)]
    stored = {step.argval for step in steps if step.opname in ("STORE_DEREF", "DELETE_DEREF")}
    return frozenset(stored.intersection(code.co_freevars))


def stored_to_itself(f: Any) -> frozenset[str]:
    """The attributes that a method writes to the object that it is one of."""
    code = getattr(f, "__code__", None)
    own = () if code is None else code.co_varnames[:1]
    steps = [step for some in _with_inner(code) for step in dis.get_instructions(some) if step.opname != "CACHE"]
    pairs = [(before, step) for before, step in pairwise(steps) if step.opname in ("STORE_ATTR", "DELETE_ATTR")]
    # Of `self.n += 1` what is before it only turns two values round.
    return frozenset(step.argval for before, step in pairs if before.opname in ("SWAP", "ROT_TWO") or _loads(before, own))


def writes_in_place(f: Any) -> bool:
    """Whether a function may write to a tensor, a list or a table that it does not make."""
    code = getattr(f, "__code__", None)
    names = {name for some in _with_inner(code) for name in some.co_names}
    steps = [step for some in _with_inner(code) for step in dis.get_instructions(some)]
    adds = any(step.opname.startswith("INPLACE_") or (step.opname == "BINARY_OP" and step.argrepr[-1] == "=") for step in steps)
    stores = any(step.opname in ("STORE_SUBSCR", "STORE_SLICE") for step in steps)
    return adds or stores or bool(names & _CHANGES) or any(name.endswith("_") and not name.endswith("__") for name in names)


#: By what lists and tables are written to, and the result of an operation.
_CHANGES = frozenset(["append", "extend", "insert", "pop", "popitem", "remove", "update", "setdefault", "clear", "out"])
