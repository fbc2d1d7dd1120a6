"""THE table of methods: ours, Captum's, the same by hand, and the passes that DESIGN says it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import funattr as fa

from . import by_hand
from .calls import (
    TARGET,
    Build,
    Own,
    ablation_captum,
    ablation_hand,
    ablation_own,
    cam,
    captum,
    each_captum,
    each_hand,
    hand,
    own,
    shap,
    shap_captum,
    shap_captum_of_sequences,
    shap_hand,
    shap_of_sequences,
    tunnel,
    tunnel_captum,
)
from .floor import Part, Passes
from .settings import Setting


class Method(NamedTuple):
    """A row. `own` is a `partial` of a method of ours: the compiled column compiles its function."""

    name: str
    needs: str  # the kinds of a `Setting` that it takes, in words
    own: Own
    captum: Build | None
    hand: Build | None
    floor: Callable[[Setting, str], list[Part]]
    at_input: bool = False
    #: Columns that are not to give the same numbers, and why; `on_tokens` if only for models of tokens.
    differs: Mapping[str, str] = MappingProxyType({})
    on_tokens: bool = False
    asked: bool = True  # one of the twelve layer and guided methods that the bars are about


def _floor(passes: Callable[[Setting, int], Passes]) -> Callable[[Setting, str], list[Part]]:
    return lambda s, site: [(site, passes(s, len(s.x)))]


def _at_input(passes: Callable[[Setting, int], Passes]) -> Callable[[Setting, str], list[Part]]:
    return lambda s, site: [(None, passes(s, len(s.x)))]


def _reference(s: Setting) -> int:
    """One reference is one example, unless the model holds a batch of its own (a mask)."""
    return 1 if s.mask is None else len(s.x)


def _starts(s: Setting, batch: int) -> int:
    """Values at the baselines: each once, and one row more to see that rows stand alone; or all that are drawn."""
    if s.mask is None:
        return min(s.references + 1, s.samples * batch)
    # The mask has a row for each example, so that each baseline runs beside each of them.
    return min(s.references + 1, s.samples) * batch


def _deep_lift_shap_floor(s: Setting, batch: int) -> Passes:
    if s.mask is None:
        return Passes(batch + s.references, batch + s.references, batch, s.references)
    # The mask has a row for each example, so that each baseline runs beside each of them.
    return Passes(batch + s.references * batch, batch + s.references * batch, batch, s.references)


def _one(s: Setting, b: int) -> Passes:
    return Passes(b, b, b)


def _path(s: Setting, b: int) -> Passes:
    return Passes(b + _reference(s), s.steps * b, s.steps * b)


DRAWS = "draws of its own"
RANDOM = {"captum": DRAWS, "hand": DRAWS}
TOKEN_CAM = {"captum": "takes the tokens for the channels"}
RATES = {"captum": "another rule: differences between nodes, not rates of change at them"}
PLAIN = {"captum": "passes attention, GELU and layer norm over, and gives their gradient"}

METHODS = [
    Method(
        "activation",
        "layer",
        lambda s, site: partial(fa.activation, s.bound, s.x, layer=site),
        captum("LayerActivation", target=False),
        lambda s, site: partial(by_hand.activation, s.bound, s.x, s.layer(site)),
        _floor(lambda s, b: Passes(b, b)),
    ),
    Method(
        "input_x_gradient",
        "layer",
        own(fa.input_x_gradient),
        captum("LayerGradientXActivation"),
        hand(by_hand.input_x_gradient),
        _floor(_one),
    ),
    Method(
        "grad_cam",
        "cam",
        cam(fa.grad_cam),
        captum("LayerGradCam"),
        hand(by_hand.grad_cam, channel_dim="channel_dim"),
        _floor(_one),
        differs=TOKEN_CAM,
        on_tokens=True,
    ),
    Method(
        "guided_grad_cam",
        "cam relu",
        own(fa.guided_grad_cam),
        captum("GuidedGradCam"),
        hand(by_hand.guided_grad_cam),
        lambda s, site: [(None, _one(s, len(s.x))), (site, _one(s, len(s.x)))],
    ),
    Method(
        "integrated_gradients",
        "path",
        own(fa.integrated_gradients, n_steps="steps"),
        captum("LayerIntegratedGradients", n_steps="steps"),
        hand(by_hand.integrated_gradients, n="steps"),
        _floor(_path),
    ),
    Method(
        "internal_influence",
        "path",
        own(fa.internal_influence, floats=True, n_steps="steps"),
        captum("InternalInfluence", floats=True, n_steps="steps"),
        hand(by_hand.internal_influence, floats=True, n="steps"),
        _floor(lambda s, b: Passes(s.steps * b, s.steps * b, s.steps * b)),
    ),
    Method(
        "conductance",
        "path",
        own(fa.conductance, floats=True, n_steps="steps"),
        captum("LayerConductance", floats=True, n_steps="steps"),
        hand(by_hand.conductance, floats=True, n="steps"),
        _floor(lambda s, b: Passes((s.steps + 1) * b + _reference(s), s.steps * b, s.steps * b)),
        differs=RATES,
    ),
    Method(
        "deep_lift",
        "lift",
        own(fa.deep_lift, floats=True),
        captum("LayerDeepLift", floats=True),
        None,
        _floor(lambda s, b: Passes(b + _reference(s), b + _reference(s), b)),
        differs=PLAIN,
        on_tokens=True,
    ),
    Method(
        "deep_lift_shap",
        "lift",
        shap(fa.deep_lift_shap),
        shap_captum("LayerDeepLiftShap"),
        None,
        _floor(_deep_lift_shap_floor),
        differs=PLAIN,
        on_tokens=True,
    ),
    Method(
        "gradient_shap",
        "path",
        shap(fa.gradient_shap),
        shap_captum("LayerGradientShap"),
        shap_hand,
        # The path runs in the input, so that each of its points takes the prefix.
        _floor(lambda s, b: Passes(_starts(s, b) + b + s.samples * b, s.samples * b, s.samples * b)),
        differs=RANDOM,
    ),
    Method(
        "feature_ablation",
        "layer",
        ablation_own,
        ablation_captum,
        ablation_hand,
        _floor(lambda s, b: Passes(b, (s.groups + 1) * b)),
    ),
    Method(
        "guided_backprop",
        "relu",
        own(fa.guided_backprop, at_input=True),
        captum("GuidedBackprop", at_input=True),
        hand(by_hand.guided_backprop, at_input=True),
        _at_input(_one),
        at_input=True,
    ),
]

#: Beyond the twelve.
MORE = [
    Method(
        "saliency",
        "image",
        own(fa.saliency, at_input=True),
        captum("Saliency", at_input=True),
        hand(by_hand.saliency, at_input=True),
        _at_input(_one),
        at_input=True,
    ),
    Method(
        "noise_tunnel(gradient)",
        "image",
        tunnel,
        tunnel_captum,
        lambda s, site: partial(by_hand.smooth_grad, s.model, s.x, TARGET, s.samples, 0.1),
        _at_input(lambda s, b: Passes(s.samples * b, s.samples * b, s.samples * b)),
        at_input=True,
        differs=RANDOM,
    ),
    Method(
        "integrated_gradients",
        "image path",
        own(fa.integrated_gradients, at_input=True, n_steps="steps"),
        captum("IntegratedGradients", at_input=True, n_steps="steps"),
        hand(by_hand.integrated_gradients_of_the_input, at_input=True, n="steps"),
        _at_input(lambda s, b: Passes(s.steps * b, s.steps * b, s.steps * b)),
        at_input=True,
    ),
    Method(
        "deep_lift_shap",
        "sequence",
        shap_of_sequences,
        shap_captum_of_sequences,
        None,
        _at_input(lambda s, b: Passes(0, b + s.references, b, s.references)),
        at_input=True,
    ),
    Method(
        "each_target(grad_cam)",
        "cam",
        cam(fa.grad_cam, targets=True),
        each_captum,
        each_hand,
        _floor(lambda s, b: Passes(b, b, b, s.targets)),
        differs=TOKEN_CAM,
        on_tokens=True,
    ),
    *(
        Method(method.__name__, "image cam", cam(method), None, None, _floor(_one))
        for method in (fa.grad_cam_plus_plus, fa.xgrad_cam, fa.hires_cam, fa.layer_cam)
    ),
    Method("ablation_cam", "cam tiny", cam(fa.ablation_cam), None, None, _floor(lambda s, b: Passes(b, (8 + 1) * b))),
    Method("score_cam", "cam tiny", cam(fa.score_cam), None, None, _floor(lambda s, b: Passes((8 + 1) * b, 8 * b))),
]

TABLE = METHODS + [method._replace(asked=False) for method in MORE]
