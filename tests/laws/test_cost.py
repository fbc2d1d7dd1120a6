"""The cost floor of DESIGN: FLOPs and live memory, counted, against passes written by hand."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import Tensor

import funattr as fa
from benchmarks.cost import cost

from ..models import Residual, Tokens


class ByHand:
    """A residual net cut by hand, without hooks or copies."""

    def __init__(self) -> None:
        self.net = Residual().eval()
        self.x = torch.randn(8, 3, 16, 16)
        self.stages: list[Any] = [
            ("stem", self.net.stem),
            ("layer1", lambda v: self.net.layer1(torch.tanh(v))),
            ("layer2", self.net.layer2),
            ("", lambda v: self.net.fc(v.square().mean((2, 3)))),
        ]

    def cut(self, layer: str | None) -> int:
        return 0 if layer is None else 1 + [name for name, _ in self.stages].index(layer)

    def forward(self, layer: str | None = "") -> Tensor:
        with torch.no_grad():
            v = self.x
            for _, stage in self.stages[: self.cut(layer)]:
                v = stage(v)
        return v

    def one_pass(self, layer: str | None) -> Tensor:
        leaf = self.forward(layer).detach().requires_grad_()
        v = leaf
        for _, stage in self.stages[self.cut(layer) :]:
            v = stage(v)
        (gradient,) = torch.autograd.grad(v[:, 1].sum(), leaf)
        return gradient * leaf.detach()


@pytest.mark.parametrize("layer", [None, "stem", "layer1", "layer2"])
@pytest.mark.parametrize(
    "method", [fa.gradient, fa.saliency, fa.input_x_gradient, fa.grad_cam, fa.guided_backprop, fa.deconvnet]
)
def test_one_forward_and_the_backward_after_the_site(method: Any, layer: str | None) -> None:
    hand = ByHand()
    floor = cost(lambda: hand.one_pass(layer))
    found = cost(lambda: method(hand.net, hand.x, layer=layer, target=1))
    assert found.flops == floor.flops > 0
    # The value itself is copied once: what comes next in the model may overwrite it.
    copy = hand.forward(layer).nbytes
    assert found.peak <= floor.peak + copy + 2000


@pytest.mark.parametrize("layer", ["stem", "layer1", "layer2"])
def test_no_more_than_captum(layer: str) -> None:
    hand = ByHand()
    pairs: list[tuple[Any, Any]] = [(fa.input_x_gradient, LayerGradientXActivation), (fa.grad_cam, LayerGradCam)]
    for own, theirs in pairs:
        captum = theirs(hand.net, hand.net.get_submodule(layer))
        a = cost(functools.partial(own, hand.net, hand.x, layer=layer, target=1))
        b = cost(functools.partial(captum.attribute, hand.x, target=1))
        assert a.flops <= b.flops
        assert a.peak <= b.peak


def test_guided_grad_cam_is_two_passes() -> None:
    hand = ByHand()
    floor = cost(lambda: hand.one_pass(None)).flops + cost(lambda: hand.one_pass("layer1")).flops
    assert cost(lambda: fa.guided_grad_cam(hand.net, hand.x, layer="layer1", target=1)).flops == floor


def test_activation_runs_the_prefix_alone_where_the_call_is_given() -> None:
    hand = ByHand()
    whole, prefix = cost(lambda: hand.forward("")).flops, cost(lambda: hand.forward("layer1")).flops
    assert 0 < prefix < whole
    assert cost(lambda: fa.activation(hand.net, hand.x, layer=fa.output_of("layer1", call=0))).flops == prefix
    assert cost(lambda: fa.activation(hand.net, hand.x, layer="layer1")).flops == whole


def test_a_neuron_ends_the_pass() -> None:
    hand = ByHand()
    v = fa.split(hand.net, "stem").value_at(hand.x)

    def to_layer1() -> Tensor:
        leaf = v.detach().requires_grad_()
        return torch.autograd.grad(hand.net.layer1(torch.tanh(leaf))[:, 1, 2, 2].sum(), leaf)[0]

    stem = cost(lambda: hand.forward("stem")).flops
    target = fa.neuron(fa.output_of("layer1", call=0), (1, 2, 2))
    found = cost(lambda: fa.gradient(hand.net, hand.x, layer=fa.output_of("stem", call=0), target=target))
    assert found.flops == stem + cost(to_layer1).flops


def test_several_layers_share_one_pass() -> None:
    hand = ByHand()
    one = cost(lambda: fa.gradient(hand.net, hand.x, layer="stem", target=1)).flops
    assert cost(lambda: fa.gradient(hand.net, hand.x, layer=["stem", "layer1", "layer2"], target=1)).flops == one


def test_vmap_over_values_runs_the_prefix_once() -> None:
    net, x = Tokens().eval(), torch.randn(2, 7, 4)
    value_at, rest = fa.split(net, "down")

    def flops(n: int) -> int:
        values = torch.randn(n, *value_at(x).shape)
        return cost(lambda: torch.func.vmap(lambda v: rest(v, x))(values)).flops

    head = 2 * 2 * 8 * 5  # multiply and add, for two examples
    assert flops(10) - flops(1) == 9 * head
    assert flops(1) > 50 * head
