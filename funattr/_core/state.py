"""What a model keeps of its passes, put back after each: all passes of a call start from what it found, and it leaves that.

A stream's memory, a cache of masks, a key-value cache. What was bound anew is bound as before, by identity. What was written
in place was copied at the start, and is written back before the next pass, when no graph needs it any longer. Torch's layers
keep nothing, but for what hooks, parametrizations and `max_norm` write; what torch makes of others' code does.
"""

from __future__ import annotations

import enum
import types
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._torch import (
    base_of,
    beside_traces,
    is_plain,
    is_view,
    is_wrapped,
    scripted_names,
    times_written,
    transforms_active,
    without_transforms,
)
from .._types import as_it_is, map_tensors
from .._words import warn
from .code import Words
from .here import here
from .holders import (
    GENERATORS,
    HOLDING,
    LARGEST,
    NUMBERS,
    Attributes,
    around,
    computes,
    draws_of,
    holds_same,
    is_torchs_layer,
    of_library,
    rebind,
    same_state,
    shared_by,
    slots_of,
    written_from_outside,
)
from .repeated import Notes
from .tap import Run, call_tapped, hooks_of, put_hooks_back
from .where import built, filled_weights, own_buffers, own_layers, own_weights

DRAWS = "the model draws random numbers: all passes of a call have the same, and the attributions are of the function they make"
#: What every module has; the rest of its attributes is its own.
COMMON = frozenset(vars(nn.Module()))
_CONSTANT = (str, bytes, int, float, complex, type(None), enum.Enum, type, torch.dtype, torch.device, torch.Size)
_PLAIN = frozenset({*_CONSTANT, bool})  # most of what modules hold, told by its type alone
_NO_STATE = (types.BuiltinFunctionType, types.ModuleType, torch.jit.ScriptModule)
_DEEP = 6  # a model that refers to its trainer is not followed to the data
_BUFFERING = Words("register_buffer")


def _whole(t: Tensor) -> Tensor:
    return t if (base := base_of(t)) is None else base


class State:
    """The containers that a model can write to, with what they held, and the tensors."""

    def __init__(self) -> None:
        self.holders: list[tuple[Any, Any]] = []
        self.tensors: dict[int, tuple[Tensor, int, Tensor, bool]] = {}  # and whether gradients were asked for
        self.lies: list[tuple[Tensor, Tensor]] = []  # plain ones, and where they lie
        self.modules: list[tuple[nn.Module, tuple[int, int]]] = []
        self.hooks: list[tuple[nn.Module, Any]] = []
        self.met: set[int] = set()
        self.arrays: list[tuple[Any, Any]] = []  # of numpy, and copies
        self.draws: list[tuple[Any, str, Any]] = []  # generators of the model's own, and how they were
        self.told = False
        self.parameters: list[tuple[Tensor, Tensor]] = []  # of models that write to them: where they lie, and a copy
        self.lent: list[tuple[dict[str, Any], dict[str, Any]]] = []  # attributes of parameters of others' kinds
        self.lying: set[int] = set()  # where these lie in memory
        self.code: list[Any] = []  # functions and classes that were met
        self.put_on: list[Any] = []  # hooks and forwards on single modules
        self.notes: Notes | None = None  # what these write to beside
        self.unseen = False  # whether the model may write where torch does not count it, as through .data
        self.times = 0  # how often a tensor was put back
        self.passes = 0

    def holds(self) -> bool:
        return any((self.holders, self.tensors, self.arrays, self.draws, self.code, self.put_on))

    def note(self, value: Any, depth: int = 0) -> None:
        """Keep `value`, something that a model holds or that is bound to it."""
        if type(value) in _PLAIN or id(value) in self.met or depth > _DEEP or isinstance(value, _CONSTANT) or computes(value):
            return
        self.met.add(id(value))
        if isinstance(value, Tensor):
            self.note_tensor(value)
        elif isinstance(value, nn.Module):
            self.note_module(value, depth)
        elif isinstance(value, (tuple, list, deque, set, dict)):
            self.note_items(value, depth)
            if not of_library(type(value)):  # somebody's kind of list
                self.note_attributes(value, depth)
        elif isinstance(value, np.ndarray):
            self.arrays += [(value, value.copy())] if value.size <= LARGEST and value.flags.writeable else []
        elif isinstance(value, NUMBERS):
            self.holders += [(value, value[:])] if len(value) <= LARGEST else []
        elif isinstance(value, (partial, types.MethodType, types.FunctionType)):
            self.code += [value, getattr(value, "__self__", None)]
            for held in [some for some in around(value) if getattr(some, "names", some)]:
                self.note_items(held, depth)
        elif (draws := draws_of(value)) is not None:
            self.draws += draws
        elif isinstance(value, weakref.ref):
            self.note(value(), depth)
        elif isinstance(value, HOLDING) or not (isinstance(value, _NO_STATE) or of_library(type(value))):
            self.note_attributes(value, depth)  # of no logger, thread, state of FSDP

    def note_attributes(self, value: Any, depth: int) -> None:
        self.note_items(getattr(value, "__dict__", {}), depth)
        if (slots := slots_of(value)) is not None:
            self.note_items(slots, depth)
        self.note_class(type(value), depth)

    def note_tensor(self, t: Tensor) -> None:
        if is_wrapped(t) and not transforms_active():  # of a transform that is over: nobody can go on from it
            return
        if t.layout is torch.strided and not (self.lying and t.data_ptr() in self.lying):  # else a weight
            self.tensors[id(t)] = t, times_written(t), _copied(t), t.requires_grad
            with beside_traces(), without_transforms():
                self.lies += [(t, t.detach())] if is_plain(t) and not (is_wrapped(t) or t.is_nested) else []

    def note_class(self, kind: type, depth: int) -> None:
        """Keep what classes of others, and their files, hold for all their objects."""
        for base in () if id(kind) in self.met else kind.__mro__:
            if id(base) not in self.met and not of_library(base):
                self.met.add(id(base))
                self.code.append(base)
                for held in shared_by(base):
                    self.note_items(held, depth)

    def note_items(self, items: Any, depth: int) -> None:
        kept = items
        if not isinstance(items, tuple):
            kept = dict(items) if isinstance(items, Mapping) else set(items) if isinstance(items, Set) else list(items)
            self.holders.append((items, kept))
        for item in kept.values() if isinstance(kept, dict) else kept:  # which may have no length
            self.note(item, depth + 1)

    def note_module(self, module: nn.Module, depth: int = 0) -> None:
        """Keep what `module` holds, but for its parameters, and for what torch's own modules never write to."""
        self.met.add(id(module))
        if module.__dict__.get("max_norm") is not None:  # an attribute that is missing takes a module a while to miss
            for weight in filled_weights(module):
                self.note(weight, depth)
        if isinstance(module, torch.jit.ScriptModule):
            names = dict.fromkeys((*own_buffers(module).keys(), *scripted_names(module)))  # to loop over it is not to be had
            self.note_items(Attributes(module, tuple(names)), depth)
        if isinstance(module, torch.jit.ScriptModule) or (is_torchs_layer(type(module)) and not written_from_outside(module)):
            return
        self.modules.append((module, built(module)))
        self.hooks.append((module, hooks_of(module)))
        self.holders.append((own_layers(module), dict(own_layers(module))))
        self.note_class(type(module), depth)
        for weight in filled_weights(module):
            if nn.Parameter in type(weight).__mro__[1:]:  # quantised, by another library
                self.lent.append((vars(weight), dict(vars(weight))))
                self.lying.add(weight.data_ptr())
        self.note_own(module, depth)
        if (buffers := own_buffers(module)) or _BUFFERING.in_class(type(module)):
            self.note_items(buffers, depth)

    def note_own(self, module: nn.Module, depth: int = 0) -> None:
        """Keep the attributes of `module` itself."""
        held = dict(module.__dict__)
        self.holders.append((module.__dict__, held))
        for value in [value for name, value in held.items() if name not in COMMON and type(value) not in _PLAIN]:
            self.note(value, depth + 1)
        if (slots := slots_of(module)) is not None:
            self.note_items(slots, depth)

    def note_parameters(self, module: nn.Module) -> None:
        """Keep all that is learned in `module`, which may write to it."""
        for child in module.modules():
            own = own_weights(child)
            self.holders.append((own, dict(own)))
            for weight in filled_weights(child):
                if id(weight) not in self.met:
                    self.met.add(id(weight))
                    with beside_traces(), without_transforms():
                        self.lies.append((weight, where := weight.detach()))
                        self.parameters.append((where, _copied(weight)))

    def take_notes(self) -> None:
        """Note, before a transform of torch.func runs or a second pass, what is not put back."""
        self.notes = Notes(self.code, self.put_on) if self.notes is None else self.notes

    def apart(self, given: Any) -> Any:
        """`given`, with copies of the tensors in it that the model may write to."""
        held = {id(_whole(t)) for t in (*(t for t, *_ in self.tensors.values()), *(t for t, _ in self.parameters))}
        return map_tensors(lambda t: t.clone() if id(_whole(t)) in held else t, given)

    def __enter__(self) -> None:
        here.state = self

    def __exit__(self, *exception: object) -> None:
        try:  # twice: an exception from outside (Ctrl-C, a timeout) may cut the first one short
            self.ready()
        finally:
            here.state = None
            self.ready()

    def ready(self) -> None:
        """Before a pass, and in the end: tensors hold what they held; no graph of the pass before needs what it wrote."""
        for t, where in self.lies:
            if t.data_ptr() != where.data_ptr() or t.shape != where.shape:  # t.data = another, or resized
                t.data = where
        for key, (t, version, before, learned) in self.tensors.items():
            if self.rewritten(t, version, before):
                with as_it_is if is_wrapped(t) else without_transforms():
                    t.data.copy_(before)  # through .data: a graph that the result pins may have saved it
                    if t.grad_fn is not None and not learned and not is_view(t):
                        t.detach_()  # what was written came with a graph
                self.tensors[key] = t, times_written(t), before, learned
                self.times += 1
        for where, before in self.parameters:
            with beside_traces():
                if not torch.equal(where, before):  # written through .data, it has no new version
                    where.data.copy_(before)
                    self.times += 1
        for array, before in self.arrays:
            array[...] = before
        for generator, kind, before in self.draws:
            if not same_state(GENERATORS[kind][0](generator), before):
                if not self.told:
                    warn(f"{DRAWS}. It has a generator of its own, which is put back: every call starts from what is there.")
                self.told = True
                GENERATORS[kind][1](generator, before)

    def rewritten(self, t: Tensor, version: int, before: Tensor) -> bool:
        reads = self.unseen and is_plain(t) and is_plain(before) and not is_wrapped(t)  # a copy made under export has no data
        if times_written(t) != version or not reads:
            return times_written(t) != version
        with beside_traces(), without_transforms():
            return not torch.equal(t, before)

    def around(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
        """A pass under `run`."""
        self.passes += 1
        self.ready()
        if self.passes > 1 or transforms_active():
            self.take_notes()
        try:
            return call_tapped(call, args, kwargs, run)
        finally:
            self.back()

    def back(self) -> None:
        """After a pass: containers hold what they held."""
        for i, (module, size) in enumerate(self.modules):
            if built(module) != size:  # the first pass has made layers: what it found is what is there from now on
                self.found_later(i)
        for held, before in self.lent:
            gone = {id(value) for name, value in before.items() if value is not None and held.get(name) is None}
            if gone:  # the first pass takes it to where it is used from now on
                now = [dict(h) if isinstance(h, dict) and gone & {*map(id, h.values())} else was for h, was in self.holders]
                self.holders = [(h, kept) for (h, _), kept in zip(self.holders, now)]
                before.update(held)
        for holder, before in self.holders:
            if not (type(holder) is dict and holds_same(holder, before)):  # most do
                rebind(holder, before)
        for module, hooks in self.hooks:
            put_hooks_back(module, hooks)
        if self.notes is not None and transforms_active():
            self.notes.take_back()

    def found_later(self, i: int) -> None:
        module = self.modules[i][0]
        self.modules[i], own = (module, built(module)), (module.__dict__, own_layers(module), own_buffers(module))
        self.holders = [(h, dict(h) if any(h is held for held in own) else before) for h, before in self.holders]
        for child in module.modules():
            if id(child) not in self.met:
                self.note_module(child)


def _copied(t: Tensor) -> Tensor:
    with as_it_is if is_wrapped(t) else without_transforms():  # a copy must outlive the transform that runs
        return t.detach().clone()
