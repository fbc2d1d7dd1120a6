"""Leaves of the graph below vmap, for all that is mapped at once.

The backward pass then runs without vmap: fused kernels have no batching rule, and the graph is torch's plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._torch import autograd_function


class Below:
    """The leaves at each site. `anchor`: any tensor that the vmap maps over."""

    def __init__(self, anchor: Tensor, sites: int) -> None:
        self.anchor = anchor
        self.parts: list[list[Tensor]] = [[] for _ in range(sites)]

    def leaf(self, value: Tensor, i: int) -> Tensor:
        """`value`, at site `i`, as a sum with a leaf of zeros: fresh memory, to write to."""
        return _Leaf.apply(value, self.anchor, self, i)  # type: ignore[no-any-return, no-untyped-call]

    def leaves(self) -> list[Tensor]:
        """Those of all sites, in the order of the sites and not of the passes through them."""
        return [leaf for part in self.parts for leaf in part]

    def gradients(self, scores: Tensor, slopes: Callable[[Tensor, Sequence[Tensor]], list[Tensor]]) -> list[Tensor]:
        """``slopes(scores, leaves)``, below vmap, as something that vmap maps over."""
        found: tuple[Tensor, ...] = _Slopes.apply(scores, self.anchor, self, slopes)  # type: ignore[no-untyped-call]
        return list(found)


@autograd_function
class _Leaf(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, anchor: Tensor, below: Below, i: int) -> Tensor:
        raise NotImplementedError  # only ever mapped

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, value: Tensor, anchor: Tensor, below: Below, i: int) -> tuple[Tensor, int]:
        whole = value
        if in_dims[0] is None:
            whole = value.expand(info.batch_size, *value.shape)
        elif in_dims[0] != 0:  # else not even a view is made, of which a leaf would be a copy
            whole = value.movedim(in_dims[0], 0)
        # A leaf of zeros in the memory of one: the model gets the sum, to write to as it likes, and nobody keeps the points.
        leaf = torch.zeros((), dtype=value.dtype, device=value.device).expand(whole.shape).requires_grad_()
        below.parts[i].append(leaf)
        return whole + leaf, 0


@autograd_function
class _Slopes(torch.autograd.Function):
    @staticmethod
    def forward(scores: Tensor, anchor: Tensor, below: Below, slopes: Any) -> Tensor:
        raise NotImplementedError  # only ever mapped

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: Any, scores: Tensor, anchor: Tensor, below: Below, slopes: Any) -> tuple[Any, Any]:
        found = tuple(slopes(scores, below.leaves()))
        return found, (0,) * len(found)
