"""Results that are to be differentiated further, of models that write to what they keep: the second derivative is that of the
pass as it was, after what it wrote has been put back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..breadth import breadth

N, D = 3, 4


class Writes(nn.Module):
    """A net that halves what it keeps, and then multiplies by it."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.head = nn.Linear(D, D).double(), nn.Linear(D, 2).double()
        self.mean: Tensor
        self.register_buffer("mean", torch.linspace(0.5, 1.5, D).double())
        self.held = ([torch.linspace(0.5, 1.5, D).double()],)
        self.array = np.linspace(0.5, 1.5, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.before(x) * self.kept()) ** 2)

    def kept(self) -> Tensor:
        raise NotImplementedError


class InPlace(Writes):
    def kept(self) -> Tensor:
        self.mean.mul_(0.5)
        return self.mean.view(2, 2).flatten()


class InAList(Writes):
    def kept(self) -> Tensor:
        return self.held[0][0].mul_(0.5)


class ThroughData(Writes):
    def kept(self) -> Tensor:
        self.mean.data.mul_(0.5)
        return self.mean


class OtherData(Writes):
    def kept(self) -> Tensor:
        self.mean.data = self.mean * 0.5
        return self.mean


class OfNumpy(Writes):
    def kept(self) -> Tensor:
        self.array *= 0.5
        return torch.from_numpy(self.array)


class ItsParameters(Writes):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.before.weight.mul_(0.5)
        return super().forward(x)

    def kept(self) -> Tensor:
        return self.mean


class ByHand(torch.autograd.Function):
    """A product."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(factors)
        return h * factors

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.saved_tensors[0], None


class InAFunction(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(ByHand.apply(self.before(x), self.kept())) ** 2)  # type: ignore[no-untyped-call]  # torch says no type


KINDS = [InPlace, InAList, ThroughData, OtherData, OfNumpy, ItsParameters, InAFunction]
METHODS: dict[str, Callable[..., Any]] = {
    "gradient": fa.gradient,
    "at a layer": partial(fa.gradient, layer="before"),
    "value": lambda *given, **asked: fa.value_and_gradient(*given, layer=fa.input_of("head"), **asked)[0],
    "activation": lambda *given, target, **asked: fa.activation(*given, layer=fa.input_of("head", call=0), **asked),
    "integrated_gradients": partial(fa.integrated_gradients, baselines=0.0, n_steps=4),
    "feature_ablation": partial(fa.feature_ablation, baselines=0.0),
    "deep_lift": partial(fa.deep_lift, baselines=0.0),
    "each_target": lambda *given, target, **asked: fa.each_target(fa.gradient, [0, 1])(*given, **asked)[1],
    "a computed target": lambda *given, target, **asked: fa.gradient(*given, target=lambda out: out[:, 0] ** 2, **asked),
    "neuron": lambda *given, target, **asked: fa.gradient(*given, target=fa.neuron("head", 0), **asked),
}
#: Under `deep_lift`, torch.func runs, in which torch lets nobody write to these.
REFUSED = (InPlace, InAList, ThroughData, ItsParameters, InAFunction)
#: And there, it crashes where a tensor that is no one's of its own is given other data.
CASES = [(kind, name) for kind in KINDS for name in METHODS if name != "deep_lift" or kind not in (*REFUSED, OtherData)]


def slope(kind: type[Writes], method: Callable[..., Any], x: Tensor, numeric: bool) -> Tensor:
    """The derivative of a weighted sum of the attributions along a direction."""
    along = torch.linspace(-1, 1, x.numel()).double().reshape(x.shape)

    def weighted(x: Tensor) -> Tensor:
        torch.manual_seed(1)
        found = method(kind(), x, target=0, create_graph=True)
        return (found * torch.arange(found.numel()).reshape(found.shape)).sum()

    if numeric:
        return (weighted(x + 1e-5 * along) - weighted(x - 1e-5 * along)).detach() / 2e-5
    x = x.clone().requires_grad_()
    return (torch.autograd.grad(weighted(x), x)[0] * along).sum()


@pytest.mark.parametrize(
    ("kind", "name"), breadth(CASES, lambda case: case[0] is InPlace or case[1] == "gradient", several=True)
)
def test_the_second_derivative(kind: type[Writes], name: str) -> None:
    found = slope(kind, METHODS[name], x := torch.linspace(-1, 2, N * D).double().reshape(N, D), False)
    expected = slope(kind, METHODS[name], x, True)
    assert expected.abs() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)  # of differences at steps of 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_left_as_found(kind: type[Writes]) -> None:
    net, x = kind(), torch.ones(N, D).double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(2):
        fa.feature_ablation(net, x, target=0, baselines=0.0)
        fa.gradient(net, x, target=0, create_graph=True)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert np.array_equal(net.array, kind().array)
