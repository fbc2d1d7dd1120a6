"""Trees, in the one pytree registry that model libraries (transformers' ModelOutput) register their outputs with."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils._pytree import TreeSpec, tree_flatten
from torch.utils._pytree import tree_unflatten as _tree_unflatten

from .traces import tracing


def tree_unflatten(leaves: Iterable[Any], spec: TreeSpec) -> Any:
    """The leaves in their structure; in a plain tuple for a NamedTuple that refuses them, as a PackedSequence does None."""
    leaves = list(leaves)
    if tracing():
        return _tree_unflatten(leaves, spec)
    try:
        return _tree_unflatten(leaves, spec)
    except Exception:
        return _built(iter(leaves), spec)


def _built(leaves: Iterator[Any], spec: Any) -> Any:
    if spec.is_leaf() if hasattr(spec, "is_leaf") else not spec.children_specs:  # torch 2.0 has no is_leaf
        return next(leaves) if spec.num_leaves else _tree_unflatten([], spec)
    children = spec.children() if hasattr(spec, "children") else spec.children_specs
    parts = [_built(leaves, child) for child in children]
    try:
        return _tree_unflatten(parts, TreeSpec(spec.type, spec.context, [_LEAF] * len(parts)))
    except Exception:
        if spec.type is not namedtuple:
            raise
        return tuple(parts)


_LEAF: Any = tree_flatten(0)[1]
