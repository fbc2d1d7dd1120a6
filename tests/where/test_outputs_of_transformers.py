"""Layers that give an output of transformers with integers in it, which drops what is None: as one that gives a tuple."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..close import close

ModelOutput: Any = pytest.importorskip("transformers.utils").ModelOutput


@dataclass
class Found(ModelOutput):  # type: ignore[misc]  # its base is any where transformers has no types
    codes: Tensor | None = None
    first: Tensor | None = None
    mask: Tensor | None = None
    second: Tensor | None = None


class Layer(nn.Module):
    def __init__(self, named: bool) -> None:
        super().__init__()
        self.first, self.second, self.named = nn.Linear(3, 4), nn.Linear(3, 4), named

    def forward(self, x: Tensor) -> Any:
        first = self.first(x)
        found = first.argmax(1), first, first > 0, self.second(x)
        return Found(*found) if self.named else found


class Net(nn.Module):
    def __init__(self, named: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.out = Layer(named), nn.Linear(4, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        return self.out((found[1] * found[3]).tanh())  # type: ignore[no-any-return]  # a module's result


X = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
METHODS: dict[str, Callable[..., Any]] = {
    "gradient": fa.gradient,
    "input_x_gradient": fa.input_x_gradient,
    "integrated_gradients": fa.integrated_gradients,
    "to a tolerance": partial(fa.integrated_gradients, rtol=1e-3),
    "conductance": fa.conductance,
    "deep_lift": fa.deep_lift,
    "deep_lift_shap": partial(fa.deep_lift_shap, baselines=X.flip(0)),
    "lrp": partial(fa.lrp, rules=fa.rules.attn_lrp()),
    "feature_ablation": fa.feature_ablation,
    "normalize": fa.normalize(fa.input_x_gradient),
    "multiply": fa.multiply(fa.activation, fa.gradient),
    "noise_tunnel": fa.noise_tunnel(fa.input_x_gradient, n_samples=2, stdevs=0.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_integers_among_the_values_are_left_out(name: str) -> None:
    """Which ended in an IndexError, or in sizes that do not fit: what was left out moved the others up."""
    explain = partial(METHODS[name], x=X, layer={"layer": "layer"}, target=1)
    found, plain = (explain(Net(named))["layer"] for named in (True, False))
    assert type(found) is Found
    assert found.codes is None
    assert found.mask is None
    close(found.first, plain[1])
    close(found.second, plain[3])
    assert plain[1].abs().max() > 1e-3
