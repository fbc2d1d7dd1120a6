"""Class activation maps: the papers' formulas in plain loops, the laws between them, and the grad-cam package.

Those made of value and gradient are in the table of methods with their formulas, and tested at every site of every net.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funattr as fa
from benchmarks.cost import cost
from benchmarks.models import ResNet18

from ..close import close
from ..models import CASES, Conv, Residual, double


class Pooled(nn.Module):
    """A layer whose mean is all that the rest, which is linear, sees of it: the net of the first CAM."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.act = nn.ReLU()
        self.fc = nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


def image(n: int = 3) -> Tensor:
    return torch.randn(n, 3, 8, 8, dtype=torch.float64)


GRADIENT_CAMS = [fa.grad_cam, fa.grad_cam_plus_plus, fa.xgrad_cam, fa.hires_cam, fa.layer_cam]
CAMS = [*GRADIENT_CAMS, fa.score_cam, fa.ablation_cam]


def test_on_a_pooled_linear_net_all_are_the_first_cam() -> None:
    """``sum_c w_kc v_c``, with the weights of the last layer: what the paper of 2015 calls a class activation map."""
    net, x = Pooled().double(), image()
    value = fa.activation(net, x, layer="act")
    first = torch.einsum("c,nchw->nhw", net.fc.weight[2], value)[:, None] / (6 * 6)
    for cam in (fa.grad_cam, fa.xgrad_cam, fa.hires_cam):
        close(cam(net, x, layer="act", target=2), first)
    score = net(x)[:, 2]
    close(fa.hires_cam(net, x, layer="act", target=2).sum((1, 2, 3)), score)
    positive = torch.einsum("c,nchw->nhw", net.fc.weight[2].clamp(min=0), value)[:, None] / (6 * 6)
    close(fa.layer_cam(net, x, layer="act", target=2), positive)
    # What is lost without a channel is its weight times its mean.
    lost = torch.einsum("c,nc,nchw->nhw", net.fc.weight[2], value.mean((2, 3)), value)[:, None] / score.reshape(-1, 1, 1, 1)
    close(fa.ablation_cam(net, x, layer="act", target=2), lost)


@pytest.mark.parametrize("target", [1, torch.tensor([1, 4, 0]), "argmax", fa.neuron("layer2", (1, 2, 2)), lambda y: y[:, 3]])
def test_score_cam_by_the_papers_algorithm(target: Any) -> None:
    net, x = Residual("in-place").double().eval(), image()
    value = fa.activation(net, x, layer="layer2")
    kept = net(x).argmax(1) if isinstance(target, str) else target

    def score(x: Tensor, i: int) -> Tensor:
        if isinstance(kept, Tensor):
            return net(x)[0, kept[i]]
        if isinstance(kept, int):
            return net(x)[0, kept]
        if callable(kept):
            return kept(net(x))[0]
        return fa.activation(net, x, layer="layer2")[0, 1, 2, 2]

    maps = []
    for i, example in enumerate(x):
        scores = []
        for channel in value[i]:
            mask = F.interpolate(channel[None, None], (8, 8), mode="bilinear")
            mask = (mask - mask.min()) / (mask.max() - mask.min()) if mask.max() > mask.min() else mask * 0
            scores.append(score(example[None] * mask, i) - score(example[None] * 0, i))
        weights = torch.stack(scores).softmax(0)
        maps.append((weights[:, None, None] * value[i]).sum(0, keepdim=True))
    expected = torch.stack(maps).detach()
    assert value.shape[-1] != x.shape[-1]  # there is something to interpolate
    for chunk_size in (None, 1, 4):
        close(fa.score_cam(net, x, layer="layer2", target=target, chunk_size=chunk_size), expected)


def test_score_cam_of_a_channel_with_one_value_is_that_of_the_baseline() -> None:
    net, x = Conv().double().eval(), image()
    with torch.no_grad():
        net.conv1.weight[0] = 0
        net.conv1.bias[0] = 2  # the channel is 2 everywhere
    value = fa.activation(net, x, layer="relu1")
    assert value[:, 0].unique().numel() == 1
    found = fa.score_cam(net, x, layer="relu1", target=1)
    scores = [net(0 * x)[:, 1]]
    for c in range(1, value.shape[1]):
        mask = F.interpolate(value[:, c : c + 1], (8, 8), mode="bilinear")
        low, high = mask.amin((1, 2, 3), keepdim=True), mask.amax((1, 2, 3), keepdim=True)
        scores.append(net(x * (mask - low) / (high - low))[:, 1])
    weights = torch.stack(scores, 1).softmax(1)
    close(found, torch.einsum("nc,nchw->nhw", weights, value)[:, None].detach())


def test_score_cam_in_one_and_three_dimensions_and_on_several_inputs() -> None:
    volume = nn.Sequential(nn.Conv3d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 27, 5)).double()
    x = torch.randn(2, 2, 4, 4, 4, dtype=torch.float64)
    value = volume[:2](x)
    masks = F.interpolate(value, (4, 4, 4), mode="trilinear").flatten(2)
    masks = (masks - masks.amin(2, keepdim=True)) / (masks.amax(2, keepdim=True) - masks.amin(2, keepdim=True))
    scores = torch.stack([volume(x * masks[:, c].reshape(2, 1, 4, 4, 4))[:, 2] for c in range(3)], 1)
    expected = torch.einsum("nc,ncdhw->ndhw", scores.softmax(1), value)[:, None]
    close(fa.score_cam(volume, x, layer="1", target=2), expected.detach())

    def both(a: Tensor, b: Tensor) -> Tensor:
        return net(a + 2 * b)

    net, a, b = Conv().double().eval(), image(), image()
    close(
        fa.score_cam(both, (a, b), layer=net.conv1, target=1),
        fa.score_cam(lambda whole: net(whole), a + 2 * b, layer=net.conv1, target=1),
    )


@pytest.mark.parametrize("target", [1, torch.tensor([1, 4, 0]), fa.neuron("layer2.conv1", (1, 2, 2))])
def test_ablation_cam_by_the_papers_formula(target: Any) -> None:
    net, x = Residual("in-place").double().eval(), image()
    value_at, rest = fa.split(net, "layer1")
    value = value_at(x)

    def score(value: Tensor) -> Tensor:
        if not isinstance(target, (int, Tensor)):
            return fa.activation(lambda v: rest(v, x), value, layer=net.layer2.conv1)[:, 1, 2, 2]
        return fa.score(rest(value, x), target)

    whole, expected = score(value), torch.zeros_like(value[:, :1])
    for c in range(value.shape[1]):
        without = value.clone()
        without[:, c] = 0
        share = (whole - score(without)) / whole
        expected += share.reshape(-1, 1, 1, 1) * value[:, c : c + 1]
    for chunk_size in (None, 1, 4):
        close(fa.ablation_cam(net, x, layer="layer1", target=target, chunk_size=chunk_size), expected.detach())


def test_eigen_cam_is_the_best_projection() -> None:
    net, x = Residual().double().eval(), image()
    value = fa.activation(net, x, layer="layer1").flatten(2)
    found = fa.eigen_cam(net, x, layer="layer1").flatten(1)
    assert (found.sum(1) >= 0).all()
    close(found.square().sum(1), torch.linalg.matrix_norm(value, ord=2).square())
    for _ in range(20):
        direction = F.normalize(torch.randn(value.shape[1], dtype=torch.float64), dim=0)
        assert (torch.einsum("c,ncs->ns", direction, value).square().sum(1) <= found.square().sum(1) + 1e-9).all()
    # It is in the span of the channels, and best of all explains them.
    rest = value - torch.einsum("ns,ncs->nc", found, value)[..., None] * found[:, None] / found.square().sum(1)[:, None, None]
    close(rest.square().sum((1, 2)) + found.square().sum(1), value.square().sum((1, 2)))


def test_eigen_cam_of_dead_channels_can_be_differentiated() -> None:
    """Equal singular values (zeros here) make the derivative of torch.linalg.svd NaN."""
    net, x = Conv().double().eval(), image(2)
    with torch.no_grad():
        net.conv1.bias[:3] = -100.0
    assert not fa.activation(net, x, layer="relu1")[:, :3].any()

    def cam(x: Tensor) -> Tensor:
        return fa.eigen_cam(net, x, layer="relu1", create_graph=True)

    assert torch.autograd.gradcheck(cam, x.requires_grad_(), atol=1e-6)
    with torch.no_grad():
        net.conv1.bias[:] = -100.0
    assert not fa.eigen_cam(net, x, layer="relu1").any()
    assert not torch.autograd.grad(cam(x).sum(), x)[0].any()


@pytest.mark.parametrize("cam", CAMS, ids=lambda cam: cam.__name__)
def test_channels_may_be_last(cam: Any) -> None:
    net, x = Turned().double().eval(), image()
    first = cam(net, x, layer="first", target=1)
    assert first.shape == (3, 1, 6, 6)
    close(cam(net, x, layer="last", target=1, channel_dim=-1), first.permute(0, 2, 3, 1))


class Turned(nn.Module):
    """One value with its channels first, and last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.last, self.fc = nn.Conv2d(3, 4, 3), nn.Identity(), nn.Identity(), nn.Linear(4 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(torch.relu(self.conv(x))).permute(0, 2, 3, 1)
        return self.fc(torch.tanh(self.last(h)).flatten(1))


@pytest.mark.parametrize("cam", [*CAMS, fa.eigen_cam], ids=lambda cam: cam.__name__)
def test_several_layers_each_on_its_own(cam: Any) -> None:
    """Also where one feeds the other."""
    net, x = Residual().double().eval(), image()
    options: dict[str, Any] = {} if cam is fa.eigen_cam else {"target": 1}
    found = cam(net, x, layer={"a": "layer1", "b": ["layer2", fa.input_of("layer2.conv2")]}, **options)
    close(found["a"], cam(net, x, layer="layer1", **options))
    close(found["b"][0], cam(net, x, layer="layer2", **options))
    close(found["b"][1], cam(net, x, layer=fa.input_of("layer2.conv2"), **options))


def test_what_they_cost() -> None:
    net, x = ResNet18().eval(), torch.randn(1, 3, 64, 64)
    forward = cost(lambda: net(x)).flops
    after = cost(lambda: fa.split(net, "layer4").rest(torch.zeros(1, 512, 2, 2), x)).flops - forward
    gradient = cost(lambda: fa.gradient(net, x, layer="layer4", target=1)).flops
    for cam in GRADIENT_CAMS:
        assert cost(lambda cam=cam: cam(net, x, layer="layer4", target=1)).flops == gradient  # type: ignore[misc]  # a lambda with a default has no type for mypy
    assert cost(lambda: fa.score_cam(net, x, layer="layer1", target=1)).flops == 65 * forward
    # The value, the score, and 512 channels in chunks that share what lies before the layer.
    assert after == 0
    assert cost(lambda: fa.ablation_cam(net, x, layer="layer4", target=1)).flops < 6 * forward


def test_ablation_cam_takes_value_and_score_from_its_passes() -> None:
    ahead, behind = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 2)
    net, x = nn.Sequential(ahead, nn.Flatten(), behind), torch.randn(2, 1, 8, 8)
    before, after = cost(lambda: ahead(x)).flops, cost(lambda: behind(torch.randn(2, 144))).flops
    found = cost(lambda: fa.ablation_cam(net, x, layer="0", target=1)).flops
    assert found == before + 5 * after  # all channels on, and each off
    each = fa.each_target(fa.ablation_cam, [0, lambda out: out[:, 1] ** 2])
    assert cost(lambda: each(net, x, layer="0")).flops == found  # for all targets


net: Any = Conv().double().eval()
word: Any = "C"  # wrong on purpose
ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: fa.score_cam(nn.Sequential(nn.Unflatten(1, (1, 3, 2)), nn.Flatten()), torch.randn(3, 6), layer="0", target=1),
        ValueError,
        r"score_cam\(layer='0', target=1\).*2 spatial dimensions.*has 0",
    ),
    (lambda: fa.score_cam(Conv().double(), image(), layer=fa.input_of("fc"), target=1), ValueError, "spatial"),
    (lambda: fa.score_cam(Conv().double(), image(), layer="conv1", target=1, chunk_size=0), ValueError, "chunk_size must be"),
    (lambda: fa.score_cam(Conv().double(), image(), layer="conv1"), ValueError, "no target says which"),
    (lambda: fa.ablation_cam(Conv().double(), image(), layer="conv7", target=1), ValueError, "Did you mean 'conv"),
    (lambda: fa.ablation_cam(lambda x: 0 * net(x), image(), layer=net.conv1, target=1), ValueError, "score of an example is 0"),
    (
        lambda: fa.ablation_cam(*double(next(c for c in CASES if c.name == "recurrent")), layer="lstm", target=1),
        ValueError,
        "without a row for each of the 4 examples",
    ),
    (lambda: fa.eigen_cam(Conv().double(), image(), layer="conv1", channel_dim=0), ValueError, "is the batch"),
    (lambda: fa.hires_cam(Conv().double(), image(), layer="conv1", target=1, channel_dim=7), ValueError, "out of range"),
    (
        lambda: fa.layer_cam(Conv().double(), image(), layer="conv1", target=1, channel_dim=word),
        TypeError,
        "must be an integer",
    ),
    (lambda: fa.xgrad_cam(Conv().double(), image(), layer="conv1", target=9), ValueError, "9 is out of range"),
    (
        lambda: fa.sum_channels(fa.gradient, channel_dim=word),
        TypeError,
        r"sum_channels\(channel_dim='C'\): channel_dim",
    ),
    (lambda: fa.sum_channels(fa.gradient)(lambda x: x, torch.ones(3)), ValueError, "no channel dimension"),
    (lambda: fa.normalize(word), TypeError, r"normalize\(\): expected a method"),
    (lambda: fa.absolute(word), TypeError, r"absolute\(\): expected a method"),
    (
        lambda: fa.normalize(fa.gradient)(*double(next(c for c in CASES if c.name == "recurrent")), layer="lstm", target=1),
        ValueError,
        r"normalize\(gradient\)\(layer='lstm', target=1\).*without a row for each of the 4 examples",
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), ERRORS)
def test_bad_input(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=f"(?s){words}"):
        call()


# The grad-cam package: runs where it is installed (it wants torchvision, which our CI's build of torch has none for).


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (fa.grad_cam, "GradCAM"),
        (fa.grad_cam_plus_plus, "GradCAMPlusPlus"),
        (fa.xgrad_cam, "XGradCAM"),
        (fa.hires_cam, "HiResCAM"),
        (fa.layer_cam, "LayerCAM"),
        (fa.score_cam, "ScoreCAM"),
        (fa.ablation_cam, "AblationCAM"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_grad_cam_package(ours: Any, theirs: str) -> None:
    package = pytest.importorskip("pytorch_grad_cam", reason="the grad-cam package is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    torch.manual_seed(0)
    # A layer of the input's size, as the package upsamples with corners aligned; gradients that its epsilons do not drown.
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*model, nn.Linear(8 * 64, 5)).eval()
    x = torch.randn(3, 3, 8, 8)
    with getattr(package, theirs)(model=model, target_layers=[model[3]]) as cam:
        expected = torch.from_numpy(cam(input_tensor=x, targets=[targets.ClassifierOutputTarget(k) for k in (1, 4, 0)]))
    found = fa.relu(ours)(model, x, layer="3", target=[1, 4, 0])[:, 0]
    low, high = found.amin((1, 2), keepdim=True), found.amax((1, 2), keepdim=True)
    torch.testing.assert_close((found - low) / (high - low), expected, rtol=2e-3, atol=2e-3)


def test_eigen_cam_of_values_that_are_not_finite() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LogSigmoid(), nn.Flatten(), nn.Linear(64, 5))
    with torch.no_grad():
        model[0].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"eigen_cam.*holds NaN or inf"):
        fa.eigen_cam(model, torch.randn(2, 3, 6, 6), layer="1")


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.steps, self.last = nn.Linear(3, 8), nn.Identity(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.steps(self.first(x).transpose(0, 1)).tanh().mean(0))


@pytest.mark.parametrize("steps", [2, 4, 6])
@pytest.mark.parametrize("cam", [fa.grad_cam, fa.layer_cam, fa.eigen_cam, fa.ablation_cam, fa.score_cam])
def test_steps_in_time_first_are_refused_where_sizes_do_not_tell(cam: Any, steps: int) -> None:
    """As many steps as examples, or some times as many."""
    options: dict[str, Any] = {"channel_dim": -1} | ({} if cam is fa.eigen_cam else {"target": 1})
    with pytest.raises(ValueError, match=r"with steps in time first, and the 2 examples second|without a row for each"):
        cam(TimeFirst(), torch.randn(2, steps, 3), layer="steps", **options)
    assert cam(TimeFirst(), torch.randn(2, 2, 3), layer="first", **options).shape == (2, 2, 1)


class Attends(nn.Module):
    """Attention over steps in time, which come first, as torch has it; its weights have the batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.attend, self.state = nn.MultiheadAttention(8, 2), nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        h = self.state(self.embed(x))[0].transpose(0, 1)
        return self.head((self.attend(h, h, h)[0] + self.mix(h)).mean(0))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("cam", [fa.grad_cam, fa.layer_cam, partial(fa.eigen_cam)])
def test_parts_of_a_value_and_several_layers_have_the_batch_first_each(cam: Any, n: int) -> None:
    model, x = Attends().double().eval(), torch.randn(n, 7, 4).double()
    target = {"target": 1} if not isinstance(cam, partial) else {}
    for layer in ("attend", ["embed", "mix"], {"a": "state", "b": "mix"}):
        with pytest.raises(ValueError, match="choose a layer whose value has the batch first"):
            cam(model, x, layer=layer, channel_dim=-1, **target)
    assert cam(model, x, layer="state", channel_dim=-1, **target)[0].shape == (n, 7, 1)


def flat() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()


@pytest.mark.parametrize("cam", [*CAMS, fa.eigen_cam], ids=lambda cam: cam.__name__)
def test_behind_the_pooling_there_is_no_map(cam: Any) -> None:
    """A value without places ``[N, C]`` has one number for each example, and whatever makes a map of that says what to do."""
    net, x = flat(), image()
    what: dict[str, Any] = {} if cam is fa.eigen_cam else {"target": 1}
    wanted = "choose a layer whose value is [N, C, *spatial]"
    for combined in (fa.interpolate(cam), fa.noise_tunnel(fa.interpolate(fa.relu(cam), mode="bilinear"), n_samples=2)):
        with pytest.raises(ValueError, match=re.escape(wanted)):
            combined(net, x, layer="3", **what)
        assert combined(net, x, layer="1", **what).shape == (3, 1, 8, 8)
    if cam is fa.score_cam:  # its masks are maps of the input's size
        with pytest.raises(ValueError, match=re.escape(wanted)):
            cam(net, x, layer="3", **what)
    else:
        assert cam(net, x, layer="3", **what).shape == (3, 1)


def test_one_number_is_not_drawn_as_a_map(tmp_path: Path) -> None:
    viz: Any = pytest.importorskip("funattr.viz")
    net, x = flat(), torch.rand(3, 3, 8, 8, dtype=torch.float64)
    one = fa.grad_cam(net, x, layer="3", target=1)
    draws: list[Callable[[], Any]] = [
        lambda: viz.show(x, {"grad_cam": one}),
        lambda: viz.page(x, {"grad_cam": one}, out=tmp_path / "page.html"),
        lambda: viz.overlay(one[0], x[0]),
        lambda: viz.blend(one[0], x[0]),
    ]
    for draw in draws:
        with pytest.raises(ValueError, match="choose a layer whose value has a height and a width"):
            draw()
    with pytest.raises(ValueError, match=re.escape("choose a layer whose value is [N, C, *spatial]")):
        fa.guided_grad_cam(net, x, layer="3", target=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_xgrad_cam_of_a_channel_that_sums_to_rounding(dtype: torch.dtype) -> None:
    """As coordinates do that go from -1 to 1, and what an instance norm gives: they have no weight, as where they sum to 0."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 9, dtype=dtype)
    x[:, 1] = torch.linspace(-1, 1, 9, dtype=dtype)
    x[:, 2] -= x[:, 2].mean((1, 2), keepdim=True)
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(168, 3)).to(dtype)
    gradient = fa.gradient(model, x, layer="0", target=1)
    weight = (gradient * x).sum((2, 3))[:, 0] / x.sum((2, 3))[:, 0]
    found = fa.xgrad_cam(model, x, layer="0", target=1)
    torch.testing.assert_close(found, weight[:, None, None, None] * x[:, :1])
