"""What combinators make of methods of one's own that do not return floating-point numbers, as shipped ones do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import funattr as fa

from .close import close
from .models import Conv

torch.manual_seed(0)
model, image = Conv().eval(), torch.randn(4, 3, 8, 8)


def positive(model: Any, x: Tensor, *, target: Any = None, baselines: Any = 0.0) -> Tensor:
    """Where the gradient is above 0: the mean over noise is how often."""
    return fa.gradient(model, x - baselines, target=target) > 0


def counted(model: Any, x: Tensor, *, target: Any = None, baselines: Any = 0.0) -> Tensor:
    return (1e4 * fa.gradient(model, x - baselines, target=target)).long()


def tunnel(nt_type: str, chunk_size: int | None = None) -> Callable[[Any], Any]:
    def made(method: Any) -> Any:
        generator = torch.Generator().manual_seed(0)
        return fa.noise_tunnel(method, n_samples=7, stdevs=0.5, nt_type=nt_type, generator=generator, chunk_size=chunk_size)

    return made


AROUND: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "relu": (fa.relu, {}),
    "absolute": (fa.absolute, {}),
    "normalize": (fa.normalize, {}),
    "sum_channels": (fa.sum_channels, {}),
    "sum_groups": (lambda method: fa.sum_groups(method, [0, 0, 1]), {}),
    "interpolate": (lambda method: fa.interpolate(method, (4, 4), mode="bilinear"), {}),
    "smoothgrad": (tunnel("smoothgrad"), {}),
    "smoothgrad_sq": (tunnel("smoothgrad_sq", 2), {}),
    "vargrad": (tunnel("vargrad", 1), {}),
    "mean_over_baselines": (fa.mean_over_baselines, {"baselines": torch.randn(3, 3, 8, 8)}),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("method", [positive, counted])
def test_integers_and_bools_are_numbers(name: str, method: Any) -> None:
    """A mean of them was rounded to an integer, or to True, in silence; others dropped them, or kept them as they were."""
    around, options = AROUND[name]

    @functools.wraps(method)
    def in_floats(*args: Any, **named: Any) -> Tensor:
        found: Tensor = method(*args, **named).float()
        return found

    found = around(method)(model, image, target=1, **options)
    assert found.is_floating_point()
    close(found, around(in_floats)(model, image, target=1, **options), 1e-6)
    assert found.abs().sum() > 0
