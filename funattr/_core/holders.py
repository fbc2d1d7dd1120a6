"""What holds the state of a model, as mappings, slots, generators and what a class holds for all its objects too; and putting
it back."""

from __future__ import annotations

import contextlib
import functools
import operator
import pickle
import queue
import random
import sys
import threading
import types
import weakref
from array import array
from collections import ChainMap, OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSet
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bytecode import names_of_file, stored_elsewhere
from .tap import hooked
from .where import own_buffers, own_weights

_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
#: Numbers in a row, which hold no objects.
NUMBERS = (bytearray, array)
#: What a pass can change in place; all else in a class, but for numbers and tuples, is code, or says what the class is.
_DATA = (list, dict, set, deque, np.ndarray, Tensor, *NUMBERS)
#: What says something of a pass, and code.
_RECORDS = (bool, int, float, complex, str, bytes, type, types.ModuleType, types.BuiltinFunctionType, torch.Size)
_CODE = (types.FunctionType, types.MethodType)
LIBRARIES = {"torch", *sys.stdlib_module_names}
#: What the standard library has to hold somebody's objects.
HOLDING = (types.SimpleNamespace, UserDict, UserList, ChainMap, threading.local, queue.Queue, *_WEAK)
_KINDS: dict[type, bool] = {}
#: Elements of an array that is copied in each call: a table of counts, and no data set.
LARGEST = 1 << 20


class Space:
    """A dictionary, whose items are attributes."""

    def __init__(self, items: dict[str, Any]) -> None:
        self.__dict__ = items


class Attributes(MutableMapping[str, Any]):
    """Some attributes of an object, as a mapping."""

    def __init__(self, owner: Any, names: tuple[str, ...]) -> None:
        self.owner, self.names = owner, names

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in self.names if hasattr(self.owner, name)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, name: str) -> Any:
        return getattr(self.owner, name)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self.owner, name, value)

    def __delitem__(self, name: str) -> None:
        delattr(self.owner, name)


def slots_of(value: Any) -> Attributes | None:
    """The slots of an object; None where it has none."""
    kind: Any = type(value)
    names = _slots(kind)
    return Attributes(value, names) if names else None


@functools.cache
def _slots(kind: type) -> tuple[str, ...]:
    """The names of slots, of private ones as they are outside of their class."""
    listed = [(base.__name__.lstrip("_"), vars(base).get("__slots__", ())) for base in kind.__mro__]
    named = [(base, name) for base, slots in listed for name in ((slots,) if isinstance(slots, str) else slots)]
    own = [(base, name) for base, name in named if name not in ("__dict__", "__weakref__")]
    return tuple(f"_{base}{name}" if name[:2] == "__" and name[-2:] != "__" else name for base, name in own)


def switches_of(modules: Iterable[Any]) -> Iterator[Attributes]:
    """The mode of each module, and whether its parameters have gradients."""
    for module in modules:
        yield Attributes(module, ("training",))
        yield from (Attributes(p, ("requires_grad",)) for p in own_weights(module).values() if p is not None)


def _is_code(value: Any) -> bool:
    """Whether what is in a class is code, or says what the class is: no object of somebody's."""
    return isinstance(value, (type, *_CODE)) or of_library(type(value))


@functools.cache
def shared_by(kind: type) -> tuple[Any, ...]:
    """What a class itself, and the file of its functions, hold that a pass can change."""
    own = [
        name
        for name, value in vars(kind).items()
        if isinstance(value, (*_DATA, int, float, complex, tuple)) and not isinstance(value, bool) and name[:2] != "__"
    ]
    objects = {name: value for name, value in vars(kind).items() if name[:2] != "__" and not _is_code(value)}
    # Of what stands for an attribute, to ask the class would be to ask for that.
    stands = {name: value for name, value in objects.items() if hasattr(type(value), "__get__")}
    own += [name for name in {**objects, **dict.fromkeys(stored_elsewhere(kind))} if name not in own and name not in stands]
    functions = [f for f in vars(kind).values() if isinstance(f, types.FunctionType)]
    held = (Attributes(kind, tuple(own)), *_of_files(functions))
    return *(some for some in held if getattr(some, "names", some)), tuple(stands.values())


@functools.cache
def stores_elsewhere(kind: type) -> bool:
    """Whether the code of a class, or of one that it is made of, writes to something else than its own objects."""
    return any(stored_elsewhere(base) for base in kind.__mro__ if not of_library(base))


def computes(value: Any) -> bool:
    """Whether what an ordered dictionary holds is made when it is asked for, as that of transformers makes layers."""
    return isinstance(value, OrderedDict) and type(value).__getitem__ is not OrderedDict.__getitem__


def _of_files(functions: list[types.FunctionType]) -> Iterator[Any]:
    """Of each, what it names of its file and can change, with the functions that it calls there."""
    met = set(functions)
    for f in functions:  # which grows
        read, written = names_of_file(f.__code__)
        named = {name: f.__globals__.get(name) for name in read}
        names = [name for name in written if matters(f.__globals__.get(name))]
        names += [name for name, value in named.items() if isinstance(value, (np.ndarray, Tensor)) or _is_of(f, value)]
        yield Attributes(Space(f.__globals__), tuple(names))
        yield from _made_with(f)
        new = {g for g in named.values() if isinstance(g, types.FunctionType) and g.__globals__ is f.__globals__} - met
        met |= new
        functions += new


def _is_of(f: types.FunctionType, value: Any) -> bool:
    """Whether a value is an object of a class that is in the file of a function, or a generator."""
    own = type(value).__module__ == f.__module__ or generator_kind(value) is not None
    return own and matters(value) and not isinstance(value, _CODE)


def _made_with(f: types.FunctionType) -> Iterator[Any]:
    """What is around a function, and its defaults."""
    for cell in f.__closure__ or ():
        with contextlib.suppress(ValueError):  # one that nothing was put into yet
            if matters(cell.cell_contents):
                yield Attributes(cell, ("cell_contents",))
    defaults = (*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values())
    yield tuple(value for value in defaults if matters(value))


def around(f: Any) -> Iterator[Any]:
    """What holds what the code of a function can change, or goes on from: what is bound to it, what is around it, its defaults,
    what it names of its file. Nothing of a function of torch, or of the standard library."""
    if isinstance(f, functools.partial):
        if f.func is not torch.func.functional_call:  # which binds parameters, and puts them back itself
            yield (*f.args, f.func, *f.keywords.values())
        return
    if isinstance(f, types.MethodType):
        yield (f.__self__, f.__func__)
        return
    if (f.__module__ or "").partition(".")[0] in LIBRARIES:
        return
    yield Attributes(f, tuple(name for name, value in vars(f).items() if matters(value)))
    yield from _made_with(f)
    read, written = names_of_file(f.__code__)
    yield Attributes(Space(f.__globals__), tuple(name for name in written if matters(f.__globals__.get(name))))
    values = map(f.__globals__.get, read)
    yield tuple(v for v in values if matters(v) and _file_of(v, f) is f.__globals__)


def _file_of(value: Any, f: Any) -> Any:
    """The file of a function; of all else, which may not like to be asked, that of `f`."""
    return getattr(value, "__globals__", f.__globals__) if isinstance(value, _CODE) else f.__globals__


def matters(value: Any) -> bool:
    """Whether a function goes on from a value: counts, and what a list or a table is told of passes, are for its caller to see.
    What is None may be to be made.
    """
    if isinstance(value, tuple):
        return any(matters(item) for item in value if item is not None)
    return not isinstance(value, (*_RECORDS, list, dict, set, deque))


def holds_same(holder: Any, before: Any) -> bool:
    """Whether a mapping holds what it held `before`."""
    return len(holder) == len(before) and all(map(operator.is_, holder.values(), before.values()))


def rebind(holder: Any, before: Any) -> None:
    """Make `holder` hold what it held `before`, and write nothing where it does."""
    if type(holder) is dict or isinstance(holder, MutableMapping):
        if not holds_same(holder, before):
            for name in [name for name in holder if name not in before]:
                del holder[name]
            for name, value in before.items():
                if name not in holder or holder[name] is not value:
                    holder[name] = value
    elif isinstance(holder, MutableSet):
        holder &= before
        holder |= before
    elif isinstance(holder, NUMBERS):
        holder[:] = before
    elif len(holder) != len(before) or not all(map(operator.is_, holder, before)):
        holder.clear()
        holder.extend(before)


def of_library(kind: type) -> bool:
    """Whether a kind of object is made by torch and the standard library alone."""
    if kind not in _KINDS:
        known = all(base.__module__.partition(".")[0] in LIBRARIES for base in kind.__mro__)
        _KINDS[kind] = known
    return _KINDS[kind]


#: Where torch's modules are that it makes of somebody's own code, and those that watch what is to be quantised.
_MADE, _WATCHING = ("torch.fx.", "torch.jit.", "torch.export."), "torch.ao."


def is_torchs_layer(kind: type) -> bool:
    """Whether modules of a kind are torch's own, which write to nothing that they hold."""
    return of_library(kind) and not kind.__module__.startswith((*_MADE, _WATCHING))


def written_from_outside(module: Any) -> bool:
    return hooked(module) or type(module).__module__.startswith("torch.nn.utils.")


def is_made_of_code(kind: type) -> bool:
    """Whether torch has made a module of somebody's own code (scripted, traced, exported), which its class does not show."""
    return kind.__module__.startswith(_MADE)


def is_watching(kind: type) -> bool:
    """Whether modules of a kind write down what they meet, which some do where torch does not count it."""
    return kind.__module__.startswith(_WATCHING)


@contextlib.contextmanager
def statistics_kept(training: list[Any]) -> Iterator[None]:
    """Keep the running statistics of modules in train mode."""
    kept = [(buffer, buffer.clone()) for module in training for buffer in own_buffers(module).values() if buffer is not None]

    def put_back() -> None:
        for buffer, before in kept:
            buffer.data.copy_(before)  # through .data: a graph that the result pins may have saved the buffer

    with contextlib.ExitStack() as twice:  # an exception from outside (Ctrl-C, a timeout) may cut the first one short
        twice.callback(put_back)
        twice.callback(put_back)
        yield


# Generators.

#: What numbers are drawn from, by name, for numpy.random takes a while to import: how its state is read, and how it is set.
GENERATORS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    f"{torch.Generator.__module__}.Generator": (lambda g: g.get_state(), lambda g, state: g.set_state(state)),
    "numpy.random._generator.Generator": (
        lambda g: g.bit_generator.state,
        lambda g, state: setattr(g.bit_generator, "state", state),
    ),
    "numpy.random.mtrand.RandomState": (lambda g: g.get_state(legacy=False), lambda g, state: g.set_state(state)),
    "numpy.random.bit_generator.BitGenerator": (lambda g: g.state, lambda g, state: setattr(g, "state", state)),
    "random.Random": (lambda g: g.getstate(), lambda g, state: g.setstate(state)),
}


def generator_kind(value: Any) -> str | None:
    """Which kind of generator a value is."""
    names = (f"{base.__module__}.{base.__name__}" for base in type(value).__mro__)
    return next((name for name in names if name in GENERATORS and not isinstance(value, random.SystemRandom)), None)


def draws_of(value: Any) -> list[tuple[Any, str, Any]] | None:
    """A generator, or that of one of its methods, with how it is; None of all else. Those that functions of a library draw from
    are nobody's own."""
    value = value.__self__ if isinstance(value, types.BuiltinMethodType) else value
    kind = generator_kind(value)
    if kind is None:
        return None
    of_python = getattr((np.random if kind.startswith("numpy.") else random).random, "__self__", None)
    shared = (torch.default_generator, *torch.cuda.default_generators, of_python)
    return [] if any(value is one for one in shared) else [(value, kind, GENERATORS[kind][0](value))]


def same_state(a: Any, b: Any) -> bool:
    """Whether a generator has not been drawn from."""
    return torch.equal(a, b) if isinstance(a, Tensor) else pickle.dumps(a) == pickle.dumps(b)
