"""Values at several sites: what they look like, and that none depends on another."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from .._steps.groups import Meta, metas
from .._torch import tracing, transforms_active
from .._types import Tree, copied, map_tensors, tensors
from .._words import complaint
from .model import Bound
from .place import Sites, check_reached, observe
from .tap import Stop
from .watch import Watch

_as_it_is = contextlib.nullcontext()


def look(bound: Bound, x: Tree, sites: Sites, watch: Watch) -> list[list[Meta | None]]:
    """What the values at the sites look like; the model runs no further than the last. Joint sites must be independent."""
    found: list[list[Meta | None]] = [[] for _ in sites.sites]
    joint = len(sites.sites) > 1 and not tracing() and not transforms_active()
    leaves: list[Tensor] = []

    def leaf_of(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1].clone()

    def visit(i: int, value: Tree, shared: bool) -> Tree:
        found[watch.where[i]] = metas(value)
        if joint and leaves and _depends(value, leaves):
            text = (
                f"layer {watch.sites[i].label} depends on another of the layers, and they cannot be replaced together: "
                f"choose layers side by side, or ask for each on its own."
            )
            raise Stop(None, complaint(ValueError, text))
        return map_tensors(leaf_of, value) if joint else value

    with torch.inference_mode(False) if joint else _as_it_is, torch.enable_grad() if joint else _as_it_is:
        for i, site in enumerate(sites.sites):
            if site is None:
                found[i] = metas(x)
                x = map_tensors(leaf_of, copied(x)) if joint else x
        inner = [site._replace(call=site.call or 0) for site in watch.sites[: len(watch.where)]]
        if inner:
            _, run = observe(bound, x, inner, visit, early=True)
            check_reached(bound, run)
    return found


def _depends(value: Tree, leaves: list[Tensor]) -> bool:
    ends = [leaf for leaf in tensors(value) if leaf.requires_grad]
    if not ends:
        return False
    starts = [torch.ones_like(end) for end in ends]
    found = torch.autograd.grad(ends, leaves, starts, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in found)
