"""Outputs in which the examples meet, and values that have no row for each: never silently mixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funattr as fa

from ..reference import gauss


class Towers(nn.Module):
    """A contrastive model: ``[N, N]``, each of the first inputs with each of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.text = nn.Sequential(nn.Linear(3, 6), nn.Tanh())

    def forward(self, image: Tensor, text: Tensor) -> Any:
        return self.image(image) @ self.text(text).t()


@dataclasses.dataclass
class Held:
    logits: Tensor


class Holds(Towers):
    def forward(self, image: Tensor, text: Tensor) -> Any:
        return Held(super().forward(image, text))


def pairs(output: Any) -> Tensor:
    return (output.logits if isinstance(output, Held) else output).diagonal()


def slopes(model: nn.Module, x: tuple[Tensor, ...], score: Callable[[Any], Tensor]) -> tuple[Tensor, ...]:
    x = tuple(t.clone().requires_grad_() for t in x)
    return torch.autograd.grad(score(model(*x)).sum(), x)


@pytest.mark.parametrize("net", [Towers, Holds])
@pytest.mark.parametrize("target", [pairs, 1, [2, 0, 1], torch.tensor([2, 0, 1]), "argmax"])
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_copies_of_a_batch_do_not_meet(net: type[Towers], target: Any, chunk_size: int | None) -> None:
    model, x = net().double(), (torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64))
    kept = torch.as_tensor(target) if isinstance(target, list) else target

    def score(output: Any) -> Tensor:
        table = output.logits if isinstance(output, Held) else output
        if callable(kept):
            return pairs(output)
        if isinstance(kept, int):
            return table[:, kept]
        classes = Towers.forward(model, *x).argmax(1) if isinstance(kept, str) else kept
        return table[torch.arange(3), classes]

    expected = [torch.zeros_like(t) for t in x]
    for a, w in gauss(5):
        for total, g, t in zip(expected, slopes(model, tuple(a * t for t in x), score), x):
            total += w * g * t
    found = fa.integrated_gradients(model, x, target=target, n_steps=5, chunk_size=chunk_size)
    for f, e in zip(found, expected):
        torch.testing.assert_close(f, e)
    with torch.no_grad():
        lost = []
        for i in range(7):
            without = tuple(t.clone() for t in x)
            (without[0] if i < 4 else without[1])[:, i if i < 4 else i - 4] = 0
            lost.append(score(model(*x)) - score(model(*without)))
    torch.testing.assert_close(
        torch.cat(fa.feature_ablation(model, x, target=target, chunk_size=chunk_size), 1), torch.stack(lost, 1)
    )


def test_as_many_classes_as_rows_are_no_mixture() -> None:
    calls = []

    class Wide(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return super().forward(x)

    model, x = Wide(3, 10).double(), torch.randn(2, 3, dtype=torch.float64)
    found = fa.integrated_gradients(model, x, target=7, n_steps=5)
    assert calls == [2]  # all steps in one pass, under vmap
    torch.testing.assert_close(found, (model.weight[7] * x).detach())


class Windows(nn.Module):
    """Cuts windows out of the batch, as Swin does: a value with more rows than examples."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.mix(x.reshape(-1, 3)))  # [2 N, 3]
        return self.head(h.reshape(-1, 6))


def test_one_baseline_for_all_where_an_example_has_several_rows() -> None:
    model, x = Windows().double(), torch.randn(3, 6, dtype=torch.float64)
    end, start = model.mix(x.reshape(-1, 3)).detach(), model.mix(torch.full((6, 3), 0.5, dtype=torch.float64)).detach()
    total = torch.zeros_like(end)
    for a, w in gauss(4):
        value = (start + a * (end - start)).requires_grad_()
        total += w * torch.autograd.grad(model.head(torch.tanh(value).reshape(-1, 6))[:, 2].sum(), value)[0]
    found = fa.integrated_gradients(model, x, layer="mix", baselines=0.5, target=2, n_steps=4)
    torch.testing.assert_close(found, total * (end - start))


class Stated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.rnn = nn.LSTM(4, 5, num_layers=2, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(ids))[1][0][-1])


@pytest.mark.parametrize("n_references", [1, 3])
def test_random_baselines_at_a_state_without_rows_are_refused(n_references: int) -> None:
    model, ids = Stated(), torch.randint(0, 9, (4, 6))
    with pytest.raises(ValueError, match="has no row for each example: choose a layer with the batch first"):
        fa.gradient_shap(model, ids, layer="rnn", baselines=torch.zeros(n_references, 6, dtype=torch.long), target=1)
