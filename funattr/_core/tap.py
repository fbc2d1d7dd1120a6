"""The tap: reads and replaces values inside a running model, and leaves no trace on it.

Five things hold at once. *Threads*: which values are tapped is kept per thread, and a tapped layer only carries a constant,
shared hook that does nothing for other threads. *No residue*: every step is idempotent and undone twice. *Transforms*: values
are handed on as they come. *Compile*: while Dynamo traces, hook dictionaries cannot be changed, so the layer's `forward` is
shadowed instead. *Cost*: microseconds, with no search through the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from .._torch import (
    Writes,
    compile_lock,
    recorded,
    says_it_writes,
    says_what_it_writes,
    shadowing,
    times_written,
    tracing,
    tree_flatten,
    written_over,
)
from .._types import Tree, get_inputs, map_leaves, map_tensors, put_inputs, tensors

#: `visit(i, value, shared)` sees the value of a site and returns what the model goes on with. `shared`: by another name, too.
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
        self.running: list[_Running] = []  # tapped layers
        self.torn = False  # whether those who hold what a layer writes to could not be given the value that is put there
        self.apart = False  # whether what is put in its place is for those alone who go on with what the layer returns
        self.replaced: list[Writes] = []  # what layers returned, and something else stands for
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

    def enter(
        self, layer: nn.Module, indices: Sequence[int], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a layer is called with, where that is a site with the value that is put there."""
        given = _alone(args, kwargs)
        if any(self.sites[i].inputs for i in indices):
            # The caller keeps its own reference to what it passes, and may well write to it: `x += block(x)`.
            args, kwargs = put_inputs(args, kwargs, self.reach(indices, True, get_inputs(args, kwargs), True))
        taken = _alone(args, kwargs)
        self.running.append(_Running(layer, given, taken, list(map(times_written, taken))))
        return args, kwargs

    def leave(self, layer: nn.Module, indices: Sequence[int], args: Sequence[Any], output: Any) -> Any:
        """What goes on as a layer's output. What a layer writes to its input (``nn.ReLU(inplace=True)``), all see who hold it,
        under whatever name: so what is put there is written there."""
        theirs = [output] if says_it_writes(layer) else []
        if self.running and any(call.layer is layer for call in self.running):
            while (call := self.running.pop()).layer is not layer:  # that one ended in an error which the model has caught
                continue
            written = [k for k, t in enumerate(call.taken) if times_written(t) != call.times[k]]
            theirs, args = [call.given[k] for k in written] or theirs, call.given
            for k in range(len(args)) if theirs and not written else written:  # while Dynamo traces, nobody can count
                if call.given[k] is not call.taken[k]:
                    self.torn |= not written_over(call.given[k], call.taken[k])
            if theirs and not self.torn:
                held = list(zip(call.taken, call.given))
                output = map_tensors(lambda t: next((given for taken, given in held if t is taken), t), output)
        found = self.reach(indices, False, output, any(t is one for t in tensors(output) for one in args))
        if theirs and found is not output:
            found = map_leaves(partial(self._share, theirs), output, tree_flatten(found)[0])
        if not (tracing() or found is output):
            self.replaced += [Writes(t) for t in tensors(output) if not any(t is one for one in tensors(found))]
        return found

    def _share(self, theirs: list[Tensor], t: Any, new: Any) -> Any:
        """What is put in the place of `t`, for all who hold it where it is one of `theirs`."""
        if new is t or not any(t is one for one in theirs):
            return new
        kept = recorded(t)  # a graph may need what is there
        self.apart |= kept
        shared = not kept and written_over(t, new)
        self.torn |= not (kept or shared)
        return t if shared else new


def _alone(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that a layer is called with, but for those inside of others."""
    return [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]


class _Running(NamedTuple):
    """A call of a tapped layer: what it was given, what it runs with, and how often that had been written to."""

    layer: nn.Module
    given: list[Tensor]
    taken: list[Tensor]
    times: list[int]


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

    def __init__(self, run: Run, indices: dict[int, list[int]]):
        self.run = run
        self.indices = indices
        self.gone = False  # no trace of it is left


class _Frames(threading.local):
    def __init__(self) -> None:
        self.stack: list[_Frame] = []


_frames = _Frames()


def _install(layers: list[tuple[nn.Module, list[int]]], frame: _Frame) -> None:
    with compile_lock(), _lock:
        for layer, indices in layers:
            _tapped[id(layer)] = _tapped.get(id(layer), frozenset()) | {frame}
            # Straight into the dictionaries: register_forward_hook makes a new key per call, races with other
            # threads on the with_kwargs marker (which must be there first), and cannot be undone when interrupted.
            if any(frame.run.sites[i].inputs for i in indices) or hooked(layer) or not says_what_it_writes(layer):
                layer._forward_pre_hooks_with_kwargs[_KEY] = True
                layer._forward_pre_hooks[_KEY] = _before
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
        args, kwargs = frame.run.enter(layer, frame.indices[id(layer)], args, kwargs)
    return args, kwargs


def _after(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    for frame in _here(layer):
        output = frame.run.leave(layer, frame.indices[id(layer)], args, output)
    return output


def hooks_of(layer: nn.Module) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The hooks around a layer, but for ours."""
    after, before = dict(layer._forward_hooks), dict(layer._forward_pre_hooks)
    after.pop(_KEY, None), before.pop(_KEY, None)
    return after, before


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
    layer = run.sites[indices[0]].layer
    args, kwargs = run.enter(layer, indices, args, kwargs)
    return run.leave(layer, indices, args, forward(*args, **kwargs))
