"""Leaves of the graph to come, made of values met inside a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._torch import below_vmap, is_mapped, make_leaf, transforms_active
from .._types import Tree, map_tensors
from .real import check_attributable


def leaves_of(value: Tree, shared: bool, label: str, connected: bool = True) -> Tree:
    """`value` with its floating-point tensors turned into leaves of the graph to come, `connected` to what came before."""
    in_level = transforms_active()

    def leaf_of(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        if in_level or (connected and t.requires_grad):
            leaf = t.clone()  # what came before: another site, an outer transform, the caller's own graph
        else:
            leaf = t.detach()
            if shared or t._is_view():  # written to later through another name, the value would change after the fact
                leaf = leaf.clone()
        if leaf.requires_grad:
            return leaf
        return make_leaf(leaf) if in_level else leaf.requires_grad_()

    check_attributable(value, label)
    return map_tensors(leaf_of, value)


class Below:
    """Leaves below vmap, at each site, for all that is mapped at once. `anchor`: any tensor that the vmap maps over.

    The backward pass then runs without vmap: fused kernels have no batching rule, and the graph is torch's plain one.
    """

    def __init__(self, anchor: Tensor, sites: int) -> None:
        self.anchor = anchor
        self.parts: list[list[Tensor]] = [[] for _ in range(sites)]

    def leaf(self, value: Tensor, i: int) -> Tensor:
        """`value`, at site `i`, as a sum with a leaf of zeros: fresh memory, to write to."""
        mapped = is_mapped(value)

        def made(value: Tensor, anchor: Tensor) -> list[Tensor]:
            whole = value if mapped else value.expand(anchor.shape[0], *value.shape)
            # Zeros in the memory of one: the model gets the sum, to write to as it likes, and nobody keeps the points.
            leaf = torch.zeros((), dtype=value.dtype, device=value.device).expand(whole.shape).requires_grad_()
            self.parts[i].append(leaf)
            return [whole + leaf]

        return below_vmap(made, value, self.anchor)[0]

    def leaves(self) -> list[Tensor]:
        """Those of all sites, in the order of the sites and not of the passes through them."""
        return [leaf for part in self.parts for leaf in part]

    def gradients(self, scores: Tensor, slopes: Callable[[Tensor, Sequence[Tensor]], list[Tensor]]) -> list[Tensor]:
        """``slopes(scores, leaves)``, below vmap, as something that vmap maps over."""
        return below_vmap(lambda scores: slopes(scores, self.leaves()), scores)
