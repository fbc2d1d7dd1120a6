"""All passes of one call are of one function: they draw the same random numbers, and start from the same state.

Of numbers: those that a model draws in eval mode. Where a method draws too (noise, random baselines), the model's draws come
from a stream of their own, so that neither depends on how many of the other's came before: on chunks, say. Torch's global
generators are meant; one that the model keeps is state of it, and put back as that is.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .._torch import beside_traces, copy_saved, is_plain, plain_data, tracing, visible, without_modes, without_transforms
from .._types import Tree, as_it_is, filled, tensors
from .._words import warn
from .code import Words, modules_of
from .here import here
from .holders import (
    is_torchs_layer,
    is_watching,
    same_state,
    statistics_kept,
    stores_elsewhere,
    switches_of,
    written_from_outside,
)
from .repeated import put_on
from .state import DRAWS, State
from .tap import Run, call_tapped, hooks_of, touched

T = TypeVar("T")


class Beside(NamedTuple):
    """A global generator that is not torch's."""

    get_state: Callable[[], Any]
    set_state: Callable[[Any], Any]
    draw: Callable[[], Any]


_BESIDE = (
    Beside(random.getstate, random.setstate, random.random),
    Beside(lambda: np.random.get_state(legacy=False), lambda state: np.random.set_state(state), lambda: np.random.random()),
)
Generators: TypeAlias = Sequence[torch.Generator | Beside]


class Chance:
    """The draws of one call: where they start in each pass."""

    def __init__(self, generators: Generators, apart: bool, told: bool) -> None:
        self.generators = generators
        self.apart = apart  # the method draws too
        self.told = told
        self.drew = False
        self.start: list[Any] | None = None
        self.after: list[Any] | None = None  # a whole pass

    def __enter__(self) -> None:
        here.chance = self
        if self.apart:
            self.start = [_apart(g, state) for g, state in zip(self.generators, _get(self.generators))]

    def __exit__(self, *exception: object) -> None:
        here.chance = None
        if self.drew and self.apart:
            for g, start, after in zip(self.generators, self.start or (), self.after or ()):
                if _moved(start, after):  # the next call has draws of its own
                    g.draw() if isinstance(g, Beside) else torch.rand((), generator=g, device=g.device)
        elif self.drew and self.after is not None:
            _set(self.generators, self.after)

    def same(self, run: Callable[..., T], *args: Any) -> T:
        """What a pass gives, with the draws of the first that drew."""
        before = _get(self.generators)
        if self.start is None or not (self.drew or self.apart):
            self.start = before
        else:
            _set(self.generators, self.start)
        found = None
        try:
            found = run(*args)
        finally:
            self._ended(before, whole=found is not None)  # else it was stopped at a site
        return found

    def _ended(self, before: list[Any], whole: bool) -> None:
        assert self.start is not None
        after = _get(self.generators)
        if not self.drew and any(map(_moved, self.start, after)):
            self.drew = True
            if not self.told:
                warn(f"{DRAWS}. torch.manual_seed gives the same again; average calls for what holds on average.")
        if self.drew:
            self.after = after if whole or self.after is None else self.after
        if self.drew or self.apart:
            _set(self.generators, before)


def drawn() -> bool:
    """Whether the model has drawn in a pass of this call: of more rows, it would draw other numbers for each."""
    return here.chance is not None and here.chance.drew


def laid_as(tree: Tree, like: Tree) -> Tree:
    """`tree`, with its tensors in memory as those of `like`, in whose place they are to stand: a model draws in the order of
    memory, and may view what it is given."""
    given = tensors(like)
    if tracing() or tree is like or len(tensors(tree)) != len(given):
        return tree
    with without_modes():  # which have nothing to do with this
        return filled(tree, map(_laid_as, tensors(tree), given))


def _laid_as(t: Tensor, like: Tensor) -> Tensor:
    """`t`, in the order of `like`, in whose place its last dimensions are."""
    more = t.dim() - like.dim()
    if more < 0 or t.is_nested or like.is_nested or {t.layout, like.layout} != {torch.strided}:
        return t
    strides = like.stride()
    if t.stride()[more:] == strides:
        return t
    strides = torch.empty_like(like, device="meta").stride() if 0 in strides else strides
    order = [*range(more), *sorted(range(more, t.dim()), key=lambda d: (-strides[d - more], -t.shape[d]))]
    return t.permute(order).contiguous().permute(sorted(range(t.dim()), key=order.__getitem__))


def chance_of(modules: Sequence[nn.Module], model: Any, x: Tree, apart: bool, training: bool) -> Chance | Any:
    """A block for a call in which passes draw the same, where the model may draw at all."""
    # Of a function, who knows; and a module that turns dropout on draws, which nothing of its own says.
    known, put = isinstance(model, nn.Module), put_on(modules) if any(map(touched, modules)) else []
    draws = training or _WORDS.in_modules(modules) or _TURNING.in_modules(modules)
    if known and not (draws or any(map(_WORDS.in_value, put))):
        return as_it_is
    cuda = {t.device.index or 0 for t in tensors(x) if t.device.type == "cuda"}
    generators = [torch.default_generator, *(torch.cuda.default_generators[i] for i in sorted(cuda))]
    others = _RANDOM.in_modules(modules) or any(map(_RANDOM.in_value, put)) or (not known and _RANDOM.in_function(model))
    return Chance([*generators, *(_BESIDE if others else ())], apart, told=training)


def _get(generators: Generators) -> list[Any]:
    return [g.get_state() for g in generators]


def _moved(a: Any, b: Any) -> bool:
    with beside_traces():
        return not same_state(a, b)


def _set(generators: Generators, states: Sequence[Any]) -> None:
    for g, state in zip(generators, states):
        g.set_state(state)


def _apart(generator: torch.Generator | Beside, state: Any) -> Any:
    """A state to start from that nobody else draws from, and that `state` decides. From what is not torch's no method draws."""
    if isinstance(generator, Beside):
        return state
    with without_transforms(), beside_traces():  # under one, a plain tensor has no numpy
        seed = int.from_bytes(hashlib.blake2b(state.numpy().tobytes(), digest_size=7).digest(), "little")
    return torch.Generator(generator.device).manual_seed(seed).get_state()


_WORDS = Words(
    *("rand", "drop", "bernoulli", "multinomial", "normal", "poisson", "sampl", "rrelu", "gumbel", "uniform", "exponential"),
    *("geometric", "cauchy", "generator", "noise", "stochastic", "distribution", "fractional", "scaled_dot_product", "ops"),
    also=(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, torch.jit.ScriptModule),
)
#: Python's and numpy's, which cost more to look at.
_RANDOM = Words("random")


# What a model keeps is put back after each pass, and graphs that outlive the pass keep what it wrote.


def observed(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> Any:
    """``call(*args, **kwargs)`` under `run`, after which all that the model keeps is as the call found it."""
    if tracing():
        return call_tapped(call, args, kwargs, run)
    call = visible(call)
    once = call_tapped if here.state is None else here.state.around
    return once(call, args, kwargs, run) if here.chance is None else here.chance.same(once, call, args, kwargs, run)


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
    keeping = [module for module in modules if not _QUIET.get(type(module)) or touched(module)]
    if not keeping and isinstance(model, nn.Module):
        return None
    writing = [module for module in modules if _WRITING.in_class(type(module))]
    state = State()
    state.unseen = bool(writing) or any(is_watching(type(module)) for module in keeping)
    for module in keeping:
        state.note_module(module)
    for module in writing:
        state.note_parameters(module)
    elsewhere = any(stores_elsewhere(kind) for kind in {*map(type, keeping)})
    for module in modules if elsewhere else keeping:  # torch's layers write nothing, and may be written to
        if is_torchs_layer(type(module)) and (elsewhere or touched(module)):
            state.note_own(module)
    if keeping and _HOOKING.in_modules(modules):
        state.hooks += [(module, hooks_of(module)) for module in modules]
    if keeping and _TURNING.in_modules(modules):
        state.holders += [(held, dict(held)) for held in switches_of(modules)]
    if not isinstance(model, nn.Module):
        state.note(model)
    state.put_on = put_on(keeping)
    _learn_quiet_kinds(modules)
    return state if state.holds() else None


def _learn_quiet_kinds(modules: Sequence[nn.Module]) -> None:
    for module in modules:
        kind = type(module)
        if kind not in _QUIET:
            _QUIET[kind] = is_torchs_layer(kind) and not written_from_outside(module) and not hasattr(module, "max_norm")


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
    return here.state is not None and bool(here.state.parameters)


def kept_tensors() -> list[Tensor]:
    """What the model, and what is bound to it, holds: the same in all passes of this call."""
    return [] if here.state is None else [t for t, *_ in here.state.tensors.values()]


def before_transform() -> None:
    """A transform of torch.func is about to begin in the middle of a pass."""
    if here.state is not None:
        here.state.take_notes()


def times_put_back() -> int:
    """How often tensors that passes of this call wrote to were put back: graphs of passes before may have saved them."""
    return 0 if here.state is None else here.state.times


def keep_written(create_graph: bool, found: Iterable[Tensor | None]) -> None:
    """Have the graph of what a pass `found`, where it is to be differentiated later, keep what the pass wrote."""
    if create_graph and not tracing() and here.state is not None:
        with beside_traces(), without_transforms():
            if ranges := _written(here.state):
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
