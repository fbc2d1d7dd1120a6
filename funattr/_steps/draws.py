"""Random numbers from a generator of the caller's, in a compiled function too."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .._torch import plain_data, tracing, transforms_active
from .._words import complaint, kind_of

#: ``draw(shape, dtype, device)``: standard normal numbers.
Draw: TypeAlias = Callable[[Sequence[int], torch.dtype, torch.device], Tensor]


def check_generator(value: Any) -> None:
    """Refuse what torch does not draw from: a generator of numpy, a seed."""
    if not (value is None or isinstance(value, torch.Generator)):
        hint = " of numpy" if type(value).__module__.partition(".")[0] == "numpy" else ""
        text = (
            f"generator must be a torch.Generator or None, got {kind_of(value)}{hint}: pass torch.Generator().manual_seed(0)."
        )
        raise complaint(TypeError, text)


def normal_from(generator: torch.Generator | None) -> Draw:
    """Draws from `generator`, or from torch's global one. To be made outside a compiled function, and used anywhere."""
    if generator is None or tracing():
        return partial(_drawn, generator)
    try:
        _known[id(generator)] = generator
    except TypeError:  # before torch 2.5 there are no weak references to it, and torch.compile does without
        return partial(_drawn, generator)
    _operation()
    return partial(_from_known, generator, id(generator), generator.device)


def drawn_by(
    make: Callable[..., Tensor], generator: torch.Generator | None, device: torch.device, *what: Any, **how: Any
) -> Tensor:
    """``make(*what)``, such as torch.rand, for this device: from `generator`, where that draws, or from torch's global one."""
    if generator is None:  # and not said to be: torch cannot trace a draw of a symbolic size so
        return _replayed(partial(make, *what, device=device, **how))
    if tracing():
        text = "torch.compile takes no generator into a graph: pass generator=None, after torch.manual_seed"
        raise complaint(ValueError, f"{text}, or make noise_tunnel(..., generator=generator) outside of what is compiled.")
    return make(*what, device=generator.device, generator=generator, **how).to(device)


def _drawn(generator: torch.Generator | None, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return drawn_by(torch.randn, generator, device, shape, dtype=dtype)


def _from_known(
    generator: torch.Generator, number: int, there: torch.device, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    if tracing():
        return _replayed(lambda: torch.ops.funattr.randn(number, shape, dtype, there).to(device))
    return _drawn(generator, shape, dtype, device)


def uniform_from(generator: torch.Generator | None, device: torch.device, cure: str = "") -> Callable[..., Tensor]:
    """Draws ``uniform(*shape)`` in [0, 1), for choices that are the same for every example: they are made in Python.

    From `generator`, or from torch's global one for this device. Where a choice cannot be made, it is refused.
    """
    text = "coalitions are drawn in Python, which cannot be"
    cure = f"{cure}draw coalitions outside and ask fa.game for their values"
    if tracing():
        raise complaint(ValueError, f"{text} traced: {cure}.")
    where = generator.device if generator is not None else torch.device("cpu") if device.type == "meta" else device
    wide = torch.float32 if where.type == "mps" else torch.float64

    def uniform(*shape: int) -> Tensor:
        try:
            drawn = drawn_by(torch.rand, generator, where, shape, dtype=wide)
        except RuntimeError as error:
            if not transforms_active():
                raise
            raise complaint(ValueError, f"{text} done under torch.func.vmap with randomness='error': {cure}.") from error
        drawn = plain_data(drawn)  # torch.func.grad wraps it, too
        if drawn.shape != shape:
            raise complaint(ValueError, f"{text} done under torch.func.vmap with randomness='different': {cure}.")
        return drawn.cpu().double()

    return uniform


class _Kept:
    """The draws of a call in a compiled function, where no generator can be set back: those after it take them."""

    def __init__(self) -> None:
        self.made: list[Tensor] = []
        self.met = 0


_replays: list[_Kept] = []


def _replayed(draw: Callable[[], Tensor]) -> Tensor:
    if not (tracing() and _replays):
        return draw()
    kept = _replays[-1]
    if kept.met == len(kept.made):
        kept.made.append(draw())
    kept.met += 1
    return kept.made[kept.met - 1]


class Rewound:
    """Calls of a function that all draw the same numbers, from `generators` and from torch's global ones."""

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device):
        default = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
        self.generators = [] if tracing() else [default, *generators]
        self.before = [g.get_state() for g in self.generators]
        self.after: list[Tensor] | None = None
        self.kept = _Kept()

    def rewind(self) -> None:
        for g, state in zip(self.generators, self.before):
            g.set_state(state)

    def again(self, function: Callable[[], Any]) -> Any:
        """What `function` gives with the same numbers as before."""
        self.rewind()
        if not tracing():
            return function()
        self.kept.met = 0
        _replays.append(self.kept)
        try:
            return function()
        finally:
            _replays.pop()

    def begin(self) -> None:
        """Rewind to here from now on."""
        self.before = [g.get_state() for g in self.generators]

    def note(self) -> None:
        """The first call has drawn: the others may take what it made of it."""
        self.after = self.after or [g.get_state() for g in self.generators]

    def resume(self) -> None:
        """Go on behind the numbers of one call."""
        for g, state in zip(self.generators, self.after or []):
            g.set_state(state)


# Dynamo takes no torch.Generator into its graph, but the number of one it does, for an operation of our own.

_known: weakref.WeakValueDictionary[int, torch.Generator] = weakref.WeakValueDictionary()


def _from_number(number: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    # On the device that torch says, which is not the generator's where it has tensors without data.
    return torch.randn(shape, dtype=dtype, device=device, generator=_known[number])


@functools.cache
def _operation() -> torch.library.Library:
    library = torch.library.Library("funattr", "DEF")  # kept: what it defines goes with it
    tags = (torch.Tag.nondeterministic_seeded,)  # two calls are two draws: neither is left out as a copy of the other
    library.define("randn(int generator, SymInt[] shape, ScalarType dtype, Device device) -> Tensor", tags=tags)
    library.impl("randn", _from_number, "BackendSelect")
    library.impl("randn", lambda number, shape, dtype, device: torch.empty(shape, dtype=dtype, device=device), "Meta")
    return library
