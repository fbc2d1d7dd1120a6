"""A method of ours, Captum's, or one by hand, at a site of a model: ready to be called."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import funattr as fa

from . import by_hand
from .settings import Setting

Call = Callable[[], Any]
Build = Callable[[Setting, str], Call]
Own = Callable[[Setting, str], partial[Any]]

TARGET = 1


def mask_for(setting: Setting, site: str) -> Tensor:
    """Groups of channels of about the same size, for an ablation at a site."""
    value = fa.activation(setting.bound, setting.x[:1] if setting.mask is None else setting.x, layer=site)
    dim = setting.channel_dim % value.dim()
    channels = torch.arange(value.shape[dim], device=value.device) * setting.groups // value.shape[dim]
    shape = [1] * value.dim()
    shape[dim] = -1
    return channels.reshape(shape).expand(1, *value.shape[1:]).contiguous()


def own(method: Any, *, floats: bool = False, at_input: bool = False, **settings: str) -> Own:
    """`settings` are arguments of the method, named by the field of `Setting` that holds them."""

    def build(s: Setting, site: str) -> partial[Any]:
        where = {} if at_input else {"layer": site}
        more = {name: getattr(s, field) for name, field in settings.items()}
        return partial(method, s.bound, s.floats if floats else s.x, target=TARGET, **where, **more)

    return build


def of_captum(kind: str) -> Any:
    """A class of Captum's; imported when it is needed, for it may not be installed."""
    return getattr(importlib.import_module("captum.attr"), kind)


def captum(kind: str, *, floats: bool = False, at_input: bool = False, target: bool = True, **settings: str) -> Build:
    def build(s: Setting, site: str) -> Call:
        object_ = of_captum(kind)(s.model) if at_input else of_captum(kind)(s.model, s.layer(site))
        more = {name: getattr(s, field) for name, field in settings.items()}
        if target:
            more["target"] = TARGET
        x = s.floats if floats else s.x
        if at_input and x.is_floating_point():
            x = x.clone().requires_grad_()  # as Captum wants its inputs
        if s.more is not None:
            more["additional_forward_args"] = s.more
        return partial(object_.attribute, x, **more)

    return build


def hand(function: Any, *, floats: bool = False, at_input: bool = False, **settings: str) -> Build:
    def build(s: Setting, site: str) -> Call:
        where = {} if at_input else {"layer": s.layer(site)}
        more = {name: getattr(s, field) for name, field in settings.items()}
        return partial(function, s.bound, s.floats if floats else s.x, target=TARGET, **where, **more)

    return build


def ablation_own(s: Setting, site: str) -> partial[Any]:
    mask = mask_for(s, site)
    return partial(fa.feature_ablation, s.bound, s.x, layer=site, target=TARGET, feature_mask=mask)


def ablation_captum(s: Setting, site: str) -> Call:
    mask = mask_for(s, site)
    more: dict[str, Any] = {} if s.more is None else {"additional_forward_args": s.more}
    ablation = of_captum("LayerFeatureAblation")(s.model, s.layer(site))
    return partial(ablation.attribute, s.x, layer_mask=mask, target=TARGET, perturbations_per_eval=s.groups, **more)


def ablation_hand(s: Setting, site: str) -> Call:
    return partial(by_hand.feature_ablation, s.bound, s.x, s.layer(site), TARGET, mask_for(s, site))


def shap(method: Any) -> Own:
    def build(s: Setting, site: str) -> partial[Any]:
        more: dict[str, Any] = {"n_samples": s.samples} if method is fa.gradient_shap else {}
        return partial(method, s.bound, s.floats, baselines=s.baselines(), layer=site, target=TARGET, **more)

    return build


def shap_captum(kind: str) -> Build:
    def build(s: Setting, site: str) -> Call:
        more: dict[str, Any] = {"n_samples": s.samples} if kind == "LayerGradientShap" else {}
        if s.more is not None:
            more["additional_forward_args"] = s.more
        return partial(of_captum(kind)(s.model, s.layer(site)).attribute, s.floats, s.baselines(), target=TARGET, **more)

    return build


def shap_hand(s: Setting, site: str) -> Call:
    return partial(by_hand.gradient_shap, s.bound, s.floats, s.layer(site), TARGET, s.baselines(), s.samples)


def cam(method: Any, targets: bool = False) -> Own:
    def build(s: Setting, site: str) -> partial[Any]:
        if targets:
            each = fa.each_target(method, range(s.targets))
            return partial(each, s.bound, s.x, layer=site, channel_dim=s.channel_dim)
        return partial(method, s.bound, s.x, layer=site, target=TARGET, channel_dim=s.channel_dim)

    return build


def each_captum(s: Setting, site: str) -> Call:
    cam = of_captum("LayerGradCam")(s.model, s.layer(site))
    return lambda: torch.stack([cam.attribute(s.x, target=k, additional_forward_args=s.more) for k in range(s.targets)])


def each_hand(s: Setting, site: str) -> Call:
    return partial(by_hand.each_grad_cam, s.bound, s.x, s.layer(site), range(s.targets), s.channel_dim)


def tunnel(s: Setting, site: str) -> partial[Any]:
    return partial(fa.noise_tunnel(fa.gradient, n_samples=s.samples, stdevs=0.1), s.bound, s.x, target=TARGET)


def tunnel_captum(s: Setting, site: str) -> Call:
    tunnel = of_captum("NoiseTunnel")(of_captum("Saliency")(s.model))
    leaf = s.x.clone().requires_grad_()
    return partial(tunnel.attribute, leaf, nt_samples=s.samples, stdevs=0.1, target=TARGET, abs=False)


def shap_of_sequences(s: Setting, site: str) -> partial[Any]:
    return partial(fa.deep_lift_shap, s.model, s.x, baselines=s.baselines(), target=TARGET)


def shap_captum_of_sequences(s: Setting, site: str) -> Call:
    return partial(of_captum("DeepLiftShap")(s.model).attribute, s.x, s.baselines(), target=TARGET)
