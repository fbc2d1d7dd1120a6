"""Agreement with Captum 0.9.0 wherever it is right, and the cases where it is not, against references of our own."""

from __future__ import annotations

import warnings
from typing import Any

import captum.attr as ca
import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..models import Conv, OneByOne, Residual, Tokens, Two

RTOL = {torch.float32: 1e-6, torch.float64: 1e-12}
TARGETS: list[Any] = [3, torch.tensor([1, 4, 0, 2]), [0, 1, 2, 3], torch.tensor(2)]


def assert_same(found: Any, expected: Any, dtype: torch.dtype) -> None:
    found, expected = (v if isinstance(v, tuple) else (v,) for v in (found, expected))
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b.detach(), rtol=RTOL[dtype], atol=RTOL[dtype] * float(b.detach().abs().max()))


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        warnings.filterwarnings("ignore", "Setting forward, backward hooks")
        warnings.filterwarnings("ignore", "Input Tensor")
        yield


@pytest.mark.parametrize("target", TARGETS, ids=["int", "tensor", "list", "0-d"])
@pytest.mark.parametrize("build", [Conv, Residual])
def test_value_and_gradient_methods(build: Any, target: Any, dtype: torch.dtype) -> None:
    model, x = build().to(dtype).eval(), torch.randn(4, 3, 8, 8, dtype=dtype)
    leaf = x.clone().requires_grad_()
    assert_same(fa.gradient(model, x, target=target), ca.Saliency(model).attribute(leaf, target, abs=False), dtype)
    assert_same(fa.saliency(model, x, target=target), ca.Saliency(model).attribute(leaf, target), dtype)
    assert_same(fa.input_x_gradient(model, x, target=target), ca.InputXGradient(model).attribute(leaf, target), dtype)
    for name in ("conv1", "conv2") if build is Conv else ("stem", "layer1", "layer2"):
        layer = model.get_submodule(name)
        assert_same(fa.activation(model, x, layer=name), ca.LayerActivation(model, layer).attribute(x), dtype)
        theirs = ca.LayerGradientXActivation(model, layer)
        assert_same(fa.input_x_gradient(model, x, layer=name, target=target), theirs.attribute(x, target), dtype)
        theirs = ca.LayerGradCam(model, layer)
        assert_same(fa.grad_cam(model, x, layer=name, target=target), theirs.attribute(x, target), dtype)
        assert_same(
            fa.relu(fa.grad_cam)(model, x, layer=name, target=target),
            theirs.attribute(x, target, relu_attributions=True),
            dtype,
        )
    site = fa.input_of("fc")
    theirs = ca.LayerGradientXActivation(model, model.fc)
    assert_same(
        fa.input_x_gradient(model, x, layer=site, target=target),
        theirs.attribute(x, target, attribute_to_layer_input=True),
        dtype,
    )


@pytest.mark.parametrize("target", TARGETS, ids=["int", "tensor", "list", "0-d"])
def test_guided_methods(target: Any, dtype: torch.dtype) -> None:
    model, x = Conv().to(dtype).eval(), torch.randn(4, 3, 8, 8, dtype=dtype)
    leaf = x.clone().requires_grad_()
    assert_same(fa.guided_backprop(model, x, target=target), ca.GuidedBackprop(model).attribute(leaf, target), dtype)
    assert_same(fa.deconvnet(model, x, target=target), ca.Deconvolution(model).attribute(leaf, target), dtype)
    for name in ("conv1", "relu1", "conv2"):
        for mode in ("nearest", "bilinear"):
            theirs = ca.GuidedGradCam(model, model.get_submodule(name)).attribute(leaf, target, interpolate_mode=mode)
            assert_same(fa.guided_grad_cam(model, x, layer=name, target=target, mode=mode), theirs, dtype)


def test_several_inputs(dtype: torch.dtype) -> None:
    model, x = Two().to(dtype).eval(), (torch.randn(4, 3, 8, 8, dtype=dtype), torch.randn(4, 6, dtype=dtype))
    leaves = tuple(part.clone().requires_grad_() for part in x)
    assert_same(fa.input_x_gradient(model, x, target=1), ca.InputXGradient(model).attribute(leaves, 1), dtype)
    by_name = dict(zip(("image", "table"), x))
    found = fa.input_x_gradient(model, by_name, target=1)
    assert list(found) == ["image", "table"]
    assert_same(tuple(found.values()), ca.InputXGradient(model).attribute(leaves, 1), dtype)


# Where Captum 0.9.0 is wrong.


def test_grad_cam_on_channel_last_tokens() -> None:
    """Captum averages over the channels and sums over the tokens, without a word."""
    model, x = Tokens().double().eval(), torch.randn(4, 7, 4, dtype=torch.float64)
    value, gradient = fa.value_and_gradient(model, x, layer="down", target=1)
    expected = torch.einsum("nc,ntc->nt", gradient.mean(1), value)[..., None]
    torch.testing.assert_close(fa.grad_cam(model, x, layer="down", target=1, channel_dim=-1), expected)
    theirs = ca.LayerGradCam(model, model.down).attribute(x, 1)
    assert theirs.shape == (4, 1, 8)  # one number per channel, none per token


def test_guided_grad_cam_with_a_misspelt_mode() -> None:
    """Captum returns an empty tensor."""
    model, x = Conv().eval(), torch.randn(4, 3, 8, 8)
    assert ca.GuidedGradCam(model, model.conv2).attribute(x.requires_grad_(), 1, interpolate_mode="bilinaer").numel() == 0
    with pytest.raises(ValueError, match=r"guided_grad_cam\(layer='conv2', mode='bilinaer'\).*Did you mean 'bilinear'"):
        fa.guided_grad_cam(model, x.detach(), layer="conv2", mode="bilinaer")


@pytest.mark.parametrize("spelling", ["in-place", "functional", "methods", "mixed"])
def test_guided_rules_see_every_spelling_of_relu(spelling: str) -> None:
    """Captum's hooks miss functional ReLUs, and crash or warn on reused ones. Modules used once are its home ground."""
    net = Residual(spelling).double().eval()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    plain = OneByOne(net).eval()
    for own, theirs in [(fa.guided_backprop, ca.GuidedBackprop), (fa.deconvnet, ca.Deconvolution)]:
        expected = theirs(plain).attribute(x.clone().requires_grad_(), 1)
        assert_same(own(net, x, target=1), expected, torch.float64)
        assert not torch.allclose(expected, fa.gradient(net, x, target=1))


class Shortcut(nn.Module):
    """A layer whose input somebody else reads, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.body, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.head(torch.tanh(h + self.body(self.norm(h))))


def test_the_input_of_a_layer_beside_a_shortcut() -> None:
    """The value is what this layer takes. Captum agrees where it replaces the value; its gradients run along the shortcut."""
    net, x = Shortcut().double().eval(), torch.randn(4, 6, dtype=torch.float64)
    x0, place, own = torch.zeros_like(x), fa.input_of("norm"), {"attribute_to_layer_input": True}
    h, h0 = torch.tanh(net.first(x)).detach(), torch.tanh(net.first(x0)).detach()

    def rest(value: Tensor) -> Tensor:
        return net.head(torch.tanh(h + net.body(net.norm(value))))[:, 1].sum()

    expected = torch.func.grad(rest)(h)
    assert_same(fa.gradient(net, x, layer=place, target=1), expected, torch.float64)
    theirs = ca.LayerGradientXActivation(net, net.norm).attribute(x, 1, **own) / h
    assert_same(theirs, fa.gradient(lambda h: net.head(torch.tanh(h + net.body(net.norm(h)))), h, target=1), torch.float64)
    assert not torch.allclose(theirs.detach(), expected, rtol=0.1)

    found = fa.integrated_gradients(net, x, layer=place, baselines=x0, target=1)
    theirs = ca.LayerIntegratedGradients(net, net.norm).attribute(x, x0, 1, **own)
    torch.testing.assert_close(found, theirs, rtol=1e-6, atol=1e-7 * float(found.abs().max()))
    path = [torch.func.grad(rest)(h0 + a * (h - h0)) for a in torch.linspace(0, 1, 2001, dtype=torch.float64)]
    assert torch.allclose(found, (h - h0) * torch.stack(path).mean(0), rtol=1e-2, atol=1e-4)


class Weighs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = (self.query(x) @ x.mT).softmax(-1)
        return weights @ x, weights


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = Weighs(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.attention(x)[0]).mean(1))


def test_an_output_that_the_layer_itself_has_used() -> None:
    """The value is what comes out: `rest` reads the first alone. Captum's gradient is that of the layer's inside."""
    net, x = Attention().double().eval(), torch.randn(4, 6, 8, dtype=torch.float64)
    made, weights = fa.input_x_gradient(net, x, layer="attention", target=1)
    theirs = ca.LayerGradientXActivation(net, net.attention).attribute(x, 1)
    assert_same(made, theirs[0], torch.float64)
    value_at, rest = fa.split(net, "attention")
    y, w = value_at(x)
    torch.testing.assert_close(rest((y, 2 * w), x), net(x))
    assert not weights.any()
    assert theirs[1].abs().max() > 1e-3


def test_deep_lift_at_the_input_of_an_activation() -> None:
    """The same place as the output of the layer before; Captum gives two results, one of which is not complete."""
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double().eval()
    x, x0 = torch.randn(4, 6, dtype=torch.float64), torch.zeros(4, 6, dtype=torch.float64)
    found = fa.deep_lift(net, x, layer=fa.input_of("1"), baselines=x0, target=1)
    torch.testing.assert_close(found, fa.deep_lift(net, x, layer="0", baselines=x0, target=1))
    assert fa.convergence_delta(found, net, x, baselines=x0, target=1).abs().max() < 1e-12
    assert_same(found, ca.LayerDeepLift(net, net[0]).attribute(x, x0, 1), torch.float64)
    theirs = ca.LayerDeepLift(net, net[1]).attribute(x, x0, 1, attribute_to_layer_input=True)
    assert fa.convergence_delta(theirs.detach(), net, x, baselines=x0, target=1).abs().max() > 1e-2
