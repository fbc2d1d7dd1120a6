"""A score that is not a finite number is not explained, whatever its gradient is: by any method, at any point it looks at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..methods import METHODS, Row, row_id

TARGETED = [row for row in METHODS if row.targeted]
x = torch.rand(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1


class Net(nn.Module):
    """Its output is spoiled: values and gradients at the layers are what they were, or 0."""

    def __init__(self, spoiled: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu, self.head = nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Linear(3, 4)
        self.spoiled = spoiled
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.spoiled(self.head(self.relu(self.conv(x)).mean((2, 3))))


def filled(y: Tensor) -> Tensor:
    """Written into a tensor of the model's own, which vmap runs functionalized."""
    out = torch.zeros(y.shape, dtype=y.dtype)
    out += y
    out[:, 1] = math.nan
    return out


SPOILED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "times 0, and NaN": lambda y: y * 0 + torch.tensor([0.0, math.nan, 0.0, 0.0]),
    "plus inf": lambda y: y + torch.tensor([0.0, math.inf, 0.0, 0.0]),
    "masked": lambda y: y.masked_fill(torch.tensor([False, True, False, False]), -math.inf),
    "of one example": lambda y: torch.where((torch.arange(len(y)) == len(y) - 1)[:, None], math.nan, y),
    "filled": filled,
    "masked log": lambda y: torch.where(y > y.detach() - 1, (y * 0).detach().log(), y),
}


#: Before torch 2.3 vmap cannot write there, functionalized or not.
SLOWER = [] if hasattr(torch.utils, "swap_tensors") else ["ignore:the steps run one after another"]


@pytest.mark.filterwarnings(*SLOWER)
@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED.keys())
@pytest.mark.parametrize("row", TARGETED, ids=row_id)
def test_no_method_explains_a_score_that_is_not_finite(row: Row, spoiled: Callable[[Tensor], Tensor]) -> None:
    net = Net(spoiled)
    for layer in [*([None] if row.at_input else []), "conv"]:
        with pytest.raises(ValueError, match=r"the model's score holds NaN or inf \((nan|-?inf)"):
            row.method(net, x, layer=layer, target=1, **row.options)


@pytest.mark.parametrize("steps", [None, 1])
def test_of_several_targets_the_one_is_found(steps: int | None) -> None:
    net = Net(SPOILED["times 0, and NaN"])
    for method in (fa.gradient, fa.integrated_gradients):
        assert fa.each_target(method, [0, 2])(net, x)[0].isfinite().all()
        with pytest.raises(ValueError, match=r"the model's score holds NaN or inf \(nan"):
            fa.each_target(method, [0, 1])(net, x)
    with pytest.raises(ValueError, match=r"nan for example 0 of 3"):
        fa.gradient(net, x, target="argmax")  # the largest of numbers with a NaN among them is the NaN
    with pytest.raises(ValueError, match=r"nan for example 1 of 3"):
        fa.gradient(net, x, target=[0, 1, 3])
    with pytest.raises(ValueError, match=r"the model's score holds NaN or inf \(nan"):
        fa.integrated_gradients(net, x, target=1, chunk_size=steps, rtol=1e-2 if steps is None else None)


def test_the_neuron_of_one_example() -> None:
    def index(v: Tensor) -> Tensor:
        return v[:, 0] + (torch.arange(3) == 2).double().mul(-1).log1p().mul(1.0)

    with pytest.raises(ValueError, match=r"-inf for example 2 of 3"):
        fa.saliency(Net(lambda y: y), x, target=fa.neuron("head", index))


def test_a_score_that_is_not_finite_at_the_baseline_alone() -> None:
    """Its gradient at x is finite, and DeepLIFT takes the difference from it."""

    def net(v: Tensor) -> Tensor:
        return torch.where((v == 0).flatten(1).all(1), math.nan, v.flatten(1).sum(1))

    for method, baselines in ((fa.deep_lift, 0.0), (fa.deep_lift_shap, torch.stack([x[0], x[0] * 0]))):
        with pytest.raises(ValueError, match="the model's score at the baseline holds NaN or inf"):
            method(net, x, baselines=baselines)
    assert fa.gradient(net, x).eq(1).all()


def test_large_scores_are_no_infinite_ones() -> None:
    """Their sum is: it is what is looked at first."""
    found = fa.gradient(lambda v: v.flatten(1)[:, 0] * 0 + 60000, x.half())
    assert found.eq(0).all()
