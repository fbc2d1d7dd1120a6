"""deep_lift: completeness of every rule, the paper by hand, Captum where it is right, and what the arguments mean."""

from __future__ import annotations

import functools
import re
import warnings
from typing import Any

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from funattr import deep_lift, deep_lift_shap

from .. import models
from ..operations import OPS, Around, assert_complete, difference


@pytest.mark.parametrize("name", OPS)
@pytest.mark.filterwarnings("ignore:The operator 'aten::")
def test_every_operation_in_every_spelling_is_complete(name: str) -> None:
    model = Around(OPS[name]).double().eval()
    x = torch.randn(3, 5, dtype=torch.float64) * 2
    for baselines in (0.3, torch.randn(3, 5, dtype=torch.float64)):
        if name in ("matmul 2d", "addmm", "linear of varying", "conv of varying"):  # examples are mixed
            x = x[:1]
            baselines = baselines if isinstance(baselines, float) else baselines[:1]
        found = deep_lift(model, x, baselines=baselines)
        assert_complete(found, difference(model, x, baselines, lambda y: y))


# Against the paper, by hand.


def test_rescale_by_hand() -> None:
    first, second, last = (nn.Linear(i, o).double() for i, o in ((4, 6), (6, 5), (5, 3)))
    model = nn.Sequential(first, nn.ReLU(), second, nn.Sigmoid(), last)
    x, x0 = torch.randn(7, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    h, h0 = first(x), first(x0)
    k, k0 = second(h.relu()), second(h0.relu())
    slope = (k.sigmoid() - k0.sigmoid()) / (k - k0)
    wanted = (last.weight[2] * slope) @ second.weight * ((h.relu() - h0.relu()) / (h - h0)) @ first.weight
    found = deep_lift(model, x, baselines=x0, target=2, multiply_by_inputs=False)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(deep_lift(model, x, baselines=x0, target=2), wanted * (x - x0), rtol=1e-9, atol=1e-12)


def test_integers_beside_floats_are_held() -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(3, 4)

        def forward(self, x: Tensor, kind: Tensor) -> Tensor:
            return torch.tanh(x * self.table(kind)).sum(1)

    model = Picks().double()
    x, kind, many = torch.randn(5, 4).double(), torch.tensor([0, 1, 2, 0, 1]), torch.randn(3, 4).double()
    found, held = deep_lift_shap(model, (x, kind), baselines=(many, kind))
    assert held is None
    looped = [deep_lift(model, (x, kind), baselines=(one[None], kind))[0] for one in many]
    torch.testing.assert_close(found, sum(looped) / 3)
    gained = model(x, kind) - sum(model(one.expand(5, 4), kind) for one in many) / 3
    torch.testing.assert_close(found.sum(1), gained)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["F.gelu", "x ** 3", "softmax", f"nn.{nn.LayerNorm(6)}"])
def test_close_to_the_baseline_the_slope_is_the_derivative(name: str, dtype: torch.dtype) -> None:
    model = Around(OPS[name]).to(dtype)
    x = torch.randn(3, 5, dtype=dtype)
    wanted = fa.gradient(model.double(), x.double()).to(dtype)
    model.to(dtype)
    for step in (0.0, 1e-12, 1e-7):
        found = deep_lift(model, x, baselines=x - step, multiply_by_inputs=False)
        torch.testing.assert_close(found, wanted, rtol=2e-4, atol=1e-3 if dtype == torch.float32 else 1e-5)


# What the arguments mean.


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 5)).double()


def test_frozen_weights_and_neurons_and_scores() -> None:
    model = mlp().requires_grad_(False)
    x = torch.randn(4, 6, dtype=torch.float64)
    rows, labels = torch.arange(4), torch.tensor([0, 1, 2, 3])
    assert_complete(deep_lift(model, x, target=2), difference(model, x, 0.0, lambda y: y[:, 2]))
    assert_complete(deep_lift(model, x, target=fa.neuron("2", 3)), difference(model[:3], x, 0.0, lambda y: y[:, 3]))
    found = deep_lift(model, x, layer="0", target=fa.neuron("3", lambda v: v.softmax(1)[rows, labels]))
    assert_complete(found, difference(model[:4], x, 0.0, lambda v: v.softmax(1)[rows, labels]))

    def log_probability(output: Tensor) -> Tensor:
        return output.log_softmax(1)[rows, labels]

    assert_complete(deep_lift(model, x, target=log_probability), difference(model, x, 0.0, log_probability))
    best = model(x).argmax(1)
    torch.testing.assert_close(deep_lift(model, x, target="argmax"), deep_lift(model, x, target=best))


def test_attribution_func_takes_the_place_of_the_product() -> None:
    model, x = mlp(), torch.randn(4, 6, dtype=torch.float64)
    m = deep_lift(model, x, baselines=0.5, target=1, multiply_by_inputs=False)
    seen = []

    def func(multipliers: Tensor, value: Tensor, baseline: Tensor) -> Tensor:
        seen.append((multipliers.shape, value.shape, baseline.shape))
        return multipliers * 2 + (value - baseline)

    torch.testing.assert_close(deep_lift(model, x, baselines=0.5, target=1, attribution_func=func), m * 2 + (x - 0.5))
    assert seen == [(x.shape, x.shape, x.shape)]


def test_several_layers_are_one_joint_site() -> None:
    model = models.Two().double()
    x = (torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64))
    found = deep_lift(model, x, layer={"a": "conv", "b": "fc"}, target=2)
    with torch.no_grad():
        wanted = (model(*x) - model(*(torch.zeros_like(t) for t in x)))[:, 2]
    assert_complete(torch.cat([found["a"].flatten(1), found["b"]], 1), wanted)
    both = deep_lift(model, x, target=2)
    assert_complete(torch.cat([both[0].flatten(1), both[1]], 1), wanted)
    for layers in (["conv", "head"], [None, "conv"]):
        with pytest.raises(ValueError, match=r"deep_lift\(.*\): the layers depend on each other"):
            deep_lift(model, x, layer=layers, target=2)


def test_a_model_that_folds_its_batch_gets_one_reference_per_example() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            w = self.first(x).reshape(x.shape[0] * 3, 2, 4)
            return self.last(F.gelu(torch.softmax(w @ w.mT, -1) @ w).reshape(x.shape).mean(1))

    model, x = Windows().double(), torch.randn(3, 6, 4, dtype=torch.float64)
    assert_complete(deep_lift(model, x, target=1), difference(model, x, 0.0, lambda y: y[:, 1]))


def test_an_operation_without_a_rule_is_named_once() -> None:
    model = Around(lambda h, g: torch.cumprod(torch.cumprod(h, 1), 1)).double()
    with pytest.warns(UserWarning, match="cumprod is not linear") as caught:
        deep_lift(model, torch.randn(3, 5, dtype=torch.float64))
    assert len(caught) == 1
    unpool = Around(lambda h, g: F.max_unpool2d(*F.max_pool2d(h.unsqueeze(1), 2, return_indices=True), 2)).double()
    with pytest.warns(UserWarning, match="max_unpool2d is not linear"):  # it is, as long as it puts back to the same places
        deep_lift(unpool, torch.randn(3, 5, dtype=torch.float64), baselines=torch.randn(3, 5, dtype=torch.float64))
    # linear, and unknown to the table: no warning
    deep_lift(Around(lambda h, g: torch.trapezoid(h)).double(), torch.randn(3, 5, dtype=torch.float64))


class Swish(torch.autograd.Function):
    """As memory-efficient EfficientNets write it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        s = torch.sigmoid(ctx.saved_tensors[0])
        return g * (s + ctx.saved_tensors[0] * s * (1 - s))


@torch.jit.script
def scripted(h: Tensor, g: Tensor) -> Tensor:
    return torch.tanh(h) * torch.sigmoid(g)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("layer", [None, "left"])
@pytest.mark.parametrize(
    ("op", "name"),
    [(lambda h, g: Swish.apply(h) * g, "the autograd.Function Swish"), (lambda h, g: scripted(h, g), "scripted code")],
)
def test_what_the_rules_cannot_see_is_named(op: Any, name: str, layer: Any) -> None:
    model, x = Around(op).double(), torch.randn(3, 5, dtype=torch.float64)
    for method in (deep_lift, functools.partial(deep_lift_shap, baselines=torch.zeros_like(x))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            method(model, x, layer=layer)
        told = [str(one.message) for one in caught if "one after another" not in str(one.message)]  # vmap has no rule for it
        assert len(told) == 1
        assert re.search(f"do not reach into {name}, .* need not sum", told[0])
    with pytest.warns(UserWarning, match=f"do not reach into {name}"):
        deep_lift(model, x, target=lambda y: 2 * y)
    # nothing of the kind on the way from the layer to the score
    deep_lift(model, x, target=fa.neuron("right", 3))


def test_errors_are_in_the_users_words() -> None:
    model, x = mlp(), torch.randn(4, 6, dtype=torch.float64)
    for baselines, message in [
        (torch.zeros(3, 6), r"baselines \[3, 6\] do not broadcast"),
        ((0.0,), "baselines must be numbers or tensors|structure of x"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            deep_lift(model, x, baselines=baselines, target=1)

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.tanh().exp() if x.abs().sum() > 0 else x).sum(1)

    with pytest.raises(ValueError, match="takes different paths at x and at the baseline"):
        deep_lift(Branches(), x)


class Scaled(nn.Module):
    """timm's LayerScale in place: what `x.mul_` overwrites is saved for the gradient of the parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)
        self.gamma, self.divisor = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x).mul_(self.gamma).div_(self.divisor)))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("layer", [None, "first"])
def test_values_scaled_in_place_by_a_parameter(layer: Any, frozen: bool) -> None:
    net, x = Scaled().double().requires_grad_(not frozen), torch.randn(3, 6, dtype=torch.float64)
    found = fa.deep_lift(net, x, layer=layer, target=1)
    assert_complete(found, difference(net, x, 0.0, lambda y: y[:, 1]))
    scale = net.gamma / net.divisor
    middle = torch.tanh(net.first(x) * scale), torch.tanh(net.first.bias * scale)
    slope = net.last.weight[1] * (middle[0] - middle[1]) / (net.first(x) - net.first.bias)
    expected = slope * (net.first(x) - net.first.bias) if layer else (slope @ net.first.weight) * x
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12)


def test_hooks_of_the_caller_on_saved_tensors_stay() -> None:
    net, x = mlp(), torch.randn(3, 6, dtype=torch.float64)
    packed: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        packed.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        found = fa.deep_lift(net, x, target=1)
        assert packed
        packed.clear()
        (x.requires_grad_() * x).sum()
        assert packed
    assert_complete(found, difference(net, x.detach(), 0.0, lambda y: y[:, 1]))


# Captum, where it is right: distinct ReLU modules, linear and convolutional layers, pooling without overlap.


@pytest.mark.filterwarnings("ignore")
def test_equal_to_captum_where_it_is_right() -> None:
    convs = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*convs, nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3)).double()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    references = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 1, 0])
    theirs = captum.attr.DeepLift(model).attribute(x, references[:1], target=target)
    torch.testing.assert_close(deep_lift(model, x, baselines=references[:1], target=target), theirs)
    theirs = captum.attr.LayerDeepLift(model, model[4]).attribute(x, references[:1], target=target)
    torch.testing.assert_close(deep_lift(model, x, baselines=references[:1], layer="4", target=target), theirs)
    theirs = captum.attr.NeuronDeepLift(model, model[7]).attribute(x, 2, references[:1])
    torch.testing.assert_close(deep_lift(model, x, baselines=references[:1], target=fa.neuron("7", 2)), theirs)
    theirs = captum.attr.DeepLiftShap(model).attribute(x, references, target=target)
    torch.testing.assert_close(deep_lift_shap(model, x, baselines=references, target=target), theirs)
    theirs = captum.attr.LayerDeepLiftShap(model, model[0]).attribute(x, references, target=target)
    torch.testing.assert_close(deep_lift_shap(model, x, baselines=references, layer="0", target=target), theirs)
