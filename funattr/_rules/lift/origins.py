"""Where tensors come from that carry no gradient: parameters, numbers, the site, or around it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class Origins:
    """Where tensors come from that carry no gradient. All that is noted is kept until the pass ends: an id is then its own.

    `fixed` are made of parameters and nothing else. `cut` come from the site, by operations without a gradient: `cuts` are
    their names. `around` says that something else was used, which may depend on the input around the site.
    """

    def __init__(self) -> None:
        self.fixed: dict[int, Tensor] = {}
        self.made: dict[int, Tensor] = {}  # of nothing but numbers
        self.cut: dict[int, Tensor] = {}
        self.cuts: list[str] = []
        self.around: dict[int, weakref.ref[Tensor]] = {}
        self.beside: dict[int, weakref.ref[Tensor]] = {}  # made of that, and of parameters, which require a gradient
        self.traced: list[Tensor] = []  # the same as `cut`, while Dynamo traces, which has no ids
        self.writes = False

    def is_live(self, t: Tensor) -> bool:
        """Whether `t` has a gradient, and not by parameters alone."""
        if not t.requires_grad:
            return False
        made = self.beside.get(id(t))
        return made is None or made() is not t

    def trace(self, given: Iterable[Any], found: Any) -> None:
        """What a call that Dynamo traces made of tensors."""
        dead = isinstance(found, Tensor) and not found.requires_grad
        if dead and any(self.is_traced(t) or (t.requires_grad and not constant(t)) for t in among(given)):
            self.traced.append(found)

    def is_traced(self, t: Tensor) -> bool:
        return any(t is other for other in self.traced)

    def goes_on(self, given: list[tuple[Tensor, bool]], found: Any) -> bool:
        """Whether a call made of what has a gradient, and of parameters, what has one: as most do, and nothing to note."""
        if type(found) is not Tensor or not found.requires_grad:
            return False
        moves = False
        for t, live in given:
            if t is found or not (live or constant(t)):
                return False
            moves = moves or not self.is_fixed(t)
        return moves

    def note(self, func: Any, given: list[tuple[Tensor, bool]], results: list[Tensor], replays: bool) -> None:
        """What a call made of tensors that did require a gradient, or did not."""
        if not given:
            self.made.update((id(t), t) for t in results)
        elif self.is_fixed(given[0][0]) and all(self.is_fixed(t) for t, _ in given):
            if not self.writes:
                self.fixed.update((id(t), t) for t in results if not constant(t))
        else:
            if func is Tensor.__setitem__ or (results and any(results[0] is t for t, _ in given)):  # something is written to
                self.writes = self.writes or bool(self.fixed)
                self.fixed.clear()
                self.made.clear()
                if not given[0][1] and any(live for _, live in given):
                    self.beside.clear()
            if replays:
                self._follow(func, given, results)

    def is_fixed(self, t: Tensor) -> bool:
        return constant(t) or id(t) in self.fixed

    def _follow(self, func: Any, given: list[tuple[Tensor, bool]], results: list[Tensor]) -> None:
        others = [(t, live) for t, live in given if not self.is_fixed(t) and (live or id(t) not in self.made)]
        live = any(live for _, live in others)
        self.around.update((id(t), weakref.ref(t)) for t, live in others if not live and id(t) not in self.cut)
        if live or any(id(t) in self.cut for t, _ in others):
            dead = [t for t in results if not t.requires_grad]
            self.cut.update((id(t), t) for t in dead)
            if live and dead:
                self.cuts.append(getattr(func, "__name__", repr(func)))
        elif others:
            self.beside.update((id(t), weakref.ref(t)) for t in results if t.requires_grad)
        else:
            self.made.update((id(t), t) for t in results)


def among(values: Iterable[Any]) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += among(value)
    return found


def constant(t: Any) -> bool:
    return type(t) is not Tensor and isinstance(t, nn.Parameter)  # the first says it sooner of most
