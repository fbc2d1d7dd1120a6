"""What the tests compare with: plain autograd with a hook, and nothing of funattr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from funattr._core.where import Place

from .flow import flow


def leaves(value: Any) -> list[Tensor]:
    """The floating-point tensors of a nested value, in order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in leaves(part)]
    return []


def as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def value_and_gradient(
    model: nn.Module, x: Any, layer: Any, score: Callable[[Any], Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Values and gradients at a site, flat, by one recorded forward pass; the value is copied before anyone writes to it."""
    kept: list[list[Tensor]] = []

    def keep(value: Any) -> Any:
        # A new tensor per leaf, connected: gradients are asked for it, and the model goes on with a copy of it.
        found: list[Tensor] = []

        def swap(part: Any) -> Any:
            if isinstance(part, Tensor):
                if not part.is_floating_point():
                    return part
                fresh = part.clone() if part.requires_grad else part.clone().requires_grad_()
                found.append(fresh)
                return fresh.clone()
            if isinstance(part, dict):
                return {k: swap(v) for k, v in part.items()}
            if isinstance(part, tuple):
                return tuple(swap(v) for v in part)
            return part

        handed = swap(value)
        kept.append(found)
        return handed

    arguments = x if isinstance(x, tuple) else (x,)
    arguments = tuple(part.clone() for part in arguments)
    if layer is None:
        output = model(*(keep(part) for part in arguments))
        values = [leaf for found in kept for leaf in found]
    else:
        place = layer if isinstance(layer, Place) else Place(layer, False, None)
        module = model.get_submodule(place.layer) if isinstance(place.layer, str) else place.layer
        arguments = tuple(part.requires_grad_() if part.is_floating_point() else part for part in arguments)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return keep(args), keep(kwargs)

        def after(_: nn.Module, args: Any, output: Any) -> Any:
            return keep(output)

        handle = (
            module.register_forward_pre_hook(before, with_kwargs=True) if place.inputs else module.register_forward_hook(after)
        )
        try:
            output = model(*(part.clone() for part in arguments))
        finally:
            handle.remove()
        if place.inputs:  # each run appended its args and its kwargs
            kept = [args + kwargs for args, kwargs in zip(kept[::2], kept[1::2])]
        values = kept[place.call or 0]
    gradients = torch.autograd.grad(score(output).sum(), values, allow_unused=True)
    return values, [torch.zeros_like(v) if g is None else g for v, g in zip(values, gradients)]


def logits(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output["logits"] if isinstance(output, dict) else output.logits  # type: ignore[no-any-return]


def pick(target: Tensor) -> Callable[[Any], Tensor]:
    """One class per example, by plain indexing."""
    return lambda output: logits(output)[torch.arange(len(target)), target]


def swapped(model: nn.Module, x: Any, layer: Any, change: Callable[[list[Tensor]], list[Tensor]]) -> Any:
    """The model's output with `change` applied to the flat value at a site: hooks, and nothing of funattr."""
    runs = [0]

    def new(value: Any) -> Any:
        leaves, spec = tree_flatten(value)
        found = iter(change([leaf.clone() for leaf in leaves if isinstance(leaf, Tensor)]))
        return tree_unflatten([next(found) if isinstance(v, Tensor) else v for v in leaves], spec)

    def once(call: int | None) -> bool:
        runs[0] += 1
        return call is None or runs[0] - 1 == call % total

    args = tuple(part.clone() for part in (x if isinstance(x, tuple) else (x,)))
    if layer is None:
        return model(*new(args))
    place = layer if isinstance(layer, Place) else Place(layer, False, None)
    module = model.get_submodule(place.layer) if isinstance(place.layer, str) else place.layer
    total = 0

    def count(*_: Any) -> None:
        nonlocal total
        total += 1

    with module.register_forward_hook(count), torch.enable_grad():  # with gradients, nothing runs fused
        model(*(part.clone() for part in args))
    if place.inputs:
        hook = module.register_forward_pre_hook(
            lambda _, args, kwargs: new((args, kwargs)) if once(place.call) else None, with_kwargs=True
        )
    else:
        hook = module.register_forward_hook(lambda _, args, out: new(out) if once(place.call) else None)
    with hook, torch.enable_grad():
        return model(*args)


def looped(
    model: nn.Module, x: Any, layer: Any, score: Callable[[Any], Tensor], baseline: float = 0.0, masks: Any = None
) -> list[Tensor]:
    """One plain forward pass per group."""
    seen: list[Tensor] = []

    def look(value: list[Tensor]) -> list[Tensor]:
        seen[:] = [leaf.clone() for leaf in value]
        return value

    whole = score(swapped(model, x, layer, look)).detach()
    size = len(whole)
    if masks is None:
        masks, start = [], 0
        for leaf in seen:
            shape = torch.Size((1, *leaf.shape[1:])) if leaf.shape[0] == size else leaf.shape
            masks.append((torch.arange(shape.numel()) + start).reshape(shape))
            start += shape.numel()
    masks = [mask.expand(leaf.shape) for mask, leaf in zip(masks, seen)]
    found = [torch.zeros(leaf.shape, dtype=whole.dtype) for leaf in seen]
    for group in sorted({int(i) for mask in masks for i in mask.unique()}):
        away = [mask == group for mask in masks]
        values = [torch.where(a, torch.tensor(baseline, dtype=leaf.dtype), leaf) for a, leaf in zip(away, seen)]
        loss = whole - score(swapped(model, x, layer, lambda _, values=values: values)).detach()  # type: ignore[misc]
        for result, a in zip(found, away):
            lost = loss.reshape(-1, *(1,) * (a.dim() - 1)) if a.shape[0] == size else loss.sum()
            result[a] = lost.expand(a.shape)[a]
    return found


def gauss(n: int) -> Iterator[tuple[float, float]]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist())


def at(x: Any, a: float, start: float = 0.0) -> Any:
    """The point ``a`` of the straight path from a number to x."""
    return tuple(at(t, a, start) for t in x) if isinstance(x, tuple) else a * x + (1 - a) * start


def path_at_site(
    model: nn.Module, x: Any, layer: Any, score: Callable[[Any], Tensor], n: int, start: float = 0.0
) -> list[Tensor]:
    """Integrated gradients from ``start``, the path at the site, one node at a time."""
    seen: list[list[Tensor]] = []

    def look(value: list[Tensor]) -> list[Tensor]:
        seen.append([leaf.detach().clone() for leaf in value])
        return value

    origin = x * 0 if isinstance(x, Tensor) and not x.is_floating_point() else at(x, 0, start)
    swapped(model, x, layer, look)
    swapped(model, origin, layer, look)
    ends, starts = seen
    total = [torch.zeros_like(v) for v in ends]
    for a, w in gauss(n):
        point = [(v0 + a * (v - v0)).requires_grad_() for v, v0 in zip(ends, starts)]
        out = swapped(model, x, layer, lambda _, point=point: [p.clone() for p in point])  # type: ignore[misc]
        found = torch.autograd.grad(score(out).sum(), point, allow_unused=True)
        total = [t if g is None else t + w * g * (v - v0) for t, g, v, v0 in zip(total, found, ends, starts)]
    return total


def path_in_input(
    model: nn.Module, x: Any, layer: Any, score: Callable[[Any], Tensor], n: int, start: float = 0.0
) -> tuple[list[Tensor], list[Tensor]]:
    """Internal influence and conductance from ``start``, the path in the input, one node at a time."""
    nodes, weights = zip(*gauss(n))
    pairs = [value_and_gradient(model, at(x, a, start), layer, score) for a in nodes]
    ends = [value_and_gradient(model, at(x, a, start), layer, score)[0] for a in (0, 1)]
    influence, through = [], []
    for i, first in enumerate(ends[0]):
        gradients, values = [pair[1][i] for pair in pairs], [pair[0][i] for pair in pairs]
        influence.append(sum((w * g for w, g in zip(weights, gradients)), 0 * first).detach())
        through.append(flow(nodes, weights, gradients, values, [first, ends[1][i]]).detach())
    return influence, through
