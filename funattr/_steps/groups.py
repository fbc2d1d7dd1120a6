"""Groups of features: which features go together, what stands in for them, and each group's value back in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.door import may_read
from .._core.where import Sites
from .._torch import is_plain, tracing, transforms_active, tree_flatten, tree_unflatten
from .._types import Tree, tensors
from .._words import complaint, kind_of


class Meta(NamedTuple):
    """A value's leaves without their data: what default groups are made of."""

    shape: tuple[int, ...]
    floating: bool
    device: torch.device


def metas(value: Tree) -> list[Meta | None]:
    """What is to be known about each leaf of `value`; None where it is no tensor."""
    return [
        Meta(tuple(leaf.shape), leaf.is_floating_point(), leaf.device) if isinstance(leaf, Tensor) else None
        for leaf in tree_flatten(value)[0]
    ]


def one_each(values: Sequence[Sequence[Meta | None]], size: int) -> tuple[list[list[Tensor | None]], int]:
    """Every scalar feature a group of its own: the ids for each leaf, and the number of groups.

    Integers beside floating-point leaves are held. A leaf whose first dimension is not the batch has no examples that
    could share an id.
    """
    every = [meta for value in values for meta in value if meta is not None]
    floating = any(meta.floating for meta in every)
    count = 0
    ids: list[list[Tensor | None]] = []
    for value in values:
        ids.append([])
        for meta in value:
            if meta is None or (floating and not meta.floating):
                ids[-1].append(None)
                continue
            shape = (1, *meta.shape[1:]) if meta.shape[:1] == (size,) else meta.shape
            features = math.prod(shape)
            ids[-1].append(torch.arange(count, count + features, device=meta.device).reshape(shape))
            count += features
    return ids, count


def numbered(masks: Sequence[Tree]) -> tuple[list[Tree], int]:
    """The same groups, numbered 0, 1, ... over all masks together, and their number."""
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
    if not (tracing() or ids.is_meta):
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
        raise complaint(TypeError, f"feature_mask must hold integer tensors, one id per feature, got {kind_of(mask)}.")
    if mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool:
        text = f"feature_mask is a tensor of {mask.dtype}, expected integers, one id per group: pass feature_mask.long()."
        raise complaint(TypeError, text)
    return mask.detach().long()


def by_site(given: Tree, sites: Sites, what: str) -> list[Tree]:
    """What `given` says for each site: one number or None holds for all of them."""
    if sites.spec is None:
        return [given]
    if _for_all(given):
        return [given] * len(sites.sites)
    return matched(given, tree_unflatten(list(range(len(sites.sites))), sites.spec), what, "layer", deep=True)


def matched(given: Tree, like: Tree, what: str, label: str, deep: bool = False) -> list[Any]:
    """What `given` says for each leaf of `like`; a number or None holds for all leaves below it, a tensor for its only one.

    With `deep`, what it says for a leaf may have a structure of its own.
    """
    if _for_all(given):
        return [given] * len(tree_flatten(like)[0])
    if isinstance(given, Tensor) and not isinstance(like, Tensor) and len(tensors(like)) == 1:
        return [given if isinstance(leaf, Tensor) else None for leaf in tree_flatten(like)[0]]
    if not isinstance(like, (Mapping, tuple, list)):
        if deep:
            return [given]
        leaves, spec = tree_flatten(given)
        if spec != tree_flatten(like)[1]:
            raise _differs(given, like, what, label)
        return leaves
    if isinstance(like, Mapping):
        # What holds no tensor (a cache) need not be there: a ModelOutput leaves out what is None.
        needed = {key for key in like if key in given or tensors(like[key])} if isinstance(given, Mapping) else set()
        if not isinstance(given, Mapping) or set(given) != needed:
            raise _differs(given, like, what, label)
        pairs = [(given.get(key), like[key]) for key in like]
    else:
        if not isinstance(given, (tuple, list)) or len(given) != len(like):
            raise _differs(given, like, what, label)
        pairs = list(zip(given, like))
    return [entry for ours, theirs in pairs for entry in matched(ours, theirs, what, label, deep)]


def _for_all(given: Any) -> bool:
    return given is None or isinstance(given, (int, float))


def _differs(given: Any, like: Any, what: str, label: str) -> Exception:
    text = f"{what} is {_structure(given)}, and {label} is {_structure(like)}: give {what} the same structure."
    return complaint(ValueError, text)


def _structure(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {', '.join(map(repr, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def check_fits(given: Tensor, leaf: Tensor, what: str, label: str) -> None:
    """Broadcasting must not make `leaf` larger."""
    if given.dim() > leaf.dim() or any(p not in (1, q) for p, q in zip(reversed(given.shape), reversed(leaf.shape))):
        raise complaint(
            ValueError,
            f"{what} has the shape {list(given.shape)}, which does not broadcast to {label} {list(leaf.shape)}: give each "
            f"dimension that size or 1.",
        )


#: The smallest and largest number in a tensor, and whether all of them are whole, by the tensor's id.
Ranges = dict[int, tuple[float, float, bool]]


def ranges(baselines: Tree) -> Ranges:
    """What the data of baselines must be known for, read where it may be."""
    found: Ranges = {}
    if may_read():
        for leaf in tree_flatten(baselines)[0]:
            if isinstance(leaf, Tensor) and is_plain(leaf) and leaf.numel() and not leaf.is_complex():
                low, high = (float(bound) if leaf.is_floating_point() else int(bound) for bound in torch.aminmax(leaf))
                found[id(leaf)] = low, high, not leaf.is_floating_point() or bool((leaf == leaf.trunc()).all())
    return found


def baseline_for(leaf: Tensor, given: Any, known: Ranges, label: str) -> Tensor:
    """`given` as a tensor that broadcasts to `leaf`, in its dtype; an error where the dtype cannot hold it."""
    if isinstance(given, Tensor):
        check_fits(given, leaf, "baselines", label)
        held = (leaf.is_complex() or not given.is_complex()) and (
            id(given) not in known or _holds(leaf.dtype, *known[id(given)])
        )
    elif isinstance(given, (int, float)):
        held = _holds(leaf.dtype, given, given, given == given // 1)
    else:
        hint = ": pass torch.from_numpy(baselines)" if type(given).__name__ == "ndarray" else ""
        raise complaint(TypeError, f"baselines must be numbers or tensors for {label}, got {type(given).__name__}{hint}.")
    if not held:
        name = f"a tensor of {given.dtype}" if isinstance(given, Tensor) else repr(given)
        cure = "finite numbers" if leaf.is_floating_point() else "whole numbers that it can hold, such as a token id"
        raise complaint(ValueError, f"baselines={name} cannot stand in {label}, which is {leaf.dtype}: give {cure}.")
    return torch.as_tensor(given, device=leaf.device, dtype=leaf.dtype)


def _holds(dtype: torch.dtype, low: float, high: float, whole: bool) -> bool:
    if dtype.is_complex:
        return True
    if dtype == torch.bool:
        return whole and low >= 0 and high <= 1
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    return (whole or dtype.is_floating_point) and low >= limits.min and high <= limits.max


def spread(differences: Tensor, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``[groups, N]`` to the features: each example's, or where there is no batch up front, that of all examples together."""
    size = differences.shape[1]
    if not size:
        return differences.new_zeros(shape)
    if shape[:1] != (size,):
        return differences.sum(1)[ids].expand(shape).contiguous()
    ids = ids.reshape((1,) * (len(shape) - ids.dim()) + ids.shape)
    flat = ids.reshape(ids.shape[0], math.prod(ids.shape[1:]))
    found = differences.t().index_select(1, flat[0]) if len(flat) == 1 else differences.t().gather(1, flat)
    return found.reshape(size, *ids.shape[1:]).expand(shape).contiguous()
