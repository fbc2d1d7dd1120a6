"""Layers inside what the model itself maps over or differentiates: a gradient that is right, or words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..close import close_and_not_zero


class Forces(nn.Module):
    """What an energy falls by, with a layer inside the energy: alone on the way, or beside it."""

    def __init__(self, beside: bool, steps: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.inner, self.last = nn.Linear(3, 5).double(), nn.Linear(5, 5).double(), nn.Linear(5, 1).double()
        self.beside, self.steps = beside, steps

    def energy(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.inner(h)) + (h if self.beside else 0)).squeeze(-1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            for _ in range(self.steps):
                x = x if x.requires_grad else x.requires_grad_()
                x = x - 0.1 * torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]
        return x


def by_differences(model: nn.Module, x: Tensor, call: int) -> Tensor:
    """Of the score in what is added to the layer's value."""
    inner: Any = model.inner

    def score(added: Tensor) -> Tensor:
        runs = 0

        def add(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            nonlocal runs
            runs += 1
            return output + added if runs == call + 1 else output

        with inner.register_forward_hook(add):
            return model(x.clone())[:, 0].detach()

    columns = []
    for j in range(5):
        step = torch.zeros(len(x), 5).double()
        step[:, j] = 1e-5
        columns.append((score(step) - score(-step)) / 2e-5)
    return torch.stack(columns, 1)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(("steps", "call"), [(1, 0), (3, 0), (3, 2)])
def test_a_layer_inside_what_the_model_differentiates(steps: int, call: int, beside: bool) -> None:
    model, x = Forces(beside, steps), torch.randn(4, 3).double()
    found = fa.gradient(model, x, layer=fa.output_of("inner", call=call), target=0)
    close_and_not_zero(found, by_differences(model, x, call), 1e-7)


def mapped(net: nn.Sequential, x: Tensor) -> Tensor:
    return torch.func.vmap(net)(x)


def mapped_slopes(net: nn.Sequential, x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.grad(lambda row: net(row).sum()))(x)


def slopes(net: nn.Sequential, x: Tensor) -> Tensor:
    return torch.func.grad(lambda x: net(x).sum())(x)


def pushed(net: nn.Sequential, x: Tensor) -> Tensor:
    return torch.func.jvp(net, (x,), (torch.ones_like(x),))[1]


class Inside(nn.Module):
    def __init__(self, runs: Callable[[nn.Sequential, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)).double()
        self.runs = runs

    def forward(self, x: Tensor) -> Tensor:
        return self.runs(self.net, x)


METHODS: dict[str, Any] = {
    "gradient": fa.gradient,
    "integrated_gradients": fa.integrated_gradients,
    "conductance": fa.conductance,
    "deep_lift": fa.deep_lift,
    "each_target": lambda *args, target, **how: fa.each_target(fa.gradient, [target, 1])(*args, **how),
    "feature_ablation": fa.feature_ablation,
    "activation": lambda *args, target, **how: fa.activation(*args, **how),
    "value_at": lambda model, x, layer, target: fa.split(model, layer).value_at(x),
}


@pytest.mark.parametrize("runs", [mapped, mapped_slopes, slopes, pushed])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:DeepLIFT's rules")
def test_a_layer_inside_torch_func_is_refused(name: str, runs: Any) -> None:
    """Where its value is not that of the batch, and where no gradient comes; replaced, it may be inside a derivative."""
    if name in ("feature_ablation", "activation", "value_at") and runs in (slopes, pushed):
        pytest.skip("there it is the batch's value")
    with pytest.raises(ValueError, match=r"inside a transform of torch\.func that the model makes itself"):
        METHODS[name](Inside(runs), torch.randn(3, 4).double(), layer="net.0", target=0)


@pytest.mark.parametrize("runs", [slopes, pushed])
def test_the_value_inside_a_derivative_can_be_used_after_it(runs: Any) -> None:
    model, x = Inside(runs), torch.randn(3, 4).double()
    wanted = model.net[0](x).detach()
    close_and_not_zero(fa.activation(model, x, layer="net.0") * 2, wanted * 2)
    close_and_not_zero(fa.split(model, "net.0").value_at(x) * 2, wanted * 2)


def test_ablation_inside_a_derivative() -> None:
    model, x = Inside(slopes), torch.randn(3, 4).double()
    found = fa.feature_ablation(model, x, layer="net.0", target=0)
    for j in range(5):
        keep = (torch.arange(5) != j).double()
        with model.net[0].register_forward_hook(lambda module, args, output, keep=keep: output * keep):
            less = model(x)[:, 0].detach()
        close_and_not_zero(found[:, j], model(x)[:, 0] - less)


def test_a_caller_may_map_over_all() -> None:
    """What the caller maps over is no transform of the model's own; nor is what an ablation maps over from its layer on."""
    net, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)).double(), torch.randn(3, 4).double()
    for method in (fa.gradient, fa.integrated_gradients, fa.feature_ablation, fa.deep_lift):
        wanted = method(net, x, layer="0", target=0)
        close_and_not_zero(
            torch.func.vmap(lambda row, method=method: method(net, row[None], layer="0", target=0)[0])(x), wanted
        )
