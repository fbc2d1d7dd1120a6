"""What combinators share that run a method many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .._steps.ways import Runner
from .._torch import tree_flatten, tree_unflatten
from .._types import Tree, tensors


def run_steps(run: Runner, function: Callable[[Any], Tree], steps: list[Any]) -> Iterator[Tree]:
    """`function` at each of a chunk of steps (structures of tensors): results with a leading dimension."""
    if len(steps) == 1:
        yield as_one(function(steps[0]))
        return
    flat = [tree_flatten(step)[0] for step in steps]
    spec = tree_flatten(steps[0])[1]
    yield from run(function, tree_unflatten([torch.stack(same) for same in zip(*flat)], spec))


def device_of(x: Tree) -> torch.device:
    return next((t.device for t in tensors(x)), torch.device("cpu"))


def as_one(found: Tree) -> Tree:
    """A result with the leading dimension of a chunk of one."""
    leaves, spec = tree_flatten(found)
    return tree_unflatten([leaf[None] if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
