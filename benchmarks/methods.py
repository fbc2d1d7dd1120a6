"""THE table of methods: ours, Captum's, the same by hand, and the passes that DESIGN says it takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import captum.attr as ca
import torch
from torch import Tensor

import funattr as fa

from . import by_hand
from .floor import Part, Passes
from .settings import Setting

Call = Callable[[], Any]
Build = Callable[[Setting, str], Call]


class Method(NamedTuple):
    """A row. `own` is a `partial` of a method of ours: the compiled column compiles its function."""

    name: str
    needs: str  # the kinds of a `Setting` that it takes, in words
    own: Callable[[Setting, str], partial[Any]]
    captum: Build | None
    hand: Build | None
    floor: Callable[[Setting, str], list[Part]]
    at_input: bool = False
    #: Columns that are not to give the same numbers, and why.
    differs: dict[str, str] = {}  # noqa: RUF012 - read only
    asked: bool = True  # one of the twelve layer and guided methods that the bars are about


TARGET = 1


def mask_for(setting: Setting, site: str) -> Tensor:
    """Groups of channels of about the same size, for an ablation at a site."""
    value = fa.activation(setting.bound, setting.x[:1] if setting.mask is None else setting.x, layer=site)
    dim = setting.channel_dim % value.dim()
    channels = torch.arange(value.shape[dim], device=value.device) * setting.groups // value.shape[dim]
    shape = [1] * value.dim()
    shape[dim] = -1
    return channels.reshape(shape).expand(1, *value.shape[1:]).contiguous()


def _own(
    method: Any, *, floats: bool = False, at_input: bool = False, **settings: str
) -> Callable[[Setting, str], partial[Any]]:
    """`settings` are arguments of the method, named by the field of `Setting` that holds them."""

    def build(s: Setting, site: str) -> partial[Any]:
        where = {} if at_input else {"layer": site}
        more = {name: getattr(s, field) for name, field in settings.items()}
        return partial(method, s.bound, s.floats if floats else s.x, target=TARGET, **where, **more)

    return build


def _captum(kind: Any, *, floats: bool = False, at_input: bool = False, target: bool = True, **settings: str) -> Build:
    def build(s: Setting, site: str) -> Call:
        object_ = kind(s.model) if at_input else kind(s.model, s.layer(site))
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


def _hand(function: Any, *, floats: bool = False, at_input: bool = False, **settings: str) -> Build:
    def build(s: Setting, site: str) -> Call:
        where = {} if at_input else {"layer": s.layer(site)}
        more = {name: getattr(s, field) for name, field in settings.items()}
        return partial(function, s.bound, s.floats if floats else s.x, target=TARGET, **where, **more)

    return build


def _floor(passes: Callable[[Setting, int], Passes]) -> Callable[[Setting, str], list[Part]]:
    return lambda s, site: [(site, passes(s, len(s.x)))]


def _at_input(passes: Callable[[Setting, int], Passes]) -> Callable[[Setting, str], list[Part]]:
    return lambda s, site: [(None, passes(s, len(s.x)))]


def _reference(s: Setting) -> int:
    """One reference is one example, unless the model holds a batch of its own (a mask)."""
    return 1 if s.mask is None else len(s.x)


def _deep_lift_shap_floor(s: Setting, batch: int) -> Passes:
    if s.mask is None:
        return Passes(batch + s.references, batch + s.references, batch, s.references)
    # The mask has a row for each example, so that each baseline runs beside each of them.
    return Passes(batch + s.references * batch, batch + s.references * batch, batch, s.references)


def _ablation_own(s: Setting, site: str) -> partial[Any]:
    mask = mask_for(s, site)
    return partial(fa.feature_ablation, s.bound, s.x, layer=site, target=TARGET, feature_mask=mask)


def _ablation_captum(s: Setting, site: str) -> Call:
    mask = mask_for(s, site)
    more = {} if s.more is None else {"additional_forward_args": s.more}
    ablation = ca.LayerFeatureAblation(s.model, s.layer(site))
    return partial(ablation.attribute, s.x, layer_mask=mask, target=TARGET, perturbations_per_eval=s.groups, **more)


def _ablation_hand(s: Setting, site: str) -> Call:
    return partial(by_hand.feature_ablation, s.bound, s.x, s.layer(site), TARGET, mask_for(s, site))


def _shap(method: Any) -> Callable[[Setting, str], partial[Any]]:
    def build(s: Setting, site: str) -> partial[Any]:
        more = {"n_samples": s.samples} if method is fa.gradient_shap else {}
        return partial(method, s.bound, s.floats, baselines=s.baselines(), layer=site, target=TARGET, **more)

    return build


def _shap_captum(kind: Any) -> Build:
    def build(s: Setting, site: str) -> Call:
        more: dict[str, Any] = {"n_samples": s.samples} if kind is ca.LayerGradientShap else {}
        if s.more is not None:
            more["additional_forward_args"] = s.more
        return partial(kind(s.model, s.layer(site)).attribute, s.floats, s.baselines(), target=TARGET, **more)

    return build


def _shap_hand(s: Setting, site: str) -> Call:
    return partial(by_hand.gradient_shap, s.bound, s.floats, s.layer(site), TARGET, s.baselines(), s.samples)


def _cam(method: Any, targets: bool = False) -> Callable[[Setting, str], partial[Any]]:
    def build(s: Setting, site: str) -> partial[Any]:
        if targets:
            return partial(fa.each_target(method, range(s.targets)), s.bound, s.x, layer=site, channel_dim=s.channel_dim)
        return partial(method, s.bound, s.x, layer=site, target=TARGET, channel_dim=s.channel_dim)

    return build


def _each_captum(s: Setting, site: str) -> Call:
    cam = ca.LayerGradCam(s.model, s.layer(site))
    return lambda: torch.stack([cam.attribute(s.x, target=k, additional_forward_args=s.more) for k in range(s.targets)])


def _each_hand(s: Setting, site: str) -> Call:
    return partial(by_hand.each_grad_cam, s.bound, s.x, s.layer(site), range(s.targets), s.channel_dim)


def _tunnel(s: Setting, site: str) -> partial[Any]:
    return partial(fa.noise_tunnel(fa.gradient, n_samples=s.samples, stdevs=0.1), s.bound, s.x, target=TARGET)


def _tunnel_captum(s: Setting, site: str) -> Call:
    tunnel = ca.NoiseTunnel(ca.Saliency(s.model))
    leaf = s.x.clone().requires_grad_()
    return partial(tunnel.attribute, leaf, nt_samples=s.samples, stdevs=0.1, target=TARGET, abs=False)


def _one(s: Setting, b: int) -> Passes:
    return Passes(b, b, b)


def _path(s: Setting, b: int) -> Passes:
    return Passes(b + _reference(s), s.steps * b, s.steps * b)


RANDOM = {"captum": "draws of its own", "hand": "draws of its own"}
TOKEN_CAM = {"captum": "takes the tokens for the channels"}
CELLS = {"captum": "another rule: differences between nodes, not between the edges of cells"}
PLAIN = {"captum": "passes attention, GELU and layer norm over, and gives their gradient"}
STEPS = {"n_steps": "steps"}
BY_HAND = {"n": "steps"}

METHODS = [
    Method(
        "activation",
        "layer",
        lambda s, site: partial(fa.activation, s.bound, s.x, layer=site),
        _captum(ca.LayerActivation, target=False),
        lambda s, site: partial(by_hand.activation, s.bound, s.x, s.layer(site)),
        _floor(lambda s, b: Passes(b, b)),
    ),
    Method(
        "input_x_gradient",
        "layer",
        _own(fa.input_x_gradient),
        _captum(ca.LayerGradientXActivation),
        _hand(by_hand.input_x_gradient),
        _floor(_one),
    ),
    Method(
        "grad_cam",
        "cam",
        _cam(fa.grad_cam),
        _captum(ca.LayerGradCam),
        _hand(by_hand.grad_cam, channel_dim="channel_dim"),
        _floor(_one),
        differs=TOKEN_CAM,
    ),
    Method(
        "guided_grad_cam",
        "cam relu",
        _own(fa.guided_grad_cam),
        _captum(ca.GuidedGradCam),
        _hand(by_hand.guided_grad_cam),
        lambda s, site: [(None, _one(s, len(s.x))), (site, _one(s, len(s.x)))],
    ),
    Method(
        "integrated_gradients",
        "path",
        _own(fa.integrated_gradients, **STEPS),
        _captum(ca.LayerIntegratedGradients, **STEPS),
        _hand(by_hand.integrated_gradients, **BY_HAND),
        _floor(_path),
    ),
    Method(
        "internal_influence",
        "path",
        _own(fa.internal_influence, floats=True, **STEPS),
        _captum(ca.InternalInfluence, floats=True, **STEPS),
        _hand(by_hand.internal_influence, floats=True, **BY_HAND),
        _floor(lambda s, b: Passes(s.steps * b, s.steps * b, s.steps * b)),
    ),
    Method(
        "conductance",
        "path",
        _own(fa.conductance, floats=True, **STEPS),
        _captum(ca.LayerConductance, floats=True, **STEPS),
        _hand(by_hand.conductance, floats=True, **BY_HAND),
        _floor(lambda s, b: Passes((2 * s.steps + 1) * b, s.steps * b, s.steps * b)),
        differs=CELLS,
    ),
    Method(
        "deep_lift",
        "lift",
        _own(fa.deep_lift, floats=True),
        _captum(ca.LayerDeepLift, floats=True),
        None,
        _floor(lambda s, b: Passes(b + _reference(s), b + _reference(s), b)),
        differs=PLAIN,
    ),
    Method(
        "deep_lift_shap",
        "lift",
        _shap(fa.deep_lift_shap),
        _shap_captum(ca.LayerDeepLiftShap),
        None,
        _floor(_deep_lift_shap_floor),
        differs=PLAIN,
    ),
    Method(
        "gradient_shap",
        "path",
        _shap(fa.gradient_shap),
        _shap_captum(ca.LayerGradientShap),
        _shap_hand,
        # The path runs in the input, so that each of its points takes the prefix.
        _floor(lambda s, b: Passes(s.references * _reference(s) + b + s.samples * b, s.samples * b, s.samples * b)),
        differs=RANDOM,
    ),
    Method(
        "feature_ablation",
        "layer",
        _ablation_own,
        _ablation_captum,
        _ablation_hand,
        _floor(lambda s, b: Passes(b, (s.groups + 1) * b)),
    ),
    Method(
        "guided_backprop",
        "relu",
        _own(fa.guided_backprop, at_input=True),
        _captum(ca.GuidedBackprop, at_input=True),
        _hand(by_hand.guided_backprop, at_input=True),
        _at_input(_one),
        at_input=True,
    ),
]

#: Beyond the twelve.
MORE = [
    Method(
        "saliency",
        "image",
        _own(fa.saliency, at_input=True),
        _captum(ca.Saliency, at_input=True),
        _hand(by_hand.saliency, at_input=True),
        _at_input(_one),
        at_input=True,
    ),
    Method(
        "noise_tunnel(gradient)",
        "image",
        _tunnel,
        _tunnel_captum,
        lambda s, site: partial(by_hand.smooth_grad, s.model, s.x, TARGET, s.samples, 0.1),
        _at_input(lambda s, b: Passes(s.samples * b, s.samples * b, s.samples * b)),
        at_input=True,
        differs=RANDOM,
    ),
    Method(
        "integrated_gradients",
        "image path",
        _own(fa.integrated_gradients, at_input=True, **STEPS),
        _captum(ca.IntegratedGradients, at_input=True, **STEPS),
        _hand(by_hand.integrated_gradients_of_the_input, at_input=True, **BY_HAND),
        _at_input(lambda s, b: Passes(s.steps * b, s.steps * b, s.steps * b)),
        at_input=True,
    ),
    Method(
        "each_target(grad_cam)",
        "cam",
        _cam(fa.grad_cam, targets=True),
        _each_captum,
        _each_hand,
        _floor(lambda s, b: Passes(b, b, b, s.targets)),
        differs=TOKEN_CAM,
    ),
    *(
        Method(method.__name__, "image cam", _cam(method), None, None, _floor(_one))
        for method in (fa.grad_cam_plus_plus, fa.xgrad_cam, fa.hires_cam, fa.layer_cam)
    ),
    Method("ablation_cam", "cam tiny", _cam(fa.ablation_cam), None, None, _floor(lambda s, b: Passes(b, (8 + 1) * b))),
    Method("score_cam", "cam tiny", _cam(fa.score_cam), None, None, _floor(lambda s, b: Passes((8 + 1) * b, 8 * b))),
]

TABLE = METHODS + [method._replace(asked=False) for method in MORE]
