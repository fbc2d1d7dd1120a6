"""Recording a baseline pass, and replaying it against the pass at x with DeepLIFT's slopes.

The operations of a model run in the same order at the baseline and at x, so the inputs of the nonlinear ones are kept in a
list, a *tape*, by order of call. Of a baseline whose rows are all the same, the tape holds one row for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MethodWrapperType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..._core.checks import anywhere
from ..._core.plain import unruled
from ..._torch import depth, depth_traced, tracing, transforms_active, without_modes
from ..._types import attributable, broadcasts
from ..spelled import Entry, counterpart, functions
from .origins import ASKS, Origins, among, constant, is_new, parts, sources
from .slopes import Aside


class Met(NamedTuple):
    """An input of an operation, at x and at the baseline: constants both, as far as the slopes' graph goes."""

    own: Tensor
    base: Tensor


@dataclass
class Tape:
    """What one pass leaves for the next. Lists, so that a compiled function may read them after a mode exits."""

    entries: list[tuple[Tensor, ...]] = field(default_factory=list)
    keep: Callable[[Tensor], Tensor] = torch.clone
    end: list[Any] = field(default_factory=list)  # what the score is taken of, or the score that a function has made
    position: list[int] = field(default_factory=lambda: [0])
    apart: dict[str, Tape] = field(default_factory=dict)  # of each operation without a rule

    def of(self, name: str | None) -> Tape:
        """The tape of operations without a rule of that name; without a name, this one.

        Some are about no data, and run in one pass alone: what sharded parameters are gathered by, at the first pass or
        after a backward pass. On a tape of their own they put nothing else out of step.
        """
        return self if name is None else self.apart.setdefault(name, Tape(keep=self.keep))

    def eps(self) -> float:
        """Of the coarsest numbers on it."""
        kinds = {t.dtype for entry in self.entries for t in entry}
        return max((torch.finfo(kind).eps for kind in kinds if kind.is_floating_point), default=0.0)

    def rewind(self) -> None:
        self.position[0] = 0
        self.apart.clear()


class OutOfStep(BaseException):
    """The pass at x does not match the one at the baseline. A BaseException: models catch Exception."""


class Lift(TorchFunctionMode):
    """Gives every operation to its rule, which records (`baseline` is None), or looks up what was recorded; switched on, by
    `active`, from the site on.

    `baseline` is the tape of the baseline pass. `own`, where the result is to be differentiated, is the tape of a plain
    pass at x: there `detach` would cut what the slopes depend on.
    """

    events = None  # of each operation, where somebody asks what goes in and comes out

    def __init__(
        self, rules: Callable[..., Any], tape: Tape, active: list[bool], baseline: Tape | None = None, own: Tape | None = None
    ):
        super().__init__()
        self.rules = rules
        self.tape = tape
        self.active = active
        self.baseline = baseline
        self.own = own
        self.origins = Origins()
        self.scales: list[Tensor] = []  # reciprocals
        self.entry: Entry | None = None  # the operation
        self.unknown: list[str] = []
        self.moved: list[str] = []  # operations with masks or indices that differ, and do not come from the site
        self.level: Any = depth_traced() if tracing() else depth()
        self.infinite = False  # some value was met that is: a mask
        self.inside: list[str] = []  # torch.func transforms of the model's own that were met

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return self._before(func, args, kwargs)
        if tracing():
            if depth_traced() != self.level:
                return self._inside(func, args, kwargs)
            found = self.rules(self, func, args, kwargs)
            found = found.view_as(found) if constant(found) else found  # w.flatten(1) is w in a pass, in a level not
            made, given = args[0] if func is Tensor.__setitem__ else found, sources(func, (*args, *kwargs.values()))
            for some, own in parts(func, given, among((made,))):
                self.origins.trace(some, own)
            return found
        if depth() > self.level:
            return self._inside(func, args, kwargs)
        if type(func) is MethodWrapperType:
            return self._attribute(func, args)
        return func(*args, **kwargs) if func in ASKS else self._seen(func, args, kwargs)

    def _inside(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.inside.append("torch.func inside the model")
        return unruled(func, args, kwargs)

    def _seen(self, func: Any, args: Any, kwargs: Any) -> Any:
        replays, every = self.baseline is not None, (*args, *kwargs.values()) if kwargs else args
        if self.origins.carry(every, replays):  # as most do: nothing to note, unless something is written to
            found = self.rules(self, func, args, kwargs)
            if all(is_new(t, every, replays) for t in (found if type(found) in (tuple, list) else (found,))):
                return found
            given = [(t, replays and t.requires_grad) for t in sources(counterpart(func), every)]
        else:
            given = self._given(counterpart(func), every, replays)
            found = self.rules(self, func, args, kwargs)
        if not (replays and self.origins.goes_on(given, found)):
            with without_modes():
                for some, own in parts(counterpart(func), given, among((found,))):
                    self.origins.note(counterpart(func), some, own, replays)
        return found

    def _given(self, func: Any, every: Sequence[Any], replays: bool) -> list[tuple[Tensor, bool]]:
        """What an operation takes, and whether that has a gradient, before something is written to it."""
        given = [(t, replays and self.origins.is_live(t)) for t in sources(func, every)]
        if func in _ADDS:
            self.added(func, given)
        return given

    def _before(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation before the site."""
        found = unruled(func, args, kwargs)
        if self.baseline is not None and self.origins.of_outside(counterpart(func), (*args, *kwargs.values())):
            self.origins.comes_in(among((found,)))
        return found

    def _attribute(self, func: Any, args: Any) -> Any:
        """An attribute; x.data comes from x as what is detached does."""
        found = func(*args)
        if isinstance(found, Tensor) and found is not args[0]:
            replays = self.baseline is not None
            with without_modes():
                self.origins.note(func, [(args[0], replays and self.origins.is_live(args[0]))], [found], replays)
        return found

    @property
    def name(self) -> str:
        return getattr(self.entry.plain, "__name__", "").split(".")[0].strip("_") if self.entry is not None else ""

    def rule_of(self, entry: Entry) -> Callable[..., Any]:
        rule: Callable[..., Any] = entry.rule
        return rule

    def copied(self, x: Tensor) -> Tensor:
        return x.clone()

    def written(self, x: Tensor, y: Tensor) -> Tensor:
        """`x`, with what an operation in place made of it; a reciprocal from here on, where that is one, and else none."""
        found, scales = x.copy_(y), self.scales
        if scales:
            self.scales = [t for t in scales if t is not found] + [found] * self.is_scale(y)
        return found

    def meet(self, *inputs: Tensor, apart: str | None = None) -> list[Met] | None:
        """The inputs of an operation that has a rule, at x and at the baseline; None while recording, and where none of them
        depends on the site. `apart` is the name of one that has none."""
        base = self._at_baseline(inputs, apart)
        if base is None or (not tracing() and not any(t.requires_grad for t in inputs)):
            return None
        i = self.tape.of(apart).position[0] - 1
        own = [t.detach() for t in inputs] if self.own is None else self.own.of(apart).entries[i]
        if len(base) != len(inputs) or not all(fits(a.shape, b.shape) for a, b in zip(inputs, base)):
            raise OutOfStep
        return [Met(a, b) for a, b in zip(own, base)]

    def ends(self, met: Met) -> Met:
        """Both ends of a step; a number so far off that nothing shows the difference stands for an infinite one. Between ends
        that are infinitely far apart there is no slope, and what a softmax makes of them is finite."""
        return Met(*map(_near, met)) if self.infinite else met

    def _at_baseline(self, inputs: Sequence[Tensor], apart: str | None = None) -> tuple[Tensor, ...] | None:
        """What the next operation was given at the baseline."""
        tape = self.tape.of(apart)
        if self.baseline is None:
            tape.entries.append(tuple(t if constant(t) else self.tape.keep(t) for t in inputs))
            return None
        entries, i = self.baseline.of(apart).entries, tape.position[0]
        tape.position[0] = i + 1
        if i < len(entries):
            return entries[i]
        if apart is not None and not any(t.requires_grad for t in inputs):
            return None
        raise OutOfStep

    def _are_others(self, given: Sequence[Tensor]) -> bool:
        """Whether what the next operation is given was seen to be something else at the baseline."""
        base = self._at_baseline(given)
        if base is None or tracing():
            return False
        return any(not fits(a.shape, b.shape) or anywhere(a != b) for a, b in zip(given, base))

    def differ(self, *choices: Tensor, of: Sequence[Tensor] = ()) -> None:
        """Notes an operation whose masks or indices are others at the baseline. Rows `of` a table are a gate."""
        if self._are_others(choices) and (not any(map(self.follows, choices)) or not of or any(map(self.origins.is_live, of))):
            (self.unknown if any(map(self.follows, choices)) else self.moved).append(self.name)

    def added(self, func: Any, given: list[tuple[Tensor, bool]]) -> None:
        """Notes where what is added to something comes from elsewhere than the site, and is another at the baseline."""
        origins = self.origins
        steps = [t for t, _ in given if origins.is_step(t) and id(t) not in origins.numbers]
        if not steps or all(origins.is_step(t) or id(t) in origins.numbers for t, _ in given):
            return
        if self._are_others(steps) and not any(map(self.follows, steps)) and any(live for _, live in given):
            self.moved.append(func.__name__.strip("_"))

    def settled(self, t: Tensor, met: Met) -> Met:
        """What has no gradient: as it is at both ends if it comes from the site, otherwise as it is at x."""
        if self.follows(t):
            return met
        if not (tracing() or self.moved) and anywhere(met.own != met.base):
            self.moved.append(self.name)
        return Met(met.own, met.own)

    def scale(self, found: Any, *made_of: Any, force: bool = False) -> Any:
        """`found`, noted as a reciprocal, if what it is `made_of` has been one; or by `force`."""
        if self.baseline is not None and isinstance(found, Tensor) and (force or any(map(self.is_scale, made_of))):
            self.scales.append(found)
        return found

    def is_scale(self, t: Any) -> bool:
        return any(t is other for other in self.scales)

    def follows(self, t: Tensor) -> bool:
        """Whether `t` comes from the site, and no gradient can say so."""
        return self.origins.is_traced(t) if tracing() else id(t) in self.origins.cut

    def steers(self, t: Tensor) -> bool:
        """Whether `t` has no share of what it is a factor of, say: a mask, a count, whatever it is cast to, or cut off."""
        if not t.is_floating_point():
            return True
        if tracing():
            known = any(t is other for other in self.origins.traced_steps)
        else:
            known = id(t) in self.origins.steps
        return not self.origins.is_live(t) and (known or self.follows(t))

    def constant(self, t: Any) -> bool:
        """Whether `t` is known to be the same at x and at the baseline."""
        return constant(t) if tracing() else self.origins.is_fixed(t)

    def varies(self, t: Any) -> bool:
        return attributable(t) and not self.constant(t)

    def constants(self) -> AbstractContextManager[Any]:
        """Slopes have a graph only where the result is to be differentiated."""
        if self.own is not None:
            return contextlib.nullcontext()
        return torch.no_grad() if tracing() or not transforms_active() else Aside()


_ADDS = functions("add __add__ __radd__ __iadd__ sub subtract rsub __sub__ __rsub__ __isub__")


def fits(shape: Sequence[int], base: Sequence[int]) -> bool:
    """Whether a baseline's tensor serves the one at x: same shape, but for dimensions of size 1."""
    if shape == base or len(shape) != len(base) or (base[0] == 1 and shape[1:] == base[1:]):  # most have one row for all
        return len(shape) == len(base)
    return broadcasts(base, shape)


def far_off(t: Tensor) -> float:
    """What stands for infinity among numbers like these: its exponential is 0, and eight of it are no overflow."""
    return min(1e9, torch.finfo(t.dtype).max / 8)


def _near(t: Tensor) -> Tensor:
    return t.clamp(-far_off(t), far_off(t)) if t.is_floating_point() else t
