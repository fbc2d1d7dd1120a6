"""What the tests compare with: plain autograd with a hook, and nothing of funattr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from funattr._site import Place


def leaves(value: Any) -> list[Tensor]:
    """The floating-point tensors of a nested value, in order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in leaves(part)]
    return []


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
