"""What is known of the tensors of a pass: where they come from, as far as rules ask for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ..._torch import tracing


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
