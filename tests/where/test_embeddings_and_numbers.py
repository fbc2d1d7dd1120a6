"""Embedded categories and the numbers beside them, as one joint site: ``layer=["embed", None]``."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funattr as fa


class Tabular(nn.Module):
    """Two categorical columns and four of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(20, 3), nn.Linear(10, 8), nn.Linear(8, 2)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        return self.top(self.embed(categories), numbers)

    def top(self, e: Tensor, v: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(torch.cat([e.flatten(1), v], 1))))


def built() -> tuple[Tabular, Tensor, Tensor]:
    torch.manual_seed(0)
    return Tabular().double().eval(), torch.randint(1, 20, (3, 2)), torch.randn(3, 4).double()


def same(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def parts(found: Any) -> tuple[Tensor, Tensor]:
    """What is found at the embedding, and at the numbers; the categories themselves have none."""
    first, second = found.values() if isinstance(found, dict) else found
    if isinstance(second, dict):
        assert second["categories"] is None
        return first, second["numbers"]
    assert second[0] is None
    return first, second[1]


def ends(model: Tabular, categories: Tensor, start: int) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model.embed(categories), model.embed(torch.full_like(categories, start))


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("named", [False, True])
def test_integrated_gradients_by_a_loop(named: bool, chunk_size: int | None) -> None:
    model, categories, numbers = built()
    e, e0 = ends(model, categories, 2)
    nodes, weights = np.polynomial.legendre.leggauss(7)
    want = [torch.zeros_like(e), torch.zeros_like(numbers)]
    for a, w in zip((nodes + 1) / 2, weights / 2):
        p = (e0 + a * (e - e0)).requires_grad_()
        v = (0.5 + a * (numbers - 0.5)).requires_grad_()
        g, h = torch.autograd.grad(model.top(p, v)[:, 1].sum(), (p, v))
        want = [want[0] + w * g * (e - e0), want[1] + w * h * (numbers - 0.5)]
    x: Any = {"numbers": numbers, "categories": categories} if named else (categories, numbers)
    starts: Any = {"categories": 2, "numbers": 0.5} if named else (2, 0.5)
    layers: Any = {"one": "embed", "two": None} if named else ["embed", None]
    options: dict[str, Any] = {"baselines": starts, "target": 1, "n_steps": 7, "chunk_size": chunk_size}
    same(parts(fa.integrated_gradients(model, x, layer=layers, **options)), tuple(want))


def test_the_order_of_the_sites_does_not_matter() -> None:
    model, categories, numbers = built()
    options: dict[str, Any] = {"baselines": (2, 0.5), "target": 1}
    for method in (fa.integrated_gradients, fa.deep_lift):
        first, second = parts(method(model, (categories, numbers), layer=["embed", None], **options))
        other = method(model, (categories, numbers), layer=[None, "embed"], **options)
        same((other[1], other[0][1]), (first, second))


def test_deep_lift_is_the_rescale_rule_by_hand() -> None:
    model, categories, numbers = built()
    e, e0 = ends(model, categories, 2)
    h = model.hidden(torch.cat([e.flatten(1), numbers], 1))
    h0 = model.hidden(torch.cat([e0.flatten(1), torch.full_like(numbers, 0.5)], 1))
    slope = (h.tanh() - h0.tanh()) / (h - h0) * model.head.weight[1]
    expected = (slope @ model.hidden.weight) * torch.cat([(e - e0).flatten(1), numbers - 0.5], 1)
    first, second = parts(fa.deep_lift(model, (categories, numbers), layer=["embed", None], baselines=(2, 0.5), target=1))
    same(torch.cat([first.flatten(1), second], 1), expected.detach(), 1e-9)


@pytest.mark.parametrize(
    "method",
    [
        partial(fa.integrated_gradients, n_steps=60),
        fa.deep_lift,
        fa.deep_lift_shap,
        fa.mean_over_baselines(fa.deep_lift),
        fa.mean_over_baselines(partial(fa.integrated_gradients, n_steps=60)),
    ],
)
def test_complete(method: Any) -> None:
    model, categories, numbers = built()
    several = "deep_lift_shap" in str(method) or "mean" in str(method)
    rows = 4 if several else 1
    starts = (torch.randint(20, (rows, 2)), torch.randn(rows, 4).double())
    first, second = parts(method(model, (categories, numbers), layer=["embed", None], baselines=starts, target=1))
    expected = model(categories, numbers)[:, 1] - model(*starts)[:, 1].mean()
    same(first.flatten(1).sum(1) + second.sum(1), expected.detach(), 1e-7)
    assert first.abs().max() > 0.01
    assert second.abs().max() > 0.01


def test_gradient_shap_moves_both() -> None:
    """Of a score that is linear in both, whatever is drawn, it is the difference."""
    _, categories, numbers = built()
    torch.manual_seed(1)
    embed, head = nn.Embedding(20, 3).double(), torch.randn(10).double()

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = embed

        def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
            return torch.cat([self.embed(categories).flatten(1), numbers], 1) @ head

    starts = (torch.full((1, 2), 2), torch.full((1, 4), 0.5).double())
    found = fa.gradient_shap(Linear(), (categories, numbers), layer=["embed", None], baselines=starts, n_samples=3)
    first, second = parts(found)
    same(second, head[6:] * (numbers - 0.5))
    same(first, (head[:6].reshape(2, 3) * (embed(categories) - embed(torch.tensor(2)))).detach())


def test_gradients_and_ablation_as_before() -> None:
    model, categories, numbers = built()
    e = ends(model, categories, 0)[0].requires_grad_()
    v = numbers.clone().requires_grad_()
    expected = torch.autograd.grad(model.top(e, v)[:, 1].sum(), (e, v))
    same(parts(fa.gradient(model, (categories, numbers), layer=["embed", None], target=1)), expected)
    first, second = parts(fa.feature_ablation(model, (categories, numbers), layer=["embed", None], target=1))
    lost = model.top(e, v) - model.top(e, torch.cat([v[:, :1] * 0, v[:, 1:]], 1))
    same(second[:, 0], lost[:, 1].detach())
    assert first.shape == e.shape


class Feeds(nn.Module):
    """The numbers feed the layer: what is at both would count twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(numbers)))


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("layer", [["first", None], [None, "first"], {"a": None, "b": "first"}])
def test_a_layer_that_the_input_feeds_is_refused(layer: Any, chunk_size: int | None) -> None:
    model, numbers = Feeds().double().eval(), torch.randn(3, 4).double()
    more: dict[str, Any] = {"layer": layer, "target": 1}
    for call in (
        partial(fa.integrated_gradients, chunk_size=chunk_size),
        fa.deep_lift,
        partial(fa.deep_lift_shap, baselines=numbers, chunk_size=chunk_size),
        partial(fa.feature_ablation, chunk_size=chunk_size),
    ):
        with pytest.raises(ValueError, match="depend"):
            call(model, numbers, **more)
