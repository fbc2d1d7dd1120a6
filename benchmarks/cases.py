"""THE table of cases: a method of ours beside the same of Captum's, ready to be called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import captum.attr as ca
import torch
from torch import nn

import funattr as fa

from .models import ResNet18, VitTiny, cnn, mlp


class Case(NamedTuple):
    name: str
    own: Callable[[], Any]
    captum: Callable[[], Any]


def overhead() -> Iterator[Case]:
    """Batch 1 on nets so small that only the Python around them counts."""
    model, x = mlp(), torch.randn(1, 10)
    leaf = x.clone().requires_grad_()  # as Captum wants its inputs
    layer = model[1]  # type: ignore[index]
    image, picture = cnn(), torch.randn(1, 1, 8, 8)
    picture_leaf = picture.clone().requires_grad_()
    last = image[3]  # type: ignore[index]
    gxa, cam, act = ca.LayerGradientXActivation(model, layer), ca.LayerGradCam(image, last), ca.LayerActivation(model, layer)
    sal, ixg, ng = ca.Saliency(model), ca.InputXGradient(model), ca.NeuronGradient(model, layer)
    gb, dc, ggc = ca.GuidedBackprop(model), ca.Deconvolution(model), ca.GuidedGradCam(image, last)
    neuron = fa.neuron("1", 2)
    yield Case("activation, layer", lambda: fa.activation(model, x, layer="1"), lambda: act.attribute(x))
    yield Case("saliency", lambda: fa.saliency(model, x, target=2), lambda: sal.attribute(leaf, 2))
    yield Case("input_x_gradient", lambda: fa.input_x_gradient(model, x, target=2), lambda: ixg.attribute(leaf, 2))
    yield Case(
        "input_x_gradient, layer", lambda: fa.input_x_gradient(model, x, layer="1", target=2), lambda: gxa.attribute(x, 2)
    )
    yield Case("gradient, neuron", lambda: fa.gradient(model, x, target=neuron), lambda: ng.attribute(leaf, 2))
    yield Case("guided_backprop", lambda: fa.guided_backprop(model, x, target=2), lambda: gb.attribute(leaf, 2))
    yield Case("deconvnet", lambda: fa.deconvnet(model, x, target=2), lambda: dc.attribute(leaf, 2))
    yield Case("grad_cam", lambda: fa.grad_cam(image, picture, layer="3", target=2), lambda: cam.attribute(picture, 2))
    yield Case(
        "guided_grad_cam",
        lambda: fa.guided_grad_cam(image, picture, layer="3", target=2),
        lambda: ggc.attribute(picture_leaf, 2),
    )


class Setting(NamedTuple):
    """A model to compare on, an input, and sites from early to late."""

    name: str
    model: nn.Module
    x: torch.Tensor
    sites: list[str]


def settings(quick: bool) -> Iterator[Setting]:
    yield Setting("ResNet-18", ResNet18().eval(), torch.randn(2 if quick else 8, 3, 64, 64), ["layer1", "layer3", "layer4"])
    depth = 2 if quick else 12
    blocks = [f"blocks.{i}.down" for i in sorted({0, depth // 2, depth - 1})]
    yield Setting("ViT-tiny", VitTiny(depth=depth).eval(), torch.randn(2, 3, 112, 112), blocks)


def layers(setting: Setting, quick: bool) -> Iterator[Case]:
    """The layer methods, at an early, a middle and a late site."""
    model, x = setting.model, setting.x
    n = 4 if quick else 20
    references = torch.randn(4, *x.shape[1:])
    for site in setting.sites[-1:] if quick else setting.sites:
        yield from _one_pass(model, x, site)
        yield from _paths(model, x, site, n)
        yield from _references(model, x, site, references, convolutional=isinstance(model, ResNet18))
        yield from _ablation(model, x, site)


def _one_pass(model: nn.Module, x: torch.Tensor, site: str) -> Iterator[Case]:
    layer = model.get_submodule(site)
    gxa, cam = ca.LayerGradientXActivation(model, layer), ca.LayerGradCam(model, layer)
    options: dict[str, Any] = {"layer": site, "target": 1}
    yield Case(f"input_x_gradient, {site}", lambda: fa.input_x_gradient(model, x, **options), lambda: gxa.attribute(x, 1))
    yield Case(f"grad_cam, {site}", lambda: fa.grad_cam(model, x, **options), lambda: cam.attribute(x, 1))


def _paths(model: nn.Module, x: torch.Tensor, site: str, n: int) -> Iterator[Case]:
    layer = model.get_submodule(site)
    ig, ii, co = (
        ca.LayerIntegratedGradients(model, layer),
        ca.InternalInfluence(model, layer),
        ca.LayerConductance(model, layer),
    )
    options: dict[str, Any] = {"layer": site, "target": 1, "n_steps": n}
    theirs: dict[str, Any] = {"target": 1, "n_steps": n}
    zero = torch.zeros_like(x)
    methods: list[tuple[Any, Any]] = [(fa.integrated_gradients, ig), (fa.internal_influence, ii), (fa.conductance, co)]
    for own, captum in methods:
        yield Case(f"{own.__name__}, {site}", partial(own, model, x, **options), partial(captum.attribute, x, zero, **theirs))


def _references(model: nn.Module, x: torch.Tensor, site: str, references: torch.Tensor, convolutional: bool) -> Iterator[Case]:
    layer = model.get_submodule(site)
    gs, dl, ds = ca.LayerGradientShap(model, layer), ca.LayerDeepLift(model, layer), ca.LayerDeepLiftShap(model, layer)
    options: dict[str, Any] = {"layer": site, "target": 1}
    yield Case(
        f"gradient_shap, {site}",
        lambda: fa.gradient_shap(model, x, baselines=references, n_samples=8, **options),
        lambda: gs.attribute(x, references, n_samples=8, target=1),
    )
    if convolutional:  # Captum's DeepLift passes attention, GELU and layer norm over
        zero = torch.zeros_like(x)
        yield Case(f"deep_lift, {site}", lambda: fa.deep_lift(model, x, **options), lambda: dl.attribute(x, zero, 1))
        yield Case(
            f"deep_lift_shap, {site}",
            lambda: fa.deep_lift_shap(model, x, baselines=references, **options),
            lambda: ds.attribute(x, references, 1),
        )


def _ablation(model: nn.Module, x: torch.Tensor, site: str) -> Iterator[Case]:
    layer = model.get_submodule(site)
    value = fa.activation(model, x, layer=site)
    last = value.shape[-1] if value.dim() == 3 else value.shape[1]
    groups = torch.arange(last) * 16 // last  # 16 groups of channels
    mask = groups.expand(1, 1, -1) if value.dim() == 3 else groups[None, :, None, None]
    mask = mask.expand(1, *value.shape[1:]).contiguous()
    fab = ca.LayerFeatureAblation(model, layer)
    yield Case(
        f"feature_ablation, {site}",
        lambda: fa.feature_ablation(model, x, layer=site, target=1, feature_mask=mask, chunk_size=8),
        lambda: fab.attribute(x, layer_mask=mask, target=1, perturbations_per_eval=8),
    )
