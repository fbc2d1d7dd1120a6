"""Groups of features: which features go together, what stands in for them, and each group's value back in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core.checks import check_dense
from .._core.real import is_number
from .._torch import any_batch, beside_traces, is_plain, tracing, transforms_active, tree_flatten, tree_unflatten
from .._types import Tree, as_it_is, tensors
from .._words import complaint, kind_of


def one_each(values: Sequence[Tree], size: int) -> tuple[list[list[Tensor | None]], int]:
    """Every scalar feature a group of its own: the ids for each leaf of each value, and the number of groups.

    Integers beside numbers are held. A leaf whose first dimension is not the batch has no examples that could share an id.
    """
    numbers = any(map(is_number, tensors(values)))
    count = 0
    ids: list[list[Tensor | None]] = []
    for value in values:
        ids.append([])
        for leaf in tree_flatten(value)[0]:
            if not isinstance(leaf, Tensor) or (numbers and not is_number(leaf)):
                ids[-1].append(None)
                continue
            shape = (1, *leaf.shape[1:]) if leaf.shape[:1] == (size,) else leaf.shape
            first, count = count, count + math.prod(shape)
            ids[-1].append(torch.arange(first, count, device=leaf.device).reshape(shape))
    return ids, count


def numbered(masks: Sequence[Tree]) -> tuple[list[Tree], int]:
    """The same groups, numbered 0, 1, ... over all masks together, and their number."""
    known = not tracing() and all(map(is_plain, tensors(list(masks))))
    with beside_traces() if known else as_it_is:
        return _numbered(masks)


def _numbered(masks: Sequence[Tree]) -> tuple[list[Tree], int]:
    flat = [tree_flatten(mask) for mask in masks]
    found = [_as_ids(leaf) for leaves, _ in flat for leaf in leaves]
    given = [mask for mask in found if mask is not None]
    if not given:
        raise complaint(ValueError, "feature_mask names no group: leave it out to ablate every feature on its own.")
    count, ids = _compact(torch.cat([mask.reshape(-1).to(given[0].device) for mask in given]))
    parts = iter(torch.split(ids, [mask.numel() for mask in given]))
    renamed = iter([None if mask is None else next(parts).reshape(mask.shape) for mask in found])
    return [tree_unflatten([next(renamed) for _ in leaves], spec) for leaves, spec in flat], count


def _compact(ids: Tensor) -> tuple[int, Tensor]:
    if not (tracing() or ids.is_meta or any_batch()):
        try:
            unique, inverse = torch.unique(ids, return_inverse=True)
            return unique.numel(), inverse
        except RuntimeError:  # vmap over masks
            if not transforms_active():
                raise
    # How many ids differ is in the data, which cannot be seen here: no more than there are, and some groups are empty.
    ordered, order = ids.sort()
    rank = torch.cat([torch.zeros_like(ids[:1]), (ordered[1:] != ordered[:-1]).long().cumsum(0)])
    return ids.numel(), torch.zeros_like(ids).scatter(0, order, rank)


def _as_ids(mask: Any) -> Tensor | None:
    if mask is None:
        return None
    if isinstance(mask, int) and not isinstance(mask, bool):
        return torch.tensor(mask)
    if not isinstance(mask, Tensor):
        cure = ": pass torch.from_numpy(feature_mask)" if isinstance(mask, np.ndarray) else ""
        raise complaint(TypeError, f"feature_mask must hold integer tensors, one id per feature, got {kind_of(mask)}{cure}.")
    if is_number(mask) or mask.dtype == torch.bool:
        text = f"feature_mask is a tensor of {mask.dtype}, expected integers, one id per group: pass feature_mask.long()."
        raise complaint(TypeError, text)
    check_dense(mask, "feature_mask")
    return mask.detach().long()


def spread(differences: Tensor, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``[groups, N]`` to the features: each example's, or where there is no batch up front, that of all examples together."""
    size = differences.shape[1]
    if not size:
        return differences.new_zeros(shape)
    if shape[:1] != (size,):
        return differences.sum(1)[ids].expand(shape).contiguous()
    ids = ids.reshape((1,) * (len(shape) - ids.dim()) + ids.shape)
    flat = ids.reshape(ids.shape[0], math.prod(ids.shape[1:]))
    found = differences.t().index_select(1, flat[0]) if flat.shape[0] == 1 else differences.t().gather(1, flat)
    return found.reshape(size, *ids.shape[1:]).expand(shape).contiguous()
