"""Structures of tensors: those that go into a model, and those that a method returns, leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: The structure of an attribution in a form that JSON holds: "leaf", None, or {"tuple" | "list" | "dict": parts}.
Spec = Any


def flatten(tree: Any, name: str = "attribution") -> tuple[dict[str, Tensor], Spec]:
    """The tensors of a structure under names that say where they are, and the structure without them.

    Raises:
        TypeError: something else than tensors, None, tuples, lists and dicts is in it.
        ValueError: two parts have one name, as ``{"a.b": ...}`` and ``{"a": {"b": ...}}`` have.
    """
    if isinstance(tree, Tensor):
        return {name: tree}, "leaf"
    if tree is None:
        return {}, None
    kind = "dict" if isinstance(tree, Mapping) else "list" if isinstance(tree, list) else "tuple"
    if not isinstance(tree, (Mapping, list, tuple)):
        raise TypeError(f"a method must return tensors, or tuples, lists or dicts of them, got {type(tree).__name__}.")
    parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    leaves: dict[str, Tensor] = {}
    specs: list[Spec] = []
    for key, part in parts:
        found, spec = flatten(part, f"{name}.{key}")
        if twice := leaves.keys() & found.keys():
            raise ValueError(f"two parts of a method's result have the name {min(twice)!r}: give their dict other keys.")
        leaves |= found
        specs.append([key if kind == "dict" and isinstance(key, int) else str(key), spec])
    return leaves, {kind: specs}


def names_in(spec: Spec, name: str = "attribution") -> list[str]:
    """The names of the tensors of a structure."""
    if spec is None or spec == "leaf":
        return [] if spec is None else [name]
    return [found for parts in spec.values() for key, part in parts for found in names_in(part, f"{name}.{key}")]


def unflatten(leaves: Mapping[str, Any], spec: Spec, name: str = "attribution") -> Any:
    """The structure again, with anything in the place of the tensors."""
    if spec is None:
        return None
    if spec == "leaf":
        return leaves[name]
    ((kind, parts),) = spec.items()
    built = {key: unflatten(leaves, part, f"{name}.{key}") for key, part in parts}
    return built if kind == "dict" else (list if kind == "list" else tuple)(built.values())


def mapped(function: Callable[..., Any], *trees: Any) -> Any:
    """`function` of the tensors in the same places of structures; what is no tensor stays."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {key: mapped(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)([mapped(function, *parts) for parts in zip(*trees)])
    return function(*trees) if isinstance(first, Tensor) else first


def signature(tree: Any) -> Any:
    """Which structures can be stacked into one batch: those with the same signature."""
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype
    if isinstance(tree, Mapping):
        return tuple((key, signature(part)) for key, part in tree.items())
    if isinstance(tree, (tuple, list)):
        return tuple(map(signature, tree))
    return type(tree)


def as_tensors(value: Any) -> Any:
    """What a data set gives for one example, as tensors: arrays and numbers are made such.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {key: as_tensors(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(as_tensors, value))
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()  # torch warns of what it could overwrite
    try:
        return torch.as_tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        text = f"an example must be a tensor, an array, or a tuple or dict of these, got {type(value).__name__}"
        raise TypeError(f"{text}: make it one in the data set, or with transform=.") from error
