"""Whether a map is where it should be."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._types import Layer, Model, Target, Tree, broadcasts, tensors
from .._words import check_real, complaint, door, kind_of
from ._agreement import sizes
from ._judged import attributions, flat_rows, judged, resolved


@door
def pointing_game(
    explained: Any,
    model: Model | None = None,
    x: Tree = None,
    *,
    regions: Tensor,
    tolerance: float = 0,
    layer: Layer = None,
    target: Target = None,
) -> Tensor:
    """Whether the largest attribution lies in a region: the pointing game.

    1 where the largest entry lies in the region, or within `tolerance` of it, else 0. Equal maxima share: the part of them that
    hits, so that a constant map gets the region's share of the area.

    Args:
        explained: a method, called once, ``explained(model, x, target=target)``, with `layer` where one is named; or what it
            returned. Options are bound by `functools.partial`.
        model: an `nn.Module` or any callable; needed where `explained` is a method.
        x: the input, batch first; needed where `explained` is a method.
        regions: where they should be: a bool tensor that broadcasts to the attributions ``[N, C, *S]``.
        tolerance: how far outside still hits: an Euclidean distance in places of ``*S``, inclusive.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.

    Returns:
        ``[N]``, from 0 to 1, without a unit; higher is better.

    Raises:
        ValueError: `regions` do not broadcast, `tolerance` is negative, or the attributions hold NaN or inf.
        TypeError: `regions` is no bool tensor, there is no model for a method, or there is more than one map.

    Example:
        >>> import torch, funattr as fa
        >>> maps = torch.tensor([[[1.0, 9.0, 2.0]], [[5.0, 5.0, 0.0]]])  # [N, C, S]
        >>> fa.metrics.pointing_game(maps, regions=torch.tensor([False, True, True]))
        tensor([1.0000, 0.5000])

    References:
        Zhang et al., Top-down Neural Attention by Excitation Backprop, 2016, https://arxiv.org/abs/1608.00507
    """
    found, inside = _map_and_region(explained, model, x, regions, layer, target)
    check_real(tolerance, "tolerance")
    if not tolerance >= 0:
        raise complaint(ValueError, f"tolerance must not be negative, got {tolerance}.")
    flat = flat_rows(found)
    if not flat.shape[1]:
        return flat.sum(1)
    best = flat == flat.amax(1, keepdim=True)
    hits = best & _within(inside, tolerance).expand_as(found).reshape(flat.shape)
    return (hits.sum(1) / best.sum(1)).to(found.dtype)


@door
def relevance_mass(
    explained: Any,
    model: Model | None = None,
    x: Tree = None,
    *,
    regions: Tensor,
    layer: Layer = None,
    target: Target = None,
) -> Tensor:
    """How much of the positive attribution lies in a region.

    ``sum of max(a, 0) in the region / sum of max(a, 0)``, 0 where nothing is positive.

    Args:
        explained: a method, called once, ``explained(model, x, target=target)``, with `layer` where one is named; or what it
            returned. Options are bound by `functools.partial`.
        model: an `nn.Module` or any callable; needed where `explained` is a method.
        x: the input, batch first; needed where `explained` is a method.
        regions: where they should be: a bool tensor that broadcasts to the attributions ``[N, C, *S]``.
        layer: where: None (the input), a dotted name, a module, `input_of`, `output_of`, or a list, tuple or dict of these.
        target: what: None, a class, one class per example, an index, ``"argmax"``, a callable, or `neuron`. See `score`.

    Returns:
        ``[N]``, from 0 to 1, without a unit; higher is better.

    Raises:
        ValueError: `regions` do not broadcast, or the attributions hold NaN or inf.
        TypeError: `regions` is no bool tensor, there is no model for a method, or there is more than one map.

    Example:
        >>> import torch, funattr as fa
        >>> fa.metrics.relevance_mass(torch.tensor([[[1.0, 3.0, -2.0]]]), regions=torch.tensor([False, True, True]))
        tensor([0.7500])

    References:
        Arras, Osman & Samek, CLEVR-XAI, 2022, https://arxiv.org/abs/2003.07258
    """
    found, inside = _map_and_region(explained, model, x, regions, layer, target)
    wide = flat_rows(found).double().clamp(min=0)
    wide = wide / sizes(wide)
    total = wide.sum(1)
    mass = torch.where(inside.expand_as(found).reshape(wide.shape), wide, 0.0).sum(1)
    return (mass / torch.where(total == 0, 1.0, total)).to(found.dtype)


def _map_and_region(
    explained: Any, model: Model | None, x: Tree, regions: Any, layer: Layer, target: Target
) -> tuple[Tensor, Tensor]:
    if callable(explained):
        if model is None or x is None:
            text = f"{'model' if model is None else 'x'} is missing, which a method needs"
            raise complaint(TypeError, f"{text}: pass model and x after it, or what it returned alone.")
        found = attributions(explained, model, x, layer, resolved(model, x, target))
    else:
        found = judged(explained)
    maps = tensors(found)
    if len(maps) != 1:
        raise complaint(TypeError, f"the attributions are {len(maps)} tensors, and a region is of one: pass that one.")
    return maps[0], _region(regions, maps[0])


def _region(regions: Any, found: Tensor) -> Tensor:
    """The region with the map's number of dimensions, on its device."""
    if not isinstance(regions, Tensor) or regions.dtype != torch.bool:
        given = f"a tensor of {regions.dtype}" if isinstance(regions, Tensor) else kind_of(regions)
        cure = "regions > 0" if isinstance(regions, Tensor) else "torch.as_tensor(regions, dtype=torch.bool)"
        raise complaint(TypeError, f"regions must be a bool tensor, got {given}: pass {cure}.")
    shape, size = regions.shape, found.shape
    if not broadcasts(shape, size):
        text = f"regions {list(shape)} do not broadcast to the attributions {list(size)}"
        if len(shape) == len(size) - 1 and shape[0] == size[0] and shape[1:] == size[2:]:
            raise complaint(ValueError, f"{text}: they have no dimension for channels, pass regions[:, None].")
        maps = "; a map made at a layer is brought to the size of the region by fa.interpolate" if len(size) > 2 else ""
        raise complaint(ValueError, f"{text}: give each dimension that size or 1{maps}.")
    return regions.to(found.device).reshape((1,) * (len(size) - len(shape)) + shape)


def _within(inside: Tensor, tolerance: float) -> Tensor:
    """Where a place of the region is no farther than `tolerance` away, in the dimensions after the channels.

    The square of the distance, one dimension after another: the least of what it was at each place there, and the way to that.
    """
    if not tolerance or inside.dim() < 3:
        return inside
    square = torch.where(inside, 0.0, torch.inf).double()
    for dim in range(2, inside.dim()):
        best, size = square.clone(), square.shape[dim]
        for way in range(1, min(math.floor(min(tolerance, size)), size - 1) + 1):
            for here, there in ((0, way), (way, 0)):
                near = best.narrow(dim, here, size - way)
                near.copy_(torch.minimum(near, square.narrow(dim, there, size - way) + way**2))
        square = best
    return (square.sqrt() <= tolerance) & square.isfinite()
