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
    places = [place for module in modules for place in _places(module)]
    return bound._replace(call=functools.partial(_put_back, places, bound.call)) if places else bound


def _places(module: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """What a pass may write to in a module: by what holds it, and by its name there."""
    buffers: dict[str, Any] = own_buffers(module)
    found = [(buffers if name in buffers else module.__dict__, name) for name in _stored(type(module))]
    if _writes(type(module)) or hooked(module):  # torch's own norms of weights are hooks
        for held in (buffers, module.__dict__):
            found += [(held, name) for name, value in held.items() if name not in COMMON and isinstance(value, _HELD)]
    return found


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
def _stored(kind: type) -> tuple[str, ...]:
    """The attributes of a module that its code writes when it runs."""
    return tuple(sorted({name for f in map(plain_function, _own(kind)) for name in stored_to_itself(f)}))


@constant
def _writes(kind: type) -> bool:
    """Whether the code of a module may write in place when it runs."""
    return any(map(writes_in_place, map(plain_function, _own(kind))))


def _own(kind: type) -> list[Any]:
    return [] if of_library(kind) else methods_of(kind)


def _put_back(places: Sequence[tuple[dict[str, Any], str]], call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    held = [(place, name, name in place, place.get(name)) for place, name in places]
    try:
        for place, name, there, before in held:
            if there:
                place[name] = _copied(before)
        return call(*args, **kwargs)
    finally:
        for place, name, there, before in held:
            if there:
                place[name] = before
            else:
                place.pop(name, None)


def _copied(value: Any) -> Any:
    """A copy of what is written to in place."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) is list:
        return [_copied(item) for item in value]
    return {name: _copied(item) for name, item in value.items()} if type(value) is dict else value
