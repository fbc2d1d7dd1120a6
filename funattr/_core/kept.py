"""One call: what its model keeps is put back after each pass, and graphs that outlive the pass keep what it wrote."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import beside_traces, copy_saved, is_plain, plain_data, tracing, without_transforms
from .._types import as_it_is
from .chance import with_same_draws
from .code import Words, modules_of
from .holders import of_library, statistics_kept, switches_of
from .state import State, kept, written_from_outside
from .tap import Run, call_tapped, hooked, hooks_of


def observed(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
    """``call(*args, **kwargs)`` under `run`, after which all that the model keeps is as the call found it."""
    if tracing():
        return call_tapped(call, args, kwargs, run)
    state = kept.state
    return with_same_draws(call_tapped if state is None else state.around, call, args, kwargs, run)


def _may_write(names: set[str]) -> bool:
    unseen = names & {"no_grad", "detach", "set_grad_enabled", "inference_mode"}  # by autograd, which refuses it otherwise
    in_place = any(name.endswith("_") and not name.endswith("__") for name in names)
    return bool(names & {"data", "Parameter"}) or bool(unseen and in_place)


_WRITING = Words(rule=_may_write)
_HOOKING = Words(rule=lambda names: any(name.startswith("register_forward") for name in names))
_TURNING = Words(rule=lambda names: bool(names & {"eval", "train", "requires_grad", "requires_grad_"}))
#: Whether modules of a kind keep nothing, but for what hooks write to them.
_QUIET: dict[type, bool] = {}


def state_of(modules: Sequence[nn.Module], model: Any) -> State | None:
    """What the modules, and what is bound to them, can keep of a pass: a block in which that is put back. None if nothing."""
    keeping = [module for module in modules if not _QUIET.get(type(module)) or hooked(module)]
    if not keeping and isinstance(model, nn.Module):
        return None
    writing = [module for module in modules if _WRITING.in_class(type(module))]
    state = State()
    state.unseen = bool(writing)
    for module in keeping:
        state.note_module(module)
    for module in writing:
        state.note_parameters(module)
    if keeping and _HOOKING.in_modules(modules):
        state.hooks += [(module, hooks_of(module)) for module in modules]
    if keeping and _TURNING.in_modules(modules):
        state.holders += [(held, dict(held)) for held in switches_of(modules)]
    if not isinstance(model, nn.Module):
        state.note(model)
    for module in modules:
        kind = type(module)
        if kind not in _QUIET:
            _QUIET[kind] = of_library(kind) and not written_from_outside(module) and not hasattr(module, "max_norm")
    return state if state.holders or state.tensors or state.arrays or state.draws else None


@contextlib.contextmanager
def left_as_found(model: Any) -> Iterator[None]:
    """For passes by themselves, to see what comes of them."""
    modules = modules_of(model)
    training = [module for module in modules if getattr(module, "training", False)]
    state = state_of(modules, model)
    with statistics_kept(training), state or as_it_is:
        try:
            yield
        finally:
            if state is not None:
                state.back()


# Graphs that outlive their pass, where the model writes to what they have saved, which is put back after the pass.


def writes_parameters() -> bool:
    """Whether the model may write to its parameters: in a transform of torch.func, it would write the transform's tensors."""
    return kept.state is not None and bool(kept.state.parameters)


def times_put_back() -> int:
    """How often tensors that passes of this call wrote to were put back: graphs of passes before may have saved them."""
    return 0 if kept.state is None else kept.state.times


def keep_written(create_graph: bool, found: Iterable[Tensor | None]) -> None:
    """Have the graph of what a pass `found`, where it is to be differentiated later, keep what the pass wrote."""
    if create_graph and not tracing() and kept.state is not None:
        with beside_traces(), without_transforms():
            if ranges := _written(kept.state):
                ends = [plain_data(t) for t in found if t is not None]
                copy_saved(ends, lambda t: any(start <= _start(t) < end for start, end in ranges))


def _written(state: State) -> list[tuple[int, int]]:
    """Where in memory what a pass wrote lies that is going to be put back."""
    found = [t for t, where in state.lies if t.data_ptr() != where.data_ptr()]
    found += [t for t, version, before, _ in state.tensors.values() if is_plain(t) and state.rewritten(t, version, before)]
    found += [where for where, before in state.parameters if not torch.equal(where, before)]
    memory = [t.untyped_storage() for t in map(plain_data, found)]
    arrays = [array for array, before in state.arrays if array.tobytes() != before.tobytes()]
    ranges = [(held.data_ptr(), held.data_ptr() + held.nbytes()) for held in memory]
    return ranges + [(array.ctypes.data, array.ctypes.data + array.nbytes) for array in arrays]


def _start(t: Tensor) -> int:
    t = plain_data(t)
    return t.data_ptr() if is_plain(t) and t.layout is torch.strided else 0
