"""Sums and means over many runs, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor

from .._torch import tree_flatten, tree_unflatten
from .._types import Tree
from .._words import complaint

T = TypeVar("T")


class Sum:
    """A sum over the leading dimension of what is added: memory does not grow with the number of steps."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def add(self, found: Tree, weights: Tensor | None = None, power: int = 1) -> None:
        """Add a chunk of steps, ``[c, ...]`` in any structure: weighted, or their powers."""
        new: list[Any] = tree_flatten(found)[0]
        for i, t in enumerate(new):
            if isinstance(t, Tensor):
                wide = t if t.element_size() >= 4 else t.float()
                if power != 1:
                    wide = wide**power
                if weights is not None:
                    wide = wide * weights.to(wide).reshape(-1, *[1] * (t.dim() - 1))
                new[i] = wide.sum(0)
        check_rows(self.parts, new)
        self.parts = [a + b if isinstance(a, Tensor) else a for a, b in zip(self.parts, new)] if self.parts else new

    def total(self, like: T, count: int = 1) -> T:
        """The sum, or for a `count` the mean, in the structure and the types of `like`."""
        leaves, spec = tree_flatten(like)
        found: T = tree_unflatten([_in_type(part, leaf, count) for part, leaf in zip(self.parts, leaves)], spec)
        return found


def _in_type(part: Any, leaf: Any, count: int) -> Any:
    if not isinstance(part, Tensor):
        return part
    part = part if count == 1 else part / count
    return part.to(leaf.dtype) if leaf.is_floating_point() else part


def check_rows(some: Sequence[Any], others: Sequence[Any]) -> None:
    """Values of one layer, met at several inputs, must be of one shape."""
    for a, b in zip(some, others):
        if isinstance(a, Tensor) and a.shape != b.shape:
            raise complaint(
                ValueError,
                f"the value at the site has the shape {list(a.shape)} for one input and {list(b.shape)} for another: what it "
                f"holds depends on the data (the tokens of an expert, say), and cannot be compared. Choose a layer around it.",
            )
