"""How values lie in memory: models draw in that order, and view what they are given. What stands in for a value lies as it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close as same

import funattr as fa

from ..breadth import breadth
from ..close import close


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.act(self.conv(x.view(len(x), -1).view(x.shape)))
        return self.head(h.view(len(x), -1))


VIEWED: dict[str, Callable[..., Any]] = {
    "integrated_gradients": fa.integrated_gradients,
    "internal_influence": fa.internal_influence,
    "conductance": fa.conductance,
    "deep_lift": fa.deep_lift,
    "gradient_shap": lambda *args, **named: fa.gradient_shap(*args, **named, generator=torch.Generator().manual_seed(0)),
    "mean_over_baselines": fa.mean_over_baselines(fa.integrated_gradients),
}


@pytest.mark.parametrize("layer", [None, "act"])
@pytest.mark.parametrize("method", VIEWED)
def test_baselines_may_lie_otherwise_than_what_the_model_views(method: str, layer: str | None) -> None:
    torch.manual_seed(0)
    model, x, baselines = Views().double().eval(), *torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    found = VIEWED[method](model, x, baselines=channels_last(baselines), target=1, layer=layer)
    same(found, VIEWED[method](model, x, baselines=baselines, target=1, layer=layer))


def test_what_is_put_at_a_layer_may_lie_otherwise() -> None:
    model, x = Views().double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    value = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    rest = fa.split(model, "act").rest
    same(rest(channels_last(value), x), rest(value, x))
    mask, zeros = torch.arange(64).reshape(1, 4, 4, 4) % 3, torch.zeros_like(value)
    found = fa.feature_ablation(
        model, x, layer="act", baselines=channels_last(zeros), feature_mask=channels_last(mask), target=1
    )
    same(found, fa.feature_ablation(model, x, layer="act", feature_mask=mask, target=1))


class Dropped(nn.Module):
    """Dropout of a value that lies with its channels last: linear after the layer, once the mask is drawn."""

    def __init__(self, first: nn.Module, drop: nn.Module) -> None:
        super().__init__()
        self.first, self.drop, self.head = first, drop, nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.drop(self.first(x)).flatten(1))


class Mixed(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def dropped(first: str, drop: nn.Module) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Dropped(Mixed(3, 4) if first == "linear" else nn.Conv2d(3, 4, 3, padding=1), drop).double().train()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    return model, x if first == "linear" else channels_last(x)


def with_values(model: Any, x: Tensor, value: Tensor | None = None) -> Tensor:
    """The model's own score with the draws of this seed, and another value at its first layer, as that lies in memory."""

    def put(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return None if value is None else torch.empty_like(output).copy_(value)

    handle = model.first.register_forward_hook(put)
    torch.manual_seed(7)
    with torch.no_grad():
        found: Tensor = model(x)[:, 1]
    handle.remove()
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("drop", [nn.Dropout(0.5), nn.AlphaDropout(0.5), nn.RReLU()], ids=["dropout", "alpha", "rrelu"])
@pytest.mark.parametrize("first", ["linear", "convolution"])
def test_all_passes_draw_for_the_same_places(first: str, drop: nn.Module, chunk: int | None) -> None:
    model, x = dropped(first, drop)
    with torch.no_grad():
        value = model.first(x)  # type: ignore[operator]  # a module's attribute
    where: dict[str, Any] = {"layer": "first", "target": 1, "chunk_size": chunk}
    ids = torch.arange(64).reshape(1, 4, 4, 4) % 3

    def asked(method: Callable[..., Tensor], **options: Any) -> Tensor:
        torch.manual_seed(7)
        return method(model, x, **where, **options)

    for mask in (ids, torch.zeros_like(ids)):
        lost = [with_values(model, x) - with_values(model, x, value * (mask != k)) for k in range(3)]
        want = torch.stack([lost[k][:, None, None, None].expand(2, 4, 4, 4) for k in range(3)]).gather(
            0, mask.expand(2, 4, 4, 4)[None]
        )[0]
        same(asked(fa.feature_ablation, feature_mask=mask), want)
    windows = asked(fa.occlusion, window=(4, 4, 4))
    same(windows[:, 0, 0, 0], with_values(model, x) - with_values(model, x, 0 * value))
    if not isinstance(drop, nn.RReLU):  # of the others what is left is linear
        with torch.no_grad():
            start = model.first(0 * x)  # type: ignore[operator]  # a module, for mypy a tensor or one
        found = asked(fa.integrated_gradients, n_steps=4)
        same(found.sum((1, 2, 3)), with_values(model, x) - with_values(model, x, start))
        same(asked(fa.conductance, n_steps=4), found)


def test_random_slopes_are_told() -> None:
    model, x = dropped("convolution", nn.RReLU())
    with pytest.warns(UserWarning, match="train mode with random slopes"):
        fa.gradient(model, x, target=1)


class Pixels(nn.Module):
    """Tokens that are put back in their places, before a norm and a wider picture: a decoder of images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.back, self.norm, self.wide = nn.Conv2d(2, 4, 1), nn.Identity(), nn.GroupNorm(2, 4), nn.Upsample(8)
        self.head = nn.Linear(256, 3)

    def forward(self, x: Tensor) -> Any:
        tokens = self.conv(x).flatten(2).transpose(1, 2).contiguous()
        return self.head(self.norm(self.wide(self.back(tokens.transpose(1, 2).reshape(len(x), 4, 4, 4)))).flatten(1))


COMPILED: dict[str, Callable[..., Any]] = {
    "integrated_gradients": lambda net, x: fa.integrated_gradients(net, x, layer="back", target=1, n_steps=2),
    "ablation_cam": lambda net, x: fa.ablation_cam(net, x, layer="back", target=1),
    "each_target": lambda net, x: fa.each_target(fa.gradient, [0, 1])(net, x, layer="back"),
    "noise_tunnel": lambda net, x: fa.noise_tunnel(fa.gradient, n_samples=2, stdevs=0.0)(net, x, layer="back", target=1),
}


@pytest.mark.parametrize("name", breadth(COMPILED, lambda name: name == "integrated_gradients"))
def test_compiled_steps_of_pictures_whose_channels_come_last(name: str) -> None:
    """Group norm and resizing ask for that, which vmap cannot answer; uncompiled, steps ran one after another."""
    net, x = Pixels().double().eval(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(COMPILED[name], fullgraph=True, backend="aot_eager")
    close(compiled(net, x), COMPILED[name](net, x))


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize(
    "method", [fa.integrated_gradients, fa.ablation_cam, fa.feature_ablation], ids=lambda method: method.__name__
)
def test_all_chunks_of_such_steps_run_at_once(method: Any, size: int | None) -> None:
    """One after another there would be a warning."""
    net, x = Pixels().double().eval(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    options = {"n_steps": 6} if method is fa.integrated_gradients else {}
    one = method(net, x, layer="back", target=1, chunk_size=1, **options)
    close(method(net, x, layer="back", target=1, chunk_size=size, **options), one, 1e-12)


#: Other spellings of what asks for it.
SPELLED: dict[str, Callable[[Tensor], Tensor]] = {
    "by keyword": lambda h: F.group_norm(input=F.interpolate(input=h, scale_factor=2.0, mode="bilinear"), num_groups=2),
    "torch.group_norm": lambda h: torch.group_norm(h, 2),
    "native_group_norm": lambda h: torch.native_group_norm(h, None, None, len(h), 4, 16, 2, 1e-5)[0],
    "the kernel": lambda h: torch._C._nn.upsample_nearest2d(h, (8, 8), None),
    "upsample": lambda h: F.upsample(h, scale_factor=2),
    "upsample_nearest": lambda h: F.upsample_nearest(h, scale_factor=2),
    "upsample_bilinear": lambda h: F.upsample_bilinear(h, scale_factor=2),
}


@pytest.mark.filterwarnings("ignore:`nn.functional.upsample")
@pytest.mark.parametrize("spelling", breadth(SPELLED, lambda name: name in ("by keyword", "upsample")))
def test_compiled_steps_of_other_spellings(spelling: str) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 4, 1).double(), torch.randn(2, 2, 4, 4, dtype=torch.float64)

    def model(v: Tensor) -> Tensor:
        tokens = conv(v).flatten(2).transpose(1, 2).contiguous()
        return SPELLED[spelling](tokens.transpose(1, 2).reshape(len(v), 4, 4, 4)).square().mean((2, 3))

    def explained(v: Tensor) -> Any:
        return fa.integrated_gradients(model, v, target=1, n_steps=2), fa.each_target(fa.gradient, [0, 1])(model, v)

    torch._dynamo.reset()
    close(torch.compile(explained, fullgraph=True, backend="aot_eager")(x), explained(x))
