"""deep_lift compiled, vmapped and differentiated, on a net that has a bit of everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from funattr import deep_lift
from funattr._rules.lift.secants import SMOOTH, secant

from ..breadth import breadth
from ..operations import OPS, Around
from .test_deep_lift_networks import VitBlock


class Mixed(nn.Module):
    """A bit of everything: in-place ReLU, overlapping pooling, attention, gates, division, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        self.pool, self.block, self.norm = nn.MaxPool2d(3, 2), VitBlock(True), nn.LayerNorm(16)
        self.mid, self.head = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.pool(self.relu(self.bn(self.conv(x)))).flatten(2).transpose(1, 2))
        x = F.silu(self.mid(self.norm(x)), inplace=True) * torch.sigmoid(x)
        x = x / (1 + x**2)
        return self.head(x.mean(1)).softmax(-1)


def mixed() -> tuple[nn.Module, Tensor, Tensor]:
    return Mixed().double().eval(), torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([1, 2, 3])


LAYERS = [None, "relu", "block", ["norm"]]


def tensor(found: Any) -> Tensor:
    return found[0] if isinstance(found, list) else found


@pytest.mark.full
@pytest.mark.parametrize("layer", breadth(LAYERS, lambda layer: layer == "block"), ids=str)
def test_compiled_is_eager_in_one_graph(layer: Any) -> None:
    model, x, target = mixed()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(deep_lift, fullgraph=True, backend=counter)
    for shift in (0, 1):
        wanted = deep_lift(model, x + shift, layer=layer, target=target - shift)
        found = compiled(model, x + shift, layer=layer, target=target - shift)
        torch.testing.assert_close(tensor(found), tensor(wanted), rtol=1e-9, atol=1e-12)
        assert counter.frame_count == 1


COMPILED = ["F.silu", "F.silu in place", "x ** 3", "x / y", "norm", "where", "masked attention", "max", "var", "clamp(min=y)"]
COMPILED += ["clamp_max(y)", "cdist", "bilinear", "torch.norm", "products by name", "choice by name", "attention by name"]


@pytest.mark.parametrize("name", breadth(COMPILED, lambda name: name == "choice by name"))
def test_compiled_operations(name: str) -> None:
    model = Around(OPS[name]).double()
    x = torch.randn(3, 5, dtype=torch.float64)
    found = torch.compile(deep_lift, fullgraph=True, backend="eager")(model, x, baselines=0.3)
    torch.testing.assert_close(found, deep_lift(model, x, baselines=0.3), rtol=1e-9, atol=1e-12)


@pytest.mark.full
def test_compiled_modules_whose_function_dynamo_hides() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Hardswish(True), nn.Linear(8, 7), nn.Hardsigmoid(), nn.Linear(7, 5)).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    for layer in (None, "0", "1", "2"):
        found = torch.compile(deep_lift, fullgraph=True, backend="eager")(model, x, layer=layer, target=1)
        torch.testing.assert_close(found, deep_lift(model, x, layer=layer, target=1), rtol=1e-9, atol=1e-12)
    assert not any("forward" in module.__dict__ for module in model)


HIDDEN: list[Callable[[Tensor], Tensor]] = [
    F.hardswish,
    F.hardsigmoid,
    F.sigmoid,
    F.tanh,
    torch.relu_,
    torch.tanh_,
    torch.sigmoid_,
]


@pytest.mark.parametrize("activation", breadth(HIDDEN, lambda f: f in (F.hardswish, torch.relu_)), ids=lambda f: f.__name__)
def test_compiled_functions_that_dynamo_hides(activation: Callable[[Tensor], Tensor]) -> None:
    """Dynamo takes from torch.overrides which functions a mode sees, and the list lacks these. See funattr/_rules/traced.py."""
    first, last = nn.Linear(6, 8).double(), nn.Linear(8, 5).double()

    def model(x: Tensor) -> Tensor:
        return last(activation(first(x)))

    x = 3 * torch.randn(4, 6, dtype=torch.float64)
    torch._dynamo.reset()
    found = torch.compile(deep_lift, fullgraph=True, backend="eager")(model, x, target=1)
    torch.testing.assert_close(found, deep_lift(model, x, target=1), rtol=1e-9, atol=1e-12)
    missing = (model(x) - model(torch.zeros(1, 6).double()))[:, 1] - found.sum(1)
    assert missing.abs().max() < 1e-9


@pytest.mark.parametrize("mapped", [True, False])
def test_a_secant_in_a_vmap_that_maps_over_it_or_over_something_else(mapped: bool) -> None:
    a, b, k = torch.randn(3, 5), torch.zeros(5), torch.arange(3.0)

    def times(k: Tensor, a: Tensor) -> Tensor:
        return k * secant(torch.tanh, a, b, SMOOTH, alone=True)

    with torch.no_grad():
        found = torch.func.vmap(times, in_dims=(0, 0 if mapped else None))(k, a)
    slopes = a.tanh() / a
    torch.testing.assert_close(found, k[:, None] * slopes if mapped else k[:, None, None] * slopes)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_vmapped_is_looped(layer: Any) -> None:
    model, x, target = mixed()

    def one(part: Tensor, t: Tensor) -> Tensor:
        return tensor(deep_lift(model, part[None], layer=layer, target=t[None]))[0]

    torch.testing.assert_close(torch.func.vmap(one)(x, target), tensor(deep_lift(model, x, layer=layer, target=target)))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_result_can_be_differentiated(layer: Any) -> None:
    model, x, target = mixed()
    x0 = 0.3 * torch.randn(1, 3, 8, 8, dtype=torch.float64)
    weights = torch.randn_like(tensor(deep_lift(model, x, layer=layer, target=target)))

    def f(x: Tensor, x0: Tensor, create_graph: bool = True) -> Tensor:
        found = deep_lift(model, x, baselines=x0, layer=layer, target=target, create_graph=create_graph)
        return (tensor(found) * weights).sum()

    leaves = x.clone().requires_grad_(), x0.clone().requires_grad_()
    f(*leaves).backward()
    slopes = torch.func.grad(f, argnums=(0, 1))(x, x0)
    for i, start in enumerate((x, x0)):
        step = torch.randn_like(start)
        points = [[x, x0], [x, x0]]
        points[0][i], points[1][i] = start + 1e-6 * step, start - 1e-6 * step
        wanted = (f(*points[0], create_graph=False) - f(*points[1], create_graph=False)) / 2e-6
        torch.testing.assert_close((leaves[i].grad * step).sum(), wanted, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(slopes[i], leaves[i].grad)
    assert all(p.grad is not None for p in model.head.parameters())
