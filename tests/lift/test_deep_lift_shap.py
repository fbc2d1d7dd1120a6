"""deep_lift_shap is the mean of deep_lift over the baselines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa
from funattr import deep_lift, deep_lift_shap, mean_over_baselines
from funattr._rules.lift import passes

from ..operations import Around, assert_complete
from .test_deep_lift_transforms import LAYERS, mixed, tensor


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_deep_lift_shap_is_the_mean(layer: Any, chunk_size: int | None) -> None:
    model, x, target = mixed()
    references = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    each = [tensor(deep_lift(model, x, baselines=r[None], layer=layer, target=target)) for r in references]
    for baselines in (references, lambda _: references):
        found = deep_lift_shap(model, x, baselines=baselines, layer=layer, target=target, chunk_size=chunk_size)
        torch.testing.assert_close(tensor(found), torch.stack(each).mean(0))
    assert mean_over_baselines(deep_lift) is deep_lift_shap

    def by_hand(model: Any, x: Tensor, *, baselines: Any, layer: Any, target: Any) -> Any:
        return deep_lift(model, x, baselines=baselines, layer=layer, target=target)

    found = mean_over_baselines(by_hand)(model, x, baselines=references, layer=layer, target=target)
    torch.testing.assert_close(tensor(found), torch.stack(each).mean(0))


class Captions(nn.Module):
    """An image and its caption: floats beside ids."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.words, self.head = nn.Linear(6, 8), nn.Embedding(20, 8), nn.Linear(8, 5)

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        return self.head(torch.tanh(self.image(image)) * self.words(words).mean(1))


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("layer", [fa.input_of("head"), "words", "image"])
def test_baselines_of_ids_beside_floats_count_at_a_layer_also_for_many(layer: Any, chunk_size: int | None) -> None:
    model = Captions().double()
    x = (torch.randn(3, 6, dtype=torch.float64), torch.randint(0, 20, (3, 4)))
    many = (torch.randn(2, 6, dtype=torch.float64), torch.randint(0, 20, (2, 4)))
    each = [deep_lift(model, x, layer=layer, target=1, baselines=tuple(t[i : i + 1] for t in many)) for i in range(2)]
    found = deep_lift_shap(model, x, layer=layer, target=1, baselines=many, chunk_size=chunk_size)
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    if not isinstance(layer, str):
        assert_complete(found, model(*x)[:, 1].detach() - model(*many)[:, 1].detach().mean())


def test_deep_lift_shap_names_operations_without_a_rule() -> None:
    model = Around(lambda h, g: torch.cumprod(h, 1)).double()
    with pytest.warns(UserWarning, match="cumprod is not linear"):
        deep_lift_shap(model, torch.randn(3, 5, dtype=torch.float64), baselines=torch.randn(4, 5, dtype=torch.float64))


@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.parametrize("target", ["argmax", [2, 1, 2], 1])
def test_the_sum_is_looked_at_whatever_runs_at_once(
    target: Any, chunk_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the class that each x has, which its baselines need not have."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, many = torch.randn(3, 6, dtype=torch.float64), 2 * torch.randn(5, 6, dtype=torch.float64)
    best = model(x).argmax(1)
    assert len(set(model(many).argmax(1).tolist())) > len(set(best.tolist())) > 1
    if target == "argmax":
        found = deep_lift_shap(model, x, target=target, baselines=many, chunk_size=chunk_size)
        assert_complete(found, model(x).gather(1, best[:, None])[:, 0].detach() - model(many)[:, best].mean(0).detach())
    replayed = passes.replayed

    def double(*args: Any) -> Any:
        values, slopes = replayed(*args)
        return values, [2 * slope for slope in slopes]

    monkeypatch.setattr(passes, "replayed", double)
    with pytest.warns(UserWarning, match="miss the difference of the scores"):
        deep_lift_shap(model, x, target=target, baselines=many, chunk_size=chunk_size)


TABLES: dict[int, Tensor] = {}


def table(size: int) -> Tensor:
    if size not in TABLES:
        TABLES[size] = torch.arange(size, dtype=torch.float64).cos()
    return TABLES[size]


def test_a_table_that_a_function_fills_in_the_first_pass() -> None:
    """Kept for all models, it is not made again at the baseline: that is no other path."""

    class Tabled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Any:
            h = self.line(x)
            return self.head(torch.tanh(h * table(h.shape[-1])))

    model, x = Tabled().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    references = torch.randn(2, 4, dtype=torch.float64)
    for chunk_size in (None, 1, 2):
        TABLES.clear()
        found = deep_lift_shap(model, x, baselines=references, target=1, chunk_size=chunk_size)
        TABLES.clear()
        torch.testing.assert_close(tensor(found).sum(1), (model(x) - model(references).mean(0))[:, 1].detach())
