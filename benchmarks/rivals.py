"""The grad-cam package and zennit, where they are installed and have the method."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .settings import Setting

Call = Callable[[], Any]

_CAMS = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "score_cam": "ScoreCAM",
    "ablation_cam": "AblationCAM",
}


def missing() -> dict[str, str]:
    """Which columns there will be none of, and why."""
    found = {}
    for column, module in (("grad-cam", "pytorch_grad_cam"), ("zennit", "zennit")):
        try:
            importlib.import_module(module)
        except (ImportError, RuntimeError) as error:  # torchvision raises either where it does not fit torch
            found[column] = f"is not measured ({error}; it needs torchvision)"
    return found


def grad_cam_package(name: str, setting: Setting, site: str, target: int) -> Call | None:
    """Its maps are scaled to the input's size and to [0, 1], which is a part of its time."""
    if name not in _CAMS or setting.mask is not None:
        return None
    package: Any = importlib.import_module("pytorch_grad_cam")
    targets: Any = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    transform = _grid if setting.channel_dim == -1 else None
    chosen = [targets.ClassifierOutputTarget(target) for _ in setting.x]

    # Its hooks stay while the object lives, in every pass of the model: so one for each call.
    def call() -> Any:
        with getattr(package, _CAMS[name])(setting.model, [setting.layer(site)], reshape_transform=transform) as cam:
            return cam(input_tensor=setting.x, targets=chosen)

    return call


def _grid(value: Any) -> Any:
    """Tokens as an image."""
    side = int(value.shape[1] ** 0.5)
    return value.transpose(1, 2).unflatten(2, (side, side))


def zennit(name: str, setting: Setting, target: int) -> Call | None:
    if setting.mask is not None or name not in (
        "saliency",
        "guided_backprop",
        "noise_tunnel(gradient)",
        "integrated_gradients",
    ):
        return None
    attribution: Any = importlib.import_module("zennit.attribution")
    composites: Any = importlib.import_module("zennit.composites")

    def one_hot(output: Any) -> Any:
        chosen = output.new_zeros(output.shape)
        chosen[:, target] = 1
        return chosen

    def call() -> Any:
        if name == "guided_backprop":
            attributor = attribution.Gradient(setting.model, composites.GuidedBackprop())
        elif name == "noise_tunnel(gradient)":
            attributor = attribution.SmoothGrad(setting.model, noise_level=0.1, n_iter=setting.samples)
        elif name == "integrated_gradients":
            attributor = attribution.IntegratedGradients(setting.model, n_iter=setting.steps)
        else:
            attributor = attribution.Gradient(setting.model)
        with attributor:
            return attributor(setting.x.clone(), one_hot)[1]

    return call
