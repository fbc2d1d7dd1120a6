"""A model where Dynamo traces: there, too, all passes of a call start from what it found. Below torch.func nothing that lies
outside can be written, to be put back, so passes write to copies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .._torch import constant, shadowing
from .._words import complaint
from .bytecode import stored_to_itself, writes_in_place
from .code import BATCH_NORM, INSTANCE_NORM, SIZE, methods_of, noisy_modules, plain_function, tell_of_train_mode, without_size
from .holders import of_library
from .state import COMMON
from .tap import hooked
from .where import Bound, all_modules, own_buffers


def model_traced(bound: Bound) -> Bound:
    """The model, whose modules hold after each pass what they held before."""
    modules = all_modules(bound.root)
    if without_size(modules):
        raise complaint(ValueError, SIZE)
    bound = _norms_quiet(bound, modules)
    own = [
        module for module in modules if hooked(module) or not _is_library(type(module))
    ]  # torch's norms of weights are hooks
    stored = [(module, name) for module in own for name in _stored(type(module))]
    places: list[tuple[dict[str, Any], str]] = [
        (own_buffers(module) if name in own_buffers(module) else module.__dict__, name) for module, name in stored
    ]
    if any(hooked(module) or _writes(type(module)) for module in own):  # what one writes to, another may hold
        for held in (held for module in own for held in (own_buffers(module), module.__dict__)):
            places += [(held, name) for name, value in held.items() if name not in COMMON and isinstance(value, _HELD)]
    return bound._replace(call=functools.partial(_put_back, places, bound.call)) if places else bound


_HELD = (Tensor, list, dict)


def _norms_quiet(bound: Bound, modules: Sequence[nn.Module]) -> Bound:
    """In train mode norms do not write their statistics."""
    training = noisy_modules(modules)
    if not training:
        return bound
    tell_of_train_mode(training)
    # In train mode they do not read their statistics either.
    names = {BATCH_NORM: ["track_running_stats"], INSTANCE_NORM: ["running_mean", "running_var"]}
    hidden = [(norm, name, None) for norm in training for kind in names if isinstance(norm, kind) for name in names[kind]]
    return bound._replace(call=functools.partial(shadowing, hidden, bound.call))


@constant
def _is_library(kind: type) -> bool:
    return of_library(kind)


@constant
def _stored(kind: type) -> tuple[str, ...]:
    """The attributes of a module that its code writes when it runs."""
    own = [] if of_library(kind) else map(plain_function, methods_of(kind))
    return tuple(sorted({name for f in own for name in stored_to_itself(f)}))


@constant
def _writes(kind: type) -> bool:
    """Whether the code of a module may write in place when it runs."""
    return not of_library(kind) and any(map(writes_in_place, map(plain_function, methods_of(kind))))


def _put_back(places: Sequence[tuple[dict[str, Any], str]], call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    held = [(place, name, name in place, place.get(name)) for place, name in places]
    copies: list[tuple[Any, Any]] = []  # what several modules hold, they go on holding
    try:
        for place, name, there, before in held:
            if there:
                place[name] = _copied(before, copies)
        return call(*args, **kwargs)
    finally:
        for place, name, there, before in held:
            if there:
                place[name] = before
            else:
                place.pop(name, None)


def _copied(value: Any, copies: list[tuple[Any, Any]]) -> Any:
    """A copy of what is written to in place, one for all who hold it."""
    if not isinstance(value, Tensor) and type(value) is not list and type(value) is not dict:
        return value
    for old, new in copies:
        if old is value:
            return new
    made: Any = value.clone() if isinstance(value, Tensor) else type(value)()
    copies.append((value, made))
    if type(value) is list:
        made.extend([_copied(item, copies) for item in value])
    elif type(value) is dict:
        made.update({name: _copied(item, copies) for name, item in value.items()})
    return made
