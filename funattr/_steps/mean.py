"""Sums and means over steps, chunk by chunk: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._core.real import in_single
from .._torch import tree_flatten, tree_unflatten
from .._types import Tree
from .._words import complaint


class Sum:
    """A sum of trees over their leading dimension. What is no tensor stays as it first came."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.spec: Any = None

    def add(self, found: Tree, weights: Tensor | None = None, power: int = 1) -> None:
        """Add the steps of a chunk: each times its weight, or a power of it. Half precision is summed in float32."""
        leaves, self.spec = tree_flatten(found)
        new = [_summed(t, weights, power) if isinstance(t, Tensor) else t for t in leaves]
        check_rows(self.parts, new)
        self.parts = [a + b if isinstance(a, Tensor) else a for a, b in zip(self.parts, new)] if self.parts else new
        self.dtypes = [t.dtype if isinstance(t, Tensor) else None for t in leaves]

    def total(self, count: int = 1) -> Tree:
        """The sum, divided by `count`, in the dtypes of what was added."""
        found = [
            (t / count if count != 1 else t).to(dtype) if isinstance(t, Tensor) else t
            for t, dtype in zip(self.parts, self.dtypes)
        ]
        return tree_unflatten(found, self.spec)


def _summed(t: Tensor, weights: Tensor | None, power: int) -> Tensor:
    wide = in_single(t) if power == 1 else in_single(t) ** power
    if weights is not None:
        wide = wide * weights.to(wide).reshape(-1, *[1] * (t.dim() - 1))
    return wide.sum(0)


def check_rows(some: Sequence[Any], others: Sequence[Any]) -> None:
    """Values of one layer, met at several inputs, must be of one shape."""
    for a, b in zip(some, others):
        if isinstance(a, Tensor) and a.shape != b.shape:
            raise complaint(
                ValueError,
                f"the value at the site has the shape {list(a.shape)} for one input and {list(b.shape)} for another: what it "
                f"holds depends on the data (the tokens of an expert, say), and cannot be compared. Choose a layer around it.",
            )
