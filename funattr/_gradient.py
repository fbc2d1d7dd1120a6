"""Methods made of a value and its gradient, once."""

from __future__ import annotations

import torch
from torch import Tensor

from ._backward import at_site
from ._bind import bind
from ._check import method
from ._site import read, resolve
from ._types import Layer, Model, Target, Tree, map_floats, map_tensors


@method
def activation(model: Model, x: Tree, *, layer: Layer, create_graph: bool = False) -> Tree:
    sites = resolve(bound := bind(model), layer)
    with torch.set_grad_enabled(create_graph and torch.is_grad_enabled()):
        values = read(bound, x, sites.sites)
    return sites.build(values if create_graph else [map_tensors(torch.detach, value) for value in values])


@method
def gradient(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Tree:
    return at_site(model, x, layer, target, create_graph)[1]


@method
def saliency(model: Model, x: Tree, *, layer: Layer = None, target: Target = None, create_graph: bool = False) -> Tree:
    return map_floats(torch.abs, at_site(model, x, layer, target, create_graph)[1])


@method
def input_x_gradient(
    model: Model,
    x: Tree,
    *,
    layer: Layer = None,
    target: Target = None,
    multiply_by_inputs: bool = True,
    create_graph: bool = False,
) -> Tree:
    value, slope = at_site(model, x, layer, target, create_graph)
    return map_floats(torch.mul, value, slope) if multiply_by_inputs else slope


@method
def grad_cam(
    model: Model, x: Tree, *, layer: Layer, target: Target = None, channel_dim: int = 1, create_graph: bool = False
) -> Tree:
    value, slope = at_site(model, x, layer, target, create_graph)
    return map_floats(lambda v, g: cam(v, g, channel_dim), value, slope)


def cam(value: Tensor, slope: Tensor, channel_dim: int) -> Tensor:
    channel = channel_dim % value.dim()
    space = [d for d in range(1, value.dim()) if d != channel]
    weight = slope.mean(space, keepdim=True) if space else slope
    return (weight * value).sum(channel, keepdim=True)
