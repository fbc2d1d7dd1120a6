"""Coalitions beside Captum's, in one process, call by call in turn: python -m benchmarks.coalitions

At a late layer of a ResNet-18, 64 groups of channels and 512 coalitions: Captum has no such class for layers, so it
is asked as one asks it there, by a function of what is present, and evaluates the model as often. At the input, a
batch of 16 and 49 squares: Captum's KernelShap takes one example after another.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import funattr as fa

from .models import ResNet18

TARGET, PLAYERS, COALITIONS = 1, 64, 512


class At(nn.Module):
    """The model as a function of which groups of channels are present at a layer, as it is written with a hook."""

    def __init__(self, model: nn.Module, layer: str, x: Tensor) -> None:
        super().__init__()
        self.model, self.layer, self.x = model, model.get_submodule(layer), x

    def forward(self, present: Tensor) -> Tensor:
        def keep(module: nn.Module, given: Any, value: Tensor) -> Tensor:
            kept = present.repeat_interleave(value.shape[1] // present.shape[1], 1)
            return value * kept[:, :, None, None]

        handle = self.layer.register_forward_hook(keep)
        try:
            return self.model(self.x.expand(len(present), -1, -1, -1))
        finally:
            handle.remove()


def at_a_layer(size: int) -> dict[str, Callable[[], Any]]:
    """512 coalitions of 64 groups of channels at layer4, one example; orders, as Captum's sampling has them."""
    captum: Any = importlib.import_module("captum.attr")
    model, x = ResNet18().eval(), torch.rand(1, 3, size, size)
    mask = (torch.arange(512) * PLAYERS // 512)[:, None, None]
    own = partial(fa.shapley, model, x, layer="layer4", target=TARGET, feature_mask=mask, n_samples=COALITIONS)
    present = torch.ones(1, PLAYERS)
    theirs = captum.ShapleyValueSampling(At(model, "layer4", x)).attribute
    more = {"target": TARGET, "n_samples": COALITIONS // PLAYERS, "perturbations_per_eval": 32}
    return {
        "funattr, leverage": own,
        "funattr, orders": partial(own, sampling="permutation"),
        "Captum's ShapleyValueSampling": lambda: theirs(present, **more),
    }


def at_the_input(size: int) -> dict[str, Callable[[], Any]]:
    """A batch of 16, 49 squares, 200 coalitions each."""
    captum: Any = importlib.import_module("captum.attr")
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10)),
    ).eval()
    x = torch.rand(16, 3, size, size)
    mask = fa.masks.grid(x, -(-size // 7))
    theirs = captum.KernelShap(model).attribute
    return {
        "funattr, leverage": partial(fa.shapley, model, x, target=TARGET, feature_mask=mask, n_samples=200),
        "Captum's KernelShap": lambda: theirs(
            x, target=TARGET, feature_mask=mask[None, None], n_samples=200, perturbations_per_eval=16
        ),
    }


def rounds(calls: dict[str, Callable[[], Any]], count: int) -> dict[str, float]:
    """The median time of each, in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=112, help="of the pictures at the layer; at the input, 64 at most")
    given = parser.parse_args(arguments)
    places = {"layer4 of a ResNet-18": at_a_layer(given.size), "the input, 16 examples": at_the_input(min(given.size, 64))}
    for title, calls in places.items():
        found = rounds(calls, given.rounds)
        own = found["funattr, leverage"]
        print(f"\n{title}")
        for name, seconds in found.items():
            print(f"  {name:32}{seconds:8.3f} s  {seconds / own:6.1f}x")


if __name__ == "__main__":
    main()
