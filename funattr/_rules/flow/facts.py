"""What is known of the tensors of a pass: where they come from, as far as rules ask for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..._torch import edge_of


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
    """Facts by tensor, for one pass."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Fact]] = {}

    def __getitem__(self, t: Tensor) -> Fact:
        found = self.known.get(id(t))
        return UNKNOWN if found is None or found[0]() is not t else found[1]

    def __setitem__(self, t: Tensor, fact: Fact) -> None:
        self.known[id(t)] = (weakref.ref(t), fact)


class Traced(Facts):
    """The same where Dynamo traces, which knows neither ids nor weak references."""

    def __init__(self) -> None:
        self.facts: list[tuple[Tensor, Fact]] = []

    def __getitem__(self, t: Tensor) -> Fact:
        return next((fact for other, fact in reversed(self.facts) if other is t), UNKNOWN)

    def __setitem__(self, t: Tensor, fact: Fact) -> None:
        self.facts.append((t, fact))


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
