"""The methods as a good user would write them for one model: a forward hook, `autograd.grad`, and a loop.

Short and honest: one step after another, nothing checked, the model's parameters left to require gradients as they do.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor | None]


@contextlib.contextmanager
def hooked(layer: nn.Module, change: Change) -> Iterator[None]:
    """What `change` returns for the layer's value takes its place, unless it is None."""
    handle = layer.register_forward_hook(lambda module, inputs, value: change(value))
    try:
        yield
    finally:
        handle.remove()


def activation(model: Any, x: Tensor, layer: nn.Module) -> Tensor:
    kept: list[Tensor] = []
    with torch.no_grad(), hooked(layer, kept.append):
        model(x)
    return kept[0]


def value_and_gradient(model: Any, x: Tensor, layer: nn.Module, target: int) -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []

    def leaf(value: Tensor) -> Tensor:
        kept.append(value.detach().requires_grad_())
        return kept[0].clone()  # what comes next may be in-place

    with hooked(layer, leaf):
        score = model(x)[:, target].sum()
    (gradient,) = torch.autograd.grad(score, kept[0])
    return kept[0].detach(), gradient


def input_x_gradient(model: Any, x: Tensor, layer: nn.Module, target: int) -> Tensor:
    value, gradient = value_and_gradient(model, x, layer, target)
    return value * gradient


def grad_cam(model: Any, x: Tensor, layer: nn.Module, target: int, channel_dim: int = 1) -> Tensor:
    value, gradient = value_and_gradient(model, x, layer, target)
    positions = [d for d in range(1, value.dim()) if d != channel_dim % value.dim()]
    return (value * gradient.mean(positions, keepdim=True)).sum(channel_dim, keepdim=True)


def each_grad_cam(model: Any, x: Tensor, layer: nn.Module, targets: range, channel_dim: int = 1) -> Tensor:
    return torch.stack([grad_cam(model, x, layer, target, channel_dim) for target in targets])


def gradient(model: Any, x: Tensor, target: int) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, target].sum(), leaf)[0]


def saliency(model: Any, x: Tensor, target: int) -> Tensor:
    return gradient(model, x, target).abs()


def smooth_grad(model: Any, x: Tensor, target: int, samples: int, stdev: float) -> Tensor:
    total = torch.zeros_like(x)
    for _ in range(samples):
        total += gradient(model, x + stdev * torch.randn_like(x), target)
    return total / samples


def guided_backprop(model: Any, x: Tensor, target: int) -> Tensor:
    handles = [
        module.register_full_backward_hook(lambda module, inward, outward: (inward[0].clamp(min=0),))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        return gradient(model, x, target)
    finally:
        for handle in handles:
            handle.remove()


def guided_grad_cam(model: Any, x: Tensor, layer: nn.Module, target: int) -> Tensor:
    cam = F.interpolate(grad_cam(model, x, layer, target).relu(), x.shape[2:])
    return guided_backprop(model, x, target) * cam


def nodes(n: int) -> tuple[list[float], list[float]]:
    """Gauss-Legendre on [0, 1]."""
    at, weights = np.polynomial.legendre.leggauss(n)
    return ((at + 1) / 2).tolist(), (weights / 2).tolist()


def in_place_of(leaf: Tensor, value: Tensor) -> Tensor:
    return leaf.clone()


def integrated_gradients(model: Any, x: Tensor, layer: nn.Module, target: int, n: int) -> Tensor:
    end, start = activation(model, x, layer), activation(model, torch.zeros_like(x), layer)
    total = torch.zeros_like(end)
    for a, weight in zip(*nodes(n)):
        leaf = (start + a * (end - start)).requires_grad_()
        with hooked(layer, partial(in_place_of, leaf)):
            score = model(x)[:, target].sum()
        total += weight * torch.autograd.grad(score, leaf)[0]
    return total * (end - start)


def integrated_gradients_of_the_input(model: Any, x: Tensor, target: int, n: int) -> Tensor:
    total = torch.zeros_like(x)
    for a, weight in zip(*nodes(n)):
        total += weight * gradient(model, a * x, target)
    return total * x


def internal_influence(model: Any, x: Tensor, layer: nn.Module, target: int, n: int) -> Tensor:
    total: Any = 0
    for a, weight in zip(*nodes(n)):
        total = total + weight * value_and_gradient(model, a * x, layer, target)[1]
    return total


def conductance(model: Any, x: Tensor, layer: nn.Module, target: int, n: int) -> Tensor:
    """Gradients at the nodes, times how fast the value changes there; what that misses of its way, at the mean gradient."""
    steps, weights = nodes(n)
    met = [value_and_gradient(model, a * x, layer, target) for a in steps]
    start, end = activation(model, torch.zeros_like(x), layer), activation(model, x, layer)
    places, values = [0.0, *map(float, steps), 1.0], [start, *(value for value, _ in met), end]
    total, gained, mean = (torch.zeros_like(start) for _ in range(3))
    for i, (weight, (_, slope)) in enumerate(zip(weights, met), 1):
        nearest = np.argsort([abs(place - places[i]) for place in places], kind="stable")[:8].tolist()
        rate: Any = sum(_derivative([places[k] for k in nearest], nearest.index(j)) * values[j] for j in nearest)
        total, gained, mean = total + weight * slope * rate, gained + weight * rate, mean + weight * slope
    return total + (end - start - gained) * mean


def _derivative(places: list[float], j: int) -> float:
    """At the first place, the derivative of the polynomial that is 1 at the j-th, and 0 at the others."""
    at, others = places[0], [p for k, p in enumerate(places) if k not in (0, j)]
    if j == 0:
        return sum(1 / (at - p) for p in others)
    return math.prod(at - p for p in others) / math.prod(places[j] - p for p in [at, *others])


def gradient_shap(model: Any, x: Tensor, layer: nn.Module, target: int, baselines: Tensor, samples: int) -> Tensor:
    total: Any = 0
    end = activation(model, x, layer)
    for _ in range(samples):
        start = baselines[torch.randint(len(baselines), (len(x),))]
        a = torch.rand(len(x), *[1] * (x.dim() - 1)).to(x)
        slope = value_and_gradient(model, start + a * (x - start), layer, target)[1]
        total = total + slope * (end - activation(model, start, layer))
    return total / samples


def feature_ablation(model: Any, x: Tensor, layer: nn.Module, target: int, mask: Tensor) -> Tensor:
    with torch.no_grad():
        score = model(x)[:, target]
        total: Any = 0
        for group in range(int(mask.max()) + 1):
            inside = mask == group
            with hooked(layer, partial(Tensor.masked_fill, mask=inside, value=0)):
                without = model(x)[:, target]
            total = total + inside * (score - without).reshape(-1, *[1] * (mask.dim() - 1))
    return total
