"""``python -m benchmarks``: what a method costs in time, as a ratio to Captum in the same run."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import captum.attr as ca
import torch
from torch import nn

import funattr as fa


class Case(NamedTuple):
    name: str
    own: Callable[[], Any]
    captum: Callable[[], Any]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5)).eval()


def cnn() -> nn.Module:
    conv = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*conv, nn.Flatten(), nn.Linear(8 * 16, 10)).eval()


def overhead() -> list[Case]:
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
    return [
        Case("activation, layer", lambda: fa.activation(model, x, layer="1"), lambda: act.attribute(x)),
        Case("saliency", lambda: fa.saliency(model, x, target=2), lambda: sal.attribute(leaf, 2)),
        Case("input_x_gradient", lambda: fa.input_x_gradient(model, x, target=2), lambda: ixg.attribute(leaf, 2)),
        Case(
            "input_x_gradient, layer", lambda: fa.input_x_gradient(model, x, layer="1", target=2), lambda: gxa.attribute(x, 2)
        ),
        Case("gradient, neuron", lambda: fa.gradient(model, x, target=neuron), lambda: ng.attribute(leaf, 2)),
        Case("guided_backprop", lambda: fa.guided_backprop(model, x, target=2), lambda: gb.attribute(leaf, 2)),
        Case("deconvnet", lambda: fa.deconvnet(model, x, target=2), lambda: dc.attribute(leaf, 2)),
        Case("grad_cam", lambda: fa.grad_cam(image, picture, layer="3", target=2), lambda: cam.attribute(picture, 2)),
        Case(
            "guided_grad_cam",
            lambda: fa.guided_grad_cam(image, picture, layer="3", target=2),
            lambda: ggc.attribute(picture_leaf, 2),
        ),
    ]


def measure(case: Case, repeats: int) -> tuple[float, float]:
    """Median microseconds of both, interleaved: a slow moment of the machine hits both."""
    for _ in range(20):
        case.own(), case.captum()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, found in zip((case.own, case.captum), times):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return statistics.median(times[0]) * 1e6, statistics.median(times[1]) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats: shows that it runs, not how fast")
    parser.add_argument("--filter", default="", metavar="WORDS", help="only cases whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", module="captum")
    warnings.filterwarnings("ignore", "Setting forward, backward hooks")
    print("Python overhead: two-layer MLP (CAMs: two-layer CNN), batch 1, one thread, median of interleaved calls")
    print(f"{'method':26s}{'funattr':>12s}{'Captum':>12s}{'ratio':>8s}")
    for case in overhead():
        if options.filter in case.name:
            own, captum = measure(case, 30 if options.quick else 1000)
            print(f"{case.name:26s}{own:9.0f} us{captum:9.0f} us{captum / own:7.2f}x")


if __name__ == "__main__":
    main()
