"""Captum, the grad-cam package, zennit and tangermeme, where they are installed and have the method."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import types
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


#: A column, the module that it needs, and the package to install.
_PACKAGES = {
    "Captum": ("captum.attr", "captum"),
    "grad-cam": ("pytorch_grad_cam", "grad-cam"),
    "zennit": ("zennit", "zennit"),
    "tangermeme": ("tangermeme.deep_lift_shap", "tangermeme"),
}


def missing() -> dict[str, str]:
    """Which columns there will be none of, and why."""
    found = {}
    for column, (module, package) in _PACKAGES.items():
        try:
            with_torchvision(module)
        except (ImportError, RuntimeError, AttributeError) as error:  # torchvision raises these where it does not fit torch
            found[column] = f"is not measured ({error}; pip install {package})"
    return found


def versions() -> dict[str, str]:
    """Which versions are measured."""
    without = missing()
    return {column: importlib.metadata.version(name) for column, (_, name) in _PACKAGES.items() if column not in without}


_FAKES = "torchvision._meta_registrations"


def with_torchvision(module: str) -> Any:
    """Import what needs torchvision, also beside another build of torch.

    A torchvision for GPUs fails to import beside torch for CPUs in one place alone: where it tells torch about the shapes that
    its own operations return. Nothing here runs these, so in this process that module is an empty one.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError, AttributeError):
        if _FAKES in sys.modules:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", module.partition(".")[0])]:
            del sys.modules[name]
        sys.modules[_FAKES] = types.ModuleType(_FAKES)
        try:
            return importlib.import_module(module)
        except (ImportError, RuntimeError, AttributeError):
            del sys.modules[_FAKES]
            raise


def beside_another_torch() -> bool:
    """Whether torchvision runs here without a part of itself."""
    return _FAKES in sys.modules and not hasattr(sys.modules[_FAKES], "__file__")


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


def tangermeme(setting: Setting, target: int) -> Call:
    """It multiplies what it finds by the one-hot input; and checks completeness as it goes, which is a part of its time."""
    shap: Any = importlib.import_module("tangermeme.deep_lift_shap")
    references = setting.baselines()[None].expand(len(setting.x), -1, -1, -1).contiguous()
    pairs = len(setting.x) * setting.references

    def call() -> Any:
        return shap.deep_lift_shap(
            *(setting.model, setting.x), target=target, references=references, batch_size=pairs, device=setting.x.device
        )

    return call
