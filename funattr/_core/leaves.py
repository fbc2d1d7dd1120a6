"""Leaves that stand for the values at sites, from which a graph begins: made, and looked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._torch import below_vmap, is_mapped, is_view, make_leaf, without_modes
from .._types import Tree, tensors
from .._words import complaint


def leaf_of(t: Tensor, shared: bool, in_level: bool, connected: bool) -> Tensor:
    """`t` as a leaf of the graph to come, `connected` to what came before (a site, an outer transform, the caller's graph)."""
    if in_level or (connected and t.requires_grad):
        leaf = t.clone()
    else:
        leaf = t.detach()
        if shared or is_view(t):  # written to later through another name, the value would change after the fact
            leaf = leaf.clone()
    if leaf.requires_grad:
        return leaf
    return make_leaf(leaf) if in_level else leaf.requires_grad_()


def leaf_below(t: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf below vmap, for all that is mapped at once, and the value as its sum with that leaf of zeros: fresh memory.

    The backward pass then runs without vmap: fused kernels have no batching rule, and the graph is torch's plain one.
    """
    made: list[Tensor] = []
    mapped = is_mapped(t)

    def below(t: Tensor, anchor: Tensor) -> list[Tensor]:
        whole = t if mapped else t.expand(anchor.shape[0], *t.shape)
        # Zeros in the memory of one: the model gets the sum, to write to as it likes, and nobody keeps the points.
        made.append(torch.zeros((), dtype=t.dtype, device=t.device).expand(whole.shape).requires_grad_())
        return [whole + made[0]]

    return below_vmap(below, t, anchor)[0], made[0]


def depends(value: Tree, leaves: Sequence[Tensor], anchor: Tensor | None) -> bool:
    """Whether a value met after a leaf was placed depends on it."""
    if anchor is not None:  # then it is mapped, for nothing else is
        return any(is_mapped(t) for t in tensors(value))
    return connected(value, leaves)


def connected(value: Tree, leaves: Sequence[Tensor]) -> bool:
    """Whether a graph leads from `value` back to one of the leaves."""
    with without_modes():  # a rule's mode has nothing to do with this
        ends = [t.sum() for t in tensors(value) if t.requires_grad]
        return bool(ends) and any(
            g is not None for g in torch.autograd.grad(ends, leaves, allow_unused=True, retain_graph=True)
        )


def dependent() -> Exception:
    return complaint(
        ValueError,
        "the layers depend on each other: a path runs at all of them jointly, and one that feeds another leaves it "
        "nothing to vary. Choose layers side by side, or call the method once for each.",
    )
