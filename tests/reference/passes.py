"""One forward pass with a look at a site: what is there, and what comes of it when something else is put there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import funattr as fa

Leaves = list[Tensor]
Score = Callable[[Any], Tensor]


def leaves(value: Any, integers: bool = False) -> Leaves:
    """The floating-point tensors of a nested value, in order; and the integers."""
    if isinstance(value, Tensor):
        return [value] if integers or value.is_floating_point() else []
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part, integers)]
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in leaves(part, integers)]
    return []


def with_leaves(tree: Any, new: Sequence[Tensor], integers: bool = False) -> Any:
    """The same structure with other tensors where `leaves` looks."""
    rest, (flat, spec) = iter(new), tree_flatten(tree)
    met = [isinstance(t, Tensor) and (integers or t.is_floating_point()) for t in flat]
    return tree_unflatten([next(rest) if here else t for here, t in zip(met, flat)], spec)


def row(tree: Any, i: int) -> Any:
    """Example i alone, with a batch of 1."""
    return tree_map(lambda t: t[i : i + 1] if isinstance(t, Tensor) else t, tree)


def as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def logits(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output["logits"] if isinstance(output, dict) else output.logits


def pick(target: Tensor) -> Score:
    """One class per example, by plain indexing."""
    return lambda output: logits(output)[torch.arange(len(target)), target]


def called(model: Callable[..., Any], x: Any, bound: dict[str, Any]) -> Any:
    """A model may write to what it is given: it gets a copy."""
    x = tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, x)
    if isinstance(x, dict):
        return model(**x, **bound)
    return model(*(x if isinstance(x, tuple) else (x,)), **bound)


def module_of(model: Any, layer: Any) -> nn.Module:
    while isinstance(model, functools.partial):
        model = model.func
    found: nn.Module = model.get_submodule(layer) if isinstance(layer, str) else layer
    return found


def recorded(
    model: Callable[..., Any],
    x: Any,
    site: Any = None,
    put: Leaves | None = None,
    *,
    bound: dict[str, Any] | None = None,
    connected: bool = False,
    integers: bool = False,
) -> tuple[Leaves, Any]:
    """The floating-point tensors at the site as leaves of the graph (those of `put`, if given; the very same ones, if they are
    to stay `connected`), and the output. A site is a layer, `fa.input_of` or `fa.output_of` it, or None for the input."""
    found: Leaves = []
    bound = bound or {}

    def fresh(value: Any) -> Any:
        given = leaves(value, integers) if put is None else put
        found[:] = given if connected else [leaf(t) for t in given]
        return with_leaves(value, [t.clone() for t in found], integers)

    if site is None:
        with torch.enable_grad():
            return found, called(model, fresh(x), bound)
    place: Any = fa.output_of(site) if isinstance(site, (str, nn.Module)) else site
    module, runs = module_of(model, place.layer), 0

    def once(value: Any) -> Any:
        nonlocal runs
        runs += 1
        return fresh(value) if runs - 1 == call else value

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    call = place.call or 0
    if call < 0:
        with module.register_forward_hook(count), torch.enable_grad():
            called(model, x, bound)
        call, runs = call + runs, 0
    if place.inputs:
        handle: Any = module.register_forward_pre_hook(lambda _, args, kwargs: once((args, kwargs)), with_kwargs=True)
    else:
        handle = module.register_forward_hook(lambda _, args, output: once(output))
    with handle, torch.enable_grad():  # with gradients, nothing runs fused, past the hooks
        return found, called(model, x, bound)


def leaf(t: Tensor) -> Tensor:
    t = t.detach().clone()
    return t.requires_grad_() if t.is_floating_point() else t
