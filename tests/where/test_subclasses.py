"""Tensors of a subclass, such as MONAI's: the result of every method is a plain tensor, with the values of the plain input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa


class Meta(Tensor):
    """Operations keep the class, and with it what it carries."""


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)).eval()


METHODS: dict[str, Callable[..., Any]] = {
    "gradient": fa.gradient,
    "input_x_gradient": fa.input_x_gradient,
    "saliency": fa.saliency,
    "integrated_gradients": fa.integrated_gradients,
    "deep_lift": fa.deep_lift,
    "feature_ablation": fa.feature_ablation,
    "grad_cam": lambda *args, **options: fa.grad_cam(*args, layer="1", **options),
    "activation": lambda model, x, target: fa.activation(model, x, layer="1"),
    "noise_tunnel": fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.0),
    "each_target": lambda model, x, target: fa.each_target(fa.saliency, [target])(model, x),
    "relu": fa.relu(fa.gradient),
}


@pytest.mark.parametrize("name", METHODS)
def test_results_are_plain(name: str) -> None:
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    plain = METHODS[name](net(), x, target=1)
    found = METHODS[name](net(), x.as_subclass(Meta), target=1)
    assert type(found) is Tensor
    torch.testing.assert_close(found, plain)


@pytest.mark.parametrize("kind", [tuple, dict])
def test_in_structures(kind: type) -> None:
    def model(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1)

    a, b = torch.randn(2, 3).as_subclass(Meta), torch.randn(2, 3)
    x: Any = (a, b) if kind is tuple else {"a": a, "b": b}
    found = fa.input_x_gradient(model, x)
    assert all(type(part) is Tensor for part in (found if kind is tuple else found.values()))


def test_baselines_of_a_subclass() -> None:
    x = torch.randn(2, 1, 6, 6)
    found = fa.integrated_gradients(net(), x, baselines=torch.zeros(1, 1, 6, 6).as_subclass(Meta), target=1)
    assert type(found) is Tensor


def test_it_can_still_be_differentiated() -> None:
    x = torch.randn(2, 1, 6, 6).as_subclass(Meta).requires_grad_()
    found = fa.input_x_gradient(net(), x, target=1, create_graph=True)
    found.pow(2).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
