"""Baselines: where a path or a comparison starts, in every form a caller may give them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.door import is_finite, may_read
from .._torch import is_plain, tree_flatten, tree_unflatten
from .._types import Tree, attributable
from .._words import complaint, kind_of


def references(x: Tree, baselines: Any, *, ids: bool) -> Tree:
    """The baselines in the structure of `x`: each tensor of x's dtype, with batch 1 where one reference serves all.

    Integer tensors stay at x's value; with `ids`, a baseline given for them counts, and a scalar is the id where x holds
    integers only: of tokens, but not of what says where they are.
    """
    leaves, spec = tree_flatten(x)
    only_ids = not any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves)
    given = _given(x, baselines, leaves, spec)
    if ids and only_ids and all(reference is None for reference in given):
        text = "baselines hold every input at x's own value, so there is nothing to compare: give one for the tokens."
        raise complaint(ValueError, text)
    found = []
    for leaf, reference in zip(leaves, given):
        held = not ids or reference is None or (_everywhere(baselines) and not only_ids)
        if isinstance(leaf, Tensor) and not leaf.is_floating_point() and held:
            reference = leaf
        found.append(_reference(leaf, reference) if isinstance(leaf, Tensor) else leaf)
    return tree_unflatten(found, spec)


def distribution(x: Tree, baselines: Any, *, ids: bool) -> tuple[Tree, int]:
    """Baselines ``[n_baselines, ...]`` in the structure of `x`, and how many there are. Those of several inputs go together.

    None stands for what is held at x's value: integers beside floating-point inputs, unless `ids` and they have baselines of
    their own, and those that the caller holds (masks).
    """
    if callable(baselines) and not isinstance(baselines, Tensor):
        baselines = baselines(x)
    leaves, spec = tree_flatten(x)
    given = _given(x, baselines, leaves, spec)
    only_ids = not any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves)
    found: list[Any] = []
    for leaf, references in zip(leaves, given):
        held = not ids or references is None or (_everywhere(baselines) and not only_ids)
        if not isinstance(leaf, Tensor) or (not leaf.is_floating_point() and held):
            found.append(None)
            continue
        if not isinstance(references, Tensor):
            references = torch.full((1,), _number(references, leaf), device=leaf.device)
        if references.dim() == leaf.dim() - 1 and references.dim() > 0 and references.shape == leaf.shape[1:]:
            text = f"baselines {list(references.shape)} lack the leading dimension of a distribution: pass baselines[None]."
            raise complaint(ValueError, text)
        references = references.reshape(-1, *references.shape[1:]) if references.dim() else references[None]
        while references.dim() < leaf.dim():
            references = references.unsqueeze(-1)
        count = references.shape[0]
        found.append(_broadcast(_same_kind(references, leaf), (count, *leaf.shape[1:]), "[n_baselines, ...]"))
    counts = sorted({t.shape[0] for t in found if t is not None})
    if len(counts) > 1:
        text = f"the baselines of the inputs are joint samples and must be equally many, got {counts}."
        raise complaint(ValueError, text)
    if not counts or not counts[0]:
        raise complaint(ValueError, "baselines is an empty distribution: pass at least one reference, [n_baselines, ...].")
    return tree_unflatten(found, spec), counts[0]


#: Keyword inputs of language models that are no tokens: what a number stands in for is not these.
_NO_TOKENS = ("mask", "position_ids", "token_type_ids")


def _everywhere(baselines: Any) -> bool:
    """Whether it is one number for all inputs."""
    return not isinstance(baselines, (Tensor, tuple, list, Mapping))


def _tokens(x: Tree, leaves: list[Any]) -> list[bool]:
    """Which integer leaves of x one id for all positions can stand in for."""
    names = [str(name) for name in x for _ in tree_flatten(x[name])[0]] if isinstance(x, Mapping) else [""] * len(leaves)
    return [getattr(t, "dtype", None) != torch.bool and not name.endswith(_NO_TOKENS) for name, t in zip(names, leaves)]


def _given(x: Tree, baselines: Any, leaves: list[Any], spec: Any) -> list[Any]:
    """One baseline per leaf of x, as the caller gave it; None for integers that one number does not stand in for."""
    if isinstance(x, Tensor):
        return [baselines]
    if isinstance(baselines, Tensor) and len(leaves) > 1:
        text = f"x is a {type(x).__name__} of {len(leaves)} inputs: give a scalar, or one baseline for each, got a tensor."
        raise complaint(ValueError, text)
    if _everywhere(baselines):
        return [baselines if attributable(leaf) or token else None for leaf, token in zip(leaves, _tokens(x, leaves))]
    if isinstance(baselines, Tensor):
        return [baselines] * len(leaves)
    baselines = tuple(baselines) if isinstance(x, tuple) and isinstance(baselines, list) else baselines
    parts = tree_flatten(baselines)[0]
    if type(x) is dict and isinstance(baselines, Mapping) and set(x) == set(baselines):
        parts = [part for name in x for part in tree_flatten(baselines[name])[0]]
    elif tree_flatten(baselines)[1] != spec:
        raise complaint(
            ValueError, f"baselines must be a scalar or have the structure of x ({_shape_of(x)}), got {_shape_of(baselines)}."
        )
    return parts


def _shape_of(tree: Tree) -> str:
    if isinstance(tree, Mapping):
        return f"a dict with {', '.join(map(repr, tree))}"
    odd = [part for part in tree if not isinstance(part, (Tensor, int, float, type(None)))]
    return f"a {type(tree).__name__} of {len(tree)}" + (f" that holds {kind_of(odd[0])}" if odd else "")


def _number(value: Any, leaf: Tensor) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise complaint(TypeError, f"baselines must be numbers or tensors, got {kind_of(value)}.")
    if value != value or value in (math.inf, -math.inf):
        raise complaint(ValueError, f"baselines={value} is not a finite number.")
    if leaf.is_floating_point():
        return float(value)
    if value != int(value):
        raise complaint(ValueError, f"baselines={value} cannot be held by an input of {leaf.dtype}: pass an integer id.")
    return int(value)


def _reference(leaf: Tensor, reference: Any) -> Tensor:
    if not isinstance(reference, Tensor):
        value = _number(reference, leaf)
        return torch.full((1, *leaf.shape[1:]), value, dtype=leaf.dtype, device=leaf.device)
    batch = reference.shape[0] if reference.dim() == leaf.dim() else 1
    shape = (leaf.shape[0] if batch == leaf.shape[0] else 1, *leaf.shape[1:])
    return _broadcast(_same_kind(reference, leaf), shape, f"{list(leaf.shape)} (batch 1 or {leaf.shape[0]})")


def _same_kind(reference: Tensor, leaf: Tensor) -> Tensor:
    """`reference` in the dtype of `leaf`, on its device, and fit to start from."""
    if reference.is_complex() and not leaf.is_complex():
        raise complaint(
            ValueError, f"baselines of {reference.dtype} cannot be held by an input of {leaf.dtype}: pass real ones."
        )
    if reference.is_floating_point():
        if not leaf.is_floating_point():
            text = f"baselines of {reference.dtype} cannot be held by an input of {leaf.dtype}: pass integer ids."
            raise complaint(ValueError, text)
        if may_read() and is_plain(reference) and not is_finite(reference):
            raise complaint(ValueError, "baselines hold NaN or inf.")
    return reference.to(device=leaf.device, dtype=leaf.dtype)


def _broadcast(reference: Tensor, shape: tuple[int, ...], expected: str) -> Tensor:
    behind = len(shape) - reference.dim()
    if behind < 0 or any(size not in (1, wanted) for size, wanted in zip(reference.shape, shape[behind:])):
        raise complaint(
            ValueError, f"baselines {list(reference.shape)} do not broadcast to {expected}: give each reference x's own shape."
        )
    return reference.expand(shape)


def full_batch(reference: Tree, x: Tree) -> Tree:
    """`reference` with one row for each example of `x`."""
    leaves, spec = tree_flatten(reference)
    others = tree_flatten(x)[0]
    return tree_unflatten(
        [a.expand(b.shape) if isinstance(a, Tensor) and a.shape != b.shape else a for a, b in zip(leaves, others)], spec
    )
