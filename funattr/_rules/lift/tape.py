"""Recording a baseline pass, and replaying it against the pass at x with DeepLIFT's slopes.

The operations of a model run in the same order at the baseline and at x, so the inputs of the nonlinear ones are kept in a
list, a *tape*, by order of call. Of a baseline whose rows are all the same, the tape holds one row for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..._core.kernels import unruled
from ..._torch import tracing, transforms_active, without_modes


class Met(NamedTuple):
    """An input of an operation, at x and at the baseline: constants both, as far as the slopes' graph goes."""

    own: Tensor
    base: Tensor


@dataclass
class Tape:
    """What one pass leaves for the next. Lists, so that a compiled function may read them after a mode exits."""

    entries: list[tuple[Tensor, ...]] = field(default_factory=list)
    keep: Callable[[Tensor], Tensor] = torch.clone
    position: list[int] = field(default_factory=lambda: [0])


class OutOfStep(BaseException):
    """The pass at x does not match the one at the baseline. A BaseException: models catch Exception."""


class Ledger:
    """Records (`baseline` is None), or looks up what was recorded; switched on, by `active`, from the site on.

    `baseline` is the tape of the baseline pass. `own`, where the result is to be differentiated, is the tape of a plain
    pass at x: there `detach` would cut what the slopes depend on.
    """

    def __init__(self, tape: Tape, active: list[bool], baseline: Tape | None = None, own: Tape | None = None):
        self.tape = tape
        self.active = active
        self.baseline = baseline
        self.own = own

    def meet(self, *inputs: Tensor) -> list[Met] | None:
        """The inputs of an operation that has a rule, at x and at the baseline; None while recording."""
        if self.baseline is None:
            self.tape.entries.append(tuple(t if constant(t) else self.tape.keep(t) for t in inputs))
            return None
        i = self.tape.position[0]
        self.tape.position[0] = i + 1
        if i >= len(self.baseline.entries):
            raise OutOfStep
        base = self.baseline.entries[i]
        if self.inert(*inputs):
            return None
        own = [t.detach() for t in inputs] if self.own is None else self.own.entries[i]
        if len(base) != len(inputs) or not all(fits(a.shape, b.shape) for a, b in zip(inputs, base)):
            raise OutOfStep
        return [Met(a, b) for a, b in zip(own, base)]

    def constants(self) -> AbstractContextManager[Any]:
        """Slopes have a graph only where the result is to be differentiated."""
        if self.own is not None:
            return contextlib.nullcontext()
        return torch.no_grad() if tracing() or not transforms_active() else _Aside()

    def inert(self, *inputs: Tensor) -> bool:
        """Whether none of the inputs depends on the site, as far as can be told."""
        return not tracing() and self.baseline is not None and not any(t.requires_grad for t in inputs)


class _Aside(torch.no_grad):
    """Without a graph, and unseen by other modes: under vmap there is one for attention, and slopes take many operations."""

    def __enter__(self) -> None:
        super().__enter__()
        self.modes = without_modes()
        self.modes.__enter__()

    def __exit__(self, *exception: Any) -> None:
        try:
            self.modes.__exit__(*exception)
        finally:
            super().__exit__(*exception)


class Lift(TorchFunctionMode, Ledger):
    """Gives every operation to its rule."""

    def __init__(
        self, rules: Callable[..., Any], tape: Tape, active: list[bool], baseline: Tape | None = None, own: Tape | None = None
    ):
        TorchFunctionMode.__init__(self)
        Ledger.__init__(self, tape, active, baseline, own)
        self.rules = rules
        self.unknown: list[str] = []
        self.suspects: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return unruled(func, args, kwargs)
        return self.rules(self, func, args, kwargs)


def constant(t: Tensor) -> bool:
    """Whether `t` is known to be the same at x and at the baseline."""
    return isinstance(t, nn.Parameter)


def fits(shape: Sequence[int], base: Sequence[int]) -> bool:
    """Whether a baseline's tensor serves the one at x: same shape, but for dimensions of size 1."""
    return len(shape) == len(base) and all(b in (a, 1) for a, b in zip(shape, base))
