"""What is known of the tensors of a pass: where they come from, as far as rules ask for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..._torch import edge_of, tracing


class Fact(NamedTuple):
    """What a rule may want to know of a tensor."""

    varies: bool = False  # depends on the model's x through floats
    ids: bool = False  # integers of x as they are
    first: bool = False  # x, before any linear operation
    activated: bool = False  # came out of an activation
    root: Tensor | None = None  # the tensor that it is an elementwise function of
    made: Callable[[Tensor], Tensor] | None = None  # that function
    linear: Any = None  # the linear operation that it came out of


UNKNOWN = Fact()


class Facts:
    """Facts by tensor, kept as long as the tensor is."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Fact]] = {}
        self.traced: list[tuple[Tensor, Fact]] = []  # Dynamo knows neither ids nor weak references

    def __getitem__(self, t: Tensor) -> Fact:
        if tracing():
            return next((fact for other, fact in reversed(self.traced) if other is t), UNKNOWN)
        found = self.known.get(id(t))
        return UNKNOWN if found is None or found[0]() is not t else found[1]

    def __setitem__(self, t: Tensor, fact: Fact) -> None:
        if tracing():
            self.traced.append((t, fact))
            return
        key, known = id(t), self.known
        known[key] = (weakref.ref(t, lambda _: known.pop(key, None)), fact)


class Spot(NamedTuple):
    """A tensor as it was: its place in the graph, and its value, whatever is written to it later."""

    place: Any
    value: Tensor


def spot(t: Tensor) -> Spot:
    return Spot(edge_of(t), t.detach().clone())


class Event(NamedTuple):
    """One run of an operation: what went in, and what came out."""

    name: str
    inputs: list[Spot]
    outputs: list[Spot]


class Rules:
    """A set of rules, by kind and by torch's names."""

    def __init__(self, kinds: Mapping[str, Any], named: Mapping[str, Any]):
        self.kinds = dict(kinds)
        self.named = dict(named)

    def of(self, name: str, *kinds: str) -> tuple[str, Any] | None:
        """The narrowest rule for an operation of that name and of these kinds, the narrowest of which comes first."""
        if name in self.named:
            return name, self.named[name]
        return next(((kind, self.kinds[kind]) for kind in kinds if kind in self.kinds), None)
