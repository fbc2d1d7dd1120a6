"""What combinators share that run a method many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .._steps.points import together
from .._steps.ways import Runner
from .._types import Tree, map_tensors, tensors


def run_steps(run: Runner, function: Callable[[Any], Tree], steps: list[Any]) -> Iterator[Tree]:
    """`function` at each of a chunk of steps (structures of tensors): results with a leading dimension."""
    if len(steps) == 1:
        yield as_one(function(steps[0]))
    else:
        yield from run(function, together(torch.stack, steps))


def device_of(x: Tree) -> torch.device:
    return next((t.device for t in tensors(x)), torch.device("cpu"))


def as_one(found: Tree) -> Tree:
    """A result with the leading dimension of a chunk of one."""
    return map_tensors(lambda t: t[None], found)
