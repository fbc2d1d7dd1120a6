"""The random numbers that a model draws in eval mode: all passes of one call draw the same.

So a call explains one function: that of these draws. Where a method draws too (noise, random baselines), the model's draws
come from a stream of their own, so that neither depends on how many of the other's came before: on chunks, say. Torch's global
generators are meant; one that the model keeps is state of it, and put back as that is (`state`).
"""

from __future__ import annotations

import hashlib
import pickle
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .._torch import beside_traces, without_transforms
from .._types import Tree, as_it_is, tensors
from .._words import warn
from .code import Words

T = TypeVar("T")
DRAWS = "the model draws random numbers: all passes of a call have the same, and the attributions are of the function they make"


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
            for g in self.generators:
                # The next call has draws of its own.
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
        found, whole = None, False
        try:
            found = run(*args)
            whole = found is not None  # not stopped at a site
        finally:
            self._ended(before, whole)
        return found

    def _ended(self, before: list[Any], whole: bool) -> None:
        assert self.start is not None
        after = _get(self.generators)
        if not self.drew and any(map(_moved, self.start, after)):
            self.drew = True
            self.tell()
        if self.drew:
            self.after = after if whole or self.after is None else self.after
        if self.drew or self.apart:
            _set(self.generators, before)

    def tell(self) -> None:
        if not self.told:
            self.told = True
            warn(f"{DRAWS}. torch.manual_seed gives the same again; average calls for what holds on average.")


def drawn() -> bool:
    """Whether the model has drawn in a pass of this call: of more rows, it would draw other numbers for each."""
    return here.chance is not None and here.chance.drew


def with_same_draws(run: Callable[..., T], *args: Any) -> T:
    """``run(*args)``, a pass of the model."""
    return run(*args) if here.chance is None else here.chance.same(run, *args)


def chance_of(modules: Sequence[nn.Module], model: Any, x: Tree, apart: bool, training: bool) -> Chance | Any:
    """A block for a call in which passes draw the same, where the model may draw at all."""
    if isinstance(model, nn.Module) and not (training or _WORDS.in_modules(modules)):  # of a function, who knows
        return as_it_is
    cuda = {t.device.index or 0 for t in tensors(x) if t.device.type == "cuda"}
    generators = [torch.default_generator, *(torch.cuda.default_generators[i] for i in sorted(cuda))]
    others = _RANDOM.in_modules(modules) or (not isinstance(model, nn.Module) and _RANDOM.in_function(model))
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
    with without_transforms():  # under one, a plain tensor has no numpy
        seed = int.from_bytes(hashlib.blake2b(state.numpy().tobytes(), digest_size=7).digest(), "little")
    return torch.Generator(generator.device).manual_seed(seed).get_state()


class _Here(threading.local):
    chance: Chance | None = None


here = _Here()

_WORDS = Words(
    *("rand", "drop", "bernoulli", "multinomial", "normal", "poisson", "sampl", "rrelu", "gumbel", "uniform", "exponential"),
    *("geometric", "cauchy", "generator", "noise", "stochastic", "distribution", "scaled_dot_product"),
    also=(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, torch.jit.ScriptModule),
)
#: Python's and numpy's, which cost more to look at.
_RANDOM = Words("random")


# Generators that a model keeps.

#: What numbers are drawn from, by name, for numpy.random takes a while to import: how its state is read, and how it is set.
GENERATORS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    f"{torch.Generator.__module__}.Generator": (lambda g: g.get_state(), lambda g, state: g.set_state(state)),
    "numpy.random._generator.Generator": (
        lambda g: g.bit_generator.state,
        lambda g, state: setattr(g.bit_generator, "state", state),
    ),
    "numpy.random.mtrand.RandomState": (lambda g: g.get_state(legacy=False), lambda g, state: g.set_state(state)),
    "random.Random": (lambda g: g.getstate(), lambda g, state: g.setstate(state)),
}


def generator_kind(value: Any) -> str | None:
    """Which kind of generator a value is."""
    names = (f"{base.__module__}.{base.__name__}" for base in type(value).__mro__)
    return next((name for name in names if name in GENERATORS), None)


def same_state(a: Any, b: Any) -> bool:
    """Whether a generator has not been drawn from."""
    return torch.equal(a, b) if isinstance(a, Tensor) else pickle.dumps(a) == pickle.dumps(b)
