"""The tap: reads and replaces values inside a running model, and leaves no trace on it.

Five things hold at once. *Threads*: which values are tapped is kept per thread, and a tapped layer only carries a
constant, shared hook that does nothing for other threads. *No residue*: every step is idempotent and undone twice.
*Transforms*: values are handed on as they come. *Compile*: while Dynamo traces, hook dictionaries cannot be
changed, so the layer's `forward` is shadowed instead. *Cost*: microseconds, with no search through the model.

This is the only file that writes to an `nn.Module`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from .._torch import compile_lock, tracing
from .._types import Tree, tensors

#: `visit(i, value, shared)` sees the value of site `i` and returns what the model goes on with. `shared` says that
#: somebody else holds this very tensor and may change it in place later.
Visit: TypeAlias = Callable[[int, Tree, bool], Tree]


class Site(NamedTuple):
    """One place in a model: what goes into (`inputs`) or comes out of `layer` when it runs for the `call`-th time."""

    layer: nn.Module
    label: str
    inputs: bool = False
    call: int | None = None


class Stop(BaseException):
    """Ends a forward pass once all that was wanted has been seen. A BaseException: models catch Exception."""

    def __init__(self, run: Run | None, error: Exception | None = None):
        self.run = run
        self.error = error


class Run:
    """One forward pass under observation: what is tapped, and how often each site has been reached."""

    def __init__(self, sites: Sequence[Site], visit: Visit, early: bool = False):
        self.sites = sites
        self.visit = visit
        self.seen = [0] * len(sites)
        self.waiting = len(sites)
        #: Stop after the last site. Only where the calls are given: otherwise it must be seen how often a layer runs.
        self.early = early and all(site.call is not None for site in sites) and not tracing()

    def layers(self) -> list[tuple[nn.Module, list[int]]]:
        """The tapped layers, each once, with the indices of its sites."""
        found: list[tuple[nn.Module, list[int]]] = []
        for i, site in enumerate(self.sites):
            for layer, indices in found:
                if layer is site.layer:
                    indices.append(i)
                    break
            else:
                found.append((site.layer, [i]))
        return found

    def reach(self, indices: Sequence[int], inputs: bool, value: Tree, shared: bool) -> Tree:
        for i in indices:
            site = self.sites[i]
            if site.inputs is inputs:
                count = self.seen[i]
                self.seen[i] = count + 1
                if count == (site.call or 0):
                    value = self.visit(i, value, shared)
                    self.waiting -= 1
                    if self.early and not self.waiting:
                        raise Stop(self)
        return value

    def reach_inputs(
        self, indices: Sequence[int], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # The caller keeps its own reference to what it passes, and may well write to it: `x += block(x)`.
        return put_inputs(args, kwargs, self.reach(indices, True, get_inputs(args, kwargs), True))

    def reach_output(self, indices: Sequence[int], args: tuple[Any, ...], output: Any) -> Any:
        return self.reach(indices, False, output, any(output is arg for arg in args))


def get_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tree:
    """The value at a layer's input: the lone tensor, else the arguments that hold tensors, keywords by name."""
    positional = [arg for arg in args if tensors(arg)]
    named = {name: arg for name, arg in kwargs.items() if tensors(arg)}
    lone = [*positional, *named.values()]
    if len(lone) == 1 and isinstance(lone[0], Tensor):
        return lone[0]
    if not positional:
        return named
    return (*positional, named) if named else tuple(positional)


def put_inputs(args: tuple[Any, ...], kwargs: dict[str, Any], value: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `value`, of the structure that `get_inputs` gives, in place of what holds tensors."""
    where = [i for i, arg in enumerate(args) if tensors(arg)]
    names = [name for name, arg in kwargs.items() if tensors(arg)]
    if isinstance(value, Tensor):
        value = (value,) if where else {names[0]: value} if names else ()
    named: Mapping[str, Any] = value if isinstance(value, Mapping) else value[-1] if names else {}
    replaced = list(args)
    for i, arg in zip(where, () if isinstance(value, Mapping) else value):
        replaced[i] = arg
    return tuple(replaced), {**kwargs, **named}


def call_tapped(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
    """`call(*args, **kwargs)` under `run`; None where the run stopped early."""
    if not run.sites:
        return call(*args, **kwargs)
    if tracing():
        return _call_traced(call, args, kwargs, run)
    layers = run.layers()
    frame = _Frame(run, {id(layer): indices for layer, indices in layers})
    try:
        _install(layers, frame)
        _frames.stack.append(frame)
        return call(*args, **kwargs)
    except Stop as stop:
        if stop.error is not None:
            raise stop.error from None
        if stop.run is not run:
            raise
        return None
    finally:
        # Twice: an exception from outside (Ctrl-C, a timeout) may cut the first one short.
        try:
            _remove(layers, frame)
        finally:
            if not frame.gone:
                _remove(layers, frame)


# Eager: counted hooks.

_KEY: Any = "funattr"  # torch declares its own keys, which are integers
_lock = threading.RLock()
_tapped: dict[int, frozenset[_Frame]] = {}  # id(layer) -> the frames that tap it; guarded by _lock


class _Frame:
    """A run on this thread's stack, with its sites by id of the layer."""

    __slots__ = ("gone", "indices", "run")

    def __init__(self, run: Run, indices: dict[int, list[int]]):
        self.run = run
        self.indices = indices
        self.gone = False  # no trace of it is left


class _Frames(threading.local):
    def __init__(self) -> None:
        self.stack: list[_Frame] = []


_frames = _Frames()


def _install(layers: list[tuple[nn.Module, list[int]]], frame: _Frame) -> None:
    sites = frame.run.sites
    with compile_lock(), _lock:
        for layer, indices in layers:
            _tapped[id(layer)] = _tapped.get(id(layer), frozenset()) | {frame}
            # Straight into the dictionaries: register_forward_hook makes a new key per call, races with other
            # threads on the with_kwargs marker (which must be there first), and cannot be undone when interrupted.
            sides = {sites[i].inputs for i in indices}
            if True in sides:
                layer._forward_pre_hooks_with_kwargs[_KEY] = True
                layer._forward_pre_hooks[_KEY] = _before
            if False in sides:
                layer._forward_hooks[_KEY] = _after


def _remove(layers: list[tuple[nn.Module, list[int]]], frame: _Frame) -> None:
    stack = _frames.stack
    if frame in stack:
        stack.remove(frame)
    with compile_lock(), _lock:
        for layer, _ in layers:
            tapped = _tapped.get(id(layer))
            if tapped is None or frame not in tapped:
                continue
            if len(tapped) > 1:
                _tapped[id(layer)] = tapped - {frame}
            else:
                _unhook(layer)  # before the table forgets the layer: the second time must find it
                _tapped.pop(id(layer), None)
    frame.gone = True


def _unhook(layer: nn.Module) -> None:
    layer._forward_hooks.pop(_KEY, None)
    layer._forward_pre_hooks.pop(_KEY, None)
    layer._forward_pre_hooks_with_kwargs.pop(_KEY, None)


def _here(layer: nn.Module) -> list[_Frame]:
    """The frames of this thread that tap `layer`, outermost first: what it puts there is the layer's output for the others."""
    if tracing():  # another thread taps a layer that this one compiles: not its business
        return []
    if id(layer) not in _tapped and not getattr(layer, "_is_replica", False):
        with _lock:  # a copy (deepcopy, pickle) of a layer, made while it was tapped
            if id(layer) not in _tapped:
                _unhook(layer)
    return [frame for frame in _frames.stack if id(layer) in frame.indices]


def _before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    for frame in _here(layer):
        indices = frame.indices[id(layer)]
        if any(frame.run.sites[i].inputs for i in indices):
            args, kwargs = frame.run.reach_inputs(indices, args, kwargs)
    return args, kwargs


def _after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    for frame in _here(layer):
        output = frame.run.reach_output(frame.indices[id(layer)], args, output)
    return output


def hooks_of(layer: nn.Module) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The hooks around a layer, but for ours."""
    around = (layer._forward_hooks, layer._forward_pre_hooks)
    before, after = ({key: hook for key, hook in hooks.items() if key != _KEY} for hooks in around)
    return before, after


def put_hooks_back(layer: nn.Module, before: tuple[dict[Any, Any], dict[Any, Any]]) -> None:
    """Take off the hooks that a pass has put around a layer: a model that records its layers does so when first asked."""
    for hooks, known in zip((layer._forward_hooks, layer._forward_pre_hooks), before):
        if len(hooks) > len(known):
            for key in [key for key in hooks if key != _KEY and key not in known]:
                hooks.pop(key, None)


def touched(layer: nn.Module) -> bool:
    """Whether somebody gave this one layer a forward of its own, or hooks around it: then it may do anything."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__)


def hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


# Compiled: attributes of modules, such as a layer's forward, shadowed for the length of the trace.


def _call_traced(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
    taps = []
    for layer, indices in run.layers():
        # Other hooks of the layer run between _call_impl and forward; the site lies outside them.
        name = "_call_impl" if hooked(layer) else "forward"
        taps.append((layer, name, partial(_around, run, indices, getattr(layer, name))))
    return shadowing(taps, call, *args, **kwargs)


def _around(run: Run, indices: list[int], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if any(run.sites[i].inputs for i in indices):
        args, kwargs = run.reach_inputs(indices, args, kwargs)
    return run.reach_output(indices, args, forward(*args, **kwargs))


def shadowing(others: Sequence[tuple[nn.Module, str, Any]], call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`call(*args, **kwargs)`, in which attributes of modules have other values."""
    found = [(module, name, module.__dict__.get(name)) for module, name, _ in others]
    try:
        for module, name, value in others:
            module.__dict__[name] = value
        return call(*args, **kwargs)
    finally:
        for module, name, before in found:
            if before is None:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = before
