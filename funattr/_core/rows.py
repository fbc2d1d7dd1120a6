"""Several targets of one call: passes that the calls for each of them share, and what these left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._torch import tracing, transforms_active
from .._types import Neuron, Target, Tree, tensors
from .score import score_of


@dataclass(frozen=True, eq=False)
class Every:
    """Targets of one pass: their scores are a list, and what is found for them is a list that has each one's in turn."""

    targets: tuple[Target, ...]


@dataclass(eq=False)
class Shared:
    """What calls of a method leave for each other, one call for each target: in the order in which the first one made it."""

    targets: tuple[Target, ...]
    together: int = 1  # how many backward passes run at once
    made: list[Any] = field(default_factory=list)

    def row(self, index: int) -> Row:
        """The target number `index`, for one call."""
        return Row(self, index)


@dataclass(eq=False)
class Row:
    """One of several targets: a callable of the output like others, and to what knows it the passes that all share."""

    shared: Shared
    index: int
    met: int = 0

    def __call__(self, output: Any) -> Tensor:
        return score_of(output, self.plain)

    @property
    def plain(self) -> Target:
        """The target alone."""
        return self.shared.targets[self.index]

    @property
    def every(self) -> Every:
        """All of them."""
        return Every(self.shared.targets)

    def take(self, make: Callable[[], Any]) -> Any:
        """What the first call made here."""
        made = self.shared.made
        if self.met == len(made):
            made.append(make())
        self.met += 1
        return made[self.met - 1]


def reads_output(target: Target) -> bool:
    """Whether a target is made of the output: a neuron is not, and the predicted class is one of its own for each call."""
    return not isinstance(target, (Neuron, str))


def own_row(target: Target, make: Callable[[Every], Sequence[Tree]]) -> Tree:
    """The row's own of what is made for every target, once."""
    assert isinstance(target, Row)
    found: list[Any] = target.take(lambda: list(make(target.every)))
    mine, found[target.index] = found[target.index], None
    return mine


def shares(target: Target) -> bool:
    """Whether the target is one of several whose passes can be shared here: a transform's values die with it."""
    return isinstance(target, Row) and not (tracing() or transforms_active())


def once(target: Target, make: Callable[[], Any]) -> Any:
    """What is the same for all targets, made for the first of several."""
    return target.take(make) if isinstance(target, Row) and shares(target) else make()


def alone(target: Target) -> Target:
    """The target itself, where passes cannot be shared."""
    return target.plain if isinstance(target, Row) else target


def same_input(x: Tree, other: Tree) -> bool:
    """Whether two calls ask about the same input: some method of one's own may not."""
    some, others = tensors(x), tensors(other)
    same = (a is b or (a.shape == b.shape and torch.equal(a, b)) for a, b in zip(some, others))
    return len(some) == len(others) and all(same)


def each_of(target: Target | Every) -> tuple[Target, ...]:
    """The targets of one pass."""
    return target.targets if isinstance(target, Every) else (target,)
